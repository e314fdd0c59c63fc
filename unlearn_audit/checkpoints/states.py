"""State dicts: stripped of wrappers' prefixes, vetted, digested."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from unlearn_audit.errors import CheckpointError

_PREFIXES = ("module.", "_orig_mod.")


def nonfinite(state: Mapping[str, Tensor]) -> dict[str, int]:
    """Count NaN and infinite values, tensor by tensor.

    Args:
        state: name -> tensor of any dtype; integers are always finite.

    Returns:
        name -> number of values that are not finite, in the order of `state`, only where there are any.
    """
    counts = {name: _count_nonfinite(tensor) for name, tensor in state.items()}
    return {name: count for name, count in counts.items() if count}


def digest_of_state(state: Mapping[str, Tensor]) -> str:
    """Return the hex SHA-256 of names, dtypes, shapes and bytes, in the order of the names.

    The same weights give the same digest from whatever file, device or memory layout they come.

    Args:
        state: name -> dense tensor of any dtype and shape.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().resolve_conj().resolve_neg().contiguous()
        digest.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode("ascii", "backslashreplace"))
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def strip_prefixes(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Remove `module.` and `_orig_mod.`, which wrappers put before every name, as often as all names have one.

    Args:
        state: name -> tensor.

    Returns:
        The state with the shorter names, and one note per prefix removed.
    """
    stripped, notes = dict(state), []
    while prefix := next((p for p in _PREFIXES if _all_have(stripped, p)), None):
        stripped = {name.removeprefix(prefix): tensor for name, tensor in stripped.items()}
        notes.append(f"prefix '{prefix}' removed")
    return stripped, tuple(notes)


def vet(path: Path, state: Mapping[str, Tensor], *, most_bytes: int | None = None) -> dict[str, Tensor]:
    """Return the state as plain, dense, detached tensors, or refuse it.

    Args:
        path: the file, named in errors.
        state: name -> tensor.
        most_bytes: size of the file; a tensor that claims more (by a stride of 0) would fill the memory.

    Raises:
        CheckpointError: no tensor at all; a name that is not text; a tensor that is sparse, quantised, nested, meta or
            larger than the file.
    """
    if not state:
        raise CheckpointError(f"{path} holds an empty state dict: there is no tensor in it")
    for name, tensor in state.items():
        if not _is_text(name):
            raise CheckpointError(f"{path}: {name!r:.80} cannot be the name of a tensor; names must be text")
        if problem := _unusual(tensor):
            raise CheckpointError(f"{path}: tensor {name!r:.80} is {problem}; save ordinary dense tensors")
        if most_bytes is not None and tensor.nbytes > most_bytes:
            raise CheckpointError(f"{path}: tensor {name!r:.80} claims {tensor.nbytes} bytes in a file of {most_bytes}")
    return {name: _plain(tensor) for name, tensor in state.items()}


def _plain(tensor: Tensor) -> Tensor:
    """Return the tensor without gradient, Parameter type or lazy conjugation; itself where there is nothing to do."""
    detached = tensor if type(tensor) is Tensor and not tensor.requires_grad else tensor.detach()
    return detached.resolve_conj().resolve_neg()


def _unusual(tensor: object) -> str | None:
    """Say in a word why a tensor cannot be audited, if so."""
    if not isinstance(tensor, Tensor):
        return f"not a tensor but of type {type(tensor).__name__}"
    if tensor.is_meta:
        return "on the meta device (it has no values)"
    if tensor.is_nested or tensor.layout is not torch.strided:
        return f"sparse or nested ({tensor.layout})"
    if tensor.is_quantized:
        return f"quantised ({tensor.dtype})"
    if type(tensor) not in {Tensor, torch.nn.Parameter}:
        return f"of a special tensor type ({type(tensor).__name__})"
    return None


def _count_nonfinite(tensor: Tensor) -> int:
    """Return how many values are NaN or infinite."""
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return 0
    wide = tensor.float() if tensor.is_floating_point() and tensor.itemsize == 1 else tensor  # float8 has no isfinite
    return int(tensor.numel() - torch.isfinite(wide).sum().item())


def _is_text(name: object) -> bool:
    """Return whether a name is text that can be written to a file."""
    try:
        return isinstance(name, str) and bool(name.encode())
    except UnicodeEncodeError:
        return False


def _all_have(state: Mapping[str, Tensor], prefix: str) -> bool:
    return bool(state) and all(name.startswith(prefix) and name != prefix for name in state)
