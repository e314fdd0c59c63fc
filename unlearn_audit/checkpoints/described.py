"""Save tensors with what a checkpoint says of itself, in one safetensors file: the same bytes for the same input."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from unlearn_audit.checkpoints.metadata import ENTRY, Metadata, encode_entry
from unlearn_audit.checkpoints.safetensors_files import DTYPES
from unlearn_audit.checkpoints.states import vet
from unlearn_audit.errors import CheckpointError, OutputError

_RESERVED = "__metadata__"  # the format's own name in the header


def save_described(
    target: Path,
    state: Mapping[str, Tensor],
    metadata: Metadata,
    *,
    where: Path,
    entries: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Write a safetensors file that describes itself, the same bytes for the same input.

    Args:
        target: the file that is written, in place.
        state: name -> dense tensor, on any device.
        metadata: what the checkpoint says about itself.
        where: what the checkpoint is called, for messages.
        entries: further entries of the header's metadata.

    Raises:
        OutputError: the library could not write.
        CheckpointError: the state is empty or holds what safetensors cannot; the metadata is not JSON.
    """
    vetted = vet(where, state)
    _check_storable(where, vetted)
    tied = _tied(vetted)
    told = {ENTRY: encode_entry(where, metadata, tied), **entries}
    stored = _apart({name: tensor for name, tensor in vetted.items() if name not in tied})
    try:
        save_file(stored, target, metadata=told)
    except SafetensorError as problem:
        raise OutputError(f"cannot write {where}: {problem}") from problem
    if len(told) > 1:
        _sort_header(target)


def _sort_header(path: Path) -> None:
    """Put the metadata entries in order, which the library writes in one that changes from run to run."""
    with path.open("r+b") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
        header[_RESERVED] = dict(sorted(header[_RESERVED].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) > length:
            raise OutputError(f"cannot write {path}: its header would grow")
        stream.seek(8)
        stream.write(text.ljust(length))


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
