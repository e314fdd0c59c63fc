"""A Newton step of the last linear layer to where it were without the forget set (in the sense of Zhao et al. 2026).

L_D = sum of CE over all data + (n·l2/2)·|theta|^2 is convex in the head; H_D is its Hessian at the original and
H_f = A'A the part of the forget set, A = L^(1/2)·J with L = diag(p) - pp' of each example. Where L_D is at its minimum,
theta_u = theta_o + (H_D - A'A)^-1·g_f is the Newton step for L_D - L_f, solved directly or, with few forget examples,
by Woodbury's identity as WIN-U does it: H_D^-1 + H_D^-1 A'(I - A H_D^-1 A')^-1 A H_D^-1. For a squared loss it is the
refit itself. The features stay, so that what they hold of the forget set is still there.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from unlearn_audit.data import Examples
from unlearn_audit.errors import MeasurementError, UsageError
from unlearn_audit.layers import own_weight
from unlearn_audit.methods import Method, Settings, Unlearned, UnlearningContext
from unlearn_audit.methods.generators import NEEDS_CLASSES
from unlearn_audit.methods.heads import linear_head
from unlearn_audit.relearning.scope import Features

LARGEST = 20_000  # weights of a head whose Hessian is still held: 3.2 GB, and a step holds two to six of that size
DEFINITE = 1e-10  # smallest eigenvalue, or pivot relative to the mean diagonal, that counts as positive
DAMPINGS = (0.0, *(10.0**exponent for exponent in range(-4, 3)))  # in units of the mean diagonal, tried in order
FAR = 1.0  # length of the step relative to the head, above which no quadratic holds
BIASED = 0.1  # gradient of all data relative to the forget set's, above which the original is no minimum


class NewtonSettings(Settings):
    """Settings of the step: ours, since of WIN-U only the abstract could be read."""

    l2: Annotated[float, Field(ge=0)] | None = Field(
        default=None,
        description="of the loss of an example, on the head's weights and biases; default: the original's weight "
        "decay, else 1e-3",
    )
    gradient: Literal["forget", "retained"] = Field(
        default="forget",
        description="forget: the original is a minimum, so that the forget set's gradient is all that is left; "
        "retained: the gradient of the retain set's loss, whatever the original is",
    )
    iterations: Annotated[int, Field(ge=1, le=100)] = Field(
        default=1, description="Newton steps; with gradient retained they come to the head retrained on retain"
    )
    form: Literal["auto", "direct", "woodbury"] = Field(
        default="auto", description="how it is solved: the smaller one of the two systems, or one by name"
    )

    @model_validator(mode="after")
    def _one_step_of_the_forget_gradient(self) -> "NewtonSettings":
        """Refuse to forget the same examples several times over."""
        if self.gradient == "forget" and self.iterations > 1:
            raise ValueError("iterations needs gradient retained: the forget set's gradient is taken away once")
        return self


class Solved(NamedTuple):
    """A solution [k], and what was added to the diagonal in units of its mean to have one."""

    step: Tensor
    damping: float


def roots(features: Tensor, probabilities: Tensor) -> Tensor:
    """Return A [n·C, C·width] with A'A the Hessian of the summed cross-entropy in the head's weights, row by row.

    Args:
        features: [n, width].
        probabilities: [n, C].
    """
    root = probabilities.sqrt()
    factor = torch.diag_embed(root) - probabilities[:, :, None] * root[:, None, :]  # B of diag(p) - pp' = BB'
    rows = torch.einsum("nck,nj->nkcj", factor, features)
    return rows.reshape(-1, probabilities.shape[1] * features.shape[1])


def hessian(features: Tensor, probabilities: Tensor, l2: float = 0.0) -> Tensor:
    """Return the Hessian [k, k] of the summed cross-entropy in the head's weights, with l2 on its diagonal.

    Args:
        features: [n, width].
        probabilities: [n, C].
        l2: of the whole sum.
    """
    (_, width), classes = features.shape, probabilities.shape[1]
    found = torch.zeros(classes, width, classes, width, dtype=features.dtype)
    for one in range(classes):
        for other in range(one, classes):
            weights = probabilities[:, one] * (float(one == other) - probabilities[:, other])
            block = features.T @ (weights[:, None] * features)
            found[one, :, other], found[other, :, one] = block, block.T
    square = found.reshape(classes * width, classes * width)
    square.diagonal().add_(l2)
    return square


def direct_step(left: Tensor, gradient: Tensor) -> Solved:
    """Return left^-1·gradient [k]; where `left` is not positive definite, with as little damping as makes it so.

    Args:
        left: [k, k] Hessian of what is retained: H_D - A'A.
        gradient: [k].

    Raises:
        MeasurementError: no damping up to a hundred times the mean diagonal is enough.
    """

    def solve(matrix: Tensor) -> Tensor | None:
        factor = _definite(matrix)
        return None if factor is None else torch.cholesky_solve(gradient[:, None], factor)[:, 0]

    return _damped(left, solve)


def woodbury_step(whole: Tensor, forget: Tensor, gradient: Tensor) -> Solved:
    """Return (whole - forget'·forget)^-1·gradient [k] from the inverse of `whole`, damped where it must be.

    whole - forget'·forget is positive definite if `whole` is and the smallest eigenvalue of I - forget·whole^-1·forget'
    is above 0, as it is where `whole` has the forget set in it at the same weights, and a ridge.

    Args:
        whole: [k, k] Hessian over all data, H_D.
        forget: [m, k] A, with A'A the part of the forget set.
        gradient: [k].

    Raises:
        MeasurementError: no damping up to a hundred times the mean diagonal is enough.
    """

    def solve(matrix: Tensor) -> Tensor | None:
        factor = _definite(matrix)
        if factor is None:
            return None
        plain, spread = (torch.cholesky_solve(each, factor) for each in (gradient[:, None], forget.T))
        inner = torch.eye(len(forget), dtype=whole.dtype) - forget @ spread
        if len(forget) and not bool(torch.linalg.eigvalsh(inner)[0] > DEFINITE):
            return None
        found: Tensor = plain + spread @ torch.linalg.solve(inner, forget @ plain)
        return found[:, 0]

    return _damped(whole, solve)


def _damped(matrix: Tensor, solve: Callable[[Tensor], Tensor | None]) -> Solved:
    """Return what `solve` finds for the matrix with the least damping that it accepts."""
    diagonal = matrix.diagonal().clone()
    try:
        for damping in DAMPINGS:
            matrix.diagonal().copy_(diagonal + damping * diagonal.mean())  # in place: a copy would be gigabytes
            found = solve(matrix)
            if found is not None:
                return Solved(found, damping)
    finally:
        matrix.diagonal().copy_(diagonal)
    raise MeasurementError("the curvature of the head is not positive definite, and no damping makes it so")


def _definite(matrix: Tensor) -> Tensor | None:
    """Return the Cholesky factor of a matrix that is positive definite beyond rounding, else None."""
    factor: Tensor
    factor, failed = torch.linalg.cholesky_ex(matrix)
    smallest = factor.diagonal().square().min()
    return None if int(failed) or not bool(smallest > DEFINITE * matrix.diagonal().mean()) else factor


class _Part:
    """A set as the head sees it.

    Args:
        features: [n, width].
        labels: [n].
        classes: C.
    """

    def __init__(self, features: Tensor, labels: Tensor, classes: int) -> None:
        self.features, self.wanted = features, functional.one_hot(labels, classes).double()

    def probabilities(self, weights: Tensor) -> Tensor:
        """Return softmax of the logits [n, C]."""
        return (self.features @ weights.T).softmax(dim=1)

    def gradient(self, weights: Tensor) -> Tensor:
        """Return the gradient of the summed cross-entropy [C·width]."""
        return ((self.probabilities(weights) - self.wanted).T @ self.features).reshape(-1)

    def hessian(self, weights: Tensor, ridge: float) -> Tensor:
        """Return the Hessian of the summed cross-entropy, with a ridge on its diagonal [C·width, C·width]."""
        return hessian(self.features, self.probabilities(weights), ridge)


class _Problem(NamedTuple):
    """The head's loss: what is retained, what is forgotten, the ridge of their sum, and how a step is solved."""

    retain: _Part
    forget: _Part
    ridge: float
    settings: NewtonSettings

    def left(self, weights: Tensor) -> Tensor:
        """Return the gradient of what is retained, ridge included [C·width]."""
        return self.retain.gradient(weights) + self.ridge * weights.reshape(-1)

    def solved(self, weights: Tensor) -> Solved:
        """Return the Newton step at some weights."""
        forget, k = self.forget, weights.numel()
        wanted = forget.gradient(weights) if self.settings.gradient == "forget" else -self.left(weights)
        retained = self.retain.hessian(weights, self.ridge)
        rows = len(forget.features) * len(weights)
        if self.settings.form == "direct" or (self.settings.form == "auto" and rows >= k):
            return direct_step(retained, wanted)
        part = roots(forget.features, forget.probabilities(weights))
        return woodbury_step(retained.addmm_(part.T, part), part, wanted)


def head_of(context: UnlearningContext) -> nn.Linear:
    """Return the last linear layer; the model is left in evaluation mode.

    Raises:
        UsageError: the model does not end in one.
    """
    return linear_head(context, "newton moves the last linear layer")


def _features(context: UnlearningContext, head: nn.Linear, examples: Examples) -> Tensor:
    """Return what the head is given of each example [n, width], with a column of ones where it has a bias."""
    found = Features(context.model.eval(), head, context.transform, context.compute)(examples.images).cpu()
    return found if head.bias is None else torch.cat([found, torch.ones(len(found), 1, dtype=found.dtype)], dim=1)


def _weights(head: nn.Linear) -> Tensor:
    """Return the head's weights [C, width], its biases as a last column where it has some, float64, on the CPU."""
    columns = [head.weight] if head.bias is None else [head.weight, head.bias[:, None]]
    return torch.cat([each.detach().cpu().double() for each in columns], dim=1)


def _set_weights(head: nn.Linear, weights: Tensor) -> None:
    """Give the head weights in the form of `_weights`."""
    with torch.no_grad():
        head.weight.copy_(weights[:, : head.in_features])
        if head.bias is not None:
            head.bias.copy_(weights[:, -1])


def run_newton(context: UnlearningContext, settings: NewtonSettings) -> Unlearned:
    """Take Newton steps of the head; the features are taken once, in a pass over forget and retain set."""
    splits = context.splits
    if not len(splits.retain):
        raise UsageError("the retain set is empty; a head that nothing is left of has no curvature")
    n = len(splits.retain) + len(splits.forget)
    head = head_of(context)
    own_weight(head, "newton")
    weights = start = _weights(head)
    if weights.numel() > LARGEST:
        raise UsageError(
            f"newton holds the Hessian of the head, two to six times in a step: {weights.numel()} weights are more "
            f"than {LARGEST}, for which it is {8e-9 * LARGEST**2:.1f} GB"
        )
    done = Unlearned(settings.iterations, settings.iterations * n)
    if context.count_only:
        return done
    retain, forget = (
        _Part(_features(context, head, each), each.labels.cpu(), head.out_features)
        for each in (splits.retain_examples, splits.forget_examples)
    )
    problem = _Problem(retain, forget, n * _l2(context, settings), settings)
    dampings = []
    for number in range(settings.iterations):
        step, damping = problem.solved(weights)
        weights = weights + step.reshape(weights.shape)
        dampings.append(damping)
        context.progress("Newton", number + 1, settings.iterations)
    _set_weights(head, weights)
    gone = forget.gradient(start)
    bias = float((problem.left(start) + gone).norm() / gone.norm())
    length = float((weights - start).norm() / start.norm())
    figures = {
        "newton.step": length,
        "newton.damping": max(dampings),
        "newton.gradient_left": bias,
    }
    told = {name: value for name, value in figures.items() if math.isfinite(value)}
    return replace(done, notes=_notes(settings, max(dampings), bias, length), figures=told)


def _l2(context: UnlearningContext, settings: NewtonSettings) -> float:
    """Return the ridge of the loss of an example."""
    if settings.l2 is not None:
        return settings.l2
    decay = context.recipe.get("weight_decay")
    return float(decay) if isinstance(decay, int | float) and decay > 0 else 1e-3


def _notes(settings: NewtonSettings, damping: float, bias: float, length: float) -> tuple[str, ...]:
    """Return what the reader should know of the run."""
    told = ["not retain-free: the curvature comes from a pass over forget and retain set, not from training"]
    if damping:
        told.append(f"the curvature left was not positive definite: {damping:g} of its mean diagonal was added to it")
    if length > FAR and settings.iterations == 1:
        told.append(f"the step is {length:.3g} times as long as the head: too far for one step; take a larger --l2")
    if settings.gradient == "forget" and bias > BIASED:
        told.append(
            f"the original is no minimum of the head's loss (the gradient over all data is {bias:.3g} times the forget "
            "set's), so that the step is biased; --gradient retained takes that into account"
        )
    return tuple(told)


NEWTON = Method(
    "newton",
    "in the sense of Zhao et al. 2026 (WIN-U); its text was not read",
    NewtonSettings,
    run_newton,
    composes=False,
    deviations=("only the last linear layer moves; WIN-U moves the whole network, in a form that is not public",),
    on=NEEDS_CLASSES,
)
