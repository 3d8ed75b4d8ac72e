"""Runs that restart: their lengths, their rows, and that each is the beginning of a longer one."""

import functools
import itertools

import jax
import numpy as np
import pytest

from cyclical_jax import cycle_ends
from cyclical_jax.training import assembly
from cyclical_jax.training.durations import Timetable, Units, parse_duration
from cyclical_jax.training.fields import RecipeError
from cyclical_jax.training.keeper import Keeper
from cyclical_jax.training.loop import train
from cyclical_jax.training.population import Population
from cyclical_jax.training.recipe import cyclical
from tests.helpers import bright_classes, recipe_of, without_times

pytestmark = pytest.mark.usefixtures("fast_compilation")

RESTARTS = dict(
    optimizer__learning_rate_schedule="warm_restarts",
    optimizer__first_cycle="2 epochs",
    optimizer__warmup="1 epoch",
)
WHY = "optimizer.learning_rate_schedule is 'warm_restarts'"


def timetable_of(num_train=1197, **changes):
    return recipe_of(**RESTARTS | changes).timetable(num_train)


def line_of(**changes):
    with pytest.raises(RecipeError) as error:
        timetable_of(**changes)
    return str(error.value)


# ---- lengths


@pytest.mark.parametrize("accumulate", [1, 2, 3])
@pytest.mark.parametrize("as_one_batch", [False, True])
def test_cycles_are_counted_in_micro_steps(accumulate, as_one_batch):
    changes = {"accumulate_as": "one_batch"} if as_one_batch and accumulate > 1 else {}
    table = timetable_of(duration="15 epochs", accumulate=accumulate, **changes)
    assert table.cycle_ends == tuple(18 * epochs for epochs in (3, 7, 15))
    updates = [table.updates(end) for end in table.cycle_ends]
    assert updates == [end // accumulate for end in table.cycle_ends]
    assert dict(table.own)["optimizer.first_cycle"] == 36 // accumulate


def test_a_run_may_be_one_cycle_and_other_runs_have_none():
    assert timetable_of(duration="3 epochs").cycle_ends == (54,)
    alone = timetable_of(duration="2 epochs", optimizer__warmup=None)
    assert alone.cycle_ends == (36,)
    assert recipe_of().timetable(1197).cycle_ends == ()


@pytest.mark.parametrize(
    "changes, line",
    [
        (
            dict(duration="10 epochs"),
            f"duration must be a whole number of cycles where {WHY}, such as '7 epochs' or "
            "'15 epochs', got '10 epochs'.",
        ),
        (
            dict(duration="200 steps", accumulate=2),
            f"duration must be a whole number of cycles where {WHY}, such as '135 steps' or "
            "'279 steps', got '200 steps'.",
        ),
        (
            dict(duration="10000 examples"),
            f"duration must be a whole number of cycles where {WHY}, such as '8064 examples' or "
            "'17280 examples', got '10000 examples'.",
        ),
        (
            dict(duration="2.5 epochs"),
            f"duration must be a whole number of cycles where {WHY}, such as '3 epochs', got "
            "'2.5 epochs'.",
        ),
        (
            dict(duration="1 epoch"),
            "optimizer.first_cycle must be at most as long as the run, got 36 of 18 updates.",
        ),
        (
            dict(duration="40 steps", optimizer__warmup="50 steps"),
            "optimizer.warmup must be at most as long as the run, got 50 of 40 updates.",
        ),
        (
            dict(
                duration="5000 steps",
                optimizer__restart_multiplier=1,
                optimizer__first_cycle="2 steps",
            ),
            f"duration must have at most 1000 cycles where {WHY}; '2018 steps' has as many, got "
            "'5000 steps'.",
        ),
        (
            dict(duration="15 epochs", cycle__span="restart", cycle__num_cycles=54),
            "cycle.span 'restart' needs more updates in each cycle than cycle.num_cycles 54, got "
            "54 in the one that ends at update 54.",
        ),
        (  # the first cycle can turn in three updates, because the warm-up is a part of it
            dict(
                duration="4 steps",
                cycle__span="restart",
                optimizer__warmup="2 steps",
                optimizer__first_cycle="1 step",
                optimizer__restart_multiplier=1,
            ),
            "cycle.span 'restart' needs more updates in each cycle than cycle.num_cycles 1, got 1 "
            "in the one that ends at update 4.",
        ),
    ],
)
def test_lengths_that_cannot_be_are_one_line(changes, line):
    assert line_of(**changes) == line


@pytest.mark.parametrize("seed", range(24))
def test_the_lengths_that_a_line_names_can_be_run_and_are_the_nearest(seed):
    rng = np.random.default_rng(seed)
    unit, length = (("steps", 200), ("epochs", 21.37), ("examples", 33_333))[seed % 3]
    first = {"steps": rng.integers(1, 30), "epochs": round(rng.uniform(0.1, 3), 2)}
    changes = dict(
        optimizer__first_cycle=f"{first.get(unit, rng.integers(1, 3000))} {unit}",
        optimizer__warmup=None if seed % 2 else f"{rng.integers(1, 20)} steps",
        optimizer__restart_multiplier=float(rng.choice([1.2, 1.5, 2, 3.3])),
        accumulate=int(rng.integers(1, 5)),
        batch_size=int(rng.integers(20, 90)),
    )
    said = line_of(duration=f"{length} {unit}", **changes).split("'")
    assert said[2].startswith(", such as ") and said[-2] == f"{length} {unit}"
    tables = [timetable_of(duration=words, **changes) for words in said[3:-2:2]]
    assert [table.cycle_ends[-1] for table in tables] == [table.micro_steps for table in tables]
    wanted = parse_duration(f"{length} {unit}").in_micro_steps(
        Units(changes["batch_size"], tables[-1].micro_steps_per_epoch), changes["accumulate"]
    )
    assert wanted < tables[-1].micro_steps
    if len(tables) == 2:
        assert tables[0].cycle_ends == tables[1].cycle_ends[:-1] and tables[0].micro_steps < wanted
    else:
        assert len(tables[0].cycle_ends) == 1


# ---- rows


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("log_every", [1, 5, 8, 100])
@pytest.mark.parametrize("ends", [(12, 20, 64), (64,), (4, 8, 12, 64), (8, 60)])
def test_rows_and_validations_at_the_ends_of_cycles_are_those_of_a_walk(size, log_every, ends):
    table = Timetable(((64 // size, size),), 7, log_every, None, cycle_ends=ends)
    stops = [*range(size, 65, size)]
    logs = [s for s in stops if any(m % log_every == 0 for m in range(s - size + 1, s + 1))]
    validations = sorted({*ends, 64})
    rows = sorted({*logs, *validations})
    found = [table.next_row(stop) for stop in (0, *stops[:-1])]
    assert found == [min(row for row in rows if row > stop) for stop in (0, *stops[:-1])]
    assert [stop for stop in stops if table.is_row(stop)] == rows
    assert [stop for stop in stops if table.validates_at(stop)] == validations
    for stop in (0, *stops):
        assert table.num_rows(stop) == sum(row <= stop for row in rows)
    gaps = [after - before for before, after in itertools.pairwise((0, *rows))]
    assert max(gaps) <= table.longest_interval <= min(log_every, 64) + size - 1 or log_every > 64
    assert table.longest_interval <= max(b - a for a, b in itertools.pairwise((0, *ends, 64))) + 3


# ---- the schedules of a run are those of a longer one, up to its end

KNOBS = dict(
    cycle__span="restart",
    model__dropout=cyclical(0.1, 0.4, factor=3),
    model__hidden_sizes=(6,),
    ema_decay=cyclical(0.5, 0.9, shape="rex"),
    optimizer__learning_rate=cyclical(0.02, 0.1, factor=4),
    optimizer__weight_decay=cyclical(1e-4, 1e-2, scale="log"),
    optimizer__momentum=cyclical(0.9, 0.7, shape="cosine", factor=1),
    optimizer__max_norm=cyclical(0.5, 2.0, shape="exponential"),
    loss__temperature=cyclical(0.5, 2.0, factor=1.7),
)


@functools.partial(jax.jit, static_argnums=(0, 1))
def values_at(structure, timetable, numbers, counts):
    schedules = assembly.make_schedules(structure, numbers, timetable)
    return {key: schedule(counts) for key, schedule in schedules.items()}


def values_of(recipe, table, counts):
    numbers = jax.tree.map(np.float32, recipe.numbers)
    return jax.device_get(values_at(recipe.structure, table.lengths, numbers, counts))


@pytest.mark.parametrize("num_cycles, multiplier", [(1, 1.5), (3, 1)])
def test_the_schedules_of_a_run_are_the_beginning_of_those_of_a_longer_one(num_cycles, multiplier):
    changes = RESTARTS | KNOBS | dict(cycle__num_cycles=num_cycles)
    changes |= dict(optimizer__restart_multiplier=multiplier)
    ends = cycle_ends(500, 36, multiplier=multiplier, warmup=18)
    recipes = [recipe_of(**changes | dict(duration=f"{end} steps")) for end in ends]
    tables = [recipe.timetable(1197) for recipe in recipes]
    longest = values_of(recipes[-1], tables[-1], np.arange(tables[-1].total_steps))
    for recipe, table in zip(recipes, tables, strict=True):
        assert recipe.structure == recipes[-1].structure
        found = values_of(recipe, table, np.arange(table.total_steps))
        for key, values in found.items():
            np.testing.assert_array_equal(values, longest[key][: table.total_steps], key)
        lasts = np.array(table.cycle_ends) - 1
        decays = found["optimizer.weight_decay"]
        easy = decays[[0, *(lasts[:-1] + 1), *lasts]]
        np.testing.assert_allclose(easy, 1e-4, rtol=1e-6)
        (peaks,) = np.nonzero(np.diff(np.sign(np.diff(decays.astype(np.float64)))) < 0)
        assert len(peaks) >= num_cycles * len(lasts)


def test_the_first_cycle_of_a_hardness_spans_the_warm_up():
    recipe = recipe_of(**RESTARTS | KNOBS | dict(duration="7 epochs"))
    table = recipe.timetable(1197)
    decay = values_of(recipe, table, np.arange(126))["optimizer.weight_decay"]
    assert decay[:54].argmax() in (26, 27) and decay[54:].argmax() in (35, 36)


def test_a_hardness_that_spans_the_run_does_not_restart():
    recipe = recipe_of(**RESTARTS | KNOBS | dict(duration="7 epochs", cycle__span="run"))
    table = recipe.timetable(1197)
    decay = values_of(recipe, table, np.arange(126))["optimizer.weight_decay"]
    assert decay.argmax() in (62, 63) and np.all(np.diff(decay[:62]) > 0)


# ---- whole runs

SMALL = (
    RESTARTS
    | {key: KNOBS[key] for key in ("cycle__span", "model__dropout", "optimizer__weight_decay")}
    | dict(
        batch_size=20,
        model__hidden_sizes=(6,),
        optimizer__first_cycle="1 epoch",
        log_every="3 steps",
        validate_every="cycle",
        model__batch_norm=True,
        loss__name="cyclical_focal",
    )
)
LENGTHS = ("4 epochs", "8 epochs")  # 1 of warm-up, then 1, 2 and 4


def dataset():
    return bright_classes(63, 21)


def without_keys(state):
    return jax.device_get(state._replace(key=jax.random.key_data(state.key)))


class Capturing(Keeper):
    """Keeps the states after some micro steps."""

    def __init__(self):
        super().__init__()
        self.states = {}

    def keep(self, snapshot, timetable, done, worth=None):
        if done in timetable.cycle_ends:
            self.states[done] = without_keys(snapshot.state)


def run(duration, **changes):
    rows, keeper = [], Capturing()
    recipe = recipe_of(**SMALL | dict(duration=duration) | changes, num_devices=2)
    train(recipe, dataset(), report=rows.append, keeper=keeper)
    return without_times(rows), keeper.states


@pytest.mark.parametrize(
    "way, accumulate",
    [
        ("resident", 3),
        pytest.param("resident", 1, marks=pytest.mark.slow),
        *(pytest.param("stepwise", every, marks=pytest.mark.slow) for every in (1, 3)),
        *(pytest.param("streamed", every, marks=pytest.mark.slow) for every in (1, 3)),
    ],
)
def test_a_run_is_the_beginning_of_a_longer_one(way, accumulate):
    (short, states), (long, longer) = (
        run(duration, loop=way, accumulate=accumulate) for duration in LENGTHS
    )
    end = max(states)
    assert [*states] == [6, 12] and [*longer] == [6, 12, 24]
    assert short == [row for row in long if row["epoch"] <= 4] and len(long) > len(short)
    assert [row["epoch"] for row in long if "val_loss" in row] == [2, 4, 8]
    jax.tree.map(np.testing.assert_array_equal, states[end], longer[end])


@pytest.mark.slow
def test_members_of_a_population_are_the_beginnings_of_longer_ones():
    populations = [
        Population(recipe_of(**SMALL | dict(duration=duration)), dataset(), chunk=2)
        for duration in LENGTHS
    ]
    seeds, rates = (3, 8), (0.05, 0.1)
    numbers = [
        recipe_of(**SMALL | dict(duration=LENGTHS[0], optimizer__learning_rate=rate)).numbers
        for rate in rates
    ]
    end = populations[0].timetable.micro_steps
    short, long = (each.train(numbers, seeds) for each in populations)
    stopped = populations[1].train(numbers, seeds, stop=end)
    for rows, of_longer in zip(short.rows, long.rows, strict=True):
        assert rows == of_longer[: len(rows)] and len(rows) < len(of_longer)
        assert [row["epoch"] for row in of_longer if "val_loss" in row] == [2, 4, 8]
    jax.tree.map(
        np.testing.assert_array_equal, without_keys(short.states), without_keys(stopped.states)
    )
