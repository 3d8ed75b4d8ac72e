"""A report's traces by hand, and in a browser."""

import copy
import html
import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from cyclical_jax.training import files
from cyclical_jax.training.files import WorkdirError
from experiments import drawing, presentation, report
from tests import commands
from tests.helpers import stored

CHROMIUM = shutil.which("chromium")
ODD_NAME = "<b>odd</b> & </script><img src=https://example.org/x.png>"


def curve(mean, std):
    return {"mean": mean, "std": std}


def arm_of_table(control, accuracy, curves, knobs):
    return {
        "control": control,
        "changes": {},
        "tuning": None,
        "seeds": [3, 4, 5],
        "test": {"accuracy": accuracy, "loss": [0.5, 0.25, 0.75], "calibration_error": [0.1] * 3},
        "curves": curves,
        "knobs": knobs,
    }


def record():
    """Two datasets; one has arms of which the second stops being finite after two of four rows."""
    constant = {
        "step": [10, 20, 30, 40],
        "epoch": [0.5, 1, 1.5, 2],
        "val_accuracy": curve([0.5, 0.7, 0.8, 0.75], [0.01, 0.02, 0.04, 0.03]),
        "val_loss": curve([2.0, 1.25, 1.0, 1.5], [0.0, 0.0, 0.0, 0.0]),
        "loss": curve([3.0, 2.0, 1.0, 0.5], [0.1, 0.1, 0.1, 0.1]),
    }
    cyclical = {
        "step": [10, 20, 30, 40],
        "epoch": [0.5, 1, 1.5, 2],
        "val_accuracy": curve([0.25, 0.6, None, None], [0.05, None, None, None]),
        "val_loss": curve([2.5, 1.75, None, None], [None, None, None, None]),
    }
    flat = {"momentum": [0.9] * 4, "weight_decay": [5e-4] * 4}
    cycle = {"momentum": [0.9] * 4, "weight_decay": [1e-4, 1e-3, 1e-3, 1e-4]}
    arms = {
        "constant": arm_of_table(None, [0.8, 0.9, 0.7], constant, flat),
        ODD_NAME: arm_of_table("constant", [0.85, None, 0.71], cyclical, cycle),
    }
    sizes = {"num_train": 1197, "num_validation": 200, "num_test": 400}
    small = {"constant": copy.deepcopy(arms["constant"])}
    return {
        "table": "weight <decay>",
        "about": "Cyclical & constant.",
        "command": "python -m experiments.table --table=weight_decay",
        "version": "cyclical_jax 3f2a",
        "hardware": "2 x cpu",
        "datasets": {
            "digits": {**sizes, "arms": arms},
            "fashion_mnist": {**sizes, "num_train": 55000, "arms": small},
        },
    }


ROWS = [
    {"step": 4, "epoch": 1, "loss": 2.5, "accuracy": 0.25, "grad_norm": 3.0, "momentum": 0.9}
    | {"temperature": 0.5, "images_per_second": None, "seconds": 0.0},
    {"step": 8, "epoch": 2, "loss": None, "accuracy": None, "grad_norm": None, "momentum": 0.9}
    | {"temperature": 2.0, "images_per_second": 7.0, "seconds": 0.1}
    | {"val_loss": 1.5, "val_accuracy": 0.5, "skipped": 1},
    {"step": 11, "epoch": 2.75, "loss": 1.5, "accuracy": 0.75, "grad_norm": 1.0, "momentum": 0.9}
    | {"temperature": 0.75, "images_per_second": 8.0, "seconds": 0.2},
]


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "weights.json"
    path.write_text(json.dumps(record()))
    return path


@pytest.fixture
def workdir(tmp_path):
    workdir = tmp_path / "digits <all>"
    workdir.mkdir()
    write_rows(workdir, ROWS)
    return workdir


