"""What a file holds: its sets of weights, each with the key that takes it, and all that stands beside them."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from unlearn_audit.checkpoints.recognition import one_line
from unlearn_audit.checkpoints.stored import Placeholder, StoredTensor

DEEPEST = 2  # how many keys stand one in another before a set of weights
_LONGEST_LIST = 16  # a longer list is a log, no list of models
_MOST_SHOWN = 30
_KEY = re.compile(
    r"(model|net|network|module|state|states?_?dict|weights?|params?|parameters|ema|swa|averaged?|teacher|student"
    r"|backbone|encoder|classifier|generator|discriminator)", re.IGNORECASE
)  # fmt: skip
_BESIDE = re.compile(
    r"optim|sched|scaler|^amp$|rng|random|criterion|loss|metric|history|^lr|^args$|config|hyper|param_shapes|buffer_names",
    re.IGNORECASE,
)
_AVERAGE = re.compile(
    r"(^|[._-])(ema|swa|average|averaged|avg|teacher|shadow|polyak)([._-]|$)|_ema$|^ema", re.IGNORECASE
)


class WeightSet(NamedTuple):
    """One set of weights of a file.

    Attributes:
        key: what `--weights` takes to get it; empty where the whole file is one.
        tensors: its tensors by name.
        empty: names of its entries that hold nothing and are left out.
    """

    key: str
    tensors: Mapping[str, StoredTensor]
    empty: int = 0

    @property
    def values(self) -> int:
        """How many numbers it has."""
        return sum(tensor.numel for tensor in self.tensors.values())


def is_average(key: str) -> bool:
    """Return whether a key speaks of weights averaged over training (EMA, SWA, a mean teacher).

    >>> is_average("model_ema"), is_average("ema_state_dict"), is_average("schema")
    (True, True, False)
    """
    return bool(_AVERAGE.search(key))


def items_of(value: object) -> Mapping[Any, Any] | None:
    """Return what can be looked into: a dictionary, a placeholder for one, a short list by its positions."""
    if isinstance(value, Placeholder):
        return value.entries or None
    if isinstance(value, StoredTensor):
        return None
    if isinstance(value, list | tuple) and 0 < len(value) <= _LONGEST_LIST:
        return {str(place): entry for place, entry in enumerate(value)}
    return value if isinstance(value, dict) else None


def is_module(value: object) -> bool:
    """Return whether a value stands for a module of torch's, whatever its class."""
    if not isinstance(value, Placeholder):
        return False
    return {"_parameters", "_modules"} <= value.attributes.keys() or value.name.startswith("torch.nn.modules.")


def walked(content: object, deepest: int) -> Iterator[tuple[tuple[str, ...], object]]:
    """Yield everything under at most so many keys of text, with these keys, the outer first, no object twice."""
    seen = {id(content)}
    level: list[tuple[tuple[str, ...], object]] = [((), content)]
    yield (), content
    for _ in range(deepest):
        inner: list[tuple[tuple[str, ...], object]] = []
        for keys, value in level:
            for key, entry in (items_of(value) or {}).items():
                if isinstance(key, str) and id(entry) not in seen:
                    seen.add(id(entry))
                    inner.append(((*keys, key), entry))
        yield from inner
        level = inner


def is_key_of_weights(key: object) -> bool:
    """Return whether a key is one that weights are usually saved under, and no optimizer."""
    return isinstance(key, str) and bool(_KEY.search(key)) and key != "state" and not _BESIDE.search(key)


def is_weight(name: object, value: object) -> bool:
    """Return whether an entry belongs to a state dict: a tensor, or the extra state of a module that has none."""
    return isinstance(value, StoredTensor) or (
        value is None and isinstance(name, str) and name.endswith("_extra_state")
    )


def weight_sets(content: object) -> tuple[WeightSet, ...]:
    """Return every set of weights in what a file holds, in the order of the file.

    A set is a dictionary of nothing but tensors that stands under a key for weights (`model`, `state_dict`, `ema` …),
    or has names as modules give them; the states of optimizers, losses and generators of random numbers are none.

    Args:
        content: what `open_torch` found.
    """
    found = tuple(_sets(content, (), set()))
    return tuple({one.key: one for one in reversed(found)}.values())[::-1]


