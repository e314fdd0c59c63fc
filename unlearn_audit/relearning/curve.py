"""One relearning trajectory: a copy of a model learns a set again, and every step is recorded."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from unlearn_audit.curvature import lambda_max
from unlearn_audit.data import Examples
from unlearn_audit.engine import Augment, Batches, Device, FullBatch, Pass, derive_seed, trainable
from unlearn_audit.engine.task import CLASSIFICATION, Task
from unlearn_audit.errors import UsageError
from unlearn_audit.models import models_own
from unlearn_audit.progress import Progress, silent

Floats = NDArray[np.float64]
StepSize = float | Literal["lambda"]

RISE = 1e-3  # ours: a loss that rises by more than this share in one step is not a descent
ROUNDING = 1e-6  # nats: below it a rise may be float32's resolution of a cross-entropy, and moves no sum
REFRESH = 10  # steps between two measurements of lambda_max when the step size follows it


@dataclass(frozen=True)
class Algorithm:
    """A relearning algorithm T; fresh optimiser state, no weight decay and frozen BatchNorm unless said otherwise.

    Attributes:
        optimizer: "gd" (full batch), "sgd" (momentum) or "adam" (Kingma & Ba 2015, default betas).
        momentum: of "sgd".
        weight_decay: lambda of the objective loss + lambda/2·‖w‖² over every relearned tensor.
        minibatch: examples of a gradient step; None takes the whole set.
        bn: "frozen" statistics, or "train": batch statistics, for a whole set in one chunk only.
        augment: change of the images that gradients are taken on; the curve is measured without it.
        seed: of minibatches and augmentation.
    """

    optimizer: Literal["gd", "sgd", "adam"] = "gd"
    momentum: float = 0.9
    weight_decay: float = 0.0
    minibatch: int | None = None
    bn: Literal["frozen", "train"] = "frozen"
    augment: Augment | None = None
    seed: int = 0

    @property
    def is_plain_descent(self) -> bool:
        """Whether every step follows the whole objective's gradient, so that a rise means too large a step."""
        return self.optimizer == "gd" and self.minibatch is None and self.augment is None

    def stepper(self, parameters: Sequence[nn.Parameter], step_size: float) -> torch.optim.Optimizer:
        """Return the optimiser with fresh state."""
        if self.optimizer == "adam":
            return torch.optim.Adam(parameters, lr=step_size, weight_decay=self.weight_decay)
        momentum = self.momentum if self.optimizer == "sgd" else 0.0
        return torch.optim.SGD(parameters, lr=step_size, momentum=momentum, weight_decay=self.weight_decay)


GD = Algorithm()


@dataclass(frozen=True)
class Curve:
    """One relearning trajectory of K steps.

    Attributes:
        loss: [K + 1] mean loss in nats before each step and after the last; shorter when it diverged.
        objective: [K + 1] what is descended: the loss of the relearned set plus weight_decay/2·‖w‖².
        error: [K + 1] share of wrong predictions.
        gradient_norm: [K] Euclidean norm of the objective's gradient at each step.
        distance: [K + 1] Euclidean distance from the start in weight space.
        areas: [N] each example's own sum of losses over t = 0..K; their mean is RCD_K with floor zero.
        error_areas: [N] the same for errors.
        step_sizes: [K] the step size of each step.
        diverged_at: the step at which the objective was not finite any more, or None.
        rises_from: the first step after which the objective rose by more than 0.1 % (and 1e-6 nats), or None.
        forwards: forward passes over the measured set (K + 1 for a whole curve).
        backwards: backward passes (K).
        search_products: products with the Hessian that a step size "lambda" cost.
        end: the relearned model, when it was asked for.
        first_losses: [N] each example's loss before any step.
    """

    loss: Floats
    objective: Floats
    error: Floats
    gradient_norm: Floats
    distance: Floats
    areas: Floats
    error_areas: Floats
    step_sizes: Floats
    diverged_at: int | None
    rises_from: int | None
    forwards: int
    backwards: int
    search_products: int = 0
    end: nn.Module | None = None
    first_losses: Floats = field(default_factory=lambda: np.zeros(0))


