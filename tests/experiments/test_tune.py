"""The trials of an arm: which are made, and which is chosen."""

import json

import pytest

from experiments.arms import Arm, Range
from tests import commands

RATES = Arm(search={"optimizer.learning_rate": Range(0.02, 0.5)}).trials(4)

# In place of training: accuracy is best at a learning rate of 0.1, and fails above `most`.
FAKE = """
import json
from cyclical_jax.training.population import Outcome
from cyclical_jax.training.fields import RecipeError
from cyclical_jax.training.recipe import cyclical
from experiments import tune
from experiments.arms import Arm, Budget, Choice, Range, Table

class Lab:
    def __init__(self, most):
        self.most, self.asked = most, []

    def complete(self, recipes, splits):
        self.asked.append([splits, [recipe.seed for recipe in recipes]])
        return [self.outcome(recipe) for recipe in recipes]

    def outcome(self, recipe):
        rate = recipe.numbers["optimizer.learning_rate"].easy
        if rate > self.most:
            return Outcome([], {}, "loss is nan")
        accuracy = 1 - abs(rate - 0.1) + (recipe.seed - 1_000_000) / 1000
        return Outcome([], {"validation": {"accuracy": accuracy, "loss": rate}}, None)

RATE = {"optimizer.learning_rate": Range(0.02, 0.5)}
CYCLES = Choice((cyclical(1e-4, 1e-3), cyclical(1e-3, 1e-2, factor=4)))
its_arms = {
    "plain": Arm(search=RATE),
    "cyclical": Arm(search=RATE | {"optimizer.weight_decay": CYCLES}, control="plain"),
    "fixed": Arm({"optimizer.learning_rate": 0.1}, control="plain"),
}
table = Table("", its_arms, {"digits": Budget(3, num_trials=4, seeds_a_trial=2)})
trials = tune.trials_of(table, ["digits"], None)
own = Table("", its_arms, {"digits": Budget(1)}, common={"dataset": "fashion_mnist"})
titles = list(tune.trials_of(own, ["digits"], None))
told = {}
for most in (1.0, 0.09, 0.0):
    lab = Lab(most)
    try:
        records = tune.tune(trials, lab)
        chosen = [tune.chosen(record) for record in records.values()]
        told[most] = [list(records), list(records.values()), chosen, lab.asked]
    except RecipeError as error:
        told[most] = str(error)
"""


def result_of(code, name, **given):
    """As JSON, a global of the code. The flags of `tune` would clash with those of others."""
    with commands.as_if_new():
        exec(code, given)
    return json.loads(json.dumps(given[name]))


@pytest.fixture(scope="module")
def told():
    return result_of(FAKE, "told")


def test_every_arm_has_as_many_trials_with_the_same_seeds_and_points(told):
    names, (plain, cyclical, fixed), chosen, asked = told["1.0"]
    assert names == [["digits", name] for name in ("plain", "cyclical", "fixed")]
    assert fixed is None and chosen[2] == {}
    key = "optimizer.learning_rate"
    rates = [values[key] for values in RATES]
    for record in (plain, cyclical):
        assert record["seeds"] == [1_000_000, 1_000_001]
        assert [trial["values"][key] for trial in record["trials"]] == rates
        assert record["chosen"] == min(range(4), key=lambda index: abs(rates[index] - 0.1))
    for trial, rate in zip(plain["trials"], rates, strict=True):
        accuracy = 1 - abs(rate - 0.1)
        assert trial["val_accuracy"] == pytest.approx([accuracy, accuracy + 0.001], abs=1e-12)
        assert trial["val_loss"] == [rate, rate]
    decays = [{"easy": 1e-4, "hard": 1e-3}, {"easy": 1e-3, "hard": 1e-2, "factor": 4}]
    assert chosen[1]["optimizer.weight_decay"] in [{**d, "scale": "linear"} for d in decays]
    assert asked == [[["validation"], 8 * [1_000_000, 1_000_001]]]


def test_arms_are_named_with_the_data_that_they_are_trained_on():
    titles = result_of(FAKE, "titles")
    assert titles[0] == ["fashion_mnist (config digits)", "plain"]


