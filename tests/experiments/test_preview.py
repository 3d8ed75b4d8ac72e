"""What is drawn of a config before it is trained."""

import io

import numpy as np
import pytest

from configs import digits, fashion_mnist
from cyclical_jax.training.fields import RecipeError
from cyclical_jax.training.files import WorkdirError
from cyclical_jax.training.recipe import cyclical
from experiments import preview
from tests import commands
from tests.helpers import recipe_of


def drawn_with(**changes):
    return preview.preview(recipe_of(**changes))


def triangle(easy, hard, factor, total_steps):
    """The cycle by hand, at every update."""
    values = []
    for count in range(total_steps):
        x = count / (total_steps - 1)
        h = factor * x if x <= 1 / factor else (factor - factor * x) / (factor - 1)
        values.append((1 - h) * easy + h * hard)
    return np.array(values)


# ---- the lines


def test_a_line_has_the_value_of_its_knob_at_every_update():
    drawn = drawn_with(
        duration="7 epochs",
        accumulate=4,
        optimizer__weight_decay=cyclical(1e-4, 2e-3, factor=5),
        optimizer__max_norm=cyclical(8.0, 0.5, factor=1.25),
        loss__temperature=3.0,
    )
    # 18 batches of 64 in 1,197 examples; 7 * 18 of them make 31 updates, and half of one.
    np.testing.assert_array_equal(drawn.counts, np.arange(32))
    expected = {  # in the order of the catalogue: those of the task first
        "temperature": np.full(32, 3.0),
        "label_smoothing": np.zeros(32),
        "weight_decay": triangle(1e-4, 2e-3, 5, 32),
        "max_norm": triangle(8.0, 0.5, 1.25, 32),
        "momentum": np.full(32, 0.9),
        "learning_rate": 0.1 * (1 + np.cos(np.pi * np.arange(32) / 32)) / 2,
    }
    assert list(drawn.lines) == list(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(drawn.lines[name].values, values, rtol=1e-5, atol=1e-9)
    assert drawn.updates_per_epoch == 32 / 7


def test_a_long_run_is_drawn_from_its_first_to_its_last_update():
    drawn = drawn_with(duration="3000001 steps", optimizer__learning_rate=cyclical(1e-3, 0.5))
    assert len(drawn.counts) == 20_000 and drawn.counts.dtype == np.int32
    assert drawn.counts[0] == 0 and drawn.counts[-1] == 3_000_000
    assert set(np.diff(drawn.counts)) == {150, 151}
    values = drawn.lines["learning_rate"].values
    assert len(values) == 20_000


@pytest.mark.parametrize(
    "changes, title",
    [
        ({}, "digits: 720 updates, 40 epochs of 1,197 examples"),
        ({"train_on": "train+validation"}, "digits: 840 updates, 40 epochs of 1,397 examples"),
        (
            {"remainder": "pad", "duration": "27 steps"},
            "digits: 27 updates, 1.42105 epochs of 1,197 examples",
        ),
        (
            {"dataset": "fashion_mnist", "batch_size": 1000, "data_dir": "/nowhere"},
            "fashion_mnist: 2,200 updates, 40 epochs of 55,000 examples",
        ),
        (
            {"dataset": "cifar10", "subset": "4k", "batch_size": 100, "accumulate": 2},
            "cifar10: 800 updates, 40 epochs of 4,000 examples",
        ),
    ],
)
def test_the_title_tells_the_length_of_the_run(changes, title):
    assert drawn_with(**changes).title == title


@pytest.mark.parametrize(
    "knob, title, is_log, extremes",
    [
        (2e-4, "weight_decay 0.0002", False, [2e-4]),
        (0, "weight_decay 0", False, [0]),
        (cyclical(1e-4, 2e-3), "weight_decay 0.0001 → 0.002", False, [1e-4, 2e-3]),
        (cyclical(1e-4, 2e-3, scale="log"), "weight_decay 0.0001 → 0.002 log", True, [1e-4, 2e-3]),
        (cyclical(2e-3, 1e-4, scale="log"), "weight_decay 0.002 → 0.0001 log", True, [1e-4, 2e-3]),
        (
            cyclical(1e-4, 9e-4, scale="log"),
            "weight_decay 0.0001 → 0.0009 log",
            False,
            [1e-4, 9e-4],
        ),
        (cyclical(1e-4, 1e-4, scale="log"), "weight_decay 0.0001", False, [1e-4]),
    ],
)
def test_a_line_tells_its_easy_and_hard_value_and_its_scale(knob, title, is_log, extremes):
    # With an odd number of updates the middle one is the peak.
    line = drawn_with(optimizer__weight_decay=knob, duration="101 steps").lines["weight_decay"]
    assert (line.title, line.is_log) == (title, is_log)
    np.testing.assert_allclose(line.extremes, extremes, rtol=1e-6)


def test_a_rate_that_decays_to_0_is_told_and_never_drawn_on_a_log_axis():
    rate = cyclical(1e-4, 0.1, scale="log")
    decayed = drawn_with(optimizer__learning_rate=rate).lines["learning_rate"]
    assert decayed.title == "learning_rate 0.0001 → 0.1 log × cosine" and not decayed.is_log
    free = drawn_with(optimizer__learning_rate=rate, optimizer__learning_rate_schedule=None)
    assert free.lines["learning_rate"].title == "learning_rate 0.0001 → 0.1 log"
    assert free.lines["learning_rate"].is_log


def test_a_cyclical_batch_size_is_drawn():
    drawn = drawn_with(accumulate=cyclical(8, 1), duration="101 steps")
    line = drawn.lines["accumulate"]
    assert line.title == "accumulate 8 → 1" and len(line.values) == 101
    assert line.values[0] == line.values[-1] == 8 and line.values[50] == 1
    assert "accumulate" not in drawn_with(accumulate=3).lines


def test_a_schedule_of_the_rate_is_told():
    drawn = drawn_with(optimizer__learning_rate_schedule="one_cycle")
    assert drawn.lines["learning_rate"].title == "learning_rate 0.1 × one_cycle"


def test_a_run_that_cannot_be_is_refused_as_training_does():
    with pytest.raises(RecipeError, match="batch_size 2000 is more than the 1197 training exampl"):
        drawn_with(batch_size=2000)


# ---- the picture


def test_the_picture_has_axes_for_every_knob_with_its_line():
    knob = cyclical(1e-4, 2e-3, scale="log")
    drawn = drawn_with(optimizer__weight_decay=knob, accumulate=2, duration="361 steps")
    figure = preview.picture(drawn)
    assert drawn.title in figure.get_suptitle()
    shown = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_title("left") for axes in shown] == [line.title for line in drawn.changing]
    assert "constant: temperature 1, label_smoothing 0, momentum 0.9" in figure.get_supxlabel()
    for axes, line in zip(shown, drawn.changing, strict=True):
        (curve,) = axes.lines
        np.testing.assert_array_equal(curve.get_xdata(), drawn.counts)
        np.testing.assert_array_equal(curve.get_ydata(), line.values)
        assert axes.get_yscale() == ("log" if "log" in line.title else "linear")
    figure.savefig(io.BytesIO())
    labels = [[label.get_text() for label in axes.get_yticklabels()] for axes in shown]
    # The rate ends at a rounding above 0.
    assert labels == [["0.0001", "0.002"], ["0", "0.1"]]
    (above,) = shown[0].child_axes
    assert above.xaxis.get_ticks_position() == "top"
    # 9 updates an epoch.
    np.testing.assert_allclose(np.array(shown[0].get_xlim()) / 9, above.get_xlim())