def _sets(value: object, trail: tuple[str, ...], seen: set[int]) -> Iterator[WeightSet]:
    items = items_of(value)
    if not items or id(value) in seen:  # the same dictionary under a million names is looked at once
        return
    seen.add(id(value))
    if is_state(items) and not isinstance(value, list | tuple):
        if not trail or _speaks_of_weights(trail, items):
            tensors = {name: tensor for name, tensor in items.items() if isinstance(tensor, StoredTensor)}
            yield WeightSet(".".join(trail), tensors, len(items) - len(tensors))
        return
    if len(trail) > DEEPEST or "param_groups" in items:
        return
    for key, entry in items.items():
        near = len(trail) < DEEPEST or is_average(str(key))  # averages lie deeper, in the states of callbacks
        if isinstance(key, str) and near and not _BESIDE.search(key) and not isinstance(entry, StoredTensor):
            yield from _sets(entry, (*trail, key), seen)


def unnamed_averages(content: object) -> dict[str, str]:
    """Return in words what stands under keys that speak of averages and is no state dict, by key.

    Lists of tensors, as some tools save them, and whole models cannot be read, but it is known that they are there.

    Args:
        content: what `open_torch` found.
    """
    found = {}
    for keys, value in walked(content, DEEPEST):
        if not any(map(is_average, keys)):
            continue
        if is_module(value):
            found[".".join(keys)] = "an average as a whole pickled model, which is not read"
        if not isinstance(value, list | tuple) or isinstance(value, StoredTensor) or not value:
            continue
        if all(isinstance(entry, StoredTensor) for entry in value):
            found[".".join(keys)] = f"an average in {len(value)} tensors without names, which fit no model"
    return found


def is_state(items: Mapping[Any, Any]) -> bool:
    """Return whether a dictionary maps names to tensors and to nothing else."""
    weights = all(is_weight(*item) for item in items.items())
    return weights and any(isinstance(value, StoredTensor) for value in items.values())


def _speaks_of_weights(trail: tuple[str, ...], items: Mapping[Any, Any]) -> bool:
    named = any(_KEY.search(key) for key in trail)
    return named or any(isinstance(name, str) and "." in name for name in items)


def others(content: object, sets: tuple[WeightSet, ...]) -> dict[str, str]:
    """Return what stands beside the weights at the top of a file, each in a few words.

    Args:
        content: what `open_torch` found.
        sets: the sets of weights in it.
    """
    items = items_of(content)
    taken = {one.key.partition(".")[0] for one in sets} | {one.key for one in sets}
    if not items or "" in taken:
        return {}
    beside = [(key, value) for key, value in items.items() if key not in taken]
    shown = {one_line(key, longest=60) if isinstance(key, str) else described(key): described(value)
             for key, value in beside[:_MOST_SHOWN]}  # fmt: skip
    return shown | ({"…": f"{len(beside) - _MOST_SHOWN} more"} if len(beside) > _MOST_SHOWN else {})


def described(value: object) -> str:
    """Return a value in a few words, whatever its size.

    >>> described(3), described("ab"), described([1, 2]), described({})
    ('3', "'ab'", 'list of 2', 'dict of 0')
    """
    if isinstance(value, str):
        return repr(one_line(value, longest=60))
    if value is None or isinstance(value, bool | int | float):
        return f"{value!r:.60}"
    if isinstance(value, StoredTensor) and not value.odd:
        return f"tensor {list(value.size)}" if len(value.size) <= 6 else f"tensor of {len(value.size)} dimensions"
    if isinstance(value, Placeholder) and value.entries:
        return f"{kind_of(value)} of {len(value.entries)}"
    if isinstance(value, list | tuple | dict | bytes | bytearray) and not isinstance(value, StoredTensor):
        return f"{kind_of(value)} of {len(value)}"
    return kind_of(value)


def kind_of(value: object) -> str:
    """Return the type that a value had when it was saved, fit for a message."""
    if isinstance(value, StoredTensor):
        return f"tensor, {value.odd}" if value.odd else "Tensor"
    if isinstance(value, Placeholder):
        return one_line(value.name, longest=80)
    if isinstance(value, dict) and value and is_state(value):
        return "state dict"
    return type(value).__name__
