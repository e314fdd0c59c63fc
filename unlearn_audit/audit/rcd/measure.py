"""The relearning convergence delay of every subject and control, raw and against the unseen twin."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unlearn_audit import metrics
from unlearn_audit.audit.context import AuditContext
from unlearn_audit.audit.measurement import interval, measurement
from unlearn_audit.audit.rcd.common_step import left_behind
from unlearn_audit.audit.rcd.curves import ModelCurves, RcdCurves, relearn_models
from unlearn_audit.audit.rcd.numbers import (
    anamnesis_index,
    area_interval,
    normalised,
    ratio_to_retrained,
    resampling,
    scaled,
    steps_to_relearn,
)
from unlearn_audit.audit.rcd.pairs import OF_A_CLASS, paired_comparison, paired_ratio
from unlearn_audit.audit.rcd.rankings import OrderChange, looked_at, order_changes, ranks
from unlearn_audit.audit.rcd.step_sizes import Ablation, ablation_details, ablations, essentially_initial, moved
from unlearn_audit.audit.rcd.unmoved import relearning_doubts
from unlearn_audit.audit.reference import comparison_of, difference_of_log_ratios, reference_of
from unlearn_audit.audit.section import SearchState, SectionResult
from unlearn_audit.config import RcdSettings
from unlearn_audit.relearning import Curve, status
from unlearn_audit.report import Comparison, Interval, Measurement

LONGEST_CURVE = 2000  # points kept in the details of a measurement; longer ones stand in arrays.npz
HEAVY = 0.5  # share of the sum in the hardest 5 % from which on intervals over examples fall short of 95 %
COVERAGE = "simulated: about 90 % of the time at n = 144 and 86 % at n = 36 for a share of 60 %"
Floats = NDArray[np.float64]


def measure_rcd(context: AuditContext, settings: RcdSettings, search: SearchState) -> SectionResult:
    """Return `rcd.*` of every subject and of a random initialisation.

    Raises:
        UsageError: the request contradicts itself.
        MeasurementError: K was to be chosen by the curves, and a tail is not exponential.
    """
    curves = relearn_models(context, settings, search)
    doubts = relearning_doubts(curves)
    said = (*curves.limitations, *_limitations(curves), *(text for found in doubts.values() for text in found))
    return SectionResult(tuple(_measurements(curves, doubts)), said, _arrays(curves))


def _measurements(curves: RcdCurves, doubts: Mapping[str, Sequence[str]]) -> Iterator[Measurement]:
    steps = ablations(curves)
    orders = _Orders(curves)
    for one in curves.taken:
        for found in (
            _raw(curves, one, steps, orders),
            _ratio(curves, one),
            scaled(curves, one),
            normalised(curves, one),
            ratio_to_retrained(curves, one),
            steps_to_relearn(curves, one),
            anamnesis_index(curves, one),
        ):
            yield found.model_copy(update={"doubts": tuple(doubts.get(one.candidate.label, ()))})


class _Orders:
    """The models' ranking by RCD_K for every K, all read off one trajectory each."""

    def __init__(self, curves: RcdCurves) -> None:
        whole = [one for one in curves.taken if one.raw is not None]
        self.sums = {one.candidate.label: np.cumsum(one.excess) for one in whole}
        self.changes = order_changes(self.sums)
        self.by_k = {
            k: ranks({label: float(sums[k]) for label, sums in self.sums.items()}) for k in looked_at(curves.steps)
        }
        plain = ranks({one.candidate.label: float(one.phi.sum()) for one in whole})
        self.floor_matters = plain != self.by_k[curves.steps]

    def details(self, label: str) -> dict[str, object]:
        """Return one model's rank at each K, and where it changes order with another one."""
        mine = [change for change in self.changes if label in (change.larger, change.smaller)]
        return {
            "rank_by_k": {str(k): found[label] for k, found in self.by_k.items() if label in found},
            "order_changes": [self._said(change, label) for change in mine],
            "same_ranking_with_floor_zero": not self.floor_matters,
        }

    def _said(self, change: OrderChange, label: str) -> dict[str, object]:
        above = change.larger == label
        return {"with": change.smaller if above else change.larger, "at": change.at, "larger_from_there": above}


def _limitations(curves: RcdCurves) -> list[str]:
    """Say what the sums may not be taken for."""
    settings = curves.settings
    found = [text for one in curves.taken for text in _not_descents(one)]
    if curves.steps == 0:
        found.append("K = 0: no step is taken, so that RCD is the loss itself and says nothing of relearning")
    found += left_behind(curves.search, curves.step_size)
    if settings.minibatch is not None or settings.augment:
        found.append("minibatches and augmentation are one seeded draw, which RCD's intervals do not cover")
    found += _few_carry_the_sum(curves)
    unfinished = [key for key, fit in curves.floors.fits.items() if not fit.converged]
    if unfinished:
        found.append(
            f"the fitted floor is where L-BFGS gave up, not where the gradient vanished, for {len(unfinished)} of "
            f"{len(curves.floors.fits)} sets (first: {unfinished[0][0]}): the true floor is lower"
        )
    return found


