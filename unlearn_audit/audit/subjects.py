"""What a report says of each subject itself: its file, its size, how it came to be."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from unlearn_audit import models
from unlearn_audit.audit.context import AuditContext
from unlearn_audit.checkpoints import Metadata
from unlearn_audit.engine import FullBatch
from unlearn_audit.inputs import Candidate
from unlearn_audit.report import Made, Subject


def describe(context: AuditContext, candidate: Candidate, doubts: Sequence[str]) -> Subject:
    """Return the report's entry for a candidate."""
    return Subject(
        label=candidate.label,
        role=candidate.role,
        path=candidate.path,
        sha256=candidate.sha256,
        model=candidate.spec,
        parameters=models.parameter_count(candidate.model),
        flop_per_image=_flops(context, candidate),
        notes=candidate.notes,
        doubts=tuple(doubts),
        made=_made(candidate.metadata),
    )


def _made(record: Metadata | None) -> Made | None:
    """Return what a checkpoint's own record says of how it came to be."""
    if record is None:
        return None
    return Made(
        method=record.method,
        settings=dict(record.settings),
        transforms=record.transforms,
        seed=record.seed,
        parent=record.parent_sha256,
        recipe=dict(record.recipe),
        gradients=record.gradient_evaluations,
        seconds=record.wall_seconds,
    )


def _flops(context: AuditContext, candidate: Candidate) -> int:
    """Return the floating-point operations of one forward pass over one image; of a generator, of one denoising."""
    first = context.examples("forget").subset(np.arange(1))
    if not candidate.is_generator:
        return models.flops_per_image(candidate.model, candidate.transform(first.images.to(context.compute.device)))
    once = replace(context.draws("forget"), count=1)
    batch = FullBatch(first, candidate.transform, compute=context.compute, task=candidate.task, draws=once)
    return sum(models.flops_of(candidate.model, rows.inputs) for rows in batch.parts)
