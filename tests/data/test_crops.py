"""Crops of real photographs, against Pillow's own functions one after the other."""

import io
import math

import numpy as np
import PIL.Image
import pytest
from sklearn.datasets import load_sample_images

from cyclical_jax.data import crops

PHOTOS = [PIL.Image.fromarray(image).resize((500, 375)) for image in load_sample_images().images]


def encoded(image, image_format="JPEG"):
    buffer = io.BytesIO()
    image.save(buffer, image_format)
    return buffer.getvalue()


def rng(seed=0):
    return np.random.default_rng(seed)


def difference(a, b):
    return np.abs(a.astype(int) - b.astype(int)).mean()


def undrafted(file, box, size):
    image = PIL.Image.open(io.BytesIO(file)).convert("RGB")
    return np.asarray(image.resize((size, size), PIL.Image.Resampling.BILINEAR, box=box))


# ---- where


def random_boxes(width, height, count=4000):
    generator = rng(1)
    boxes = np.array([crops.random_box(width, height, generator) for _ in range(count)])
    return boxes, boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]


@pytest.mark.parametrize("width, height", [(500, 375), (375, 500), (224, 224)])
def test_random_boxes_have_the_published_areas_and_aspects(width, height):
    boxes, wide, high = random_boxes(width, height)
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= [width, height]).all()
    area, aspect = wide * high / (width * height), wide / high
    assert 0.079 < area.min() < 0.09 and 0.95 < area.max() <= 1
    # Rounding to whole pixels may put them a little beyond the limit.
    assert 0.73 < aspect.min() < 0.76 and 1.32 < aspect.max() < 1.37
    small = area < 0.3  # boxes of these areas always fit
    assert np.log(aspect[small]).mean() == pytest.approx(0, abs=0.02)
    assert np.quantile(area[small], 0.5) == pytest.approx((0.08 + 0.3) / 2, abs=0.01)


def test_random_boxes_are_anywhere():
    boxes, wide, high = random_boxes(500, 375)
    small = wide * high < 0.2 * 500 * 375
    for low, room in [(boxes[:, 0], 500 - wide), (boxes[:, 1], 375 - high)]:
        place = low[small] / room[small]
        assert place.min() == 0 and place.max() == 1
        assert place.mean() == pytest.approx(0.5, abs=0.03)


def test_the_first_try_follows_the_formula():
    area = rng(7).uniform(0.08, 1) * 500 * 375
    left, top, right, bottom = crops.random_box(500, 375, rng(7))
    generator = rng(7)
    generator.random()
    aspect = math.exp(generator.uniform(-math.log(4 / 3), math.log(4 / 3)))
    assert (right - left, bottom - top) == (
        round((area * aspect) ** 0.5),
        round((area / aspect) ** 0.5),
    )


@pytest.mark.parametrize(
    "width, height, box",
    [
        (1000, 12, (492, 0, 508, 12)),
        (12, 1000, (0, 492, 12, 508)),
        (90, 1, (45 - 2 / 3, 0, 45 + 2 / 3, 1)),
    ],
)
def test_where_nothing_fits_it_is_the_centre(width, height, box):
    assert crops.random_box(width, height, rng()) == pytest.approx(box)


# ---- what


@pytest.mark.parametrize("seed", range(4))
def test_a_random_crop_is_that_box_resized_and_perhaps_mirrored(seed):
    file, generator = encoded(PHOTOS[seed % 2]), rng(seed)
    box = crops.random_box(500, 375, generator)
    expected = undrafted(file, box, 200)
    if generator.random() < 0.5:
        expected = expected[:, ::-1]
    np.testing.assert_array_equal(crops.random_crop(file, 200, rng(seed)), expected)


def test_half_are_mirrored():
    ramp = PIL.Image.fromarray(np.tile(np.arange(256, dtype=np.uint8), (256, 1)))
    cropped = [crops.random_crop(encoded(ramp), 8, rng(seed)).astype(int) for seed in range(200)]
    mirrored = [bool(pixels[0, 0, 0] > pixels[0, -1, 0]) for pixels in cropped]
    assert 75 < sum(mirrored) < 125


@pytest.mark.parametrize("width, height", [(384, 384), (480, 384), (384, 576)])
def test_the_centre_is_that_of_the_image_resized_to_256(width, height):
    file = encoded(PHOTOS[0].resize((width, height)))
    scaled = (width * 256 // 384, height * 256 // 384)
    whole = PIL.Image.open(io.BytesIO(file)).resize(scaled, PIL.Image.Resampling.BILINEAR)
    left, top = ((side - 224) // 2 for side in scaled)
    expected = np.asarray(whole.crop((left, top, left + 224, top + 224)))
    found = crops.centre_crop(file, 224)
    assert difference(found, expected) < 0.2  # one resampling in place of two
    assert difference(found[:, 1:], expected[:, :-1]) > 1


@pytest.mark.parametrize("size", [32, 64, 100])
@pytest.mark.parametrize("photo", PHOTOS, ids=["china", "flower"])
def test_a_jpeg_that_is_decoded_smaller_looks_the_same(photo, size):
    file, side = encoded(photo), 375 * 7 / 8
    box = (250 - side / 2, 187.5 - side / 2, 250 + side / 2, 187.5 + side / 2)
    found, expected = crops.centre_crop(file, size), undrafted(file, box, size)
    assert 0 < difference(found, expected) < 2.5
    assert difference(found[:, 1:], expected[:, :-1]) > 3


@pytest.mark.parametrize(
    "side, size, decoded", [(800, 100, 100), (799, 100, 200), (399, 100, 200), (199, 100, 199)]
)
def test_nothing_is_decoded_smaller_than_it_is_wanted(side, size, decoded, monkeypatch):
    sizes = []
    load = PIL.JpegImagePlugin.JpegImageFile.load
    monkeypatch.setattr(
        PIL.JpegImagePlugin.JpegImageFile,
        "load",
        lambda image: sizes.append(image.size) or load(image),
    )
    image = PIL.Image.open(io.BytesIO(encoded(PHOTOS[0].resize((side, side)))))
    crops._crop(image, (0, 0, side, side), size)
    assert sizes[0] == (decoded, decoded)


@pytest.mark.parametrize(
    "mode, image_format",
    [("L", "JPEG"), ("CMYK", "JPEG"), ("P", "PNG"), ("RGBA", "PNG"), ("LA", "PNG"), ("1", "PNG")],
)
def test_any_mode_becomes_rgb(mode, image_format):
    file = encoded(PHOTOS[1].convert(mode), image_format)
    reference = PIL.Image.open(io.BytesIO(file)).convert("RGB")
    expected = np.asarray(reference.resize((90, 90), PIL.Image.Resampling.BILINEAR))
    found = crops._crop(PIL.Image.open(io.BytesIO(file)), (0, 0, 500, 375), 90)
    assert found.shape == (90, 90, 3) and found.dtype == np.uint8
    assert difference(found, expected) < 3


@pytest.mark.parametrize("size", [(1, 1), (3, 700), (700, 3)])
def test_any_shape_has_its_crops(size):
    file = encoded(PHOTOS[0].resize(size))
    for seed in range(20):
        assert crops.random_crop(file, 16, rng(seed)).shape == (16, 16, 3)
    assert crops.centre_crop(file, 16).shape == (16, 16, 3)
