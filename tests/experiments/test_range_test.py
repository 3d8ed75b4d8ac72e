"""The range test: its runs, what it makes of them, and what it refuses."""

import json

import numpy as np
import pytest

from cyclical_jax.catalogue import CATALOGUE
from experiments import grids
from tests import commands

with commands.as_if_new():  # its flags are not those of this process
    from experiments import range_test

KNOB = "optimizer.weight_decay"
SMALL = ["--config=configs/digits.py", "--config.model.hidden_sizes=(4,)", f"--knob={KNOB}"]
GRID = ["--low=1e-3", "--high=10", "--num=3", "--num_seeds=2", "--duration=20 steps"]


def test_the_record_is_that_of_its_runs(tmp_path):
    arguments = [*SMALL, *GRID, f"--workdir={tmp_path}", "--config.optimizer.max_norm=2.0"]
    process = commands.in_a_process("range_test", *arguments)
    assert (process.returncode, process.stderr) == (0, "")
    record = json.loads((tmp_path / "range_test.json").read_text())
    assert (record["knob"], record["scale"], record["seeds"]) == (KNOB, "log", [0, 1])
    assert record["values"] == pytest.approx([1e-3, 0.1, 10])
    lines = [json.loads(line) for line in (tmp_path / "runs.jsonl").read_text().splitlines()]
    scores = {}
    for line in lines:
        (row,) = line["rows"]  # a run logs at its end
        assert row["step"] == 20 and row["max_norm"] == 2.0
        assert line["scores"].keys() == {"validation"}
        scores[float(f"{row['weight_decay']:.3g}"), line["seed"]] = line["scores"]["validation"]
    assert len(lines) == len(scores) == 6
    for name in ("loss", "accuracy"):
        expected = [[scores[value, seed][name] for seed in (0, 1)] for value in (1e-3, 0.1, 10)]
        assert record[f"val_{name}"] == expected
    best = record["values"][np.mean(record["val_loss"], 1).argmin()]
    assert record["suggestion"]["best"] == best
    table, told = process.stdout.split("\nbest value: ")
    head, *rows = table.splitlines()
    assert head.startswith("mean of 2 seeds  ") and told.startswith(f"{best:.3g}; ")
    means = [np.mean(record[f"val_{name}"], 1) for name in ("loss", "accuracy")]
    expected = [
        [f"{value:g}", f"{loss:.4f}", f"{100 * accuracy:.2f}"]
        for value, loss, accuracy in zip(record["values"], *means, strict=True)
    ]
    assert [row.replace(".0 ", "  ").split() for row in rows] == expected


def test_a_mistake_is_a_line_and_exit_code_2_before_anything_is_trained(tmp_path):
    (tmp_path / "file").write_text("in the way")
    knobs = "is not a key that may cycle: accumulate, loss.temperature, "
    cases = [
        (
            ["--knob=optimizer.weight_decai"],
            "--knob optimizer.weight_decai is not a key that may cycle; nearest: optimizer.weight",
        ),
        (
            ["--knob=weight_decay"],
            "--knob weight_decay is not a key that may cycle; nearest: optimizer.weight_decay.",
        ),
        (
            ["--knob=lr"],
            "--knob lr is not a key that may cycle; the learning rate is optimizer.learning_rate.",
        ),
        (["--knob=epochs"], f"--knob epochs {knobs}"),
        (["--knob=batch_size"], f"--knob batch_size {knobs}"),
        (["--knob=optimizer"], f"--knob optimizer {knobs}"),
        (["--knob=loss.name"], f"--knob loss.name {knobs}"),
        (
            ["--config=configs/digits.py:weight_decay", f"--knob={KNOB}.easy"],
            f"--knob {KNOB}.easy {knobs}",
        ),
        (["--low=10"], "--low must be below high, and both finite, got low=10.0, high=10.0."),
        (["--low=0"], "--low must be above 0 on a log scale, got 0.0."),
        (["--high=inf"], "--low must be below high, and both finite, got low=0.001, high=inf."),
        (["--low=few"], "flag --low=few: could not convert string to float: 'few'"),
        (
            ["--knob=precision.weights", "--low=2", "--high=8", "--num=5"],
            "--num=5 from 2 to 8 is a grid with numbers that are not whole: --num=2, 3, 4 or 7",
        ),
        (
            ["--knob=precision.weights", "--low=2.5"],
            "--low must be a whole number for this knob, got 2.5.",
        ),
        (
            ["--knob=precision.weights", "--low=1", "--high=3"],
            "precision.weights must be at least 2 and at most 16, got 1.",
        ),
        (
            ["--knob=precision.weights", "--low=2", "--high=20"],
            "precision.weights must be at least 2 and at most 16, got 20.",
        ),
        (
            ["--knob=precision.weights,precision.activation", "--low=2"],
            "--knob precision.activation is not a key that may cycle; nearest: precision.activatio",
        ),
        (
            [f"--knob={KNOB},{KNOB}"],
            f"--knob must be one or several different keys, got '{KNOB},{KNOB}'.",
        ),
        (["--knob="], "--knob must be one or several different keys, got ''."),
        (["--rise=-1"], "flag --rise=-1: "),
        (["--num=1"], "--num must be at least 2, for both ends of the grid, got 1."),
        (["--num_seeds=1"], "flag --num_seeds=1: "),
        (["--scale=cube"], "flag --scale=cube: value should be one of <linear|log>"),
        (["--low=-1", "--scale=linear"], f"{KNOB} must be at least 0, got -1.0."),
        (
            ["--knob=optimizer.momentum", "--scale=linear"],
            "optimizer.momentum must be at least 0 and at most 1, got 10.0",
        ),
        (["--knob=loss.gamma"], "loss.gamma is read where loss.name is "),
        (["--duration=soon"], "duration must be "),
        (["--config.batch_size=0"], "batch_size must be "),
        (["--config.train_on=train+validation"], "train_on must be 'train': "),
        ([f"--workdir={tmp_path / 'file'}"], f"--workdir {tmp_path / 'file'} cannot be written: "),
    ]
    default = [*SMALL, *GRID, f"--workdir={tmp_path / 'runs'}"]
    for arguments, begin in cases:
        code, out, err = commands.in_this_process("range_test", *default, *arguments)
        assert (code, out) == (2, ""), arguments
        assert [line[: len(begin)] for line in err.splitlines()] == [begin]
    assert not (tmp_path / "runs").exists()


