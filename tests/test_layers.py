"""The affine layers of a network, against M written out as a dense matrix, and against the Fourier transform."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from unlearn_audit.errors import MeasurementError
from unlearn_audit.layers import Layer, affine_layers, power_qr, squared_frobenius, start_vectors

SHAPE = (3, 8, 8)
LAYERS: dict[str, Callable[[], nn.Module]] = {
    "zeros": lambda: nn.Conv2d(3, 5, 3, padding=1),
    "strided": lambda: nn.Conv2d(3, 5, 3, padding=1, stride=2),
    "circular": lambda: nn.Conv2d(3, 5, 3, padding=1, padding_mode="circular"),
    "reflect": lambda: nn.Conv2d(3, 5, 3, padding=1, padding_mode="reflect", bias=False),
    "grouped": lambda: nn.Conv2d(3, 6, 3, padding=1, groups=3),
    "dilated": lambda: nn.Conv2d(3, 5, 3, padding=2, dilation=2),
    "valid": lambda: nn.Conv2d(3, 5, (3, 2)),
    "transposed": lambda: nn.ConvTranspose2d(3, 5, 3, stride=2),
}


def made(make: Callable[[], nn.Module], shape: tuple[int, ...] = SHAPE, seed: int = 0) -> Layer:
    torch.manual_seed(seed)
    return Layer("layer", make().double(), shape)


def dense(layer: Layer) -> Tensor:
    """M, one column for each entry of an input: f of it minus f(0), with nothing of ours but the layer's call."""
    size = math.prod(layer.shape)
    with torch.no_grad():
        given = torch.cat([torch.eye(size), torch.zeros(1, size)]).double().reshape(-1, *layer.shape)
        found = layer.module(given)
        found = found if layer.norm is None else layer.norm(found)
    return (found[:-1] - found[-1]).flatten(1).T


def search(layer: Layer, k: int = 1, iterations: int = 100, seed: int = 0) -> Tensor:
    return power_qr(layer, start_vectors(layer, k, seed=seed), k=k, iterations=iterations).values


@pytest.mark.parametrize("kind", LAYERS)
def test_the_leading_values_are_those_of_the_dense_matrix(kind: str) -> None:
    layer = made(LAYERS[kind])
    matrix = dense(layer)
    values = torch.linalg.svdvals(matrix)
    assert search(layer, k=3, iterations=100) == pytest.approx(values[:3], rel=1e-3)
    exact = squared_frobenius(layer)
    assert exact is None if kind == "reflect" or kind == "circular" else exact == pytest.approx(matrix.square().sum())


def test_circular_padding_has_the_values_of_the_fourier_transform() -> None:
    layer = made(LAYERS["circular"])
    kernels = np.fft.fft2(layer.weight.detach().numpy(), SHAPE[1:], axes=(2, 3)).transpose(2, 3, 0, 1)
    top = np.linalg.svd(kernels, compute_uv=False).max()
    assert float(search(layer, iterations=300)) == pytest.approx(top, rel=1e-5)


def test_a_convolution_and_its_batchnorm_are_one_map() -> None:
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(3, 5, 3, padding=1).double(), nn.BatchNorm2d(5).double()
    norm(conv(torch.randn(9, *SHAPE).double()))
    norm.weight.data.uniform_(0.5, 2)
    layer = Layer("both", conv, SHAPE, norm.eval())
    values = torch.linalg.svdvals(dense(layer))
    assert float(search(layer)) == pytest.approx(float(values[0]), rel=1e-4)
    assert abs(float(values[0]) - float(search(Layer("conv", conv, SHAPE)))) > 0.1
    assert squared_frobenius(layer) is None


def test_a_linear_layer_is_its_weight() -> None:
    layer = made(lambda: nn.Linear(20, 7), (20,))
    assert search(layer, k=7) == pytest.approx(torch.linalg.svdvals(layer.weight.detach()), rel=1e-9)
    assert squared_frobenius(layer) == pytest.approx(float(layer.weight.detach().square().sum()))
    assert layer.is_matrix
    assert not made(LAYERS["zeros"]).is_matrix


