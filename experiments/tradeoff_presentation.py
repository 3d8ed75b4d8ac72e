"""Shows trade-off curves: the answer in a sentence, Markdown, and a picture.

All functions take records of `tradeoff_records`; they read the statistics there.
"""

import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec

from cyclical_jax._words import counted
from experiments import drawing, runs
from experiments.score import Score, number
from experiments.statistics import summary
from experiments.tradeoff_records import Record
from experiments.tradeoff_statistics import ratio_of_updates

NOTHING = "–"
ONE_RUN, SEPARATE = "one run", "separate runs"

_READ = (
    "Scores are those on validation after the last update of each length, mean ± sample standard "
    "deviation over the seeds; test is not read.",
    f"{ONE_RUN}: read at the ends of the cycles of a run.",
    "seconds: those of training, measured on the first updates, without compiling.",
)
_CHECKED = (
    "gap: one run minus separate runs, paired by seed, {unit}, with the 95 % interval of Student's "
    "t.",
    "RMS: root mean square of the gaps of single runs.",
)
_METHODS = (
    "difference: the arm minus its control at one length, paired by seed, with the 95 % interval "
    "of Student's t.",
)
_AGREEMENT = (
    "correlation: Pearson's, over the lengths, of the mean differences in one run and in separate "
    "runs; its 95 % interval comes from 2,000 resamples of the seeds.",
    "same sign: the share of lengths at which both mean differences have the same sign; its "
    "interval is made in the same way.",
    "clear: the differences in separate runs whose 95 % interval leaves out 0, and how many of "
    "them have the same sign in one run.",
    "between halves: the same two numbers of means over two random halves of the seeds, averaged "
    "over 200 halvings. Separate runs of one half are compared with those of the other: noise "
    "keeps them from agreeing with themselves. One run is compared with the separate runs of the "
    "other half, and cannot be expected to agree better.",
)


# ---- how long should I train?


def answers(record: Record) -> list[str]:
    """Returns the answer for each arm of each dataset, a line each; for a single arm some lines."""
    arms = [
        (name if len(dataset["arms"]) == 1 else f"{name}, {arm_name}", dataset, arm)
        for name, dataset in record["datasets"].items()
        for arm_name, arm in dataset["arms"].items()
    ]
    between = "\n" if len(arms) == 1 else " "
    return [f"{where}: {between.join(_sentences(dataset, arm))}" for where, dataset, arm in arms]


def _sentences(dataset: Mapping[str, Any], arm: Mapping[str, Any]) -> list[str]:
    """Returns how long to train an arm."""
    score, advice = Score.of_record(dataset), arm["advice"]
    if advice is None:
        return ["at every length a run stopped being finite; try a lower learning rate."]
    length, best = advice["length"], advice["best"]
    epochs = _epochs(arm["epoch"][length])
    size = f"{counted(arm['step'][length], 'update')}, {_seconds(arm, length)}"
    doubled = advice["doubled"]
    least = "" if doubled else "at least "
    parts = [f"train for {least}{epochs} ({size}).", _why(score, arm, length, best)]
    if doubled is None:
        parts.append("No longer training was tried: raise --num_cycles to see one.")
    elif doubled["difference"] is not None:
        parts.append(f"Twice as long would change it by {_points(score, doubled)}.")
    if len(dataset["seeds"]) < 2:
        parts.append("One seed cannot tell a gain from luck: give --num_seeds=5.")
    return parts


def _why(score: Score, arm: Mapping[str, Any], length: int, best: int) -> str:
    means = [score.shown(float(np.mean(arm["one_run"][at]))) for at in (length, best)]
    if length == best:
        return f"Its mean validation {score.words}, {means[0]}, is the best of all lengths."
    return (
        f"Its mean validation {score.words}, {means[0]}, is within a standard error of the best, "
        f"{means[1]} after {_epochs(arm['epoch'][best])}."
    )


def _epochs(epochs: float) -> str:
    return counted(round(epochs, 3), "epoch")