BITS = ["precision.weights", "precision.activations"]


def test_bits_move_together_through_whole_numbers(tmp_path):
    arguments = [*SMALL[:2], f"--knob={','.join(BITS)}", "--low=2", "--high=4", "--num_seeds=2"]
    arguments += ["--duration=20 steps", "--config.log_every=15 steps", "--rise=0.01"]
    arguments += ["--config.model.hidden_sizes=(32,)"]
    ended = commands.in_this_process("range_test", *arguments, f"--workdir={tmp_path}")
    assert (ended.returncode, ended.stderr) == (0, "")
    record = json.loads((tmp_path / "range_test.json").read_text())
    assert (record["knob"], record["scale"]) == (",".join(BITS), "linear")
    assert record["values"] == [2, 3, 4] and type(record["values"][0]) is int
    lines = [json.loads(line) for line in (tmp_path / "runs.jsonl").read_text().splitlines()]
    trained = {}
    for line in lines:
        first, last = line["rows"]
        assert (first["step"], last["step"]) == (15, 20) and "val_loss" not in first
        assert last["weight_bits"] == last["activation_bits"]
        trained[last["weight_bits"], line["seed"]] = last["accuracy"]
    expected = [[trained[bits, seed] for seed in (0, 1)] for bits in (2, 3, 4)]
    assert record["train_accuracy"] == expected
    low = grids.first_rise([2, 3, 4], expected, 0.01)
    assert record["published"] == {"low": low, "high": 4, "rise": 0.01}
    assert "published rule: " in ended.stdout
    head, *rows = ended.stdout.splitlines()[:4]
    assert head.endswith("validation accuracy, %  training accuracy, %")
    ends = [f"{100 * np.mean(of_value):.2f}" for of_value in expected]
    assert [(row.split()[0], row.split()[-1]) for row in rows] == [*zip("234", ends, strict=True)]


def test_a_value_with_a_run_that_is_not_finite_has_no_mean():
    record = {"seeds": [0, 1], "values": [0.1, 1.0], "val_loss": [[0.5, 0.7], [0.2, None]]}
    assert range_test.as_table(record, grids.LOSS).splitlines() == [
        "mean of 2 seeds  validation loss",
        "0.1                       0.6000",
        "1.0                   not finite",
    ]


def told(knobs, values, low, high, keys=CATALOGUE.keys, **further):
    """Returns the lines that are told of a test."""
    suggestion = {"low": low, "high": high, "best": high, "best_is_at_end": high == values[-1]}
    record = {"knob": ",".join(knobs), "values": values, "suggestion": suggestion}
    return range_test.advice(record | further, keys).splitlines()


def advice(knobs, low, high, published):
    """Returns the lines that are told of a test from 2 to 8 bits."""
    rule = {"low": published, "high": 8, "rise": 0.2}
    return told(knobs, [*range(2, 9)], low, high, published=rule)


