"""docs/techniques.md has a section for each technique, all from one template."""

import re

import pytest

from configs import fashion_mnist
from cyclical_jax.catalogue import CATALOGUE, TASKS, TECHNIQUES
from cyclical_jax.tasks.classification import LOSSES
from tests.docs.pages import ROOT, blocks_of
from tests.experiments.test_front_page import DIFFERENCE

PAGE = ROOT / "docs" / "techniques.md"
PARTS = (
    "What it does.",
    "When to try it.",
    "In your own loop.",
    "In an experiment.",
    "What the evidence says.",
    "Source.",
)
# They are about all techniques, and have no parts.
OF_ALL = (
    "The clock that all techniques share",
    "What all losses share",
    "Where this differs from the published code",
)


def sections() -> dict[str, str]:
    """Returns {title: text} of the page."""
    found = re.split(r"^## (.*)\n", PAGE.read_text(), flags=re.MULTILINE)[1:]
    return dict(zip(found[::2], found[1::2], strict=True))


OF_TECHNIQUES = {title: text for title, text in sections().items() if title not in OF_ALL}
every_section = pytest.mark.parametrize("title", OF_TECHNIQUES)


def part_of(title, name):
    return OF_TECHNIQUES[title].split(f"**{name}**")[1].split("\n**")[0]


def test_there_are_sections():
    assert len(OF_TECHNIQUES) >= 20
    assert set(OF_ALL) < set(sections())


@every_section
def test_a_section_has_the_parts_of_the_template(title):
    assert tuple(re.findall(r"^\*\*(.*?)\*\* ", OF_TECHNIQUES[title], re.MULTILINE)) == PARTS


@every_section
def test_a_section_has_a_snippet_and_a_command(title):
    assert "```python\n" in part_of(title, "In your own loop.")
    experiment = part_of(title, "In an experiment.")
    assert "```bash\npython -m experiments.train " in experiment


@every_section
def test_the_evidence_is_a_number_that_links_to_its_table(title):
    evidence = " ".join(part_of(title, "What the evidence says.").split())
    if not evidence.startswith("Not measured"):
        assert DIFFERENCE.search(evidence)
        assert re.search(r"\[More\]\((results|defaults)\.md#[\w-]+\)", evidence)


def test_the_table_at_the_top_lists_the_sections_in_their_order():
    rows = re.findall(r"^\| \[([^\]]*)\]\(#([\w-]+)\)", PAGE.read_text(), re.MULTILINE)
    titles = [title.lower() for title in OF_TECHNIQUES]
    assert rows == [(title, title.replace(" ", "-")) for title in titles]


def test_every_variant_is_in_a_section():
    experiments = " ".join(part_of(title, "In an experiment.") for title in OF_TECHNIQUES)
    missing = {name for name in fashion_mnist.VARIANTS if f"`{name}`" not in experiments}
    assert missing == {"plain"}


def named() -> set[str]:
    return set(re.findall(r"`([\w.]+)`", PAGE.read_text()))


def test_every_number_that_may_cycle_is_named():
    knobs = {key for key, field in CATALOGUE.keys.items() if field.may_cycle}
    assert len(knobs) > 25
    assert knobs - named() == set()


def test_every_technique_loss_and_task_is_named():
    switches = {switch for technique in TECHNIQUES for switch in technique.switches}
    assert len(switches) >= 8
    words = {*switches, *LOSSES, *(task.name for task in TASKS if task.keys)}
    assert words - named() - {"classification"} == set()
    commands = " ".join(block.text for block in blocks_of(PAGE) if block.language == "bash")
    for switch in switches:
        assert f"--config.{switch}=" in commands, switch
