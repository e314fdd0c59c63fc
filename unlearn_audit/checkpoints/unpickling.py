"""Read a pickle without running it: plain values, descriptions of tensors, and placeholders for all the rest.

A pickle is a program for a stack machine that may name any function of any module and have it called. This machine
knows the containers of the language and the functions of `stored`; a name that is none of these is never imported, and
what would be made by it is a placeholder that does nothing.
"""

import pickletools
from collections.abc import Callable
from typing import Any, Protocol

import torch

from unlearn_audit.checkpoints.stored import (
    DTYPES_BY_NAME,
    KNOWN,
    STORAGES,
    Damaged,
    Known,
    Placeholder,
    Storage,
    build,
    key_of,
)

_MOST_OPCODES = 3_000_000
_MOST_PLACES = 1 << 32  # of the memo
_LONGEST_NUMBER = 1024  # bits
_LONGEST_NAME = 1000
_MOST_ELEMENTS = 1 << 62
_ATTRIBUTES = frozenset({"builtins.getattr", "__builtin__.getattr"})
_RECONSTRUCTORS = frozenset({"copyreg._reconstructor", "copy_reg._reconstructor", "copyreg.__newobj__"})


class Readable(Protocol):
    """What `pickletools` needs of a stream."""

    def read(self, n: int = ..., /) -> bytes:
        """Return up to `n` bytes."""

    def readline(self) -> bytes:
        """Return bytes up to the next newline."""


