"""Reading the checkpoints that a request names, and loading the data that it or they name."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from unlearn_audit.checkpoints import Checkpoint, OneSetOfWeights, is_part_of_unet, read_checkpoint, read_overlay
from unlearn_audit.config import METADATA, AuditConfig, CheckpointEntry, code_is_allowed, outranks_metadata
from unlearn_audit.data import Dataset, load_data, old_subsets, rows_digest
from unlearn_audit.errors import CheckpointError, DataError, UsageError
from unlearn_audit.files import without_ending


def read_entry(config: AuditConfig, entry: CheckpointEntry) -> Checkpoint:
    """Read a checkpoint that was asked for, of several sets of weights in it the one that is meant.

    A file stands over the pipeline that `base` names; a folder is whole by itself, so that a base that is given for all
    does not concern it. A key that is given for all checkpoints holds for those that have keys; a file of one set is
    read with a note.

    Raises:
        CheckpointError: it cannot be read, or holds several sets and none is named, or not the one that is named.
    """
    base = entry.base or config.base
    if base and (entry.base or not Path(entry.path).is_dir()):
        return read_overlay(Path(entry.path), Path(base), weights=entry.weights or config.weights)
    try:
        return _read_whole(Path(entry.path), entry.weights or config.weights)
    except OneSetOfWeights:
        if entry.weights or len(config.checkpoint) == 1:
            raise
    read = _read_whole(Path(entry.path))
    return replace(
        read, notes=(*read.notes, "it holds one set of weights, under no key: --weights does not concern it")
    )


def _read_whole(path: Path, weights: str | None = None) -> Checkpoint:
    """Read a checkpoint that needs no other one."""
    read = read_checkpoint(path, weights=weights)
    if read.pipeline is None and read.metadata is None and is_part_of_unet(read.state):
        raise CheckpointError(
            f"{path} holds weights of a diffusion model's U-Net without the folder that they belong to; name it with "
            "--base FOLDER"
        )
    return read


class ResolvedData(NamedTuple):
    """The data, who named them ("flag", "metadata", …), and which checkpoints were made with other data."""

    dataset: Dataset
    origin: str
    notes: tuple[str, ...]


def resolve_data(config: AuditConfig, origins: Mapping[str, str], checkpoints: Sequence[Checkpoint]) -> ResolvedData:
    """Load the data: from the request, else from the checkpoints' metadata, else from a config found.

    Args:
        config: the merged configuration.
        origins: of its keys.
        checkpoints: whose metadata may name data.

    Raises:
        UsageError: nobody says what data, or the checkpoints disagree.
        DataError: the data cannot be read, or has changed since a checkpoint was made with it.
    """
    known = [c for c in checkpoints if c.metadata is not None and c.metadata.data]
    specs = {c.metadata.data for c in known if c.metadata is not None}
    spec, origin = config.data, origins.get("data", "default")
    if specs and not (spec and outranks_metadata(origin)):
        if len(specs) > 1:
            several = ", ".join(sorted(map(str, specs)))
            raise UsageError(f"the checkpoints were made with different data ({several}); give --data")
        spec, origin = str(specs.pop()), "metadata"
    if not spec:
        raise UsageError(f"{checkpoints[0].path} does not say what data it belongs to; give --data SPEC (see --help)")
    notes: list[str] = []
    dataset = _load(spec, origin, wanted=config.download, asked_by=origins.get("download", "default"))
    for checkpoint in known:
        recorded = checkpoint.metadata.data_sha256 if checkpoint.metadata else None
        if recorded and recorded != dataset.sha256 and (origin == "metadata" or not _same_rows(checkpoint, dataset)):
            message = (
                f"{checkpoint.path} was made with other data (digest {recorded[:12]}…, here {dataset.sha256[:12]}…)"
            )
            old = old_subsets(spec, recorded, allow_code=code_is_allowed(origin))
            if origin == "metadata":
                why = old or f"{spec} has changed since; name the right data with --data"
                raise DataError(f"{message}: {why}")
            notes.append(f"{message}: {old}" if old else message)
    return ResolvedData(dataset, origin, tuple(notes))


def _load(spec: str, origin: str, *, wanted: bool, asked_by: str) -> Dataset:
    """Load data; only what the user names may choose what is fetched, and into which folder it is written."""
    may = outranks_metadata(origin) and outranks_metadata(asked_by)
    try:
        return load_data(spec, allow_code=code_is_allowed(origin), download=wanted and may)
    except DataError as problem:
        if not wanted or may or not spec.startswith("torchvision:"):
            raise
        who = "a checkpoint's metadata" if origin == METADATA else "a config that was merely found"
        raise DataError(f"{problem}. Nothing was downloaded: {who} may not choose that; name the data with --data and "
                        "say --download") from problem  # fmt: skip


def _same_rows(checkpoint: Checkpoint, dataset: Dataset) -> bool:
    """Return whether a checkpoint's record says that it was made with this training set, whatever the test set is."""
    recorded = checkpoint.metadata.rows_sha256 if checkpoint.metadata else None
    return recorded is not None and recorded == rows_digest(dataset.train)


def unique_labels(entries: Sequence[CheckpointEntry]) -> list[str]:
    """Return unique labels: as given, else the file's name without its ending, numbered where they collide."""
    wanted = [entry.label or without_ending(entry.path) or entry.path for entry in entries]
    found: list[str] = []
    for label in wanted:
        count, name = 1, label
        while name in found:
            count += 1
            name = f"{label}-{count}"
        found.append(name)
    return found
