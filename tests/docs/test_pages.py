"""Every command and every snippet of the pages runs, as it is there, and prints what it says."""

import pytest

from tests.docs import runs
from tests.docs.pages import TEXTS, blocks_of, name_of, problem_of

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
    runs.run(page, tmp_path, is_slow=False)


@pytest.mark.slow
@pages_with(lambda block: "slow" in block.notes)
def test_a_page_runs_with_what_is_slow(page, tmp_path):
    runs.run(page, tmp_path, is_slow=True)


# What no machine of ours can run: {page: the reasons, in their order}.
NOT_RUN = {}


def test_what_is_not_run_is_known():
    """A reason is added here by somebody who has looked whether the block cannot be run."""
    found = {
        name_of(page): [b.notes["not run"] for b in blocks if "not run" in b.notes]
        for page, blocks in BLOCKS.items()
    }
    assert {page: reasons for page, reasons in found.items() if reasons} == NOT_RUN