def _seconds(arm: Mapping[str, Any], length: int) -> str:
    seconds = arm["seconds"]["one_run"][length]
    return f"about {f'{seconds:.2g} s' if 1 <= seconds < 10 else runs.duration(seconds)}"


def _points(score: Score, comparison: Mapping[str, Any]) -> str:
    unit = " points" if score.percent else ""
    told = score.difference(comparison["difference"]) + _interval(score, comparison) + unit
    return told if comparison["interval"] or comparison["n"] < 2 else f"{told}, with every seed"


def _interval(score: Score, found: Mapping[str, Any]) -> str:
    if not found["interval"]:
        return ""
    return f" [{', '.join(map(score.difference, found['interval']))}]"


# ---- Markdown


def markdown(record: Record) -> str:
    """Returns the whole record: its origin, the answers, and the tables of each dataset."""
    origin = [f"{key}: {record[key]}" for key in ("hardware", "version")]
    head = [f"## {record['tradeoff']}", record["about"], f"```\n{record['command']}\n```", *origin]
    told = "\n".join(f"- {line}".replace("\n", " ") for line in answers(record))
    return "\n\n".join([*head, told, tables(record)]) + "\n"


def tables(record: Record) -> str:
    """Returns the tables of each dataset, and what their columns mean."""
    return "\n\n".join([*(_section(record, name) for name in record["datasets"]), legend(record)])


def legend(record: Record) -> str:
    """Returns what the columns of a record mean, a line each."""
    datasets = record["datasets"].values()
    score = Score.of_record(next(iter(datasets)))
    parts = [*_READ]
    if any(arm["separate"] for dataset in datasets for arm in dataset["arms"].values()):
        unit = "in percentage points" if score.percent else "in the unit of the score"
        parts += [part.format(unit=unit) for part in _CHECKED]
    if any(map(_methods, datasets)):
        parts += _METHODS
    if any(dataset["agreement"] for dataset in datasets):
        parts += _AGREEMENT
    if score.hint:
        parts.append("Lower scores are better.")
    return "\n".join(f"- {part}" for part in parts)


def _section(record: Record, name: str) -> str:
    dataset = record["datasets"][name]
    sizes = [f"{dataset[key]:,} {of}" for key, of in zip(_SIZES, _SPLITS, strict=True)]
    heading = f"### {name}: {', '.join(sizes)} images, n = {len(dataset['seeds'])}"
    cost = " ".join([_updates(record, dataset), *_times(dataset)])
    parts = [heading, cost, *_chosen(dataset), curves_table(dataset)]
    if dataset["agreement"]:
        parts += [agreement_table(dataset), halves_table(dataset)]
    if _methods(dataset):
        parts.append(effects_table(dataset))
    return "\n\n".join(parts)


_SIZES, _SPLITS = ("num_train", "num_validation"), ("training", "validation")
_WIDTH = 115  # characters of a line


def _updates(record: Record, dataset: Mapping[str, Any]) -> str:
    """Returns the updates of one run and of separate runs, and their ratio."""
    arms, seeds = dataset["arms"].values(), len(dataset["seeds"])
    one = seeds * sum(arm["step"][-1] for arm in arms)
    many = seeds * sum(sum(arm["step"]) for arm in arms)
    formula = f"2 - 2^(1 - {record['num_cycles']}) = {ratio_of_updates(record['num_cycles']):.3f}"
    return (
        f"One run an arm and seed: {one:,} updates in all; a run for each length: {many:,}. "
        f"The ratio is {many / one:.3f}; by the formula {formula}."
    )


def _times(dataset: Mapping[str, Any]) -> Iterator[str]:
    """Yields the seconds of both, and their ratio, if separate runs were trained."""
    seconds = [arm["seconds"] for arm in dataset["arms"].values()]
    if all(own["separate"] for own in seconds):
        one = len(dataset["seeds"]) * sum(own["one_run"][-1] for own in seconds)
        many = len(dataset["seeds"]) * sum(sum(own["separate"]) for own in seconds)
        told = f"{runs.duration(one)} and {runs.duration(many)}, a ratio of {many / one:.2f}"
        yield f"Time of training: {told}."


