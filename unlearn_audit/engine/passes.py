"""One look at a whole set: its logits, or its losses with the gradient of their mean."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unlearn_audit.data import Examples, Transform
from unlearn_audit.engine.device import Device, chunks, full_float32, packed, room
from unlearn_audit.engine.task import CLASSIFICATION, Draws, Rows, Task, mapped
from unlearn_audit.models import models_own

ROWS_CHUNK = 65_536  # of inputs that are no images but rows of features, which take next to no room

GRID = Draws(0)
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
    parts = list(chunks(len(images), compute.chunk))
    with full_float32(), torch.inference_mode():
        for index in compute.ranks.own(len(parts)):
            batch = transform(images[parts[index]].to(compute.device)).contiguous(memory_format=torch.channels_last)
            with models_own("predictions stopped"):
                found.append(model(batch).float().cpu())
    if not parts:
        return np.zeros((0, 0), dtype=np.float32)
    return compute.ranks.gathered(found, [part.stop - part.start for part in parts]).numpy()


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


def autocast_for(task: Task, compute: Device) -> AbstractContextManager[object]:
    """Return the context of a forward pass: a task that draws noise has full float32 whatever was asked for.

    Bfloat16 rounds a prediction of noise by .4 %, and the differences between models are of that order; TF32 has as
    few digits as float16.

    Args:
        task: what the model is for.
        compute: says the precision of all other tasks.
    """
    return compute.autocast() if task.rows is None else full_float32()


class Pass(NamedTuple):
    """What one pass over a full batch tells: per-example losses and errors [N], float64, on the CPU.

    An example of several rows has the mean of its rows. Errors are empty [0] where the task has none.
    """

    losses: NDArray[np.float64]
    errors: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class _Brought:
    """The chunks of a set, each brought to the device when its turn comes, as often as it is asked for."""

    examples: Examples
    transform: Inputs
    compute: Device
    task: Task
    draws: Draws

    @property
    def parts(self) -> list[slice]:
        """Where each chunk lies."""
        return list(chunks(len(self.examples), _at_once(self.compute, self.task, self.draws)))

    def __len__(self) -> int:
        """How many chunks there are."""
        return len(self.parts)

    def __getitem__(self, index: int) -> Rows:
        """Bring one chunk's rows to the device."""
        part, device = self.parts[index], self.compute.device
        images = packed(self.transform(self.examples.images[part].to(device)))
        labels = self.examples.labels[part]
        if self.task.rows is None:
            return Rows(images, labels.to(device))
        images = images if self.task.encode is None else self.task.encode(images)
        return _drawn(self.task.rows(images, labels, self.examples.numbered[part], self.draws))

    def __iter__(self) -> Iterator[Rows]:
        """Bring one after the other.

        Yields:
            The rows of a chunk, on the device.
        """
        yield from (self[index] for index in range(len(self)))


def _drawn(rows: Rows) -> Rows:
    return rows._replace(inputs=mapped(rows.inputs, packed))


