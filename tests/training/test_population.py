"""Members of a population are the single runs of one device, whoever they share a call with."""

import contextlib
import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cyclical_jax import data
from cyclical_jax.data.batches import shuffled
from cyclical_jax.training import evaluation, loop, population, ways
from cyclical_jax.training.fields import RecipeError
from cyclical_jax.training.population import Outcome, Population
from cyclical_jax.training.recipe import cyclical
from cyclical_jax.training.run import NonFiniteError, Timer
from cyclical_jax.training.structure import Knob
from cyclical_jax.training.technique import spec_of
from tests.helpers import bright_classes, recipe_of, without_times

pytestmark = pytest.mark.usefixtures("fast_compilation")

TRAIN, BATCH = 53, 13  # two devices could not share a batch


@functools.cache
def dataset(num_validation=21):
    """Images are floats, so that the same programs can be called with one that is not a number."""
    whole = bright_classes(TRAIN, num_validation, 21)
    splits = (split | {"image": split["image"].astype(np.float32)} for split in whole[:3])
    return data.Dataset(*splits, whole.num_classes)


def recipe(**changes):
    """Of a small model."""
    small = dict(batch_size=BATCH, model__hidden_sizes=(6,), duration="2 epochs")
    return recipe_of(**small | changes)


PADDED = dict(
    duration="13 steps",  # of 5 an epoch: neither it nor the intervals divide one another
    log_every="4 steps",
    validate_every="65 examples",  # 5 steps
    remainder="pad",
    ema_decay=cyclical(0.5, 0.8),
    model__batch_norm=True,
    model__dropout=0.3,
    optimizer__max_norm=cyclical(0.5, 2.0),
    optimizer__weight_decay=cyclical(1e-4, 1e-1, scale="log"),
    optimizer__momentum=cyclical(0.9, 0.7, factor=3),
    loss__name="cyclical_focal",
    loss__gradient_norm="cross_entropy",
    loss__label_smoothing=0.1,
    loss__temperature=cyclical(0.5, 2.0, shape="cosine"),
)
PARTED = dict(  # the last update is of one batch
    duration="13 steps",
    accumulate=3,
    log_every="2 epochs",
    validate_every="9 steps",
    on_nonfinite="skip",
    optimizer__name="adamw",
    optimizer__clipping=0.1,
    model__dropout=0.5,
)
CONVOLUTION = dict(
    model__name="cnn", model__widths=(2,), model__hidden_sizes=(), duration="5 steps"
)
CONVOLUTION |= dict(log_every="2 steps", model__batch_norm=True)
CASES = {
    "padded": PADDED,
    "parted": PARTED,
    "stepwise": PADDED | dict(loop="stepwise"),
    "convolution": CONVOLUTION,
    "convolution in a loop": CONVOLUTION | dict(loop="resident"),
}
SEEDS = (3, 8, 2**31 - 1)
SPLITS = ("test", "validation")


@functools.cache
def members(case, number=3):
    """Recipes that differ in learning rate, in the hard end of another knob, and in their seed."""
    changes, all_knobs = CASES[case], {"optimizer__learning_rate": 0.02, "ema_decay": 0.3}
    return [
        recipe(
            **changes
            | {name: rate * (member + 1) for name, rate in all_knobs.items() if name in changes}
            | dict(optimizer__learning_rate=0.02 * (member + 1), seed=SEEDS[member])
        )
        for member in range(number)
    ]


def forget_programs(monkeypatch):
    """For this test, nothing of members and of single runs was compiled before."""
    monkeypatch.setattr(population, "compiled", functools.cache(population.compiled.__wrapped__))
    monkeypatch.setitem(globals(), "_compiled_for_one", functools.cache(ways.compiled.__wrapped__))


# ---- the single run


class Single(NamedTuple):
    state: Any
    outcome: Outcome


@contextlib.contextmanager
def one_device():
    """All that the package asks of the devices is answered as on a machine with one."""
    first = jax.devices()[:1]
    with pytest.MonkeyPatch.context() as patch:
        for name in ("devices", "local_devices"):
            patch.setattr(jax, name, lambda: first)
        for name in ("device_count", "local_device_count"):
            patch.setattr(jax, name, lambda: 1)
        patch.setattr(ways, "compiled", _compiled_for_one)
        patch.setattr(evaluation, "_sums_on_all_devices", _sums_on_one)
        yield


