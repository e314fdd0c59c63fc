"""Noise: the mixtures and targets against their definitions and diffusers' own, and whose draws are whose."""

from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from unlearn_audit.curvature import hessian_vector_product
from unlearn_audit.data import Examples, Transform
from unlearn_audit.engine import Batches, Device, Draws, FullBatch, setup_device
from unlearn_audit.generation import denoising_task
from unlearn_audit.generation.noising import draw, losses, midpoints, noised, target
from unlearn_audit.models.denoisers import Denoiser, Prediction, Schedule, linear_schedule
from unlearn_audit.relearning import Run, fit_floor

CPU = Device(torch.device("cpu"))
AS_IT_IS = Transform((0.0,), (1.0,))
SIGMA = 0.7
SHAPE = (1, 4, 4)
T = 1000


def schedules() -> list[Schedule]:
    return [Schedule(linear_schedule().alphas_bar, kind) for kind in get_args(Prediction)]


class Gaussian(nn.Module):
    """The best prediction of the noise where every pixel is N(0, sigma²), scaled."""

    def __init__(self, sigma: float = SIGMA, scale: float = 1.0) -> None:
        super().__init__()
        self.sigma = sigma
        self.scale = nn.Parameter(torch.tensor(scale))
        self.alphas_bar = linear_schedule().alphas_bar

    def forward(self, x: Tensor, t: Tensor, class_labels: Tensor) -> Tensor:
        bar = self.alphas_bar[t].float().view(-1, 1, 1, 1)
        return self.scale * x * (1 - bar).sqrt() / (bar * self.sigma**2 + 1 - bar)


def gaussian(scale: float = 1.0) -> Denoiser:
    return Denoiser(Gaussian(scale=scale), linear_schedule(), null=2)


def images(n: int, seed: int = 0) -> Examples:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 2
    return Examples(SIGMA * torch.randn(n, *SHAPE, generator=generator), labels, labels)


def measured(examples: Examples, draws: Draws, chunk: int = 128, denoiser: Denoiser | None = None) -> Any:
    model = denoiser or gaussian()
    compute = Device(torch.device("cpu"), chunk=chunk)
    batch = FullBatch(examples, AS_IT_IS, compute=compute, task=denoising_task(model), draws=draws)
    return batch.forward(model).losses


# ----- x_t and the target