# ---- the plots in characters


def test_the_text_has_a_panel_for_every_knob_and_no_colours():
    drawn = preview.preview(recipe_of(digits.get_config("all")))
    text = preview.text(drawn, width=80)
    assert "\x1b" not in text
    assert all(len(line) <= 80 for line in text.splitlines())
    assert text.startswith(drawn.title)
    for line in drawn.lines.values():
        assert text.count(line.title) == 1
    assert text.count("┌") == text.count("└") == len(drawn.changing) == 5
    assert text.count("719") == len(drawn.changing)
    assert text.splitlines()[1:4] == [
        "peak (hard) at update 360 of 720, epoch 20.0 of 40",
        "constant: label_smoothing 0.1, gamma_hc 3, gamma_pos 2, gamma_neg 2,",
        "momentum 0.9",
    ]


def test_a_knob_is_labelled_with_its_ends_which_lie_between_two_updates():
    line = drawn_with(loss__name="cyclical_focal", duration="8 steps").lines["hardness"]
    assert line.values.max() < 0.9 and line.extremes == [0, 1]
    text = preview.text(drawn_with(loss__name="cyclical_focal", duration="8 steps"), width=40)
    assert (
        canvas_of(text, "hardness 0 → 1") and "  1┤" in text.replace("│1┤", "  1┤") or "1┤" in text
    )


