"""Writes one HTML page about a finished table, a run or several runs, for reading offline.

python -m experiments.report --results=docs/results/weight_decay.json
python -m experiments.report --results=runs/digits_all
python -m experiments.report --results=runs/digits,runs/digits_all

The page goes beside the results unless --output names another file: weight_decay.html for a table,
report.html in the workdir of a run, comparison.html beside several runs, whose curves share one
plot. The page has curves to zoom into and to hover over, the scores on the test split, and where
they come from. A click on an arm in a legend hides it in all panels below.
"""

import contextlib
import html
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import plotly.offline
from absl import flags

from cyclical_jax import _files
from cyclical_jax.training import files
from cyclical_jax.training.files import CONFIG, METRICS, RESULT, WorkdirError
from experiments import command_line, drawing, paths, presentation, records
from experiments.curves import VALIDATION, Arm, Curve, figure
from experiments.score import Score, fractions_of_log, fractions_of_record, number, words

# Titles of what is measured in training, in the order of the panels. The log of a run does not say
# what else is a measure: every other curve is drawn as a knob.
_OF_TRAINING = {
    "loss": "training loss",
    "accuracy": "training accuracy",
    "grad_norm": "norm of the gradient",
    "confident": "share of unlabelled images learnt from",
}
_NO_CURVES = {"step", "epoch", "images_per_second", "seconds", "skipped"}

_ENDS = ("easy", "hard")  # of a cycle in a config

_GIVE = "Give the JSON file of a table, or the workdir of a run."
_HINT = "A click on a name hides it in all panels."
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none';
  script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --ink: {light.ink}; --muted: {light.muted};
  --ground: {light.ground}; --grid: {light.grid}; --code: #f3f5f7; }}
