"""Influence unlearning: exact where the loss is quadratic, the matrix against the dense one, the solver by NumPy."""

import numpy as np
import pytest
import torch
from small_problems import CPU, HALF, Plain, make_context, make_net, parameters_of, same, snapshot
from torch import Tensor, nn
from torch.nn import functional

from unlearn_audit.data import Examples, Splits
from unlearn_audit.engine import FullBatch
from unlearn_audit.engine.task import Task
from unlearn_audit.methods.iu import (
    GaussNewton,
    IuSettings,
    conjugate_gradients,
    flat,
    mean_diagonal,
    right_side,
    run_iu,
)
from unlearn_audit.streams import generator


def batch_of(examples: Examples, **more: Task) -> FullBatch:
    return FullBatch(examples, HALF, compute=CPU, **more)


class Linear(nn.Module):
    """Least squares on pixels, in double precision."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 4).double()

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images.flatten(1).double())  # type: ignore[no-any-return]


def squares(outputs: Tensor, labels: Tensor) -> Tensor:
    return 0.5 * (outputs - functional.one_hot(labels, 4)).square().sum(dim=1)


def fitted(examples: Examples) -> Tensor:
    """The weights [4, 17] of least squares, the bias last."""
    inputs = HALF(examples.images).flatten(1).double().numpy()
    targets = functional.one_hot(examples.labels, 4).double().numpy()
    return torch.from_numpy(np.linalg.lstsq(np.column_stack([inputs, np.ones(len(inputs))]), targets, rcond=None)[0].T)


def test_on_least_squares_a_step_is_retraining(splits: Splits) -> None:
    model, task = Linear(), Task(squares, squares)
    start, wanted = fitted(splits.dataset.train), fitted(splits.retain_examples)
    with torch.no_grad():
        model.layer.weight.copy_(start[:, :16])
        model.layer.bias.copy_(start[:, 16])
    forget, retain = (batch_of(each, task=task) for each in (splits.forget_examples, splits.retain_examples))
    v = right_side(model, forget, retain)
    retain.forward_backward(model)
    torch.testing.assert_close(v, -flat(each.grad for each in model.parameters()), rtol=1e-9, atol=1e-13)
    solved = conjugate_gradients(GaussNewton(model, retain).__matmul__, v, iterations=100)
    assert solved.residual <= 1e-10
    assert solved.products <= 40
    found = flat(model.parameters()) + solved.x
    torch.testing.assert_close(found, flat([wanted[:, :16], wanted[:, 16]]), rtol=1e-9, atol=1e-11)
    assert (flat([start[:, :16], start[:, 16]]) - found).norm() > 0.1


@pytest.mark.parametrize("chunk", [7, 1000])
def test_a_product_is_that_of_the_dense_matrix(splits: Splits, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unlearn_audit.methods.iu.FEWEST", chunk)
    model, examples = Plain(), splits.forget_examples
    matrix = GaussNewton(model, batch_of(examples))
    dense = torch.zeros(130, 130).double()
    for image in HALF(examples.images):
        outputs = model(image[None])[0]
        slopes = [flat(torch.autograd.grad(each, list(model.parameters()), retain_graph=True)) for each in outputs]
        p, jacobian = outputs.softmax(dim=0).detach(), torch.stack(slopes)
        dense += jacobian.T @ (torch.diag(p) - torch.outer(p, p)) @ jacobian / len(examples)
    vector = torch.linspace(-1, 1, 130).double()
    torch.testing.assert_close(matrix @ vector, dense @ vector, rtol=1e-7, atol=1e-12)
    estimate = mean_diagonal(lambda v: dense @ v, vector, generator("influence", 0))
    assert estimate == pytest.approx(dense.trace().item() / 130, rel=0.5)


def test_the_mean_of_a_diagonal_matrix_is_exact() -> None:
    diagonal = torch.tensor([1.0, 2.0, 6.0]).double()
    assert mean_diagonal(lambda v: diagonal * v, diagonal, generator("influence", 0)) == pytest.approx(3)


def test_the_solver_against_numpy_and_where_it_stops() -> None:
    stream = np.random.default_rng(0)
    root = stream.standard_normal((12, 12))
    matrix, b = torch.from_numpy(root @ root.T + np.eye(12)), torch.from_numpy(stream.standard_normal(12))
    solved = conjugate_gradients(lambda v: matrix @ v, b, iterations=40)
    np.testing.assert_allclose(solved.x.numpy(), np.linalg.solve(matrix.numpy(), b.numpy()), rtol=1e-7)
    assert solved.products < 20
    early = conjugate_gradients(lambda v: matrix @ v, b, iterations=3)
    assert early.products == 3
    assert early.residual == pytest.approx(float((b - matrix @ early.x).norm() / b.norm()))
    assert conjugate_gradients(lambda v: matrix @ v, 0 * b, iterations=3) == (pytest.approx(0 * b), 0.0, 0)
    flat_one = conjugate_gradients(lambda v: 0 * v, b, iterations=3)
    assert (flat_one.x.abs().max().item(), flat_one.residual, flat_one.products) == (0.0, 1.0, 1)


def test_a_run_takes_the_step_of_its_equation_and_records_how_well_it_is_solved(splits: Splits) -> None:
    model = Plain()
    before = flat(model.parameters())
    done = run_iu(make_context(model, splits), IuSettings(iterations=60, damping=0.1, strength=2.0))
    step = (flat(model.parameters()) - before) / 2
    other = Plain()
    matrix = GaussNewton(other, batch_of(splits.retain_examples))
    v = right_side(other, batch_of(splits.forget_examples), batch_of(splits.retain_examples))
    rest = v - (matrix @ step + done.figures["damping"] * step)
    assert float(rest.norm() / v.norm()) == pytest.approx(done.figures["residual"], rel=0.1, abs=1e-9)
    assert done.figures["residual"] < 1e-3
    assert done.figures["length of the step"] == pytest.approx(2 * step.norm().item())
    assert done.gradient_evaluations == 100 + 2 * 90 * done.figures["products"]


def test_no_strength_changes_nothing_and_buffers_stay(splits: Splits) -> None:
    model = make_net()
    before = snapshot(model)
    done = run_iu(make_context(model, splits), IuSettings(strength=0, iterations=2, sample=20))
    assert same(model, before)
    assert done.figures["products"] == 10
    assert done.gradient_evaluations == 100 + 2 * 20 * 10
    run_iu(make_context(model, splits), IuSettings(iterations=2, sample=20))
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    assert any((each != before[name]).any() for name, each in parameters_of(model).items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_sample_and_the_probes_come_from_the_seed(splits: Splits) -> None:
    found = []
    for seed in (0, 0, 1):
        model = Plain()
        run_iu(make_context(model, splits, seed), IuSettings(iterations=3, sample=20))
        found.append(snapshot(model))
    assert same(found[0], found[1])
    assert not same(found[0], found[2])
