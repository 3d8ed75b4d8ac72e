"""A table from its command: the files, what they say, and that the same command says it again."""

import json
import random
import shutil
import time

import pytest

from cyclical_jax import _files
from cyclical_jax.training.files import WorkdirError
from experiments import runs
from tests import commands
from tests.helpers import stored

DIGITS = f"--config={commands.ROOT}/configs/digits.py"
TABLE = """
from cyclical_jax.training.recipe import cyclical
from experiments.arms import Arm, Budget, Choice, Range, Table

rate = {"optimizer.learning_rate": Range(0.02, 0.5)}
TABLE = Table(
    about="Small.",
    common={"duration": "3 epochs", "validate_every": "2 epochs", "model.hidden_sizes": (8,)},
    arms={
        "none": Arm(search=rate),
        "cyclical": Arm(
            {"model.dropout": 0.1},
            search=rate | {"optimizer.max_norm": Choice((cyclical(0.1, 0.9), cyclical(1, 2)))},
            control="none",
        ),
        "wild": Arm({"optimizer.learning_rate": 1e30}, control="none"),
    },
    budgets={"digits": Budget(num_seeds=3, num_trials=4, seeds_a_trial=2)},
)
"""
FILES = ("small.json", "small.md", "small.png")


def called(call, directory, script, *arguments):
    """In a directory with `small.py`, as a user of the installed project does."""
    directory.mkdir(exist_ok=True)
    (directory / "small.py").write_text(TABLE)
    return call(script, *arguments, cwd=directory, PYTHONPATH=str(commands.ROOT))


def run(*arguments):
    return called(commands.in_a_process, *arguments)


def here(*arguments):
    """Where nothing is said of the process itself, its devices or its bits."""
    return called(commands.in_this_process, *arguments)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    directory = tmp_path_factory.mktemp("finished")
    code, out, err = run(directory, "table", "--table=small.py", "--workdir=out")
    assert (code, err) == (0, ""), err
    return directory, out


@pytest.fixture(scope="module")
def arms(finished):
    return json.loads((finished[0] / "out/small.json").read_text())["datasets"]["digits"]["arms"]


def lines_of(directory):
    return (directory / "out/runs.jsonl").read_text().splitlines()


def test_the_time_is_told_first_and_three_files_are_left(finished):
    directory, out = finished
    assert out.startswith("9 runs, after 16 runs to tune them; about ")
    assert out.splitlines()[-3:] == [f"out/{name}" for name in FILES]
    assert all((directory / "out" / name).stat().st_size > 100 for name in FILES)


def test_every_arm_has_its_trials_seeds_and_scores(arms):
    assert arms["none"]["tuning"]["seeds"] == arms["cyclical"]["tuning"]["seeds"]
    assert [len(arms[name]["tuning"]["trials"]) for name in ("none", "cyclical")] == [4, 4]
    assert arms["wild"]["tuning"] is None
    assert not {0, 1, 2} & set(arms["none"]["tuning"]["seeds"])
    for name in ("none", "cyclical"):
        assert arms[name]["seeds"] == [0, 1, 2]
        assert all(0.2 < accuracy <= 1 for accuracy in arms[name]["test"]["accuracy"])
        tuning = arms[name]["tuning"]
        means = [sum(trial["val_accuracy"]) for trial in tuning["trials"]]
        assert means[tuning["chosen"]] == max(means)
        chosen = tuning["trials"][tuning["chosen"]]["values"]
        assert chosen.items() <= arms[name]["changes"].items()


def test_the_record_says_how_its_scores_are_read(finished, arms):
    digits = json.loads((finished[0] / "out/small.json").read_text())["datasets"]["digits"]
    assert digits["judged_by"] == {"name": "accuracy", "best": "max"}
    assert digits["percent"] == ["accuracy", "calibration_error"]
    assert list(arms["none"]["test"]) == ["accuracy", "loss", "calibration_error"]
    measured = {"loss", "grad_norm", "accuracy", "val_loss", "val_accuracy"}
    assert set(arms["none"]["curves"]) == {"step", "epoch"} | measured


def test_curves_and_knobs_are_those_of_the_rows(arms):
    cyclical = arms["cyclical"]
    assert cyclical["curves"]["epoch"] == [1, 2, 3]
    assert [mean is None for mean in cyclical["curves"]["val_accuracy"]["mean"]] == [
        True,
        False,
        False,
    ]
    assert cyclical["knobs"]["max_norm"][-1] == cyclical["changes"]["optimizer.max_norm"]["easy"]
    assert "max_norm" not in arms["none"]["knobs"]


def test_an_arm_that_is_not_finite_does_not_stop_the_others(arms):
    wild = arms["wild"]
    assert wild["test"]["accuracy"] == [None, None, None] and wild["curves"]["step"] == []
    assert wild["comparison"]["n"] == 0 and wild["comparison"]["p"] is None
    assert arms["cyclical"]["comparison"]["n"] == 3


