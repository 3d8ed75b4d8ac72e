"""Files that add to the catalogue: what runs of them, and which are refused."""

import sys

import jax
import jax.numpy as jnp
import pytest

from cyclical_jax.catalogue import CATALOGUE, default_config, extended, parse, with_plugins
from cyclical_jax.models import network_of
from cyclical_jax.models.mlp import MLP
from cyclical_jax.training.assembly import assemble_model
from cyclical_jax.training.fields import RecipeError
from cyclical_jax.training.technique import Site, Spec, Technique

LOSS = "def mine(logits, labels):\n    return {} * logits[:, 0]\n\n\nLOSSES = {{'mine': mine}}\n"
MODEL = """
from __future__ import annotations

from flax import linen as nn


class Net(nn.Module):
    num_classes: int
    axis_name: str | None

    @nn.compact
    def __call__(self, images, *, train: bool):
        return nn.Dense(self.num_classes)(images.reshape(len(images), -1))


MODELS = {"net": Net}
"""


def test_what_runs_is_the_content_of_now(tmp_path, monkeypatch):
    """Of the same second and length, for which an import would take the bytecode of before."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    path, catalogues = tmp_path / "mine.py", []
    for factor in (2, 3, 2):
        path.write_text(LOSS.format(factor))
        catalogues.append(with_plugins([path]))
        (term,) = catalogues[-1].tasks[0].part(Site({"loss.name": "mine"}, None)).terms
        assert term.loss(jnp.ones([1, 2]), {"label": None}, {}).item() == factor
    assert catalogues[0] is catalogues[2] is not catalogues[1]
    assert list(tmp_path.iterdir()) == [path]


def test_a_module_class_with_annotations_in_strings_is_a_model(tmp_path):
    path = tmp_path / "net.py"
    path.write_text(MODEL)
    catalogue = with_plugins([path])
    config = default_config(catalogue)
    config.model.name = "net"
    structure = parse(config, catalogue=catalogue).structure
    assert dict(structure.techniques[0][1]) == {"model.name": "net"}
    model = assemble_model(structure, Spec(9, 3, (2, 2, 1)))
    params, _ = model.init(jax.random.key(0), jnp.zeros([1, 2, 2, 1]))
    assert params["Dense_0"]["kernel"].shape == (4, 3)
    assert catalogue.keys.keys() == CATALOGUE.keys.keys()


@pytest.mark.parametrize(
    "name, content, line",
    [
        ("mine.txt", "LOSSES = {}", " must be a Python file, such as mine.py."),
        (
            "mine.py",
            "import no_such_module",
            ", line 1: ModuleNotFoundError: No module named 'no_such_module'",
        ),
        ("mine.py", "TASKS = 3", ": TASKS must be a tuple of Tasks."),
        ("mine.py", "LOSSES = 3", ": LOSSES must be a dictionary."),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line(tmp_path, name, content, line):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(RecipeError) as error:
        with_plugins([path])
    assert str(error.value) == f"--plugin {path}{line}"


def test_a_network_and_a_technique_of_a_name_of_ours_are_refused():
    with pytest.raises(RecipeError, match="^The model 'mlp' exists already; choose another nam"):
        extended(models={"mlp": network_of(MLP)})
    with pytest.raises(RecipeError, match="^Two tasks or techniques have the name 'network'.$"):
        extended(techniques=[Technique("network", {})])
