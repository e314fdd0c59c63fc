"""Read a checkpoint, whatever it is called: recognise it, load it without running anything, vet what is in it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor

from unlearn_audit.checkpoints.choosing import (
    ALL,
    OneSetOfWeights,
    SeveralWeights,
    at_key,
    choose,
    name_of,
    parts_of,
    read_set,
    sets_within,
    told,
)
from unlearn_audit.checkpoints.entries import WeightSet, is_average, others, weight_sets
from unlearn_audit.checkpoints.metadata import ENTRY, STATE_ENTRY, Metadata, decode_entry
from unlearn_audit.checkpoints.recognition import FileKind, one_line, recognise
from unlearn_audit.checkpoints.refusals import check_harmless, listed, no_weights, pickle_refusal
from unlearn_audit.checkpoints.safetensors_files import LoadedFile, load_safetensors
from unlearn_audit.checkpoints.shards import load_sharded
from unlearn_audit.checkpoints.states import nonfinite, strip_prefixes, vet
from unlearn_audit.checkpoints.torch_files import TorchFile, open_torch
from unlearn_audit.errors import CheckpointError
from unlearn_audit.files import check_input, sha256_of_file
from unlearn_audit.model_folder import (
    CONFIG,
    ModelFolder,
    looks_like_hub_name,
    read_model_folder,
    sha256_of_folder,
)
from unlearn_audit.pipeline_folder import (
    PUT_THERE,
    PipelineFolder,
    is_pipeline_folder,
    read_pipeline_folder,
    sha256_of_pipeline,
)

_MOST_SETS = 64
_MOST_NAMES = 100


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A checkpoint as read.

    Attributes:
        path: where it was read from.
        sha256: digest of the file, as `sha256sum` prints it; of shards, over the hex digests of the index and of the
            shards in name order; of a folder, over those of its config, of its images' preparation and of its weights.
        format: "safetensors", "safetensors, 3 shards", "torch zip", "torch zip, 3 shards" or "torch legacy".
        state: name -> dense tensor on the CPU, wrappers and prefixes removed.
        metadata: what it says about itself; None for a file that this package did not write.
        notes: in plain words, what was unwrapped, removed or passed over.
        foreign_metadata: the other metadata entries of a safetensors file.
        weights: the key in the file that the state stood under, None where it is all that the file holds.
        sets: every set of weights of a torch file in words, by its key.
        beside: what else stands at the top of a torch file, each in a few words.
        placeholders: names of what was not read of a torch file, since it is neither a tensor nor a plain value.
        folder: what the folder of a Hugging Face model says, where the path is one.
        pipeline: what the folder of a diffusion pipeline holds, where the path is one; the state is its U-Net's.
    """

    path: Path
    sha256: str
    format: str
    state: dict[str, Tensor]
    metadata: Metadata | None = None
    notes: tuple[str, ...] = ()
    foreign_metadata: dict[str, str] = field(default_factory=dict)
    weights: str | None = None
    sets: dict[str, str] = field(default_factory=dict)
    beside: dict[str, str] = field(default_factory=dict)
    placeholders: tuple[str, ...] = ()
    folder: ModelFolder | None = None
    pipeline: PipelineFolder | None = None


