"""IU, influence unlearning: one Newton step of the retain set's loss, by conjugate gradients (Izzo et al. 2021).

theta <- theta + s·(G_r + delta·I)^-1·v, v = (n_f / n)·(mean gradient on forget - mean gradient on retain), in
evaluation mode. At a stationary point of all data v is minus the gradient of retain's mean loss, and on a quadratic
loss s = 1 is retraining exactly. G_r is the Gauss-Newton matrix of the loss over a fixed sample of the retain set
(positive semidefinite, unlike the Hessian); the code of comparisons has WoodFisher's recursion over single gradients.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, ClassVar, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from unlearn_audit.data import Examples
from unlearn_audit.engine import FullBatch, chunks, full_float32, trainable
from unlearn_audit.errors import MeasurementError, UsageError
from unlearn_audit.methods import Method, Settings, Unlearned, UnlearningContext
from unlearn_audit.methods.generators import NEEDS_CLASSES
from unlearn_audit.models import models_own
from unlearn_audit.streams import generator

EXACT = 1e-10  # ours: of the right side's norm; a residual below it is not worth another product
PROBES = 8  # ours: random signs behind the mean of the diagonal
COUNTED = "IU: products with the curvature"
FEWEST = 128  # of a product's chunk, whose graph is larger than that of a pass


class IuSettings(Settings):
    """Settings of influence unlearning: ours, since the published code inverts its curvature in another way.

    The damping is what kept small networks whole: with a thousandth of the mean diagonal the step is ten times as long
    and leaves an accuracy of chance, since few directions carry nearly all of the curvature.
    """

    PUBLISHED: ClassVar[Mapping[str, Any] | None] = None

    strength: Annotated[float, Field(ge=0, le=1e30)] = Field(
        default=1.0, description="s, of the step; 1 is Newton's, comparisons search from 1 to 20"
    )
    damping: Annotated[float, Field(ge=0, le=1e30)] = Field(
        default=1.0, description="delta, relative to the mean of the curvature's diagonal"
    )
    iterations: Annotated[int, Field(gt=0)] = Field(default=50, description="of conjugate gradients, at most")
    sample: Annotated[int, Field(gt=0)] = Field(default=2048, description="retain examples of the curvature")


class GaussNewton:
    """The Gauss-Newton matrix of the mean loss over a set: J'·H·J, H the loss's Hessian in the model's outputs.

    Args:
        model: put into evaluation mode.
        batch: the whole set, with the task whose losses are taken.
    """

    def __init__(self, model: nn.Module, batch: FullBatch) -> None:
        self.model, self.batch = model.eval(), batch
        self.parameters = list(trainable(model).values())
        largest = max(batch.compute.chunk // 4, FEWEST)
        self.parts = [part.part(rows) for part in batch.parts for rows in chunks(len(part.target), largest)]

    def __matmul__(self, vector: Tensor) -> Tensor:
        """Return G·v [d], of v [d] in the order of `engine.trainable`: one forward and four backward passes."""
        pieces = torch.split(vector, [each.numel() for each in self.parameters])
        directions = [piece.view_as(each) for piece, each in zip(pieces, self.parameters, strict=True)]
        total = torch.zeros_like(vector)
        # The fused attention kernels have no second derivative.
        with full_float32(), sdpa_kernel(SDPBackend.MATH):
            for inputs, labels, _ in self.parts:
                with models_own("the curvature cannot be taken"):
                    total += self._of_part(inputs, labels, directions)
        return total

    def _of_part(self, inputs: Tensor, labels: Tensor, directions: list[Tensor]) -> Tensor:
        outputs = self.model(inputs)
        weights = torch.zeros_like(outputs, requires_grad=True)
        # w'J is linear in w, so that its product with v, differentiated by w, is J·v.
        backward = _gradients(outputs, self.parameters, weights, create_graph=True)
        along = torch.stack([(slope * each).sum() for slope, each in zip(backward, directions, strict=True)]).sum()
        (forward,) = _gradients(along, [weights])
        given = outputs.detach().requires_grad_()
        losses = self.batch.task.losses(given, labels).sum() / self.batch.n
        (slopes,) = torch.autograd.grad(losses, given, create_graph=True)
        (curved,) = torch.autograd.grad(slopes, given, forward.detach())
        return flat(_gradients(outputs, self.parameters, curved))


def _gradients(
    outputs: Tensor, inputs: list[Any], weights: Tensor | None = None, *, create_graph: bool = False
) -> tuple[Tensor, ...]:
    """Differentiate with zeros for what the outputs do not depend on; the graph stays."""
    return torch.autograd.grad(
        outputs,
        inputs,
        weights,
        retain_graph=True,
        create_graph=create_graph,
        allow_unused=True,
        materialize_grads=True,
    )


def flat(tensors: Iterable[Tensor]) -> Tensor:
    """Return tensors as one vector [d]."""
    return torch.cat([each.detach().reshape(-1) for each in tensors])


class Solved(NamedTuple):
    """The solution x [d] of A·x = b, ‖b - A·x‖ / ‖b‖ as it is reckoned along the way, and the products it took."""

    x: Tensor
    residual: float
    products: int


def conjugate_gradients(product: Callable[[Tensor], Tensor], b: Tensor, *, iterations: int) -> Solved:
    """Solve A·x = b for a symmetric, positive definite A (Hestenes and Stiefel 1952).

    Args:
        product: v [d] -> A·v [d].
        b: [d].
        iterations: at most so many products.

    Returns:
        x = 0 with residual 0 where b is 0; where A is not positive along a direction, what was found before it.
    """
    x, rest = torch.zeros_like(b), b.clone()
    direction, square = rest.clone(), rest @ rest
    norm = float(square.sqrt())
    taken = 0
    while taken < iterations and float(square.sqrt()) > EXACT * norm:
        image = product(direction)
        taken += 1
        curvature = direction @ image
        if not float(curvature) > 0:
            break
        x = x + square / curvature * direction
        rest = rest - square / curvature * image
        before, square = square, rest @ rest
        direction = rest + square / before * direction
    return Solved(x, float(square.sqrt()) / norm if norm else 0.0, taken)


def mean_diagonal(product: Callable[[Tensor], Tensor], like: Tensor, stream: np.random.Generator) -> float:
    """Return Hutchinson's estimate of a matrix's trace over its size, from products with random signs."""
    found = []
    for _ in range(PROBES):
        signs = torch.from_numpy(2.0 * stream.integers(0, 2, len(like)) - 1).to(like)
        found.append(float(signs @ product(signs)))
    return float(np.mean(found)) / len(like)


def right_side(model: nn.Module, forget: FullBatch, retain: FullBatch) -> Tensor:
    """Return v = (n_f / n)·(mean gradient on forget - mean gradient on retain) [d], in evaluation mode."""
    model.eval()
    slopes = []
    for batch in (forget, retain):
        batch.forward_backward(model)
        slopes.append(flat(torch.zeros_like(p) if p.grad is None else p.grad for p in trainable(model).values()))
    model.zero_grad(set_to_none=True)
    return forget.n / (forget.n + retain.n) * (slopes[0] - slopes[1])


def run_iu(context: UnlearningContext, settings: IuSettings) -> Unlearned:
    """Take one Newton step away from the forget set, without training; how well its equation was solved is recorded.

    The step is that of a quadratic loss. Deep networks have none: where the residual is large, or the step is, the
    result may be wrecked; a smaller strength or more damping then helps.
    """
    splits, compute = context.splits, context.compute
    if not len(splits.retain):
        raise UsageError("the retain set is empty; influence unlearning needs something to keep")
    n = min(settings.sample, len(splits.retain))
    most = PROBES * (settings.damping > 0) + settings.iterations
    products = 2 * n * most  # each is a gradient of the outputs and one of the losses
    told = Unlearned(0, len(splits.forget) + len(splits.retain) + products)
    if context.count_only:
        return told
    stream = generator("influence", context.seed)
    chosen = np.sort(stream.choice(splits.retain, n, replace=False))

    def batch(examples: Examples, *, resident: bool = False) -> FullBatch:
        return FullBatch(examples, context.transform, compute=compute, resident=resident)

    v = right_side(context.model, batch(splits.forget_examples), batch(splits.retain_examples))
    matrix = GaussNewton(context.model, batch(splits.dataset.train.subset(chosen), resident=True))
    counted = _Counted(matrix, context, most)
    delta = settings.damping * mean_diagonal(counted, v, stream) if settings.damping else 0.0
    solved = conjugate_gradients(lambda vector: counted(vector) + delta * vector, v, iterations=settings.iterations)
    context.progress(COUNTED, most, most)
    step = settings.strength * solved.x
    if not bool(torch.isfinite(step).all()):
        raise MeasurementError("IU diverged: the step is not finite; use a larger damping")
    _move(context.model, step)
    figures = {
        "residual": solved.residual,
        "products": float(counted.taken),
        "damping": delta,
        "length of the step": float(torch.linalg.vector_norm(step)),
    }
    return Unlearned(0, told.gradient_evaluations - 2 * n * (most - counted.taken), figures=figures)


class _Counted:
    """A matrix's products, counted and told."""

    def __init__(self, matrix: GaussNewton, context: UnlearningContext, most: int) -> None:
        self.matrix, self.context, self.most, self.taken = matrix, context, most, 0

    def __call__(self, vector: Tensor) -> Tensor:
        self.taken += 1
        self.context.progress(COUNTED, self.taken, self.most)
        return self.matrix @ vector


def _move(model: nn.Module, step: Tensor) -> None:
    parameters = list(trainable(model).values())
    with torch.no_grad():
        for parameter, piece in zip(parameters, torch.split(step, [p.numel() for p in parameters]), strict=True):
            parameter.add_(piece.view_as(parameter).to(parameter.dtype))


IU = Method(
    "iu",
    "Izzo et al. 2021, by conjugate gradients",
    IuSettings,
    run_iu,
    composes=False,
    on=NEEDS_CLASSES,
)
