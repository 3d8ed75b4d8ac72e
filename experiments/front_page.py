"""Writes the tables of README.md and of docs anew, from the JSON of docs/results.

python -m experiments.front_page
"""

import sys
from pathlib import Path

from cyclical_jax.training.files import WorkdirError, whole
from experiments.presentation import Record, front_table, rewrite
from experiments.records import read

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"


def pages() -> dict[Path, str]:
    """Returns the text that each page should have; a test compares it with the page."""
    found = records()
    written = {ROOT / "README.md": {"techniques": front_table([found["techniques"]])}}
    tables = {name: front_table([record]) for name, record in found.items()}
    of_techniques = {name: tables.pop(name) for name in ("variants", "stochastic_depth")}
    written[ROOT / "docs" / "techniques.md"] = of_techniques
    written[ROOT / "docs" / "results.md"] = tables
    return {page: _rewritten(page.read_text(), tables) for page, tables in written.items()}


def records() -> dict[str, Record]:
    """Returns the tables of docs/results, by their names."""
    return {path.stem: read(path) for path in sorted(RESULTS.glob("*.json"))}


def _rewritten(text: str, tables: dict[str, str]) -> str:
    for name, table in tables.items():
        text = rewrite(text, name, table)
    return text


def main():
    for page, text in pages().items():
        with whole(page) as temporary:
            temporary.write_text(text)


if __name__ == "__main__":
    try:
        main()
    except (WorkdirError, ValueError) as error:
        sys.exit(str(error))