_compiled_for_one = functools.cache(ways.compiled.__wrapped__)
_sums_on_one = functools.cache(evaluation._sums_on_all_devices.__wrapped__)


def single(run, data, splits=SPLITS):
    """What `loop.train` and `evaluate` make of a recipe on one device, as an outcome."""
    rows = []
    with one_device():
        try:
            state = loop.train(run, data, report=rows.append)
        except NonFiniteError as error:
            return Single(None, Outcome(without_times(rows), {}, str(error)))
        scores = {
            split: evaluation.evaluate(
                run.structure, spec_of(data), state.evaluated, getattr(data, split)
            )
            for split in splits
        }
    return Single(on_host(state), Outcome(without_times(rows), scores, None))


def on_host(state):
    return jax.device_get(state._replace(key=jax.random.key_data(state.key)))


@functools.cache
def singles(case):
    return [single(run, dataset()) for run in members(case)]


@functools.cache
def of_case(case, chunk=1):
    return Population(members(case)[0], dataset(), chunk=chunk)


def outcomes(case, chunk=1, of=slice(None), splits=SPLITS):
    return list(of_case(case, chunk).outcomes(members(case)[of], splits))


def assert_close(outcome, expected, rel):
    assert outcome.error == expected.error
    rows = zip(outcome.rows, expected.rows, strict=True)
    for one, other in (*rows, *((outcome.scores[s], expected.scores[s]) for s in expected.scores)):
        known = {name for name, value in other.items() if value is not None}
        assert {name for name, value in one.items() if value is not None} == known
        some, like = ({name: row[name] for name in known} for row in (one, other))
        assert some == pytest.approx(like, rel=rel, abs=rel)


def test_a_member_is_the_single_run_bit_for_bit():
    assert outcomes("padded") == [run.outcome for run in singles("padded")]


@pytest.mark.slow
def test_a_member_is_the_single_run_bit_for_bit_with_all_optimizations():
    """Of a structure of its own, of which nothing was compiled without them."""
    own = PADDED | dict(model__hidden_sizes=(5,))
    some = [recipe(**own, seed=seed, optimizer__learning_rate=0.01 * seed) for seed in (2, 5, 6)]
    jax.config.update("jax_disable_most_optimizations", False)
    try:
        found = list(Population(some[0], dataset()).outcomes(some, SPLITS))
        assert found == [single(run, dataset()).outcome for run in some]
    finally:
        jax.config.update("jax_disable_most_optimizations", True)


def test_no_two_members_are_equal():
    """Or the tests of their order and of their numbers would show nothing."""
    for case in ("padded", "parted"):
        some = outcomes(case)
        assert len({outcome.rows[0]["loss"] for outcome in some}) == 3
        assert len({outcome.rows[0]["learning_rate"] for outcome in some}) == 3
        assert len({outcome.scores["test"]["loss"] for outcome in some}) == 3


@pytest.mark.parametrize("case, rel", [("padded", 0), ("parted", 3e-5)])
def test_the_states_are_those_of_the_single_runs(case, rel):
    some = members(case)[:2]
    trained = of_case(case).train([run.numbers for run in some], [run.seed for run in some])
    states = on_host(trained.states)
    for member, run in enumerate(singles(case)[:2]):
        own = jax.tree.map(lambda leaf, member=member: leaf[member, 0], states)
        compare = functools.partial(np.testing.assert_allclose, rtol=rel, atol=rel / 10)
        jax.tree.map(compare, own, run.state)


@pytest.mark.parametrize(
    "case, chunk",
    [
        ("padded", 2),
        ("parted", 1),
        ("stepwise", 1),
        pytest.param("parted", 2, marks=pytest.mark.slow),
        ("convolution", 1),
        pytest.param("convolution", 2, marks=pytest.mark.slow),
        pytest.param("convolution in a loop", 1, marks=pytest.mark.slow),
    ],
)
def test_otherwise_a_member_is_the_single_run_to_rounding(case, chunk):
    """By vmap, and where the compiler orders the sums of the two programs otherwise."""
    for outcome, run in zip(outcomes(case, chunk), singles(case), strict=True):
        assert_close(outcome, run.outcome, rel=3e-5)