def test_test_is_read_for_the_runs_of_the_table_alone(finished):
    lines = [json.loads(line) for line in lines_of(finished[0])]
    assert len(lines) == 25
    for line in lines:
        expected = ["test"] if line["seed"] < 1000 else ["validation"]
        assert list(line["scores"]) == expected or line["error"]


def test_a_run_is_that_of_the_train_script(arms, tmp_path):
    changes = arms["cyclical"]["changes"]
    cycle = changes.pop("optimizer.max_norm")
    code, _, err = run(
        tmp_path / "a",
        "train",
        DIGITS,
        "--config.duration=3 epochs",
        "--config.model.hidden_sizes=(8,)",
        "--config.seed=2",
        f"--config.optimizer.max_norm=cyclical({cycle['easy']}, {cycle['hard']})",
        *(f"--config.{key}={value}" for key, value in changes.items()),
        "--workdir=run",
    )
    assert code == 0, err
    result = stored(tmp_path / "a/run/result.json")
    ours = {name: values[2] for name, values in arms["cyclical"]["test"].items()}
    assert ours == {name: result[f"test_{name}"] for name in ours}


def test_a_second_run_finds_everything_and_says_the_same(finished):
    directory, _ = finished
    before = {name: (directory / "out" / name).read_bytes() for name in (*FILES, "runs.jsonl")}
    code, out, err = run(directory, "table", "--table=small.py", "--workdir=out")
    assert (code, err) == (0, "") and "about 0 s" in out
    assert {name: (directory / "out" / name).read_bytes() for name in before} == before


@pytest.mark.slow
def test_a_run_from_nothing_says_the_same(finished, tmp_path):
    code, _, err = run(tmp_path / "new", "table", "--table=small.py", "--workdir=out")
    assert code == 0, err
    assert_same_files(finished[0], tmp_path / "new")


def assert_same_files(one, other):
    for name in FILES:
        assert (one / "out" / name).read_bytes() == (other / "out" / name).read_bytes(), name
    assert sorted(lines_of(one)) == sorted(lines_of(other))


@pytest.mark.slow
def test_a_table_that_is_killed_five_times_leaves_the_same_files(finished, tmp_path):
    """At seeded moments: before and while it trains, and while it writes what it has found."""
    arguments = tmp_path / "killed", "table", "--table=small.py", "--workdir=out"
    lines, generator, killed = tmp_path / "killed/out/runs.jsonl", random.Random(19), 0
    for most in (1, 8, 16, 24, 25):
        process = called(commands.start, *arguments)
        while process.poll() is None:
            if lines.exists() and lines.read_bytes().count(b"\n") >= most:
                break
            time.sleep(0.002)
        time.sleep(generator.random() * 0.2)
        killed += process.poll() is None
        process.kill()
        process.communicate()
        assert all(json.loads(line) for line in lines_of(tmp_path / "killed")[:most])
    assert killed >= 3
    code, _, err = run(*arguments)
    assert code == 0, err
    assert_same_files(finished[0], tmp_path / "killed")


# ---- two commands, and a workdir that moves


def test_tune_beside_a_table_is_refused(tmp_path):
    with runs.Store(tmp_path / "out"):
        code, out, err = here(tmp_path, "tune", "--table=small.py", "--workdir=out")
    assert (code, out) == (2, "")
    assert err == "another process writes to out/runs.jsonl; wait for it.\n"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["runs.jsonl"]


def test_what_a_table_has_found_is_written_while_no_other_can(finished, monkeypatch):
    """Another process asks for the workdir at the moment of each of its files."""
    asked, whole = [], _files.whole

    def asking(path):
        with pytest.raises(WorkdirError, match="another process writes to "):
            runs.Store(finished[0] / "out")
        asked.append(path.name)
        return whole(path)

    monkeypatch.setattr(_files, "whole", asking)
    code, _, err = here(finished[0], "table", "--table=small.py", "--workdir=out")
    assert (code, err, asked) == (0, "", list(FILES))


def test_a_table_whose_workdir_is_moved_writes_nothing_at_the_old_place(
    finished, tmp_path, monkeypatch
):
    shutil.copytree(finished[0] / "out", tmp_path / "out")
    of_line = _files.of_line

    def moving(*arguments):
        monkeypatch.setattr(_files, "of_line", of_line)
        (tmp_path / "out").rename(tmp_path / "moved")
        shutil.copytree(tmp_path / "moved", tmp_path / "out")
        return of_line(*arguments)

    monkeypatch.setattr(_files, "of_line", moving)
    before = (finished[0] / "out/small.json").stat().st_mtime_ns
    code, _, err = here(tmp_path, "table", "--table=small.py", "--workdir=out")
    assert code == 2 and err.startswith("out/runs.jsonl was moved or removed while it was in use.")
    for name in ("out", "moved"):
        assert (tmp_path / name / "small.json").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "call, script, arguments, words",
    [
        (run, "table", ["--table=smal"], "there are clipping, combined"),
        (here, "table", ["--table=small.py", "--num_trials=0"], "--num_trials must be at least 1"),
        (run, "tune", ["--table=small.py", "--datasets=mnist"], "digits, got 'mnist'"),
        (run, "range_test", ["--knob=batch_size", "--low=1", "--high=64", "--num=2"], "batch_size"),
        (here, "range_test", ["--knob=loss.temperature", "--low=0", "--high=1"], "above 0"),
        (here, "range_test", ["--knob=loss.temprature", "--low=1", "--high=2"], "not a key"),
    ],
)
def test_bad_input_is_a_line(tmp_path, call, script, arguments, words):
    config = [DIGITS] if script == "range_test" else []
    code, out, err = call(tmp_path / "bad", script, *config, *arguments, "--workdir=out")
    assert (code, out) == (2, "")
    assert words in err and len(err.splitlines()) <= 2
    assert not (tmp_path / "bad/out/runs.jsonl").exists()


