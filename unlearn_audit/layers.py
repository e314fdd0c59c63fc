"""The affine layers of a network: what they are given, and by how much they stretch it at most.

A linear layer and a convolution are f(x) = Mx + f(0). M's largest singular value, the layer's Lipschitz constant in the
Euclidean norm, is found without writing M down: autograd alone multiplies by it and by its transpose, so that strides,
groups, dilations and paddings of every kind are covered by one text.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from unlearn_audit.engine import derive_seed, modes_kept
from unlearn_audit.errors import MeasurementError, UsageError
from unlearn_audit.models import models_own

SPARE = 3  # vectors beside the k that are asked for: near-equal leading values are told apart by them
CONVERGED = 1e-5  # of sigma²: a residual below it
_DENSE = 4096  # rows and columns up to which a matrix is decomposed as it stands


@dataclass(frozen=True, eq=False)
class Layer:
    """A linear layer or a convolution whose weight is a parameter of its own.

    Attributes:
        name: in the network.
        module: the layer.
        shape: of one input, without the batch; where it is called several times, of the largest.
        norm: the BatchNorm that takes its output, where both are to be seen as one map.
    """

    name: str
    module: nn.Module
    shape: tuple[int, ...]
    norm: _BatchNorm | None = None

    @property
    def weight(self) -> nn.Parameter:
        """The parameter that M depends on; M is linear in it."""
        return self.module.weight  # type: ignore[return-value]

    @property
    def is_matrix(self) -> bool:
        """Whether M is the weight itself, small enough to be decomposed as it stands."""
        return isinstance(self.module, nn.Linear) and min(self.weight.shape) <= _DENSE

    def times(self, inputs: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return M·x for each input, with the graph of whatever wants one.

        A BatchNorm that belongs to the layer is in evaluation mode: its running variance and its scale are part of M.

        Args:
            inputs: [N, *shape].
            weight: another one than the layer's own.
        """
        swapped = {"weight": self.weight.detach() if weight is None else weight}
        if self.module.bias is not None:
            swapped["bias"] = torch.zeros_like(self.module.bias)  # type: ignore[arg-type]
        found: Tensor = torch.func.functional_call(self.module, swapped, (inputs,))
        return found if self.norm is None else found * _scale(self.norm, found.dim())


def _scale(norm: _BatchNorm, dim: int) -> Tensor:
    """Return what a BatchNorm in evaluation mode multiplies each channel by, [C, 1, …]."""
    variance = norm.running_var
    if variance is None:
        return torch.ones(())
    scale = torch.rsqrt(variance + norm.eps)
    scale = scale * norm.weight.detach() if norm.affine else scale
    return scale.reshape(-1, *(1 for _ in range(dim - 2)))


def affine_layers(model: nn.Module, sample: Tensor, *, with_norms: bool = False) -> list[Layer]:
    """Return the linear layers and convolutions that one forward pass reaches, in the order of the network.

    Args:
        model: on the device; left as it was, training modes included.
        sample: one example as the network takes it, [1, …].
        with_norms: see a convolution together with the BatchNorm that takes its very output.

    Raises:
        MeasurementError: the model cannot take the sample.
    """
    seen = _Trace()
    handles = [
        module.register_forward_hook(seen) for module in model.modules() if isinstance(module, (*_AFFINE, _BatchNorm))
    ]
    try:
        with modes_kept(model), torch.no_grad(), models_own("a forward pass that traces its layers failed"):
            model.eval()(sample)
    finally:
        for handle in handles:
            handle.remove()
    return [
        Layer(name, module, seen.shapes[module], seen.norms.get(module) if with_norms else None)
        for name, module in model.named_modules()
        if module in seen.shapes and isinstance(getattr(module, "weight", None), nn.Parameter)
    ]


def own_weight(module: nn.Module, task: str) -> nn.Parameter:
    """Return a layer's weight, for a task that sets it; what is set of a computed one is gone in the next pass.

    Args:
        module: a linear layer or a convolution.
        task: the method's name, for the message.

    Raises:
        UsageError: the weight is computed from other parameters, as weight_norm does it.
    """
    weight = module.weight
    if not isinstance(weight, nn.Parameter):
        raise UsageError(
            f"{task} sets layers' weights, but one of the network's is computed from other parameters (weight_norm or "
            "another parametrisation); remove the parametrisation from the model first"
        )
    return weight


_AFFINE = (nn.Linear, _ConvNd)


