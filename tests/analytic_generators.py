"""Generators whose best prediction is known in closed form, as pipelines that images can be drawn from."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from unlearn_audit.engine import Device
from unlearn_audit.models.denoisers import Noised, Schedule

T = 1000
LINEAR = torch.cumprod(1 - torch.linspace(1e-4, 0.02, T, dtype=torch.float64), dim=0)  # DDPM's schedule
UNCLIPPED = {"clip_sample": False}


class GaussianDenoiser(nn.Module):
    """The best ε-predictor of x₀ ~ N(mean of the class, σ²·I); the null condition is class `null`, whose mean is 0."""

    conditioning = "class"

    def __init__(self, sigma: float = 0.3, means: Sequence[float] = (0.0,), *, prediction: str = "epsilon") -> None:
        super().__init__()
        self.sigma, self.prediction = sigma, prediction
        self.means = torch.tensor([*means, 0.0])
        self.null: int | None = len(means)
        self.schedule = Schedule(LINEAR, prediction)
        self.seen: list[int] = []

    def forward(self, noised: Noised) -> Tensor:
        self.seen.append(len(noised.x))
        at = LINEAR[noised.t.long()].view(-1, 1, 1, 1)
        mean = self.means[noised.condition].view(-1, 1, 1, 1).double()
        x = noised.x.double()
        noise = (x - at.sqrt() * mean) * (1 - at).sqrt() / (at * self.sigma**2 + 1 - at)
        image = (x - (1 - at).sqrt() * noise) / at.sqrt()
        found = {"epsilon": noise, "sample": image, "v_prediction": at.sqrt() * noise - (1 - at).sqrt() * image}
        return found[self.prediction].float()


class AnalyticPipeline:
    """A generator without files: images [C, H, W] as they are, classes as numbers."""

    has_latents, side = False, 1

    def __init__(self, denoiser: Any, shape: tuple[int, int, int] = (1, 4, 4),
                 config: Mapping[str, Any] = UNCLIPPED) -> None:  # fmt: skip
        self.denoiser, self.scheduler_config, self._shape = denoiser, config, shape
        self.made: Any = None

    def shape(self, size: tuple[int, int] | None) -> tuple[int, int, int]:
        return self._shape if size is None else (self._shape[0], *size)

    def encode(self, conditions: Sequence[int | str], compute: Device) -> Tensor:
        return torch.tensor([int(each) for each in conditions], device=compute.device)

    def decode(self, x: Tensor) -> Tensor:
        return x

    def scheduler(self) -> Any:
        return self.made()
