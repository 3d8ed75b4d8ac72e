"""Tables and pictures of a record whose numbers are known."""

import copy
import itertools
import re

import numpy as np
import pytest
from matplotlib import image
from matplotlib.backends.backend_agg import FigureCanvasAgg

from cyclical_jax.training.fields import RecipeError
from experiments import presentation
from experiments.presentation import front_table, markdown, picture, sizes
from experiments.statistics import with_comparisons


def arm(control, accuracy, loss, calibration_error, comparison=None):
    test = {"accuracy": accuracy, "loss": loss, "calibration_error": calibration_error}
    seeds = list(range(len(accuracy)))
    return {"control": control, "seeds": seeds, "test": test, "comparison": comparison}


def comparison(n, difference, interval, p_holm):
    """Made up, so that what is shown can only come from here; p is never shown."""
    values = {"n": n, "difference": difference, "interval": interval, "p": 0.77, "p_holm": p_holm}
    return values


@pytest.fixture
def record():
    constant = arm(None, [0.97, 0.98, 0.99], [0.1, 0.2, 0.3], [0.01, 0.02, 0.06])
    cyclical = arm(
        "constant",
        [0.98, None, 0.99],
        [0.12344, None, 0.12346],
        [0.011, None, 0.012],
        comparison(2, -0.00004, [-0.0123, 0.0456], 0.0314),
    )
    digits = {"constant": constant, "cyclical": cyclical}
    fashion = {
        "constant": arm(None, [0.90, 0.91, None], [0.5, 0.6, None], [0.1, 0.2, None]),
        "cyclical": arm(
            "constant", [0.92] * 3, [0.4] * 3, [0.05] * 3, comparison(2, 0.015, [0.01, 0.02], 9e-4)
        ),
        "tuned": arm("cyclical", [None] * 3, [None] * 3, [None] * 3, comparison(0, *[None] * 3)),
        "same": arm("cyclical", [0.92] * 3, [0.4] * 3, [0.05] * 3, comparison(3, 0.0, None, None)),
    }
    sizes = {"num_train": 1197, "num_validation": 200, "num_test": 400}
    return {
        "table": "weight_decay",
        "about": "Cyclical against constant weight decay.",
        "command": "python -m experiments.table --table=weight_decay",
        "version": "cyclical_jax 3f2a91c04b7e, jax 0.10.2",
        "hardware": "2 x cpu, AMD EPYC 9B14",
        "datasets": {
            "digits": sizes | {"arms": digits},
            "fashion": sizes | {"num_train": 60_000, "arms": fashion},
        },
    }


def rows_of(text):
    """[tables][rows][cells], without the rule under the head."""
    lines = text.splitlines()
    groups = itertools.groupby(lines, lambda line: line.startswith("|"))
    tables = [[line for line in group] for is_table, group in groups if is_table]
    for table in tables:
        assert re.fullmatch(r"\|( --- \|)+", table.pop(1))
    return [[line[2:-2].split(" | ") for line in table] for table in tables]


# ---- Markdown


def test_the_tables_row_by_row(record):
    text = markdown(record)
    expected = """\
| arm | control | n | test accuracy, % | difference [95 %] | p (Holm) | loss | calibration error |
| --- | --- | --- | --- | --- | --- | --- | --- |
| constant |  | 3 | 98.00 ± 1.00 |  |  | 0.2000 ± 0.1000 | 3.00 ± 2.65 |
| cyclical | constant | 2, 1 failed | 98.50 ± 0.71 | +0.00 [-1.23, +4.56] | 0.031 \
| 0.1235 ± 0.0000 | 1.15 ± 0.07 |
"""
    assert expected in text
    expected = """\
| constant |  | 2, 1 failed | 90.50 ± 0.71 |  |  | 0.5500 ± 0.0707 | 15.00 ± 7.07 |
| cyclical | constant | 3 | 92.00 ± 0.00 | +1.50 [+1.00, +2.00], 2 pairs | < 0.001 \
| 0.4000 ± 0.0000 | 5.00 ± 0.00 |
| tuned | cyclical | 0, 3 failed | – | – | – | – | – |
| same | cyclical | 3 | 92.00 ± 0.00 | +0.00 | – | 0.4000 ± 0.0000 | 5.00 ± 0.00 |
"""
    assert expected in text