def test_rows_are_where_the_recipe_says_and_have_no_times():
    for outcome in outcomes("padded"):
        assert [row["step"] for row in outcome.rows] == [4, 5, 8, 10, 12, 13]
        assert [row["step"] for row in outcome.rows if "val_loss" in row] == [5, 10, 13]
        assert not {"seconds", "images_per_second"} & outcome.rows[0].keys()
        assert outcome.scores.keys() == set(SPLITS) and outcome.error is None
        counts = [scores["num_examples"] for scores in outcome.scores.values()]
        assert counts == [21, 21]


def test_a_split_in_several_batches_has_the_scores_of_one_device(monkeypatch):
    monkeypatch.setattr(evaluation, "_BATCH_SIZE", 8)
    one = members("padded")[1]
    (outcome,) = Population(one, dataset()).outcomes([one], SPLITS)
    assert outcome == single(members("padded")[1], dataset()).outcome
    assert outcome.scores["validation"]["num_examples"] == 21


def test_how_many_are_trained_is_told_in_parts(monkeypatch):
    monkeypatch.setattr(Timer, "add", lambda self, *_: setattr(self, "micro_steps_a_call", 3))
    told, some = [], members("padded")[:3]
    population = of_case("padded")
    list(population.outcomes(some, (), progress=told.append))
    assert told == sorted(set(told)) and told[-1] == 3
    assert 2 in told and 0 < told[0] < 1  # two devices train two at first, and then the third


def test_calls_of_few_micro_steps_are_the_same_run(monkeypatch):
    """The log's intervals of 4 micro steps in calls of 3 and 1: the end of a call is no row."""
    monkeypatch.setattr(Timer, "add", lambda self, *_: setattr(self, "micro_steps_a_call", 3))
    some = members("padded")
    assert list(Population(some[0], dataset()).outcomes(some, SPLITS)) == outcomes("padded")


@pytest.mark.parametrize(
    "case, in_turn", [("padded", 2), pytest.param("parted", 2, marks=pytest.mark.slow)]
)
def test_members_that_are_trained_in_turn_are_the_same(case, in_turn):
    """Two devices: four at once, of whom one is there to fill up."""
    population = Population(members(case)[0], dataset(), in_turn=in_turn)
    assert population.size == 2 * in_turn
    assert list(population.outcomes(members(case), SPLITS)) == outcomes(case)


@pytest.mark.slow
def test_chunks_that_are_trained_in_turn_are_the_same_to_rounding():
    population = Population(members("padded")[0], dataset(), chunk=2, in_turn=2)
    together = list(population.outcomes(members("padded"), SPLITS))
    for outcome, expected in zip(together, outcomes("padded"), strict=True):
        assert_close(outcome, expected, rel=3e-5)


# ---- members among each other


@pytest.mark.parametrize(
    "case, chunk",
    [("padded", 1), ("padded", 2), pytest.param("convolution", 2, marks=pytest.mark.slow)],
)
def test_a_member_does_not_depend_on_those_beside_it(case, chunk):
    together = outcomes(case, chunk)
    assert outcomes(case, chunk, of=slice(None, None, -1)) == together[::-1]
    for member in range(3):
        assert outcomes(case, chunk, of=slice(member, member + 1)) == [together[member]]


def test_a_member_depends_on_its_numbers_and_its_seed_alone():
    first, second, _ = members("padded")
    other_seed = dataclasses.replace(first, seed=second.seed)
    other_numbers = dataclasses.replace(second, seed=first.seed)
    some = list(of_case("padded").outcomes([first, other_seed, other_numbers], SPLITS))
    assert some[0] == outcomes("padded")[0]
    assert some == [single(run, dataset()).outcome for run in (first, other_seed, other_numbers)]