def _few_carry_the_sum(curves: RcdCurves) -> list[str]:
    """Say whose sums rest on so few examples that intervals over examples cannot keep their word."""
    shares = {
        one.candidate.label: max(metrics.tail_share(side.areas) or 0.0 for side in (one.forget, one.unseen))
        for one in curves.taken
        if one.candidate.role != "control" and not one.diverged
    }
    heavy = {label: share for label, share in shares.items() if share > HEAVY}
    if not heavy:
        return []
    most = max(heavy, key=lambda label: heavy[label])
    return [
        f"the hardest 5 % of the examples carry more than {HEAVY:.0%} of RCD on the forget set or its twin for "
        f"{', '.join(heavy)} (most: {heavy[most]:.0%}, {most}): 95 % intervals of rcd.raw, .scaled, .normalised and "
        f".ratio_to_unseen hold the truth less often then ({COVERAGE})"
    ]


def _not_descents(one: ModelCurves) -> list[str]:
    """Say which curves are no descents, since their sums are not areas under a relearning curve."""
    return [
        f"{one.candidate.label} relearning its {name}: {status(curve)}"
        for name, curve in (("forget set", one.forget), ("unseen twin", one.unseen))
        if curve.diverged_at is not None or curve.rises_from is not None
    ]


def _curves(curve: Curve) -> dict[str, Floats]:
    found = {
        "loss": curve.loss,
        **({"error": curve.error} if len(curve.error) else {}),
        "gradient_norm": curve.gradient_norm,
        "distance": curve.distance,
    }
    return found | ({"objective": curve.objective} if not np.array_equal(curve.objective, curve.loss) else {})


def _arrays(curves: RcdCurves) -> dict[str, NDArray[Any]]:
    """Return per-example areas, with the indices they belong to, and curves too long for a report."""
    arrays: dict[str, NDArray[Any]] = {
        name: page for one in curves.probes.values() for name, page in one.sheets.items()
    }
    for label, group in groupby(curves.planned, lambda planned: planned.candidate.label):
        one = next(one for one in curves.taken if one.candidate.label == label)
        for planned in group:
            curve: Curve = getattr(one, planned.kind)
            at = f"rcd/{label}/{planned.kind}"
            arrays |= {f"{at}/indices": planned.indices, f"{at}/areas": curve.areas}
            if len(curve.error_areas):
                arrays[f"{at}/error_areas"] = curve.error_areas
            if len(curve.loss) > LONGEST_CURVE:
                arrays |= {f"{at}/{name}": values for name, values in _curves(curve).items()}
    return arrays


def _raw(curves: RcdCurves, one: ModelCurves, steps: Sequence[Ablation], orders: _Orders) -> Measurement:
    """Return RCD_K on the measured forget set (Eq. 4)."""
    levels = [other.raw for other in curves.references(one)]
    return measurement(
        "rcd.raw",
        one.candidate,
        one.raw,
        one.why_no_sum,
        n=len(one.forget.areas),
        interval=area_interval(curves, one),
        reference=reference_of([level for level in levels if level is not None]),
        method=curves.method(),
        details=_raw_details(curves, one, steps, orders),
    )


def _raw_details(curves: RcdCurves, one: ModelCurves, steps: Sequence[Ablation], orders: _Orders) -> dict[str, object]:
    """Return the curve, what it is, and how the models rank by it."""
    curve, label, share = one.forget, one.candidate.label, moved(one.forget)
    return {
        "status": status(curve),
        "step_size": curves.step_size,
        **_shown_curves(curve, label),
        "error_sum": one.error_sum,
        "tail_share": metrics.tail_share(curve.areas) if not one.diverged else None,
        "loss_sum": None if one.diverged else float(curve.loss.sum()),
        "on_unseen": one.raw_unseen,
        "moved": share,
        "essentially_initial_loss": essentially_initial(share, curves.steps),
        "floor": _floor_details(curves, one),
        **orders.details(label),
        "step_sizes": ablation_details(steps, label, curves.steps),
        "passes": {"forward": curve.forwards, "backward": curve.backwards},
        "step_size_search": curves.search._asdict(),
        "stopped": _stop_details(curves, label),
        **({"probe": curves.probes[label].details} if label in curves.probes else {}),
    }


def _shown_curves(curve: Curve, label: str) -> dict[str, object]:
    """Return the curves, or where to find them when they are too long for a report."""
    short = len(curve.loss) <= LONGEST_CURVE
    found: dict[str, object] = {name: values.tolist() if short else None for name, values in _curves(curve).items()}
    return found if short else found | {"curves_in": f"arrays.npz, rcd/{label}/forget/"}


def _floor_details(curves: RcdCurves, one: ModelCurves) -> dict[str, object]:
    fit = curves.floors.fits.get((one.candidate.label, "forget"))
    found: dict[str, object] = {"value": one.floor, "kind": curves.floors.text.split(" ")[0]}
    return found | ({} if fit is None else
                    {"converged": fit.converged, "gradient_norm": fit.gradient_norm, "passes": fit.passes})  # fmt: skip