def test_the_text_tells_where_the_numbers_come_from(record):
    text = markdown(record)
    for key in ("table", "about", "command", "version", "hardware"):
        assert text.count(record[key]) >= 1
    headings = [line for line in text.splitlines() if line.startswith("### ")]
    assert headings == [
        "### digits: 1,197 training, 200 validation, 400 test images, n = 3",
        "### fashion: 60,000 training, 200 validation, 400 test images, n = 3",
    ]
    assert text.endswith(presentation.legend(record) + "\n")
    for word in ("n:", "±:", "95 % interval", "p:", "–:", "Holm"):
        assert word in presentation.legend(record)


def test_the_intervals_tell_what_could_have_been_seen(record):
    fashion = record["datasets"]["fashion"]["arms"]
    fashion["same"]["comparison"]["interval"] = [-0.02, 0.03]
    text = markdown(record)
    assert "\nHalf the width of the intervals: 2.90 points;" in text  # (4.56 + 1.23) / 2
    assert "\nHalf the width of the intervals: 0.50 to 2.50 points;" in text


def test_without_an_interval_nothing_is_said_of_its_width(record):
    for dataset in record["datasets"].values():
        for one in dataset["arms"].values():
            one["comparison"] = one["comparison"] and comparison(1, 0.01, None, None)
    assert "Half the width" not in markdown(record)


def test_arms_of_unequal_numbers_of_seeds(record):
    record["datasets"]["digits"]["arms"]["more"] = arm(None, [0.9] * 10, [1.0] * 10, [0.0] * 10)
    assert "400 test images, n = 3 or 10\n" in markdown(record)


def test_one_seed_has_no_spread(record):
    record["datasets"]["digits"]["arms"] = {"constant": arm(None, [0.5], [1.25], [0.125])}
    (_, row), _ = rows_of(markdown(record))
    assert row == ["constant", "", "1", "50.00", "", "", "1.2500", "12.50"]


@pytest.mark.parametrize(
    "p, told",
    [(0.0, "< 0.001"), (0.00099, "< 0.001"), (0.001, "0.001"), (0.0496, "0.050"), (1.0, "1.000")],
)
def test_p_has_three_digits(record, p, told):
    record["datasets"]["digits"]["arms"]["cyclical"]["comparison"]["p_holm"] = p
    assert rows_of(markdown(record))[0][2][5] == told


def test_a_number_about_the_runs_is_a_column(record):
    before = presentation.legend(record)
    digits, fashion = (dataset["arms"] for dataset in record["datasets"].values())
    for name, summary in {"constant": {}, "cyclical": {"relative_cost": 0.29688}}.items():
        digits[name]["summary"] = summary
    first, second = rows_of(markdown(record))
    assert [row[-1] for row in first] == ["relative cost", "–", "0.297"]
    assert first[0][-2] == second[0][-1] == "calibration error"
    ((head, *rows),) = rows_of(front_table(record["datasets"]["digits"]))
    assert head[-1] == "relative cost" and [row[-1] for row in rows] == ["–", "0.297"]
    added = presentation.legend(record).removeprefix(before)
    assert added.startswith(" Relative cost: a number about the whole run, ")


# ---- the front page