def test_outcomes_are_there_as_soon_as_their_group_is_trained(monkeypatch):
    groups, train = [], Population.train

    def spy(self, numbers, seeds, **limits):
        groups.append(list(seeds))
        return train(self, numbers, seeds, **limits)

    monkeypatch.setattr(Population, "train", spy)
    some = of_case("padded").outcomes(members("padded"))
    next(some), next(some)
    assert groups == [list(SEEDS[:2])]
    assert next(some).scores == {}
    assert groups == [list(SEEDS[:2]), [SEEDS[2]]]
    assert list(of_case("padded").outcomes([])) == []


# ---- members that are not finite


def diverging(case="padded", **changes):
    return recipe(**CASES[case] | changes, optimizer__learning_rate=1e30, seed=5)


@pytest.mark.parametrize("case, chunk", [("padded", 1), ("padded", 2), ("parted", 1)])
def test_a_member_that_diverges_is_said_so_and_leaves_the_others_as_they_were(case, chunk):
    one, *others = members(case)
    bad = diverging(case)
    found = list(of_case(case, chunk).outcomes([one, bad, *others], SPLITS))
    expected = outcomes(case, chunk)
    assert [found[0], *found[2:]] == expected
    assert found[1].scores == {}
    assert_close(found[1], single(bad, dataset()).outcome, rel=3e-5)
    assert ("skipped 7 of 9 batches" if case == "parted" else "learning_rate 9.855e+29") in found[
        1
    ].error


def test_when_no_member_is_finite_no_more_is_trained(monkeypatch):
    calls, advance = [], Population._advance

    def spy(self, *args):
        calls.append(args[-1])
        return advance(self, *args)

    monkeypatch.setattr(Population, "_advance", spy)
    some = list(of_case("padded").outcomes([diverging()] * 2))
    assert calls[-1] == 4
    assert all("is nan at step" in outcome.error for outcome in some)


def scores_of(loss):
    return dict.fromkeys(("accuracy", "calibration_error"), 0.5) | {"loss": loss, "num_examples": 2}


@pytest.mark.parametrize("split", SPLITS)
def test_a_score_that_is_not_finite_is_an_error_of_its_member(monkeypatch, split):
    """As of `loop.train` in a row, and of `experiments.train` in the end; the row is not lost."""

    def evaluate(self, states, name):
        return [scores_of(1.0), scores_of(math.inf if name == split else 1.0)]

    monkeypatch.setattr(Population, "evaluate", evaluate)
    good, bad = of_case("padded").outcomes(members("padded")[:2], ["test"])
    name, step = ("val_loss", 5) if split == "validation" else ("test_loss", 13)
    assert bad.error == f"{name} is inf at step {step}; try a lower learning rate."
    assert bad.rows[-1]["step"] == step and bad.scores == {}
    assert ("val_loss" in bad.rows[-1]) is (split == "test")
    assert good.error is None and good.rows[-1]["val_loss"] == good.scores["test"]["loss"] == 1.0


def test_parameters_that_are_not_finite_are_an_error_of_their_member(monkeypatch):
    train = Population.train

    def with_infinity(self, *args, **options):
        trained = train(self, *args, **options)
        broken = jax.tree.map(lambda leaf: leaf.at[1].set(jnp.inf), trained.states.params)
        return trained._replace(states=trained.states._replace(params=broken))

    monkeypatch.setattr(Population, "train", with_infinity)
    good, bad = of_case("padded").outcomes(members("padded")[:2], ["test"])
    message = "the norm of the parameters is inf at step 13; try a lower learning rate."
    assert (bad.error, bad.scores, len(bad.rows)) == (message, {}, 6)
    assert good == outcomes("padded", splits=["test"])[0]


BROKEN = 7  # its image is not a number, as if the network had gone wrong there


@pytest.fixture
def unchecked(monkeypatch):
    """Such images are refused else."""
    monkeypatch.setattr(data, "problems", lambda dataset: iter(()))


@functools.cache
def broken_dataset():
    train = dataset().train
    image = train["image"].copy()
    image[BROKEN] = np.nan
    return dataset()._replace(train=train | {"image": image})


