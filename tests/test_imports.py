import ast
import importlib.metadata
import importlib.util
import inspect
import os
import pathlib
import re
import subprocess
import sys
import tomllib

import pytest

import cyclical_jax
from cyclical_jax.catalogue import CATALOGUE

ROOT = pathlib.Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
FOLDERS = ("cyclical_jax", "configs", "experiments", "benchmarks", "examples")
FILES = sorted(
    path.relative_to(ROOT) for folder in FOLDERS for path in ROOT.glob(f"{folder}/**/*.py")
)
LIBRARY = [path for path in FILES if path.parts[0] == "cyclical_jax"]

# ---- what other people's projects import

WITH_NOTHING_ELSE_INSTALLED = """
import sys

ALLOWED = {*sys.stdlib_module_names, "cyclical_jax"}
ALLOWED |= {"jax", "jaxlib", "ml_dtypes", "numpy", "opt_einsum", "scipy"}
ALLOWED |= {"optax", "absl"}


class OnlyAllowed:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top in ALLOWED or top.startswith("_sysconfigdata"):
            return self.finder.find_spec(name, path, target)


sys.meta_path[:] = map(OnlyAllowed, sys.meta_path)
for name in sys.argv[1:]:
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    raise AssertionError(f"{name} is not refused")

import cyclical_jax
import cyclical_jax.losses
import cyclical_jax.schedules
import cyclical_jax.transforms

assert cyclical_jax.hardness_schedule(3)(1) == 1
"""
REFUSED = ["PIL", "flax", "matplotlib", "ml_collections", "orbax", "sklearn", "tensorflow_datasets"]


def test_the_first_two_floors_need_jax_and_optax_alone():
    assert importlib.util.find_spec("flax"), "must be there, or its refusal shows nothing"
    command = [sys.executable, "-W", "error", "-c", WITH_NOTHING_ELSE_INSTALLED, *REFUSED]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# ---- floors: an import only goes down


