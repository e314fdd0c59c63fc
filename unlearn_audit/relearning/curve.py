"""One relearning trajectory: a copy of a model learns a set again, and every step is recorded."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from unlearn_audit.curvature import lambda_max
from unlearn_audit.engine import (
    Augment,
    Batches,
    Device,
    Draws,
    Pass,
    all_at_once,
    chunks,
    derive_seed,
    read_passes,
    trainable,
)
from unlearn_audit.errors import MeasurementError, UsageError
from unlearn_audit.models import models_own
from unlearn_audit.progress import Progress, silent
from unlearn_audit.relearning.rises import means_rise
from unlearn_audit.relearning.run import Run

Floats = NDArray[np.float64]
StepSize = float | Literal["lambda"]

RISE = 1e-3  # ours: a loss that rises by more than this share in one step is not a descent
ROUNDING = 1e-6  # nats: below it a rise may be float32's resolution of a cross-entropy, and moves no sum
LOOK_EVERY = 20  # steps of a GPU between two looks at what it has measured, each of which waits for it
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
        gradient_draws: of a denoiser: timesteps and noises an example that a step's gradient is taken on, new ones in
            every step and the same for all models; None takes it on what is measured, which learns that noise.
        seed: of minibatches, augmentation and these draws.
    """

    optimizer: Literal["gd", "sgd", "adam"] = "gd"
    momentum: float = 0.9
    weight_decay: float = 0.0
    minibatch: int | None = None
    bn: Literal["frozen", "train"] = "frozen"
    augment: Augment | None = None
    gradient_draws: int | None = None
    seed: int = 0

    @property
    def is_plain_descent(self) -> bool:
        """Whether every step follows the whole objective's gradient, so that a rise means too large a step."""
        return self.optimizer == "gd" and self.takes_what_is_measured

    @property
    def takes_what_is_measured(self) -> bool:
        """Whether the gradient is that of the measured loss itself: of the whole set, as it is, on the same noise."""
        return self.minibatch is None and self.augment is None and self.gradient_draws is None

    def stepper(self, parameters: Sequence[nn.Parameter], step_size: float) -> torch.optim.Optimizer:
        """Return the optimiser with fresh state."""
        decay, foreach = self.weight_decay, all_at_once(parameters)
        if self.optimizer == "adam":
            return torch.optim.Adam(parameters, lr=step_size, weight_decay=decay, foreach=foreach)
        momentum = self.momentum if self.optimizer == "sgd" else 0.0
        return torch.optim.SGD(parameters, lr=step_size, momentum=momentum, weight_decay=decay, foreach=foreach)


GD = Algorithm()


