"""Trade-off curves: their statistics by hand, the rows that are read, and the command."""

import json
import math
import re

import numpy as np
import pytest

from cyclical_jax.training import files
from cyclical_jax.training.durations import parse_duration
from cyclical_jax.training.population import Outcome
from experiments import lengths, tradeoff_records
from experiments import tradeoff_presentation as presentation
from experiments import tradeoff_statistics as statistics
from experiments.lengths import Lengths
from experiments.score import ACCURACY, Score
from tests import commands

LOSS = Score("loss", "min", False)


# ---- statistics, by hand


def test_a_gap_is_one_run_minus_separate_runs_in_pairs():
    found = statistics.gap([0.5, 0.7, None, 0.9], [0.4, 0.8, 0.1, 0.6])
    assert found.n == 3
    assert found.difference == pytest.approx((0.1 - 0.1 + 0.3) / 3)
    assert found.rms == pytest.approx(math.sqrt((0.01 + 0.01 + 0.09) / 3))
    # Student's t with 2 degrees of freedom: 4.302653; the standard deviation of .1, -.1, .3 is .2.
    half = 4.302653 * 0.2 / math.sqrt(3)
    assert found.interval == pytest.approx((0.1 - half, 0.1 + half), rel=1e-6)
    assert statistics.gap([None], [0.5]) == (0, None, None, None)


def test_the_distance_of_two_curves_is_over_their_lengths():
    gaps = [statistics.Gap(2, 0.3, None, 9.0), statistics.Gap(2, -0.4, None, 9.0)]
    assert statistics.distance(gaps) == pytest.approx(math.sqrt((0.09 + 0.16) / 2))
    assert statistics.distance([statistics.Gap(0, None, None, None)]) is None


def test_correlation_and_signs_are_of_the_means_over_seeds():
    one = np.array([[[1.0, 3.0], [0.0, 2.0], [-1.0, -3.0]]])  # means 2, 1, -2
    other = np.array([[[2.0, 2.0], [-1.0, -1.0], [-3.0, -3.0]]])  # means 2, -1, -3
    # Centred: 5/3, 2/3, -7/3 and 8/3, -1/3, -7/3.
    expected = (40 - 2 + 49) / math.sqrt((25 + 4 + 49) * (64 + 1 + 49))
    assert statistics.correlation(one, other).value == pytest.approx(expected)
    assert statistics.same_sign(one, other).value == pytest.approx(2 / 3)


def test_signs_of_zero_agree_with_zero_alone_and_rounding_is_zero():
    one = np.array([[[0.1 + 0.2 - 0.3], [0.0], [0.5]]])
    other = np.array([[[0.0], [0.2], [0.1]]])
    assert statistics.same_sign(one, other).value == pytest.approx(2 / 3)


def test_the_interval_is_that_of_resampled_seeds():
    generator = np.random.default_rng(3)
    one, other = generator.normal(size=(2, 3, 4, 12))
    found = statistics.correlation(one, other)
    low, high = found.interval
    assert low < found.value < high and high - low > 0.3
    same = statistics.correlation(one, 2 * one + 1)
    assert (same.value, *same.interval) == pytest.approx((1, 1, 1))
    assert statistics.correlation(one[..., :1], other[..., :1]).interval is None


def test_both_curves_and_all_methods_are_resampled_with_the_same_seeds():
    """A luck of the seed that all share leaves each resample perfectly correlated."""
    luck = np.random.default_rng(0).normal(size=20) * 100
    one = np.array([[[1.0]], [[2.0]], [[5.0]]]) + luck
    other = np.array([[[10.0]], [[20.0]], [[50.0]]]) + luck
    assert statistics.correlation(one, other).interval == pytest.approx((1, 1))


