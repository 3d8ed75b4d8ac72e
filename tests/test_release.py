"""What a release consists of beside the code: the sdist, the long description, citation, forms."""

import datetime
import pathlib
import re
import subprocess
import tomllib

import pytest
import yaml

import cyclical_jax

ROOT = pathlib.Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text())
CHANGELOG = (ROOT / "CHANGELOG.md").read_text()
ADDED = {".gitignore", "pyproject.toml"}  # to the sdist, by the build itself


def test_the_version_is_written_once():
    assert "version" in PYPROJECT["project"]["dynamic"]
    assert PYPROJECT["tool"]["hatch"]["version"]["path"] == "cyclical_jax/__init__.py"
    assert re.fullmatch(r"\d+\.\d+\.\d+", cyclical_jax.__version__)
    assert CITATION["version"] == cyclical_jax.__version__


def test_the_changelog_begins_with_this_version_and_its_date():
    version, date = re.search(r"^## (\S+) \((.*)\)$", CHANGELOG, re.M).groups()
    assert version == cyclical_jax.__version__
    assert date == CITATION.get("date-released", "unreleased")
    assert date == "unreleased" or datetime.date.fromisoformat(date)


def test_the_licence_is_the_same_everywhere():
    assert CITATION["license"] == PYPROJECT["project"]["license"]
    assert (ROOT / "LICENSE").read_text().split()[:2] == ["Apache", "License"]


def test_the_sdist_has_all_that_a_clone_has():
    """Whoever packages it can run the tests and build the docs."""
    git = ["git", "ls-files"]
    listed = subprocess.run(git, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode or not listed.stdout:
        pytest.skip("this is not a clone")
    tracked = {line.split("/")[0] for line in listed.stdout.splitlines()}
    included = PYPROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["only-include"]
    assert set(included) == tracked - ADDED


def test_no_text_installs_it_by_a_name_of_an_index():
    """There the name may be a stranger's."""
    places = ("cyclical_jax/**/*.py", "experiments/*.py", "docs/**/*.md", "*.md")
    texts = [path.read_text() for place in places for path in ROOT.glob(place)]
    told = re.compile(rf"pip install.*\b{PYPROJECT['project']['name']}\b.*")
    assert len(texts) > 100
    assert [line for text in texts for line in told.findall(text)] == []


def long_description():
    hook = PYPROJECT["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]
    assert [list(fragment) for fragment in hook["fragments"]] == [["path"], ["text"]]
    text = (ROOT / hook["fragments"][0]["path"]).read_text()
    for change in hook["substitutions"]:
        text = re.sub(change["pattern"], change["replacement"], text)
    return text


def test_the_long_description_links_to_public_addresses_only():
    """`make package` has twine render it. Here: no relative link, no picture, and no text lost."""
    text, readme = long_description(), (ROOT / "README.md").read_text()
    assert len(re.findall(r"\]\(https?://", text)) == len(re.findall(r"\]\(https?://", readme)) > 0
    assert re.findall(r"\]\((?!https?://)[^)]*\)|<img|srcset", text) == []
    paths = re.findall(r"\]\(((?!https?://)[^)]+)\)", re.sub(r"!\[[^]]*\]\([^)]*\)", "", readme))
    assert len(paths) > 5 and [path for path in paths if path not in text] == []
    blocks = re.compile(r"^```.*?^```$", re.M | re.S)
    assert blocks.findall(text) == blocks.findall(readme)


FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml"))
TEXTS = {"label", "description", "placeholder", "value"}
ATTRIBUTES = {  # of each type of element, as GitHub takes them
    "markdown": {"value"},
    "input": TEXTS,
    "textarea": TEXTS | {"render"},
    "dropdown": {"label", "description", "options", "multiple", "default"},
}


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_an_issue_form_is_one_that_github_takes(path):
    form = yaml.safe_load(path.read_text())
    assert form.keys() == {"name", "description", "labels", "body"}
    questions = [element for element in form["body"] if element["type"] != "markdown"]
    for element in form["body"]:
        assert element["attributes"].keys() <= ATTRIBUTES[element["type"]]
    names = [element["id"] for element in questions]
    assert len(names) == len(set(names)) and all(re.fullmatch(r"[\w-]+", name) for name in names)
    texts = [text for element in questions for text in strings(element["attributes"])]
    assert all(isinstance(text, str) and text for text in texts)
    assert sum(element.get("validations") == {"required": True} for element in questions) > 0


def strings(attributes):
    for value in attributes.values():
        yield from value if isinstance(value, list) else [value]


def test_pages_that_the_forms_name_exist():
    named = {name for path in FORMS for name in re.findall(r"docs/[\w/-]+\.md", path.read_text())}
    assert named and all((ROOT / name).exists() for name in named)
