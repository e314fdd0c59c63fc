"""Unlearning methods: IEU against Algorithm 1 written by hand, re-initialisation against its moments."""

import copy
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
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
    same,
    slopes,
    watch_inputs,
)
from torch import Tensor, nn
from torch.nn import functional

from unlearn_audit import catalogue
from unlearn_audit.checkpoints import read_checkpoint, write_checkpoint
from unlearn_audit.config import Layer, resolve
from unlearn_audit.data import Examples, Splits, Transform
from unlearn_audit.engine import Term, derive_seed
from unlearn_audit.errors import ConfigError, MeasurementError, OutputError, UsageError
from unlearn_audit.files import sha256_of_file
from unlearn_audit.methods import Unlearned
from unlearn_audit.methods.apply import apply_method, parse_settings
from unlearn_audit.methods.ft import FtSettings, FtWdSettings, run_ft, run_ft_wd
from unlearn_audit.methods.ieu import IEU, IeuSettings, run_ieu
from unlearn_audit.methods.loop import LoopSettings, Objective, run_composition
from unlearn_audit.methods.neggrad_plus import NegGradPlusSettings, run_neggrad_plus
from unlearn_audit.methods.transforms.reinit import REINIT, Reinit, ReinitSettings


def unlearn(model: nn.Module, splits: Splits, seed: int = 0, **settings: Any) -> Unlearned:
    values = {
        "alpha": 1.0,
        "c": 0.0,
        "step_size": 0.05,
        "steps": 6,
        "batch_size": 16,
        "loss_clip": "none",
        "schedule": "constant",
    } | settings
    return run_ieu(make_context(model, splits, seed), IeuSettings(**values))


def reinit(model: nn.Module, *, seed: int, **settings: Any) -> Reinit:
    return Reinit(model, ReinitSettings(**settings), seed=seed)


# ----- IEU against Algorithm 1


def test_without_noise_and_ascent_ieu_is_plain_sgd_bit_for_bit(splits: Splits) -> None:
    ours, theirs = make_net(), make_net()
    done = unlearn(ours, splits, steps=12)
    theirs.train()
    retain = batches_of(splits, "retain")
    for step in range(12):
        images, labels = retain.at(step)
        theirs.zero_grad()
        torch.autograd.backward(functional.cross_entropy(theirs(images), labels, reduction="none").mean())
        with torch.no_grad():
            for parameter in theirs.parameters():
                assert parameter.grad is not None
                parameter.add_(parameter.grad, alpha=-0.05)
    for (name, ours_), theirs_ in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        assert torch.equal(ours_, theirs_), name
    assert done == Unlearned(12, 90 * 2)


@pytest.mark.parametrize("scale", ["fan_in", "total_d"])
@pytest.mark.parametrize(("alpha", "c"), [(0.9, 0.3), (1.0, 0.3), (0.9, 0.0), (0.0, 1.0), (1.0, 0.0)])
def test_steps_are_those_of_algorithm_1(
    splits: Splits, alpha: float, c: float, scale: Literal["fan_in", "total_d"]
) -> None:
    model, eta = Plain(), 0.1
    noise = reinit(model, alpha=alpha, seed=7, scale=scale)
    theta = parameters_of(model)
    retain, forget = batches_of(splits, "retain", 7), batches_of(splits, "forget", 7)

    def slope(batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        return slopes(lambda weights: cross_entropy(model, weights, batch), theta)

    for step in range(4):
        g_r, g_f = slope(retain.at(step)), slope(forget.at(step))
        draws = iter(noise.draw(step))
        for name in theta:
            mixed = alpha * theta[name] + (1 - alpha) * next(draws) if theta[name].dim() > 1 else theta[name]
            theta[name] = mixed - eta * g_r[name] + c * eta * g_f[name]
    unlearn(model, splits, seed=7, alpha=alpha, c=c, step_size=eta, steps=4, scale=scale)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), theta[name], rtol=1e-12, atol=1e-14)


def test_no_descent_and_no_memory_leave_one_fresh_draw(splits: Splits) -> None:
    model = make_net()
    before = copy.deepcopy(dict(model.named_parameters()))
    draws = reinit(model, alpha=0.0, seed=3).draw(4)
    unlearn(model, splits, seed=3, alpha=0.0, step_size=1e-300, steps=5)
    mixed = [parameter for parameter in model.parameters() if parameter.dim() >= 2]
    assert len(mixed) == len(draws) == 4
    for parameter, draw in zip(mixed, draws, strict=True):
        assert torch.equal(parameter.detach(), draw)
        fan_in = parameter[0].numel()
        assert draw.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=4 / (2 * draw.numel()) ** 0.5)
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2:
            assert torch.equal(parameter, before[name]), name


