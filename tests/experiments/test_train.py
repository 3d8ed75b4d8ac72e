"""The commands of the README, as a user types them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from configs import digits
from experiments import demo

ROOT = Path(__file__).parents[2]


def train(*arguments):
    command = [sys.executable, "-m", "experiments.train", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_a_run_leaves_its_metrics_config_and_result(tmp_path):
    workdir = tmp_path / "new" / "run"
    arguments = ["--config=configs/digits.py:all", f"--workdir={workdir}", "--config.num_epochs=2"]
    process = train(*arguments)
    assert process.returncode == 0, process.stderr
    assert "epoch    2/2" in process.stdout and "test accuracy" in process.stdout

    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]
    measured = {"loss", "accuracy", "grad_norm", "val_loss", "val_accuracy", "images_per_second"}
    knobs = {"weight_decay", "max_norm", "temperature", "hardness", "learning_rate"}
    assert measured | knobs | {"step", "epoch"} <= rows[0].keys()
    assert json.loads((workdir / "config.json").read_text())["num_epochs"] == 2
    result = json.loads((workdir / "result.json").read_text())
    assert result["test_num_examples"] == 400 and result["steps"] == rows[-1]["step"] == 36

    again = train(*arguments)
    assert again.returncode == 2
    assert again.stderr == f"{workdir} holds a run already; choose another --workdir.\n"
    assert len((workdir / "metrics.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--config=configs/digits.py:wd"], "'wd' is no variant of this config; it has plain, "),
        (
            ["--config=configs/digitz.py", "--config.num_epochs=1"],
            "the file of --config cannot be loaded",
        ),
        (["--config=configs/digitz.py"], "No such file or directory: 'configs/digitz.py'"),
        (
            ["--config=configs/digits.py", "--config.optimizer.momentun=1"],
            """Did you mean "momentum" instead of "momentun"?""",
        ),
        (["--config=configs/digits.py", "--config.batch_size=many"], "--config.batch_size=many"),
        (["--config=configs/digits.py", "--config.loss.temperature=-1"], "loss.temperature must"),
        (["--config=configs/digits.py", "stray"], "unknown argument 'stray'"),
        ([], "--config must have a value"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(tmp_path, arguments, message):
    workdir = tmp_path / "run"
    process = train(f"--workdir={workdir}", *arguments)
    assert process.returncode == 2
    assert message in process.stderr
    assert len(process.stderr.splitlines()) == 1
    assert not workdir.exists()


def test_a_missing_dataset_is_told_with_the_commands_that_get_it(tmp_path):
    process = train(
        "--config=configs/fashion_mnist.py",
        f"--config.data_dir={tmp_path}",
        f"--workdir={tmp_path / 'run'}",
    )
    assert process.returncode == 2
    assert "python -m experiments.prepare_data --dataset=fashion_mnist" in process.stderr
    assert "Traceback" not in process.stderr


def test_a_refused_run_leaves_its_workdir_free(tmp_path):
    arguments = ["--config=configs/digits.py", f"--workdir={tmp_path / 'run'}"]
    refused = train(*arguments, "--config.batch_size=2000")
    assert refused.returncode == 2 and "at batch_size 2000 make 0" in refused.stderr
    diverged = train(*arguments, "--config.optimizer.learning_rate=1e20")
    assert diverged.returncode == 2 and "is nan in epoch 1" in diverged.stderr
    assert train(*arguments, "--config.num_epochs=1").returncode == 0


@pytest.mark.parametrize("where", ["file/run", "file"])
def test_a_workdir_that_cannot_be_written_is_told(tmp_path, where):
    (tmp_path / "file").write_text("in the way")
    process = train("--config=configs/digits.py", f"--workdir={tmp_path / where}")
    assert process.returncode == 2
    assert "cannot be written" in process.stderr
    assert len(process.stderr.splitlines()) == 1


@pytest.mark.slow
def test_the_demo_makes_its_table_and_picture(tmp_path):
    results = demo.run(tmp_path, num_seeds=2)
    assert list(results) == list(digits.VARIANTS)
    for runs in results.values():
        assert len(runs.test_accuracy) == 2 and min(runs.test_accuracy) > 0.95
    lines = demo.table(results).splitlines()
    assert len(lines) == 2 + 6 and "±" in lines[-1] and lines[-1].endswith("| 2 |")
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "results.json").read_text())["all"]["test_accuracy"]
