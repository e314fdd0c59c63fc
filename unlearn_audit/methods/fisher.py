"""Fisher forgetting: noise on every weight, large where the retain set does not need the weight (Golatkar et al. 2020).

theta <- theta + N(0, alpha·min(1 / F, limit)), as in the Unlearn-Saliency code: F is the mean over batches of the
squared gradient of a batch's mean loss, over the labels that the model expects, so that the batch size is part of the
definition (a batch of 1 gives the true diagonal of the Fisher information); the variance is averaged over the input
dimension of each row; the head and tensors of one dimension have ten times of it.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from unlearn_audit.engine import derive_seed, trainable
from unlearn_audit.errors import UsageError
from unlearn_audit.methods import Method, Settings, Unlearned, UnlearningContext
from unlearn_audit.methods.generators import NEEDS_CLASSES
from unlearn_audit.methods.ssd import importance

LARGEST, LARGEST_IN_HEAD = 1e3, 1e2  # of 1 / F
EXTRA = 10.0  # the factor of the head and of tensors of one dimension
ROW = 1e-4  # variance of a forgotten class's row of the head, before that factor


class FisherSettings(Settings):
    """Settings of Fisher forgetting: those of the Unlearn-Saliency code, whose alpha is not given.

    Ours is the largest power of ten that cost small networks on digits less than a point of retain accuracy.
    """

    PUBLISHED: ClassVar[Mapping[str, Any] | None] = {}
    UNKNOWN: ClassVar[tuple[str, ...]] = ("alpha",)

    alpha: Annotated[float, Field(ge=0, le=1e30)] = Field(
        default=1e-6, description="of the variance; 0 changes nothing"
    )
    batch_size: Annotated[int, Field(gt=0)] = Field(
        default=32, description="retain examples whose mean gradient is squared; 1 gives the Fisher information"
    )
    class_row: bool = Field(
        default=True, description="where whole classes are forgotten, draw their rows of the head anew, around zero"
    )


def head_of(model: nn.Module, classes: int) -> set[str]:
    """Return the names of the parameters of the last module that has a row for each class; none where no module has."""
    found: set[str] = set()
    for name, module in model.named_modules():
        own = dict(module.named_parameters(prefix=name, recurse=False))
        if own and all(len(parameter) == classes for parameter in own.values() if parameter.dim()):
            found = set(own)
    return found


def variances(importances: Sequence[Tensor], head: Sequence[bool], *, alpha: float) -> list[Tensor]:
    """Return the variance of the noise of each weight, of the tensors' shapes.

    Args:
        importances: F, one tensor a parameter, at least 0.
        head: whether a parameter belongs to the head.
        alpha: the factor of all.
    """
    found = []
    for fisher, last in zip(importances, head, strict=True):
        variance = alpha * (1 / (fisher + 1e-8)).clamp(max=LARGEST_IN_HEAD if last else LARGEST)
        if variance.dim() > 1:
            variance = variance.mean(dim=1, keepdim=True).expand_as(fisher)
        found.append(variance * (EXTRA if last or variance.dim() <= 1 else 1.0))
    return found


def run_fisher(context: UnlearningContext, settings: FisherSettings) -> Unlearned:
    """Add noise in one edit, as much as the retain set bears; one pass over it for each class, no step.

    Accuracy on retain falls with alpha as accuracy on forget does; there need not be an alpha that forgets and keeps.
    """
    splits, model = context.splits, context.model
    if not len(splits.retain):
        raise UsageError("the retain set is empty; Fisher forgetting needs something to keep")
    classes = splits.dataset.classes
    done = Unlearned(0, len(splits.retain) * classes)
    if context.count_only:
        return done
    named = trainable(model)
    head = [name in head_of(model, classes) for name in named]
    found = importance(context, splits.retain_examples, settings.batch_size, "Fisher: what retain needs", expected=True)
    rows = list(splits.forgotten_classes) if settings.class_row and settings.alpha else []
    device = context.compute.device
    generator = torch.Generator(device).manual_seed(derive_seed(context.seed, "fisher"))
    noise = variances(found, head, alpha=settings.alpha)
    with torch.no_grad():
        for parameter, variance, last in zip(named.values(), noise, head, strict=True):
            if last and rows:
                variance = variance.clone()
                variance[rows] = EXTRA * ROW
                parameter[rows] = 0
            drawn = torch.randn(parameter.shape, generator=generator, device=device, dtype=parameter.dtype)
            parameter.add_(variance.sqrt().to(parameter.dtype) * drawn)
    return done


FISHER = Method(
    "fisher",
    "Golatkar et al. 2020; values of the Unlearn-Saliency code",
    FisherSettings,
    run_fisher,
    composes=False,
    minds_classes=True,
    deviations=(
        "batches are as equal as can be, in index order; the published code's last one may be smaller",
        "the head is the last layer with a row for each class; the published code takes every tensor with as many rows",
        "the rows of forgotten classes are drawn anew for any whole classes; the published code knows them by the size "
        "of the forget set, 4500 or 450",
    ),
    on=NEEDS_CLASSES,
)
