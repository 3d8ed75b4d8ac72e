"""Runs, their mistakes and the demo, as a user starts them."""

import json
import re
import struct
import sys

import pytest

from configs import digits
from cyclical_jax.catalogue import CATALOGUE
from cyclical_jax.training import evaluation
from experiments import demo
from tests import commands
from tests.helpers import stored

DIGITS = "--config=configs/digits.py"
SMALL = ["--config.model.hidden_sizes=(8,)", "--config.duration=2 epochs"]


def train(*arguments):
    return commands.in_this_process("train", *arguments)


def rows_of(workdir):
    return stored(workdir / "metrics.jsonl")


# ---- a run


def test_a_run_leaves_its_metrics_config_and_result(tmp_path):
    workdir, cache = tmp_path / "new" / "run", tmp_path / "cache"
    arguments = [f"{DIGITS}:all", f"--workdir={workdir}", *SMALL, "--config.accumulate=5"]
    own_cache = {"XDG_CACHE_HOME": str(cache), "JAX_COMPILATION_CACHE_DIR": None}
    process = commands.in_a_process("train", *arguments, **own_cache)
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""
    assert list(cache.rglob("*.program"))

    rows = rows_of(workdir)
    # An epoch has 18 batches, and its row comes at the end of the fourth update, of 5 batches each.
    assert [row["epoch"] for row in rows] == [pytest.approx(20 / 18), 2]
    assert [row["step"] for row in rows] == [4, 8]  # the last is of a single batch
    measured = {"loss", "accuracy", "grad_norm", "val_loss", "val_accuracy", "images_per_second"}
    knobs = {"weight_decay", "max_norm", "temperature", "hardness", "learning_rate", "momentum"}
    assert measured | knobs | {"step", "epoch", "seconds"} <= rows[0].keys()
    config = stored(workdir / "config.json")
    assert config["duration"] == "2 epochs" and config["model"]["hidden_sizes"] == [8]
    assert config["optimizer"]["max_norm"] == {"easy": 0.5, "hard": 2.0, "scale": "linear"}
    result = stored(workdir / "result.json")
    assert result["test_num_examples"] == 400 and result["steps"] == 8
    best = max(rows, key=lambda row: row["val_accuracy"])
    assert result["best_val_accuracy"] == best["val_accuracy"]
    assert result["best_val_epoch"] == best["epoch"]
    assert result["training_seconds"] == rows[-1]["seconds"] < result["seconds"]

    peak, first, second, test, validation, seconds, files = process.stdout.splitlines()
    assert peak == "peak (hard) at update 4 of 8, epoch 1.1 of 2"
    scores = r"loss \d\.\d{4}  accuracy [\d.]+%  val_loss \d\.\d{4}  val_accuracy [\d.]+%"
    assert re.match(rf"epoch 1\.111/2  step +4  {scores}", first)
    assert re.match(r"epoch +2/2  step +8  ", second)
    accuracy, loss = result["test_accuracy"], result["test_loss"]
    line = f"test accuracy {accuracy:.2%}, loss {loss:.4f}, on 400 examples after 8 updates"
    assert test == line
    percent = f"{best['val_accuracy']:.2%}"
    epochs = f"{best['epoch']} epoch{'' if best['epoch'] == 1 else 's'}"
    assert validation == f"best validation accuracy {percent}, after {epochs}"
    words = r"training took \d+\.\d\d s; the last start took \d+\.\d s, with loading, compiling and"
    assert re.fullmatch(f"{words} scoring", seconds)
    names = "checkpoints, config.json, dataset.json, environment.json, metrics.jsonl, result.json"
    assert files == f"files in {workdir}: {names}"
    assert process.stdout.splitlines()[3:] == train(*arguments).stdout.splitlines()
    assert rows_of(workdir) == rows


def test_the_seed_of_the_config_is_that_of_the_run(tmp_path):
    losses = []
    for number, seed in enumerate((1, 1, 2)):
        workdir = tmp_path / str(number)
        process = train(DIGITS, f"--workdir={workdir}", *SMALL, f"--config.seed={seed}")
        assert process.returncode == 0, process.stderr
        losses.append([row["loss"] for row in rows_of(workdir)])
    assert losses[0] == losses[1] != losses[2]


def test_a_run_on_all_but_test_has_no_validation(tmp_path):
    arguments = [f"--workdir={tmp_path}", *SMALL, "--config.train_on=train+validation"]
    process = train(DIGITS, *arguments)
    assert process.returncode == 0, process.stderr
    assert "validation" not in process.stdout
    assert [row["step"] for row in rows_of(tmp_path)] == [21, 42]  # of 1397 examples
    result = stored(tmp_path / "result.json")
    assert result["test_num_examples"] == 400 and "best_val_accuracy" not in result


