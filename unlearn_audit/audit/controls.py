"""The control that every measurement of a model's state is read beside: one that knows nothing."""

import copy
from dataclasses import replace

import torch
from torch import nn

from unlearn_audit import models
from unlearn_audit.audit.context import AuditContext
from unlearn_audit.engine import derive_seed
from unlearn_audit.inputs import Candidate
from unlearn_audit.training import new_model

RANDOM = "random init"


def with_control(context: AuditContext, *, wanted: bool) -> tuple[tuple[Candidate, ...], tuple[str, ...]]:
    """Return the subjects, the control last where it is wanted, and a sentence where there can be none."""
    if not wanted:
        return context.subjects, ()
    part = _not_reset(context.subjects[0].model) if _unknown(context.subjects[0]) else None
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
        _reset(first.model, seed)
        if _unknown(first)
        else new_model(first.spec, context.splits.dataset, seed, allow_code=True, compute=context.compute)
    ).eval()
    taken = {candidate.label for candidate in context.subjects}
    label = next(name for name in (RANDOM, *(f"{RANDOM}-{n}" for n in range(2, len(taken) + 2))) if name not in taken)
    return replace(first, label=label, role="control", path="", sha256="0" * 64, model=model, notes=())


def _unknown(candidate: Candidate) -> bool:
    """Return whether a model was handed over as a module and nobody can tell how it is built."""
    return candidate.in_memory and models.is_code(candidate.spec)


def _reset(model: nn.Module, seed: int) -> nn.Module:
    """Return a copy whose parts have drawn their parameters anew."""
    drawn = copy.deepcopy(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "initialisation"))
        for part in drawn.cpu().modules():
            reset = getattr(part, "reset_parameters", None)
            if callable(reset):
                reset()
    return drawn.to(next(model.parameters()).device)


def _not_reset(model: nn.Module) -> nn.Module | None:
    """Return a part whose own parameters it cannot draw anew; None where there is none."""
    owners = (part for part in model.modules() if next(part.parameters(recurse=False), None) is not None)
    return next((part for part in owners if not hasattr(part, "reset_parameters")), None)
