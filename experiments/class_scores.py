"""Scores of each class, the confusion matrix and a file of predictions, for one class per example.

They are collected in the same pass over the split as the scores of the task.
"""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from cyclical_jax.training.evaluation import Look
from experiments import drawing

MOST_SHOWN = 20  # classes whose confusion matrix is legible as text
_NUM_LIKELIEST = 5
_LEAST_FOR_TOP = 10  # classes; of fewer, five are no achievement
_NUM_WORST = 10  # classes, and mistakes, that are told of many
_NOTHING = "–"
_INCHES = 0.35  # of a class in the picture


class Predictions(NamedTuple):
    """Predictions of the examples of a split, in its order.

    Attributes:
      index: [n], the position of each example in the split.
      label: [n], its class; the likeliest one where labels are probabilities.
      likeliest: [n, at most 5], the likeliest classes, by falling probability.
      probability: [n, at most 5], their probabilities.
    """

    index: np.ndarray
    label: np.ndarray
    likeliest: np.ndarray
    probability: np.ndarray

    @property
    def predicted(self) -> np.ndarray:
        """[n], the likeliest class of each example."""
        return self.likeliest[:, 0]


class Reader:
    """Collects the predictions of an evaluation, which is given its `look`."""

    def __init__(self):
        self._parts: list[Predictions] = []
        self.look = Look(_of_examples, self._parts.append)

    def predictions(self) -> Predictions:
        """Returns what was collected."""
        return Predictions(*(np.concatenate(parts) for parts in zip(*self._parts, strict=True)))


def _of_examples(logits, batch) -> Predictions:
    number = min(_NUM_LIKELIEST, logits.shape[-1])
    probability, likeliest = jax.lax.top_k(jax.nn.softmax(logits), number)
    return Predictions(batch["index"], _label(batch["label"], likeliest), likeliest, probability)


def _label(labels: jax.Array, likeliest: jax.Array) -> jax.Array:
    """Returns indices; where several classes are the likeliest labels, the one that is predicted.

    So the confusion matrix and the accuracy count the same examples as right.
    """
    if labels.ndim == 1:
        return labels
    predicted = likeliest[:, :1]
    is_label = jnp.take_along_axis(labels, predicted, -1)[:, 0] == labels.max(-1)
    return jnp.where(is_label, predicted[:, 0], labels.argmax(-1))


# ---- scores of each class


def confusion_matrix(predictions: Predictions, num_classes: int) -> np.ndarray:
    """Returns [label, predicted class], the number of such examples."""
    matrix = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(matrix, (predictions.label, predictions.predicted), 1)
    return matrix


