"""Masks and SalUn: which weights are chosen, and that the others do not move."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some
from small_problems import (
    HALF,
    changed,
    difference,
    make_context,
    make_net,
    parameters_of,
    same,
)
from torch import Tensor, nn
from torch.nn import functional

from unlearn_audit.data import Splits
from unlearn_audit.engine import Device, trainable
from unlearn_audit.methods import Course, UnlearningContext
from unlearn_audit.methods.ft import FtSettings, run_ft
from unlearn_audit.methods.random_labels import RlSettings, run_rl
from unlearn_audit.methods.salun import SalunSettings, run_salun
from unlearn_audit.methods.transforms.mask import MASK, MaskSettings, random_mask, saliency, top_share
from unlearn_audit.step_transforms import parse_extras

SHORT: dict[str, Any] = {"steps": 6, "batch_size": 16, "step_size": 0.05}


def seasoned(seed: int = 0) -> nn.Module:
    """A network whose BatchNorm statistics and scales are not those of a fresh one."""
    net = make_net(seed).train()
    with torch.no_grad():
        for _ in range(3):
            net(torch.randn(16, 1, 4, 4) * 2 + 1)
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return net


# ----- which weights


@given(
    some.lists(some.lists(some.integers(-3, 3), min_size=1, max_size=9), min_size=1, max_size=5),
    some.decimals(0, 1, places=3),
)
def test_the_largest_scores_are_chosen_over_all_tensors_and_of_equal_ones_the_first(rows: Any, density: Any) -> None:
    scores = [torch.tensor(row, dtype=torch.float32) for row in rows]
    flat = [score for row in rows for score in row]
    order = sorted(range(len(flat)), key=lambda place: (-flat[place], place))
    wanted = set(order[: int(Fraction(density) * len(flat))])
    found = torch.cat(top_share(scores, float(density)))
    assert set(found.nonzero().flatten().tolist()) == wanted


@pytest.mark.parametrize("density", ["0", "0.1", "0.29", "0.3", "0.5", "0.7", "0.999", "1"])
def test_the_share_is_exact_over_all_parameters_together(splits: Splits, density: str) -> None:
    model = seasoned()
    n = sum(parameter.numel() for parameter in model.parameters())
    wanted = int(Fraction(density) * n)
    masks = top_share(saliency(make_context(model, splits)), float(density))
    assert [mask.shape for mask in masks] == [parameter.shape for parameter in model.parameters()]
    assert sum(int(mask.sum()) for mask in masks) == wanted
    assert sum(int(mask.sum()) for mask in random_mask(model, float(density), 0)) == wanted
    constant = [torch.ones_like(parameter) for parameter in model.parameters()]
    assert torch.cat([mask.flatten() for mask in top_share(constant, float(density))]).tolist() == [True] * wanted + [
        False
    ] * (n - wanted)


@pytest.mark.parametrize("chunk", [1, 3, 1000])
def test_saliency_is_the_absolute_value_of_the_sum_over_batches_in_evaluation_mode(splits: Splits, chunk: int) -> None:
    model = seasoned()
    buffers = {name: each.clone() for name, each in model.named_buffers()}
    compute = Device(torch.device("cpu"), "fp32", chunk)
    found = saliency(replace(make_context(model, splits), compute=compute))
    examples, parameters = splits.forget_examples, list(model.parameters())
    signed = [torch.zeros_like(parameter) for parameter in parameters]
    unsigned = [torch.zeros_like(parameter) for parameter in parameters]
    model.eval()
    for rows in (slice(0, 4), slice(4, 8), slice(8, 10)):
        logits = model(HALF(examples.images[rows]))
        ascended = -functional.cross_entropy(logits, examples.labels[rows], reduction="sum") / 10
        for total, plain, slope in zip(signed, unsigned, torch.autograd.grad(ascended, parameters), strict=True):
            total += slope
            plain += slope.abs()
    for score, total, plain in zip(found, signed, unsigned, strict=True):
        torch.testing.assert_close(score, total.abs(), rtol=1e-3, atol=1e-6)
        assert (score < 0.9 * plain).any()
    assert all(torch.equal(each, buffers[name]) for name, each in model.named_buffers())
    assert all(parameter.grad is None for parameter in parameters)


def test_a_part_without_gradient_has_no_saliency(splits: Splits) -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(16, 4), nn.Linear(3, 3)

        def forward(self, images: Tensor) -> Tensor:
            return self.used(images.flatten(1))  # type: ignore[no-any-return]

    found = saliency(make_context(Idle(), splits))
    assert [score.abs().sum().item() > 0 for score in found] == [True, True, False, False]


# ----- what moves


def run_masked(splits: Splits, **settings: Any) -> tuple[nn.Module, dict[str, Tensor], dict[str, Tensor]]:
    """Run SalUn; return the model, its weights before, and which of them the mask lets move."""
    model = seasoned()
    before = parameters_of(model)
    values = SHORT | {"density": 0.5} | settings
    masks = top_share(saliency(make_context(seasoned(), splits)), values["density"])
    run_salun(make_context(model, splits), SalunSettings(**values))
    return model, before, dict(zip(trainable(model), masks, strict=True))


OPTIMIZERS: list[dict[str, Any]] = [
    {"momentum": 0.9, "weight_decay": 0.01},
    {"optimizer": "adam", "weight_decay": 0.01, "step_size": 1e-3},
    {"optimizer": "adam", "weight_decay": 0.0, "step_size": 1e-3},
    {"momentum": 0.0, "weight_decay": 0.0},
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("density", [0.1, 0.5])
def test_masked_weights_stay_bit_for_bit_and_the_others_move(
    splits: Splits, optimizer: dict[str, Any], density: float
) -> None:
    model, before, masks = run_masked(splits, density=density, **optimizer)
    moved = changed(before, model)
    for name, mask in masks.items():
        assert not (moved[name] & ~mask).any(), name
    free = torch.cat([moved[name][mask] for name, mask in masks.items()])
    assert free.float().mean().item() > 0.95
    kinds = {name.split(".")[0][:2] for name, mask in masks.items() if mask.any()}
    assert {"co", "bn", "fc"} <= kinds or density < 0.5  # BatchNorm and biases are ranked with the rest


@pytest.mark.parametrize("optimizer", OPTIMIZERS[:2])
def test_without_strict_weight_decay_moves_masked_weights_as_the_first_code_did(
    splits: Splits, optimizer: dict[str, Any]
) -> None:
    model, before, masks = run_masked(splits, strict=False, **optimizer)
    moved = changed(before, model)
    masked = torch.cat([moved[name][~mask] for name, mask in masks.items()])
    assert masked.float().mean().item() > 0.9


@pytest.mark.parametrize("optimizer", OPTIMIZERS[2:])
def test_without_strict_and_decay_nothing_moves_masked_weights(splits: Splits, optimizer: dict[str, Any]) -> None:
    loose, before, masks = run_masked(splits, strict=False, **optimizer)
    moved = changed(before, loose)
    assert not any((moved[name] & ~mask).any() for name, mask in masks.items())
    assert same(loose, run_masked(splits, strict=True, **optimizer)[0])


def test_free_weights_take_the_steps_that_rl_takes_with_masked_gradients(splits: Splits) -> None:
    """One step from the same weights: what moves, moves as it does without the mask."""
    masked, before, masks = run_masked(splits, steps=1, momentum=0.9, weight_decay=0.01)
    free = seasoned()
    run_rl(make_context(free, splits), RlSettings(**SHORT | {"steps": 1, "momentum": 0.9, "weight_decay": 0.01}))
    for (name, one), two in zip(masked.named_parameters(), free.parameters(), strict=True):
        assert torch.equal(one, torch.where(masks[name], two, before[name])), name


def test_all_weights_free_is_rl_and_none_free_moves_nothing(splits: Splits) -> None:
    settings = SHORT | {"momentum": 0.9, "weight_decay": 5e-4}
    rl = seasoned()
    done = run_rl(make_context(rl, splits), RlSettings(**settings))
    for strict in (True, False):
        salun = seasoned()
        masked = run_salun(make_context(salun, splits), SalunSettings(density=1, strict=strict, **settings))
        assert same(salun, rl)
        assert masked == replace(done, gradient_evaluations=done.gradient_evaluations + 10)
    model, before, _ = run_masked(splits, density=0, **settings)
    assert not any(moved.any() for moved in changed(before, model).values())
    assert difference(dict(model.named_buffers()), dict(seasoned().named_buffers())) > 0  # statistics go on


# ----- as a part


def test_salun_is_rl_with_a_mask(splits: Splits) -> None:
    one, two = seasoned(), seasoned()
    settings = SHORT | {"momentum": 0.9, "weight_decay": 0.01}
    done = run_salun(make_context(one, splits), SalunSettings(density=0.3, **settings))
    extras = parse_extras(["mask:saliency,density=0.3"])
    assert run_rl(make_context(two, splits, extras=extras), RlSettings(**settings)) == done
    assert same(one, two)


@pytest.mark.parametrize("order", [["reinit:alpha=0.5,scale=none"], ["l1:alpha=0.1", "reinit:alpha=0.5,scale=none"]])
def test_a_mask_holds_against_the_optimiser_alone_and_mixing_reaches_every_weight(
    splits: Splits, order: list[str]
) -> None:
    model, extras = seasoned(), parse_extras(order)
    before = parameters_of(model)
    masks = dict(zip(before, top_share(saliency(make_context(seasoned(), splits)), 0.5), strict=True))
    settings = SalunSettings(**SHORT | {"steps": 4, "weight_decay": 0.1})
    run_salun(make_context(model, splits, extras=extras), settings)
    for name, parameter in model.named_parameters():
        factor = 0.5**4 if parameter.dim() >= 2 else 1.0
        assert torch.equal(parameter[~masks[name]], factor * before[name][~masks[name]]), name
        assert not torch.equal(parameter, factor * before[name]) or not masks[name].any(), name


def make_random(
    splits: Splits, make: Callable[[], nn.Module], seed: int, strict: str = "yes"
) -> tuple[Any, UnlearningContext]:
    extras = parse_extras([f"mask:random,density=0.25,strict={strict}"])
    context = make_context(make(), splits, seed, extras=extras)
    return run_ft(context, FtSettings(**SHORT)), context


def test_a_random_mask_is_drawn_from_the_seed_and_looks_at_no_data(splits: Splits) -> None:
    moved = []
    for seed in (0, 0, 1):
        before = parameters_of(seasoned())
        done, context = make_random(splits, seasoned, seed)
        assert done.gradient_evaluations == 90  # of the six steps, none to prepare
        moved.append(torch.cat([each.flatten() for each in changed(before, context.model).values()]))
        expected = torch.cat([mask.flatten() for mask in random_mask(seasoned(), 0.25, seed)])
        assert not (moved[-1] & ~expected).any()
        assert moved[-1].sum() > 0.95 * expected.sum()
    assert torch.equal(moved[0], moved[1])
    assert not torch.equal(moved[0], moved[2])
    salient = top_share(saliency(make_context(seasoned(), splits)), 0.25)
    assert not torch.equal(torch.cat([mask.flatten() for mask in salient]), expected)


def test_a_plan_takes_no_gradient_and_counts_them_all_the_same(splits: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unlearn_audit.methods.transforms.mask.saliency", lambda context: pytest.fail("taken"))
    context = make_context(make_net(), splits, count_only=True)
    hooks = MASK.make(context, MaskSettings(), Course(3, int))
    assert hooks.gradient_evaluations == len(splits.forget)
