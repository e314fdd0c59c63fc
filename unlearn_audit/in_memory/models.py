"""From what a caller holds to what is measured: a copy on the device, in evaluation mode, tried on a few images."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn.parameter import UninitializedParameter

from unlearn_audit import models
from unlearn_audit.catalogue import ASSUMED_INPUTS
from unlearn_audit.checkpoints import Metadata, digest_of_state, nonfinite, write_checkpoint
from unlearn_audit.config import METADATA
from unlearn_audit.config.layers import DEFAULT, FLAG
from unlearn_audit.data import Dataset, Transform
from unlearn_audit.engine import Device, trainable
from unlearn_audit.errors import MeasurementError, UsageError
from unlearn_audit.generation import task_of
from unlearn_audit.generation.pipelines import configs_of
from unlearn_audit.inputs import IN_MEMORY, SAMPLE, Candidate
from unlearn_audit.models.denoisers import Denoiser
from unlearn_audit.normalisation import as_text, assumptions
from unlearn_audit.user_code import raised

Moments = float | Sequence[float] | None


@dataclass(frozen=True, eq=False, repr=False)
class TrainedModel:
    """A model with a record of how it was made, as `train` returns it; taken wherever a module is.

    Attributes:
        model: in evaluation mode.
        record: recipe, seed, data, mean and std, as they stand in the metadata of a checkpoint.
        architecture: what its network was built from, for a method that builds one anew; a function is not pickled
            with the model, since it may have no name that leads back to it.
    """

    model: nn.Module
    record: Metadata
    architecture: models.Architecture | None = field(default=None, kw_only=True)

    def __getstate__(self) -> dict[str, Any]:
        """Return what is pickled and copied."""
        return vars(self) | {"architecture": self.architecture if isinstance(self.architecture, str) else None}

    def __repr__(self) -> str:
        """Say what it is in a line, without all its weights."""
        by = self.record.method or self.record.recipe.get("name")
        return f"{type(self).__name__}({self.record.model}, {self.record.role} by {by}, {self.record.steps} steps)"

    def save(self, path: str | Path, *, force: bool = False) -> str:
        """Write a checkpoint that describes itself, for the command line or another day; return its SHA-256.

        Args:
            path: the file, .safetensors; of a generator the folder.
            force: replace an existing file.

        Raises:
            OutputError: the file exists or cannot be written.
        """
        size = self.record.image_size
        beside = configs_of(self.model, size) if isinstance(self.model, Denoiser) and size else None
        return write_checkpoint(Path(path), self.model.state_dict(), self.record, force=force, beside=beside)


Model = nn.Module | TrainedModel


def module_of(model: Model, label: str = "the model") -> nn.Module:
    """Return the module itself.

    Args:
        model: a module, or what `train` or `unlearn` returned.
        label: how messages call it.

    Raises:
        UsageError: it is something else.
    """
    module = model.model if isinstance(model, TrainedModel) else model
    if isinstance(module, nn.Module):
        return module
    raise UsageError(
        f"{label} is {type(model).__name__}; a torch.nn.Module is needed, or what train or unlearn returned"
    )


def as_candidate(
    model: Model,
    dataset: Dataset,
    compute: Device,
    *,
    label: str = "the model",
    role: str = "subject",
    mean: Moments = None,
    std: Moments = None,
) -> Candidate:
    """Return a copy of a model as measurements take it; the caller's own is left as it is, mode and device included.

    Args:
        model: a module, or what `train` or `unlearn` returned.
        dataset: whose images it takes, and whose classes it tells apart.
        compute: where the copy goes.
        label: its unique name.
        role: original, retrained, unlearned or subject.
        mean: of inputs in [0, 1] as the model was trained, one number or one per channel; default: what `train` and
            `unlearn` recorded, none for a model that normalises its images itself, else the data's own, assumed.
        std: likewise.

    Raises:
        UsageError: no module, lazy layers without weights, nothing to train, or mean or std of another length.
        MeasurementError: weights that are not finite, a model that cannot take the images, or that answers with
            something other than a row of logits for each class of the data.
    """
    module = module_of(model, label)
    record = model.record if isinstance(model, TrainedModel) else None
    _check_weights(module, label)
    spec = record.model if record else models.name_of(module)
    transform, said_by, notes = _normalised(module, record, dataset=dataset, mean=mean, std=std)
    own = compute.to_device(_copied(module, label)).eval()
    sample = transform(dataset.test.images[:SAMPLE]).to(compute.device)
    notes += tuple(note for note in (record.notes if record else ()) if not assumptions([note]))
    try:  # a module of the caller's is tried as thoroughly as any code that somebody wrote
        notes += models.adapt(own, sample, spec=spec, classes=dataset.classes)
    except MeasurementError as problem:
        raise MeasurementError(f"{label}: {problem}") from problem
    return Candidate(
        label, role, IN_MEMORY, digest_of_state(module.state_dict()), spec, own, transform, notes, metadata=record,
        normalised_by=said_by, task=task_of(own),
    )  # fmt: skip


def _check_weights(module: nn.Module, label: str) -> None:
    """Refuse weights that are not there yet, or broken, or all fixed."""
    if any(isinstance(each, UninitializedParameter) for each in (*module.parameters(), *module.buffers())):
        raise UsageError(f"{label} has lazy layers without weights; pass it a batch of images first")
    broken = nonfinite(module.state_dict())
    if broken:
        raise MeasurementError(
            f"{label}: {sum(broken.values())} weights are NaN or infinite, the first in '{next(iter(broken))}'; the "
            "model diverged"
        )
    if not trainable(module):
        raise UsageError(
            f"{label} has no weights that require a gradient, so that it can neither relearn nor unlearn; call "
            "model.requires_grad_(True), which trains nothing by itself"
        )


def _copied(module: nn.Module, label: str) -> nn.Module:
    try:
        return copy.deepcopy(module)
    except Exception as problem:
        raise MeasurementError(f"{label} cannot be copied, as measuring needs: {raised(problem)}") from problem


def _normalised(
    module: nn.Module, record: Metadata | None, *, dataset: Dataset, mean: Moments, std: Moments
) -> tuple[Transform, str, tuple[str, ...]]:
    """Return the transform of a model's inputs, who said it, and what is to be noted of it."""
    if (mean is None) != (std is None):
        raise UsageError("mean and std belong together; give both, or neither")
    channels = dataset.train.images.shape[1]
    if mean is not None and std is not None:
        return Transform(_per_channel("mean", mean, channels), _per_channel("std", std, channels)), FLAG, ()
    if record is not None and record.mean and record.std:
        return Transform(record.mean, record.std), METADATA, assumptions(record.notes)
    if isinstance(module, Denoiser):
        return Transform((0.5,) * channels, (0.5,) * channels), "generator", ()  # its images are in [-1, 1]
    if models.normalises_itself(module.state_dict()):
        as_they_are = Transform((0.0,) * channels, (1.0,) * channels)
        return as_they_are, "weights", ("the model normalises its images itself; they reach it as they are",)
    assumed = f"{ASSUMED_INPUTS} with {as_text(dataset.transform)} ({dataset.moments_from})"
    return dataset.transform, DEFAULT, (assumed,)


def _per_channel(name: str, values: float | Sequence[float], channels: int) -> tuple[float, ...]:
    found = (float(values),) if isinstance(values, int | float) else tuple(float(value) for value in values)
    if len(found) not in (1, channels):
        raise UsageError(f"{name} has {len(found)} numbers, the images have {channels} channels")
    return found * channels if len(found) == 1 else found