def test_batches_that_are_not_finite_are_skipped_by_each_member_for_itself(unchecked):
    some = members("parted")
    found = list(Population(some[0], broken_dataset()).outcomes(some, SPLITS))
    expected = [single(run, broken_dataset()).outcome for run in some]
    for outcome, one in zip(found, expected, strict=True):
        assert_close(outcome, one, rel=3e-5)
    skipped = [[row["skipped"] for row in outcome.rows] for outcome in found]
    assert skipped[0] != skipped[1]
    assert all(0 < each[-1] for each in skipped)


def test_a_batch_that_is_not_finite_is_named_as_by_the_single_run(unchecked):
    """And the rows before it are kept."""
    some = [dataclasses.replace(members("padded")[0], seed=seed) for seed in (0, 1, 44)]
    found = list(Population(some[0], broken_dataset()).outcomes(some, SPLITS))
    assert found == [single(run, broken_dataset()).outcome for run in some]
    order = {"batch_size": BATCH, "start": 0, "stop": 5, "remainder": "pad"}
    steps = [
        int(np.argmax((shuffled(TRAIN, seed=run.seed, **order)["index"] == BROKEN).any(1)))
        for run in some
    ]
    assert steps == [3, 1, 4]  # of which the last one is after a row
    for step, outcome in zip(steps, found, strict=True):
        assert len(outcome.rows) == (step == 4)
        assert outcome.error.startswith(f"loss is nan at step {step}, with ")
        assert ", optimizer.learning_rate 0.0" in outcome.error


# ---- compilations


@pytest.mark.parametrize("case, chunk", [("padded", 1), ("padded", 2), ("stepwise", 1)])
def test_nothing_compiles_for_other_numbers_seeds_or_groups(case, chunk, count_compilations):
    outcomes(case, chunk)
    first = members(case)[0]
    numbers = {name: Knob(*(0.7 * part for part in knob)) for name, knob in first.numbers.items()}
    numbers = {name: knob._replace(factor=2.0) for name, knob in numbers.items()}
    others = [
        dataclasses.replace(first, numbers=first.numbers | numbers, seed=seed) for seed in range(7)
    ]
    others = [dataclasses.replace(run, log_every=run.duration) for run in others]
    with count_compilations() as compilations:
        again = outcomes(case, chunk, of=slice(2))
        some = list(Population(others[0], dataset(), chunk=chunk).outcomes(others, SPLITS))
        of_case(case, chunk).seconds_a_member()
    # The capacity of a selection is the longest interval, which is another here: a shape.
    assert len(compilations) == (case == "padded")
    assert again == outcomes(case, chunk)[:2] and len(some) == 7


def test_each_program_is_compiled_once_before_the_first_member(monkeypatch, count_compilations):
    """Four: first states, steps, scores of the splits, which are of one size, norms at the end."""
    outcomes("padded")  # copies are compiled whatever ran before
    forget_programs(monkeypatch)
    fresh = Population(members("padded")[0], dataset())
    with count_compilations() as compilations:
        fresh._compile(SPLITS)
    assert len(compilations) == 4
    with count_compilations() as compilations:
        list(fresh.outcomes(members("padded"), SPLITS))
    assert compilations == []


# ---- what is no member


@pytest.mark.parametrize(
    "changes, is_member",
    [
        (dict(seed=9), True),
        (dict(optimizer__learning_rate=0.7), True),
        (dict(ema_decay=cyclical(0.9, 0.1, factor=4)), True),
        (dict(ema_decay=None), False),
        (dict(loss__temperature=1.0), False),  # its curve is another
        (dict(loss__gradient_norm=None), False),
        (dict(model__hidden_sizes=(7,)), False),
        (dict(batch_size=26), False),
        (dict(duration="14 steps"), False),
        (dict(log_every="3 steps"), False),
        (dict(validate_every="4 steps"), False),
        (dict(loop="stepwise"), False),
        (dict(train_on="train+validation"), False),
    ],
)
def test_members_differ_in_numbers_and_seed_alone(changes, is_member):
    one, other = recipe(**PADDED), recipe(**PADDED | changes)
    assert population.is_alike(one, other) is population.is_alike(other, one) is is_member
    if not is_member:
        # Before anything is trained, though the first one is right.
        with pytest.raises(
            RecipeError, match="^The recipes of a population must differ only in numbers"
        ):
            next(of_case("padded").outcomes([one, other]))