def read_checkpoint(path: Path, *, weights: str | None = None) -> Checkpoint:
    """Read weights from a safetensors file, an index of shards, a file that torch.save wrote, or a model's folder.

    The kind is told by content. Nothing in the file is imported or executed: the pickle of a torch file is read by a
    machine of our own, in which whatever is no tensor and no plain value is a placeholder that does nothing. Large
    files are mapped, so that weights come from disk as they are touched.

    Args:
        path: the file; for shards, their index; or a folder with config.json, see `read_model_folder`.
        weights: which of several sets of weights is meant: the key in the file that it stands under, with dots between
            keys that nest, or the beginning of its tensors' names; "." for all tensors of one dictionary.

    Returns:
        The checkpoint. Values may still be NaN: see `check_finite`.

    Raises:
        SeveralWeights: the file holds several sets of weights, and none is asked for.
        CheckpointError: the file is missing, empty, damaged, of another kind, asks for what only an attack asks for,
            holds no state dict, or describes itself in a way that cannot be read. One line, with the way out.
    """
    if os.path.isdir(path):
        return (_from_pipeline if is_pipeline_folder(path) else _from_folder)(path, weights)
    if not os.path.lexists(path) and (looks_like_hub_name(str(path)) or not os.path.splitext(path)[1]):
        raise CheckpointError(
            f"checkpoint not found: {path}; if that is the name of a model on a hub: nothing is fetched here, download "
            f"it first, and name the folder that it is in. There is no pipeline folder at {path}, and nothing is "
            f"downloaded: {PUT_THERE}"
        )
    check_input(path, "checkpoint", CheckpointError)
    try:
        kind = recognise(path)
        if kind in {FileKind.SAFETENSORS, FileKind.INDEX}:
            loaded = load_safetensors(path) if kind is FileKind.SAFETENSORS else load_sharded(path)
            return _from_safetensors(path, loaded, weights)
        return _from_torch(path, kind, weights)
    except OSError as problem:
        raise CheckpointError(f"cannot read checkpoint {path}: {problem.strerror or problem}") from problem


def _from_folder(path: Path, weights: str | None) -> Checkpoint:
    """Read the weights that lie in a model's folder; what it says beside them goes with them."""
    folder = read_model_folder(path)
    read = read_checkpoint(folder.weights, weights=weights)
    notes: tuple[str, ...] = (f"weights from {folder.weights.name}",)
    notes += (f"not read, as it lies beside: {', '.join(folder.passed_over)}",) if folder.passed_over else ()
    return replace(
        read,
        path=path,
        sha256=sha256_of_folder(folder, read.sha256),
        format=f"folder with {CONFIG}, {read.format}",
        notes=(*notes, *read.notes),
        folder=folder,
    )


def _from_pipeline(path: Path, weights: str | None) -> Checkpoint:
    """Read the U-Net's weights of a diffusion pipeline; what stands beside them goes with them."""
    folder = read_pipeline_folder(path)
    read = read_checkpoint(folder.weights, weights=weights)
    notes: tuple[str, ...] = ("one set of weights; whether it is an average of those trained cannot be told",)
    notes += (f"not read or run, as it lies beside: {', '.join(folder.passed_over)}",) if folder.passed_over else ()
    return replace(
        read,
        path=path,
        sha256=sha256_of_pipeline(folder, {folder.weights: read.sha256}),
        format=f"pipeline folder, {read.format}",
        notes=(*notes, *read.notes),
        pipeline=folder,
    )


def check_finite(checkpoint: Checkpoint) -> None:
    """Refuse weights that are not all finite.

    Args:
        checkpoint: the checkpoint, as read.

    Raises:
        CheckpointError: some value is NaN or infinite; names the first tensor and counts them all.
    """
    counts = nonfinite(checkpoint.state)
    if counts:
        first, number = next(iter(counts.items()))
        raise CheckpointError(
            f"{checkpoint.path}: {sum(counts.values())} weights are NaN or infinite, in {len(counts)} of "
            f"{len(checkpoint.state)} tensors, the first in {first!r:.80} ({number} of "
            f"{checkpoint.state[first].numel()}); the model diverged, use an earlier checkpoint"
        )


def _from_safetensors(path: Path, loaded: LoadedFile, weights: str | None) -> Checkpoint:
    """Make a checkpoint of named tensors and the entries beside them."""
    entries, tensors = dict(loaded.entries), dict(loaded.tensors)
    if STATE_ENTRY in entries:
        raise CheckpointError(
            f"{path} is not a checkpoint but the state of an interrupted run; continue that run with --resume"
        )
    metadata: Metadata | None = None
    notes: tuple[str, ...] = ()
    if (text := entries.pop(ENTRY, None)) is not None:
        metadata, tied, notes = decode_entry(path, text)
        _tie(path, tensors, tied)
    tensors, taken = _meant(path, vet(path, tensors), weights if metadata is None else None)
    if metadata is not None and weights is not None:
        notes += (f"it holds one set of weights, that under no key; --weights {weights} was not needed",)
    state, removed = strip_prefixes(tensors)
    notes += (f"weights taken from the names that begin with {name_of(taken)}",) if taken else ()
    return Checkpoint(path, loaded.sha256, loaded.format, state, metadata, (*notes, *removed), entries, weights=taken)


