"""CT: kernels are transposed once, twice is nothing, and then it is fine-tuning."""

from typing import Any

import pytest
import torch
from small_problems import Plain, make_context, make_net, same, snapshot
from torch import nn
from torch.nn.utils import parametrizations

from unlearn_audit.data import Splits
from unlearn_audit.errors import UsageError
from unlearn_audit.methods.ct import CtSettings, run_ct, transpose_kernels
from unlearn_audit.methods.ft import FtSettings, run_ft

LOOP: dict[str, Any] = {"steps": 6, "step_size": 0.05, "momentum": 0.9, "weight_decay": 5e-4}


def test_transposing_twice_is_nothing() -> None:
    net = make_net()
    before = snapshot(net)
    transpose_kernels(net)
    for name, tensor in net.state_dict().items():
        kernel = tensor.dim() == 4
        assert torch.equal(tensor, before[name].transpose(2, 3) if kernel else before[name]), name
    assert not same(net, before)
    transpose_kernels(net)
    assert same(net, before)


def test_after_it_comes_fine_tuning(splits: Splits) -> None:
    one, other = make_net(), make_net()
    run_ct(make_context(one, splits), CtSettings(schedule="constant", **LOOP))
    transpose_kernels(other)
    run_ft(make_context(other, splits), FtSettings(**LOOP))
    assert same(one, other)


def test_a_kernel_that_two_layers_share_is_transposed_once_and_one_that_is_not_square_not_at_all() -> None:
    square, flat, point = nn.Conv2d(2, 2, 3), nn.Conv2d(2, 2, (1, 3)), nn.Conv2d(2, 2, 1)
    tied = nn.Conv2d(2, 2, 3)
    tied.weight = square.weight
    before = square.weight.detach().clone()
    model = nn.Sequential(square, tied, flat, point)
    kept = snapshot(nn.Sequential(flat, point))
    transpose_kernels(model)
    assert torch.equal(square.weight, before.transpose(2, 3))
    assert same(nn.Sequential(flat, point), kept)


@pytest.mark.parametrize("model", [Plain(), nn.Sequential(nn.Conv2d(1, 2, 1), nn.Flatten(), nn.Linear(32, 4))])
def test_a_network_without_square_kernels_is_refused(splits: Splits, model: nn.Module) -> None:
    with pytest.raises(UsageError, match=r"^ct transposes square convolution kernels, and this network has none"):
        run_ct(make_context(model, splits), CtSettings())


def test_kernels_that_are_computed_are_refused_where_they_would_be_transposed(splits: Splits) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Conv2d(2, 2, 3), nn.Flatten(), nn.Linear(8, 4))
    parametrizations.weight_norm(model[0])
    run_ct(make_context(model, splits), CtSettings(steps=0))
    parametrizations.weight_norm(model[1])
    with pytest.raises(UsageError, match=r"^ct sets layers' weights, but one of the network's is computed"):
        run_ct(make_context(model, splits), CtSettings(steps=1))
