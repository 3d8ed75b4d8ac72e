"""The pages of docs/api: every public name is on one of them, and on one alone."""

import ast
import itertools
import runpy
from collections import Counter
from pathlib import Path

import pytest

import cyclical_jax as cj
from tests.test_public import CASES, ON_HOST, function_of

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs" / "api").glob("*.md"))
SHOWN = runpy.run_path(str(ROOT / "docs" / "hooks" / "names.py"))["shown"]


def file_of(module):
    return ROOT / f"{module.replace('.', '/')}.py"


def on_pages():
    names = Counter(name for page in PAGES for name in SHOWN(page.read_text()))
    return {name: number for name, number in names.items() if not file_of(name).exists()}


def test_every_public_function_is_on_one_page():
    pages = on_pages()
    functions = [function_of(name) for name in (*(case.name for case in CASES), *ON_HOST)]
    functions += [cj.load_run]
    for function in functions:
        assert pages.get(f"{function.__module__}.{function.__qualname__}") == 1, function


def test_every_name_is_there_once():
    for name, number in on_pages().items():
        module, _, attribute = name.rpartition(".")
        tree = ast.parse(file_of(module).read_text())
        defined = {node.name for node in tree.body if hasattr(node, "name")}
        defined |= set(documented_values(tree))
        assert number == 1 and attribute in defined, name


def documented_values(tree):
    """Yields the names of values that have a docstring below them: no others are shown."""
    for node, after in itertools.pairwise(tree.body):
        is_value = isinstance(node, ast.AnnAssign) and isinstance(after, ast.Expr)
        if is_value and isinstance(after.value, ast.Constant):
            yield node.target.id


def test_the_published_schedules_are_on_a_page():
    assert on_pages()["cyclical_jax.precision.PRECISION_SCHEDULES"] == 1


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_links_to_its_sources(page):
    """Outside of the site a page has nothing else to read."""
    text = page.read_text()
    modules = {name for name in SHOWN(text) if file_of(name).exists()}
    modules |= {name.rpartition(".")[0] for name in {*SHOWN(text)} - modules}
    for module in modules:
        path = file_of(module).relative_to(ROOT).as_posix()
        assert f"[`{path}`](../../{path})" in text