def test_the_front_table(record):
    digits, fashion = record["datasets"].values()
    assert (
        front_table(digits)
        == """\
| arm | test accuracy, % | difference to `constant` [95 %], p |
| --- | --- | --- |
| `constant` | 98.00 ± 1.00 |  |
| `cyclical` | 98.50 ± 0.71, 1 failed | +0.00 [-1.23, +4.56], p = 0.031 |"""
    )
    assert (
        front_table(fashion)
        == """\
| arm | test accuracy, % | difference [95 %], p |
| --- | --- | --- |
| `constant` | 90.50 ± 0.71, 1 failed |  |
| `cyclical` vs `constant` | 92.00 ± 0.00 | +1.50 [+1.00, +2.00], 2 pairs, p < 0.001 |
| `tuned` vs `cyclical` | –, 3 failed | – |
| `same` vs `cyclical` | 92.00 ± 0.00 | +0.00 |"""
    )


def test_a_front_table_has_the_arms_that_are_asked_for(record):
    fashion = record["datasets"]["fashion"]
    ((head, *rows),) = rows_of(front_table(fashion, ["same", "cyclical"]))
    assert head[2] == "difference [95 %], p"
    assert [row[0] for row in rows] == [
        "`same` vs `cyclical`",
        "`cyclical` vs `constant`",
    ]
    ((head, *rows),) = rows_of(front_table(fashion, ["same", "tuned"]))
    assert head[2] == "difference to `cyclical` [95 %], p" and len(rows) == 2
    with pytest.raises(ValueError, match="^'tune' is no arm of this record; it has constant, cyc"):
        front_table(fashion, ["tune"])


def test_the_sizes_behind_a_table(record):
    digits = record["datasets"]["digits"]
    tuning = {"seeds": [7, 8], "trials": [{}] * 32, "chosen": 0}
    for one, its in zip(digits["arms"].values(), (tuning, tuning | {"seeds": [7]}), strict=True):
        one["tuning"] = its
    told = "**digits**: 1,197 training, 200 validation, 400 test images; 3 seeds; "
    assert sizes("digits", digits) == f"{told}32 trials of 2 seeds or 32 trials of 1 seed."
    for one in digits["arms"].values():
        one["tuning"] = None
    assert sizes("digits", digits) == f"{told}nothing tuned."


# ---- the picture


@pytest.fixture
def figures(monkeypatch):
    """The figures that are drawn within a test."""
    drawn = []

    class Figure(presentation.Figure):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            drawn.append(self)

    monkeypatch.setattr(presentation, "Figure", Figure)
    return drawn


def points_of(axes, row):
    """Sorted x of the dots below a row, and the x of the mean and the interval on it."""
    lines = [(np.array(line.get_xdata()), np.array(line.get_ydata())) for line in axes.lines]
    dots = [x for x, y in lines if len(y) and row < y[0] < row + 0.5]
    marks = [x.tolist() for x, y in lines if len(y) and (y == row).all()]
    return sorted(np.concatenate([[], *dots])), marks


def test_the_picture_shows_every_difference_in_points(record, figures, tmp_path):
    picture(record, tmp_path / "test.png")
    digits, fashion = figures[0].axes
    assert [axes.get_title("left") for axes in figures[0].axes] == [
        "digits\nn = 3",
        "fashion\nn = 3",
    ]
    labels = [label.get_text() for label in digits.get_yticklabels()]
    assert labels == [
        "cyclical\nminus constant",
        "tuned\nminus cyclical",
        "same\nminus cyclical",
    ]
    dots, (mean, interval) = points_of(digits, 0)
    assert dots == pytest.approx([0, 1]) and mean == pytest.approx([-0.004])
    assert interval == pytest.approx([-1.23, 4.56])
    dots, (mean, interval) = points_of(fashion, 0)
    assert dots == pytest.approx([1, 2]) and interval == pytest.approx([1, 2])
    assert points_of(fashion, 1) == ([], [])
    assert points_of(fashion, 2) == ([0, 0, 0], [[0]])
    assert points_of(digits, 1) == points_of(digits, 2) == ([], [])
    told = [
        {text.get_position()[1]: text.get_text() for text in axes.texts}
        for axes in (digits, fashion)
    ]
    assert told == [{0: "n = 2"}, {0: "n = 2", 1: "n = 0"}]
    for axes in (digits, fashion):
        assert axes.lines[0].get_xdata() == [0, 0]  # the zero line
        top, bottom = axes.get_ylim()[::-1]
        assert top < 0 and bottom > 2


