"""The list of all keys of a config, as text: a section for the engine's and for each entry's keys.

A section begins with its name and a sentence. Each key is a line "key = value", then its meaning
and what is allowed, indented.
"""

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from cyclical_jax.training.contradictions import is_on
from cyclical_jax.training.fields import Field, any_of, shown
from cyclical_jax.training.keys import SECTIONS, TASK, Section
from cyclical_jax.training.structure import Catalogue
from cyclical_jax.training.technique import Task, Technique

WIDTH = 100  # characters; a value may be longer
_INDENT = "    "


def listed(catalogue: Catalogue, config: Mapping[str, Any]) -> str:
    """Returns every key of a config: its value, its meaning, what is allowed, and the default.

    A section of a task or technique that is off says so, and what turns it on. The default is shown
    if the value differs from it.
    """
    catalogue = catalogue.of(config)
    values = catalogue.flat(config)
    blocks = []
    for section, off in _sections(catalogue, values):
        keys = (_key(key, field, values[key]) for key, field in section.keys.items())
        heading = f"---- {section.name}{f' ({off})' if off else ''} ----"
        about = [section.about] if section.about else []
        blocks.append("\n".join([heading, *about, "", *keys]))
    return "\n\n".join(blocks)


def _sections(catalogue: Catalogue, values: Mapping[str, Any]) -> Iterator[tuple[Section, str]]:
    """Yields each section, and what turns it on; "" where it is on."""
    keys = catalogue.keys
    checked = {key: field.check(key, values[key]) for key, field in keys.items()}
    yield from ((section, "") for section in SECTIONS)
    yield Section("task", "Chooses the kind of problem.", {TASK: keys[TASK]}), ""
    for entry in catalogue.entries:
        off = "" if is_on(catalogue, checked, entry) else _what_turns_on(entry)
        yield Section(entry.name, entry.about, entry.keys), off


def _what_turns_on(entry: Technique) -> str:
    if isinstance(entry, Task):
        return f"off; {TASK} = {entry.name!r} turns it on"
    if not entry.switches:
        return "off; not for this task"
    first, *others = entry.switches
    words = any_of(first, *(f".{key.rpartition('.')[2]}" for key in others))
    return f"off; {words} turns it on"


def _key(key: str, field: Field, value: Any) -> str:
    is_default = field.check(key, value) == field.check(key, field.default)
    default = "" if is_default else f"; default: {shown(field.default)}"
    meaning = _wrapped(field.meaning, _INDENT, _INDENT)
    allowed = _wrapped(f"allowed: {field.type}{default}", _INDENT, _INDENT + "  ")
    return "\n".join([f"{key} = {shown(value)}", *meaning, *allowed])


def _wrapped(words: str, first: str, rest: str) -> list[str]:
    return textwrap.wrap(
        words,
        WIDTH,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )
