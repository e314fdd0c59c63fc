"""Reading a value against the retrained models: the reference, its spread, and what may be called a difference."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from unlearn_audit import metrics
from unlearn_audit.report import Comparison, Interval, Reference, Scale

PAIRED = "Student t, paired over examples plus spread of retrained seeds"
NO_RETRAINED = "no retrained model to compare with was given"


def no_reference(role: str) -> str:
    """Return why a subject of that role has nothing to be compared with."""
    return "no other retrained model to compare with was given" if role == "retrained" else NO_RETRAINED


def reference_of(levels: Sequence[float]) -> Reference | None:
    """Return the retrained models' mean and spread, or None without one."""
    if not levels:
        return None
    mean, spread = metrics.mean_and_spread(levels)
    return Reference(role="retrained", value=mean, spread=spread, n=len(levels))


def compared(
    value: float,
    levels: Sequence[float],
    sides: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]],
    *,
    least: float = 0.0,
    level: float = 0.95,
    reach: float = float("inf"),
) -> metrics.Difference | None:
    """Return the difference to the retrained models, paired over examples, or None below two of them.

    Args:
        value: the subject's.
        levels: the retrained models' values.
        sides: for each set of examples the numbers whose means make up the value: the subject's [n], the retrained
            models' [R, n].
        least: a lower limit of the difference's variance.
        level: coverage of the interval.
        reach: the largest difference that there can be; the interval ends there.
    """
    reference = reference_of(levels)
    if reference is None or reference.spread is None:
        return None
    chance = metrics.chance_of_examples(sides)
    found = metrics.difference_from_references(
        value,
        reference.value,
        spread=reference.spread,
        references=reference.n,
        example_variance=chance.examples,
        single=chance.single,
        least=least,
        level=level,
    )
    return found._replace(low=max(found.low, -reach), high=min(found.high, reach))


def difference_of_means(
    ours: NDArray[np.float64], others: Sequence[NDArray[np.float64]], scale: Scale, *, widest: float = 1.0
) -> metrics.Difference | None:
    """Compare a mean over examples with the retrained models', paired over examples; None below two of them.

    Args:
        ours: the subject's number for each example, [n].
        others: the retrained models', each [n].
        scale: what the numbers are: "fraction" of examples, or "nats".
        widest: how far apart two numbers of one example can be, for fractions; the interval ends there.
    """
    n = len(ours)
    if n < (1 if scale == "fraction" else 2) or len(others) < 2:
        return None
    # Models that agree on every example still come from a finite set: count one disagreement, in the spirit of
    # Agresti & Min 2005, so that no interval has zero width.
    least, reach = (1 / n**2, widest) if scale == "fraction" else (0.0, float("inf"))
    levels = [float(other.mean()) for other in others]
    return compared(float(ours.mean()), levels, [(ours, np.stack(others))], least=least, reach=reach)


def difference_of_logs(ours: NDArray[np.float64], others: Sequence[NDArray[np.float64]]) -> metrics.Difference | None:
    """Compare the log of a mean with the retrained models', paired over examples; None below two of them.

    Args:
        ours: the subject's number for each example, [n], of positive mean.
        others: the retrained models', each [n], likewise.
    """
    means = [float(each.mean()) for each in (ours, *others)] if len(ours) > 1 else []
    if len(means) < 3 or min(means) <= 0:
        return None
    shares = [each / mean for each, mean in zip((ours, *others), means, strict=True)]  # d log(mean) is the share of it
    logs = [float(np.log(mean)) for mean in means]
    return compared(logs[0], logs[1:], [(shares[0], np.stack(shares[1:]))])


def difference_of_log_ratios(
    ratios: Sequence[float], sets: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]]
) -> metrics.Difference | None:
    """Compare the log of a ratio of two means with the retrained models', paired over examples; None below two of them.

    Args:
        ratios: the subject's, then the retrained models', all positive.
        sets: of each in the same order the numbers whose means are divided, [n] over [m].
    """
    if len(ratios) < 3 or min(map(len, sets[0])) < 2:
        return None
    # d log(ratio) is an example's share of its set's mean, with the other set's against it.
    shares = [(above / above.mean(), -below / below.mean()) for above, below in sets]
    sides = [(side[0], np.stack(side[1:])) for side in zip(*shares, strict=True)]
    logs = [float(np.log(ratio)) for ratio in ratios]
    return compared(logs[0], logs[1:], sides)


def comparison_of(difference: metrics.Difference | None, scale: Scale) -> Comparison | None:
    """Return a difference to the retrained models as a report has it.

    Args:
        difference: of `compared`; None gives None.
        scale: on which it was taken.
    """
    if difference is None:
        return None
    freedom = difference.degrees_of_freedom
    return Comparison(
        scale=scale,
        difference=difference.value,
        interval=Interval(low=difference.low, high=difference.high, method=PAIRED),
        df=None if freedom == float("inf") else freedom,
        seen=difference.seen,
        blind_below=(difference.high - difference.low) / 2,
    )
