"""Tables: what they may say, and what is wrong with them, a line each."""

from pathlib import Path

import numpy as np
import pytest

from cyclical_jax import data, precision
from cyclical_jax.training.fields import RecipeError
from cyclical_jax.training.recipe import cyclical
from experiments import arms
from experiments.arms import Arm, Budget, Choice, Range, Table
from experiments.score import ACCURACY, Score

TABLES = sorted(path.stem for path in Path(arms.__file__).parent.glob("tables/[a-z]*.py"))
RATE = {"optimizer.learning_rate": Range(0.01, 1.0)}
BUDGETS = {"digits": Budget(num_seeds=2, num_trials=3)}
TEXT = """
from experiments.arms import Arm, Budget, Choice, Range, Table
TABLE = Table(about="", arms={arms}, budgets={{"digits": Budget(num_seeds={seeds})}})
"""


def base(**changes):
    return arms.base_config("digits", common=changes)


@pytest.mark.parametrize("name", TABLES)
def test_every_table_can_be_run_on_all_its_datasets(name):
    table = arms.load_table(name)
    for dataset, budget in table.budgets.items():
        config = arms.base_config(dataset, data_dir="/nowhere", common=table.common)
        assert config.data_dir == ("/nowhere" if data.uses_data_dir(config.dataset) else None)
        arms.check_arms(table.arms, config, budget.num_trials)
    assert any(arm.control for arm in table.arms.values())


def test_the_papers_questions_are_there():
    asked = {"weight_decay", "temperature", "clipping", "focal_loss", "combined", "factor"}
    assert asked <= set(TABLES)
    combined = arms.load_table("combined").arms
    assert len(combined) == 16 and "weight decay + temperature + clipping + focal" in combined


def test_a_published_schedule_has_our_lower_end_and_else_stays(monkeypatch):
    published = precision.PRECISION_SCHEDULES["LT"]
    monkeypatch.setitem(precision.PRECISION_SCHEDULES, "LT", published | {"num_cycles": 3})
    changes = arms.load_table("precision").arms["LT"].changes
    bits = changes["precision.weights"]
    assert (bits["easy"], bits["hard"], changes["cycle.num_cycles"]) == (8, 2, 3)


def test_a_range_is_even_on_the_log_scale_and_a_choice_in_its_parts():
    assert [Range(0.01, 1.0).at(x) for x in (0, 0.25, 0.5, 1)] == [0.01, 0.03162, 0.1, 1.0]
    assert [Choice("abc").at(x) for x in (0, 0.3, 0.34, 0.67, 0.999, 1)] == [*"aabccc"]


def test_trials_are_as_many_for_every_arm_and_share_their_points():
    control = Arm(search=RATE)
    treatment = Arm(search=RATE | {"optimizer.max_norm": Range(0.1, 10)})
    first, second = control.trials(5), treatment.trials(5)
    assert len(first) == len(second) == 5
    rates = [values["optimizer.learning_rate"] for values in first]
    assert rates == [values["optimizer.learning_rate"] for values in second]
    assert len(set(rates)) == 5 and all(0.01 <= rate <= 1 for rate in rates)
    assert first == control.trials(5)
    assert first != Arm(search=RATE, points=1).trials(5)
    assert Arm().trials(5) == [{}]


def test_a_recipe_has_the_changes_the_values_and_the_seed():
    arm = Arm({"optimizer.weight_decay": cyclical(0.1, 0.2), "optimizer.momentum": 0.5})
    recipe = arms.recipe_of(base(), arm, {"optimizer.weight_decay.hard": 0.7}, seed=9)
    assert recipe.seed == 9 and recipe.numbers["optimizer.momentum"].easy == 0.5
    assert recipe.numbers["optimizer.weight_decay"][:2] == (0.1, 0.7)


