"""Whose relearning curve hardly moves: its RCD is its initial loss, however many steps are counted."""

from collections.abc import Mapping

from unlearn_audit.audit.rcd.curves import ModelCurves, RcdCurves
from unlearn_audit.relearning import HARDLY_MOVED, hardly_moved


def _at_the_floor(one: ModelCurves) -> bool:
    """Return whether a model begins where the original does, whose curve is the floor: it has nothing to relearn."""
    start = one.original.phi[0] if one.original is not None and len(one.original.phi) else None
    return start is not None and len(one.phi) > 0 and one.phi[0] <= (1 + HARDLY_MOVED) * start


def relearning_doubts(curves: RcdCurves) -> Mapping[str, list[str]]:
    """Return why RCD says little of a subject: its own loss hardly falls, or that of no other subject does.

    A step size that suits one model alone makes every other one's RCD a multiple of its initial loss, and a comparison
    between them one of losses. A loss that begins near zero has nothing to fall, and is left out.

    Args:
        curves: all curves, taken at one step size.

    Returns:
        Sentences by label; empty where no step was taken, which is said elsewhere.
    """
    subjects = [one for one in curves.taken if one.candidate.role != "control"]
    if curves.steps == 0:
        return {}
    still = [one.candidate.label for one in subjects if hardly_moved(one.forget) and not _at_the_floor(one)]
    step = curves.step_size if isinstance(curves.step_size, str) else f"{curves.step_size:.4g}"
    at = f"at step size {step} and K = {curves.steps}"
    found: dict[str, list[str]] = {
        label: [
            f"{label}: {at} its loss on the forget set falls by less than 5 %: its RCD is essentially (K + 1) x "
            "initial loss and says little of relearning; take a larger step or more of them"
        ]
        for label in still
    }
    moving = [one.candidate.label for one in subjects if one.candidate.label not in still and not one.diverged]
    if still and len(moving) == 1 and len(still) + 1 == len(subjects):
        found[moving[0]] = [f"{moving[0]}: {at} it is the only subject whose loss moves: RCD compares it with nobody"]
    for one in subjects:
        label = one.candidate.label
        if label in curves.search.left_behind:
            found.setdefault(label, []).append(f"{label}: {at}, which was chosen without it, since it is far too sharp")
        elif not one.diverged and one.forget.loss[-1] > (1 + HARDLY_MOVED) * one.forget.loss[0]:
            found.setdefault(label, []).append(
                f"{label}: {at} its loss on the forget set rises: what is summed is no relearning; take a smaller step"
            )
    return found
