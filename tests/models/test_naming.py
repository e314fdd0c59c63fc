"""Names of weights: what wrappers and training code put into them, taken out wherever that is beyond doubt."""

from collections import OrderedDict
from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from unlearn_audit import models
from unlearn_audit.errors import CheckpointError
from unlearn_audit.models.naming import NameReading, read_names, wanted_by

State = dict[str, Tensor]


class Net(nn.Module):
    """A network with parts in parts."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv1 = nn.Conv2d(3, 4, 3)
        self.layer1 = nn.Sequential(OrderedDict(conv=nn.Conv2d(4, 4, 3), bn=nn.BatchNorm2d(4)))
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layer1(self.conv1(x)).mean((2, 3)))  # type: ignore[no-any-return]


def read(state: Mapping[str, Tensor], model: nn.Module | None = None) -> NameReading:
    return read_names(state, wanted_by(model or Net()), where="c.pt")


def prefixed(prefix: str, state: Mapping[str, Tensor]) -> State:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.parametrize(
    "prefix",
    [
        "module.", "_orig_mod.", "model.", "net.", "network.", "backbone.", "module._orig_mod.", "_module.",
        "model.module.", "_forward_module.model.", "_fsdp_wrapped_module.", "my.very.own.", "ema.module.",
    ],
)  # fmt: skip
def test_one_prefix_before_every_name_is_removed(prefix: str) -> None:
    found = read(prefixed(prefix, Net().state_dict()))
    assert found.fitting
    assert same(found.state, Net().state_dict())
    assert found.notes


@pytest.mark.parametrize("part", ["module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_orig_mod"])
def test_a_wrapper_in_the_midst_of_names_is_removed(part: str) -> None:
    state = {name.replace("layer1.", f"layer1.{part}."): tensor for name, tensor in Net().state_dict().items()}
    found = read(state)
    assert same(found.state, Net().state_dict())
    assert found.notes == (f"'{part}.' removed from names",)


def test_a_model_that_really_has_a_part_called_module_is_read_as_it_is() -> None:
    model = nn.ModuleDict({"module": Net()})
    found = read(model.state_dict(), model)
    assert found.notes == ()
    assert same(found.state, model.state_dict())


def test_averaged_models_count_is_left_out() -> None:
    averaged = torch.optim.swa_utils.AveragedModel(Net())
    found = read(averaged.state_dict())
    assert same(found.state, Net().state_dict())
    assert "left out, as no part of the model: n_averaged" in found.notes


def test_lightnings_losses_and_metrics_are_left_out() -> None:
    state = prefixed("model.", Net().state_dict()) | {
        "criterion.weight": torch.ones(5), "train_acc.total": torch.tensor(3), "val_metrics.f1.tp": torch.zeros(5),
    }  # fmt: skip
    found = read(state)
    assert same(found.state, Net().state_dict())
    assert "criterion.weight" in " ".join(found.notes)
    assert same(read(Net().state_dict() | {"criterion.weight": torch.ones(5)}).state, Net().state_dict())


def test_two_sets_of_weights_that_fit_are_not_chosen_between() -> None:
    state = prefixed("model.", Net(0).state_dict()) | prefixed("ema_model.module.", Net(1).state_dict())
    with pytest.raises(
        CheckpointError, match=r"under 'ema_model\.' and under 'model\.' both fit the model, and differ"
    ):
        read(state)
    twice = prefixed("model.", Net().state_dict()) | prefixed("copy.", Net().state_dict())
    assert same(read(twice).state, Net().state_dict())


def test_what_is_left_over_and_known_to_nobody_does_not_fit() -> None:
    assert not read(Net().state_dict() | {"projector.weight": torch.zeros(2, 2)}).fitting
    assert not read({name: tensor for name, tensor in Net().state_dict().items() if name != "fc.bias"}).fitting


def test_wrappers_whose_removal_would_make_two_names_one_stay() -> None:
    state = Net().state_dict() | {"module.fc.weight": torch.zeros(5, 4)}
    assert not read(state).fitting


# ----- a normalisation among the weights


@pytest.mark.parametrize("prefix", ["", "module.", "net."])
def test_mean_and_std_among_the_weights_are_taken_out(prefix: str) -> None:
    statistics = {
        "normalize.mean": torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1),
        "normalize.std": torch.tensor([0.25, 0.25, 0.5]).view(1, 3, 1, 1),
    }
    found = read(prefixed(prefix, {**statistics, **Net().state_dict()}))
    assert found.fitting
    assert found.mean == pytest.approx((0.5, 0.4, 0.3))
    assert found.std == (0.25, 0.25, 0.5)
    assert same(found.state, Net().state_dict())


def test_a_resnet18_for_cifar_with_its_normalisation_is_recognised() -> None:
    model = models.build("cifar-resnet18", classes=10)
    state = {"normalize.mean": torch.full((3,), 0.5), "normalize.std": torch.full((3,), 0.25), **model.state_dict()}
    found = models.identify(prefixed("module.", state), where="salun.pth")
    assert found.spec == "cifar-resnet18"
    assert found.mean == (0.5, 0.5, 0.5)
    assert found.std == (0.25, 0.25, 0.25)
    models.load_state(model, found.state, where="salun.pth")


# ----- weights in parts


def answers(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model.eval()(torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(2)))  # type: ignore[no-any-return]


def pruned(model: Net) -> None:
    for layer in (model.conv1, model.fc):
        prune.l1_unstructured(layer, "weight", amount=0.5)


def weight_normed(model: Net) -> None:
    parametrizations.weight_norm(model.conv1)
    parametrizations.weight_norm(model.fc, dim=None)
    with torch.no_grad():
        model.conv1.parametrizations.weight.original0.mul_(2)


def weight_normed_before(model: Net) -> None:
    nn.utils.weight_norm(model.conv1)
    nn.utils.weight_norm(model.fc, dim=1)


def spectral_normed(model: Net) -> None:
    parametrizations.spectral_norm(model.conv1)
    parametrizations.spectral_norm(model.fc)


def spectral_normed_before(model: Net) -> None:
    nn.utils.spectral_norm(model.conv1)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("prefix", ["", "model."])
@pytest.mark.parametrize(
    "change", [pruned, weight_normed, weight_normed_before, spectral_normed, spectral_normed_before]
)
def test_weights_in_parts_are_put_together(change: Callable[[Net], None], prefix: str) -> None:
    model = Net()
    change(model)
    answers(model)
    model(torch.rand(2, 3, 8, 8))
    found = read(prefixed(prefix, model.state_dict()))
    assert found.fitting
    assert "put together from the parts" in " ".join(found.notes)
    plain = Net(1)
    models.load_state(plain, found.state, where="c.pt")
    assert torch.allclose(answers(plain), answers(model), atol=1e-6)


@pytest.mark.parametrize("name", ["fc.zero_point", "fc._packed_params._packed_params", "layer1.SCB", "fc.qweight"])
def test_quantised_weights_are_refused_by_name(name: str) -> None:
    with pytest.raises(CheckpointError, match=r"c\.pt: the weights are quantised \(.*\).*floating point"):
        read(Net().state_dict() | {name: torch.tensor(1)})
