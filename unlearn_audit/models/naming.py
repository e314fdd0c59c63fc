"""From the names that training code leaves in a file to those that a model has: wrappers, leftovers, split weights.

A reading is taken only where all names of the model are then there, each once; the names as they stand come first, so
that a model which really has a part called `module` is read as it is.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unlearn_audit.errors import CheckpointError
from unlearn_audit.models.building import Shapes, shapes_of
from unlearn_audit.models.hugging_face import TRANSFORMERS, renamed
from unlearn_audit.models.loading import is_counter

# What DataParallel, torch.compile, Opacus, FSDP, activation checkpointing and DeepSpeed put into names.
WRAPPERS = (
    "module", "_orig_mod", "_module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module",
    "_wrapped_module",
)  # fmt: skip
# States of training code that no prediction uses: averaged models' counter, losses, metrics.
LEFTOVER = re.compile(r"(^|\.)(n_averaged$|criterion\b|loss\b|loss_\w+|\w+_loss\b|\w*metrics?\b|\w*acc(uracy)?\b)")
NORMALISATION = re.compile(r"(^|\.)(normali[sz]\w*|norm|preprocess\w*)\.(mean|std)$")
QUANTISED = ("zero_point", "_packed_params", "qweight", "qzeros", "SCB", "absmax", "quant_map", "weight_zero_point")
DEEPEST = 4  # parts of a prefix
SHOWN = 4

State = dict[str, Tensor]
Fits = Callable[[Shapes], bool]


@dataclass(frozen=True)
class NameReading:
    """Weights under the names that a model has.

    Attributes:
        state: the tensors.
        notes: what was removed, left out or put together, in words.
        mean: of the normalisation that stood among the weights, per channel; None where there is none.
        std: likewise.
        fitting: whether the names are those that were wanted.
    """

    state: State
    notes: tuple[str, ...] = ()
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    fitting: bool = True


def read_names(state: Mapping[str, Tensor], fits: Fits, *, where: str) -> NameReading:
    """Find the reading of a state dict's names that a model has.

    Tried in this order: the names as they stand; without wrappers' parts, states of losses and metrics, and with pruned
    or reparametrised weights put together; the same below one prefix, the rest left out.

    Args:
        state: names and tensors, as a file has them.
        fits: whether a model has exactly these names.
        where: the checkpoint's name, for the message.

    Returns:
        The reading; the likeliest one, not `fitting`, where none does.

    Raises:
        CheckpointError: two prefixes fit with different weights, or the weights are quantised.
    """
    if fits(shapes_of(state)):
        return NameReading(dict(state))
    whole = _cleaned(state)
    if fits(shapes_of(whole.state)):
        return whole
    below = {prefix: _below(state, prefix) for prefix in _prefixes(state)}
    found = {prefix: reading for prefix, reading in below.items() if fits(shapes_of(reading.state))}
    if len(found) > 1 and not _same(list(found.values())):
        raise CheckpointError(
            f"{where}: the weights under {' and under '.join(repr(f'{prefix}.') for prefix in found)} both fit the "
            "model, and differ; keep one of them: save the tensors of that prefix alone"
        )
    if found:
        return next(iter(found.values()))
    _refuse_quantised(state, where)
    common = next((prefix for prefix in below if all(name.startswith(f"{prefix}.") for name in whole.state)), None)
    likeliest = whole if common is None else below[common]
    return NameReading(likeliest.state, likeliest.notes, likeliest.mean, likeliest.std, fitting=False)


def wanted_by(model: nn.Module) -> Fits:
    """Return whether names are a model's own; BatchNorm's counters, which old checkpoints lack, do not count."""
    wanted = {name for name in model.state_dict() if not is_counter(name)}
    return lambda shapes: {name for name in shapes if not is_counter(name)} == wanted


def read_for(model: nn.Module, state: Mapping[str, Tensor], *, spec: str, where: str) -> NameReading:
    """Find the reading of a state dict's names that a model has, as `read_names`, and as its library may write them.

    Args:
        model: the model.
        state: names and tensors, as a file has them.
        spec: the model's name.
        where: the checkpoint's name, for the message.

    Raises:
        CheckpointError: as `read_names`.
    """
    reading = read_names(state, wanted_by(model), where=where)
    if reading.fitting or not spec.startswith(f"{TRANSFORMERS}:"):
        return reading
    found = renamed(model, state)
    if found is None:
        return reading
    return NameReading(found, ("names are those that transformers writes, read as those that it computes with",))


def _prefixes(state: Mapping[str, Tensor]) -> list[str]:
    """Return the prefixes that names have, the shortest first."""
    names = [_without_wrappers(name).split(".") for name in state]
    found = {".".join(parts[:depth]) for parts in names for depth in range(1, min(len(parts), DEEPEST + 1))}
    return sorted(found, key=lambda prefix: (prefix.count("."), prefix))


def _below(state: Mapping[str, Tensor], prefix: str) -> NameReading:
    """Read what stands below a prefix; say what stands elsewhere."""
    inside, outside = {}, []
    for name, tensor in state.items():
        if _without_wrappers(name).startswith(f"{prefix}."):
            inside[name] = tensor
        else:
            outside.append(name)
    cleaned = _cleaned(inside)
    short = {name.removeprefix(f"{prefix}."): tensor for name, tensor in cleaned.state.items()}
    notes = (f"prefix '{prefix}.' removed", *cleaned.notes)
    notes += (f"left out, as not below '{prefix}.': {_some(outside)}",) if outside else ()
    return NameReading(short, notes, cleaned.mean, cleaned.std)


def _cleaned(state: Mapping[str, Tensor]) -> NameReading:
    """Read names without wrappers' parts and leftovers, weights put together, a normalisation taken out."""
    named = {_without_wrappers(name): tensor for name, tensor in state.items()}
    if len(named) < len(state):  # two names would become one
        named = dict(state)
    removed = sorted({part for name in state for part in name.split(".") if part in WRAPPERS and name not in named})
    notes = tuple(f"'{part}.' removed from names" for part in removed)
    whole, put_together = _put_together(named)
    statistics = {name: whole.pop(name) for name in list(whole) if NORMALISATION.search(name)}
    mean, std = (_values(statistics, end) for end in ("mean", "std"))
    notes += put_together
    if statistics:
        notes += (f"taken as mean and std of the images: {_some(list(statistics))}",)
    left = [name for name in whole if LEFTOVER.search(name)]
    notes += (f"left out, as no part of the model: {_some(left)}",) if left else ()
    kept = {name: tensor for name, tensor in whole.items() if name not in left}
    return NameReading(kept, notes, mean, std)


