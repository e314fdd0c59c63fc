"""Samples: the same whatever else is drawn with them, and of the distribution that an exact denoiser has."""

from typing import Any

import pytest
import torch
from analytic_generators import AnalyticPipeline, GaussianDenoiser
from torch import Tensor

from unlearn_audit.engine import Device
from unlearn_audit.errors import MeasurementError, UsageError
from unlearn_audit.generation.sampling import Sampling, Wanted, images, sample, stored, usual_sampling

COMPUTE = Device(torch.device("cpu"))
MEANS = (-0.5, 0.0, 0.5)


def pipeline(**more: Any) -> AnalyticPipeline:
    return AnalyticPipeline(GaussianDenoiser(means=MEANS), **more)


def drawn(conditions: list[int], numbers: list[int], *, chunk: int = 128, **more: Any) -> Tensor:
    settings = {"seed": 0, "steps": 5} | more
    return sample(pipeline(), conditions, numbers, compute=Device(torch.device("cpu"), chunk=chunk), **settings)


# ----- each image has noise of its own


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_an_image_is_the_same_alone_in_a_batch_and_after_others(sampler: str, guidance: float) -> None:
    how = {"sampler": sampler, "guidance": guidance}
    conditions, numbers = [2, 0, 2, 1, 2], [0, 0, 1, 7, 2]
    together = drawn(conditions, numbers, **how)
    for chunk in (1, 2, 3):
        assert torch.equal(drawn(conditions, numbers, chunk=chunk, **how), together)
    for row, (condition, number) in enumerate(zip(conditions, numbers, strict=True)):
        assert torch.equal(drawn([condition], [number], **how)[0], together[row])
    assert torch.equal(drawn(conditions[::-1], numbers[::-1], **how).flip(0), together)


def test_images_differ_by_number_condition_and_seed() -> None:
    both = drawn([1, 1], [0, 1])
    assert not torch.equal(both[0], both[1])
    assert not torch.equal(drawn([1], [0], seed=1), both[:1])
    same_mean = AnalyticPipeline(GaussianDenoiser(means=(0.0, 0.0)))
    one, other = sample(same_mean, [0, 1], [0, 0], seed=0, steps=5, compute=COMPUTE)
    assert not torch.equal(one, other)


def test_an_image_with_a_seed_of_its_own_begins_with_that_seeds_first_draw() -> None:
    wanted = [Wanted(1, 5, seed=1234), Wanted(1, 6, seed=1234), Wanted(1, 5)]
    found = dict(images(pipeline(), wanted, Sampling(steps=1), seed=0, compute=COMPUTE))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    start = torch.randn((1, 4, 4), generator=torch.Generator().manual_seed(1234))
    x = start.double()  # one step of "leading" spacing: at t = 0, so that the predicted image is the sample
    at = 1 - 1e-4
    noise = x * (1 - at) ** 0.5 / (at * 0.09 + 1 - at)
    assert torch.equal(found[0], stored((x - (1 - at) ** 0.5 * noise) / at**0.5))