class Unpickler:
    """The machine; one reads all pickles of a file, within one budget of steps and of values made.

    Attributes:
        names: dotted names that the file refers to and that files of weights do not need, in order.
        calls_made: those of which the file calls what they made, as no object that was saved does.
        storages: every storage that was referred to.
    """

    def __init__(self, *, most_bytes: int) -> None:
        """Start with an empty stack.

        Args:
            most_bytes: how long the pickles are together at most; bounds what is made of them.
        """
        self.names: dict[str, None] = {}
        self.calls_made: dict[str, None] = {}
        self.storages: list[Storage] = []
        self._steps = 0
        self._budget = 4 * most_bytes + 100_000
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._actions: dict[str, Callable[[Any], None]] = self._table()

    def load(self, stream: Readable) -> Any:
        """Read one pickle and return what it stands for.

        Raises:
            Damaged: it is no pickle, or needs more than a file of weights does.
        """
        self._stack, self._marks, self._memo = [], [], {}
        try:
            for opcode, argument, _ in pickletools.genops(stream):  # type: ignore[arg-type]
                self._steps += 1
                if self._steps > _MOST_OPCODES:
                    raise Damaged(f"it takes more than {_MOST_OPCODES} steps to read")
                if opcode.name == "STOP":
                    return self._pop()
                self._actions[opcode.name](argument)
        except Damaged:
            raise
        except Exception as problem:  # a damaged pickle can fail in any way
            raise Damaged(f"its pickle is damaged ({type(problem).__name__})") from problem
        raise Damaged("its pickle has no end")

    def _table(self) -> dict[str, Callable[[Any], None]]:
        """Return what is to be done for each instruction."""
        push = self._push
        values = "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE"
        values += " SHORT_BINUNICODE BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8"
        found: dict[str, Callable[[Any], None]] = dict.fromkeys(values.split(), push)
        found |= dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), self._remember)
        found |= dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda at: push(self._memo[at]))
        found |= dict.fromkeys(("PROTO", "FRAME"), lambda _: None)
        found |= dict.fromkeys(("EXT1", "EXT2", "EXT4"), lambda code: push(Placeholder(f"copyreg extension {code}")))
        found |= {
            "NONE": push,
            "NEWTRUE": lambda _: push(True),
            "NEWFALSE": lambda _: push(False),
            "MARK": self._mark,
            "POP": lambda _: self._drop(self._pop() if self._stack else self._since_mark()),
            "POP_MARK": lambda _: self._drop(self._since_mark()),
            "DUP": lambda _: push(self._stack[-1]),
            "MEMOIZE": lambda _: self._remember(len(self._memo)),
            "GLOBAL": lambda name: push(self._named(*str(name).split(" ", 1))),
            "STACK_GLOBAL": lambda _: push(self._named(*reversed((self._pop(), self._pop())))),
            "PERSID": lambda _: self._damaged("it refers to storages in an unknown way"),
            "BINPERSID": lambda _: self._refer(self._pop()),
            "NEXT_BUFFER": lambda _: self._damaged("it refers to data outside of itself"),
            "READONLY_BUFFER": lambda _: self._damaged("it refers to data outside of itself"),
        }
        return found | self._containers() | self._makers()

    def _containers(self) -> dict[str, Callable[[Any], None]]:
        """Return what is to be done for lists, tuples, sets and dictionaries."""
        push, pop = self._push, self._pop
        return {
            "EMPTY_LIST": lambda _: push([]),
            "EMPTY_SET": lambda _: push([]),
            "EMPTY_DICT": lambda _: push({}),
            "EMPTY_TUPLE": lambda _: push(()),
            "LIST": lambda _: push(self._since_mark()),
            "FROZENSET": lambda _: push(self._since_mark()),
            "TUPLE": lambda _: push(tuple(self._since_mark())),
            "TUPLE1": lambda _: push((pop(),)),
            "TUPLE2": lambda _: push(tuple(reversed((pop(), pop())))),
            "TUPLE3": lambda _: push(tuple(reversed((pop(), pop(), pop())))),
            "DICT": lambda _: self._new_dictionary(self._since_mark()),
            "APPEND": lambda _: self._append([pop()]),
            "APPENDS": lambda _: self._append(self._since_mark()),
            "ADDITEMS": lambda _: self._append(self._since_mark()),
            "SETITEM": lambda _: self._set(list(reversed((pop(), pop())))),
            "SETITEMS": lambda _: self._set(self._since_mark()),
        }

    def _makers(self) -> dict[str, Callable[[Any], None]]:
        """Return what is to be done where the program would call something."""
        pop = self._pop
        return {
            "REDUCE": lambda _: self._call(*reversed((pop(), pop()))),
            "NEWOBJ": lambda _: self._call(*reversed((pop(), pop()))),
            "NEWOBJ_EX": lambda _: self._call(*reversed((pop(), pop(), pop()))),
            "OBJ": lambda _: self._call_since_mark(),
            "INST": lambda name: self._call(self._named(*str(name).split(" ", 1)), tuple(self._since_mark())),
            "BUILD": lambda _: self._build(pop()),
        }

    def _refer(self, identity: object) -> None:
        """Push what a persistent id refers to: a storage; where whole modules were saved, a class as well."""
        if (
            isinstance(identity, tuple)
            and len(identity) == 4
            and identity[0] == "module"
            and isinstance(identity[1], Placeholder)
        ):
            self._stack.append(identity[1])
            return
        self.storages.append(_storage(identity))
        self._stack.append(self.storages[-1])

    def _push(self, value: Any) -> None:
        if isinstance(value, int) and value.bit_length() > _LONGEST_NUMBER:
            raise Damaged(f"it holds a number of {value.bit_length()} bits")
        self._stack.append(value)

    def _pop(self) -> Any:
        return self._stack.pop()

    def _mark(self, _: object) -> None:
        self._marks.append(self._stack)
        self._stack = []

    def _since_mark(self) -> list[Any]:
        """Return what has been pushed since the last mark, and go back to it."""
        found, self._stack = self._stack, self._marks.pop()
        return found

    def _drop(self, _: object) -> None:
        """Do nothing with a value."""

    def _damaged(self, why: str) -> None:
        raise Damaged(why)

    def _remember(self, place: int) -> None:
        if not 0 <= place < _MOST_PLACES:
            raise Damaged("its memo is absurd")
        self._memo[place] = self._stack[-1]

    def _append(self, items: list[Any]) -> None:
        """Add to a list; what else can be added to (a set, a deque) is a placeholder, which keeps nothing."""
        if isinstance(self._stack[-1], list):
            self._stack[-1].extend(items)

    def _set(self, items: list[Any]) -> None:
        """Store pairs in a dictionary, or in a placeholder for a class of dictionaries."""
        target = self._stack[-1]
        pairs = target.entries if isinstance(target, Placeholder) else target
        if isinstance(pairs, dict):
            pairs.update((key_of(key), value) for key, value in zip(items[::2], items[1::2], strict=True))

    def _new_dictionary(self, items: list[Any]) -> None:
        self._stack.append({})
        self._set(items)

    def _named(self, module: object, name: object) -> object:
        """Return what stands for a name: a function of ours, a type, or a placeholder."""
        if not isinstance(module, str) or not isinstance(name, str) or len(module) + len(name) > _LONGEST_NAME:
            raise Damaged("it refers to something that has no name")
        dotted = f"{module}.{name}"
        if dotted in DTYPES_BY_NAME:
            return DTYPES_BY_NAME[dotted]
        if dotted in STORAGES:
            return STORAGES[dotted]
        if dotted in KNOWN:
            return KNOWN[dotted]
        if dotted not in _RECONSTRUCTORS:
            self.names[dotted] = None
        return Placeholder(dotted)

    def _call(self, made_by: object, arguments: object, *keywords: object) -> None:
        """Push what stands for the result of a call."""
        if isinstance(made_by, Known):
            given = arguments if isinstance(arguments, tuple) else ()
            self._budget -= sum(len(value) for value in given if isinstance(value, str | bytes | list | tuple | dict))
            if self._budget < 0:
                raise Damaged("it copies values until they fill the memory")
            self._stack.append(made_by.call(*given))
            return
        self._stack.append(self._inert(made_by, arguments))

    def _inert(self, made_by: object, arguments: object) -> Placeholder:
        """Return a placeholder for what a name that is not known here would have made."""
        if not isinstance(made_by, Placeholder):
            raise Damaged("it calls what is no function")
        if made_by.called:
            self.calls_made[made_by.name] = None
        first, second = (*arguments, None, None)[:2] if isinstance(arguments, tuple) else (None, None)
        if made_by.name in _ATTRIBUTES and isinstance(first, Placeholder) and isinstance(second, str):
            return self._attribute(first, second)
        if made_by.name in _RECONSTRUCTORS and isinstance(first, Placeholder):
            return Placeholder(first.name, called=True)
        return Placeholder(made_by.name, called=True)

    def _attribute(self, owner: Placeholder, name: str) -> Placeholder:
        """Return a placeholder for an attribute, as pickles refer to a class that is defined within another one."""
        found = self._named(owner.name, name)
        if not isinstance(found, Placeholder):
            raise Damaged("it refers to an attribute of a tensor")
        found.called = owner.called  # a method of an object that was made, and no class
        return found

    def _call_since_mark(self) -> None:
        """Call the first value since the mark with the others."""
        made_by, *arguments = self._since_mark()
        self._call(made_by, tuple(arguments))

    def _build(self, state: object) -> None:
        build(self._stack[-1], state)


def _storage(identity: object) -> Storage:
    """Return the storage that a persistent id of torch's describes; a sixth part makes it a view of another one."""
    if not isinstance(identity, tuple) or len(identity) not in (5, 6) or identity[0] != "storage":
        raise Damaged("it refers to storages in an unknown way")
    _, dtype, key, _, numel = identity[:5]
    known = isinstance(dtype, torch.dtype) and isinstance(key, str)
    if not known or type(numel) is not int or not 0 <= numel < _MOST_ELEMENTS:
        raise Damaged("it describes a storage in an unknown way")
    view = identity[5] if len(identity) == 6 else None
    if view is None:
        return Storage(key, dtype, numel)
    start = view[1] if isinstance(view, tuple) and len(view) == 3 else None
    if type(start) is not int or not 0 <= start < _MOST_ELEMENTS:
        raise Damaged("it describes a view of a storage in an unknown way")
    return Storage(key, dtype, numel, start, within=True)
