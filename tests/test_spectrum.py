"""Hessian-vector products and the top eigenvalue, against dense Hessians in double precision."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unlearn_audit import tasks
from unlearn_audit.data import Examples, Transform
from unlearn_audit.engine import Compute, FullBatch, trainable
from unlearn_audit.errors import MeasurementError
from unlearn_audit.models.small import small_cnn
from unlearn_audit.spectrum import hessian_vector_product, lambda_max
from unlearn_audit.tasks import Task

Noise = Callable[..., Examples]
Floats = NDArray[np.float64]
HALF = Transform((0.5,), (0.25,))
CPU = Compute(torch.device("cpu"), chunk=10_000)


class Perceptron(nn.Module):
    """Sixteen pixels, five tanh units, three classes, in double precision; one layer that is never used."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.hidden = nn.Linear(16, 5, dtype=torch.float64)
        self.unused = nn.Linear(5, 2, dtype=torch.float64)
        self.out = nn.Linear(5, 3, dtype=torch.float64)

    def forward(self, images: Tensor) -> Tensor:
        return self.out(self.hidden(images.double().flatten(1)).tanh())  # type: ignore[no-any-return]


def dense_hessian(net: nn.Module, examples: Examples) -> Floats:
    """The whole Hessian of the mean loss, by forward over reverse differentiation of a flat parameter vector."""
    images, parameters = HALF(examples.images), trainable(net)
    flat = torch.cat([parameter.detach().reshape(-1) for parameter in parameters.values()])

    def loss(vector: Tensor) -> Tensor:
        parts = torch.split(vector, [parameter.numel() for parameter in parameters.values()])
        named = {name: part.view_as(like) for part, (name, like) in zip(parts, parameters.items(), strict=True)}
        return tasks.losses(torch.func.functional_call(net, named, (images,)), examples.labels).mean()

    return np.asarray(torch.func.hessian(loss)(flat).numpy())


@pytest.fixture(scope="module")
def examples(noise: Noise) -> Examples:
    return noise(40, classes=3)


@pytest.fixture(scope="module")
def dense(examples: Examples) -> Floats:
    return dense_hessian(Perceptron(), examples)


def test_products_are_those_of_the_dense_hessian(examples: Examples, dense: Floats) -> None:
    net, batch = Perceptron(), FullBatch(examples, HALF, compute=CPU)
    columns = [hessian_vector_product(net, batch, unit) for unit in np.eye(len(dense))]
    np.testing.assert_allclose(np.stack(columns, axis=1), dense, rtol=1e-9, atol=1e-12 * np.abs(dense).max())
    assert (dense[85:97] == 0).all(), "the unused layer has no curvature"


@pytest.mark.parametrize("chunk", [1, 7, 39])
def test_chunks_change_nothing(examples: Examples, dense: Floats, chunk: int) -> None:
    vector = np.random.default_rng(0).standard_normal(len(dense))
    batch = FullBatch(examples, HALF, compute=replace(CPU, chunk=chunk))
    np.testing.assert_allclose(
        hessian_vector_product(Perceptron(), batch, vector), dense @ vector, rtol=1e-9, atol=1e-12
    )


def test_the_product_is_symmetric(noise: Noise) -> None:
    torch.manual_seed(0)
    net = small_cnn(classes=4, channels=1).eval()
    batch = FullBatch(noise(30), HALF, compute=CPU)
    rng = np.random.default_rng(1)
    size = sum(parameter.numel() for parameter in net.parameters())
    u, v = rng.standard_normal((2, size)) / np.sqrt(size)
    left, right = (first @ hessian_vector_product(net, batch, second) for first, second in ((u, v), (v, u)))
    scale = np.linalg.norm(hessian_vector_product(net, batch, v))
    assert left == pytest.approx(right, abs=1e-5 * scale)
    assert all(parameter.grad is None for parameter in net.parameters())


def test_lambda_max_is_the_largest_eigenvalue_of_the_dense_hessian(examples: Examples, dense: Floats) -> None:
    top = np.linalg.eigvalsh(dense)[-1]
    net, batch = Perceptron().train(), FullBatch(examples, HALF, compute=CPU)
    found = lambda_max(net, batch, tolerance=1e-10)
    assert found.value == pytest.approx(top, rel=1e-9)
    assert not net.training
    quick = lambda_max(net, batch)
    assert quick.value == pytest.approx(top, rel=0.01)
    assert 0 < quick.products < found.products
    assert quick == lambda_max(net, batch)


def test_every_product_is_counted(examples: Examples) -> None:
    net, passes = Perceptron(), []
    net.register_forward_hook(lambda *_: passes.append(1))
    assert lambda_max(net, FullBatch(examples, HALF, compute=CPU)).products == len(passes)


def test_it_is_the_largest_and_not_the_largest_in_size(examples: Examples) -> None:
    class Point(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.place = nn.Parameter(torch.ones(30, dtype=torch.float64))

        def forward(self, images: Tensor) -> Tensor:
            return self.place.expand(len(images), -1)

    slopes = torch.linspace(-9, 2, 30, dtype=torch.float64)
    saddle = Task(lambda place, labels: place.square() @ slopes / 2, lambda place, labels: torch.zeros(len(place)))
    found = lambda_max(Point(), FullBatch(examples, HALF, compute=CPU, task=saddle))
    assert found.value == pytest.approx(2.0, rel=0.01)


def test_attention_has_a_second_derivative(examples: Examples) -> None:
    class Attentive(nn.Module):
        """Rows attend to rows, by the fused kernel where torch has one."""

        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
            self.out = nn.Linear(4, 3)

        def forward(self, images: Tensor) -> Tensor:
            rows = images[:, 0].to(self.out.weight.dtype)
            mixed = self.attention(rows, rows, rows, need_weights=False)[0]
            return self.out(mixed.mean(1))  # type: ignore[no-any-return]

    net = Attentive().double().eval()
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        dense = dense_hessian(net, examples)
    found = lambda_max(net, FullBatch(examples, HALF, compute=CPU), tolerance=1e-8)
    assert found.value == pytest.approx(np.linalg.eigvalsh(dense)[-1], rel=1e-7)


def test_curvature_that_is_not_finite_is_refused(examples: Examples) -> None:
    net = Perceptron()
    nn.init.constant_(net.out.weight, float("nan"))
    with pytest.raises(MeasurementError, match="curvature at the start is not finite; give --step-size a number"):
        lambda_max(net, FullBatch(examples, HALF, compute=CPU))