def write_rows(workdir, rows):
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def figures_of(page):
    """What the page gives to Plotly.newPlot, a figure each: its traces and its layout."""
    figures, decoder = [], json.JSONDecoder()
    for call in re.finditer(r'Plotly\.newPlot\(\s*"[-\w]+",\s*', page):
        data, end = decoder.raw_decode(page, call.end())
        comma = re.compile(r",\s*").match(page, end)
        figures.append((data, decoder.raw_decode(page, comma.end())[0]))
    return figures


def lines_of(data):
    """{(arm, axis): trace} of the lines."""
    return {(trace["name"], trace["yaxis"]): trace for trace in data if "fill" not in trace}


def titles_of(layout):
    return [annotation["text"] for annotation in layout["annotations"]]


def cells_of(page):
    rows = re.findall(r"<tr>(.*?)</tr>", page)
    return [[html.unescape(cell) for cell in re.findall(r"<t[dh]>(.*?)</t", row)] for row in rows]


# ---- a table


def test_a_table_has_a_figure_a_dataset_and_its_arms_in_each_panel(table):
    digits, fashion_mnist = figures_of(report.page(table))
    data, layout = digits
    assert titles_of(layout) == ["validation accuracy", "validation loss", "weight_decay"]
    odd = html.escape(ODD_NAME)
    lines = lines_of(data)
    expected = {
        ("constant", "y"): ([0.5, 1, 1.5, 2], [0.5, 0.7, 0.8, 0.75]),
        ("constant", "y2"): ([0.5, 1, 1.5, 2], [2.0, 1.25, 1.0, 1.5]),
        ("constant", "y3"): ([0.5, 1, 1.5, 2], [5e-4] * 4),
        (odd, "y"): ([0.5, 1], [0.25, 0.6]),
        (odd, "y2"): ([0.5, 1], [2.5, 1.75]),
        (odd, "y3"): ([0.5, 1, 1.5, 2], [1e-4, 1e-3, 1e-3, 1e-4]),
    }
    assert {key: (trace["x"], trace["y"]) for key, trace in lines.items()} == expected
    assert {trace["mode"] for trace in lines.values()} == {"lines"}
    # Nothing of fashion_mnist changes, within its arm or from arm to arm.
    assert titles_of(fashion_mnist[1]) == ["validation accuracy", "validation loss"]


def test_a_band_goes_along_mean_plus_std_and_back_along_mean_minus_std(table):
    (data, _), _ = figures_of(report.page(table))
    bands = [trace for trace in data if "fill" in trace]
    # The loss of "constant" has none, being the same for all seeds; the odd one's, one seed's.
    assert [band["name"] for band in bands] == ["constant", html.escape(ODD_NAME)]
    constant, odd = bands
    assert constant["x"] == [0.5, 1, 1.5, 2, 2, 1.5, 1, 0.5]
    corners = [0.51, 0.72, 0.84, 0.78, 0.72, 0.76, 0.68, 0.49]
    np.testing.assert_allclose(constant["y"], corners)
    assert odd["x"] == [0.5, 0.5]
    np.testing.assert_allclose(odd["y"], [0.3, 0.2])
    assert {band["yaxis"] for band in bands} == {"y"}
    assert {(band["fill"], band["mode"]) for band in bands} == {("toself", "none")}


def test_no_band_covers_a_line(table):
    (data, _), _ = figures_of(report.page(table))
    is_band = ["fill" in trace for trace in data]
    assert is_band == sorted(is_band, reverse=True)


def test_one_click_hides_all_of_an_arm_and_one_zoom_is_of_all_panels(table):
    (data, layout), (_, alone) = figures_of(report.page(table))
    for name in ("constant", html.escape(ODD_NAME)):
        of_arm = [trace for trace in data if trace["name"] == name]
        assert {trace["legendgroup"] for trace in of_arm} == {name}
        assert [trace["showlegend"] for trace in of_arm].count(True) == 1
        assert "fill" not in next(trace for trace in of_arm if trace["showlegend"])
        colours = {trace.get("fillcolor") or trace["line"]["color"] for trace in of_arm}
        assert len(colours) == 1
    assert layout["showlegend"] and not alone["showlegend"]
    clocks = [layout["xaxis"], layout["xaxis2"], layout["xaxis3"]]
    assert [clock.get("matches") for clock in clocks] == ["x3", "x3", None]
    assert [clock.get("title", {}).get("text") for clock in clocks] == [None, None, "epoch"]


