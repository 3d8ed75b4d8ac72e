"""Runs README's first example from its text where only jax, optax and this package are installed.

`make bare` calls it in such environments. It needs the standard library alone.
"""

import contextlib
import importlib.metadata
import io
import pathlib
import re
import sysconfig

README = pathlib.Path(__file__).parents[1] / "README.md"
EXAMPLE = re.compile(r".*?```python\n(.*?)```\n\n```text\n(.*?)```", re.DOTALL)
OF_PYTHON = {"pip", "setuptools", "wheel"}  # what a new environment has
NUMBER = r"\d+(\.\d+)?(e[+-]?\d+)?"


def main():
    names = {normal(found.name) for found in importlib.metadata.distributions()}
    further = names - OF_PYTHON - needed("cyclical-jax")
    assert not further, f"not a bare environment: {sorted(further)} are installed"
    check_files()
    program, expected = EXAMPLE.match(README.read_text()).groups()
    assert "```" not in program, "README's first example is not followed by what it prints"
    printed = output_of(program)
    assert without_numbers(printed) == without_numbers(expected), f"README's example says {printed}"
    for found, told in zip(numbers_of(printed), numbers_of(expected), strict=True):
        # Random numbers differ between versions of JAX.
        assert abs(found - told) <= 0.05 * abs(told), f"README's example says {printed}"
    print(described(), printed, sep="\n", end="")


def needed(name):
    """Returns the names of a distribution and of all that it requires, without extras."""
    found, new = set(), {normal(name)}
    while new:
        found |= new
        lines = [line for name in new for line in importlib.metadata.requires(name) or []]
        plain = [re.match(r"[\w.-]+", line)[0] for line in lines if "extra ==" not in line]
        new = {normal(name) for name in plain if is_installed(name)} - found
    return found


def is_installed(name):
    try:
        return bool(importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:  # it is for another system or Python
        return False


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def check_files():
    import cyclical_jax

    installed = pathlib.Path(sysconfig.get_path("purelib")) / "cyclical_jax"
    assert pathlib.Path(cyclical_jax.__file__).parent == installed, cyclical_jax.__file__
    assert cyclical_jax.__version__ == importlib.metadata.version("cyclical-jax")
    assert (installed / "py.typed").exists(), "type checkers would ignore the package's types"


def output_of(program):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(program, README.name, "exec"), {"__name__": "__main__"})
    return printed.getvalue()


def without_numbers(text):
    return re.sub(NUMBER, "0", text)


def numbers_of(text):
    return [float(match[0]) for match in re.finditer(NUMBER, text)]


def described():
    """Returns the versions at work, and the file that the package was installed from."""
    archive = importlib.metadata.distribution("cyclical-jax").read_text("direct_url.json")
    file = re.search(r'[^/"]+\.(whl|tar\.gz)', archive)[0]
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("jax", "optax", "numpy")]
    return f"{file} on Python {sysconfig.get_python_version()}, {', '.join(versions)}:"


if __name__ == "__main__":
    main()
