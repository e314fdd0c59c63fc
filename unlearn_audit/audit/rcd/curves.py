"""All candidates' relearning curves together, taken with one algorithm: what the numbers of RCD are read off."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from unlearn_audit import relearning
from unlearn_audit.audit.context import AuditContext
from unlearn_audit.audit.controls import with_control
from unlearn_audit.audit.null_rows import told_of_null_rows
from unlearn_audit.audit.rcd.auto_steps import relearn_until_small
from unlearn_audit.audit.rcd.floors import (
    Floors,
    Summed,
    chosen_floors,
    fitted_floors,
    lowest_reached,
    originals_curves,
)
from unlearn_audit.audit.rcd.kept_curves import kept_curves
from unlearn_audit.audit.rcd.matched_twin import Matched
from unlearn_audit.audit.rcd.probes import Probe, probes_of
from unlearn_audit.audit.rcd.runs import (
    RelearnKind,
    RelearnPlan,
    algorithm_of,
    algorithm_text,
    check_request,
    matched_twins,
    plan,
)
from unlearn_audit.audit.section import ANEW, SearchState
from unlearn_audit.config import RcdSettings
from unlearn_audit.errors import UsageError
from unlearn_audit.inputs import Candidate
from unlearn_audit.relearning import Curve, CurveSet, StepSearch, StepSize, status

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ModelCurves:
    """One candidate's curves: on the measured forget set, on its paired part, and on the unseen twin.

    Attributes:
        candidate: who.
        forget: the curve on the measured forget set.
        paired: on the part of it that has a twin; the same curve where all of it has.
        unseen: on the twin.
        phi: [K + 1] what is summed of the forget set: the objective, or the loss of a rest that is not relearned.
        phi_unseen: of the twin.
        floor: of `phi`.
        floor_unseen: of `phi_unseen`.
        matched: the twin, where it was matched on difficulty.
        original: the original's curve on the forget set, where that is the floor, at each step.
        original_unseen: likewise on the twin.
    """

    candidate: Candidate
    forget: Curve
    paired: Curve
    unseen: Curve
    phi: Floats
    phi_unseen: Floats
    floor: float
    floor_unseen: float
    matched: Matched | None = None
    original: Summed | None = None
    original_unseen: Summed | None = None

    @property
    def diverged(self) -> bool:
        """Whether the forget set's curve has no sum."""
        return self.forget.diverged_at is not None

    @property
    def raw(self) -> float | None:
        """RCD_K on the forget set (Eq. 4); None when the curve diverged, or the original's where that is the floor."""
        return None if self.why_no_sum is not None else float(self.excess.sum())

    @property
    def excess(self) -> Floats:
        """What is summed: [K + 1] Phi over its floor, which is the original's own curve where that was asked for."""
        if self.original is None:
            return self.phi - self.floor
        return np.asarray(self.phi - self.original.phi[: len(self.phi)])

    @property
    def why_no_sum(self) -> str | None:
        """Why there is none, in words."""
        if self.diverged:
            return status(self.forget)
        if self.original is not None and self.original.diverged_at is not None:
            return f"the original's curve, which is the floor, {status(self.original.curve)}"
        return None

    @property
    def excess_areas(self) -> Floats:
        """Each forget example's own sum of losses, less the original's where that is the floor, [N]."""
        areas = self.forget.areas
        return areas if self.original is None else areas - self.original.curve.areas

    @property
    def excess_first(self) -> Floats:
        """Each forget example's loss before any step, likewise, [N]."""
        first = self.forget.first_losses
        return first if self.original is None else first - self.original.curve.first_losses

    @property
    def raw_unseen(self) -> float | None:
        """RCD_K on the twin."""
        if self.unseen.diverged_at is not None:
            return None
        if self.original_unseen is None:
            return float((self.phi_unseen - self.floor_unseen).sum())
        whole = self.original_unseen.diverged_at is None
        return float((self.phi_unseen - self.original_unseen.phi).sum()) if whole else None

    @property
    def error_sum(self) -> float | None:
        """The same sum for the error, floor zero; None for a task that has none."""
        return None if self.diverged or not len(self.forget.error) else float(self.forget.error.sum())

    @property
    def ratio(self) -> float | None:
        """RCD on the paired forget examples / RCD on their twin: plain losses, floor zero; None when one diverged."""
        above, below = relearning.rcd(self.paired), relearning.rcd(self.unseen)
        return above / below if above is not None and below is not None and below > 0 else None


