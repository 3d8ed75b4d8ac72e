"""The flag --plugin, which adds techniques, tasks, models and losses of your own to a command."""

from collections.abc import Mapping
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from cyclical_jax.catalogue import CATALOGUE, with_plugins
from cyclical_jax.training import recipe
from cyclical_jax.training.recipe import completed, with_own_defaults
from cyclical_jax.training.structure import Catalogue
from experiments import paths

_PLUGIN = paths.define_multi(
    "plugin",
    [],
    "Python file that defines TECHNIQUES, TASKS, MODELS or LOSSES; see docs/extending.md.",
)


def catalogue() -> Catalogue:
    """Returns the catalogue with the plugins of the command line.

    Raises:
      RecipeError: A plugin cannot be used; a line.
    """
    return with_plugins(_PLUGIN.value or []) if flags.FLAGS.is_parsed() else CATALOGUE


def with_their_keys(config: ConfigDict) -> ConfigDict:
    """Returns `config` with the keys of the plugins added at their defaults.

    The keys of a file that it names, such as a model's, are added too.
    """
    further = catalogue().keys.keys() - CATALOGUE.keys.keys()
    config = completed(config, {key: catalogue().keys[key] for key in further})
    return with_own_defaults(catalogue(), config)


def change(config: ConfigDict, changes: Mapping[str, Any]) -> ConfigDict:
    """Makes the changes, adds the keys of a file that they name, and returns `config`."""
    return recipe.change(catalogue(), config, changes)
