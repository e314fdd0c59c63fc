"""The numbers of RCD beside the sum itself: scaled, normalised, against retrained models, steps to relearn."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from unlearn_audit import metrics
from unlearn_audit.audit.generators import NO_ACCURACY
from unlearn_audit.audit.measurement import interval, measurement
from unlearn_audit.audit.rcd.curves import ModelCurves, RcdCurves
from unlearn_audit.audit.rcd.loss_steps import MORE, first_within, original_loss, steps_to_loss
from unlearn_audit.audit.rcd.loss_steps import WITHIN as WITHIN_LOSS
from unlearn_audit.audit.rcd.shares import paired_mean, share_of_excess
from unlearn_audit.audit.reference import NO_RETRAINED, compared, comparison_of, reference_of
from unlearn_audit.engine import derive_seed
from unlearn_audit.relearning import Curve, status
from unlearn_audit.report import Comparison, Interval, Measurement, Reference

FLAT = 1e-3  # nats: below this initial excess a share of it is a share of nothing
WITHIN = 0.05  # relative distance to the original's accuracy that counts as relearned (Chundawat et al. 2023)
BURIED = (
    "a generator's loss has a part that nothing reduces, which stands in every sum over any floor but the original's "
    'own curve and brings the ratios of all models near 1; take floor = "original", with an original among the models'
)


class Found(NamedTuple):
    """A value, or None with the reason why there is none."""

    value: float | None
    reason: str | None = None


def scaled(curves: RcdCurves, one: ModelCurves) -> Measurement:
    """Return `rcd.scaled`: step size x RCD_K, comparable between step sizes at equal step x K.

    As the step size goes to 0 at fixed step x K it approaches the area under the curve of gradient flow.
    """
    step, adam = curves.step_size, curves.settings.optimizer == "adam"
    why = "Adam's steps have no length in units of the gradient" if adam else "the step size follows the curvature"
    factor = None if adam or step == "lambda" else float(step)

    def value_of(other: ModelCurves) -> Found:
        if other.raw is None:
            return Found(None, other.why_no_sum)
        return Found(other.raw * factor) if factor is not None else Found(None, why)

    interval = area_interval(curves, one, factor=factor) if factor is not None else None
    return _measurement(
        curves, one, "rcd.scaled", value_of, interval=interval,
        method=f"{curves.method()}; times the step size; compare at equal step x K"
        + (f" = {factor * curves.steps:.4g}" if factor is not None else ""),
        details={
            "step_times_steps": None if factor is None else factor * curves.steps,
            "error_version": None if factor is None or one.error_sum is None else factor * one.error_sum,
        },
    )  # fmt: skip


def area_interval(curves: RcdCurves, one: ModelCurves, *, factor: float = 1.0) -> Interval | None:
    """Return the interval of `factor` x RCD_K over examples drawn from the same source as the forget set.

    The floor and a decay of the weights are no matter of the examples: they shift the interval of the areas' mean. The
    sum over a floor that no curve goes below cannot be negative, nor can its interval.
    """
    if one.original is not None:
        return _paired_interval(one, factor) if one.raw is not None else None
    areas = one.forget.areas
    bounds = metrics.mean_interval(areas, **resampling(curves)) if one.raw is not None else None
    if one.raw is None or bounds is None:
        return None
    shift, least = one.raw - float(areas.mean()), 0.0 if one.raw >= 0 and one.floor >= 0 else -math.inf
    low, high = (factor * max(end + shift, least) for end in bounds)
    return Interval(low=low, high=high, method=metrics.skewed_method(len(areas)))


def _paired_interval(one: ModelCurves, factor: float) -> Interval | None:
    """Return that of the excess over the original's own curve, which both models have on the same examples."""
    bounds = paired_mean(one.excess_areas)
    if one.raw is None or bounds is None:
        return None
    shift = one.raw - float(one.excess_areas.mean())
    low, high = (factor * (end + shift) for end in bounds)
    return Interval(low=low, high=high, method="Student t over examples, paired with the original's")


def resampling(curves: RcdCurves) -> dict[str, int]:
    """Return the seed and the number of resamples of every interval over examples."""
    return {"seed": derive_seed(curves.context.config.seed, "bootstrap"), "resamples": curves.settings.resamples}