def test_every_arm_has_a_look_of_its_own():
    arms = [report.Arm(str(i), [1, 2], {"k": report.Curve([i, 1], [0.1, 0.2])}) for i in range(20)]
    data = report.figure(arms, {"k": "k"}).to_dict()["data"]
    looks = [(t["line"]["color"], t["line"]["dash"]) for t in data if "line" in t]
    assert len(set(looks)) == 20
    filled = [trace["fillcolor"] for trace in data if "fillcolor" in trace]
    assert filled == [colour for colour, _ in looks]
    # Beside each other, and in black and white: other dashes, too.
    assert all(len({dash for _, dash in looks[at : at + 5]}) == 5 for at in (0, 5, 10, 15))


def test_arms_of_which_no_run_stayed_finite_have_scores_and_no_curves(table):
    failed = record()
    nothing = {"curves": {"step": [], "epoch": []}, "knobs": {}}
    failed["datasets"]["digits"]["arms"]["constant"] |= nothing
    failed["datasets"]["fashion_mnist"]["arms"]["constant"] |= nothing
    table.write_text(json.dumps(failed))
    page = report.page(table)
    ((data, _),) = figures_of(page)
    assert {trace["name"] for trace in data} == {html.escape(ODD_NAME)}
    assert len(cells_of(page)) == 3 + 2


def test_the_scores_and_their_origin_are_told(table):
    page = report.page(table)
    head, constant, odd, *others = cells_of(page)
    assert head == presentation.columns(record()["datasets"]["digits"])
    by_name = dict(zip(head, odd, strict=True))
    assert by_name["arm"] == ODD_NAME and by_name["control"] == "constant"
    assert by_name["n"].startswith("2") and by_name["test accuracy, %"] == "78.00 ± 9.90"
    # Pairs: 0.85 - 0.8 and 0.71 - 0.7; t(1) at 97.5 % is 12.706, times 0.02 of standard error.
    assert by_name["difference [95 %]"] == "+3.00 [-22.41, +28.41]"
    assert by_name["p (Holm)"] == "0.374"
    assert constant[0] == "constant" and constant[4:6] == ["", ""]
    assert [row[0] for row in others] == ["arm", "constant"]
    for told in (
        "<h1>weight &lt;decay&gt;</h1>",
        "<p>Cyclical &amp; constant.</p>",
        "<pre>python -m experiments.table --table=weight_decay</pre>",
        "cyclical_jax 3f2a",
        "2 x cpu",
        "digits: 1,197 training, 200 validation, 400 test images",
        "fashion_mnist: 55,000 training",
        "<p>Constant: momentum 0.9.</p>",
        "<p>Constant: momentum 0.9, weight_decay 0.0005.</p>",
        html.escape(presentation.legend(record())),
    ):
        assert told in page, told


def test_a_long_command_is_broken_as_a_shell_takes_it(table):
    long = record() | {"command": "python -m experiments.table --table=a --workdir=" + "b" * 60}
    table.write_text(json.dumps(long))
    told = "python -m experiments.table \\\n    --table=a \\\n    --workdir=" + "b" * 60
    assert f"<pre>{told}</pre>" in report.page(table)