@pytest.mark.parametrize(
    "text, words",
    [
        ("TABLE = ", "SyntaxError"),
        ("import no_such_module", "no_such_module"),
        ("TABLE = 3", "must define TABLE"),
        ("", "must define TABLE"),
        (TEXT.format(arms="{}", seeds=2), "has no arms"),
        (TEXT.format(arms="{'a': Arm(control='b')}", seeds=2), "arm a: control 'b' is not an arm"),
        (TEXT.format(arms="{'a': Arm(search={'seed': Range(2, 1)})}", seeds=2), "0 < low < high"),
        (TEXT.format(arms="{'a': Arm(search={'seed': Choice(())})}", seeds=2), "no value"),
        (TEXT.format(arms="{'a': Arm()}", seeds=0), "at least 1 seed"),
    ],
)
def test_what_is_wrong_with_a_file_is_a_line(tmp_path, text, words):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(RecipeError, match=words) as error:
        arms.load_table(str(path))
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    "own_arms, lines",
    [
        ({"a": Arm({"optimizer.momentu": 1})}, ["arm a: optimizer.momentu is not a key"]),
        ({"a": Arm({"loss.temperature": -1.0})}, ["arm a: loss.temperature must be"]),
        ({"a": Arm(search={"optimizer.momentum": Range(0.5, 3)})}, ["arm a: optimizer.momentum"]),
        ({"a": Arm(), "b": Arm({"loss.temperature": 1.0})}, ["arms a and b are the same"]),
        ({"a": Arm({"train_on": "train+validation"})}, ["arm a: train_on must be 'train'"]),
        (
            {"a": Arm({"batch_size": 0}), "b": Arm({"loop": 3})},
            ["arm a: batch_size", "arm b: loop"],
        ),
    ],
)
def test_arms_that_cannot_be_run_are_named(own_arms, lines):
    with pytest.raises(RecipeError) as error:
        arms.check_arms(own_arms, base(), 16)
    said = dict.fromkeys(line.split(", got")[0] for line in str(error.value).splitlines())
    for line, start in zip(said, lines, strict=True):
        assert line.startswith(start)


def test_the_arms_of_a_table_are_judged_by_one_score(monkeypatch):
    judged = {"classification": ACCURACY, "multilabel": Score("loss", "min", False)}
    own_arms = {"a": Arm(), "b": Arm({"task.name": "multilabel"})}
    arms.check_arms(own_arms, base(), 16)
    of_task = classmethod(lambda cls, recipe: judged[recipe.task.name])
    monkeypatch.setattr(Score, "of_recipe", of_task)
    with pytest.raises(RecipeError) as error:
        arms.check_arms(own_arms, base(), 16)
    assert str(error.value) == (
        "arms of a table must be judged by one score, got arm a by accuracy, %, arm b by loss "
        "(lower is better)."
    )


def test_tables_datasets_and_numbers_that_are_not_there():
    table = Table("", {"a": Arm()}, BUDGETS)
    with pytest.raises(RecipeError, match="'cumbined' does not exist; there are .*combined"):
        arms.load_table("cumbined")
    with pytest.raises(RecipeError, match="digits, got 'mnist'"):
        arms.choose_datasets(table, ["mnist"], None)
    with pytest.raises(RecipeError, match="must name at least one"):
        arms.choose_datasets(table, [], None)
    with pytest.raises(RecipeError, match="--num_seeds must be at least 1, got 0"):
        arms.with_budget(table, num_seeds=0)
    with pytest.raises(RecipeError, match="'nothing' of a table must name a config"):
        arms.base_config("nothing")
    with pytest.raises(RecipeError, match="'digits:odd' of a table must name a config: 'odd'"):
        arms.base_config("digits:odd")
    assert arms.with_budget(table, num_seeds=7, num_trials=None).budgets == {
        "digits": Budget(num_seeds=7, num_trials=3)
    }


