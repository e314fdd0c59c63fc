"""Relearning curves and the relearning convergence delay (RCD).

A copy of the model relearns a set by full-batch descent; RCD_K is the area under its loss curve,
RCD_K = sum over t = 0..K of [Phi(theta_t) - floor] (Tran & Woo 2026, Eq. 4): K + 1 terms, the first one before any
step. Its choices where the paper is silent: full-batch gradient descent with one fixed step, fresh optimiser state,
no weight decay, evaluation-mode BatchNorm (frozen statistics, so that the curve depends on the weights alone), the
evaluation transform, floor zero.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from unlearn_audit.data import Examples, Transform
from unlearn_audit.engine import Compute, FullBatch, trainable
from unlearn_audit.progress import Progress, silent
from unlearn_audit.spectrum import lambda_max
from unlearn_audit.tasks import CLASSIFICATION, Task

__all__ = ["Curve", "Relearned", "Run", "StepSearch", "rcd", "relearn", "relearn_all", "status"]

Floats = NDArray[np.float64]
Optimizer = Literal["gd", "adam"]

ADAM_STEP = 1e-3  # Kingma & Ba 2015, section 2
LARGEST_AUTO_STEP = 1.0  # ours: where the loss is flat, 1 / lambda_max has no meaning
RISE = 1e-3  # ours: a loss that rises by more than this share in one step is not a descent
ROUNDING = 1e-6  # nats: below it a rise may be float32's resolution of a cross-entropy, and moves no sum
HALVINGS = 8


@dataclass(frozen=True)
class Curve:
    """One relearning trajectory of K steps.

    Attributes:
        loss: [K + 1] mean loss in nats before each step and after the last; shorter when it diverged.
        error: [K + 1] share of wrong predictions.
        gradient_norm: [K] Euclidean norm of the gradient at each step.
        areas: [N] each example's own sum of losses over t = 0..K; their mean is RCD_K with floor zero.
        diverged_at: the step at which the loss was not finite any more, or None.
        rises_from: the first step after which the loss rose by more than 0.1 % (and 1e-6 nats), or None.
        forwards: forward passes over the set (K + 1 for a whole curve).
        backwards: backward passes (K).
    """

    loss: Floats
    error: Floats
    gradient_norm: Floats
    areas: Floats
    diverged_at: int | None
    rises_from: int | None
    forwards: int
    backwards: int


class Run(NamedTuple):
    """One trajectory to take: a model, the set that it relearns, its evaluation transform, and what it is for."""

    model: nn.Module
    examples: Examples
    transform: Transform
    task: Task = CLASSIFICATION

    def prepared(self, compute: Compute) -> tuple[nn.Module, FullBatch]:
        """Return a copy of the model in evaluation mode, and the set, both on the device."""
        batch = FullBatch(self.examples, self.transform, compute=compute, task=self.task)
        return compute.place(copy.deepcopy(self.model)).eval(), batch


class StepSearch(NamedTuple):
    """What finding the step size cost, apart from the curves: lambda_max at the start, halvings, passes."""

    lambda_max: float | None
    halvings: int
    forwards: int
    backwards: int


class Relearned(NamedTuple):
    """The curves of all runs at one common step size."""

    curves: tuple[Curve, ...]
    step_size: float
    search: StepSearch


def relearn(
    run: Run,
    *,
    steps: int,
    step_size: float,
    compute: Compute,
    optimizer: Optimizer = "gd",
    stop_when_rising: bool = False,
    progress: Progress = silent,
    task: str = "relearning",
) -> Curve:
    """Let a copy of the model relearn a set and record the curve.

    Loss and gradient of a step come from one forward pass, so a curve of K steps costs K + 1 forward and K backward
    passes over the set, and nothing more.

    Args:
        run: the model (left as it is), the set and the transform.
        steps: K >= 0.
        step_size: of gradient descent or Adam.
        compute: where, and how many images at once.
        optimizer: "gd" or "adam" (default betas, fresh state).
        stop_when_rising: end the curve early when the loss rises (a step-size search throws it away).
        progress: told after every step.
        task: its name in the progress.

    Returns:
        The curve, cut where it diverged.
    """
    model, batch = run.prepared(compute)
    parameters = list(trainable(model).values())
    kinds = {"gd": torch.optim.SGD, "adam": torch.optim.Adam}
    stepper = kinds[optimizer](parameters, lr=step_size)
    losses: list[float] = []
    errors: list[float] = []
    norms: list[float] = []
    areas = np.zeros(batch.n)
    rises_from = diverged_at = None
    for t in range(steps + 1):
        found = batch.forward_backward(model) if t < steps else batch.forward(model)
        losses.append(float(found.losses.mean()))
        if not np.isfinite(losses[-1]):
            diverged_at = t
            break
        errors.append(float(found.errors.mean()))
        areas += found.losses
        if rises_from is None and t and losses[-1] > losses[-2] * (1 + RISE) + ROUNDING:
            rises_from = t
            if stop_when_rising:
                break
        if t < steps:
            norms.append(_norm(parameters))
            stepper.step()
        progress(task, t + 1, steps + 1, f"loss {losses[-1]:.4f}")
    return Curve(
        loss=np.array(losses[:diverged_at]),
        error=np.array(errors),
        gradient_norm=np.array(norms),
        areas=areas,
        diverged_at=diverged_at,
        rises_from=rises_from,
        forwards=len(losses),
        backwards=min(len(losses), steps),
    )


def _norm(parameters: Sequence[nn.Parameter]) -> float:
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return float(torch.nn.utils.get_total_norm(gradients))


def relearn_all(
    runs: Sequence[Run],
    *,
    steps: int,
    step_size: float | Literal["auto"],
    compute: Compute,
    optimizer: Optimizer = "gd",
    progress: Progress = silent,
) -> Relearned:
    """Let every run relearn at one common step size, chosen safely when it is "auto".

    For gradient descent "auto" starts at 1 / (4·L), L the largest lambda_max at the start of any run, since sharpness
    grows while a model relearns; whenever a loss rises by more than 0.1 % in one step the step is halved and all runs
    start again, at most 8 times. For Adam it starts at 1e-3 and only divergence is judged.

    Args:
        runs: trajectories that will be compared.
        steps: K.
        step_size: a number, or "auto".
        compute: where.
        optimizer: "gd" or "adam".
        progress: told after every step of every run.

    Returns:
        The curves in the order of the runs, the step size, and what the search cost.
    """
    search = StepSearch(None, 0, 0, 0)
    chosen = step_size if step_size != "auto" else ADAM_STEP
    if step_size == "auto" and optimizer == "gd":
        search = _start(runs, compute, progress)
        flat = search.lambda_max is None or search.lambda_max <= 1 / (4 * LARGEST_AUTO_STEP)
        chosen = LARGEST_AUTO_STEP if flat else 1 / (4 * float(search.lambda_max or 1))
    while True:
        careful = step_size == "auto" and search.halvings < HALVINGS
        curves = []
        for index, run in enumerate(runs):
            curves.append(
                relearn(
                    run,
                    steps=steps,
                    step_size=chosen,
                    compute=compute,
                    optimizer=optimizer,
                    stop_when_rising=careful and optimizer == "gd",
                    progress=progress,
                    task=f"relearning, curve {index + 1} of {len(runs)}",
                )
            )
            if careful and _unsafe(curves[-1], optimizer):
                break
        else:
            return Relearned(tuple(curves), chosen, search)
        chosen /= 2
        search = search._replace(
            halvings=search.halvings + 1,
            forwards=search.forwards + sum(curve.forwards for curve in curves),
            backwards=search.backwards + sum(curve.backwards for curve in curves),
        )


def _unsafe(curve: Curve, optimizer: Optimizer) -> bool:
    return curve.diverged_at is not None or (optimizer == "gd" and curve.rises_from is not None)


def _start(runs: Sequence[Run], compute: Compute, progress: Progress) -> StepSearch:
    """Measure lambda_max at the start of every run; a product with the Hessian is one forward, two backward passes."""
    largest, products = 0.0, 0
    for index, run in enumerate(runs):
        found = lambda_max(*run.prepared(compute))
        largest, products = max(largest, found.value), products + found.products
        progress("curvature at the start", index + 1, len(runs), f"lambda_max {largest:.3g}")
    return StepSearch(largest, 0, products, 2 * products)


def rcd(curve: Curve, *, floor: float = 0.0) -> float | None:
    """Return RCD_K of a curve: the sum of (loss - floor) over t = 0..K (Eq. 4), K + 1 terms.

    Higher means slower to relearn; compare with a retrained model's value and controls, never maximise.

    Returns:
        Nats x steps, or None when the curve diverged.
    """
    if curve.diverged_at is not None:
        return None
    return float((curve.loss - floor).sum())


def status(curve: Curve) -> str:
    """Say in words what kind of curve it is: whether its sum may be read as the area under a descent."""
    if curve.diverged_at is not None:
        return f"diverged at step {curve.diverged_at}"
    if curve.rises_from is not None:
        return f"unstable: loss rises from step {curve.rises_from}"
    if len(curve.loss) == 1:
        return "no step taken"
    if curve.loss[-1] <= 0.01 * curve.loss[0]:
        return "converged"
    late = curve.loss[-1 - len(curve.loss) // 10]
    if len(curve.loss) >= 10 and late - curve.loss[-1] < RISE * late:
        return "stalled"
    return "still falling"
