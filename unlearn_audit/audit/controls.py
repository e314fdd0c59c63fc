"""The control that every measurement of a model's state is read beside: one that knows nothing."""

from dataclasses import replace

from unlearn_audit.audit.context import AuditContext
from unlearn_audit.engine import derive_seed
from unlearn_audit.inputs import Candidate
from unlearn_audit.training import new_model

RANDOM = "random init"


def random_control(context: AuditContext) -> Candidate:
    """Return the first subject's architecture with a fresh initialisation, as a candidate of role "control"."""
    first = context.subjects[0]
    seed = derive_seed(context.config.seed, "random control")
    model = new_model(first.spec, context.splits.dataset, seed, allow_code=True, compute=context.compute).eval()
    taken = {candidate.label for candidate in context.subjects}
    label = next(name for name in (RANDOM, *(f"{RANDOM}-{n}" for n in range(2, len(taken) + 2))) if name not in taken)
    return replace(first, label=label, role="control", path="", sha256="0" * 64, model=model, notes=())