def test_data_that_would_be_streamed_is_refused(monkeypatch):
    message = (
        "^loop is 'streamed' for digits, by the config or because of its size, .* 'resident' or 's"
    )
    with pytest.raises(RecipeError, match=message):
        Population(recipe(loop="streamed"), dataset())
    monkeypatch.setattr(population, "way_of", lambda *args: "streamed")
    with pytest.raises(RecipeError, match=message):
        Population(recipe(), dataset())


def test_what_cannot_be_trained_on_one_device_is_refused():
    with pytest.raises(RecipeError, match="^batch_size 54 is more than the 53 training examples.$"):
        Population(recipe(batch_size=54), dataset())
    assert Population(recipe(batch_size=53), dataset()).timetable.micro_steps == 2


@pytest.mark.parametrize("chunk", [1, 3])
def test_the_size_is_of_all_devices(chunk):
    assert Population(recipe(), dataset(), chunk=chunk).size == 2 * chunk


@pytest.mark.parametrize("num_numbers, num_seeds", [(3, 3), (2, 3), (0, 0)])
def test_members_that_are_too_many_or_none_are_no_call(num_numbers, num_seeds):
    numbers = [members("padded")[0].numbers] * num_numbers
    with pytest.raises((ValueError, IndexError)):
        of_case("padded").train(numbers, list(range(num_seeds)))


@pytest.mark.parametrize("num_numbers, num_seeds", [(1, 2), (2, 1)])
def test_as_many_seeds_as_numbers_are_wanted(num_numbers, num_seeds):
    numbers = [members("padded")[0].numbers] * num_numbers
    with pytest.raises(ValueError, match="`seeds` must be as many as `numbers`"):
        of_case("padded").train(numbers, list(range(num_seeds)), stop=4)


# ---- without validation; parts of runs; time


def test_without_validation_there_are_no_such_scores():
    """As of train_on="train+validation"."""
    some = [dataclasses.replace(run, train_on="train+validation") for run in members("padded")]
    empty = {name: array[:0] for name, array in dataset().validation.items()}
    unvalidated = dataset()._replace(validation=empty)
    mine = Population(some[0], unvalidated)
    found = list(mine.outcomes(some, ["test"]))
    assert found == [single(run, unvalidated, ["test"]).outcome for run in some]
    assert not any("val_loss" in row for outcome in found for row in outcome.rows)
    assert mine.seconds_a_member() > 0


@pytest.mark.parametrize("stop, rows", [(1, 0), (4, 1), (7, 2), (13, 6)])
def test_training_stops_where_it_is_told(stop, rows):
    some = members("padded")[:2]
    trained = of_case("padded").train(
        [run.numbers for run in some], [run.seed for run in some], stop=stop
    )
    assert trained.states.micro_step.tolist() == [[stop], [stop]]
    assert trained.rows == [outcome.rows[:rows] for outcome in outcomes("padded")[:2]]
    assert trained.errors == [None, None]


def test_a_stop_beyond_the_end_is_the_end(monkeypatch):
    expected = [outcomes("padded")[0].rows]  # first: the spy counts calls
    calls, advance = [], Population._advance

    def spy(self, *args):
        calls.append(args)
        assert len(calls) < 20
        return advance(self, *args)

    monkeypatch.setattr(Population, "_advance", spy)
    run = members("padded")[0]
    trained = of_case("padded").train([run.numbers], [run.seed], stop=14)
    assert trained.rows == expected


@pytest.mark.parametrize("case, chunk", [("padded", 2), ("stepwise", 1)])
def test_measuring_time_changes_nothing(case, chunk):
    fresh = Population(members(case)[0], dataset(), chunk=chunk)
    assert fresh.seconds_a_member() > 0
    assert list(fresh.outcomes(members(case), SPLITS)) == outcomes(case, chunk)


