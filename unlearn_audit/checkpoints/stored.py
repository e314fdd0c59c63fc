"""Tensors as a torch file describes them, before a byte of theirs is read; what else a pickle holds becomes inert."""

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

MOST_DIMENSIONS = 64  # torch computes with no more
_LARGEST = 2**62
_KINDS = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
    "ComplexFloat": torch.complex64,
    "ComplexDouble": torch.complex128,
    "QInt8": torch.qint8,
    "QUInt8": torch.quint8,
    "QInt32": torch.qint32,
    "Untyped": torch.uint8,
}
STORAGES: Mapping[str, torch.dtype] = {
    f"{room}.{kind}Storage": dtype
    for kind, dtype in _KINDS.items()
    for room in ("torch", "torch.cuda", "torch.storage")
}
DTYPES_BY_NAME: Mapping[str, torch.dtype] = {
    f"torch.{name}": value for name, value in vars(torch).items() if isinstance(value, torch.dtype)
}
_SCALARS = {"f2": "e", "f4": "f", "f8": "d", "b1": "?"} | {
    f"{sign}{size}": letter if sign == "i" else letter.upper()
    for sign in "iu"
    for size, letter in ((1, "b"), (2, "h"), (4, "i"), (8, "q"))
}


class Damaged(ValueError):
    """A pickle that is damaged, or asks for more than a file of weights needs."""


class Placeholder:
    """What stands for an object that is no tensor and no plain value: its name and what the file put into it.

    Attributes:
        name: dotted name of the class or function that loading the file would have brought in.
        called: whether the file makes an object of it, or has the name alone.
        entries: what the file stores in it as in a dictionary.
        attributes: what the file sets on it.
    """

    __slots__ = ("attributes", "called", "entries", "name")

    def __init__(self, name: str, *, called: bool = False) -> None:
        self.name = name
        self.called = called
        self.entries: dict[Any, Any] = {}
        self.attributes: Mapping[Any, Any] = {}


class Storage(NamedTuple):
    """A piece of a file: its key there, the type of its elements, how many, and where they begin in it.

    `within` says that it is a part of the piece of that key, as torch once stored views, and not the whole.
    """

    key: str
    dtype: torch.dtype
    numel: int
    start: int = 0
    within: bool = False


class StoredTensor(NamedTuple):
    """A tensor that can be read: a view of a storage; `odd` says in words why one cannot be."""

    storage: Storage
    dtype: torch.dtype
    size: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    offset: int = 0
    odd: str = ""

    @property
    def numel(self) -> int:
        """How many elements it has."""
        found = 1
        for size in self.size:
            found *= size
        return found

    @property
    def nbytes(self) -> int:
        """How many bytes it has once it stands alone."""
        return self.numel * self.dtype.itemsize


class Known(NamedTuple):
    """A name that files of weights need, and our own function that stands for it."""

    name: str
    call: Callable[..., Any]


class _NumpyType:
    """The type of a NumPy number, as far as it is plain."""

    def __init__(self, code: object, *_: object) -> None:
        self.code = code if isinstance(code, str) else ""
        self.order = "<"


def _sizes(value: object) -> tuple[int, ...]:
    """Return sizes, strides or an offset, which are small whole numbers."""
    if not isinstance(value, list | tuple) or len(value) > MOST_DIMENSIONS:
        raise Damaged("a tensor has no sound shape")
    if not all(type(size) is int and 0 <= size <= _LARGEST for size in value):
        raise Damaged("a tensor has no sound shape")
    return tuple(value)


def _tensor(storage: object, offset: object, size: object, stride: object, *more: object) -> StoredTensor:
    """Describe a view of a storage that stays within it."""
    if not isinstance(storage, Storage):
        raise Damaged("a tensor has no storage")
    return _view(storage, storage.dtype, offset=offset, size=size, stride=stride)


