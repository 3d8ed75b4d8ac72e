"""Draws what each augmentation does to a photograph, at strengths from 0 to 1.

python -m experiments.augmentations --output=docs/augmentations.jpg
"""

import jax
import numpy as np
import PIL.Image
from matplotlib.figure import Figure
from sklearn.datasets import load_sample_image

from cyclical_jax._files import whole
from cyclical_jax.augment import NAMES, augment
from cyclical_jax.training.files import WorkdirError
from experiments import command_line, drawing, paths

_OUTPUT = paths.define("output", "docs/augmentations.jpg", "JPEG or PNG file of the picture.")

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
_SIDE = 96
_SEED = 3  # the same draw at every strength


def photographs() -> np.ndarray:
    """Returns uint8 [2, side, side, 3]: the photograph to draw, and one to mix into it."""
    squares = [
        PIL.Image.fromarray(load_sample_image(name)).crop(box).resize((_SIDE, _SIDE))
        for name, box in {"flower.jpg": (130, 0, 557, 427), "china.jpg": (100, 0, 527, 427)}.items()
    ]
    return np.stack([np.asarray(square) for square in squares])


def picture() -> Figure:
    """Returns a figure with a row for each operation and a column for each strength."""
    figure = Figure(figsize=(1.2 * len(STRENGTHS) + 1, 1.25 * len(NAMES)), layout="constrained")
    grid = figure.subplots(len(NAMES), len(STRENGTHS))
    batch = {"image": photographs(), "label": np.array([0, 1])}
    for name, row in zip(NAMES, grid, strict=True):
        transform = jax.jit(augment([name], num_classes=2))
        for strength, axes in zip(STRENGTHS, row, strict=True):
            axes.imshow(transform(batch, jax.random.key(_SEED), strength)["image"][0])
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        row[0].set_ylabel(name, rotation=0, ha="right", va="center")
    for strength, axes in zip(STRENGTHS, grid[0], strict=True):
        axes.set_title(f"{strength:g}", loc="center")
    return figure


def main():
    path = _OUTPUT.value
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with drawing.style(), whole(path) as temporary:
            suffix = path.suffix.removeprefix(".")
            drawing.save(picture(), temporary, format=suffix or "png", dpi=100)
    except OSError as error:
        raise WorkdirError(f"--output {path} cannot be written: {error.strerror}.") from error
    except ValueError as error:  # no format has the suffix
        raise WorkdirError(f"--output {path} cannot be written: {error}.") from error
    print(path)


if __name__ == "__main__":
    command_line.run(main)
