"""The range test: its runs, what it makes of them, and what it refuses."""

import json

import numpy as np
import pytest

from tests import commands

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
    assert process.stdout.startswith(f"best value: {best:.3g}; ")


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
        (["--low=10"], "low must be below high, and both finite, got low=10.0, high=10.0."),
        (["--low=0"], "low must be above 0 on a log scale, got 0.0."),
        (["--high=inf"], "low must be below high, and both finite, got low=0.001, high=inf."),
        (["--low=few"], "flag --low=few: could not convert string to float: 'few'"),
        (["--num=1"], "num must be at least 2, for both ends of the grid, got 1."),
        (["--num_seeds=1"], "flag --num_seeds=1: "),
        (["--scale=cube"], "flag --scale=cube: value should be one of <linear|log>"),
        (["--low=-1", "--scale=linear"], f"{KNOB} must be at least 0, got -1.0."),
        (
            ["--knob=optimizer.momentum", "--scale=linear"],
            "optimizer.momentum must be at least 0 and at most 1, got 5.0005",
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
