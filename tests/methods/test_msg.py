"""MSG: which kernel weights begin again, and that the others learn slowly."""

import copy
from typing import Any

import pytest
import torch
from small_problems import HALF, Plain, batches_of, make_context, make_net, same, snapshot
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from unlearn_audit.data import Splits
from unlearn_audit.engine import derive_seed
from unlearn_audit.errors import UsageError
from unlearn_audit.methods.ft import FtSettings, run_ft
from unlearn_audit.methods.msg import MsgSettings, convolution_weights, least_pulled, run_msg
from unlearn_audit.step_transforms import parse_extras

STILL: dict[str, Any] = {"steps": 1, "step_size": 1e-30}


class Convolutions(nn.Module):
    """Two convolutions with biases and a head, in double precision."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.head = nn.Conv2d(1, 3, 3), nn.Conv2d(3, 5, 2), nn.Linear(5, 4)
        self.double()

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.second(self.first(images.double()).tanh()).flatten(1))  # type: ignore[no-any-return]


def slopes(model: nn.Module, images: Tensor, labels: Tensor) -> list[Tensor]:
    loss = functional.cross_entropy(model(HALF(images)), labels)
    return list(torch.autograd.grad(loss, convolution_weights(model)))


def test_the_weights_with_the_smallest_difference_of_slopes_begin_again(splits: Splits) -> None:
    model = Convolutions()
    before = copy.deepcopy(model)
    settings = MsgSettings(redrawn=0.3, **STILL)
    masks = least_pulled(make_context(model, splits, seed=5), settings)
    assert [int(mask.sum()) for mask in masks] == [round(0.3 * 27), round(0.3 * 60)] == [8, 18]
    generator = torch.Generator().manual_seed(derive_seed(5, "retain", "msg"))
    rows = splits.retain[torch.randperm(90, generator=generator)[:10].sort().values.numpy()]
    retain, forget = splits.dataset.train.subset(rows), splits.forget_examples
    theirs, ours = slopes(before, retain.images, retain.labels), slopes(before, forget.images, forget.labels)
    for mask, kept, gone in zip(masks, theirs, ours, strict=True):
        pulled = (kept - gone).abs()
        assert pulled[mask].max() < pulled[~mask].min()
    run_msg(make_context(model, splits, seed=5), settings)
    for mask, now, then in zip(masks, convolution_weights(model), convolution_weights(before), strict=True):
        assert torch.equal(now == then, ~mask)
    for name in ("first.bias", "second.bias", "head.weight", "head.bias"):
        assert torch.equal(model.state_dict()[name], before.state_dict()[name]), name


def test_fresh_values_have_the_variance_of_kaimings_law_by_fan_out(splits: Splits) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2000, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2000, 4))
    run_msg(make_context(model, splits), MsgSettings(redrawn=1.0, **STILL))
    weights = convolution_weights(model)[0].detach()
    variance = 2 / (2000 * 4)
    assert abs(weights.var().item() / variance - 1) < 4 * (2 / weights.numel()) ** 0.5


def test_a_step_moves_what_began_again_ten_times_as_far_as_the_other_kernel_weights(splits: Splits) -> None:
    model, eta = Convolutions(), 0.1
    settings = MsgSettings(steps=1, step_size=eta, momentum=0, weight_decay=0, schedule="constant", batch_size=16)
    masks = least_pulled(make_context(model, splits), settings)
    edited = Convolutions()
    run_msg(make_context(edited, splits), settings.model_copy(update={"step_size": 1e-300}))
    images, labels = batches_of(splits, "retain").at(0)
    loss = functional.cross_entropy(edited(images), labels)
    expected = {}
    named = dict(edited.named_parameters())
    factors = {"first.weight": masks[0] * 0.9 + 0.1, "second.weight": masks[1] * 0.9 + 0.1}
    for (name, weight), slope in zip(named.items(), torch.autograd.grad(loss, list(named.values())), strict=True):
        expected[name] = weight.detach() - eta * slope * factors.get(name, 1.0)
    run_msg(make_context(model, splits), settings)
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight.detach(), expected[name], rtol=1e-10, atol=1e-13)


def test_with_nothing_drawn_anew_and_nothing_slowed_it_is_fine_tuning_bit_for_bit(splits: Splits) -> None:
    loop: dict[str, Any] = {"steps": 6, "step_size": 0.05, "momentum": 0.9, "weight_decay": 5e-4}
    one, other = make_net(), make_net()
    done = run_msg(make_context(one, splits), MsgSettings(redrawn=0, others=1, schedule="constant", **loop))
    plain = run_ft(make_context(other, splits), FtSettings(**loop))
    assert same(one, other)
    assert done.gradient_evaluations == plain.gradient_evaluations + 10 + 10


def test_a_network_without_convolutions_is_refused(splits: Splits) -> None:
    model = Plain()
    before = snapshot(model)
    with pytest.raises(UsageError, match=r"^msg draws kernel weights of convolutions anew, and this network has no"):
        run_msg(make_context(model, splits), MsgSettings())
    assert same(model, before)


def test_kernels_that_are_computed_are_refused(splits: Splits) -> None:
    model = Convolutions()
    parametrizations.weight_norm(model.second)
    with pytest.raises(UsageError, match=r"^msg sets layers' weights, but one of the network's is computed"):
        run_msg(make_context(model, splits), MsgSettings(steps=1))


def test_transforms_for_two_sides_are_refused_before_the_slopes_are_taken_and_not_beside_an_ascent(
    splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*texts: str) -> int:
        return run_msg(make_context(Convolutions(), splits, extras=parse_extras(texts)), MsgSettings(steps=1)).steps

    assert run("nash", "ascent") == 1
    monkeypatch.setattr("unlearn_audit.methods.msg.least_pulled", None)
    with pytest.raises(UsageError, match="but MSG takes no batch of the forget set"):
        run("nash")
