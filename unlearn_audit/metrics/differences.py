"""A value against retrained models' values: what chance there is in the difference, and what may be called one."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unlearn_audit.metrics.values import student_interval

Floats = NDArray[np.float64]

# Tuned once so that one more retrained model is called different in 4 to 6 % of the cases, whatever part of the seeds'
# variance stems from single examples (see `difference_from_references`).
SHARE = 0.2
FREEDOM = 0.02
ONE_SIDED = 1.645  # standard errors above which a variance between examples counts as there
MANY = 1e9  # degrees of freedom that are as good as infinite


class Difference(NamedTuple):
    """A value minus the mean of reference values: its interval and whether zero lies outside of it."""

    value: float
    standard_error: float
    degrees_of_freedom: float
    low: float
    high: float

    @property
    def seen(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low > 0 or self.high < 0


class Chance(NamedTuple):
    """What single examples contribute to the chance of a difference.

    Attributes:
        single: w, the variance of one retrained model's value that comes from single examples which turn out
            differently from seed to seed, each on its own; a part of the seeds' variance, never more than it.
        examples: e, the variance of the mean difference due to the choice of examples, as far as the difference
            itself varies from example to example.
    """

    single: float
    examples: float


def chance_of_examples(sides: Sequence[tuple[Floats, Floats]]) -> Chance:
    """Return w and e of a difference whose values are sums of means over sets of examples.

    With y_i a subject's number for example i and y_ri that of retrained model r,

        w = sum over sets of mean_i(var_r(y_ri)) / n
        e = sum over sets of var_i(y_i - mean_r(y_ri)) / n - (1 + 1/R)·w,

    since the paired numbers vary over examples by chance of the seeds alone, too: by w for the subject and by w / R
    for the mean of R models. What is left is how much the difference itself varies over examples; it is only taken
    for more than zero where it is above 1.645 of its own standard errors.

    Args:
        sides: for each set the subject's numbers [n] and the retrained models' [R, n], R >= 2; n >= 2, else e is that
            of one disagreement, 1, and w is 0.
    """
    if any(len(ours) < 2 for ours, _ in sides):
        return Chance(0.0, 1.0)
    single = examples = error = 0.0
    for ours, others in sides:
        n, inflated = len(ours), 1 + 1 / len(others)
        noise = others.var(axis=0, ddof=1)
        paired = ours - others.mean(axis=0)
        excess = (paired - paired.mean()) ** 2 * n / (n - 1) - inflated * noise
        single += float(noise.mean()) / n
        examples += float(excess.mean()) / n
        error += float(excess.var(ddof=1)) / n**3
    return Chance(single, examples if examples > ONE_SIDED * error**0.5 else 0.0)


def difference_from_references(
    value: float,
    mean: float,
    *,
    spread: float,
    references: int,
    example_variance: float,
    single: float = 0.0,
    least: float = 0.0,
    level: float = 0.95,
) -> Difference:
    """Return value - mean(references) with an interval that knows training seeds and examples.

    The question is whether the value could be one more of the R retrained models', and whether that would be said of
    other examples from the same source as well. All models are measured on the same examples. Given these, the values
    of retrained models differ by their seeds alone, so that the difference of one more of them has the variance
    V·(1 + 1/R), with V the variance over seeds, of which spread² is an estimate with R - 1 degrees of freedom.
    Examples that turn out differently from seed to seed are a part of V (w = `single`) and must not be added again.
    What the choice of examples adds is e (`example_variance`), which is zero for one more retrained model, whose
    expected difference is zero on every example.

    Since V >= w, and w is known from all examples where spread is only known from R models, V is estimated by
    spread² + w/5 with (R - 1)·(1 + (R - 1)²·w / (50·spread²))² degrees of freedom; with w = 0 that is Student's
    prediction interval. The two numbers were tuned, for normal seeds, to a rate of 4.4 to 5.8 % of one more retrained
    model being called different for every ratio V / w and R = 2 to 8 (numerical integration); with spread² alone the
    rate is 5 %, but two or three models whose values agree by chance would call anything different. e widens the
    degrees of freedom by 1 + e / V', V' = max(spread² + w/5, w)·(1 + 1/R): one power less than Satterthwaite's, which
    takes a V that is small by chance for known. Simulated rates stand in the guide to intervals; they come from
    `tests/benchmarks/interval_coverage.py`.

    Args:
        value: the subject's value.
        mean: of the same measurement of the retrained models.
        spread: their sample standard deviation.
        references: R >= 2, how many there are.
        example_variance: e, see `chance_of_examples`.
        single: w, see there.
        least: a lower limit of the variance of the difference: values that are shares of n examples have steps.
        level: coverage of the interval.
    """
    inflated, squared = 1 + 1 / references, spread * spread
    seeds = inflated * (squared + SHARE * single)
    freedom = float("inf")
    if squared > 0:
        widened = 1 + FREEDOM * (references - 1) ** 2 * (single / squared)
        known = max(seeds, inflated * single)
        added = 1 + example_variance / known
        freedom = (references - 1) * widened * widened * added
    error = float(np.sqrt(max(seeds + example_variance, least)))
    bounds = student_interval(value - mean, error, freedom if freedom < MANY else float("inf"), level)
    return Difference(value - mean, error, freedom if freedom < MANY else float("inf"), bounds.low, bounds.high)
