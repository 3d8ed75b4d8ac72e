"""The statistics of trade-off curves: the gap between two curves, and how methods compare in both.

A *curve* is the score after each of several lengths of training, [lengths][seeds]. The curve "one
run" is read at the cycle ends of one run; the curve "separate" has a run for each length.

Scores are those of `statistics`: None is a run that stopped being finite, and so is every result
that the data do not determine. Differences are plain ones, whatever the better direction.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.score import Score
from experiments.statistics import CONFIDENCE, Comparison, Scores, compare, is_finite, summary

Curve = Sequence[Scores]

_RESAMPLES = 2000
_HALVINGS = 200
_TIE = 1e-9  # means of fractions that differ by less are equal, up to rounding


class Gap(NamedTuple):
    """One run minus separate runs, at one length."""

    n: int  # pairs of runs with the same seed
    difference: float | None
    interval: tuple[float, float] | None  # 95 %, Student's t
    rms: float | None  # root mean square over the pairs: how far a single run is off


class Estimate(NamedTuple):
    """A number over methods and lengths."""

    value: float | None
    interval: tuple[float, float] | None  # 95 %, by bootstrap over seeds; None: fewer than 2 seeds


class Halves(NamedTuple):
    """A number between random halves of the seeds, the mean of 200 halvings; None as elsewhere."""

    separate: float | None  # separate runs with separate runs of the other half: the noise ceiling
    one_run: float | None  # one run with separate runs of the other half


class Advice(NamedTuple):
    """How long to train; lengths are counted from 0."""

    length: int  # the shortest whose mean is within a standard error of the best mean
    best: int
    doubled: Comparison | None  # the next length minus this one; None: it is the longest


def gap(one_run: Scores, separate: Scores) -> Gap:
    """Returns the signed gap between both at one length, paired by seed."""
    found = compare(one_run, separate)
    pairs = zip(one_run, separate, strict=True)
    squares = [(a - b) ** 2 for a, b in pairs if is_finite(a) and is_finite(b)]
    rms = math.sqrt(np.mean(squares)) if squares else None
    return Gap(found.n, found.difference, found.interval, rms)


def distance(gaps: Sequence[Gap]) -> float | None:
    """Returns the root mean square, over the lengths, of the gaps between the means."""
    there = [of.difference for of in gaps if of.difference is not None]
    return float(math.sqrt(np.mean(np.square(there)))) if there else None


def differences(method: Curve, control: Curve) -> np.ndarray:
    """Returns method minus control, [lengths, seeds]; NaN where a run of the pair is not there."""
    both = [np.array([_known(scores) for scores in curve], float) for curve in (method, control)]
    return both[0] - both[1]


def _known(scores: Scores) -> list[float]:
    return [score if is_finite(score) else math.nan for score in scores]


def correlation(one_run: np.ndarray, separate: np.ndarray) -> Estimate:
    """Returns Pearson's correlation of mean differences between both curves.

    Args:
      one_run, separate: [methods, lengths, seeds] differences to the methods' controls.
    """
    return _estimate(_pearson, one_run, separate)


def same_sign(one_run: np.ndarray, separate: np.ndarray) -> Estimate:
    """Returns the share of methods and lengths whose mean difference has the same sign in both."""
    return _estimate(_share_alike, one_run, separate)


def same_order(one_run: Sequence[Curve], separate: Sequence[Curve]) -> Estimate:
    """Returns the share of pairs of arms, at all lengths, that both curves put in the same order.

    Args:
      one_run, separate: The curves of all arms, [arms][lengths][seeds].
    """
    return same_sign(*(_pairs_of_arms(curves) for curves in (one_run, separate)))


def _pairs_of_arms(curves: Sequence[Curve]) -> np.ndarray:
    pairs = [(a, b) for at, a in enumerate(curves) for b in curves[:at]]
    return np.array([differences(a, b) for a, b in pairs])


def _estimate(
    of: Callable[[np.ndarray, np.ndarray], float], one_run: np.ndarray, separate: np.ndarray
) -> Estimate:
    """Returns `of` the means over seeds, and its percentile interval when seeds are resampled.

    A resample takes the same seeds for both curves, all methods and all lengths.
    """
    count = one_run.shape[-1] if one_run.size else 0
    value = _finite(of(_means(one_run), _means(separate))) if count else None
    if value is None or count < 2:
        return Estimate(value, None)
    generator = np.random.default_rng(0)
    chosen = generator.integers(count, size=(_RESAMPLES, count))
    found = [of(_means(one_run[..., seeds]), _means(separate[..., seeds])) for seeds in chosen]
    known = [number for number in found if math.isfinite(number)]
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(known, [tail, 100 - tail]).tolist()
    return Estimate(value, (low, high))


def correlation_of_halves(one_run: np.ndarray, separate: np.ndarray) -> Halves:
    """Returns `correlation` between halves of the seeds.

    Noise alone keeps two sets of separate runs from agreeing with each other. So what they reach is
    a ceiling: one run that shows just what separate runs show reaches the same, and no more. Both
    numbers are of means over n // 2 seeds, and no seed is in both halves.

    Args:
      one_run, separate: As in `correlation`.
    """
    return _halves(_pearson, one_run, separate)


def same_sign_of_halves(one_run: np.ndarray, separate: np.ndarray) -> Halves:
    """Returns `same_sign` between halves of the seeds, as `correlation_of_halves` does."""
    return _halves(_share_alike, one_run, separate)


def _halves(
    of: Callable[[np.ndarray, np.ndarray], float], one_run: np.ndarray, separate: np.ndarray
) -> Halves:
    half = separate.shape[-1] // 2 if separate.size else 0
    if not half:
        return Halves(None, None)
    generator = np.random.default_rng(0)
    orders = [generator.permutation(separate.shape[-1]) for _ in range(_HALVINGS)]

    def between(curve):
        pairs = ((curve[..., o[:half]], separate[..., o[half : 2 * half]]) for o in orders)
        return _mean_of_known([of(_means(a), _means(b)) for a, b in pairs])

    return Halves(between(separate), between(one_run))


def _mean_of_known(numbers: Sequence[float]) -> float | None:
    known = [number for number in numbers if math.isfinite(number)]
    return float(np.mean(known)) if known else None


def _means(values: np.ndarray) -> np.ndarray:
    """Returns means over the seeds that are there, flat; NaN where there is none."""
    there = np.isfinite(values)
    count = there.sum(-1)
    total = np.where(there, values, 0).sum(-1)
    return (total / np.where(count, count, np.nan)).ravel()


def _pearson(first: np.ndarray, second: np.ndarray) -> float:
    there = np.isfinite(first) & np.isfinite(second)
    if there.sum() < 2:
        return math.nan
    a, b = (values[there] - values[there].mean() for values in (first, second))
    scale = math.sqrt((a @ a) * (b @ b))
    return float(a @ b / scale) if scale > _TIE**2 else math.nan


def _share_alike(first: np.ndarray, second: np.ndarray) -> float:
    there = np.isfinite(first) & np.isfinite(second)
    signs = [
        np.where(np.abs(each[there]) < _TIE, 0, np.sign(each[there])) for each in (first, second)
    ]
    return float(np.mean(signs[0] == signs[1])) if there.any() else math.nan


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


# ---- cost


def ratio_of_updates(num_cycles: int) -> float:
    """Returns the updates of separate runs over those of one run, where every length doubles.

    The lengths are 2w, 4w, ..., 2^K w. Separate runs take their sum, w (2^(K+1) - 2) updates, and
    one run takes the last: the ratio is 2 - 2^(1-K).
    """
    return 2 - 2.0 ** (1 - num_cycles)


# ---- how long to train


def advice(curve: Curve, score: Score) -> Advice | None:
    """Returns the shortest length that does as well as the best, as far as the seeds can tell.

    That is the one-standard-error rule of L. Breiman et al. (1984): the mean of the length is
    within std / sqrt(n) of the best mean, with the std (ddof = 1) and the n of the best length. A
    length at which a run stopped being finite is left out. With one seed the standard error is
    taken as 0; None if nothing is left.
    """
    whole = [at for at, scores in enumerate(curve) if scores and all(map(is_finite, scores))]
    if not whole:
        return None
    worth = {at: score.worth(float(np.mean(curve[at]))) for at in whole}
    best = max(whole, key=worth.__getitem__)
    n, _, std = summary(curve[best])
    error = (std or 0.0) / math.sqrt(n)
    length = min(at for at in whole if worth[at] >= worth[best] - error)
    longer = length + 1 < len(curve)
    return Advice(length, best, compare(curve[length + 1], curve[length]) if longer else None)


# ---- the whole record of a dataset


def with_statistics(dataset: dict[str, Any]) -> dict[str, Any]:
    """Returns the record of a dataset with all statistics added.

    Each arm gets "advice", and an arm with a control gets "effects", one for each length of each
    curve. If there are separate runs, each arm gets "gaps", one for each length, and "distance"; an
    arm with a control gets "agreement"; the dataset gets "agreement", over all methods.
    """
    score, arms = Score.of_record(dataset), dataset["arms"]
    new = {name: dict(arm) for name, arm in arms.items()}
    for arm in new.values():
        found = advice(arm["one_run"], score)
        arm["advice"] = found and _plain(found)
        if arm["separate"]:
            pairs = zip(arm["one_run"], arm["separate"], strict=True)
            gaps = [gap(*pair) for pair in pairs]
            arm |= {"gaps": [_plain(one) for one in gaps], "distance": distance(gaps)}
    methods = [name for name, arm in arms.items() if arm["control"]]
    for name in methods:
        new[name] |= _of_method(arms[name], arms[arms[name]["control"]])
    checked = [name for name in methods if arms[name]["separate"]]
    return dataset | {"arms": new, "agreement": _of_all(arms, checked) if checked else None}


def _of_method(arm: dict[str, Any], control: dict[str, Any]) -> dict[str, Any]:
    """Returns the entries of an arm that is compared with its control in the curves it has."""
    kinds = ("one_run", "separate") if arm["separate"] else ("one_run",)
    effects = {
        kind: [_plain(compare(*of)) for of in zip(arm[kind], control[kind], strict=True)]
        for kind in kinds
    }
    if not arm["separate"]:
        return {"effects": effects}
    both = [differences(arm[kind], control[kind])[None] for kind in kinds]
    return {"effects": effects, "agreement": _agreement(*both) | clear(effects)}


def _of_all(arms: dict[str, Any], methods: Sequence[str]) -> dict[str, Any]:
    kinds = ("one_run", "separate")
    stacks = [
        np.array([differences(arms[n][kind], arms[arms[n]["control"]][kind]) for n in methods])
        for kind in kinds
    ]
    order = same_order(*([arm[kind] for arm in arms.values()] for kind in kinds))
    each = [_of_method(arms[n], arms[arms[n]["control"]])["agreement"] for n in methods]
    counts = {key: sum(one[key] for one in each) for key in ("clear", "clear_alike", "opposite")}
    return _agreement(*stacks) | {"same_order": _plain(order)} | counts


def _agreement(one_run: np.ndarray, separate: np.ndarray) -> dict[str, Any]:
    return {
        "correlation": _plain(correlation(one_run, separate)),
        "same_sign": _plain(same_sign(one_run, separate)),
        "halves": {
            "correlation": _plain(correlation_of_halves(one_run, separate)),
            "same_sign": _plain(same_sign_of_halves(one_run, separate)),
        },
    }


def clear(effects: dict[str, Any]) -> dict[str, int]:
    """Returns how many differences separate runs show clearly, and what one run says of them.

    A difference is clear if its 95 % interval does not hold 0. "clear_alike" counts those whose
    difference has the same sign in one run; "opposite" those that are clear in one run too, with
    the other sign.
    """
    pairs = list(zip(effects["one_run"], effects["separate"], strict=True))
    shown = [(a, b) for a, b in pairs if _is_clear(b) and a["difference"] is not None]
    alike = [(a, b) for a, b in shown if a["difference"] * b["difference"] > 0]
    opposite = [(a, b) for a, b in shown if _is_clear(a) and a["difference"] * b["difference"] < 0]
    return {"clear": len(shown), "clear_alike": len(alike), "opposite": len(opposite)}


def _is_clear(comparison: dict[str, Any]) -> bool:
    interval = comparison["interval"]
    return bool(interval) and (interval[0] > 0 or interval[1] < 0)


def _plain(found: Any) -> dict[str, Any]:
    """Returns a result as JSON has it."""
    return {
        key: _plain(value)
        if hasattr(value, "_asdict")
        else list(value)
        if isinstance(value, tuple)
        else value
        for key, value in found._asdict().items()
    }
