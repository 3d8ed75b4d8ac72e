"""The start of every command of this folder, and its end when something is wrong."""

import ast
import errno
import gc
import hashlib
import json
import os
import platform
import re
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict

from cyclical_jax import data
from cyclical_jax._words import counted
from cyclical_jax.data import shared_memory
from cyclical_jax.training.checkpoints import CheckpointError
from cyclical_jax.training.devices import largest_of_all, text_of_first
from cyclical_jax.training.fields import RecipeError
from cyclical_jax.training.files import WorkdirError, plain
from cyclical_jax.training.keeper import StoppedError
from cyclical_jax.training.run import NonFiniteError
from cyclical_jax.training.workdirs import config_differences
from experiments import IS_COMMAND, compiled_programs, config_files, ending, plugins, waiting

EXPECTED_ERRORS = (
    RecipeError,
    data.DatasetNotFoundError,
    data.DamagedExampleError,
    WorkdirError,
    CheckpointError,
    NonFiniteError,
)

# No mistake of a program's: another user's file, or a disk that is full, read-only or broken.
_OF_THE_MACHINE = {
    getattr(errno, name) for name in "EACCES EPERM EROFS ENOSPC EDQUOT EIO ESTALE".split()
}
# What a computation of several processes says where one of them is gone.
_OF_OTHERS = re.compile(r"Gloo|NCCL|coordination service", re.IGNORECASE)

_SET = flags.DEFINE_multi_string(
    "set", [], "Change of the config, as key=value; --config.seed=1 means the same as --set=seed=1."
)
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "Join several processes that train one model; the cluster numbers them."
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of process 0, where no cluster sets it; implies --distributed."
)
_NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", None, "Number of processes, with --coordinator."
)
_PROCESS_ID = flags.DEFINE_integer(
    "process_id", None, "Number of this process, from 0, with --coordinator."
)
_SHARED = ("plugin", "distributed", "coordinator", "num_processes", "process_id")
flags.disclaim_key_flags()  # what is defined from here on belongs to the file that calls


def run(main: Callable[[], None], *, device_a_core: bool = False) -> None:
    """Parses the flags and calls `main`.

    An error that a user can mend ends the process with one line and exit code 2. With
    `device_a_core` each core of a CPU is a device, for populations, whose devices share nothing.
    """
    logging.set_verbosity(logging.WARNING)
    if IS_COMMAND:  # what is imported lives to the end: to look for garbage in it takes 0.4 s
        gc.freeze()
    if device_a_core:
        jax.config.update("jax_num_cpu_devices", num_cores())
    sys.argv[1:] = _as_set(sys.argv[1:])

    def guarded_main(argv):
        _be_quiet()
        shared_memory.remove_left()
        if argv[1:]:
            _end(f"unknown argument {argv[1]!r}")
        _refuse_unread()
        use_compilation_cache()
        try:
            main()
        except EXPECTED_ERRORS as error:
            _end(str(error))
        except KeyboardInterrupt:
            _leave_others("interrupted", code=130)
            _end("interrupted", code=130)
        except BrokenPipeError:  # of `| head`, which has read enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except Exception as error:
            if isinstance(error, OSError) and error.filename and error.errno in _OF_THE_MACHINE:
                _end(f"{error.filename} cannot be used: {error.strerror}.")
            if isinstance(error, jax.errors.JaxRuntimeError) and _OF_OTHERS.search(str(error)):
                line = _first_line(error)
                _end(f"another process has ended; give the same commands again to go on ({line})")
            _leave_others(traceback.format_exc(), code=1)
            raise

    with ending.ending_in_time():
        app.run(guarded_main, flags_parser=_parse_flags)


def _refuse_unread() -> None:
    """Ends the process if a flag of all commands is given that this command does not read.

    Those that it reads are its key flags, which --help lists.
    """
    read = {flag.name for of in flags.FLAGS.key_flags_by_module_dict().values() for flag in of}
    for name in _SHARED:
        if name not in read and flags.FLAGS[name].present:
            _end(f"--{name} is not an option of this command.")
    if "set" not in read and _SET.value:
        key = _SET.value[0].partition("=")[0]
        _end(f"--config.{key} changes a config, and this command reads none.")


