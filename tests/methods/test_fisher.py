"""Fisher forgetting: the information against its definition, the law of the noise, and what it must leave alone."""

from typing import Any

import pytest
import torch
from small_problems import HALF, Plain, make_context, make_net, make_small_splits, parameters_of, same, snapshot
from torch import Tensor, nn

from unlearn_audit.data import Examples, Splits
from unlearn_audit.methods import Unlearned
from unlearn_audit.methods.fisher import FisherSettings, head_of, run_fisher, variances
from unlearn_audit.methods.ssd import importance


def information(model: nn.Module, examples: Examples, size: int) -> list[Tensor]:
    """The squares written out: for each batch and label, weighed by the batch's mean probability."""
    parameters = list(model.eval().parameters())
    totals = [torch.zeros_like(each) for each in parameters]
    parts = torch.arange(len(examples)).split(size)
    for rows in parts:
        logs = model(HALF(examples.images[rows])).log_softmax(dim=1)
        for label in range(logs.shape[1]):
            slopes = torch.autograd.grad(-logs[:, label].mean(), parameters, retain_graph=True)
            for total, slope in zip(totals, slopes, strict=True):
                total += logs[:, label].exp().mean().detach() * slope**2
    return [total / len(parts) for total in totals]


@pytest.mark.parametrize("size", [1, 30])
def test_the_importance_is_that_of_the_labels_that_the_model_expects(splits: Splits, size: int) -> None:
    model = Plain()
    found = importance(make_context(model, splits), splits.retain_examples, size, "", expected=True)
    for one, two in zip(found, information(model, splits.retain_examples, size), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-12)


def test_with_batches_of_one_it_is_the_diagonal_of_the_fisher_information(splits: Splits) -> None:
    """Of the head's biases it is the mean of p (1 - p)."""
    model = Plain()
    found = importance(make_context(model, splits), splits.retain_examples, 1, "", expected=True)
    p = model(HALF(splits.retain_examples.images)).softmax(dim=1).detach()
    torch.testing.assert_close(found[-1], (p * (1 - p)).mean(dim=0), rtol=1e-6, atol=1e-12)


def test_variances_by_hand() -> None:
    conv = torch.tensor([[[1.0, 4.0]], [[0.0, 0.5]]])[:, :, None]  # [2, 1, 1, 2]: one input channel
    wide = torch.tensor([[1.0, 0.25, 0.0]])
    found = variances([conv, wide, wide, wide[0]], [False, False, True, False], alpha=0.1)
    assert [each.shape for each in found] == [conv.shape, wide.shape, wide.shape, wide[0].shape]
    torch.testing.assert_close(found[0], 0.1 * torch.tensor([[[1, 0.25]], [[1000, 2]]])[:, :, None])
    torch.testing.assert_close(found[1], torch.full((1, 3), 0.1 * (1 + 4 + 1000) / 3))
    torch.testing.assert_close(found[2], torch.full((1, 3), 10 * 0.1 * (1 + 4 + 100) / 3))
    torch.testing.assert_close(found[3], 10 * 0.1 * torch.tensor([1.0, 4.0, 1000.0]))


def test_the_noise_of_each_row_has_its_variance(splits: Splits) -> None:
    before = parameters_of(Plain())
    context = make_context(Plain(), splits)
    found = importance(context, splits.retain_examples, 32, "", expected=True)
    wanted = variances(found, [False, False, True, True], alpha=1e-4)
    draws: list[list[Tensor]] = []
    for seed in range(60):
        model = Plain()
        run_fisher(make_context(model, splits, seed), FisherSettings(alpha=1e-4))
        draws.append([each.detach() - before[name] for name, each in model.named_parameters()])
    for variance, *noise in zip(wanted, *draws, strict=True):
        drawn = torch.stack(noise).flatten(2) if variance.dim() > 1 else torch.stack(noise)[:, :, None]
        row = variance.reshape(len(variance), -1)[:, 0]
        n = drawn.shape[0] * drawn.shape[2]
        spread = drawn.transpose(0, 1).reshape(len(variance), -1).square().mean(dim=1)
        assert ((spread / row - 1).abs() < 4 * (2 / n) ** 0.5).all()
        assert (drawn.mean(dim=(0, 2)).abs() < 4 * (row / n).sqrt()).all()


def test_alpha_zero_is_the_identity_and_a_seed_gives_its_noise(splits: Splits) -> None:
    model = make_net()
    before = snapshot(model)
    done = run_fisher(make_context(model, splits), FisherSettings(alpha=0))
    assert same(model, before)
    assert done == Unlearned(0, 90 * 4)
    states = []
    for seed in (1, 1, 2):
        model = make_net()
        run_fisher(make_context(model, splits, seed), FisherSettings(alpha=1e-6))
        states.append(snapshot(model))
        for name, buffer in model.named_buffers():
            assert torch.equal(buffer, before[name]), name
    assert same(states[0], states[1])
    assert not same(states[0], states[2])


@pytest.mark.parametrize("asked", [True, False])
def test_the_rows_of_whole_classes_are_drawn_anew_around_zero(noise: Any, asked: bool) -> None:
    splits = make_small_splits(noise, forget="class:2")
    assert splits.forgotten_classes == (2,)
    model = Plain()
    before = parameters_of(model)
    run_fisher(make_context(model, splits), FisherSettings(alpha=1e-14, class_row=asked))
    moved = {name: (parameter.detach() - before[name]).abs() > 1e-4 for name, parameter in model.named_parameters()}
    assert not any(moved[name].any() for name in list(moved)[:2])
    for name in list(moved)[2:]:
        assert moved[name][2].all() == asked
        assert not moved[name][[0, 1, 3]].any()
    if asked:
        assert model.layers[3].weight[2].abs().max() < 5 * 1e-3**0.5
    untouched = Plain()
    run_fisher(make_context(untouched, splits), FisherSettings(alpha=0, class_row=asked))
    assert all(torch.equal(parameter, before[name]) for name, parameter in untouched.named_parameters())


def test_a_part_of_a_class_is_no_class(splits: Splits) -> None:
    assert splits.forgotten_classes == ()


def test_the_head_is_the_last_layer_with_a_row_for_each_class() -> None:
    assert head_of(make_net(), 4) == {"fc.weight", "fc.bias"}
    same_width = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    assert head_of(same_width, 4) == {"2.weight", "2.bias"}
    assert head_of(nn.Sequential(nn.Linear(3, 5)), 4) == set()
