"""Image files of the user: JPEG and PNG of any mode, as bytes of one size.

An image is turned as its EXIF says. Grey images stay grey where all are; else all become RGB. A
palette becomes its colours, CMYK becomes RGB, alpha is left out, and of 16 bits the upper 8 remain.
"""

import contextlib
import io
import math
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import PIL.Image
import PIL.ImageOps

from cyclical_jax.data import own

FORMATS = ("JPEG", "PNG")  # no other decoder is tried
_GREY = ("1", "L", "LA", "La", "I", "I;16", "I;16B")
_ORIENTATION = 0x0112  # EXIF
_Result = TypeVar("_Result")


class Header(NamedTuple):
    """The facts of an image file that are known before it is decoded."""

    height: int  # upright
    width: int
    is_grey: bool


def headers_of(root: Path, names: Sequence[str]) -> list[Header]:
    """Returns the headers of image files.

    Raises:
      ValueError: One is broken, or a decompression bomb; a line for each of the first ones.
    """

    def read(name: str) -> Header:
        with _opened(root / name, name) as image:
            width, height = image.size
            is_turned = image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
            size = (width, height) if is_turned else (height, width)
            return Header(*size, image.mode in _GREY)

    return _of_each(read, names)


def read_all(root: Path, names: Sequence[str], image_size: int | None) -> np.ndarray:
    """Returns image files as uint8 [n, height, width, channels], in 1 channel if all are grey.

    Args:
      root: The folder that the names are relative to.
      names: The files.
      image_size: Side of the square in the middle of each image, as large as it can be, that is
        resized to this many pixels; None for images of one size, which stay as they are.

    Raises:
      ValueError: A file is broken, or sizes differ; a line for each of the first ones.
    """
    headers = headers_of(root, names)
    if image_size is None:
        own.raise_all(_unlike(names, headers))
    mode = "L" if all(header.is_grey for header in headers) else "RGB"
    shape = (image_size, image_size) if image_size else headers[0][:2]
    images = np.empty((len(names), *shape, len(mode)), np.uint8)

    def read(place: int) -> None:
        name = names[place]
        with _opened(root / name, name) as image:
            pixels = np.asarray(_in_size(image, mode, image_size))
            images[place] = pixels.reshape(images.shape[1:])

    _of_each(read, range(len(names)))
    return images


def decoded(encoded: bytes, mode: str, image_size: int | None) -> np.ndarray:
    """Returns an encoded image as uint8 [height, width, channels], as `read_all` does.

    Raises:
      ValueError: An image in colour is to be grey.
    """
    with PIL.Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
        if mode == "L" and image.mode not in _GREY:
            raise ValueError("it is in colour, and must be grey")
        pixels = np.asarray(_in_size(image, mode, image_size))
    return pixels if pixels.ndim == 3 else pixels[..., None]


def upright_bytes(path: Path, name: str) -> bytes:
    """Returns a file as it is, or as a PNG where a plain decoder would see another image.

    Raises:
      ValueError: As `headers_of`.
    """
    with _opened(path, name) as image:
        is_upright = image.getexif().get(_ORIENTATION, 1) == 1
        is_plain = not image.mode.startswith("I") and "transparency" not in image.info
        if is_upright and is_plain:
            return path.read_bytes()
        buffer = io.BytesIO()
        _in_size(image, "RGB", None).save(buffer, "PNG")
        return buffer.getvalue()


@contextlib.contextmanager
def _opened(path: Path, name: str) -> Iterator[PIL.Image.Image]:
    """Opens an image; whatever goes wrong, for which Pillow has errors of any type, is a line."""
    most = PIL.Image.MAX_IMAGE_PIXELS or math.inf
    try:
        with PIL.Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > most:  # Pillow refuses twice as many, and warns before
                raise PIL.Image.DecompressionBombError
            yield image
    except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning) as error:
        raise ValueError(f"{name} is refused: it has more than {most:,} pixels.") from error
    except PIL.UnidentifiedImageError as error:
        raise ValueError(f"{name} is not a JPEG or PNG file, or it is broken.") from error
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"{name} cannot be read: {reason}.") from error


def _in_size(image: PIL.Image.Image, mode: str, image_size: int | None) -> PIL.Image.Image:
    """Returns an image in 8 bits, upright, in `mode` and in its own size or that of a square."""
    if image_size:
        image.draft(None, (image_size, image_size))  # a JPEG is decoded at 1/2, 1/4 or 1/8
    image = PIL.ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        upper = np.asarray(image).astype(np.int64).clip(0, 2**16 - 1) >> 8
        image = PIL.Image.fromarray(upper.astype(np.uint8))
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # by way of it, or Pillow warns of some transparency
    image = image.convert(mode)
    if image_size is None:
        return image
    (width, height), side = image.size, min(image.size)
    left, top = (width - side) / 2, (height - side) / 2
    box = left, top, left + side, top + side
    return image.resize((image_size, image_size), PIL.Image.Resampling.BILINEAR, box=box)


def _unlike(names: Sequence[str], headers: Sequence[Header]) -> Iterator[str]:
    sizes = Counter(header[:2] for header in headers)
    if len(sizes) > 1:
        firsts = {header[:2]: name for name, header in zip(names[::-1], headers[::-1], strict=True)}
        (usual, _), (other, _) = sizes.most_common(2)
        yield (
            f"the images differ in size, as {firsts[usual]} of {usual[1]} x {usual[0]} and "
            f"{firsts[other]} of {other[1]} x {other[0]}: set `image_size`, e.g. to {min(usual)}."
        )


def _of_each(function: Callable[..., _Result], items: Sequence) -> list[_Result]:
    """Calls a function for each item, by a few threads, and raises what it said of the first ones.

    Pillow's warning of an image that is too large is not shown: such an image is an error here.
    """

    def tried(item):
        try:
            return function(item), None
        except ValueError as error:
            return None, str(error)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)
        with ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="images") as executor:
            done = list(executor.map(tried, items))
    own.raise_all(own.few([problem for _, problem in done if problem]))
    return [result for result, _ in done]
