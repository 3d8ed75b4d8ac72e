"""benchmarks/accelerators.py: its tables and errors here; in the slow suite, programs for TPUs."""

import importlib.util
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import accelerator_tables, accelerators, one_program, programs
from tests import programs_for_tpus

pytestmark = pytest.mark.usefixtures("fast_compilation")

ROOT = Path(__file__).parents[1]
ROW = {
    "topology": "v5e:2x2",
    "recipe": "resnet50",
    "flops": 3.0853e12,
    "bytes": 49.57e9,
    "optimal_seconds": 0.06943,
    "cycles": 110_790_000,
    "peak_bytes": 4.39 * 2**30,
    "collectives": {"all-reduce": [102_400_000, 3300]},
    "copies": [["f32[2]", 2_000_000]],
    "convolutions": 161,
    "bf16_convolutions": 158,
    "code": "918c8d0" + 33 * "0",
}
PLAIN = ROW | {"recipe": "resnet50 plain", "cycles": 110_790_000 / 1.009, "optimal_seconds": None}
DEAD = {"topology": "v6e:2x2", "recipe": "resnet50", "error": "the compiler died of SIGSEGV"}


# ---- the command


def run_main(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["accelerators", *map(str, arguments)])
    accelerators.main()
    return capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["--topologies", "v5e"], "--topologies: 'v5e' must be as"),
        (["--topologies", "h100:1x1x4"], "h100:1x1x4 needs --gpu_target"),
        (["--topologies", "h100:1x1x4", "--gpu_target", "no.txt"], "--gpu_target no.txt is not"),
        (["--topologies", "v5e:2x2", "--recipes", "resnet"], "there is no 'resnet'; there are res"),
        (["--topologies", "v5e:2x2", "--flax", "nowhere"], "--flax nowhere must be a folder"),
        ([], "--topologies must name one"),
    ],
)
def test_a_mistake_is_a_line_before_anything_is_compiled(arguments, says, monkeypatch, capsys):
    monkeypatch.setattr(subprocess, "run", None)
    with pytest.raises(SystemExit) as ended:
        run_main(monkeypatch, capsys, *arguments)
    assert says in ended.value.code and "\n" not in ended.value.code


def test_what_is_in_the_results_is_not_compiled_again(monkeypatch, capsys, tmp_path):
    results = tmp_path / "results.jsonl"
    missing = {"topology": "v5e:2x2", "recipe": "mlp", "error": "RuntimeError: no libtpu"}
    lines = [json.dumps(row) for row in (ROW, DEAD, missing)]
    results.write_text("\n".join([*lines, '{"topology": "v5e:2x2", "rec']) + "\n")
    compiled = []
    monkeypatch.setattr(
        accelerators,
        "_compiled",
        lambda _, *names: compiled.append(names) or {"error": DEAD["error"]},
    )
    given = ["--topologies", "v5e:2x2", "v6e:2x2", "--recipes", "resnet50", "mlp"]
    first = run_main(monkeypatch, capsys, *given, "--results", results)
    assert run_main(monkeypatch, capsys, *given, "--results", results) == first
    assert compiled == [("v5e:2x2", "mlp"), ("v6e:2x2", "mlp")]
    assert "| resnet50 | v6e:2x2 | the compiler died of SIGSEGV |" in first
    assert first.startswith("Estimated by the compiler; nothing here ran on a device.\n")


def test_the_commands_of_the_docs_are_understood(monkeypatch):
    text = (ROOT / "docs" / "accelerators.md").read_text().replace("\\\n", " ")
    commands = re.findall(r"^ *python -m benchmarks\.accelerators (.*)$", text, re.MULTILINE)
    assert len(commands) > 2
    monkeypatch.setattr(Path, "is_file", lambda path: True)  # the reader's own
    for command in commands:
        monkeypatch.setattr(sys, "argv", ["accelerators", *shlex.split(command)])
        assert accelerators._options().recipes


@pytest.mark.parametrize(
    "code, out, err, expected",
    [
        (0, 'a word of libtpu\n{"flops": 2}\n', "warnings", {"flops": 2}),
        (-11, "", "*** SIGSEGV ***", {"error": "the compiler died of SIGSEGV"}),
        (1, "", "Traceback\nValueError: no such chip\n", {"error": "ValueError: no such chip"}),
        (1, "", "", {"error": "ended with 1"}),
    ],
)
def test_how_a_process_ended(code, out, err, expected):
    assert accelerators.outcome(code, out, err) == expected


def test_a_process_compiles_without_looking_for_a_device(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "tpu")
    monkeypatch.setenv("TPU_LIBRARY_PATH", "mine.so")
    environment = accelerators.environment("v5e:2x2")
    assert environment["JAX_PLATFORMS"] == "cpu" and environment["TPU_LIBRARY_PATH"] == "mine.so"
    assert accelerators.environment(one_program.LOCAL)["JAX_PLATFORMS"] == "tpu"