@media (prefers-color-scheme: dark) {{ :root {{ --ink: {dark.ink}; --muted: {dark.muted};
  --ground: {dark.ground}; --grid: {dark.grid}; --code: #1a2028; }} }}
body {{ color: var(--ink); background: var(--ground); font: 16px/1.5 system-ui, sans-serif;
  max-width: 72rem; margin: 0 auto; padding: 1rem; overflow-wrap: anywhere; }}
pre {{ background: var(--code); padding: .5rem; white-space: pre-wrap; }}
.scores {{ overflow-x: auto; margin: 1rem 0; }}
.note {{ color: var(--muted); margin: 1rem 0 0; }}
table {{ border-collapse: collapse; white-space: nowrap; font-variant-numeric: tabular-nums; }}
th, td {{ border-bottom: 1px solid var(--grid); padding: .25rem 1rem .25rem 0; text-align: left; }}
</style>
<script>{library}</script>
</head>
<body>
<h1>{title}</h1>
{body}
<script>
const THEMES = {themes};
const dark = matchMedia("(prefers-color-scheme: dark)");
const paint = () => {{
  const theme = THEMES[dark.matches ? "dark" : "light"];
  for (const plot of document.querySelectorAll(".js-plotly-plot")) {{
    const colours = plot.data.map((trace) => theme.lines[trace.meta]);
    const ofTraces = {{"line.color": colours, fillcolor: colours}};
    Plotly.update(plot, ofTraces, {{template: theme.template}});
  }}
}};
dark.addEventListener("change", paint);
if (dark.matches) paint();
</script>
</body>
</html>
"""


def page(*results: Path) -> str:
    """Returns the whole HTML file of a table's record, or of one or several workdirs.

    Raises:
      WorkdirError: There is neither.
    """
    for path in results:
        _check_there(path)
    if len(results) > 1 or results[0].is_dir():
        workdirs = _named(results)
        title, parts = ", ".join(workdirs), run_parts(workdirs)
    else:
        with _naming_results():
            record = records.read(results[0])
        title, parts = record["table"], table_parts(record)
    return _PAGE.format(
        title=html.escape(title),
        library=plotly.offline.get_plotlyjs(),
        body="\n".join(parts),
        themes=json.dumps({name: _colours(theme) for name, theme in drawing.THEMES.items()}),
        **drawing.THEMES,
    )


def _check_there(path: Path) -> None:
    """Raises WorkdirError, a line, unless there is a file, or a folder of a run."""
    if not files.is_there(path):
        raise WorkdirError(f"--results: {path} does not exist. {_GIVE}")
    if path.is_dir() and not any(files.is_there(path / name) for name in (CONFIG, METRICS)):
        raise WorkdirError(f"--results: {path} is not the workdir of a run: no {CONFIG}. {_GIVE}")


def _colours(theme: drawing.Theme) -> dict[str, Any]:
    """Returns what a script of the page needs to draw the figures in a theme."""
    return {"lines": theme.lines, "template": drawing.template(theme)}


# ---- a table


def table_parts(record: Mapping[str, Any]) -> Iterator[str]:
    """Yields HTML of the record's origin, and for each dataset its scores and curves."""
    yield f"<p>{html.escape(record['about'])}</p>"
    yield f"<pre>{html.escape(_broken(record['command']))}</pre>"
    yield f"<p>{html.escape(record['version'])}<br>{html.escape(record['hardware'])}</p>"
    for name, dataset in record["datasets"].items():
        splits = {"num_train": "training", "num_validation": "validation", "num_test": "test"}
        sizes = ", ".join(f"{dataset[key]:,} {split}" for key, split in splits.items())
        yield f"<h2>{html.escape(name)}: {sizes} images</h2>"
        rows = [presentation.row(dataset, arm) for arm in dataset["arms"]]
        yield _table([presentation.columns(dataset), *rows])
        titles = _of_validation([Score.of_record(dataset).name])
        arms = [_arm_of_table(*arm, titles) for arm in dataset["arms"].items()]
        yield from _figure_parts(arms, titles, fractions_of_record(dataset))
    yield f"<p>{html.escape(presentation.legend(record))}</p>"


def _broken(command: str) -> str:
    """Returns a long command as a shell takes it on several lines."""
    return command if len(command) <= 72 else command.replace(" --", " \\\n    --")


def _of_validation(names: Sequence[str]) -> dict[str, str]:
    """Returns the titles of the scores on validation: those of `names`, and the loss."""
    return {f"{VALIDATION}{name}": f"validation {words(name)}" for name in (*names, "loss")}


def _arm_of_table(name: str, arm: Mapping[str, Any], titles: Mapping[str, str]) -> Arm:
    curves = {
        key: Curve(arm["curves"][key]["mean"], arm["curves"][key]["std"])
        for key in titles
        if key in arm["curves"]
    }
    knobs = {knob: Curve(values) for knob, values in arm["knobs"].items()}
    return Arm(name, arm["curves"]["epoch"], curves | knobs)


# ---- runs


def _named(workdirs: Sequence[Path]) -> dict[str, Path]:
    """Returns the workdirs by their last names, or by their whole ones where these are the same."""
    for path in workdirs:
        if path.is_file():
            raise WorkdirError(f"--results: {path} is a file; only runs can share a page.")
    are_told_apart = len({path.name for path in workdirs}) == len(workdirs)
    return {path.name if are_told_apart else str(path): path for path in workdirs}


def run_parts(workdirs: Mapping[str, Path]) -> Iterator[str]:
    """Yields HTML of the results of runs that have ended, and of their curves and configs."""
    results = _read_all(workdirs, RESULT)  # before the rows: of a run with a result all are there
    rows = {name: read_rows(path / METRICS) for name, path in workdirs.items()}
    for name, result in results.items():
        _check_end(workdirs[name] / METRICS, rows[name], result)
    arms = [_arm_of_run(name, of_run) for name, of_run in rows.items()]
    yield from _compared("result", results, _shown, len(workdirs))
    configs = _read_all(workdirs, CONFIG)
    flat = {name: _flat(config) for name, config in configs.items()}
    if len(flat) > 1:
        keys = dict.fromkeys(key for config in flat.values() for key in config)
        differ = [key for key in keys if len({repr(c.get(key)) for c in flat.values()}) > 1]
        different = {name: {key: c.get(key) for key in differ} for name, c in flat.items()}
        yield from _compared("config", different, lambda _, value: _told(value), len(workdirs))
    names = dict.fromkeys(name for arm in arms for name in arm.curves)
    scores = [name.removeprefix(VALIDATION) for name in names if name.startswith(VALIDATION)]
    titles = _of_validation([name for name in scores if name != "loss"]) | _OF_TRAINING
    yield from _figure_parts(arms, titles, fractions_of_log())
    for name, config in configs.items():
        of_run = f" of {html.escape(name)}" if len(workdirs) > 1 else ""
        text = html.escape(json.dumps(config, indent=2))
        yield f"<details><summary>config{of_run}</summary><pre>{text}</pre></details>"


def _read_all(workdirs: Mapping[str, Path], file: str) -> dict[str, dict[str, Any]]:
    """Returns what is in that file of each workdir that has it."""
    paths = {name: path / file for name, path in workdirs.items()}
    with _naming_results():
        return {name: files.read(path) for name, path in paths.items() if files.is_there(path)}


def _compared(
    what: str,
    entries: Mapping[str, Mapping[str, Any]],
    shown: Callable[[str, Any], str],
    num_runs: int,
) -> Iterator[str]:
    """Yields a table with a row for each key and a column for each run that has entries."""
    keys = dict.fromkeys(key for of_run in entries.values() for key in of_run)
    if not keys:
        return
    head = [what, *(entries if num_runs > 1 else [""])]
    cells = [
        [shown(key, of_run[key]) if key in of_run else "" for of_run in entries.values()]
        for key in keys
    ]
    yield _table([head, *([key, *own] for key, own in zip(keys, cells, strict=True))])


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns {"section.key": value}; a cycle is a value."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        is_section = isinstance(value, dict) and not value.keys() >= set(_ENDS)
        flat |= _flat(value, f"{name}.") if is_section else {f"{prefix}{name}": value}
    return flat


def _told(value: Any) -> str:
    """Returns a value as one would write it on the command line."""
    if not isinstance(value, dict):
        return str(value)
    default = {"scale": "linear"}
    options = [f"{k}={v!r}" for k, v in value.items() if k not in _ENDS and v != default.get(k)]
    return f"cyclical({', '.join([*(f'{value[end]:g}' for end in _ENDS), *options])})"


def _shown(name: str, value: Any) -> str:
    """Returns an entry of a result, in percent where tables have it in percent."""
    of = name.removeprefix("best_val_").removeprefix("test_")
    is_share = of in fractions_of_log() and isinstance(value, float)
    return f"{number(value, True)} %" if is_share else _number(value)


def read_rows(metrics: Path) -> list[dict[str, Any]]:
    """Returns the rows of a run's log."""
    with _naming_results():
        rows = files.read_rows(metrics)
    if not rows:
        raise WorkdirError(f"--results: {metrics} has no rows yet.")
    return rows


def _check_end(metrics: Path, rows: Sequence[Mapping[str, Any]], result: Mapping[str, Any]) -> None:
    """Raises WorkdirError, a line, unless the last row of a run that has ended is that of its end.

    What else is missing shows in the checksums of the rows.
    """
    if rows[-1]["step"] != result["steps"]:
        raise WorkdirError(
            f"--results: {metrics} is damaged: its last row is of step {rows[-1]['step']}, and the "
            f"run ended at {result['steps']}. Restore it from a copy."
        )


def _arm_of_run(run: str, rows: Sequence[Mapping[str, Any]]) -> Arm:
    names = dict.fromkeys(name for row in rows for name in row if name not in _NO_CURVES)
    curves = {name: Curve([row.get(name) for row in rows]) for name in names}
    return Arm(run, [row["epoch"] for row in rows], curves)


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Returns an HTML table, whose first row is its head."""
    tags = ["th", *["td"] * (len(rows) - 1)]
    lines = [
        "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row)
        for tag, row in zip(tags, rows, strict=True)
    ]
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="scores"><table>\n{body}\n</table></div>'


def _number(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


# ---- what is read


@contextlib.contextmanager
def _naming_results() -> Iterator[None]:
    """Puts the name of the flag before an error of a file."""
    try:
        yield
    except WorkdirError as error:
        raise WorkdirError(f"--results: {error}") from error


# ---- what is drawn


def _figure_parts(
    arms: Sequence[Arm], titles: Mapping[str, str], percent: Sequence[str]
) -> Iterator[str]:
    """Yields HTML of the panels of `titles` and of the knobs that change, then the other knobs."""
    knobs = _values_of_knobs(arms, titles)
    changing = [name for name, of_arms in knobs.items() if max(map(len, of_arms.values())) > 1]
    panels = titles | {name: name for name in changing}
    if any(name in panels for arm in arms for name in arm.curves):  # a run stayed finite
        yield f'<p class="note">{_HINT}</p>' if len(arms) > 1 else ""
        yield figure(arms, panels, percent).to_html(
            full_html=False,
            include_plotlyjs=False,
            config={"responsive": True, "displaylogo": False, "showSendToCloud": False},
        )
    yield from _constants(arms, {name: knobs[name] for name in knobs if name not in changing})


def _values_of_knobs(
    arms: Sequence[Arm], titles: Mapping[str, str]
) -> dict[str, dict[str, set[float]]]:
    """Returns the values that each knob has in each arm."""
    values: dict[str, dict[str, set]] = {}
    for arm in arms:
        for name in arm.curves.keys() - titles.keys():
            there = {value for value in arm.curves[name].mean if value is not None}
            values.setdefault(name, {})[arm.name] = there
    return dict(sorted(values.items()))


def _constants(arms: Sequence[Arm], knobs: Mapping[str, Mapping[str, set[float]]]) -> Iterator[str]:
    """Yields the knobs that no arm changes: a table of those that differ, a line of the others."""
    same, rows = [], []
    for name, of_arms in knobs.items():
        values = {arm: _number(*there) for arm, there in of_arms.items() if there}
        if len(set(values.values())) == 1:
            same.append(f"{name} {next(iter(values.values()))}")
        else:
            rows.append([name, *(values.get(arm.name, "") for arm in arms)])
    if rows:
        yield _table([["constant", *(arm.name for arm in arms)], *rows])
    yield f"<p>Constant: {html.escape(', '.join(same))}.</p>" if same else ""


def output_of(results: Sequence[Path]) -> Path:
    """Returns where the page of the results goes."""
    first = results[0]
    if len(results) > 1:
        return first.parent / "comparison.html"
    return first / "report.html" if first.is_dir() else first.with_suffix(".html")


def main(results: Sequence[Path], output: Path | None) -> None:
    text, output = page(*results), output or output_of(results)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with _files.whole(output) as temporary:
            temporary.write_text(text, "utf-8")
    except OSError as error:
        raise WorkdirError(f"--output {output} cannot be written: {error.strerror}.") from error
    print(output)


if __name__ == "__main__":
    results_flag = paths.define_several(
        "results", None, "JSON file of a table, or workdirs of runs with commas between them."
    )
    output_flag = paths.define("output", None, "HTML file to write; by default beside the results.")
    flags.mark_flags_as_required(["results"])

    command_line.run(
        lambda: main([path.resolve() for path in results_flag.value], output_flag.value)
    )
