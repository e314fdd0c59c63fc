"""Checkpoints in several files: an index names the shards, all of which lie in its own folder."""

import json
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from unlearn_audit.checkpoints.choosing import read_set
from unlearn_audit.checkpoints.entries import weight_sets
from unlearn_audit.checkpoints.metadata import ENTRY
from unlearn_audit.checkpoints.recognition import FileKind, recognise
from unlearn_audit.checkpoints.refusals import check_harmless
from unlearn_audit.checkpoints.safetensors_files import LoadedFile, json_object, load_safetensors
from unlearn_audit.checkpoints.torch_files import open_torch
from unlearn_audit.errors import CheckpointError
from unlearn_audit.files import check_input, sha256_of_bytes, sha256_of_file

_LONGEST_INDEX = 30_000_000  # bytes


def load_sharded(path: Path) -> LoadedFile:
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
        shard = _load_shard(path, name)
        _check_shard(path, name, weight_map, shard.tensors)
        _merge(path, entries, shard.entries)
        tensors |= shard.tensors
        digests.append(shard.sha256)
    sha256 = sha256_of_bytes(*(digest.encode() for digest in digests))
    return LoadedFile(sha256, f"{shard.format}, {len(names)} shard{'s' * (len(names) != 1)}", tensors, entries)


def _read_index(path: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Return the weight map and the metadata entries of an index, those that are not text as JSON."""
    with path.open("rb") as stream:
        index = json_object(path, stream.read(_LONGEST_INDEX + 1), "index")
    weight_map, metadata = index.get("weight_map"), index.get("metadata") or {}
    if not isinstance(weight_map, dict):
        raise CheckpointError(f"{path} is a JSON file without a 'weight_map'; a safetensors or torch file is needed")
    if not weight_map or not all(isinstance(name, str) for name in weight_map.values()):
        raise CheckpointError(f"{path}: 'weight_map' must map the name of each tensor to a file name")
    if not isinstance(metadata, dict):
        raise CheckpointError(f"{path}: 'metadata' of an index must be a JSON object")
    entries = {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}
    return weight_map, entries


def _load_shard(index: Path, name: str) -> LoadedFile:
    """Read a shard: a safetensors file, or a state dict that torch.save wrote."""
    path = _shard(index, name)
    kind = recognise(path)
    if kind is FileKind.SAFETENSORS:
        return load_safetensors(path)
    if kind is FileKind.TORCH_ZIP:
        file = open_torch(path, kind)
        check_harmless(file)
        sets = weight_sets(file.content)
        if len(sets) == 1 and not sets[0].key:
            return LoadedFile(sha256_of_file(path), kind.value, read_set(file, sets[0]), {})
    raise CheckpointError(
        f"{path}, named by {index}, is not a safetensors file, nor a state dict that torch.save wrote"
    )


def _shard(index: Path, name: str) -> Path:
    """Return the path of a shard, if it is in the folder of the index."""
    plain = bool(name) and name not in {".", ".."} and not set(name) & set("/\\:\0")
    shard = index.parent / name
    if not plain or shard.resolve().parent != index.parent.resolve():
        raise CheckpointError(
            f"refused: {index} names a shard outside its folder: {name!r:.80}; "
            "copy the shards themselves (no links) beside the index"
        )
    return check_input(shard, "shard", CheckpointError)


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
