"""Every epoch is a permutation of its own, and any cut of the batches is the same sequence."""

import functools

import numpy as np
import pytest

from cyclical_jax.data.batches import (
    in_order,
    part_of,
    select_part,
    shuffled,
    with_others,
)


def batches(num_examples, batch_size, start, stop, *, seed=5, remainder="drop"):
    return shuffled(
        num_examples, batch_size, seed=seed, start=start, stop=stop, remainder=remainder
    )


@pytest.mark.parametrize("remainder", ["drop", "pad"])
@pytest.mark.parametrize("num_examples, batch_size", [(23, 4), (24, 4), (5, 5), (7, 6), (3, 1)])
def test_any_cut_is_a_window_of_one_sequence(num_examples, batch_size, remainder):
    options = dict(remainder=remainder)
    whole = batches(num_examples, batch_size, 0, 20, **options)
    assert whole.keys() == ({"index", "mask"} if remainder == "pad" else {"index"})
    for start, stop in [(0, 1), (0, 20), (1, 5), (4, 6), (5, 6), (6, 19), (13, 20), (19, 20)]:
        part = batches(num_examples, batch_size, start, stop, **options)
        for name, array in whole.items():
            np.testing.assert_array_equal(part[name], array[start:stop])
            assert part[name].dtype == array.dtype


@pytest.mark.parametrize("num_examples, batch_size, full", [(23, 4, 5), (24, 4, 6), (7, 6, 1)])
def test_drop_leaves_the_remainder_of_each_permutation_out(num_examples, batch_size, full):
    index = batches(num_examples, batch_size, 0, 3 * full)["index"]
    assert index.shape == (3 * full, batch_size) and index.dtype == np.int32
    epochs = index.reshape(3, full * batch_size)
    for epoch in epochs:
        assert len(set(epoch)) == full * batch_size
        assert set(epoch) <= set(range(num_examples))
    assert (epochs[0] != epochs[1]).any() and (epochs[1] != epochs[2]).any()


def test_what_is_dropped_differs_between_epochs():
    index = batches(23, 4, 0, 50)["index"].reshape(10, 20)
    assert set(index.ravel()) == set(range(23))


@pytest.mark.parametrize("num_examples, batch_size, full", [(23, 4, 6), (24, 4, 6), (3, 8, 1)])
def test_pad_has_every_example_once_an_epoch_and_masks_the_rest(num_examples, batch_size, full):
    selection = batches(num_examples, batch_size, 0, 3 * full, remainder="pad")
    index = selection["index"].reshape(3, full * batch_size)
    mask = selection["mask"].reshape(index.shape)
    assert selection["mask"].dtype == np.float32 and selection["index"].dtype == np.int32
    for order, is_real in zip(index, mask, strict=True):
        assert sorted(order[is_real == 1]) == list(range(num_examples))
        assert (is_real == 1).sum() + (is_real == 0).sum() == len(order)
        assert set(order) == set(range(num_examples))  # padding repeats examples
    assert (index[0] != index[1]).any()


def test_padding_is_spread_over_the_epoch_and_comes_last():
    selection = batches(23, 6, 0, 4, remainder="pad")
    np.testing.assert_array_equal(selection["mask"].sum(1), [6, 6, 6, 5])
    assert selection["index"][3, 5] == selection["index"][0, 0]


def test_the_seed_and_the_epoch_decide_the_order():
    one, same, other = (batches(50, 5, 0, 20, seed=seed)["index"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one[:10] != other[:10]).any()
    # Seeds and epochs are not added up: epoch 1 of seed 1 is not epoch 0 of seed 2.
    assert (one[10:] != other[:10]).any()


def test_a_caller_may_write_into_what_it_was_given():
    first = batches(24, 4, 0, 6)["index"].copy()
    batches(24, 4, 0, 6)["index"][:] = -1
    np.testing.assert_array_equal(batches(24, 4, 0, 6)["index"], first)


@pytest.mark.parametrize(
    "num_examples, batch_size, shape", [(11, 4, (3, 4)), (12, 4, (3, 4)), (1, 2, (1, 2))]
)
def test_in_order_has_every_example_once_in_order(num_examples, batch_size, shape):
    selection = in_order(num_examples, batch_size)
    assert selection["index"].shape == selection["mask"].shape == shape
    flat, mask = selection["index"].ravel(), selection["mask"].ravel()
    np.testing.assert_array_equal(flat[:num_examples], np.arange(num_examples))
    np.testing.assert_array_equal(mask, np.arange(mask.size) < num_examples)
    assert set(flat) == set(range(num_examples))


@pytest.mark.parametrize("start", [0, 2, 3, 6])
def test_no_batches_are_an_empty_selection(start):
    selection = shuffled(10, 3, seed=0, start=start, stop=start, remainder="drop")
    assert selection["index"].shape == (0, 3)


@pytest.mark.parametrize("start, stop", [(0, 1), (1, 3), (2, 9), (0, None)])
def test_some_batches_in_order_are_a_window_of_all(start, stop):
    whole = in_order(11, 4)
    for name, array in in_order(11, 4, start=start, stop=stop).items():
        np.testing.assert_array_equal(array, whole[name][start:stop])


def test_parts_of_a_batch_make_the_whole():
    select = functools.partial(shuffled, 23, 6, seed=1, remainder="pad")
    whole = select(start=2, stop=7)
    parts = [select_part(select, number, 3, start=2, stop=7) for number in range(3)]
    for name, array in whole.items():
        assert [part[name].shape for part in parts] == [(5, 2)] * 3
        np.testing.assert_array_equal(np.concatenate([part[name] for part in parts], 1), array)


OTHERS = {"unlabelled": (31, 7), "reference": (31, 7), "extra": (9, 2)}


def select_labelled(*, start, stop, seed=5):
    return batches(23, 4, start, stop, seed=seed, remainder="pad")


def test_other_sets_stand_beside_the_labelled_one_in_orders_of_their_own():
    found = with_others(select_labelled, OTHERS, seed=5, start=2, stop=9)
    labelled = select_labelled(start=2, stop=9)
    assert found.keys() == {*labelled, *(f"{entry}_index" for entry in OTHERS)}
    for name, array in labelled.items():
        np.testing.assert_array_equal(found[name], array)
    for number, (entry, (num_examples, size)) in enumerate(OTHERS.items(), 1):
        expected = batches(num_examples, size, 2, 9, seed=5 + number * 2**64)["index"]
        np.testing.assert_array_equal(found[f"{entry}_index"], expected)
    assert (found["unlabelled_index"] != found["reference_index"]).any()
    assert with_others(select_labelled, {}, seed=5, start=2, stop=9).keys() == labelled.keys()


def test_any_cut_of_several_sets_is_a_window_of_one_sequence():
    whole = with_others(select_labelled, OTHERS, seed=1, start=0, stop=12)
    for name, array in with_others(select_labelled, OTHERS, seed=1, start=5, stop=11).items():
        np.testing.assert_array_equal(array, whole[name][5:11])


def test_unlabelled_examples_are_the_first_of_the_others():
    found = with_others(select_labelled, {"unlabelled": (31, 7)}, seed=3, start=0, stop=8)
    expected = with_others(select_labelled, OTHERS, seed=3, start=0, stop=8)
    assert found.keys() == {"index", "mask", "unlabelled_index"}
    for name, array in found.items():
        np.testing.assert_array_equal(array, expected[name])


def test_unequal_parts_are_refused():
    with pytest.raises(ValueError):
        part_of(in_order(8, 4), 0, 3)
