"""Write a checkpoint that describes itself: safetensors, whole or absent, the same bytes for the same input."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from unlearn_audit.checkpoints.metadata import ENTRY, Metadata, encode_entry
from unlearn_audit.checkpoints.safetensors_files import DTYPES
from unlearn_audit.checkpoints.states import vet
from unlearn_audit.errors import CheckpointError, OutputError
from unlearn_audit.files import atomic_write, check_output, sha256_of_file, without_ending

_RESERVED = "__metadata__"  # the format's own name in the header


FOREIGN = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".npy", ".npz", ".onnx", ".json")


def check_checkpoint_output(path: Path, *, force: bool) -> Path:
    """Return `path` if a checkpoint may be written there; called before any work is done.

    Raises:
        OutputError: as `files.check_output`, or the ending promises another format than safetensors.
    """
    if path.suffix.lower() in FOREIGN:
        better = f"{without_ending(path)}.safetensors"
        raise OutputError(f"{path}: checkpoints are written as safetensors; name it {path.with_name(better)}")
    return check_output(path, force=force)


def write_checkpoint(path: Path, state: Mapping[str, Tensor], metadata: Metadata, *, force: bool) -> str:
    """Write weights and where they come from.

    Weights that are tied (same memory, shape, strides and dtype) are stored once and come back tied; other views of
    one memory are stored as tensors of their own. Dtypes and shapes stay; strides become contiguous.

    Args:
        path: the file to make.
        state: name -> dense tensor, on any device.
        metadata: what the checkpoint says about itself.
        force: replace an existing file.

    Returns:
        The SHA-256 of the file, in hex.

    Raises:
        OutputError: as `check_checkpoint_output`, or there is no space.
        CheckpointError: the state is empty or holds what safetensors cannot; the metadata is not JSON.
    """
    check_checkpoint_output(path, force=force)
    vetted = vet(path, state)
    _check_storable(path, vetted)
    tied = _tied(vetted)
    entry = encode_entry(path, metadata, tied)
    stored = _apart({name: tensor for name, tensor in vetted.items() if name not in tied})
    digests: list[str] = []

    def write(target: Path) -> None:
        # One metadata entry only: the library writes several in an order that changes from run to run.
        save_file(stored, target, metadata={ENTRY: entry})
        digests.append(sha256_of_file(target))

    try:
        atomic_write(path, write)
    except SafetensorError as problem:
        raise OutputError(f"cannot write {path}: {problem}") from problem
    return digests[0]


def _check_storable(path: Path, state: Mapping[str, Tensor]) -> None:
    """Refuse what the format has no name for."""
    for name, tensor in state.items():
        if name == _RESERVED:
            raise CheckpointError(f"cannot write {path}: '{_RESERVED}' cannot be the name of a tensor in safetensors")
        if tensor.dtype not in DTYPES.values():
            raise CheckpointError(f"cannot write {path}: safetensors has no {tensor.dtype} (tensor {name!r:.80})")


def _tied(state: Mapping[str, Tensor]) -> dict[str, str]:
    """Map each name that shares all of its memory with an earlier one, in name order, to that one."""
    owners: dict[object, str] = {}
    tied = {}
    for name in sorted(state):
        tensor = state[name]
        if tensor.numel():
            place = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
            owner = owners.setdefault(place, name)
            if owner != name:
                tied[name] = owner
    return tied


def _apart(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return contiguous tensors on the CPU, none of which overlaps another, in name order."""
    packed = {name: tensor.cpu().contiguous() for name, tensor in state.items()}
    end = 0
    for name in sorted(packed, key=lambda name: packed[name].data_ptr()):
        start, size = packed[name].data_ptr(), packed[name].nbytes
        if size and start < end:
            packed[name] = packed[name].clone()
        end = max(end, start + size)
    return {name: packed[name] for name in sorted(packed)}