def _stop_details(curves: RcdCurves, label: str) -> dict[str, object] | None:
    """Return when each of a candidate's curves was ready, where K was theirs to choose."""
    if not curves.stops:
        return None
    ready = {
        planned.kind: at
        for planned, at in zip(curves.planned, curves.stops, strict=True)
        if planned.candidate.label == label
    }
    settings = curves.settings
    return {"tolerance": settings.tolerance, "ready_at": ready, "steps": curves.steps, "max_steps": settings.max_steps,
            "saved": settings.max_steps - curves.steps}  # fmt: skip


def _ratio(curves: RcdCurves, one: ModelCurves) -> Measurement:
    """Return RCD_K(forget) / RCD_K(unseen twin), same model, same step, plain losses, floor zero."""
    levels = {other.candidate.label: other.ratio for other in curves.references(one) if other.ratio}
    twin = "; twin matched on difficulty" if one.matched else ""
    between_members = one.candidate.is_generator and bool(curves.context.splits.forgotten_classes)
    return measurement(
        "rcd.ratio_to_unseen",
        one.candidate,
        one.ratio,
        _why_no_ratio(one),
        n=len(one.paired.areas),
        interval=_ratio_interval(curves, one),
        reference=reference_of(list(levels.values())),
        comparison=_ratio_comparison(curves, one, levels),
        flags=("another question",) if between_members else (),
        method=curves.method("zero") + twin + (f"; {OF_A_CLASS}" if between_members else ""),
        details={
            **_heavy_tails(one),
            "quicker_than_unseen": _quicker(one),
            "error_version": _error_ratio(one),
            "status_unseen": status(one.unseen),
            "loss_unseen": one.unseen.loss.tolist() if len(one.unseen.loss) <= LONGEST_CURVE else None,
            "matching": _matching_details(one),
        },
    )


def _heavy_tails(one: ModelCurves) -> dict[str, object]:
    """Say what a few hard examples carry, and what the ratio is without them."""
    whole = one.ratio is not None
    return {
        "tail_share_forget": metrics.tail_share(one.paired.areas) if whole else None,
        "tail_share_unseen": metrics.tail_share(one.unseen.areas) if whole else None,
        "ratio_of_medians": metrics.ratio_of_medians(one.paired.areas, one.unseen.areas) if whole else None,
    }


SURE = 0.999  # level at which a retrained model's own relearning puts it in doubt


def _quicker(one: ModelCurves) -> dict[str, float] | None:
    """Return how often a forget example's area is smaller than an unseen one's, 1/2 for one that saw neither.

    Ranks do not mind the few hard examples that may carry the sums.
    """
    if one.ratio is None:
        return None
    areas = -one.paired.areas, -one.unseen.areas
    value, bounds = metrics.auc(*areas), metrics.auc_interval(*areas, SURE)
    if value is None or bounds is None:
        return None
    return {"value": value, "low": bounds.low, "high": bounds.high, "level": SURE}


def _matching_details(one: ModelCurves) -> dict[str, object] | None:
    """Return how close partners are in loss, and under which models."""
    found = one.matched
    if found is None:
        return None
    return {"under": list(found.reference_models), "mean_loss_distance": found.distance,
            "mean_loss_distance_of_random_twin": found.random_distance}  # fmt: skip


def _error_ratio(one: ModelCurves) -> float | None:
    """Return the same ratio of sums of errors."""
    if one.ratio is None or not len(one.unseen.error) or not one.unseen.error.sum() > 0:
        return None
    return float(one.paired.error.sum() / one.unseen.error.sum())


def _why_no_ratio(one: ModelCurves) -> str:
    for name, curve in (("forget set", one.paired), ("unseen twin", one.unseen)):
        if curve.diverged_at is not None:
            return f"relearning the {name} {status(curve)}"
    return "the area under the unseen twin's curve is zero"


def _ratio_interval(curves: RcdCurves, one: ModelCurves) -> Interval | None:
    if one.candidate.is_generator:
        return paired_ratio(one, **resampling(curves)) if one.ratio else None
    bounds = metrics.ratio_interval(one.paired.areas, one.unseen.areas, **resampling(curves)) if one.ratio else None
    return interval(bounds, f"{metrics.skewed_method(len(one.paired.areas), len(one.unseen.areas))}, both sets")


def _ratio_comparison(curves: RcdCurves, one: ModelCurves, levels: Mapping[str, float]) -> Comparison | None:
    """Compare log ratios with the retrained models': paired over examples, plus the spread of their seeds."""
    others = [other for other in curves.references(one) if other.candidate.label in levels]
    if not one.ratio:
        return None
    if one.candidate.is_generator:
        return paired_comparison(one, others)
    ratios = [one.ratio, *(levels[other.candidate.label] for other in others)]
    difference = difference_of_log_ratios(ratios, [(each.paired.areas, each.unseen.areas) for each in (one, *others)])
    return comparison_of(difference, "log ratio")
