"""Small generators that several test files share: denoisers without diffusers, whose best weights are known."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from small_problems import CPU
from torch import Tensor, nn

from unlearn_audit.data import Dataset, Examples, Splits, Transform, make_splits
from unlearn_audit.generation.noising import denoising_task
from unlearn_audit.methods import Method, Unlearned, UnlearningContext, on_kind
from unlearn_audit.methods.apply import joining, parse_settings, run_method
from unlearn_audit.models.denoisers import Denoiser, linear_schedule

CLASSES = 4
TO_SIGNED = Transform((0.5,), (0.5,))


class Scalars(nn.Module):
    """f(x, t, c) = w_c·x with one weight a class, and one for no condition: linear in its weights."""

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.class_embedding = nn.Embedding(classes + 1, 1)
        self.class_embedding.weight.data *= 0.2  # as of networks that predict noise, so that samples stay finite

    def forward(self, x: Tensor, t: Tensor, class_labels: Tensor) -> Tensor:
        return self.class_embedding(class_labels)[:, :, None, None] * x  # type: ignore[no-any-return]


class Convolutions(nn.Module):
    """Two convolutions, an embedding of classes and one of time, under the names that they have in U-Nets."""

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.conv_in, self.conv_out = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 1, 3, padding=1)
        self.time_embedding, self.class_embedding = nn.Linear(1, 6), nn.Embedding(classes + 1, 6)

    def forward(self, x: Tensor, t: Tensor, class_labels: Tensor) -> Tensor:
        told = self.time_embedding(t[:, None] / 1000) + self.class_embedding(class_labels)
        return self.conv_out(torch.tanh(self.conv_in(x) + told[:, :, None, None]))  # type: ignore[no-any-return]


def make_denoiser(unet: nn.Module | None = None, *, null: int | None = CLASSES) -> Denoiser:
    return Denoiser(Convolutions() if unet is None else unet, linear_schedule(), null=null)


def images(n: int = 60, *, classes: int = CLASSES, seed: int = 0) -> Examples:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (n, 1, 4, 4), generator=generator, dtype=torch.uint8)
    labels = torch.arange(n) % classes
    return Examples(pixels, labels, labels)


def generator_splits(forget: str = "class:3") -> Splits:
    return make_splits(Dataset("made up", images(), images(seed=1), CLASSES, (0.5,), (0.5,), "0" * 64), forget)


def generator_context(model: Denoiser, splits: Splits | None = None, seed: int = 0, **more: Any) -> UnlearningContext:
    found = UnlearningContext(model, TO_SIGNED, splits or generator_splits(), CPU, seed, task=denoising_task(model))
    return replace(found, **more)


def unlearn_generator(
    method: Method, model: Denoiser, *, extras: tuple[str, ...] = (), values: Mapping[str, Any], **more: Any
) -> Unlearned:
    """Run a method as `apply` does."""
    context = generator_context(model, extras=joining(method, extras, "generator"), **more)
    return run_method(on_kind(method, "generator"), context, parse_settings(method, values, kind="generator"))
