"""Images of one's own in folders."""

import functools
import io
import os
import pickle
import shutil

import numpy as np
import PIL.Image
import pytest

from cyclical_jax import data
from cyclical_jax.data import dataset as datasets
from cyclical_jax.data.batches import in_order

CLASSES = ("ant", "bee", "cat")
PER_CLASS = 8


def pixels(number, height=10, width=12, channels=3):
    rng = np.random.default_rng(number)
    image = rng.integers(0, 256, (height, width, channels), np.uint8)
    return image[..., 0] if channels == 1 else image


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = array if isinstance(array, PIL.Image.Image) else PIL.Image.fromarray(array)
    image.save(path, **options)


def make(root, number=PER_CLASS, **shape):
    for label, name in enumerate(CLASSES):
        for index in range(number):
            save(root / name / f"{index}.png", pixels(100 * label + index, **shape))
    return root


@pytest.fixture
def root(tmp_path):
    return make(tmp_path / "mine")


def problems_of(root, **options):
    name = f"folder:{root}"
    with pytest.raises(ValueError) as error:
        data.load(name, **options)
    return [line.removeprefix(f"`dataset` {name!r}: ") for line in str(error.value).splitlines()]


def load(root, **options):
    return data.load(f"folder:{root}", **options)


def only(root, image, *, name="ant/0.png", image_size=None, **options):
    """Returns the image as it is loaded where it takes the place of one of the folder."""
    save(root / name, image, **options)
    known = {(100 * k + i) for k in range(3) for i in range(PER_CLASS)} - {0}
    expected = {pixels(number).tobytes() for number in known}
    dataset = load(root, image_size=image_size)
    images = [image for split in dataset[:3] for image in split["image"]]
    (found,) = (image for image in images if image.tobytes() not in expected)
    return found


# ---- which files are what


def test_every_image_is_in_one_split_with_its_class(root):
    dataset = load(root)
    assert [data.num_examples(split) for split in dataset[:3]] == [20, 2, 2]
    assert dataset.class_names == CLASSES and data.num_classes(f"folder:{root}") == 3
    found = sorted(
        (image.tobytes(), label)
        for split in dataset[:3]
        for image, label in zip(split["image"], split["label"], strict=True)
    )
    expected = sorted(
        (pixels(100 * label + index).tobytes(), label)
        for label in range(3)
        for index in range(PER_CLASS)
    )
    assert found == expected
    assert np.bincount(dataset.train["label"]).min() >= 6
    data.check(dataset)


@pytest.mark.parametrize("word", ["validation", "valid", "val"])
def test_folders_may_be_splits(tmp_path, word):
    for split, number in {"train": 4, word: 2, "test": 3}.items():
        make(tmp_path / split, number)
    dataset = load(tmp_path)
    assert [data.num_examples(split) for split in dataset[:3]] == [12, 6, 9]
    assert dataset.notes == ()
    shutil.rmtree(tmp_path / word)
    dataset = load(tmp_path)
    assert [data.num_examples(split) for split in dataset[:3]] == [11, 1, 9]
    assert "no validation split" in dataset.notes[0] and len(dataset.notes) == 1


def test_grey_images_have_one_channel_where_all_are(tmp_path, root):
    assert load(make(tmp_path / "grey", channels=1)).train["image"].shape == (20, 10, 12, 1)
    save(root / "ant" / "0.png", pixels(0, channels=1))
    assert load(root).train["image"].shape == (20, 10, 12, 3)


