"""Do the generators that everything is read against deserve it? Held against silence, the original, and the twin."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unlearn_audit import metrics
from unlearn_audit.audit.context import AuditContext, Note
from unlearn_audit.audit.null_rows import doubtful_rows, taking_null_row
from unlearn_audit.audit.rcd.shares import paired_mean
from unlearn_audit.audit.reference_checks import ABOVE, NO_ORIGINAL, SURE, other_recipes, told_apart
from unlearn_audit.engine import FullBatch
from unlearn_audit.inputs import Candidate
from unlearn_audit.models.denoisers import Noised

SILENT = 0.8  # of the loss of predicting nothing: a model that stays above has learned next to nothing
MARGIN = 0.25  # of the original's loss on the retain set, by which that of a retrained model may be larger
TRAINED = 0.01  # of the loss under no condition, by which a row that was trained is better: 1.5 to 10 % were seen

Floats = NDArray[np.float64]


def examine_generators(context: AuditContext) -> Iterator[Note]:
    """Hold all subjects against one that predicts nothing, and the retrained ones against the original.

    Args:
        context: of generators.

    Yields:
        Doubts about subjects, and a limitation where there is no original to hold them against.
    """
    nothing = _loss_of_nothing(context)
    for candidate in context.subjects:
        yield from (Note(text, candidate.label) for text in _learned_nothing(context, candidate, nothing))
    retrained, originals = context.with_role("retrained"), context.with_role("original")
    if retrained and not originals:
        yield Note(NO_ORIGINAL)
    for candidate in retrained:
        if originals:
            yield from (Note(text, candidate.label) for text in _worse(context, candidate, originals[0]))
        yield from (Note(text, candidate.label) for text in _tells_apart(context, candidate))
        yield from (Note(text, candidate.label) for text in _knows_the_class(context, candidate))
    yield from other_recipes(context.subjects)


class _Silence(nn.Module):
    """Predicts nothing of any noise."""

    def forward(self, noised: Noised) -> Tensor:
        return torch.zeros_like(noised.x)


def _loss_of_nothing(context: AuditContext) -> float:
    """Return the loss of predicting zero on the retain set: 1 where the noise is predicted."""
    first, examples = context.subjects[0], context.noised("retain")
    if not len(examples):
        return float("nan")
    batch = FullBatch(examples, first.transform, compute=context.compute, task=first.task,
                      draws=context.draws("retain"), resident=False)  # fmt: skip
    return float(batch.forward(_Silence()).losses.mean())


def _learned_nothing(context: AuditContext, candidate: Candidate, nothing: float) -> Iterator[str]:
    losses = context.losses(candidate, "retain")
    if len(losses) and losses.mean() > SILENT * nothing:
        yield (
            f"{candidate.label}: its loss on training examples is {losses.mean():.3g}, that of predicting nothing "
            f"{nothing:.3g}: its weights are wrecked, or it is read with another noise schedule, prediction type or "
            "normalisation than it was trained with"
        )


def _worse(context: AuditContext, candidate: Candidate, original: Candidate) -> Iterator[str]:
    """Yield that a retrained model denoises what both were trained on worse than the original by far."""
    ours, level = context.losses(candidate, "retain"), context.losses(original, "retain")
    gap = paired_mean(ours - level)
    if gap is not None and gap.low > MARGIN * level.mean():
        yield (
            f"{candidate.label}: its loss on the retain set is {ours.mean():.3g}, that of {original.label} "
            f"{level.mean():.3g}: its training failed, or its file is not what it is named as"
        )


def _knows_the_class(context: AuditContext, candidate: Candidate) -> Iterator[str]:
    """Yield that a model without a record is better under the forgotten class than under none: it was trained on it."""
    classes, examples = doubtful_rows(candidate, context.splits), context.noised("forget")
    if not classes or not len(examples):
        return
    batch = FullBatch(examples, candidate.transform, compute=context.compute, task=candidate.task,
                      draws=context.draws("forget"), resident=False)  # fmt: skip
    own, level = context.losses(candidate, "forget"), batch.forward(taking_null_row(candidate.model, classes)).losses
    gap = paired_mean(own - level)
    if gap is not None and gap.high < -TRAINED * level.mean():
        yield (
            f"{candidate.label}: its loss on the forget set is {own.mean():.3g} under the forgotten classes and "
            f"{level.mean():.3g} under no condition: it was trained on them, and is no retrained model"
        )


def _tells_apart(context: AuditContext, candidate: Candidate) -> Iterator[str]:
    """Yield that a model's own losses tell forget from unseen examples, which they cannot if it saw neither."""
    members = -context.losses(candidate, "forget")[context.paired]
    others = -context.losses(candidate, "unseen")
    bounds = metrics.auc_interval(members, others, SURE)
    if bounds is not None and bounds.low > 0.5 + ABOVE:
        yield told_apart(candidate.label, f"loss attack AUC {metrics.auc(members, others):.3f}", bounds)
