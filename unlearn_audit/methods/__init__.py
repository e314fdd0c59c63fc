"""Unlearning methods: each one an objective, its weight transforms and its defaults, run by one common loop.

A method edits a model in place and says what it did; it never measures itself.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from unlearn_audit import tasks
from unlearn_audit.data import Splits, Transform
from unlearn_audit.engine import Batches, Compute, StepHook, descend
from unlearn_audit.progress import Progress, silent

__all__ = ["Method", "Problem", "Unlearned", "mean_loss", "minibatches", "run_composition"]


@dataclass(frozen=True)
class Problem:
    """What a method is given: the model to edit (on the device), its transform, the splits, the device and a seed."""

    model: nn.Module
    transform: Transform
    splits: Splits
    compute: Compute
    seed: int
    progress: Progress = silent


@dataclass(frozen=True)
class Unlearned:
    """What a method did: optimiser steps, and gradients of single examples taken."""

    steps: int
    gradient_evaluations: int


@dataclass(frozen=True)
class Method:
    """An unlearning method: its name, where it comes from, its settings with defaults, and how to run it."""

    name: str
    source: str
    settings: type[BaseModel]
    run: Callable[[Problem, Any], Unlearned]


Objective = Callable[[int], dict[str, Tensor]]


def run_composition(
    problem: Problem,
    objective: Objective,
    *,
    steps: int,
    step_size: float,
    momentum: float = 0.0,
    batches: Sequence[Batches],
    before_step: Sequence[StepHook] = (),
    task: str,
) -> Unlearned:
    """Run the loop: gradient of the objective, weight transforms, SGD step.

    Args:
        problem: the model, edited in place.
        objective: step -> named loss terms whose sum is descended.
        steps: how many.
        step_size: SGD's learning rate.
        momentum: SGD's momentum.
        batches: the minibatches whose gradients each step takes, for the record.
        before_step: weight transforms applied between the gradient and the step.
        task: the method's name in the progress.

    Returns:
        What was done.

    Raises:
        MeasurementError: it diverged.
    """
    optimizer = torch.optim.SGD(problem.model.parameters(), lr=step_size, momentum=momentum)
    descend(
        problem.model, objective, optimizer, steps=steps, before_step=before_step, progress=problem.progress, task=task
    )
    return Unlearned(steps, sum(each.taken(steps) for each in batches))


def minibatches(problem: Problem, which: Literal["retain", "forget"], batch_size: int) -> Batches:
    """Return the shuffled minibatches of the retain or of the forget set; each has its own stream of the seed."""
    splits = problem.splits
    examples = splits.forget_examples if which == "forget" else splits.retain_examples
    return Batches(examples, problem.transform, batch_size, problem.seed, which, problem.compute)


def mean_loss(problem: Problem, batches: Batches, step: int) -> Tensor:
    """Return the mean cross-entropy of the minibatch of a step, a scalar with its graph."""
    images, labels = batches.at(step)
    with problem.compute.autocast():
        logits = problem.model(images)
    return tasks.losses(logits, labels).mean()
