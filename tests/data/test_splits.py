import numpy as np
import pytest

from cyclical_jax.data import splits


@pytest.mark.parametrize("given", [(), ("validation",), ("test",), ("validation", "test")])
def test_every_example_is_in_one_split(given):
    sizes = {"train": 57, **{split: 9 for split in given}}
    parts = splits.complete(sizes, np.arange(57) % 3)
    from_train = np.concatenate([at for source, at in parts.values() if source == "train"])
    np.testing.assert_array_equal(np.sort(from_train), np.arange(57))
    for split, (source, at) in parts.items():
        assert source == (split if split in given else "train")
        assert (np.diff(at) > 0).all()
        if split in given:
            np.testing.assert_array_equal(at, np.arange(9))
        elif split != "train":
            assert len(at) in (5, 6)
    assert len(splits.notes_of(parts)) == 2 - len(given)


def test_each_class_gives_a_tenth():
    labels = np.repeat(np.arange(4), [200, 100, 50, 10])
    parts = splits.complete({"train": len(labels)}, labels)
    for split in ("validation", "test"):
        counts = np.bincount(labels[parts[split][1]])
        assert np.abs(counts - [20, 10, 5, 1]).max() <= 1


def test_labels_that_are_numbers_for_each_class_count_by_their_largest():
    classes = np.arange(90) % 3
    of_numbers = splits.complete({"train": 90}, np.eye(3)[classes] * 0.7 + 0.1)
    for split, (_, at) in splits.complete({"train": 90}, classes).items():
        np.testing.assert_array_equal(of_numbers[split][1], at)


def test_the_splits_are_the_same_for_ever():
    parts = splits.complete({"train": 20}, np.arange(20) % 2)
    assert [at.tolist() for split, (_, at) in parts.items() if split != "train"] == CUT


CUT = [[4, 5], [12, 15]]  # of numpy.random.RandomState(0), which NumPy never changes


def test_too_few_are_a_line():
    with pytest.raises(
        ValueError, match="^9 examples to train on are too few to cut validation and test from"
    ):
        splits.complete({"train": 9})
    with pytest.raises(ValueError, match="^9 examples to train on are too few to cut test from"):
        splits.complete({"train": 9, "validation": 3})
    assert splits.sizes_of(splits.complete({"train": 9, "validation": 3, "test": 2})) == (9, 3, 2)