def test_other_files_are_left_out_and_named_and_hidden_ones_are_not_seen(root):
    (root / "notes.txt").touch()
    for name in ("ant/list.txt", "bee/Thumbs.db", "cat/.DS_Store", ".git/x", "ant/._0.png"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("no image")
    (root / "__MACOSX").mkdir()
    dataset = load(root)
    assert sum(map(data.num_examples, dataset[:3])) == 24 and dataset.class_names == CLASSES
    note = "Files that are not images are left out: notes.txt and 2 more."
    assert dataset.notes[0] == note


@pytest.mark.parametrize(
    "change, line",
    [
        (lambda root: (root / "dog").mkdir(), "dog has no JPEG or PNG file."),
        (lambda root: save(root / "x.png", pixels(0)), "x.png is not in the folder of a class."),
        (
            lambda root: (shutil.rmtree(root / "ant"), shutil.rmtree(root / "bee")),
            "it must have a folder for each of 2 classes or more, got cat.",
        ),
        (lambda root: make(root / "test", 2), "it must have train beside test."),
        (
            lambda root: (make(root / "ant" / "inner", 1), None),
            "ant/inner is a folder in the folder of a class.",
        ),
        (
            lambda root: save(root / "ant" / "x.gif", pixels(0)),
            "ant/x.gif is not a JPEG or PNG file: convert it.",
        ),
        (
            lambda root: save(root / "bee" / "0.png", pixels(0, 9, 7)),
            "the images differ in size, as ant/0.png of 12 x 10 and bee/0.png of 7 x 9: set "
            "`image_size`, e.g. to 10.",
        ),
    ],
)
def test_what_cannot_be_learned_is_a_line(root, change, line):
    change(root)
    assert problems_of(root) == [line]


def test_splits_that_do_not_fit_are_a_line(tmp_path):
    make(tmp_path / "train", 4)
    make(tmp_path / "test", 2)
    save(tmp_path / "test" / "dog" / "0.png", pixels(0))
    assert problems_of(tmp_path) == ["test has classes that train does not have: dog."]
    shutil.rmtree(tmp_path / "test" / "dog")
    for folder in ("val", "valid"):
        make(tmp_path / folder, 1)
    line = "it must have one folder for validation, got train, val, valid."
    assert problems_of(tmp_path) == [line.replace("train, ", "test, train, ")]
    shutil.rmtree(tmp_path / "val")
    (tmp_path / "more").mkdir()
    line = "it must have no more than train, validation and test, got more."
    assert problems_of(tmp_path) == [line]
    (tmp_path / "more").rmdir()
    shutil.rmtree(tmp_path / "valid")
    (tmp_path / "valid").mkdir()
    assert problems_of(tmp_path) == ["valid has no images."]


# ---- files of every kind


@pytest.mark.parametrize("suffix", [".jpg", ".JPEG"])
def test_jpeg(root, suffix):
    smooth = PIL.Image.fromarray(pixels(1)).resize((3, 3)).resize((12, 10))
    save(root / "ant" / f"x{suffix}", smooth, quality=95)
    (root / "ant" / "0.png").unlink()
    found = [image for split in load(root)[:3] for image in split["image"]]
    differences = [np.abs(image.astype(int) - np.asarray(smooth)).mean() for image in found]
    assert min(differences) < 8 and sorted(differences)[1] > 20


TURNED = {  # EXIF 2.3, table 6: the first row and the first column of what is stored
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: np.rot90(image, -1),
    7: lambda image: image[::-1, ::-1].swapaxes(0, 1),
    8: lambda image: np.rot90(image, 1),
}


@pytest.mark.parametrize("orientation", TURNED)
def test_an_image_is_turned_as_its_exif_says(root, orientation):
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    stored = pixels(7) if orientation < 5 else pixels(7, 12, 10)  # one size with the others
    np.testing.assert_array_equal(only(root, stored, exif=exif), TURNED[orientation](stored))


def test_palettes_become_their_colours_and_alpha_is_left_out(root):
    array = pixels(50)
    palette = PIL.Image.fromarray(array).quantize(200)
    np.testing.assert_array_equal(only(root, palette), np.asarray(palette.convert("RGB")))
    palette.info["transparency"] = bytes(range(200))
    np.testing.assert_array_equal(only(root, palette), np.asarray(palette.convert("RGBA"))[..., :3])
    np.testing.assert_array_equal(only(root, np.dstack([array, array[..., 0]])), array)


def test_cmyk(root):
    (root / "ant" / "0.png").unlink()
    plain = PIL.Image.new("RGB", (12, 10), (200, 30, 90))
    found = only(root, plain.convert("CMYK"), name="ant/0.jpg", quality=95)
    assert np.abs(found.astype(int) - [200, 30, 90]).max() < 12


def test_sixteen_bits_keep_the_upper_eight(tmp_path):
    root = make(tmp_path, channels=1)
    deep = np.random.default_rng(5).integers(0, 2**16, (10, 12), np.uint16)
    save(root / "ant" / "0.png", deep)
    images = [image for split in load(root)[:3] for image in split["image"]]
    assert any((image[..., 0] == deep >> 8).all() for image in images)


def test_black_and_white(tmp_path):
    root = make(tmp_path, channels=1)
    save(root / "ant" / "0.png", PIL.Image.fromarray(pixels(3, channels=1)).convert("1"))
    images = [image for split in load(root)[:3] for image in split["image"]]
    assert sum(set(np.unique(image)) == {0, 255} for image in images) == 1


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_broken_files_are_named_at_once(root, suffix):
    save(root / "bee" / f"cut{suffix}", pixels(0))
    whole = (root / "bee" / f"cut{suffix}").read_bytes()
    (root / "bee" / f"cut{suffix}").write_bytes(whole[: len(whole) * 2 // 3])
    line = f"bee/cut{suffix} cannot be read: "
    (only_line,) = problems_of(root)
    assert only_line.startswith(line)
    for number in range(7):
        (root / "cat" / f"{number}.png").write_bytes([b"", b"no image", whole[:20]][number % 3])
    lines = problems_of(root)
    assert len(lines) == 6 and lines[-1] == "and 3 more like these."
    assert [line.partition(" ")[0] for line in lines[1:5]] == [f"cat/{k}.png" for k in range(4)]


def test_other_formats_are_not_tried_under_a_false_name(root):
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels(0)).save(buffer, "BMP")
    (root / "ant" / "0.png").write_bytes(buffer.getvalue())
    assert problems_of(root) == ["ant/0.png is not a JPEG or PNG file, or it is broken."]


@pytest.mark.parametrize("most", [50, 100])
def test_a_decompression_bomb_is_a_line(root, monkeypatch, most):
    """Pillow warns of an image of more pixels, and refuses one of twice as many."""
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", most)
    lines = problems_of(root, image_size=4)
    assert lines[0] == f"ant/0.png is refused: it has more than {most} pixels."


# ---- sizes


def test_a_size_is_that_of_the_largest_square_in_the_middle(root):
    dataset = load(root, image_size=10)
    assert dataset.train["image"].shape == (20, 10, 10, 3)
    expected = {pixels(100 * k + i)[:, 1:11].tobytes() for k in range(3) for i in range(PER_CLASS)}
    assert {image.tobytes() for split in dataset[:3] for image in split["image"]} == expected


def test_images_of_different_sizes_are_brought_to_one(root):
    save(root / "bee" / "0.png", pixels(0, 31, 17))
    dataset = load(root, image_size=8)
    assert dataset.train["image"].shape == (20, 8, 8, 3)


@pytest.mark.parametrize("image_size", [0, 4097, 2.5, "8"])
def test_a_size_that_cannot_be(root, image_size):
    with pytest.raises(ValueError, match="`image_size` must be"):
        load(root, image_size=image_size)


# ---- what is too large for memory


@pytest.fixture
def little_memory(monkeypatch):
    monkeypatch.setattr(datasets, "RESIDENT_BYTES", 1000)


def labels_of(stream, num_workers=0):
    select = functools.partial(in_order, len(stream), 4)
    count = -(-len(stream) // 4)
    batches = stream.batches(select, start=0, stop=count, seed=0, num_workers=num_workers)
    return [
        int(label)
        for batch in batches
        for label, mask in zip(batch["label"], batch["mask"], strict=True)
        if mask
    ]


def test_what_does_not_fit_is_streamed(root, little_memory):
    with pytest.raises(ValueError, match="take 0.0 GB, too much to keep in memory: set `image_si"):
        load(root)
    streamed = load(root, image_size=8)
    assert not data.is_resident(f"folder:{root}", 8)
    assert [split.augmented for split in streamed[:3]] == [True, False, False]
    assert "too large to rest in memory" in streamed.notes[-1]
    whole = [sorted(labels_of(split)) for split in streamed[:3]]
    assert sorted(sum(whole, [])) == sorted([0, 1, 2] * PER_CLASS)
    assert [len(labels) for labels in whole] == [20, 2, 2]
    data.check(streamed)


@pytest.mark.slow
def test_workers_read_the_same(root, little_memory):
    stream = load(root, image_size=8).train
    assert labels_of(stream, num_workers=1) == labels_of(stream)


def test_streams_have_the_splits_of_what_fits(root, monkeypatch):
    resident = load(root, image_size=8)
    monkeypatch.setattr(datasets, "RESIDENT_BYTES", 1000)
    for split in ("train", "validation", "test"):
        labels = labels_of(getattr(load(root, image_size=8), split))
        assert labels == getattr(resident, split)["label"].tolist()
    both = load(root, image_size=8, train_on="train+validation")
    assert len(both.train) == 22 and len(both.validation) == 0
    some = load(root, image_size=8, subset="balanced 9").train
    assert labels_of(some) == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_names_list_what_is_streamed(root, little_memory, tmp_path):
    for name in CLASSES:
        for index in range(PER_CLASS):
            (root / name / f"{index}.png").rename(root / name / f"{name}_{index}.png")
    train = load(root, image_size=8).train
    wanted = [int(train.positions[place]) for place in (0, 5, 9)]
    files = [train.open_examples()[position]["file_name"].decode() for position in wanted]
    (tmp_path / "some.txt").write_text("\n".join(files))
    some = load(root, image_size=8, subset=str(tmp_path / "some.txt"))
    assert list(some.train.positions) == wanted


def test_names_that_repeat_list_nothing(root, tmp_path):
    (tmp_path / "some.txt").write_text("ant/0.png")
    line = "`subset` lists file names, but two images are called 0.png: list positions."
    with pytest.raises(ValueError, match=f"^{line}$"):
        load(root, subset=str(tmp_path / "some.txt"))
    (tmp_path / "some.txt").write_text("0 3 7")
    assert data.num_examples(load(root, subset=str(tmp_path / "some.txt")).train) == 3


def test_a_name_that_is_no_text_is_a_name(root):
    os.rename(root / "ant" / "0.png", os.fsencode(root / "ant") + b"/\xff.png")
    dataset = load(root)
    assert data.num_examples(dataset.train) == 20 and data.identity(f"folder:{root}")


def test_a_stream_turns_an_image_and_keeps_the_upper_bits(root, little_memory):
    exif = PIL.Image.Exif()
    exif[0x0112] = 3
    save(root / "ant" / "0.png", pixels(7), exif=exif)
    save(root / "ant" / "1.png", np.full((10, 12), 40_000, np.uint16))
    palette = PIL.Image.fromarray(pixels(9)).quantize(200)
    palette.info["transparency"] = bytes(range(200))
    save(root / "ant" / "2.png", palette)
    examples = pickle.loads(pickle.dumps(load(root, image_size=8).train.open_examples))()

    def image(index):
        return np.asarray(PIL.Image.open(io.BytesIO(examples[index]["image"])))

    np.testing.assert_array_equal(image(0), pixels(7)[::-1, ::-1])
    assert (image(1) == 40_000 >> 8).all()
    assert image(2).shape == (10, 12, 3)
    assert examples[3]["image"] == (root / "ant" / "3.png").read_bytes()


def test_a_broken_file_of_a_stream_is_named(root, little_memory, monkeypatch):
    stream = load(root, image_size=8).train
    (root / "ant" / "0.png").write_bytes(b"no image")
    with pytest.raises(data.DamagedExampleError, match="ant/0.png is not a JPEG or PNG file"):
        labels_of(stream.at(np.array([0])))
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 50)
    with pytest.raises(data.DamagedExampleError, match="ant/1.png is refused: it has more than 50"):
        labels_of(stream.at(np.array([1])))


# ---- what changes


def test_a_file_that_comes_or_goes_is_seen_and_a_change_is_another_identity(root):
    name = f"folder:{root}"
    assert data.num_train(name) == 20
    before = data.identity(name)
    assert data.identity(name) == before
    os.utime(root / "bee" / "0.png", ns=(1, 1))
    touched = data.identity(name)
    assert touched != before
    for index in range(8, 18):
        save(root / "ant" / f"{index}.png", pixels(index))
    assert data.num_train(name) == 28 and data.identity(name) not in (before, touched)


def test_links_are_followed(root, tmp_path):
    shutil.move(root / "ant", tmp_path / "elsewhere")
    (root / "ant").symlink_to(tmp_path / "elsewhere")
    assert data.num_train(f"folder:{root}") == 20
    (root / "bee" / "0.png").unlink()
    (root / "bee" / "0.png").symlink_to(tmp_path / "nowhere.png")
    (line,) = problems_of(root)
    assert line.startswith("bee/0.png cannot be read: FileNotFoundError")