def test_a_run_on_a_subset_has_its_epochs(tmp_path):
    """The subsets of the table are larger than digits: this config shrinks one, for good."""
    config = tmp_path / "small.py"
    config.write_text(
        "from configs.digits import get_config\n"
        "from cyclical_jax.data.subsets import SUBSETS, Subset\n"
        "SUBSETS['4k'] = Subset(700, ratio=None)\n"
    )
    workdir = tmp_path / "run"
    arguments = [f"--config={config}", f"--workdir={workdir}", *SMALL, "--config.subset=4k"]
    process = commands.in_a_process("train", *arguments)
    assert process.returncode == 0, process.stderr
    assert [row["step"] for row in rows_of(workdir)] == [10, 20]


def test_tensorboard_has_every_number_of_every_row(tmp_path):
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    process = train(DIGITS, f"--workdir={tmp_path}", *SMALL, "--tensorboard")
    assert process.returncode == 0, process.stderr
    assert "environment.json, metrics.jsonl, result.json, tensorboard" in process.stdout
    (file,) = (tmp_path / "tensorboard").iterdir()
    scalars, content, start = {}, file.read_bytes(), 0
    while start < len(content):  # length, its checksum, the event, its checksum
        (length,) = struct.unpack_from("<Q", content, start)
        event = event_pb2.Event.FromString(content[start + 12 : start + 12 + length])
        for value in event.summary.value:
            scalars[value.tag, event.step] = value.simple_value
        start += 16 + length
    groups = {
        "train": ["loss", "accuracy", "grad_norm"],
        "validation": ["val_loss", "val_accuracy"],
        "run": ["epoch", "images_per_second", "seconds"],
        "values": ["learning_rate", "weight_decay", "momentum", "temperature", "label_smoothing"],
    }
    expected = {
        (f"{group}/{name.removeprefix('val_')}", row["step"]): row[name]
        for row in rows_of(tmp_path)
        for group, names in groups.items()
        for name in names
    }
    assert {step for _, step in scalars} == {18, 36}
    assert scalars == pytest.approx(expected, rel=1e-6)


# ---- all keys


@pytest.mark.parametrize("config", ["configs/default.py", "configs/fashion_mnist.py:all"])
def test_print_config_lists_every_key_and_needs_no_workdir(config):
    process = train(f"--config={config}", "--print_config", "--config.seed=5")
    assert process.returncode == 0 and process.stderr == ""
    keys = re.findall(r"^([\w.]+) = ", process.stdout, re.MULTILINE)
    assert keys == list(CATALOGUE.keys)
    assert re.search(r"^seed = 5\n.*\n    allowed: .*; default: 0$", process.stdout, re.MULTILINE)


# ---- mistakes


