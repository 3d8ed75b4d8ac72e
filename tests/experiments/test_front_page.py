from experiments import front_page
from experiments.presentation import markdown


def test_the_pages_show_the_results_that_are_committed():
    stale = [page.name for page, text in front_page.pages().items() if page.read_text() != text]
    assert not stale, f"{stale}: run `python -m experiments.front_page`"


def test_a_table_is_shown_as_when_it_was_made():
    for name, record in front_page.records().items():
        assert markdown(record) == (front_page.RESULTS / f"{name}.md").read_text(), name


def test_every_table_has_its_three_files():
    names = {path.stem for path in front_page.RESULTS.glob("*.json")}
    assert len(names) >= 7
    for suffix in ("md", "png"):
        assert {path.stem for path in front_page.RESULTS.glob(f"*.{suffix}")} == names
