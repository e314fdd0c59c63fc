"""Shuffled minibatches of a set that lives on the device."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from unlearn_audit.data import Examples
from unlearn_audit.engine.device import Device, packed, upload
from unlearn_audit.engine.passes import Inputs
from unlearn_audit.streams import derive_seed

Augment = Callable[[Tensor, torch.Generator], Tensor]


@dataclass
class Batches:
    """Shuffled minibatches of a resident set; the batch of a step depends on (seed, name, step) alone.

    Every epoch has its own permutation and its last batch may be short; a batch size beyond the set is the set.
    """

    examples: Examples
    transform: Inputs
    batch_size: int
    seed: int
    name: str
    compute: Device
    augment: Augment | None = None
    _order: tuple[int, Tensor] = field(default=(-1, torch.empty(0)), repr=False)

    def __post_init__(self) -> None:
        """Move the set to the device once."""
        self._images = self.examples.images.to(self.compute.device)
        self._labels = self.examples.labels.to(self.compute.device)

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
        epoch, index = divmod(step, self.per_epoch)
        return self._permutation(epoch)[index * self.batch_size : (index + 1) * self.batch_size]

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        """Return the images [B, C, H, W], transformed, and the labels [B] of a step (counted from 0)."""
        rows = self.rows(step)
        images = self.transform(self._images[rows])
        if self.augment is not None:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, self.name, "augment", step))
            images = self.augment(images, generator)
        return packed(images), self._labels[rows]

    def _permutation(self, epoch: int) -> Tensor:
        if self._order[0] != epoch:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, self.name, epoch))
            order = torch.randperm(len(self.examples), generator=generator)
            self._order = (epoch, upload(order, self.compute.device))
        return self._order[1]
