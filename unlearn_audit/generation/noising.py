"""Noise: which timestep and which noise an example gets, x_t, and what a denoiser's prediction is held against.

Draws are keyed by an example's own number, so that they do not depend on which others are measured, in what order or in
which batch; pairs of forget set and unseen twin share theirs, and so do all models.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from unlearn_audit.engine import CLASSIFICATION, Draws, Rows, Task, upload
from unlearn_audit.models.denoisers import Denoiser, Noised, Schedule
from unlearn_audit.streams import derive_seed

ONE = 2.0**63  # a derived seed lies below it


class Noise(NamedTuple):
    """The draws of a batch of B examples, an example's together: R = B x M.

    Attributes:
        t: [R] int64 timesteps.
        epsilon: [R, ...] standard normal.
        dropped: [R] bool, which rows are asked without their condition.
    """

    t: Tensor
    epsilon: Tensor
    dropped: Tensor


def midpoints(timesteps: int, count: int) -> Tensor:
    """Return the timesteps of a grid, [count] int64: the midpoints of as many equal parts of 0 .. T - 1.

    >>> midpoints(1000, 1).tolist(), midpoints(1000, 4).tolist()
    ([500], [125, 375, 625, 875])

    Args:
        timesteps: T.
        count: M, at least 1.
    """
    return torch.tensor([int((j + 0.5) * timesteps / count) for j in range(count)])


def draw(numbers: Tensor, shape: torch.Size | tuple[int, ...], draws: Draws, *, timesteps: int) -> Noise:
    """Return the draws of a batch, on the CPU.

    Args:
        numbers: [B] which examples.
        shape: of one example, [C, H, W].
        draws: how many, of which kind and purpose.
        timesteps: T.
    """
    keys = [(number, j) for number in numbers.tolist() for j in range(draws.count)]
    epsilon = torch.empty(len(keys), *shape)
    for place, key in zip(epsilon, keys, strict=True):
        generator = torch.Generator().manual_seed(derive_seed(draws.seed, "noise", *draws.purpose, *key))
        torch.randn(shape, generator=generator, out=place)
    if draws.grid:
        t = midpoints(timesteps, draws.count).repeat(len(numbers))
    else:
        t = torch.tensor([_stratified(draws, key, timesteps) for key in keys], dtype=torch.int64)
    if draws.antithetic:
        half = len(t) // 2
        t[len(t) - half :] = timesteps - 1 - t[:half]
    chances = (derive_seed(draws.seed, "label drop", *draws.purpose, *key) / ONE for key in keys if draws.drop)
    dropped = torch.tensor([chance < draws.drop for chance in chances] or [False] * len(keys))
    return Noise(t, epsilon, dropped)


def _stratified(draws: Draws, key: tuple[int, int], timesteps: int) -> int:
    """Return a timestep of the j-th of M equal parts, uniform in it."""
    chance = derive_seed(draws.seed, "timestep", *draws.purpose, *key) / ONE
    return min(timesteps - 1, int((key[1] + chance) * timesteps / draws.count))


def _scales(schedule: Schedule, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return the shares of image and noise in x_t, each [R, 1, 1, 1] beside `like`."""
    bar = schedule.alphas_bar[t.cpu()]
    both = upload(torch.stack([bar.sqrt(), (1 - bar).sqrt()]).to(like.dtype), like.device)
    image, noise = both.view(2, -1, *(1,) * (like.dim() - 1))
    return image, noise


def noised(schedule: Schedule, x: Tensor, epsilon: Tensor, t: Tensor) -> Tensor:
    """Return x_t, the mixture of an image and its noise.

    Args:
        schedule: of the noise.
        x: [R, ...] images in [-1, 1], or latents.
        epsilon: [R, ...] standard normal.
        t: [R] timesteps.
    """
    image, noise = _scales(schedule, t, x)
    return image * x + noise * epsilon


def target(schedule: Schedule, x: Tensor, epsilon: Tensor, t: Tensor) -> Tensor:
    """Return what a prediction is held against, [R, ...]: the noise, the velocity or the image.

    Args:
        schedule: says which.
        x: [R, ...] images in [-1, 1], or latents.
        epsilon: [R, ...] standard normal.
        t: [R] timesteps.
    """
    if schedule.prediction == "epsilon":
        return epsilon
    if schedule.prediction == "sample":
        return x
    image, noise = _scales(schedule, t, x)
    return image * epsilon - noise * x


def losses(prediction: Tensor, wanted: Tensor) -> Tensor:
    """Return the squared error of each row, mean over its elements: [R], in float32 at least, differentiable."""
    wide = prediction if prediction.dtype == torch.float64 else prediction.float()
    return functional.mse_loss(wide, wanted.to(wide.dtype), reduction="none").flatten(1).mean(dim=1)


def task_of(model: nn.Module) -> Task:
    """Return what a model is for, as far as it tells by itself: a denoiser of images under classes, or a classifier."""
    return denoising_task(model) if isinstance(model, Denoiser) else CLASSIFICATION


def denoising_task(
    denoiser: Denoiser,
    *,
    encode: Callable[[Tensor], Tensor] | None = None,
    condition: Callable[[Tensor], Tensor] | None = None,
    unconditioned: Callable[[], Tensor] | None = None,
) -> Task:
    """Return what a diffusion model is for: to predict the noise in its own examples under their own conditions.

    Args:
        denoiser: whose schedule and null condition count; its weights do not.
        encode: images in [-1, 1] -> latents; None where the noise is put on images themselves.
        condition: labels [B] -> [B] class numbers or [B, L, D] embeddings; None where the labels are the conditions.
        unconditioned: -> [1, L, D], what stands for no condition beside such embeddings; None where that is the
            denoiser's null class, or nothing.
    """
    schedule, null = denoiser.schedule, denoiser.null

    def rows(inputs: Tensor, labels: Tensor, numbers: Tensor, draws: Draws) -> Rows:
        found = draw(numbers, inputs.shape[1:], draws, timesteps=schedule.timesteps)
        owner = torch.arange(len(numbers)).repeat_interleave(draws.count)
        device = inputs.device
        epsilon, owner = upload(found.epsilon, device), upload(owner, device)
        x = inputs[owner]
        asked = labels if condition is None else condition(labels)
        asked = (asked if asked.device == device else upload(asked, device))[owner]
        if bool(found.dropped.any()):
            dropped = upload(found.dropped, device)
            if unconditioned is not None:
                asked = torch.where(dropped.view(-1, 1, 1), unconditioned(), asked)
            elif null is not None:
                asked = asked.masked_fill(dropped, null)
        wanted = target(schedule, x, epsilon, found.t)
        return Rows(Noised(noised(schedule, x, epsilon, found.t), upload(found.t, device), asked), wanted, owner)

    return Task(losses, None, rows, encode)
