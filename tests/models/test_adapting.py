"""Models of the user's own: served as they need, or refused with what they raised and where."""

import copy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from unlearn_audit import models
from unlearn_audit.data import Dataset, Examples
from unlearn_audit.engine import Device, FullBatch, predict
from unlearn_audit.errors import MeasurementError
from unlearn_audit.training import SMALL, train

CPU = Device(torch.device("cpu"))
SPEC = "mine:make"
Noise = Callable[..., Examples]


class Flat(nn.Module):
    """A network that takes any layout; those below do the same in another way."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two = nn.Conv2d(channels, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.fc = nn.Linear(6 * 16, 5)

    def body(self, x: Tensor) -> Tensor:
        return functional.relu(self.norm(self.two(functional.relu(self.one(x)))))

    def forward(self, x: Tensor) -> object:
        return self.fc(self.body(x).flatten(1))


class View(Flat):
    def forward(self, x: Tensor) -> object:
        return self.fc(self.body(x).view(len(x), -1))


class Strided(Flat):
    """Takes channels-last images for something else, without an exception."""

    def forward(self, x: Tensor) -> object:
        return self.fc(torch.as_strided(self.body(x), (len(x), 96), (96, 1)))


class ViewInTraining(Flat):
    def forward(self, x: Tensor) -> object:
        x = self.body(x)
        return self.fc(x.view(len(x), -1) if self.training else x.flatten(1))


class _Viewed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: object, slope: Tensor) -> Tensor:
        return slope.view(len(slope), -1).view(slope.shape)


class ViewInBackward(Flat):
    def body(self, x: Tensor) -> Tensor:
        return functional.relu(self.norm(self.two(_Viewed.apply(functional.relu(self.one(x))))))


class Overwriting(Flat):
    def forward(self, x: Tensor) -> object:
        return super().forward(x.mul_(2).sub_(1))


class Overwritten(Flat):
    def forward(self, x: Tensor) -> object:
        return super().forward(2 * x - 1)


class Packing(Flat):
    """Puts its logits into something else."""

    def __init__(self, pack: Callable[[Tensor, Tensor], object]) -> None:
        super().__init__()
        self.pack = pack

    def forward(self, x: Tensor) -> object:
        features = self.body(x).flatten(1)
        return self.pack(self.fc(features), features)


class Named:
    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


class Raising(Flat):
    def __init__(self, raising: Callable[[nn.Module, Tensor], None]) -> None:
        super().__init__()
        self.raising = raising

    def forward(self, x: Tensor) -> object:
        self.raising(self, x)
        return super().forward(x)


def images(n: int = 6, channels: int = 3) -> Tensor:
    return torch.rand(n, channels, 4, 4, generator=torch.Generator().manual_seed(1))


def adapted(model: nn.Module, channels: int = 3) -> tuple[nn.Module, str]:
    """Return the model as it is served, and what was said."""
    placed = CPU.to_device(model).eval()
    return placed, " | ".join(models.adapt(placed, images(channels=channels), spec=SPEC, classes=5))


def same_logits(one: nn.Module, other: nn.Module, channels: int = 3) -> bool:
    found = [
        predict(model.float(), images(channels=channels), lambda batch: batch.clone(), compute=CPU)
        for model in (one, other)
    ]
    return torch.allclose(*map(torch.from_numpy, found), atol=1e-5)


# ----- layouts


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", [View, Strided, ViewInTraining])
def test_a_model_that_cannot_take_channels_last_is_served_contiguously(kind: type[Flat], channels: int) -> None:
    model, said = adapted(kind(channels), channels)
    assert "contiguous layout" in said
    assert same_logits(model, CPU.to_device(Flat(channels)), channels)
    again = CPU.to_device(copy.deepcopy(model)).train()
    packed = images(channels=channels).clone(memory_format=torch.channels_last)
    again(packed).sum().backward()
    assert models.layout_of(again) == torch.contiguous_format
    assert again.state_dict().keys() == Flat(channels).state_dict().keys()


def test_a_view_in_the_backward_pass_alone_is_found() -> None:
    model, said = adapted(ViewInBackward())
    assert "in the backward pass, RuntimeError: view size" in said
    model(images().clone(memory_format=torch.channels_last)).sum().backward()


def test_a_model_that_takes_channels_last_is_left_alone() -> None:
    model, said = adapted(Flat())
    assert said == ""
    assert not model._forward_pre_hooks
    assert not model._forward_hooks
    assert model.two.weight.is_contiguous(memory_format=torch.channels_last)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_adapting_leaves_weights_statistics_modes_and_random_streams(noise: Noise) -> None:
    model = CPU.to_device(View()).train()
    model.norm.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    stream = torch.get_rng_state()
    models.adapt(model, images(), spec=SPEC)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.training
    assert not model.norm.training
    assert torch.equal(torch.get_rng_state(), stream)


def test_a_model_with_view_is_trained_from_its_name(
    noise: Noise, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nets_with_view.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.conv, self.fc = nn.Conv2d(1, 4, 3), nn.LazyLinear(4)\n"
        "    def forward(self, x):\n"
        "        return self.fc(self.conv(x).view(len(x), -1))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    data = Dataset("noise", noise(20), noise(8, seed=1), 4, (0.5,), (0.25,), "0" * 64)
    recipe = SMALL.__class__("few", 1, 8, 0.1, 0.9, 0.0, augment=False)
    rows = torch.arange(20).numpy()
    trained = [
        train("nets_with_view:Net", data, rows, recipe, seed=3, compute=CPU, allow_code=True).model for _ in range(2)
    ]
    assert torch.equal(trained[0].fc.weight, trained[1].fc.weight)
    assert trained[0].fc.weight.shape == (4, 16)


# ----- inputs, precision


def test_a_model_that_writes_into_its_images_gets_copies(noise: Noise) -> None:
    model, said = adapted(Overwriting())
    assert "gets copies" in said
    examples = noise(8, classes=5, channels=3)
    batch = FullBatch(examples, lambda batch: batch.float() / 255, compute=CPU)
    kept = batch.parts[0][0].clone()
    first, second = batch.forward(model), batch.forward(model)
    assert torch.equal(batch.parts[0][0], kept)
    assert (first.losses == second.losses).all()
    assert same_logits(model, CPU.to_device(Overwritten()))


def test_a_double_model_gets_doubles_and_a_half_one_computes_in_float32() -> None:
    model, said = adapted(Flat().double())
    assert "float64" in said
    assert model(images()).dtype == torch.float64
    model, said = adapted(Flat().bfloat16())
    assert "bfloat16" in said
    assert "float32" in said
    assert model(images()).dtype == torch.float32


# ----- answers


@pytest.mark.parametrize(
    ("pack", "told"),
    [
        (lambda logits, features: Named(logits), "of the Named that the model returns, 'logits' is read"),
        (lambda logits, features: {"loss": None, "logits": logits}, "'logits' is read"),
        (lambda logits, features: (features, logits), "entry 1 is read"),
        (lambda logits, features: {"embedding": features, "out": logits}, "'out' is read"),
    ],
)
def test_logits_are_found_in_what_a_model_returns(pack: Callable[..., object], told: str) -> None:
    model, said = adapted(Packing(pack))
    assert told in said
    assert same_logits(model, CPU.to_device(Flat()))
    assert isinstance(copy.deepcopy(model).train()(images()), Tensor)


@pytest.mark.parametrize(
    ("pack", "told"),
    [
        (lambda logits, features: (logits, 2 * logits), r"tuple .* holds 0: \[4, 5\], 1: \[4, 5\]; return the logits"),
        (lambda logits, features: {"a": features}, r"'a': \[4, 96\]; return the logits alone"),
        (lambda logits, features: logits.sum(1, keepdim=True), "one column .* before the sigmoid"),
        (lambda logits, features: features, "96 columns .* the data has 5 classes"),
        (lambda logits, features: logits[logits[:, 0] > logits[:, 0].mean()], r"\[\d, 5\] of torch.float32 instead"),
        (lambda logits, features: logits.softmax(1), "probabilities: every row lies in .* leave out the last softmax"),
        (lambda logits, features: (50 * logits).softmax(1), "probabilities"),
        (lambda logits, features: {"logits": logits.softmax(1)}, "probabilities"),
        (lambda logits, features: logits.sigmoid(), "between 0 and 1 .* sigmoid"),
        (lambda logits, features: logits - logits.mean(0), "where other images stand beside it"),
    ],
)
def test_what_is_no_logits_is_refused_with_the_way_out(pack: Callable[..., object], told: str) -> None:
    with pytest.raises(MeasurementError, match=told):
        adapted(Packing(pack))


def test_log_probabilities_are_logits_of_the_same_meaning() -> None:
    model, said = adapted(Packing(lambda logits, features: logits.log_softmax(1)))
    assert "log-probabilities" in said
    assert torch.allclose(model(images()).softmax(1), CPU.to_device(Flat()).eval()(images()).softmax(1), atol=1e-6)


@pytest.mark.parametrize("bias", [0.2, 0.5])
def test_a_model_that_answers_everything_alike_is_not_taken_for_a_sigmoid(bias: float) -> None:
    model = Flat()
    nn.init.zeros_(model.fc.weight)
    nn.init.constant_(model.fc.bias, bias + 0.01)
    adapted(model)


def test_batchnorm_without_running_statistics_is_refused() -> None:
    model = Flat()
    model.norm = nn.BatchNorm2d(6, track_running_stats=False)
    with pytest.raises(MeasurementError, match="BatchNorm without running statistics"):
        adapted(model)


def test_a_model_that_squeezes_tells_that_it_takes_no_single_image() -> None:
    model, said = adapted(Packing(lambda logits, features: logits.squeeze()))
    assert "no single image" in said
    assert models.flops_per_image(model, images(1)) == models.flops_per_image(CPU.to_device(Flat()), images(1))


# ----- exceptions of the model's own


def _fails(message: str) -> Callable[[nn.Module, Tensor], None]:
    def fail(model: nn.Module, x: Tensor) -> None:
        raise KeyError(message)

    return fail


def _fails_in_evaluation(model: nn.Module, x: Tensor) -> None:
    if not model.training:
        raise ValueError("no running mean")


def _wants_eight(model: nn.Module, x: Tensor) -> None:
    x.view(8, -1, 4, 4)


@pytest.mark.parametrize(
    ("raising", "told"),
    [
        (_fails("wheel"), r"KeyError: 'wheel' \(.*test_adapting.py:\d+, in fail\)"),
        (_fails("long " * 1000), "…"),
        (_fails("\x1b[31mred"), r"KeyError: '\\x1b\[31mred'"),
        (_fails_in_evaluation, "ValueError: no running mean .*; in training mode it answers"),
        (_wants_eight, r"RuntimeError: shape '\[8, -1, 4, 4\]' is invalid .*_wants_eight"),
    ],
)
def test_an_exception_of_the_model_is_told_and_the_data_are_not_blamed(
    raising: Callable[[nn.Module, Tensor], None], told: str
) -> None:
    with pytest.raises(MeasurementError, match=told) as caught:
        adapted(Raising(raising))
    said = str(caught.value)
    assert "an exception of its own" in said
    assert "\n" not in said
    assert len(said) < 800
    assert "--data" not in said


def test_an_exception_in_the_midst_of_a_measurement_has_its_place() -> None:
    model, _ = adapted(Flat())
    model.forward = _stumble  # type: ignore[method-assign]
    with pytest.raises(MeasurementError, match=r"the model raised ArithmeticError: twelve \(.*, in _stumble\)"):
        predict(model, images(), lambda batch: batch, compute=CPU)


def _stumble(x: Tensor) -> Tensor:
    raise ArithmeticError("twelve")


def test_an_exception_that_is_not_the_models_passes_as_it_is() -> None:
    with pytest.raises(ZeroDivisionError), models.models_own("a test stopped"):
        1 / 0  # noqa: B018


def test_a_model_without_a_gradient_is_told() -> None:
    with torch.no_grad():
        assert "cannot relearn or unlearn" in adapted(Packing(lambda logits, features: logits.detach()))[1]


def test_a_model_that_cannot_be_copied_is_told() -> None:
    model = Flat()
    model.rows = (row for row in range(3))  # type: ignore[assignment]
    with pytest.raises(MeasurementError, match="cannot be copied, which relearning and unlearning need: TypeError"):
        adapted(model)


def test_lazy_layers_take_their_shapes_from_the_images() -> None:
    model = nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten(), nn.LazyLinear(5))
    models.materialise(model, images(), spec=SPEC)
    assert model[2].weight.shape == (5, 16)
    models.load_state(model, copy.deepcopy(model).state_dict(), where="lazy.pt")
