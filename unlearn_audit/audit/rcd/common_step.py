"""One step size for all sections of an audit that relearn, so that their numbers speak of the same steps."""

from collections.abc import Callable, Sequence

from unlearn_audit.audit.context import AuditContext
from unlearn_audit.relearning import Start, StepSearch, StepSize
from unlearn_audit.report import Measurement

# Sections that relearn, in the order of the report -> the measurement whose details have the step size.
RELEARNING = {"rcd": "rcd.raw", "truncation": "truncation.verdict"}
Measured = tuple[Measurement, ...]


def with_common_step(context: AuditContext, names: Sequence[str], measure: Callable[[str], Measured]) -> Measured:
    """Return the measurements of sections that relearn, all at the smallest step size that one of them needs.

    The search of one section begins where that of the section before it ended. Where a longer trajectory has to halve
    the step once more, the others are measured again: a sum of RCD_K and its truncation error at two step sizes could
    not be read beside each other. A section that has a step size of its own is left alone.

    Args:
        context: told where the next search begins; what a first measurement said is taken back before a second one.
        names: of the sections.
        measure: measures one of them.
    """
    sharing = [name for name in names if not _has_its_own(context, name)]
    said, had = tuple(context.limitations), dict(context.arrays)
    while True:
        context.limitations[:], context.arrays = list(said), dict(had)
        found: dict[str, Measured] = {}
        before = context.start
        for name in names:
            found[name] = measure(name)
            context.start = (_end(name, found[name]) if name in sharing else None) or context.start
        ends = [_end(name, found[name]) for name in sharing]
        if context.start == before or all(end is None or end == context.start for end in ends):
            return tuple(one for name in names for one in found[name])


def _has_its_own(context: AuditContext, name: str) -> bool:
    truncation = context.config.truncation
    return name == "truncation" and truncation is not None and truncation.step_size is not None


def _end(name: str, found: Measured) -> Start | None:
    """Return where a section's search ended; None where it had a step size given, or one by curvature."""
    details = next((one.details for one in found if one.name == RELEARNING[name]), {})
    step, search = details.get("step_size"), details.get("step_size_search")
    if not isinstance(step, int | float) or not isinstance(search, dict):
        return None
    return Start(float(step), int(search["halvings"]), tuple(search.get("left_behind", ())))


def left_behind(search: StepSearch, step_size: StepSize) -> list[str]:
    """Return a sentence for each subject that is too sharp for the step size at which the others move.

    Args:
        search: for the step size.
        step_size: where it ended.
    """
    return [
        f"{label}: so sharp that the step size it needs moves no other subject; the step, {step_size:.4g}, was chosen "
        "without it, and its own curve goes as it goes"
        for label in search.left_behind
        if not isinstance(step_size, str)
    ]
