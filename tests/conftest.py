"""Every test runs on two CPU devices, and silent rank promotion is an error."""

import contextlib
import gc
import hashlib
import os
import platform
import tempfile
from pathlib import Path

# XLA's CPU client has one thread per core, and a collective blocks one thread per device. With two
# devices on two cores a queue of pmapped calls would deadlock, so NPROC names more cores at start.
os.environ.setdefault("NPROC", "4")
# Most programs of the tests run a few times, so that compiling them takes longer than running them.
# CI runs the tests a second time with all optimizations, on its other Python.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import jax  # noqa: E402
import pytest  # noqa: E402
from jax.experimental.compilation_cache import compilation_cache  # noqa: E402

jax.config.update("jax_platforms", "cpu")
if hasattr(jax.config, "jax_num_cpu_devices"):
    jax.config.update("jax_num_cpu_devices", 2)
else:  # before JAX 0.5
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
jax.config.update("jax_numpy_rank_promotion", "raise")
if not hasattr(jax, "enable_x64"):  # `make floor`: before JAX 0.8
    from jax.experimental import enable_x64

    jax.enable_x64 = enable_x64


# What has been compiled once is read from then on: by the next run of the tests, by the other
# workers of this one, and where a test makes a process or a function forget what it has compiled.
# `count_compilations` counts it all the same.


def pytest_configure(config):
    is_told = jax.config.jax_compilation_cache_dir is not None
    if not is_told and hasattr(config, "cache") and _writes_at_once():
        directory = config.cache.mkdir(f"jax-{jax.__version__}-{_kind_of_cpu()}")
        jax.config.update("jax_compilation_cache_dir", str(directory))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """The tests of a file share runs: unless told otherwise they go to one worker, as one."""
    from xdist.scheduler import LoadFileScheduling

    return LoadFileScheduling(config, log) if config.getvalue("dist") == "load" else None


def _kind_of_cpu() -> str:
    """Programs for one kind may end the process on another."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return f"{platform.machine()}-{hashlib.sha256(features.encode()).hexdigest()[:8]}"


def _writes_at_once() -> bool:
    """JAX writes an entry in place: another worker may read half of it, which is a warning."""
    try:
        from jax._src.lru_cache import LRUCache
    except ImportError:  # no part of its interface: such a JAX compiles everything
        return False

    def put(self, key, value):
        path = Path(self.path) / f"{key}-cache"
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(value)
        os.replace(file.name, path)

    LRUCache.put = put
    return True


# Every compiled program holds some mapped regions of memory, of which Linux lets a process have
# 65,530: beyond them LLVM ends the process with a segmentation fault.
_MOST_MAPS = 15_000


@pytest.fixture(scope="module", autouse=True)
def programs_that_are_let_go():
    """Forgets the compiled programs of the files so far, where there are very many."""
    yield
    if _num_maps() > _MOST_MAPS:
        jax.clear_caches()
        gc.collect()


def _num_maps() -> int:
    maps = Path("/proc/self/maps")
    return len(maps.read_text().splitlines()) if maps.exists() else 0


@contextlib.contextmanager
def few_optimizations():
    """Turns most optimizations off, for programs that run only a few times."""
    name = "jax_disable_most_optimizations"
    before = jax.config.read(name)
    jax.config.update(name, True)
    yield
    jax.config.update(name, before)


@pytest.fixture(scope="module")
def fast_compilation():
    """Turns most optimizations off for the tests of a file."""
    with few_optimizations():
        yield


@pytest.fixture(scope="session")
def fast():
    """The context manager itself, for a fixture of the whole session."""
    return few_optimizations


@pytest.fixture
def compiled_anew():
    """For tests of a compiled program's text: one that is read numbers its places otherwise."""
    name = "jax_enable_compilation_cache"
    before = getattr(jax.config, name)
    jax.config.update(name, False)
    compilation_cache.reset_cache()  # or what was true of the first program is true for ever
    yield
    jax.config.update(name, before)
    compilation_cache.reset_cache()


@pytest.fixture
def count_compilations():
    """Returns a context manager whose value lists the compilations within it."""
    from cyclical_jax._compilations import compilations

    return compilations