def test_without_a_change_there_are_words_alone(tmp_path):
    drawn = drawn_with(optimizer__learning_rate_schedule=None)
    text = preview.text(drawn, width=100)
    assert drawn.changing == [] and drawn.peaks == [] and "┌" not in text
    assert text.splitlines()[1].startswith("constant: temperature 1, label_smoothing 0, weight_dec")
    preview.picture(drawn).savefig(io.BytesIO())


def test_the_text_is_the_same_when_it_is_made_again_after_another():
    small, large = drawn_with(), preview.preview(recipe_of(digits.get_config("all")))
    first = preview.text(small, width=100)
    assert preview.text(large, width=50) != first
    assert preview.text(small, width=100) == first
    assert first.count("┌") == len(small.changing) == 1


def canvas_of(text, title):
    """The lines between the frames of the panel with the title, where each has a row of its own."""
    lines = text.splitlines()
    start = next(number for number, line in enumerate(lines) if title in line)
    panel = lines[start + 2 :]
    end = next(number for number, line in enumerate(panel) if "└" in line)
    return [line[line.index(edge(line)) + 1 : -1] for line in panel[:end]]


def edge(line):
    return "┤" if "┤" in line else "│"


@pytest.mark.parametrize("scale", ["linear", "log"])
@pytest.mark.parametrize("factor", [4, 4 / 3])
def test_a_panel_shows_where_its_peak_is(factor, scale):
    knob = cyclical(1e-4, 2e-3, factor=factor, scale=scale)
    text = preview.text(drawn_with(optimizer__weight_decay=knob), width=60)
    top, *_, bottom = canvas_of(text, "weight_decay")
    marked = [column for column, character in enumerate(top) if character != " "]
    assert np.mean(marked) / len(top) == pytest.approx(1 / factor, abs=0.06)
    assert bottom[0] != " " and bottom[-1] != " " and bottom[round(len(bottom) / factor)] == " "


def test_a_geometric_cycle_is_straight_on_its_log_axis():
    def low_part(scale):
        knob = cyclical(1e-5, 0.1, scale=scale)
        text = preview.text(drawn_with(optimizer__weight_decay=knob), width=60)
        bottom = canvas_of(text, "weight_decay")[-1]
        return sum(character != " " for character in bottom) / len(bottom)

    assert low_part("log") == pytest.approx(low_part("linear"), abs=0.1)


@pytest.mark.parametrize("width", [1, 20, 38])
def test_a_narrow_terminal_gets_lines_of_38_characters_and_titles_are_shortened(width):
    rate = cyclical(1.23e-5, 1.23e-3, scale="log")
    text = preview.text(drawn_with(optimizer__learning_rate=rate), width=width)
    panels = text.partition("\n\n")[2].splitlines()
    assert {len(line) for line in panels} == {38}
    assert sum("learning_rate 1.23e-05 → 0.00123 log …" in line for line in panels) == 1


# ---- the script


def test_a_workdir_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(WorkdirError, match=f"--workdir {tmp_path}/file/x cannot be written: Not"):
        preview.main(digits.get_config(), tmp_path / "file" / "x")


def test_a_config_whose_data_are_not_there_is_drawn(tmp_path, capsys):
    config = fashion_mnist.get_config("quick")
    config.data_dir = str(tmp_path)
    preview.main(config, tmp_path / "new" / "preview")
    assert "fashion_mnist: 2,340 updates, 10 epochs of 60,000 examples" in capsys.readouterr().out
    assert (tmp_path / "new/preview/preview.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def command(tmp_path):
    def call(*arguments):
        workdir = f"--workdir={tmp_path}"
        return commands.in_a_process("preview", workdir, *arguments, COLUMNS="90")

    return call


def test_the_command_draws_and_prints(command, tmp_path):
    process = command(
        "--config=configs/digits.py:focal", "--config.optimizer.max_norm=cyclical(4, 1)"
    )
    assert (process.returncode, process.stderr) == (0, "")
    lines = process.stdout.splitlines()
    assert lines[0].startswith("digits: 720 updates") and lines[-1].endswith("preview.png")
    assert "max_norm 4 → 1" in process.stdout and "hardness 0 → 1" in process.stdout
    assert "\x1b" not in process.stdout
    assert (tmp_path / "preview.png").exists()


def test_a_mistake_is_one_line_and_exit_code_2(command, tmp_path):
    process = command("--config=configs/digits.py", "--config.optimizer.max_norm.easy=1")
    assert process.returncode == 2 and process.stdout == ""
    (line,) = process.stderr.splitlines()
    assert line.startswith("optimizer.max_norm.hard is missing beside optimizer.max_norm.easy")
    assert not (tmp_path / "preview.png").exists()