def test_knobs_that_only_differ_from_arm_to_arm_are_told_and_not_drawn(table):
    differing = record()
    arms = differing["datasets"]["digits"]["arms"]
    arms["constant"]["knobs"]["gamma"] = [2.0] * 4
    arms[ODD_NAME]["knobs"]["gamma"] = [0.5] * 4
    table.write_text(json.dumps(differing))
    page = report.page(table)
    (_, layout), _ = figures_of(page)
    assert titles_of(layout) == ["validation accuracy", "validation loss", "weight_decay"]
    rows = cells_of(page)
    at = rows.index(["constant", "constant", ODD_NAME])
    assert rows[at + 1] == ["gamma", "2", "0.5"]
    assert "<p>Constant: momentum 0.9.</p>" in page


def test_the_page_may_load_nothing_and_what_is_named_in_it_is_text(table):
    page = report.page(table)
    assert "default-src 'none'" in page
    own = re.sub(r"<script>/\*\*.*?</script>", "", page, flags=re.DOTALL)  # plotly.js is aside
    assert len(own) < 100_000
    assert "<img" not in own and "<b>" not in own and "odd</b>" not in own
    assert not re.search(r"<\w[^>]*\s(src|href)=", own)
    assert '"showSendToCloud": false' in own


# ---- a run


def test_a_run_shows_what_is_measured_and_every_knob_that_changes(workdir):
    page = report.page(workdir)
    ((data, layout),) = figures_of(page)
    assert titles_of(layout) == [
        "validation accuracy",
        "validation loss",
        "training loss",
        "training accuracy",
        "norm of the gradient",
        "temperature",
    ]
    points = [(trace["x"], trace["y"], trace["mode"]) for trace in data]
    assert points == [
        ([2], [0.5], "markers"),
        ([2], [1.5], "markers"),
        ([1, 2.75], [2.5, 1.5], "lines"),
        ([1, 2.75], [0.25, 0.75], "lines"),
        ([1, 2.75], [3.0, 1.0], "lines"),
        ([1, 2, 2.75], [0.5, 2.0, 0.75], "lines"),
    ]
    percents = [layout[f"yaxis{i}"].get("tickformat") for i in ("", 2, 3, 4, 5, 6)]
    assert percents == [".0%", None, None, ".0%", None, None]
    assert "<p>Constant: momentum 0.9.</p>" in page
    assert "<h1>digits &lt;all&gt;</h1>" in page
    assert cells_of(page) == [] and "<details>" not in page


def test_the_result_and_the_config_of_a_run_are_there_where_it_has_them(workdir):
    result = {
        "test_accuracy": 0.98765432,
        "test_calibration_error": 0.0429,
        "steps": ROWS[-1]["step"],
    }
    result |= {"best_val_accuracy": 0.5, "test_loss": 0.123456789, "training_seconds": 1.5}
    result |= {"seconds": 2.0, "test_num_examples": 400}
    (workdir / "result.json").write_text(json.dumps(result))
    (workdir / "config.json").write_text('{"model": "<mlp>"}')
    page = report.page(workdir)
    assert cells_of(page) == [
        ["result", ""],
        ["test_accuracy", "98.77 %"],
        ["test_calibration_error", "4.29 %"],  # in points, as in a table
        ["steps", "11"],
        ["best_val_accuracy", "50.00 %"],
        ["test_loss", "0.123457"],
        ["training_seconds", "1.5"],
        ["seconds", "2"],
        ["test_num_examples", "400"],
    ]
    assert "<pre>{\n  &quot;model&quot;: &quot;&lt;mlp&gt;&quot;\n}</pre>" in page


@pytest.fixture
def two(workdir):
    """Two runs, of which one has ended."""
    other = workdir.parent / "plain"
    other.mkdir()
    write_rows(other, [{"step": 3, "epoch": 1, "loss": 0.5, "temperature": 1.0, "rate": 0.1}])
    result = {
        "test_accuracy": 0.9,
        "steps": ROWS[-1]["step"],
        "seconds": 3.0,
        "training_seconds": 1.5,
    }
    result |= {"test_loss": 0.25, "test_num_examples": 400}
    (workdir / "result.json").write_text(json.dumps(result))
    cycle = {"easy": 1, "hard": 2}
    configs = [
        {"seed": 0, "loss": {"temperature": cycle, "name": "focal"}, "model": "mlp"},
        {"seed": 0, "loss": {"temperature": 1, "name": "focal"}},
    ]
    for path, config in zip((workdir, other), configs, strict=True):
        (path / "config.json").write_text(json.dumps(config))
    return workdir, other