def _without_wrappers(name: str) -> str:
    *parts, last = name.split(".")
    return ".".join([*(part for part in parts if part not in WRAPPERS), last])


def _values(statistics: Mapping[str, Tensor], end: str) -> tuple[float, ...] | None:
    """Return the one mean or std among normalisation buffers."""
    found = [tensor for name, tensor in statistics.items() if name.endswith(f".{end}")]
    return tuple(found[0].double().flatten().tolist()) if len(found) == 1 and found[0].numel() <= 16 else None


def normalises_itself(names: Mapping[str, object]) -> list[str]:
    """Return the buffers by which a model normalises its images itself.

    >>> normalises_itself({"normalize.mean": 0, "normalize.std": 1, "fc.weight": 2})
    ['normalize.mean', 'normalize.std']
    """
    found = [name for name in names if NORMALISATION.search(name)]
    return found if len(found) > 1 else []


def _put_together(state: Mapping[str, Tensor]) -> tuple[State, tuple[str, ...]]:
    """Compute weights that are stored in parts: pruned, of weight normalisation, of spectral normalisation."""
    whole, made = dict(state), dict.fromkeys(("pruning", "weight normalisation", "spectral normalisation"), 0)
    for name, kind, parts in list(_in_parts(state)):
        tensors = [whole.pop(part) for part in parts]
        whole[name] = _COMPUTED[kind](*tensors)
        made[kind] += 1
    notes = tuple(
        f"{count} weights put together from the parts that {kind} left" for kind, count in made.items() if count
    )
    return whole, notes


def _in_parts(state: Mapping[str, Tensor]) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Yield (name of the whole, kind, names of its parts) of every weight that is stored in parts."""
    for name in state:
        base, _, end = name.rpartition("_")
        if end == "orig" and f"{base}_mask" in state:
            yield base, "pruning", (name, f"{base}_mask")
        elif end == "orig" and {f"{base}_u", f"{base}_v"} <= state.keys():
            yield base, "spectral normalisation", (name, f"{base}_u", f"{base}_v")
        elif end == "g" and f"{base}_v" in state:
            yield base, "weight normalisation", (name, f"{base}_v")
        path, marker, rest = name.rpartition(".parametrizations.")
        whole = f"{path}.{rest.partition('.')[0]}"
        stem = f"{path}{marker}{rest.partition('.')[0]}"
        if marker and name == f"{stem}.original0" and f"{stem}.original1" in state:
            yield whole, "weight normalisation", (name, f"{stem}.original1")
        elif marker and name == f"{stem}.original" and {f"{stem}.0._u", f"{stem}.0._v"} <= state.keys():
            yield whole, "spectral normalisation", (name, f"{stem}.0._u", f"{stem}.0._v")


def _of_weight_norm(size: Tensor, direction: Tensor) -> Tensor:
    """Return g·v/‖v‖, the norm taken over the dimensions in which g has one entry (Salimans & Kingma 2016)."""
    dims = [dim for dim in range(direction.dim()) if size.dim() <= dim or size.shape[dim] == 1]
    scale: Tensor = size / torch.linalg.vector_norm(direction, dim=dims, keepdim=True)
    return direction * scale


def _of_spectral_norm(weight: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Return W/sigma with sigma = u'Wv, as in evaluation mode (Miyato et al. 2018)."""
    rows = weight if weight.shape[0] == len(left) else weight.transpose(0, 1)
    return weight / torch.dot(left, torch.mv(rows.flatten(1), right))


_COMPUTED: Mapping[str, Callable[..., Tensor]] = {
    "pruning": torch.mul,
    "weight normalisation": _of_weight_norm,
    "spectral normalisation": _of_spectral_norm,
}


def _same(readings: list[NameReading]) -> bool:
    """Return whether readings hold the same weights."""
    first, *others = (reading.state for reading in readings)
    return all(torch.equal(tensor, other[name]) for other in others for name, tensor in first.items() if name in other)


def _refuse_quantised(state: Mapping[str, Tensor], where: str) -> None:
    found = [name for name in state if any(part in QUANTISED for part in name.split("."))]
    if found:
        raise CheckpointError(
            f"{where}: the weights are quantised ({_some(found)}), and steps of relearning are lost in their rounding; "
            "audit the model in floating point that they were made from"
        )


def _some(names: list[str]) -> str:
    """Join the first few names and count the rest."""
    rest = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")
