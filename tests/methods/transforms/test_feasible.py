"""Feasible updates: the mask against brute force, focus against its bounds, and the step that is really taken."""

import copy
from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
import torch
from small_problems import (
    CPU,
    Plain,
    batches_of,
    cross_entropy,
    make_context,
    make_net,
    make_small_splits,
    parameters_of,
    same,
    slopes,
)
from torch import Tensor, nn

from unlearn_audit import catalogue
from unlearn_audit.data import Splits, load_data, make_splits
from unlearn_audit.errors import ConfigError, UsageError
from unlearn_audit.methods import Method, Unlearned, UnlearningContext
from unlearn_audit.methods.apply import parse_settings
from unlearn_audit.methods.ft import FtSettings, run_ft
from unlearn_audit.methods.neggrad_plus import NegGradPlusSettings, run_neggrad_plus
from unlearn_audit.methods.transforms.feasible import (
    Focus,
    feasible_mask,
    feasible_masks,
    focus_of,
    second_moment,
)
from unlearn_audit.methods.two_sides import BOTH, Sides
from unlearn_audit.step_transforms import parse_extras

SGD: dict[str, Any] = {"alpha": 0.5, "steps": 20, "batch_size": 16, "step_size": 0.05, "momentum": 0.0}
MOMENTUM = SGD | {"momentum": 0.9}
ADAM = SGD | {"optimizer": "adam", "step_size": 0.01}


def run(splits: Splits, extra: str, model: nn.Module | None = None, **settings: Any) -> Unlearned:
    context = make_context(model or Plain(), splits, extras=parse_extras([extra]))
    return run_neggrad_plus(context, NegGradPlusSettings(**settings))


def figure(done: Unlearned, name: str) -> float:
    return done.figures[f"feasible, {name}"]


# ----- focus


def test_without_a_signal_of_one_side_the_focus_is_a_half() -> None:
    s = torch.linspace(-5, 5, 21)
    assert torch.equal(focus_of(torch.zeros(21), s), torch.full((21,), 0.5))
    assert torch.equal(focus_of(s, torch.zeros(21)), torch.full((21,), 0.5))


def test_the_focus_is_the_probability_that_two_noisy_signs_agree() -> None:
    forget, retain = torch.tensor([0.3, -1.2, 2.0]).double(), torch.tensor([0.7, 0.4, 1.5]).double()
    one, two = torch.special.ndtr(forget), torch.special.ndtr(retain)
    torch.testing.assert_close(focus_of(forget, retain), one * two + (1 - one) * (1 - two))
    stream = np.random.default_rng(0)
    signs = [np.sign(side.numpy() + stream.standard_normal((50_000, 3))) for side in (forget, retain)]
    shares = (signs[0] == signs[1]).mean(axis=0)
    assert np.abs(shares - focus_of(forget, retain).numpy()).max() < 4 * 0.5 / 50_000**0.5


@pytest.mark.parametrize(("ema", "bound"), [("code", 0.9**-0.5), ("intended", 10**0.5)])
def test_bounds_of_the_standardised_gradient(ema: str, bound: float) -> None:
    """Step 1 has the square root of 10 everywhere; with the code's weights nothing later exceeds 1.0541."""
    torch.manual_seed(0)
    before, largest = None, 0.0
    for step in range(60):
        gradient = torch.randn(500).double() * (100.0 if step % 7 == 3 else 1.0)
        before = second_moment(before, gradient, ema)
        s = gradient / before.sqrt()
        if step == 0:
            torch.testing.assert_close(s.abs(), torch.full((500,), 10**0.5).double())
        else:
            largest = max(largest, s.abs().max().item())
    assert 0.95 * bound < largest <= bound + 1e-12
    low, high = (focus_of(torch.tensor(bound), torch.tensor(sign * bound)).item() for sign in (-1, 1))
    assert (low, high) == pytest.approx((0.249, 0.751) if ema == "code" else (0.0016, 0.9984), abs=1e-3)


