"""Named training recipes: how an original or a retrained model comes to be, the same way each time."""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from torch import nn

from unlearn_audit import __version__, catalogue, models
from unlearn_audit.checkpoints import Metadata, write_checkpoint
from unlearn_audit.data import Dataset, IndexSet, rows_digest
from unlearn_audit.engine import Batches, Device, Resumable, Term, Terms, crop_and_flip, derive_seed, descend
from unlearn_audit.engine.task import losses as example_losses
from unlearn_audit.errors import ConfigError
from unlearn_audit.files import check_output
from unlearn_audit.progress import Progress, silent
from unlearn_audit.strict_json import problems

Count = Annotated[int, Field(gt=0, strict=True)]
Real = Annotated[float, Field(ge=0, strict=True)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Recipe:
    """SGD with momentum and a cosine schedule after a short linear warm-up.

    Attributes:
        name: how it is asked for.
        epochs: passes over the training set.
        batch_size: examples per step.
        step_size: peak learning rate, above 0 and at most 1e30.
        momentum: of SGD (Nesterov's), below 1; 0 is plain SGD.
        weight_decay: on every parameter of two or more dimensions.
        augment: random crops (padding of an eighth) and horizontal flips.
    """

    name: str
    epochs: Count
    batch_size: Count
    step_size: Annotated[float, Field(gt=0, le=1e30, strict=True)]
    momentum: Annotated[Real, Field(lt=1)]
    weight_decay: Real
    augment: Annotated[bool, Field(strict=True)]

    def settings(self) -> dict[str, Any]:
        """Return the recipe as plain values, for a checkpoint's metadata."""
        return asdict(self)


# Ours: enough passes without regularisation that a small network fits every label, wrong ones included.
SMALL = Recipe("small", 30, 64, 0.1, 0.9, 0.0, augment=False)
# He et al. 2016, section 4.2 (step .1, momentum .9, crops and flips); cosine schedule and 5e-4 as is usual since.
RESNET = Recipe("resnet", 30, 128, 0.1, 0.9, 5e-4, augment=True)

WARM_UP = 0.05
SAMPLE = 4  # images that a new model is tried on


def pick_recipe(name: str | None, model: str, *, epochs: int | None = None) -> Recipe:
    """Return a recipe: the one named, else "small" for our small networks and "resnet" for all other models.

    Args:
        name: of the catalogue, or None.
        model: the model spec that decides where no name is given.
        epochs: instead of the recipe's own.

    Raises:
        UsageError: unknown name.
    """
    chosen = name or ("small" if model.startswith("small") else "resnet")
    recipe: Recipe = catalogue.load("recipe", catalogue.RECIPES, chosen)
    return replace(recipe, epochs=epochs) if epochs else recipe


def recorded_recipe(settings: Mapping[str, Any]) -> Recipe:
    """Return the recipe that a file records; anyone may have written the file.

    Args:
        settings: as a checkpoint's metadata or the plan of a fleet has them.

    Raises:
        ConfigError: they are those of another kind of recipe, or a value is out of range.
    """
    try:
        return TypeAdapter(Recipe).validate_python(dict(settings))
    except ValidationError as problem:
        found = problems(problem, settings, Recipe)
        raise ConfigError("recorded recipe", [*found, "name a recipe with --recipe"]) from problem


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Return in words how two recipes differ, as checkpoints' metadata have them; names do not count.

    >>> differing({"name": "small", "epochs": 5}, {"name": "mine", "epochs": 30})
    'epochs 5, not 30'
    """
    keys = [key for key in dict(one) | dict(other) if key != "name" and one.get(key) != other.get(key)]
    return ", ".join(f"{key} {one.get(key)!s:.40}, not {other.get(key)!s:.40}" for key in keys)


def by_difference(trained: Iterable[tuple[str, Mapping[str, Any], Mapping[str, Any]]]) -> dict[str, list[str]]:
    """Return how recipes differ, in the words of `differing`, with the labels of those that differ so.

    Args:
        trained: label, its recipe, and the one that it is compared with; those that are alike are left out.
    """
    found: dict[str, list[str]] = {}
    for label, one, other in trained:
        if told := differing(one, other):
            found.setdefault(told, []).append(label)
    return found


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
) -> nn.Module:
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

    Returns:
        The trained model, on the device, in evaluation mode.

    Raises:
        MeasurementError: the model cannot take the images, or training diverged.
    """
    model = new_model(spec, dataset, seed, allow_code=allow_code, compute=compute)
    rows, augment = dataset.train.subset(indices), crop_and_flip if recipe.augment else None
    batches = Batches(rows, dataset.transform, recipe.batch_size, seed, "train", compute, augment)
    steps = recipe.epochs * batches.per_epoch
    return follow(recipe, model, batches, steps=steps, resumable=resumable, progress=progress, task=task)


def follow(
    recipe: Recipe,
    model: nn.Module,
    batches: Batches,
    *,
    steps: int,
    resumable: Resumable | None = None,
    progress: Progress = silent,
    task: str = "training",
) -> nn.Module:
    """Train a model in place for a number of steps, over which the recipe's schedule is stretched.

    Args:
        recipe: optimiser, peak step size and decay; the batches have its size and augmentation.
        model: on the device of the batches.
        batches: what it is trained on; their seed is that of the model's own draws, too.
        steps: how many.
        resumable: lets a killed run go on.
        progress: callback, called after each step.
        task: its name in the progress.

    Returns:
        The model, in evaluation mode.

    Raises:
        MeasurementError: training diverged.
    """

    def terms(step: int) -> Terms:
        images, labels = batches.at(step)
        with batches.compute.autocast():
            logits = model(images)
        return {"loss": Term(example_losses(logits, labels).mean())}

    def schedule(step: int) -> float:
        warm = min(1.0, (step + 1) / (WARM_UP * steps))
        return warm * 0.5 * (1 + math.cos(math.pi * step / steps))

    descend(
        model,
        terms,
        _optimizer(model, recipe),
        steps=steps,
        seed=batches.seed,
        schedule=schedule,
        resumable=resumable,
        progress=progress,
        task=task,
    )
    return model.eval()


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    matrices = [parameter for parameter in model.parameters() if parameter.dim() >= 2]
    others = [parameter for parameter in model.parameters() if parameter.dim() < 2]
    groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.SGD(
        [group for group in groups if group["params"]],
        lr=recipe.step_size,
        momentum=recipe.momentum,
        nesterov=recipe.momentum > 0,  # torch refuses Nesterov's method without momentum
    )


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
    indices = np.arange(len(dataset.train))
    if without is not None:
        indices = np.setdiff1d(indices, without.indices)
    began = clock() if clock else 0.0
    model = train(
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
            "wall_seconds": round(clock() - began, 3) if clock else None,
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
) -> str:
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
        The SHA-256 of the file.

    Raises:
        OutputError: the file exists or cannot be written; found out before training.
        MeasurementError: training diverged.
    """
    check_output(out, force=force)
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
    return write_checkpoint(out, model.state_dict(), metadata, force=force)


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