# ----- the distribution


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_exact_denoisers_of_each_kind_give_the_same_gaussian(prediction: str) -> None:
    made = AnalyticPipeline(GaussianDenoiser(means=MEANS, prediction=prediction))
    found = sample(made, [2] * 400, range(400), seed=0, steps=50, compute=COMPUTE).double() / 127.5 - 1
    assert float(found.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(found.std()) == pytest.approx(0.27, abs=0.01)  # σ = .3 less what 50 steps lose and 1 clips


def test_ddpm_gives_the_gaussian_too() -> None:
    found = sample(pipeline(), [1] * 400, range(400), seed=0, sampler="ddpm", steps=200, compute=COMPUTE)
    assert float((found.double() / 127.5 - 1).std()) == pytest.approx(0.3, abs=0.015)


def test_guidance_of_one_is_none_and_looks_at_nothing_else() -> None:
    made = pipeline()
    alone = sample(made, [2, 0], [0, 1], seed=0, steps=5, compute=COMPUTE)
    assert made.denoiser.seen == [2] * 5
    made.denoiser.null = None
    assert torch.equal(sample(made, [2, 0], [0, 1], seed=0, steps=5, guidance=1.0, compute=COMPUTE), alone)


def test_guidance_goes_beyond_the_condition_by_its_formula() -> None:
    """With equal σ everything is linear in the mean: g times the class's mean takes the place of the mean."""
    guided = sample(pipeline(), [2] * 50, range(50), seed=0, steps=25, guidance=1.5, compute=COMPUTE)
    further = AnalyticPipeline(GaussianDenoiser(means=(0.0, 0.0, 0.75)))
    assert (guided.int() - sample(further, [2] * 50, range(50), seed=0, steps=25, compute=COMPUTE)).abs().max() <= 1


def test_guidance_takes_half_as_many_images_in_a_pass() -> None:
    made = pipeline()
    sample(made, [0] * 4, range(4), seed=0, steps=1, guidance=2.0, compute=Device(torch.device("cpu"), chunk=4))
    assert made.denoiser.seen == [4, 4]


def test_how_far_it_is_is_told_at_every_step_of_a_batch() -> None:
    told: list[tuple[int, int, str]] = []
    three = {"seed": 0, "steps": 5, "compute": Device(torch.device("cpu"), chunk=2)}
    sample(pipeline(), [0] * 3, range(3), progress=lambda task, *rest: told.append(rest), **three)
    assert [done for done, _, _ in told] == [2, 4, 6, 8, 10, 11, 12, 13, 14, 15]
    assert {total for _, total, _ in told} == {15}
    assert [told[place][2] for place in (0, 4, 9)] == ["0 of 3 images", "2 of 3 images", "3 of 3 images"]


# ----- sizes, guidance of their own, schedulers of the folder


def test_images_may_have_guidance_and_size_of_their_own() -> None:
    wanted = [Wanted(2, 0), Wanted(2, 1, guidance=2.0), Wanted(2, 2, size=(6, 8)), Wanted(2, 3)]
    found = dict(images(pipeline(), wanted, Sampling(steps=3), seed=0, compute=COMPUTE))
    assert [tuple(found[index].shape) for index in range(4)] == [(1, 4, 4), (1, 4, 4), (1, 6, 8), (1, 4, 4)]
    assert torch.equal(found[3], drawn([2], [3], steps=3)[0])
    assert torch.equal(found[1], drawn([2], [1], steps=3, guidance=2.0)[0])


@pytest.mark.parametrize("name", ["DDPMScheduler", "PNDMScheduler", "EulerDiscreteScheduler", "DDIMScheduler"])
def test_the_folders_scheduler_draws_from_each_images_generator(name: str) -> None:
    diffusers = pytest.importorskip("diffusers", reason="pip install 'unlearn-audit[diffusion]'")
    made = pipeline(config={"clip_sample": False})
    made.made = lambda: getattr(diffusers, name)(num_train_timesteps=1000)
    how = {"seed": 0, "sampler": "folder", "steps": 8, "compute": COMPUTE}
    together = sample(made, [0, 1, 2], [0, 1, 2], **how)
    for row in range(3):
        assert torch.equal(sample(made, [row], [row], **how)[0], together[row])
    if name == "DDIMScheduler":
        made.scheduler_config = {"clip_sample": True}
        ours = sample(made, [0, 1, 2], [0, 1, 2], **(how | {"sampler": "ddim"}))
        assert (ours.int() - together.int()).abs().max() <= 1


def test_the_usual_sampling_of_classes_and_of_prompts() -> None:
    assert usual_sampling("class") == Sampling("ddim", 25, 1.0)
    assert usual_sampling("text") == Sampling("folder", 50, 7.5)
    assert usual_sampling("text", sampler="ddim", steps=10, guidance=0.0) == Sampling("ddim", 10, 0.0)


# ----- refusals


def test_guidance_without_a_null_condition_is_refused_before_anything_is_drawn() -> None:
    made = pipeline()
    made.denoiser.null = None
    with pytest.raises(UsageError, match="no null condition"):
        sample(made, [0], [0], seed=0, steps=5, guidance=2.0, compute=COMPUTE)
    assert made.denoiser.seen == []


def test_what_any_image_cannot_be_is_refused_before_the_first_is_drawn() -> None:
    made = pipeline()

    def refuse(size: tuple[int, int] | None) -> tuple[int, int, int]:
        if size is not None:
            raise UsageError("no such size")
        return 1, 4, 4

    made.shape = refuse  # type: ignore[method-assign]
    with pytest.raises(UsageError, match="no such size"):
        list(images(made, [Wanted(0, 0), Wanted(0, 1, size=(5, 5))], Sampling(), seed=0, compute=COMPUTE))
    assert made.denoiser.seen == []


def test_samples_that_are_not_finite_are_an_error_and_no_picture() -> None:
    made = pipeline()
    made.denoiser.means = torch.full((4,), float("nan"))
    with pytest.raises(MeasurementError, match="diverged"):
        sample(made, [0], [0], seed=0, steps=5, compute=COMPUTE)


def test_an_unknown_sampler_is_refused() -> None:
    with pytest.raises(UsageError, match="ddim, ddpm, folder"):
        Sampling("dpm++", 20, 1.0)  # type: ignore[arg-type]


def test_no_images_are_asked_for() -> None:
    assert list(images(pipeline(), [], Sampling(), seed=0, compute=COMPUTE)) == []
