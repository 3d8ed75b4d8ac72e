"""Decodes photographs to one size: a random crop for training, the centre for evaluation."""

import io
import math

import numpy as np
import PIL.Image

Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels

# Szegedy et al. 2014 (arXiv 1409.4842), section 6.
MIN_AREA = 0.08  # fraction of the image's area
MAX_ASPECT = 4 / 3  # width to height, or height to width
TRIES = 10

CENTRE = 224 / 256  # fraction of the short side, for evaluation


def random_crop(encoded: bytes, size: int, rng: np.random.Generator) -> np.ndarray:
    """Returns a random part of a photograph, mirrored with probability 1/2.

    Args:
      encoded: The bytes of a JPEG or PNG file, of any mode.
      size: Side of the result, in pixels.
      rng: Generator that draws the crop.

    Returns:
      uint8 [size, size, 3].
    """
    image = _open(encoded)
    pixels = _crop(image, random_box(*image.size, rng), size)
    return pixels[:, ::-1] if rng.random() < 0.5 else pixels


def centre_crop(encoded: bytes, size: int) -> np.ndarray:
    """Returns the centre of a photograph resized to a short side of `size` / CENTRE pixels.

    The result is uint8 [size, size, 3].
    """
    image = _open(encoded)
    side = CENTRE * min(image.size)
    return _crop(image, _centred(*image.size, side, side), size)


def random_box(width: int, height: int, rng: np.random.Generator) -> Box:
    """Draws a box of an area from MIN_AREA of the image's to all of it, and of a random aspect.

    The area is uniform, and so is the logarithm of the aspect, up to MAX_ASPECT. If TRIES boxes do
    not fit in the image, the result is the largest box in the centre whose aspect is allowed.
    """
    for _ in range(TRIES):
        area = rng.uniform(MIN_AREA, 1) * width * height
        aspect = MAX_ASPECT ** rng.uniform(-1, 1)
        wide, high = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < wide <= width and 0 < high <= height:
            left = int(rng.integers(width - wide, endpoint=True))
            top = int(rng.integers(height - high, endpoint=True))
            return left, top, left + wide, top + high
    return _centred(width, height, min(width, height * MAX_ASPECT), min(height, width * MAX_ASPECT))


def _centred(width: int, height: int, wide: float, high: float) -> Box:
    left, top = (width - wide) / 2, (height - high) / 2
    return left, top, left + wide, top + high


def _open(encoded: bytes) -> PIL.Image.Image:
    return PIL.Image.open(io.BytesIO(encoded), formats=("JPEG", "PNG"))  # tries no other decoder


def _crop(image: PIL.Image.Image, box: Box, size: int) -> np.ndarray:
    scale = _shrink(image, box, size)
    image.load()
    if image.mode != "RGB":
        image = image.convert("RGB")
    left, top, right, bottom = (edge * scale for edge in box)
    box = left, top, right, bottom
    return np.asarray(image.resize((size, size), PIL.Image.Resampling.BILINEAR, box=box))


def _shrink(image: PIL.Image.Image, box: Box, size: int) -> float:
    """Lets a JPEG be decoded at 1/2, 1/4 or 1/8, which is faster, if the box stays at least `size`.

    Returns:
      The scale at which the image will be decoded.
    """
    left, top, right, bottom = box
    width, height = image.size
    wide, high = width * size / (right - left), height * size / (bottom - top)
    drafted = image.draft(None, (math.ceil(wide), math.ceil(high)))
    return drafted[1][2] / width if drafted else 1
