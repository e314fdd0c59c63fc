"""Shrink and perturb: one mixing before the first step, and then fine-tuning on the retain set."""

import math

import pytest
import torch
from small_problems import Plain, make_context, make_net, parameters_of, same, snapshot

from unlearn_audit.data import Splits
from unlearn_audit.methods.ft import FtSettings, run_ft
from unlearn_audit.methods.shrink_perturb import ShrinkPerturbSettings, run_shrink_perturb
from unlearn_audit.methods.transforms.reinit import Reinit, ReinitSettings
from unlearn_audit.models import build
from unlearn_audit.step_transforms import parse_extras

LOOP = {"momentum": 0.9, "steps": 7, "step_size": 0.05, "schedule": "constant", "weight_decay": 0.0}


@pytest.mark.parametrize("keep", [0.0, 0.3])
def test_before_the_first_step_the_weights_are_mixed_once_with_a_draw(splits: Splits, keep: float) -> None:
    model = Plain()
    before = snapshot(model)
    run_shrink_perturb(make_context(model, splits, seed=4), ShrinkPerturbSettings(keep=keep, steps=1, step_size=1e-30))
    drawn = Reinit(Plain(), ReinitSettings(alpha=keep), seed=4).draw(0)
    weights = [name for name, tensor in before.items() if tensor.dim() >= 2]
    assert len(weights) == len(drawn) == 2
    for name, tensor in model.state_dict().items():
        expected = before[name]
        if name in weights:
            expected = keep * expected + (1 - keep) * drawn[weights.index(name)]
        assert torch.allclose(tensor, expected, rtol=1e-12)
    assert float(drawn[0].std()) == pytest.approx(math.sqrt(2 / 16), rel=0.2)


def test_even_keep_0_begins_with_the_biases_and_the_batchnorm_of_the_original() -> None:
    model = build("small-cnn", classes=10, channels=1)
    with torch.no_grad():
        for tensor in (*model.parameters(), *(one for one in model.buffers() if one.dim())):
            tensor.add_(1.0)  # nothing is as it was initialised
    before = snapshot(model)
    with torch.no_grad():
        Reinit(model, ReinitSettings(alpha=0.0), seed=4)(0)
    stay = {name for name, tensor in model.state_dict().items() if torch.equal(tensor, before[name])}
    assert stay == {name for name, tensor in before.items() if tensor.dim() < 2}
    assert sum(parameter.numel() for name, parameter in model.named_parameters() if name in stay) == 234
    assert sum(parameter.numel() for parameter in model.parameters()) == 24058
    assert sum(buffer.numel() for name, buffer in model.named_buffers() if name in stay and buffer.dim()) == 224


def test_keeping_all_is_fine_tuning_bit_for_bit(splits: Splits) -> None:
    one, other = make_net(), make_net()
    run_shrink_perturb(make_context(one, splits), ShrinkPerturbSettings(keep=1, **LOOP))
    run_ft(make_context(other, splits), FtSettings(**LOOP))
    assert same(snapshot(one), snapshot(other))


def test_it_is_fine_tuning_that_reinit_joins_at_the_start(splits: Splits) -> None:
    one, other = make_net(), make_net()
    run_shrink_perturb(make_context(one, splits), ShrinkPerturbSettings(keep=0.3, **LOOP))
    run_ft(make_context(other, splits, extras=parse_extras(["reinit:alpha=0.3,at=start"])), FtSettings(**LOOP))
    assert same(snapshot(one), snapshot(other))


def test_the_forget_set_makes_no_difference_and_pricing_leaves_the_weights_alone(splits: Splits) -> None:
    model = make_net()
    before = parameters_of(model)
    told = run_shrink_perturb(make_context(model, splits, count_only=True), ShrinkPerturbSettings())
    assert all(torch.equal(before[name], tensor) for name, tensor in parameters_of(model).items())
    assert told.gradient_evaluations == 5 * len(splits.retain)
