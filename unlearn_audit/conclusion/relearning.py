"""What relearning above the original's own curve says: how much of what a model lacks that never saw the set."""

import math
from collections.abc import Sequence

from unlearn_audit.conclusion.words import named
from unlearn_audit.metrics import BLIND_ABOVE, student_interval
from unlearn_audit.report import Interval, Measurement, Reference

NEVER_GONE = (
    "without retrained models nothing says how slow one would be that never saw it, so that it cannot be called gone"
)
BLIND = BLIND_ABOVE["share"]  # what could hide beyond is no "no difference"
SMALL = 0.01  # of the original's own sum of losses: an excess that ends below it is as fast as the original


def relearning_sentence(measurements: Sequence[Measurement], label: str, role: str) -> str | None:
    """Return what one subject's excess over the original's curve says; None without one, and of the original itself.

    Args:
        measurements: of one report.
        label: of the subject.
        role: of the subject.
    """
    found = {one.name: one for one in measurements if one.subject == label}
    raw, share = found.get("rcd.raw"), found.get("rcd.ratio_to_retrained")
    if role == "original" or raw is None or not _over_the_original(raw) or not _is_number(raw):
        return None
    told = _of_share(share) if share is not None and _is_number(share) else _of_excess(raw, share)
    shape, steps = _of_shape(found.get("rcd.normalised")), _of_steps(found.get("rcd.steps_to_relearn"))
    return f"{named(label, role)}, relearning the forget set: {told}{shape}{steps}."


def _over_the_original(raw: Measurement) -> bool:
    floor = raw.details.get("floor")
    return isinstance(floor, dict) and floor.get("kind") == "original"


def _is_number(found: Measurement) -> bool:
    return isinstance(found.value, int | float)


def _value(found: Measurement) -> float:
    return float(found.value) if isinstance(found.value, int | float) else float("nan")


def _ends(interval: Interval) -> str:
    return f"[{interval.low:.2f}, {interval.high:.2f}]"


def _of_share(share: Measurement) -> str:
    """Say where a share lies between that of the original, 0, and that of the retrained models, 1."""
    value, ends = _value(share), share.interval
    if ends is None:
        return f"its excess over the original is {value:.2f} of the only retrained model's (its chance: unknown)"
    said = f"its excess over the original is {value:.2f} {_ends(ends)} of the retrained models'"
    reach = math.hypot(value - ends.low, _of_one_more(share.reference))
    if value - reach > 1:
        return (
            f"{said}: it lies further from the set than models that never saw it; it, or its condition alone, was "
            "driven away, which does not say that nothing is left"
        )
    if value + reach < 1:
        if ends.low <= 0 and ends.high <= BLIND:
            return f"{said}: it relearns as the original does"
        return f"{said}: it relearns faster than models that never saw it: some of it is still there"
    if ends.low <= 0:
        return f"{said}, which tells it neither from them nor from the original"
    if reach > BLIND:
        return f"{said}, {_too_blind(reach, share.reference)}"
    return f"{said}: no difference seen from models that never saw it (could see {reach:.2f})"


def _too_blind(reach: float, reference: Reference | None) -> str:
    """Say that a share could as well be that of a model that never saw the set, and what would narrow it."""
    few = f", of which there are {reference.n}: add some" if reference else ""
    return (
        "but whether that differs from models that never saw it could not be told: a difference below "
        f"{reach:.2f} could be the chance of a retrained model's seed or of the examples{few}"
    )


def _of_one_more(reference: Reference | None) -> float:
    """Return how far from 1 the share of one more retrained model may lie by its own seed alone."""
    if reference is None or not reference.spread:
        return 0.0
    return student_interval(0.0, reference.spread, reference.n - 1).high


def _of_excess(raw: Measurement, share: Measurement | None) -> str:
    """Say what the excess itself says, where there is nothing to take a share of."""
    value, ends = _value(raw), raw.interval
    said = f"its excess over the original is {value:+.3g}" + (f" [{ends.low:+.3g}, {ends.high:+.3g}]" if ends else "")
    if share is not None and share.reason and "nothing to take a share of" in share.reason:
        return f"{said}; the retrained models have none either, so that relearning tells nothing on this set"
    if ends is not None and ends.low > 0:
        return f"{said}: it relearns more slowly than the original; {NEVER_GONE}"
    if ends is not None and ends.high <= _small(raw):
        return f"{said}, {SMALL:.0%} of the original's losses at most: it relearns as fast as the original"
    wide = f"known to ± {(ends.high - ends.low) / 2:.2g}" if ends else "without an interval"
    return f"{said}: {wide}, it could not be told whether it relearns as fast as the original"


def _small(raw: Measurement) -> float:
    """Return the excess that is small against the original's own sum of losses; 0 where that is not known."""
    losses = raw.details.get("loss_sum")
    return SMALL * (float(losses) - _value(raw)) if isinstance(losses, int | float) else 0.0


def _of_shape(found: Measurement | None) -> str:
    """Say that an excess falls sooner than the retrained models' do, which a share of areas may hide."""
    comparison = found.comparison if found is not None else None
    if found is None or comparison is None or found.reference is None or comparison.interval.high >= 0:
        return ""
    return (
        f"; for its height that excess falls sooner than theirs (normalised {_value(found):.2f}, retrained "
        f"{found.reference.value:.2f}), as what is only hidden does"
    )


def _of_steps(found: Measurement | None) -> str:
    """Say after how many steps the loss is the original's again."""
    if found is None:
        return ""
    reference = found.reference
    others = f" (retrained: {reference.value:.3g})" if reference else ""
    if _is_number(found):
        return f"; its loss is the original's again after {_value(found):.0f} steps{others}"
    if found.at_least is None:
        return ""
    return f"; its loss is not the original's again after {found.at_least - 1:.0f} steps{others}"
