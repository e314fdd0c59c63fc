"""Forget set against unseen twin under one model, with what retrained models say of each example: no shadow models.

A model that never saw either set answers both as the retrained models lead to expect, whatever its own calibration is.
Fast unlearning often leaves the mean in place and changes something else: answers that lie closer together, or depend
less on how hard an example is. So the test looks at the residual of the log-odds on the retrained models' and at that
difficulty together, by four statistics, since none of them sees all kinds of traces.

Which of a pair is the forget example is a fair coin where the model saw neither: exchanging labels within pairs gives
the distribution of every statistic, and of the smallest of the four p-values, exactly (Pitman 1937; the smallest p by
its own rank: Westfall & Young 1993, section 2).
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unlearn_audit.metrics.values import Bounds, auc, auc_interval

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

FEWEST_PAIRS = 50
TOLD_P = 0.05  # or less: told. The level given one forget set varies, so that another one is there to stop at
STOPS_P = 0.01  # below it: odd enough to stop a model, as `min = 0.01` does in a policy
MOST_PAIRS = 1000  # of the two statistics whose cost grows with the square of the pairs, or needs a sort a swap
FOLDS, REPEATS, RIDGE = 10, 3, 3.0
WIDTHS = (0.1, 0.4, 1.6)  # of the kernels, in medians of the squared distance; each is four times the one before
CLIP = 6.0  # robust deviations: a single example does not become the whole test
FIRST = 4  # examples at the end of the tail statistic
NEGLIGIBLE = 1e-9  # of the range of the log-odds: rounding
AT_ONCE = 1 << 22  # swapped labels that are looked at in one go


class Swaps(NamedTuple):
    """What is drawn for tests of n pairs, the same for every target.

    Attributes:
        signs: int8 [B + 1, n], +1 where a pair keeps its labels, -1 where it exchanges them; row 0 keeps all.
        some: [m] the pairs that mmd and c2st look at: all, or a sorted `MOST_PAIRS` of them.
        folds: [REPEATS, m] the fold of each of these pairs.
    """

    signs: NDArray[np.int8]
    some: Integers
    folds: Integers


class TwoSample(NamedTuple):
    """What the test finds.

    Attributes:
        p: combined: the share of labellings whose smallest of the four p-values is as small; in [1 / (B + 1), 1].
        parts: p-value of each statistic: calibrated, mmd, tail, c2st.
        auc: of the classifier that is trained on the other folds' pairs; .5 where it tells nothing apart.
        auc_bounds: DeLong's interval; None where all scores are equal.
        shift: AUC of target minus difficulty: above .5 where forget examples lie higher than their twin.
        spread: standard deviation of the residual on the forget set / on the twin; None where the latter is 0.
        slopes: of the target's log-odds on the difficulty, on the forget set and on the twin; None without a spread.
        spread_p: of the difference in mean |residual|, by the same swaps; of no part in `p`.
        slope_p: of the difference in dependence on difficulty, likewise.
        residual: [2n] in robust deviations, forget examples first.
        difficulty: [2n] mean log-odds of the references, in nats.
        used: pairs that mmd and c2st looked at.
    """

    p: float
    parts: Mapping[str, float]
    auc: float
    auc_bounds: Bounds | None
    shift: float
    spread: float | None
    slopes: tuple[float, float] | None
    spread_p: float
    slope_p: float
    residual: Floats
    difficulty: Floats
    used: int


def paired_swaps(pairs: int, *, swaps: int, generator: np.random.Generator) -> Swaps:
    """Draw exchanges of labels within pairs, and the folds of the classifier.

    Args:
        pairs: n, one forget example and its twin each.
        swaps: B; the smallest p is 1 / (B + 1), and a combined p of .01 or less is within reach from 999 on.
        generator: of all draws.
    """
    signs = np.ones((swaps + 1, pairs), dtype=np.int8)
    signs[1:] -= 2 * generator.integers(0, 2, size=(swaps, pairs), dtype=np.int8)
    some = np.arange(pairs)
    if pairs > MOST_PAIRS:
        some = np.sort(generator.permutation(pairs)[:MOST_PAIRS])
    folds = np.stack([generator.permutation(len(some)) % FOLDS for _ in range(REPEATS)])
    return Swaps(signs, some, folds)


def two_sample_test(target: Floats, references: Floats, swaps: Swaps) -> TwoSample | str:
    """Test whether forget examples and their twin are alike under the target, given the references.

    With a = mean of the references, r = target - a and e = the residual of the least-squares line of the target on a,
    in units of 1.4826 times its median absolute deviation and clipped to +-6:

    - calibrated: |AUC(r) - 1/2| (difficulty calibration, Watson et al. 2022);
    - mmd: w'Kw, w = +-1/n, K the sum of Gaussian kernels of three widths on standardised (e, a) (Gretton et al. 2012);
    - tail: the largest standardised surplus of forget examples among the k most extreme r, k = 4 ... n/2 - 1, over both
      ends: a few examples that were kept as a whole;
    - c2st: AUC of a cross-fitted ridge classifier on e, |e|, e^2, e·a, |e|a, a, a^2 (Lopez-Paz & Oquab 2017).

    Each p is (1 + number of swaps that are as extreme) / (B + 1).

    Args:
        target: [2n] log-odds of the label, in nats: forget examples first, then their twins in the same order.
        references: [K, 2n] of K >= 1 models that saw neither set; the target is none of them.
        swaps: drawn for n pairs.

    Returns:
        What the test finds; small p: the two sets are told apart. Or, in words, why there is nothing to find.

    Raises:
        ValueError: the shapes do not belong together.
    """
    pairs = swaps.signs.shape[1]
    if target.shape != (2 * pairs,) or references.ndim != 2 or references.shape[1:] != target.shape:
        raise ValueError(
            f"{pairs} pairs were drawn for {target.shape} log-odds of the target, {references.shape} others"
        )
    if pairs < FEWEST_PAIRS:
        return f"needs {FEWEST_PAIRS} pairs of a forget example and its unseen twin; there are {pairs}"
    if not len(references):
        return "there is no reference: a model that saw neither the forget set nor its unseen twin"
    if not np.isfinite(target).all() or not np.isfinite(references).all():
        return "the log-odds of some examples are not finite"
    difficulty = references.astype(np.float64).mean(axis=0)
    residual = _residual(target, difficulty)
    if isinstance(residual, str):
        return residual
    shifted, z = target - difficulty, _standardised(difficulty)
    both = np.concatenate([swaps.some, swaps.some + pairs])
    scored, auc_of_swaps = _c2st(residual[both], z[both], swaps)
    found = {
        "calibrated": np.abs(_sums(_ranks(shifted), swaps.signs)),
        "mmd": _mmd(residual[both], z[both], swaps.signs[:, swaps.some]),
        "tail": _tail(shifted, swaps.signs),
        "c2st": auc_of_swaps,
    }
    p_values = {name: _p_values(statistic) for name, statistic in found.items()}
    smallest = np.min(list(p_values.values()), axis=0)
    half = len(swaps.some)
    return TwoSample(
        p=float(np.mean(smallest <= smallest[0])),
        parts={name: float(values[0]) for name, values in p_values.items()},
        auc=float(auc_of_swaps[0]),
        auc_bounds=auc_interval(scored[:half], scored[half:]),
        shift=auc(shifted[:pairs], shifted[pairs:]) or 0.0,
        spread=_ratio_of_spreads(residual),
        slopes=_slopes(target, difficulty),
        spread_p=_observed_p(np.abs(residual), swaps.signs),
        slope_p=_observed_p(residual * z, swaps.signs),
        residual=residual,
        difficulty=difficulty,
        used=half,
    )


# ----- residual and difficulty


def _residual(target: Floats, difficulty: Floats) -> Floats | str:
    """Return what difficulty does not explain of the target, [2n], in robust deviations, or why it is nothing."""
    extent = float(np.ptp(target))
    if extent == 0:
        return "degenerate: the model gives every example the same log-odds"
    rest = target - target.mean() - _slope(target, difficulty) * (difficulty - difficulty.mean())
    scale = 1.4826 * float(np.median(np.abs(rest - np.median(rest))))
    if scale <= NEGLIGIBLE * extent:  # more than half are alike: their deviation from each other is no scale
        scale = float(rest.std())
    if scale <= NEGLIGIBLE * extent:
        return "degenerate: the model's log-odds are the references' up to a straight line"
    return np.asarray(np.clip(rest / scale, -CLIP, CLIP))


def _slope(values: Floats, on: Floats) -> float:
    """Return the least-squares slope; 0 where nothing varies."""
    centred = on - on.mean()
    squares = float(centred @ centred)
    return float(centred @ values) / squares if squares > 0 else 0.0


def _slopes(target: Floats, difficulty: Floats) -> tuple[float, float] | None:
    """Return the slope on the difficulty of the forget examples and of the twin."""
    half = len(target) // 2
    if not np.ptp(difficulty[:half]) > 0 or not np.ptp(difficulty[half:]) > 0:
        return None
    return _slope(target[:half], difficulty[:half]), _slope(target[half:], difficulty[half:])


def _ratio_of_spreads(residual: Floats) -> float | None:
    forget, twin = np.split(residual, 2)
    return float(forget.std() / twin.std()) if twin.std() > 0 else None


def _standardised(values: Floats) -> Floats:
    """Return values [N, ...] with mean 0 and deviation 1 along the first axis; 0 where nothing varies."""
    centred, spread = values - values.mean(axis=0), values.std(axis=0)
    varies = spread > NEGLIGIBLE * np.abs(values).max(axis=0)
    return np.asarray(np.where(varies, centred / np.where(varies, spread, 1.0), 0.0))


# ----- statistics, each [B + 1]: of the labels as they are, then of every swap


def _ranks(values: Floats) -> Floats:
    """Return twice the midranks, which are whole numbers."""
    ordered = np.sort(values)
    both = np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")
    return both.astype(np.float64)


def _chunks(signs: NDArray[np.int8]) -> Iterator[slice]:
    step = max(1, AT_ONCE // signs.shape[1])
    return (slice(start, start + step) for start in range(0, len(signs), step))


def _sums(values: Floats, signs: NDArray[np.int8]) -> Floats:
    """Return the sum over forget examples minus that over the twin, of each labelling."""
    forget, twin = np.split(values, 2)
    return np.concatenate([signs[part].astype(np.float64) @ (forget - twin) for part in _chunks(signs)])


def _tail(shifted: Floats, signs: NDArray[np.int8]) -> Floats:
    """Return the largest standardised surplus of forget examples at either end.

    Equal values are taken together, so that no order among them decides.
    """
    pairs = signs.shape[1]
    order = np.argsort(shifted, kind="stable")
    best = np.zeros(len(signs))
    for extreme in (order[: pairs // 2], order[::-1][: pairs // 2]):
        counts = np.arange(1, len(extreme))
        complete = (shifted[extreme[1:]] != shifted[extreme[:-1]]) & (counts >= FIRST)
        if not complete.any():
            continue
        k = counts[complete]
        deviation = np.sqrt(k / 4 * (2 * pairs - k) / (2 * pairs - 1))
        pair, in_twin = extreme[:-1] % pairs, extreme[:-1] >= pairs
        for part in _chunks(signs):
            forget = (signs[part, pair] > 0) != in_twin
            caught = np.cumsum(forget, axis=1, dtype=np.int32)[:, complete]
            best[part] = np.maximum(best[part], ((caught - k / 2) / deviation).max(axis=1))
    return best


def _mmd(residual: Floats, z: Floats, signs: NDArray[np.int8]) -> Floats:
    """Return the squared maximum mean discrepancy, up to the factor 1 / m^2.

    With labels +-1 within pairs it is the quadratic form of one [m, m] matrix, so that all swaps are one product.
    """
    points = np.stack([_standardised(residual), z], axis=1)
    squares = np.square(points[:, None, 0] - points[None, :, 0])
    squares += np.square(points[:, None, 1] - points[None, :, 1])
    scale = float(np.median(squares)) or float(squares.mean()) or 1.0
    kernel = np.exp(squares / (-WIDTHS[-1] * scale))
    total = kernel.copy()
    for _ in WIDTHS[:-1]:
        kernel = np.square(np.square(kernel))  # a width of a quarter
        total += kernel
    half = len(points) // 2
    paired = total[:half, :half] - total[:half, half:] - total[half:, :half] + total[half:, half:]
    wide = signs.astype(np.float64)
    return np.asarray(np.einsum("bi,bi->b", wide @ paired, wide))


def _c2st(residual: Floats, z: Floats, swaps: Swaps) -> tuple[Floats, Floats]:
    """Return the out-of-fold scores [2m] of the labels as they are, and the AUC of each labelling.

    The scores are linear in the labels: for each fold seven weights a labelling, from the sums of the other folds.
    """
    size = np.abs(residual)
    features = _standardised(np.stack([residual, size, residual**2, residual * z, size * z, z, z**2], axis=1))
    half = len(swaps.some)
    signs = swaps.signs[:, swaps.some].T.astype(np.float64)  # [m, B + 1]: a fold is rows of it
    difference, gram = features[:half] - features[half:], features.T @ features
    scores = np.zeros((2 * half, signs.shape[1]))
    for folds in swaps.folds:
        members = [np.flatnonzero(folds == fold) for fold in range(FOLDS)]
        sums = [difference[pairs].T @ signs[pairs] for pairs in members]  # [7, B + 1] each
        whole = np.sum(sums, axis=0)
        for pairs, own in zip(members, sums, strict=True):
            rows = np.concatenate([pairs, pairs + half])
            ridge = gram - features[rows].T @ features[rows] + RIDGE * np.eye(len(gram))
            scores[rows] += features[rows] @ np.linalg.solve(ridge, whole - own)
    return scores[:, 0], _aucs(np.ascontiguousarray(scores.T), swaps.signs[:, swaps.some] > 0)


def _aucs(scores: Floats, keeps: NDArray[np.bool_]) -> Floats:
    """Return the AUC of each row of scores [R, 2m] with its own labels: a pair that keeps them has forget first."""
    half = keeps.shape[1]
    forget = np.concatenate([keeps, ~keeps], axis=1)
    order = np.argsort(scores, axis=1)
    ranks = np.take_along_axis(forget, order, axis=1) @ np.arange(1.0, 2 * half + 1)
    found = (ranks - half * (half + 1) / 2) / half**2
    ordered = np.take_along_axis(scores, order, axis=1)
    for row in np.flatnonzero((ordered[:, 1:] == ordered[:, :-1]).any(axis=1)):
        found[row] = auc(scores[row, forget[row]], scores[row, ~forget[row]])
    return np.asarray(found)


# ----- p-values


def _p_values(statistic: Floats) -> Floats:
    """Return the share of labellings whose statistic is as large as each one's, [B + 1]."""
    ordered = np.sort(statistic)
    return np.asarray((len(statistic) - np.searchsorted(ordered, statistic, "left")) / len(statistic))


def _observed_p(values: Floats, signs: NDArray[np.int8]) -> float:
    """Return the two-sided p of a difference in means between forget set and twin."""
    return float(_p_values(np.abs(_sums(values, signs)))[0])