class _Trace:
    """A forward hook that writes down what each layer is given, and which BatchNorm takes a convolution's output."""

    def __init__(self) -> None:
        self.shapes: dict[nn.Module, tuple[int, ...]] = {}
        self.norms: dict[nn.Module, _BatchNorm] = {}
        # Outputs are kept so that no other tensor comes to their place; one that was edited since counts no more.
        self._outputs: list[tuple[nn.Module, Tensor, int]] = []

    def __call__(self, module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        """Note one call."""
        if isinstance(module, _BatchNorm):
            for before, tensor, version in self._outputs:
                if given[0] is tensor and tensor._version == version and module.running_var is not None:
                    self.norms[before] = module
            return
        shape = tuple(given[0].shape[1:]) if isinstance(module, _ConvNd) else (given[0].shape[-1],)
        known = self.shapes.get(module, ())
        if not known or math.prod(shape) > math.prod(known):
            self.shapes[module] = shape
        if isinstance(module, _ConvNd):
            self._outputs.append((module, output, output._version))


class Singular(NamedTuple):
    """The largest singular values of a layer.

    Attributes:
        values: [k], from the largest down, float64; no value is above the true one beyond rounding.
        vectors: the right singular vectors, [k, *shape], of length 1.
        basis: what they were read from, [k + 3, *shape], orthonormal: where another search may begin.
        residual: ‖MᵀMv - sigma²v‖ of the first: some singular value's square lies within so much of the first's.
    """

    values: Tensor
    vectors: Tensor
    basis: Tensor
    residual: float

    @property
    def converged(self) -> bool:
        """Whether the residual of the first is small beside its square."""
        return self.residual <= CONVERGED * float(self.values[0]) ** 2


def start_vectors(layer: Layer, k: int, *, seed: int, parts: Sequence[object] = ()) -> Tensor:
    """Return k + 3 random inputs, [k + 3, *shape] or as many as there are dimensions, the same on every device.

    Args:
        layer: whose inputs.
        k: singular values that are wanted.
        seed: of the run.
        parts: what else tells this draw from others of the layer.
    """
    count = min(k + SPARE, math.prod(layer.shape))
    generator = torch.Generator().manual_seed(derive_seed(seed, "power qr", layer.name, *parts))
    drawn = torch.randn((count, *layer.shape), generator=generator, dtype=torch.float64)
    return drawn.to(layer.weight.device, layer.weight.dtype)


def power_qr(layer: Layer, start: Tensor, *, k: int, iterations: int) -> Singular:
    """Return the k largest singular values of a layer: PowerQR with spare vectors (Boroojeny et al. 2024).

    X <- Q of the QR decomposition of MᵀMX, `iterations` times, each one gradient of ½·Σ‖Mx_j‖². The values are read
    from M·X by Rayleigh and Ritz, where the paper reads R: so none is above the true one, and the spare vectors tell
    apart what is nearly equal, as the leading values of a convolution are. The paper decomposes X + MᵀMX, whose error
    falls by (1 + sigma₂²)/(1 + sigma₁²) an iteration: hardly at all where values are small. Without the X it is
    (sigma₂/sigma₁)², whatever the scale.

    Args:
        layer: which.
        start: where to begin, [k + 3, *shape]; see `start_vectors`.
        k: how many values, as far as there are so many.
        iterations: each costs a forward and a backward pass of the layer on so many inputs as `start` has.

    Raises:
        MeasurementError: a value is not finite.
    """
    weight, basis = layer.weight.detach(), _orthonormal(start)
    for _ in range(iterations):
        basis = _orthonormal(_square(layer, weight, basis))
    with torch.no_grad():
        images = layer.times(basis, weight).flatten(1)
    if not bool(torch.isfinite(images).all()):
        raise MeasurementError(f"the weights of {layer.name} are not finite, or give outputs that are not")
    _, values, mixes = torch.linalg.svd(images.double().T, full_matrices=False)
    mixes = mixes[:k].to(basis.dtype)
    vectors = torch.tensordot(mixes, basis, dims=1)
    first = torch.tensordot(mixes[:1], _square(layer, weight, basis), dims=1)
    residual = torch.linalg.vector_norm(first - values[0].to(basis.dtype) ** 2 * vectors[:1])
    return Singular(values[:k], vectors, basis, float(residual))


def _square(layer: Layer, weight: Tensor, inputs: Tensor) -> Tensor:
    """Return MᵀM of each input."""
    with torch.enable_grad():
        leaf = inputs.detach().requires_grad_()
        images = layer.times(leaf, weight)
        (found,) = torch.autograd.grad(images, leaf, images.detach())
    return found


def _orthonormal(inputs: Tensor) -> Tensor:
    """Return orthonormal vectors of the same span, one for each."""
    found: Tensor = torch.linalg.qr(inputs.flatten(1).T).Q.T.reshape(inputs.shape)
    return found


def squared_frobenius(layer: Layer) -> float | None:
    """Return ‖M‖_F², or None where that would cost more than a pass.

    Each entry of the weight stands in M once for every output that it reaches from within the input: how often, the
    gradient of the sum of all outputs on an input of ones says. Padding that repeats pixels may put two entries into
    one place of M, and then their squares do not add up.
    """
    weight, mode = layer.weight.detach(), getattr(layer.module, "padding_mode", "zeros")
    if mode != "zeros" or layer.norm is not None:
        return None
    if not isinstance(layer.module, _ConvNd):
        return float(weight.double().square().sum())
    ones = torch.ones((1, *layer.shape), device=weight.device, dtype=weight.dtype)
    with torch.enable_grad():
        leaf = weight.clone().requires_grad_()
        (times,) = torch.autograd.grad(layer.times(ones, leaf).sum(), leaf)
    return float((weight.double().square() * times.double()).sum())