@dataclass(frozen=True)
class RcdCurves:
    """All candidates' curves together: what one is compared with.

    Attributes:
        context: the models and the sets.
        settings: what was asked for.
        taken: one for each candidate, controls last.
        planned: the trajectories that the curves came from.
        step_size: common to all, or "lambda".
        search: what finding it cost.
        floors: what the sums are taken over.
        steps: K, common to all.
        stops: with `--steps auto`, the step at which each trajectory was ready; else empty.
        limitations: what is to be said of the candidates and of their twins.
        probes: what subjects drew while they relearned, by label; empty unless it was asked for.
    """

    context: AuditContext
    settings: RcdSettings
    taken: tuple[ModelCurves, ...]
    planned: tuple[RelearnPlan, ...]
    step_size: StepSize
    search: StepSearch
    floors: Floors
    steps: int
    stops: tuple[int, ...] = ()
    limitations: tuple[str, ...] = ()
    probes: Mapping[str, Probe] = field(default_factory=dict)

    @property
    def original(self) -> str | None:
        """The label of the first original; None without any."""
        return next((one.candidate.label for one in self.taken if one.candidate.role == "original"), None)

    def references(self, one: ModelCurves) -> list[ModelCurves]:
        """Return the retrained models' curves, without the candidate's own."""
        labels = {candidate.label for candidate in self.context.references(one.candidate)}
        return [other for other in self.taken if other.candidate.label in labels]

    def method(self, floor: str | None = None) -> str:
        """Return how the curves were taken, in one line; `floor` names another floor than the sums'."""
        settings = self.settings
        step = "1/lambda_max, measured every 10 steps" if self.step_size == "lambda" else f"{self.step_size:.4g}"
        parts = [algorithm_text(settings), f"step {step}", f"K = {self.steps}{self._saved()}"]
        parts.append(f"floor {floor or self.floors.text}")
        parts.append("frozen BatchNorm" if settings.bn == "frozen" else "BatchNorm on batch statistics")
        if settings.relearn < 1:
            measured = len(self.taken[0].forget.areas)
            parts.append(f"relearned {len(self.planned[0].run.examples)}, measured on the other {measured}")
        if settings.weight_decay and floor is None and settings.relearn == 1:
            parts.append("Phi = loss + weight decay / 2 x |w|^2")
        return ", ".join(parts)

    def _saved(self) -> str:
        """Say what `--steps auto` saved."""
        if not self.stops:
            return ""
        settings = self.settings
        return f" (auto: {settings.max_steps - self.steps} fewer than {settings.max_steps})"


def relearn_models(context: AuditContext, settings: RcdSettings, search: SearchState = ANEW) -> RcdCurves:
    """Take all trajectories at one step size and settle their floors; a set that has its whole twin is relearned once.

    Of several step sizes the first one is taken.

    Raises:
        UsageError: the request contradicts itself.
        MeasurementError: K was to be chosen by the curves, and a tail is not exponential.
    """
    check_request(settings, generators=context.of_generators)
    candidates, lacks = with_control(context, wanted=settings.controls)
    twins, said = matched_twins(context, candidates) if settings.match_difficulty else ({}, ())
    planned = plan(context, settings, candidates, twins)
    floors = _floors_beforehand(context, settings, planned)
    probes = probes_of(context, settings, planned)
    relearned, steps, stops = _relearn(context, settings, planned=planned, floors=floors, search=search, probes=probes)
    floors = floors or _floors_afterwards(settings, planned, relearned.curves)
    taken = tuple(
        _gathered(one, planned, curves=relearned.curves, floors=floors, matched=twins.get(one.label))
        for one in candidates
    )
    return RcdCurves(
        context,
        settings,
        taken,
        planned,
        step_size=relearned.step_size,
        search=relearned.search,
        floors=floors,
        steps=steps,
        stops=stops,
        limitations=(*lacks, *said, *told_of_null_rows(context.subjects, context.splits), *_of_fixed_draws(settings)),
        probes={one.label: one for one in probes if one is not None},
    )


