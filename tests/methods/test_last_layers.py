"""CF-k and EU-k: the frozen part stays bit for bit, with all layers they are fine-tuning and retraining."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from small_problems import Plain, make_context, make_net, make_small_splits, parameters_of, same, snapshot
from torch import Tensor, nn

from unlearn_audit.data import Splits
from unlearn_audit.errors import UsageError
from unlearn_audit.methods.fresh import fresh_network
from unlearn_audit.methods.ft import FtSettings, run_ft
from unlearn_audit.methods.last_layers import LastLayersSettings, last_layers, run_cf_k, run_eu_k
from unlearn_audit.models.small import small_cnn

LOOP: dict[str, Any] = {"steps": 7, "step_size": 0.05, "momentum": 0.9, "weight_decay": 5e-4}


def test_layers_are_counted_from_the_last_and_batchnorm_goes_with_the_layer_before_it() -> None:
    net = make_net()
    assert last_layers(net, 1) == ("fc",)
    assert last_layers(net, 2) == ("conv3", "bn3", "fc")
    assert last_layers(net, 4) == ("conv1", "bn1", "conv2", "bn2", "conv3", "bn3", "fc")
    with pytest.raises(UsageError, match=r"^k 5: this network has 4 layers; with k = 4 all of it is trained$"):
        last_layers(net, 5)


@pytest.mark.parametrize("run", [run_cf_k, run_eu_k])
@pytest.mark.parametrize("extra", [{}, {"optimizer": "adam"}, {"stop_at": "unseen", "steps": 25}])
def test_what_is_before_them_stays_bit_for_bit_statistics_included(noise: Any, run: Any, extra: dict[str, Any]) -> None:
    """A look at held-out examples in the midst of the run puts nothing back into training mode."""
    splits = make_small_splits(noise, forget="range:0-24")
    net = make_net()
    before = snapshot(net)
    done = run(make_context(net, splits), LastLayersSettings(k=2, **(LOOP | extra)))
    moving = ("conv3.", "bn3.", "fc.")
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name]) != name.startswith(moving), name
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert done.notes[0] == "only these were trained: conv3, bn3, fc"


@pytest.mark.parametrize("make", [make_net, Plain])
def test_with_all_layers_cf_k_is_fine_tuning_bit_for_bit(splits: Splits, make: Any) -> None:
    one, other = make(), make()
    layers = {make_net: 4, Plain: 2}[make]
    run_cf_k(make_context(one, splits), LastLayersSettings(k=layers, schedule="constant", **LOOP))
    run_ft(make_context(other, splits), FtSettings(**LOOP))
    assert same(one, other)


def test_eu_k_begins_with_fresh_layers_and_with_all_of_them_with_nothing_of_the_original(splits: Splits) -> None:
    one, other = make_net(0), make_net(1)
    for net in (one, other):
        with torch.no_grad():
            net(torch.randn(8, 1, 4, 4))  # statistics of its own
        run_eu_k(make_context(net, splits, seed=3, spec="small-cnn"), LastLayersSettings(k=4, **LOOP))
    assert same(one, other)
    barely, still = make_net(), LastLayersSettings(k=1, steps=1, step_size=1e-30)
    context = make_context(barely, splits, seed=3, spec="small-cnn")
    run_eu_k(context, still)
    fresh = fresh_network(context, "eu-k")
    assert torch.equal(barely.fc.weight, fresh.fc.weight)
    assert not torch.equal(barely.fc.weight, make_net().fc.weight)
    assert torch.equal(barely.conv3.weight, make_net().conv3.weight)


def test_dropout_before_them_is_off_and_after_them_on(splits: Splits) -> None:
    seen: dict[str, bool] = {}

    class Marked(nn.Dropout):
        def forward(self, given: Tensor) -> Tensor:
            seen.setdefault(str(self.p), self.training)
            return super().forward(given)

    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), Marked(0.25), nn.Linear(8, 8), Marked(0.5), nn.Linear(8, 4))
    run_cf_k(make_context(net, splits), LastLayersSettings(k=2, steps=1))
    assert seen == {"0.25": False, "0.5": True}


# ----- fresh weights


def test_fresh_weights_depend_on_the_seed_and_on_who_asks(splits: Splits) -> None:
    for spec in ("small-cnn", "", lambda: small_cnn(classes=4, channels=1)):
        context = make_context(make_net(), splits, spec=spec)
        one, again, another, theirs = (
            parameters_of(fresh_network(replace(context, seed=seed), name))
            for seed, name in ((0, "eu-k"), (0, "eu-k"), (1, "eu-k"), (0, "bad-teacher"))
        )
        assert same(one, again)
        assert not same(one, parameters_of(context.model))
        assert not same(one, another)
        assert not same(one, theirs)


def test_a_network_that_cannot_be_drawn_anew_is_refused(splits: Splits) -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(4, 16))

    with pytest.raises(UsageError, match=r"^eu-k needs the network with fresh weights, and Own has parameters"):
        fresh_network(make_context(Own(), splits, spec="package.module:own"), "eu-k")