def test_a_noised_image_has_the_mean_and_the_variance_of_its_timestep() -> None:
    schedule, n = linear_schedule(), 100_000
    epsilon = torch.randn(n, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    for t in (0, 400, 999):
        found = noised(schedule, torch.full((n, 1, 1, 1), 0.5), epsilon, torch.full((n,), t))
        bar = float(schedule.alphas_bar[t])
        assert float(found.mean()) == pytest.approx(0.5 * bar**0.5, abs=5 * ((1 - bar) / n) ** 0.5)
        assert float(found.var()) == pytest.approx(1 - bar, rel=0.03)


@pytest.mark.parametrize("schedule", schedules(), ids=lambda schedule: schedule.prediction)
def test_a_target_gives_the_image_back(schedule: Schedule) -> None:
    generator = torch.Generator().manual_seed(1)
    x, epsilon = (torch.randn(6, *SHAPE, generator=generator, dtype=torch.float64) for _ in range(2))
    t = torch.tensor([0, 1, 250, 500, 750, 999])
    wanted, mixed = target(schedule, x, epsilon, t), noised(schedule, x, epsilon, t)
    bar = schedule.alphas_bar[t].view(-1, 1, 1, 1)
    back = {
        "epsilon": (mixed - (1 - bar).sqrt() * wanted) / bar.sqrt(),
        "v_prediction": bar.sqrt() * mixed - (1 - bar).sqrt() * wanted,
        "sample": wanted,
    }[schedule.prediction]
    torch.testing.assert_close(back, x, rtol=1e-8, atol=1e-8)


def test_mixtures_and_velocities_are_those_of_a_scheduler_of_diffusers() -> None:
    diffusers = pytest.importorskip("diffusers", reason="pip install 'unlearn-audit[diffusion]'")
    theirs = diffusers.DDPMScheduler(num_train_timesteps=T, beta_start=1e-4, beta_end=0.02, beta_schedule="linear")
    x, epsilon = (torch.randn(5, *SHAPE, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    t = torch.tensor([0, 3, 400, 800, 999])
    ours = Schedule(linear_schedule().alphas_bar, "v_prediction")
    torch.testing.assert_close(noised(ours, x, epsilon, t), theirs.add_noise(x, epsilon, t), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(target(ours, x, epsilon, t), theirs.get_velocity(x, epsilon, t), rtol=1e-4, atol=1e-5)


# ----- whose draws are whose


def test_the_grid_has_the_midpoints_of_equal_parts() -> None:
    assert midpoints(T, 1).tolist() == [500]
    assert midpoints(T, 8).tolist() == [62, 187, 312, 437, 562, 687, 812, 937]
    found = draw(torch.tensor([5, 2]), SHAPE, Draws(0, count=4), timesteps=T)
    assert found.t.tolist() == [125, 375, 625, 875] * 2


@pytest.mark.parametrize("grid", [True, False], ids=["grid", "fresh"])
def test_a_draw_does_not_depend_on_which_others_are_drawn(grid: bool) -> None:
    draws = Draws(3, ("relearn", 7), count=3, grid=grid, drop=0.5)
    whole = draw(torch.arange(20), SHAPE, draws, timesteps=T)
    some = draw(torch.tensor([11, 4]), SHAPE, draws, timesteps=T)
    rows = torch.tensor([33, 34, 35, 12, 13, 14])
    for one, other in zip(some, whole, strict=True):
        assert torch.equal(one, other[rows])


def test_another_seed_purpose_example_or_draw_has_other_noise() -> None:
    draws = [Draws(0, ("relearn", 1)), Draws(1, ("relearn", 1)), Draws(0, ("relearn", 2)), Draws(0)]
    found = torch.cat([draw(torch.arange(3), SHAPE, each, timesteps=T).epsilon for each in draws])
    assert len({row.numpy().tobytes() for row in found}) == 4 * 3 * 8


def test_fresh_timesteps_have_one_in_each_part_and_are_no_grid() -> None:
    found = draw(torch.arange(500), SHAPE, Draws(0, ("train", 0), count=4, grid=False), timesteps=T)
    parts = found.t.view(500, 4) // 250
    assert torch.equal(parts, torch.arange(4).expand(500, 4))
    assert len(found.t.unique()) > 500
    assert 0 <= int(found.t.min()) < 5
    assert 994 < int(found.t.max()) <= 999


def test_antithetic_timesteps_mirror_the_first_half() -> None:
    plain, mirrored = (
        draw(torch.arange(7), SHAPE, Draws(0, count=1, grid=False, antithetic=on), timesteps=T).t
        for on in (False, True)
    )
    assert torch.equal(mirrored[:4], plain[:4])
    assert (mirrored[4:] + mirrored[:3]).tolist() == [999] * 3


def test_labels_are_dropped_with_the_probability_asked_for_and_where_there_is_a_null() -> None:
    dropped = draw(torch.arange(2000), (1, 1, 1), Draws(0, count=1, drop=0.1), timesteps=T).dropped
    assert float(dropped.float().mean()) == pytest.approx(0.1, abs=0.02)
    examples, draws = images(40), Draws(0, count=1, drop=1.0)
    given = torch.arange(40), draws
    for null, labels in ((2, [2] * 40), (None, [0, 1] * 20)):
        task = denoising_task(Denoiser(Gaussian(), linear_schedule(), null=null))
        assert task.rows is not None
        assert task.rows(examples.images, examples.labels, *given).inputs.condition.tolist() == labels


def test_a_dropped_row_of_a_generator_of_texts_has_the_embedding_of_no_text() -> None:
    examples, nothing = images(40), torch.full((1, 3, 2), -1.0)
    task = denoising_task(
        Denoiser(Gaussian(), linear_schedule(), conditioning="text"),
        condition=lambda labels: labels.float()[:, None, None].expand(-1, 3, 2),
        unconditioned=lambda: nothing,
    )
    assert task.rows is not None
    numbers, draws = torch.arange(40), Draws(0, count=2, grid=False, drop=0.3)
    asked = task.rows(examples.images, examples.labels, numbers, draws).inputs.condition
    dropped = draw(numbers, (1, 1, 1), draws, timesteps=T).dropped
    assert 0 < int(dropped.sum()) < 80
    assert torch.equal(asked[dropped], nothing.expand(int(dropped.sum()), -1, -1))
    own = examples.labels.repeat_interleave(2)[~dropped].float()
    assert torch.equal(asked[~dropped], own[:, None, None].expand(-1, 3, 2))


# ----- the loss


@pytest.mark.parametrize("t", [62, 437, 937])
def test_the_best_denoiser_of_gaussian_images_has_the_loss_of_the_closed_form(t: int) -> None:
    n, schedule = 3000, linear_schedule()
    x, epsilon = images(n).images, torch.randn(n, *SHAPE, generator=torch.Generator().manual_seed(1))
    steps = torch.full((n,), t)
    with torch.no_grad():
        found = losses(Gaussian()(noised(schedule, x, epsilon, steps), steps, steps), epsilon)
    bar = float(schedule.alphas_bar[t])
    best = bar * SIGMA**2 / (bar * SIGMA**2 + 1 - bar)
    assert float(found.mean()) == pytest.approx(best, abs=5 * float(found.std()) / n**0.5)
    assert float(found.std()) > 0


def test_predicting_nothing_costs_one() -> None:
    found = measured(images(400), Draws(0), denoiser=gaussian(scale=0.0))
    assert found.mean() == pytest.approx(1.0, abs=0.02)


def test_a_loss_is_the_mean_over_the_elements_in_float32_at_least() -> None:
    prediction = torch.tensor([[[1.0, 2.0]], [[0.0, 0.0]]], dtype=torch.bfloat16)
    found = losses(prediction, torch.zeros(2, 1, 2))
    assert found.tolist() == [2.5, 0.0]
    assert found.dtype == torch.float32


# ----- rows of a full batch


def test_the_loss_of_an_example_is_the_mean_of_its_rows() -> None:
    examples, draws = images(5), Draws(2, ("pair",), count=4)
    found = measured(examples, draws)
    noise = draw(torch.arange(5), SHAPE, draws, timesteps=T)
    x = examples.images.repeat_interleave(4, dim=0)
    with torch.no_grad():
        each = losses(Gaussian()(noised(linear_schedule(), x, noise.epsilon, noise.t), noise.t, noise.t), noise.epsilon)
    np.testing.assert_allclose(found, each.double().view(5, 4).mean(1).numpy(), rtol=1e-6)


def test_an_example_has_one_loss_whatever_the_chunk_the_order_and_the_company() -> None:
    everything = images(30)
    whole = measured(everything, Draws(0))
    for chunk in (1, 9, 50):
        np.testing.assert_allclose(measured(everything, Draws(0), chunk=chunk), whole, rtol=1e-6)
    np.testing.assert_allclose(measured(everything.subset(np.array([29, 3])), Draws(0)), whole[[29, 3]], rtol=1e-6)


def test_a_set_that_is_brought_in_chunks_has_the_losses_of_one_that_stays() -> None:
    examples, model = images(11), gaussian(0.9)
    found = []
    for resident in (True, False):
        batch = FullBatch(
            examples,
            AS_IT_IS,
            compute=Device(torch.device("cpu"), chunk=20),
            task=denoising_task(model),
            resident=resident,
            draws=Draws(0, count=8),
        )
        found.append((batch.forward_backward(model).losses, float(model.scale.grad), len(batch.parts)))
    assert found[0][0].tolist() == found[1][0].tolist()
    assert found[0][1:] == found[1][1:]
    assert found[0][2] == 6  # two examples of eight rows at most are at hand at once


def test_the_gradient_is_that_of_the_mean_over_examples() -> None:
    model, draws = gaussian(0.5), Draws(0, count=3)
    batch = FullBatch(images(7), AS_IT_IS, compute=CPU, task=denoising_task(model), draws=draws)
    batch.forward_backward(model)
    slope, step = float(model.scale.grad), 1e-2
    up, down = (measured(images(7), draws, denoiser=gaussian(0.5 + sign * step)).mean() for sign in (1, -1))
    assert slope == pytest.approx((up - down) / (2 * step), rel=1e-3)


def test_a_task_without_an_error_has_none() -> None:
    model = gaussian()
    batch = FullBatch(images(3), AS_IT_IS, compute=CPU, task=denoising_task(model))
    assert batch.forward(model).errors.shape == (0,)


def test_noise_is_measured_in_float32_whatever_the_precision() -> None:
    seen = []

    class Watched(Gaussian):
        def forward(self, x: Tensor, t: Tensor, class_labels: Tensor) -> Tensor:
            seen.append((torch.is_autocast_enabled("cpu"), torch.backends.cuda.matmul.allow_tf32))
            return super().forward(x, t, class_labels)

    model = Denoiser(Watched(), linear_schedule())
    task = denoising_task(model)
    for precision in ("bf16", "tf32"):
        FullBatch(images(2), AS_IT_IS, compute=setup_device("cpu", precision), task=task).forward(model)
    assert seen == [(False, False)] * 2
    assert torch.backends.cuda.matmul.allow_tf32
    setup_device("cpu")


def test_curvature_and_floor_on_fixed_draws_are_those_of_the_closed_form() -> None:
    """Of one number s, the loss mean (s·a - ε)² has the curvature 2·mean a² and its minimum where the slope is none."""
    examples, draws = images(9), Draws(1, ("pair",), count=4)
    model = gaussian(0.3)
    task = denoising_task(model)
    batch = FullBatch(examples, AS_IT_IS, compute=Device(torch.device("cpu"), chunk=8), task=task, draws=draws)
    noise = draw(torch.arange(9), SHAPE, draws, timesteps=T)
    x = noised(linear_schedule(), examples.images.repeat_interleave(4, dim=0), noise.epsilon, noise.t)
    with torch.no_grad():
        a = Gaussian()(x, noise.t, noise.t).double()
    epsilon = noise.epsilon.double()
    found = hessian_vector_product(model, batch, np.array([2.0]))
    assert found == pytest.approx([2 * 2 * float(a.square().mean())], rel=1e-4)
    best = float((a * epsilon).mean() / a.square().mean())
    floor = fit_floor(Run(model, examples, AS_IT_IS, task, draws=draws), compute=CPU)
    assert floor.converged
    assert floor.value == pytest.approx(float((best * a - epsilon).square().mean()), rel=1e-5)
    assert float(model.scale.detach()) == pytest.approx(0.3)


# ----- rows of a step


def batches(size: int, seed: int = 0, name: str = "retain") -> Batches:
    task, draws = denoising_task(gaussian()), Draws(0, count=2, grid=False)
    return Batches(images(10), AS_IT_IS, size, seed, name, CPU, task=task, draws=draws)


def test_an_example_has_the_draws_of_its_step_in_a_batch_of_any_size() -> None:
    whole, half = batches(10).rows_at(0), batches(5).rows_at(0)
    assert whole.owner is not None
    assert whole.owner.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9]
    for one, other in zip(half.inputs, whole.inputs, strict=True):
        assert torch.equal(one, other[:10])


def test_steps_and_streams_have_draws_of_their_own() -> None:
    targets = [
        batches(10, seed, name).rows_at(step).target for seed, name, step in ((0, "retain", 0), (0, "retain", 1),
                                                                              (0, "forget", 0), (1, "retain", 0))
    ]  # fmt: skip
    rows = {row.numpy().tobytes() for each in targets for row in each}
    assert len(rows) == 4 * 20
    assert torch.equal(batches(10).rows_at(1).target, targets[1])
