"""What a checkpoint is: its architecture, its data and its transform, settled by precedence.

Flag, environment, named config, the checkpoint's own metadata, a config found, the default; an architecture that
nobody names is read off the weights. `origins` remembers who said what.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unlearn_audit import models
from unlearn_audit.checkpoints import (
    Checkpoint,
    Metadata,
    OneSetOfWeights,
    SeveralWeights,
    nonfinite,
    read_checkpoint,
)
from unlearn_audit.config import METADATA, AuditConfig, CheckpointEntry, Resolved, code_is_allowed, outranks_metadata
from unlearn_audit.data import Dataset, Transform, load_data, old_subsets, rows_digest
from unlearn_audit.engine import Device
from unlearn_audit.errors import AuditError, DataError, UsageError
from unlearn_audit.files import without_ending
from unlearn_audit.model_folder import CONFIG, check_images, check_labels, moments_of, sha256_of_checkpoint
from unlearn_audit.normalisation import OF_CHILD, FromFile, assumptions, heir, resolve_normalisation
from unlearn_audit.streams import derive_seed
from unlearn_audit.training import pick_recipe

SAMPLE = 4  # images that a model is tried on
ANY = 10  # classes, where only names count


@dataclass(frozen=True)
class Candidate:
    """One model under audit, on the device and in evaluation mode, with its evaluation transform."""

    label: str
    role: str
    path: str
    sha256: str
    spec: str
    model: nn.Module
    transform: Transform
    notes: tuple[str, ...] = ()
    assumed: bool = False
    metadata: Metadata | None = None
    weights: str | None = None  # key in its file, where several sets of weights stand there
    types: tuple[str, ...] = ()  # which of its weights are stored in other types than the model computes in
    normalised_by: str = "metadata"
    named_recipe: Mapping[str, Any] = field(default_factory=dict)

    @property
    def recipe(self) -> dict[str, Any]:
        """How it was trained (an unlearned model: its original), as its metadata has it, else as a config names it.

        {} where nobody knows.
        """
        return dict(self.metadata.recipe if self.metadata and self.metadata.recipe else self.named_recipe)

    @property
    def training(self) -> dict[str, Any]:
        """The recipe and the architecture, to be compared with another model's."""
        return self.recipe | {"model": self.spec}


def read_entry(config: AuditConfig, entry: CheckpointEntry) -> Checkpoint:
    """Read a checkpoint that was asked for, of several sets of weights in it the one that is meant.

    A key that is given for all checkpoints holds for those that have keys; a file of one set is read with a note.

    Raises:
        CheckpointError: it cannot be read, or holds several sets and none is named, or not the one that is named.
    """
    try:
        return read_checkpoint(Path(entry.path), weights=entry.weights or config.weights)
    except OneSetOfWeights:
        if entry.weights or len(config.checkpoint) == 1:
            raise
    read = read_checkpoint(Path(entry.path))
    return replace(
        read, notes=(*read.notes, "it holds one set of weights, under no key: --weights does not concern it")
    )


def resolve_data(
    config: AuditConfig, origins: dict[str, str], checkpoints: Sequence[Checkpoint], limitations: list[str]
) -> Dataset:
    """Load the data: from the request, else from the checkpoints' metadata, else from a config found.

    Args:
        config: the merged configuration.
        origins: of its keys; who won for "data" is written into it.
        checkpoints: whose metadata may name data.
        limitations: gets a line for each checkpoint made with other data than the data asked for.

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
    origins["data"] = origin
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
            limitations.append(f"{message}: {old}" if old else message)
    return dataset


def _load(spec: str, origin: str, *, wanted: bool, asked_by: str) -> Dataset:
    """Load data; only what the user names may choose what is fetched, and into which folder it is written."""
    may = outranks_metadata(origin) and outranks_metadata(asked_by)
    try:
        return load_data(spec, allow_code=code_is_allowed(origin), download=wanted and may)
    except DataError as problem:
        if not wanted or may or not spec.startswith("torchvision:"):
            raise
        who = "a checkpoint's metadata" if origin == METADATA else "a config that was merely found"
        raise DataError(f"{problem}. Nothing was fetched: {who} may not choose that; name the data with --data and "
                        "say --download") from problem  # fmt: skip


def _same_rows(checkpoint: Checkpoint, dataset: Dataset) -> bool:
    """Whether a checkpoint's record says that it was made with this training set, whatever the test set is."""
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


