"""Writes the tables of README.md and of docs anew, from the JSON of docs/results.

python -m experiments.front_page
"""

import json
from pathlib import Path

from cyclical_jax._files import whole
from experiments.presentation import Record, front_table, rewrite

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"


def pages() -> dict[Path, str]:
    """Each page as it should be; a test compares them with what is there."""
    found = records()
    written = {ROOT / "README.md": {"techniques": front_table([found["techniques"]])}}
    tables = {name: front_table([record]) for name, record in found.items()}
    of_techniques = {name: tables.pop(name) for name in ("variants", "stochastic_depth")}
    written[ROOT / "docs" / "techniques.md"] = of_techniques
    written[ROOT / "docs" / "results.md"] = tables
    return {page: _rewritten(page.read_text(), tables) for page, tables in written.items()}


def records() -> dict[str, Record]:
    """The tables of docs/results, by their names."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))}


def _rewritten(text: str, tables: dict[str, str]) -> str:
    for name, table in tables.items():
        text = rewrite(text, name, table)
    return text


if __name__ == "__main__":
    for page, text in pages().items():
        with whole(page) as temporary:
            temporary.write_text(text)