def options(cycle):
    return " ".join(f"'--config.{knob}={cycle}'" for knob in BITS)


def test_many_bits_are_the_easy_end():
    best, *lines = advice(BITS, 5, 7, 3)
    assert best == "best value: 7; values within a standard error of the best: 5 to 7"
    rule = (
        "published rule: 3 to 8, since at 3 bits the training accuracy is first more than 20% "
        "above that of the width below"
    )
    assert lines == [options("cyclical(7, 5)"), rule, options("cyclical(8, 3)")]


BEYOND = "the range reaches the end of the grid, and good values may lie beyond: {} to see"
LOWEST = "the range reaches {}, and {} cannot be lower"


@pytest.mark.parametrize(
    ("knobs", "values", "low", "high", "lines"),
    [
        (BITS, [3, 4, 5], 3, 4, [BEYOND.format("lower --low")]),
        (BITS, [3, 4, 5], 3, 5, [BEYOND.format("lower --low and raise --high")]),
        (BITS, [2, 3, 4], 2, 3, [LOWEST.format(2, BITS[0])]),
        (BITS, [2, 3, 4], 2, 4, [LOWEST.format(2, BITS[0]), BEYOND.format("raise --high")]),
        (BITS[1:], [8, 16], 8.5, 16, [f"the range reaches 16, and {BITS[1]} cannot be higher"]),
        (["accumulate"], [1, 2, 3], 1, 2, [LOWEST.format(1, "accumulate")]),
        ([KNOB], [0.0, 0.5, 1.0], 0.0, 0.5, [LOWEST.format("0.0", KNOB)]),
        ([KNOB], [1e-5, 1e-3, 0.1], 1e-5, 1e-3, [BEYOND.format("lower --low")]),
        (
            ["optimizer.momentum"],
            [0.0, 0.5, 1.0],
            0.5,
            1.0,
            ["the range reaches 1.0, and optimizer.momentum cannot be higher"],
        ),
        ([KNOB, BITS[0]], [1, 2, 3], 2, 2, []),
    ],
)
def test_an_end_that_is_the_limit_of_a_key_is_not_to_be_moved(knobs, values, low, high, lines):
    _, *found = told(knobs, values, low, high)
    assert found[:-1] == lines


def test_a_key_says_itself_which_end_is_easy():
    """Each knob has an order of its own; a plugin's key says it as the others do."""
    (line,) = told([KNOB, "accumulate", BITS[0]], [2, 3, 4, 5], 3, 4)[1:]
    assert line == (
        f"'--config.{KNOB}=cyclical(3, 4)' '--config.accumulate=cyclical(4, 3)' "
        f"'--config.{BITS[0]}=cyclical(4, 3)'"
    )
    own = {KNOB: CATALOGUE.keys[KNOB]._replace(high_is_easy=True)}
    assert told([KNOB], [0.1, 0.2, 0.3, 0.4], 0.2, 0.3, own)[1:] == [
        f"'--config.{KNOB}=cyclical(0.3, 0.2)'"
    ]


def test_without_a_rise_the_published_rule_has_no_range():
    _, *lines = advice(BITS[:1], 6, 6, None)
    assert lines == [
        "no other value does as well: --config.precision.weights=6",
        "published rule: no training accuracy is more than 20% above that of the width below; all "
        "learn, or none",
    ]


NETWORK = """
from flax import linen as nn


class Net(nn.Module):
    num_classes: int
    width: int = 8
    mix: float = 0.5

    @nn.compact
    def __call__(self, images):
        x = nn.relu(nn.Dense(self.width)(images.reshape(len(images), -1)))
        return nn.Dense(self.num_classes)(x + self.mix * nn.Dense(self.width)(x))
"""


def test_a_float_of_ones_own_network_is_tested_and_a_whole_number_is_not(tmp_path):
    (tmp_path / "own.py").write_text(NETWORK)
    config = ["--config=configs/digits.py", f"--config.model.name={tmp_path / 'own.py'}:Net"]
    grid = ["--low=0.1", "--high=1", "--num=2", "--num_seeds=2", "--duration=2 steps"]
    arguments = [*config, *grid, f"--workdir={tmp_path / 'runs'}"]
    code, out, err = commands.in_this_process("range_test", *arguments, "--knob=model.mix")
    assert (code, err) == (0, "")
    assert "--config.model.mix=" in out
    code, _, err = commands.in_this_process("range_test", *arguments, "--knob=model.width")
    assert code == 2 and "--knob model.width is not a key that may cycle: " in err
    assert "model.mix" in err
