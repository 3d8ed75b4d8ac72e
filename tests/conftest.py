"""Every test runs on two CPU devices, and silent rank promotion is an error."""

import contextlib
import os

# XLA's CPU client has one thread per core, and a collective blocks one thread per device. With two
# devices on two cores a queue of pmapped calls would deadlock, so NPROC names more cores at start.
os.environ.setdefault("NPROC", "4")

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="module")
def fast_compilation():
    """Turns most optimizations off, for programs that run only a few times."""
    name = "jax_disable_most_optimizations"
    before = jax.config.read(name)
    jax.config.update(name, True)
    yield
    jax.config.update(name, before)


@pytest.fixture
def count_compilations():
    """Returns a context manager whose value lists the compilations within it."""

    @contextlib.contextmanager
    def counting():
        compilations: list[str] = []

        def listen(event, duration, **_):
            if event == "/jax/core/compile/backend_compile_duration":
                compilations.append(event)

        jax.monitoring.register_event_duration_secs_listener(listen)
        try:
            yield compilations
        finally:
            jax.monitoring.unregister_event_duration_listener(listen)

    return counting