def build_candidate(
    config: AuditConfig,
    origins: dict[str, str],
    entry: CheckpointEntry,
    checkpoint: Checkpoint,
    label: str,
    dataset: Dataset,
    compute: Device,
    others: Sequence[Checkpoint] = (),
) -> Candidate:
    """Build one model: its architecture by precedence, its weights strictly, its transform.

    Args:
        config: the merged configuration.
        origins: of its keys; who won for this model is written into it.
        entry: how the checkpoint was asked for.
        checkpoint: what was read.
        label: its unique label.
        dataset: which it belongs to.
        compute: where the model goes.
        others: the checkpoints of the same call; one that was made from this one tells what this one does not say.

    Raises:
        UsageError: unknown or refused model, mean or std of another length than the channels, or checkpoints that
            were made from this one and read it differently.
        MeasurementError: the weights do not fit the model, or the model cannot take the images.
    """
    metadata = checkpoint.metadata
    child = heir(checkpoint, others)
    spec, origin, state = _model_spec(config, origins, entry, checkpoint, child)
    notes = checkpoint.notes
    where = str(checkpoint.path)
    found = models.identify(state, where=where) if spec is None else None
    if found is not None:
        spec, origin, state = found.spec, "state dict", found.state
        notes += found.in_words
    if origin.startswith(OF_CHILD):
        notes += (f"architecture as {origin.removeprefix(OF_CHILD)} says, which was made from it: {spec}",)
    origins[f"model of {label}"] = origin
    channels, height, width = dataset.train.images.shape[1:]
    if checkpoint.folder is not None:
        notes += check_labels(checkpoint.folder, dataset.class_names, dataset.classes)
        notes += check_images(checkpoint.folder, (height, width))
    model = models.build(
        str(spec),
        classes=dataset.classes,
        channels=channels,
        image_size=(height, width) if metadata is not None or child is not None else None,
        allow_code=code_is_allowed(origin),
    )
    reading = models.read_for(model, state, spec=str(spec), where=where)
    in_file = _in_file(found or reading, model) or _in_folder(checkpoint)
    normalised = resolve_normalisation(config, origins, entry, checkpoint, dataset, in_file=in_file, child=child)
    origins.update({f"{key} of {label}": who for key, who in normalised.origins.items()})
    transform = normalised.transform
    sample = transform(dataset.test.images[:SAMPLE])
    models.materialise(model, sample, spec=str(spec))
    models.load_state(model, reading.state, where=where)
    notes += reading.notes
    if in_file and in_file.itself:
        notes += ("the model normalises its images itself; they reach it as they are",)
    types = models.other_types(model, reading.state)
    notes += types
    if metadata is not None:
        notes += tuple(note for note in metadata.notes if not assumptions([note]))  # these are settled above
    notes += normalised.notes
    model = compute.to_device(model).eval()
    notes += models.adapt(model, sample.to(compute.device), spec=str(spec), classes=dataset.classes)
    role = entry.role or (metadata.role if metadata and metadata.role else "subject")
    return Candidate(
        label,
        role,
        str(checkpoint.path),
        checkpoint.sha256,
        str(spec),
        model,
        transform,
        notes,
        assumed=origin == "state dict",
        metadata=metadata,
        weights=checkpoint.weights,
        types=types,
        normalised_by=normalised.origins["mean"],
        named_recipe=pick_recipe(entry.recipe, str(spec), epochs=entry.epochs).settings() if entry.recipe else {},
    )


def _model_spec(
    config: AuditConfig,
    origins: Mapping[str, str],
    entry: CheckpointEntry,
    checkpoint: Checkpoint,
    child: Checkpoint | None = None,
) -> tuple[str | None, str, Mapping[str, torch.Tensor]]:
    """Return the model spec, who said it, and the weights; None where only the weights can tell."""
    metadata, origin = checkpoint.metadata, origins.get("model", "default")
    entry_origin = origins.get("checkpoint", "flag")
    if entry.model and outranks_metadata(entry_origin):
        return models.written_out(entry.model), entry_origin, checkpoint.state
    if config.model and outranks_metadata(origin):
        return models.written_out(config.model), origin, checkpoint.state
    if metadata is not None:
        return metadata.model, "metadata", checkpoint.state
    if child is not None and child.metadata is not None:
        return child.metadata.model, f"{OF_CHILD}{child.path}", checkpoint.state
    if checkpoint.folder is not None:
        where = checkpoint.folder.path / CONFIG
        return models.spec_of_config(checkpoint.folder.config, where=str(where)), CONFIG, checkpoint.state
    if entry.model or config.model:
        return entry.model or config.model, entry_origin if entry.model else origin, checkpoint.state
    return None, "state dict", checkpoint.state


def _in_file(found: models.Identified | models.Reading, model: nn.Module) -> FromFile | None:
    """Return the mean and std that stand among the weights; none at all where the model normalises by itself."""
    if found.mean and found.std:
        return FromFile(found.mean, found.std)
    return FromFile((0.0,), (1.0,), itself=True) if models.normalises_itself(model.state_dict()) else None


def _in_folder(checkpoint: Checkpoint) -> FromFile | None:
    """Return the mean and std that a model's folder says."""
    moments = moments_of(checkpoint.folder) if checkpoint.folder else None
    return FromFile(*moments, said_by=checkpoint.folder.said_by) if moments and checkpoint.folder else None