def test_an_arm_against_another_control_is_another_row(record, figures, tmp_path):
    fashion = record["datasets"]["fashion"]["arms"]
    record["datasets"]["fashion"]["arms"] = {
        "plain": fashion["constant"],
        "cyclical": fashion["cyclical"] | {"control": "plain"},
    }
    picture(record, tmp_path / "test.png")
    digits, fashion = figures[0].axes
    labels = [label.get_text() for label in digits.get_yticklabels()]
    assert labels == ["cyclical\nminus constant", "cyclical\nminus plain"]
    assert points_of(digits, 1) == points_of(fashion, 0) == ([], [])
    assert points_of(digits, 0)[0] == pytest.approx([0, 1])
    assert points_of(fashion, 1)[0] == pytest.approx([1, 2])


def many(num_arms, num_datasets):
    """A record with names as long as they get."""
    rng = np.random.default_rng(0)
    arms = {}
    for i in range(num_arms):
        accuracy = rng.normal(0.9, 0.01, 5).tolist()
        control = f"constant_weight_decay_{i - i % 4:02}" if i % 4 else None
        name = f"cyclical_weight_decay_{i:02}" if i % 4 else f"constant_weight_decay_{i:02}"
        arms[name] = arm(control, accuracy, accuracy, accuracy)
    sizes = {"num_train": 1, "num_validation": 1, "num_test": 1}
    datasets = {f"fashion_mnist_4k:cnn_{i}": sizes | {"arms": arms} for i in range(num_datasets)}
    return with_comparisons({"table": "many", "datasets": datasets})


@pytest.mark.parametrize("num_arms, num_datasets", [(2, 1), (2, 4), (16, 1), (16, 4)])
def test_everything_fits_into_the_picture(num_arms, num_datasets, figures, tmp_path):
    picture(many(num_arms, num_datasets), tmp_path / "test.png")
    (figure,) = figures
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    texts = [*figure.axes[0].get_yticklabels(), figure._supxlabel]
    texts += [axes._left_title for axes in figure.axes if axes.axison]
    assert all(text.get_text() for text in texts)
    boxes = [text.get_window_extent(canvas.get_renderer()) for text in texts]
    page = figure.bbox
    for box in boxes:
        assert box.x0 >= page.x0 and box.x1 <= page.x1 and box.y0 >= page.y0 and box.y1 <= page.y1
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))


def test_the_picture_is_a_png_of_the_same_bytes_each_time(record, tmp_path):
    first, second, third = (tmp_path / f"{name}.png" for name in "abc")
    picture(record, first)
    picture(copy.deepcopy(record), second)
    record["datasets"]["digits"]["arms"]["cyclical"]["comparison"]["difference"] = 0.01
    picture(record, third)
    assert first.read_bytes() == second.read_bytes() != third.read_bytes()
    assert image.imread(first).std() > 0.05
    assert b"Software" not in first.read_bytes()


def test_a_table_of_controls_has_no_picture(record, tmp_path):
    for dataset in record["datasets"].values():
        dataset["arms"] = {"constant": dataset["arms"]["constant"]}
    with pytest.raises(RecipeError, match="^weight_decay has no arm with a control: .*draw.$"):
        picture(record, tmp_path / "test.png")


# ---- a score that is no accuracy


def judged_by_loss(record):
    """The record with digits judged by a loss of which less is better; fashion as it is."""
    digits = record["datasets"]["digits"]
    digits |= {"judged_by": {"name": "loss", "best": "min"}, "percent": ["accuracy"]}
    arms = digits["arms"]
    for one in arms.values():
        del one["test"]["calibration_error"]
    arms["cyclical"]["comparison"] = comparison(2, -0.00012, [-0.5, 0.25], 0.0314)
    return record


