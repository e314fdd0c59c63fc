"""One step size for all sections of an audit that relearn, so that their numbers speak of the same steps."""

from collections.abc import Callable, Sequence

from unlearn_audit.audit.section import SectionResult
from unlearn_audit.config import AuditConfig
from unlearn_audit.relearning import Start, StepSearch, StepSize

# Sections that relearn, in the order of the report -> the measurement whose details have the step size.
RELEARNING = {"rcd": "rcd.raw", "truncation": "truncation.verdict"}


def with_common_step(
    config: AuditConfig, names: Sequence[str], measure: Callable[[str, Start | None], SectionResult]
) -> tuple[SectionResult, ...]:
    """Return what sections that relearn find, all at the smallest step size that one of them needs.

    The search of one section begins where that of the section before it ended. Where a longer trajectory has to halve
    the step once more, the others are measured again: a sum of RCD_K and its truncation error at two step sizes could
    not be read beside each other. A section that has a step size of its own is left alone.

    Args:
        config: says which section has a step size of its own.
        names: of the sections.
        measure: measures one of them, given where its search for a step size starts.
    """
    sharing = [name for name in names if not _has_its_own(config, name)]
    start: Start | None = None
    while True:
        found: dict[str, SectionResult] = {}
        before = start
        for name in names:
            found[name] = measure(name, start)
            start = (_end(name, found[name]) if name in sharing else None) or start
        ends = [_end(name, found[name]) for name in sharing]
        if start == before or all(end is None or end == start for end in ends):
            return tuple(found.values())


def _has_its_own(config: AuditConfig, name: str) -> bool:
    return name == "truncation" and config.truncation is not None and config.truncation.step_size is not None


def _end(name: str, found: SectionResult) -> Start | None:
    """Return where a section's search ended; None where it had a step size given, or one by curvature."""
    details = next((one.details for one in found.measurements if one.name == RELEARNING[name]), {})
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
