"""What a trajectory is taken of: a model, the set that it relearns, and the noise that a denoiser is measured on."""

import copy
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn

from unlearn_audit.data import Examples
from unlearn_audit.engine import CLASSIFICATION, GRID, Device, Draws, FullBatch, Task


class Run(NamedTuple):
    """One trajectory to take.

    Attributes:
        model: left as it is; parameters that do not require a gradient stay fixed.
        examples: the set that is relearned.
        transform: evaluation transform, images as stored -> inputs.
        task: what the model is for.
        measured: the set that the curve is measured on; None measures the relearned set itself.
        smoothness: a global bound on the largest eigenvalue of the Hessian, where there is one (head scope).
        draws: the noise that the curve is measured on, for a task that has any.
    """

    model: nn.Module
    examples: Examples
    transform: Callable[[Tensor], Tensor]
    task: Task = CLASSIFICATION
    measured: Examples | None = None
    smoothness: float | None = None
    draws: Draws = GRID

    def prepared(self, compute: Device) -> tuple[nn.Module, FullBatch]:
        """Return a copy of the model in evaluation mode, and the relearned set, both on the device."""
        return compute.to_device(copy.deepcopy(self.model)).eval(), self.batch(self.examples, compute)

    def batch(self, examples: Examples, compute: Device) -> FullBatch:
        """Return examples as this run's model takes them, on the device."""
        return FullBatch(examples, self.transform, compute=compute, task=self.task, draws=self.draws)
