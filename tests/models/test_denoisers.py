"""Denoisers: a U-Net under its own names, called with noise, copied, tried and counted like any other model."""

import copy
import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from unlearn_audit import models
from unlearn_audit.errors import MeasurementError, UsageError
from unlearn_audit.models.denoisers import Denoiser, Noised, library, linear_schedule

NEEDS = "pip install 'unlearn-audit[diffusion]'"


class Net(nn.Module):
    """Something with parts, weights and a buffer of its own, which answers with what it is told the class is."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.embedding = nn.Embedding(3, 1)
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x: Tensor, t: Tensor, class_labels: Tensor) -> Tensor:
        return self.scale * x + self.embedding(class_labels).view(-1, 1, 1, 1) * self.training


def made(size: int = 8, name: str = "tiny-unet") -> Denoiser:
    pytest.importorskip("diffusers", reason=NEEDS)
    torch.manual_seed(0)
    model = models.build(name, classes=10, channels=1)
    assert isinstance(model, Denoiser)
    return model


def test_diffusers_is_imported_without_the_network_and_keeps_silent() -> None:
    pytest.importorskip("diffusers", reason=NEEDS)
    code = (
        "import logging; from unlearn_audit.models.denoisers import library; library(); "
        "from huggingface_hub import constants; from diffusers.utils import logging as theirs; "
        "assert constants.HF_HUB_OFFLINE; assert theirs.get_verbosity() == logging.ERROR"
    )
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_OFFLINE")}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_weights_have_the_names_of_the_network_itself() -> None:
    net = Net()
    model = Denoiser(net, linear_schedule(), null=2)
    assert list(model.state_dict()) == list(net.state_dict()) == ["scale", "seen", "embedding.weight"]
    assert [name for name, _ in model.named_parameters()] == ["scale", "embedding.weight"]
    model.load_state_dict({name: torch.full_like(each, 4.0) for name, each in net.state_dict().items()})
    assert float(net.scale.detach()) == 4.0


def test_a_copy_has_weights_of_its_own_and_still_answers_with_them() -> None:
    model = Denoiser(Net(), linear_schedule(), null=2)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.scale.mul_(3)
    given = other.asked(torch.ones(2, 1, 4, 4))
    assert model.eval()(given).unique().tolist() == [1.0]
    assert other.eval()(given).unique().tolist() == [3.0]


def test_the_network_is_in_the_mode_that_the_denoiser_is_in() -> None:
    model = Denoiser(Net(), linear_schedule(), null=2)
    given = Noised(torch.zeros(1, 1, 2, 2), torch.tensor([3]), torch.tensor([1]))
    assert model.train()(given).abs().sum() > 0
    assert model.eval()(given).abs().sum() == 0


@pytest.mark.parametrize(("name", "count"), [("small-unet", 652_449), ("tiny-unet", 164_689)])
def test_our_networks_have_the_sizes_they_say(name: str, count: int) -> None:
    model = made(name=name)
    assert models.parameter_count(model) == count
    assert model.null == 10
    assert set(models.build(name, classes=10, channels=1).state_dict()) == set(model.unet.state_dict())


@pytest.mark.parametrize("size", [8, 14, 28])
def test_a_network_takes_images_of_even_sizes(size: int) -> None:
    assert models.adapt(made(), torch.randn(3, 1, size, size), spec="tiny-unet") == ()


def test_a_pass_over_four_times_the_pixels_takes_nearly_four_times_the_operations() -> None:
    small, large = (models.flops_per_image(made(), torch.randn(1, 1, size, size)) for size in (8, 16))
    convolution = 2 * 64 * 9 * 16  # the first one alone: 8 x 8 places, 3 x 3 weights, 16 channels
    assert small > 20 * convolution
    assert 3.7 < large / small < 4.2


def test_images_that_it_cannot_take_are_refused_by_name() -> None:
    with pytest.raises(MeasurementError, match=r"'tiny-unet' cannot take"):
        models.adapt(made(), torch.randn(2, 1, 7, 7), spec="tiny-unet")


def test_an_answer_of_another_shape_is_refused() -> None:
    class Smaller(Net):
        def forward(self, x: Tensor, t: Tensor, class_labels: Tensor) -> Tensor:
            return x[..., :2]

    with pytest.raises(MeasurementError, match="a denoiser answers in the shape"):
        models.adapt(Denoiser(Smaller(), linear_schedule()), torch.ones(2, 1, 4, 4), spec="mine")


def test_a_missing_library_is_told_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "diffusers", None)
    with pytest.raises(UsageError, match=r"pip install 'unlearn-audit\[diffusion\]'"):
        library()
