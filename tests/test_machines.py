"""docs/machines.md: its commands, taken from the page, run with two processes on CPU devices."""

import contextlib
import itertools
import json
import os
import re
import shlex
import socket
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from cyclical_jax.training.contradictions import uneven_batch
from tests import commands
from tests.docs.pages import blocks_of
from tests.docs.shell import commands_of
from tests.helpers import stored

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "machines.md"
TEXT = PAGE.read_text()
COMMANDS = [
    shlex.split(command.replace("\\\n", " "), comments=True)
    for block in blocks_of(PAGE)
    if block.language == "bash"
    for command in commands_of(block.text)
]
TRAIN = ["python", "-m", "experiments.train"]
SLURM = {"SLURM_STEP_NODELIST": "127.0.0.1", "SLURM_LOCALID": "0"}


def the(*words):
    """The commands of the page that have each of the words in some argument."""
    return [c for c in COMMANDS if all(any(word in part for part in c) for word in words)]


def only(*words):
    (command,) = the(*words)
    return command


def free_port(first=0, last=0):
    for port in range(first, last + 1):
        with contextlib.suppress(OSError), socket.socket() as found:
            found.bind(("127.0.0.1", port))
            return found.getsockname()[1]
    raise AssertionError("no port is free")


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return tmp_path_factory.mktemp("shared")


