"""One model under audit: what it is, how its images are prepared, what it is for, and who said so."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from unlearn_audit.checkpoints import Metadata
from unlearn_audit.config import CheckpointEntry
from unlearn_audit.data import Transform
from unlearn_audit.engine import CLASSIFICATION, Task
from unlearn_audit.generation.pipelines import Pipeline
from unlearn_audit.training import pick_recipe

SAMPLE = 4  # images that a model is tried on
IN_MEMORY = "in memory"  # stands for the path of a model that was handed over as a module


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
    origins: Mapping[str, str] = field(default_factory=dict)  # who said its model, mean and std
    task: Task = CLASSIFICATION
    pipeline: Pipeline | None = None  # of a generator: what its images are made with

    @property
    def in_memory(self) -> bool:
        """Whether it was handed over as a module, so that no file and no spec says how it is built."""
        return self.path == IN_MEMORY

    @property
    def is_generator(self) -> bool:
        """Whether it makes images and classifies none, so that it has a loss and no accuracy."""
        return self.task.errors is None

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


def role_of(entry: CheckpointEntry, metadata: Metadata | None) -> str:
    """Return what a checkpoint is in an audit: as it was asked for, else as it says itself, else a subject."""
    return entry.role or (metadata.role if metadata and metadata.role else "subject")


def named_recipe(entry: CheckpointEntry, spec: str) -> dict[str, Any]:
    """Return the recipe that a config names for a checkpoint, resolved for its model; {} where it names none."""
    return pick_recipe(entry.recipe, spec, epochs=entry.epochs).settings() if entry.recipe else {}
