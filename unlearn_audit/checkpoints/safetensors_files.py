"""Safetensors files, one or several shards: the header is checked here before the library maps the file."""

import json
import math
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor

from unlearn_audit.checkpoints.metadata import ENTRY
from unlearn_audit.checkpoints.recognition import Kind, one_line, recognise
from unlearn_audit.errors import CheckpointError
from unlearn_audit.files import check_input, sha256_of_bytes, sha256_of_file

__all__ = ["DTYPES", "MOST_TENSORS", "Loaded", "load_safetensors", "load_sharded"]

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


class Loaded(NamedTuple):
    """What one or several files hold: SHA-256, layout in words, tensors by name, metadata entries as they stand."""

    sha256: str
    format: str
    tensors: dict[str, Tensor]
    entries: dict[str, str]


def load_safetensors(path: Path) -> Loaded:
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
    return Loaded(sha256_of_file(path), "safetensors", tensors, entries)


def load_sharded(path: Path) -> Loaded:
    """Read the shards that a JSON index names, all from the index's own folder.

    Args:
        path: the index, a JSON object whose "weight_map" maps each tensor to a file name.

    Returns:
        All tensors. The digest is the SHA-256 over the hex digests of the index and of the shards in name order.

    Raises:
        CheckpointError: the index is not one, a shard lies elsewhere or is not readable, a tensor is missing or double.
    """
    weight_map, entries = _read_index(path)
    names = sorted(set(weight_map.values()))
    tensors: dict[str, Tensor] = {}
    digests = [sha256_of_file(path)]
    for name in names:
        shard = load_safetensors(_shard(path, name))
        _check_shard(path, name, weight_map, shard.tensors)
        _merge(path, entries, shard.entries)
        tensors |= shard.tensors
        digests.append(shard.sha256)
    sha256 = sha256_of_bytes(*(digest.encode() for digest in digests))
    return Loaded(sha256, f"safetensors, {len(names)} shard{'s' * (len(names) != 1)}", tensors, entries)


def _read_index(path: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Return the weight map and the metadata entries of an index, those that are not text as JSON."""
    with path.open("rb") as stream:
        index = _json_object(path, stream.read(_LONGEST_HEADER + 1), "index")
    weight_map, metadata = index.get("weight_map"), index.get("metadata") or {}
    if not isinstance(weight_map, dict):
        raise CheckpointError(f"{path} is a JSON file without a 'weight_map'; a safetensors or torch file is needed")
    if not weight_map or not all(isinstance(name, str) for name in weight_map.values()):
        raise CheckpointError(f"{path}: 'weight_map' must map the name of each tensor to a file name")
    if not isinstance(metadata, dict):
        raise CheckpointError(f"{path}: 'metadata' of an index must be a JSON object")
    entries = {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}
    return weight_map, entries


def _shard(index: Path, name: str) -> Path:
    """Return the path of a shard, if it is a safetensors file in the folder of the index."""
    plain = bool(name) and name not in {".", ".."} and not set(name) & set("/\\:\0")
    shard = index.parent / name
    if not plain or shard.resolve().parent != index.parent.resolve():
        raise CheckpointError(
            f"refused: {index} names a shard outside its folder: {name!r:.80}; "
            "copy the shards themselves (no links) beside the index"
        )
    check_input(shard, "shard", CheckpointError)
    if recognise(shard) is not Kind.SAFETENSORS:
        raise CheckpointError(f"{shard}, named by {index}, is not a safetensors file; join or convert the shards first")
    return shard


def _check_shard(index: Path, name: str, weight_map: Mapping[str, str], tensors: Mapping[str, Tensor]) -> None:
    """Refuse a shard that lacks a tensor of the index or has one that is not, or not here, in the index."""
    expected = {key for key, where in weight_map.items() if where == name}
    for key in sorted(expected.symmetric_difference(tensors)):
        what = "lacks" if key in expected else "also holds"
        raise CheckpointError(f"shard {name} {what} {key!r:.80}, against what {index} says; download the shards again")


def _merge(index: Path, entries: dict[str, str], more: Mapping[str, str]) -> None:
    """Add a shard's metadata entries; the first of each name stays, but two descriptions must agree."""
    if ENTRY in more and more[ENTRY] != entries.get(ENTRY, more[ENTRY]):
        raise CheckpointError(f"the shards of {index} describe themselves differently; they are not of one checkpoint")
    for key, value in more.items():
        entries.setdefault(key, value)


def _check_header(path: Path) -> None:
    """Refuse a header that is absurd or does not describe exactly the bytes that follow it."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > _LONGEST_HEADER or length + 8 > size:
            raise _absurd(path, f"it claims a length of {length} bytes in a file of {size}")
        header = _json_object(path, stream.read(length), "header")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _absurd(path, "'__metadata__' must map text to text")
    if len(header) > MOST_TENSORS:
        raise _absurd(path, f"it lists {len(header)} tensors; at most {MOST_TENSORS} are read")
    spans = sorted(_span(path, name, entry) for name, entry in header.items())
    end = 0
    for start, stop, name in spans:
        if start != end:
            raise _absurd(path, f"tensor {name!r:.80} starts at byte {start}, the one before ends at {end}")
        end = stop
    if end != size - 8 - length:
        raise _absurd(path, f"its tensors take {end} bytes, the file has {size - 8 - length} for them")


def _span(path: Path, name: str, entry: object) -> tuple[int, int, str]:
    """Return first byte, end and name of a tensor, if its entry makes sense in itself."""
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= set(entry):
        raise _absurd(path, f"tensor {name!r:.80} needs dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise _absurd(
            path, f"tensor {name!r:.80} has the unknown dtype {reprlib.repr(dtype)} (known: {', '.join(DTYPES)})"
        )
    if isinstance(shape, list) and len(shape) > _MOST_DIMENSIONS:
        raise _absurd(path, f"tensor {name!r:.80} has {len(shape)} dimensions; at most {_MOST_DIMENSIONS} are read")
    if not _are_sizes(shape) or math.prod(size for size in shape if size) > _LARGEST_SIZE:
        raise _absurd(path, f"tensor {name!r:.80} has the impossible shape {reprlib.repr(shape)}")
    if not isinstance(offsets, list) or len(offsets) != 2 or not _are_sizes(offsets):
        raise _absurd(path, f"tensor {name!r:.80} has the impossible data_offsets {reprlib.repr(offsets)}")
    needed = math.prod(shape) * DTYPES[dtype].itemsize
    if offsets[1] - offsets[0] != needed:
        raise _absurd(path, f"tensor {name!r:.80} needs {needed} bytes and has {offsets[1] - offsets[0]}")
    return offsets[0], offsets[1], name


def _are_sizes(value: object) -> bool:
    """Tell whether `value` is a list of whole numbers that are not negative."""
    return isinstance(value, list) and all(type(size) is int and 0 <= size <= _LARGEST_SIZE for size in value)


def _json_object(path: Path, data: bytes, part: str) -> dict[str, Any]:
    """Return the JSON object in `data`, refusing repeated keys."""
    try:
        content = json.loads(data, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as problem:
        raise CheckpointError(f"absurd {part} in {path}: not JSON ({one_line(str(problem))}); {_AGAIN}") from problem
    if not isinstance(content, dict):
        raise CheckpointError(f"absurd {part} in {path}: not a JSON object; {_AGAIN}")
    return content


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a name stands there twice")
    return content


def _absurd(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"absurd header in {path}: {what}; {_AGAIN}")
