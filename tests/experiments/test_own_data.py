"""Data of one's own from the command line: a run, the same command again, its scores."""

import numpy as np
import pytest

from experiments import arms
from experiments.arms import Arm, Budget, Table
from tests import commands
from tests.helpers import stored

LABELS = np.arange(90) % 3


def train(name, workdir, *more):
    small = ["--config.batch_size=12", "--config.duration=3 epochs"]
    arguments = ["--config=configs/digits.py", f"--config.dataset={name}", *small]
    return commands.in_this_process("train", *arguments, f"--workdir={workdir}", *more)


@pytest.fixture
def images(tmp_path):
    noise = np.random.default_rng(0).integers(0, 60, (90, 5, 5, 3))
    image = (noise + 90 * LABELS[:, None, None, None]).astype(np.uint8)
    np.savez(tmp_path / "mine.npz", image=image, label=np.array(["ant", "bee", "cat"])[LABELS])
    return f"npz:{tmp_path / 'mine.npz'}"


def test_a_run_its_second_call_its_scores_and_a_changed_file(images, tmp_path):
    workdir = tmp_path / "run"
    ended = train(images, workdir)
    assert ended.returncode == 0, ended.stderr
    result = stored(workdir / "result.json")
    assert result["test_num_examples"] == 9 and result["test_accuracy"] > 0.8
    assert stored(workdir / "inputs.json").keys() == {"dataset"}
    again = train(images, workdir)
    assert again.returncode == 0 and "test accuracy" in again.stdout
    scores = commands.in_this_process("evaluate", f"--workdir={workdir}", "--split=test")
    assert scores.returncode == 0 and "on 9 examples" in scores.stdout
    moved = (tmp_path / "mine.npz").rename(tmp_path / "moved.npz")
    arguments = [f"--workdir={workdir}", "--split=test", f"--dataset=npz:{moved}"]
    assert commands.in_this_process("evaluate", *arguments).stdout == scores.stdout
    np.savez(tmp_path / "mine.npz", image=np.zeros((90, 5, 5, 3), np.uint8), label=LABELS)
    changed = train(images, workdir)
    assert changed.returncode == 2 and "dataset: 'content " in changed.stderr
    (tmp_path / "mine.npz").unlink()
    gone = train(images, workdir)
    line = f"dataset {images!r}: there is no file {tmp_path}/mine.npz.\n"
    assert gone.returncode == 2 and gone.stderr == line


def test_a_table_with_an_mlp(tmp_path):
    features = np.random.default_rng(0).normal(size=(90, 4)) * [1, 1e4, 1e-4, 1] + 7
    features[:, 1] += 2e4 * LABELS
    rows = [",".join(map(str, [*row, "xyz"[k]])) for row, k in zip(features, LABELS, strict=True)]
    (tmp_path / "mine.csv").write_text("\n".join(["a,b,c,d,species", *rows]))
    ended = train(f"csv:{tmp_path / 'mine.csv'}", tmp_path / "run", "--config.duration=15 epochs")
    assert ended.returncode == 0, ended.stderr
    result = stored(tmp_path / "run" / "result.json")
    assert result["test_accuracy"] > 0.6


def test_a_preview_needs_no_more_than_the_facts(images):
    arguments = ["--config=configs/digits.py:weight_decay", f"--config.dataset={images}"]
    ended = commands.in_this_process("preview", *arguments, "--config.batch_size=12")
    assert ended.returncode == 0, ended.stderr
    assert f"{images}: 240 updates, 40 epochs of 72 examples" in ended.stdout


def test_a_table_of_runs_asks_whether_own_data_is_here(images, monkeypatch, tmp_path):
    table = Table("", {"a": Arm()}, {"digits": Budget(1)})
    config = arms.base_config("digits")
    monkeypatch.setattr(arms, "base_config", lambda name, **_: config)
    config.dataset = images
    assert arms.choose_datasets(table, ["digits"], None) == ["digits"]
    config.dataset = f"npz:{tmp_path}/gone.npz"
    with pytest.raises(FileNotFoundError, match="there is no file"):
        arms.choose_datasets(table, ["digits"], None)
