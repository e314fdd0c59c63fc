"""The control that every measurement of a model's state is read beside: one that knows nothing."""

from dataclasses import replace

from unlearn_audit import models
from unlearn_audit.audit.context import AuditContext
from unlearn_audit.catalogue import PIPELINE
from unlearn_audit.engine import derive_seed
from unlearn_audit.inputs import Candidate
from unlearn_audit.training import new_model

RANDOM = "random init"


def with_control(context: AuditContext, *, wanted: bool) -> tuple[tuple[Candidate, ...], tuple[str, ...]]:
    """Return the subjects, the control last where it is wanted, and a sentence where there can be none."""
    if not wanted:
        return context.subjects, ()
    part = models.cannot_redraw(context.subjects[0].model) if _unknown(context.subjects[0]) else None
    if part is None:
        return (*context.subjects, random_control(context)), ()
    return context.subjects, (
        f"no random control: {type(part).__name__} has parameters of its own and no reset_parameters() that would draw "
        "them anew",
    )


def random_control(context: AuditContext) -> Candidate:
    """Return the first subject's architecture with a fresh initialisation, as a candidate of role "control"."""
    first = context.subjects[0]
    seed = derive_seed(context.config.seed, "random control")
    model = (
        models.redrawn(first.model, seed)
        if _unknown(first)
        else new_model(first.spec, context.splits.dataset, seed, allow_code=True, compute=context.compute)
    ).eval()
    taken = {candidate.label for candidate in context.subjects}
    label = next(name for name in (RANDOM, *(f"{RANDOM}-{n}" for n in range(2, len(taken) + 2))) if name not in taken)
    return replace(first, label=label, role="control", path="", sha256="0" * 64, model=model, notes=())


def _unknown(candidate: Candidate) -> bool:
    """Return whether its spec does not say how it is built: a module that was handed over, or a pipeline's network."""
    return candidate.spec.startswith(PIPELINE) or (candidate.in_memory and models.is_code(candidate.spec))