def normalised(curves: RcdCurves, one: ModelCurves) -> Measurement:
    """Return `rcd.normalised`: RCD_K / ((K + 1) x initial excess), 1 for a curve that does not move.

    It takes out how high a loss begins and leaves the shape of its fall.
    """
    difference = _normalised_difference(one, curves.references(one))
    return _measurement(
        curves, one, "rcd.normalised", _normalised, interval=_normalised_interval(curves, one),
        comparison=comparison_of(difference, "log ratio"),
        method=f"{curves.method()}; divided by (K + 1) x initial excess; higher for a model that fits the set already, "
        "whose small excess has little left to fall",
        details={
            "initial_excess": None if one.why_no_sum else float(one.excess[0]),
            "error_version": _normalised_error(one.forget),
        },
    )  # fmt: skip


def _normalised(one: ModelCurves) -> Found:
    if one.raw is None:
        return Found(None, one.why_no_sum)
    excess = float(one.excess[0])
    if excess < FLAT:
        unit = "" if one.candidate.is_generator else " nats"
        return Found(None, f"the initial excess over the floor, {excess:.2g}{unit}, is below {FLAT:g}")
    return Found(one.raw / (len(one.phi) * excess))


def _normalised_error(curve: Curve) -> float | None:
    if curve.diverged_at is not None or not len(curve.error) or curve.error[0] < FLAT:
        return None
    return float(curve.error.mean() / curve.error[0])


def _normalised_interval(curves: RcdCurves, one: ModelCurves) -> Interval | None:
    """Return the interval over examples of the ratio of the mean area and the mean first loss, floors taken off."""
    if _normalised(one).value is None or one.raw is None:
        return None
    areas, first, excess = one.excess_areas, one.excess_first, float(one.excess[0])
    above = areas + (one.raw - float(areas.mean()))
    below = len(one.phi) * (first + (excess - float(first.mean())))
    bounds = metrics.paired_ratio_interval(above, below, **resampling(curves))
    return interval(bounds, metrics.skewed_method(len(areas)))


def _normalised_difference(one: ModelCurves, others: Sequence[ModelCurves]) -> metrics.Difference | None:
    """Compare its log with the retrained models', above the original's own curve; None where one has no such number.

    There it tells what was hidden from what was never there: that comes back as slowly as a new set is learned.
    """
    models = (one, *others)
    levels = [_normalised(each).value or 0.0 for each in models]
    if one.original is None or min(levels) <= 0 or len(others) < 2 or len(one.forget.areas) < 2:
        return None
    # d log(area / first loss) of an example: its share of the area minus its share of the first loss
    shares = [each.excess_areas / (each.raw or 1.0) - each.excess_first / float(each.excess[0]) for each in models]
    logs = [math.log(level) for level in levels]
    return compared(logs[0], logs[1:], [(shares[0], np.stack(shares[1:]))])


def ratio_to_retrained(curves: RcdCurves, one: ModelCurves) -> Measurement:
    """Return `rcd.ratio_to_retrained`: RCD_K / geometric mean RCD_K of the retrained models.

    The geometric mean is that of the interval, which is one of log ratios: both speak of the same number.

    Over the original's own curve, which leaves no sums of one sign, it is the share of their mean (`shares`); of a
    generator there is none over another floor.
    """
    others = curves.references(one)
    if one.original is not None:
        return _share(curves, one, others)
    if others and one.candidate.is_generator:
        return _measurement(
            curves, one, "rcd.ratio_to_retrained", lambda _: Found(None, BURIED), method=curves.method(),
            details={"retrained": {other.candidate.label: other.raw for other in others}},
        )  # fmt: skip
    levels = [other.raw for other in others if other.raw is not None]
    mean = _geometric_mean(levels)
    found = _to_retrained(one, others, levels, mean)
    difference = _log_difference(one, others) if found.value is not None else None
    interval = None
    if found.value is not None and difference is not None:
        low, high = (found.value * math.exp(end - difference.value) for end in (difference.low, difference.high))
        method = "Student t of the log ratio, paired over examples plus spread of retrained seeds"
        interval = Interval(low=low, high=high, method=method) if math.isfinite(high) else None
    spread = metrics.mean_and_spread([level / mean for level in levels])[1] if mean else None
    return _measurement(
        curves, one, "rcd.ratio_to_retrained", lambda _: found, interval=interval,
        reference=Reference(role="retrained", value=1.0, spread=spread, n=len(levels)) if mean else None,
        method=f"{curves.method()}; divided by the retrained models' geometric mean",
        comparison=comparison_of(difference, "log ratio"),
        details={
            "retrained": {other.candidate.label: other.raw for other in others},
            "error_version": _error_to_retrained(one, others),
        },
    )  # fmt: skip


