"""Training and unlearning models in memory."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from unlearn_audit.data import Dataset, IndexSet, Splits
from unlearn_audit.engine import setup_device
from unlearn_audit.errors import UsageError
from unlearn_audit.in_memory.models import Model, Moments, TrainedModel, as_candidate, module_of
from unlearn_audit.methods import Method, Settings, Unlearned, UnlearningContext, on_kind
from unlearn_audit.methods.apply import (
    all_looked_at,
    joining,
    parse_settings,
    record_of,
    run_method,
)
from unlearn_audit.methods.generators import kind_of
from unlearn_audit.methods.lookup import find_method
from unlearn_audit.methods.published import deviations_of, notes_of
from unlearn_audit.models import Architecture, name_of
from unlearn_audit.normalisation import assumptions
from unlearn_audit.progress import Progress, silent
from unlearn_audit.training import Recipe, pick_recipe, train_recorded


def train(
    architecture: Architecture,
    data: Dataset,
    *,
    without: IndexSet | None = None,
    recipe: str | Recipe | None = None,
    epochs: int | None = None,
    transforms: Sequence[str] = (),
    seed: int = 0,
    device: str = "auto",
    precision: str = "fp32",
    progress: Progress = silent,
) -> TrainedModel:
    """Train a network from scratch: an original, or, without the set to be forgotten, a retrained one to compare with.

    Args:
        architecture: `small-cnn`, `resnet20`, `torchvision:NAME`, `timm:NAME`, or a function without arguments that
            returns a new torch.nn.Module, whose initialisation is drawn under `seed`.
        data: what to train on, normalised by its own mean and std.
        without: training examples to leave out: `splits.forget`.
        recipe: "small" or "resnet", or a `Recipe`; default: "small" for the small networks, "resnet" for all others.
        epochs: instead of the recipe's own.
        transforms: what joins the training, as `train --with` takes it ("clip:c=1"), after those of a `Recipe`.
        seed: of initialisation and order; retrained models that are compared need different ones.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        precision: "fp32", "tf32" or "bf16".
        progress: progress callback, called after each step.

    Returns:
        The model, in evaluation mode, with a record of how it was made.

    Raises:
        UsageError: the architecture or the recipe is not known.
        MeasurementError: the network cannot take the images, or training diverged.
    """
    if isinstance(architecture, nn.Module):
        raise UsageError(
            "train makes a new network; give it a spec such as 'small-cnn', or a function that returns a module"
        )
    if isinstance(recipe, Recipe):
        chosen = recipe if epochs is None else replace(recipe, epochs=epochs)
        chosen = replace(chosen, transforms=(*chosen.transforms, *transforms))
    else:
        chosen = pick_recipe(recipe, name_of(architecture), epochs=epochs, transforms=transforms)
    compute = setup_device(device, precision)
    model, record = train_recorded(
        architecture, data, chosen, without=without, seed=seed, compute=compute, allow_code=True, progress=progress
    )
    return TrainedModel(model, record, architecture=architecture)


@dataclass(frozen=True, eq=False, repr=False)
class UnlearnedModel(TrainedModel):
    """A model that a method made, and what the method did.

    Attributes:
        done: by the method: steps, gradients of single examples, why it stopped early.
        deviations: how the run differs from the method's source, in words.
    """

    done: Unlearned
    deviations: tuple[str, ...]

    @property
    def steps(self) -> int:
        """Optimiser steps taken."""
        return self.done.steps

    @property
    def notes(self) -> tuple[str, ...]:
        """What the reader should know of how it was made, deviations included."""
        return self.record.notes


def unlearn(
    method: str | Method,
    model: Model,
    splits: Splits,
    *,
    transforms: Sequence[str] = (),
    published: bool = False,
    seed: int = 0,
    mean: Moments = None,
    std: Moments = None,
    device: str = "auto",
    precision: str = "fp32",
    progress: Progress = silent,
    **settings: Any,
) -> UnlearnedModel:
    """Unlearn the forget set with a method, from a copy of a model, which itself is left alone.

    Args:
        method: "ieu", "ft", "ga", "neggrad-plus", "rl", "scrub", "salun", "l1-sparse", "ssd", "retrain", …; or
            `package.module:callable`, which returns a `Method`; or such a `Method`.
        model: a module, or what `train` or `unlearn` returned.
        splits: what to forget and what to keep.
        transforms: what joins the method in each step, such as "mask:saliency,density=0.5" or "reinit:alpha=0.999".
        published: follow the source's settings where none are given here, in place of our defaults.
        seed: of batches and noise.
        mean: of inputs in [0, 1] as the model was trained, one number or one per channel; default: what is known of it,
            else the data's own.
        std: likewise.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        precision: "fp32", "tf32" or "bf16".
        progress: progress callback, called after each step.
        **settings: those of the method, such as `alpha=0.1`, `steps=400`, `step_size=0.01`.

    Returns:
        The new model, in evaluation mode and on the device of the one that was given, and what was done.

    Raises:
        UsageError: unknown method or transform, or a method that trains anew a module that nobody says how to build.
        ConfigError: unknown settings, or some out of range; every problem at once.
        MeasurementError: the model does not fit the data, or the method diverged.
    """
    asked = method if isinstance(method, Method) else find_method(method, allow_code=True)
    kind = kind_of(module_of(model))
    chosen, added = on_kind(asked, kind), joining(asked, transforms, kind)
    values: Settings = parse_settings(asked, settings, published=published, kind=kind)
    architecture = model.architecture if isinstance(model, TrainedModel) else None
    if chosen.role == "retrained" and architecture is None:
        raise UsageError(
            f"{chosen.name} builds a network anew, and a module does not say how; use "
            "train(architecture, splits.dataset, without=splits.forget)"
        )
    compute = setup_device(device, precision)
    candidate = as_candidate(model, splits.dataset, compute, mean=mean, std=std)
    known = candidate.metadata
    context = UnlearningContext(
        candidate.model,
        candidate.transform,
        splits,
        compute,
        seed,
        progress,
        spec=candidate.spec if architecture is None else architecture,
        recipe=candidate.recipe,
        original_seed=known.seed if known and known.role == "original" else None,
        extras=added,
        task=candidate.task,
        pipeline=candidate.pipeline,
    )
    done = run_method(chosen, context, values)
    inherited = assumptions(candidate.notes) if chosen.role == "unlearned" else ()
    started = record_of(candidate, splits, chosen, seed)
    record = started.model_copy(
        update={
            "method": method if isinstance(method, str) else chosen.name,
            "settings": values.model_dump(mode="json"),
            "transforms": tuple(transforms),
            "steps": done.steps,
            "gradient_evaluations": done.gradient_evaluations,
            "looked_at": all_looked_at(started.looked_at, done),
            "figures": done.figures or None,
            "recipe": candidate.recipe if done.recipe is None else done.recipe,
            "recipe_assumed": True if done.recipe_assumed else None,
            "notes": (*notes_of(chosen, done, values, added), *inherited),
        }
    )
    return UnlearnedModel(_with_weights(module_of(model), context.model), record, done,
                          deviations_of(chosen, values, added), architecture=architecture)  # fmt: skip


def _with_weights(module: nn.Module, made: nn.Module) -> nn.Module:
    """Return a copy of a module as its owner built it, types and device included, with the weights of another one."""
    copied = copy.deepcopy(module)
    copied.load_state_dict(made.state_dict())
    return copied.eval()