def test_halves_of_two_seeds_by_hand():
    """Each half is one seed: 1, 2, -1 and -1, 1, -2 after three lengths."""
    separate = np.array([[[1.0, -1.0], [2.0, 1.0], [-1.0, -2.0]]])
    one_run = np.array([[[0.0, 0.0], [3.0, 3.0], [-1.0, -1.0]]])
    # Centred: 1/3, 4/3, -5/3 and -1/3, 5/3, -4/3; of the one run 0 agrees with no sign.
    found = statistics.correlation_of_halves(one_run, separate)
    assert found.separate == pytest.approx((-1 + 20 + 20) / 42)
    assert statistics.same_sign_of_halves(one_run, separate) == pytest.approx((2 / 3, 2 / 3))
    assert statistics.same_sign_of_halves(separate[..., :1], separate[..., :1]) == (None, None)
    assert statistics.correlation_of_halves(separate[..., :0], separate[..., :0]) == (None, None)


def test_halves_are_as_noisy_as_half_of_the_seeds_and_share_none():
    """The variance of an effect is 1, and that of its mean over 4 of 8 seeds 4 / 4: r is 1/2."""
    generator = np.random.default_rng(0)
    effects = generator.normal(size=(1, 3000, 1))
    one_run, separate = effects + 2 * generator.normal(size=(2, 1, 3000, 8))
    found = statistics.correlation_of_halves(one_run, separate)
    assert found == pytest.approx((1 / 2, 1 / 2), abs=0.03)
    # All 8 seeds give 1 / (1 + 4 / 8), and the same seeds in both curves would give 1.
    assert statistics.correlation(one_run, separate).value == pytest.approx(2 / 3, abs=0.03)
    same = statistics.correlation_of_halves(separate, separate)
    assert same.one_run == same.separate == found.separate


def test_one_run_is_measured_against_the_other_half_of_separate_runs():
    effects = np.random.default_rng(0).normal(size=(1, 50, 1)) * np.ones(7)
    found = statistics.correlation_of_halves(-effects, effects)
    assert found == pytest.approx((1, -1))
    assert statistics.same_sign_of_halves(-effects, effects) == (1, 0)


def test_a_run_that_is_not_there_counts_in_no_mean():
    method, control = [[0.9, None, 0.7], [0.5, 0.5, 0.5]], [[0.5, 0.1, 0.6], [0.4, None, 0.3]]
    found = statistics.differences(method, control)
    np.testing.assert_allclose(found, [[0.4, np.nan, 0.1], [0.1, np.nan, 0.2]])
    nothing = statistics.same_sign(found[None, :, 1:2], found[None, :, 1:2])
    assert nothing == (None, None)


def test_a_correlation_without_any_spread_has_no_answer():
    same = np.ones((2, 3, 4))
    assert statistics.correlation(same, same) == (None, None)
    assert statistics.same_sign(same, same) == (1, (1, 1))


def test_the_order_is_that_of_all_pairs_of_arms():
    one = [[[0.1]], [[0.2]], [[0.3]]]
    other = [[[0.1]], [[0.3]], [[0.2]]]  # one of three pairs is turned round
    assert statistics.same_order(one, other).value == pytest.approx(2 / 3)


def test_what_separate_runs_show_clearly_is_counted():
    def effect(difference, interval):
        return {"difference": difference, "interval": interval}

    separate = [effect(1, [0.5, 1.5]), effect(-1, [-2, -0.1]), effect(1, [-1, 3]), effect(1, None)]
    one_run = [effect(0.1, [-1, 1]), effect(2, [1, 3]), effect(-5, [-6, -4]), effect(1, [0.5, 2])]
    found = statistics.clear({"one_run": one_run, "separate": separate})
    assert found == {"clear": 2, "clear_alike": 1, "opposite": 1}


@pytest.mark.parametrize("cycles, ratio", [(1, 1), (2, 1.5), (5, 1.9375), (6, 1.96875)])
def test_separate_runs_cost_nearly_twice_the_updates_of_one(cycles, ratio):
    ends = [3 * 2**k for k in range(1, cycles + 1)]
    assert statistics.ratio_of_updates(cycles) == ratio == sum(ends) / ends[-1]


