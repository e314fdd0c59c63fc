"""The ways a model meets data: predict, full-batch loss and gradient, minibatch descent.

Sets live on the device as they were stored (uint8 stays uint8) and are normalised on the fly. Everything here is a
function of its arguments and seeds: the batch of a step depends on (seed, name, step) alone.
"""

import hashlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unlearn_audit.data import Examples, Transform
from unlearn_audit.errors import MeasurementError, UsageError
from unlearn_audit.progress import Progress, silent
from unlearn_audit.tasks import CLASSIFICATION, Task

__all__ = [
    "Augment",
    "Batches",
    "Compute",
    "FullBatch",
    "Inputs",
    "Pass",
    "StepHook",
    "chunks",
    "derive_seed",
    "descend",
    "full_float32",
    "one_thread",
    "predict",
    "prepare",
    "trainable",
]

CPU_CHUNK, GPU_CHUNK = 128, 2048  # measured: 64 to 256 serve a CPU's caches alike
ROWS_CHUNK = 65_536  # of inputs that are no images but rows of features, which take next to no room

Inputs = Callable[[Tensor], Tensor]  # images as stored -> what the model takes


@dataclass(frozen=True)
class Compute:
    """Where and how precisely to compute; `chunk` is the largest number of images in one forward pass."""

    device: torch.device
    precision: str = "fp32"
    chunk: int = CPU_CHUNK

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context for a forward pass: bfloat16 autocast when asked for, else nothing."""
        if self.precision != "bf16":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def place(self, model: nn.Module) -> nn.Module:
        """Move a model to the device in channels-last layout, the faster one for convolutions, and return it."""
        return model.to(self.device).to(memory_format=torch.channels_last)


def prepare(device: str = "auto", precision: str = "fp32", chunk: int | None = None) -> Compute:
    """Choose the device and set torch up for repeatable numbers: TF32 off unless asked, deterministic kernels.

    Args:
        device: "auto" (cuda, else mps, else cpu), "cpu", "cuda", "cuda:N" or "mps".
        precision: "fp32", "tf32" or "bf16".
        chunk: images per forward pass; the default depends on the device.

    Raises:
        UsageError: the device is not there.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    chosen = torch.device(device)
    if chosen.type == "cuda":
        _require_cuda(chosen)
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError("--device mps: no Apple GPU is available here; use --device cpu")
    _allow_tf32(matmul=precision == "tf32", cudnn=precision == "tf32")
    return Compute(chosen, precision, chunk or (CPU_CHUNK if chosen.type == "cpu" else GPU_CHUNK))