def imports_of(path):
    """Full names of all that a file imports, inside functions and by `import_module` too."""
    for node in nodes_of(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from (arg.value for arg in node.args if isinstance(arg, ast.Constant))


def nodes_of(tree):
    """All nodes within a tree but those that only type checkers read."""
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            yield node
            yield from nodes_of(node)


def is_in(name, package):
    return name == package or name.startswith(f"{package}.")


def importers_of(package, files):
    return {str(path) for path in files if any(is_in(name, package) for name in imports_of(path))}


def floor_of(module):
    """`module` may name something inside a module."""
    if not is_in(module, "cyclical_jax"):
        return 6
    by_name = {
        "catalogue": 5,
        "testing": 5,
        "trained": 5,
        "techniques": 4,
        "tasks": 4,
        "training": 3,
    }
    first = ("schedules", "restarts", "_piecewise", "_checks", "_dtypes", "_types")
    by_name |= dict.fromkeys(first, 1)
    found = [floor for name, floor in by_name.items() if is_in(module, f"cyclical_jax.{name}")]
    return found[0] if found else 2


def module_of(path):
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def test_an_import_only_goes_down():
    ours = [
        (path, name)
        for path in FILES
        for name in imports_of(path)
        if name.partition(".")[0] in FOLDERS
    ]
    assert len(FILES) > 50 and len(ours) > len(FILES)
    assert [pair for pair in ours if floor_of(pair[1]) > floor_of(module_of(pair[0]))] == []


AT_ONCE = ["_extras", "accumulation", "losses", "opt_state", "restarts", "schedules", "transforms"]
LATER = sorted(cyclical_jax._MODULES)  # imported at their first use, for type checkers at once


@pytest.mark.parametrize(
    "module, below",
    [
        ("_checks", []),
        ("_dtypes", []),
        ("_types", []),
        ("schedules", ["_checks", "_dtypes", "_types"]),
        ("_piecewise", ["_dtypes", "_types"]),
        ("restarts", ["_checks", "_dtypes", "_piecewise", "_types", "schedules"]),
        ("opt_state", ["_dtypes"]),
        ("transforms", ["_checks", "_dtypes", "_sharding", "_types", "opt_state", "schedules"]),
        ("_compilations", []),
        ("_sharding", []),
        ("_softmax", ["_sharding"]),
        ("_examples", ["_checks", "_dtypes"]),
        ("_focal", ["_checks", "_softmax"]),
        ("losses", ["_dtypes", "_examples", "_focal"]),
        ("accumulation", ["_checks", "_piecewise", "_types", "schedules"]),
        ("augment", ["_checks", "_sharding", "_dtypes", "_types"]),
        ("averaging", ["_checks", "_dtypes", "_types"]),
        ("curriculum", ["_checks", "_dtypes", "_sharding", "_types"]),
        ("distillation", ["_checks", "_dtypes", "_examples", "_focal", "_types", "losses"]),
        ("finetuning", ["_checks", "_dtypes", "_types", "opt_state", "transforms"]),
        ("_levels", ["_sharding"]),
        ("precision", ["_checks", "_dtypes", "_levels", "_types"]),
        ("semisupervised", ["_examples", "_types", "losses"]),
        ("__init__", [*AT_ONCE, *LATER]),
    ],
)
def test_what_the_first_floors_import(module, below):
    allowed = [*sys.stdlib_module_names, "jax", "numpy", "optax"]
    allowed += [f"cyclical_jax.{name}" for name in ("_types", *below)]
    imported = list(imports_of(pathlib.Path("cyclical_jax") / f"{module}.py"))
    assert imported
    assert [name for name in imported if not any(is_in(name, package) for package in allowed)] == []


@pytest.mark.parametrize("package", ["models", "data"])
def test_models_and_data_know_nothing_of_training(package):
    files = [path for path in LIBRARY if path.parts[1] == package]
    assert files
    assert importers_of("cyclical_jax.training", files) == set()


def test_configs_are_read_in_one_file_and_made_in_another():
    names = {"training/recipe.py", "catalogue.py"}
    assert importers_of("ml_collections", LIBRARY) == {f"cyclical_jax/{name}" for name in names}


# Words that the engine has too, in a sense of its own.
OF_THE_ENGINE = {"batch_size", "dtype", "hardness", "labels", "loss", "model", "momentum", "name"}
OF_THE_ENGINE |= {"network", "optimizer", "share", "start", "strength"}
OF_THE_ENGINE |= {"gradients", "keep", "weights"}
FURTHER = {"accuracy", "ema", "teacher", "unlabelled", "difficulty", "rank", "focal", "label"}


def words_of(path):
    """All words in names and strings of a file, docstrings too."""
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        named = (getattr(node, name, None) for name in ("id", "attr", "arg", "name", "value"))
        for text in (text for text in named if isinstance(text, str)):
            yield from (word.strip("_").lower() for word in re.findall(r"\w+", text))


def test_the_engine_names_no_technique_and_no_task():
    keys = [key.split(".") for key in CATALOGUE.owners]
    words = {word for key in keys for word in key} | FURTHER
    words |= {name for entry in CATALOGUE.entries for name in (entry.name, *entry.measures)}
    engine = [path for path in LIBRARY if path.parts[1] == "training"]
    assert len(engine) > 20 and len(words) > 50
    named = {(str(path), word) for path in engine for word in words_of(path) if word in words}
    assert {pair for pair in named if pair[1] not in OF_THE_ENGINE} == set()


def test_techniques_know_nothing_of_each_other():
    for folder in ("techniques", "tasks"):
        files = [path for path in LIBRARY if path.parts[1] == folder]
        assert len(files) > 2
        assert importers_of("cyclical_jax.techniques", files) == set()


def test_datasets_are_read_in_one_folder():
    importers = importers_of("tensorflow_datasets", FILES)
    assert {str(pathlib.Path(path).parent) for path in importers} <= {"cyclical_jax/data"}


def test_a_bridge_to_another_library_is_imported_by_nobody_and_alone_imports_it():
    bridges = [path for path in LIBRARY if path.parts[1] == "interop" and path.stem != "__init__"]
    assert bridges
    assert importers_of("cyclical_jax.interop", FILES) == set()
    for path in bridges:
        assert importers_of(path.stem, FILES) == {str(path)}
        assert path.stem in PROJECT["optional-dependencies"]


def test_one_file_says_pmap():
    def says_pmap(path):
        tree = ast.parse((ROOT / path).read_text())
        names = {getattr(node, "attr", getattr(node, "id", None)) for node in ast.walk(tree)}
        return "pmap" in names or any(name.endswith(".pmap") for name in imports_of(path))

    assert {str(path) for path in FILES if says_pmap(path)} <= {"cyclical_jax/training/devices.py"}


# ---- what is declared and what is public


def test_requirements_are_those_of_training():
    declared = PROJECT["optional-dependencies"]["train"]
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == declared


def test_the_floor_that_is_tested_is_the_one_that_is_declared():
    """And `train`, whose floors are higher, names the same packages."""
    floor = [requirement.replace(">=", "==") for requirement in PROJECT["dependencies"]]
    assert [line.split("==")[0] for line in floor] == ["jax", "optax"]
    (tested,) = re.findall(r"^FLOOR := (.*)$", (ROOT / "Makefile").read_text(), re.M)
    assert tested.split() == floor
    train = [line.split(">=")[0] for line in PROJECT["optional-dependencies"]["train"]]
    assert {"jax", "optax"} <= set(train)


def test_the_compilers_for_accelerators_are_those_that_jax_names():
    """Its own extras bring the libtpu and the CUDA plugin of its version, and no CUDA."""
    (declared,) = PROJECT["optional-dependencies"]["accelerators"]
    (jax,) = (line for line in PROJECT["optional-dependencies"]["train"] if line.startswith("jax>"))
    extras = re.fullmatch(r"jax\[([\w,-]+)\](>=.*); sys_platform == 'linux'", declared)
    assert f"jax{extras[2]}" == jax
    named = importlib.metadata.requires("jax")
    for extra, starts in (("tpu", "libtpu=="), ("cuda12-local", "jax-cuda12-plugin<=")):
        assert extra in extras[1].split(",")
        assert any(line.startswith(starts) and f'"{extra}"' in line for line in named)


def public_functions():
    values = {name: getattr(cyclical_jax, name) for name in cyclical_jax.__all__}
    return {name: value for name, value in values.items() if not inspect.ismodule(value)}


def test_every_public_name_has_a_docstring():
    functions = public_functions()
    assert len(functions) > 15 and not [name for name in functions if name.startswith("_")]
    assert [name for name, value in functions.items() if not inspect.isfunction(value)] == []
    without = [name for name, value in functions.items() if "Returns:" not in (value.__doc__ or "")]
    assert without == []


def test_all_public_names_are_listed_once_and_are_all():
    listed = cyclical_jax.__all__
    assert listed == sorted(set(listed)) and set(listed) <= set(dir(cyclical_jax))
    imported = {name for name, value in vars(cyclical_jax).items() if inspect.isfunction(value)}
    assert {name for name in imported if not name.startswith("_")} == set(public_functions())
    with pytest.raises(AttributeError, match="'cyclical_jax' has no attribute 'hardnes_schedule'"):
        cyclical_jax.__getattr__("hardnes_schedule")


IMPORTED_AT_ITS_FIRST_USE = """
import sys
import cyclical_jax as cj

for name in sys.argv[1:]:
    assert f"cyclical_jax.{name}" not in sys.modules, name
    assert getattr(cj, name) is sys.modules[f"cyclical_jax.{name}"] and name in dir(cj)
from cyclical_jax import *

assert callable(augment.augment) and callable(finetuning.scale_by_layer)
"""


def test_further_modules_are_imported_at_their_first_use():
    command = [sys.executable, "-W", "error", "-c", IMPORTED_AT_ITS_FIRST_USE, *LATER]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
