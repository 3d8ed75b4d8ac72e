"""Runs whose updates take several micro steps, one after the other or as one batch."""

import functools
import itertools

import jax
import numpy as np
import optax
import pytest

from cyclical_jax import data
from cyclical_jax.accumulation import powers_of_two
from cyclical_jax.data.batches import shuffled
from cyclical_jax.training import assembly, loop, ways
from cyclical_jax.training.checkpoints import Checkpoints
from cyclical_jax.training.feeding import take_examples
from cyclical_jax.training.fields import RecipeError
from cyclical_jax.training.keeper import Keeper, StoppedError
from cyclical_jax.training.population import Population
from cyclical_jax.training.recipe import cyclical
from cyclical_jax.training.run import begin, plan
from cyclical_jax.training.structure import Accumulation
from cyclical_jax.training.technique import spec_of
from tests.helpers import recipe_of, without_times

pytestmark = pytest.mark.usefixtures("fast_compilation")


def listed(windows):
    return [size for count, size in windows for _ in range(count)]


# ---- runs

BATCH = 4


def dataset():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, 40).astype(np.int32)
    image = (rng.integers(0, 100, (40, 2, 2, 1)) + 50 * label[:, None, None, None]).astype(np.uint8)
    split = {"image": image, "label": label}
    return data.Dataset(split, split, split, num_classes=3)


def recipe(**changes):
    small = dict(
        seed=2,
        batch_size=BATCH,
        duration="31 examples",
        accumulate=cyclical(3, 1),
        log_every="4 examples",
        model__hidden_sizes=(),
        loss__name="cyclical_focal",
        optimizer__learning_rate=0.1,
        optimizer__momentum=0.0,
        optimizer__learning_rate_schedule=None,
        optimizer__weight_decay=None,
    )
    return recipe_of(num_devices=2, **small | changes)


def test_a_run_takes_every_gradient_once_and_ends_easy():
    run, rows = recipe(duration="20 epochs"), []
    timetable = plan(run, dataset())
    sizes = listed(timetable.windows)
    assert sum(sizes) == timetable.micro_steps == 200 and len(set(sizes)) == 3
    state = loop.train(run, dataset(), report=rows.append)
    assert int(state.step) == timetable.total_steps == len(sizes)
    assert int(state.opt_state.multi_steps.mini_step) == 0  # nothing is left over
    hardness = [row["hardness"] for row in rows]
    assert hardness[0] == 0 and hardness[-1] == 0 and max(hardness) > 0.97
    # A row of each micro step is asked for: there is one of each update.
    assert [row["step"] for row in rows] == list(range(1, len(sizes) + 1))
    assert [row["epoch"] for row in rows] == [end / 10 for end in itertools.accumulate(sizes)]
    assert [row["every"] for row in rows] == sizes


def test_an_update_is_by_the_mean_gradient_of_its_window():
    run = recipe(duration="5 epochs")
    timetable = plan(run, dataset())
    sizes = listed(timetable.windows)
    state = loop.train(run, dataset(), report=lambda row: None)
    spec = spec_of(dataset())
    model = assembly.assemble_model(run.structure, spec)
    schedules = assembly.make_schedules(run.structure, run.numbers, timetable)
    (term,), _ = assembly.make_terms(
        run.structure, assembly.make_parts(run.structure, schedules, spec, {}, None)
    )
    params = begin(run, dataset()).state.params

    @jax.jit
    @jax.grad
    def gradient(params, batch, update):
        logits, _ = model.apply(params, {}, batch["image"], train=True)
        values = {name: schedule(update) for name, schedule in schedules.items()}
        return term.loss(logits, batch, values).mean()

    index = shuffled(40, BATCH, seed=2, start=0, stop=sum(sizes), remainder="drop")["index"]
    starts = itertools.accumulate(sizes, initial=0)
    for update, (start, size) in enumerate(zip(starts, sizes, strict=False)):
        chosen = {"index": np.concatenate(index[start : start + size])}
        batch = run.task.as_batch(take_examples(dataset().train, chosen))
        updates = jax.tree.map(lambda grad: -0.1 * grad, gradient(params, batch, update))
        params = optax.apply_updates(params, updates)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), state.params, params
    )


def test_a_number_of_updates_is_that_number():
    timetable = recipe(duration="9 steps", log_every="2 steps").timetable(40)
    assert timetable.total_steps == 9
    assert listed(timetable.windows) == [3, 2, 2, 2, 1, 2, 2, 2, 3]
    assert timetable.log_every == round(2 * timetable.micro_steps / 9)


def test_a_constant_has_no_clock():
    one, other = (recipe(accumulate=2, cycle__factor=factor).structure for factor in (2, 5))
    assert one == other


