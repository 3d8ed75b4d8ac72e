"""Runs are trained once, kept as they end, and found again."""

import contextlib
import dataclasses
import fcntl
import json
import os
import random
import resource
import shutil
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from cyclical_jax import _files
from cyclical_jax.catalogue import parse, with_plugins
from cyclical_jax.training import files, inputs
from cyclical_jax.training.fields import RecipeError
from cyclical_jax.training.files import WorkdirError
from cyclical_jax.training.population import Outcome, Population
from cyclical_jax.training.recipe import cyclical
from experiments import records, runs
from experiments.arms import Arm, base_config, recipe_of

SMALL = {"model.hidden_sizes": (4,), "duration": "3 steps", "batch_size": 32}
VALIDATION = ("validation",)
NO_SCORE = {"perplexity": None}


def recipe(seed=0, **changes):
    changes = {name.replace("__", "."): value for name, value in changes.items()}
    return recipe_of(base_config("digits", common=SMALL), Arm(changes), {}, seed)


@pytest.fixture
def open_lab(tmp_path):
    """A lab on the workdir of the test; one that is open already is closed before."""
    stores = []

    def call(**options):
        for store in stores:
            store.__exit__()
        stores.append(runs.Store(tmp_path, **options))
        return runs.Lab(stores[-1])

    yield call
    stores[-1].__exit__()


def lines_of(tmp_path):
    return [json.loads(line) for line in (tmp_path / runs.RUNS).read_text().splitlines()]


def test_runs_are_trained_once_and_come_in_order(open_lab, tmp_path, count_compilations):
    recipes = [recipe(seed) for seed in (3, 0, 3)] + [recipe(1, optimizer__max_norm=1.0)]
    lab = open_lab()
    assert not lab.has(recipes, VALIDATION)
    outcomes = list(lab.complete(recipes, VALIDATION))
    assert outcomes[0] == outcomes[2] != outcomes[1]
    assert [line["seed"] for line in lines_of(tmp_path)] == [3, 0, 1]
    assert all(set(line["scores"]) == {"validation"} for line in lines_of(tmp_path))
    with count_compilations() as compilations:
        again = open_lab()
        assert again.has(recipes, VALIDATION) and again.seconds_left(recipes, VALIDATION) == 0
        assert list(again.complete(recipes, VALIDATION)) == outcomes
    assert not compilations and len(lines_of(tmp_path)) == 3
    assert not again.has(recipes, ("test",))  # what was not read is not there


def test_few_runs_are_no_members_of_a_population_for_many(open_lab, monkeypatch, fast_compilation):
    """A table tunes with many runs of a structure, and then makes few."""
    sizes, train = [], Population.train
    prepared, prepare = [], runs.prepare

    def trained(self, numbers, seeds, **options):
        sizes.append((self.size, len(seeds)))
        return train(self, numbers, seeds, **options)

    monkeypatch.setattr(Population, "train", trained)
    monkeypatch.setattr(runs, "prepare", lambda *of: prepared.append(of) or prepare(*of))
    lab = open_lab()
    for number, splits in ((6, VALIDATION), (2, ("test",)), (8, VALIDATION)):
        lab.complete([recipe(seed) for seed in range(number)], splits)
    assert sizes == [(6, 6), (2, 2), (2, 2)] and len(prepared) == 1


def test_what_was_cut_off_is_trained_again(open_lab, tmp_path):
    recipes = [recipe(seed) for seed in range(4)]
    lab = open_lab()
    outcomes = list(lab.complete(recipes, VALIDATION))
    path = tmp_path / runs.RUNS
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.rindex(b"\n", 0, -1) - 10])  # a kill in the third line
    lab = open_lab()
    assert len(lines_of(tmp_path)) == 2
    assert list(lab.complete(recipes, VALIDATION)) == outcomes
    assert path.read_bytes() == whole


def test_an_earlier_run_that_is_saved_while_runs_are_trained_is_told(open_lab, monkeypatch):
    saved = []
    for module in (runs, inputs):
        monkeypatch.setattr(module, "identities", lambda _: {"start": f"checkpoint {len(saved)}"})
    add = runs.Store.add
    monkeypatch.setattr(runs.Store, "add", lambda *given: (add(*given), saved.append(given)))
    lab, recipes = open_lab(), [recipe(0), recipe(0, optimizer__max_norm=1.0)]
    assert [outcome.error for outcome in lab.complete(recipes[:1], VALIDATION)] == [None]
    assert not lab.has(recipes[:1], VALIDATION)  # it was made from another checkpoint
    with pytest.raises(RecipeError, match="an earlier run .* has changed meanwhile"):
        lab.complete(recipes, VALIDATION)
    assert len(saved) == 2  # nothing was trained under the key of another checkpoint


