"""What a checkpoint is for: the per-example loss and error of its task."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


class Task(NamedTuple):
    """What a model is for, as two numbers of each example: its loss, which is descended, and its error.

    Attributes:
        losses: (outputs [N, ...], labels [N]) -> [N], lower is better, differentiable.
        errors: (outputs [N, ...], labels [N]) -> [N], lower is better, not differentiable.
    """

    losses: Callable[[Tensor, Tensor], Tensor]
    errors: Callable[[Tensor, Tensor], Tensor]


def losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of each example in nats.

    Args:
        logits: [N, C], any float type; computed in float32 at least.
        labels: [N] int64.

    Returns:
        [N], lower is better, differentiable.
    """
    return functional.cross_entropy(widened(logits), labels, reduction="none")


def widened(logits: Tensor) -> Tensor:
    """Return logits with their graph in float32, or in float64 where they are: bfloat16 has three digits."""
    return logits if logits.dtype == torch.float64 else logits.float()


def errors(logits: Tensor, labels: Tensor) -> Tensor:
    """Return 1.0 where the largest logit is not the label's, else 0.0: [N], lower is better, not differentiable."""
    return (logits.argmax(dim=1) != labels).to(torch.float32)


CLASSIFICATION = Task(losses, errors)
