"""What a command line makes of a config, and where compiled programs are kept."""

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from absl import flags
from ml_collections import ConfigDict

from cyclical_jax.catalogue import parse
from cyclical_jax.training.fields import RecipeError
from cyclical_jax.training.files import WorkdirError
from experiments import command_line
from tests import commands

ROOT = Path(__file__).parents[2]
DIGITS = "--config=configs/digits.py"
CONFIG = command_line.define_config()


@pytest.fixture
def run(monkeypatch, capsys):
    """`command_line.run` of a script with those arguments: its exit code and its lines of error."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(command_line, "use_compilation_cache", lambda: None)  # of all other tests

    def call(main, *arguments):
        for name in ("config", "set"):
            flags.FLAGS[name].unparse()
        monkeypatch.setattr(sys, "argv", ["script", *arguments])
        with pytest.raises(SystemExit) as exit:
            command_line.run(main)
        return exit.value.code, capsys.readouterr().err.splitlines()

    return call


@pytest.fixture
def config_of(run):
    def call(*arguments) -> ConfigDict:
        configs = []
        code, _ = run(lambda: configs.append(command_line.config_of(CONFIG)), *arguments)
        assert code is None
        return configs[0]

    return call


def at(config: ConfigDict, key: str):
    value = config
    for name in key.split("."):
        value = value[name]
    return value.to_dict() if isinstance(value, ConfigDict) else value


# ---- the GPUs of one of several processes


@pytest.mark.parametrize("tasks, expected", [("1", []), ("1(x16)", []), ("8", None), ("1,2", None)])
def test_the_only_process_of_a_machine_takes_all_gpus(tasks, expected):
    """Here SLURM's; tests/test_machines.py shows what JAX makes of an empty list."""
    slurm = {"SLURM_STEP_TASKS_PER_NODE": tasks, "SLURM_LOCALID": "0"}
    assert command_line.devices_of(slurm) == expected
    assert command_line.devices_of(slurm | {"JAX_LOCAL_DEVICE_IDS": "0,1"}) is None


@pytest.mark.parametrize("size, expected", [("1", []), ("8", None), (None, None)])
def test_so_does_open_mpis(size, expected):
    environment = {} if size is None else {"OMPI_COMM_WORLD_LOCAL_SIZE": size}
    assert command_line.devices_of(environment) == expected


# ---- changes of a config