def define_config() -> flags.FlagHolder:
    """Defines --config, for `config_of`; --help lists it, --set and --plugin."""
    flags.declare_key_flag("set")
    flags.declare_key_flag("plugin")
    return flags.DEFINE_string(
        "config", None, "Config file, such as configs/digits.py; a colon and a variant may follow."
    )


def _be_quiet() -> None:
    """Hides advice that libraries log through absl: TFDS's on OpenCV, Orbax's on shardings.

    It comes after the flags are parsed, which sets the level too.
    """
    logging.get_absl_logger().setLevel("ERROR")


def join_processes() -> None:
    """Joins the processes that train together, if the flags say so; call it before all else."""
    place = (_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    given = [value is not None for value in place]
    if any(given) and not all(given):
        _end("--coordinator, --num_processes and --process_id must be given together.")
    if not (_DISTRIBUTED.value or any(given)):
        return
    coordinator, number, own = place
    address = re.fullmatch(r".+:([0-9]+)", coordinator or "")
    if coordinator and not (address and 0 < int(address[1]) < 2**16):
        _end(f"--coordinator must be HOST:PORT, such as 10.0.0.1:1234, got {coordinator!r}.")
    if number is not None and not 0 <= own < number:
        _end(f"--process_id must be from 0 to {number - 1}, got {own}.")
    if address and own == 0:
        _check_port(coordinator, int(address[1]))
    # It would take SIGTERM for itself, and say so only by another way.
    jax.config.update("jax_enable_preemption_service", False)
    all_of_them = counted(number, "process", "processes") if number else "all processes"
    print(f"waiting up to 5 minutes for {all_of_them}", file=sys.stderr, flush=True)
    try:
        jax.distributed.initialize(*place, local_device_ids=devices_of(os.environ))
    except (RuntimeError, ValueError) as error:
        _end(
            f"--distributed: {_last_line(error)} If no cluster sets them, give --coordinator, "
            "--num_processes and --process_id."
        )


def devices_of(environment: Mapping[str, str]) -> list[int] | None:
    """Returns the device numbers that make JAX use all GPUs of a machine with one process.

    JAX gives a process of SLURM or Open MPI the one GPU with the process's number on its machine,
    even where the process is the only one. An empty list means every GPU.
    """
    tasks = environment.get("SLURM_STEP_TASKS_PER_NODE", "")  # such as "1(x4)", or "8,7"
    is_alone = re.fullmatch(r"1(\(x\d+\))?", tasks)
    is_alone = is_alone or environment.get("OMPI_COMM_WORLD_LOCAL_SIZE") == "1"
    return [] if is_alone and not environment.get("JAX_LOCAL_DEVICE_IDS") else None


def _check_port(coordinator: str, port: int) -> None:
    """Ends the process unless it can open the port at which it waits for the other processes."""
    both = socket.has_dualstack_ipv6()  # as JAX does: every address of the machine
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        socket.create_server(("", port), family=family, dualstack_ipv6=both).close()
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        _end(
            f"--coordinator {coordinator}: port {port}: {reason}. Give all processes another port."
        )


def check_alike(config: ConfigDict, **options: Any) -> None:
    """Raises RecipeError, in all processes, unless all were given the same config and options."""
    own = plain(config.to_dict() | options)
    lines = config_differences(json.loads(text_of_first(json.dumps(own))), own, {})
    (differs,) = largest_of_all([bool(lines)])
    if differs:
        these = f"the first (there) and this one (here) differ: {'; '.join(lines)}"
        which = these if lines else "another one differs from the first"
        raise RecipeError(f"all processes must have the same config and flags; {which}.")


class Stopping:
    """A context that tells whether SIGTERM, SIGUSR1 or Ctrl-C has asked this process to end.

    Before it is called for the first time, a signal ends the process as usual, because there is
    nothing to save yet. A second signal does so too, because somebody is in a hurry.
    """

    def __init__(self):
        self.signal: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Stopping":
        return self

    def __exit__(self, error_type, error, traceback) -> None:
        self._restore()
        if isinstance(error, StoppedError):  # also where another process was asked
            _end(
                f"{error}; give the same command again to go on",
                code=128 + (self.signal or signal.SIGTERM),
            )

    def __call__(self) -> bool:
        if not self._previous and self.signal is None:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
                self._previous[number] = signal.signal(number, self._note)
        return self.signal is not None

    def _note(self, number, frame) -> None:
        self.signal = number
        self._restore()

    def _restore(self) -> None:
        while self._previous:
            signal.signal(*self._previous.popitem())


def num_cores() -> int:
    """Returns the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def use_compilation_cache() -> None:
    """Keeps compiled programs in the user's cache folder, unless JAX was given another one."""
    is_told = jax.config.jax_compilation_cache_dir is not None
    if is_told or not jax.config.jax_enable_compilation_cache:
        return
    caches = Path(os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache"))
    compiled_programs.keep_in(caches / "cyclical_jax" / f"programs-{_kind_of_cpu()}")


def _kind_of_cpu() -> str:
    """Returns a word for the kind of CPU: a program for one may crash on another one."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return f"{platform.machine()}-{hashlib.sha256(features.encode()).hexdigest()[:8]}"


def config_of(flag: flags.FlagHolder) -> ConfigDict:
    """Returns the config of a flag, with the changes from the command line.

    The value of a change is a Python literal, `cyclical(easy, hard)` as in a config file, or else a
    string; `parse` checks it.
    """
    config = plugins.with_their_keys(config_files.load(flag.value, plugins.catalogue()))
    changes = (change.partition("=") for change in _SET.value)
    plugins.change(config, {key: _value(text) for key, _, text in changes})
    return config.copy_and_resolve_references()


def _as_set(arguments: list[str]) -> list[str]:
    """Returns the arguments with `--set=key=value` for each `--config.key=value`.

    A space may take the place of the "=".

    ml_collections would parse `--config.key` itself: it stops at the first value of a wrong type,
    refuses None, and shows a traceback for a key that does not exist.
    """
    waiting, changed = list(arguments), []
    while waiting:
        argument = waiting.pop(0)
        change = re.fullmatch(r"--?config\.([^=]*)(=.*)?", argument, re.DOTALL)
        if change:
            key, value = change.groups()
            if value is None and (not waiting or waiting[0].startswith("--")):
                _end(f"--config.{key} needs a value")
            argument = f"--set={key}{value or f'={waiting.pop(0)}'}"
        changed.append(argument)
    return changed


def _value(text: str) -> Any:
    if text.lower() in ("true", "false", "none"):
        return {"true": True, "false": False, "none": None}[text.lower()]
    try:
        return _of_expression(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, TypeError, ValueError):  # TypeError: a literal that cannot be hashed
        return text


def _of_expression(node: ast.expr) -> Any:
    if not isinstance(node, ast.Call) or ast.unparse(node.func) != "cyclical":
        return ast.literal_eval(node)
    names = ("easy", "hard")[: len(node.args)]
    named = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in node.keywords}
    if len(names) < len(node.args) or named.keys() & set(names):
        raise ValueError("only easy and hard go without a name, and each is given once")
    values = map(ast.literal_eval, node.args)
    return ConfigDict(dict(zip(names, values, strict=True)) | named, type_safe=False)


_REQUIRED = re.compile(r"flag --(\w+)=None: Flag .* must have a value other than None\.")
_PREFIX = re.compile(r"flag --(\w+)=.*?: `--\1` ", re.DOTALL)  # absl's, before a line of ours


def _parse_flags(argv):
    waiting.for_imports.end()
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        line = _last_line(error)
    if required := _REQUIRED.fullmatch(line):
        line = _missing(required[1], argv[1:])
    _end(_PREFIX.sub(r"--\1 ", line))


def _missing(name: str, arguments: list[str]) -> str:
    given = next((argument for argument in arguments if not argument.startswith("-")), None)
    hint = f" Write --config={given}." if name == "config" and given else ""
    return f"--{name} must be given: {flags.FLAGS[name].help}{hint}"


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return lines[-1].strip().removeprefix("ValueError: ")


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def _end(message: str, *, code: int = 2) -> NoReturn:
    if code == 2:
        _leave_others(message, code)
    print(message, file=sys.stderr)
    sys.exit(code)


def _leave_others(message: str, code: int) -> None:
    """Ends this process at once if it is one of several: otherwise the others wait in vain."""
    if jax.distributed.is_initialized():
        print(message, file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(code)
