"""Reading one tensor of indices from a `.pt` file: its pickle is looked through before torch sees it."""

import io
import pickletools
import warnings
import zipfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from unlearn_audit.data.formats.array_files import MOST_INDEX_BYTES, check_members
from unlearn_audit.errors import DataError
from unlearn_audit.files import read_input

LARGEST_PICKLE = 1 << 20  # bytes; a tensor's has a few hundred
MOST_OPCODES = 20_000
# What makes Python hash an object of the file; a tuple of tuples is hashed for years.
HASHING = frozenset({"SETITEM", "SETITEMS", "DICT", "ADDITEMS", "FROZENSET"})
# Types that NumPy has, too; which of them can be indices is the caller's to say.
NUMPYS = frozenset({
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16, torch.float32,
    torch.float64, torch.complex64, torch.complex128,
    torch.uint16, torch.uint32, torch.uint64,
})  # fmt: skip


def read_tensor(path: Path, shown: str, *, most: int) -> NDArray[np.generic]:
    """Return the dense tensor of a file that torch.save wrote, as an array; nothing is executed.

    Args:
        path: the file.
        shown: the file as the user typed it, for messages.
        most: entries that it may have.

    Raises:
        DataError: the file is too large or damaged, or holds anything else.
    """
    content = read_input(path, "index file", DataError, most=MOST_INDEX_BYTES)
    try:
        _check_pickle(shown, content)
        with warnings.catch_warnings(action="ignore"):  # what torch warns of here is refused below
            tensor = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except DataError:
        raise
    except Exception as problem:  # torch raises a dozen kinds for damaged files
        said = (str(problem) or type(problem).__name__).partition("\n")[0]
        if said.startswith("Weights only load failed"):  # what follows is advice to trust the file
            said = "it is damaged, or holds more than a tensor, and loading that would run code"
        raise DataError(f"cannot read index file {path} as a plain tensor: {said[:200]}") from problem
    plain = isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided
    plain = plain and not tensor.is_quantized and not tensor.is_nested
    if not plain or tensor.is_meta or tensor.dtype not in NUMPYS:
        kind = f"{tensor.dtype}{' without values (meta)' if tensor.is_meta else ''}" if plain else _kind(tensor)
        raise DataError(f"{shown} holds {kind}, not integers; indices are one dense integer or boolean tensor")
    if tensor.numel() > most:
        raise DataError(f"{shown} has {tensor.numel()} entries, far more than there are examples")
    array: NDArray[np.generic] = tensor.detach().resolve_conj().resolve_neg().numpy()
    return array


def _kind(value: object) -> str:
    return f"a {value.layout} tensor" if isinstance(value, torch.Tensor) else type(value).__name__


def _check_pickle(shown: str, content: bytes) -> None:
    """Refuse a file whose pickle holds dictionaries or sets, is long, or unfolds to more than a file may have."""
    if not content.startswith(b"PK"):
        _check_opcodes(shown, content, legacy=True)
        return
    check_members(shown, io.BytesIO(content))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if sum(member.file_size for member in archive.infolist()) > MOST_INDEX_BYTES:
            raise DataError(f"{shown} unfolds to more than {MOST_INDEX_BYTES >> 20} MiB; no set of indices is so large")
        for member in archive.infolist():
            if member.filename.endswith(".pkl"):
                with archive.open(member) as stream:
                    _check_opcodes(shown, stream.read(LARGEST_PICKLE + 1))


def _check_opcodes(shown: str, pickled: bytes, *, legacy: bool = False) -> None:
    """Refuse dictionaries and sets; torch's old files begin with a pickle of their own that has one, and no tuples."""
    stream = io.BytesIO(pickled)
    if not legacy and len(pickled) > LARGEST_PICKLE:
        raise DataError(f"{shown} holds far more than one tensor; indices are one dense integer or boolean tensor")
    for _ in range(4 if legacy else 1):  # magic number, protocol, the system, the object
        names = {opcode.name for opcode, _ in _opcodes(shown, stream)}
        tuples = any(name.endswith(("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3")) for name in names)
        if names & HASHING and (tuples or not legacy):
            raise DataError(f"{shown} holds dictionaries or sets; indices are one dense integer or boolean tensor")


def _opcodes(shown: str, stream: io.BytesIO) -> list[tuple[pickletools.OpcodeInfo, object]]:
    found = []
    for opcode, argument, _ in pickletools.genops(stream):
        found.append((opcode, argument))
        if len(found) > MOST_OPCODES:
            raise DataError(f"{shown} holds far more than one tensor; indices are one dense integer or boolean tensor")
    return found
