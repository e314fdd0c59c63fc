"""Unlearning methods: each one an objective, its transforms and its defaults, run by one common loop.

A method edits a model in place and says what it did; it never measures itself. First-order methods go through
`loop.run_composition`; others (SSD, retraining) do their work in their own `run`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from torch import Tensor, nn
from torch.optim import Optimizer

from unlearn_audit.data import Splits, Transform
from unlearn_audit.engine import CLASSIFICATION, Device, Resumable, Task
from unlearn_audit.models import Architecture
from unlearn_audit.progress import Progress, silent
from unlearn_audit.step_transforms import Course, Extra, Kind, Settings, StepContext, StepTransform, on_kind

__all__ = [
    "Course",
    "Extra",
    "Kind",
    "Method",
    "Settings",
    "StagedResumable",
    "StepContext",
    "StepTransform",
    "Unlearned",
    "UnlearningContext",
    "on_kind",
]


class StagedResumable(Resumable, Protocol):
    """Keeps the state of a run that may have several stages."""

    def recall(self, model: nn.Module) -> int:
        """Restore the memory alone, ahead of `start`, onto the model's device; return how many steps are done."""

    def start(self, model: nn.Module, optimizer: Optimizer, *, since: int = 0) -> int:
        """Restore what was kept after more steps than `since`, if anything, and return how many are done."""


@dataclass(frozen=True)
class UnlearningContext:
    """What a method is given.

    Attributes:
        model: to be edited in place, on the device.
        transform: of its inputs.
        splits: what to forget and what to keep.
        compute: device and precision.
        seed: of everything random; the draws of a step depend on (seed, purpose, step) alone.
        progress: callback, called after each step.
        spec: the model spec, or a function that makes the network, for a method that builds one anew.
        recipe: how the original was trained, as its metadata has it; {} where nobody knows.
        original_seed: of the original's training, where its metadata has it.
        extras: transforms that were asked for with `--with`, in order.
        resumable: lets a killed run go on.
        memory: what the method must remember beside weights and optimiser; it is saved with them. Tensors in it are
            replaced, never changed.
        count_only: only tell what a run would take; the model stays as it is.
        artefacts: a folder for what is made on the way and costs much, under names that its content decides; a later
            run finds it there again. None where nothing is kept.
        task: what the model is for.
        pipeline: what a generator's images are made with; None for a classifier.
    """

    model: nn.Module
    transform: Transform
    splits: Splits
    compute: Device
    seed: int
    progress: Progress = silent
    spec: Architecture = ""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    original_seed: int | None = None
    extras: tuple[Extra, ...] = ()
    resumable: StagedResumable | None = None
    memory: dict[str, Tensor] = field(default_factory=dict)
    count_only: bool = False
    artefacts: Path | None = None
    task: Task = CLASSIFICATION
    pipeline: Any = None

    @property
    def sample(self) -> Tensor:
        """One example as the model takes it, [1, C, H, W], on the device."""
        return self.transform(self.splits.dataset.train.images[:1]).to(self.compute.device)


@dataclass(frozen=True)
class Unlearned:
    """What a method did.

    Attributes:
        steps: optimiser steps taken.
        gradient_evaluations: gradients of single examples taken.
        stopped: why it stopped before its budget was spent.
        looked_at: held-out examples, as test indices, that decided when it stopped or what it learned, or None.
        notes: what the reader should know of the run, in words; deviations from the source are told by `published`.
        figures: what was counted or measured of the run itself, by name.
        recipe: how the model was trained, where it was trained anew; else that of the original holds.
        recipe_assumed: whether that recipe is a default, since nothing said how the original was trained.
    """

    steps: int
    gradient_evaluations: int
    stopped: str | None = None
    notes: tuple[str, ...] = ()
    looked_at: tuple[int, ...] | None = None
    figures: Mapping[str, float] = field(default_factory=dict)
    recipe: Mapping[str, Any] | None = None
    recipe_assumed: bool = False


@dataclass(frozen=True)
class Method:
    """An unlearning method.

    Attributes:
        name: as the catalogue has it.
        source: where it comes from.
        settings: its settings with their defaults.
        run: (context, settings) -> what was done.
        composes: whether it is a loop that takes `--with`.
        role: of the model that it makes.
        deviations: how it differs from its source in what is no setting, in words.
        whole_classes: whether it takes nothing but all training examples of some classes; a shadow model that goes
            through it then forgets all that it saw of them, those without a partner in the unseen twin included.
        minds_classes: whether it does something else where whole classes are forgotten; a shadow model that goes
            through it after a target that forgot some then forgets as one of `whole_classes` does.
        takes: the transforms that may join, where not all may; None for all.
        because: why no other may, in words.
        on: on some kinds of models, the method that takes this one's place, with settings of its own, or in words why
            there is none; see `on_kind`.
    """

    name: str
    source: str
    settings: type[Settings]
    run: Callable[[UnlearningContext, Any], Unlearned]
    composes: bool = True
    role: Literal["unlearned", "retrained"] = "unlearned"
    deviations: tuple[str, ...] = ()
    whole_classes: bool = False
    minds_classes: bool = False
    takes: tuple[str, ...] | None = None
    because: str = ""
    on: Mapping[Kind, "Method | str"] = field(default_factory=dict)