@pytest.fixture
def start(shared):
    """Starts a command of the page with `devices` CPU devices, /shared being a folder of ours."""
    with contextlib.ExitStack() as stack:

        def start(command, *arguments, devices=2, **environment):
            kept = {n: v for n, v in os.environ.items() if not n.startswith(("JAX", "SLURM"))}
            own = {
                "XDG_CACHE_HOME": str(shared / "cache"),
                "JAX_PLATFORMS": "cpu",
                "NPROC": "8",  # tests/conftest.py says why
                "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            }
            words = [word.replace("/shared", str(shared)) for word in [*command, *arguments]]
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
            process = subprocess.Popen(words, cwd=ROOT, env=kept | own | environment, **pipes)
            stack.callback(process.communicate)
            stack.callback(process.kill)
            return process

        yield start


def finish(*processes):
    ended = [process.communicate(timeout=250) for process in processes]
    for process, (_, err) in zip(processes, ended, strict=True):
        assert process.returncode == 0, err
    return [out for out, _ in ended]


def rows(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def assert_trained_by(workdir, *, devices, processes):
    (start,) = stored(workdir / "environment.json")
    assert start["hardware"].startswith(f"{devices} x cpu")
    assert start["processes"] == processes
    assert 0.96 < stored(workdir / "result.json")["test_accuracy"] < 1


@pytest.fixture
def alone(start, shared):
    """Step 2, which later steps are compared with."""
    if not (shared / "first").exists():
        (out,) = finish(start(only(*TRAIN, "/shared/first"), devices=4))
        assert "test accuracy" in out
    return shared / "first"


def assert_same_but_rounding(one, other):
    for row, expected in itertools.zip_longest(rows(one), rows(other)):
        for name in ("step", "loss", "accuracy", "val_loss"):
            assert row[name] == pytest.approx(expected[name], rel=1e-3, abs=2e-3)


def test_what_is_installed_exists():
    extras = metadata.metadata("jax").get_all("Provides-Extra")
    asked = set(re.findall(r'"jax\[(\w+)\]"', TEXT))
    assert {"cuda12", "cuda13", "tpu"} == asked and asked <= set(extras)
    installed = [c for c in COMMANDS if c[:2] == ["pip", "install"]]
    assert [c[2] for c in installed] == 2 * [".[train]"]
    pod = shlex.split(only("gcloud", "pip install")[-1])
    assert pod[-2:] == next(c[2:] for c in installed if "jax[tpu]" in c)
    assert "train = [" in (ROOT / "pyproject.toml").read_text()


def test_the_line_about_a_batch_is_the_one_that_comes():
    (line,) = uneven_batch(60, 8)
    assert f"`{line}`" in TEXT


def test_every_command_is_one_that_a_test_here_runs():
    """A new command on the page needs a test; these are the kinds that there are."""
    kinds = [" ".join(itertools.takewhile(lambda word: "=" not in word, c[:3])) for c in COMMANDS]
    assert sorted(filter(None, kinds)) == sorted(
        ["pip install .[train]"] * 2
        + ["python -c import jax; print(jax.device_count(), jax.devices()[0].device_kind)"]
        + ["python -m experiments.train"] * 5
        + ["python -m experiments.prepare_data"] * 2
        + ["cat /shared/first/environment.json", "tail -n 1", "srun"]
        + 3 * ["gcloud compute tpus"]
    )


def test_what_needs_imagenet_or_a_cluster_is_at_least_right():
    """The ImageNet run's flags are right; the others are those that run, but for the place."""
    command = only(*TRAIN, "imagenet.py")
    ended = commands.in_this_process("train", *command[3:], "--print_config")
    assert ended.returncode == 0, ended.stderr
    place = re.compile(r"--(workdir|coordinator)=|CUDA_VISIBLE_DEVICES=")
    two, elsewhere = (
        [[word for word in c if not place.match(word)] for c in the("--process_id", address)]
        for address in ("127.0.0.1", "10.0.0.1")
    )
    assert two == elsewhere and [c[-1] for c in two] == ["--process_id=0", "--process_id=1"]
    pod = shlex.split(only("gcloud", "experiments.train")[-1].removeprefix("--command="))
    slurm = only("srun")
    ours = [c[c.index("python") :] for c in (pod, slurm)]
    assert ours[0][:-1] == ours[1][:-1] and "--distributed" in ours[0]


@pytest.mark.slow
def test_one_machine(start, shared, alone):
    (out,) = finish(start(only("import jax;"), devices=4))
    assert out == "4 cpu\n"
    assert_trained_by(alone, devices=4, processes=1)
    (out,) = finish(start(only("cat", "/shared/first")))
    assert '"hardware": "4 x cpu' in out


@pytest.mark.slow
def test_something_larger(start, shared):
    finish(start(only("prepare_data", "fashion_mnist")))
    finish(
        start(only(*TRAIN, "fashion"), "--config.duration=4 steps", "--config.log_every=4 steps")
    )
    (out,) = finish(start(only("tail", "/shared/fashion")))
    assert json.loads(out)["images_per_second"] > 0


@pytest.mark.slow
def test_two_processes_on_one_machine(start, shared, alone):
    port, processes = free_port(), []
    for command in the("--coordinator=127.0.0.1:1234"):
        assert re.fullmatch(r"CUDA_VISIBLE_DEVICES=[0-7,]+", command[0])
        processes.append(start([word.replace("1234", str(port)) for word in command[1:]]))
    finish(*processes)
    assert_trained_by(shared / "two", devices=4, processes=2)
    assert_same_but_rounding(shared / "two", alone)


@pytest.mark.slow
def test_slurm_tells_two_processes_their_places(start, shared, alone):
    command = only("srun")
    command = command[command.index("python") :]
    job = free_port(61440, 65535) - 61440  # the port that JAX makes of a job's number
    cluster = SLURM | {"SLURM_JOB_ID": str(job), "SLURM_STEP_TASKS_PER_NODE": "1(x2)"}
    places = [{"SLURM_NTASKS": "2", "SLURM_PROCID": str(number)} for number in range(2)]
    finish(*(start(command, **cluster, **place) for place in places))
    assert_trained_by(shared / "slurm", devices=4, processes=2)
    assert_same_but_rounding(shared / "slurm", alone)


@pytest.mark.slow
@pytest.mark.parametrize("tasks, gpus", [("1", "all"), ("8", "0")])
def test_a_process_of_slurm_sees_all_gpus_if_it_is_the_only_one_there(start, tasks, gpus):
    """JAX alone would show it one of eight, whatever its number of processes."""
    program = (
        "import jax, os; from experiments import command_line;"
        "jax.distributed.initialize(local_device_ids=command_line.devices_of(os.environ));"
        "print(jax.config.read('jax_cuda_visible_devices'))"
    )
    job = free_port(61440, 65535) - 61440
    cluster = SLURM | {"SLURM_JOB_ID": str(job), "SLURM_STEP_TASKS_PER_NODE": tasks}
    place = {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}
    (out,) = finish(start(["python", "-c", program], **cluster, **place))
    assert out.split() == [gpus]
