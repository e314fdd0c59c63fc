"""SSD against its formula written by hand, and what it must leave alone."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from small_problems import HALF, Plain, make_context, make_net, make_small_splits, parameters_of, same, snapshot
from torch import Tensor, nn
from torch.nn import functional

from unlearn_audit.data import Examples, Splits
from unlearn_audit.methods import Unlearned
from unlearn_audit.methods.ssd import SsdSettings, _probabilities, importance, run_ssd


def by_hand(model: nn.Module, examples: Examples, parts: list[slice]) -> list[Tensor]:
    """Mean over batches of the squared gradient of the batch's mean loss, in evaluation mode."""
    model.eval()
    squares = []
    for part in parts:
        loss = functional.cross_entropy(model(HALF(examples.images[part])), examples.labels[part])
        squares.append([slope**2 for slope in torch.autograd.grad(loss, list(model.parameters()))])
    return [torch.stack(each).mean(0) for each in zip(*squares, strict=True)]


QUARTERS = [slice(0, 25), slice(25, 50), slice(50, 75), slice(75, 100)]


def seasoned() -> nn.Module:
    """A network whose BatchNorm statistics matter."""
    net = make_net().train()
    with torch.no_grad():
        for _ in range(3):
            net(torch.randn(16, 1, 4, 4) * 2 + 1)
    return net.train()


@pytest.mark.parametrize("alpha", [0.1, 1.0, 3.0])
@pytest.mark.parametrize("dampening", [0.5, 1.0, 4.0])
def test_weights_are_dampened_by_the_formula(splits: Splits, alpha: float, dampening: float) -> None:
    model = Plain()
    on_all = by_hand(model, splits.dataset.train, QUARTERS)
    on_forget = by_hand(model, splits.forget_examples, [slice(0, 10)])
    before = parameters_of(model)
    done = run_ssd(make_context(model, splits), SsdSettings(alpha=alpha, dampening=dampening, batch_size=30))
    chosen = 0
    for (name, found), whole, forget in zip(model.named_parameters(), on_all, on_forget, strict=True):
        selected = forget > alpha * whole
        expected = torch.where(selected, before[name] * (dampening * whole / forget).clamp(max=1), before[name])
        torch.testing.assert_close(found.detach(), expected, rtol=1e-9, atol=0)
        assert torch.equal(found[~selected], before[name][~selected])
        assert (found.detach().abs() <= before[name].abs()).all()
        chosen += int(selected.sum())
    assert 0 < chosen < sum(each.numel() for each in before.values())
    assert done == Unlearned(0, 110)


def test_importance_is_taken_in_evaluation_mode_and_buffers_stay(splits: Splits) -> None:
    model = seasoned()
    found = importance(make_context(model, splits), splits.dataset.train, 30, "testing")
    for one, two in zip(found, by_hand(seasoned(), splits.dataset.train, QUARTERS), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-9)
    before = snapshot(model)
    run_ssd(make_context(model, splits), SsdSettings(alpha=0.5, batch_size=30))
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, before[name]), name
    assert not same(model, before)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_no_weight_grows_and_unselected_ones_stay_bit_for_bit(splits: Splits) -> None:
    model = seasoned()
    before = parameters_of(model)
    context = make_context(model, splits)
    whole, forget = (importance(context, each, 16, "") for each in (splits.dataset.train, splits.forget_examples))
    run_ssd(context, SsdSettings(alpha=2.0, dampening=3.0, batch_size=16))
    for (name, found), on_all, on_forget in zip(model.named_parameters(), whole, forget, strict=True):
        assert (found.abs() <= before[name].abs()).all(), name
        stays = on_forget <= 2.0 * on_all
        assert torch.equal(found[stays], before[name][stays]), name


def test_importance_depends_on_the_batch_size_as_the_square_of_a_mean_does(splits: Splits) -> None:
    model, train = Plain(), splits.dataset.train
    context = make_context(model, splits)
    small, large, whole = (importance(context, train, size, "") for size in (1, 25, 100))
    sums = [sum(each.sum().item() for each in found) for found in (small, large, whole)]
    assert sums[0] > 2 * sums[1] > 2 * sums[2]
    loss = functional.cross_entropy(model(HALF(train.images)), train.labels)
    for found, slope in zip(whole, torch.autograd.grad(loss, list(model.parameters())), strict=True):
        torch.testing.assert_close(found, slope**2)


class Idle(nn.Module):
    """A layer that is used, inputs that are always zero, and a layer that is not used."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.used, self.idle = nn.Linear(20, 4), nn.Linear(3, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.used(functional.pad(images.flatten(1), (0, 4)))  # type: ignore[no-any-return]


def test_weights_without_gradient_stay(splits: Splits) -> None:
    model = Idle()
    before = parameters_of(model)
    run_ssd(make_context(model, splits), SsdSettings(alpha=1e-6, dampening=1e-6))
    after = parameters_of(model)
    assert all(torch.isfinite(each).all() for each in after.values())
    for name in ("idle.weight", "idle.bias"):
        assert torch.equal(after[name], before[name])
    assert torch.equal(after["used.weight"][:, 16:], before["used.weight"][:, 16:])
    assert not torch.equal(after["used.weight"][:, :16], before["used.weight"][:, :16])


def test_one_example_is_a_forget_set(noise: Any) -> None:
    splits, model = make_small_splits(noise, forget="range:7-7"), Plain()
    before = parameters_of(model)
    expected = by_hand(Plain(), splits.forget_examples, [slice(0, 1)])
    found = importance(make_context(model, splits), splits.forget_examples, 128, "")
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two)
    assert run_ssd(make_context(model, splits), SsdSettings()).gradient_evaluations == 101
    moved = sum(int((each != before[name]).sum()) for name, each in parameters_of(model).items())
    assert 0 < moved < sum(each.numel() for each in before.values())


def test_where_all_is_to_be_forgotten_nothing_matters_more_to_it_and_nothing_changes(splits: Splits) -> None:
    model = Plain()
    before = snapshot(model)
    context = make_context(model, replace(splits, forget=replace(splits.forget, indices=np.arange(100))))
    assert run_ssd(context, SsdSettings(alpha=1)) == Unlearned(0, 200)  # I_f = I_D, which is not above
    assert same(model, before)
    run_ssd(context, SsdSettings(alpha=0.99, dampening=0.5))
    assert not same(model, before)


def test_expected_labels_are_weighed_in_float32_where_the_logits_are_bfloat16() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0]], dtype=torch.bfloat16)
    torch.testing.assert_close(_probabilities(logits), logits.float().softmax(dim=1), rtol=0, atol=0)
    assert _probabilities(logits.double()).dtype == torch.float64