def _share(curves: RcdCurves, one: ModelCurves, others: Sequence[ModelCurves]) -> Measurement:
    found = share_of_excess(one, others)
    reference = (
        Reference(role="retrained", value=1.0, spread=found.spread, n=len(others)) if found.value is not None else None
    )
    return _measurement(
        curves, one, "rcd.ratio_to_retrained", lambda _: Found(found.value, found.reason), interval=found.interval,
        reference=reference, comparison=comparison_of(found.difference, "share"),
        method=f"{curves.method()}; divided by the retrained models' mean: 0 relearns as the original, 1 as a model "
        "that never saw the set, above 1 it was driven away from it",
        details={
            "retrained": {other.candidate.label: other.raw for other in others},
            "at_k": _shares_by_k(one, others),
        },
    )  # fmt: skip


def _shares_by_k(one: ModelCurves, others: Sequence[ModelCurves]) -> dict[str, float] | None:
    """Return the share for K = 0, 5, 10, 20, …: at 0 it is that of the loss alone."""
    if one.why_no_sum or not others or any(other.why_no_sum for other in others):
        return None
    ours, theirs = np.cumsum(one.excess), np.mean([np.cumsum(other.excess) for other in others], axis=0)
    looks = sorted({k for k in (0, 5, 10, 20, 40, 80, 160, len(ours) - 1) if k < len(ours)})
    return {str(k): float(ours[k] / theirs[k]) for k in looks if theirs[k] > 0}


def _geometric_mean(levels: Sequence[float]) -> float | None:
    """Return the geometric mean; None without values or where one is not positive."""
    return math.exp(float(np.mean(np.log(levels)))) if levels and min(levels) > 0 else None


def _to_retrained(
    one: ModelCurves, others: Sequence[ModelCurves], levels: Sequence[float], mean: float | None
) -> Found:
    if one.raw is None:
        return Found(None, status(one.forget))
    if not others:
        return Found(None, NO_RETRAINED)
    if len(levels) < len(others):
        return Found(None, "a retrained model's curve diverged")
    return Found(one.raw / mean) if mean else Found(None, "a retrained model's sum is not above the floor")


def _log_difference(one: ModelCurves, others: Sequence[ModelCurves]) -> metrics.Difference | None:
    """Compare log sums with the retrained models'; None where a sum is not positive or there are too few."""
    sums = [other.raw or 0.0 for other in (one, *others)]
    if min(sums) <= 0 or len(one.forget.areas) < 2:
        return None
    if len(others) < 2:
        return None
    shares = [other.forget.areas / total for other, total in zip((one, *others), sums, strict=True)]
    logs = [math.log(total) for total in sums]
    return compared(logs[0], logs[1:], [(shares[0], np.stack(shares[1:]))])  # d log(sum) is the area's share of it


def _error_to_retrained(one: ModelCurves, others: Sequence[ModelCurves]) -> float | None:
    mean = _geometric_mean([other.error_sum for other in others if other.error_sum is not None])
    return None if one.error_sum is None or mean is None else one.error_sum / mean


def steps_to_accuracy(curve: Curve, accuracy: float) -> int | None:
    """Return the first step t at which the measured set's accuracy is at least `accuracy`; None where it never is."""
    reached = np.flatnonzero(1 - curve.error >= accuracy - 1e-12)
    return int(reached[0]) if len(reached) else None


def headline_accuracy(accuracies: Sequence[float]) -> float:
    """Return the accuracy whose step is the value: 90 % where it was asked for, else the highest one."""
    return 0.9 if 0.9 in accuracies else max(accuracies)


def steps_to_relearn(curves: RcdCurves, one: ModelCurves) -> Measurement:
    """Return `rcd.steps_to_relearn`: steps until the measured set's accuracy is back at given levels.

    Of a generator, until its loss is within 5 % of the original's own.
    """
    if one.candidate.is_generator:
        return _steps_to_loss(curves, one)
    accuracies = sorted(curves.settings.accuracies)
    chosen = headline_accuracy(accuracies)

    def value_of(other: ModelCurves) -> Found:
        return _steps(other.forget, chosen, f"accuracy {chosen:g}")

    others = curves.references(one)
    return _measurement(
        curves, one, "rcd.steps_to_relearn", value_of, whole=True,
        method=f"{curves.method()}; first step at which accuracy on the measured set is at least {chosen:g}",
        details={
            "accuracy": chosen,
            "accuracy_at_the_end": None if one.diverged else float(1 - one.forget.error[-1]),
            "at": {f"{level:g}": steps_to_accuracy(one.forget, level) for level in accuracies},
            "retrained": {other.candidate.label: value_of(other).value for other in others},
        },
    )  # fmt: skip