def test_the_running_moments_are_kept_apart_by_side_and_tensor() -> None:
    memory: dict[str, Tensor] = {}
    focus = Focus(memory, "feasible", "code")
    sides = Sides([torch.ones(2), torch.ones(1)], [-torch.ones(2), torch.ones(1)])
    first = focus(sides)
    assert sorted(memory) == [f"feasible/{side}/{index}" for side in ("forget", "retain") for index in (0, 1)]
    phi = torch.special.ndtr(torch.tensor(10**0.5)).item()
    assert first[0].tolist() == pytest.approx([2 * phi * (1 - phi)] * 2, rel=1e-3)
    assert first[1].item() == pytest.approx(phi**2 + (1 - phi) ** 2)
    focus(sides)
    assert memory["feasible/forget/0"].tolist() == pytest.approx([0.91, 0.91])


# ----- opt


def served(mask: np.ndarray, step: np.ndarray, sides: list[np.ndarray], margin: float) -> np.ndarray:
    """Which of the masks [M, n] leave a step that serves both sides."""
    left = mask * step
    length = np.sqrt((left**2).sum(axis=1))
    return np.all([left @ side >= margin * length * np.linalg.norm(side) - 1e-12 for side in sides], axis=0)


@pytest.mark.parametrize("margin", [0.0, 1e-3])
def test_opt_against_brute_force(margin: float) -> None:
    """It is never infeasible, and leaves more than is needed away in at most 1 % of the draws that need it."""
    stream = np.random.default_rng(1)
    needed = worse = 0
    for draw in range(400):
        n = 2 + draw % 7 if draw < 390 else 12
        forget, retain = stream.standard_normal((2, n))
        retain = 2 * stream.random() * retain - 0.5 * forget
        step = forget + retain
        mask = feasible_mask(
            torch.from_numpy(step), [torch.from_numpy(forget), torch.from_numpy(retain)], margin=margin
        ).numpy()
        assert served(mask[None], step, [forget, retain], margin).all()
        everything = np.array(list(product([True, False], repeat=n)))
        good = everything[served(everything, step, [forget, retain], margin)]
        fewest = (~good).sum(axis=1).min()
        assert (~mask).sum() >= fewest
        if fewest:
            needed += 1
            worse += (~mask).sum() > fewest
        else:
            assert mask.all()
    assert needed > 80
    assert worse <= 0.01 * needed


def test_where_the_active_side_switches_greedy_empties_a_mask_that_need_not_be() -> None:
    forget, retain = torch.tensor([-3.0, -2.0, -2.0]), torch.tensor([1.0, 1.0, 3.0])
    mask = feasible_mask(forget + retain, [forget, retain], margin=1e-3)
    assert mask.tolist() == [False, False, False]
    better = np.array([[True, False, True]])
    assert served(better, (forget + retain).numpy(), [forget.numpy(), retain.numpy()], 1e-3).all()


def test_the_worst_coordinates_go_first_and_of_equal_ones_the_first() -> None:
    step, forget = torch.tensor([1.0, 1.0, 1.0, 1.0]), torch.tensor([-2.0, 3.0, -2.0, -0.5])
    retain = torch.ones(4)
    assert feasible_mask(step, [forget, retain], margin=0.0).tolist() == [False, True, True, True]
    assert feasible_mask(step, [-torch.ones(4), retain], margin=0.0).tolist() == [False] * 4
    assert feasible_mask(step, [torch.zeros(4), retain], margin=0.0).tolist() == [True] * 4
    assert feasible_mask(torch.zeros(4), [forget, retain], margin=1.0).tolist() == [True] * 4


def test_a_tensor_that_is_served_keeps_everything_and_tensors_are_masked_by_themselves_or_together() -> None:
    step = [torch.tensor([1.0, 1.0]), torch.tensor([[4.0, 4.0]])]
    forget = [torch.tensor([-1.0, 0.5]), torch.tensor([[1.0, 1.0]])]
    sides = [forget, step]
    apart = feasible_masks(step, sides, margin=1e-3, scope="tensor")
    assert [each.tolist() for each in apart] == [[False, True], [[True, True]]]
    together = feasible_masks(step, sides, margin=1e-3, scope="model")
    assert all(bool(each.all()) for each in together)
    flat = feasible_masks([torch.tensor([1.0]), torch.tensor([[1.0]])],
                          [[torch.tensor([-2.0]), torch.tensor([[1.0]])]], margin=1e-3, scope="model")  # fmt: skip
    assert [each.tolist() for each in flat] == [[False], [[True]]]


