"""Rounding, pruning and fine-tuning: against arithmetic by hand and torch's own, and what cannot be altered."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from unlearn_audit.audit.resurgence.alterations import (
    Alteration,
    FineTuning,
    fine_tune,
    int4,
    int8,
    prune_30,
    prune_50,
    prune_70,
    recentre,
    with_step_size,
)
from unlearn_audit.data import Examples, Transform
from unlearn_audit.engine import setup_device
from unlearn_audit.errors import MeasurementError
from unlearn_audit.training import SMALL

SAME = Transform((0.0,), (1.0,))


def tuning(n: int = 40, **more: Any) -> FineTuning:
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.rand(n, 1, 4, 4, generator=generator), torch.arange(n) % 3
    recipe = replace(SMALL, step_size=0.05, batch_size=8)
    return FineTuning(Examples(images, labels, labels), **{"recipe": recipe, "steps": 7, "seed": 1} | more, compute=CPU)


CPU = setup_device("cpu")


def altered(model: nn.Module, alter: Alteration) -> nn.Module:
    alter(model, SAME, tuning())
    return model


def linear(*rows: tuple[float, ...]) -> nn.Linear:
    layer = nn.Linear(len(rows[0]), len(rows))
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(rows))
    return layer


# ----- rounding


def test_each_channel_is_rounded_to_its_own_fifteen_levels() -> None:
    layer = linear((0.7, -0.16, 0.04, 0.0), (70.0, -14.0, 4.0, 6.0), (0.0, 0.0, 0.0, 0.0))
    bias = layer.bias.clone()
    altered(layer, int4)
    expected = torch.tensor([(0.7, -0.2, 0.0, 0.0), (70.0, -10.0, 0.0, 10.0), (0.0, 0.0, 0.0, 0.0)])
    assert torch.allclose(layer.weight, expected)
    assert torch.equal(layer.bias, bias)


@pytest.mark.parametrize(("alter", "bits"), [(int4, 4), (int8, 8)])
def test_rounding_is_that_of_torch_fake_quantisation(alter: Alteration, bits: int) -> None:
    weight = torch.randn(6, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    layer = nn.Conv2d(3, 6, 3)
    layer.weight.data.copy_(weight)
    altered(layer, alter)
    most = 2 ** (bits - 1) - 1
    scale = weight.abs().flatten(1).amax(1) / most
    zero = torch.zeros(6, dtype=torch.int32)
    expected = torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -most, most)
    assert torch.allclose(layer.weight, expected, atol=1e-6)
    assert len(layer.weight[0].unique()) <= 2 * most + 1
    once = layer.weight.clone()
    assert torch.allclose(altered(layer, alter).weight, once, atol=1e-6)  # type: ignore[arg-type]


def test_output_channels_of_a_transposed_convolution_come_second() -> None:
    layer = nn.ConvTranspose2d(2, 3, 1, bias=False)
    layer.weight.data.copy_(torch.tensor([[7.0, 70.0, 1.0], [1.4, 14.0, 0.2]]).view(2, 3, 1, 1))
    altered(layer, int4)
    assert torch.allclose(layer.weight.view(2, 3), torch.tensor([[7.0, 70.0, 1.0], [1.0, 10.0, 1 / 7]]))


# ----- pruning


@pytest.mark.parametrize(("alter", "share"), [(prune_30, 0.3), (prune_50, 0.5), (prune_70, 0.7)])
def test_pruning_is_that_of_torch_over_all_layers(alter: Alteration, share: float) -> None:
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(32, 10))
    theirs = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(32, 10))
    theirs.load_state_dict(ours.state_dict())
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    altered(ours, alter)
    pruned = [(theirs[0], "weight"), (theirs[3], "weight")]
    prune.global_unstructured(pruned, pruning_method=prune.L1Unstructured, amount=int(share * 392))
    assert torch.equal(ours[0].weight, theirs[0].weight)
    assert torch.equal(ours[3].weight, theirs[3].weight)
    for name in ("0.bias", "1.weight", "1.running_var", "3.bias"):
        assert torch.equal(ours.state_dict()[name], before[name]), "only weights are pruned; statistics stay"


def test_tied_weights_count_once() -> None:
    model = nn.Sequential(linear((1.0, 2.0), (3.0, 4.0)), linear((1.0, 2.0), (3.0, 4.0)))
    model[1].weight = model[0].weight
    altered(model, prune_50)
    assert model[0].weight.tolist() == [[0.0, 0.0], [3.0, 4.0]]


# ----- recentring


def test_recentring_takes_each_class_s_mean_over_the_retain_set_from_its_logit() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    given = tuning()
    with torch.no_grad():
        model[1].bias[1] -= 30.0
        before = model(given.examples.images)
        recentre(model, SAME, given)
        after = model(given.examples.images)
    assert torch.allclose(after, before - before.mean(dim=0), atol=1e-4)
    assert set(before.argmax(dim=1).tolist()) == {0, 2}
    assert 1 in after.argmax(dim=1).tolist(), "a class whose logit was merely lowered is back"


# ----- fine-tuning


def test_fine_tuning_descends_on_the_retain_set_and_draws_the_same_for_everybody() -> None:
    def network() -> nn.Module:
        torch.manual_seed(3)
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))

    given = tuning(steps=60)
    loss = nn.CrossEntropyLoss()
    before = network()
    ours, again = network(), network()
    fine_tune(ours, SAME, given)
    fine_tune(again, SAME, given)
    assert all(torch.equal(one, other) for one, other in zip(ours.parameters(), again.parameters(), strict=True))
    assert not ours.training
    images, labels = given.examples.images, given.examples.labels
    assert loss(ours(images), labels) < loss(before(images), labels)


def test_a_tenth_of_the_step_size_unless_another_is_named() -> None:
    assert with_step_size(SMALL, None) == replace(SMALL, step_size=0.01)
    assert with_step_size(SMALL, 0.5) == replace(SMALL, step_size=0.5)


# ----- what cannot be altered


class Scale(nn.Module):
    """A model of one number."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(3))


@pytest.mark.parametrize(
    ("model", "alter", "given", "says"),
    [
        (Scale(), int4, tuning(), "nothing to round: the model has no weight of two or more dimensions"),
        (Scale(), prune_50, tuning(), "nothing to prune: the model has no weight"),
        (linear((0.0, 0.0), (0.0, 1.0)), prune_70, tuning(), "nothing to prune: 3 of 4 weights are zero as it is"),
        (Scale(), fine_tune, tuning(recipe="nobody says how"), "nobody says how"),
        (Scale(), fine_tune, tuning(0), "the retain set is empty"),
        (Scale(), recentre, tuning(0), "the retain set is empty"),
        (nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.Softmax(1)), recentre, tuning(), "not end in a linear layer"),
        (nn.Sequential(nn.Flatten(), nn.Linear(16, 3, bias=False)), recentre, tuning(), "last layer has no bias"),
    ],
)
def test_what_cannot_be_altered_says_why(model: nn.Module, alter: Alteration, given: FineTuning, says: str) -> None:
    with pytest.raises(MeasurementError, match=says):
        alter(model, SAME, given)


def test_fine_tuning_that_diverges_says_so() -> None:
    with pytest.raises(MeasurementError, match="diverged"):
        fine_tune(
            nn.Sequential(nn.Flatten(), nn.Linear(16, 64), nn.Linear(64, 3)),
            SAME,
            tuning(recipe=replace(SMALL, step_size=1e20, batch_size=8), steps=40),
        )
