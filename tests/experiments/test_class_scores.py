"""Scores of each class, by counting."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import class_scores
from experiments.class_scores import Predictions

LABEL = np.array([0, 0, 0, 1, 1, 2])
PREDICTED = np.array([0, 0, 1, 1, 0, 0])
MATRIX = np.array([[2, 1, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]])


def predictions_of(label, likeliest):
    likeliest = np.asarray(likeliest).reshape(len(label), -1)
    return Predictions(np.arange(len(label)), label, likeliest, np.full(likeliest.shape, 0.5))


def test_labels_are_rows_and_predictions_columns():
    matrix = class_scores.confusion_matrix(predictions_of(LABEL, PREDICTED), 4)
    np.testing.assert_array_equal(matrix, MATRIX)


def test_precision_and_recall_of_classes_without_either():
    precision, recall = class_scores.precision_and_recall(MATRIX)
    np.testing.assert_allclose(precision, [2 / 4, 1 / 2, np.nan, np.nan])
    np.testing.assert_allclose(recall, [2 / 3, 1 / 2, 0, np.nan])


def test_few_classes_are_all_shown():
    names = ("cat", "1", "a long name", "")
    assert class_scores.as_text(MATRIX, names).splitlines()[1:] == [
        "class          number  precision  recall  0  1  2  3",
        "0 cat               3     50.00%  66.67%  2  1  .  .",
        "1                   2     50.00%  50.00%  1  1  .  .",
        "2 a long name       1          –   0.00%  1  .  .  .",
        "3                   0          –       –  .  .  .  .",
    ]


def test_of_many_classes_the_worst_are_shown():
    matrix = np.diag(np.arange(21) + 3)
    matrix[5, 6], matrix[7, 2], matrix[20] = 4, 1, 0
    lines = class_scores.as_text(matrix, ()).splitlines()
    assert lines[0] == "the 10 classes with the lowest recall:"
    assert [line.split() for line in lines[1:4]] == [
        ["class", "number", "precision", "recall"],
        ["5", "12", "100.00%", "66.67%"],
        ["7", "11", "100.00%", "90.91%"],
    ]
    assert lines[12:] == [
        "the most frequent mistakes:",
        "     4  5 predicted as 6",
        "     1  7 predicted as 2",
    ]


def test_the_label_is_one_of_the_five_likeliest():
    likeliest = np.array([[3, 1, 2, 4, 5], [0, 1, 2, 3, 4], [9, 8, 7, 6, 5]])
    predictions = predictions_of(np.array([5, 5, 9]), likeliest)
    assert class_scores.top_5_accuracy(predictions, 10) == pytest.approx(2 / 3)
    assert class_scores.top_5_accuracy(predictions, 9) is None


def test_probabilities_of_labels_are_the_class_that_the_accuracy_counts():
    logits = jnp.array([[0.0, 1, 0], [3, 0, 0], [0, 2, 0]])
    labels = jnp.array([[0.0, 0.5, 0.5], [0.1, 0.1, 0.8], [0.4, 0.4, 0.2]])
    batch = {"index": jnp.arange(3), "label": labels}
    found = class_scores._of_examples(logits, batch)
    np.testing.assert_array_equal(found.label, [1, 2, 1])
    np.testing.assert_array_equal(found.likeliest[:, 0], [1, 0, 1])
    softmax = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(found.probability, -np.sort(-softmax), rtol=1e-6)


def test_names_are_the_last_columns_of_the_file(tmp_path):
    path = tmp_path / "it.csv"
    predictions = predictions_of(np.array([1, 0]), [[0, 1], [0, 1]])
    class_scores.write_csv(predictions, ("T-shirt, top", "shoe"), path)
    assert path.read_text().splitlines() == [
        "index,label,predicted,probability,class_2,probability_2,label_name,predicted_name",
        '0,1,0,0.5,1,0.5,shoe,"T-shirt, top"',
        '1,0,0,0.5,1,0.5,"T-shirt, top","T-shirt, top"',
    ]