def _of_fixed_draws(settings: RcdSettings) -> tuple[str, ...]:
    if settings.draws != "fixed":
        return ()
    return ("--draws fixed: gradients on the draws that are measured relearn this noise, and not the set",)


def _floors_beforehand(context: AuditContext, settings: RcdSettings, planned: Sequence[RelearnPlan]) -> Floors | None:
    """Return the floors, unless the curves themselves have to say; K = auto needs the fitted one if none is named."""
    asked = "fit" if settings.steps == "auto" and "floor" not in settings.model_fields_set else settings.floor
    if asked in ("best", "original"):
        if asked == "original" and not context.with_role("original"):
            raise UsageError("--floor original needs an original among the models; name it with --original CKPT")
        return None
    if asked == "fit":
        return fitted_floors(context, planned, weight_decay=settings.weight_decay, own=settings.scope == "head")
    return chosen_floors(0.0 if asked == "zero" else float(asked), planned)


def _floors_afterwards(settings: RcdSettings, planned: Sequence[RelearnPlan], curves: Sequence[Curve]) -> Floors:
    """Return the floors that the curves themselves say."""
    return originals_curves(planned, curves) if settings.floor == "original" else lowest_reached(planned, curves)


def _relearn(
    context: AuditContext,
    settings: RcdSettings,
    *,
    planned: Sequence[RelearnPlan],
    floors: Floors | None,
    search: SearchState,
    probes: Sequence[Probe | None] = (),
) -> tuple[CurveSet, int, tuple[int, ...]]:
    """Return the curves, K, and where each was ready if K was theirs to choose."""
    step_size = settings.step_size[0] if isinstance(settings.step_size, tuple) else settings.step_size
    algorithm = algorithm_of(context, settings)
    if settings.steps == "auto" and floors is not None:
        return relearn_until_small(
            planned,
            floors,
            tolerance=settings.tolerance,
            max_steps=settings.max_steps,
            step_size=step_size,
            start=search.start,
            algorithm=algorithm,
            compute=context.compute,
            progress=context.progress,
        )
    steps = settings.steps if isinstance(settings.steps, int) else settings.max_steps
    runs = [one.run for one in planned]
    relearned = relearning.relearn_all(
        runs,
        steps=steps,
        step_size=step_size,
        start=search.start,
        owners=[None if one.candidate.role == "control" else one.candidate.label for one in planned],
        judged=_originals(planned),
        algorithm=algorithm,
        compute=context.compute,
        visits=probes,
        curve_cache=kept_curves([(one.candidate, one.sets) for one in planned], search.kept),
        progress=context.progress,
    )
    return relearned, steps, ()


def _originals(planned: Sequence[RelearnPlan]) -> tuple[int, ...] | None:
    """Return which runs are originals on the forget set, whose curve says whether a step is safe; None without any."""
    places = (index for index, one in enumerate(planned) if one.candidate.role == "original" and one.kind == "forget")
    return tuple(places) or None


def _gathered(
    candidate: Candidate,
    planned: Sequence[RelearnPlan],
    *,
    curves: Sequence[Curve],
    floors: Floors,
    matched: Matched | None,
) -> ModelCurves:
    """Return one candidate's curves with what is summed of them."""
    own: dict[RelearnKind, tuple[RelearnPlan, Curve]] = {
        one.kind: (one, curve)
        for one, curve in zip(planned, curves, strict=True)
        if one.candidate.label == candidate.label
    }
    forget, unseen = own["forget"], own["unseen"]
    return ModelCurves(
        candidate,
        forget[1],
        own.get("paired", forget)[1],
        unseen[1],
        forget[0].summed(forget[1]),
        unseen[0].summed(unseen[1]),
        floors.of(candidate.label, "forget"),
        floors.of(candidate.label, "unseen"),
        matched,
        floors.moving.get("forget"),
        floors.moving.get("unseen"),
    )
