"""A checkpoint that was read becomes a subject: its architecture by precedence, its weights strictly, its transform."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from unlearn_audit import models
from unlearn_audit.checkpoints import Checkpoint
from unlearn_audit.config import AuditConfig, CheckpointEntry, code_is_allowed, outranks_metadata
from unlearn_audit.data import Dataset
from unlearn_audit.engine import Device
from unlearn_audit.generation import task_of
from unlearn_audit.inputs.candidate import SAMPLE, Candidate, named_recipe, role_of
from unlearn_audit.inputs.generators import build_generator
from unlearn_audit.model_folder import CONFIG, check_images, check_labels, moments_of
from unlearn_audit.normalisation import OF_CHILD, FromFile, assumptions, heir, resolve_normalisation


def build_candidate(
    config: AuditConfig,
    origins: Mapping[str, str],
    *,
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
        origins: of its keys.
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
    if checkpoint.pipeline is not None:
        return build_generator(
            config, origins, entry=entry, checkpoint=checkpoint, label=label, dataset=dataset, compute=compute
        )
    metadata = checkpoint.metadata
    child = heir(checkpoint, others)
    spec, origin, state = model_spec(config, origins, entry=entry, checkpoint=checkpoint, child=child)
    notes = checkpoint.notes
    where = str(checkpoint.path)
    found = models.identify(state, where=where) if spec is None else None
    if found is not None:
        spec, origin, state = found.spec, "state dict", found.state
        notes += found.in_words
    if origin.startswith(OF_CHILD):
        notes += (f"architecture as {origin.removeprefix(OF_CHILD)} says, which was made from it: {spec}",)
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
    normalised = resolve_normalisation(
        config, origins, entry=entry, checkpoint=checkpoint, dataset=dataset, in_file=in_file, child=child
    )
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
    return Candidate(
        label,
        role_of(entry, metadata),
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
        origins={"model": origin, "mean": normalised.origins["mean"], "std": normalised.origins["std"]},
        task=task_of(model),
        named_recipe=named_recipe(entry, str(spec)),
    )


def model_spec(
    config: AuditConfig,
    origins: Mapping[str, str],
    *,
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
    if checkpoint.pipeline is not None:
        return checkpoint.pipeline.spec, "unet/config.json", checkpoint.state
    if checkpoint.folder is not None:
        where = checkpoint.folder.path / CONFIG
        return models.spec_of_config(checkpoint.folder.config, where=str(where)), CONFIG, checkpoint.state
    if entry.model or config.model:
        return entry.model or config.model, entry_origin if entry.model else origin, checkpoint.state
    return None, "state dict", checkpoint.state


def _in_file(found: models.Identified | models.NameReading, model: nn.Module) -> FromFile | None:
    """Return the mean and std that stand among the weights; none at all where the model normalises by itself."""
    if found.mean and found.std:
        return FromFile(found.mean, found.std)
    return FromFile((0.0,), (1.0,), itself=True) if models.normalises_itself(model.state_dict()) else None


def _in_folder(checkpoint: Checkpoint) -> FromFile | None:
    """Return the mean and std that a model's folder says."""
    moments = moments_of(checkpoint.folder) if checkpoint.folder else None
    return FromFile(*moments, said_by=checkpoint.folder.said_by) if moments and checkpoint.folder else None
