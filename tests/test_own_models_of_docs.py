"""The models that docs/extending.md shows, as it shows them."""

import re
import sys
from pathlib import Path

import pytest

from cyclical_jax.catalogue import default_config, parse, with_network
from cyclical_jax.training.recipe import load_dataset
from cyclical_jax.training.run import plan

pytestmark = pytest.mark.usefixtures("fast_compilation")
PAGE = Path(__file__).parents[1] / "docs" / "extending.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)


@pytest.fixture
def shown(tmp_path, monkeypatch):
    """Writes the files that the page shows, and makes them importable."""
    named = [block for block in BLOCKS if re.match(r"# \w+\.py\n", block)]
    for block in named:
        name, _, text = block.removeprefix("# ").partition("\n")
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for path in tmp_path.glob("*.py"):
        sys.modules.pop(path.stem, None)


def test_the_linen_module_is_named_by_its_place(shown):
    for name in (f"{shown}/wide_net.py:WideNet", "wide_net:WideNet"):
        config = default_config(with_network(name))
        assert (config.model.name, config.model.width, config.model.depth) == (name, 256, 2)
        config.model.width = 8
        recipe = parse(config)
        plan(recipe, load_dataset(recipe))


def test_the_model_of_another_library_is_trained_as_the_page_says(shown, capsys):
    (code,) = (block for block in BLOCKS if "model=nnx_model" in block)
    scope = {}
    exec(compile(code, "page", "exec"), scope)
    assert scope["scores"]["accuracy"] > 0.5 and scope["scores"]["num_examples"] == 400
    assert capsys.readouterr().out.count("val_accuracy") == 3
