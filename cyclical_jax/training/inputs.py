"""Files that a recipe names, which may have changed when a run goes on."""

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path

from cyclical_jax import data
from cyclical_jax.training.checkpoints import CheckpointError
from cyclical_jax.training.fields import RecipeError
from cyclical_jax.training.files import CHECKPOINTS
from cyclical_jax.training.own_files import content_of
from cyclical_jax.training.reading import identity
from cyclical_jax.training.structure import Recipe, plugin_identity, plugin_key


def identities(recipe: Recipe) -> dict[str, str]:
    """Returns {key or file: digest} of the data, the index file, each earlier run and each plugin.

    The digest of the data is that of a file's content, or of the names, sizes and times of change
    of the files in a folder; the datasets that have a name of their own have none.

    Raises:
      RecipeError: One of them is missing; a line that names the key.
    """
    found = _of_earlier_runs(recipe)
    try:
        if digest := data.identity(recipe.dataset, data_dir=recipe.data_dir):
            found["dataset"] = digest
    except (OSError, ValueError) as error:
        raise RecipeError(str(error).replace("`", "")) from error
    if path := data.index_file_of(recipe.subset):
        content = content_of(f"subset: {path}", path)
        found["subset"] = f"content {hashlib.sha256(content).hexdigest()[:16]}"
    plugins = recipe.catalogue.plugins
    return found | {plugin_key(name): plugin_identity(digest) for name, digest in plugins}


def of_devices(recipe: Recipe, num_devices: int) -> dict[str, str]:
    """Returns {key: "2 of 8 devices"} of the keys that divide the devices into groups.

    On another number of devices, each has another share of a batch, so the run is another one.
    """
    groups = recipe.structure.device_groups
    return {key: f"{size} of {num_devices} devices" for key, size in groups.items()}


@contextlib.contextmanager
def unchanged(recipe: Recipe) -> Iterator[dict[str, str]]:
    """Yields what `identities` returns, for a body that reads the earlier runs.

    Raises:
      RecipeError: As `identities`; or an earlier run was saved while the body read it.
    """
    found = identities(recipe)
    yield found
    for key, now in _of_earlier_runs(recipe).items():
        if now != found[key]:
            workdir = dict(recipe.earlier_runs)[key]
            raise RecipeError(
                f"{key}: {workdir} was saved while it was read; give the command again when that "
                "run has ended."
            )


def _of_earlier_runs(recipe: Recipe) -> dict[str, str]:
    return {key: _newest_checkpoint(key, workdir) for key, workdir in recipe.earlier_runs}


def _newest_checkpoint(key: str, workdir: str) -> str:
    try:
        return identity(Path(workdir, CHECKPOINTS))
    except CheckpointError as error:
        hint = "Train that run first, or name the workdir of another one."
        raise RecipeError(f"{key}: {error} {hint}") from error