class Run(NamedTuple):
    """One trajectory to take.

    Attributes:
        model: left as it is; parameters that do not require a gradient stay fixed.
        examples: the set that is relearned.
        transform: evaluation transform, images as stored -> inputs.
        task: what the model is for.
        measured: the set that the curve is measured on; None measures the relearned set itself.
        smoothness: a global bound on the largest eigenvalue of the Hessian, where there is one (head scope).
    """

    model: nn.Module
    examples: Examples
    transform: Callable[[Tensor], Tensor]
    task: Task = CLASSIFICATION
    measured: Examples | None = None
    smoothness: float | None = None

    def prepared(self, compute: Device) -> tuple[nn.Module, FullBatch]:
        """Return a copy of the model in evaluation mode, and the relearned set, both on the device."""
        return compute.to_device(copy.deepcopy(self.model)).eval(), self.batch(self.examples, compute)

    def batch(self, examples: Examples, compute: Device) -> FullBatch:
        """Return examples as this run's model takes them, on the device."""
        return FullBatch(examples, self.transform, compute=compute, task=self.task)


class _Gradients:
    """Where a step's gradient comes from, and where its loss is measured."""

    def __init__(self, run: Run, algorithm: Algorithm, compute: Device) -> None:
        self.model, self.batch = run.prepared(compute)
        self.measured = self.batch if run.measured is None else run.batch(run.measured, compute)
        self.algorithm, self.compute, self.task = algorithm, compute, run.task
        self.parameters = list(trainable(self.model).values())
        self.minibatches: Batches | None = None
        if algorithm.minibatch is not None or algorithm.augment is not None:
            size = algorithm.minibatch or len(run.examples)
            self.minibatches = Batches(
                run.examples, run.transform, size, algorithm.seed, "relearn", compute, algorithm.augment
            )
        if algorithm.bn == "train":
            self._thaw()

    def _thaw(self) -> None:
        if len(self.batch.parts) > 1 or self.minibatches is not None:
            raise UsageError(
                f"BatchNorm in training mode is only defined where the whole set is one batch; {self.batch.n} examples "
                "do not fit one chunk (raise --batch-size), or minibatches were asked for"
            )
        for module in self.model.modules():
            if isinstance(module, _BatchNorm):
                module.train()

    def take(self, t: int, *, last: bool) -> tuple[Pass, float]:
        """Return the measured losses before step t and the relearned set's loss; leave the gradient in `.grad`."""
        if self.minibatches is not None:
            found = self.measured.forward(self.model)
            if not last:
                self._minibatch_gradient(self.minibatches, t)
            return found, float(found.losses.mean())
        relearned = self.batch.forward(self.model) if last else self.batch.forward_backward(self.model)
        found = relearned if self.measured is self.batch else self.measured.forward(self.model)
        return found, float(relearned.losses.mean())

    def _minibatch_gradient(self, minibatches: Batches, t: int) -> None:
        self.model.zero_grad(set_to_none=True)
        inputs, labels = minibatches.at(t)
        with models_own("relearning stopped"):
            torch.autograd.backward(self.task.losses(self.model(inputs), labels).mean())

    def penalty(self) -> float:
        """Return weight_decay/2·‖w‖² over the relearned tensors."""
        decay = self.algorithm.weight_decay
        return decay / 2 * _norm([p.detach() for p in self.parameters]) ** 2 if decay else 0.0

    def norm(self) -> float:
        """Return the norm of the objective's gradient."""
        decay = self.algorithm.weight_decay
        found = [p.grad + decay * p.detach() if decay else p.grad for p in self.parameters if p.grad is not None]
        return _norm(found)


