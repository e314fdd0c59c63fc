"""Training: how an original or a retrained model comes to be, by a recipe, the same way each time."""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from unlearn_audit import __version__, catalogue, models
from unlearn_audit.checkpoints import Metadata, check_checkpoint_output, write_checkpoint
from unlearn_audit.data import Dataset, IndexSet, rows_digest
from unlearn_audit.engine import (
    Batches,
    Device,
    Draws,
    Outcome,
    Resumable,
    Term,
    Terms,
    autocast_for,
    crop_and_flip,
    derive_seed,
    descend,
    outcome,
)
from unlearn_audit.generation import task_of
from unlearn_audit.generation.pipelines import configs_of
from unlearn_audit.models.denoisers import Denoiser
from unlearn_audit.progress import Progress, silent
from unlearn_audit.step_transforms import Course, TrainingContext, training_extras
from unlearn_audit.training.descending import clipped, optimizer_of
from unlearn_audit.training.recipes import (
    DIFFUSION,
    FAST,
    RESNET,
    SMALL,
    Recipe,
    by_difference,
    differing,
    hurried,
    pick_recipe,
    recorded_recipe,
)

__all__ = [
    "DIFFUSION",
    "FAST",
    "RESNET",
    "SMALL",
    "Recipe",
    "Trained",
    "by_difference",
    "describe",
    "differing",
    "follow",
    "for_model",
    "hurried",
    "new_model",
    "pick_recipe",
    "recorded_recipe",
    "train",
    "train_checkpoint",
    "train_recorded",
]

WARM_UP = 0.05
SAMPLE = 4  # images that a new model is tried on


def for_model(spec: models.Architecture, dataset: Dataset) -> Dataset:
    """Return the data as such a model is trained on it: a generator's images are in [-1, 1].

    Args:
        spec: model spec, or a callable that makes the network.
        dataset: with the normalisation of a classifier.
    """
    if spec not in catalogue.GENERATORS:
        return dataset
    half = (0.5,) * dataset.train.images.shape[1]
    return replace(dataset, mean=half, std=half)


def new_model(
    spec: models.Architecture, dataset: Dataset, seed: int, *, allow_code: bool = False, compute: Device | None = None
) -> nn.Module:
    """Return a freshly initialised model for the data; the initialisation depends on the seed alone.

    Args:
        spec: model spec, or a callable that makes the network.
        dataset: whose images the model takes.
        seed: of the initialisation.
        allow_code: whether the spec may name user code.
        compute: where the model is placed, tried on a few images and served as it needs; None leaves it as built.

    Raises:
        UsageError: the model cannot be built.
        MeasurementError: the model cannot take the images, or answers with something other than logits.
    """
    channels, height, width = dataset.train.images.shape[1:]
    sample = dataset.transform(dataset.train.images[:SAMPLE])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "initialisation"))
        model = models.build(
            spec, classes=dataset.classes, channels=channels, image_size=(height, width), allow_code=allow_code
        )
        models.materialise(model, sample, spec=models.name_of(spec))
    if compute is not None:
        model = compute.to_device(model)
        models.adapt(model, sample.to(compute.device), spec=models.name_of(spec), classes=dataset.classes)
    return model


class Trained(NamedTuple):
    """A trained model, on the device, in evaluation mode; and what the transforms of its recipe have to say of it."""

    model: nn.Module
    outcome: Outcome


def train(
    spec: models.Architecture,
    dataset: Dataset,
    indices: NDArray[np.int64],
    recipe: Recipe,
    *,
    seed: int,
    compute: Device,
    allow_code: bool = False,
    resumable: Resumable | None = None,
    progress: Progress = silent,
    task: str = "training",
) -> Trained:
    """Train a model from scratch on the given training examples.

    Args:
        spec: model spec, or a callable that makes the network.
        dataset: where the examples are.
        indices: training examples to use, [n].
        recipe: how.
        seed: of initialisation and order.
        compute: where.
        allow_code: whether the spec may name user code.
        resumable: lets a killed run go on.
        progress: callback, called after each step.
        task: its name in the progress.

    Raises:
        MeasurementError: the model cannot take the images, or training diverged.
    """
    dataset = for_model(spec, dataset)
    model = new_model(spec, dataset, seed, allow_code=allow_code, compute=compute)
    rows, augment = dataset.train.subset(indices), crop_and_flip if recipe.augment else None
    batches = Batches(
        rows,
        dataset.transform,
        recipe.batch_size,
        seed,
        "train",
        compute,
        augment,
        task_of(model),
        Draws(seed, count=1, grid=False, drop=recipe.label_drop, antithetic=True),
    )
    steps = recipe.epochs * batches.per_epoch
    found = follow(recipe, model, batches, steps=steps, resumable=resumable, progress=progress, task=task)
    return Trained(model, found)


