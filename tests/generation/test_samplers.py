"""Samplers against closed forms of Gaussian data, and against the schedulers of diffusers."""

import math
from typing import Any

import pytest
import torch

from unlearn_audit.errors import UsageError
from unlearn_audit.generation.samplers import Jump, clipped, ddim, ddpm, image_and_noise, jumps

LINEAR = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), dim=0)  # DDPM's schedule
CONFIGS: list[dict[str, Any]] = [
    {},
    {"timestep_spacing": "trailing"},
    {"timestep_spacing": "leading", "steps_offset": 1, "set_alpha_to_one": False},
]


def best(x: torch.Tensor, at: float, sigma: float) -> torch.Tensor:
    return x * (1 - at) ** 0.5 / (at * sigma**2 + 1 - at)


def test_the_jumps_of_25_steps() -> None:
    found = jumps(LINEAR.tolist(), 25, {})
    assert [jump.t for jump in found] == list(range(960, -1, -40))
    assert [jump.to for jump in found[:-1]] == [jump.at for jump in found[1:]]
    assert (found[-1].to, found[-1].last, found[0].last) == (1.0, True, False)


def test_one_step_begins_at_the_noise_where_the_spacing_says_so() -> None:
    (only,) = jumps(LINEAR.tolist(), 1, {"timestep_spacing": "trailing"})
    assert (only.t, only.to, only.last) == (999, 1.0, True)
    assert jumps(LINEAR.tolist(), 1000, {})[0].t == 999


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_a_number_of_steps_that_cannot_be_is_refused(steps: int) -> None:
    with pytest.raises(UsageError, match="1 to 1000"):
        jumps(LINEAR.tolist(), steps, {})


def test_what_a_config_asks_for_and_is_not_had_here_is_refused() -> None:
    x = torch.zeros(1, 1, 2, 2)
    with pytest.raises(UsageError, match="karras"):
        jumps(LINEAR.tolist(), 25, {"timestep_spacing": "karras"})
    with pytest.raises(UsageError, match="thresholds"):
        clipped(x, {"thresholding": True}, default=True)
    with pytest.raises(UsageError, match="learned"):
        ddpm(Jump(5, 0.5, 0.6, False), x, x, fresh=x, variance="learned")
    with pytest.raises(UsageError, match="flow"):
        image_and_noise(x, x, 0.5, "flow_prediction")


def test_what_is_clipped_and_what_is_not() -> None:
    image = torch.tensor([-3.0, 0.5, 2.0])
    assert clipped(image, {}, default=False) is image
    assert clipped(image, {}, default=True).tolist() == [-1.0, 0.5, 1.0]
    assert clipped(image, {"clip_sample": False}, default=True) is image
    assert clipped(image, {"clip_sample": True, "clip_sample_range": 2.5}, default=False).tolist() == [-2.5, 0.5, 2.0]


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_image_and_noise_are_found_again(prediction: str) -> None:
    image, noise = torch.randn(2, 3, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    at = 0.37
    x = at**0.5 * image + (1 - at) ** 0.5 * noise
    output = {"epsilon": noise, "sample": image, "v_prediction": at**0.5 * noise - (1 - at) ** 0.5 * image}[prediction]
    found = image_and_noise(output, x, at, prediction)
    assert torch.allclose(found[0], image, atol=1e-12)
    assert torch.allclose(found[1], noise, atol=1e-12)


@pytest.mark.parametrize("steps", [25, 1000])
def test_ddim_of_a_gaussian_is_the_closed_form_and_comes_to_its_deviation(steps: int) -> None:
    sigma, x, product = 0.3, torch.tensor([1.0], dtype=torch.float64), 1.0
    for jump in jumps(LINEAR.tolist(), steps, {}):
        image, noise = image_and_noise(best(x, jump.at, sigma), x, jump.at, "epsilon")
        x = ddim(jump, image, noise)
        v = jump.at * sigma**2 + 1 - jump.at  # x_t' = x_t·(√(ᾱ'ᾱ)·σ² + √((1-ᾱ')(1-ᾱ)))/v for this predictor
        product *= (math.sqrt(jump.to * jump.at) * sigma**2 + math.sqrt((1 - jump.to) * (1 - jump.at))) / v
    assert float(x) == pytest.approx(product, rel=1e-9)
    # 1 at the start is 1·σ at the end; 25 steps lose a sixth of it
    assert float(x) == pytest.approx(sigma if steps == 1000 else 0.2519, rel=0.005)


def test_ddpm_of_a_gaussian_comes_to_its_variance() -> None:
    """The variance follows a recursion of its own: what a step keeps of x, squared, plus what it adds."""
    sigma, variance = 0.3, 1.0
    for jump in jumps(LINEAR.tolist(), 1000, {}):
        one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
        image, _ = image_and_noise(best(one, jump.at, sigma), one, jump.at, "epsilon")
        kept = float(ddpm(jump, image, one, fresh=zero))
        added = float(ddpm(jump, zero, zero, fresh=one))
        variance = kept**2 * variance + added**2
    assert variance == pytest.approx(sigma**2, rel=0.03)  # the posterior's variance is that of a single image


@pytest.mark.parametrize("config", CONFIGS, ids=["leading", "trailing", "stable diffusion's"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_ddim_is_the_scheduler_of_diffusers(config: dict[str, Any], prediction: str) -> None:
    diffusers = pytest.importorskip("diffusers", reason="pip install 'unlearn-audit[diffusion]'")
    theirs = diffusers.DDIMScheduler(**config, prediction_type=prediction, clip_sample=True)
    theirs.set_timesteps(10)
    ours = jumps(theirs.alphas_cumprod.double().tolist(), 10, config)
    assert [jump.t for jump in ours] == theirs.timesteps.tolist()
    x = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    for jump in ours:
        output = torch.sin(3 * x)
        image, noise = image_and_noise(output, x, jump.at, prediction)
        own = ddim(jump, clipped(image, {}, default=True), noise)
        x = theirs.step(output, jump.t, x, return_dict=False)[0]
        assert torch.allclose(own, x, atol=2e-5)


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_ddpm_is_the_scheduler_of_diffusers(variance: str) -> None:
    diffusers = pytest.importorskip("diffusers", reason="pip install 'unlearn-audit[diffusion]'")
    theirs = diffusers.DDPMScheduler(variance_type=variance)
    theirs.set_timesteps(10)
    x = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    for jump in jumps(theirs.alphas_cumprod.double().tolist(), 10, {}):
        output = torch.sin(3 * x)
        fresh = torch.randn(x.shape, generator=torch.Generator().manual_seed(jump.t))
        image = clipped(image_and_noise(output, x, jump.at, "epsilon")[0], {}, default=True)
        own = ddpm(jump, image, x, fresh=fresh, variance=variance)
        x = theirs.step(output, jump.t, x, generator=torch.Generator().manual_seed(jump.t), return_dict=False)[0]
        assert torch.allclose(own, x, atol=2e-5), jump
