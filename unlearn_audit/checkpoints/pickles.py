"""Look into a pickle without running it: which callables and classes would loading it bring in?"""

import pickletools
import re
from collections.abc import Iterator
from itertools import islice
from typing import Protocol

import torch

__all__ = ["TORCH_MAGIC", "Readable", "first_value", "foreign_globals", "is_old_pickle"]

TORCH_MAGIC = 0x1950A86A20F9469CFC6C  # the number that torch's legacy files begin with
_MOST_OPCODES = 2_000_000
_PLAIN = frozenset({
    "collections.OrderedDict",
    "torch.Size",
    "torch.Tensor",
    "torch.device",
    "torch.nn.parameter.Parameter",
    "torch._tensor._rebuild_from_type_v2",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
    "torch._utils._rebuild_qtensor",
    "torch._utils._rebuild_sparse_tensor",
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_tensor_v3",
})


class Readable(Protocol):
    """What `pickletools` needs of a stream."""

    def read(self, n: int = ..., /) -> bytes:
        """Return up to `n` bytes."""

    def readline(self) -> bytes:
        """Return bytes up to the next newline."""


def first_value(data: bytes) -> object:
    """Return the argument of the first opcode that has one after the protocol, or None."""
    try:
        for opcode, argument, _ in islice(pickletools.genops(data), 4):
            if argument is not None and opcode.name not in {"PROTO", "FRAME"}:
                return argument
    except Exception:  # a damaged pickle can fail in any way
        return None
    return None


def is_old_pickle(data: bytes) -> bool:
    """Tell whether `data` is one whole pickle of protocol 0 or 1, which has no mark at its beginning."""
    try:
        names = [opcode.name for opcode, _, _ in pickletools.genops(data)]
    except Exception:  # not a pickle
        return False
    return not {"GLOBAL", "INST"}.isdisjoint(names)


def foreign_globals(stream: Readable, *, pickles: int) -> tuple[str, ...]:
    """Return the dotted names that the pickles would import, in order, those of plain tensor files left out.

    Args:
        stream: positioned at the first pickle; only disassembled, never executed.
        pickles: how many pickles follow one another.
    """
    found: dict[str, None] = {}
    try:
        for _ in range(pickles):
            found.update((name, None) for name in _globals(stream) if not _is_plain(name))
    except Exception:  # a damaged or hostile pickle can fail in any way; what was seen until there counts
        return tuple(found)
    return tuple(found)


def _globals(stream: Readable) -> Iterator[str]:
    """Yield the names that one pickle refers to; memo and stack are followed for strings only."""
    texts: list[str] = []
    memo: dict[int, str] = {}
    for opcode, argument, _ in islice(pickletools.genops(stream), _MOST_OPCODES):  # type: ignore[arg-type]
        if opcode.name in {"GLOBAL", "INST"}:
            yield ".".join(str(argument).split(" "))
        elif opcode.name == "STACK_GLOBAL":
            yield ".".join(texts[-2:]) or "?"
        elif opcode.name == "MEMOIZE":
            memo[len(memo)] = texts[-1] if texts else "?"
        elif "PUT" in opcode.name:
            memo[int(argument or 0)] = texts[-1] if texts else "?"
        elif "GET" in opcode.name:
            texts.append(memo.get(int(argument or 0), "?"))
        elif isinstance(argument, str):
            texts.append(argument)


def _is_plain(name: str) -> bool:
    """Tell whether a name is one that a file of tensors needs: a rebuilding function, a storage or a dtype."""
    if name in _PLAIN or re.fullmatch(r"torch\.(storage\.)?[A-Z]\w*Storage", name):
        return True
    return isinstance(getattr(torch, name.removeprefix("torch."), None), torch.dtype)
