"""The steps from noise to an image: DDIM and DDPM over a part of the timesteps, in the folder's own spacing."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from torch import Tensor

from unlearn_audit.errors import UsageError

SAMPLERS = ("ddim", "ddpm", "folder")  # "folder": the scheduler that the folder names
SamplerName = Literal["ddim", "ddpm", "folder"]
SMALLEST = 1e-20  # variance of a step, as schedulers have it


class Jump(NamedTuple):
    """One step of a sampler: from the timestep `t`, where it has `at` = ᾱ_t, to where ᾱ is `to`; 1 is the image."""

    t: int
    at: float
    to: float
    last: bool


def jumps(alphas_bar: Sequence[float], steps: int, config: Mapping[str, Any]) -> tuple[Jump, ...]:
    """Return the steps of a sampler, from the noisiest on.

    Args:
        alphas_bar: ᾱ_t for t = 0 … T - 1, falling.
        steps: how many of the T are taken.
        config: the scheduler's, of which `timestep_spacing`, `steps_offset` and `set_alpha_to_one` count.

    Raises:
        UsageError: more steps than timesteps, fewer than one, or a spacing that is not known here.
    """
    total = len(alphas_bar)
    if not 1 <= steps <= total:
        raise UsageError(f"sampling steps {steps}: this generator has {total} timesteps; 1 to {total} can be taken")
    times = _times(total, steps, config)
    end = 1.0 if config.get("set_alpha_to_one", True) else float(alphas_bar[0])
    to = [*(float(alphas_bar[t]) for t in times[1:]), end]
    return tuple(
        Jump(t, float(alphas_bar[t]), after, last=index == len(times) - 1)
        for index, (t, after) in enumerate(zip(times, to, strict=True))
    )


def _times(total: int, steps: int, config: Mapping[str, Any]) -> list[int]:
    """Return the timesteps, falling; the names of spacings are those of Lin et al. 2024, Table 2."""
    spacing = config.get("timestep_spacing", "leading")
    if spacing == "leading":
        found = np.arange(steps, dtype=np.float64)[::-1] * (total // steps) + int(config.get("steps_offset", 0))
    elif spacing == "trailing":
        found = np.round(total - np.arange(steps) * (total / steps)) - 1
    elif spacing == "linspace":
        found = np.linspace(0, total - 1, steps).round()[::-1]
    else:
        raise UsageError(f"timestep_spacing {spacing!r:.40} is not known here; use --sampler folder")
    return [min(int(t), total - 1) for t in found]


def image_and_noise(output: Tensor, x: Tensor, at: float, prediction: str) -> tuple[Tensor, Tensor]:
    """Return what a prediction says of the image x₀ and of the noise ε in x = √ᾱ·x₀ + √(1 - ᾱ)·ε.

    Args:
        output: of the network, as large as x.
        x: where it looked.
        at: ᾱ there.
        prediction: "epsilon", "v_prediction" or "sample", which says what the output is.

    Raises:
        UsageError: another prediction.
    """
    signal, noise = at**0.5, (1 - at) ** 0.5
    if prediction == "epsilon":
        return (x - noise * output) / signal, output
    if prediction == "v_prediction":
        return signal * x - noise * output, signal * output + noise * x
    if prediction == "sample":
        return output, (x - signal * output) / noise
    raise UsageError(f"prediction_type {prediction!r:.40} is not known here: epsilon, v_prediction and sample are")


def clipped(image: Tensor, config: Mapping[str, Any], *, default: bool) -> Tensor:
    """Return x₀ within the range that the scheduler's config clips it to, or as it is where it does not clip.

    Args:
        image: x₀ as predicted.
        config: the scheduler's: `clip_sample`, `clip_sample_range`.
        default: whether to clip where the config does not say it: pixels are clipped, latents are not.

    Raises:
        UsageError: the config asks for dynamic thresholds, which are not had here.
    """
    if config.get("thresholding"):
        raise UsageError("this folder's scheduler has dynamic thresholds; use --sampler folder")
    if not config.get("clip_sample", default):
        return image
    most = float(config.get("clip_sample_range", 1.0))
    return image.clamp(-most, most)


def ddim(jump: Jump, image: Tensor, noise: Tensor) -> Tensor:
    """Return √ᾱ′·x₀ + √(1 - ᾱ′)·ε, the deterministic step (Song et al. 2021, eq. 12 with σ = 0).

    Args:
        jump: from where to where.
        image: x₀ as predicted, clipped where the scheduler clips.
        noise: ε as predicted.
    """
    return float(jump.to**0.5) * image + float((1 - jump.to) ** 0.5) * noise


def ddpm(jump: Jump, image: Tensor, x: Tensor, *, fresh: Tensor, variance: str = "fixed_small") -> Tensor:
    """Return a draw from q(x_{t′} | x_t, x₀) (Ho et al. 2020, eq. 7), over a part of the timesteps.

    Args:
        jump: from where to where; the last one adds no noise.
        image: x₀ as predicted, clipped where the scheduler clips.
        x: x_t.
        fresh: standard normal, as large as x.
        variance: "fixed_small", the posterior's, or "fixed_large", the forward step's β.

    Raises:
        UsageError: another variance.
    """
    if variance not in ("fixed_small", "fixed_large"):
        raise UsageError(f"variance_type {variance!r:.40} is not known here; use --sampler ddim or folder")
    alpha = jump.at / jump.to
    beta = 1 - alpha
    mean: Tensor = (jump.to**0.5 * beta / (1 - jump.at)) * image + (alpha**0.5 * (1 - jump.to) / (1 - jump.at)) * x
    if jump.last:
        return mean
    spread = beta if variance == "fixed_large" else beta * (1 - jump.to) / (1 - jump.at)
    drawn: Tensor = mean + float(max(spread, SMALLEST) ** 0.5) * fresh
    return drawn