@pytest.mark.parametrize(
    "changes, line",
    [
        (dict(accumulate=cyclical(1.5, 1)), "accumulate.easy must be a whole number from 1 to"),
        (dict(accumulate=cyclical(2, 0)), "accumulate.hard must be at least 1, got 0"),
        (dict(accumulate=2.5), "accumulate must be a whole number from 1 to 2147483647, got 2.5."),
        (dict(remainder="pad"), "remainder must be 'drop' where accumulate is above 1"),
    ],
)
def test_what_cannot_be_is_one_line(changes, line):
    with pytest.raises(RecipeError) as error:
        recipe(**changes)
    assert str(error.value).startswith(line) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "changes, line",
    [
        (dict(duration="1 step"), "duration must make more updates than cycle.num_cycles 1, got 1"),
        (dict(duration="4 examples"), "duration must make more updates than cycle.num_cycles 1"),
        (dict(duration="1e10 examples"), "duration makes 2500000000 batches of 40 training exam"),
        (dict(duration="1e8 examples"), "at most 10000000 can be cycled over"),
    ],
)
def test_a_length_that_cannot_be_is_one_line(changes, line):
    with pytest.raises(RecipeError) as error:
        recipe(**changes).timetable(40)
    assert line in str(error.value) and "\n" not in str(error.value)


# ---- an update as one batch


def one_batch(**changes):
    cycle = dict(accumulate=cyclical(4, 1), duration="20 epochs", log_every="11 examples")
    return recipe(**cycle | changes, accumulate_as="one_batch")


def trained(run, **options):
    rows = []
    state = loop.train(run, dataset(), report=rows.append, **options)
    rows = without_times(rows)
    return state, [{name: row[name] for name in row if name != "every"} for row in rows]


@pytest.mark.parametrize("way", ["resident", "stepwise"])
def test_one_batch_is_the_update_by_its_parts(way, monkeypatch):
    """Of the same windows, for a model that knows no other examples of its batch."""
    model = dict(model__hidden_sizes=(4,), optimizer__momentum=0.9)
    long_calls = dict(log_every="7 epochs", validate_every="9 epochs")  # of several sizes
    run = one_batch(accumulate=cyclical(8, 1), loop=way, **model, **long_calls)
    sizes = {size for _, size in run.timetable(40).windows}
    assert {8, 4, 2, 1} <= sizes and len(sizes) <= 6
    state, rows = trained(run)
    schedule_of = Accumulation.schedule_of
    monkeypatch.setattr(
        Accumulation, "schedule_of", lambda *args: powers_of_two(schedule_of(*args))
    )
    in_parts = recipe(
        accumulate=cyclical(8, 1), duration="20 epochs", loop=way, **model, **long_calls
    )
    assert in_parts.timetable(40).windows == run.timetable(40).windows
    expected, expected_rows = trained(in_parts)
    assert (state.step, state.micro_step) == (expected.step, expected.micro_step)
    close = functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=1e-5)
    jax.tree.map(close, state.params, expected.params)
    jax.tree.map(close, rows, expected_rows)
    ends = list(itertools.accumulate(listed(run.timetable(40).windows)))
    assert [row["step"] for row in rows] == sorted({row["step"] for row in rows})
    assert {row["epoch"] for row in rows} <= {end / 10 for end in ends}
    assert rows[-1]["epoch"] == 20 and rows[-1]["hardness"] == 0


def test_each_size_is_compiled_once(monkeypatch, count_compilations):
    run = one_batch()
    trained(run)
    monkeypatch.setattr(ways, "compiled", functools.cache(ways.compiled.__wrapped__))
    with count_compilations() as compilations:
        trained(run)
    assert len(compilations) == len({size for _, size in run.timetable(40).windows})


def test_one_batch_goes_on_after_a_stop_and_is_a_member_of_a_population(tmp_path):
    run = one_batch(model__batch_norm=True, model__hidden_sizes=(3,), validate_every="4 epochs")
    (state, rows), calls = trained(run), []

    def is_stopping():
        calls.append(None)
        return len(calls) == 4

    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        with pytest.raises(StoppedError):
            trained(run, keeper=Keeper(checkpoints, is_stopping=is_stopping))
        start = checkpoints.restore(begin(run, dataset()))
        done = int(start.state.micro_step)
        resumed, later = trained(run, start=start)
    assert 0 < done < 200
    jax.tree.map(np.testing.assert_array_equal, resumed.params, state.params)
    assert rows[run.timetable(40).num_rows(done) :] == later
    (outcome,) = Population(run, dataset()).outcomes([run])
    assert [row["step"] for row in outcome.rows] == [row["step"] for row in rows]
    np.testing.assert_allclose(outcome.rows[-1]["loss"], rows[-1]["loss"], rtol=1e-3)


@pytest.mark.parametrize(
    "changes, line",
    [
        (dict(accumulate=1), "there is nothing to join"),
        (dict(loop="streamed"), "must be 'micro_steps' where loop is 'streamed'"),
    ],
)
def test_what_cannot_be_one_batch_is_one_line(changes, line):
    with pytest.raises(RecipeError, match=f"^accumulate_as .*{line}.$"):
        one_batch(**changes)