def test_same_seed_same_weights_and_another_seed_others(splits: Splits) -> None:
    states = []
    for seed in (5, 5, 6):
        model = make_net()
        torch.manual_seed(len(states))
        unlearn(model, splits, seed=seed, alpha=0.9, c=0.2)
        states.append(torch.cat([tensor.double().reshape(-1) for tensor in model.state_dict().values()]))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


# ----- the re-initialisation process, METHODS 1.6(1)


class Coordinates(nn.Module):
    """A hundred thousand coordinates in one tensor of fan-in 1000, and some that are not mixed."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((100, 1000), start))
        self.bias = nn.Parameter(torch.full((24,), start))


@pytest.mark.parametrize(("scale", "variance"), [("fan_in", 2 / 1000), ("total_d", 2 / 100_024)])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.9, 0.99])
def test_moments_of_the_process(alpha: float, scale: Literal["fan_in", "total_d"], variance: float) -> None:
    start = 0.3
    model = Coordinates(start)
    process = reinit(model, alpha=alpha, seed=11, scale=scale)
    with torch.no_grad():
        for n in range(1, 61):
            process(n)
            if n not in {1, 2, 10, 60}:
                continue
            found = model.weight.detach().double().numpy().reshape(-1)
            v_n = (1 - alpha) ** 2 * (1 - alpha ** (2 * n)) / (1 - alpha**2) * variance
            standard_error = np.sqrt(v_n / found.size)
            assert abs(found.mean() - alpha**n * start) < 4 * standard_error + 1e-6 * start
            assert abs(found.var() / v_n - 1) < 4 * np.sqrt(2 / found.size)
    assert (model.bias == start).all()


def test_alpha_one_draws_nothing_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Coordinates(0.3)
    process = reinit(model, alpha=1.0, seed=0)
    monkeypatch.setattr(process, "draw", lambda step: pytest.fail("drew"))
    process(0)
    assert (model.weight == 0.3).all()


def test_each_step_draws_afresh_and_depends_on_seed_and_step_alone() -> None:
    def draw(seed: int, step: int) -> Tensor:
        return reinit(Coordinates(0.0), alpha=0.9, seed=seed).draw(step)[0]

    assert torch.equal(draw(0, 3), draw(0, 3))
    first, second, third = draw(0, 3), draw(0, 4), draw(1, 3)
    for other in (second, third):
        correlation = torch.corrcoef(torch.stack([first.reshape(-1), other.reshape(-1)]))[0, 1]
        assert abs(correlation.item()) < 4 / first.numel() ** 0.5


def test_with_one_fixed_draw_the_process_comes_to_that_draw() -> None:
    alpha, model = 0.9, Coordinates(0.3)
    process = reinit(model, alpha=alpha, seed=2, draw="fixed")
    draw = process.draw(0)[0].double()
    with torch.no_grad():
        for n in range(1, 401):
            process(n - 1)
            if n in {1, 5, 50, 400}:
                expected = alpha**n * 0.3 + (1 - alpha**n) * draw
                assert (model.weight.double() - expected).abs().max() < 1e-6
    assert (model.weight.double() - draw).abs().max() < 1e-6
    assert draw.std().item() == pytest.approx((2 / 1000) ** 0.5, rel=0.02)


def test_a_draw_of_an_epoch_holds_for_the_epoch(splits: Splits) -> None:
    draws = {steps: mixed_alone(splits, steps, draw="per_epoch") for steps in (1, 6, 7, 12, 13)}
    assert torch.equal(draws[1], draws[6])  # ninety retain examples in batches of sixteen: six steps an epoch
    assert torch.equal(draws[7], draws[12])
    assert not torch.equal(draws[6], draws[7])
    assert not torch.equal(draws[12], draws[13])
    assert torch.equal(mixed_alone(splits, 1, draw="fixed"), mixed_alone(splits, 13, draw="fixed"))
    assert not torch.equal(mixed_alone(splits, 1, draw="fresh"), mixed_alone(splits, 2, draw="fresh"))


def mixed_alone(splits: Splits, steps: int, **settings: Any) -> Tensor:
    """Return the weights of a layer after steps of next to no length and no memory: the last draw."""
    model = make_net()
    unlearn(model, splits, alpha=0.0, step_size=1e-300, steps=steps, **settings)
    return dict(model.named_parameters())["conv2.weight"].detach()


def test_one_dimensional_tensors_are_mixed_on_request_and_buffers_never(splits: Splits) -> None:
    model = make_net()
    before, draws = dict(make_net().named_buffers()), reinit(model, alpha=0.0, seed=0, include_1d=True).draw(0)
    unlearn(model, splits, alpha=0.0, step_size=1e-300, steps=1, include_1d=True)
    assert len(draws) == len(list(model.parameters())) == 11
    for parameter, draw in zip(model.parameters(), draws, strict=True):
        assert torch.equal(parameter.detach(), draw)
    scale = dict(model.named_parameters())["bn3.weight"]
    assert scale.std().item() == pytest.approx((2 / 64) ** 0.5, rel=0.4)
    plain = make_net()
    unlearn(plain, splits, alpha=1.0, step_size=1e-300, steps=1)
    for (name, one), two in zip(model.named_buffers(), plain.buffers(), strict=True):
        assert torch.equal(one, two), name
        assert not torch.equal(one, before[name]), name


def test_tensors_of_one_step_are_drawn_apart() -> None:
    model = nn.Sequential(nn.Linear(50, 50), nn.Linear(50, 50))
    first, second = reinit(model, alpha=0.9, seed=0).draw(0)
    assert not torch.equal(first, second)


def test_noise_leaves_the_batches_and_the_global_generator_alone(splits: Splits) -> None:
    def seen(alpha: float) -> list[Tensor]:
        model, inputs = make_net(), []
        model.register_forward_pre_hook(lambda module, given: inputs.append(given[0].clone()))
        unlearn(model, splits, alpha=alpha)
        return inputs

    torch.manual_seed(5)
    state = torch.get_rng_state()
    plain, noisy = seen(1.0), seen(0.9)
    assert len(plain) == len(noisy) == 6
    assert all(torch.equal(a, b) for a, b in zip(plain, noisy, strict=True))
    torch.manual_seed(5)
    unlearn(copy.deepcopy(make_net()), splits, alpha=0.9, c=0.5)
    make_net()
    after = torch.get_rng_state()
    make_net()
    assert torch.equal(after, torch.get_rng_state())
    assert len(state) == len(after)


# ----- which part runs


@pytest.mark.parametrize(("c", "passes"), [(0.0, 6), (0.1, 12)])
def test_a_part_that_is_off_is_not_run(splits: Splits, c: float, passes: int) -> None:
    model, seen = make_net(), []
    model.register_forward_hook(lambda *_: seen.append(model.training))
    done = unlearn(model, splits, c=c, alpha=0.99)
    assert seen == [True] * passes
    assert model.bn1.num_batches_tracked.item() == passes
    assert done.gradient_evaluations == 90 + (60 if c else 0)


def test_without_ascent_the_forget_set_makes_no_difference(splits: Splits, noise: Callable[..., Examples]) -> None:
    models = []
    for seed in (0, 8):
        other = noise(100, seed=seed)
        kept = torch.arange(100) >= 10
        train = replace(
            other,
            images=torch.where(kept[:, None, None, None], splits.dataset.train.images, other.images),
            labels=torch.where(kept, splits.dataset.train.labels, other.labels),
        )
        models.append(make_net())
        changed = replace(splits, dataset=replace(splits.dataset, train=train))
        unlearn(models[-1], changed, alpha=0.9, c=0.0)
    for (name, one), two in zip(models[0].state_dict().items(), models[1].state_dict().values(), strict=True):
        assert torch.equal(one, two), name


def test_the_checkpoints_own_transform_is_used(splits: Splits) -> None:
    model, inputs = make_net(), []
    model.register_forward_pre_hook(lambda module, given: inputs.append(given[0].clone()))
    run_ieu(
        replace(make_context(model, splits), transform=Transform((0.0,), (2.0,))),
        IeuSettings(alpha=1.0, c=0.0, steps=1, batch_size=200),
    )
    wanted = splits.retain_examples.images.float() / 255 / 2
    assert inputs[0].sum().item() == pytest.approx(wanted.sum().item(), rel=1e-5)


# ----- forms of IEU


def test_with_full_batches_a_step_takes_both_sets_whole(splits: Splits) -> None:
    model, eta, c = Plain(), 0.1, 0.3
    theta = parameters_of(model)

    def objective(weights: dict[str, Tensor]) -> Tensor:
        sets = [(batches_of(splits, which, size=200).at(0)) for which in ("retain", "forget")]
        return cross_entropy(model, weights, sets[0]) - c * cross_entropy(model, weights, sets[1])

    for _ in range(3):
        slope = slopes(objective, theta)
        theta = {name: theta[name] - eta * slope[name] for name in theta}
    done = unlearn(model, splits, batch_size="full", step_size=eta, c=c, steps=3)
    assert difference(theta, parameters_of(model)) < 1e-12
    assert done == Unlearned(3, 3 * 100)


def test_retain_free_ascends_the_forget_set_alone(splits: Splits) -> None:
    model, eta, c = Plain(), 0.1, 0.5
    theta, seen = parameters_of(model), watch_inputs(model)
    forget = batches_of(splits, "forget", size=4)
    for step in range(5):
        slope = slopes(lambda weights, step=step: cross_entropy(model, weights, forget.at(step)), theta)
        theta = {name: theta[name] + eta * c * slope[name] for name in theta}
    seen.clear()
    done = unlearn(model, splits, retain_free=True, c=c, step_size=eta, steps=5, batch_size=4)
    assert difference(theta, parameters_of(model)) < 1e-12
    assert [len(batch) for batch in seen] == [4, 4, 2, 4, 4]
    assert done == Unlearned(5, 18)


def test_an_epoch_without_retain_set_is_a_pass_over_the_forget_set(splits: Splits) -> None:
    assert unlearn(Plain(), splits, retain_free=True, c=0.1, steps=None, epochs=2, batch_size=4) == Unlearned(6, 20)


def test_a_clipped_loss_has_no_gradient_above_and_the_whole_one_below(splits: Splits) -> None:
    examples, eta = batches_of(splits, "forget", size=200).at(0), 0.1
    with torch.no_grad():
        each = functional.cross_entropy(Plain()(examples[0]), examples[1], reduction="none").sort().values
    clip = (each[4].item() + each[5].item()) / 2  # half of them are above
    model = Plain()

    def below(weights: dict[str, Tensor]) -> Tensor:
        logits = torch.func.functional_call(model, weights, (examples[0],))
        each = functional.cross_entropy(logits, examples[1], reduction="none")
        return each[each < clip].sum() / len(each)

    theta = parameters_of(model)
    slope = slopes(below, theta)
    settings = {"retain_free": True, "c": 1.0, "step_size": eta, "steps": 1, "batch_size": "full"}
    unlearn(model, splits, loss_clip=clip, **settings)
    assert difference({name: theta[name] + eta * slope[name] for name in theta}, parameters_of(model)) < 1e-12
    still = Plain()
    unlearn(still, splits, loss_clip=each[0].item() / 2, **settings)
    assert same(still, theta)


def test_the_default_clip_is_fifteen_nats() -> None:
    assert IeuSettings().clip == 15


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"retain_free": True, "c": 0}, "with retain_free and c = 0 no gradient is left"),
        ({"loss_clip": 0}, "loss_clip: "),
        ({"loss_clip": 1, "stop_forget_loss": 1.5}, "stop_forget_loss is above loss_clip"),
    ],
)
def test_forms_that_make_no_sense_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=f"^settings of ieu: {says}"):
        parse_settings(IEU, settings)


# ----- IEU and its relatives


def loops() -> list[dict[str, Any]]:
    return [
        {"momentum": 0.0, "weight_decay": 0.0},
        {"momentum": 0.9, "weight_decay": 5e-4, "schedule": "cosine"},
        {"optimizer": "adam", "step_size": 1e-3, "schedule": "milestones:1", "augment": "yes"},
        {"batch_size": "full", "steps": None, "epochs": 2.5},
    ]


@pytest.mark.parametrize("loop", loops())
def test_ieu_without_noise_and_ascent_is_ft_bit_for_bit(splits: Splits, loop: dict[str, Any]) -> None:
    ieu, ft = make_net(), make_net()
    values = {"step_size": 0.05, "steps": 9, "batch_size": 16, "momentum": 0.0, "weight_decay": 0.0} | loop
    values = {"schedule": "constant"} | values
    one = run_ieu(make_context(ieu, splits), IeuSettings(alpha=1.0, c=0.0, **values))
    two = run_ft(make_context(ft, splits), FtSettings(**values))
    assert same(ieu, ft)
    assert not same(ft, make_net())
    assert one == two


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_without_draws_the_mixing_is_decoupled_weight_decay_bit_for_bit(splits: Splits, momentum: float) -> None:
    alpha, eta = 0.97, 0.05
    ours, theirs, ft_wd = make_net(), make_net(), make_net()
    settings = {"alpha": alpha, "step_size": eta, "steps": 8, "batch_size": 16, "momentum": momentum}
    settings["schedule"] = "constant"
    unlearn(ours, splits, scale="none", **settings)
    run_ft_wd(make_context(ft_wd, splits), FtWdSettings(**settings))
    optimizer = torch.optim.SGD(theirs.parameters(), lr=eta, momentum=momentum)
    retain = batches_of(splits, "retain")
    for step in range(8):
        images, labels = retain.at(step)
        optimizer.zero_grad()
        torch.autograd.backward(functional.cross_entropy(theirs(images), labels, reduction="none").mean())
        with torch.no_grad():
            for parameter in theirs.parameters():
                if parameter.dim() >= 2:
                    parameter.mul_(alpha)
        optimizer.step()
    assert same(ours, theirs)
    assert same(ft_wd, theirs)


def test_ft_wd_is_sgd_with_weight_decay_of_one_minus_alpha_over_eta(splits: Splits) -> None:
    alpha, eta = 0.98, 0.05
    ours, theirs = Plain(), Plain()
    loop: dict[str, Any] = {"step_size": eta, "steps": 12, "batch_size": 16, "schedule": "constant"}
    run_ft_wd(make_context(ours, splits), FtWdSettings(alpha=alpha, **loop))
    matrices = [parameter for parameter in theirs.parameters() if parameter.dim() >= 2]
    vectors = [parameter for parameter in theirs.parameters() if parameter.dim() < 2]
    optimizer = torch.optim.SGD([{"params": matrices, "weight_decay": (1 - alpha) / eta}, {"params": vectors}], lr=eta)
    retain = batches_of(splits, "retain")
    for step in range(12):
        images, labels = retain.at(step)
        optimizer.zero_grad()
        torch.autograd.backward(functional.cross_entropy(theirs(images), labels))
        optimizer.step()
    assert difference(ours, theirs) < 1e-13
    plain = Plain()
    run_ft_wd(make_context(plain, splits), FtWdSettings(alpha=1.0, **loop))
    assert difference(ours, plain) > 1e-3


def test_ft_wd_of_the_defaults_differs_from_ieu_by_noise_and_ascent_alone() -> None:
    ieu, ft_wd = IeuSettings(), FtWdSettings()
    shared = set(IeuSettings.model_fields) & set(FtWdSettings.model_fields)
    assert {name for name in shared if getattr(ieu, name) != getattr(ft_wd, name)} == set()
    assert "alpha" in shared


@pytest.mark.parametrize("weight", [0.5, 0.8, 1.0])
def test_ieu_without_noise_is_neggrad_plus_up_to_the_step_size(splits: Splits, weight: float) -> None:
    ieu, neggrad, eta = Plain(), Plain(), 0.1
    unlearn(ieu, splits, seed=3, c=(1 - weight) / weight, step_size=eta, steps=9)
    settings = NegGradPlusSettings(alpha=weight, step_size=eta / weight, steps=9, batch_size=16, momentum=0)
    run_neggrad_plus(make_context(neggrad, splits, 3), settings)
    assert difference(ieu, neggrad) < 1e-13
    assert difference(ieu, Plain()) > 1e-3


# ----- settings


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("alpha", 1.001),
        ("alpha", -0.1),
        ("alpha", float("nan")),
        ("c", 2),
        ("c", -1e-9),
        ("step_size", 0),
        ("step_size", float("inf")),
        ("step_size", 1e300),
        ("steps", -1),
        ("steps", 1.5),
        ("batch_size", 0),
        ("scale", "kaiming"),
    ],
)
def test_settings_out_of_range_are_refused(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"^settings of ieu: {key}: ") as caught:
        parse_settings(IEU, {key: value})
    assert caught.value.exit_code == 2


def test_a_setting_that_is_not_known_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"^settings of ieu: unknown key 'alfa'; did you mean 'alpha'\?"):
        parse_settings(IEU, {"alfa": 0.9})


def test_every_problem_of_the_settings_is_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_settings(IEU, {"alpha": 3, "c": -1, "steps": 5})
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize(
    ("alpha", "c", "name"), [(1.0, 0.0, "FT"), (1.0, 0.1, "GA"), (0.99, 0.0, "Noisy"), (0.99, 0.1, "GA+Noisy")]
)
def test_variants_have_the_papers_names(splits: Splits, alpha: float, c: float, name: str) -> None:
    assert IeuSettings(alpha=alpha, c=c).variant == name
    told: list[str] = []
    problem = replace(make_context(make_net(), splits), progress=lambda task, *_: told.append(task))
    run_ieu(problem, IeuSettings(alpha=alpha, c=c, steps=1))
    assert told == [f"IEU {name}"]


def test_the_catalogue_knows_the_method() -> None:
    assert catalogue.load("method", catalogue.METHODS, "ieu") is IEU
    assert catalogue.load("transform", catalogue.TRANSFORMS, "reinit") is REINIT


# ----- stops


@pytest.mark.parametrize("settings", [{"step_size": 1e30}, {"step_size": 1e20, "c": 1.0, "alpha": 0.9}])
def test_divergence_stops_with_the_step(splits: Splits, settings: dict[str, float]) -> None:
    with pytest.raises(MeasurementError, match=r"^IEU .* diverged (by|at) step \d+: .*use a smaller step size"):
        unlearn(make_net(), splits, steps=30, **settings)


def test_weights_that_the_last_step_breaks_are_not_returned(splits: Splits) -> None:
    model = nn.Linear(1, 1)

    with pytest.raises(MeasurementError, match="^testing diverged at step 0: the weights are not finite"):
        run_composition(
            make_context(model, splits),
            plain(lambda step: {"loss": Term(1e20 * model.weight.sum())}),
            LoopSettings(steps=1, step_size=1e30),
            task="testing",
        )


def plain(terms: Callable[[int], Any]) -> Objective:
    """An objective that has no data."""
    return Objective(terms, length=int, epoch_of=int, gradients=lambda steps: 0, losses=())


def test_a_batch_that_batchnorm_cannot_take_is_said(splits: Splits) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.BatchNorm1d(4))
    with pytest.raises(MeasurementError, match="stopped at step 0: the model raised ValueError: Expected more than 1"):
        unlearn(model, splits, batch_size=1)


def test_momentum_is_sgds(splits: Splits) -> None:
    model = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(model.weight, 1.0)
    done = run_composition(
        make_context(model, splits),
        plain(lambda step: {"loss": Term(2 * model.weight.sum())}),
        LoopSettings(steps=3, step_size=0.1, momentum=0.5),
        task="testing",
    )
    assert model.weight.item() == pytest.approx(1 - 0.1 * (2 + 3 + 3.5))
    assert done == Unlearned(3, 0)


# ----- from checkpoint to checkpoint


def apply(
    parent: Path, out: Path, forget: Path | str, seed: int = 0, clock: Any = time.monotonic, **settings: Any
) -> str:
    asked = {"checkpoint": [{"path": str(parent)}], "forget": str(forget), "device": "cpu", "seed": seed}
    return apply_method("ieu", out, resolve([Layer("flag", asked)]), {"steps": 3} | settings, clock=clock).sha256


def test_the_parent_is_only_read_and_the_child_tells_where_it_comes_from(tiny: Path, tmp_path: Path) -> None:
    parent, out = tiny / "original.safetensors", tmp_path / "u.safetensors"
    before = sha256_of_file(parent)
    assert apply(parent, out, tiny / "forget.npy", seed=4, alpha=0.99) == sha256_of_file(out)
    assert sha256_of_file(parent) == before
    made, origin = read_checkpoint(out).metadata, read_checkpoint(parent).metadata
    assert made is not None
    assert origin is not None
    assert (made.role, made.method, made.parent_sha256, made.seed) == ("unlearned", "ieu", before, 4)
    assert (made.model, made.data, made.data_sha256) == (origin.model, origin.data, origin.data_sha256)
    assert (made.mean, made.std, made.recipe) == (origin.mean, origin.std, origin.recipe)
    assert made.settings == IeuSettings(alpha=0.99, steps=3).model_dump(mode="json")
    assert made.wall_seconds is not None
    assert 0 < made.wall_seconds < 60
    assert (made.forget_n, made.steps, made.gradient_evaluations) == (144, 3, 3 * 64 + 64 + 64 + 16)


def test_the_same_seed_writes_the_same_bytes(tiny: Path, tmp_path: Path) -> None:
    digests = [
        apply(
            tiny / "original.safetensors", tmp_path / f"{index}.safetensors", tiny / "forget.npy", seed=seed, clock=None
        )
        for index, seed in enumerate((1, 1, 2))
    ]
    assert digests[0] == digests[1] != digests[2]


def test_a_recorded_transform_is_used_and_handed_on(tiny: Path, tmp_path: Path) -> None:
    original = read_checkpoint(tiny / "original.safetensors")
    assert original.metadata is not None
    shifted = tmp_path / "shifted.safetensors"
    write_checkpoint(
        shifted, original.state, original.metadata.model_copy(update={"mean": (0.1,), "std": (0.7,)}), force=False
    )
    apply(shifted, tmp_path / "a.safetensors", tiny / "forget.npy", alpha=1.0, c=0.0)
    apply(tiny / "original.safetensors", tmp_path / "b.safetensors", tiny / "forget.npy", alpha=1.0, c=0.0)
    one, two = (read_checkpoint(tmp_path / f"{name}.safetensors") for name in "ab")
    assert one.metadata is not None
    assert (one.metadata.mean, one.metadata.std) == ((0.1,), (0.7,))
    assert not torch.equal(one.state["fc.weight"], two.state["fc.weight"])


def test_refusals_come_before_any_work_and_leave_nothing(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unlearn_audit.methods.ieu.run_composition", lambda *_, **__: pytest.fail("worked"))
    parent, forget = tiny / "original.safetensors", tiny / "forget.npy"
    taken = tmp_path / "taken.safetensors"
    taken.write_bytes(b"x")
    with pytest.raises(OutputError, match="taken.safetensors"):
        apply(parent, taken, forget)
    request = resolve([Layer("flag", {"checkpoint": [{"path": str(parent)}], "forget": str(forget)})])
    with monkeypatch.context() as patch:  # nothing is read for it either
        patch.setattr("unlearn_audit.methods.apply.resolve_inputs", lambda *_, **__: pytest.fail("worked"))
        with pytest.raises(UsageError, match="checkpoint to start from"):
            apply_method("ieu", parent, request, {}, force=True)
    with pytest.raises(UsageError, match="unknown method 'ieo'; did you mean 'ieu'"):
        apply_method("ieo", tmp_path / "u", resolve([Layer("flag", {"checkpoint": [{"path": str(parent)}]})]), {})
    with pytest.raises(UsageError, match="no forget set given"):
        apply_method("ieu", tmp_path / "u", resolve([Layer("flag", {"checkpoint": [{"path": str(parent)}]})]), {})
    assert [path.name for path in tmp_path.iterdir()] == ["taken.safetensors"]


def test_a_diverged_method_writes_nothing(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match="diverged"):
        apply(tiny / "original.safetensors", tmp_path / "u.safetensors", tiny / "forget.npy", step_size=1e30)
    assert list(tmp_path.iterdir()) == []


def test_from_the_command_line(run: Callable[..., Any], tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "u.safetensors"
    for verb, force in (("apply", []), ("unlearn", ["--force"])):
        done = run(verb, "ieu", tiny / "original.safetensors", "--forget", tiny / "forget.npy", "--out", out,
                   "--steps", 2, "--alpha", 1, "--c", 0.5, "--seed", derive_seed("x"), *force)  # fmt: skip
        assert (done.code, done.stdout) == (0, ""), done.stderr
        assert f"wrote {out}" in done.stderr
    assert json.loads(run("inspect", out, "--format", "json").stdout)["metadata"]["settings"]["c"] == 0.5
    refused = run("apply", "ieu", tiny / "original.safetensors", "--forget", tiny / "forget.npy", "--out", out,
                  "--alpha", 1.5, "--force")  # fmt: skip
    assert refused.code == 2
    assert "alpha" in refused.stderr
