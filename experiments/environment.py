"""The versions, revision and hardware of a run, which are kept beside its results."""

import logging
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from cyclical_jax.training import files
from cyclical_jax.training.files import ENVIRONMENT, WorkdirError

_logger = logging.getLogger(__name__)
_LIBRARIES = ("jax", "jaxlib", "flax", "optax", "numpy")


def library_versions() -> dict[str, str]:
    """Returns {name: version} of the libraries that compute."""
    return {name: metadata.version(name) for name in _LIBRARIES}


def hardware() -> str:
    """Returns the devices and the processor, such as "2 x cpu, AMD EPYC 9B14"."""
    devices = jax.devices()
    return f"{len(devices)} x {devices[0].device_kind}, {_processor()}"


def revision() -> str | None:
    """Returns the commit of this code, with "+" where files differ; None outside of git."""
    git = [
        "git",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--abbrev=40",
        "--dirty=+",
    ]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def record_start(workdir: Path, step: int) -> list[str]:
    """Adds to `environment.json` the versions and the hardware on which a run starts or goes on.

    Args:
      workdir: The folder of the file.
      step: Number of updates done before.

    Returns:
      What differs from the start before this one, in words. It changes results by rounding.
    """
    path = workdir / ENVIRONMENT
    starts, here = _starts(path), _here()
    files.write(path, [*starts, {"step": step} | here])
    return _differences(starts[-1], here) if starts else []


def _starts(path: Path) -> list[dict[str, Any]]:
    """Returns the earlier starts. A damaged file is renamed: it is a record that no run needs."""
    try:
        return files.read(path) if files.is_there(path) else []
    except WorkdirError as error:
        aside = path.with_name(f"damaged-{path.name}")
        with files.writing(path):
            path.replace(aside)
        _logger.warning("%s It was renamed to %s.", error, aside.name)
        return []


def _here() -> dict[str, Any]:
    versions = {"python": platform.python_version()} | library_versions()
    return versions | {
        "revision": revision(),
        "hardware": hardware(),
        "processes": jax.process_count(),
    }


def _differences(there: dict[str, Any], here: dict[str, Any]) -> list[str]:
    return [
        f"{name} {there.get(name)} -> {value}"
        for name, value in here.items()
        if there.get(name) != value
    ]


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or platform.machine())