def _allow_tf32(matmul: bool, cudnn: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, cudnn


def _require_cuda(device: torch.device) -> None:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        raise UsageError(f"--device {device}: no CUDA device is available here; use --device cpu or auto")
    if device.index is not None and device.index >= count:
        raise UsageError(f"--device {device}: there are only {count} CUDA devices (cuda:0 to cuda:{count - 1})")


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one CPU thread within the block: the fastest way for very small networks, and repeatable.

    Yields:
        Nothing; the number of threads is put back at the end.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def derive_seed(*parts: object) -> int:
    """Return a 63-bit seed that depends on all parts, so that streams for different purposes never share draws.

    >>> derive_seed(0, "retain", 1) == derive_seed(0, "retain", 1) != derive_seed(0, "forget", 1)
    True
    """
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def chunks(n: int, largest: int) -> Iterator[slice]:
    """Cut n examples into the fewest chunks of at most `largest`, as equal as can be.

    Yields:
        Consecutive slices that cover 0 to n - 1.

    >>> [part.stop - part.start for part in chunks(10, 4)]
    [4, 3, 3]
    """
    count = math.ceil(n / largest)
    size, longer = divmod(n, max(count, 1))
    start = 0
    for index in range(count):
        stop = start + size + (index < longer)
        yield slice(start, stop)
        start = stop


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that take part in relearning and unlearning, by name; tied ones once."""
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.is_floating_point() and parameter.requires_grad
    }


def predict(model: nn.Module, images: Tensor, transform: Transform, *, compute: Compute) -> NDArray[np.float32]:
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
            found.append(model(batch).float().cpu())
    return torch.cat(found).numpy() if found else np.zeros((0, 0), dtype=np.float32)


@contextmanager
def full_float32() -> Iterator[None]:
    """Multiply in full float32 within the block, whatever `prepare` allowed.

    Yields:
        Nothing; what was allowed is allowed again at the end.
    """
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    _allow_tf32(matmul=False, cudnn=False)
    try:
        yield
    finally:
        _allow_tf32(*before)


def _packed(inputs: Tensor) -> Tensor:
    """Return images in channels-last layout, anything else contiguous."""
    return inputs.contiguous(memory_format=torch.channels_last if inputs.dim() == 4 else torch.contiguous_format)


class Pass(NamedTuple):
    """What one pass over a full batch tells: per-example losses and errors [N], float64, on the CPU."""

    losses: NDArray[np.float64]
    errors: NDArray[np.float64]


class FullBatch:
    """A set that every step looks at as a whole, resident on the device, cut into equal chunks.

    The gradient of the mean loss accumulates chunk by chunk; with frozen statistics it equals the unchunked one.

    Args:
        examples: the set.
        transform: the evaluation transform.
        compute: device and chunk size.
        task: whose losses and errors are taken.
    """

    def __init__(self, examples: Examples, transform: Inputs, *, compute: Compute, task: Task = CLASSIFICATION) -> None:
        self.compute, self.task = compute, task
        images = _packed(transform(examples.images.to(compute.device)))
        labels = examples.labels.to(compute.device)
        largest = compute.chunk if images.dim() == 4 else max(compute.chunk, ROWS_CHUNK)
        self.parts = [(images[part], labels[part]) for part in chunks(len(labels), largest)]
        self.n = len(labels)

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
            with self.compute.autocast():
                outputs = model(images)
            each = self.task.losses(outputs, labels)
            if backward:
                torch.autograd.backward(each.sum() / self.n)
            found.append(torch.stack([each.detach(), self.task.errors(outputs.detach(), labels).to(each.dtype)]))
        return Pass(*torch.cat(found, dim=1).cpu().double().numpy())  # one wait for the device in a pass


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
    compute: Compute
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

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        """Return the images [B, C, H, W], transformed, and the labels [B] of a step (counted from 0)."""
        epoch, index = divmod(step, self.per_epoch)
        rows = self._permutation(epoch)[index * self.batch_size : (index + 1) * self.batch_size]
        images = self.transform(self._images[rows])
        if self.augment is not None:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, self.name, "augment", step))
            images = self.augment(images, generator)
        return _packed(images), self._labels[rows]

    def _permutation(self, epoch: int) -> Tensor:
        if self._order[0] != epoch:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, self.name, epoch))
            order = torch.randperm(len(self.examples), generator=generator)
            self._order = (epoch, order.to(self.compute.device))
        return self._order[1]


LossTerms = dict[str, Tensor]
StepHook = Callable[[int], None]


def descend(
    model: nn.Module,
    terms: Callable[[int], LossTerms],
    optimizer: torch.optim.Optimizer,
    *,
    steps: int,
    schedule: Callable[[int], float] | None = None,
    before_step: Sequence[StepHook] = (),
    progress: Progress = silent,
    task: str = "training",
    check_every: int = 20,
) -> None:
    """Run the one minibatch loop that training and unlearning share, in training mode.

    Each step: gradient of the sum of the terms, then the hooks of `before_step` (which may edit weights with the
    gradient already taken, as decoupled weight decay does), then the optimiser's step.

    Args:
        model: changed in place; left in training mode.
        terms: step -> named scalar losses whose sum is descended.
        optimizer: over the model's parameters.
        steps: how many.
        schedule: step -> factor on the optimiser's initial learning rate.
        before_step: called with the step between gradient and optimiser step.
        progress: told every `check_every` steps, with the terms' values.
        task: its name in the progress.
        check_every: how often the loss is read from the device and checked.

    Raises:
        MeasurementError: the loss or, at the end, a weight is not finite any more, or the model cannot take a batch
            (BatchNorm has no statistics of one value); the message has the step.
    """
    model.train()
    rates = [group["lr"] for group in optimizer.param_groups]
    for step in range(steps):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * (schedule(step) if schedule else 1.0)
        optimizer.zero_grad(set_to_none=True)
        found = _evaluated(terms, step, task)
        torch.autograd.backward(torch.stack(list(found.values())).sum())
        with torch.no_grad():
            for hook in before_step:
                hook(step)
        optimizer.step()
        if step % check_every == 0 or step == steps - 1:
            _report(found, step, steps, progress, task)
    if not all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters()):
        raise MeasurementError(
            f"{task} diverged at step {steps - 1}: the weights are not finite; use a smaller step size"
        )


def _evaluated(terms: Callable[[int], LossTerms], step: int, task: str) -> LossTerms:
    """Evaluate the terms of a step; a batch that a model refuses is no crash of ours."""
    try:
        return terms(step)
    except ValueError as problem:
        raise MeasurementError(
            f"{task} stopped at step {step}: the model cannot take this batch: {problem}"
        ) from problem


def _report(found: LossTerms, step: int, steps: int, progress: Progress, task: str) -> None:
    """Tell the progress and stop when a term is not finite."""
    values = {name: float(value.detach()) for name, value in found.items()}
    note = ", ".join(f"{name} {value:.3f}" for name, value in values.items())
    if not all(math.isfinite(value) for value in values.values()):
        raise MeasurementError(f"{task} diverged by step {step}: {note}; use a smaller step size")
    progress(task, step + 1, steps, note)
