"""ESD: its minimum in closed form, its three public strengths, what it looks at."""

from typing import Any

import pytest
import torch
from small_generators import CLASSES, Scalars, generator_context, generator_splits, make_denoiser, unlearn_generator
from small_problems import parameters_of, same
from torch import Tensor

from unlearn_audit.errors import UsageError
from unlearn_audit.methods.esd import ESD, EsdSettings, States, aimed_at
from unlearn_audit.methods.generators import frozen

FAST: dict[str, Any] = {"sampling_steps": 5, "pool": 6}
SGD = {"optimizer": "sgd", "step_size": 0.4, "steps": 25, "schedule": "constant", "max_norm": "none"}


def scalars(**values: Any) -> tuple[Tensor, Tensor]:
    """The weights of classes before and after ESD on a linear model."""
    model = make_denoiser(Scalars())
    before = model.class_embedding.weight.detach().clone()
    settings = {**SGD, "batch_size": 8, **FAST, **values}
    unlearn_generator(ESD, model, values=settings)
    return before[:, 0], model.class_embedding.weight.detach()[:, 0]


@pytest.mark.parametrize(
    ("eta", "sample_with"), [(0.0, "frozen"), (1.0, "frozen"), (2.0, "frozen"), (0.0, "edited"), (1.0, "edited")]
)
def test_on_a_linear_model_the_minimum_is_what_is_aimed_at_and_no_other_condition_moves(
    eta: float, sample_with: str
) -> None:
    before, after = scalars(eta=eta, retain_weight=0.0, sample_with=sample_with)
    null, concept = before[CLASSES], before[3]
    assert after[3].item() == pytest.approx((null - eta * (concept - null)).item(), abs=1e-4)
    assert torch.equal(after[[0, 1, 2, 4]], before[[0, 1, 2, 4]])
    assert abs(after[3] - concept) > 0.05


def test_the_strengths_of_the_public_scripts_in_terms_of_eta() -> None:
    under, without = torch.randn(2, 3, 4)
    torch.testing.assert_close(aimed_at(under, without, 0.0), without)
    for n in (1.0, 2.0):
        first = without - n * (under - without)
        torch.testing.assert_close(aimed_at(under, without, n), first)  # train-esd.py, alt_esd_diffusers.py
        later = under - (n + 1) * (under - without)
        torch.testing.assert_close(aimed_at(under, without, n), later)  # esd_sd.py with n + 1


def test_without_a_retain_term_no_image_is_looked_at_and_with_one_those_of_retain_alone() -> None:
    seen: list[int] = []
    for weight in (0.0, 1.0):
        model = make_denoiser()
        done = unlearn_generator(ESD, model, values={"retain_weight": weight, "steps": 3, "batch_size": 8, **FAST})
        seen.append(done.gradient_evaluations)
    assert seen == [3 * 8, 3 * 16]


def test_what_a_step_looks_at_depends_on_seed_and_step_alone() -> None:
    model = make_denoiser()
    settings = EsdSettings(**FAST, retain_weight=0)

    def states(seed: int = 0) -> States:
        context = generator_context(model, seed=seed)
        return States(context, settings, frozen(context), 8)

    one, two, other = states(), states(), states(1)
    second = two.at(1)
    assert all(torch.equal(a, b) for a, b in zip(one.at(1), second, strict=True))
    assert not torch.equal(other.at(1).x, second.x)
    assert not torch.equal(one.at(2).x, second.x)
    assert {*second.condition.tolist()} == {3}
    steps = {jump.t for jump in one.jumps}
    drawn = torch.cat([one.at(step).t for step in range(40)])
    assert {*drawn.tolist()} == steps  # each of the sampler's steps comes
    counts = torch.tensor([(drawn == t).sum().item() for t in steps])
    assert (counts - 64).abs().max() < 5 * (320 * 0.2 * 0.8) ** 0.5


def test_states_of_the_pool_are_those_of_a_guided_sampler_of_the_original() -> None:
    model = make_denoiser(Scalars())
    context = generator_context(model)
    states = States(context, EsdSettings(**FAST, guidance=2.0), frozen(context), 4)
    weights = model.class_embedding.weight.detach()[:, 0].double()
    guided = weights[CLASSES] + 2 * (weights[3] - weights[CLASSES])
    x = states._pool[0].double()
    for place, jump in enumerate(states.jumps[:-1]):
        noise = guided * x
        image = ((x - (1 - jump.at) ** 0.5 * noise) / jump.at**0.5).clamp(-1, 1)
        x = jump.to**0.5 * image + (1 - jump.to) ** 0.5 * noise
        torch.testing.assert_close(states._pool[place + 1].double(), x, rtol=1e-4, atol=1e-5)


def test_several_forgotten_classes_take_turns() -> None:
    context = generator_context(make_denoiser(), generator_splits("class:1,3"))
    states = States(context, EsdSettings(**FAST), frozen(context), 64)
    assert {*states.at(0).condition.tolist()} == {1, 3}


@pytest.mark.parametrize("forget", ["random:0.1:0", "range:0-5"])
def test_a_part_of_a_class_is_no_concept(forget: str) -> None:
    for count_only in (False, True):
        with pytest.raises(UsageError, match="esd needs whole classes"):
            unlearn_generator(ESD, make_denoiser(), values=FAST, splits=generator_splits(forget), count_only=count_only)


def test_a_generator_without_a_null_condition_is_refused() -> None:
    with pytest.raises(UsageError, match="no null condition"):
        unlearn_generator(ESD, make_denoiser(null=None), values=FAST)
    with pytest.raises(UsageError, match="batch_size full"):
        unlearn_generator(ESD, make_denoiser(), values={"batch_size": "full"})


def test_a_run_that_is_counted_samples_nothing_and_leaves_the_model_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(States, "at", lambda *_: pytest.fail("sampled"))
    model = make_denoiser()
    before = parameters_of(model)
    done = unlearn_generator(ESD, model, values={"steps": 7}, count_only=True)
    assert (done.steps, done.gradient_evaluations) == (7, 7 * 32 + 3 * 45 + 32)  # 45 retain examples: 32, 13, 32, …
    assert same(before, parameters_of(model))