@pytest.mark.parametrize("scope", ["tensor", "model"])
def test_both_sums_reach_the_margin_after_it(scope: str) -> None:
    torch.manual_seed(3)
    shapes = [(40, 20), (40,), (10, 40), (10,)]
    forget = [torch.randn(shape) ** 3 for shape in shapes]
    retain = [torch.randn(shape) - 0.3 * each for shape, each in zip(shapes, forget, strict=True)]
    step = [a + b for a, b in zip(forget, retain, strict=True)]
    masks = feasible_masks(step, [forget, retain], margin=1e-3, scope=scope)
    assert not all(bool(mask.all()) for mask in masks)
    groups = [[i] for i in range(4)] if scope == "tensor" else [[0, 1, 2, 3]]
    for group in groups:
        left, *sides = (
            torch.cat([each[i].flatten().double() for i in group])
            for each in ([m * s for m, s in zip(masks, step, strict=True)], forget, retain)
        )
        for side in sides:
            assert left @ side >= 0.999e-3 * left.norm() * side.norm()


# ----- as a part


def test_nothing_is_edited_where_all_is_feasible_or_only_counted(splits: Splits) -> None:
    models = [Plain() for _ in range(4)]
    run_neggrad_plus(make_context(models[0], splits), NegGradPlusSettings(**SGD))
    done = run(splits, "feasible:watch", models[1], **SGD)
    assert figure(done, "infeasible batches") == 0
    assert set(done.figures) == {
        f"feasible, {name}" for name in ("infeasible batches", "infeasible steps", "worst cosine of a step")
    }
    for on, model in zip(("gradient", "step"), models[2:], strict=True):
        done = run(splits, f"feasible:opt,scope=model,on={on}", model, **SGD)
        assert figure(done, "masked share") == figure(done, "skips") == 0
    assert all(same(models[0], model) for model in models[1:])


