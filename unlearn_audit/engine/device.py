"""Where and how precisely to compute, repeatably: device, precision, threads, seeds, chunks."""

import math
import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unlearn_audit.engine.ranks import ALONE, Ranks, ranks_here
from unlearn_audit.errors import UsageError
from unlearn_audit.models import layout_of

HELD = 4  # the part of a device's memory, 1/4, that one set may take: there are two of them, networks and gradients
CPU_CHUNK, GPU_CHUNK = 128, 2048  # measured: 64 to 256 serve a CPU's caches alike


@dataclass(frozen=True)
class Device:
    """Where and how precisely to compute; `chunk` is the largest number of images in one forward pass.

    `ranks` says with how many processes the chunks of a pass are shared.
    """

    device: torch.device
    precision: str = "fp32"
    chunk: int = CPU_CHUNK
    ranks: Ranks = ALONE

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context for a forward pass: bfloat16 autocast when asked for, else nothing."""
        if self.precision != "bf16":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def to_device(self, model: nn.Module) -> nn.Module:
        """Move a model to the device in channels-last layout, the faster one for convolutions, and return it.

        A model that cannot take that layout (`models.adapt`) stays contiguous.
        """
        return model.to(self.device).to(memory_format=layout_of(model))


def setup_device(device: str = "auto", precision: str = "fp32", chunk: int | None = None) -> Device:
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
    ranks = ranks_here()
    if ranks.size > 1:
        chosen = _of_rank(chosen)
    return Device(chosen, precision, chunk or (CPU_CHUNK if chosen.type == "cpu" else GPU_CHUNK), ranks)


def _of_rank(device: torch.device) -> torch.device:
    """Return the device of this rank: with GPUs each process of a machine has its own."""
    if device.type == "mps":
        raise UsageError("--nproc needs CPUs or CUDA devices; give --device cpu, or leave --nproc out")
    if device.type != "cuda":
        return device
    if device != torch.device("cuda"):
        raise UsageError(f"--device {device} is one card for all processes of a run; --device cuda gives each its own")
    named, count = os.environ.get("LOCAL_RANK", ""), torch.cuda.device_count()
    if not named.isdecimal():
        raise UsageError(
            "LOCAL_RANK must say which of this machine's CUDA devices is this process's, from 0 (torchrun sets it; "
            "under srun it is SLURM_LOCALID)"
        )
    if (place := int(named)) >= count:
        raise UsageError(
            f"{place + 1} processes of one run on a machine with {count} CUDA devices: give --nproc {count}"
        )
    torch.cuda.set_device(place)
    return torch.device("cuda", place)


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


def room(device: torch.device) -> int:
    """Return how many bytes a set may take on a device that stays there: a quarter of its memory."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory) // HELD
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // HELD


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that take part in relearning and unlearning, by name; tied ones once."""
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.is_floating_point() and parameter.requires_grad
    }


def all_at_once(parameters: Iterable[Tensor]) -> bool | None:
    """Return what an optimiser's `foreach` is to be: its step takes all tensors in one call on a CPU, too.

    There torch takes one after the other unless it is asked. The numbers are the same bit for bit, and a step of SGD
    takes 2/3 of the time where there are many tensors; elsewhere torch chooses as well as we could. (`fused` is faster
    still, and rounds otherwise.)

    Args:
        parameters: what is stepped.
    """
    return True if all(parameter.device.type == "cpu" for parameter in parameters) else None


@contextmanager
def full_float32() -> Iterator[None]:
    """Multiply in full float32 within the block, whatever `setup_device` allowed.

    Yields:
        Nothing; what was allowed is allowed again at the end.
    """
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    _allow_tf32(matmul=False, cudnn=False)
    try:
        yield
    finally:
        _allow_tf32(*before)


def packed(inputs: Tensor) -> Tensor:
    """Return images in channels-last layout, anything else contiguous."""
    return inputs.contiguous(memory_format=torch.channels_last if inputs.dim() == 4 else torch.contiguous_format)


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the CPU on the device; a CUDA device is not waited for, which needs page-locked memory."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
