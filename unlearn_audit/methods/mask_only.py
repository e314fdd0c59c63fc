"""Mask-only: the forgotten classes can no longer be said, and nothing else is done; a control, no unlearning.

In the last linear layer the rows of the forgotten classes become 0 and their biases b, so that their logits are b
whatever the image; b = min over the training set of logsumexp(the other logits) - margin. So the probability of a
forgotten class is at most exp(-margin) on every training example, and the others' are as good as those of a softmax
over them alone, with finite numbers for whoever takes logarithms. All other weights are the original's: what the body
knows of the class is still there. A class-wise method that is no nearer to the retrained models has shown nothing.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from unlearn_audit.data import whole_classes
from unlearn_audit.engine import chunks, predict
from unlearn_audit.errors import MeasurementError, UsageError
from unlearn_audit.methods import Method, Settings, Unlearned, UnlearningContext
from unlearn_audit.methods.generators import NEEDS_CLASSES
from unlearn_audit.methods.heads import linear_head

PART = 8192  # images whose logits are held at a time


class MaskOnlySettings(Settings):
    """Settings of the mask."""

    PUBLISHED: ClassVar[Mapping[str, Any] | None] = None

    margin: Annotated[float, Field(gt=0, le=80)] = Field(
        default=20.0, description="nats by which a forgotten class's logit is below all others' together"
    )


def run_mask_only(context: UnlearningContext, settings: MaskOnlySettings) -> Unlearned:
    """Overwrite the forgotten classes' rows and biases of the last layer; no gradient is taken."""
    splits = context.splits
    classes = whole_classes(splits, wanted_by="mask-only needs whole classes: no answer can be one of them any more")
    if context.count_only:
        return Unlearned(0, 0)
    head, images = _head(context), splits.dataset.train.images
    bias = _least_of_others(context, images, classes) - settings.margin
    with torch.no_grad():
        head.weight[classes] = 0.0
        head.bias[classes] = bias
    again = predict(context.model, images[:8], context.transform, compute=context.compute)
    if not np.allclose(again[:, classes], bias, rtol=1e-5):
        raise MeasurementError(
            "mask-only: the weights of the last layer are made of other parameters, so that they cannot be set"
        )
    named = ", ".join(splits.dataset.class_text(int(each)) for each in classes)
    return Unlearned(
        0,
        0,
        notes=(
            f"a control, no unlearning: the last layer's weights of {named} are 0 and the bias is {bias:.3f}, so that "
            f"the probability is at most {np.exp(-settings.margin):.1g} on training examples; all other weights are "
            "those that it started from",
        ),
    )


def _least_of_others(context: UnlearningContext, images: Tensor, classes: NDArray[np.int64]) -> float:
    """Return the smallest logsumexp of the other classes' logits on any of the images, a part of them at a time."""
    least = []
    for part in chunks(len(images), PART):
        logits = predict(context.model, images[part], context.transform, compute=context.compute).astype(np.float64)
        if not np.isfinite(logits).all():
            raise MeasurementError("mask-only: the model's outputs are not finite on the training set")
        least.append(float(np.logaddexp.reduce(np.delete(logits, classes, axis=1), axis=1).min()))
        context.progress("mask-only", part.stop, len(images))
    return min(least)


def _head(context: UnlearningContext) -> nn.Linear:
    """Return the last layer, which must be linear and have a bias."""
    head = linear_head(context, "mask-only edits the last linear layer")
    if head.bias is None:
        raise UsageError("mask-only sets biases of the last linear layer, and the model's has none")
    return head


MASK_ONLY = Method(
    "mask-only",
    "ours: the control of class-wise methods",
    MaskOnlySettings,
    run_mask_only,
    composes=False,
    whole_classes=True,
    on=NEEDS_CLASSES,
)