def test_a_run_that_is_not_finite_is_kept_as_such(open_lab, tmp_path):
    wild = recipe(optimizer__learning_rate=1e30, log_every="1 step")
    outcomes = list(open_lab().complete([wild, recipe()], VALIDATION))
    assert outcomes[0].scores == {} and "learning_rate" in outcomes[0].error
    assert outcomes[1].error is None and np.isfinite(outcomes[1].scores["validation"]["loss"])
    assert json.loads((tmp_path / runs.RUNS).read_text().splitlines()[0])["error"]


def test_a_score_that_is_not_finite_is_kept_as_none(tmp_path):
    rows = [{"step": 3, "epoch": 0.5, "val_loss": 2.0, "val_perplexity": float("inf")}]
    scores = {"validation": {"loss": 2.0, "perplexity": float("nan")}}
    expected = (
        [rows[0] | {"val_perplexity": None}],
        {"validation": {"loss": 2.0} | NO_SCORE},
        None,
    )
    with runs.Store(tmp_path) as store:
        store.add("key", recipe(), Outcome(rows, scores, None))
        assert store["key"] == expected
    with runs.Store(tmp_path) as store:
        assert store["key"] == expected


def test_the_time_is_told_before(open_lab):
    seconds = open_lab().seconds_left([recipe(seed) for seed in range(3)], VALIDATION)
    assert 0 < seconds < 60


def test_keys_tell_runs_apart_by_what_changes_them():
    moved = dataclasses.replace(recipe(), data_dir="/x")
    same = [recipe(), moved, recipe(loop="stepwise")]
    assert len({runs.run_key(each, VALIDATION) for each in same}) == 1
    others = [recipe(), recipe(1), recipe(optimizer__momentum=0.5), recipe(duration="4 steps")]
    assert len({runs.run_key(each, VALIDATION) for each in others}) == 4
    assert runs.run_key(recipe(), ("test",)) != runs.run_key(recipe(), VALIDATION)


def test_keys_tell_tasks_techniques_and_files_apart(tmp_path):
    changes = [{}, {"task__name": "multilabel"}, {"loss__class_weights": "balanced"}]
    changes += [{"ema_decay": 0.9}, {"running_curriculum__preference": 4}, {"optimizer__b1": 0.9}]
    changes += [{"optimizer__warmup": "1 step"}, {"loss__gradient_norm": "cross_entropy"}]
    keys = [runs.run_key(recipe(**each), VALIDATION) for each in changes]
    assert (
        len({*keys}) == len(keys) - 1 and keys[0] == keys[5]
    )  # what is not read is at its default
    plugin, keys = tmp_path / "mine.py", []
    for factor in (2, 3, 2):
        plugin.write_text(f"LOSSES = {{'mine': lambda logits, labels: {factor} * logits[:, 0]}}")
        base = base_config("digits", common=SMALL | {"loss.name": "mine"})
        keys.append(runs.run_key(parse(base, catalogue=with_plugins([plugin])), VALIDATION))
    assert keys[0] == keys[2] != keys[1]


def test_a_family_differs_in_numbers_and_seeds_alone():
    some = {"plain": recipe(), "seed": recipe(3), "momentum": recipe(optimizer__momentum=0.5)}
    some |= {"clip": recipe(optimizer__max_norm=1.0), "longer": recipe(duration="4 steps")}
    some |= {"other clip": recipe(5, optimizer__max_norm=cyclical(1, 2))}
    found = [list(family) for family in runs.families(some).values()]
    assert found == [["plain", "seed", "momentum"], ["clip", "other clip"], ["longer"]]


def test_runs_of_another_version_are_refused_unless_told(open_lab, monkeypatch):
    lab = open_lab()
    lab.complete([recipe()], VALIDATION)
    monkeypatch.setattr(runs, "version", lambda: "cyclical_jax of tomorrow")
    with pytest.raises(WorkdirError, match="another version.*tomorrow.*--mix_versions"):
        open_lab()
    assert open_lab(mix=True).has([recipe()], VALIDATION)


