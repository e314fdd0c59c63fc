"""Iterative re-initialisation: each step mixes the weights with a fresh draw of an initialisation (IEU's "Noisy").

theta <- alpha·theta + (1 - alpha)·xi, xi ~ N(0, 2/d) (Tran & Woo 2026, Definition 8). With a fresh draw each step the
stationary variance is (1 - alpha)/(1 + alpha)·2/d, not 2/d: the process is mainly weight decay of strength 1 - alpha.
Once before the first step it is shrink and perturb (Ash & Adams 2020): most of what the weights held is gone at once.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from unlearn_audit.engine import Hooks, derive_seed, trainable
from unlearn_audit.methods import Course, Settings, StepContext, StepTransform
from unlearn_audit.methods.loop import Share
from unlearn_audit.models.denoisers import Denoiser

EMBEDDINGS = "rows of embeddings are not re-initialised: they begin as N(0, 1), and this law would but shrink them"


class ReinitSettings(Settings):
    """Settings of the re-initialisation; where the paper is silent the defaults are ours."""

    PUBLISHED: ClassVar[Mapping[str, Any] | None] = {"scale": "total_d", "include_1d": True}
    UNKNOWN: ClassVar[tuple[str, ...]] = ("alpha",)

    def without_effect(self) -> tuple[str, ...]:
        """Return what does nothing where no weight is mixed, or where there is no noise."""
        if self.alpha == 1:
            return ("scale", "draw", "include_1d", "at")
        return ("draw",) if self.scale == "none" or self.at == "start" else ()

    alpha: Share = Field(default=0.999, description="share of the old weights kept at each step; 1 does nothing")
    scale: Literal["fan_in", "total_d", "none"] = Field(
        default="fan_in", description="variance of a draw: 2 / fan-in, 2 / all parameters, or no noise, decay alone"
    )
    draw: Literal["fresh", "fixed", "per_epoch"] = Field(
        default="fresh", description="a new draw each step, one, one an epoch"
    )
    include_1d: bool = Field(default=False, description="mix biases and BatchNorm's parameters, too")
    at: Literal["each_step", "start"] = Field(
        default="each_step", description="in each step (Algorithm 1), or once before the first one"
    )


class Reinit:
    """The mixing; it is done between the gradient and the optimiser's step, so that decay is decoupled.

    Args:
        model: whose weights are edited in place.
        settings: alpha in [0, 1], where 1 leaves the weights alone and draws nothing; `scale`: "fan_in", variance
            2 / fan-in of each tensor (Kaiming's, what an initialisation really is; a one-dimensional tensor counts its
            length), "total_d", variance 2 / number of all parameters (the paper's letter), or "none", 0.
        seed: of the noise, which has its own stream; a draw depends on (seed, its number) alone.
        epoch_of: step -> its epoch, for one draw an epoch.
    """

    def __init__(
        self, model: nn.Module, settings: ReinitSettings, *, seed: int, epoch_of: Callable[[int], int] = int
    ) -> None:
        self.settings, self.seed, self.epoch_of = settings, seed, epoch_of
        parameters = trainable(model).values()
        total = sum(parameter.numel() for parameter in parameters)
        # One-dimensional tensors are left out by default: shrinking BatchNorm's scale would break the network.
        # Rows of a generator's embedding are drawn from N(0, 1): this law would but shrink them.
        tables = [part.weight for part in model.modules() if isinstance(part, nn.Embedding)]
        self.left_alone = {id(each) for each in tables} if isinstance(model, Denoiser) else set()
        self.tensors: list[Tensor] = [
            parameter
            for parameter in parameters
            if (parameter.dim() >= 2 or settings.include_1d) and id(parameter) not in self.left_alone
        ]
        self.stds = [math.sqrt(2 / (total if settings.scale == "total_d" else _fan_in(each))) for each in self.tensors]
        self._fixed: tuple[int, list[Tensor]] = (-1, [])

    def __call__(self, step: int) -> None:
        """Mix every tensor with its draw for this step."""
        alpha = self.settings.alpha
        if alpha == 1 or not self.tensors:
            return
        torch._foreach_mul_(self.tensors, alpha)
        if self.settings.scale != "none":
            torch._foreach_add_(self.tensors, self.draw(step), alpha=1 - alpha)

    def draw(self, step: int) -> list[Tensor]:
        """Return the initialisation of a step, one tensor for each that is mixed, drawn on its device."""
        number = {"fresh": step, "fixed": 0, "per_epoch": self.epoch_of(step)}[self.settings.draw]
        if self._fixed[0] != number:
            device = self.tensors[0].device
            generator = torch.Generator(device).manual_seed(derive_seed(self.seed, "reinit", number))
            drawn = [
                torch.randn(tensor.shape, generator=generator, device=device, dtype=tensor.dtype).mul_(std)
                for tensor, std in zip(self.tensors, self.stds, strict=True)
            ]
            if self.settings.draw == "fresh":
                return drawn
            self._fixed = (number, drawn)
        return self._fixed[1]


def _fan_in(tensor: Tensor) -> int:
    return tensor[0].numel() if tensor.dim() >= 2 else max(tensor.numel(), 1)


def _make(context: StepContext, settings: ReinitSettings, course: Course) -> Hooks:
    mix = Reinit(context.model, settings, seed=context.seed, epoch_of=course.epoch_of)
    notes = (EMBEDDINGS,) if mix.left_alone and settings.alpha < 1 else ()
    if settings.at == "each_step":
        return Hooks(mix=mix, notes=notes)
    if course.steps and not context.count_only:  # a run that is taken up again gets its own weights back after this
        with torch.no_grad():
            mix(0)
    return Hooks(notes=notes)


REINIT = StepTransform("reinit", "Tran & Woo 2026, Definition 8", ReinitSettings, _make, trains=True)
