"""One look at a whole set: its logits, or its losses with the gradient of their mean."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unlearn_audit.data import Examples
from unlearn_audit.engine.device import Device, chunks, full_float32, packed
from unlearn_audit.engine.task import CLASSIFICATION, Task
from unlearn_audit.models import models_own

ROWS_CHUNK = 65_536  # of inputs that are no images but rows of features, which take next to no room

Inputs = Callable[[Tensor], Tensor]  # images as stored -> what the model takes


def predict(model: nn.Module, images: Tensor, transform: Inputs, *, compute: Device) -> NDArray[np.float32]:
    """Return the logits of every image, in evaluation mode, in order, none dropped.

    Args:
        model: on the device of `compute`; left in evaluation mode.
        images: [N, C, H, W], as stored.
        transform: the evaluation transform.
        compute: device and chunk size. The forward pass is float32 whatever the precision asked for, TF32 too being
            switched off for it, since attacks amplify rounding.

    Returns:
        Logits [N, classes], float32.
    """
    model.eval()
    found = []
    with full_float32(), torch.inference_mode():
        for part in chunks(len(images), compute.chunk):
            batch = transform(images[part].to(compute.device)).contiguous(memory_format=torch.channels_last)
            with models_own("predictions stopped"):
                found.append(model(batch).float().cpu())
    return torch.cat(found).numpy() if found else np.zeros((0, 0), dtype=np.float32)


@contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """Let a model be looked at in the block; after it each part is in the mode, training or not, that it was in.

    Yields:
        Nothing.
    """
    before = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


class Pass(NamedTuple):
    """What one pass over a full batch tells: per-example losses and errors [N], float64, on the CPU."""

    losses: NDArray[np.float64]
    errors: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class _Brought:
    """The chunks of a set, each brought to the device when its turn comes, as often as it is asked for."""

    examples: Examples
    transform: Inputs
    compute: Device

    @property
    def parts(self) -> list[slice]:
        """Where each chunk lies."""
        return list(chunks(len(self.examples), self.compute.chunk))

    def __len__(self) -> int:
        """How many chunks there are."""
        return len(self.parts)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Bring one after the other.

        Yields:
            Inputs and labels of a chunk, on the device.
        """
        device = self.compute.device
        for part in self.parts:
            yield packed(self.transform(self.examples.images[part].to(device))), self.examples.labels[part].to(device)


class FullBatch:
    """A set that is looked at as a whole, cut into equal chunks: resident on the device, or brought there in each pass.

    The gradient of the mean loss accumulates chunk by chunk; with frozen statistics it equals the unchunked one.

    Args:
        examples: the set.
        transform: the evaluation transform.
        compute: device and chunk size.
        task: whose losses and errors are taken.
        resident: whether the inputs stay on the device as the model takes them, for a set that every step looks at; a
            set of any size that is looked at once is brought there chunk by chunk.
    """

    def __init__(
        self,
        examples: Examples,
        transform: Inputs,
        *,
        compute: Device,
        task: Task = CLASSIFICATION,
        resident: bool = True,
    ) -> None:
        self.compute, self.task, self.n = compute, task, len(examples)
        self.parts: list[tuple[Tensor, Tensor]] | _Brought = _Brought(examples, transform, compute)
        if resident:
            images = packed(transform(examples.images.to(compute.device)))
            labels = examples.labels.to(compute.device)
            largest = compute.chunk if images.dim() == 4 else max(compute.chunk, ROWS_CHUNK)
            self.parts = [(images[part], labels[part]) for part in chunks(self.n, largest)]

    def forward(self, model: nn.Module) -> Pass:
        """Return losses and errors without a gradient: one forward pass over the set."""
        with torch.no_grad():
            return self._pass(model, backward=False)

    def forward_backward(self, model: nn.Module) -> Pass:
        """Return losses and errors and leave the gradient of the mean loss in `.grad`: one forward, one backward."""
        model.zero_grad(set_to_none=True)
        return self._pass(model, backward=True)

    def _pass(self, model: nn.Module, *, backward: bool) -> Pass:
        found = []
        for images, labels in self.parts:
            with models_own("a pass over a set stopped"):
                with self.compute.autocast():
                    outputs = model(images)
                each = self.task.losses(outputs, labels)
                if backward:
                    torch.autograd.backward(each.sum() / self.n)
            found.append(torch.stack([each.detach(), self.task.errors(outputs.detach(), labels).to(each.dtype)]))
        return Pass(*torch.cat(found, dim=1).cpu().double().numpy())  # one wait for the device in a pass
