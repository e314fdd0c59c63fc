"""Safetensors files: the header is checked here before the library maps the file."""

import math
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor

from unlearn_audit.checkpoints.recognition import one_line
from unlearn_audit.errors import CheckpointError
from unlearn_audit.files import sha256_of_file
from unlearn_audit.strict_json import parse_object

MOST_TENSORS = 100_000  # the largest models that there are have fewer

DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "C64": torch.complex64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_LONGEST_HEADER = 30_000_000  # bytes
_MOST_DIMENSIONS = 64  # torch computes with no more
_LARGEST_SIZE = 2**63 - 1
_AGAIN = "the file is damaged or not complete; copy or download it again"


class LoadedFile(NamedTuple):
    """What one or several files hold: SHA-256, layout in words, tensors by name, metadata entries as they stand."""

    sha256: str
    format: str
    tensors: dict[str, Tensor]
    entries: dict[str, str]


def load_safetensors(path: Path) -> LoadedFile:
    """Read one file; tensors are mapped from disk, writing to them leaves the file alone.

    Args:
        path: the file.

    Raises:
        CheckpointError: the header is absurd, or does not fit the file.
    """
    _check_header(path)
    try:
        with safe_open(path, framework="pt", device="cpu") as stored:
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - not a mapping
            entries = dict(stored.metadata() or {})
    except Exception as problem:  # the library has errors of its own for what the check above lets pass
        raise CheckpointError(f"cannot read {path} (safetensors): {one_line(str(problem))}; {_AGAIN}") from problem
    return LoadedFile(sha256_of_file(path), "safetensors", tensors, entries)


def _check_header(path: Path) -> None:
    """Refuse what the library lets pass.

    The library itself checks that offsets, shapes and the file's size agree. But it reads headers of 100 MB, takes the
    last of two tensors of one name, reads packed 4-bit numbers under another shape, and accepts shapes that torch
    cannot compute with.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > _LONGEST_HEADER or length + 8 > size:
            raise _absurd(path, f"it claims a length of {length} bytes in a file of {size}")
        header = json_object(path, stream.read(length), "header")
    if len(header) > MOST_TENSORS:
        raise _absurd(path, f"it lists {len(header)} tensors; at most {MOST_TENSORS} are read")
    for name, entry in header.items():
        if name != "__metadata__" and isinstance(entry, dict):
            _check_kind(path, name, entry.get("dtype"), entry.get("shape"))


def _check_kind(path: Path, name: str, dtype: object, shape: object) -> None:
    """Refuse a dtype that torch lacks and an impossible shape; entries that are malformed are left to the library."""
    if isinstance(dtype, str) and dtype not in DTYPES:
        raise _absurd(path, f"tensor {name!r:.80} has the unknown dtype {dtype!r:.20} (known: {', '.join(DTYPES)})")
    sizes = [each for each in shape if isinstance(each, int)] if isinstance(shape, list) else []
    if len(sizes) > _MOST_DIMENSIONS:
        raise _absurd(path, f"tensor {name!r:.80} has {len(sizes)} dimensions; at most {_MOST_DIMENSIONS} are read")
    if math.prod(filter(None, sizes)) > _LARGEST_SIZE:  # with a 0 among them, torch's strides would overflow
        raise _absurd(path, f"tensor {name!r:.80} has the impossible shape {reprlib.repr(shape)}")


def json_object(path: Path, data: bytes, part: str) -> dict[str, Any]:
    """Return the JSON object in `data`."""
    try:
        return parse_object(data)
    except ValueError as problem:
        raise CheckpointError(f"absurd {part} in {path}: {one_line(str(problem))}; {_AGAIN}") from problem


def _absurd(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"absurd header in {path}: {what}; {_AGAIN}")
