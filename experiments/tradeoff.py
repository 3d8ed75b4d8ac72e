"""Answers "how long should I train?": one run gives the score after each of several lengths.

python -m experiments.tradeoff --config=configs/digits.py --first_cycle="1 epoch" --num_cycles=6

The learning rate of the run warms up for w = `--first_cycle`, and then falls to 0 in cosines of w,
2w, 4w, ... Each end of a cycle, a *trough* of the learning rate, is a finished training of 2w, 4w,
8w, ... The command reads the validation score in the row of the trough itself. It takes no maximum
over rows, and never reads the test split.

--table compares the arms of a table at all lengths. --check also trains each length by a run of its
own, with one cosine, times a warm-up over 8/90 of the length. It says how far the two curves are
apart, and whether they agree on the arms, beside how well separate runs agree with themselves.

Source: Portes et al., Fast Benchmarking of Accuracy vs. Training Time with Cyclic Learning Rates
(2206.00832).
"""

import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from cyclical_jax._words import counted
from cyclical_jax.data import num_examples
from cyclical_jax.training.durations import parse_duration
from cyclical_jax.training.fields import RecipeError
from cyclical_jax.training.files import WorkdirError
from cyclical_jax.training.population import Outcome
from cyclical_jax.training.structure import Recipe
from experiments import arms, command_line, records, runs, tradeoff_records, tune
from experiments import tradeoff_presentation as presentation
from experiments.arms import Arm, Budget, Table
from experiments.environment import hardware
from experiments.lengths import Lengths, Plan, at_ends, check_keys, given_by, plan
from experiments.score import Score
from experiments.tradeoff_records import as_json, with_all_statistics
from experiments.tune import Trials
from experiments.waiting import Waiting

_CONFIG = command_line.define_config()
_FIRST_CYCLE = flags.DEFINE_string(
    "first_cycle", "1 epoch", "Length of the warm-up, and of the first cycle of the learning rate."
)
_NUM_CYCLES = flags.DEFINE_integer(
    "num_cycles", 5, "Number of lengths; each is twice the one before.", lower_bound=2
)
_CHECK = flags.DEFINE_bool("check", False, "Also train each length by a run of its own.")

_SPLITS = ("validation",)
_NUM_SEEDS = 5  # where there is no table
_MOST_CYCLES = 20


def measure(
    name: str, table: Table, trials: Mapping[Any, Trials], lengths: Lengths, lab: runs.Lab
) -> dict[str, Any]:
    """Returns the record of trade-off curves, and trains the runs that are not there yet.

    Args:
      name: The name of the record.
      table: Its arms.
      trials: {(dataset, arm): the arm's trials there}.
      lengths: The lengths of training.
      lab: The place that makes and keeps runs.
    """
    tunings = _tuned(trials, lab)
    plans = plans_of(trials, lengths, tunings)
    recipes = [recipe for own in plans.values() for recipe in own.recipes]
    seconds = None if lab.has(recipes, _SPLITS) else _tell_time(plans, lab)
    outcomes = iter(lab.complete(recipes, _SPLITS))
    record = _heading(name, table, lengths)
    for (dataset, arm), own in plans.items():
        score = Score.of_recipe(own.one_run[0])
        entry = record["datasets"].setdefault(dataset, _dataset(own, score))
        of_groups = [[next(outcomes) for _ in group] for group in own.groups]
        entry["arms"][arm] = _arm(trials[dataset, arm], tunings.get((dataset, arm)), own, of_groups)
    return _with_seconds(as_json(with_all_statistics(record)), seconds, plans, lab)


def plans_of(trials: Mapping[Any, Trials], lengths: Lengths, tunings) -> dict[Any, Plan]:
    """Returns the runs of all arms; before an arm is tuned, its first trial stands for it.

    Raises:
      RecipeError: Some cannot be run; a line for each problem.
    """
    plans: dict[Any, Plan] = {}
    problems: dict[str, list[str]] = {}
    for (dataset, arm), own in trials.items():
        tuning = tunings.get((dataset, arm))
        values = tune.chosen(tuning) if tuning else own.values[0]
        try:
            plans[dataset, arm] = plan(own, values, lengths, check=_CHECK.value)
        except RecipeError as error:
            for line in str(error).splitlines():
                problems.setdefault(line, []).append(f"{dataset}, arm {arm}: ")
    if problems:
        lines = [f"{_unless_all(where, trials)}{line}" for line, where in problems.items()]
        raise RecipeError("\n".join(lines))
    return plans


def _unless_all(where: Sequence[str], trials: Mapping[Any, Trials]) -> str:
    return "" if len(where) == len(trials) else where[0]