def test_a_workdir_that_cannot_be_used(tmp_path, open_lab):
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkdirError, match="cannot be written"):
        runs.Store(tmp_path / "file")
    open_lab()
    with pytest.raises(WorkdirError, match="another process"):
        runs.Store(tmp_path)


def test_a_damaged_file_is_left_alone(tmp_path):
    (tmp_path / runs.RUNS).write_text("{}}\n")
    with pytest.raises(WorkdirError, match="line 1, is damaged.*Delete the line"):
        runs.Store(tmp_path)


def test_the_version_changes_with_the_code_and_not_with_its_comments(tmp_path):
    path = tmp_path / "module.py"
    codes = []
    for text in ('"""A."""\nx = 1  # one\n', "x = 1\n", '"""B."""\n\nx = 1\n', "x = 2\n"):
        path.write_text(text)
        codes.append(runs._code(path, tmp_path))
    assert codes[0] == codes[1] == codes[2] != codes[3]


@pytest.mark.parametrize(
    "seconds, words", [(0.4, "400 ms"), (99, "99 s"), (150, "2 min"), (3900, "1 h 5 min")]
)
def test_durations_in_words(seconds, words):
    assert runs.duration(seconds) == words


DAMAGE = [b"{", b"[]", b"3", b"\xff\x00", b"", b'{"key": "x", "version": "1", "rows": []}']


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_line_is_told_by_its_number(open_lab, tmp_path, damage):
    recipes = [recipe(0)]
    open_lab().complete(recipes, VALIDATION)
    path = tmp_path / runs.RUNS
    whole = path.read_bytes()
    path.write_bytes(whole + damage + b"\n" + whole)
    with pytest.raises(WorkdirError) as error:
        open_lab()
    (line,) = str(error.value).splitlines()
    assert line.startswith(f"{path}, line 2, is damaged: ") and line.endswith(
        ". Delete the line, and its run is trained again."
    )
    assert path.read_bytes() == whole + damage + b"\n" + whole
    path.write_bytes(whole)
    assert open_lab().has(recipes, VALIDATION)


@pytest.mark.parametrize("left", [0, 1, -2, -1])
def test_wherever_the_last_line_was_cut_off_it_is_made_again(open_lab, tmp_path, left):
    recipes = [recipe(seed) for seed in range(2)]
    open_lab().complete(recipes, VALIDATION)
    path = tmp_path / runs.RUNS
    whole = path.read_bytes()
    start = whole.rindex(b"\n", 0, -1) + 1
    path.write_bytes(whole[: left if left < 0 else start + left])
    lab = open_lab()
    assert path.read_bytes() == whole[:start]
    assert lab.has(recipes[:1], VALIDATION) and not lab.has(recipes, VALIDATION)


# ---- a damaged file

ROW = {"step": 3, "epoch": 0.5, "loss": 1.5, "accuracy": None}
LINE = {"key": "x", "version": "1", "dataset": "digits", "seed": 2, "rows": [ROW, ROW]}
LINE |= {"scores": {"test": {"loss": 0.5, "accuracy": 0.25}}, "error": None}
OTHER_SHAPES = [
    ("key", 3, "'key' is 3, not text"),
    ("seed", 1.5, "'seed' is 1.5, not a whole number"),
    ("rows", {}, "'rows' is an object, not a list"),
    ("rows", [ROW, {"epoch": 1}], "entry 1 of 'rows' has no 'step'"),
    ("rows", [ROW | {"loss": "low"}], "'loss' of entry 0 of 'rows' is \"low\", not a number"),
    ("scores", [], "'scores' is a list, not an object"),
    ("scores", {"test": {"accuracy": 1}}, "'test' of 'scores' has no 'loss'"),
    ("scores", {"test": {"loss": [1]}}, "'loss' of 'test' of 'scores' is a list, not a number"),
    ("error", False, "'error' is false, not text"),
]


def test_a_line_of_an_earlier_version_has_no_checksum_and_is_read(tmp_path):
    (tmp_path / runs.RUNS).write_text(json.dumps(LINE) + "\n")
    with runs.Store(tmp_path, mix=True) as store:
        assert store["x"] == (LINE["rows"], LINE["scores"], None)


