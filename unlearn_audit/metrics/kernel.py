"""How far two sets of features are apart, whatever their law: the kernel distance (KID), unbiased, with an interval."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unlearn_audit.metrics.values import Bounds, student_interval

Floats = NDArray[np.float64]
FEWEST_SAMPLES = 3  # of a stratum, of which one can be left out and two remain, that is one pair
BLOCK = 1024  # rows of the kernel matrix that are held at a time


class KernelDistance(NamedTuple):
    """The squared maximum mean discrepancy of two sets, with what each of their samples contributes.

    Attributes:
        value: the unbiased estimate; it may be negative, and is so for half of the pairs of sets from one law.
        ours: [n] of the first set, pseudo-values of the delete-one jackknife: their mean is the value, and their
            variance / n what the choice of this set adds to the value's.
        theirs: likewise of the second set, [m].
    """

    value: float
    ours: Floats
    theirs: Floats

    @property
    def standard_error(self) -> float:
        """The jackknife's: both sides add their variances."""
        return float(np.sqrt(sum(side.var(ddof=1) / len(side) for side in (self.ours, self.theirs))))

    def interval(self, level: float = 0.95) -> Bounds:
        """Return value ± z standard errors; of sets from one law it is too wide rather than too narrow."""
        return student_interval(self.value, self.standard_error, float("inf"), level)


def kernel_distance(
    ours: Floats,
    theirs: Floats,
    *,
    strata: tuple[NDArray[np.int64] | None, NDArray[np.int64] | None] = (None, None),
) -> KernelDistance | None:
    """Return the unbiased MMD² with the kernel (x·y / d + 1)³ (Gretton et al. 2012, eq. 3; Binkowski et al. 2018).

    With k_ij the kernel,

        MMD² = mean over i != j of k(x_i, x_j) + mean over i != j of k(y_i, y_j) - 2·mean over i, j of k(x_i, y_j).

    Its expectation is 0 for two sets of one law, whatever their sizes, which a Fréchet distance's is not. A set that
    was drawn class by class has fewer pairs of one class than independent draws would, so that these means are too
    small, by up to the classes' spread / n; with `strata` each class's pairs count by its share squared, and the
    expectation is 0 again. Leaving out one sample changes sums of rows alone, so that the jackknife, which then leaves
    shares as they are, costs no more than the value.

    Args:
        ours: features [n, d].
        theirs: features [m, d].
        strata: of either set the class that each sample was drawn for, [n] and [m]; None where it was not.

    Returns:
        The distance; None below three samples of a stratum, where there is no feature, and where one is not finite.
    """
    x, y = (_Side.of(side, groups) for side, groups in zip((ours, theirs), strata, strict=True))
    if min(*x.sizes, *y.sizes) < FEWEST_SAMPLES or not ours.shape[1]:
        return None
    if not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        return None
    between = _Between(_row_sums(x, y).sum(axis=1), _row_sums(y, x).sum(axis=1))
    within_x, within_y = _row_sums(x, x), _row_sums(y, y)
    for side, sums in ((x, within_x), (y, within_y)):
        sums[np.arange(len(side.features)), side.groups] -= side.own
    value = x.spread(within_x) + y.spread(within_y) - 2 * float(between.x.sum() / (len(ours) * len(theirs)))
    return KernelDistance(
        value,
        x.pseudo_values(value, within_x, between.x / len(theirs)),
        y.pseudo_values(value, within_y, between.y / len(ours)),
    )


class _Between(NamedTuple):
    """Sums of each sample's kernels with the other set."""

    x: Floats
    y: Floats


class _Side(NamedTuple):
    """One set: its features, each sample's stratum as a number from 0 on, and the strata's sizes."""

    features: Floats
    groups: NDArray[np.int64]
    sizes: NDArray[np.int64]

    @classmethod
    def of(cls, features: Floats, strata: NDArray[np.int64] | None) -> "_Side":
        found = np.zeros(len(features), dtype=np.int64) if strata is None else np.unique(strata, return_inverse=True)[1]
        return cls(
            np.asarray(features, dtype=np.float64), found, np.bincount(found) if len(found) else np.zeros(1, int)
        )

    @property
    def own(self) -> Floats:
        """k(x_i, x_i), [n]."""
        return np.asarray(((self.features**2).sum(axis=1) / self.features.shape[1] + 1) ** 3)

    def _totals(self, sums: Floats) -> Floats:
        """Return the kernel summed over pairs of two strata, without a sample and itself, [strata, strata]."""
        return np.asarray(np.eye(len(self.sizes))[self.groups].T @ sums)

    def _pairs(self, sizes: NDArray[np.int64]) -> Floats:
        """Return how many pairs two strata have, [strata, strata]."""
        return np.asarray(np.outer(sizes, sizes) - np.diag(sizes), dtype=np.float64)

    def spread(self, sums: Floats) -> float:
        """Return the mean kernel of two independent draws, each stratum with its share.

        Args:
            sums: of each sample with each stratum, without itself, [n, strata].
        """
        share = self.sizes / self.sizes.sum()
        return float(share @ (self._totals(sums) / self._pairs(self.sizes)) @ share)

    def pseudo_values(self, value: float, sums: Floats, across: Floats) -> Floats:
        """Return the pseudo-values of leaving out one sample, [n], with the shares of the strata as they are.

        Args:
            value: with all samples.
            sums: of each sample with each stratum, without itself, [n, strata].
            across: each sample's mean kernel with the other set, [n].
        """
        n, sizes, groups = len(self.groups), self.sizes, self.groups
        share, left = sizes / n, sizes - 1
        totals, here = self._totals(sums), sizes[groups]
        same = np.arange(n), groups
        means = share[groups][:, None] * share[None, :] * (totals / self._pairs(sizes))[groups]  # with all, by stratum
        later = totals[groups] - sums
        later[same] -= sums[same]
        count = np.asarray(left[groups][:, None] * sizes[None, :], dtype=np.float64)
        count[same] = left[groups] * (here - 2)
        change = share[groups][:, None] * share[None, :] * later / count - means
        twice = np.full(change.shape, 2.0)
        twice[same] = 1.0
        sum_of = np.bincount(groups, weights=across, minlength=len(sizes))[groups]
        between = share[groups] * ((sum_of - across) / left[groups] - sum_of / here)
        moved = (change * twice).sum(axis=1) - 2 * between  # value without it, minus the value
        return np.asarray(value - left[groups] * moved * np.sqrt(n * (n - 1) / (here * left[groups])))


def _row_sums(x: _Side, y: _Side) -> Floats:
    """Return the sum of k(x_i, y_j) over each stratum of y, [n, strata], without ever holding all of the matrix."""
    member, width = np.eye(len(y.sizes))[y.groups], x.features.shape[1]
    parts = (x.features[start : start + BLOCK] for start in range(0, len(x.features), BLOCK))
    return np.concatenate([(part @ y.features.T / width + 1) ** 3 @ member for part in parts])
