"""RCD under several step sizes: does the ranking hold, and does the curve move at all?"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from unlearn_audit import relearning
from unlearn_audit.audit.rcd.curves import RcdCurves
from unlearn_audit.audit.rcd.rankings import Agreement, agreement
from unlearn_audit.audit.rcd.runs import algorithm_of
from unlearn_audit.relearning import HARDLY_MOVED, Curve, status


class Ablation(NamedTuple):
    """One step size: every model's sum and curve, by label, and the agreement of its ranking with the first one's."""

    step_size: float
    sums: Mapping[str, float | None]
    curves: Mapping[str, Curve]
    tau: Agreement


def ablations(rcd_curves: RcdCurves) -> tuple[Ablation, ...]:
    """Relearn the forget set under every step size that was asked for; empty when there is only one.

    The first one's curves are `rcd_curves` themselves. Rankings are of the subjects; controls are left out, since a
    random initialisation stands far from all of them and would make any two rankings agree.
    """
    asked = rcd_curves.settings.step_size
    if not isinstance(asked, tuple):
        return ()
    subjects = [one.candidate.label for one in rcd_curves.taken if one.candidate.role != "control"]
    first: dict[str, float | None] = {one.candidate.label: one.raw for one in rcd_curves.taken}
    found = []
    for index, step_size in enumerate(asked):
        curves = (
            {one.candidate.label: one.forget for one in rcd_curves.taken}
            if index == 0
            else _curves(rcd_curves, step_size)
        )
        sums = first if index == 0 else _sums(rcd_curves, curves)
        tau = agreement([first[label] for label in subjects], [sums[label] for label in subjects])
        found.append(Ablation(step_size, sums, curves, tau))
    return tuple(found)


def _curves(rcd_curves: RcdCurves, step_size: float) -> dict[str, Curve]:
    """Relearn every candidate's forget set at another step size, with the same K."""
    planned = [one for one in rcd_curves.planned if one.kind == "forget"]
    relearned = relearning.relearn_all(
        [one.run for one in planned],
        steps=rcd_curves.steps,
        step_size=step_size,
        algorithm=algorithm_of(rcd_curves.context, rcd_curves.settings),
        compute=rcd_curves.context.compute,
        progress=rcd_curves.context.progress,
    )
    return {one.candidate.label: curve for one, curve in zip(planned, relearned.curves, strict=True)}


def _sums(rcd_curves: RcdCurves, curves: Mapping[str, Curve]) -> dict[str, float | None]:
    """Return the sums over the floors of the first step size, so that all of them are over the same ones."""
    found: dict[str, float | None] = {}
    original = rcd_curves.original if rcd_curves.floors.moving else None
    for one in (planned for planned in rcd_curves.planned if planned.kind == "forget"):
        label = one.candidate.label
        curve, floor = curves[label], rcd_curves.floors.of(label, "forget")
        base = None if original is None else curves[original]
        whole = all(each is None or each.diverged_at is None for each in (curve, base))
        below = floor if base is None else one.summed(base)
        found[label] = float((one.summed(curve) - below).sum()) if whole else None
    return found


def moved(curve: Curve) -> float | None:
    """Return how far the loss fell in K steps, 1 - L_K/L_0; None when the curve diverged, or began at zero."""
    if curve.diverged_at is not None or not curve.loss[0] > 0:
        return None
    return float(1 - curve.loss[-1] / curve.loss[0])


def essentially_initial(share: float | None, steps: int) -> bool:
    """Return whether RCD_K is essentially (K + 1) x initial loss, a measure of that loss and not of relearning."""
    return steps > 0 and share is not None and abs(share) < HARDLY_MOVED


def _error_sum(curve: Curve) -> float | None:
    return None if curve.diverged_at is not None or not len(curve.error) else float(curve.error.sum())


def ablation_details(rows: Sequence[Ablation], label: str, steps: int) -> list[dict[str, object]]:
    """Return one model's row for every step size."""
    return [
        {
            "step_size": row.step_size,
            "value": row.sums[label],
            "error_sum": _error_sum(row.curves[label]),
            "moved": moved(row.curves[label]),
            "essentially_initial_loss": essentially_initial(moved(row.curves[label]), steps),
            "status": status(row.curves[label]),
            "kendall_tau_to_first": row.tau.tau,
            "kendall_tau_reason": row.tau.reason,
        }
        for row in rows
    ]