def test_the_advice_is_the_shortest_length_within_a_standard_error_of_the_best():
    curve = [[0.50, 0.52], [0.79, 0.81], [0.80, 0.86], [0.81, 0.87]]
    # The best mean is .84, its standard error .0424 / sqrt(2) = .03: .83 is within it, .80 is not.
    found = statistics.advice(curve, ACCURACY)
    assert (found.length, found.best) == (2, 3)
    assert found.doubled.difference == pytest.approx(0.01) and found.doubled.n == 2
    assert statistics.advice([[0.1, 0.1], [0.9, 0.9]], ACCURACY) == (1, 1, None)
    within = [[0.815, 0.815], [0.809, 0.809], [0.81, 0.87]]  # at .025 and .031 below the best
    assert [statistics.advice(within[at:], ACCURACY).length for at in (0, 1)] == [0, 1]


def test_where_lower_is_better_the_advice_is_so_too():
    found = statistics.advice([[3.0, 3.0], [1.0, 1.1], [1.0, 1.2]], LOSS)
    assert (found.length, found.best) == (1, 1)
    assert found.doubled.difference == pytest.approx(0.05)


def test_a_length_at_which_a_run_failed_is_not_advised():
    assert statistics.advice([[0.5, 0.6], [0.9, None]], ACCURACY).length == 0
    assert statistics.advice([[None, 0.6]], ACCURACY) is None
    assert statistics.advice([[0.5], [0.6]], ACCURACY)[:2] == (1, 1)  # one seed: the best


# ---- what is read


def rows(*pairs):
    return [{"step": 1, "epoch": epoch, "val_accuracy": score} for epoch, score in pairs]


def test_the_row_of_the_end_itself_is_read():
    """Neither the best row around it, nor the row before or after it."""
    found = rows((1, 0.99), (2, 0.5), (3, 0.9), (3.5, 0.95), (4, 0.6), (5, 0.98))
    outcome = Outcome(found, {"validation": {"accuracy": 0.98}, "test": {"accuracy": 1.0}}, None)
    assert lengths.at_ends(outcome, [2, 4], "accuracy") == [0.5, 0.6]
    with pytest.raises(KeyError):
        lengths.at_ends(outcome, [2, 8], "accuracy")


def test_a_run_that_stopped_being_finite_is_read_up_to_there():
    outcome = Outcome(rows((2, 0.5), (4, None)), {}, "loss is nan")
    assert lengths.at_ends(outcome, [2, 4, 8], "accuracy") == [0.5, None, None]


# ---- lengths


def test_the_lengths_double_and_all_are_ends_of_one_run():
    of = Lengths(parse_duration("1.5 epochs"), 3)
    assert [str(of.of(cycle)) for cycle in range(3)] == ["3 epochs", "6 epochs", "12 epochs"]
    one_run = of.of_one_run()
    assert one_run["optimizer.first_cycle"] == one_run["optimizer.warmup"] == "1.5 epochs"
    assert one_run["duration"] == "12 epochs" and one_run["validate_every"] == "cycle"
    assert one_run["cycle.span"] == "restart"


def test_the_warm_up_of_a_separate_run_grows_with_its_length():
    of = Lengths(parse_duration("8 epochs"), 6)
    warmups = [of.of_separate_run(cycle)["optimizer.warmup"] for cycle in range(6)]
    amounts = [parse_duration(text).amount for text in warmups]
    assert amounts == pytest.approx([16 * 2**k * 8 / 90 for k in range(6)])
    steps = Lengths(parse_duration("1 step"), 2)
    assert steps.of_separate_run(0)["optimizer.warmup"] == "1 steps"
    assert steps.of_separate_run(1)["duration"] == "4 steps"


# ---- the command

DIGITS = "--config=configs/digits.py"
TABLE = """
from experiments.arms import Arm, Budget, Choice, Table

TABLE = Table(
    about="Small.",
    common={"model.hidden_sizes": (8,), "log_every": "3 steps"},
    arms={
        "plain": Arm(),
        "slow": Arm({"optimizer.learning_rate": 0.02}, control="plain"),
        "wild": Arm({"optimizer.learning_rate": 1e30}, control="plain"),
    },
    budgets={"digits": Budget(num_seeds=2, num_trials=2)},
)
"""
CYCLING = '{"optimizer.learning_rate": 0.02, "loss.label_smoothing": {"easy": 0.1, "hard": 0.3}}'
CHECKED = ("--table=small.py", "--first_cycle=9 steps", "--num_cycles=2", "--check")
FILES = ("tradeoff_small.json", "tradeoff_small.md", "tradeoff_small.png")