def test_several_runs_are_laid_over_each_other_with_what_differs(two):
    page = report.page(*two)
    ((data, layout),) = figures_of(page)
    assert layout["showlegend"] and titles_of(layout)[-1] == "temperature"
    assert "<p>Constant: momentum 0.9, rate 0.1.</p>" in page
    by_run = {(trace["name"], *trace["y"]) for trace in data}
    assert {("digits &lt;all&gt;", 0.5, 2.0, 0.75), ("plain", 0.5), ("plain", 1.0)} <= by_run
    assert "<h1>digits &lt;all&gt;, plain</h1>" in page
    assert cells_of(page) == [
        ["result", "digits <all>"],
        ["test_accuracy", "90.00 %"],
        ["steps", "11"],
        ["seconds", "3"],
        ["training_seconds", "1.5"],
        ["test_loss", "0.25"],
        ["test_num_examples", "400"],
        ["config", "digits <all>", "plain"],
        ["loss.temperature", "cyclical(1, 2)", "1"],
        ["model", "mlp", "None"],
    ]
    assert "<summary>config of digits &lt;all&gt;</summary>" in page
    assert "<summary>config of plain</summary>" in page


def test_runs_of_one_name_are_told_apart_and_a_table_is_no_run(two, table):
    same = two[1] / two[0].name
    same.mkdir()
    write_rows(same, ROWS)
    data = figures_of(report.page(two[0], same))[0][0]
    assert {html.unescape(trace["name"]) for trace in data} == {str(two[0]), str(same)}
    with pytest.raises(WorkdirError, match="weights.json is a file; only runs can share a page"):
        report.page(two[0], table)


def test_a_page_goes_beside_its_results(table, two):
    assert report.output_of([table]) == table.with_name("weights.html")
    assert report.output_of(two[:1]) == two[0] / "report.html"
    assert report.output_of(two) == table.with_name("comparison.html")


# ---- a score that is no accuracy


def test_a_table_shows_the_curves_of_the_score_that_it_is_judged_by(table):
    judged = record()
    digits = judged["datasets"]["digits"]
    digits |= {"judged_by": {"name": "mean_surprise", "best": "min"}, "percent": []}
    for arm in digits["arms"].values():
        arm["test"]["mean_surprise"] = [2.5, 2.25, 2.0]
        arm["curves"]["val_mean_surprise"] = arm["curves"].pop("val_accuracy")
    table.write_text(json.dumps(judged))
    page = report.page(table)
    (_, layout), (_, other) = figures_of(page)
    assert titles_of(layout)[:2] == ["validation mean surprise", "validation loss"]
    assert layout["yaxis"].get("tickformat") is None
    assert titles_of(other)[0] == "validation accuracy" and other["yaxis"]["tickformat"] == ".0%"
    head, constant, *_ = cells_of(page)
    assert head[3] == "test mean surprise (lower is better)" and constant[3] == "2.2500 ± 0.2500"
    assert head[6:] == ["loss", "accuracy", "calibration error"]
    assert constant[7:] == ["0.8000 ± 0.1000", "0.1000 ± 0.0000"]  # no longer in percent
    assert html.escape(presentation.legend(judged)) in page


