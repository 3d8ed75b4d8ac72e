"""The cache of compiled programs: what it keeps, what it refuses, and what it deletes."""

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path

import jax
import pytest
from jax._src import compilation_cache, compilation_cache_interface

from experiments import command_line, compiled_programs
from experiments.compiled_programs import CompiledPrograms
from tests import commands
from tests.helpers import stored

ROOT = Path(__file__).parents[2]
KEY, PROGRAM = "jit_step-" + 64 * "a", bytes(range(40))
OTHER_USER = 12345

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to other users")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache" / "cyclical_jax" / "programs"


@pytest.fixture
def cache(folder):
    return CompiledPrograms(folder, 10_000)


@pytest.fixture
def home(tmp_path):
    """A folder of this process, which is not root's within it: to root nothing is read-only."""
    if os.geteuid() != 0:
        yield tmp_path
        return
    directory = Path(tempfile.mkdtemp())
    os.chown(directory, OTHER_USER, OTHER_USER)
    os.seteuid(OTHER_USER)
    try:
        yield directory
    finally:
        os.seteuid(0)
        shutil.rmtree(directory)


@pytest.fixture
def entry(cache):
    """The file of a program that the cache holds."""
    cache.put(KEY, PROGRAM)
    (path,) = cache._path.iterdir()
    return path


def names_in(folder):
    return {path.name for path in folder.rglob("*") if path.is_file()}


