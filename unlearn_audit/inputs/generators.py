"""A pipeline's folder that was read becomes a subject: its parts by its own configs, its images in [-1, 1]."""

from collections.abc import Mapping

from torch import Tensor

from unlearn_audit import models
from unlearn_audit.checkpoints import Checkpoint
from unlearn_audit.config import AuditConfig, CheckpointEntry, outranks_metadata
from unlearn_audit.data import Dataset, Transform
from unlearn_audit.engine import Device, Task
from unlearn_audit.errors import MeasurementError, UsageError
from unlearn_audit.generation import denoising_task
from unlearn_audit.generation.conditions import NOTHING, ClassConditions
from unlearn_audit.generation.pipelines import Pipeline, open_pipeline
from unlearn_audit.inputs.candidate import SAMPLE, Candidate, named_recipe, role_of

HALF = 0.5  # mean and std of what is scaled to [0, 1]: a generator's images are in [-1, 1]
SAID_BY = "pipeline folder"


def build_generator(
    config: AuditConfig,
    origins: Mapping[str, str],
    *,
    entry: CheckpointEntry,
    checkpoint: Checkpoint,
    label: str,
    dataset: Dataset,
    compute: Device,
) -> Candidate:
    """Build a generator: its U-Net with its schedule, and what stands beside it.

    Args:
        config: the merged configuration.
        origins: of its keys.
        entry: how the checkpoint was asked for.
        checkpoint: what was read of a pipeline's folder.
        label: its unique label.
        dataset: whose images it is measured on.
        compute: where the denoiser goes.

    Raises:
        UsageError: a package is missing, or another normalisation is asked for than a generator has.
        CheckpointError: the weights do not fit.
        MeasurementError: it cannot take the images or the classes.
    """
    channels = dataset.train.images.shape[1]
    for key, value in (("mean", entry.mean), ("std", entry.std), ("mean", config.mean), ("std", config.std)):
        asked_by = origins.get("checkpoint", "flag") if value is getattr(entry, key) else origins.get(key, "default")
        if value is not None and outranks_metadata(asked_by) and set(value) != {HALF}:
            raise UsageError(
                f"{checkpoint.path} makes images in [-1, 1], which is mean 0.5 and std 0.5; leave out --mean and --std"
            )
    metadata = checkpoint.metadata
    pipeline = open_pipeline(checkpoint, classes=dataset.classes)
    transform = Transform((HALF,) * channels, (HALF,) * channels)
    spec = metadata.model if metadata else checkpoint.pipeline.spec if checkpoint.pipeline else ""
    denoiser = compute.to_device(pipeline.denoiser).eval()
    sample = transform(dataset.test.images[:SAMPLE])
    if pipeline.vae is None and sample.shape[1] != pipeline.channels:
        raise MeasurementError(
            f"{checkpoint.path} makes images of {pipeline.channels} channels, the data has {channels}; name the data "
            "that it was trained on with --data"
        )
    models.adapt(denoiser, sample.to(compute.device), spec=spec)
    notes = (*checkpoint.notes, *pipeline.notes, *(metadata.notes if metadata else ()))
    types = models.other_types(denoiser, checkpoint.state)
    return Candidate(
        label,
        role_of(entry, metadata),
        str(checkpoint.path),
        checkpoint.sha256,
        spec,
        denoiser,
        transform,
        (*notes, *types),
        metadata=metadata,
        weights=checkpoint.weights,
        types=types,
        normalised_by=SAID_BY,
        named_recipe=named_recipe(entry, spec),
        origins={"model": "metadata" if metadata else SAID_BY, "mean": SAID_BY, "std": SAID_BY},
        task=_task(pipeline, dataset, compute),
        pipeline=pipeline,
    )


def _task(pipeline: Pipeline, dataset: Dataset, compute: Device) -> Task:
    """Return what a generator is for: noise on its images or latents, under their classes or their texts."""
    conditions = pipeline.conditions
    encode = pipeline.to_latents if pipeline.has_latents else None
    if isinstance(conditions, ClassConditions):
        return denoising_task(pipeline.denoiser, encode=encode)
    names = dataset.class_names or tuple(map(str, range(dataset.classes)))

    def condition(labels: Tensor) -> Tensor:
        return pipeline.encode([names[label] for label in labels.tolist()], compute)

    def unconditioned() -> Tensor:
        return pipeline.encode([NOTHING], compute)

    return denoising_task(pipeline.denoiser, encode=encode, condition=condition, unconditioned=unconditioned)
