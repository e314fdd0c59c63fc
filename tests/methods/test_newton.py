"""The Newton step of a head: exact on least squares, by either form, and damped where it is not defined."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from small_problems import HALF, Plain, make_context, make_net, same, snapshot
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from unlearn_audit.data import Splits
from unlearn_audit.errors import ConfigError, UsageError
from unlearn_audit.methods.apply import parse_settings
from unlearn_audit.methods.newton import (
    NEWTON,
    NewtonSettings,
    direct_step,
    head_of,
    hessian,
    roots,
    run_newton,
    woodbury_step,
)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_on_ridge_regression_it_is_the_refit_and_influence_is_not() -> None:
    inputs, wanted, ridge = drawn(60, 7), drawn(60, seed=1), 0.5
    whole = inputs.T @ inputs + ridge * torch.eye(7)
    theta = torch.linalg.solve(whole, inputs.T @ wanted)
    gone, kept = slice(0, 12), slice(12, None)
    left = inputs[kept].T @ inputs[kept] + ridge * torch.eye(7)
    refit = torch.linalg.solve(left, inputs[kept].T @ wanted[kept])
    slope = inputs[gone].T @ (inputs[gone] @ theta - wanted[gone])
    for solved in (woodbury_step(whole, inputs[gone], slope), direct_step(left, slope)):
        torch.testing.assert_close(theta + solved.step, refit, rtol=1e-12, atol=1e-13)
        assert solved.damping == 0
    influence = torch.linalg.solve(whole, slope)
    assert (theta + influence - refit).norm() > 0.1 * (theta - refit).norm()


def loss(theta: Tensor, inputs: Tensor, labels: Tensor, ridge: float) -> Tensor:
    return functional.cross_entropy(inputs @ theta.T, labels, reduction="sum") + ridge / 2 * theta.square().sum()


def fitted(inputs: Tensor, labels: Tensor, ridge: float) -> Tensor:
    """The minimum [C, width], by another optimiser."""
    theta = torch.zeros(int(labels.max()) + 1, inputs.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([theta], max_iter=300, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe")  # fmt: skip # noqa: E501

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(theta, inputs, labels, ridge)
        torch.autograd.backward(value)
        return value

    optimizer.step(closure)
    return theta.detach()


def test_hessian_and_its_root_are_those_of_the_cross_entropy() -> None:
    inputs, labels, theta = drawn(9, 3), torch.arange(9) % 4, drawn(4, 3, seed=2)

    def of_flat(flat: Tensor) -> Tensor:
        return loss(flat.reshape(4, 3), inputs, labels, 0.3)

    expected = torch.autograd.functional.hessian(of_flat, theta.reshape(-1))
    probabilities = (inputs @ theta.T).softmax(1)
    torch.testing.assert_close(hessian(inputs, probabilities, 0.3), expected)
    root = roots(inputs, probabilities)
    assert root.shape == (36, 12)
    torch.testing.assert_close(root.T @ root, hessian(inputs, probabilities))


def test_on_softmax_regression_it_comes_much_nearer_than_influence_by_either_form() -> None:
    inputs, ridge = torch.cat([drawn(400, 5), torch.ones(400, 1, dtype=torch.float64)], dim=1), 1.0
    labels = (inputs @ drawn(6, 3, seed=1) + 4 * drawn(400, 3, seed=2)).argmax(1)  # hard to tell apart
    gone, kept = slice(0, 80), slice(80, None)
    original, retrained = fitted(inputs, labels, ridge), fitted(inputs[kept], labels[kept], ridge)
    probabilities = (inputs @ original.T).softmax(1)
    slope = ((probabilities - functional.one_hot(labels, 3)).T[:, gone] @ inputs[gone]).reshape(-1)
    whole = hessian(inputs, probabilities, ridge)
    by_woodbury = woodbury_step(whole, roots(inputs[gone], probabilities[gone]), slope).step
    directly = direct_step(hessian(inputs[kept], probabilities[kept], ridge), slope).step
    torch.testing.assert_close(by_woodbury, directly, rtol=1e-10, atol=1e-13)
    influence = torch.linalg.solve(whole, slope)
    away, by_influence, by_newton = (
        (original.reshape(-1) + step - retrained.reshape(-1)).norm().item() for step in (0.0, influence, directly)
    )
    assert by_influence < 0.4 * away
    assert by_newton < 0.5 * by_influence


@pytest.mark.parametrize("size", [1.0, 3.0])
def test_a_curvature_that_has_not_the_forget_set_in_it_is_damped(size: float) -> None:
    """The identity, from which more than the identity is taken away."""
    one = torch.eye(3, dtype=torch.float64)
    solved = woodbury_step(one, size * one[:1], one.sum(0))
    assert solved.damping > 0
    assert torch.isfinite(solved.step).all()
    assert solved.step[0] > 0  # the direction is that of a positive curvature


def test_a_singular_curvature_is_damped_and_a_definite_one_is_not() -> None:
    flat = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
    slope = torch.tensor([1.0, -1.0], dtype=torch.float64)
    solved = direct_step(flat, slope)
    assert solved.damping == 1e-4
    torch.testing.assert_close(solved.step, slope / 2, rtol=1e-4, atol=0)
    assert direct_step(flat + torch.eye(2), slope).damping == 0


# ----- on a network


class Linear(nn.Module):
    """Softmax regression in double precision: the head is the whole model."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(16, 4).double()

    def forward(self, images: Tensor) -> Tensor:
        return self.head(images.double().flatten(1))  # type: ignore[no-any-return]


