"""Which weights of a file are meant: the only ones, or those of the key that was asked for; never some in silence."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from unlearn_audit.checkpoints.entries import WeightSet, is_average, is_state, items_of, unnamed_averages
from unlearn_audit.checkpoints.recognition import one_line
from unlearn_audit.checkpoints.refusals import wrong_tensor
from unlearn_audit.checkpoints.safetensors_files import MOST_TENSORS
from unlearn_audit.checkpoints.states import vet
from unlearn_audit.checkpoints.stored import StoredTensor
from unlearn_audit.checkpoints.torch_files import TorchFile
from unlearn_audit.errors import CheckpointError, unknown_name

ALL = "."  # every tensor of a file whose names fall into several sets
_LONGEST_KEY = 300
_MOST_TOLD = 6
_MOST_TIES = 64  # names that share one piece of memory, as layers do whose weights are tied


class SeveralWeights(CheckpointError):
    """A file holds several sets of weights, and none was asked for; what else it holds is told as `Checkpoint` does.

    Attributes:
        sets: each set in words, by its key.
    """

    def __init__(self, path: Path, sets: Mapping[str, str]) -> None:
        self.sets = dict(sets)
        self.format = "safetensors"
        self.beside: dict[str, str] = {}
        self.placeholders: tuple[str, ...] = ()
        shown = [f"{name_of(key)} ({words})" for key, words in [*self.sets.items()][:_MOST_TOLD]]
        more = len(sets) - len(shown)
        listed = ", ".join(shown) + (f" and {more} more" if more else "")
        super().__init__(
            f"{path} holds {len(sets)} sets of weights: {listed}; which of them is in use? Say --weights KEY, or "
            "weights = KEY in its [[checkpoint]]"
        )


class OneSetOfWeights(CheckpointError):
    """A file holds one set of weights, under no key, and one under a key was asked for."""


def choose(file: TorchFile, sets: Sequence[WeightSet], key: str | None) -> tuple[WeightSet, tuple[str, ...]]:
    """Return the set of weights that is meant, and notes about it.

    Args:
        file: what was saved.
        sets: the sets of weights in it, at least one where `key` is None.
        key: what was asked for, if anything was.

    Raises:
        SeveralWeights: there are several that differ, and `key` is None.
        CheckpointError: nothing is under that key, or it is no state dict.
    """
    if key is not None and key != ALL:
        return _asked(file, sets, key)
    first, *more = _rivals(sets)
    unnamed = {} if is_average(first.key) else unnamed_averages(file.content)
    if unnamed or any(not _same(file, first, other) for other in more):
        every = {one.key: told(one.tensors, one.key) for one in (first, *more)}
        raise SeveralWeights(file.path, every | unnamed)
    if not more:
        return first, ()
    return first, (f"the same weights stand under {', '.join(name_of(other.key) for other in more)}, too",)


def _asked(file: TorchFile, sets: Sequence[WeightSet], key: str) -> tuple[WeightSet, tuple[str, ...]]:
    """Return the set under a key; the others are told."""
    known = {one.key: one for one in sets}
    found = known.get(key)
    if found is None:
        items = items_of(at_key(file.content, key))
        if items and is_state(items):
            tensors = {name: value for name, value in items.items() if isinstance(value, StoredTensor)}
            found = WeightSet(key, tensors, len(items) - len(tensors))
    if found is None:
        found = next((part for one in sets if (part := _part(one, key)) is not None), None)
    if found is None:
        names = [one.key or ALL for one in sets]
        raise CheckpointError(f"{file.path}: {unknown_name('set of weights', one_line(key, longest=60), names)}")
    others = [name_of(one.key) for one in sets if one.key not in (key, "")]
    return found, (f"not read: the weights under {', '.join(others[:_MOST_TOLD])}",) if others else ()


def _part(one: WeightSet, key: str) -> WeightSet | None:
    """Return the tensors of a set whose names begin with what a key adds to the key of the set."""
    prefix = key.removeprefix(f"{one.key}.") + "."
    tensors = {name.removeprefix(prefix): value for name, value in one.tensors.items() if str(name).startswith(prefix)}
    return WeightSet(key, tensors) if tensors else None


def parts_of(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with a prefix and a dot, without them."""
    return {name.removeprefix(f"{prefix}."): t for name, t in tensors.items() if str(name).startswith(f"{prefix}.")}