def test_a_table_without_a_control_is_refused_before_it_is_trained(tmp_path):
    (tmp_path / "alone.py").write_text(TABLE.replace('control="none"', "control=None"))
    code, out, err = here(tmp_path, "table", "--table=alone.py", "--workdir=out")
    assert (code, out) == (2, "")
    assert err == "--table alone.py has no arm with a control, so there is nothing to compare.\n"
    assert not (tmp_path / "out").exists()


AGAINST = """
from experiments.arms import Arm, Budget, Table

bits = {"precision.weights": 3, "precision.gradients": 8}
TABLE = Table(
    about="Small.",
    common={"duration": "3 steps", "model.hidden_sizes": (8,)},
    arms={"whole": Arm(), "3 bits": Arm(bits, control="whole")},
    budgets={"digits": Budget(num_seeds=2)},
    against="relative_cost",
)
"""


def test_scores_are_drawn_against_a_number_of_the_runs(tmp_path):
    (tmp_path / "bits.py").write_text(AGAINST)
    path = tmp_path / "out"
    code, out, err = here(tmp_path, "table", f"--table={tmp_path / 'bits.py'}", f"--workdir={path}")
    assert (code, err) == (0, ""), err
    assert out.splitlines()[-1] == str(path / "bits_relative_cost.png")
    assert (path / "bits_relative_cost.png").stat().st_size > 100
    record = json.loads((path / "bits.json").read_text())
    arms = record["datasets"]["digits"]["arms"]
    assert record["against"] == "relative_cost" and arms["whole"]["summary"] == {}
    of_layer = (3 * 32 + 3 * 8 + 32 * 8) / (3 * 8**2)  # inputs are whole: 32 bits
    assert arms["3 bits"]["summary"] == {"relative_cost": pytest.approx(of_layer)}
    assert "| relative cost |" in (path / "bits.md").read_text()


def test_a_number_that_no_arm_has_is_refused_before_training(tmp_path):
    (tmp_path / "bits.py").write_text(AGAINST.replace("relative_cost", "energy"))
    path = tmp_path / "out"
    code, out, err = here(tmp_path, "table", f"--table={tmp_path / 'bits.py'}", f"--workdir={path}")
    assert code == 2 and "about" not in out
    assert err == (
        "against must be a number about the runs of an arm on digits, such as relative_cost; got "
        "'energy', and there are relative_cost.\n"
    )


def test_tune_tells_what_it_chose(finished, arms):
    code, out, err = run(finished[0], "tune", "--table=small.py", "--workdir=out")
    assert (code, err) == (0, "")
    rate = arms["none"]["changes"]["optimizer.learning_rate"]
    assert f"digits, none: optimizer.learning_rate = {rate} (validation accuracy" in out
    assert "wild" not in out


def test_the_values_that_were_chosen_are_told(finished, arms):
    chosen = [line for line in finished[1].splitlines() if line.startswith("chosen for digits, ")]
    assert [line.split(":")[0].split(", ")[1] for line in chosen] == ["none", "cyclical"]
    rate = arms["none"]["changes"]["optimizer.learning_rate"]
    assert f" none: optimizer.learning_rate = {rate} (validation accuracy " in chosen[0]
    tuning = arms["cyclical"]["tuning"]
    cycle = tuning["trials"][tuning["chosen"]]["values"]["optimizer.max_norm"]
    ends = f"easy={cycle['easy']}, hard={cycle['hard']}"
    assert f"optimizer.max_norm = cyclical({ends}) (validation" in chosen[1]


def test_a_range_test_prints_the_cycle_to_paste(tmp_path):
    flags = ["--knob=optimizer.weight_decay", "--low=1e-4", "--high=10", "--num=4", "--num_seeds=2"]
    code, out, err = here(
        tmp_path / "a", "range_test", DIGITS, *flags, "--duration=2 epochs", "--workdir=out"
    )
    assert (code, err) == (0, ""), err
    record = json.loads((tmp_path / "a/out/range_test.json").read_text())
    assert record["values"][0] == 1e-4 and record["values"][-1] == 10
    assert [len(losses) for losses in record["val_loss"]] == [2, 2, 2, 2]
    assert record["suggestion"]["high"] < 10 and "--config.optimizer.weight_decay=" in out
    assert (tmp_path / "a/out/range_test.png").stat().st_size > 1000