@dataclass(frozen=True)
class Curve:
    """One relearning trajectory of K steps.

    Attributes:
        loss: [K + 1] mean loss in nats before each step and after the last; shorter when it diverged.
        objective: [K + 1] what is descended: the loss of the relearned set plus weight_decay/2·‖w‖².
        error: [K + 1] share of wrong predictions; empty for a task that has none.
        gradient_norm: [K] Euclidean norm of the objective's gradient at each step.
        distance: [K + 1] Euclidean distance from the start in weight space.
        areas: [N] each example's own sum of losses over t = 0..K; their mean is RCD_K with floor zero.
        error_areas: [N] the same for errors; empty for a task that has none.
        step_sizes: [K] the step size of each step.
        diverged_at: the step at which the objective was not finite any more, or None.
        rises_from: the first step after which the objective rose by more than 0.1 % (and 1e-6 nats), or None; with
            gradients on other draws, at which the mean of five measurements is 5 % above the lowest one before.
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


class _Taken(NamedTuple):
    """What one step has measured, on the device.

    Attributes:
        measured: losses and errors [1 or 2, N] of the set that the curve is measured on.
        relearned: of the relearned set; the same tensor where that is the same.
        distance: from the start.
        weights: norm of the relearned tensors; 0 where the objective has no weight decay.
    """

    measured: Tensor
    relearned: Tensor
    distance: Tensor
    weights: Tensor


class _Gradients:
    """Where a step's gradient comes from, and where its loss is measured."""

    def __init__(self, run: Run, algorithm: Algorithm, compute: Device) -> None:
        self.model, self.batch = run.prepared(compute)
        self.measured = self.batch if run.measured is None else run.batch(run.measured, compute)
        self.algorithm, self.compute, self.task = algorithm, compute, run.task
        self.parameters = list(trainable(self.model).values())
        self.start = [parameter.detach().clone() for parameter in self.parameters]
        self.minibatches: Batches | None = None
        if not algorithm.takes_what_is_measured:
            size = algorithm.minibatch or len(run.examples)
            anew = Draws(0, count=algorithm.gradient_draws or 1, grid=False)
            self.minibatches = Batches(
                run.examples, run.transform, size, algorithm.seed, "relearn", compute, algorithm.augment, run.task, anew
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

    def take(self, t: int, *, last: bool) -> _Taken:
        """Return what is measured before step t, and leave the gradient in `.grad`; nothing waits for the device."""
        if self.minibatches is not None:
            measured = relearned = self.measured.measured(self.model, backward=False)
            if not last:
                self._minibatch_gradient(self.minibatches, t)
        else:
            relearned = self.batch.measured(self.model, backward=not last)
            same = self.measured is self.batch
            measured = relearned if same else self.measured.measured(self.model, backward=False)
        weights = [p.detach() for p in self.parameters]
        moved = [weight - origin for weight, origin in zip(weights, self.start, strict=True)]
        return _Taken(measured, relearned, _norm(moved), _norm(weights if self.algorithm.weight_decay else []))

    def _minibatch_gradient(self, minibatches: Batches, t: int) -> None:
        """Take the gradient of a step's own examples and draws; many rows of noise are taken chunk by chunk."""
        self.model.zero_grad(set_to_none=True)
        rows = minibatches.rows_at(t)
        with models_own("relearning stopped"):
            if self.task.rows is None:
                torch.autograd.backward(self.task.losses(self.model(rows.inputs), rows.target).mean())
                return
            for some in chunks(len(rows.target), self.compute.chunk):
                part = rows.part(some)
                losses = self.task.losses(self.model(part.inputs), part.target)
                torch.autograd.backward(losses.sum() / len(rows.target))

    def norm(self) -> Tensor:
        """Return the norm of the objective's gradient."""
        decay = self.algorithm.weight_decay
        found = [p.grad + decay * p.detach() if decay else p.grad for p in self.parameters if p.grad is not None]
        return _norm(found)


@dataclass
class _Record:
    """What is known of a curve so far.

    Attributes:
        algorithm: how it descends.
        elsewhere: whether another set is measured than is relearned.
        areas: as the curve has them, like the others.
        rows: loss, objective, error and distance of each step.
        summed: what a stop is asked with.
    """

    algorithm: Algorithm
    elsewhere: bool
    areas: Floats
    error_areas: Floats
    rows: list[tuple[float, float, float, float]] = field(default_factory=list)
    summed: list[float] = field(default_factory=list)
    first_losses: Floats = field(default_factory=lambda: np.zeros(0))
    rises_from: int | None = None
    diverged_at: int | None = None

    def read(self, taken: Sequence[_Taken]) -> None:
        """Add what was measured, up to where it is not finite any more."""
        same = all(each.measured is each.relearned for each in taken)
        measured = read_passes([each.measured for each in taken])
        relearned = measured if same else read_passes([each.relearned for each in taken])
        distances = torch.stack([each.distance for each in taken]).tolist()
        weights = torch.stack([each.weights for each in taken]).tolist()
        for found, own, distance, weight in zip(measured, relearned, distances, weights, strict=True):
            loss = float(found.losses.mean())
            objective = float(own.losses.mean()) + self.algorithm.weight_decay / 2 * weight**2
            if not (np.isfinite(loss) and np.isfinite(objective)):
                self.diverged_at = len(self.rows)
                return
            self._add(found, loss, objective, distance)

    def _add(self, found: Pass, loss: float, objective: float, distance: float) -> None:
        t = len(self.rows)
        self.rows.append((loss, objective, float(found.errors.mean()) if len(found.errors) else 0.0, distance))
        self.summed.append(loss if self.elsewhere else objective)
        self.first_losses = self.first_losses if t else found.losses
        self.areas += found.losses
        self.error_areas += found.errors
        if self.rises_from is None and t and self._rises():
            self.rises_from = t

    def _rises(self) -> bool:
        """Return whether the last objective is above the one before, or the last few above what they were."""
        if self.algorithm.gradient_draws is not None:
            return means_rise([row[1] for row in self.rows])
        return self.rows[-1][1] > self.rows[-2][1] * (1 + RISE) + ROUNDING


def looks_every(compute: Device) -> int:
    """Return after how many steps a device is waited for: a CPU is never waited for, and is looked at in each."""
    return 1 if compute.device.type == "cpu" else LOOK_EVERY


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
    visit: Callable[[int, nn.Module], None] | None = None,
    progress: Progress = silent,
    task: str = "relearning",
) -> Curve:
    """Let a copy of the model relearn a set and record the curve.

    With full-batch steps, loss and gradient of a step come from one forward pass, so a curve of K steps costs K + 1
    forward and K backward passes over the set, and nothing more. On a GPU nothing waits for it but a look at every
    twentieth step, unless somebody is asked or shown something after each, or the step size follows lambda_max: the
    curve is the same, and one that diverges is cut where it did, though up to 19 steps more were taken.

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
        visit: called after each measurement with the step and the model as it is, which it leaves as it is.
        progress: callback, called after each look.
        task: its name in the progress.

    Returns:
        The curve, cut where it diverged.

    Raises:
        UsageError: BatchNorm in training mode over more than one chunk.
        MeasurementError: the step size follows lambda_max, and that is not positive.
    """
    source, has_errors = _Gradients(run, algorithm, compute), run.task.errors is not None
    n = source.measured.n
    record = _Record(algorithm, run.measured is not None, np.zeros(n), np.zeros(n if has_errors else 0))
    stepper = algorithm.stepper(source.parameters, 1.0 if step_size == "lambda" else step_size)
    norms, sizes, products = list[float](), list[float](), 0
    waiting, unread = list[_Taken](), list[Tensor]()
    every = 1 if stop_when_rising or stop or visit or step_size == "lambda" else looks_every(compute)
    for t in range(steps + 1):
        waiting.append(source.take(t, last=t == steps))
        look = (t + 1) % every == 0 or t == steps
        if look:
            record.read(waiting)
            norms += torch.stack(unread).tolist() if unread else []
            waiting.clear()
            unread.clear()
            if record.diverged_at is not None or (stop_when_rising and record.rises_from is not None):
                break
            if visit is not None:
                visit(t, source.model)
            if stop is not None and stop(record.summed):
                break
        if t < steps:
            unread.append(source.norm())
            if step_size == "lambda" and t % REFRESH == 0:
                curvature = lambda_max(source.model, source.batch, seed=derive_seed(algorithm.seed, t))
                products += curvature.products
                if (sharpest := curvature.value + algorithm.weight_decay) <= 0:
                    raise MeasurementError(f"lambda_max is {sharpest:g} at step {t}; give --step-size a number")
                for group in stepper.param_groups:
                    group["lr"] = 1 / sharpest
            sizes.append(stepper.param_groups[0]["lr"])
            stepper.step()
        if look:
            progress(task, t + 1, steps + 1, f"loss {record.rows[-1][0]:.4f}")
    columns = np.array(record.rows, dtype=np.float64).reshape(-1, 4).T
    taken = slice(record.diverged_at)  # steps after it were taken before anybody looked
    passes = len(record.rows) + (record.diverged_at is not None)
    return Curve(
        loss=columns[0],
        objective=columns[1],
        error=columns[2] if has_errors else np.zeros(0),
        gradient_norm=np.array(norms)[taken],
        distance=columns[3],
        areas=record.areas,
        error_areas=record.error_areas,
        step_sizes=np.array(sizes)[taken],
        diverged_at=record.diverged_at,
        rises_from=record.rises_from,
        forwards=passes,
        backwards=min(passes, steps),
        search_products=products,
        end=source.model if keep_end else None,
        first_losses=record.first_losses,
    )


def _norm(tensors: Sequence[Tensor]) -> Tensor:
    """Return the Euclidean norm of all entries, summed in float64 where the device has it."""
    if not tensors:
        return torch.zeros((), dtype=torch.float64)
    wide = None if tensors[0].device.type == "mps" else torch.float64
    found: Tensor = torch.stack([torch.linalg.vector_norm(tensor, dtype=wide) for tensor in tensors]).norm()
    return found


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
