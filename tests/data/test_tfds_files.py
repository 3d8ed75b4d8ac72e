"""A prepared dataset whose own descriptions are damaged: a line, or the right data."""

import copy
import functools
import json
import os
import random
import shutil

import numpy as np
import pytest

from cyclical_jax import data
from cyclical_jax.data import kept, tfds_any, tfds_named
from tests.data.test_sources import TEST_SIZE, TRAIN_SIZE, Cifar10
from tests.data.test_tfds_any import Shapes, build

OTHERS = (None, 7, -1, 10**12, 1.5, "7", "x", "", True, [], ["x"], {}, {"x": 1}, "REMOVED")
TINY = tfds_named.TFDS_DATASETS["cifar10"]._replace(
    num_examples={"train": TRAIN_SIZE, "test": TEST_SIZE}, num_train=8
)
FILES = ("dataset_info.json", "features.json")


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("tfds")
    for builder_class in (Shapes, Cifar10):
        build(builder_class, data_dir)
    return data_dir


@pytest.fixture
def data_dir(pristine, tmp_path, monkeypatch):
    monkeypatch.setattr(kept, "_write", lambda *args: None)  # whose fsync takes long
    monkeypatch.setitem(tfds_named.TFDS_DATASETS, "cifar10", TINY)
    return shutil.copytree(pristine, tmp_path / "tfds")


def places(node, path=()):
    """Yields the path of each node of JSON, the whole first."""
    yield path
    inner = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in inner if isinstance(node, dict | list) else ():
        yield from places(value, (*path, key))


def changed(content, path, other):
    """Returns JSON with another node at a path, or without it."""
    if not path:
        return "" if other == "REMOVED" else other
    content = copy.deepcopy(content)
    node = content
    for key in path[:-1]:
        node = node[key]
    if other == "REMOVED":
        del node[path[-1]]
    else:
        node[path[-1]] = other
    return content


def told(load):
    """Returns the arrays and names of a dataset, or the line that tells why there are none."""
    try:
        dataset = load()
    except (ValueError, data.DatasetNotFoundError) as error:
        lines = str(error).splitlines()
        assert len(lines) == 1 or lines[1].startswith("Move it away, then: "), error
        assert len(lines[0]) < 600
        return lines[0]
    arrays = [split[key] for split in dataset[:3] for key in ("image", "label")]
    return arrays, dataset.class_names


def is_same(one, other):
    return one[1] == other[1] and all(map(np.array_equal, one[0], other[0]))


def attack(directory, load, number):
    """Replaces nodes of the descriptions; as many of all as `number` tells, chosen at random."""
    right = told(load)
    found, wrong = [], []
    for name in FILES:
        file = directory / name
        good = file.read_bytes()
        content = json.loads(good)
        cases = [(path, other) for path in places(content) for other in OTHERS]
        for path, other in random.Random(number).sample(cases, min(number, len(cases))):
            file.write_text(json.dumps(changed(content, path, other)))
            tfds_any._find.cache_clear()
            result = told(load)
            found.append(isinstance(result, str))
            if not found[-1] and not is_same(result, right):
                wrong.append((name, path, other))
        file.write_bytes(good)
    assert not wrong
    assert any(found) and not all(found)


DIRECTORIES = {"tfds:shapes": "shapes/1.2.0", "cifar10": "cifar10/3.0.2"}


@pytest.mark.parametrize("number", [25, pytest.param(10**6, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", DIRECTORIES)
def test_a_node_of_another_kind_is_a_line_or_harmless(data_dir, name, number):
    load = functools.partial(data.load, name, data_dir=data_dir)
    attack(data_dir / DIRECTORIES[name], load, number)


NO_JSON = "[" * 100_000, '{"a":' * 100_000, "[1, 2]", "NaN", "", "\0", '{"a": 1e999}'


@pytest.mark.parametrize("content", NO_JSON, ids=range(len(NO_JSON)))
@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("name", DIRECTORIES)
def test_another_file_is_a_line(data_dir, name, file, content):
    (data_dir / DIRECTORIES[name] / file).write_text(content)
    tfds_any._find.cache_clear()
    line = told(functools.partial(data.load, name, data_dir=data_dir))
    assert f"cannot be used: its {file} is missing or damaged." in line


def test_a_pipe_is_not_waited_for(data_dir):
    file = data_dir / DIRECTORIES["cifar10"] / FILES[0]
    file.unlink()
    os.mkfifo(file)
    line = told(functools.partial(data.load, "cifar10", data_dir=data_dir))
    assert f"cannot be used: its {FILES[0]} is missing or damaged." in line


@pytest.mark.parametrize("found", [[3, 10], [-1, 3]])
def test_a_label_of_no_class_is_a_line(data_dir, found, monkeypatch):
    stack = tfds_named._stack
    monkeypatch.setattr(
        tfds_named, "_stack", lambda source: stack(source) | {"label": np.array(found)}
    )
    line = told(functools.partial(data.load, "cifar10", data_dir=data_dir))
    wrong = found[0] if found[0] < 0 else found[1]
    assert f"cannot be used: a label is {wrong}, of 10 classes." in line


def test_a_split_that_is_not_told_of_is_a_line(data_dir):
    """Else its examples would be missing in silence, and a test split would be cut from others."""
    file = data_dir / DIRECTORIES["tfds:shapes"] / FILES[0]
    content = json.loads(file.read_bytes())
    del content["splits"][1]
    file.write_text(json.dumps(content))
    tfds_any._find.cache_clear()
    line = told(functools.partial(data.load, "tfds:shapes", data_dir=data_dir))
    assert "shapes-test.array_record-00000-of-00001 belongs to no split of its dataset_info" in line


def test_a_copy_of_another_preparation_is_not_used(data_dir, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setitem(tfds_named.TFDS_DATASETS, "cifar10", TINY)
    load = functools.partial(data.load, "cifar10", data_dir=data_dir)
    load()
    info = data_dir / DIRECTORIES["cifar10"] / FILES[0]
    info.write_bytes(info.read_bytes() + b"\n")
    made, decode = [], tfds_named._decode
    monkeypatch.setattr(tfds_named, "_decode", lambda *args: made.append(1) or decode(*args))
    load()
    load()
    assert made == [1]