@pytest.mark.parametrize(
    "arguments, key, expected",
    [
        (["--config.seed=3"], "seed", 3),
        (["--config.seed", "3"], "seed", 3),
        (["-config.seed=3"], "seed", 3),
        (["--config.seed=1", "--config.seed=2"], "seed", 2),
        (["--set=seed=3"], "seed", 3),
        (["--config.batch_size=1e4"], "batch_size", 1e4),
        (["--config.batch_size", "-1"], "batch_size", -1),
        (["--config.batch_size=many"], "batch_size", "many"),
        (["--config.duration=1.5 epochs"], "duration", "1.5 epochs"),
        (["--config.duration", "7 steps"], "duration", "7 steps"),
        (["--config.duration='7 steps'"], "duration", "7 steps"),
        (["--config.loop=streamed"], "loop", "streamed"),
        (["--config.data_dir=/a=b/c"], "data_dir", "/a=b/c"),
        (["--config.data_dir="], "data_dir", ""),
        (["--config.data_dir=a,b"], "data_dir", "a,b"),
        (["--config.data_dir=a\nb"], "data_dir", "a\nb"),
        (["--config.optimizer.weight_decay=None"], "optimizer.weight_decay", None),
        (["--config.optimizer.weight_decay=none"], "optimizer.weight_decay", None),
        (["--config.model.batch_norm=True"], "model.batch_norm", True),
        (["--config.model.batch_norm=true"], "model.batch_norm", True),
        (["--config.model.batch_norm=TRUE"], "model.batch_norm", True),
        (["--config.optimizer.nesterov", "false"], "optimizer.nesterov", False),
        (["--config.model.hidden_sizes=(32, 16)"], "model.hidden_sizes", (32, 16)),
        (["--config.model.hidden_sizes=(32,)"], "model.hidden_sizes", (32,)),
        (["--config.model.hidden_sizes=()"], "model.hidden_sizes", ()),
        (["--config.model.hidden_sizes=[5]"], "model.hidden_sizes", (5,)),
        (["--config.optimizer.max_norm= 2.5 "], "optimizer.max_norm", 2.5),
        (
            ["--config.optimizer.weight_decay=cyclical(1e-4, 2e-3)"],
            "optimizer.weight_decay",
            {"easy": 1e-4, "hard": 2e-3},
        ),
        (
            ["--config.optimizer.weight_decay", "cyclical(1e-4, hard=2e-3, factor=4)"],
            "optimizer.weight_decay",
            {"easy": 1e-4, "hard": 2e-3, "factor": 4},
        ),
        (
            ["--config.ema_decay=cyclical(easy=.9, hard=.99, shape='rex', scale='log')"],
            "ema_decay",
            {"easy": 0.9, "hard": 0.99, "shape": "rex", "scale": "log"},
        ),
        (["--config.cycle.shape=('rex', 'early_rex')"], "cycle.shape", ("rex", "early_rex")),
        (
            ["--config.ema_decay=cyclical(.9, .99, shape=('rex', 'early_rex'))"],
            "ema_decay",
            {"easy": 0.9, "hard": 0.99, "shape": ("rex", "early_rex")},
        ),
        (
            ["--config.optimizer.weight_decay.easy=1e-4", "--config.optimizer.weight_decay.hard=1"],
            "optimizer.weight_decay",
            {"easy": 1e-4, "hard": 1},
        ),
        (["--config.loss.hardness.hard=0.5"], "loss.hardness", {"easy": 0.0, "hard": 0.5}),
        (
            ["--config.optimizer.max_norm={'easy': 1, 'hard': 2}"],
            "optimizer.max_norm",
            {"easy": 1, "hard": 2},
        ),
        # what is no literal is a string, for `parse` to refuse
        (["--config.seed=cyclical(1, 2, 3)"], "seed", "cyclical(1, 2, 3)"),
        (["--config.seed=cyclical(1, x)"], "seed", "cyclical(1, x)"),
        (["--config.seed=os.getpid()"], "seed", "os.getpid()"),
        (["--config.seed=1+1"], "seed", "1+1"),
        (["--config.tpyo=1"], "tpyo", 1),
        (["--config.lodd.temperature=1"], "lodd", {"temperature": 1}),
        (["--config.seed.deep=1"], "seed", {"deep": 1}),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_an_argument_changes_the_config(config_of, arguments, key, expected, first):
    config = config_of(*([DIGITS, *arguments] if first else [*arguments, DIGITS]))
    actual = at(config, key)
    assert actual == expected and type(actual) is type(expected)


def test_all_else_stays_as_the_config_file_has_it(config_of):
    plain, changed = config_of(DIGITS), config_of(DIGITS, "--config.optimizer.momentum=0.7")
    assert changed != plain
    changed.optimizer.momentum = plain.optimizer.momentum
    assert changed == plain
    assert parse(plain).numbers["optimizer.momentum"].easy == 0.9


@pytest.mark.parametrize(
    "arguments, line",
    [
        (["--config.batch_size=many"], "batch_size must be a number, got 'many'."),
        (
            ["--config.seed=cyclical(1, 2)"],
            "seed must be a number, got {'easy': 1, 'hard': 2}.",
        ),
        (
            ["--config.optimizer.weight_decay=cyclical(1, 2, 3)"],
            "optimizer.weight_decay must be a number or cyclical(easy, hard), got 'cyclical(1, 2",
        ),
        (
            ["--config.optimizer.weight_decay.hard=1"],
            "optimizer.weight_decay.easy is missing beside optimizer.weight_decay.hard; "
            "a cycle needs easy and hard.",
        ),
        (
            ["--config.optimizer.weight_decay=cyclical(1, 2, hrad=3)"],
            "optimizer.weight_decay.hrad is not a key of a cycle: easy, hard, factor, shape, "
            "scale.",
        ),
        (["--config.model.batch_norm", "--config.seed=1"], "--config.model.batch_norm needs a val"),
        (["--config.optimizer.weight_decay"], "--config.optimizer.weight_decay needs a value"),
        (["--config.model=cnn"], "model must be a section of model.name, model.hidden_sizes, "),
        (["--config.items=3"], "items is not a key of a config; nearest: "),
    ],
)
def test_a_wrong_value_is_the_business_of_parse(run, arguments, line):
    code, lines = run(lambda: parse(command_line.config_of(CONFIG)), DIGITS, *arguments)
    assert code == 2
    assert [actual[: len(line)] for actual in lines] == [line]


def test_a_reference_follows_a_change_and_a_changed_config_has_none(config_of, tmp_path):
    file = tmp_path / "linked.py"
    file.write_text(
        "from configs import digits\n"
        "def get_config():\n"
        "    config = digits.get_config('weight_decay')\n"
        "    config.loss.gamma_pos = config.loss.get_ref('gamma_neg')\n"
        "    config.optimizer.max_norm = config.get_ref('batch_size') * 2\n"
        "    config.lock()\n"
        "    return config\n"
    )
    config = config_of(
        f"--config={file}", "--config.loss.gamma_neg=5", "--config.batch_size=8", "--config.new=1"
    )
    assert (config.loss.gamma_pos, config.optimizer.max_norm, config.new) == (5, 16, 1)
    assert config.get_type("loss") is ConfigDict
    config.batch_size = 9
    assert config.optimizer.max_norm == 16


def test_a_config_that_keeps_to_its_types_takes_any_value_too(config_of, tmp_path):
    file = tmp_path / "typed.py"
    file.write_text(
        "from configs import default\n"
        "from ml_collections import ConfigDict\n"
        "def get_config():\n"
        "    return ConfigDict(default.get_config().to_dict())\n"
    )
    config = config_of(
        f"--config={file}", "--config.batch_size=many", "--config.model.hidden_sizes=5"
    )
    assert (config.batch_size, config.model.hidden_sizes) == ("many", 5)


def test_a_variant_of_the_config_is_changed_too(config_of):
    config = config_of(f"{DIGITS}:focal", "--config.loss.gamma_hc=2")
    assert (config.loss.name, config.loss.gamma_hc) == ("cyclical_focal", 2)


# ---- what ends a script


NOT_READ = "the config was read, and should not have been"


def read_config():
    command_line.config_of(CONFIG)
    raise AssertionError(NOT_READ)


@pytest.mark.parametrize(
    "arguments, line",
    [
        (
            ["--config=configs/digist.py"],
            "--config configs/digist.py does not exist; there are configs/digits.py, ",
        ),
        (
            ["--config=configs/fashion.py", "--config.seed=1"],
            "--config configs/fashion.py does not exist; there are configs/fashion_mnist.py",
        ),
        (["--config=nowhere/digits.py"], "--config nowhere/digits.py does not exist."),
        ([DIGITS, "stray"], "unknown argument 'stray'"),
        ([DIGITS, "--sed=1"], "Unknown command line flag 'sed'. Did you mean: set, "),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(run, arguments, line):
    code, lines = run(read_config, *arguments)
    assert code == 2
    assert [actual[: len(line)] for actual in lines] == [line]


def test_the_configs_there_are_are_all_named_where_none_is_near(run, tmp_path):
    for name in ("b.py", "a.py", "c.txt"):
        (tmp_path / name).touch()
    _, lines = run(read_config, f"--config={tmp_path}/qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq")
    named = re.findall(r"\S+\.(?:py|txt)", lines[0])
    assert named == [f"{tmp_path}/a.py", f"{tmp_path}/b.py"] or not lines[0].endswith("c.txt.")


def test_an_unknown_variant_is_told_with_those_there_are(run):
    code, (line,) = run(read_config, f"{DIGITS}:wd")
    assert code == 2
    assert "'wd' is not a variant of this config; it has plain, weight_decay, " in line


@pytest.mark.parametrize(
    "argument",
    [
        "--config.seed={[]: 1}",
        "--config.seed={[1]}",
        "--config.=3",
        "--config.seed=cyclical(1, **{'hard': 2})",
    ],
)
def test_an_odd_argument_is_a_line_too(run, argument):
    code, lines = run(lambda: parse(command_line.config_of(CONFIG)), DIGITS, argument)
    assert code == 2 and len(lines) == 1


def test_an_end_that_is_given_twice_is_refused(config_of):
    config = config_of(DIGITS, "--config.optimizer.momentum=cyclical(0.1, 0.2, easy=0.3)")
    assert config.optimizer.momentum == "cyclical(0.1, 0.2, easy=0.3)"


def test_a_config_that_is_there_is_not_said_to_be_missing(run, tmp_path):
    file = tmp_path / "reads.py"
    file.write_text("def get_config():\n    open('/nowhere/else')\n")
    _, lines = run(read_config, f"--config={file}")
    assert "does not exist" not in " ".join(lines)


@pytest.mark.parametrize("error", [RecipeError("one\ntwo"), WorkdirError("one\ntwo")])
def test_an_error_that_a_user_can_mend_is_its_message(run, error):
    def fail():
        raise error

    assert run(fail) == (2, ["one", "two"])


def test_an_interrupted_script_says_so(run):
    def interrupt():
        raise KeyboardInterrupt

    assert run(interrupt) == (130, ["interrupted"])


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_what_the_system_refuses_is_a_line_that_names_the_file(run, code):
    def fail():
        raise OSError(code, os.strerror(code), "runs/a/config.json")

    line = f"runs/a/config.json cannot be used: {os.strerror(code)}."
    assert run(fail) == (2, [line])


def test_a_computation_that_misses_another_process_is_a_line(run):
    text = "UNKNOWN: Gloo all-reduce failed: Connection reset by peer"

    def fail():
        raise jax.errors.JaxRuntimeError(f"{text}\n\nand more")

    line = f"another process has ended; give the same commands again to go on ({text})"
    assert run(fail) == (2, [line])


def test_a_file_that_is_not_there_is_a_mistake_of_the_program(run):
    def fail():
        raise FileNotFoundError(errno.ENOENT, "No such file", "runs/a/config.json")

    with pytest.raises(FileNotFoundError):
        run(fail)


def test_any_other_error_is_raised(run):
    with pytest.raises(ZeroDivisionError):
        run(lambda: 1 // 0)


LOGS = """
import logging, sys
from absl import logging as absl_logging
from experiments import command_line

def main():
    absl_logging.warning("OpenCV is not installed.")
    absl_logging.error("It is wrong.")
    logging.getLogger("cyclical_jax.training.logs").warning("It cannot be locked.")

sys.argv[1:] = []
command_line.run(main)
"""


def test_the_advice_of_libraries_is_not_shown_and_what_we_say_is():
    command = [sys.executable, "-c", LOGS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    told = [line.partition("] ")[2] for line in done.stderr.splitlines()]
    assert told == ["It is wrong.", "It cannot be locked."]


def test_a_config_without_its_flag_is_told_how_to_be_given(run):
    flags.mark_flag_as_required("config")
    try:
        code, lines = run(read_config, "configs/digits.py")
    finally:
        flags.FLAGS["config"].validators.clear()
    assert code == 2 and lines == [
        "--config must be given: Config file, such as configs/digits.py; a colon and a "
        "variant may follow. Write --config=configs/digits.py."
    ]


# ---- the compilation cache

SCRIPT = """
import jax, sys
from experiments import command_line

def main():
    hits = []
    listen = lambda event, **_: hits.append(event) if event.endswith("/cache_hits") else None
    jax.monitoring.register_event_listener(listen)
    jax.jit(lambda x: x * 3 + 1)(1.0)
    print(jax.config.jax_compilation_cache_dir, len(hits))

sys.argv[1:] = []
command_line.run(main)
"""


def cache_and_hits(**environment):
    """Of a new process: its cache directory, and the programs that it found there."""
    inherited = {name: value for name, value in os.environ.items() if "CACHE" not in name}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=inherited | environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    directory, hits = done.stdout.split()
    return Path(directory), int(hits)


@pytest.mark.parametrize(
    "variable, directory",
    [("XDG_CACHE_HOME", "cyclical_jax"), ("HOME", ".cache/cyclical_jax")],
)
def test_a_second_process_finds_its_programs_compiled(tmp_path, variable, directory):
    environment = {variable: str(tmp_path)}
    if variable == "HOME":
        environment["XDG_CACHE_HOME"] = ""
    cache, hits = cache_and_hits(**environment)
    assert cache.parent == tmp_path / directory and hits == 0
    assert list(cache.glob("jit__lambda*"))
    _, hits = cache_and_hits(**environment)
    assert hits == 1


def test_a_cache_that_jax_was_told_of_is_kept(tmp_path):
    own, other = tmp_path / "own", tmp_path / "xdg"
    directory, _ = cache_and_hits(JAX_COMPILATION_CACHE_DIR=str(own), XDG_CACHE_HOME=str(other))
    assert directory == own
    assert not other.exists()


@pytest.mark.parametrize(
    "code, line",
    [
        ("x = (1\n", r".*mine.py, line 1: SyntaxError: .*never closed.*"),
        ("\nimport nonexistent\n", r".*mine.py, line 2: ModuleNotFoundError: No module named .*"),
        ("def get_config():\n    return 1 / 0\n", r".*mine.py, line 2: ZeroDivisionError: .*"),
    ],
)
def test_a_config_file_that_fails_is_told_with_its_line(run, tmp_path, code, line):
    file = tmp_path / "mine.py"
    file.write_text(code)
    exit_code, (actual,) = run(read_config, f"--config={file}")
    assert exit_code == 2 and re.fullmatch(line, actual)


@pytest.mark.parametrize(
    "script, listed",
    [
        ("train", {"config", "set", "plugin", "workdir", "keep", "coordinator"}),
        ("table", {"table", "datasets", "workdir", "data_dir", "plugin"}),
        ("evaluate", {"workdir", "data_dir", "confusion", "plugin"}),
        ("preview", {"config", "set", "plugin", "workdir"}),
    ],
)
def test_the_help_of_a_command_lists_the_options_that_it_takes(script, listed):
    out = commands.in_this_process(script, "--help").stdout
    found = re.findall(r"^  --(?:\[no\])?(\w+):", out, re.MULTILINE)
    assert listed <= {*found} and len(found) == len({*found})
    assert ("coordinator" in found) == (script == "train")


NO_CONFIG = {
    "augmentations": ["--output=none.png"],
    "demo": ["--workdir=none"],
    "evaluate": ["--workdir=none"],
    "prepare_data": ["--dataset=digits"],
    "report": ["--results=none"],
    "table": ["--table=focal_loss"],
    "tune": ["--table=focal_loss"],
}
CONFIG_OF_ITS_OWN = "changes a config, and this command reads none."
UNREAD = [
    ("--config.nonsense=3", f"--config.nonsense {CONFIG_OF_ITS_OWN}"),
    ('--config.precision.keep=("a",)', f"--config.precision.keep {CONFIG_OF_ITS_OWN}"),
    ("--set=seed=1", f"--config.seed {CONFIG_OF_ITS_OWN}"),
    ("--distributed", "--distributed is not an option of this command."),
    ("--coordinator=here:1", "--coordinator is not an option of this command."),
]


def test_the_commands_without_a_config_are_all_there():
    scripts = {file.stem: file.read_text() for file in (ROOT / "experiments").glob("*.py")}
    commands_ = {name for name, text in scripts.items() if "\n    command_line.run(" in text}
    assert NO_CONFIG.keys() == {
        name for name in commands_ if "command_line.define_config()" not in scripts[name]
    }


@pytest.mark.parametrize("script", NO_CONFIG)
def test_what_a_command_does_not_read_is_refused(script, tmp_path):
    for option, line in UNREAD:
        ended = commands.in_this_process(script, *NO_CONFIG[script], option, cwd=tmp_path)
        assert ended == (2, "", f"{line}\n"), option
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("script", ["augmentations", "demo", "prepare_data", "report"])
def test_a_plugin_is_refused_where_none_is_read(script, tmp_path):
    ended = commands.in_this_process(script, *NO_CONFIG[script], "--plugin=x.py", cwd=tmp_path)
    assert ended == (2, "", "--plugin is not an option of this command.\n")
