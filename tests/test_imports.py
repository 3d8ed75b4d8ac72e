import ast
import importlib.util
import inspect
import os
import pathlib
import subprocess
import sys
import tomllib

import pytest

import cyclical_jax

ROOT = pathlib.Path(__file__).parents[1]
FOLDERS = ("cyclical_jax", "configs", "experiments", "benchmarks")
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
    """Yields the full names of all imports of a file, also within functions."""
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from (arg.value for arg in node.args if isinstance(arg, ast.Constant))


def is_in(name, package):
    return name == package or name.startswith(f"{package}.")


def importers_of(package, files):
    return {str(path) for path in files if any(is_in(name, package) for name in imports_of(path))}


def floor_of(module):
    """Returns the floor of a module, or of a name within a module."""
    if not is_in(module, "cyclical_jax"):
        return 4
    if is_in(module, "cyclical_jax.training"):
        return 3
    if any(is_in(module, f"cyclical_jax.{name}") for name in ("schedules", "_checks")):
        return 1
    return 2


def module_of(path):
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("path", FILES, ids=str)
def test_an_import_only_goes_down(path):
    ours = [name for name in imports_of(path) if name.partition(".")[0] in FOLDERS]
    higher = [name for name in ours if floor_of(name) > floor_of(module_of(path))]
    assert not higher


@pytest.mark.parametrize(
    "module, below",
    [
        ("_checks", []),
        ("schedules", ["_checks"]),
        ("transforms", ["_checks", "schedules"]),
        ("_softmax", []),
        ("losses", ["_checks", "_softmax"]),
        ("__init__", ["losses", "schedules", "transforms"]),
    ],
)
def test_what_the_first_floors_import(module, below):
    allowed = [*sys.stdlib_module_names, "jax", "numpy", "optax"]
    allowed += [f"cyclical_jax.{name}" for name in below]
    imported = list(imports_of(pathlib.Path("cyclical_jax") / f"{module}.py"))
    assert imported
    assert [name for name in imported if not any(is_in(name, package) for package in allowed)] == []


@pytest.mark.parametrize("package", ["models", "data"])
def test_models_and_data_know_nothing_of_training(package):
    files = [path for path in LIBRARY if path.parts[1] == package]
    assert files
    assert importers_of("cyclical_jax.training", files) == set()


def test_configs_are_read_in_one_file():
    assert importers_of("ml_collections", LIBRARY) <= {"cyclical_jax/training/recipe.py"}


def test_datasets_are_read_in_one_folder():
    importers = importers_of("tensorflow_datasets", FILES)
    assert {str(pathlib.Path(path).parent) for path in importers} <= {"cyclical_jax/data"}


def test_one_file_says_pmap():
    def says_pmap(path):
        tree = ast.parse((ROOT / path).read_text())
        names = {getattr(node, "attr", getattr(node, "id", None)) for node in ast.walk(tree)}
        return "pmap" in names or any(name.endswith(".pmap") for name in imports_of(path))

    assert {str(path) for path in FILES if says_pmap(path)} <= {"cyclical_jax/training/devices.py"}


# ---- what is declared and what is public


def test_requirements_are_those_of_the_package_and_of_training():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = project["dependencies"] + project["optional-dependencies"]["train"]
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == declared


PUBLIC = sorted(
    name.rpartition(".")[-1] for name in imports_of(pathlib.Path("cyclical_jax/__init__.py"))
)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_has_a_docstring(name):
    function = getattr(cyclical_jax, name)
    assert not name.startswith("_") and inspect.isfunction(function)
    assert function.__doc__ and "Returns:" in function.__doc__