def _chosen(dataset: Mapping[str, Any]) -> Iterator[str]:
    """Yields the values that were chosen for the arms, if any were searched."""
    told = []
    for name, arm in dataset["arms"].items():
        if tuning := arm["tuning"]:
            values = tuning["trials"][tuning["chosen"]]["values"].items()
            chosen = ", ".join(f"{key} = {value}" for key, value in values)
            told.append(f"{name}: {chosen} (of {counted(len(tuning['trials']), 'trial')})")
    if told:
        where = "Chosen with the config's own duration and schedule, for all lengths"
        yield f"{where}: {'; '.join(told)}."


def front(record: Record, dataset: Mapping[str, Any]) -> str:
    """Returns a dataset in short: its cost, how far both curves are apart, whether they agree."""
    seeds = len(dataset["seeds"])
    sizes = [f"{dataset[key]:,} {of}" for key, of in zip(_SIZES, _SPLITS, strict=True)]
    told = f"{', '.join(sizes)} images; {seeds} seeds. {_updates(record, dataset)}"
    agreement = [agreement_table(dataset), halves_table(dataset)]
    parts = [textwrap.fill(told, _WIDTH), _distances(dataset), *agreement]
    return "\n\n".join(parts)


def _distances(dataset: Mapping[str, Any]) -> str:
    """Returns a row for each arm: all its gaps in one number, and the largest of them."""
    score = Score.of_record(dataset)
    head = ["arm", "RMS of the gaps of means", "largest gap [95 %]", "at epochs"]
    rows = []
    for name, arm in dataset["arms"].items():
        sizes = [abs(gap["difference"] or 0) for gap in arm["gaps"]]
        at = int(np.argmax(sizes))
        far = NOTHING if arm["distance"] is None else number(arm["distance"], score.percent)
        rows.append([name, far, _difference(score, arm["gaps"][at]), f"{arm['epoch'][at]:g}"])
    return _table(head, rows)


def curves_table(dataset: Mapping[str, Any]) -> str:
    """Returns the curves as a table: a row for each arm and length."""
    score, arms = Score.of_record(dataset), dataset["arms"]
    checked = any(arm["separate"] for arm in arms.values())
    head = ["arm", "epochs", "updates", "seconds", "n", f"{ONE_RUN}, {score.title}"]
    head += [SEPARATE, "gap [95 %]", "RMS"] if checked else []
    rows = [
        _row(score, name, arm, length)
        for name, arm in arms.items()
        for length in range(len(arm["step"]))
    ]
    return _table(head, rows)


def _row(score: Score, name: str, arm: Mapping[str, Any], length: int) -> list[str]:
    scores = arm["one_run"][length]
    cells = [name, f"{arm['epoch'][length]:g}", f"{arm['step'][length]:,}"]
    cells += [f"{arm['seconds']['one_run'][length]:.2g}", str(summary(scores).n)]
    cells.append(_spread(score, scores))
    if arm["separate"]:
        gap = arm["gaps"][length]
        rms = NOTHING if gap["rms"] is None else number(gap["rms"], score.percent)
        cells += [_spread(score, arm["separate"][length]), _difference(score, gap), rms]
    return cells


def agreement_table(dataset: Mapping[str, Any]) -> str:
    """Returns whether both curves agree on the methods: a row for each, and one for all."""
    head = ["method", "correlation [95 %]", "same sign [95 %]", "clear, and alike in one run"]
    rows = [[of, *_agreement(found)] for of, found in _agreements(dataset)]
    order = _share(dataset["agreement"]["same_order"])
    table = _table(head, rows)
    return f"{table}\n\nPairs of arms in the same order in both curves, over all lengths: {order}."


