"""The long trajectories that truncation is judged on: one for every subject, each over its own floor."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from unlearn_audit import relearning
from unlearn_audit.audit.context import AuditContext
from unlearn_audit.audit.null_rows import with_null_row
from unlearn_audit.audit.rcd.common_step import left_behind
from unlearn_audit.audit.rcd.kept_curves import kept_curves
from unlearn_audit.audit.rcd.runs import algorithm_of, algorithm_text, check_request
from unlearn_audit.audit.section import ANEW, SearchState
from unlearn_audit.config import RcdSettings, TruncationSettings
from unlearn_audit.errors import UsageError
from unlearn_audit.inputs import Candidate
from unlearn_audit.relearning import Certificate, Curve, CurveSet, Floor, Precision, Run, Truncation

Floats = NDArray[np.float64]
LEAST_ITERATIONS, MOST_ITERATIONS = 500, 2000  # of the floor: it costs about as much as the trajectory
LEAST_REFERENCE = 100  # steps of the reference where ten times K are fewer
NEAR_ONE = 0.1  # exponents of a power law this near 1 are taken for 1, whose sum grows like log K


@dataclass(frozen=True)
class Judged:
    """One subject's long trajectory, the floor it is judged over, and what was found.

    Attributes:
        candidate: whose.
        curve: the reference trajectory.
        floor: nats.
        fit: how the floor was fitted; None where it was not.
        found: the judgement.
        proved: what strong convexity proves; None where it does not hold.
    """

    candidate: Candidate
    curve: Curve
    floor: float
    fit: Floor | None
    found: Truncation
    proved: Certificate | None

    @property
    def excess(self) -> Floats:
        """The objective over its floor, at every step."""
        return self.curve.objective - self.floor

    @property
    def is_no_descent(self) -> bool:
        """Whether the trajectory rose or diverged."""
        return self.curve.diverged_at is not None or self.curve.rises_from is not None

    @property
    def is_exponential(self) -> bool:
        """Whether there is a rate, and so a tail."""
        return self.found.verdict == "exponential"

    def why_not(self) -> str:
        """Say why a value is missing."""
        if self.found.verdict is None:
            return str(self.found.reason)
        if self.curve.diverged_at is not None:
            return relearning.status(self.curve)
        if self.is_exponential and self.found.rate:
            return "--steps auto has no K in use"
        if self.is_exponential:
            return f"the excess faded into rounding after {self.found.used} steps"
        more = f"; {of_the_sum(self.found)}" if self.found.verdict == "slower than exponential" else ""
        return f"{self.found.verdict}: {self.found.reason}{more}"


@dataclass(frozen=True)
class LongRuns:
    """All subjects' trajectories: what one is compared with, how they were taken, the K in use, and RCD's step."""

    context: AuditContext
    judged: tuple[Judged, ...]
    relearned: CurveSet
    steps: int | None
    reference_steps: int
    method: str
    rcd_step: float | None = None

    def warnings(self) -> Iterator[str]:
        """Yield what is wrong with a trajectory, so that nothing is summed over it without saying so.

        Yields:
            Sentences.
        """
        yield from left_behind(self.relearned.search, self.relearned.step_size)
        ours = self.relearned.step_size
        if self.rcd_step is not None and ours != self.rcd_step:
            told = ours if isinstance(ours, str) else f"{ours:.4g}"
            yield (
                f"truncation is judged at a step size of its own, {told}, RCD is taken at {self.rcd_step:.4g}: what is "
                "cut off here is not what this report's RCD lacks"
            )
        for one in self.judged:
            who = f"{one.candidate.label} relearning its forget set for {self.reference_steps} steps"
            if one.is_no_descent:
                yield f"{who}: {relearning.status(one.curve)}"
            if one.fit is not None and not one.fit.converged:
                yield f"{who}: the floor did not converge (gradient {one.fit.gradient_norm:.1e})"

    def references(self, one: Judged) -> list[Judged]:
        """Return the retrained models' trajectories, without the candidate's own."""
        labels = {candidate.label for candidate in self.context.references(one.candidate)}
        return [other for other in self.judged if other.candidate.label in labels]


def take_long_runs(context: AuditContext, settings: TruncationSettings, search: SearchState = ANEW) -> LongRuns:
    """Take every subject's trajectory at one common step size, settle its floor, and judge it.

    How to relearn is said in the section `rcd`.

    Raises:
        UsageError: the request contradicts itself.
    """
    rcd = context.config.rcd or RcdSettings()
    steps, reference_steps = _lengths(rcd, settings)
    _check(rcd, settings, generators=context.of_generators)
    own = settings.step_size
    runs = [_run(context, rcd, candidate) for candidate in context.subjects]
    relearned = relearning.relearn_all(
        runs,
        steps=reference_steps,
        step_size=own or ("auto" if isinstance(rcd.step_size, tuple) else rcd.step_size),
        start=search.start if own is None else None,
        owners=[candidate.label for candidate in context.subjects],
        algorithm=algorithm_of(context, rcd),
        compute=context.compute,
        keep_ends=settings.floor == "fit",
        curve_cache=kept_curves([(candidate, "forget") for candidate in context.subjects], search.kept),
        progress=context.progress,
    )
    floors = _floors(context, settings, runs=runs, curves=relearned.curves, weight_decay=rcd.weight_decay)
    judged = tuple(
        Judged(
            candidate,
            curve,
            floor,
            fit,
            _judgement(context, run, curve=curve, floor=floor, fit=fit, regularised=rcd.weight_decay > 0),
            _proof(rcd, run, relearned, fit),
        )
        for candidate, run, curve, (floor, fit) in zip(context.subjects, runs, relearned.curves, floors, strict=True)
    )
    method = _method(rcd, settings, relearned, reference_steps)
    return LongRuns(context, judged, relearned, steps, reference_steps, method, search.start and search.start.step_size)


def _run(context: AuditContext, rcd: RcdSettings, candidate: Candidate) -> Run:
    model = with_null_row(candidate, context.splits)
    run = Run(model, context.examples("forget"), candidate.transform, candidate.task, draws=context.draws("forget"))
    return relearning.scoped(run, rcd.scope, compute=context.compute, weight_decay=rcd.weight_decay)


def _lengths(rcd: RcdSettings, settings: TruncationSettings) -> tuple[int | None, int]:
    """Return K, None where the curves were to choose it, and the length of the reference."""
    steps = rcd.steps if isinstance(rcd.steps, int) else None
    default = rcd.max_steps if steps is None else max(10 * steps, LEAST_REFERENCE)
    reference = settings.reference_steps or default
    if steps is not None and reference <= steps:
        raise UsageError(
            f"--reference-steps {reference} must be more than --steps {steps}; ten times as many serve well"
        )
    return steps, reference


def _check(rcd: RcdSettings, settings: TruncationSettings, *, generators: bool) -> None:
    """Refuse what truncation cannot be judged on."""
    check_request(rcd, generators=generators)
    refusals = (
        (isinstance(rcd.step_size, tuple) and settings.step_size is None,
         "truncation is judged at one step size; give --step-size one, or auto"),
        (rcd.relearn < 1, "truncation is judged on the set that is relearned; leave rcd.relearn at 1"),
        (rcd.bn == "train" and settings.floor == "fit", "--floor fit minimises with frozen BatchNorm statistics, which "
         "is another objective than rcd.bn = \"train\" descends; use zero, best or a number"),
    )  # fmt: skip
    for wrong, message in refusals:
        if wrong:
            raise UsageError(message)


def _floors(
    context: AuditContext,
    settings: TruncationSettings,
    *,
    runs: Sequence[Run],
    curves: Sequence[Curve],
    weight_decay: float,
) -> list[tuple[float, Floor | None]]:
    """Return each trajectory's floor; a fitted one is its own, minimised from where the trajectory ends.

    A common floor would leave what a model's own minimum lies above it as an excess that never decays.
    """
    asked = settings.floor
    if asked == "fit":
        pairs = enumerate(zip(runs, curves, strict=True))
        return [
            _fitted(context, index, run=run, curve=curve, weight_decay=weight_decay) for index, (run, curve) in pairs
        ]
    lowest = min((float(curve.objective.min()) for curve in curves if len(curve.objective)), default=0.0)
    value = lowest if asked == "best" else 0.0 if asked == "zero" else float(asked)
    return [(value, None)] * len(curves)


def _fitted(
    context: AuditContext, index: int, *, run: Run, curve: Curve, weight_decay: float
) -> tuple[float, Floor | None]:
    if curve.diverged_at is not None or curve.end is None:
        return 0.0, None
    task = f"fitting floor {index + 1}"
    ended = run._replace(model=curve.end)
    fit = relearning.fit_floor(
        ended,
        compute=context.compute,
        weight_decay=weight_decay,
        iterations=min(MOST_ITERATIONS, max(LEAST_ITERATIONS, len(curve.loss))),
        progress=context.progress,
        task=task,
    )
    return fit.value, fit


def _judgement(
    context: AuditContext, run: Run, *, curve: Curve, floor: float, fit: Floor | None, regularised: bool
) -> Truncation:
    """Judge a trajectory in the precision of its weights; over a floor that is no minimum nothing is exponential."""
    found = relearning.truncation(
        curve.objective,
        floor,
        diverged=curve.diverged_at is not None,
        precision=_precision(context, run),
        regularised=regularised,
    )
    if fit is None or fit.converged or found.verdict != "exponential":
        return found
    return relearning.unsettled(curve.objective, floor, "its floor did not converge, so the excess is not known")


def _precision(context: AuditContext, run: Run) -> Precision:
    """Return what a run is computed in: the classifier alone is relearned in float64."""
    if next(run.model.parameters()).dtype == torch.float64:
        return "float64"
    return "float32" if context.compute.precision == "fp32" else "reduced"


def _proof(rcd: RcdSettings, run: Run, relearned: CurveSet, fit: Floor | None) -> Certificate | None:
    """Return what strong convexity proves: for the classifier alone, by plain descent, over its minimum."""
    plain = rcd.optimizer == "gd" and rcd.minibatch is None and not rcd.augment
    if run.smoothness is None or fit is None or not plain or isinstance(relearned.step_size, str):
        return None
    return relearning.certificate(
        smoothness=run.smoothness, weight_decay=rcd.weight_decay, step_size=relearned.step_size, floor=fit
    )


def _method(rcd: RcdSettings, settings: TruncationSettings, relearned: CurveSet, reference_steps: int) -> str:
    step = relearned.step_size if isinstance(relearned.step_size, str) else f"{relearned.step_size:.4g}"
    floor = "each model's own minimum" if settings.floor == "fit" else settings.floor
    return f"{algorithm_text(rcd)}, step {step}, reference {reference_steps} steps, floor {floor}"


def of_the_sum(found: Truncation) -> str:
    """Say what a power law means for the sum."""
    exponent = found.exponent or 0.0
    if exponent <= 1 + NEAR_ONE:
        growth = "log K" if exponent >= 1 - NEAR_ONE else f"K^{1 - exponent:.2f}"
        return f"if it goes on like t^-{exponent:.2f}, RCD_K has no limit but grows like {growth}"
    return f"if it goes on like t^-{exponent:.2f}, the truncation error shrinks like K^-{exponent - 1:.2f} only"