def test_a_trial_with_a_run_that_failed_is_null_and_not_chosen(told):
    plain = told["0.09"][1][0]
    rates = [values["optimizer.learning_rate"] for values in RATES]
    failed = [rate > 0.09 for rate in rates]
    assert 0 < sum(failed) < 4
    for trial, has_failed in zip(plain["trials"], failed, strict=True):
        assert (trial["val_accuracy"] == trial["val_loss"] == [None, None]) == has_failed
    assert rates[plain["chosen"]] == max(rate for rate in rates if rate <= 0.09)


def test_an_arm_without_a_finite_trial_is_named_with_its_dataset(told):
    (line,) = told["0.0"].splitlines()
    assert line.startswith("digits, arm plain: in every trial a run stopped being finite")


def trial(accuracies, losses):
    return {"val_accuracy": accuracies, "val_loss": losses}


def test_chosen_is_the_highest_mean_accuracy_then_the_lowest_mean_loss():
    cases = [
        [trial([0.5, 0.7], [1, 1]), trial([0.6, 0.7], [2, 2]), trial([0.9, 0.1], [0, 0])],
        [trial([0.5, 0.7], [1, 3]), trial([0.7, 0.5], [1, 2]), trial([0.6, 0.6], [2, 2])],
        [trial([0.6], [1]), trial([0.6], [1])],
        [trial([0.9, None], [0, None]), trial([0.2, 0.3], [5, 5])],
    ]
    code = """
from experiments import tune
from experiments.score import ACCURACY
found = [tune.best(trials, ACCURACY) for trials in cases]
"""
    assert result_of(code, "found", cases=cases) == [1, 1, 0, 1]


def test_of_a_score_of_which_less_is_better_the_lowest_mean_is_chosen():
    def of(judged, losses):
        return {"val_perplexity": judged, "val_loss": losses}

    by_perplexity = [
        [of([3, 5], [1, 1]), of([2, 5], [9, 9]), of([9, 1], [0, 0])],
        [of([3, 5], [2, 2]), of([4, 4], [1, 2]), of([5, 3], [2, 2])],
        [of([1, None], [0, 0]), of([9, 9], [5, 5])],
        [of([1, 1], [0, None]), of([9, 9], [5, 5])],
    ]
    by_loss = [
        [{"val_loss": [2.0, 4.0]}, {"val_loss": [3.0, 2.5]}, {"val_loss": [9.0, 1.0]}],
        [{"val_loss": [None, 0.0]}, {"val_loss": [7.0, 8.0]}],
    ]
    code = """
from experiments import tune
from experiments.score import Score
found = [
    [tune.best(trials, Score(name, "min", False)) for trials in cases]
    for name, cases in both.items()
]
"""
    both = {"perplexity": by_perplexity, "loss": by_loss}
    assert result_of(code, "found", both=both) == [[1, 1, 1, 1], [1, 1]]


PERPLEXITY = """
import dataclasses
from unittest import mock
from cyclical_jax.tasks import classification
judged = dataclasses.replace(classification.TASK, judged_by=("loss", "min"))

def recipe_of(*arguments, own=tune.arms.recipe_of, **options):
    recipe = own(*arguments, **options)
    task = (judged, recipe.structure.task[1])
    return dataclasses.replace(
        recipe, structure=dataclasses.replace(recipe.structure, task=task)
    )

with mock.patch.object(tune.arms, "recipe_of", recipe_of):
    (key, plain), *_ = trials.items()
    lab = Lab(1.0)
    record = tune.tune({key: plain}, lab)[key]
    found = [record, plain.score._asdict(), tune.told(*key, record, plain.score)]
"""


def test_an_arm_is_tuned_by_the_score_of_its_task():
    record, score, told = result_of(FAKE + PERPLEXITY, "found")
    rates = [values["optimizer.learning_rate"] for values in RATES]
    assert score == {"name": "loss", "best": "min", "percent": False}
    assert [set(trial) for trial in record["trials"]] == [{"values", "val_loss"}] * 4
    lowest = rates.index(min(rates))  # the loss there is the rate
    assert record["chosen"] == lowest != min(range(4), key=lambda i: abs(rates[i] - 0.1))
    rate = rates[lowest]
    assert told == (f"digits, plain: optimizer.learning_rate = {rate} (validation loss {rate:.4f})")
