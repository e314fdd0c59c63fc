"""Whether many unlearned models are distributed as many retrained ones, example by example: KLOM and the NeurIPS F.

Neither is zero, or one, for a perfect method with few models: each has a floor that depends on how many there are, and
says something beside it alone.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
FARTHEST = 100.0  # margins beyond are cut off
BINS, ADDED = 20, 1e-5
FEWEST_MODELS = 4  # of a side, from which on the floors are finite
DELTA, MOST_EPSILON, BUCKET, PEAKY = 1e-5, 50.0, 0.5, 0.01
SPAN = 2.0  # how far an interval may be longer or shorter than the peakier side's range


# ----- KLOM: divergence of margins


def klom_gaussian(ours: Floats, theirs: Floats) -> Floats:
    """Return KL(theirs‖ours) of normal distributions with the margins' means and variances, one an example.

    Args:
        ours: margins [N, n] of unlearned models, z_y - log sum of exp(z_k) over the other classes, N >= 2.
        theirs: margins [M, n] of retrained models, M >= 2.

    Returns:
        [n] nats, infinite where one side does not vary and the other differs from it.
    """
    ours, theirs = (np.clip(side, -FARTHEST, FARTHEST) for side in (ours, theirs))
    of_ours, of_theirs = ours.var(axis=0), theirs.var(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = of_theirs / of_ours
        found = (ratio - 1 - np.log(ratio) + (theirs.mean(axis=0) - ours.mean(axis=0)) ** 2 / of_ours) / 2
    same = (of_ours == 0) & (of_theirs == 0) & (ours.mean(axis=0) == theirs.mean(axis=0))
    return np.where(same, 0.0, np.where(np.isnan(found), np.inf, found))


def klom_floor(count: int) -> float | None:
    """Return what `klom_gaussian` is expected to be for two samples of `count` models each of one normal law.

    Whatever the law, with v = N - 1 degrees of freedom the ratio of variances has the mean v / (v - 2), the squared
    difference of means over a variance 2 / (v - 2), and log ratios cancel, so that it is 2 / (N - 3): .40 at 8 models,
    .12 at 20, .021 at 100.

    Returns:
        Nats; None below four models, where it is infinite.
    """
    return 2 / (count - 3) if count >= FEWEST_MODELS else None


def klom_histogram(ours: Floats, theirs: Floats) -> Floats:
    """Return KL(theirs‖ours) of 20-bin histograms of the margins on their joint range, [n] nats (KLOM as published).

    Each share has 1e-5 added, and is divided by the sum again. With few models it measures their number: two samples of
    one law give a mean of 3.1 at 20 models each, .87 at 50, .35 at 100, .15 at 200.

    Args:
        ours: margins [N, n] of unlearned models.
        theirs: margins [M, n] of retrained models.
    """
    return np.array([_klom_histogram(*pair) for pair in zip(ours.T, theirs.T, strict=True)])


def _klom_histogram(ours: Floats, theirs: Floats) -> float:
    ours, theirs = (np.clip(side, -FARTHEST, FARTHEST) for side in (ours, theirs))
    both = np.concatenate([ours, theirs])
    edges = np.linspace(both.min(), both.max(), BINS + 1)
    if edges[0] == edges[-1]:
        return 0.0
    shares = [np.histogram(side, edges)[0] / len(side) + ADDED for side in (ours, theirs)]
    p, q = (share / share.sum() for share in shares)
    return float((q * np.log(q / p)).sum())


# ----- the forgetting quality of the NeurIPS 2023 challenge


def forgetting_quality(ours: Floats, theirs: Floats) -> float | None:
    """Return F of the NeurIPS 2023 unlearning challenge: 1 for what cannot be told apart, 0 for what can.

    For each example a threshold, or an interval, on the log-odds decides which side a model is of; with its error
    rates, epsilon = max(log(1 - delta - FPR) - log FNR, log(1 - delta - FNR) - log FPR) is the best rule's, a rule with
    one error of zero left out and both zero for infinite. Epsilon falls into buckets of 1/2 up to ceil(log(N - 1)),
    each worth half of the one before; F is the mean over examples.

    The published code takes thresholds on a grid of a hundredth; here they are all that tell models apart. Intervals
    belong to the side of the smaller range and are within 2 of its length, as published.

    Args:
        ours: log-odds [N, n] of the observed label of unlearned models.
        theirs: log-odds [N, n] of retrained models.

    Returns:
        A number in [0, 1], for a perfect method about .27, .20 and .18 at 4, 8 and 64 models a side; of normal log-odds
        two standard deviations away .13, .10 and .01. None below four models or without an example.
    """
    if min(len(ours), len(theirs)) < FEWEST_MODELS or not ours.shape[1]:
        return None
    buckets = int(np.ceil(np.log(len(ours) - 1)) / BUCKET)
    return float(np.mean([_points(_epsilon(*pair), buckets) for pair in zip(ours.T, theirs.T, strict=True)]))


def _points(epsilon: float, buckets: int) -> float:
    bucket = int(epsilon // BUCKET)
    return float(0.5**bucket) if bucket < buckets else 0.0


def _epsilon(ours: Floats, theirs: Floats) -> float:
    """Return how well the best rule tells the models apart by one example, 0 to 50."""
    ranges = [float(np.ptp(side)) for side in (ours, theirs)]
    if max(ranges) > 0 and min(ranges) / max(ranges) < PEAKY:
        return MOST_EPSILON
    found = 0.0
    for false_positives, false_negatives in (_single(ours, theirs), _double(ours, theirs, ranges)):
        found = max(found, _best(false_positives, false_negatives))
    return found


def _best(false_positives: Floats, false_negatives: Floats) -> float:
    if ((false_positives == 0) & (false_negatives == 0)).any():
        return MOST_EPSILON
    told = (false_positives > 0) & (false_negatives > 0)
    fpr, fnr = false_positives[told], false_negatives[told]
    with np.errstate(divide="ignore", invalid="ignore"):
        each = [np.log(1 - DELTA - fpr) - np.log(fnr), np.log(1 - DELTA - fnr) - np.log(fpr)]
    finite = np.concatenate([*each, [0.0]])
    return float(min(np.nanmax(finite), MOST_EPSILON))


def _single(ours: Floats, theirs: Floats) -> tuple[Floats, Floats]:
    """Return the error rates of all thresholds; from each on a model is of the side of the larger median."""
    upper, lower = (theirs, ours) if np.median(theirs) > np.median(ours) else (ours, theirs)
    places = np.sort(np.concatenate([ours, theirs]))
    negatives = np.searchsorted(np.sort(upper), places, "left") / len(upper)
    positives = 1 - np.searchsorted(np.sort(lower), places, "left") / len(lower)
    return positives, negatives


def _double(ours: Floats, theirs: Floats, ranges: list[float]) -> tuple[Floats, Floats]:
    """Return the error rates of all intervals from one model to another: within, a model is of the peakier side."""
    peaky, wide = (theirs, ours) if ranges[1] < ranges[0] else (ours, theirs)
    places = np.unique(np.concatenate([ours, theirs]))
    left, right = np.triu_indices(len(places))
    allowed = np.abs(places[right] - places[left] - min(ranges)) <= SPAN
    left, right = left[allowed], right[allowed]
    within = []
    for side in (peaky, wide):
        ordered = np.sort(side)
        below, not_above = np.searchsorted(ordered, places, "left"), np.searchsorted(ordered, places, "right")
        within.append((not_above[right] - below[left]) / len(side))
    return within[1], 1 - within[0]
