"""The scores of a run at several numbers of bits: the table, and what it is refused with."""

import numpy as np
import pytest

from cyclical_jax import data, load_run
from experiments import evaluate
from tests import commands

SMALL = ("--config.duration=3 epochs", "--config.model.hidden_sizes=(8,6)")
FEW = ("--config.precision.weights=cyclical(6, 2)", "--config.precision.activations=5")


def trained(tmp_path_factory, *options):
    workdir = tmp_path_factory.mktemp("runs") / "run"
    arguments = ["--config=configs/digits.py", f"--workdir={workdir}", *SMALL, *options]
    process = commands.in_this_process("train", *arguments)
    assert process.returncode == 0, process.stderr
    return workdir


@pytest.fixture(scope="module")
def full_run(tmp_path_factory):
    return trained(tmp_path_factory)


@pytest.fixture(scope="module")
def few_run(tmp_path_factory):
    return trained(tmp_path_factory, *FEW, "--config.precision.keep=('first',)")


def command(workdir, *arguments):
    return commands.in_this_process("evaluate", f"--workdir={workdir}", *arguments)


def lines_of(workdir, *arguments):
    ended = command(workdir, *arguments)
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout.splitlines()


def accuracy_and_loss(run, split):
    """As a row has them."""
    examples = getattr(data.load("digits"), split)
    probabilities = run.predict(examples["image"])
    of_label = probabilities[np.arange(len(probabilities)), examples["label"]]
    accuracy = (probabilities.argmax(-1) == examples["label"]).mean()
    return f"{accuracy:.2%}", f"{-np.log(of_label).mean():.4f}"


def test_a_run_that_was_trained_in_full_precision_has_a_row_for_each_number_of_bits(full_run):
    first, *told, head, as_it_is, four, two = lines_of(full_run, "--bits=4,2", "--split=test")
    start = f"newest checkpoint kept in {full_run}, after 54 updates: test, 400 examples"
    assert first == start
    assert told == [
        "few bits: weights of Dense_0, Dense_1; symmetric levels",
        "full precision, by precision.keep: Dense_2",
        "full precision: the inputs of all layers, since training kept no ranges of them",
        "as it is: full precision",
    ]
    assert head.split() == ["bits", "accuracy", "loss", "calibration", "error"]
    run = load_run(full_run, "newest")
    assert as_it_is.removeprefix("as it is").split()[:2] == [*accuracy_and_loss(run, "test")]
    for bits, row in ((4, four), (2, two)):
        expected = accuracy_and_loss(run.with_bits(bits), "test")
        assert row.split()[:3] == [str(bits), *expected]
    assert len({as_it_is.split()[4], four.split()[2], two.split()[2]}) == 3


def test_a_run_that_was_trained_with_few_bits_has_those_of_its_end_as_it_is(few_run):
    _, *told, _, as_it_is, three = lines_of(few_run, "--bits=3", "--checkpoint=best")
    assert told == [
        "few bits: weights and inputs of Dense_1, Dense_2; affine levels (an export to Qwix needs "
        "symmetric ones)",
        "full precision, by precision.keep: Dense_0",
        "as it is: weights of 6 bits and activations of 5 bits",
    ]
    run = load_run(few_run, "best")
    assert as_it_is.removeprefix("as it is").split()[:2] == [*accuracy_and_loss(run, "validation")]
    assert three.split()[1:3] == [*accuracy_and_loss(run.with_bits(3), "validation")]
    (plain, *_) = lines_of(few_run, "--checkpoint=best")
    assert as_it_is.removeprefix("as it is").split()[0] in plain


@pytest.mark.parametrize("name", ["full_run", "few_run"])
def test_one_program_serves_all_numbers_of_bits(name, request, count_compilations):
    run = load_run(request.getfixturevalue(name), "newest")
    examples = evaluate.split_of(run, "validation")
    evaluate.scores_by_bits(run, examples, [8])
    with count_compilations() as compilations:
        scores = evaluate.scores_by_bits(run, examples, [2, 3, 16])
    assert compilations == []
    assert len({of["loss"] for of in scores.values()}) == 4 and [*scores] == [None, 2, 3, 16]


LINE = "--bits must be whole numbers from 2 to 16, such as 3,4,8, got "


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--bits=1"], f"{LINE}'1'."),
        (["--bits=4,17"], f"{LINE}'17'."),
        (["--bits=four"], f"{LINE}'four'."),
        (["--bits=4.0"], f"{LINE}'4.0'."),
        (["--bits=-4"], f"{LINE}'-4'."),
        (["--bits="], f"{LINE}''."),
        (["--bits=4,8,4"], "--bits has 4 twice."),
        (
            ["--bits=4", "--export={}/it"],
            "--bits prints scores and writes no file; leave out --export.",
        ),
        (
            ["--bits=4", "--confusion={}/it.png"],
            "--bits prints scores and writes no file; leave out --confusion.",
        ),
        (
            ["--bits=4", "--checkpoint=cycle_ends"],
            "--bits needs one checkpoint, got --checkpoint=cycle_ends.",
        ),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_read(tmp_path, options, line):
    ended = command(tmp_path / "none", *(option.format(tmp_path) for option in options))
    assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", f"{line}\n")
    assert list(tmp_path.iterdir()) == []


NETWORK = """
from flax import linen as nn


class Linear(nn.Module):
    num_classes: int

    @nn.compact
    def __call__(self, images):
        x = images.reshape(len(images), -1)
        return x @ self.param("matrix", nn.initializers.zeros, (x.shape[-1], self.num_classes))
"""


def test_a_network_without_layers_of_flax_is_one_line(tmp_path_factory, tmp_path):
    (tmp_path / "own.py").write_text(NETWORK)
    own = f"--config.model.name={tmp_path / 'own.py'}:Linear"
    workdir = trained(tmp_path_factory, own, "--config.model.hidden_sizes=(64,)")
    ended = command(workdir, "--bits=4")
    assert ended.returncode == 2 and len(ended.stderr.splitlines()) == 1
    assert ended.stderr.startswith("no layer can be quantized: there is none of flax.linen's Dense")
