"""Intervals of means and ratios of positive numbers of which a few may carry most: losses and areas of examples.

All intervals are on the log scale, where both ends stay above zero, with Student's t replaced by what resampling
shows: the studentised bootstrap, whose upper tail is longer, as that of the mean of skewed numbers is. No interval can
know of a large value that was not drawn. How often the truth is held on such data stands in the guide to intervals;
the share of the sum that the largest values carry is told beside it (`tail_share`).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unlearn_audit.metrics.values import Bounds, student_interval

Floats = NDArray[np.float64]

STUDENTISED = "studentised bootstrap over examples, log scale"
FEWEST = 8  # examples below which resamples repeat one of them too often to say anything
MOST = 5000  # examples from which on Student's t on the log scale does, and resampling takes too long
DRAWS = 2_000_000  # at a time, which bounds memory
SMALLEST = 0.05  # of the standard error: a resample in which hardly anything varies is no evidence of a far tail


class _Logs(NamedTuple):
    """Log ratios of means and their standard errors by linearisation, one for each resample."""

    log: Floats
    error: Floats


def mean_interval(values: Floats, *, seed: int, resamples: int = 2000, level: float = 0.95) -> Bounds | None:
    """Return the interval of the mean of numbers that are not negative.

    Args:
        values: [n].
        seed: of the resampling; equal seeds and sizes draw equal examples.
        resamples: how many.
        level: how often the interval is to hold the mean.

    Returns:
        The interval, which holds the value; None below two numbers, where one is negative or not finite, or where the
        mean is zero.

    >>> found = mean_interval(np.array([1.0, 2.0, 3.0]), seed=0)
    >>> found.low > 0, found.high > 2
    (True, True)
    """
    return ratio_interval(values, None, seed=seed, resamples=resamples, level=level)


def ratio_interval(
    above: Floats, below: Floats | None, *, seed: int, resamples: int = 2000, level: float = 0.95
) -> Bounds | None:
    """Return the interval of the ratio of the means of two independent sets; see `mean_interval`.

    Args:
        above: [N], none of them negative.
        below: [M], likewise; None for the mean of `above` alone.
        seed: of the resampling; each set has its own stream.
        resamples: how many.
        level: how often the interval is to hold the true ratio.
    """
    sets = [above] if below is None else [above, below]
    if any(len(one) < 2 or not np.isfinite(one).all() or one.min() < 0 or not one.mean() > 0 for one in sets):
        return None
    scaled = [one / one.mean() for one in sets]
    error = float(np.sqrt(sum(one.var(ddof=1) / len(one) for one in scaled)))
    found = None
    if _is_resampled(*sets):
        streams = _streams(seed, len(sets))
        parts = [_of_mean(one, stream, resamples) for one, stream in zip(scaled, streams, strict=True)]
        log = parts[0].log - (parts[1].log if below is not None else 0.0)
        found = _Logs(log, np.sqrt(np.sum([part.error**2 for part in parts], axis=0)))
    value = float(above.mean()) / (1.0 if below is None else float(below.mean()))
    return _around(value, error, found=found, freedom=min(map(len, sets)) - 1, level=level)


def paired_ratio_interval(
    above: Floats, below: Floats, *, seed: int, resamples: int = 2000, level: float = 0.95
) -> Bounds | None:
    """Return the interval of the ratio of the means of two numbers of the same examples; see `mean_interval`.

    Args:
        above: [n], of positive mean.
        below: [n], likewise.
        seed: of the resampling.
        resamples: how many.
        level: how often the interval is to hold the true ratio.
    """
    n = len(above)
    if n < 2 or not np.isfinite([above, below]).all() or not above.mean() > 0 or not below.mean() > 0:
        return None
    over, under = above / above.mean(), below / below.mean()
    error, found = float((over - under).std(ddof=1)) / n**0.5, None
    if _is_resampled(above):
        stream = _streams(seed, 1)[0]
        columns = np.stack([over, under, over * over, under * under, over * under], axis=1)
        first, second, *squares = resampled_means(columns, stream, resamples).T
        if min(first.min(), second.min()) > 0:
            spread = squares[0] / first**2 + squares[1] / second**2 - 2 * squares[2] / (first * second)
            found = _Logs(np.log(first / second), np.sqrt(np.maximum(spread, 0.0) / (n - 1)))
    return _around(float(above.mean() / below.mean()), error, found=found, freedom=n - 1, level=level)


def skewed_method(*sizes: int) -> str:
    """Return how the interval of sets of these sizes is made, for a report."""
    return STUDENTISED if min(sizes) >= FEWEST and max(sizes) <= MOST else "Student t over examples, log scale"


def _is_resampled(*sets: Floats) -> bool:
    return min(map(len, sets)) >= FEWEST and max(map(len, sets)) <= MOST


def _around(value: float, error: float, *, found: _Logs | None, freedom: int, level: float) -> Bounds | None:
    """Return value·exp(-upper tail·error), value·exp(-lower tail·error); None where an end is not finite."""
    low, high = student_interval(0.0, error, freedom, level)
    if found is not None and error > 0:
        studentised = found.log / np.maximum(found.error, SMALLEST * error)
        tails = np.quantile(studentised, [(1 - level) / 2, (1 + level) / 2])
        # A tail on the wrong side of zero would leave the value out.
        low, high = -max(float(tails[1]), 0.0) * error, -min(float(tails[0]), 0.0) * error
    with np.errstate(over="ignore"):
        ends = Bounds(float(value * np.exp(low)), float(value * np.exp(high)))
    return ends if np.isfinite(ends).all() else None


def _streams(seed: int, count: int) -> list[np.random.Generator]:
    """Return a stream for each set."""
    return np.random.default_rng(seed).spawn(count)


def _of_mean(scaled: Floats, stream: np.random.Generator, resamples: int) -> _Logs:
    """Return the log mean and its standard error of resamples of numbers whose mean is 1."""
    mean, squares = resampled_means(np.stack([scaled, scaled * scaled], axis=1), stream, resamples).T
    safe = np.maximum(mean, np.finfo(np.float64).tiny)
    variance = np.maximum(squares - mean * mean, 0.0) / (len(scaled) - 1)
    return _Logs(np.log(safe), np.sqrt(variance) / safe)


def resampled_means(columns: Floats, stream: np.random.Generator, resamples: int) -> Floats:
    """Return the means of resampled rows of [n, columns], [resamples, columns].

    Args:
        columns: numbers of each example.
        stream: where the draws come from.
        resamples: how many.
    """
    n = len(columns)
    rows, found = max(1, DRAWS // n), []
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        drawn = stream.integers(0, n, (count, n)) + n * np.arange(count)[:, None]
        weights = np.bincount(drawn.reshape(-1), minlength=count * n).reshape(count, n)  # how often each was drawn
        found.append(weights.astype(np.float64) @ columns / n)
    return np.concatenate(found)