@pytest.mark.parametrize(
    "arguments, begin",
    [
        (
            [DIGITS, "--config.optimizer.momentun=1"],
            "optimizer.momentun is not a key of a config; nearest: optimizer.momentum.",
        ),
        ([DIGITS, "--config.batch_size=many"], "batch_size must be a number, got 'many'."),
        ([DIGITS, "--config.loss.temperature=-1"], "loss.temperature must be above 0, got -1."),
        (["--config=configs/digitz.py"], "--config configs/digitz.py does not exist; there are "),
        (
            [DIGITS, "--print_config", "--config.cycle.factor=0.5"],
            "cycle.factor must be at least 1 and at most 1e+09, got 0.5.",
        ),
        ([DIGITS, "stray"], "unknown argument 'stray'"),
        ([DIGITS, "--wrokdir=x"], "Unknown command line flag 'wrokdir'."),
        ([], "--config must be given: Config file, such as configs/digits.py; a colon and a varia"),
        (
            [DIGITS, "--config.subset=4k"],
            "subset '4k' has 4000 examples, but digits has 1197 to train on.",
        ),
        (
            [DIGITS, "--config.batch_size=2000"],
            "batch_size 2000 is more than the 1197 training examples.",
        ),
        (
            [DIGITS, "--config.model.name=patch_dense", "--config.model.patch_size=9"],
            "model: patch_size must be a whole number from 1 to 8, got 9.",
        ),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(tmp_path, arguments, begin):
    workdir = tmp_path / "run"
    process = train(f"--workdir={workdir}", *arguments)
    assert process.returncode == 2
    assert [line[: len(begin)] for line in process.stderr.splitlines()] == [begin]
    assert process.stdout == ""
    assert not workdir.exists()


def test_a_process_ends_with_its_line_and_exit_code_2(tmp_path):
    workdir = tmp_path / "run"
    arguments = [DIGITS, f"--workdir={workdir}", "--config.batch_size=many"]
    process = commands.in_a_process("train", *arguments)
    line = "batch_size must be a number, got 'many'.\n"
    assert process == (2, "", line) and not workdir.exists()


def test_an_unknown_variant_is_one_line_with_those_there_are(tmp_path):
    process = train(f"{DIGITS}:wd", f"--workdir={tmp_path / 'run'}")
    assert process.returncode == 2
    (line,) = process.stderr.splitlines()
    assert "'wd' is not a variant of this config; it has plain, weight_decay, clipping, " in line


def test_all_problems_are_told_at_once(tmp_path):
    process = train(
        f"{DIGITS}:weight_decay",
        f"--workdir={tmp_path / 'run'}",
        "--config.momentum=0.8",
        "--config.batch_size=0",
        "--config.optimizer.weight_decay.factor=0.5",
        "--config.optimizer.weight_decay.shape=flat",
        "--config.loss.gamma=1",
    )
    assert process.returncode == 2
    lines = process.stderr.splitlines()
    assert [line.split()[0] for line in lines] == [
        "momentum",
        "batch_size",
        "optimizer.weight_decay.factor",
        "optimizer.weight_decay.shape",
        "loss.gamma",
    ]
    assert lines[0].endswith("nearest: optimizer.momentum.")


def test_a_run_needs_a_workdir():
    process = train(DIGITS)
    assert process.returncode == 2
    (line,) = process.stderr.splitlines()
    assert "--workdir must be given" in line


@pytest.fixture
def blocked_writer(tmp_path, monkeypatch):
    (tmp_path / "tensorboardX.py").write_text("raise ImportError('it is blocked')")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "tensorboardX"]:
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.usefixtures("blocked_writer")
def test_tensorboard_without_its_writer_is_told_before_anything_is_done(tmp_path):
    workdir = tmp_path / "run"
    process = train(DIGITS, f"--workdir={workdir}", "--tensorboard")
    assert process.returncode == 2
    (line,) = process.stderr.splitlines()
    assert "it is blocked" in line and 'pip install ".[tensorboard]"' in line
    assert not workdir.exists()


@pytest.mark.usefixtures("blocked_writer")
def test_a_run_without_tensorboard_does_not_need_its_writer(tmp_path):
    process = train(DIGITS, f"--workdir={tmp_path / 'run'}", *SMALL)
    assert process.returncode == 0, process.stderr
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_a_missing_dataset_is_told_with_the_commands_that_get_it(tmp_path):
    process = train(
        "--config=configs/fashion_mnist.py",
        f"--config.data_dir={tmp_path}",
        f"--workdir={tmp_path / 'run'}",
    )
    assert process.returncode == 2
    assert "python -m experiments.prepare_data --dataset=fashion_mnist" in process.stderr
    assert "Traceback" not in process.stderr


def test_a_run_that_diverges_says_when_with_what_and_what_to_try(tmp_path):
    arguments = [DIGITS, f"--workdir={tmp_path / 'run'}", *SMALL]
    process = train(*arguments, "--config.optimizer.learning_rate=1e20")
    assert process.returncode == 2
    (line,) = process.stderr.splitlines()
    match = re.fullmatch(
        r"(loss|grad_norm) is (nan|inf) at step (\d+), with (.*); try a lower learning rate, "
        r"a clip of the gradient, or on_nonfinite='skip'\.",
        line,
    )
    assert match and 0 < int(match[3]) < 36
    knobs = dict(knob.split(" ") for knob in match[4].split(", "))
    assert knobs.keys() == {
        "optimizer.learning_rate",
        "optimizer.weight_decay",
        "optimizer.momentum",
        "loss.temperature",
        "loss.label_smoothing",
    }
    assert 1e19 < float(knobs["optimizer.learning_rate"]) <= 1e20
    assert knobs["optimizer.weight_decay"] == "0.001" and knobs["optimizer.momentum"] == "0.9"


@pytest.mark.parametrize("where", ["file/run", "file"])
def test_a_workdir_that_cannot_be_written_is_told(tmp_path, where):
    (tmp_path / "file").write_text("in the way")
    process = train(DIGITS, f"--workdir={tmp_path / where}")
    assert process.returncode == 2
    assert "cannot be written" in process.stderr
    assert len(process.stderr.splitlines()) == 1


def test_a_score_that_is_not_finite_is_none_in_the_result(tmp_path, monkeypatch):
    evaluate, infinite = evaluation.evaluate, {"perplexity": float("inf")}
    monkeypatch.setattr(
        evaluation, "evaluate", lambda *given, **options: evaluate(*given, **options) | infinite
    )
    arguments = DIGITS, f"--workdir={tmp_path}", SMALL[0], "--config.duration=3 steps"
    first, again = train(*arguments), train(*arguments)
    assert (first.returncode, first.stderr) == (again.returncode, again.stderr) == (0, "")
    assert stored(tmp_path / "result.json")["test_perplexity"] is None
    assert first.stdout.endswith(again.stdout) and again.stdout.startswith("test accuracy ")


# ---- the demo


@pytest.mark.slow
def test_the_demo_makes_its_table_and_picture(tmp_path):
    results = demo.run(tmp_path, num_seeds=2)
    assert list(results) == ["plain", "smoothed", *list(digits.FOUR)[1:]]
    for runs in results.values():
        assert len(runs.test_accuracy) == 2 and min(runs.test_accuracy) > 0.95
    lines = demo.table(results).splitlines()
    assert len(lines) == 2 + 7 and "±" in lines[-1] and lines[-1].endswith("| 2 |")
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "results.json").read_text())["all"]["test_accuracy"]