def bytes_in(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


# ---- what it keeps


def test_a_program_is_found_by_its_key_alone(cache, entry):
    assert cache.get(KEY) == PROGRAM
    assert cache.get(KEY[:-1] + "b") is None
    assert CompiledPrograms(cache._path, 10_000).get(KEY) == PROGRAM


def test_a_long_name_and_an_empty_program_are_kept(cache):
    key = 300 * "x" + KEY
    cache.put(key, b"")
    assert cache.get(key) == b"" and cache.get("y" + key) is None


def test_it_is_made_for_this_user_alone(cache, entry, tmp_path):
    made = [entry, *entry.parents[: len(entry.relative_to(tmp_path).parts) - 1]]
    assert [path.stat().st_mode & 0o777 for path in made] == [0o600, 0o700, 0o700, 0o700]


def test_a_hit_is_a_use(cache, entry):
    os.utime(entry, (0, 0))
    cache.get(KEY)
    assert time.time() - entry.stat().st_mtime < 60


# ---- damage: the entry is deleted, counts as a miss and is kept anew


def is_missed_and_made_anew(cache, path):
    missed = cache.get(KEY) is None and not os.path.lexists(path)
    cache.put(KEY, PROGRAM)
    return missed and cache.get(KEY) == PROGRAM


def test_a_flipped_bit_in_any_byte_is_a_miss(cache, entry):
    whole = entry.read_bytes()
    assert len(whole) == 32 + len(PROGRAM)
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        entry.write_bytes(damaged)
        assert is_missed_and_made_anew(cache, entry), position


def test_a_torn_entry_of_any_length_is_a_miss(cache, entry):
    whole = entry.read_bytes()
    for length in range(len(whole)):
        entry.write_bytes(whole[:length])
        assert is_missed_and_made_anew(cache, entry), length
    entry.write_bytes(whole + b"\0")
    assert is_missed_and_made_anew(cache, entry)


def a_folder(path):
    path.mkdir()
    (path / "file").touch()


def a_huge_file(path):
    with path.open("wb") as file:
        file.truncate(2**43)


def a_file_that_others_can_write_to(path):
    CompiledPrograms(path.parent, 10_000).put(KEY, PROGRAM)
    path.chmod(0o666)


def another_users_file(path):
    CompiledPrograms(path.parent, 10_000).put(KEY, PROGRAM)
    os.chown(path, OTHER_USER, OTHER_USER)


def a_link_to_a_program(path):
    CompiledPrograms(path.parent.parent / "other", 10_000).put(KEY, PROGRAM)
    path.symlink_to(path.parent.parent / "other" / path.name)


def a_pipe_with_a_writer(path):
    os.mkfifo(path)
    os.open(path, os.O_RDWR)


@pytest.mark.parametrize(
    "replace",
    [
        a_folder,
        a_huge_file,
        a_file_that_others_can_write_to,
        pytest.param(another_users_file, marks=as_root),
        a_link_to_a_program,
        os.mkfifo,
        a_pipe_with_a_writer,
        lambda path: path.symlink_to(path),
        lambda path: path.symlink_to("nowhere"),
    ],
)
def test_what_is_no_program_of_this_user_is_a_miss(cache, entry, replace, capsys):
    entry.unlink()
    replace(entry)
    assert is_missed_and_made_anew(cache, entry)
    assert capsys.readouterr() == ("", "")


def test_an_entry_that_cannot_be_read_is_a_miss(home):
    cache = CompiledPrograms(home / "programs", 10_000)
    cache.put(KEY, PROGRAM)
    (path,) = cache._path.iterdir()
    path.chmod(0)
    assert is_missed_and_made_anew(cache, path)


def test_an_entry_under_another_name_is_a_miss(cache, entry):
    other = KEY[:-1] + "b"
    os.rename(entry, entry.with_name(f"{other}.program"))
    assert cache.get(other) is None and names_in(cache._path) == set()


# ---- the limit


def test_the_least_recently_used_go_first(folder):
    cache = CompiledPrograms(folder, 1000)
    for number in range(8):
        cache.put(f"key{number}", bytes(68))  # 100 bytes with the digest
        os.utime(folder / f"key{number}.program", (number, number))
    assert cache.get("key0") == bytes(68)  # so that key1 is the one that was not used for longest
    CompiledPrograms(folder, 1000).put("new", bytes(168))
    kept = {"key0", *(f"key{number}" for number in range(2, 8)), "new"}
    assert names_in(folder) == {f"{key}.program" for key in kept}


def test_the_limit_holds_after_every_write(folder):
    rng, cache, limit = random.Random(0), CompiledPrograms(folder, 5000), 5000
    for number in range(300):
        size = rng.choice([0, 10, 400, 1000, 4000, 4468])
        cache.put(f"key{number}", bytes(size))
        assert cache.get(f"key{number}") == bytes(size)
        assert bytes_in(folder) <= limit
        if rng.random() < 0.1:
            cache = CompiledPrograms(folder, 5000)  # another process
    assert bytes_in(folder) > limit / 2


def test_a_program_that_the_limit_cannot_hold_is_not_kept(cache, entry, capsys):
    cache.put("large", bytes(10_000))
    assert cache.get("large") is None and cache.get(KEY) == PROGRAM
    assert capsys.readouterr() == ("", "")


def test_folders_of_other_cpus_and_earlier_versions_count(folder):
    earlier = folder.parent / "x86_64-00000000" / "jit_step-1-cache"
    earlier.parent.mkdir(parents=True)
    earlier.write_bytes(bytes(950))
    os.utime(earlier, (1, 1))
    CompiledPrograms(folder, 1000).put(KEY, PROGRAM)
    assert names_in(folder.parent) == {f"{KEY}.program"}


def test_leftovers_of_killed_writers_go_after_an_hour(folder):
    folder.mkdir(parents=True)
    (old, new) = (folder / "old.tmp", folder / "new.tmp")
    old.touch()
    new.touch()
    os.utime(old, (time.time() - 3700,) * 2)
    CompiledPrograms(folder, 1000).put(KEY, PROGRAM)
    assert names_in(folder) == {"new.tmp", f"{KEY}.program"}


def test_entries_that_vanish_while_it_looks_are_no_error(folder, monkeypatch, capsys):
    for number in range(9):
        CompiledPrograms(folder, 1000).put(f"key{number}", bytes(68))
    look, gone = compiled_programs._files_in, []

    def look_while_another_deletes(root):
        waiting = set(folder.iterdir())
        for found in look(root):
            waiting.remove(found[-1])
            if len(waiting) == 6:
                gone.extend([found[-1], waiting.pop()])  # one that was looked at, one that was not
                [path.unlink() for path in gone]
            yield found

    monkeypatch.setattr(compiled_programs, "_files_in", look_while_another_deletes)
    CompiledPrograms(folder, 1000).put(KEY, bytes(400))
    assert gone and CompiledPrograms(folder, 1000).get(KEY) == bytes(400)
    assert capsys.readouterr() == ("", "")


# ---- several processes

WRITER = """
import sys
from pathlib import Path
from experiments.compiled_programs import CompiledPrograms

cache = CompiledPrograms(Path(sys.argv[1]), 3000)
for number in range(150):
    key, size = f"key{number % 7}", 100 * (number % 5)
    found = cache.get(key)
    assert found is None or found in [bytes(size) for size in range(0, 500, 100)], found
    cache.put(key, bytes(size))
"""


def test_two_processes_that_write_and_evict_at_once(folder):
    command = [sys.executable, "-c", WRITER, str(folder)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    processes = [subprocess.Popen(command, cwd=ROOT, **pipes) for _ in range(2)]
    assert [process.communicate(timeout=60)[0] for process in processes] == ["", ""]
    assert bytes_in(folder) <= 2 * 3000
    assert all(path.suffix == ".program" for path in folder.iterdir())


def test_threads_that_write_and_evict_at_once(folder, capsys):
    cache, wrong = CompiledPrograms(folder, 2000), []

    def work(seed):
        rng = random.Random(seed)
        for _ in range(200):
            key = f"key{rng.randrange(9)}"
            value = key.encode() * 50
            if cache.get(key) not in (None, value):
                wrong.append(key)
            cache.put(key, value)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [] and capsys.readouterr() == ("", "")


@pytest.mark.parametrize("meanwhile", ["writes", "evicts", "empties the folder"])
def test_a_writer_that_is_held_before_its_file_appears(folder, monkeypatch, capsys, meanwhile):
    """Between the look for a program and its rename another process does what it wants."""
    cache, replace = CompiledPrograms(folder, 1000), os.replace

    def held(source, target):
        monkeypatch.setattr(os, "replace", replace)
        other = CompiledPrograms(folder, 1000)
        assert other.get(KEY) is None  # nothing of it can be seen yet
        if meanwhile == "writes":
            other.put(KEY, PROGRAM)
        elif meanwhile == "evicts":
            other.put("other", bytes(800))
        else:
            [path.unlink() for path in folder.iterdir()]
            folder.rmdir()
        replace(source, target)

    monkeypatch.setattr(os, "replace", held)
    assert cache.get(KEY) is None
    cache.put(KEY, PROGRAM)
    assert cache.get(KEY) == (None if meanwhile == "empties the folder" else PROGRAM)
    cache.put(KEY, PROGRAM)
    assert cache.get(KEY) == PROGRAM and capsys.readouterr() == ("", "")


KILLED = """
import os, signal, sys
from pathlib import Path
from experiments.compiled_programs import CompiledPrograms

os.replace = lambda source, target: os.kill(os.getpid(), signal.SIGKILL)
CompiledPrograms(Path(sys.argv[1]), 1000).put("key", bytes(100))
"""


def test_a_killed_writer_leaves_no_entry(folder):
    command = [sys.executable, "-c", KILLED, str(folder)]
    assert subprocess.run(command, cwd=ROOT, timeout=60).returncode == -signal.SIGKILL
    (leftover,) = folder.iterdir()
    assert leftover.suffix == ".tmp"
    cache = CompiledPrograms(folder, 1000)
    assert cache.get("key") is None
    os.utime(leftover, (0, 0))
    cache.put("key", bytes(100))
    assert cache.get("key") == bytes(100) and names_in(folder) == {"key.program"}


# ---- a place where it cannot be


def test_a_full_disk_is_one_line_and_the_last_try(cache, entry, monkeypatch, capsys):
    def full(*args, **kwargs):
        tries.append(args)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    tries = []
    monkeypatch.setattr(os, "replace", full)
    for number in range(3):
        cache.put(f"key{number}", PROGRAM)
    assert capsys.readouterr().err.splitlines() == [
        f"compiled programs are not kept: {cache._path} cannot be written: No space left on device"
    ]
    assert len(tries) == 1 and names_in(cache._path) == {entry.name}
    assert cache.get(KEY) == PROGRAM


@pytest.fixture
def kept_in(monkeypatch):
    """Calls `keep_in`; JAX is as before in the end. Returns the folder that JAX uses then."""
    options = [f"jax_compilation_cache_{name}" for name in ("dir", "max_size")]
    options += ["jax_persistent_cache_min_compile_time_secs"]
    options += ["jax_persistent_cache_min_entry_size_bytes"]
    before = {name: getattr(jax.config, name) for name in options}
    monkeypatch.setattr(compilation_cache, "LRUCache", compilation_cache.LRUCache)

    def call(folder, max_size=-1):
        compilation_cache.reset_cache()
        jax.config.update("jax_compilation_cache_dir", None)
        jax.config.update("jax_compilation_cache_max_size", max_size)
        compiled_programs.keep_in(folder)
        return jax.config.jax_compilation_cache_dir

    yield call
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def a_file_in_its_place(folder):
    folder.parent.mkdir(parents=True)
    folder.touch()


def a_file_above_it(folder):
    folder.parents[1].touch()


def writable_by_the_group(folder):
    folder.mkdir(parents=True)
    folder.chmod(0o770)


def writable_by_all(folder):
    folder.mkdir(parents=True)
    folder.chmod(0o1777)


def of_another_user(folder):
    folder.mkdir(parents=True)
    os.chown(folder, OTHER_USER, OTHER_USER)


OTHERS_WRITE = "other users can write to {}, and their programs would run as yours"


@pytest.mark.parametrize(
    "make, problem",
    [
        (a_file_in_its_place, "{} cannot be made: File exists"),
        (a_file_above_it, "{} cannot be made: Not a directory"),
        (writable_by_the_group, OTHERS_WRITE),
        (writable_by_all, OTHERS_WRITE),
        pytest.param(
            of_another_user,
            "{} belongs to another user, whose programs would run as yours",
            marks=as_root,
        ),
    ],
)
def test_a_folder_that_cannot_be_used_is_one_line(kept_in, folder, capsys, make, problem):
    make(folder)
    assert kept_in(folder) is None
    assert capsys.readouterr().err == (
        f"compiled programs are not kept: {problem.format(folder)}. Set XDG_CACHE_HOME to another "
        "folder, or JAX_ENABLE_COMPILATION_CACHE=false to go without.\n"
    )
    assert jax.jit(lambda x: x + 1)(1.0) == 2.0


def test_a_read_only_home_is_one_line(kept_in, home, capsys):
    home.chmod(0o500)
    assert kept_in(home / ".cache" / "programs") is None
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{home}/.cache/programs cannot be made: Permission denied. Set XDG_CACHE_HOME" in line


def test_a_read_only_folder_is_read_and_is_one_line(home, capsys):
    cache = CompiledPrograms(home / "programs", 10_000)
    cache.put(KEY, PROGRAM)
    cache._path.chmod(0o500)
    for number in range(3):
        cache.put(f"key{number}", PROGRAM)
    assert capsys.readouterr().err.splitlines() == [
        f"compiled programs are not kept: {cache._path} cannot be written: Permission denied"
    ]
    assert cache.get(KEY) == PROGRAM
    cache._path.chmod(0)
    assert cache.get(KEY) is None and capsys.readouterr() == ("", "")
    cache._path.chmod(0o700)


def test_a_user_without_a_home_has_no_cache(kept_in, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert kept_in(Path("~/.cache/programs")) is None
    assert "this user has no home directory" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_folders_that_others_can_only_read_are_used(kept_in, folder, capsys):
    folder.mkdir(parents=True)
    folder.chmod(0o755)
    assert kept_in(folder) == str(folder) and capsys.readouterr() == ("", "")


# ---- within JAX


def hits_of_a_compilation():
    """Compiles a program of its own; returns whether JAX found it in its cache, and its value."""
    hits = []

    def listen(event, **_):
        hits.extend([event] if event.endswith("/cache_hits") else [])

    jax.monitoring.register_event_listener(listen)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            value = jax.jit(lambda x: 3 * x + 0.125)(2.0)
    finally:
        jax._src.monitoring.unregister_event_listener(listen)
    return len(hits), float(value)


def test_jax_uses_it_and_compiles_anew_what_is_damaged(kept_in, folder, capsys):
    assert kept_in(folder) == str(folder)
    assert hits_of_a_compilation() == (0, 6.125)
    assert isinstance(compilation_cache._cache, CompiledPrograms)
    (path,) = folder.glob("jit__lambda*.program")
    assert hits_of_a_compilation() == (1, 6.125)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert hits_of_a_compilation() == (0, 6.125)
    assert hits_of_a_compilation() == (1, 6.125)
    compilation_cache.reset_cache()
    assert hits_of_a_compilation() == (1, 6.125)
    assert isinstance(compilation_cache._cache, CompiledPrograms)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("max_size, limit", [(-1, 2 * 1024**3), (12345, 12345)])
def test_jaxs_option_is_the_limit(kept_in, folder, max_size, limit):
    kept_in(folder, max_size)
    hits_of_a_compilation()
    assert compilation_cache._cache._max_bytes == limit


def test_a_limit_of_nothing_turns_it_off(kept_in, folder):
    assert kept_in(folder, 0) is None and not folder.exists()


def test_a_folder_that_jax_is_told_of_later_is_jaxs(kept_in, folder, tmp_path):
    kept_in(folder)
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "jaxs"))
    hits_of_a_compilation()
    assert names_in(folder) == set()
    assert [name for name in names_in(tmp_path / "jaxs") if name.endswith("-cache")]


class AnotherInterface(compilation_cache_interface.CacheInterface):
    def get(self, key): ...


def no_modules(monkeypatch):
    monkeypatch.setattr(compiled_programs, "compilation_cache", None)


def another_name(monkeypatch):
    monkeypatch.setattr(compiled_programs, "compilation_cache", object())


def a_further_method(monkeypatch):
    monkeypatch.setattr(compiled_programs, "CompiledPrograms", AnotherInterface)


@pytest.mark.parametrize("lacks", [no_modules, another_name, a_further_method])
def test_another_jax_keeps_its_own_cache(kept_in, folder, monkeypatch, lacks):
    lacks(monkeypatch)
    assert kept_in(folder) == str(folder)
    assert hits_of_a_compilation() == (0, 6.125) and hits_of_a_compilation() == (1, 6.125)
    assert [name for name in names_in(folder) if name.endswith("-cache")]


WITHOUT_THE_INTERFACE = """
import sys
import jax
sys.modules["jax._src.compilation_cache_interface"] = None
from pathlib import Path
from experiments import compiled_programs
compiled_programs.keep_in(Path(sys.argv[1]))
jax.jit(lambda x: x + 1)(1.0)
"""


def test_a_jax_without_the_interface_keeps_its_own_cache(folder):
    command = [sys.executable, "-W", "error", "-c", WITHOUT_THE_INTERFACE, str(folder)]
    names = {name: value for name, value in os.environ.items() if "CACHE" not in name}
    done = subprocess.run(command, cwd=ROOT, env=names, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert [name for name in names_in(folder) if name.endswith("-cache")]


@pytest.mark.parametrize("option", ["jax_enable_compilation_cache", "jax_compilation_cache_dir"])
def test_who_decides_about_jaxs_cache_is_not_overruled(kept_in, tmp_path, monkeypatch, option):
    kept_in(tmp_path / "first")
    told = {"jax_enable_compilation_cache": False, "jax_compilation_cache_dir": None}
    told[option] = {"jax_enable_compilation_cache": False}.get(option, str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    before = jax.config.jax_enable_compilation_cache
    try:
        jax.config.update(option, told[option])
        command_line.use_compilation_cache()
        assert getattr(jax.config, option) == told[option] and not (tmp_path / "xdg").exists()
    finally:
        jax.config.update("jax_enable_compilation_cache", before)


# ---- a command


def damaged(content, way):
    position = len(content) * way // 7
    changed = bytes([content[position] ^ 16])
    return [b"", content[:position], content[:position] + changed + content[position + 1 :]][
        way % 3
    ]


@pytest.mark.slow
def test_a_run_whose_programs_are_damaged_has_the_same_result(tmp_path):
    own_cache = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "JAX_COMPILATION_CACHE_DIR": None}

    def train(name):
        arguments = ["--config=configs/digits.py:all", "--config.duration=5 epochs"]
        ended = commands.in_a_process(
            "train", *arguments, f"--workdir={tmp_path / name}", **own_cache
        )
        assert (ended.returncode, ended.stderr) == (0, "")
        result = stored(tmp_path / name / "result.json")
        return {name: value for name, value in result.items() if "second" not in name}

    undisturbed = train("first")
    entries = {path: path.read_bytes() for path in tmp_path.rglob("*.program")}
    assert len(entries) > 5
    for way, (path, content) in enumerate(sorted(entries.items())):
        path.write_bytes(damaged(content, way % 7))
    assert train("second") == undisturbed
    assert {path for path in tmp_path.rglob("*.program")} == entries.keys()
    for path in entries:
        key = path.name.removesuffix(".program")
        assert CompiledPrograms(path.parent, 2**30).get(key) is not None, path