def inspect_checkpoint(path: Path, request: Resolved) -> dict[str, Any]:
    """Return what a checkpoint holds and what would be believed of it, as plain values in reading order.

    Args:
        path: the file.
        request: flags and configs that would outrank or fill in the checkpoint's own metadata.

    Raises:
        CheckpointError: it cannot be read, or no architecture fits.
    """
    try:
        checkpoint = read_checkpoint(path, weights=request.config.weights)
    except SeveralWeights as several:
        return {
            "file": str(path),
            "format": several.format,
            "sha256": sha256_of_checkpoint(path),
            "weights": several.sets,
            "beside the weights": several.beside or "none",
            "not read": list(several.placeholders) or "none",
            "notes": "which of these weights are meant has to be said: --weights KEY",
        }
    metadata = checkpoint.metadata
    entry = CheckpointEntry(path=str(path))
    spec, origin, _ = _model_spec(request.config, request.origins, entry, checkpoint)
    notes = list(checkpoint.notes)
    if spec is None:
        found = models.identify(checkpoint.state, where=str(checkpoint.path))
        spec, origin = found.spec, "state dict"
        notes += found.in_words
    else:
        notes += _how_it_fits(checkpoint, spec, request, allow_code=code_is_allowed(origin))
    data, data_origin = _who_wins(request, "data", metadata.data if metadata else None)
    said = metadata.model_dump(mode="json", exclude_none=True) if metadata else {}
    notes += _stored_types(checkpoint)
    broken = nonfinite(checkpoint.state)
    return {
        "file": str(path),
        "format": checkpoint.format,
        "sha256": checkpoint.sha256,
        "weights": f"under {checkpoint.weights}" if checkpoint.weights else "the whole file",
        "sets of weights": checkpoint.sets or "one",
        "model": f"{spec} (from {origin})",
        "data": f"{data} (from {data_origin})" if data else None,
        "role": said.get("role"),
        "tensors": len(checkpoint.state),
        "values": f"{sum(tensor.numel() for tensor in checkpoint.state.values()):,} (parameters and buffers)",
        "dtypes": dict(sorted(Counter(str(t.dtype).removeprefix("torch.") for t in checkpoint.state.values()).items())),
        "not finite": [f"{name}: {count} values" for name, count in broken.items()] or "none",
        "beside the weights": checkpoint.beside or "none",
        "not read": list(checkpoint.placeholders) or "none",
        "metadata": {key: value for key, value in said.items() if key not in ("model", "data", "role") and value != {}},
        "notes": notes or "none",
    }


def _stored_types(checkpoint: Checkpoint) -> Iterator[str]:
    """Yield which weights are not stored in the type that models compute in, in words."""
    counts = Counter(t.dtype for t in checkpoint.state.values() if t.is_floating_point() or t.is_complex())
    for kind, count in counts.items():
        if kind != torch.get_default_dtype():
            used = str(torch.get_default_dtype()).removeprefix("torch.")
            yield f"{count} tensors are stored as {str(kind).removeprefix('torch.')}; models compute in {used}"


def _how_it_fits(checkpoint: Checkpoint, spec: str, request: Resolved, *, allow_code: bool) -> list[str]:
    """Say how the weights are read for a model that was named, and how it is served; of one that is refused, why."""
    if models.is_code(spec) and not allow_code:
        return []
    where = str(checkpoint.path)
    try:
        classes, channels, size = _asked_of(checkpoint, request)
        model = models.build(spec, classes=classes or ANY, channels=channels, image_size=size, allow_code=allow_code)
        reading = models.read_for(model, checkpoint.state, spec=spec, where=where)
        if not reading.fitting:
            return [*reading.notes, f"the names of the weights are not those of {spec}"]
        if size is None or not models.is_code(spec):
            return list(reading.notes)
        blank = torch.rand(SAMPLE, channels, *size, generator=torch.Generator().manual_seed(derive_seed(0, "probe")))
        models.materialise(model, blank, spec=spec)
        models.load_state(model, reading.state, where=where)
        return [*reading.notes, *models.adapt(model, blank, spec=spec, classes=classes)]
    except AuditError as problem:
        return [str(problem)]


def _asked_of(checkpoint: Checkpoint, request: Resolved) -> tuple[int | None, int, tuple[int, int] | None]:
    """Return classes, channels and size of the images as the metadata, or the data that were named, have them."""
    metadata, folder = checkpoint.metadata, checkpoint.folder
    if metadata is not None:
        return metadata.classes, metadata.channels or models.RGB, metadata.image_size
    spec = request.config.data
    if not spec:
        return None, folder.channels if folder else models.RGB, None
    dataset = load_data(spec, allow_code=code_is_allowed(request.origins.get("data", "default")))
    channels, height, width = dataset.train.images.shape[1:]
    return dataset.classes, channels, (height, width)


def _who_wins(request: Resolved, key: str, recorded: str | None) -> tuple[str | None, str]:
    """Return a value and who said it, by precedence."""
    asked, origin = getattr(request.config, key), request.origins.get(key, "default")
    if recorded is not None and not (asked is not None and outranks_metadata(origin)):
        return recorded, "metadata"
    return asked, origin