def _tuned(trials: Mapping[Any, Trials], lab: runs.Lab) -> dict[Any, Any]:
    searching = [recipe for these in trials.values() for recipe in these.recipes()]
    if searching and not lab.has(searching, tune.SPLITS):
        seconds = lab.seconds_left(searching, tune.SPLITS)
        number = counted(len(searching), "run")
        print(f"{number} to tune the arms first; about {runs.duration(seconds)}", flush=True)
    return tune.tune(trials, lab)


def _tell_time(plans: Mapping[Any, Plan], lab: runs.Lab) -> dict[Any, list[float]]:
    """Prints the time that is left, and returns the seconds of a run of each group."""
    seconds = _seconds(plans, lab)
    groups = [
        (group, each)
        for key, own in plans.items()
        for group, each in zip(own.groups, seconds[key], strict=True)
    ]
    left = sum(each for group, each in groups for recipe in group if not lab.has([recipe], _SPLITS))
    number = counted(sum(len(group) for group, _ in groups), "run")
    told = f"about {runs.duration(left)} for those that are not there yet"
    print(f"{number}; {told}", flush=True)
    return seconds


def _seconds(plans: Mapping[Any, Plan], lab: runs.Lab) -> dict[Any, list[float]]:
    """Returns the seconds of a run of each group of each plan."""
    recipes = [recipe for own in plans.values() for recipe in own.recipes]
    with Waiting("compiling, to measure the time"):
        seconds = iter(lab.seconds_a_run(recipes))
    return {
        key: [[next(seconds) for _ in group][0] for group in own.groups]
        for key, own in plans.items()
    }


# ---- the record


def _heading(name: str, table: Table, lengths: Lengths) -> dict[str, Any]:
    return {
        "tradeoff": name,
        "about": table.about,
        "command": shlex.join(["python", "-m", "experiments.tradeoff", *sys.argv[1:]]),
        "version": runs.version(),
        "hardware": hardware(),
        "first_cycle": str(lengths.first_cycle),
        "num_cycles": lengths.num_cycles,
        "datasets": {},
    }


def _dataset(own: Plan, score: Score) -> dict[str, Any]:
    dataset = runs.load(own.one_run[0])
    splits = ("train", "validation")
    sizes = {f"num_{split}": num_examples(getattr(dataset, split)) for split in splits}
    percent = list(own.one_run[0].structure.percent)
    seeds = [recipe.seed for recipe in own.one_run]
    of_scores = {"judged_by": score.in_record(), "percent": percent}
    return sizes | of_scores | {"seeds": seeds, "arms": {}}


def _arm(
    trials: Trials, tuning: dict | None, own: Plan, of_groups: Sequence[Sequence[Outcome]]
) -> dict[str, Any]:
    """Returns the entries of an arm; `of_groups` are the outcomes of its runs."""
    name, epochs = Score.of_recipe(own.one_run[0]).name, own.epochs
    one_run = [at_ends(outcome, epochs, name) for outcome in of_groups[0]]
    separate = [
        [score for outcome in outcomes for score in at_ends(outcome, [epoch], name)]
        for epoch, outcomes in zip(epochs, of_groups[1:], strict=bool(of_groups[1:]))
    ]
    return {
        "control": trials.arm.control,
        "changes": arms.plain({**trials.arm.changes, **tune.chosen(tuning)}),
        "tuning": tuning,
        "step": own.steps,
        "epoch": epochs,
        "one_run": [list(scores) for scores in zip(*one_run, strict=True)],
        "separate": separate or None,
    }


def _with_seconds(record, seconds, plans: Mapping[Any, Plan], lab: runs.Lab) -> dict[str, Any]:
    """Returns the record with the seconds of training up to each end.

    Where nothing was left to train, those of the same record in the workdir stand.
    """
    if seconds is None:
        earlier = _earlier(_paths(record)[0])
        if earlier and _without_seconds(earlier) == _without_seconds(record):
            return earlier
        seconds = _seconds(plans, lab)
    for (dataset, name), (whole, *separate) in seconds.items():
        arm = record["datasets"][dataset]["arms"][name]
        shares = [step / arm["step"][-1] for step in arm["step"]]
        one_run = [float(f"{whole * share:.3g}") for share in shares]
        measured = [float(f"{each:.3g}") for each in separate]
        arm["seconds"] = {"one_run": one_run, "separate": measured or None}
    return record


def _earlier(path: Path) -> dict[str, Any] | None:
    """Returns the record in a file, if it is there and whole."""
    try:
        return tradeoff_records.read(path) if path.exists() else None
    except WorkdirError:
        return None


def _without_seconds(record: Mapping[str, Any]) -> dict[str, Any]:
    datasets = {
        name: {
            **dataset,
            "arms": {
                arm: {key: value for key, value in entries.items() if key != "seconds"}
                for arm, entries in dataset["arms"].items()
            },
        }
        for name, dataset in record["datasets"].items()
    }
    return {**record, "datasets": datasets}


