"""Iterative re-initialisation: each step mixes the weights with a fresh draw of an initialisation (IEU's "Noisy").

theta <- alpha·theta + (1 - alpha)·xi, xi ~ N(0, 2/d) (Tran & Woo 2026, Definition 8). With a fresh draw each step the
stationary variance is (1 - alpha)/(1 + alpha)·2/d, not 2/d: the process is mainly weight decay of strength 1 - alpha.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from unlearn_audit.engine import derive_seed, trainable

__all__ = ["Reinit"]


class Reinit:
    """The weight transform; called between the gradient and the optimiser's step, so that decay is decoupled.

    Args:
        model: whose weights are edited in place.
        alpha: share of the old weights kept at each step, in [0, 1]; 1 leaves them alone and draws nothing.
        seed: of the noise, which has its own stream; the draw of a step depends on (seed, step) alone.
        scale: "fan_in", variance 2 / fan-in of each tensor (Kaiming's, what an initialisation really is), or
            "total_d", variance 2 / number of all parameters (the paper's letter).
    """

    def __init__(
        self, model: nn.Module, *, alpha: float, seed: int, scale: Literal["fan_in", "total_d"] = "fan_in"
    ) -> None:
        self.alpha, self.seed = alpha, seed
        parameters = trainable(model).values()
        total = sum(parameter.numel() for parameter in parameters)
        # One-dimensional tensors are left out: shrinking BatchNorm's scale would break the network.
        self.tensors = [parameter for parameter in parameters if parameter.dim() >= 2]
        self.stds = [math.sqrt(2 / (total if scale == "total_d" else _fan_in(tensor))) for tensor in self.tensors]

    def __call__(self, step: int) -> None:
        """Mix every tensor of two or more dimensions with its draw for this step."""
        if self.alpha == 1:
            return
        for tensor, noise in zip(self.tensors, self.draw(step), strict=True):
            tensor.mul_(self.alpha).add_(noise, alpha=1 - self.alpha)

    def draw(self, step: int) -> list[Tensor]:
        """Return the fresh initialisation of a step, one tensor for each that is mixed, drawn on its device."""
        device = self.tensors[0].device if self.tensors else torch.device("cpu")
        generator = torch.Generator(device).manual_seed(derive_seed(self.seed, "reinit", step))
        return [
            torch.randn(tensor.shape, generator=generator, device=device, dtype=tensor.dtype).mul_(std)
            for tensor, std in zip(self.tensors, self.stds, strict=True)
        ]


def _fan_in(tensor: Tensor) -> int:
    return tensor[0].numel()
