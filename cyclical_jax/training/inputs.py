"""What a recipe names that lies outside of it, and may have changed when a run goes on."""

import hashlib
from pathlib import Path

from cyclical_jax.data import index_file_of
from cyclical_jax.training.checkpoints import CHECKPOINTS, CheckpointError, identity
from cyclical_jax.training.recipe import Recipe, RecipeError


def identities(recipe: Recipe) -> dict[str, str]:
    """{key: what tells its content from another} of its index file and of each earlier run.

    Raises:
      RecipeError: One of them is not there; a line that names the key.
    """
    found = {key: _newest_checkpoint(key, workdir) for key, workdir in recipe.earlier_runs.items()}
    if path := index_file_of(recipe.subset):
        found["subset"] = f"content {hashlib.sha256(_content(path)).hexdigest()[:16]}"
    return found


def _newest_checkpoint(key: str, workdir: str) -> str:
    try:
        return identity(Path(workdir, CHECKPOINTS))
    except CheckpointError as error:
        hint = "Train that run first, or name the workdir of another."
        raise RecipeError(f"{key}: {error} {hint}") from error


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise RecipeError(f"subset: {path} cannot be read: {error.strerror}.") from error