def _steps_to_loss(curves: RcdCurves, one: ModelCurves) -> Measurement:
    found, target, others = steps_to_loss(curves, one), original_loss(curves), curves.references(one)
    shares = () if target is None else (WITHIN_LOSS, *MORE)
    made = _measurement(
        curves, one, "rcd.steps_to_relearn", lambda other: Found(*steps_to_loss(curves, other)[:2]), whole=True,
        method=f"{curves.method()}; first step at which the loss on the measured set is within {WITHIN_LOSS:.0%} of "
        "the original's own before any step",
        details={
            "original_loss": target,
            "loss_at_the_end": None if one.diverged else float(one.forget.loss[-1]),
            "within": {f"{share:g}": first_within(one.forget, target or 0.0, share) for share in shares},
            "retrained": {other.candidate.label: steps_to_loss(curves, other).value for other in others},
        },
    )  # fmt: skip
    return made.model_copy(update={"at_least": found.at_least})


def _steps(curve: Curve, accuracy: float, name: str) -> Found:
    if curve.diverged_at is not None:
        return Found(None, status(curve))
    steps = steps_to_accuracy(curve, accuracy)
    if steps is None:
        return Found(None, f"{name} is not reached in {len(curve.loss) - 1} steps")
    return Found(float(steps))


def anamnesis_index(curves: RcdCurves, one: ModelCurves) -> Measurement:
    """Return `rcd.anamnesis_index`: steps to the original's accuracy / mean steps of the retrained models.

    Near 1 is what a retrained model shows, far below 1 says that something is left, far above 1 that the model was
    driven away from the data (Chundawat et al. 2023, arXiv 2201.05629).
    """
    found, target = _anamnesis(curves, one)
    others = curves.references(one)
    known = [_steps(other.forget, target, "").value for other in others] if target is not None else []
    steps = [step for step in known if step is not None]
    mean = float(np.mean(steps)) if steps else 0.0
    whole = len(steps) == len(others) and mean > 0
    return _measurement(
        curves, one, "rcd.anamnesis_index", lambda _: found,
        reference=reference_of([step / mean for step in steps]) if whole else None,
        method=f"{curves.method()}; steps to within {WITHIN:.0%} of the original's forget accuracy, divided by the "
        "retrained models' mean",
        details={
            "target_accuracy": target,
            "steps": None if target is None else steps_to_accuracy(one.forget, target),
            "retrained": {other.candidate.label: step for other, step in zip(others, known, strict=False)},
        },
    )  # fmt: skip


def _anamnesis(curves: RcdCurves, one: ModelCurves) -> tuple[Found, float | None]:
    """Return the index, and the accuracy that counts as relearned."""
    if one.candidate.is_generator:
        return Found(None, NO_ACCURACY), None
    original = next((other for other in curves.taken if other.candidate.role == "original"), None)
    if original is None or not len(original.forget.error):
        return Found(None, "no original model to take the accuracy from was given"), None
    target = float((1 - WITHIN) * (1 - original.forget.error[0]))
    others = curves.references(one)
    if not others:
        return Found(None, NO_RETRAINED), target
    name = f"the original's accuracy (within {WITHIN:.0%}: {target:.3g})"
    ours = _steps(one.forget, target, name)
    if ours.value is None:
        return ours, target
    theirs = [_steps(other.forget, target, name) for other in others]
    missing = next((other.candidate.label for other, step in zip(others, theirs, strict=True) if step.value is None),
                   None)  # fmt: skip
    if missing is not None:
        return Found(None, f"{name} is not reached by {missing}"), target
    mean = float(np.mean([step.value for step in theirs if step.value is not None]))
    if mean == 0:
        return Found(None, f"the retrained models reach {name} before any step"), target
    return Found(ours.value / mean), target


def _measurement(
    curves: RcdCurves,
    one: ModelCurves,
    name: str,
    value_of: Callable[[ModelCurves], Found],
    *,
    method: str,
    details: dict[str, Any],
    interval: Interval | None = None,
    reference: Reference | None = None,
    comparison: Comparison | None = None,
    whole: bool = False,
) -> Measurement:
    """Put a number and its surroundings together; the reference is the same number of the retrained models.

    With `whole` the reference is left out where one of them has no value, since the mean of the others is biased.
    """
    found = value_of(one)
    if reference is None and name not in ("rcd.ratio_to_retrained", "rcd.anamnesis_index"):
        levels = [value_of(other).value for other in curves.references(one)]
        known = [level for level in levels if level is not None]
        reference = reference_of(known) if not whole or len(known) == len(levels) else None
    return measurement(
        name,
        one.candidate,
        found.value,
        found.reason,
        n=len(one.forget.areas),
        interval=interval,
        reference=reference,
        comparison=comparison,
        method=method,
        details=details,
    )