def _meant(path: Path, tensors: dict[str, Tensor], weights: str | None) -> tuple[dict[str, Tensor], str | None]:
    """Return the tensors that are meant of one dictionary, and the beginning of their names where that tells them.

    Raises:
        SeveralWeights: there are several sets, and none is asked for.
        CheckpointError: none has the name that is asked for.
    """
    if weights == ALL:
        return tensors, None
    if weights is None:
        heads = sets_within({name: tensor.shape for name, tensor in tensors.items()})
        if heads:
            every = {head: told(parts_of(tensors, head), head) for head in heads}
            raise SeveralWeights(path, every | {ALL: "all tensors, for a model that has both"})
        return tensors, None
    found = parts_of(tensors, weights)
    if not found:
        raise OneSetOfWeights(
            f"{path} holds one set of weights, and no name in it begins with {name_of(weights + ALL)}; leave out "
            "--weights, or give this file its own in a [[checkpoint]] of a config"
        )
    return found, weights


def _tie(path: Path, tensors: dict[str, Tensor], tied: Mapping[str, str]) -> None:
    """Put each name that was written as shared beside the tensor that it shares."""
    stored = set(tensors)
    for name, owner in sorted(tied.items()):
        if name in stored or owner not in stored:
            raise CheckpointError(f"{path}: its metadata ties {name!r:.80} to {owner!r:.80}, against what it stores")
        tensors[name] = tensors[owner]


def _from_torch(path: Path, kind: FileKind, weights: str | None) -> Checkpoint:
    """Make a checkpoint of what torch.save wrote."""
    if kind is FileKind.PICKLE:
        raise pickle_refusal(path)
    file = open_torch(path, kind)
    check_harmless(file)
    sets = weight_sets(file.content)
    if len(sets) > _MOST_SETS:
        raise CheckpointError(f"{path} holds {len(sets)} sets of weights; at most {_MOST_SETS} are looked at")
    beside, placeholders = others(file.content, sets), _shown(file.names)
    try:
        read = _of_sets(path, kind, file=file, sets=sets, weights=weights)
    except SeveralWeights as several:
        several.format, several.beside, several.placeholders = kind.value, beside, placeholders
        raise
    every = {one.key: told(one.tensors, one.key) for one in sets if one.key}
    return replace(read, beside=beside, placeholders=placeholders, sets=every)


def _shown(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the first names fit for a terminal, and how many more there are."""
    more = len(names) - _MOST_NAMES
    return (*(one_line(name) for name in names[:_MOST_NAMES]), *((f"and {more} more",) if more > 0 else ()))


def _of_sets(
    path: Path, kind: FileKind, *, file: TorchFile, sets: tuple[WeightSet, ...], weights: str | None
) -> Checkpoint:
    """Make a checkpoint of the set of weights that is meant."""
    if not sets and (weights in (None, ALL) or at_key(file.content, str(weights)) is None):
        raise no_weights(file)
    whole = len(sets) == 1 and not sets[0].key  # the prefixes of names are the only keys of such a file
    chosen, notes = (sets[0], ()) if whole else choose(file, sets, weights)
    tensors = read_set(file, chosen)
    prefix = weights if whole else None
    if whole or weights is None:
        tensors, prefix = _meant(path, tensors, prefix)
    state, removed = strip_prefixes(tensors)
    taken = prefix or chosen.key or None
    said = (
        *((f"state dict taken from {' > '.join(map(name_of, chosen.key.split('.')))}",) if chosen.key else ()),
        *((f"weights taken from the names that begin with {name_of(prefix)}",) if prefix else ()),
        *(("averaged weights, by the name of their key",) if is_average(taken or "") else ()),
        *((f"{chosen.empty} '_extra_state' entries that hold nothing were left out",) if chosen.empty else ()),
        *((f"not read, and nothing of it imported or called: {listed(file.names)}",) if file.names else ()),
    )
    return Checkpoint(
        path,
        sha256_of_file(path),
        kind.value,
        state,
        notes=(*said, *notes, *removed),
        weights=taken,
    )
