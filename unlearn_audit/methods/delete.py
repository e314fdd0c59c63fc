"""DELETE: distil the original's own softmax without the label's class into the model, on the forget set alone.

Zhou et al. 2025. With z the frozen original's logits on the same (augmented) image, a step descends
KL(softmax(z with z_y = -1e10) || softmax(z_theta)) on a batch of the forget set; no retain data. For one whole class
that is TRW with beta = 0 and without its retain term.
"""

import copy
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from unlearn_audit.engine import Term, Terms
from unlearn_audit.engine.task import widened
from unlearn_audit.methods import Method, Unlearned, UnlearningContext
from unlearn_audit.methods.generators import NEEDS_CLASSES
from unlearn_audit.methods.loop import LoopSettings, Size, Step, logits_of, minibatches, paired, run_composition


class DeleteSettings(LoopSettings):
    """Settings of DELETE: those of the published code for ResNet-18 on CIFAR-10."""

    PUBLISHED: ClassVar[Mapping[str, Any] | None] = {}

    step_size: Step = Field(default=1e-4, description="learning rate")
    epochs: Annotated[float, Field(gt=0, le=1e6)] | None = Field(default=20, description="passes over the forget set")
    batch_size: Size = Field(default=128, description="forget examples in one step; full: the whole set")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(default=0.9, description="momentum of SGD")


def masked_softmax(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the softmax [B, C] over the classes other than each example's own label, which gets 0.

    Args:
        logits: [B, C].
        labels: [B].
    """
    wide = widened(logits)
    return functional.softmax(wide.scatter(1, labels[:, None], float("-inf")), dim=1)


def run_delete(context: UnlearningContext, settings: DeleteSettings) -> Unlearned:
    """Distil the original without each example's own class; the retain set is never looked at."""
    teacher = copy.deepcopy(context.model).eval().requires_grad_(False)
    forget = minibatches(context, "forget", settings)

    def terms(step: int) -> Terms:
        images, labels = forget.at(step)
        with torch.no_grad(), context.compute.autocast():
            wanted: Tensor = teacher(images)
        logits = logits_of(context, images)
        wide = widened(logits)
        target = masked_softmax(wanted, labels).to(wide.dtype)
        loss = functional.kl_div(functional.log_softmax(wide, dim=1), target, reduction="batchmean")
        return {"distilled": Term(loss, side="forget")}

    return run_composition(context, paired(None, forget, terms, losses=()), settings, task="DELETE")


DELETE = Method(
    "delete",
    "Zhou et al. 2025; values of the published code",
    DeleteSettings,
    run_delete,
    on=NEEDS_CLASSES,
)
