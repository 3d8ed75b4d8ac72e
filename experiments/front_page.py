"""Writes the tables of docs/ anew, from the JSON of docs/results.

python -m experiments.front_page

A page says itself which arms it shows where:

    <!-- table: weight_decay digits -->        all arms of a table and a dataset
    <!-- table: variants fashion_mnist: plain; focal -->        these arms
    <!-- /table -->
    <!-- origin: weight_decay -->        the command, the hardware and the versions
    <!-- /origin -->
    <!-- tradeoff: methods digits -->        the trade-off curves of a dataset, in short
    <!-- /tradeoff -->
    <!-- tradeoff: methods -->        their command, the hardware and the versions
    <!-- /tradeoff -->
"""

import functools
import re
import sys
from pathlib import Path
from typing import Any

from cyclical_jax.training.files import WorkdirError, whole
from experiments import tradeoff_presentation, tradeoff_records
from experiments.presentation import Record, front_table, sizes
from experiments.records import read

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
RESULTS = DOCS / "results"
TRADEOFFS = RESULTS / "tradeoff"

_BLOCK = re.compile(r"<!-- (table|origin|tradeoff): ([^\n]*?) -->\n.*?<!-- /\1 -->", re.DOTALL)
_MARKER = re.compile(r"<!-- /?(?:table|origin|tradeoff)\b")


def pages() -> dict[Path, str]:
    """Returns the text that each page with a table should have; a test compares it to the page."""
    found = records()
    texts = {page: page.read_text() for page in sorted(DOCS.glob("*.md"))}
    return {page: filled(text, found) for page, text in texts.items() if _MARKER.search(text)}


def records() -> dict[str, Record]:
    """Returns the tables of docs/results, by their names."""
    return {path.stem: read(path) for path in sorted(RESULTS.glob("*.json"))}


@functools.cache
def tradeoffs() -> dict[str, tradeoff_records.Record]:
    """Returns the trade-off curves of docs/results/tradeoff, by their names."""
    return {path.stem: tradeoff_records.read(path) for path in sorted(TRADEOFFS.glob("*.json"))}


def filled(text: str, records: dict[str, Record]) -> str:
    """Returns `text` with what its markers ask for between them.

    Raises:
      ValueError: A marker has no partner, or names a table, a dataset or an arm that is not there.
    """
    if len(_MARKER.findall(text)) != 2 * len(blocks(text)):
        raise ValueError("each <!-- table: ... --> and <!-- origin: ... --> needs its end marker.")

    def new(match: re.Match) -> str:
        kind, asked = match.groups()
        body = _MADE[kind](asked, records)
        # Markdown would take a comment that touches a table for a row of it.
        return f"<!-- {kind}: {asked} -->\n\n{body}\n\n<!-- /{kind} -->"

    return _BLOCK.sub(new, text)


def blocks(text: str) -> list[tuple[str, str]]:
    """Returns the kind of each block of a page and what it asks for."""
    return _BLOCK.findall(text)


def asked_arms(asked: str, records: dict[str, Record]) -> tuple[str, str, list[str]]:
    """Returns the table, the dataset and the arms that a marker asks for."""
    table, _, rest = asked.partition(" ")
    datasets = _found(table, records)["datasets"]
    # The name of a dataset may have a colon, which no space follows.
    name, _, names = rest.partition(": ")
    dataset = _found(name, datasets)
    return table, name, names.split("; ") if names else list(dataset["arms"])


def _table(asked, records):
    table, name, arms = asked_arms(asked, records)
    dataset = records[table]["datasets"][name]
    told = [] if len(arms) < len(dataset["arms"]) else [sizes(name, dataset)]
    return "\n\n".join([*told, front_table(dataset, arms)])


def _tradeoff(asked, records):
    name, _, dataset = asked.partition(" ")
    record = _found(name, tradeoffs())
    if not dataset:
        return _origin_of(record)
    return tradeoff_presentation.front(record, _found(dataset, record["datasets"]))


def _origin(asked, records):
    return _origin_of(_found(asked, records))


def _origin_of(record):
    words = [word for word in record["command"].split() if not word.startswith("--workdir")]
    versions = ", ".join(record["version"].split(", ")[:2])
    start, datasets = " ".join(words[:-1]), words[-1]
    return f"Command: `{start}\n{datasets}`.\nHardware: {record['hardware']}. Versions: {versions}."


_MADE = {"table": _table, "origin": _origin, "tradeoff": _tradeoff}


def _found(name: str, there: dict[str, Any]) -> Any:
    if name not in there:
        raise ValueError(f"{name!r} is not among {', '.join(there)}.")
    return there[name]


def main():
    for page, text in pages().items():
        with whole(page) as temporary:
            temporary.write_text(text)


if __name__ == "__main__":
    try:
        main()
    except (WorkdirError, ValueError) as error:
        sys.exit(str(error))
