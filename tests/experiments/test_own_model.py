"""A network by its place, in every command: trained, evaluated, drawn, compared, refused."""

import json

import pytest

from tests import commands
from tests.helpers import stored

FILE = """
import flax.linen as nn


class Net(nn.Module):
    num_classes: int
    hidden_sizes: tuple[int, ...] = (12,)
    gain: float = 1.0

    @nn.compact
    def __call__(self, x):
        x = x.reshape(len(x), -1)
        for size in self.hidden_sizes:
            x = nn.relu(self.gain * nn.Dense(size)(x))
        return nn.Dense(self.num_classes)(x)
"""
TABLE = """
from experiments.arms import Arm, Budget, Table
TABLE = Table(
    about="Small.",
    common={"duration": "10 steps", "model.name": "mine.py:Net"},
    arms={"own": Arm(), "gained": Arm({"model.gain": 2.0}, control="own")},
    budgets={"digits": Budget(num_seeds=2)},
)
"""
CONFIG = [f"--config={commands.ROOT}/configs/digits.py", "--config.model.name=mine.py:Net"]


@pytest.fixture
def call(tmp_path):
    (tmp_path / "mine.py").write_text(FILE)
    (tmp_path / "small.py").write_text(TABLE)
    return lambda script, *arguments: commands.in_this_process(script, *arguments, cwd=tmp_path)


def test_a_run_its_checkpoint_and_its_changed_file(call, tmp_path):
    train = ["train", *CONFIG, "--config.duration=3 epochs", "--workdir=run"]
    cycle = "--config.model.gain=cyclical(1, 2)"
    code, out, err = call(*train, cycle)
    assert (code, err) == (0, "") and "test accuracy" in out
    rows = stored(tmp_path / "run/metrics.jsonl")
    assert [row["gain"] for row in rows][-1] == 1 and rows[0]["gain"] > 1
    model = stored(tmp_path / "run/config.json")["model"]
    assert model["hidden_sizes"] == [12] and model["gain"]["hard"] == 2
    code, out, err = call("evaluate", "--workdir=run", "--checkpoint=best")
    best = max(rows, key=lambda row: row["val_accuracy"])
    assert (code, err) == (0, "") and f"after {best['step']} updates" in out
    assert f"accuracy {best['val_accuracy']:.2%}" in out
    changed = FILE.replace("nn.relu", "nn.gelu")
    (tmp_path / "mine.py").write_text(f"{changed}\nopen('ran', 'w').close()\n")
    code, out, err = call("evaluate", "--workdir=run")
    told = "--workdir: run was made with plugin mine.py:Net, which has changed since."
    assert (code, out, err) == (2, "", f"{told}\n")
    assert not (tmp_path / "ran").exists()  # a file that has changed is refused before it runs
    code, out, err = call(*train, cycle)
    assert (code, out) == (2, "") and "plugin mine.py:Net" in err


def test_a_config_that_names_it_and_a_preview(call, tmp_path):
    (tmp_path / "mine_config.py").write_text(
        "from configs import digits\n"
        "def get_config():\n"
        "    config = digits.get_config()\n"
        "    config.model.name = 'mine.py:Net'\n"
        "    return config\n"
    )
    code, out, err = call("train", "--config=mine_config.py", "--print_config")
    assert (code, err) == (0, "")
    assert "model.hidden_sizes = (12,)\n" in out and "    allowed: tuple of whole numbers\n" in out
    code, out, err = call("preview", "--config=mine_config.py", "--workdir=drawn")
    assert (code, err) == (0, "") and out.startswith("digits: 720 updates")
    code, out, err = call("train", "--config=mine_config.py", "--config.model.gain=x")
    assert (code, out, err) == (2, "", "model.gain must be a number, got 'x'.\n")


def test_a_table(call, tmp_path):
    code, _, err = call("table", "--table=small.py", "--workdir=out")
    assert (code, err) == (0, "")
    arms = json.loads((tmp_path / "out/small.json").read_text())["datasets"]["digits"]["arms"]
    losses = [arm["test"]["loss"] for arm in arms.values()]
    assert len(losses) == 2 and losses[0] != losses[1]
