"""What a row says of its micro steps, against sums in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cyclical_jax as cj
from cyclical_jax.models import make_model
from cyclical_jax.training.state import init_state
from cyclical_jax.training.totals import add, is_empty, no_totals

NAN, INF = np.nan, np.inf
# loss, accuracy, grad_norm, num_examples, temperature, max_norm; the steps count from 7 on
FINITE = [
    (2.0, 0.25, 1.0, 8, 0.5, 3.0),
    (1.0, 0.50, 4.0, 1, 0.7, 2.5),
    (3.5, 1.00, 0.5, 27, 0.9, 2.0),
    (0.5, 0.00, 7.0, 4, 1.1, 1.5),
]
FIRST_STEP = 7


def with_bad(**bad):
    """FINITE with loss and gradient replaced at some of its rows, e.g. row1=(NAN, INF)."""
    rows = list(FINITE)
    for name, (loss, grad_norm) in bad.items():
        number = int(name.removeprefix("row"))
        _, accuracy, _, *rest = rows[number]
        rows[number] = (loss, accuracy, grad_norm, *rest)
    return rows


def zeros():
    model = make_model("mlp", num_classes=3, axis_name=None, hidden_sizes=())
    optimizer = cj.accumulate_gradients(optax.chain(cj.clip_by_global_norm(3.0), optax.sgd(1.0)), 2)
    state = jax.eval_shape(lambda: init_state(model, optimizer, jnp.zeros((1, 2, 2, 1)), 0))
    return no_totals(state, ["temperature"], ["accuracy"])


@jax.jit
def _add(totals, row, count, step):
    loss, accuracy, grad_norm, temperature, max_norm = row
    measured = dict(loss=loss, accuracy=accuracy, grad_norm=grad_norm, num_examples=count)
    values = dict(temperature=temperature, max_norm=max_norm, every=jnp.int32(2))
    return add(totals, measured | values, step)


def totals_of(rows):
    totals = zeros()
    for number, (loss, accuracy, grad_norm, count, *values) in enumerate(rows):
        row = jnp.array([loss, accuracy, grad_norm, *values], jnp.float32)
        totals = _add(totals, row, jnp.int32(count), jnp.int32(FIRST_STEP + number))
    return jax.device_get(totals)


@pytest.mark.parametrize(
    "rows, first_bad",
    [
        (FINITE, None),
        (FINITE[:1], None),
        (with_bad(row0=(NAN, 1.0)), 0),
        (with_bad(row2=(1.0, INF)), 2),
        (with_bad(row1=(-INF, 2.0), row3=(NAN, NAN)), 1),
        (with_bad(row0=(NAN, NAN), row1=(NAN, INF), row2=(INF, 1.0)), 0),
    ],
)
def test_means_are_over_the_examples_of_finite_batches(rows, first_bad):
    table = np.array(rows, np.float64)
    is_finite = np.isfinite(table[:, 0]) & np.isfinite(table[:, 2])
    totals, counts = totals_of(rows), table[is_finite, 3]
    assert totals.num_examples == counts.sum() and totals.num_examples.dtype == np.int32
    for column, name in enumerate(["loss", "accuracy", "grad_norm"]):
        expected = (table[is_finite, column] * counts).sum() / counts.sum()
        assert totals.means[name] == pytest.approx(expected, rel=1e-6), name
    if first_bad is None:
        assert totals.nonfinite["step"] == -1
    else:
        loss, _, grad_norm, *_ = rows[first_bad]
        expected = dict(step=FIRST_STEP + first_bad, loss=loss, grad_norm=grad_norm)
        assert totals.nonfinite == pytest.approx(expected, nan_ok=True)
    assert not is_empty(totals)


def test_values_are_those_of_the_last_micro_step_even_if_it_is_not_finite():
    totals = totals_of(with_bad(row3=(NAN, NAN)))
    assert totals.values == {name: pytest.approx(value) for name, value in LAST.items()}
    assert {value.dtype for value in totals.values.values()} == {np.dtype("float32")}


LAST = {"temperature": 1.1, "max_norm": 1.5, "every": 2.0}


def test_without_a_finite_batch_nothing_was_seen():
    totals = totals_of([(NAN, 0.5, NAN, 8, 1.0, 1.0)])
    assert totals.num_examples == 0
    assert totals.means == dict(loss=0, grad_norm=INF, accuracy=0)


def test_a_gradient_counts_where_its_update_is_complete():
    """With the weight of its update's examples, of which a row may have a part."""
    totals, micro_steps = zeros(), [(3, 0), (5, 8), (7, 0), (1, 12), (9, 0)]
    for grad_norm, of_update in micro_steps:
        row = dict.fromkeys(["loss", "accuracy", *LAST], jnp.float32(1))
        row |= dict(grad_norm=jnp.float32(grad_norm), num_examples=jnp.int32(4))
        totals = add(totals, row | {"examples_of_update": jnp.int32(of_update)}, jnp.int32(0))
        if of_update == 0 and totals.num_examples == 4:
            assert totals.means["grad_norm"] == INF
    assert totals.means["grad_norm"] == pytest.approx((4 * 5 + 12 * 1) / 16)
    assert not is_empty(totals)  # there was a micro step


def test_before_the_first_there_is_nothing_but_the_names():
    totals = zeros()
    assert is_empty(totals) and totals.values.keys() == LAST.keys()
    assert totals.means.keys() == {"loss", "grad_norm", "accuracy"}
    assert totals.num_examples == 0 and totals.nonfinite["step"] == -1
    later = totals_of(FINITE)
    assert jax.tree.map(lambda leaf: leaf.dtype, totals) == jax.tree.map(
        lambda leaf: leaf.dtype, later
    )