# ---- the command


def _paths(record: Mapping[str, Any]) -> list[Path]:
    name = f"tradeoff_{record['tradeoff']}"
    return [tune.WORKDIR.value / f"{name}.{suffix}" for suffix in ("json", "md", "png")]


def write(record: Mapping[str, Any]) -> list[Path]:
    """Writes a record as JSON, Markdown and PNG."""
    paths = _paths(record)
    shown = {"markdown": presentation.markdown, "picture": presentation.picture}
    records.write(record, paths, **shown)
    return paths


def _planned() -> tuple[str, Table, dict[Any, Trials]]:
    """Returns the name, the table and the trials that the flags ask for."""
    if (tune.TABLE.value is None) == (_CONFIG.value is None):
        raise RecipeError("Give --config, for one curve, or --table, for a curve of each arm.")
    return _planned_config() if tune.TABLE.value is None else _planned_table()


def _planned_table() -> tuple[str, Table, dict[Any, Trials]]:
    if changes := flags.FLAGS["set"].value:
        key = changes[0].partition("=")[0]
        raise RecipeError(f"--config.{key} needs --config; the arms of a table have their changes.")
    check_keys(given_by(arms.load_table(tune.TABLE.value)))
    return Path(tune.TABLE.value).stem, *tune.planned()


def _planned_config() -> tuple[str, Table, dict[Any, Trials]]:
    if tune.DATASETS.value is not None:
        raise RecipeError("--datasets needs --table; a config names its dataset itself.")
    keys = {change.partition("=")[0]: None for change in flags.FLAGS["set"].value}
    check_keys({"--config": keys})
    config, name = command_line.config_of(_CONFIG), _name_of(_CONFIG.value)
    if tune.DATA_DIR.value:
        raise RecipeError("--data_dir needs --table; with a config it is --config.data_dir.")
    table = Table(
        about=f"How long to train {_CONFIG.value}.",
        arms={name: Arm()},
        budgets={config.dataset: Budget(num_seeds=_NUM_SEEDS)},
    )
    table = arms.with_budget(table, num_seeds=tune.NUM_SEEDS.value)
    arms.check_arms(table.arms, config, num_trials=1)
    trials = Trials(table.arms[name], config, table.budgets[config.dataset])
    return name, table, {(config.dataset, name): trials}


def _name_of(config: str) -> str:
    """Returns a word for a config, such as digits_focal for configs/digits.py:focal."""
    path, _, variant = config.partition(":")
    return re.sub(r"\W+", "_", "_".join(filter(None, [Path(path).stem, variant])))


def _lengths(trials: Mapping[Any, Trials]) -> Lengths:
    try:
        first = parse_duration(_FIRST_CYCLE.value)
    except ValueError as error:
        raise RecipeError(f"--first_cycle {error}.") from error
    if _NUM_CYCLES.value > _MOST_CYCLES:
        raise RecipeError(
            f"--num_cycles must be at most {_MOST_CYCLES}, got {_NUM_CYCLES.value}: each length is "
            "twice the one before."
        )
    seeds = min(these.budget.num_seeds for these in trials.values())
    if _CHECK.value and seeds < 2:
        raise RecipeError(f"--check needs --num_seeds of at least 2, for intervals, got {seeds}.")
    return Lengths(first, _NUM_CYCLES.value)


def _warnings(plans: Mapping[Any, Plan]) -> Iterator[str]:
    """Yields a line if one run may misjudge an arm, and no separate runs stand beside it."""
    cycling = [own for own in plans.values() if _cycles(own.one_run[0])]
    if cycling and not _CHECK.value:
        yield "A number cycles here, and one run may misjudge that: add --check, at least once."


def _cycles(recipe: Recipe) -> bool:
    """Returns whether a number of the recipe cycles, beside the learning rate's restarts."""
    return any(easy != hard for easy, hard, _ in recipe.numbers.values())


def main():
    name, table, trials = _planned()
    lengths = _lengths(trials)
    with Waiting("checking the lengths"):
        plans = plans_of(trials, lengths, {})  # what is wrong is told before anything is trained
    with tune.open_lab() as lab:  # no other command writes to the workdir meanwhile
        record = measure(name, table, trials, lengths, lab)
        lab.check_place()
        paths = write(record)
    print("\n".join([*presentation.answers(record), *_warnings(plans)]))
    print(f"\n{presentation.tables(record)}\n")
    print("\n".join(map(str, paths)))


if __name__ == "__main__":
    flags.adopt_module_key_flags(tune)
    command_line.run(main, device_a_core=True)
