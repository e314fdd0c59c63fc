"""Unlearning methods: each one an objective, its weight transforms and its defaults, run by one common loop.

A method edits a model in place and says what it did; it never measures itself.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from unlearn_audit import tasks
from unlearn_audit.data import Splits
from unlearn_audit.engine import Batches, Compute, StepHook, descend
from unlearn_audit.progress import Progress, silent

__all__ = ["Method", "Problem", "Unlearned", "cross_entropy_on", "run_composition"]


@dataclass(frozen=True)
class Problem:
    """What a method is given: the model to edit (on the device), the splits, the device and a seed."""

    model: nn.Module
    splits: Splits
    compute: Compute
    seed: int
    progress: Progress = silent


@dataclass(frozen=True)
class Unlearned:
    """What a method did: optimiser steps and minibatch gradients taken."""

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
    terms_per_step: int,
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
        terms_per_step: minibatch gradients that one step costs, for the record.
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
    return Unlearned(steps, steps * terms_per_step)


def cross_entropy_on(problem: Problem, which: str, batch_size: int) -> Objective:
    """Return step -> mean cross-entropy of the step's minibatch of the "retain" or "forget" set, under `which`."""
    splits = problem.splits
    examples = splits.forget_examples if which == "forget" else splits.retain_examples
    batches = Batches(examples, splits.dataset.transform, batch_size, problem.seed, which, problem.compute)

    def term(step: int) -> dict[str, Tensor]:
        images, labels = batches.at(step)
        with problem.compute.autocast():
            logits = problem.model(images)
        return {which: tasks.losses(logits, labels).mean()}

    return term