def test_a_table_names_the_score_that_it_is_judged_by(record):
    text = markdown(judged_by_loss(record))
    expected = """\
| arm | control | n | test loss (lower is better) | difference [95 %] | p (Holm) | accuracy |
| --- | --- | --- | --- | --- | --- | --- |
| constant |  | 3 | 0.2000 ± 0.1000 |  |  | 98.00 ± 1.00 |
| cyclical | constant | 2, 1 failed | 0.1235 ± 0.0000 | -0.0001 [-0.5000, +0.2500] | 0.031 \
| 98.50 ± 0.71 |

Half the width of the intervals: 0.3750; most smaller effects would be missed, even without Holm's \
correction.
"""
    assert expected in text
    assert "| test accuracy, % |" in text  # of the other dataset
    for words in (
        "paired by seed, in percentage points where the score is in %, with the 95 % interval",
        "Where lower is better, a difference below 0 speaks for the arm.",
        "Accuracy in percentage points.",
    ):
        assert words in text


def test_a_legend_says_no_more_than_its_table_has(record):
    old = presentation.legend(record)
    assert "in percentage points, with" in old and "ower" not in old
    assert old.endswith(
        "Loss: negative log likelihood of the test images, at temperature 1 whatever the arm was "
        "trained at. Calibration error in percentage points."
    )
    judged = judged_by_loss(record)
    del judged["datasets"]["fashion"]
    new = presentation.legend(judged)
    assert "in the unit of the score, with" in new
    assert "Calibration" not in new and "likelihood" not in new


def test_a_front_table_names_a_score_that_is_no_accuracy(record):
    digits, fashion = judged_by_loss(record)["datasets"].values()
    head, _, constant, cyclical = front_table(digits).splitlines()
    assert head.startswith("| arm | test loss (lower is better) | difference to `constant` ")
    assert constant == "| `constant` | 0.2000 ± 0.1000 |  |"
    told = "0.1235 ± 0.0000, 1 failed | -0.0001 [-0.5000, +0.2500], p = 0.031 |"
    assert cyclical == f"| `cyclical` | {told}"
    assert front_table(fashion).startswith("| arm | test accuracy, % |")


def test_an_arm_without_a_further_score_has_none_in_its_row(record):
    wild = record["datasets"]["digits"]["arms"]["cyclical"]
    wild["test"] = {"accuracy": [None] * 3, "loss": [None] * 3}
    assert rows_of(markdown(record))[0][2][3:] == ["–", "+0.00 [-1.23, +4.56], 2 pairs"] + [
        "0.031",
        "–",
        "–",
    ]


@pytest.mark.parametrize("both", [False, True])
def test_a_picture_has_each_score_in_its_unit(record, both, figures, tmp_path):
    judged = judged_by_loss(record)
    if not both:
        del judged["datasets"]["fashion"]
    picture(judged, tmp_path / "test.png")
    digits, *others = figures[0].axes
    dots, (mean, interval) = points_of(digits, 0)
    assert dots == pytest.approx(sorted([0.12344 - 0.1, 0.12346 - 0.3]))
    assert mean == pytest.approx([-0.00012]) and interval == pytest.approx([-0.5, 0.25])
    below, own = figures[0]._supxlabel.get_text(), [axes.get_xlabel() for axes in (digits, *others)]
    caption = "test loss, difference (lower is better)"
    dots_told = "dot: a seed; diamond: mean; line: 95 % interval"
    if both:
        assert own == [caption, "test accuracy, difference in points"] and below == dots_told
    else:
        assert own == [""] and below == f"{caption}\n{dots_told}"


def test_the_caption_of_accuracies_is_of_points(record, figures, tmp_path):
    picture(record, tmp_path / "test.png")
    assert figures[0]._supxlabel.get_text() == (
        "test accuracy, difference in points\ndot: a seed; diamond: mean; line: 95 % interval"
    )
