"""The one minibatch loop that training and unlearning share."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from unlearn_audit.errors import MeasurementError
from unlearn_audit.progress import Progress, silent

__all__ = ["StepHook", "descend"]

LossTerms = dict[str, Tensor]
StepHook = Callable[[int], None]


def descend(
    model: nn.Module,
    terms: Callable[[int], LossTerms],
    optimizer: torch.optim.Optimizer,
    *,
    steps: int,
    schedule: Callable[[int], float] | None = None,
    before_step: Sequence[StepHook] = (),
    progress: Progress = silent,
    task: str = "training",
    check_every: int = 20,
) -> None:
    """Run the one minibatch loop that training and unlearning share, in training mode.

    Each step: gradient of the sum of the terms, then the hooks of `before_step` (which may edit weights with the
    gradient already taken, as decoupled weight decay does), then the optimiser's step.

    Args:
        model: changed in place; left in training mode.
        terms: step -> named scalar losses whose sum is descended.
        optimizer: over the model's parameters.
        steps: how many.
        schedule: step -> factor on the optimiser's initial learning rate.
        before_step: called with the step between gradient and optimiser step.
        progress: told every `check_every` steps, with the terms' values.
        task: its name in the progress.
        check_every: how often the loss is read from the device and checked.

    Raises:
        MeasurementError: the loss or, at the end, a weight is not finite any more, or the model cannot take a batch
            (BatchNorm has no statistics of one value); the message has the step.
    """
    model.train()
    rates = [group["lr"] for group in optimizer.param_groups]
    for step in range(steps):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * (schedule(step) if schedule else 1.0)
        optimizer.zero_grad(set_to_none=True)
        found = _evaluated(terms, step, task)
        torch.autograd.backward(torch.stack(list(found.values())).sum())
        with torch.no_grad():
            for hook in before_step:
                hook(step)
        optimizer.step()
        if step % check_every == 0 or step == steps - 1:
            _report(found, step, steps, progress, task)
    if not all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters()):
        raise MeasurementError(
            f"{task} diverged at step {steps - 1}: the weights are not finite; use a smaller step size"
        )


def _evaluated(terms: Callable[[int], LossTerms], step: int, task: str) -> LossTerms:
    """Evaluate the terms of a step; a batch that a model refuses is no crash of ours."""
    try:
        return terms(step)
    except ValueError as problem:
        raise MeasurementError(
            f"{task} stopped at step {step}: the model cannot take this batch: {problem}"
        ) from problem


def _report(found: LossTerms, step: int, steps: int, progress: Progress, task: str) -> None:
    """Tell the progress and stop when a term is not finite."""
    values = {name: float(value.detach()) for name, value in found.items()}
    note = ", ".join(f"{name} {value:.3f}" for name, value in values.items())
    if not all(math.isfinite(value) for value in values.values()):
        raise MeasurementError(f"{task} diverged by step {step}: {note}; use a smaller step size")
    progress(task, step + 1, steps, note)
