"""The floor that a relearning curve is summed over, and how it was found."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unlearn_audit.audit.context import AuditContext
from unlearn_audit.audit.rcd.runs import RelearnKind, RelearnPlan
from unlearn_audit.errors import UsageError
from unlearn_audit.relearning import Curve, Floor, fit_floor, lowest_floor

Floats = NDArray[np.float64]


class Summed(NamedTuple):
    """A curve, and what is summed of it: Phi at each step."""

    curve: Curve
    phi: Floats

    @property
    def diverged_at(self) -> int | None:
        """Where there is no sum over it."""
        return self.curve.diverged_at


class Floors(NamedTuple):
    """Floors by candidate and set, with the name that a method text gives them.

    Attributes:
        text: "zero", a number, "best (…)", "fit (…)" or "original (…)".
        values: (label, set) -> nats; 0 under a floor that moves.
        fits: (label, set) -> how it was fitted; empty unless it was.
        moving: set -> the original's own curve on it, where that is the floor; else empty.
    """

    text: str
    values: Mapping[tuple[str, RelearnKind], float]
    fits: Mapping[tuple[str, RelearnKind], Floor]
    moving: Mapping[RelearnKind, Summed] = {}

    def of(self, label: str, kind: RelearnKind) -> float:
        """Return the floor of one curve."""
        return self.values[label, kind]


def originals_curves(planned: Sequence[RelearnPlan], curves: Sequence[Curve]) -> Floors:
    """Return the original's own curves as the floor of all models: same steps, same draws.

    The sum is the excess over what a model does that never forgot. Of several originals the first one counts.

    Raises:
        UsageError: no subject is an original.
    """
    label = next((one.candidate.label for one in planned if one.candidate.role == "original"), None)
    if label is None:
        raise UsageError("--floor original needs an original among the models; name it with --original CKPT")
    mine = {
        one.kind: Summed(curve, one.summed(curve))
        for one, curve in zip(planned, curves, strict=True)
        if one.candidate.label == label
    }
    return _same(planned, 0.0, f"original (the curve of {label})")._replace(moving=mine)


def _same(planned: Sequence[RelearnPlan], value: float, text: str) -> Floors:
    return Floors(text, {(one.candidate.label, one.kind): value for one in planned}, {})


def chosen_floors(asked: float, planned: Sequence[RelearnPlan]) -> Floors:
    """Return a floor that is a given number, the same for all."""
    return _same(planned, asked, "zero" if asked == 0 else f"{asked:.4g}")


def lowest_reached(planned: Sequence[RelearnPlan], curves: Sequence[Curve]) -> Floors:
    """Return the lowest objective that any curve reached, the same for all; zero where every curve diverged at once."""
    taken = [(one, curve) for one, curve in zip(planned, curves, strict=True) if len(curve.loss)]
    lowest = min((float(one.summed(curve).min()) for one, curve in taken), default=0.0)
    return _same(planned, lowest, f"best ({lowest:.4g})")


def fitted_floors(context: AuditContext, planned: Sequence[RelearnPlan], *, weight_decay: float, own: bool) -> Floors:
    """Minimise the objective of each set from every candidate's weights.

    Args:
        context: where to compute.
        planned: the trajectories whose floors are wanted.
        weight_decay: of the objective.
        own: whether every candidate keeps its own floor (each classifier has its own features); otherwise the lowest
            one found on a set is common to all candidates.
    """
    fits: dict[tuple[str, RelearnKind], Floor] = {}
    for index, one in enumerate(planned):
        task = f"fitting floor {index + 1} of {len(planned)}"
        fits[one.candidate.label, one.kind] = fit_floor(
            one.run, compute=context.compute, weight_decay=weight_decay, progress=context.progress, task=task
        )
    if not own:
        kinds = {one.kind for one in planned}
        lowest = {kind: lowest_floor([fits[key] for key in fits if key[1] == kind]) for kind in kinds}
        fits = {key: lowest[key[1]] for key in fits}
    common = (
        "each model's own, on its own features" if own else f"{fits[planned[0].candidate.label, 'forget'].value:.4g}"
    )
    return Floors(f"fit ({common})", {key: fit.value for key, fit in fits.items()}, fits)