def _at_once(compute: Device, task: Task, draws: Draws) -> int:
    """Return how many examples make a chunk: as many as have its number of rows."""
    return compute.chunk if task.rows is None else max(1, compute.chunk // draws.count)


def encoded(images: Tensor, transform: Inputs, task: Task, compute: Device) -> Tensor:
    """Return images as a task's rows are made of, on the device, made chunk by chunk where that is a network's work.

    Args:
        images: [N, C, H, W], as stored.
        transform: the evaluation transform.
        task: whose `encode` is asked.
        compute: device and chunk size.
    """
    if task.encode is None:
        return packed(transform(images.to(compute.device)))
    parts = chunks(len(images), compute.chunk)
    return torch.cat([task.encode(packed(transform(images[part].to(compute.device)))) for part in parts])


class FullBatch:
    """A set that is looked at as a whole, cut into equal chunks: resident on the device, or brought there in each pass.

    The gradient of the mean loss accumulates chunk by chunk; with frozen statistics it equals the unchunked one. A task
    that draws noise gives each example several rows, whose mean is the example's loss.

    Args:
        examples: the set.
        transform: the evaluation transform.
        compute: device and chunk size.
        task: whose losses and errors are taken.
        resident: whether the inputs stay on the device as the model takes them, for a set that every step looks at; a
            set that is looked at once, and one that takes more than a quarter of the device's memory, is brought there
            chunk by chunk, which changes no bit. Features and encoded images stay: they are a network's work.
        draws: the noise of a task that has any, the same in every pass.
    """

    def __init__(
        self,
        examples: Examples,
        transform: Inputs,
        *,
        compute: Device,
        task: Task = CLASSIFICATION,
        resident: bool = True,
        draws: Draws = GRID,
    ) -> None:
        self.compute, self.task, self.n = compute, task, len(examples)
        self.row_count = self.n if task.rows is None else self.n * draws.count
        self.parts: list[Rows] | _Brought = _Brought(examples, transform, compute, task, draws)
        if resident and task.rows is not None:
            inputs, labels = encoded(examples.images, transform, task, compute), examples.labels.to(compute.device)
            self.parts = [
                _drawn(task.rows(inputs[part], labels[part], examples.numbered[part], draws))
                for part in chunks(self.n, _at_once(compute, task, draws))
            ]
        elif resident and _may_stay(examples, transform, compute):
            images = packed(transform(examples.images.to(compute.device)))
            labels = examples.labels.to(compute.device)
            largest = compute.chunk if images.dim() == 4 else max(compute.chunk, ROWS_CHUNK)
            self.parts = [Rows(images[part], labels[part]) for part in chunks(self.n, largest)]

    @property
    def sizes(self) -> list[int]:
        """How many examples each chunk has."""
        if isinstance(self.parts, _Brought):
            return [part.stop - part.start for part in self.parts.parts]
        return [len(rows.target) * self.n // self.row_count for rows in self.parts]

    def forward(self, model: nn.Module) -> Pass:
        """Return losses and errors without a gradient: one forward pass over the set."""
        return read_passes([self.measured(model, backward=False)])[0]

    def forward_backward(self, model: nn.Module) -> Pass:
        """Return losses and errors and leave the gradient of the mean loss in `.grad`: one forward, one backward."""
        return read_passes([self.measured(model, backward=True)])[0]

    def measured(self, model: nn.Module, *, backward: bool) -> Tensor:
        """Return losses and errors where they were computed, which nobody has waited for yet, [1 or 2, N].

        The chunks that are looked at are this rank's; what all of them tell comes together in their order.

        Args:
            model: that is looked at.
            backward: whether the gradient of the mean loss is to be left in `.grad`.
        """
        found, ranks, count = list[Tensor](), self.compute.ranks, len(self.parts)

        def look(index: int) -> None:
            found.append(self._of_part(model, self.parts[index], backward=backward))

        if backward:
            ranks.accumulate(model, count, look)
        else:
            with torch.no_grad():
                for index in ranks.own(count):
                    look(index)
        if ranks.size == 1:
            return torch.cat(found, dim=1)
        return ranks.gathered([each.T.double() for each in found], self.sizes).T.contiguous()

    def _of_part(self, model: nn.Module, rows: Rows, *, backward: bool) -> Tensor:
        """Return losses and errors of a chunk's examples, [1 or 2, B]; a gradient adds to what `.grad` has."""
        inputs, target, owner = rows
        with models_own("a pass over a set stopped"):
            with autocast_for(self.task, self.compute):
                outputs = model(inputs)
            each = self.task.losses(outputs, target)
            if backward:
                torch.autograd.backward(each.sum() / self.row_count)
        told = [each.detach()]
        if self.task.errors is not None:
            told.append(self.task.errors(outputs.detach(), target).to(each.dtype))
        return _of_examples(torch.stack(told), owner, self.row_count // self.n)


def _may_stay(examples: Examples, transform: Inputs, compute: Device) -> bool:
    """Return whether inputs that are images take no more than the room that they may; others stay anyway."""
    return not isinstance(transform, Transform) or 4 * examples.images.numel() <= room(compute.device)


def read_passes(measured: Sequence[Tensor]) -> list[Pass]:
    """Return what passes over one set have measured; the device is waited for once, however many they are.

    Args:
        measured: as `FullBatch.measured` gives them, at least one.
    """
    passes = torch.stack(list(measured)).cpu().double().numpy()
    return [Pass(losses, *(errors or [np.zeros(0)])) for losses, *errors in passes]


def _of_examples(rows: Tensor, owner: Tensor | None, count: int) -> Tensor:
    """Return the mean over the rows of each example, of which there are `count`: [..., R] -> [..., B]."""
    if owner is None:
        return rows
    wide = rows if rows.device.type == "mps" else rows.double()
    return wide.view(*wide.shape[:-1], -1, count).mean(dim=-1)