def halves_table(dataset: Mapping[str, Any]) -> str:
    """Returns how separate runs agree with themselves, and one run with them, in halves."""
    kinds = ("separate", "one_run")
    head = ["between halves of the seeds", f"correlation, {SEPARATE}", ONE_RUN]
    head += [f"same sign, {SEPARATE}", ONE_RUN]
    rows = [
        [of]
        + [_correlation({"value": found["halves"]["correlation"][kind]}) for kind in kinds]
        + [_share({"value": found["halves"]["same_sign"][kind]}) for kind in kinds]
        for of, found in _agreements(dataset)
    ]
    return _table(head, rows)


def _agreements(dataset: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yields (what is compared, its agreement): each method, and all of them."""
    for name, arm in dataset["arms"].items():
        if arm.get("agreement"):
            yield f"{name} minus {arm['control']}", arm["agreement"]
    yield "all methods", dataset["agreement"]


def _agreement(found: Mapping[str, Any]) -> list[str]:
    alike = f"{found['clear_alike']} of {found['clear']}"
    clash = f", {found['opposite']} clearly opposite" if found["opposite"] else ""
    return [_correlation(found["correlation"]), _share(found["same_sign"]), alike + clash]


def _correlation(estimate: Mapping[str, Any]) -> str:
    return _estimated(estimate, lambda value: f"{value:+.2f}")


def _share(estimate: Mapping[str, Any]) -> str:
    return _estimated(estimate, lambda value: f"{100 * value:.0f}", " %")


def _estimated(estimate: Mapping[str, Any], shown: Callable[[float], str], unit: str = "") -> str:
    """Returns a value with its unit, and its interval if it has one."""
    if estimate["value"] is None:
        return NOTHING
    interval = estimate.get("interval")
    ends = f" [{', '.join(map(shown, interval))}]" if interval else ""
    return f"{shown(estimate['value'])}{unit}{ends}"


def effects_table(dataset: Mapping[str, Any]) -> str:
    """Returns each method's difference to its control, at each length, in the curves there are."""
    score, arms = Score.of_record(dataset), dataset["arms"]
    is_checked = bool(dataset["agreement"])
    head = ["method", "epochs", f"difference in {ONE_RUN} [95 %]"]
    head += [f"in {SEPARATE} [95 %]"] if is_checked else []
    rows = [
        [f"{name} minus {arms[name]['control']}", f"{arms[name]['epoch'][at]:g}"]
        + [_difference(score, curve[at]) for curve in arms[name]["effects"].values()]
        for name in _methods(dataset)
        for at in range(len(arms[name]["epoch"]))
    ]
    return _table(head, rows)


def _spread(score: Score, scores: Sequence[float | None]) -> str:
    _, mean, std = summary(scores)
    if mean is None:
        return NOTHING
    told = number(mean, score.percent)
    return told if std is None else f"{told} ± {number(std, score.percent)}"


def _difference(score: Score, found: Mapping[str, Any]) -> str:
    if found["difference"] is None:
        return NOTHING
    return score.difference(found["difference"]) + _interval(score, found)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---"] * len(head)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, rule, *rows])


# ---- the picture


def picture(record: Record, path: Path) -> None:
    """Draws the curves of each dataset and, with --check, the differences of each method, as PNG.

    Equal records give equal bytes.
    """
    with drawing.style() as theme:
        drawing.save(_drawn(record, theme), path)


def _drawn(record: Record, theme: drawing.Theme) -> Figure:
    datasets = record["datasets"]
    methods = [_methods(dataset) for dataset in datasets.values()]
    heights = [height for own in methods for height in ((3.2, 2.1) if own else (3.2,))]
    figure = Figure(figsize=(drawing.WIDTH, 0.5 + sum(heights)), layout="constrained")
    across = max([1, *map(len, methods)])
    grid = GridSpec(len(heights), across, figure=figure, height_ratios=heights)
    row = 0
    for (name, dataset), own in zip(datasets.items(), methods, strict=True):
        _draw_curves(figure.add_subplot(grid[row, :]), name, dataset, theme)
        row += 1
        if own:
            first = figure.add_subplot(grid[row, 0])
            others = [figure.add_subplot(grid[row, at], sharey=first) for at in range(1, len(own))]
            _draw_methods([first, *others], dataset, theme)
            row += 1
    figure.supxlabel(_key(record, any(methods)), fontsize=drawing.SMALL)
    return figure


def _key(record: Record, has_methods: bool) -> str:
    """Returns what the lines and bands mean."""
    arms = [arm for dataset in record["datasets"].values() for arm in dataset["arms"].values()]
    lines = "solid: one run; dashed: separate runs; " if any(a["separate"] for a in arms) else ""
    bands = "band above: standard deviation over the seeds; below: 95 % interval"
    return (
        f"{lines}dot: mean\n{bands if has_methods else bands.replace(' above', '').split(';')[0]}"
    )


def _methods(dataset: Mapping[str, Any]) -> list[str]:
    return [name for name, arm in dataset["arms"].items() if arm.get("effects")]


def _draw_curves(axes: Axes, name: str, dataset: Mapping[str, Any], theme: drawing.Theme) -> None:
    score, unit = Score.of_record(dataset), _unit(dataset)
    for at, (arm_name, arm) in enumerate(dataset["arms"].items()):
        color = theme.lines[at % len(theme.lines)]
        _draw_curve(axes, arm["epoch"], arm["one_run"], unit, color, label=arm_name)
        if arm["separate"]:
            means = _filled(summary(scores).mean for scores in arm["separate"])
            axes.plot(arm["epoch"], unit * means, "o--", color=color, markersize=3, linewidth=1.2)
    axes.set_title(f"{name}: validation {score.title}, n = {len(dataset['seeds'])}")
    axes.legend(fontsize=drawing.SMALL)
    _log_axis(axes, next(iter(dataset["arms"].values()))["epoch"])


def _draw_curve(axes, epochs, curve, unit, color, label) -> None:
    parts = [summary(scores) for scores in curve]
    means = unit * _filled(part.mean for part in parts)
    stds = unit * _filled(part.std for part in parts)
    axes.plot(epochs, means, "o-", color=color, markersize=4, label=label)
    axes.fill_between(epochs, means - stds, means + stds, color=color, alpha=0.12, linewidth=0)


def _draw_methods(row: Sequence[Axes], dataset: Mapping[str, Any], theme: drawing.Theme) -> None:
    """Draws an axes for each method, all on one scale."""
    names = list(dataset["arms"])
    for axes, name in zip(row, _methods(dataset), strict=True):
        arm, color = dataset["arms"][name], theme.lines[names.index(name) % len(theme.lines)]
        axes.axhline(0, color=theme.ink, linewidth=0.8)
        looks = {"one_run": ("o-", color), "separate": ("o--", theme.muted)}
        for kind, effects in arm["effects"].items():
            _draw_effects(axes, arm["epoch"], effects, _unit(dataset), *looks[kind])
        axes.set_title(f"{name}\nminus {arm['control']}", fontsize=drawing.SMALL)
        _log_axis(axes, arm["epoch"], label=axes is row[0])
        axes.tick_params(labelleft=axes is row[0])


def _draw_effects(axes, epochs, effects, unit, line, color) -> None:
    means = unit * _filled(effect["difference"] for effect in effects)
    ends = [effect["interval"] or (None, None) for effect in effects]
    low, high = (unit * _filled(end[at] for end in ends) for at in (0, 1))
    axes.plot(epochs, means, line, color=color, markersize=3, linewidth=1.4)
    axes.fill_between(epochs, low, high, color=color, alpha=0.15, linewidth=0)


def _log_axis(axes: Axes, epochs: Sequence[float], *, label: bool = True) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(epochs, [f"{epoch:.3g}" for epoch in epochs])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("epochs" if label else "", fontsize=drawing.SMALL)


def _filled(values) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], float)


def _unit(dataset: Mapping[str, Any]) -> int:
    return 100 if Score.of_record(dataset).percent else 1