def test_a_run_shows_the_score_that_it_is_judged_by(workdir):
    named = {"val_accuracy": "val_surprise", "accuracy": "guessed"}
    rows = [{named.get(name, name): value for name, value in row.items()} for row in ROWS]
    write_rows(workdir, rows)
    ((_, layout),) = figures_of(report.page(workdir))
    assert titles_of(layout) == [
        "validation surprise",
        "validation loss",
        "training loss",
        "norm of the gradient",
        "guessed",  # the log does not say that it is measured
        "temperature",
    ]
    axes = [layout[f"yaxis{i}"].get("tickformat") for i in ("", 2, 3, 4, 5, 6)]
    assert axes == [None] * 6


def test_a_run_that_is_judged_by_its_loss_has_one_panel_of_it(workdir):
    rows = [{name: row[name] for name in row if "accuracy" not in name} for row in ROWS]
    write_rows(workdir, rows)
    ((_, layout),) = figures_of(report.page(workdir))
    assert titles_of(layout)[:2] == ["validation loss", "training loss"]


# ---- what is refused


@pytest.mark.parametrize(
    "content, message",
    [
        (b"\x89PNG\xff", "weights.json is damaged: 'utf-8' codec can't decode byte 0x89"),
        (b"{'a': 1}", "weights.json is damaged: Expecting property name"),
        (b"", "weights.json is damaged: Expecting value"),
        (b"[]", "weights.json is damaged: it is a list, not an object. Give the JSON file of a "),
        (b'{"tradeoff": "x"}', "weights.json is the record of a trade-off, not of a table. Give"),
        (b'{"plain": {}}', "weights.json is damaged: it has no 'table'. Give the JSON file of a "),
    ],
)
def test_a_file_that_is_no_table_is_told(table, content, message):
    table.write_bytes(content)
    with pytest.raises(WorkdirError, match="^--results") as error:
        report.page(table)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content, message",
    [
        ("", "metrics.jsonl has no rows yet."),
        (
            '{"step": 1, "epoch": 1}\n{"step": 2, "epo',
            "metrics.jsonl, line 2, is damaged: Un",
        ),
        ('{"step": 1}\n', "metrics.jsonl, line 1, is damaged: it has no 'epoch'."),
        ("3\n", "metrics.jsonl, line 1, is damaged: it is 3, not an object."),
    ],
)
def test_a_workdir_without_right_rows_is_told(workdir, content, message):
    (workdir / "metrics.jsonl").write_text(content)
    with pytest.raises(WorkdirError, match=f"^--results: .*{message}"):
        report.page(workdir)


def test_a_run_that_has_ended_has_all_of_its_rows(workdir):
    result = {"steps": ROWS[-1]["step"], "seconds": 1.0, "training_seconds": 0.5}
    result |= {"test_num_examples": 9, "test_loss": 0.5}
    files.write(workdir / "result.json", result)
    report.page(workdir)
    write_rows(workdir, ROWS[:-1])
    with pytest.raises(
        WorkdirError, match=f"its last row is of step .* ended at {ROWS[-1]['step']}"
    ):
        report.page(workdir)


def test_what_is_not_there_is_told(workdir, tmp_path):
    nothing, folder = tmp_path / "nothing.json", tmp_path / "range_test"
    folder.mkdir()
    give = "Give the JSON file of a table, or the workdir of a run."
    lines = {
        nothing: f"--results: {nothing} does not exist. {give}",
        folder: f"--results: {folder} is not the workdir of a run: no config.json. {give}",
    }
    for path, line in lines.items():
        for results in ([path], [workdir, path]):
            with pytest.raises(WorkdirError) as error:
                report.page(*results)
            assert str(error.value) == line


# ---- the command


def test_the_command_writes_the_file_and_names_it(table, tmp_path):
    output = tmp_path / "new" / "report.html"
    process = commands.in_a_process("report", f"--results={table}", f"--output={output}")
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout == f"{output}\n"
    assert len(figures_of(output.read_text())) == 2


