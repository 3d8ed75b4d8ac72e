"""The picture of scores against a number of the runs, of a record whose numbers are known."""

import copy
import itertools

import numpy as np
import pytest
from matplotlib import image
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from experiments import scatter
from experiments.statistics import interval


def arm(control, scores, cost):
    summary = {} if cost is None else {"relative_cost": cost}
    return {
        "control": control,
        "seeds": list(range(len(scores))),
        "test": {"accuracy": scores, "loss": [3 * score for score in scores if score]},
        "summary": summary,
    }


@pytest.fixture
def record():
    arms = {
        "full": arm(None, [0.91, 0.93], None),
        "8 bits": arm("full", [0.90, 0.92], 1.0),
        "2 bits": arm("full", [0.80, None], 0.19),
        "cycle": arm("8 bits", [0.92, 0.94], 0.57),
        "failed": arm("8 bits", [None, None], 0.3),
    }
    one = {"num_train": 1, "num_validation": 1, "num_test": 1, "arms": arms}
    other = copy.deepcopy(one) | {"judged_by": {"name": "loss", "best": "min"}}
    return {"table": "bits", "against": "relative_cost", "datasets": {"one": one, "other": other}}


@pytest.fixture
def figures(monkeypatch):
    """The figures that are drawn within a test."""
    drawn = []

    class Figure(scatter.Figure):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            drawn.append(self)

    monkeypatch.setattr(scatter, "Figure", Figure)
    return drawn


def marks_of(axes):
    """Returns {legend: (x, y, ends of the lines)} of the arms with a number."""
    found = {}
    for container in axes.containers:
        line, _, (bars,) = container.lines
        ends = [segment[:, 1].tolist() for segment in bars.get_segments()]
        found[container.get_label()] = (*line.get_data(), ends)
    return found


def test_each_arm_is_at_its_number_and_its_mean_in_percent(record, figures, tmp_path):
    scatter.picture(record, tmp_path / "test.png")
    marks = marks_of(figures[0].axes[0])
    assert marks.keys() == {"compared with full", "compared with 8 bits"}
    x, y, ends = marks["compared with full"]
    assert list(x) == [1.0, 0.19] and y == pytest.approx([91, 80])
    assert ends[0] == pytest.approx([100 * end for end in interval([0.90, 0.92])])
    assert ends[1] == pytest.approx([80, 80])  # one run has no interval
    x, y, _ = marks["compared with 8 bits"]
    assert list(x) == [0.57] and y == pytest.approx([93])  # and the arm that failed is left out


def test_an_arm_without_the_number_is_a_level(record, figures, tmp_path):
    scatter.picture(record, tmp_path / "test.png")
    axes = figures[0].axes[0]
    (level,) = [line for line in axes.lines if line.get_linestyle() == "--"]
    assert level.get_ydata() == pytest.approx([92, 92])
    assert {text.get_text() for text in axes.texts} == {"full", "8 bits", "2 bits", "cycle"}
    assert "dashed: an arm without relative cost" in figures[0]._supxlabel.get_text()
    del record["datasets"]["one"]["arms"]["full"], record["datasets"]["other"]
    record["datasets"]["one"]["arms"]["8 bits"]["control"] = None
    scatter.picture(record, tmp_path / "test.png")
    assert "dashed" not in figures[1]._supxlabel.get_text()


def test_a_dataset_names_its_own_score(record, figures, tmp_path):
    scatter.picture(record, tmp_path / "test.png")
    one, other = figures[0].axes
    assert one.get_title("left") == "one, n = 2: test accuracy, %"
    assert other.get_title("left") == "other, n = 2: test loss (lower is better)"
    assert marks_of(other)["compared with 8 bits"][1] == pytest.approx([2.79])


def crowded(num_arms):
    rng = np.random.default_rng(0)
    costs = np.sort(rng.choice([0.2, 0.56, 0.57, 0.571, 0.58, 0.8, 1.0], num_arms))
    arms = {
        f"static {at}": arm("static 0", rng.normal(0.9, 0.002, 5).tolist(), float(cost))
        for at, cost in enumerate(costs)
    }
    arms["static 0"]["control"] = None
    one = {"num_train": 1, "num_validation": 1, "num_test": 1, "arms": arms}
    return {"table": "bits", "against": "relative_cost", "datasets": {"one": one, "two": one}}


@pytest.mark.parametrize("num_arms", [2, 17])
def test_no_name_hides_another(num_arms, figures, tmp_path):
    scatter.picture(crowded(num_arms), tmp_path / "test.png")
    canvas = FigureCanvasAgg(figures[0])
    canvas.draw()
    for axes in figures[0].axes:
        renderer = canvas.get_renderer()  # an annotation alone would count its line in
        boxes = [Text.get_window_extent(text, renderer) for text in axes.texts]
        assert len(boxes) == num_arms
        page = figures[0].bbox
        assert all(page.x0 <= box.x0 and box.x1 <= page.x1 for box in boxes)
        assert all(axes.bbox.y0 <= box.y0 and box.y1 <= axes.bbox.y1 for box in boxes)
        # The columns are far enough apart; within one the lines are.
        assert not any(
            one.x0 == other.x0 and one.overlaps(other)
            for one, other in itertools.combinations(boxes, 2)
        )


def test_the_picture_is_a_png_of_the_same_bytes_each_time(record, tmp_path):
    first, second, third = (tmp_path / f"{name}.png" for name in "abc")
    scatter.picture(record, first)
    scatter.picture(copy.deepcopy(record), second)
    record["datasets"]["one"]["arms"]["cycle"]["summary"]["relative_cost"] = 0.6
    scatter.picture(record, third)
    assert first.read_bytes() == second.read_bytes() != third.read_bytes()
    assert image.imread(first).std() > 0.05
