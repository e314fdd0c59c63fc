"""The Nash bargain: the closed form, its traps, and the step that comes of it."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from small_problems import Plain, batches_of, cross_entropy, make_context, parameters_of, slopes
from torch import Tensor, nn

from unlearn_audit.data import Splits
from unlearn_audit.errors import UsageError
from unlearn_audit.methods import Unlearned
from unlearn_audit.methods.neggrad_plus import NegGradPlusSettings, run_neggrad_plus
from unlearn_audit.methods.random_labels import RlSettings, run_rl
from unlearn_audit.methods.salun import SalunSettings, run_salun
from unlearn_audit.methods.transforms.nash import bargain, clipped
from unlearn_audit.methods.two_sides import Sides, cosines
from unlearn_audit.step_transforms import parse_extras

SHORT: dict[str, Any] = {"steps": 12, "batch_size": 16, "step_size": 0.05, "momentum": 0.0}


def bargained(forget: list[float], retain: list[float]) -> tuple[Tensor, bool]:
    (found,), met = bargain(Sides([torch.tensor(forget)], [torch.tensor(retain)]), fallback=0.1)
    return found.double(), bool(met)


def weights(forget: np.ndarray, retain: np.ndarray) -> np.ndarray:
    """The weights alpha of G^T G alpha = 1 / alpha in the published closed form, the retain side first."""
    g1, g2, g3 = retain @ retain, retain @ forget, forget @ forget
    first = math.sqrt((g1 * g3 - g2 * math.sqrt(g1 * g3)) / (g1 * g1 * g3 - g1 * g2 * g2))
    return np.array([first, (1 - g1 * first**2) / (g2 * first)])


def test_it_solves_the_bargaining_equation_and_is_the_published_form() -> None:
    stream = np.random.default_rng(0)
    for _ in range(200):
        forget, retain = stream.standard_normal((2, 6)) * np.array([[1.0], [30.0]])
        (found,), met = bargain(Sides([torch.from_numpy(forget)], [torch.from_numpy(retain)]), fallback=0.1)
        alpha = weights(forget, retain)
        np.testing.assert_allclose(found.numpy(), alpha[0] * retain + alpha[1] * forget, rtol=1e-8, atol=1e-10)
        both = np.stack([retain, forget])
        np.testing.assert_allclose(both @ both.T @ alpha, 1 / alpha, rtol=1e-8)
        assert met
        assert found.norm().item() == pytest.approx(math.sqrt(2))
        assert cosines([found], Sides([torch.from_numpy(forget)], [torch.from_numpy(retain)])).min() > 0


def test_orthogonal_gradients_are_bargained_for() -> None:
    found, met = bargained([0.0, 5.0], [2.0, 0.0])
    assert met
    assert found.tolist() == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize(
    ("forget", "retain", "wanted"),
    [
        ([-2.0, 0.0], [1.0, 0.0], [0.8, 0.0]),  # opposite
        ([0.0, 0.0], [1.0, 3.0], [1.0, 3.0]),
        ([1.0, 2.0], [0.0, 0.0], [0.1, 0.2]),
        ([0.0, 0.0], [0.0, 0.0], [0.0, 0.0]),
    ],
)
def test_where_there_is_no_bargain_fixed_weights_are_used(
    forget: list[float], retain: list[float], wanted: list[float]
) -> None:
    found, met = bargained(forget, retain)
    assert not met
    assert found.tolist() == pytest.approx(wanted)


def test_a_gradient_is_clipped_where_it_is_longer() -> None:
    long = [torch.tensor([3.0]), torch.tensor([[0.0, 4.0]])]
    assert [each.tolist() for each in clipped(long, 1.0)] == [[pytest.approx(0.6)], [[0.0, pytest.approx(0.8)]]]
    assert [each.tolist() for each in clipped(long, 9.0)] == [[3.0], [[0.0, 4.0]]]
    assert clipped([torch.zeros(2)], 1.0)[0].tolist() == [0.0, 0.0]


def run(splits: Splits, extras: list[str], model: nn.Module, **settings: Any) -> Unlearned:
    context = make_context(model, splits, extras=parse_extras(extras))
    return run_neggrad_plus(context, NegGradPlusSettings(**SHORT | settings))


@pytest.mark.parametrize(("extra", "length"), [("nash", 1.0), ("nash:clip=none", math.sqrt(2))])
def test_a_step_is_the_bisector_of_both_sides(splits: Splits, extra: str, length: float) -> None:
    model = Plain()
    theta = parameters_of(model)
    unit = []
    for side, sign in (("forget", -1.0), ("retain", 1.0)):
        slope = slopes(
            lambda w, side=side, sign=sign: sign * cross_entropy(model, w, batches_of(splits, side).at(0)), theta
        )
        flat = torch.cat([each.flatten() for each in slope.values()])
        unit.append(flat / flat.norm())
    run(splits, [extra], model, steps=1)
    moved = torch.cat([(theta[name] - each.detach()).flatten() for name, each in model.named_parameters()]) / 0.05
    torch.testing.assert_close(moved, length * (unit[0] + unit[1]) / (unit[0] + unit[1]).norm(), rtol=1e-8, atol=1e-9)


def test_every_step_of_plain_sgd_is_feasible_whatever_the_weights_of_the_sides(splits: Splits) -> None:
    for alpha in (0.05, 0.5, 0.95):
        done = run(splits, ["nash"], Plain(), alpha=alpha)
        assert done.figures["nash, infeasible steps"] == done.figures["nash, failed bargains"] == 0
        assert done.figures["nash, worst cosine of a step"] > 0
    assert run(splits, ["nash"], Plain(), alpha=0.05).figures["nash, infeasible batches"] > 0


def test_with_random_labels_in_the_same_step_it_is_the_published_objective(splits: Splits) -> None:
    context = make_context(Plain(), splits, extras=parse_extras(["nash"]))
    done = run_rl(context, RlSettings(**SHORT, order="alternate", weight_decay=0))
    assert done.figures["nash, infeasible steps"] == 0


def test_what_is_named_before_is_not_thrown_away_and_what_is_named_after_holds(splits: Splits) -> None:
    with pytest.raises(UsageError, match="name nash before the others"):
        run(splits, ["l1:alpha=0.1", "nash"], Plain())
    context = make_context(Plain(), splits, extras=parse_extras(["nash"]))
    with pytest.raises(UsageError, match="a method whose own transform edits the gradient cannot take it"):
        run_salun(context, SalunSettings(**SHORT, order="alternate"))
    model = Plain()
    before = parameters_of(model)
    run(splits, ["nash", "mask:random,density=0.25"], model)
    moved = torch.cat([(each != before[name]).flatten() for name, each in model.named_parameters()])
    assert moved.double().mean().item() == pytest.approx(0.25, abs=0.01)