@pytest.mark.parametrize("key, other, words", OTHER_SHAPES)
def test_a_line_of_another_shape_is_told(tmp_path, key, other, words):
    path = tmp_path / runs.RUNS
    path.write_text(json.dumps(LINE) + "\n" + json.dumps(LINE | {key: other}) + "\n")
    with pytest.raises(WorkdirError) as error:
        runs.Store(tmp_path, mix=True)
    remedy = "Delete the line, and its run is trained again."
    assert str(error.value) == f"{path}, line 2, is damaged: {words}. {remedy}"


def test_a_run_without_the_scores_that_are_asked_for_is_told(tmp_path):
    with runs.Store(tmp_path) as store:
        store.add(
            runs.run_key(recipe(), ("test",)), recipe(), Outcome([], {"test": {"loss": 1}}, None)
        )
        with pytest.raises(
            WorkdirError, match=r"^the run \w+ in runs.jsonl has no accuracy on test"
        ):
            list(runs.Lab(store).complete([recipe()], ("test",)))


def test_a_line_that_is_too_long_is_told_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "_LONGEST", 1000)
    path = tmp_path / runs.RUNS
    path.write_text(json.dumps(LINE) + "\n" + "x" * 2000)
    with pytest.raises(WorkdirError, match="line 2, is damaged: it has more than 0 MB"):
        runs.Store(tmp_path, mix=True)
    assert path.stat().st_size > 2000


def test_a_flipped_bit_is_told_or_its_run_is_trained_again(tmp_path):
    path, generator = tmp_path / runs.RUNS, random.Random(0)
    outcome, told = Outcome([ROW, ROW], LINE["scores"], None), 0
    with runs.Store(tmp_path) as store:
        for key in ("one", "two"):
            store.add(key, recipe(), outcome)
    whole = path.read_bytes()
    bits = [
        *generator.sample(range(8 * len(whole)), 200),
        *range(8 * len(whole) - 8, 8 * len(whole)),
    ]
    for bit in bits:
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            with runs.Store(tmp_path) as store:
                assert store["one"] == outcome
                assert bit // 8 == len(whole) - 1 and "two" not in store  # as if it was cut off
        except WorkdirError as error:
            told += 1
            assert f"{path}, line " in str(error) and len(str(error).splitlines()) == 1
    assert told == 200 + 8 - 8


def test_a_command_that_is_refused_changes_nothing(tmp_path):
    path = tmp_path / runs.RUNS
    path.write_text(whole := json.dumps(LINE) + '\n{"key": "y", "ver')
    with pytest.raises(WorkdirError, match="another version"):
        runs.Store(tmp_path)
    assert path.read_text() == whole
    runs.Store(tmp_path, mix=True).__exit__()
    assert lines_of(tmp_path) == [LINE]


def content_of(path):
    return path.read_bytes() if path.exists() else None


def test_an_outcome_is_on_the_disk_when_it_is_added(tmp_path, monkeypatch):
    synced, path = [], tmp_path / runs.RUNS
    monkeypatch.setattr(runs.os, "fsync", lambda file: synced.append(content_of(path)))
    with runs.Store(tmp_path) as store:
        before = len(synced)
        assert synced[-1] == b""  # the name of the file
        store.add("key", recipe(), Outcome([ROW], LINE["scores"], None))
    (content,) = synced[before:]
    assert content == path.read_bytes() and content.endswith(b"}\n")


def test_the_rows_of_runs_stay_on_the_disk(tmp_path):
    of_each = LINE | {"version": runs.version(), "rows": 50 * [ROW]}
    lines = [_files.as_line(of_each | {"key": str(number)}) for number in range(100)]
    (tmp_path / runs.RUNS).write_text("".join(lines))
    tracemalloc.start()
    try:
        with runs.Store(tmp_path) as store:
            held, most = tracemalloc.get_traced_memory()
            assert len(store["99"].rows) == 50
    finally:
        tracemalloc.stop()
    assert held < 50_000 and most < 200_000  # bytes; all rows are 2 MB


# ---- at each moment between looking and locking


