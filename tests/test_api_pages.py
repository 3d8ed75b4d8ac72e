"""The pages of docs/api: every public name is on one of them, and on one alone."""

import ast
import re
from collections import Counter
from pathlib import Path

import cyclical_jax as cj
from tests.test_public import CASES, ON_HOST, function_of

PAGES = Path(__file__).parents[1] / "docs" / "api"
DIRECTIVE = re.compile(r"^::: (?P<name>\S+)\n(?P<options>(?:    .*\n?)*)", re.MULTILINE)


def shown(text):
    """Returns the full names that a page shows, as (module, name)."""
    names = []
    for match in DIRECTIVE.finditer(text):
        name, options = match["name"], match["options"]
        members = re.findall(r"^        - (\w+)$", options, re.MULTILINE)
        is_module = "show_root_heading: false" in options
        names += [f"{name}.{member}" for member in members] if is_module else [name]
    return names


def on_pages():
    return Counter(name for page in PAGES.glob("*.md") for name in shown(page.read_text()))


def test_every_public_function_is_on_one_page():
    pages = on_pages()
    functions = [function_of(name) for name in (*(case.name for case in CASES), *ON_HOST)]
    functions += [cj.load_run]
    for function in functions:
        assert pages[f"{function.__module__}.{function.__qualname__}"] == 1, function


def test_every_name_is_there_once():
    for name, number in on_pages().items():
        module, _, attribute = name.rpartition(".")
        path = PAGES.parents[1] / f"{module.replace('.', '/')}.py"
        tree = ast.parse(path.read_text())
        defined = {node.name for node in tree.body if hasattr(node, "name")}
        assert number == 1 and attribute in defined, name
