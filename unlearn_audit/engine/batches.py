"""Shuffled minibatches of a set that lives on the device."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from unlearn_audit.data import Examples, Transform
from unlearn_audit.engine.device import Device, packed, room, upload
from unlearn_audit.engine.passes import Inputs, encoded
from unlearn_audit.engine.task import CLASSIFICATION, Draws, Rows, Task, mapped
from unlearn_audit.streams import derive_seed

Augment = Callable[[Tensor, torch.Generator], Tensor]
READY = 2**26  # bytes of a set that is kept as the model takes it: of a larger one, a batch costs more than its images


@dataclass
class Batches:
    """Shuffled minibatches of a set; the batch of a step depends on (seed, name, step) alone.

    The set lives on the device, unless it takes more than a quarter of the device's memory: then its batches are
    brought there one by one.

    Every epoch has its own permutation and its last batch may be short; a batch size beyond the set is the set.

    Attributes:
        examples: the set.
        transform: the evaluation transform.
        batch_size: examples of a step.
        seed: of the order, and of whatever else is drawn in a step.
        name: of the stream.
        compute: where the set lives.
        augment: change of the images of a step.
        task: what the rows of a step are for.
        draws: how many draws an example of a task with noise has in a step, and of which kind; seed and purpose are
            those of the step.
    """

    examples: Examples
    transform: Inputs
    batch_size: int
    seed: int
    name: str
    compute: Device
    augment: Augment | None = None
    task: Task = CLASSIFICATION
    draws: Draws = Draws(0, count=1, grid=False)
    _order: tuple[int, Tensor, Tensor] = field(default=(-1, torch.empty(0), torch.empty(0)), repr=False)

    def __post_init__(self) -> None:
        """Move the set to the device once, if there is room for it."""
        device, images = self.compute.device, self.examples.images
        self._held = images.numel() * images.element_size() <= room(device)
        self._images = images.to(device) if self._held else images
        self._labels = self.examples.labels.to(self.compute.device)
        self._encoded: Tensor | None = None
        # Pixel by pixel, so that a set gives the bits of its batches; what else takes images may be a network.
        ready = isinstance(self.transform, Transform) and 4 * self.examples.images.numel() <= READY
        self._ready = packed(self.transform(self._images)) if ready else None
        if self.task.encode is not None and self.augment is None:
            self._encoded = encoded(self._images, self.transform, self.task, self.compute)

    @property
    def per_epoch(self) -> int:
        """How many batches make one epoch."""
        return math.ceil(len(self.examples) / self.batch_size)

    def taken(self, steps: int) -> int:
        """Return how many examples the first `steps` batches hold, repeats counted."""
        epochs, more = divmod(steps, self.per_epoch)
        return epochs * len(self.examples) + more * self.batch_size

    def rows(self, step: int) -> Tensor:
        """Return which examples of the set [B] the batch of a step (counted from 0) holds."""
        return self._of_step(step)[1]

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        """Return the images [B, C, H, W], transformed, and the labels [B] of a step (counted from 0)."""
        here, rows = self._of_step(step)
        if self._ready is None:
            images = self._images[rows] if self._held else upload(self._images[here], self.compute.device)
            images = self.transform(images)
        else:
            images = self._ready[rows]
        if self.augment is not None:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, self.name, "augment", step))
            images = self.augment(images, generator)
        return packed(images), self._labels[rows]

    def rows_at(self, step: int) -> Rows:
        """Return what the model is called with in a step (counted from 0), and what its answers are held against.

        For a task that draws noise the draws of an example depend on (seed, name, step) and its own number alone.
        """
        if self.task.rows is None:
            return Rows(*self.at(step))
        here, there = self._of_step(step)
        if self._encoded is None:
            images = self.at(step)[0]
            images = images if self.task.encode is None else self.task.encode(images)
        else:
            images = self._encoded[there]
        draws = replace(self.draws, seed=self.seed, purpose=(self.name, step))
        found = self.task.rows(images, self.examples.labels[here], self.examples.numbered[here], draws)
        return found._replace(inputs=mapped(found.inputs, packed))

    def _of_step(self, step: int) -> tuple[Tensor, Tensor]:
        """Return which examples the batch of a step holds, on the CPU and on the device."""
        epoch, index = divmod(step, self.per_epoch)
        inside = slice(index * self.batch_size, (index + 1) * self.batch_size)
        here, there = self._permutation(epoch)
        return here[inside], there[inside]

    def _permutation(self, epoch: int) -> tuple[Tensor, Tensor]:
        if self._order[0] != epoch:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, self.name, epoch))
            order = torch.randperm(len(self.examples), generator=generator)
            self._order = (epoch, order, upload(order, self.compute.device))
        return self._order[1:]