def run(directory, *arguments):
    return commands.in_this_process(
        "tradeoff", *arguments, "--workdir=out", cwd=directory, PYTHONPATH=str(commands.ROOT)
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    directory = tmp_path_factory.mktemp("finished")
    (directory / "small.py").write_text(TABLE)
    code, out, err = run(directory, *CHECKED)
    assert (code, err) == (0, ""), err
    return directory, out


@pytest.fixture(scope="module")
def digits(finished):
    return tradeoff_records.read(finished[0] / "out" / FILES[0])["datasets"]["digits"]


def test_the_answer_comes_first_and_three_files_are_left(finished):
    directory, out = finished
    lines = out.splitlines()
    assert lines[0].startswith("18 runs; about ")
    assert lines[1].startswith("digits, plain: train for ")
    assert "A number cycles here" not in out
    assert "digits, wild: at every length a run stopped being finite" in out
    assert lines[-3:] == [f"out/{name}" for name in FILES]
    assert all((directory / "out" / name).stat().st_size > 100 for name in FILES)


def test_the_curves_are_those_of_the_rows(finished, digits):
    """By the file of the runs: a row for each cycle of one run, and one for each separate run."""
    lines = [json.loads(line) for line in (finished[0] / "out/runs.jsonl").read_text().splitlines()]
    plain, slow = digits["arms"]["plain"], digits["arms"]["slow"]
    assert (plain["step"], plain["epoch"]) == ([18, 36], [1, 2])
    scores = {
        (line["seed"], tuple(row["step"] for row in line["rows"]), line["rows"][-1]["val_accuracy"])
        for line in lines
        if not line["error"]
    }
    for arm in (plain, slow):
        for seed in (0, 1):
            assert (seed, (18, 36), arm["one_run"][1][seed]) in scores
            assert (seed, (18,), arm["separate"][0][seed]) in scores
            assert (seed, (36,), arm["separate"][1][seed]) in scores
    assert not any("test" in line["scores"] for line in lines)


def test_a_method_is_compared_in_both_curves(digits):
    slow, wild = digits["arms"]["slow"], digits["arms"]["wild"]
    assert all(effect["difference"] < -0.02 for effect in slow["effects"]["separate"])
    assert slow["agreement"]["same_sign"]["value"] == 1
    assert wild["one_run"] == [[None, None], [None, None]] and wild["advice"] is None
    assert wild["agreement"]["correlation"] == {"value": None, "interval": None}
    assert digits["agreement"]["same_sign"]["value"] == 1


def test_a_separate_run_is_that_of_the_train_script(finished, digits, tmp_path):
    code, _, err = commands.in_this_process(
        "train",
        DIGITS,
        "--config.model.hidden_sizes=(8,)",
        "--config.duration=18 steps",
        "--config.validate_every=18 steps",
        "--config.optimizer.warmup=2 steps",
        "--config.seed=1",
        f"--workdir={tmp_path}",
    )
    assert code == 0, err
    last = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["val_accuracy"] == digits["arms"]["plain"]["separate"][0][1]


def test_the_same_command_trains_nothing_and_writes_the_same_bytes(finished):
    out = finished[0] / "out"
    before = {name: (out / name).read_bytes() for name in (*FILES, "runs.jsonl")}
    code, said, err = run(finished[0], *CHECKED)
    assert (code, err) == (0, "") and said.startswith("digits, plain: train for ")
    assert {name: (out / name).read_bytes() for name in before} == before


@pytest.mark.slow
def test_a_stopped_command_goes_on_with_the_runs_that_it_has(finished, tmp_path):
    """Half of the runs are there; the scores are the same, and no run is trained twice."""
    (tmp_path / "small.py").write_text(TABLE)
    (tmp_path / "out").mkdir()
    whole = (finished[0] / "out/runs.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "out/runs.jsonl").write_text("".join(whole[::2]) + whole[1][:40])
    code, said, err = run(tmp_path, *CHECKED)
    assert (code, err) == (0, "") and said.startswith("18 runs; about ")
    assert sorted((tmp_path / "out/runs.jsonl").read_text().splitlines(True)) == sorted(whole)
    curves = [
        {
            name: (arm["one_run"], arm["separate"])
            for name, arm in tradeoff_records.read(path / "out" / FILES[0])["datasets"]["digits"][
                "arms"
            ].items()
        }
        for path in (finished[0], tmp_path)
    ]
    assert curves[0] == curves[1]


def test_a_damaged_record_is_a_line(finished, tmp_path):
    text = (finished[0] / "out" / FILES[0]).read_text()
    content = json.loads(text)
    content.pop("checksum")
    arm = content["datasets"]["digits"]["arms"]["slow"]
    for key, value, words in [
        ("control", "nobody", "'control' is 'nobody', which is not an arm, in arm 'slow' of 'digi"),
        ("tuning", {"trials": [], "chosen": 0}, "'chosen' is 0, which is no trial, in arm 'slow'"),
        ("step", [18], "'step' has 1 entry, not 2, in arm 'slow' of 'digits'"),
        ("separate", [[0.5, 0.5], [0.5]], "'separate' has 1 entry, not 2, in arm 'slow'"),
        ("one_run", [0.5, 0.5], "'one_run' of 'slow' of 'arms' of 'digits' of 'datasets' is 0.5"),
    ]:
        before, arm[key] = arm[key], value
        files.write(tmp_path / "x.json", content)
        with pytest.raises(files.WorkdirError, match=re.escape(words)) as told:
            tradeoff_records.read(tmp_path / "x.json")
        assert "\n" not in str(told.value)
        arm[key] = before
    (tmp_path / "x.json").write_text(text.replace("0.", "1.", 1))
    with pytest.raises(files.WorkdirError, match="is damaged"):
        tradeoff_records.read(tmp_path / "x.json")


def test_the_markdown_has_every_number_that_was_asked_for(finished, digits):
    text = (finished[0] / "out" / FILES[1]).read_text()
    assert "by the formula 2 - 2^(1 - 2) = 1.500" in text and "The ratio is 1.500" in text
    assert "python -m experiments.tradeoff --table=small.py" in text or "tradeoff --table" in text
    gap = digits["arms"]["plain"]["gaps"][1]
    assert f"| {100 * gap['rms']:.2f} |" in text
    rows_of_plain = [line for line in text.splitlines() if line.startswith("| plain |")]
    assert [line.split(" | ")[1:3] for line in rows_of_plain] == [["1", "18"], ["2", "36"]]


def test_the_markdown_has_the_halves_of_the_seeds(finished, digits):
    found = digits["agreement"]["halves"]
    assert set(found) == {"correlation", "same_sign"}
    of = {kind: f"{100 * found['same_sign'][kind]:.0f} %" for kind in ("separate", "one_run")}
    text = (finished[0] / "out" / FILES[1]).read_text()
    (row,) = [line for line in text.splitlines() if line.startswith("| all methods |")][1:]
    assert row.endswith(f"| {of['separate']} | {of['one_run']} |")
    head = "| between halves of the seeds | correlation, separate runs | one run |"
    assert f"{head} same sign, separate runs | one run |" in text


@pytest.mark.parametrize(
    "seconds, words",
    [(0.0053, "5.3 ms"), (0.2449, "240 ms"), (0.96, "1 s"), (3.44, "3.4 s"), (40.4, "40 s")],
)
def test_times_have_two_digits_and_a_unit_that_suits_them(seconds, words):
    arm = {"seconds": {"one_run": [seconds], "separate": [seconds]}}
    assert presentation._seconds(arm, 0) == f"about {words}"
    (told,) = presentation._times({"seeds": [0], "arms": {"plain": arm}})
    rounded = "3 s" if words == "3.4 s" else words
    assert told == f"Time of training: {rounded} and {rounded}, a ratio of 1.00."


def test_the_values_that_were_chosen_are_told():
    trials = [{"values": {"a.b": 0.1}}, {"values": {"a.b": 0.2, "c": "x"}}]
    arms = {"plain": {"tuning": None}, "slow": {"tuning": {"trials": trials, "chosen": 1}}}
    (told,) = presentation._chosen({"arms": arms})
    assert told.endswith("for all lengths: slow: a.b = 0.2, c = x (of 2 trials).")
    assert not list(presentation._chosen({"arms": {"plain": {"tuning": None}}}))


def test_the_answer_says_what_no_longer_training_could_tell():
    """Also of two lengths whose scores differ alike with every seed, where no interval is."""

    def sentences(*curve):
        arm = {"step": [18, 36], "epoch": [1, 2], "one_run": curve, "separate": None}
        dataset = {"judged_by": ACCURACY.in_record(), "percent": ["accuracy"], "seeds": [0, 1]}
        arm |= {"control": None, "seconds": {"one_run": [0.1, 0.2], "separate": None}}
        told = statistics.with_statistics(dataset | {"arms": {"a": arm}})
        return presentation._sentences(told, told["arms"]["a"])

    assert sentences([0.5, 0.5], [0.9, 0.8])[0].startswith("train for at least 2 epochs (36 upd")
    first, _, last = sentences([0.5, 0.5], [0.5, 0.5])
    assert first.startswith("train for 1 epoch (18 updates, about 100 ms)")
    assert last == "Twice as long would change it by +0.00 points, with every seed."


def test_a_config_by_itself_gives_one_curve(tmp_path):
    small = [DIGITS, "--config.model.hidden_sizes=(8,)", "--first_cycle=0.5 epochs"]
    code, out, err = commands.in_this_process(
        "tradeoff", *small, "--num_cycles=2", "--num_seeds=2", f"--workdir={tmp_path}"
    )
    assert (code, err) == (0, "")
    assert out.splitlines()[1].startswith("digits: train for ")
    record = tradeoff_records.read(tmp_path / "tradeoff_digits.json")
    (arm,) = record["datasets"]["digits"]["arms"].values()
    assert arm["step"] == [18, 36] and arm["separate"] is None
    assert "separate runs |" not in (tmp_path / "tradeoff_digits.md").read_text()


def test_a_table_without_separate_runs_compares_its_arms_in_one_run(finished, digits, tmp_path):
    """The runs of the command with --check are there: the differences are those of its record."""
    (tmp_path / "small.py").write_text(TABLE.replace('{"optimizer.learning_rate": 0.02}', CYCLING))
    (tmp_path / "out").mkdir()
    (tmp_path / "out/runs.jsonl").write_bytes((finished[0] / "out/runs.jsonl").read_bytes())
    code, out, err = run(tmp_path, *CHECKED[:-1])
    assert (code, err) == (0, "")
    assert "A number cycles here, and one run may misjudge that: add --check, at least once." in out
    arms = tradeoff_records.read(tmp_path / "out" / FILES[0])["datasets"]["digits"]["arms"]
    assert arms["plain"]["one_run"] == digits["arms"]["plain"]["one_run"]
    slow = arms["slow"]
    effects = [
        statistics.compare(*p) for p in zip(slow["one_run"], arms["plain"]["one_run"], strict=True)
    ]
    assert [e["difference"] for e in slow["effects"]["one_run"]] == [e.difference for e in effects]
    told = ACCURACY.difference(effects[1].difference)
    assert f"| slow minus plain | 2 | {told} [" in out and "separate" not in out


def test_a_mistake_is_a_line_before_anything_is_trained(tmp_path):
    def table(name, arm="", common=""):
        text = TABLE.replace("Arm()", f"Arm({arm})").replace("common={", f"common={{{common}")
        (tmp_path / f"{name}.py").write_text(text)
        return f"--table={tmp_path / name}.py"

    config = f"--config={commands.ROOT}/configs/digits.py"
    cases = [
        ([], "Give --config, for one curve, or --table, for a curve of each arm."),
        ([config, "--table=methods"], "Give --config, for one curve, or --table"),
        (["--table=methds"], "--table 'methds' does not exist; there are "),
        (["--table=methods", "--datasets=mnist"], "--datasets must be among digits, fashion_mnist"),
        (["--table=methods", "--datasets=digits", "--config.seed=1"], "--config.seed needs --conf"),
        ([config, "--datasets=digits"], "--datasets needs --table; "),
        ([config, "--data_dir=/tmp"], "--data_dir needs --table; "),
        ([config, "--config.duration=1 epoch"], "--config must not set duration: --first_cycle a"),
        (
            [table("a", '{"optimizer.learning_rate_schedule": None}')],
            "arm plain must not set optimizer.learning_rate_schedule: this command sets it.",
        ),
        (
            [table("b", 'search={"optimizer.warmup": Choice(("1 epoch", "2 epochs"))}')],
            "arm plain must not set optimizer.warmup: this command sets it.",
        ),
        (
            [table("c", common='"duration": "3 epochs", ')],
            "common must not set duration: --first_cycle and --num_cycles set the lengths.",
        ),
        (
            [config, "--first_cycle=1.03 epochs"],
            "--first_cycle must be a whole number of updates, such as '19 steps', got '1.03",
        ),
        (
            [config, "--first_cycle=500 examples"],
            "--first_cycle must be a whole number of updates, ",
        ),
        ([config, "--first_cycle=0.5 steps"], "--first_cycle must be a number above 0 and a unit"),
        ([config, "--first_cycle=soon"], "--first_cycle must be a number above 0 and a unit, "),
        ([config, "--num_cycles=21"], "--num_cycles must be at most 20, got 21: each length is tw"),
        ([config, "--num_cycles=1"], "flag --num_cycles=1: "),
        ([config, "--first_cycle=4000 epochs", "--num_cycles=20"], "duration makes 7549747200"),
        ([config, "--check", "--num_seeds=1"], "--check needs --num_seeds of at least 2, for int"),
        ([config, "--config.train_on=train+validation"], "arm digits: train_on must be 'train': "),
    ]
    for arguments, begin in cases:
        code, out, err = run(tmp_path, *arguments)
        assert (code, out) == (2, ""), (arguments, out, err)
        assert [line[: len(begin)] for line in err.splitlines()] == [begin]
    assert not (tmp_path / "out").exists()


FADING = """
from cyclical_jax.training.fields import whole
from cyclical_jax.training.technique import Part, Technique

RATE = "optimizer.learning_rate"


def schedules(own, schedules, timetable):
    rate, slow = schedules[RATE], own["fading.slow"]
    total = timetable.total_steps if slow else 9.0
    return {RATE: lambda count: rate(count) / (1 + count / total)}


KEYS = {"fading.slow": whole(0, "1: over the whole run", minimum=0)}
TECHNIQUES = [Technique("fading", KEYS, schedules=schedules, part=lambda site: Part())]
"""
TWO_ARMS = """
from experiments.arms import Arm, Budget, Table

TABLE = Table(
    about="Two.",
    common={"model.hidden_sizes": (2,)},
    arms={"fast": Arm(), "slow": Arm({"fading.slow": 1}, control="fast")},
    budgets={"digits": Budget(num_seeds=1)},
)
"""


def test_a_schedule_of_the_whole_run_is_refused_by_its_values(tmp_path):
    """One that only a plugin knows; an arm whose schedule does not know the length may run."""
    (tmp_path / "fading.py").write_text(FADING)
    (tmp_path / "two.py").write_text(TWO_ARMS)
    flags = ["--plugin=fading.py", "--table=two.py"]
    code, out, err = run(tmp_path, *flags, "--num_cycles=3")
    assert (code, out) == (2, "")
    assert err == (
        "digits, arm slow: optimizer.learning_rate must not depend on the length of the run: from "
        "update 2 on, a run of 4 epochs would have other values, so that no end of a cycle is a "
        "finished training.\n"
    )
    assert not (tmp_path / "out").exists()


def test_help_says_what_the_command_answers():
    out = commands.in_this_process("tradeoff", "--help").stdout
    assert 'Answers "how long should I train?"' in out
    for flag in ("--first_cycle", "--num_cycles", "--[no]check", "--table", "--workdir", "--set"):
        assert flag in out
