"""Where a relearning curve is no descent, though no single step of it has to be one.

A gradient on fresh draws does not lower the loss on other draws in every step, so that a mean of five measurements is
looked at instead of each.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

RUNNING = 5  # measurements in a running mean
RISE = 0.05  # ours: of such a mean, what is no descent any more


def running_means(values: Sequence[float] | Floats) -> Floats:
    """Return the first value, then the means of five values in a row.

    >>> running_means([5.0, 1.0, 1.0, 1.0, 1.0, 2.0]).round(2).tolist()
    [5.0, 1.8, 1.2]
    """
    found = np.asarray(values, dtype=np.float64)
    if len(found) < RUNNING:
        return found[:1]
    return np.concatenate([found[:1], np.lib.stride_tricks.sliding_window_view(found, RUNNING).mean(axis=1)])


def means_rise(values: Sequence[float]) -> bool:
    """Return whether the last running mean lies more than 5 % above the lowest before it."""
    means = running_means(values)
    return bool(len(means) > 1 and means[-1] > (1 + RISE) * means[:-1].min())


def rises_over_its_start(values: Sequence[float] | Floats) -> bool:
    """Return whether a running mean comes to lie more than 5 % above the first value."""
    means = running_means(values)
    return bool(len(means) > 1 and means.max() > (1 + RISE) * means[0])