def test_seconds_a_member_are_those_of_the_whole_run_shared_by_all(monkeypatch):
    """A micro step takes 0.01 s, by a clock that is turned by hand."""
    now, stops = [0.0], []

    def train(self, numbers, seeds, *, stop, watch):
        assert not watch
        now[0] += 5.0 if not stops else 0.01 * stop  # the first call compiles
        stops.append((len(numbers), len(set(seeds)), stop))
        return population.Members(None, [], [])

    monkeypatch.setattr(Population, "train", train)
    monkeypatch.setattr(Population, "evaluate", lambda *args: [])
    monkeypatch.setattr(population.time, "perf_counter", lambda: now[0])
    long, short = (recipe(duration=length) for length in ("1000 steps", "11 steps"))
    assert Population(long, dataset(), chunk=2).seconds_a_member() == pytest.approx(10 / 4)
    assert stops == [(4, 4, stop) for stop in (1, 4, 16, 64)]
    stops.clear()
    assert Population(short, dataset()).seconds_a_member() == pytest.approx(0.11 / 2)
    assert stops == [(2, 2, stop) for stop in (1, 4, 11)]


# ---- the chunk


@pytest.fixture
def measured(monkeypatch):
    """`best_chunk` off the CPU, where a member takes the seconds given by chunk; and what it tried.

    A chunk that has none does not fit in memory.
    """

    def measured(seconds, num_members):
        tried = []

        class Timed:
            def __init__(self, recipe, dataset, *, earlier, chunk):
                tried.append(chunk)

            def seconds_a_member(self):
                if tried[-1] not in seconds:
                    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
                return seconds[tried[-1]]

        monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
        monkeypatch.setattr(population, "Population", Timed)
        return population.best_chunk(recipe(), dataset(), num_members=num_members), tried

    return measured


@pytest.mark.parametrize(
    "seconds, num_members, best, tried",
    [
        ([9, 3, 1, 2, 4], 512, 16, [1, 4, 16, 64, 256]),
        ([9, 3, 1, 2, 4], 511, 16, [1, 4, 16, 64, 256]),  # of which the last lacks one
        ([9, 3, 1, 0.5, 4], 127, 64, [1, 4, 16, 64]),
        ([9, 3, 1], 63, 16, [1, 4, 16]),
        ([9, 3, 1, 2, 4], 6, 1, [1]),
        ([9, 3, 1, 2, 4], 7, 4, [1, 4]),
        ([9, 3, 1, 2, 4], 1, 1, [1]),
        ([1, 2, 3, 4, 5], 512, 1, [1, 4, 16, 64, 256]),
        ([2, 3, 1], 512, 16, [1, 4, 16, 64]),  # the fourth does not fit in memory
        ([], 512, 1, [1]),
    ],
)
def test_the_best_chunk_is_the_fastest_that_can_be_filled(
    measured, seconds, num_members, best, tried
):
    """On two devices."""
    by_chunk = dict(zip((1, 4, 16, 64, 256), seconds, strict=False))
    assert measured(by_chunk, num_members) == (best, tried)


def test_on_a_cpu_the_chunk_is_one_unmeasured(monkeypatch):
    monkeypatch.delattr(population, "Population")
    assert population.best_chunk(recipe(), dataset(), num_members=1000) == 1


def test_a_split_without_examples_is_told_before_training(monkeypatch):
    population = Population(recipe(), dataset(num_validation=0))
    monkeypatch.setattr(population, "train", pytest.fail)
    with pytest.raises(RecipeError, match="there is no validation split of digits to judge by"):
        next(population.outcomes([recipe()], ["validation"]))


def test_time_is_measured_to_the_end_whether_or_not_members_diverge(monkeypatch):
    """Of the recipe's own numbers; one that ended early would seem to be fast."""
    run, stops = diverging(), []
    population = Population(run, dataset())
    train = population.train

    def recorded(numbers, seeds, *, stop, watch):
        assert numbers == [run.numbers] * population.size
        trained = train(numbers, seeds, stop=stop, watch=watch)
        assert trained.states.micro_step.tolist() == [[stop]] * population.size
        assert trained.errors == [None] * population.size and not any(trained.rows)
        stops.append(stop)
        return trained

    monkeypatch.setattr(population, "train", recorded)
    assert population.seconds_a_member() > 0 and len(stops) > 1
