"""SFRon: its adaptive ascent, the mask, the clip, and in which steps they are."""

import math
from typing import Any

import pytest
import torch
from small_problems import Plain, batches_of, cross_entropy, make_context, make_net, parameters_of, same, slopes
from torch.nn import functional

from unlearn_audit.data import Splits
from unlearn_audit.errors import UsageError
from unlearn_audit.methods.ft import FtSettings, run_ft
from unlearn_audit.methods.sfron import SfronSettings, adaptive, alternating, matters_more, run_sfron
from unlearn_audit.methods.ssd import importance
from unlearn_audit.step_transforms import parse_extras

LOOP: dict[str, Any] = {"momentum": 0.0, "weight_decay": 0.0, "schedule": "constant", "batch_size": 16}


def test_small_losses_count_more_and_weights_have_mean_one() -> None:
    losses = torch.tensor([0.25, 1.0, 4.0], dtype=torch.float64, requires_grad=True)
    raw = torch.tensor([2.0, 1.0, 0.5], dtype=torch.float64)
    weights = raw / raw.mean()
    loss = adaptive(losses, 0.5)
    torch.testing.assert_close(loss, (weights * losses).mean())
    (slope,) = torch.autograd.grad(loss, losses)
    torch.testing.assert_close(slope, weights / 3)  # none through the weights
    torch.testing.assert_close(adaptive(losses, 0.0), losses.mean())
    assert torch.isfinite(adaptive(torch.zeros(3, dtype=torch.float64), 0.5))


def test_a_loss_of_exactly_zero_leaves_the_others_their_ascent() -> None:
    losses = torch.tensor([0.0, 1.0, 4.0], requires_grad=True)
    raw = torch.tensor([2**11.5, 1.0, 0.5])  # 2^-23 is the least loss that is told from 0
    (slope,) = torch.autograd.grad(adaptive(losses, 0.5), losses)
    torch.testing.assert_close(slope, raw / raw.mean() / 3)


def test_steps_are_those_of_the_formulas(splits: Splits) -> None:
    """Two iterations from one forget step to the next: f r r f r r f."""
    model, eta, alpha, clip = Plain(), 0.1, 3.0, 0.02
    context = make_context(model, splits, seed=2)
    settings = SfronSettings(step_size=eta, every=2, alpha=alpha, clip_norm=clip, steps=7, **LOOP)
    on_forget, on_retain = (
        importance(context, each, 16, "") for each in (splits.forget_examples, splits.retain_examples)
    )
    masks = [one >= other for one, other in zip(on_forget, on_retain, strict=True)]
    theta = parameters_of(model)
    forget, retain = batches_of(splits, "forget", 2), batches_of(splits, "retain", 2)
    clipped = 0
    for step, (batch, iteration) in enumerate([(0, 0), (0, 0), (1, 1), (1, 2), (2, 2), (3, 3), (2, 4)]):
        if step % 3:
            found = slopes(lambda weights, batch=batch: cross_entropy(model, weights, retain.at(batch)), theta)
        else:
            images, labels = forget.at(batch)

            def ascended(weights: Any, images: Any = images, labels: Any = labels) -> torch.Tensor:
                logits = torch.func.functional_call(model, weights, (images,))
                return adaptive(functional.cross_entropy(logits, labels, reduction="none"), 0.5)

            factor = alpha * (1 + math.cos(math.pi * iteration / 4)) / 2
            found = {name: -factor * each * mask for (name, each), mask in zip(slopes(ascended, theta).items(), masks, strict=True)}  # fmt: skip # noqa: E501
            norm = math.sqrt(sum(each.square().sum().item() for each in found.values()))
            clipped += norm > clip
            found = {name: each * min(1.0, clip / (norm + 1e-6)) for name, each in found.items()}
        theta = {name: theta[name] - eta * found[name] for name in theta}
    assert clipped > 0
    done = run_sfron(context, settings)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), theta[name], rtol=1e-9, atol=1e-12)
    assert done.gradient_evaluations == 3 * 10 + 4 * 16 + 100
    assert 0 < done.figures["sfron.share_moved"] < 1


def test_without_an_ascent_it_is_fine_tuning_and_looks_at_no_forget_example(splits: Splits) -> None:
    one, other = make_net(), make_net()  # with BatchNorm, which a pass of weight zero would move
    settings = SfronSettings(step_size=0.05, alpha=0.0, every=3, steps=8, **LOOP)
    done = run_sfron(make_context(one, splits), settings)
    assert done == run_ft(make_context(other, splits), FtSettings(step_size=0.05, steps=8, **LOOP))
    assert same(one, other)
    assert settings.without_effect() == ("every", "adapt", "threshold", "clip_norm")
    assert SfronSettings().without_effect() == ()


@pytest.mark.parametrize(("threshold", "share"), [(0.0, 1.0), (1e30, 0.0)])
def test_the_threshold_decides_which_weights_a_forget_gradient_moves(
    splits: Splits, threshold: float, share: float
) -> None:
    masks = matters_more(make_context(Plain(), splits), SfronSettings(threshold=threshold, batch_size="full"))
    assert sum(int(mask.sum()) for mask in masks) == share * sum(mask.numel() for mask in masks)


def test_an_epoch_is_a_pass_over_the_retain_set_and_the_published_budget_is_1500_iterations(splits: Splits) -> None:
    objective = alternating(make_context(Plain(), splits), SfronSettings(batch_size=16, every=4))
    assert objective.length(1) == 6 + 2
    assert [objective.epoch_of(step) for step in (0, 6, 7, 8)] == [0, 0, 0, 1]
    whole = alternating(make_context(Plain(), splits), SfronSettings())
    assert whole.gradients(1800) == SfronSettings().steps // 6 * 10 + 1500 // 2 * 90  # type: ignore[operator]


def test_transforms_for_two_sides_are_refused_before_the_importance_is_taken(
    splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unlearn_audit.methods.sfron.matters_more", None)
    with pytest.raises(UsageError, match="but SFRon takes batches of the forget and of the retain set in turn"):
        run_sfron(make_context(Plain(), splits, extras=parse_extras(["nash"])), SfronSettings())
