import numpy as np
import pytest

from cyclical_jax._words import counted


@pytest.mark.parametrize(
    "number, nouns, expected",
    [
        (1, ("update",), "1 update"),
        (0, ("update",), "0 updates"),
        (1234567, ("update",), "1,234,567 updates"),
        (np.int64(1), ("batch", "batches"), "1 batch"),
        (np.int32(2), ("batch", "batches"), "2 batches"),
        (1.0, ("epoch",), "1 epoch"),
        (2.5, ("epoch",), "2.5 epochs"),
        (40.0, ("epoch",), "40 epochs"),
    ],
)
def test_a_noun_follows_its_number(number, nouns, expected):
    assert counted(number, *nouns) == expected
