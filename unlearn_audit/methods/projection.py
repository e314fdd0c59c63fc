"""Taking out of a vector over all parameters what lies in the span of two others."""

from collections.abc import Sequence

import torch
from torch import Tensor

Gradients = Sequence[Tensor]  # a vector: one tensor a trainable parameter
RIDGE = 1e-12  # of the Gram matrix of two vectors of length one


def projected(velocity: Gradients, spanning: Sequence[Gradients]) -> list[Tensor]:
    """Return a vector without its part in the span of two others, all of them in as many tensors as parameters.

    Sums are in float64, over all tensors together. The two are scaled to length one first, so that a ridge means the
    same for each, however different their lengths are, and the second is made orthogonal to the first: what is left of
    it is divided by its squared length plus the ridge, so that where one is zero or both are collinear their line goes.

    Args:
        velocity: the vector.
        spanning: the two others.
    """
    first, second = (_scaled(each) for each in spanning)
    shared = dot(first, second)
    rest = [b - shared * a for a, b in zip(first, second, strict=True)]
    of_first, of_rest = dot(velocity, first), dot(velocity, rest) / (dot(rest, rest) + RIDGE)
    return [
        (v.to(a.dtype) - of_first * a - of_rest * b).to(v.dtype) for v, a, b in zip(velocity, first, rest, strict=True)
    ]


def _scaled(one: Gradients) -> Gradients:
    """Return a vector of length one in the same direction, in float64; of nothing but zeros the same again."""
    size = length(one)
    return [wide(each) / size for each in one]


def wide(tensor: Tensor) -> Tensor:
    """Return a tensor without its graph, in float64 where the device has it."""
    return tensor.detach().to(torch.float32 if tensor.device.type == "mps" else torch.float64)


def dot(one: Gradients, two: Gradients) -> Tensor:
    """Return the inner product over all tensors, in float64, summed in one order whatever their layout in memory."""
    return torch.stack([(wide(a) * wide(b)).contiguous().sum() for a, b in zip(one, two, strict=True)]).sum()


def length(one: Gradients) -> Tensor:
    """Return the Euclidean length over all tensors, of nothing but zeros the smallest number that divides."""
    return dot(one, one).sqrt().clamp(min=1e-30)
