"""State dicts: found in what a file holds, stripped of wrappers' prefixes, vetted, digested."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor

from unlearn_audit.errors import CheckpointError

__all__ = ["digest_of_state", "nonfinite", "strip_prefixes", "unwrap", "vet"]

_WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
_PREFIXES = ("module.", "_orig_mod.")
_DEEPEST = 2


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


def unwrap(path: Path, loaded: object) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Find the state dict in what a torch file holds.

    It is the whole, or stands under `state_dict`, `model_state_dict`, `model` or `net` (tried in this order, nested at
    most twice). An `_extra_state` entry that holds None is left out with a note.

    Args:
        path: the file, named in errors.
        loaded: what the weights-only reader returned.

    Returns:
        name -> tensor, and notes in plain words about what was unwrapped or left out.

    Raises:
        CheckpointError: there is no state dict, it is empty, or it holds values that are not tensors.
    """
    found = _search(loaded, ())
    if found is None:
        raise CheckpointError(_why_not(path, loaded))
    trail, state = found
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    notes = [f"state dict taken from {' > '.join(map(repr, trail))}"] if trail else []
    if len(tensors) < len(state):
        notes.append(f"{len(state) - len(tensors)} '_extra_state' entries that hold nothing were left out")
    return tensors, tuple(notes)


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
    """Tell whether a name is text that can be written to a file."""
    try:
        return isinstance(name, str) and bool(name.encode())
    except UnicodeEncodeError:
        return False


def _is_weight(name: object, value: object) -> bool:
    return isinstance(value, Tensor) or (value is None and isinstance(name, str) and name.endswith("_extra_state"))


def _is_state(value: object) -> TypeGuard[Mapping[Any, Any]]:
    """Tell whether `value` maps names to tensors and to nothing else."""
    if not isinstance(value, Mapping) or not all(_is_weight(*item) for item in value.items()):
        return False
    return any(isinstance(entry, Tensor) for entry in value.values())


def _search(value: object, trail: tuple[str, ...]) -> tuple[tuple[str, ...], Mapping[Any, Any]] | None:
    """Return where the state dict is and the state dict itself."""
    if _is_state(value):
        return trail, value
    if not isinstance(value, Mapping) or len(trail) == _DEEPEST:
        return None
    hits = (_search(value[key], (*trail, key)) for key in _WRAPPERS if key in value)
    return next((hit for hit in hits if hit is not None), None)


def _why_not(path: Path, loaded: object) -> str:
    """Say why there is no state dict in `loaded`."""
    if isinstance(loaded, Tensor) or not isinstance(loaded, Mapping):
        return f"{path} holds a {type(loaded).__name__}, not a state dict; save model.state_dict()"
    blamed = next((loaded[key] for key in _WRAPPERS if isinstance(loaded.get(key), Mapping)), loaded)
    if not blamed:
        return f"{path} holds an empty state dict: there is no tensor in it"
    others = [f"{key!r:.60} ({_kind(value)})" for key, value in blamed.items() if not _is_weight(key, value)]
    listed = ", ".join(others[:5]) + (f" and {len(others) - 5} more" if len(others) > 5 else "")
    if any(isinstance(value, Tensor) for value in blamed.values()):
        return f"the state dict in {path} holds values that are not tensors: {listed}; save model.state_dict() alone"
    where = ", ".join(_WRAPPERS)
    return f"no state dict in {path}: it holds {listed}; looked at the top and under {where}; save model.state_dict()"


def _kind(value: object) -> str:
    return "state dict" if _is_state(value) else type(value).__name__


def _all_have(state: Mapping[str, Tensor], prefix: str) -> bool:
    return bool(state) and all(name.startswith(prefix) and name != prefix for name in state)
