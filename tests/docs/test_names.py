"""What pages name is there: keys, options, variants, functions, modules, files."""

import difflib
import functools
import importlib
import pkgutil
import re

import pytest

from cyclical_jax.catalogue import with_plugins
from cyclical_jax.data import DATASETS
from cyclical_jax.data.sources import KINDS
from tests import commands
from tests.docs.pages import ROOT, TEXTS, blocks_of, name_of, tokens_of

# Keys that a page gets wrong on purpose, to show the error.
MISTAKES = {"lr", "optimizer.weight_decy"}

# Options of programs that are not ours: SLURM, gcloud, docker, TensorBoard.
OF_OTHERS = {
    *("nodes", "ntasks-per-node", "gpus-per-node", "gpus-per-task", "signal", "requeue"),
    *("worker", "command", "zone", "recurse", "shm-size", "logdir"),
}

# A folder of Flax's repository.
ELSEWHERE = {"examples/imagenet"}

# CHANGELOG may name what is no longer there.
NAMING = [page for page in TEXTS if page.name != "CHANGELOG.md"]
every_page = pytest.mark.parametrize("page", NAMING, ids=name_of)


@functools.cache
def keys():
    return with_plugins(sorted((ROOT / "examples" / "plugins").glob("*.py"))).keys.keys()


def own_keys(page):
    """Attributes of the models that the page itself shows are keys of these models."""
    code = "".join(block.text for block in blocks_of(page) if block.language == "python")
    return {f"model.{name}" for name in re.findall(r"^    (\w+): ", code, re.M)}


@every_page
def test_keys_are_there(page):
    found = set(re.findall(r"--config\.(\w+(?:\.\w+)*)", page.read_text()))
    assert found - keys() - own_keys(page) - MISTAKES == set()


@every_page
def test_keys_in_prose_are_there(page):
    sections = {key.partition(".")[0] for key in keys() if "." in key}
    names = {code for code in codes_of(page) if re.fullmatch(r"[a-z_]+\.[a-z_]+", code)}
    named = {name for name in names if name.partition(".")[0] in sections and name[-3:] != ".py"}
    assert named - keys() - own_keys(page) == set()


@functools.cache
def options():
    """What all programs of `experiments` and `benchmarks` take."""
    found = {"help", "helpfull"}
    for path in (ROOT / "experiments").glob("*.py"):
        if "command_line.run(" in path.read_text() and path.stem != "command_line":
            shown = commands.in_this_process(path.stem, "--helpfull").stdout
            found |= set(re.findall(r"^ +-[a-z,]*-(?:\[no\])?(\w+)", shown, re.M))
    for path in (ROOT / "benchmarks").glob("*.py"):
        found |= set(re.findall(r"add_argument\(\s*\"--(\w+)\"", path.read_text()))
    return found


@every_page
def test_options_are_there(page):
    found = set(re.findall(r"(?<![\w-])--(?!xla_)([a-zA-Z][\w-]*)", page.read_text()))
    assert found - options() - OF_OTHERS == set()


@every_page
def test_configs_and_their_variants_are_there(page):
    for name, variant in set(re.findall(r"\bconfigs/(\w+)\.py(?::(\w+))?", page.read_text())):
        arguments = [variant] if variant else []
        importlib.import_module(f"configs.{name}").get_config(*arguments)


@every_page
def test_programs_are_there(page):
    found = set(re.findall(r"(?<![\w./])(experiments|benchmarks)\.(\w+)", page.read_text()))
    paths = {ROOT / folder / f"{name}.py" for folder, name in found}
    assert {path for path in paths if not path.exists()} == set()


@every_page
def test_modules_and_functions_are_there(page):
    text = re.sub(r"\bcj\.", "cyclical_jax.", page.read_text())
    names = set(re.findall(r"(?<![\w./@-])cyclical_jax(?:\.[a-zA-Z_]\w*)+", text))
    assert {name for name in names if not is_name(name)} == set()


def is_name(name):
    """Whether it is a module, or an attribute of one."""
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True


def codes_of(page):
    """Returns what is written as code within lines of prose."""
    children = (child for token in tokens_of(page) for child in token.children or ())
    return {child.content for child in children if child.type == "code_inline"}


@every_page
def test_files_of_the_repository_are_there(page):
    top = {path.name for path in ROOT.iterdir()} - {"runs"}
    missing = set()
    for code in codes_of(page):
        path = re.sub(r":\w+$", "", code)
        first, *_ = path.split("/")
        is_path = re.fullmatch(r"[\w.*{},-]+(/[\w.*{},-]*)+", path)
        is_path = is_path and difflib.get_close_matches(first, top, cutoff=0.8)
        if is_path and not all(any(ROOT.glob(one.rstrip("/"))) for one in expanded(path)):
            missing.add(code)
    assert missing - ELSEWHERE == set()


def expanded(path):
    """Returns the paths that bash makes of braces."""
    before, braces, after = re.fullmatch(r"([^{]*)(?:\{(.*)\})?([^}]*)", path).groups()
    return [f"{before}{part}{after}" for part in (braces or "").split(",")]


def test_every_dataset_and_every_kind_of_data_is_named():
    codes = codes_of(ROOT / "docs" / "data.md")
    assert codes >= {f"{word}:{place}" for word, (place, _) in KINDS.items()} | set(DATASETS)
