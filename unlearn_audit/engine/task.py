"""What a checkpoint is for: what it is asked about an example, and the loss and error of its answers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Draws:
    """Which noise the examples of a batch get, for a task that draws any: one row of an example for each draw.

    Attributes:
        seed: the person's.
        purpose: what else tells these draws from others of the seed: the name of a stream and a step, or a split. Each
            example's draws depend on its own number besides, and on no other example.
        count: rows of an example.
        grid: whether all examples get the same timesteps, the midpoints of as many equal parts; else each one its own,
            one in each part.
        drop: probability that a row is asked without its condition.
        antithetic: whether the rows of the second half of a batch mirror the timesteps of the first, T - 1 - t; for
            batches of one row an example.
    """

    seed: int
    purpose: tuple[object, ...] = ()
    count: int = 8
    grid: bool = True
    drop: float = 0.0
    antithetic: bool = False


class Rows(NamedTuple):
    """What a model is called with for a batch of examples, and what its answers are held against.

    Attributes:
        inputs: a tensor, or a tuple of tensors, of R rows each.
        target: [R, ...].
        owner: [R] the place of each row's example in the batch; equally many rows an example, those of an example
            together. None: one row an example.
    """

    inputs: Any
    target: Tensor
    owner: Tensor | None = None

    def part(self, rows: slice) -> "Rows":
        """Return some of the rows."""
        owner = None if self.owner is None else self.owner[rows]
        return Rows(mapped(self.inputs, lambda each: each[rows]), self.target[rows], owner)


class Task(NamedTuple):
    """What a model is for, as two numbers of each row: its loss, which is descended, and its error.

    Attributes:
        losses: (outputs [R, ...], target [R, ...]) -> [R], lower is better, differentiable.
        errors: (outputs [R, ...], target [R, ...]) -> [R], lower is better, not differentiable; None where a task has
            no error of its own.
        rows: (inputs as transformed and encoded [B, ...], labels [B], there or on the CPU, where texts are looked up
            without waiting for the device, numbers [B] of the examples, on the CPU, draws) -> rows; None where images
            and labels are the rows.
        encode: (images as transformed) -> what `rows` takes, done once for a set that stays on the device; None where
            that is the images.
    """

    losses: Callable[[Any, Tensor], Tensor]
    errors: Callable[[Any, Tensor], Tensor] | None
    rows: Callable[[Tensor, Tensor, Tensor, Draws], Rows] | None = None
    encode: Callable[[Tensor], Tensor] | None = None


def mapped(inputs: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return a tensor changed, or a named tuple with each of its tensors changed."""
    return change(inputs) if isinstance(inputs, Tensor) else type(inputs)(*map(change, inputs))


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
