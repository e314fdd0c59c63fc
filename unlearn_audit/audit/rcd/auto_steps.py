"""K chosen by the curves themselves: stop when what truncation cuts off is small, or refuse."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch

from unlearn_audit.audit.rcd.floors import Floors
from unlearn_audit.audit.rcd.runs import RelearnPlan
from unlearn_audit.engine import Device
from unlearn_audit.errors import MeasurementError
from unlearn_audit.progress import Progress
from unlearn_audit.relearning import (
    Algorithm,
    CurveSet,
    Precision,
    Run,
    Start,
    StepSize,
    Truncation,
    relearn_all,
    truncation,
)

LOOK_EVERY = 10  # steps between two judgements of a curve


@dataclass
class Remainder:
    """Asked along one curve whether the part of the sum that is still to come is small enough.

    Attributes:
        floor: of the curve.
        tolerance: the largest share of the sum that may be cut off.
        precision: of the computation.
        regularised: whether the objective has weight decay.
        found: the last judgement.
        stopped_at: the step at which the answer was yes.
    """

    floor: float
    tolerance: float
    precision: Precision
    regularised: bool = False
    found: Truncation | None = None
    stopped_at: int | None = None

    def __call__(self, summed: Sequence[float]) -> bool:
        """Answer for the curve so far; every tenth step is looked at."""
        t = len(summed) - 1
        if t == 0:  # a search for the step size starts curves again
            self.found = self.stopped_at = None
        if t == 0 or t % LOOK_EVERY:
            return False
        values = np.asarray(summed, dtype=np.float64)
        self.found = truncation(values, self.floor, precision=self.precision, regularised=self.regularised)
        if self.share is None or self.share > self.tolerance:
            return False
        self.stopped_at = t
        return True

    @property
    def share(self) -> float | None:
        """The upper end of the extrapolated remainder as a share of the sum; None unless the tail is exponential."""
        found = self.found
        if found is None or found.verdict not in ("exponential", None):
            return None
        if found.rate is None:  # no excess at all, or gone before there was a tail to judge
            return 0.0
        return None if found.tail_high is None else found.tail_high / found.total


class Stopped(NamedTuple):
    """Curves of a common length K that the curves themselves decided; `stops` are the steps at which each was ready."""

    relearned: CurveSet
    steps: int
    stops: tuple[int, ...]


def relearn_until_small(
    planned: Sequence[RelearnPlan],
    floors: Floors,
    *,
    tolerance: float,
    max_steps: int,
    step_size: StepSize | Literal["auto"],
    start: Start | None = None,
    algorithm: Algorithm,
    compute: Device,
    progress: Progress,
) -> Stopped:
    """Let every run relearn until the upper end of its extrapolated remainder is below a share of its sum.

    K is then common, the largest; runs that were ready earlier are taken again at that length (a shorter run is a
    prefix of a longer one, bit for bit).

    Args:
        planned: the trajectories.
        floors: of their sums.
        tolerance: the share.
        max_steps: where patience ends.
        step_size: as in `relearn_all`.
        start: likewise.
        algorithm: how to descend.
        compute: where.
        progress: callback, called after each step.

    Raises:
        MeasurementError: the tail of a run is not exponential, or its remainder not small, by `max_steps`.
    """
    runs = [one.run for one in planned]
    decays = algorithm.weight_decay > 0
    watches = [
        Remainder(floors.of(one.candidate.label, one.kind), tolerance, _precision(one, compute), decays)
        for one in planned
    ]
    first = relearn_all(
        runs, steps=max_steps, step_size=step_size, start=start, compute=compute, algorithm=algorithm, stops=watches,
        progress=progress,
    )  # fmt: skip
    for one, watch, curve in zip(planned, watches, first.curves, strict=True):
        if watch.stopped_at is None or curve.diverged_at is not None:
            raise MeasurementError(
                _refusal(one, watch, floor=floors.text, max_steps=max_steps, diverged_at=curve.diverged_at)
            )
    steps = max(len(curve.loss) for curve in first.curves) - 1
    lengthened = _lengthened(runs, first, steps=steps, algorithm=algorithm, compute=compute, progress=progress)
    return Stopped(lengthened, steps, _stops(watches))


def _lengthened(
    runs: Sequence[Run], first: CurveSet, *, steps: int, algorithm: Algorithm, compute: Device, progress: Progress
) -> CurveSet:
    """Take the curves that are shorter than K again; what the short ones cost counts as search."""
    short = [index for index, curve in enumerate(first.curves) if len(curve.loss) <= steps]
    again = relearn_all(
        [runs[index] for index in short],
        steps=steps,
        step_size=first.step_size,
        compute=compute,
        algorithm=algorithm,
        progress=progress,
    )
    curves = list(first.curves)
    for index, curve in zip(short, again.curves, strict=True):
        curves[index] = curve
    search = first.search._replace(
        forwards=first.search.forwards + sum(first.curves[index].forwards for index in short),
        backwards=first.search.backwards + sum(first.curves[index].backwards for index in short),
    )
    return first._replace(curves=tuple(curves), search=search)


def _stops(watches: Sequence[Remainder]) -> tuple[int, ...]:
    return tuple(watch.stopped_at for watch in watches if watch.stopped_at is not None)


def _precision(one: RelearnPlan, compute: Device) -> Precision:
    """Return the precision that a run is computed in: the classifier alone is relearned in float64."""
    if next(iter(one.run.model.parameters())).dtype == torch.float64:
        return "float64"
    return "float32" if compute.precision == "fp32" else "reduced"


def _refusal(one: RelearnPlan, watch: Remainder, *, floor: str, max_steps: int, diverged_at: int | None) -> str:
    """Say whose tail is not exponential, and what to do."""
    name = {"forget": "forget set", "paired": "paired forget set", "unseen": "unseen twin"}[one.kind]
    who = f"{one.candidate.label} relearning its {name}"
    if diverged_at is not None:
        return f"--steps auto: {who} diverged at step {diverged_at}; give --step-size a smaller number"
    if watch.share is not None:
        return (
            f"--steps auto: the tail of {who} is exponential, but up to {watch.share:.2%} of its sum (tolerance "
            f"{watch.tolerance:.2%}) is still to come after {max_steps} steps; raise --max-steps or --tolerance"
        )
    verdict = f"{watch.found.verdict}: {watch.found.reason}" if watch.found else "not converged"
    fit = "" if floor.startswith("fit") else f"take --floor fit instead of {floor}, "
    return (
        f"--steps auto: after {max_steps} steps the tail of {who} is not exponential ({verdict}), so nothing bounds "
        f"what truncation cuts off; {fit}give --steps a number, raise --max-steps, or use --scope head with "
        "--weight-decay"
    )
