"""The picture of the augmentations."""

import numpy as np

from cyclical_jax.augment import NAMES
from experiments import augmentations


def test_there_is_a_row_an_operation_and_the_first_column_is_the_photograph():
    figure = augmentations.picture()
    axes = np.array(figure.axes).reshape(len(NAMES), len(augmentations.STRENGTHS))
    assert [row[0].get_ylabel() for row in axes] == list(NAMES)
    photograph = augmentations.photographs()[0]
    for row in axes:
        shown = [np.asarray(axis.images[0].get_array()) for axis in row]
        np.testing.assert_array_equal(shown[0], photograph)
        assert (shown[-1] != photograph).any()
