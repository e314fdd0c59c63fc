"""How far two sets of features are apart, whatever their law: the kernel distance (KID), unbiased, with an interval."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unlearn_audit.metrics.values import Bounds, student_interval

Floats = NDArray[np.float64]
FEWEST_SAMPLES = 3  # of which one can be left out and two remain, that is one pair
BLOCK = 4096  # rows of the kernel matrix that are held at a time


class KernelDistance(NamedTuple):
    """The squared maximum mean discrepancy of two sets, with what each of their samples contributes.

    Attributes:
        value: the unbiased estimate; it may be negative, and is so for half of the pairs of sets from one law.
        ours: pseudo-values [n] of leaving out one of the first set: n·value - (n - 1)·(value without it).
        theirs: likewise of the second set, [m].
    """

    value: float
    ours: Floats
    theirs: Floats

    @property
    def standard_error(self) -> float:
        """The delete-one jackknife's: pseudo-values of each side, whose means are the value, add their variances."""
        return float(np.sqrt(sum(side.var(ddof=1) / len(side) for side in (self.ours, self.theirs))))

    def interval(self, level: float = 0.95) -> Bounds:
        """Return value ± z standard errors; of sets from one law it is too wide rather than too narrow."""
        return student_interval(self.value, self.standard_error, float("inf"), level)


def kernel_distance(ours: Floats, theirs: Floats) -> KernelDistance | None:
    """Return the unbiased MMD² with the kernel (x·y / d + 1)³ (Gretton et al. 2012, eq. 3; Binkowski et al. 2018).

    With k_ij the kernel,

        MMD² = mean over i != j of k(x_i, x_j) + mean over i != j of k(y_i, y_j) - 2·mean over i, j of k(x_i, y_j).

    Its expectation is 0 for two sets of one law, whatever their sizes, which a Fréchet distance's is not. Leaving out
    one sample changes sums of rows alone, so that the jackknife costs no more than the value.

    Args:
        ours: features [n, d].
        theirs: features [m, d].

    Returns:
        The distance; None below three samples on a side, where there is no feature, and where a feature is not finite.
    """
    n, m = len(ours), len(theirs)
    if min(n, m) < FEWEST_SAMPLES or not ours.shape[1] or not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        return None
    x, y = (np.asarray(side, dtype=np.float64) for side in (ours, theirs))
    within_x, within_y = (_row_sums(side, side) - _own(side) for side in (x, y))
    x_to_y, y_to_x = _row_sums(x, y), _row_sums(y, x)
    between = float(x_to_y.sum() / (n * m))
    spread_x, spread_y = float(within_x.sum() / (n * (n - 1))), float(within_y.sum() / (m * (m - 1)))
    value = spread_x + spread_y - 2 * between
    return KernelDistance(
        value,
        _pseudo_values(value, spread_y, within_x, x_to_y, m),
        _pseudo_values(value, spread_x, within_y, y_to_x, n),
    )


def _kernel(x: Floats, y: Floats) -> Floats:
    return np.asarray((x @ y.T / x.shape[1] + 1) ** 3)


def _own(x: Floats) -> Floats:
    """Return k(x_i, x_i), [n]."""
    return np.asarray(((x * x).sum(axis=1) / x.shape[1] + 1) ** 3)


def _row_sums(x: Floats, y: Floats) -> Floats:
    """Return the sum over j of k(x_i, y_j), [n], without ever holding all of the matrix."""
    blocks = [_kernel(x[start : start + BLOCK], y).sum(axis=1) for start in range(0, len(x), BLOCK)]
    return np.concatenate(blocks)


def _pseudo_values(value: float, other: float, within: Floats, across: Floats, others: int) -> Floats:
    """Return n·value - (n - 1)·(value without sample i) for every sample of one side, [n].

    Args:
        value: with all samples.
        other: the mean kernel within the other side, which does not change.
        within: sums over the sample's own side, without itself, [n].
        across: sums over the other side, [n].
        others: how many samples the other side has.
    """
    n = len(within)
    spread = (within.sum() - 2 * within) / ((n - 1) * (n - 2))
    between = (across.sum() - across) / ((n - 1) * others)
    return np.asarray(n * value - (n - 1) * (spread + other - 2 * between))