def test_without_a_choice_the_datasets_that_are_here(tmp_path, capsys):
    table = Table("", {}, BUDGETS | {"fashion_mnist_4k:cnn": Budget(1)})
    assert arms.choose_datasets(table, None, str(tmp_path)) == ["digits"]
    assert (
        "leaving out fashion_mnist_4k:cnn: fashion_mnist is not prepared" in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    "own_arms, words",
    [
        ("{'a': Arm(control='a')}", "arm a is its own control."),
        (
            "{'a': Arm(search={'ema_decay': (0.1, 0.5)})}",
            r"arm a: ema_decay must be searched over a Range or Choice, got \(0.1, 0.5\)\.",
        ),
    ],
)
def test_a_control_is_another_arm_and_a_search_has_its_kind(tmp_path, own_arms, words):
    (tmp_path / "mine.py").write_text(TEXT.format(arms=own_arms, seeds=1))
    with pytest.raises(RecipeError, match=f"^{words}$"):
        arms.load_table(str(tmp_path / "mine.py"))


@pytest.mark.parametrize(
    "search, words",
    [
        ({"optimizer.momentum": Range(1e-9, 1.5)}, "optimizer.momentum must be .* got 1.5"),
        ({"loss.temperature": Choice((-1.0, *[1.0] * 99))}, "loss.temperature must be .* got -1.0"),
        ({"loss.temperature": Choice((*[1.0] * 99, -1.0))}, "loss.temperature must be .* got -1.0"),
    ],
)
def test_the_ends_of_a_search_are_checked_though_no_trial_has_them(search, words):
    with pytest.raises(RecipeError, match=f"^arm a: {words}.$"):
        arms.check_arms({"a": Arm(search=RATE | search)}, base(), 1)


def test_more_trials_begin_with_the_same_and_every_part_of_a_range_has_one():
    arm = Arm(search=RATE)
    assert arm.trials(16)[:5] == arm.trials(5)
    rates = np.array([values["optimizer.learning_rate"] for values in arm.trials(16)])
    assert sorted((16 * np.log(rates / 0.01) / np.log(100)).astype(int)) == list(range(16))


@pytest.mark.parametrize("name", TABLES)
def test_an_arm_tries_what_its_control_tries(name):
    own_arms = arms.load_table(name).arms
    for arm in (arm for arm in own_arms.values() if arm.control):
        control = own_arms[arm.control]
        shared = [key for key in arm.search if arm.search[key] == control.search.get(key)]
        assert shared or not arm.search
        if arm.points != control.points:
            continue
        for ours, theirs in zip(arm.trials(32), control.trials(32), strict=True):
            assert [ours[key] for key in shared] == [theirs[key] for key in shared]


def test_datasets_that_are_not_here_are_told_before_anything_is_done(tmp_path):
    table = Table("", {}, BUDGETS | {"fashion_mnist": Budget(1)})
    with pytest.raises(data.DatasetNotFoundError, match="^fashion_mnist is not prepared: "):
        arms.choose_datasets(table, ["digits", "fashion_mnist"], str(tmp_path))
    with pytest.raises(
        RecipeError, match="^None of the datasets of the table is on this machine.$"
    ):
        arms.choose_datasets(Table("", {}, {"cifar10": Budget(1)}), None, str(tmp_path))


def test_own_data_takes_the_place_of_a_configs_and_has_its_name_in_the_results(tmp_path):
    file = tmp_path / "mine.npz"
    own = {"dataset": f"npz:{file}"}
    table = Table("", {}, {"fashion_mnist:quick": Budget(1)}, common=own)
    nowhere = str(tmp_path / "nowhere")  # where Fashion-MNIST is not, which this table does not use
    with pytest.raises(data.DatasetNotFoundError, match="there is no file .*mine.npz"):
        arms.choose_datasets(table, ["fashion_mnist:quick"], None)
    file.write_text("no archive")  # which is told with all that is wrong with the arms
    assert arms.choose_datasets(table, None, None) == ["fashion_mnist:quick"]
    with pytest.raises(RecipeError, match="--data_dir must be left out"):
        arms.choose_datasets(table, None, nowhere)