def test_a_mistake_is_one_line_and_exit_code_2(table, tmp_path):
    (tmp_path / "folder").mkdir()
    cases = [
        (f"{table}/x.html", "cannot be written: File exists."),
        (tmp_path / "folder", "cannot be written: Is a directory."),
        ("/", "cannot be written: Is a directory."),
        (tmp_path / ("x" * 300), "cannot be written: File name too long."),
    ]
    for output, words in cases:
        ended = commands.in_this_process("report", f"--results={table}", f"--output={output}")
        assert ended == (2, "", f"--output {output} {words}\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "weights.json"]


def test_the_command_takes_several_runs(two, tmp_path):
    results = ",".join(map(str, two))
    ended = commands.in_this_process("report", f"--results={results}")
    output = tmp_path / "comparison.html"
    assert ended == (0, f"{output}\n", "")
    assert len(figures_of(output.read_text())) == 1


# ---- in a browser

PROBE = """<script>
const tell = (told) => document.body.append(Object.assign(
  document.createElement("p"), {className: "probe", textContent: JSON.stringify(told)}));
const plots = () => [...document.querySelectorAll(".js-plotly-plot")];
const wait = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
const see = () => plots().map((plot) => Object.fromEntries(
  [["line", ".scatterlayer .js-line"], ["band", ".js-fill"], ["point", ".scatterlayer .point"],
   ["title", ".annotation-text"], ["arm", ".legendtext"]].map(([name, css]) => [name,
    [...plot.querySelectorAll(css)].map((node) => node.getAttribute("d") || node.textContent)])));
window.addEventListener("load", async () => {
  await wait(500);
  tell(see());
  for (const plot of plots()) {
    const entry = plot.querySelector(".legendtoggle");
    for (const type of ["mousedown", "mouseup"]) {
      entry?.dispatchEvent(new MouseEvent(type, {bubbles: true, view: window}));
    }
  }
  await wait(1500);
  tell(see());
  const pane = plots()[0].querySelectorAll(".nsewdrag")[1];
  const {left, top, width, height} = pane.getBoundingClientRect();
  const mouse = (type, at, node) => node.dispatchEvent(new MouseEvent(type, {bubbles: true,
    view: window, buttons: 1, clientX: left + at * width, clientY: top + height / 2}));
  mouse("mousedown", 0.2, pane);
  mouse("mousemove", 0.4, document);
  mouse("mousemove", 0.6, document);
  mouse("mouseup", 0.6, document);
  await wait(1000);
  const axes = Object.entries(plots()[0]._fullLayout);
  tell(axes.filter(([name]) => name.startsWith("xaxis")).map(([_, axis]) => axis.range));
});
</script>"""


def see_in_browser(page, path):
    """What a browser shows of the page: two tellings, before and after a click on each first arm;
    and the ranges of x of the first figure, after a drag within its second panel.

    Raises:
      AssertionError: The page wrote to the console, which errors and refused requests do.
    """
    path.write_text(page.replace("</body>", f"{PROBE}</body>"))
    flags = "--headless --no-sandbox --disable-gpu --enable-logging=stderr --window-size=500,2000"
    call = [CHROMIUM, *flags.split(), f"--user-data-dir={path.parent / 'profile'}"]
    call += ["--virtual-time-budget=10000", "--dump-dom", f"file://{path}"]
    process = subprocess.run(call, capture_output=True, text=True, timeout=120)
    said = [line for line in process.stderr.splitlines() if "CONSOLE" in line]
    if said:
        raise AssertionError("\n".join(said))
    found = re.findall(r'<p class="probe">(.*?)</p>', process.stdout)
    return [json.loads(html.unescape(told)) for told in found]


def in_browser(test):
    missing = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
    return pytest.mark.slow(missing(test))


def num_points(paths):
    """Of each SVG path; plotly.js leaves out what lies on a straight line."""
    return [len(re.findall(r"[ML][-\d.]+,[-\d.]+", path)) for path in paths]


@in_browser
def test_a_table_is_drawn_and_a_click_and_a_zoom_reach_all_panels(table, tmp_path):
    before, after, ranges = see_in_browser(report.page(table), tmp_path / "table.html")
    digits, fashion_mnist = before
    assert digits["title"] == ["validation accuracy", "validation loss", "weight_decay"]
    assert digits["arm"] == ["constant", ODD_NAME]
    assert num_points(digits["line"]) == [4, 2, 4, 2, 2, 4]
    assert num_points(digits["band"]) == [8, 2]
    assert num_points(fashion_mnist["line"]) == [4, 4] and fashion_mnist["arm"] == []
    hidden, alone = after
    assert num_points(hidden["line"]) == [2, 2, 4] and num_points(hidden["band"]) == [2]
    assert alone == fashion_mnist
    # From 0.2 to 0.6 of 0.5 to 2, to a pixel or two of 400.
    np.testing.assert_allclose(ranges, [[0.8, 1.4]] * 3, atol=0.01)


DARK = """<script>
window.matchMedia = () => ({matches: true, addEventListener: () => {}});
</script>"""


@in_browser
def test_a_dark_system_gets_the_dark_colours(table, tmp_path):
    probe = """<script>window.addEventListener("load", () => setTimeout(() => {
      const plot = document.querySelector(".js-plotly-plot");
      document.body.append(Object.assign(document.createElement("p"), {className: "probe",
        textContent: JSON.stringify([plot._fullLayout.paper_bgcolor,
          ...new Set(plot.data.flatMap((trace) => [trace.line?.color, trace.fillcolor]))])}));
    }, 500));</script>"""
    for theme, before in ((drawing.LIGHT, ""), (drawing.DARK, DARK)):
        page = report.page(table).replace("<head>", f"<head>{before}", 1)
        told, *_ = see_in_browser(
            page.replace("</body>", f"{probe}</body>", 1), tmp_path / "a.html"
        )
        colours = set(told) - {None}
        assert colours == {theme.ground, *theme.lines[:2]}


@in_browser
def test_a_run_of_the_script_is_drawn(tmp_path):
    workdir, output = tmp_path / "run", tmp_path / "run.html"
    small = ["--config.duration=3 epochs", "--config.model.hidden_sizes=(8,)"]
    small += ["--config=configs/digits.py:all", f"--workdir={workdir}"]
    trained = commands.in_a_process("train", *small)
    assert trained.returncode == 0, trained.stderr
    reported = commands.in_a_process("report", f"--results={workdir}", f"--output={output}")
    assert reported.returncode == 0
    page = output.read_text()
    (figure,), _, ranges = see_in_browser(page, output)
    changing = ["hardness", "learning_rate", "max_norm", "temperature", "weight_decay"]
    assert figure["title"][5:] == changing
    points = num_points(figure["line"])
    assert len(points) == 5 + 5 and min(points) >= 2 and max(points) == 3
    assert len(ranges) == 10 and len({tuple(epochs) for epochs in ranges}) == 1
    result = stored(workdir / "result.json")
    assert ["test_accuracy", f"{result['test_accuracy']:.2%}".replace("%", " %")] in cells_of(page)


@in_browser
@pytest.mark.parametrize(
    "broken, said",
    [
        ("<script>throw new Error('on purpose')</script>", "on purpose"),
        ("<img src='https://example.org/x.png'>", "Content Security Policy"),
        ("<script>fetch('https://example.org/x')</script>", "Content Security Policy"),
    ],
)
def test_a_page_that_errs_or_loads_is_noticed(table, tmp_path, broken, said):
    page = report.page(table).replace("</body>", f"{broken}</body>")
    with pytest.raises(AssertionError, match=said):
        see_in_browser(page, tmp_path / "broken.html")


@in_browser
def test_a_page_without_its_library_is_noticed(table, tmp_path):
    page = re.sub(r"<script>/\*\*.*?</script>", "", report.page(table), flags=re.DOTALL)
    with pytest.raises(AssertionError, match="Plotly is not defined"):
        see_in_browser(page, tmp_path / "broken.html")