def relearn(
    run: Run,
    *,
    steps: int,
    step_size: StepSize,
    compute: Device,
    algorithm: Algorithm = GD,
    stop_when_rising: bool = False,
    stop: Callable[[Sequence[float]], bool] | None = None,
    keep_end: bool = False,
    progress: Progress = silent,
    task: str = "relearning",
) -> Curve:
    """Let a copy of the model relearn a set and record the curve.

    With full-batch steps, loss and gradient of a step come from one forward pass, so a curve of K steps costs K + 1
    forward and K backward passes over the set, and nothing more.

    Args:
        run: the model (left as it is), the set and the transform.
        steps: K >= 0.
        step_size: a number, or "lambda": 1/lambda_max(theta_t), measured again every 10 steps (Theorem 4's setting).
        compute: where, and how many images at once.
        algorithm: how to descend.
        stop_when_rising: end the curve early when the objective rises (a step-size search throws it away).
        stop: asked with what is summed so far (the objective; the measured loss where another set is measured) after
            each measurement; True ends the curve.
        keep_end: keep the relearned model in the curve.
        progress: callback, called after each step.
        task: its name in the progress.

    Returns:
        The curve, cut where it diverged.

    Raises:
        UsageError: BatchNorm in training mode over more than one chunk.
    """
    source = _Gradients(run, algorithm, compute)
    start = [p.detach().clone() for p in source.parameters]
    stepper = algorithm.stepper(source.parameters, 1.0 if step_size == "lambda" else step_size)
    rows: list[tuple[float, float, float, float]] = []  # loss, objective, error, distance
    summed: list[float] = []
    first_losses = np.zeros(0)
    norms: list[float] = []
    sizes: list[float] = []
    areas, error_areas = np.zeros(source.measured.n), np.zeros(source.measured.n)
    rises_from = diverged_at = None
    products = 0
    for t in range(steps + 1):
        found, relearned = source.take(t, last=t == steps)
        loss = float(found.losses.mean())
        objective = relearned + source.penalty()
        if not (np.isfinite(loss) and np.isfinite(objective)):
            diverged_at = t
            break
        rows.append((loss, objective, float(found.errors.mean()), _distance(source.parameters, start)))
        summed.append(objective if run.measured is None else loss)
        first_losses = found.losses if t == 0 else first_losses
        areas += found.losses
        error_areas += found.errors
        if rises_from is None and t and objective > rows[-2][1] * (1 + RISE) + ROUNDING:
            rises_from = t
            if stop_when_rising:
                break
        if stop is not None and stop(summed):
            break
        if t < steps:
            norms.append(source.norm())
            if step_size == "lambda" and t % REFRESH == 0:
                curvature = lambda_max(source.model, source.batch, seed=derive_seed(algorithm.seed, t))
                products += curvature.products
                for group in stepper.param_groups:
                    group["lr"] = 1 / (curvature.value + algorithm.weight_decay)
            sizes.append(stepper.param_groups[0]["lr"])
            stepper.step()
        progress(task, t + 1, steps + 1, f"loss {loss:.4f}")
    columns = np.array(rows, dtype=np.float64).reshape(-1, 4).T
    passes = len(rows) + (diverged_at is not None)
    return Curve(
        loss=columns[0],
        objective=columns[1],
        error=columns[2],
        gradient_norm=np.array(norms),
        distance=columns[3],
        areas=areas,
        error_areas=error_areas,
        step_sizes=np.array(sizes),
        diverged_at=diverged_at,
        rises_from=rises_from,
        forwards=passes,
        backwards=min(passes, steps),
        search_products=products,
        end=source.model if keep_end else None,
        first_losses=first_losses,
    )


def _distance(parameters: Sequence[nn.Parameter], start: Sequence[Tensor]) -> float:
    """Return the Euclidean distance between weights and their start."""
    return _norm([p.detach() - origin for p, origin in zip(parameters, start, strict=True)])


def _norm(tensors: Sequence[Tensor]) -> float:
    """Return the Euclidean norm of all entries, summed in float64 where the device has it."""
    if not tensors:
        return 0.0
    wide = None if tensors[0].device.type == "mps" else torch.float64
    return float(torch.stack([torch.linalg.vector_norm(tensor, dtype=wide) for tensor in tensors]).norm())


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