def _tensor_of_type(storage: object, *arguments: object) -> StoredTensor:
    """Describe a view of a storage of bytes, read as numbers of a type that has no storage of its own.

    The arguments are offset, size, stride, whether a gradient is needed, hooks and type; a pickle names none of them.
    """
    if len(arguments) < 6:
        raise Damaged("a tensor has no storage or no type")
    offset, size, stride, _, _, dtype, *_ = arguments
    if not isinstance(storage, Storage) or not isinstance(dtype, torch.dtype):
        raise Damaged("a tensor has no storage or no type")
    width = dtype.itemsize
    aligned = storage._replace(numel=storage.numel * storage.dtype.itemsize // width)
    if storage.start * storage.dtype.itemsize % width:
        raise Damaged("a tensor begins within an element")
    start = storage.start * storage.dtype.itemsize // width
    return _view(aligned._replace(dtype=dtype, start=start), dtype, offset=offset, size=size, stride=stride)


def _view(storage: Storage, dtype: torch.dtype, *, offset: object, size: object, stride: object) -> StoredTensor:
    sizes, strides, (first,) = _sizes(size), _sizes(stride), _sizes((offset,))
    if len(sizes) != len(strides):
        raise Damaged("a tensor has a shape and strides of different lengths")
    last = first + sum((count - 1) * step for count, step in zip(sizes, strides, strict=True))
    found = StoredTensor(storage, dtype, sizes, strides, first)
    if found.numel and last >= storage.numel:
        raise Damaged("a tensor reaches beyond its storage")
    if found.numel > _LARGEST:
        raise Damaged("a tensor has no sound shape")
    return found


def _odd(what: str) -> Callable[..., StoredTensor]:
    """Return a function that describes a tensor which cannot be audited."""
    nothing = Storage("", torch.uint8, 0)
    return lambda *arguments: StoredTensor(nothing, torch.uint8, (0,), (1,), odd=what)


def _inert(name: str) -> Callable[..., Placeholder]:
    """Return a function that makes a placeholder of that name."""
    return lambda *arguments: Placeholder(name, called=True)


def _quantised(storage: object, *_: object) -> StoredTensor:
    dtype = storage.dtype if isinstance(storage, Storage) else torch.qint8
    return StoredTensor(Storage("", torch.uint8, 0), torch.uint8, (0,), (1,), odd=f"quantised ({dtype})")


def _parameter(data: object, *_: object) -> object:
    return data


def _from_type(make: object, kind: object, arguments: object, *_: object) -> object:
    """Describe a tensor that carries attributes, or is of a class of its own."""
    plain = isinstance(kind, Known) and kind.name in {"torch.Tensor", "torch.nn.parameter.Parameter"}
    if not isinstance(make, Known) or "._rebuild_" not in make.name or not isinstance(arguments, tuple):
        raise Damaged("a tensor is made in an unknown way")
    made = make.call(*arguments)
    if plain or not isinstance(made, StoredTensor):
        return made
    name = kind.name if isinstance(kind, Known | Placeholder) else "?"
    return made._replace(odd=f"of a special tensor type ({name})")


def _mapping(*arguments: object) -> dict[Any, Any]:
    """Return a dictionary of pairs, as an ordered one is pickled; a factory for missing keys is passed over."""
    pairs = [item for argument in arguments if isinstance(argument, list) for item in argument]
    if not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
        raise Damaged("a dictionary is not made of pairs")
    return {key_of(key): value for key, value in pairs} | next((a for a in arguments if isinstance(a, dict)), {})


def _items(*arguments: object) -> Sequence[Any]:
    """Return what a list, a tuple or a set is made of, as it is: nothing is copied, nothing has to be hashed."""
    return arguments[0] if arguments and isinstance(arguments[0], list | tuple) else []


def _encoded(text: object, encoding: object = "") -> bytes:
    """Return the bytes that pickles of protocol 2 write as text."""
    if not isinstance(text, str) or encoding != "latin1":
        raise Damaged("bytes are not written as Latin-1")
    return text.encode("latin-1")


def _scalar(kind: object, data: object = b"") -> object:
    """Return a NumPy number as a number of Python's."""
    letter = _SCALARS.get(kind.code) if isinstance(kind, _NumpyType) else None
    if letter is None or not isinstance(data, bytes) or len(data) != struct.calcsize(letter):
        return Placeholder("numpy.generic", called=True)
    order = kind.order if isinstance(kind, _NumpyType) and kind.order in "<>" else "<"
    return struct.unpack(order + letter, data)[0]


def key_of(value: object) -> Any:
    """Return what may be the key of a dictionary: text, bytes, small numbers; anything else is not hashed.

    Nested tuples take for ever to hash, and large whole numbers can be chosen so that all hashes are the same.
    """
    if isinstance(value, str | bytes | float | None) or (isinstance(value, int) and abs(value) < 1 << 60):
        return value
    return Placeholder(type(value).__name__)


def build(made: object, state: object) -> None:
    """Give an object its state: placeholders keep it, of plain values there is nothing to set."""
    if isinstance(made, Placeholder):
        made.attributes = _first_mapping(state)
    elif isinstance(made, _NumpyType) and isinstance(state, Sequence) and len(state) > 1:
        made.order = ">" if state[1] == ">" else "<"


def _first_mapping(state: object) -> Mapping[Any, Any]:
    """Return the attributes in a state, which may stand beside those of slots."""
    parts = state if isinstance(state, tuple) else (state,)
    return next((part for part in parts if isinstance(part, dict)), {})


_ODD = {
    "_rebuild_sparse_tensor": "sparse",
    "_rebuild_sparse_csr_tensor": "sparse",
    "_rebuild_nested_tensor": "nested",
    "_rebuild_meta_tensor_no_storage": "on the meta device (it has no values)",
    "_rebuild_wrapper_subclass": "of a special tensor type",
    "_rebuild_device_tensor_from_numpy": "of a device that is not known here",
    "_rebuild_device_tensor_from_cpu_tensor": "of a device that is not known here",
}
_BUILTINS: Mapping[str, Callable[..., Any]] = {
    "list": _items,
    "set": _items,
    "frozenset": _items,
    "tuple": _items,
    "dict": _mapping,
}
_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_type,
    "torch._utils._rebuild_qtensor": _quantised,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _from_type,
    "torch.nn.parameter.Parameter": _parameter,
    "torch.storage._load_from_bytes": lambda *data: Storage("a pickle within the pickle", torch.uint8, _LARGEST),
    "torch.Tensor": _odd("made in an unknown way"),
    "torch.Size": _items,
    "torch.device": _inert("torch.device"),
    "torch.serialization._get_layout": _inert("torch.layout"),
    "collections.OrderedDict": _mapping,
    "collections.defaultdict": _mapping,
    "_codecs.encode": _encoded,
    "numpy.dtype": _NumpyType,
    "numpy.core.multiarray._reconstruct": _inert("numpy.ndarray"),
    "numpy._core.multiarray._reconstruct": _inert("numpy.ndarray"),
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
    **{f"torch._utils.{name}": _odd(what) for name, what in _ODD.items()},
    **{f"{room}.{name}": call for name, call in _BUILTINS.items() for room in ("builtins", "__builtin__")},
}
KNOWN: Mapping[str, Known] = {name: Known(name, call) for name, call in _FUNCTIONS.items()}