def follow(
    recipe: Recipe,
    model: nn.Module,
    batches: Batches,
    *,
    steps: int,
    resumable: Resumable | None = None,
    progress: Progress = silent,
    task: str = "training",
) -> Outcome:
    """Train a model in place for a number of steps, over which the recipe's schedule is stretched.

    It is left in evaluation mode.

    Args:
        recipe: optimiser, peak step size, decay and transforms; the batches have its size and augmentation.
        model: on the device of the batches.
        batches: what it is trained on; their seed is that of the model's own draws, too.
        steps: how many.
        resumable: lets a killed run go on.
        progress: callback, called after each step.
        task: its name in the progress.

    Returns:
        What the recipe's transforms have to say of the run.

    Raises:
        MeasurementError: training diverged.
    """

    def terms(step: int) -> Terms:
        rows = batches.rows_at(step)
        with autocast_for(batches.task, batches.compute):
            outputs = model(rows.inputs)
        return {"loss": Term(batches.task.losses(outputs, rows.target).mean())}

    def schedule(step: int) -> float:
        warm = min(1.0, (step + 1) / (WARM_UP * steps))
        return warm * 0.5 * (1 + math.cos(math.pi * step / steps))

    extras = training_extras(recipe.transforms)
    course = Course(steps, lambda step: step // batches.per_epoch)
    context = TrainingContext(model, batches.seed, progress, resumable.memory if resumable else {}, batches)
    hooks = [extra.transform.make(context, extra.settings, course) for extra in extras]
    hooks += [] if recipe.clip is None else [clipped(model, recipe.clip)]
    descend(
        model,
        terms,
        optimizer_of(model, recipe),
        steps=steps,
        seed=batches.seed,
        schedule=schedule,
        hooks=hooks,
        resumable=resumable,
        progress=progress,
        task=task,
    )
    model.eval()
    return outcome(hooks)


def train_recorded(
    spec: models.Architecture,
    dataset: Dataset,
    recipe: Recipe,
    *,
    without: IndexSet | None = None,
    seed: int,
    compute: Device,
    allow_code: bool = False,
    clock: Callable[[], float] | None = time.monotonic,
    resumable: Resumable | None = None,
    progress: Progress = silent,
    task: str = "training",
) -> tuple[nn.Module, Metadata]:
    """Train on the data, without a set to be forgotten where one is given, and say how; see `train_checkpoint`.

    Args:
        spec: model spec, or a callable that makes the network.
        dataset: what to train on.
        recipe: how.
        without: training examples to leave out; the model is then recorded as retrained, else as original.
        seed: of initialisation and order.
        compute: where.
        allow_code: whether the spec may name user code.
        clock: tells seconds; None leaves the wall time out of the metadata.
        resumable: lets a killed run go on.
        progress: progress callback, called after each step.
        task: its name in the progress.

    Returns:
        The trained model, on the device, in evaluation mode; and what a checkpoint of it says of itself.

    Raises:
        MeasurementError: the model cannot take the images, or training diverged.
    """
    dataset = for_model(spec, dataset)
    indices = np.arange(len(dataset.train))
    if without is not None:
        indices = np.setdiff1d(indices, without.indices)
    began = clock() if clock else 0.0
    model, found = train(
        spec,
        dataset,
        indices,
        recipe,
        seed=seed,
        compute=compute,
        allow_code=allow_code,
        resumable=resumable,
        progress=progress,
        task=task,
    )
    steps = recipe.epochs * math.ceil(len(indices) / recipe.batch_size)
    metadata = describe(models.name_of(spec), dataset).model_copy(
        update={
            "role": "original" if without is None else "retrained",
            "rows_sha256": rows_digest(dataset.train, indices),
            "recipe": recipe.settings(),
            "seed": seed,
            "forget": without.spec if without else None,
            "forget_sha256": without.sha256 if without else None,
            "forget_n": len(without.indices) if without else None,
            "steps": steps,
            "gradient_evaluations": recipe.epochs * len(indices),
            "figures": found.figures or None,
            "wall_seconds": round(clock() - began, 3) if clock else None,
            "notes": found.notes,
        }
    )
    return model, metadata


def train_checkpoint(
    out: Path,
    spec: str,
    dataset: Dataset,
    recipe: Recipe,
    *,
    without: IndexSet | None = None,
    seed: int,
    compute: Device,
    allow_code: bool = False,
    force: bool = False,
    clock: Callable[[], float] | None = time.monotonic,
    resumable: Resumable | None = None,
    progress: Progress = silent,
    task: str = "training",
) -> Metadata:
    """Train as `train_recorded` does, and write a self-describing checkpoint.

    Args:
        out: the file to write.
        spec: model spec.
        dataset: what to train on.
        recipe: how.
        without: training examples to leave out.
        seed: of initialisation and order.
        compute: where.
        allow_code: whether the spec may name user code.
        force: replace an existing file.
        clock: tells seconds; None leaves the wall time out of the metadata, so that equal runs write equal bytes.
        resumable: lets a killed run go on.
        progress: progress callback, called after each step.
        task: its name in the progress.

    Returns:
        What the checkpoint says of itself.

    Raises:
        OutputError: the file exists or cannot be written; found out before training.
        MeasurementError: training diverged.
    """
    check_checkpoint_output(out, force=force, generator=spec in catalogue.GENERATORS)
    model, metadata = train_recorded(
        spec,
        dataset,
        recipe,
        without=without,
        seed=seed,
        compute=compute,
        allow_code=allow_code,
        clock=clock,
        resumable=resumable,
        progress=progress,
        task=task,
    )
    height, width = dataset.train.images.shape[2:]
    beside = configs_of(model, (height, width)) if isinstance(model, Denoiser) else None
    write_checkpoint(out, model.state_dict(), metadata, force=force, beside=beside)
    return metadata


def describe(spec: str, dataset: Dataset) -> Metadata:
    """Return what any checkpoint made here says about its model, its data and its transform."""
    channels, height, width = dataset.train.images.shape[1:]
    return Metadata(
        model=models.written_out(spec),
        classes=dataset.classes,
        channels=channels,
        image_size=(height, width),
        data=dataset.spec,
        data_sha256=dataset.sha256,
        mean=tuple(dataset.mean),
        std=tuple(dataset.std),
        tool_version=__version__,
        torch_version=torch.__version__,
    )