def test_one_step_of_each_variant_is_the_formula(splits: Splits) -> None:
    theta = parameters_of(Plain())
    parts = {
        side: slopes(
            lambda weights, side=side: (
                (0.5 if side == "retain" else -0.5) * cross_entropy(Plain(), weights, batches_of(splits, side).at(0))
            ),
            theta,
        )
        for side in ("forget", "retain")
    }
    phi = {
        side: [torch.special.ndtr(g / (0.1 * g * g + 1e-8).sqrt()) for g in gradients.values()]
        for side, gradients in parts.items()
    }
    focus = [f * r + (1 - f) * (1 - r) for f, r in zip(phi["forget"], phi["retain"], strict=True)]
    sides = [list(parts[side].values()) for side in ("forget", "retain")]
    step = [f + r for f, r in zip(*sides, strict=True)]
    scaled = [[g * f for g, f in zip(each, focus, strict=True)] for each in (step, *sides)]
    expected = {
        "focus": scaled[0],
        "prob,q=0.4": [g * (f >= 0.4) for g, f in zip(step, focus, strict=True)],
        "opt": [g * m for g, m in zip(step, feasible_masks(step, sides, margin=1e-3, scope="tensor"), strict=True)],
        "focus-opt": [
            g * m
            for g, m in zip(scaled[0], feasible_masks(scaled[0], scaled[1:], margin=1e-3, scope="tensor"), strict=True)
        ],
    }
    for variant, wanted in expected.items():
        for on in ("gradient", "step"):
            model = Plain()
            run(splits, f"feasible:{variant},on={on}", model, **SGD | {"steps": 1})
            for parameter, old, slope in zip(model.parameters(), theta.values(), wanted, strict=True):
                torch.testing.assert_close(parameter.detach(), old - 0.05 * slope, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("scope", ["tensor", "model"])
def test_under_plain_sgd_every_step_is_feasible(splits: Splits, scope: str) -> None:
    settings = SGD | {"alpha": 0.1}
    before = run(splits, "feasible:watch", **settings)
    done = run(splits, f"feasible:opt,scope={scope}", **settings)
    assert figure(before, "infeasible steps") == figure(before, "infeasible batches") > 0.2
    assert figure(done, "infeasible steps") == 0
    assert figure(done, "worst cosine of a step") > (0 if scope == "tensor" else 0.999e-3)
    assert 0 < figure(done, "masked share") < 0.5


@pytest.mark.parametrize("settings", [MOMENTUM, ADAM])
def test_under_momentum_and_adam_only_an_edited_step_is_feasible(splits: Splits, settings: dict[str, Any]) -> None:
    gradient, step = (run(splits, f"feasible:opt,on={on}", **settings) for on in ("gradient", "step"))
    assert figure(gradient, "infeasible steps") > 0
    assert figure(gradient, "worst cosine of a step") < -1e-3
    assert figure(step, "infeasible steps") == 0
    assert figure(step, "worst cosine of a step") > 0
    assert figure(step, "masked share") > 0


def test_masked_weights_stay_bit_for_bit_and_the_others_take_the_optimisers_step(splits: Splits) -> None:
    free, edited = Plain(torch.float32), Plain(torch.float32)
    old = parameters_of(free)
    settings = ADAM | {"steps": 1, "weight_decay": 0.1}
    run_neggrad_plus(make_context(free, splits), NegGradPlusSettings(**settings))
    run(splits, "feasible:opt,on=step", edited, **settings)
    kept = 0
    for name, parameter in edited.named_parameters():
        back = parameter == old[name]
        kept += int(back.sum())
        assert torch.equal(parameter[~back], dict(free.named_parameters())[name][~back])
    assert kept > 0


def test_a_guard_drops_a_retain_side_that_asks_for_next_to_nothing(splits: Splits) -> None:
    settings = SGD | {"alpha": 0.01}
    bound = run(splits, "feasible:opt", **settings)
    loose = run(splits, "feasible:opt,guard=0.5", **settings)
    assert "feasible, steps without a retain constraint" not in bound.figures
    assert figure(loose, "steps without a retain constraint") == 1
    assert figure(loose, "masked share") < figure(bound, "masked share")
    assert figure(loose, "infeasible steps") > 0  # which are told nonetheless


def test_tensors_of_which_nothing_is_left_are_counted(splits: Splits) -> None:
    done = run(splits, "feasible:opt,margin=1", **SGD)
    assert figure(done, "skips") > 0
    assert figure(done, "masked share") > 0.9
    model = Plain()
    before = parameters_of(model)
    whole = run(splits, "feasible:opt,margin=1,scope=model", model, **SGD)
    assert figure(whole, "skips") == 20
    assert all(torch.equal(each, before[name]) for name, each in model.named_parameters())


def test_it_runs_with_batchnorm_ieu_and_no_step(splits: Splits) -> None:
    ieu: Method = catalogue.load("method", catalogue.METHODS, "ieu")
    for text in ("feasible:focus-opt,on=step,ema=intended", "feasible:prob"):
        context = make_context(make_net(), splits, extras=parse_extras([text]))
        done = ieu.run(context, parse_settings(ieu, {"steps": 4}))
        assert figure(done, "infeasible steps") <= 1
        context = make_context(make_net(), splits, extras=parse_extras([text]))
        assert ieu.run(context, parse_settings(ieu, {"steps": 0})).figures == {}


@pytest.mark.parametrize("name", ["feasible:opt", "nash"])
@pytest.mark.parametrize(
    ("method", "settings", "why"),
    [
        ("ft", {}, "FT takes no batch of the forget set"),
        ("ga", {}, "GA takes no batch of the retain set"),
        ("rl", {}, "RL takes batches of the forget and of the retain set in turn"),
        ("scrub", {}, "SCRUB takes batches of the forget and of the retain set in turn"),
        ("ieu", {"c": 0}, "takes no batch of the forget set"),
        ("neggrad-plus", {"alpha": 0}, "takes no batch of the retain set"),
    ],
)
@pytest.mark.parametrize("count_only", [True, False])
def test_methods_whose_steps_never_hold_both_sides_are_refused_before_a_step(
    splits: Splits, name: str, method: str, settings: dict[str, Any], why: str, count_only: bool
) -> None:
    chosen: Method = catalogue.load("method", catalogue.METHODS, method)
    context = make_context(make_net(), splits, extras=parse_extras([name]), count_only=count_only)
    with pytest.raises(UsageError, match=why):
        chosen.run(context, parse_settings(chosen, settings))


def test_a_term_that_joins_may_be_the_side_that_was_lacking(splits: Splits) -> None:
    ft: Method = catalogue.load("method", catalogue.METHODS, "ft")
    context = make_context(make_net(), splits, extras=parse_extras(["ascent:c=0.5", "feasible:opt"]))
    assert "feasible, infeasible steps" in ft.run(context, parse_settings(ft, {"steps": 2})).figures


@pytest.mark.parametrize("method", ["bad-teacher", "reference", "ft", "ct", "msg"])
def test_methods_that_the_refusal_names_are_taken(splits: Splits, method: str) -> None:
    assert method in BOTH
    chosen: Method = catalogue.load("method", catalogue.METHODS, method)
    texts = ["nash"] if method in ("bad-teacher", "reference") else ["ascent", "nash"]
    context = make_context(make_net(), splits, extras=parse_extras(texts), spec=make_net)
    settings = {"steps": 1, **({"least": 5} if method == "reference" else {})}
    assert "nash, infeasible steps" in chosen.run(context, parse_settings(chosen, settings)).figures


def test_the_tilted_target_and_retain_are_two_sides(noise: Any) -> None:
    trw: Method = catalogue.load("method", catalogue.METHODS, "trw")
    context = make_context(
        make_net(), make_small_splits(noise, forget="class:2"), extras=parse_extras(["feasible:opt"])
    )
    assert "feasible, infeasible steps" in trw.run(context, parse_settings(trw, {"steps": 2})).figures


@pytest.mark.slow
def test_on_digits_a_feasible_gradient_is_a_feasible_step_under_plain_sgd_alone() -> None:
    """A trained network of three layers, a random tenth to be forgotten, 60 steps."""
    data = load_data("digits")
    splits = make_splits(data, "random:0.1:0")
    torch.manual_seed(0)
    sizes = (64, 128, 64, 10)
    layers = [each for a, b in pairwise(sizes) for each in (nn.ReLU(), nn.Linear(a, b))]
    original = nn.Sequential(nn.Flatten(), *layers[1:])
    context = UnlearningContext(original, data.transform, make_splits(data, "range:0-0"), CPU, 0)
    run_ft(context, FtSettings(epochs=60, step_size=0.05, momentum=0, weight_decay=0))

    def figures(extra: str, **settings: Any) -> list[float]:
        context = UnlearningContext(
            copy.deepcopy(original), data.transform, splits, CPU, 0, extras=parse_extras([extra])
        )
        done = run_neggrad_plus(context, NegGradPlusSettings(alpha=0.9, steps=60, **settings))
        return [figure(done, name) for name in ("infeasible steps", "worst cosine of a step")]

    plain: dict[str, Any] = {"momentum": 0, "step_size": 0.05}
    others: list[dict[str, Any]] = [
        {"momentum": 0.9, "step_size": 0.02},
        {"optimizer": "adam", "momentum": 0, "step_size": 1e-3},
    ]
    assert figures("feasible:watch", **plain)[0] > 0.1
    share, worst = figures("feasible:opt", **plain)
    assert share == 0
    assert worst > 0
    for settings in others:
        share, worst = figures("feasible:opt", **settings)
        assert 0.1 < share < 1
        assert worst < -0.1
        share, worst = figures("feasible:opt,on=step", **settings)
        assert share == 0
        assert worst > 0


def test_settings_without_effect_are_no_deviation_and_wrong_ones_are_refused() -> None:
    (extra,) = parse_extras(["feasible:focus"])
    assert set(extra.settings.without_effect()) == {"q", "scope", "margin", "guard"}
    with pytest.raises(ConfigError, match="variant"):
        parse_extras(["feasible:best"])
