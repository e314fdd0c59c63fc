"""Statistics of per-example areas under relearning curves that may tell remembered examples from never-seen ones.

An area is one example's sum of losses over the steps of a model's relearning; `forget` are the areas of the forget set,
`twin` those of its unseen twin. Every statistic comes with a 95 % interval over examples and knows its value where
nothing is remembered. The calibrated ones subtract what models that saw neither set say about the same example
(difficulty calibration, Watson et al. 2022, arXiv 2111.08440, here on the logarithm of areas).
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unlearn_audit import metrics

Floats = NDArray[np.float64]
RESAMPLES = 2000
ROUNDING = 2.0**-24  # of a float32 loss near zero: what is below is not told apart


class Pair(NamedTuple):
    """One model's values on the forget set [N] and on the unseen twin [M]."""

    forget: Floats
    twin: Floats


class Estimate(NamedTuple):
    """A value with the ends of its 95 % interval."""

    value: float
    low: float
    high: float

    def holds(self, value: float) -> bool:
        """Whether the interval holds a value."""
        return self.low <= value <= self.high


class Null(NamedTuple):
    """A statistic's value where nothing is remembered, and whether remembering lowers it."""

    value: float
    lower: bool = True

    def left(self, found: Estimate | None, values: Sequence[float] = ()) -> bool:
        """Whether an interval lies wholly on the remembering side of the null, or of all the values given instead."""
        against = values or (self.value,)
        return found is not None and (found.high < min(against) if self.lower else found.low > max(against))


def ratio_of_sums(areas: Pair) -> Estimate | None:
    """Return sum(forget) / sum(twin), sets of one size: what `rcd.ratio_to_unseen` is, and its interval.

    >>> round(ratio_of_sums(Pair(np.full(9, 1.0), np.full(9, 2.0))).value, 3)
    0.5
    """
    found = metrics.ratio_interval(areas.forget, areas.twin, seed=0, resamples=RESAMPLES)
    return None if found is None else Estimate(float(areas.forget.mean() / areas.twin.mean()), *found)


def ratio_of_medians(areas: Pair) -> Estimate | None:
    """Return median(forget) / median(twin), percentile bootstrap."""
    value = metrics.ratio_of_medians(*areas)
    streams = np.random.default_rng(0).spawn(2)
    above, below = (
        np.median(values[stream.integers(0, len(values), (RESAMPLES, len(values)))], axis=1)
        for values, stream in zip(areas, streams, strict=True)
    )
    return None if value is None or not (below > 0).all() else _percentiles(value, above / below)


def _percentiles(value: float, resampled: Floats) -> Estimate:
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Estimate(value, float(low), float(high))


def mean_difference(values: Pair) -> Estimate | None:
    """Return mean(forget) - mean(twin) with Welch's interval; None below two examples a side and without variance.

    >>> found = mean_difference(Pair(np.array([1.0, 2.0, 3.0]), np.array([0.0, 1.0, 2.0])))
    >>> [round(end, 3) for end in found]
    [1.0, -1.267, 3.267]
    """
    if min(map(len, values)) < 2:
        return None
    parts = [float(side.var(ddof=1)) / len(side) for side in values]
    total = sum(parts)
    if not total > 0:
        return None
    freedom = total**2 / sum(part**2 / (len(side) - 1) for part, side in zip(parts, values, strict=True))
    value = float(values.forget.mean() - values.twin.mean())
    return Estimate(value, *metrics.student_interval(value, total**0.5, freedom))


def geometric_ratio(areas: Pair, *, smallest: float) -> Estimate | None:
    """Return the ratio of geometric means, the exponential of `mean_difference` of the logarithms."""
    found = mean_difference(Pair(logarithm(areas.forget, smallest), logarithm(areas.twin, smallest)))
    return None if found is None else Estimate(*(float(np.exp(end)) for end in found))


def remembered_auc(values: Pair) -> Estimate | None:
    """Return P(forget < twin) + P(equal) / 2, .5 where nothing is remembered; DeLong on the logit scale.

    >>> remembered_auc(Pair(np.array([1.0, 2.0]), np.array([2.0, 3.0]))).value
    0.875
    """
    value, bounds = metrics.auc(-values.forget, -values.twin), metrics.auc_interval(-values.forget, -values.twin)
    return None if value is None or bounds is None else Estimate(value, *bounds)


def logarithm(areas: Floats, smallest: float) -> Floats:
    """Return log(areas), those below `smallest` taken as that: easy examples lose nothing at all in float32."""
    return np.log(np.maximum(areas, smallest))


class Calibrated(NamedTuple):
    """Log areas less those usual for the same examples, and the usual ones: how difficult the examples are."""

    own: Pair
    usual: Pair

    def harder_half(self) -> Pair:
        """Return the values of the examples that are no easier than the median of both sets."""
        median = np.median(np.concatenate(self.usual))
        return Pair(*(own[usual >= median] for own, usual in zip(self.own, self.usual, strict=True)))


def calibrated(areas: Pair, references: Sequence[Pair], *, smallest: float) -> Calibrated | None:
    """Return log area - mean log area under the references, per example; None where there is no reference.

    Args:
        areas: of the model that is asked.
        references: of models that saw neither set, on the same examples in the same order.
        smallest: see `logarithm`.
    """
    if not references:
        return None
    usual = Pair(*(np.mean([logarithm(other[side], smallest) for other in references], axis=0) for side in (0, 1)))
    own = Pair(*(logarithm(areas[side], smallest) - usual[side] for side in (0, 1)))
    return Calibrated(own, usual)


NULLS: Mapping[str, Null] = {
    "ratio of sums": Null(1.0),
    "ratio of medians": Null(1.0),
    "geometric ratio": Null(1.0),
    "rank AUC": Null(0.5, lower=False),
    "calibrated AUC": Null(0.5, lower=False),
    "calibrated AUC, harder half": Null(0.5, lower=False),
    "calibrated log difference": Null(0.0),
}


def statistics(areas: Pair, references: Sequence[Pair], *, steps: int) -> dict[str, Estimate | None]:
    """Return one model's statistics by their names in `NULLS`, None where one is undefined.

    Args:
        areas: of the model, from steps + 1 losses each.
        references: see `calibrated`; empty where the models have twins of their own, and nothing can be calibrated.
        steps: K.
    """
    smallest = ROUNDING * (steps + 1)
    found = calibrated(areas, references, smallest=smallest)
    return {
        "ratio of sums": ratio_of_sums(areas),
        "ratio of medians": ratio_of_medians(areas),
        "geometric ratio": geometric_ratio(areas, smallest=smallest),
        "rank AUC": remembered_auc(areas),
        "calibrated AUC": remembered_auc(found.own) if found else None,
        "calibrated AUC, harder half": remembered_auc(found.harder_half()) if found else None,
        "calibrated log difference": mean_difference(found.own) if found else None,
    }