def design(splits: Splits, which: str) -> tuple[Tensor, Tensor]:
    examples = {"all": splits.dataset.train, "retain": splits.retain_examples}[which]
    inputs = HALF(examples.images).double().flatten(1)
    return torch.cat([inputs, torch.ones(len(inputs), 1)], dim=1), examples.labels


def weights(model: Any) -> Tensor:
    return torch.cat([model.head.weight, model.head.bias[:, None]], dim=1).detach()


L2 = 0.02


@pytest.mark.parametrize("form", ["direct", "woodbury"])
def test_repeated_it_is_the_head_retrained_on_the_retain_set(splits: Splits, form: Any) -> None:
    model = Linear()
    settings = NewtonSettings(l2=L2, gradient="retained", iterations=8, form=form)
    done = run_newton(make_context(model, splits), settings)
    torch.testing.assert_close(weights(model), fitted(*design(splits, "retain"), 100 * L2), rtol=1e-6, atol=1e-7)
    assert (done.steps, done.gradient_evaluations) == (8, 800)


def test_from_the_minimum_the_forget_gradient_leads_most_of_the_way_and_elsewhere_the_bias_is_told(
    splits: Splits,
) -> None:
    start, target = (fitted(*design(splits, which), 100 * L2) for which in ("all", "retain"))
    model = Linear()
    with torch.no_grad():
        model.head.weight.copy_(start[:, :-1])
        model.head.bias.copy_(start[:, -1])
    done = run_newton(make_context(model, splits), NewtonSettings(l2=L2))
    assert (weights(model) - target).norm() < 0.2 * (start - target).norm()
    assert done.figures["newton.gradient_left"] < 1e-6
    assert done.figures["newton.damping"] == 0
    assert done.notes == (
        "not retain-free: the curvature comes from a pass over forget and retain set, not from training",
    )
    told = run_newton(make_context(Linear(), splits), NewtonSettings(l2=L2))
    assert told.figures["newton.gradient_left"] > 0.1
    assert "the original is no minimum of the head's loss" in told.notes[-1]


def test_without_a_ridge_it_is_damped_and_says_so(splits: Splits) -> None:
    """Logits that all rise alike change nothing, so that the curvature is singular."""
    done = run_newton(make_context(Linear(), splits), NewtonSettings(l2=0.0, gradient="retained"))
    assert done.figures["newton.damping"] == 1e-4
    assert "0.0001 of its mean diagonal was added to it" in done.notes[1]
    assert done.figures["newton.step"] > 1
    assert "times as long as the head: too far for one step" in done.notes[2]


def test_of_a_network_the_last_layer_moves_alone_in_evaluation_mode(splits: Splits) -> None:
    model = make_net()
    before = snapshot(model)
    run_newton(make_context(model, splits), NewtonSettings(l2=1.0))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]) != name.startswith("fc."), name


def test_the_ridge_is_the_originals_weight_decay_where_it_had_one(splits: Splits) -> None:
    def made(l2: float | None, recipe: dict[str, Any]) -> Linear:
        model = Linear()
        run_newton(make_context(model, splits, recipe=recipe), NewtonSettings(l2=l2))
        return model

    assert same(made(None, {"weight_decay": 0.05}), made(0.05, {}))
    assert same(made(None, {"weight_decay": 0.0}), made(1e-3, {}))
    assert not same(made(0.05, {}), made(1e-3, {}))


class Scaled(nn.Module):
    """Its answer is not a linear layer's."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 4)

    def forward(self, images: Tensor) -> Tensor:
        return 2 * self.layer(images.flatten(1))  # type: ignore[no-any-return]


def test_what_it_cannot_do_is_refused(splits: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusal(model: nn.Module, chosen: Splits) -> Callable[[], object]:
        return lambda: run_newton(make_context(model, chosen), NewtonSettings())

    with pytest.raises(UsageError, match=r"^newton moves the last linear layer, and the model does not end in one$"):
        refusal(Scaled(), splits)()
    computed = Linear()
    parametrizations.weight_norm(computed.head)
    with pytest.raises(UsageError, match=r"^newton sets layers' weights, but one of the network's is computed"):
        refusal(computed, splits)()
    with pytest.raises(UsageError, match=r"^the retain set is empty; "):
        refusal(Linear(), replace(splits, retain=splits.retain[:0]))()
    monkeypatch.setattr("unlearn_audit.methods.newton.LARGEST", 67)
    with pytest.raises(UsageError, match=r"^newton holds the Hessian of the head, .*: 68 weights are more than 67, "):
        refusal(Linear(), splits)()
    with pytest.raises(ConfigError, match=r"iterations needs gradient retained"):
        parse_settings(NEWTON, {"iterations": 2})


def test_the_head_is_the_layer_that_answers_wherever_it_is_defined(splits: Splits) -> None:
    model = Plain()
    assert head_of(make_context(model, splits)) is model.layers[3]


def test_a_matrix_that_was_damped_is_left_as_it_was() -> None:
    flat = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
    kept = flat.clone()
    assert direct_step(flat, torch.ones(2, dtype=torch.float64)).damping > 0
    assert torch.equal(flat, kept)