def test_libtpu_is_found_where_make_puts_it(monkeypatch, tmp_path):
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    assert "TPU_LIBRARY_PATH" not in accelerators.environment("v5e:2x2")
    library = tmp_path / "libtpu" / "libtpu" / "libtpu.so"
    library.parent.mkdir(parents=True)
    library.touch()
    assert accelerators.environment("v5e:2x2")["TPU_LIBRARY_PATH"] == str(library)
    monkeypatch.setenv("TPU_LIBRARY_PATH", "mine.so")
    assert accelerators.environment("v5e:2x2")["TPU_LIBRARY_PATH"] == "mine.so"
    assert "LIBTPU := $(VENV)/libtpu\n" in (ROOT / "Makefile").read_text()


# ---- tables


def test_a_program_is_a_line():
    line = accelerator_tables.programs([ROW]).splitlines()[-1]
    assert line == (
        "| resnet50 | v5e:2x2 | 3085 | 49.6 | 4.390 of 16 GiB | 73.9 | 69.4 | 918c8d0 |"
    )


def test_what_is_in_a_program_is_a_line_too():
    line = accelerator_tables.contents([ROW, DEAD]).splitlines()[-1]
    assert line == "| resnet50 | v5e:2x2 | 2, 102.40 MB | 1, 2.0 MB | 158 of 161 |"


def test_a_ratio_needs_both_programs_of_a_topology():
    other = PLAIN | {"topology": "v5e:16x16"}
    assert accelerator_tables.ratios([ROW, DEAD, other]) == ""
    line = accelerator_tables.ratios([PLAIN, other, ROW]).splitlines()[-1]
    assert line == "| cyclical / plain, ResNet-50 | v5e:2x2 | 1.000 | 1.000 | 1.000 | 1.009 | - |"


def test_a_ratio_of_measured_times_is_there_where_both_were_measured():
    timed = [ROW | {"seconds": 0.3}, PLAIN | {"seconds": 0.2}]
    header, _, line = accelerator_tables.ratios(timed).splitlines()
    assert header.endswith("| measured |") and line.endswith("| - | 1.500 |")


# ---- programs that run here


def check_that_it_runs(name, examples):
    devices = one_program.devices_of(one_program.LOCAL)
    program = programs.recipes()[name](devices)
    compiled, found = one_program.compile_(program)
    row = ROW | found | one_program.measured(program, compiled, rounds=1, round_seconds=0)
    assert row["examples_a_second"] == pytest.approx(examples / row["seconds"])
    assert row["num_devices"] == 2 and row["peak_bytes_in_use"] is None
    assert len(accelerator_tables.measurements([row]).splitlines()) == 3


def test_a_run_is_measured_on_random_data():
    """The path of --measure, on the two CPU devices of the tests."""
    check_that_it_runs("plain", examples=2 * programs.BATCH)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["population of 16", "without labels"])
def test_populations_and_techniques_are_measured_too(name):
    members = 16 if name == "population of 16" else 1
    check_that_it_runs(name, examples=2 * programs.BATCH * members)


# ---- programs for TPUs that are not here


@pytest.fixture(scope="module")
def for_tpus():
    """{case of programs_for_tpus.py: its row}, where libtpu is installed."""
    environment = accelerators.environment("v5e:2x2")
    if "TPU_LIBRARY_PATH" not in environment and not importlib.util.find_spec("libtpu"):
        pytest.skip("needs libtpu, which `make test-slow` installs")
    environment |= {"JAX_DISABLE_MOST_OPTIMIZATIONS": "0", "JAX_ENABLE_COMPILATION_CACHE": "false"}
    command = [sys.executable, "-m", "tests.programs_for_tpus"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return dict(zip(programs_for_tpus.CASES, rows, strict=True))


RUNS = [case for case in programs_for_tpus.CASES if case[2] is None]
# Values in force, which the state keeps for the log: a step on its own writes them unread.
UNREAD = {"resident": 0, "streamed": 3}


@pytest.mark.slow
@pytest.mark.parametrize("case", programs_for_tpus.CASES, ids=str)
def test_a_program_for_tpus_takes_the_memory_of_its_state(case, for_tpus):
    row = for_tpus[case]
    assert row["donated"] == row["state_leaves"] - UNREAD[case[0]]
    assert row["alias_bytes"] > 2 * row["params"]  # parameters and momentum


@pytest.mark.slow
@pytest.mark.parametrize("case", RUNS, ids=str)
def test_a_run_on_tpus_averages_its_gradient_once(case, for_tpus):
    row = for_tpus[case]
    (kind,) = row["collectives"]
    *small, gradient = sorted(row["collectives"][kind])
    assert kind == "all-reduce" and row["params"] < gradient < 1.01 * row["params"]
    # Sums and sums of squares of BatchNorm, forwards and backwards.
    of_batch_norm = [2 * 4 * width for width in programs_for_tpus.WIDTHS for _ in range(2)]
    assert small == sorted(of_batch_norm)


@pytest.mark.slow
def test_the_members_of_a_population_need_no_collective(for_tpus):
    assert not for_tpus[programs_for_tpus.CASES[-1]]["collectives"]


@pytest.mark.slow
@pytest.mark.parametrize("case", programs_for_tpus.CASES, ids=str)
def test_a_program_for_tpus_copies_no_split(case, for_tpus):
    assert for_tpus[case]["copies"] == []
