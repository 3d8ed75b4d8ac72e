"""docs/data.md: its example runs, and it names what there is."""

import re
from pathlib import Path

import pytest

from cyclical_jax.data import DATASETS
from cyclical_jax.data.sources import KINDS

TEXT = (Path(__file__).parents[1] / "docs" / "data.md").read_text()


@pytest.mark.usefixtures("fast_compilation")
def test_the_example_runs_and_learns():
    _, example = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    names = {}
    exec(example, names)
    assert names["scores"]["accuracy"] > 0.8 and len(names["rows"]) == 10


def test_every_kind_and_every_name_is_there():
    for word, (place, _) in KINDS.items():
        assert f"`{word}:{place}`" in TEXT
    for name in DATASETS:
        assert f"`{name}`" in TEXT
