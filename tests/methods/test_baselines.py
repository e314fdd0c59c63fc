"""GA, NegGrad+ and l1-sparse against their update rules written by hand."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from small_problems import (
    Plain,
    batches_of,
    cross_entropy,
    difference,
    make_context,
    make_net,
    parameters_of,
    rows_in,
    same,
    slopes,
    watch_inputs,
)
from torch import Tensor

from unlearn_audit.data import Splits
from unlearn_audit.methods import Extra, Unlearned
from unlearn_audit.methods.ft import FtSettings, run_ft
from unlearn_audit.methods.ga import GaSettings, run_ga
from unlearn_audit.methods.l1_sparse import L1SparseSettings, run_l1_sparse
from unlearn_audit.methods.neggrad_plus import NegGradPlusSettings, run_neggrad_plus
from unlearn_audit.step_transforms import parse_extra

PLAIN: dict[str, Any] = {"batch_size": 16, "momentum": 0.0, "weight_decay": 0.0, "step_size": 0.1}


# ----- gradient ascent


def test_ga_ascends_the_forget_set_and_sees_nothing_else(splits: Splits) -> None:
    model = Plain()
    theta, forget = parameters_of(model), batches_of(splits, "forget", size=4)
    for step in range(7):
        slope = slopes(lambda weights, step=step: cross_entropy(model, weights, forget.at(step)), theta)
        theta = {name: theta[name] + 0.1 * slope[name] for name in theta}
    seen = watch_inputs(model)
    done = run_ga(make_context(model, splits), GaSettings(**PLAIN | {"steps": 7, "batch_size": 4}))
    assert difference(theta, parameters_of(model)) < 1e-12
    assert -1 not in [row for batch in seen for row in rows_in(batch, splits.forget_examples)]
    assert done == Unlearned(7, 24)


def test_an_epoch_of_ga_is_a_pass_over_the_forget_set(splits: Splits) -> None:
    assert run_ga(make_context(Plain(), splits), GaSettings(epochs=2, batch_size=4)) == Unlearned(6, 20)


def test_fine_tuning_never_sees_the_forget_set(splits: Splits) -> None:
    model = make_net()
    seen = watch_inputs(model)
    run_ft(make_context(model, splits), FtSettings(**PLAIN | {"epochs": 1}))
    rows = [row for batch in seen for row in rows_in(batch, splits.retain_examples)]
    assert sorted(rows) == list(range(90))


# ----- NegGrad+


@pytest.mark.parametrize("alpha", [0.95, 0.5, 1.0, 0.0])
def test_steps_of_neggrad_plus_are_those_written_by_hand(splits: Splits, alpha: float) -> None:
    model, momentum, decay = Plain(), 0.9, 0.01
    theta, speed = parameters_of(model), {name: torch.zeros_like(each) for name, each in parameters_of(model).items()}
    retain, forget = batches_of(splits, "retain"), batches_of(splits, "forget")

    def objective(weights: dict[str, Tensor], step: int) -> Tensor:
        on_retain, on_forget = (cross_entropy(model, weights, each.at(step)) for each in (retain, forget))
        return alpha * on_retain - (1 - alpha) * on_forget

    for step in range(8):
        slope = slopes(lambda weights, step=step: objective(weights, step), theta)
        speed = {name: momentum * speed[name] + slope[name] + decay * theta[name] for name in theta}
        theta = {name: theta[name] - 0.1 * speed[name] for name in theta}
    settings = NegGradPlusSettings(**PLAIN | {"alpha": alpha, "steps": 8, "momentum": momentum, "weight_decay": decay})
    run_neggrad_plus(make_context(model, splits), settings)
    assert difference(theta, parameters_of(model)) < 1e-12


def test_each_cycle_over_the_forget_set_has_an_order_of_its_own_and_covers_it(splits: Splits) -> None:
    model = make_net()
    seen = watch_inputs(model)
    run_neggrad_plus(make_context(model, splits), NegGradPlusSettings(steps=23, batch_size=4, step_size=1e-6))
    passes = [rows_in(batch, splits.forget_examples) for batch in seen[1::2]]
    assert [len(rows) for rows in passes[:6]] == [4, 4, 2, 4, 4, 2]
    cycles = [sum(passes[start : start + 3], []) for start in range(0, 21, 3)]
    assert all(sorted(cycle) == list(range(10)) for cycle in cycles)
    assert len({tuple(cycle) for cycle in cycles}) == 7
    assert all(-1 not in rows_in(batch, splits.retain_examples) for batch in seen[0::2])


@pytest.mark.parametrize(("alpha", "never", "taken"), [(1.0, "forget", 90), (0.0, "retain", 10)])
def test_a_side_without_weight_never_passes_through_the_network(
    splits: Splits, alpha: float, never: str, taken: int
) -> None:
    model = make_net()
    seen = watch_inputs(model)
    done = run_neggrad_plus(make_context(model, splits), NegGradPlusSettings(alpha=alpha, epochs=1, batch_size=8))
    left_out = splits.forget_examples if never == "forget" else splits.retain_examples
    assert {row for batch in seen for row in rows_in(batch, left_out)} == {-1}
    assert done.gradient_evaluations == taken


def test_neggrad_plus_without_retain_loss_is_ga_bit_for_bit(splits: Splits) -> None:
    one, two = make_net(), make_net()
    settings = PLAIN | {"steps": 5, "step_size": 0.01, "momentum": 0.9}
    run_neggrad_plus(make_context(one, splits), NegGradPlusSettings(alpha=0, **settings))
    run_ga(make_context(two, splits), GaSettings(**settings))
    assert same(one, two)


# ----- l1-sparse


@pytest.mark.parametrize(
    ("decay", "free", "factors"),
    [("linear", 0, [1, 3 / 4, 2 / 4, 1 / 4]), ("linear", 2, [1, 1 / 2, 0, 0]), ("none", 1, [1, 1, 1, 0])],
)
def test_steps_of_l1_sparse_are_those_written_by_hand(
    splits: Splits, decay: str, free: int, factors: list[float]
) -> None:
    model, alpha, momentum = Plain(), 0.02, 0.5
    theta, speed = parameters_of(model), {name: torch.zeros_like(each) for name, each in parameters_of(model).items()}
    retain = batches_of(splits, "retain", size=45)
    for step in range(8):  # two steps an epoch
        slope = slopes(lambda weights, step=step: cross_entropy(model, weights, retain.at(step)), theta)
        for name in theta:
            pull = alpha * factors[step // 2] * theta[name].sign()
            speed[name] = momentum * speed[name] + slope[name] + pull
        theta = {name: theta[name] - 0.1 * speed[name] for name in theta}
    settings = PLAIN | {"epochs": 4, "momentum": momentum, "batch_size": 45}
    run_l1_sparse(make_context(model, splits), L1SparseSettings(alpha=alpha, decay=decay, free_epochs=free, **settings))
    assert difference(theta, parameters_of(model)) < 1e-12


def test_without_penalty_l1_sparse_is_ft_bit_for_bit(splits: Splits) -> None:
    models = [make_net() for _ in range(4)]
    settings = PLAIN | {"epochs": 2, "momentum": 0.9, "weight_decay": 5e-4}
    run_ft(make_context(models[0], splits), FtSettings(**settings))
    run_l1_sparse(make_context(models[1], splits), L1SparseSettings(alpha=0, **settings))
    run_l1_sparse(make_context(models[2], splits), L1SparseSettings(alpha=0.1, free_epochs=2, **settings))
    run_l1_sparse(make_context(models[3], splits), L1SparseSettings(alpha=0.1, **settings))
    assert same(models[0], models[1])
    assert same(models[0], models[2])
    assert not same(models[0], models[3])


def test_l1_joins_ft_as_l1_sparse_does_it_itself(splits: Splits) -> None:
    one, two = make_net(), make_net()
    settings = PLAIN | {"epochs": 3, "momentum": 0.9}
    extra: Extra = parse_extra("l1:alpha=0.01,free_epochs=1")
    run_ft(replace(make_context(one, splits), extras=(extra,)), FtSettings(**settings))
    run_l1_sparse(make_context(two, splits), L1SparseSettings(alpha=0.01, free_epochs=1, **settings))
    assert same(one, two)


def test_the_penalty_makes_the_weights_smaller(splits: Splits) -> None:
    sums = []
    for alpha in (0.0, 1e-3, 1e-2):
        model = make_net()
        run_l1_sparse(make_context(model, splits), L1SparseSettings(alpha=alpha, **PLAIN | {"epochs": 3}))
        sums.append(sum(parameter.abs().sum().item() for parameter in model.parameters()))
    assert sums[0] > sums[1] > sums[2]
