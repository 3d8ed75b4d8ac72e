"""What several files of tests make: configs with changes, recipes of them, and a small dataset."""

import contextlib
import functools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from cyclical_jax import _files, data
from cyclical_jax.catalogue import default_config, parse
from cyclical_jax.testing import without_times as without_times
from cyclical_jax.training.files import METRICS, read_rows
from cyclical_jax.training.recipe import put
from cyclical_jax.training.structure import Accumulation, Curve, Knob, Recipe, Structure

CLASSES = 4


@contextlib.contextmanager
def other_user(folder: Path) -> Iterator[None]:
    """Runs its body as another user in a folder: root may read what has no permissions.

    Paths must be relative: the folders above it may be closed to others.
    """
    folder.chmod(0o755)
    with contextlib.chdir(folder):
        is_root = os.geteuid() == 0
        os.seteuid(65534 if is_root else os.geteuid())
        try:
            yield
        finally:
            os.seteuid(0 if is_root else os.geteuid())


def config_of(
    base: ConfigDict | None = None, changes: Mapping[str, Any] = {}, /, **more: Any
) -> ConfigDict:
    """A copy of `base`, or the default config, with {"section.key": value} and section__key=value.

    A value may be of any type, and a key need not be there.
    """
    config = default_config() if base is None else base.copy_and_resolve_references()
    more = {key.replace("__", "."): value for key, value in more.items()}
    with config.unlocked(), config.ignore_type():
        for key, value in (dict(changes) | more).items():
            put(config, key, value)
    return config


def recipe_of(
    base: ConfigDict | None = None,
    changes: Mapping[str, Any] = {},
    /,
    *,
    num_devices: int = 1,
    **more: Any,
) -> Recipe:
    """Of such a config."""
    return parse(config_of(base, changes, **more), num_devices=num_devices)


def stored(path: Path) -> Any:
    """Returns what a JSON file, or a file of lines of JSON, holds, without its checksums."""
    if path.name == METRICS:
        return read_rows(path)
    if path.suffix == ".jsonl":
        return [_files.of_line(line, {}, str(path)) for line in _files.lines_of(path)]
    is_list = path.read_bytes().startswith(b"[")
    return _files.read_json(path, [object] if is_list else object)


@functools.cache
def bright_classes(
    num_train: int, num_validation: int, num_test: int = 0, seed: int = 0
) -> data.Dataset:
    """Images of 3 x 3, of classes that differ in brightness; the last one is rare."""

    def split(number):
        label = (rng.integers(0, 13, number) // 4).astype(np.int32)
        image = rng.integers(0, 100, (number, 3, 3, 1)) + 50 * label[:, None, None, None]
        return {"image": image.astype(np.uint8), "label": label}

    rng = np.random.default_rng(seed)
    sizes = (num_train, num_validation, num_test)
    return data.Dataset(*map(split, sizes), num_classes=CLASSES)


def calibration_error_by_hand(confidence, is_right):
    """Guo et al., 1706.04599, eq. 3 and 5: sum_m |B_m|/n |acc(B_m) - conf(B_m)|."""
    error = 0.0
    for m in range(1, 16):  # bin m is ((m - 1) / 15, m / 15]
        members = (confidence > (m - 1) / 15) & (confidence <= m / 15)
        if members.any():
            gap = is_right[members].mean() - confidence[members].mean()
            error += members.sum() / len(confidence) * abs(gap)
    return error


def structure_of(task, *techniques):
    """Returns a structure by hand, of (entry, own values) or of entries without values."""
    task, *techniques = (e if isinstance(e, tuple) else (e, ()) for e in (task, *techniques))
    return Structure(
        task=task,
        techniques=tuple(techniques),
        curves=(),
        num_cycles=1,
        span="run",
        batch_size=4,
        beside=(),
        accumulate=Accumulation(Knob(1, 1, 1), Curve("linear", "linear")),
        as_one_batch=False,
        remainder="drop",
        on_nonfinite="stop",
    )
