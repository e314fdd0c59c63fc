"""The mask alone: what it sets, that all else stays, and that nothing downstream meets an infinity."""

from typing import Any

import numpy as np
import pytest
import torch
from small_problems import CPU, HALF, Plain, make_context, make_small_splits, parameters_of
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from unlearn_audit.data import Splits
from unlearn_audit.engine import predict
from unlearn_audit.errors import MeasurementError, UsageError
from unlearn_audit.methods import Unlearned
from unlearn_audit.methods.mask_only import MaskOnlySettings, run_mask_only


@pytest.fixture
def two_classes(noise: Any) -> Splits:
    return make_small_splits(noise, forget="class:1,3")


@pytest.mark.parametrize("margin", [5.0, 20.0, 80.0])
def test_forgotten_logits_are_one_number_below_all_others(two_classes: Splits, margin: float) -> None:
    model = Plain(torch.float32)
    images = two_classes.dataset.train.images
    before, weights = predict(model, images, HALF, compute=CPU), parameters_of(model)
    done = run_mask_only(make_context(model, two_classes), MaskOnlySettings(margin=margin))
    after = predict(model, images, HALF, compute=CPU)
    assert (after[:, [0, 2]] == before[:, [0, 2]]).all()
    assert len(np.unique(after[:, [1, 3]])) == 1
    p = np.exp(after.astype(np.float64))
    p /= p.sum(axis=1, keepdims=True)
    assert p[:, [1, 3]].max() == pytest.approx(
        np.exp(-margin) if margin > 5 else np.exp(-5) / (1 + 2 * np.exp(-5)), rel=1e-3
    )
    assert (done.steps, done.gradient_evaluations) == (0, 0)
    assert "the last layer's weights of class 1, class 3 are 0 and the bias is " in done.notes[0]
    for name, each in model.named_parameters():
        kept = [0, 2] if name.startswith("layers.3") else slice(None)
        assert torch.equal(each[kept], weights[name][kept]), name


def test_counting_changes_nothing(two_classes: Splits) -> None:
    model = Plain()
    before = parameters_of(model)
    assert run_mask_only(make_context(model, two_classes, count_only=True), MaskOnlySettings()) == Unlearned(0, 0)
    assert all(torch.equal(each, before[name]) for name, each in model.named_parameters())


def test_a_part_of_a_class_is_refused(splits: Splits) -> None:
    with pytest.raises(UsageError, match="^mask-only needs whole classes: no answer can be one of them any more; "):
        run_mask_only(make_context(Plain(), splits), MaskOnlySettings())


def test_a_head_that_cannot_be_masked_is_refused(two_classes: Splits) -> None:
    model = Plain()
    model.layers[3] = nn.Linear(6, 4, bias=False).double()
    with pytest.raises(UsageError, match="sets biases of the last linear layer, and the model's has none"):
        run_mask_only(make_context(model, two_classes), MaskOnlySettings())
    model.layers[3] = weight_norm(nn.Linear(6, 4).double())
    with pytest.raises(MeasurementError, match="are made of other parameters"):
        run_mask_only(make_context(model, two_classes), MaskOnlySettings())
    model.layers.append(nn.Tanh())
    with pytest.raises(UsageError, match="edits the last linear layer, and the model does not end in one"):
        run_mask_only(make_context(model, two_classes), MaskOnlySettings())
