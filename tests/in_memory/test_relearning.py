"""Relearning curves of modules in memory: the same as the engine's, and whoever hands in a model keeps it."""

from typing import Any

import numpy as np
import pytest
import torch
from small_problems import CPU, HALF, make_net, same, snapshot
from torch import nn

import unlearn_audit as ua
from unlearn_audit.data import Splits
from unlearn_audit.errors import MeasurementError, UsageError
from unlearn_audit.relearning import Algorithm, Run
from unlearn_audit.relearning import relearn as engine_relearn


def test_the_curve_is_that_of_the_engine_with_the_datas_own_normalisation(splits: Splits) -> None:
    curve = ua.relearn(make_net(), splits.forget, steps=3, step_size=0.05, device="cpu")
    model = make_net().eval()
    wanted = engine_relearn(Run(model, splits.forget_examples, HALF), steps=3, step_size=0.05, compute=CPU)
    np.testing.assert_array_equal(curve.loss, wanted.loss)
    assert ua.rcd(curve) == curve.loss.sum()
    assert len(curve.areas) == len(splits.forget) == 10


def test_mean_and_std_are_taken_where_they_are_named(splits: Splits) -> None:
    named = ua.relearn(make_net(), splits.forget, steps=0, mean=0.5, std=0.25, device="cpu")
    own = ua.relearn(make_net(), splits.forget, steps=0, device="cpu")
    other = ua.relearn(make_net(), splits.forget, steps=0, mean=[0.1], std=[0.5], device="cpu")
    assert named.loss == own.loss
    assert other.loss != own.loss


def test_the_callers_model_keeps_its_weights_its_mode_and_its_hooks(splits: Splits) -> None:
    model = make_net().train()
    before = snapshot(model)
    ua.relearn(model, splits.forget, steps=2, device="cpu")
    assert same(model, before)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not model._forward_pre_hooks


def test_training_mode_makes_no_difference(splits: Splits) -> None:
    model = nn.Sequential(nn.Dropout(0.5), make_net())
    curves = [ua.relearn(model.train(mode), splits.forget, steps=2, device="cpu") for mode in (True, False)]
    np.testing.assert_array_equal(curves[0].loss, curves[1].loss)


def test_the_step_is_chosen_so_that_the_loss_never_rises(splits: Splits) -> None:
    curve = ua.relearn(make_net(), splits.forget, steps=5, device="cpu")
    assert curve.rises_from is None
    assert np.all(np.diff(curve.loss) <= 0)


def test_another_algorithm_and_the_unseen_twin(splits: Splits) -> None:
    adam = Algorithm(optimizer="adam")
    curve = ua.relearn(make_net(), splits.unseen, steps=2, algorithm=adam, device="cpu")
    assert len(curve.areas) == len(splits.unseen)
    assert curve.step_sizes.tolist() == [1e-3, 1e-3]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda model: model.requires_grad_(False), UsageError, r"requires_grad_\(True\)"),
        (lambda model: nn.Sequential(nn.Flatten(), nn.LazyLinear(4)), UsageError, "lazy layers without weights"),
        (lambda model: make_net(classes=7), MeasurementError, "7 columns .*the data has 4 classes"),
        (lambda model: nn.Linear(3, 4), MeasurementError, "raised an exception of its own"),
        (lambda model: nn.Sequential(model, nn.Softmax(dim=1)), MeasurementError, "probabilities"),
        (lambda model: model.state_dict(), UsageError, "the model is OrderedDict; a torch.nn.Module is needed"),
    ],
)
def test_a_model_that_does_not_fit_is_refused(
    change: Any, error: type[Exception], message: str, splits: Splits
) -> None:
    with pytest.raises(error, match=message):
        ua.relearn(change(make_net()), splits.forget, steps=1, device="cpu")


def test_broken_weights_are_refused(splits: Splits) -> None:
    model = make_net()
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(MeasurementError, match="NaN or infinite, the first in '"):
        ua.relearn(model, splits.forget, steps=1, device="cpu")


@pytest.mark.parametrize("moments", [{"mean": 0.5}, {"std": 0.5}, {"mean": [0.1, 0.2], "std": [1, 1]}])
def test_half_a_normalisation_or_one_of_other_channels_is_refused(moments: Any, splits: Splits) -> None:
    with pytest.raises(UsageError, match="give both|the images have 1 channels"):
        ua.relearn(make_net(), splits.forget, steps=1, device="cpu", **moments)


def test_indices_alone_are_refused_with_the_way(splits: Splits) -> None:
    with pytest.raises(UsageError, match=r"not ndarray; .*make_splits\(data, forget=indices\).forget"):
        ua.relearn(make_net(), splits.forget.indices, device="cpu")  # type: ignore[call-overload]