@pytest.mark.parametrize(
    ("dataset", "title"),
    [
        ("digits", "digits:weight_decay"),
        ("npz:there/mine.npz", "npz:mine.npz (config digits:weight_decay)"),
        ("folder:there/flowers/", "folder:flowers (config digits:weight_decay)"),
        ("folder:.", "folder:. (config digits:weight_decay)"),
        ("tfds:mnist/small:1.0.0", "tfds:mnist/small:1.0.0 (config digits:weight_decay)"),
        ("cifar10", "cifar10 (config digits:weight_decay)"),
    ],
)
def test_results_name_the_data_that_is_trained_on(dataset, title):
    base = arms.base_config("digits:weight_decay", common={"dataset": dataset})
    assert arms.title_of("digits:weight_decay", base) == title


def test_a_folder_of_datasets_that_no_dataset_needs_is_one_line(tmp_path):
    table = Table("", {}, BUDGETS | {"fashion_mnist": Budget(1)})
    line = "^--data_dir must be left out: none of digits is a dataset of TFDS.$"
    with pytest.raises(RecipeError, match=line):
        arms.choose_datasets(table, ["digits"], str(tmp_path))
    with pytest.raises(RecipeError, match=line):
        arms.choose_datasets(Table("", {}, BUDGETS), None, str(tmp_path))
    assert arms.base_config("digits", data_dir=str(tmp_path)).data_dir is None


@pytest.mark.parametrize("dataset", ["default:plain", "digits.py", "nothing:plain"])
def test_a_dataset_is_a_config_that_has_its_variant(dataset):
    with pytest.raises(RecipeError, match=f"^dataset '{dataset}' of a table must name a config: "):
        arms.base_config(dataset)


OF_OTHER_TYPES = {
    "about=3": "about must be text, got 3.",
    "about=('a', 'b')": "about must be text, got ('a', 'b').",
    "against=3": "against must be a word, or None, got 3.",
    "common=[1]": "common must be a dict of config keys and their values, got [1].",
    "arms=[Arm()]": "arms must be a dict of names and Arms, got [Arm(",
    "arms={'a': 3}": "arms must be a dict of names and Arms, got {'a': 3}.",
    "arms={3: Arm()}": "arms must be a dict of names and Arms, got {3: Arm(",
    "arms={'a': Arm(3)}": "changes of arm a must be a dict of config keys and their values, ",
    "arms={'a': Arm({3: 4})}": "changes of arm a must be a dict of config keys and their ",
    "arms={'a': Arm(search=[1])}": "search of arm a must be a dict of keys and Ranges or Choices",
    "arms={'a': Arm(search={'x': Range('1', 2)})}": "the range of x of arm a must be two numbers, ",
    "arms={'a': Arm(search={'x': Choice(3)})}": "the choice of x of arm a must be a tuple of ",
    "arms={'a': Arm(control=['a'])}": "control of arm a must be the name of an arm, or None, got [",
    "arms={'a': Arm(points=-1)}": "points of arm a must be a whole number, got -1.",
    "budgets=[]": "budgets must be a dict of configs and Budgets, got [].",
    "budgets={'digits': 3}": "budgets must be a dict of configs and Budgets, got ",
    "budgets={'digits': Budget('2')}": "num_seeds of digits must be a whole number, got '2'.",
    "budgets={'digits': Budget(2, 1.5)}": "num_trials of digits must be a whole number, got 1.5.",
}


@pytest.mark.parametrize("part, line", OF_OTHER_TYPES.items())
def test_a_part_of_a_table_of_another_type_is_a_line(tmp_path, part, line):
    path, name = tmp_path / "table.py", part.partition("=")[0]
    parts = {"about": "''", "arms": "{'a': Arm()}", "budgets": "{'digits': Budget(1)}"}
    own = ", ".join([part, *(f"{key}={text}" for key, text in parts.items() if key != name)])
    path.write_text(
        f"from experiments.arms import Arm, Budget, Choice, Range, Table\nTABLE = Table({own})"
    )
    with pytest.raises(RecipeError) as error:
        arms.load_table(str(path))
    (told,) = str(error.value).splitlines()
    assert (
        told.startswith(f"{path}: {line}")
        and told.endswith(".")
        and len(told) < len(str(path)) + 200
    )