def precision_and_recall(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns two arrays [classes]: the precision and the recall of each class.

    Precision is the share of right predictions among all predictions of the class; it is NaN where
    there is none. Recall is the share of right predictions among the examples of the class; it is
    NaN where there is none.
    """
    right = np.diag(matrix).astype(np.float64)
    with np.errstate(invalid="ignore"):
        return right / matrix.sum(0), right / matrix.sum(1)


def top_5_accuracy(predictions: Predictions, num_classes: int) -> float | None:
    """Returns the share of examples whose label is one of the five likeliest classes.

    It is None for fewer than ten classes.
    """
    if num_classes < _LEAST_FOR_TOP:
        return None
    return float((predictions.likeliest == predictions.label[:, None]).any(-1).mean())


# ---- as text


def as_text(matrix: np.ndarray, class_names: Sequence[str]) -> str:
    """Returns the scores of each class and the confusion matrix, or the worst of many classes."""
    if len(matrix) <= MOST_SHOWN:
        head = "a row for each class; the numbered columns count the predictions for its examples:"
        return f"{head}\n{_table(matrix, class_names, range(len(matrix)), with_matrix=True)}"
    recall = precision_and_recall(matrix)[1]
    worst = [int(row) for row in np.argsort(recall)[:_NUM_WORST] if np.isfinite(recall[row])]
    table = _table(matrix, class_names, worst, with_matrix=False)
    head = f"the {len(worst)} classes with the lowest recall:"
    return "\n".join([head, table, *_mistakes(matrix, class_names)])


def _table(matrix, class_names, rows: Sequence[int], *, with_matrix: bool) -> str:
    precision, recall = precision_and_recall(matrix)
    columns = [str(column) for column in range(len(matrix))] if with_matrix else []
    cells = [["class", "number", "precision", "recall", *columns]]
    for row in rows:
        scores = (_percent(precision[row]), _percent(recall[row]))
        counts = [str(count or ".") for count in matrix[row]] if with_matrix else []
        cells.append([_name(row, class_names), str(matrix[row].sum()), *scores, *counts])
    return "\n".join(aligned(cells))


def aligned(cells: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yields lines whose first column is aligned left, the others right."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for first, *others in cells:
        padded = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        yield "  ".join([first.ljust(widths[0]), *padded])


def _mistakes(matrix: np.ndarray, class_names: Sequence[str]) -> Iterator[str]:
    wrong = matrix - np.diag(np.diag(matrix))
    most = np.argsort(-wrong, axis=None, kind="stable")[:_NUM_WORST]
    found = [divmod(int(place), len(matrix)) for place in most if wrong.flat[place]]
    if found:
        yield "the most frequent mistakes:"
    for label, predicted in found:
        names = (_name(which, class_names) for which in (label, predicted))
        yield f"{wrong[label, predicted]:>6}  {' predicted as '.join(names)}"


def _name(number: int, class_names: Sequence[str]) -> str:
    """Returns the number of a class, and its name unless that says the same."""
    name = class_names[number] if class_names else ""
    return f"{number} {name}" if name not in ("", str(number)) else str(number)


def _percent(value: float) -> str:
    return _NOTHING if np.isnan(value) else f"{value:.2%}"


# ---- as files


def draw(matrix: np.ndarray, class_names: Sequence[str], title: str, path: Path) -> None:
    """Draws the confusion matrix, as shares of each label's examples, into a PNG file."""
    number, few = len(matrix), len(matrix) <= MOST_SHOWN
    side = min(3 + _INCHES * number, 12)
    shares = matrix / np.maximum(1, matrix.sum(1, keepdims=True))
    with drawing.style() as theme:
        figure = Figure(figsize=(side + 1, side), layout="constrained")
        axes = figure.subplots()
        axes.grid(visible=False)
        blues = LinearSegmentedColormap.from_list("share", [theme.ground, theme.lines[0]])
        image = axes.imshow(shares, cmap=blues, vmin=0, vmax=1, interpolation="nearest")
        figure.colorbar(image, ax=axes, label="share of the label's examples")
        axes.set(xlabel="predicted", ylabel="label", title=title)
        if few:
            names = [_name(row, class_names) for row in range(number)]
            axes.set_xticks(range(number), names, rotation=90)
            axes.set_yticks(range(number), names)
            for (row, column), count in np.ndenumerate(matrix):
                color = theme.ground if shares[row, column] > 0.5 else theme.ink
                if count:
                    small = {"ha": "center", "va": "center", "fontsize": drawing.SMALL}
                    axes.text(column, row, count, color=color, **small)
        drawing.save(figure, path)


def write_csv(predictions: Predictions, class_names: Sequence[str], path: Path) -> None:
    """Writes a row for each example: index, label, the five likeliest classes, probabilities.

    Classes are numbers. Where they have names, two more columns name the label and the prediction.
    """
    places = range(1, predictions.likeliest.shape[1] + 1)
    further = [name for k in places[1:] for name in (f"class_{k}", f"probability_{k}")]
    named = ["label_name", "predicted_name"] if class_names else []
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["index", "label", "predicted", "probability", *further, *named])
        for index, label, classes, probabilities in zip(*predictions, strict=True):
            pairs = zip(classes.tolist(), probabilities, strict=True)
            likeliest = [entry for which, p in pairs for entry in (which, f"{p:.6g}")]
            names = [class_names[which] for which in (label, classes[0])] if class_names else []
            writer.writerow([index, label, *likeliest, *names])
