"""The curvature of a loss over a whole set: Hessian-vector products and the top eigenvalue."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from unlearn_audit.engine import FullBatch, derive_seed, trainable
from unlearn_audit.errors import MeasurementError

__all__ = ["TopEigenvalue", "hessian_vector_product", "lambda_max"]


class TopEigenvalue(NamedTuple):
    """The largest eigenvalue of the Hessian of the mean loss and what it cost, in passes over the set."""

    value: float
    products: int


def hessian_vector_product(model: nn.Module, batch: FullBatch, vector: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return H·v for the Hessian of the mean loss over the set, by differentiating the gradient's product with v.

    Args:
        model: in evaluation mode.
        batch: the whole set.
        vector: [d], in the order of `engine.trainable`.

    Returns:
        [d], float64, zero where a parameter takes no part in the loss. Costs one forward and two backward passes over
        the set.
    """
    parameters = list(trainable(model).values())
    directions = _split(vector, parameters)
    total = [torch.zeros_like(parameter, dtype=torch.float64) for parameter in parameters]
    for images, labels in batch.parts:
        with sdpa_kernel(SDPBackend.MATH):  # the fused attention kernels have no second derivative
            loss = batch.task.losses(model(images), labels).sum() / batch.n
            gradients = _gradients(loss, parameters, create_graph=True)
            slope = torch.stack([(g * v).sum() for g, v in zip(gradients, directions, strict=True)]).sum()
            for place, part in zip(total, _gradients(slope, parameters), strict=True):
                place += part
    return np.concatenate([part.reshape(-1).cpu().numpy() for part in total])


def _gradients(value: Tensor, parameters: list[nn.Parameter], *, create_graph: bool = False) -> tuple[Tensor, ...]:
    """Differentiate, with zeros for parameters that the value does not depend on."""
    return torch.autograd.grad(value, parameters, create_graph=create_graph, allow_unused=True, materialize_grads=True)


def _split(vector: NDArray[np.float64], parameters: list[nn.Parameter]) -> list[Tensor]:
    """Cut a flat vector into tensors like the parameters."""
    flat = torch.from_numpy(np.ascontiguousarray(vector))
    parts = torch.split(flat, [parameter.numel() for parameter in parameters])
    return [part.reshape(like.shape).to(like.device, like.dtype) for part, like in zip(parts, parameters, strict=True)]


def lambda_max(model: nn.Module, batch: FullBatch, *, seed: int = 0, tolerance: float = 0.01) -> TopEigenvalue:
    """Return the largest eigenvalue of the Hessian of the mean loss (implicitly restarted Lanczos, ARPACK).

    Args:
        model: put into evaluation mode.
        batch: the whole set.
        seed: of the start vector.
        tolerance: relative accuracy.

    Raises:
        MeasurementError: Lanczos did not converge, or the curvature is not finite.
    """
    model.eval()
    size = sum(parameter.numel() for parameter in trainable(model).values())
    count = 0

    def product(vector: NDArray[np.float64]) -> NDArray[np.float64]:
        nonlocal count
        count += 1
        found = hessian_vector_product(model, batch, vector.reshape(-1))
        if not np.isfinite(found).all():
            raise MeasurementError("the curvature at the start is not finite; give --step-size a number")
        return found

    start = np.random.default_rng(derive_seed(seed, "lanczos")).standard_normal(size)
    operator = LinearOperator((size, size), matvec=product, dtype=np.float64)
    try:
        found = eigsh(operator, k=1, which="LA", tol=tolerance, v0=start, ncv=min(size, 12), return_eigenvectors=False)
    except ArpackNoConvergence as problem:
        raise MeasurementError("lambda_max did not converge; give --step-size a number") from problem
    return TopEigenvalue(float(found[0]), count)