def test_no_estimate_is_above_the_largest_value_or_below_what_its_start_is_stretched_by() -> None:
    layer = made(LAYERS["strided"])
    top = float(torch.linalg.svdvals(dense(layer))[0])
    for seed in range(50):
        start = start_vectors(layer, 1, seed=seed)
        stretched = layer.times(start[:1]).norm() / start[:1].norm()
        value = float(power_qr(layer, start, k=1, iterations=1).values[0])
        assert float(stretched) * (1 - 1e-12) <= value <= top * (1 + 1e-12)


@pytest.mark.parametrize("scale", [1.0, 0.05])
@pytest.mark.parametrize(("gap", "iterations", "error"), [(0.02, 10, 0.04), (1e-4, 60, 1e-5)])
def test_ten_iterations_are_near_and_sixty_there_whatever_the_scale(
    gap: float, iterations: int, error: float, scale: float
) -> None:
    for seed in range(4):
        torch.manual_seed(seed)
        left, right = (torch.linalg.qr(torch.randn(60, 60, dtype=torch.float64)).Q for _ in range(2))
        values = torch.linspace(1 - gap, 0.05, 60, dtype=torch.float64)
        values[0] = 1
        layer = made(lambda: nn.Linear(60, 60), (60,))
        layer.weight.data = scale * left @ torch.diag(values) @ right
        assert abs(float(search(layer, iterations=iterations, seed=seed)) / scale - 1) < error


def test_what_is_found_says_how_sure_it_is() -> None:
    layer = made(LAYERS["zeros"])
    early, late = (power_qr(layer, start_vectors(layer, 2, seed=0), k=2, iterations=n) for n in (1, 300))
    assert not early.converged
    assert late.converged
    matrix = dense(layer)
    vector = late.vectors[0].flatten()
    assert (matrix.T @ matrix @ vector - late.values[0] ** 2 * vector).norm() == pytest.approx(late.residual, abs=1e-9)
    squares = torch.linalg.svdvals(matrix).square()
    assert (squares - early.values[0] ** 2).abs().min() <= early.residual


def test_a_layer_of_zeros_stretches_nothing_and_one_that_is_not_finite_is_named() -> None:
    layer = made(LAYERS["zeros"])
    layer.weight.data.zero_()
    assert search(layer).tolist() == [0.0]
    layer.weight.data.fill_(math.nan)
    with pytest.raises(MeasurementError, match="the weights of layer are not finite"):
        search(layer)


def test_a_layer_with_fewer_inputs_than_vectors_has_as_many_values_as_it_has() -> None:
    layer = made(lambda: nn.Linear(2, 9), (2,))
    assert search(layer, k=5) == pytest.approx(torch.linalg.svdvals(layer.weight.detach()))


# ----- which layers there are


class Net(nn.Module):
    """A convolution before BatchNorm, one before an edit in place, one that is never called, a layer called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm_one = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
        self.two, self.norm_two = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.idle = nn.Conv2d(4, 4, 3)
        self.last = nn.Linear(4, 3)
        self.again = nn.Linear(3, 3)

    def forward(self, images: Tensor) -> Tensor:
        found = self.norm_one(self.one(images))
        found = self.norm_two(functional.relu(self.two(found), inplace=True))
        return self.again(self.again(self.last(found.mean((2, 3)))))  # type: ignore[no-any-return]


def test_one_forward_pass_says_what_each_layer_is_given_and_leaves_no_trace() -> None:
    model = Net()
    model.norm_two.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = affine_layers(model, torch.rand(1, 1, 6, 6), with_norms=True)
    shapes = {layer.name: layer.shape for layer in found}
    assert shapes == {"one": (1, 6, 6), "two": (4, 4, 4), "last": (4,), "again": (3,)}
    assert [layer.norm for layer in found] == [model.norm_one, None, None, None]
    assert {name for name, module in model.named_modules() if module.training} == {
        "", "one", "norm_one", "two", "idle", "last", "again",
    }  # fmt: skip
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
    assert [layer.norm for layer in affine_layers(model, torch.rand(1, 1, 6, 6))] == [None] * 4


def test_a_model_that_cannot_take_the_sample_is_told_as_the_models_own_problem() -> None:
    with pytest.raises(MeasurementError, match="a forward pass that traces its layers failed: the model raised"):
        affine_layers(Net(), torch.rand(1, 3, 6, 6))