def at_key(content: object, key: str) -> object:
    """Return what stands under a key with dots between its parts, None where nothing does; names may have dots, too.

    >>> at_key({"model": {"state.dict": 3}}, "model.state.dict")
    3
    """
    items = items_of(content)
    if not items or len(key) > _LONGEST_KEY:
        return None
    if key in items:
        return items[key]
    cuts = [place for place, letter in enumerate(key) if letter == "." and key[:place] in items]
    found = (at_key(items[key[:place]], key[place + 1 :]) for place in cuts)
    return next((value for value in found if value is not None), None)


def sets_within(shapes: Mapping[str, Sequence[int]]) -> tuple[str, ...]:
    """Return the prefixes of names under which one state dict holds a model twice, once averaged; () where it does not.

    Args:
        shapes: shape of each tensor by name.
    """
    heads = list(dict.fromkeys(name.partition(".")[0] for name in shapes if "." in str(name)))
    for average in filter(is_average, heads):
        inner = {_bare(name, average): tuple(shape) for name, shape in shapes.items() if name.startswith(f"{average}.")}
        for head in (head for head in heads if head != average):
            own = {_bare(name, head): tuple(shape) for name, shape in shapes.items() if name.startswith(f"{head}.")}
            if sum(own.get(name) == shape for name, shape in inner.items()) * 2 > max(len(inner), len(own)):
                return head, average
    return ()


def _bare(name: str, head: str) -> str:
    """Return a name without what stands before it and without dots, which some averages leave out of their names."""
    return name.removeprefix(f"{head}.").removeprefix("module.").replace(".", "")


def told(tensors: Mapping[str, StoredTensor] | Mapping[str, Tensor], key: str) -> str:
    """Return how large a set of weights is, and whether its key says that it is an average."""
    values = sum(t.numel if isinstance(t, StoredTensor) else t.numel() for t in tensors.values())
    size = f"{len(tensors)} tensor{'s' * (len(tensors) != 1)}, {values:,} values"
    return f"{size}, averaged by its name" if is_average(key) else size


def name_of(key: str) -> str:
    """Return a key of a file fit for a message."""
    return f"'{one_line(key, longest=60)}'"


def _rivals(sets: Sequence[WeightSet]) -> list[WeightSet]:
    """Return the sets that may be meant: those of modules within modules, or averages, where there are any."""
    nested = [one for one in sets if is_average(one.key) or any("." in str(name) for name in one.tensors)]
    return nested if any(not is_average(one.key) for one in nested) else list(sets)


def _same(file: TorchFile, one: WeightSet, other: WeightSet) -> bool:
    """Return whether two sets hold the same numbers under the same names, wrappers' prefixes aside."""
    first, second = ({str(name).removeprefix("module."): t for name, t in s.tensors.items()} for s in (one, other))
    if first.keys() != second.keys():
        return False
    if first == second:
        return True
    if any(value.size != second[name].size or value.odd or second[name].odd for name, value in first.items()):
        return False
    left, right = file.read(first), file.read(second)
    return all(torch.equal(tensor, right[name]) for name, tensor in left.items())


def read_set(file: TorchFile, chosen: WeightSet) -> dict[str, Tensor]:
    """Return the tensors of a set, each of a kind that can be audited and none larger than the file.

    Args:
        file: what was saved.
        chosen: the set.

    Raises:
        CheckpointError: there are others.
    """
    most = file.path.stat().st_size
    if len(chosen.tensors) > MOST_TENSORS:
        raise CheckpointError(f"{file.path} holds {len(chosen.tensors)} tensors; at most {MOST_TENSORS} are read")
    for name, stored in chosen.tensors.items():
        if stored.odd:
            raise wrong_tensor(file.path, name, stored, tuple(chosen.key.split(".")) if chosen.key else ())
        if stored.nbytes > most:
            raise CheckpointError(
                f"{file.path}: tensor {name!r:.80} claims {stored.nbytes} bytes in a file of {most}; it is damaged or "
                "expanded: save it with .clone()"
            )
    claimed = sum(stored.nbytes for stored in chosen.tensors.values())
    if claimed > _MOST_TIES * most:
        raise CheckpointError(f"{file.path}: its tensors claim {claimed} bytes together in a file of {most}")
    return vet(file.path, file.read(chosen.tensors))
