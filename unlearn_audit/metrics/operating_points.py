"""What an attack does at one threshold: whom it catches, whom it accuses, and how well that is known."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unlearn_audit.metrics.values import Bounds, wilson_interval

Floats = NDArray[np.float64]


class OperatingPoint(NamedTuple):
    """One threshold of an attack: what it catches, and how many non-members it accuses.

    Attributes:
        tpr: share of members at or above the threshold.
        attained_fpr: share of non-members there, at most the rate asked for.
        threshold: infinite where no score keeps the rate, and nobody is accused.
        true_positives: members at or above it.
        bounds: interval of the true positive rate at the true false positive rate that was asked for.
        fpr_upper: upper end of the false positive rate's.
    """

    tpr: float
    attained_fpr: float
    threshold: float
    true_positives: int
    bounds: Bounds
    fpr_upper: float


class Accuracy(NamedTuple):
    """A balanced accuracy: mean of both sides' shares of right answers, its interval, and who is called a member.

    Attributes:
        accuracy: in [0, 1]; .5 where members and non-members cannot be told apart.
        bounds: the interval of the accuracy at the best threshold, or at the attack's own.
        says_member: share of all examples that are called members; 0 or 1 is a degenerate attack.
        right: [M + N] 1.0 where the answer is right, members first.
    """

    accuracy: float
    bounds: Bounds
    says_member: float
    right: Floats


def clopper_pearson(successes: int, n: int, level: float = 0.95) -> Bounds | None:
    """Return the exact binomial interval (Clopper & Pearson 1934); None for n = 0.

    >>> [round(end, 4) for end in clopper_pearson(0, 100)]
    [0.0, 0.0362]
    """
    if n == 0:
        return None
    from scipy.special import betaincinv

    tail = (1 - level) / 2
    low = 0.0 if successes == 0 else float(betaincinv(successes, n - successes + 1, tail))
    high = 1.0 if successes == n else float(betaincinv(successes + 1, n - successes, 1 - tail))
    return Bounds(low, high)


def non_members_needed(fpr: float, level: float = 0.95) -> int:
    """Return how many non-members it takes to show, with none accused, that the false positive rate is at most `fpr`.

    The upper end of Clopper and Pearson's interval for 0 of n is 1 - ((1 - level) / 2)^(1 / n).

    >>> non_members_needed(0.01), non_members_needed(0.001)
    (368, 3688)
    """
    return math.ceil(math.log((1 - level) / 2) / math.log1p(-fpr))


def tpr_at_fpr(members: Floats, non_members: Floats, fpr: float, level: float = 0.95) -> OperatingPoint:
    """Return the true positive rate at the lowest threshold whose false positive rate is at most `fpr`.

    No interpolation and no split ties: the threshold is a score that was given, everybody at or above it is accused,
    and the rate that is attained is reported beside the one that was asked for.

    Args:
        members: scores [M], M >= 1, higher says "member", no NaN.
        non_members: scores [N], N >= 1, likewise.
        fpr: the largest share of non-members that may be accused.
        level: of the intervals.
    """
    scores = np.unique(np.concatenate([members, non_members]))
    accused = len(non_members) - np.searchsorted(np.sort(non_members), scores, side="left")
    allowed = scores[accused / len(non_members) <= fpr]  # a division: 0.29 * 100 is not 29
    threshold = float(allowed[0]) if len(allowed) else float("inf")
    caught, wrong = int((members >= threshold).sum()), int((non_members >= threshold).sum())
    if not len(allowed):
        caught = wrong = 0  # an infinite score is no threshold of its own
    upper = clopper_pearson(wrong, len(non_members), level)
    return OperatingPoint(
        caught / len(members),
        wrong / len(non_members),
        threshold,
        caught,
        _with_threshold(members, non_members, caught=caught, fpr=fpr, level=level),
        upper.high if upper else 1.0,
    )


def _with_threshold(members: Floats, non_members: Floats, *, caught: int, fpr: float, level: float) -> Bounds:
    """Return the interval of the true positive rate at the true false positive rate `fpr`.

    Two sources of chance: which members there are, by Clopper and Pearson, and where the threshold lies whose true
    false positive rate is `fpr`. The number of N non-members at or above that one is binomial (N, fpr), whose
    quantiles name two of the non-members' scores between which it lies. Each end of the interval is as far from the
    value as the square root of both squared distances (MOVER, Zou & Donner 2008).
    """
    value, (low, high) = caught / len(members), clopper_pearson(caught, len(members), level) or Bounds(0.0, 1.0)
    falling = np.sort(non_members)[::-1]
    fewest, most = (_binomial_quantile(len(falling), fpr, tail) for tail in ((1 - level) / 2, (1 + level) / 2))
    least = float((members >= falling[fewest - 1]).mean()) if fewest else 0.0
    largest = float((members > falling[most]).mean()) if most < len(falling) else 1.0
    return Bounds(
        max(0.0, value - math.hypot(value - low, max(value - least, 0.0))),
        min(1.0, value + math.hypot(high - value, max(largest - value, 0.0))),
    )


def _binomial_quantile(n: int, p: float, tail: float) -> int:
    """Return the smallest k with P(binomial(n, p) <= k) >= tail."""
    from scipy.special import bdtr

    return int(np.searchsorted(bdtr(np.arange(n + 1), n, p), tail))


FOLDS = 5


def balanced_accuracy(members: Floats, non_members: Floats, threshold: float | None = None) -> Accuracy:
    """Return the balanced accuracy of answering "member" from a threshold on.

    Without a threshold of the attack's own, that of each fifth of the examples (every fifth of either side) is chosen
    on the other four fifths, the one of the highest balanced accuracy there and the lowest of several: chosen on the
    same examples it would find differences in noise.

    Args:
        members: scores [M], M >= 1, higher says "member".
        non_members: scores [N], N >= 1.
        threshold: the attack's own, or None.
    """
    called = [np.zeros(len(side), dtype=bool) for side in (members, non_members)]
    for fold in range(FOLDS):
        rows = [np.arange(len(side)) % FOLDS == fold for side in (members, non_members)]
        chosen = threshold if threshold is not None else _best_threshold(members[~rows[0]], non_members[~rows[1]])
        for found, side, mine in zip(called, (members, non_members), rows, strict=True):
            found[mine] = side[mine] >= chosen
    right = np.concatenate([called[0], ~called[1]]).astype(np.float64)
    value = float((called[0].mean() + 1 - called[1].mean()) / 2)
    best = value if threshold is not None else _best_accuracy(members, non_members)
    bounds = _accuracy_bounds([called[0], ~called[1]], value, best)
    return Accuracy(value, bounds, float(np.concatenate(called).mean()), right)


def _accuracy_bounds(right: Sequence[NDArray[np.bool_]], value: float, best: float) -> Bounds:
    """Return the interval of the balanced accuracy: Wilson's of both sides' shares, combined (Zou & Donner 2008).

    A threshold that is chosen on few examples is not the best one, so that the value tends to lie below the accuracy
    of the best threshold, while `best`, found on the same examples, lies above it; the distance between the two is
    added to the upper end, as a square. Simulated coverage of the best threshold's accuracy stands in the guide.
    """
    down, up = 0.0, (best - value) ** 2 if best > value else 0.0
    for side in right:
        bounds = wilson_interval(int(side.sum()), len(side)) or Bounds(0.0, 1.0)
        down += ((float(side.mean()) - bounds.low) / 2) ** 2
        up += ((bounds.high - float(side.mean())) / 2) ** 2
    return Bounds(max(0.0, value - math.sqrt(down)), min(1.0, value + math.sqrt(up)))


def _best_accuracy(members: Floats, non_members: Floats) -> float:
    """Return the balanced accuracy of the threshold that is best on the examples themselves."""
    chosen = _best_threshold(members, non_members)
    return float(((members >= chosen).mean() + (non_members < chosen).mean()) / 2)


def _best_threshold(members: Floats, non_members: Floats) -> float:
    """Return the score with the highest balanced accuracy from it on, the lowest such; infinite without examples."""
    scores = np.unique(np.concatenate([members, non_members]))
    if not len(members) or not len(non_members):
        return float("inf")
    caught = len(members) - np.searchsorted(np.sort(members), scores, side="left")
    accused = len(non_members) - np.searchsorted(np.sort(non_members), scores, side="left")
    gained = caught * len(non_members) - accused * len(members)  # in integers, so that equal ones compare as equal
    return float(scores[int(np.argmax(gained))])
