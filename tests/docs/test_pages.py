"""Every command and every snippet of the pages runs, as it is there, and prints what it says."""

import contextlib

import numpy as np
import pytest

from tests.docs import runs
from tests.docs.pages import ROOT, TEXTS, Block, blocks_of, name_of, problem_of

pytestmark = pytest.mark.usefixtures("fast_compilation")
RUN = ("bash", "python")


BLOCKS = {page: blocks_of(page) for page in TEXTS}


def pages_with(is_found):
    pages = [page for page in TEXTS if any(map(is_found, BLOCKS[page]))]
    return pytest.mark.parametrize("page", pages, ids=name_of)


@pages_with(lambda block: True)
def test_every_block_is_of_a_known_kind(page):
    found = {f"{name_of(page)}:{b.line}": problem_of(b) for b in BLOCKS[page]}
    assert {place: problem for place, problem in found.items() if problem} == {}


@pages_with(lambda block: block.language in RUN and "slow" not in block.notes)
def test_a_page_runs(page, tmp_path):
    PREPARED.get(name_of(page), lambda folder: None)(tmp_path)
    runs.run(page, tmp_path, is_slow=False)


@pytest.mark.slow
@pages_with(lambda block: "slow" in block.notes)
def test_a_page_runs_with_what_is_slow(page, tmp_path):
    PREPARED.get(name_of(page), lambda folder: None)(tmp_path)
    runs.run(page, tmp_path, is_slow=True)


NET = """
from flax import linen as nn


class Net(nn.Module):
    num_classes: int
    width: int = 8

    @nn.compact
    def __call__(self, images, *, train):
        hidden = nn.relu(nn.Dense(self.width)(images.reshape(len(images), -1)))
        return nn.Dense(self.num_classes)(hidden)
"""


def own_data_and_model(folder):
    labels = np.arange(400) % 4
    images = np.random.default_rng(0).integers(0, 100, (400, 6, 6)) + 30 * labels[:, None, None]
    np.savez(folder / "mine.npz", image=images.astype(np.uint8), label=labels)
    (folder / "my_net.py").write_text(NET)


# What the reader of a page brings: {page: a function that puts it into a folder}.
PREPARED = {"README.md": own_data_and_model}


# What no machine of ours can run: {page: the reasons, in their order}.
NOT_RUN = {
    "docs/accelerators.md": [
        "it compiles for minutes, with libtpu",
        "it needs XLA's description of the chip",
        "it needs accelerators",
    ],
    "docs/data.md": ["it downloads a dataset from the network"],
    "docs/machines.md": [
        *3 * ["tests/test_machines.py runs it"],
        "it needs SLURM",
        *2 * ["it needs a TPU pod"],
        "it needs a second machine",
        "it needs the archives of ImageNet",
    ],
    "docs/precision.md": ["tests/interop/test_qwix.py runs it", "it takes minutes"],
}


def test_what_is_not_run_is_known():
    """A reason is added here by somebody who has looked whether the block cannot be run."""
    found = {
        name_of(page): [b.notes["not run"] for b in blocks if "not run" in b.notes]
        for page, blocks in BLOCKS.items()
    }
    assert {page: reasons for page, reasons in found.items() if reasons} == NOT_RUN


@pytest.mark.parametrize(
    ("told", "numbers", "is_right"),
    [
        ("accuracy 95%, 1.0e-03 of 1,200\n", True, True),
        ("...\naccuracy 95%, 1.0e-03 of 1,200\n", True, True),
        ("accuracy 94%, 1.1e-03 of 1,201\n", True, True),
        ("accuracy 92%, 1.0e-03 of 1,200\n", True, False),
        ("accuracy 95%, 1.0e-02 of 1,200\n", True, False),
        ("accuracy -95%, 1.0e-03 of 1,200\n", True, False),
        ("accuracy 12%, 7e+05 of 9\n", False, True),
        ("precision 95%, 1.0e-03 of 1,200\n", False, False),
        ("accuracy 95%, 1.0e-03\n", False, False),
    ],
)
def test_what_is_printed_is_compared(told, numbers, is_right):
    block, page = Block(1, "text", told, {}), ROOT / "README.md"
    with contextlib.nullcontext() if is_right else pytest.raises(AssertionError, match="README"):
        runs.check(page, block, "accuracy 95%, 1.0e-03 of 1,200\n", numbers=numbers)
