"""Boundary unlearning: labels one signed step away, a class that comes and goes, what stays, refusals."""

import math
from typing import Any

import pytest
import torch
from small_problems import HALF, Plain, cross_entropy, make_context, make_net, parameters_of, same, slopes
from torch import Tensor, nn

from unlearn_audit.catalogue import TRANSFORMS
from unlearn_audit.data import Splits
from unlearn_audit.errors import MeasurementError, UsageError
from unlearn_audit.methods.apply import joining
from unlearn_audit.methods.boundary import EXPAND, SHRINK, BoundarySettings, ShrinkSettings, run_expand, run_shrink
from unlearn_audit.methods.pixel_attacks import one_signed_step

ONE = {"steps": 1, "batch_size": "full", "step_size": 0.1, "momentum": 0}


@pytest.mark.parametrize("label", ["predicted", "nearest"])
def test_a_step_of_shrink_descends_the_loss_of_the_labels_one_signed_step_away(splits: Splits, label: Any) -> None:
    model, forget = Plain(), splits.forget_examples
    before = parameters_of(model)
    context = make_context(model, splits)
    logits = one_signed_step(model, forget, HALF, length=0.004, compute=context.compute)
    stayed = logits.argmax(dim=1) == forget.labels
    assert 0 < int(stayed.sum()) < 10
    if label == "nearest":
        logits[torch.arange(10), forget.labels] = -math.inf
    labels = logits.argmax(dim=1)
    slope = slopes(lambda weights: cross_entropy(model, weights, (HALF(forget.images), labels)), before)
    done = run_shrink(context, ShrinkSettings(label=label, bound=0.004, **ONE))
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), before[name] - 0.1 * slope[name], rtol=1e-10, atol=1e-12)
    assert done.figures == {"boundary.own_label": int(stayed.sum()) / 10}
    assert done.gradient_evaluations == 20
    says = f"{int(stayed.sum())} of 10 forget examples keep their label after the signed step and are trained in"
    assert (says in done.notes) == (label == "predicted")


def test_a_step_of_expand_descends_the_loss_of_a_class_more(splits: Splits) -> None:
    model, forget = Plain(), splits.forget_examples
    before = parameters_of(model)
    head = model.layers[3]
    assert isinstance(head, nn.Linear)
    rows: list[Tensor] = []

    def watch(module: nn.Module, given: Any, answer: Tensor) -> None:
        if hasattr(module, "expanded_weight"):  # the layer is looked for first
            rows[:] = [module.expanded_weight.detach().clone(), module.expanded_bias.detach().clone()]  # type: ignore[operator]

    handle = head.register_forward_hook(watch)
    run_expand(make_context(model, splits), BoundarySettings(**ONE))
    handle.remove()

    def loss(weights: dict[str, Tensor]) -> Tensor:
        layers = [weights[f"layers.{n}.{kind}"] for n in (1, 3) for kind in ("weight", "bias")]
        hidden = torch.tanh(HALF(forget.images).flatten(1).double() @ layers[0].T + layers[1])
        wide = torch.cat([hidden @ layers[2].T + layers[3], hidden @ rows[0].T + rows[1]], dim=1)
        return nn.functional.cross_entropy(wide, torch.full((10,), 4))

    slope = slopes(loss, before)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), before[name] - 0.1 * slope[name], rtol=1e-10, atol=1e-12)
    assert set(parameters_of(model)) == set(before)  # the row is gone
    assert rows[0].shape == (1, 6)
    assert float(rows[0].abs().max()) <= 6**-0.5


def test_both_forget_and_leave_a_model_of_the_shape_that_it_was(splits: Splits) -> None:
    for run, settings in ((run_shrink, ShrinkSettings), (run_expand, BoundarySettings)):
        one, two = make_net(), make_net()
        shapes = [each.shape for each in one.state_dict().values()]
        chosen = settings(steps=8, batch_size=4, step_size=0.05)
        for model in (one, two):
            run(make_context(model, splits), chosen)  # type: ignore[operator]
        assert same(one, two)
        assert [each.shape for each in one.state_dict().values()] == shapes
        assert not any("expanded" in name for name in one.state_dict())


def test_the_row_goes_away_when_a_run_diverges_too(splits: Splits) -> None:
    model = make_net()
    with pytest.raises(MeasurementError, match="diverged"):
        run_expand(make_context(model, splits), BoundarySettings(steps=20, batch_size=4, step_size=1e29))
    assert not any("expanded" in name for name in model.state_dict())
    assert not [hook for module in model.modules() for hook in module._forward_pre_hooks]


def test_a_model_that_does_not_end_in_a_linear_layer_is_not_expanded(splits: Splits) -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 4), nn.Flatten())
    with pytest.raises(UsageError, match="does not end in one"):
        run_expand(make_context(model, splits), BoundarySettings(steps=1))


@pytest.mark.parametrize("text", ["mask:saliency", "mask:random"])
def test_no_mask_may_freeze_the_row_of_the_new_class(text: str) -> None:
    with pytest.raises(UsageError, match=r"^boundary-expand takes no --with mask: .* new class's row"):
        joining(EXPAND, [text])
    assert joining(SHRINK, [text])


@pytest.mark.parametrize("name", [name for name in TRANSFORMS if name != "mask"])
def test_every_other_transform_may_join(name: str) -> None:
    assert joining(EXPAND, [name])
