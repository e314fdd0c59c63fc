"""In which order models stand by RCD: as a function of K, of the step size, and whatever the floor."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

Floats = NDArray[np.float64]
FEWEST_RANKED = 4  # models below which a rank correlation says nothing


class OrderChange(NamedTuple):
    """Two models change order: from step `at` on, the first one has the larger sum."""

    larger: str
    smaller: str
    at: int


class Agreement(NamedTuple):
    """Kendall's tau of two rankings, in [-1, 1], or None with the reason; `n` models were ranked."""

    tau: float | None
    n: int
    reason: str | None = None


def looked_at(steps: int) -> tuple[int, ...]:
    """Return the K that a ranking is shown at: 1, 10, 100, ... and the last.

    >>> looked_at(250)
    (1, 10, 100, 250)
    """
    tens = [10**power for power in range(len(str(steps))) if 10**power < steps]
    return (*tens, steps)


def ranks(sums: Mapping[str, float]) -> dict[str, int]:
    """Return each model's rank by its sum, 1 for the largest; equal sums share the better rank."""
    return {label: 1 + sum(other > value for other in sums.values()) for label, value in sums.items()}


def order_changes(sums: Mapping[str, Floats]) -> tuple[OrderChange, ...]:
    """Return every K at which two models change order, by step.

    Args:
        sums: label -> [K + 1] RCD_k of k = 0..K, all read off one trajectory as prefix sums.
    """
    found = []
    for one, other in combinations(sums, 2):
        sign = np.sign(sums[one] - sums[other])
        steps = np.flatnonzero(sign)  # equal sums are no change
        for at in steps[1:][sign[steps[1:]] != sign[steps[:-1]]]:
            larger, smaller = (one, other) if sign[at] > 0 else (other, one)
            found.append(OrderChange(larger, smaller, int(at)))
    return tuple(sorted(found, key=lambda change: change.at))


def agreement(first: Sequence[float | None], other: Sequence[float | None]) -> Agreement:
    """Return Kendall's tau-b of the models' sums under two settings.

    Args:
        first: [M] sums under the setting that others are compared with; None where a curve diverged.
        other: [M] sums of the same models.
    """
    both = [pair for pair in zip(first, other, strict=True) if pair[0] is not None and pair[1] is not None]
    if len(both) < FEWEST_RANKED:
        return Agreement(None, len(both), f"{len(both)} models to rank; Kendall's tau needs {FEWEST_RANKED}")
    tau = float(kendalltau(*zip(*both, strict=True)).statistic)
    return Agreement(tau, len(both)) if np.isfinite(tau) else Agreement(None, len(both), "all sums are equal")