def test_a_workdir_that_is_moved_before_its_lock_is_opened_anew(tmp_path, monkeypatch):
    """Somebody moves it, and another table begins at its place and has that place's lock."""
    here, there, others, flock = tmp_path / "a", tmp_path / "b", [], fcntl.flock
    monkeypatch.setattr(fcntl, "flock", lambda *arguments: moved() or flock(*arguments))

    def moved():
        monkeypatch.setattr(fcntl, "flock", flock)
        here.rename(there)
        others.append(runs.Store(here))

    with pytest.raises(WorkdirError, match="another process writes to "):
        runs.Store(here)
    others[0].__exit__()
    with runs.Store(here):  # the lock of the first is no longer held
        assert (there / runs.RUNS).read_bytes() == b""


def test_a_workdir_that_is_removed_before_its_lock_is_made_anew(tmp_path, monkeypatch):
    here, flock = tmp_path / "a", fcntl.flock

    def removed(*arguments):
        monkeypatch.setattr(fcntl, "flock", flock)
        shutil.rmtree(here)
        return flock(*arguments)

    monkeypatch.setattr(fcntl, "flock", removed)
    with runs.Store(here) as store:
        store.add("key", recipe(), Outcome([ROW], LINE["scores"], None))
    assert len(lines_of(here)) == 1


def test_a_workdir_that_is_moved_while_runs_are_trained_is_told_and_loses_none(tmp_path):
    here, there = tmp_path / "a", tmp_path / "b"
    outcome = Outcome([ROW], LINE["scores"], None)
    with runs.Store(here) as store:
        store.add("one", recipe(), outcome)
        here.rename(there)
        with runs.Store(here), pytest.raises(WorkdirError, match="a/runs.jsonl was moved or remov"):
            store.add("two", recipe(), outcome)  # another table is at the place
        with pytest.raises(WorkdirError, match="a/runs.jsonl was moved"):
            store.check_place()
    assert lines_of(here) == []
    with runs.Store(there) as store:
        assert store["one"] == store["two"] == outcome


def test_a_file_that_another_program_changes_is_told(tmp_path):
    with runs.Store(tmp_path) as store:
        for key in ("one", "two"):
            store.add(key, recipe(), Outcome([ROW], LINE["scores"], None))
        path = tmp_path / runs.RUNS
        path.write_bytes(path.read_bytes().replace(b'"two"', b'"six"'))
        with pytest.raises(WorkdirError, match="line 2, is damaged: its checksum does not fit"):
            store["two"]
        path.write_bytes(b"")
        with pytest.raises(WorkdirError, match="was changed while it was in use"):
            store["one"]


def test_a_disk_that_is_full_is_a_line_and_what_was_written_of_it_is_removed(tmp_path):
    path, outcome = tmp_path / runs.RUNS, Outcome([ROW], LINE["scores"], None)
    with runs.Store(tmp_path) as store:
        store.add("one", recipe(), outcome)
    whole, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 100, limits[1]))
    try:
        with pytest.raises(WorkdirError) as error, runs.Store(tmp_path) as store:
            store.add("two", recipe(), outcome)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(error.value) == f"{path} cannot be written: File too large."
    assert len(path.read_bytes()) == len(whole) + 100
    with runs.Store(tmp_path) as store:
        assert store["one"] == outcome and "two" not in store
    assert path.read_bytes() == whole


@pytest.fixture
def another_user():
    """Returns a context in which this process is a user to whom nothing of the test belongs."""
    if os.geteuid():
        pytest.skip("only root can be another user")

    @contextlib.contextmanager
    def call():
        os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(0)

    return call


@pytest.fixture
def public():
    """A folder that all users may read; those above `tmp_path` are closed."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


def test_files_of_another_user_are_a_line(public, another_user):
    runs.Store(public / "private").__exit__()
    (public / "private" / runs.RUNS).chmod(0o600)
    (public / "table.json").touch(0o600)
    (public / "closed").mkdir(0o700)
    denied = "Permission denied."
    cases = {
        f"--workdir {public}/new cannot be written: {denied}": lambda: runs.Store(public / "new"),
        f"--workdir {public}/private cannot be written: {denied}": lambda: runs.Store(
            public / "private"
        ),
        f"--workdir {public}/closed/in cannot be written: {denied}": lambda: runs.Store(
            public / "closed" / "in"
        ),
        f"{public}/table.json cannot be read: {denied}": lambda: records.read(
            public / "table.json"
        ),
        f"{public}/table.json cannot be written: {denied}": lambda: files.write(
            public / "table.json", {}
        ),
    }
    for line, call in cases.items():
        with pytest.raises(WorkdirError) as error, another_user():
            call()
        assert str(error.value) == line
