"""Relearning curves and RCD: closed forms, pass counts, and what happens when a curve is no descent."""

import copy
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from unlearn_audit.curvature import TopEigenvalue
from unlearn_audit.data import Examples, Transform
from unlearn_audit.engine import Device
from unlearn_audit.engine.task import Task
from unlearn_audit.errors import MeasurementError
from unlearn_audit.models.small import small_cnn
from unlearn_audit.relearning import (
    HALVINGS,
    Algorithm,
    Curve,
    CurveSet,
    Run,
    Start,
    StepSearch,
    hardly_moved,
    rcd,
    relearn,
    relearn_all,
    status,
)

Noise = Callable[..., Examples]
Floats = NDArray[np.float64]
HALF = Transform((0.5,), (0.25,))
CPU = Device(torch.device("cpu"))
WHOLE = replace(CPU, chunk=10_000)


class Point(nn.Module):
    """A point in double precision; to every image it answers its own coordinates."""

    def __init__(self, start: list[float]) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.tensor(start, dtype=torch.float64))

    def forward(self, images: Tensor) -> Tensor:
        return self.place.expand(len(images), -1)


def landscape(height: Callable[[Tensor], Tensor]) -> Task:
    """A task whose loss is a function of the point alone."""
    return Task(height, lambda place, labels: torch.zeros(len(place)))


def valley(curvatures: list[float]) -> Task:
    """The quadratic with these eigenvalues."""
    slopes = torch.tensor(curvatures, dtype=torch.float64)
    return Task(lambda place, labels: place.square() @ slopes / 2, lambda place, labels: torch.zeros(len(place)))


def make_net(seed: int = 0) -> nn.Module:
    """A small CNN with BatchNorm statistics of some data, in evaluation mode."""
    torch.manual_seed(seed)
    net = small_cnn(classes=4, channels=1)
    for _ in range(3):
        net(torch.randn(16, 1, 4, 4) * 2 + 1)
    return net.eval()


def go(run: Run, steps: int, step_size: float, optimizer: Literal["gd", "adam"] = "gd", compute: Device = CPU) -> Curve:
    return relearn(run, steps=steps, step_size=step_size, algorithm=Algorithm(optimizer), compute=compute)


# ----- the definition


CURVATURES, START = [4.0, 1.5, 0.3, 0.01], [0.7, -1.3, 2.0, 5.0]


def closed_form(steps: int, step_size: float) -> float:
    """Return ½·sum over i of lambda_i x_i²·(1 - q_i^(K+1)) / (1 - q_i), q_i = (1 - eta·lambda_i)²."""
    slopes, start = np.array(CURVATURES), np.array(START)
    q = (1 - step_size * slopes) ** 2
    return float((slopes * start**2 * (1 - q ** (steps + 1)) / (1 - q)).sum() / 2)


@pytest.mark.parametrize("step_size", [0.25, 0.1, 1e-3])
def test_rcd_of_a_quadratic_is_its_closed_form_for_every_k(noise: Noise, step_size: float) -> None:
    curve = go(Run(Point(START), noise(3), HALF, valley(CURVATURES)), 200, step_size)
    assert len(curve.loss) == 201
    for steps in range(201):
        prefix = replace(curve, loss=curve.loss[: steps + 1])
        assert rcd(prefix) == pytest.approx(closed_form(steps, step_size), rel=1e-9)
    assert rcd(curve, floor=0.3) == pytest.approx(closed_form(200, step_size) - 201 * 0.3, rel=1e-9)


@pytest.mark.parametrize(("kappa", "ratio"), [(2, 1.111), (10, 1.388), (100, 1.488)])
def test_the_sum_over_a_quadratic_stays_below_the_condition_number(noise: Noise, kappa: float, ratio: float) -> None:
    curve = go(Run(Point([1.0, 1.0]), noise(1), HALF, valley([1.0, 1 / kappa])), 40 * int(kappa), 1.0)
    found = rcd(curve)
    assert found is not None
    assert found / curve.loss[0] == pytest.approx(ratio, abs=6e-4)
    assert found / curve.loss[0] <= kappa**2 / (2 * kappa - 1) <= kappa


def test_a_small_step_leaves_the_initial_loss_and_a_first_correction(noise: Noise) -> None:
    run, steps = Run(Point(START), noise(2), HALF, valley(CURVATURES)), 20
    for step_size in (1e-4, 1e-5, 1e-6):
        curve = go(run, steps, step_size)
        limit = (steps + 1) * curve.loss[0]
        correction = -step_size * curve.gradient_norm[0] ** 2 * steps * (steps + 1) / 2
        found = rcd(curve)
        assert found is not None
        assert found - limit == pytest.approx(correction, rel=50 * step_size * max(CURVATURES))
    assert curve.gradient_norm[0] == pytest.approx(np.linalg.norm(np.multiply(CURVATURES, START)), rel=1e-12)


def test_no_step_is_one_term(noise: Noise) -> None:
    curve = go(Run(Point(START), noise(2), HALF, valley(CURVATURES)), 0, 0.1)
    assert (len(curve.loss), len(curve.gradient_norm), curve.forwards, curve.backwards) == (1, 0, 1, 0)
    assert rcd(curve) == pytest.approx(curve.loss[0])


def test_adam_is_kingma_and_bas(noise: Noise) -> None:
    slopes, theta = np.array(CURVATURES), np.array(START)
    m, v, losses, eta = np.zeros(4), np.zeros(4), [], 0.05
    for t in range(1, 42):
        losses.append(float((slopes * theta**2).sum() / 2))
        g = slopes * theta
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        theta = theta - eta * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    curve = go(Run(Point(START), noise(2), HALF, valley(CURVATURES)), 40, eta, "adam")
    np.testing.assert_allclose(curve.loss, losses, rtol=1e-9)


def test_gradient_descent_on_a_network_is_the_one_written_by_hand(noise: Noise) -> None:
    net, examples = make_net(), noise(40)
    images, expected = HALF(examples.images), []
    model = copy.deepcopy(net)
    for _ in range(6):
        loss = nn.functional.cross_entropy(model(images), examples.labels)
        expected.append(loss.item())
        slopes = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for parameter, slope in zip(model.parameters(), slopes, strict=True):
                parameter -= 0.1 * slope
    np.testing.assert_allclose(go(Run(net, examples, HALF), 5, 0.1).loss, expected, rtol=1e-5)


def test_errors_and_areas_belong_to_the_examples(noise: Noise) -> None:
    net, examples = make_net(), noise(40)
    curve = go(Run(net, examples, HALF), 12, 0.05, compute=replace(CPU, chunk=7))
    assert curve.areas.mean() == pytest.approx(rcd(curve), rel=1e-12)
    one = noise(40).subset(np.array([11]))
    start = go(Run(net, one, HALF), 0, 0.05)
    assert start.areas[0] == pytest.approx(go(Run(net, examples, HALF), 0, 0.05).areas[11], rel=1e-5)
    with torch.no_grad():
        wrong = (net(HALF(examples.images)).argmax(1) != examples.labels).double().mean()
    assert curve.error[0] == pytest.approx(wrong.item())
    assert len(curve.error) == len(curve.loss)


# ----- what it costs and what it leaves alone


class Count:
    """Forward and backward passes through a network and its copies."""

    def __init__(self, net: nn.Module) -> None:
        self.forwards = self.backwards = 0
        net.register_forward_hook(lambda module, inputs, output: self.forward(output))

    def forward(self, output: Tensor) -> None:
        self.forwards += 1
        if output.requires_grad:
            output.register_hook(self.backward)

    def backward(self, _: Tensor) -> None:
        self.backwards += 1


@pytest.mark.parametrize("steps", [0, 1, 9])
@pytest.mark.parametrize(("chunk", "parts"), [(1000, 1), (20, 3)])
def test_k_steps_cost_k_plus_one_forward_and_k_backward_passes(
    noise: Noise, steps: int, chunk: int, parts: int
) -> None:
    net = make_net()
    count = Count(net)
    curve = go(Run(net, noise(50), HALF), steps, 0.01, compute=replace(CPU, chunk=chunk))
    assert (count.forwards, count.backwards) == (parts * (steps + 1), parts * steps)
    assert (curve.forwards, curve.backwards) == (steps + 1, steps)


@pytest.mark.parametrize("optimizer", ["gd", "adam"])
def test_the_model_is_left_untouched(noise: Noise, optimizer: Literal["gd", "adam"]) -> None:
    net = make_net().train()
    before = copy.deepcopy(net.state_dict())
    go(Run(net, noise(50), HALF), 5, 0.1, optimizer)
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert net.training
    assert all(parameter.grad is None for parameter in net.parameters())


def test_batchnorm_is_frozen_while_relearning(noise: Noise) -> None:
    net, seen = make_net().train(), []
    net.bn1.register_forward_hook(lambda module, *_: seen.append((module.training, module.running_mean.clone())))
    go(Run(net, noise(50), HALF), 5, 0.1)
    assert len(seen) == 6
    assert all(not training and torch.equal(mean, net.bn1.running_mean) for training, mean in seen)


@pytest.mark.parametrize("optimizer", ["gd", "adam"])
def test_every_k_of_one_trajectory_is_a_run_of_that_length_and_repeatable(
    noise: Noise, optimizer: Literal["gd", "adam"]
) -> None:
    run = Run(make_net(), noise(50), HALF)
    long = go(run, 20, 0.02, optimizer)
    for steps in (0, 1, 7, 20):
        short = go(run, steps, 0.02, optimizer)
        np.testing.assert_array_equal(short.loss, long.loss[: steps + 1])
        np.testing.assert_array_equal(short.error, long.error[: steps + 1])
        np.testing.assert_array_equal(short.gradient_norm, long.gradient_norm[:steps])
    np.testing.assert_array_equal(short.areas, long.areas)


def test_chunks_change_nothing_but_rounding(noise: Noise) -> None:
    run = Run(make_net(), noise(50), HALF)
    parts = go(run, 10, 0.05, compute=replace(CPU, chunk=7))
    np.testing.assert_allclose(parts.loss, go(run, 10, 0.05, compute=WHOLE).loss, rtol=1e-4)


# ----- curves that are no descents


@pytest.mark.parametrize(("steps", "step_size", "at"), [(10, 1e200, 1), (1, 1e200, 1), (10, 1e60, 3)])
def test_divergence_is_said_and_never_summed(noise: Noise, steps: int, step_size: float, at: int) -> None:
    curve = go(Run(Point([1.0, 1.0]), noise(2), HALF, valley([2.0, 1.0])), steps, step_size)
    assert curve.diverged_at == at
    assert rcd(curve) is None
    assert status(curve) == f"diverged at step {at}"
    assert len(curve.loss) == len(curve.error) == at
    assert np.isfinite(curve.loss).all()
    assert (curve.forwards, curve.backwards) == (at + 1, min(at + 1, steps))


def test_a_model_that_is_not_finite_diverged_before_any_step(noise: Noise) -> None:
    curve = go(Run(Point([float("nan")]), noise(2), HALF, valley([1.0])), 3, 0.1)
    assert (curve.diverged_at, rcd(curve), len(curve.loss)) == (0, None, 0)
    assert status(curve) == "diverged at step 0"


def test_a_rising_loss_is_told_from_its_first_step(noise: Noise) -> None:
    # Step 0.75 on curvature 4 multiplies by -2; the small coordinate rises above the falling one only later.
    run = Run(Point([1e-3, 10.0]), noise(2), HALF, valley([4.0, 0.5]))
    curve = go(run, 20, 0.75)
    first = next(t for t in range(1, 21) if curve.loss[t] > curve.loss[t - 1] * 1.001)
    assert first > 1
    assert curve.rises_from == first
    assert curve.diverged_at is None
    assert status(curve) == f"unstable: loss rises from step {first}"
    assert rcd(curve) == pytest.approx(curve.loss.sum())
    stopped = relearn(run, steps=20, step_size=0.75, compute=CPU, stop_when_rising=True)
    assert (stopped.rises_from, stopped.forwards, stopped.backwards) == (first, first + 1, first + 1)


def test_rounding_at_the_bottom_is_no_rise(noise: Noise) -> None:
    def ripples(size: float) -> Task:
        return landscape(lambda place, labels=None: (size * (1 + (1e3 * place).sin()) + place).sum(1) - place.sum(1))

    assert go(Run(Point([1.0]), noise(1), HALF, ripples(2e-7)), 10, 1e-2).rises_from is None
    assert go(Run(Point([1.0]), noise(1), HALF, ripples(2e-3)), 10, 1e-2).rises_from is not None
    run = Run(Point([1.0]), noise(2), HALF, valley([1.0]))
    curve = go(run, 400, 0.3)
    assert curve.loss[-1] < 1e-30
    assert curve.rises_from is None
    assert status(curve) == "converged"


def drawn(*losses: float) -> Curve:
    """A curve of these losses."""
    points, steps, one = np.zeros(len(losses)), np.zeros(len(losses) - 1), np.zeros(1)
    return Curve(np.array(losses), np.array(losses), points, steps, points, one, one, steps, None, None, 0, 0)


# ----- looks


class Waits(TorchFunctionMode):
    """Counts what the host waits for a GPU for: values that leave the device (Adam asks its own counter, there too)."""

    LEAVING: ClassVar = {Tensor.cpu, Tensor.numpy, Tensor.tolist, Tensor.__float__, Tensor.__bool__}

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func in self.LEAVING
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "algorithm",
    [Algorithm(), Algorithm("adam"), Algorithm("sgd", weight_decay=0.01), Algorithm("sgd", minibatch=4)],
    ids=["gd", "adam", "decay", "minibatches"],
)
@pytest.mark.parametrize("elsewhere", [False, True])
def test_looking_seldom_gives_the_same_curve_and_nothing_waits_in_between(
    noise: Noise, monkeypatch: pytest.MonkeyPatch, algorithm: Algorithm, elsewhere: bool
) -> None:
    run = Run(make_net(), noise(10), HALF, measured=noise(7, seed=1) if elsewhere else None)

    def curve(every: int, steps: int) -> tuple[Curve, int]:
        monkeypatch.setattr("unlearn_audit.relearning.curve.looks_every", lambda compute: every)
        with Waits() as waits:
            found = relearn(run, steps=steps, step_size=0.05, compute=CPU, algorithm=algorithm, keep_end=True)
        return found, waits.count

    often, seldom = curve(1, 16), curve(6, 16)
    for name in (each.name for each in fields(Curve) if each.name != "end"):
        assert np.array_equal(getattr(often[0], name), getattr(seldom[0], name)), name
    ends = [found.end.state_dict() for found in (often[0], seldom[0]) if found.end is not None]
    assert len(ends) == 2
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    assert curve(100, 40)[1] == curve(100, 20)[1]  # a run of one look: no step waits
    assert often[1] > 4 * curve(100, 16)[1]


def test_a_curve_that_diverges_between_two_looks_is_cut_where_it_did(
    noise: Noise, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(Point([1.0, 1.0]), noise(1), HALF, valley([1.0, 1e200]))
    often = go(run, 9, 1.0)
    monkeypatch.setattr("unlearn_audit.relearning.curve.looks_every", lambda compute: 4)
    seldom = go(run, 9, 1.0)
    assert often.diverged_at is not None
    for name in (each.name for each in fields(Curve)):
        assert np.array_equal(getattr(often, name), getattr(seldom, name)), name


def test_curvature_is_measured_of_nothing_that_diverged_unseen(noise: Noise, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [TopEigenvalue(1.0, 1)]  # and none for weights that are not finite
    monkeypatch.setattr("unlearn_audit.relearning.curve.lambda_max", lambda *_, **__: answers.pop())
    monkeypatch.setattr("unlearn_audit.relearning.curve.looks_every", lambda compute: 20)
    run = Run(Point([1.0, 1.0]), noise(1), HALF, valley([1.0, 1e200]))
    assert relearn(run, steps=15, step_size="lambda", compute=CPU).diverged_at is not None


@pytest.mark.parametrize("value", [0.0, -0.5])
def test_no_step_follows_a_curvature_that_is_not_positive(
    noise: Noise, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    monkeypatch.setattr("unlearn_audit.relearning.curve.lambda_max", lambda *_, **__: TopEigenvalue(value, 1))
    run = Run(Point([1.0]), noise(1), HALF, valley([1.0]))
    with pytest.raises(MeasurementError, match="at step 0; give --step-size a number"):
        relearn(run, steps=1, step_size="lambda", compute=CPU)


def test_who_is_asked_after_each_step_is_asked_after_each_step(noise: Noise, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unlearn_audit.relearning.curve.looks_every", lambda compute: 50)
    run, seen = Run(make_net(), noise(10), HALF), list[int]()
    relearn(run, steps=4, step_size=0.05, compute=CPU, visit=lambda t, model: seen.append(t))
    assert seen == [0, 1, 2, 3, 4]
    cut = relearn(run, steps=9, step_size=0.05, compute=CPU, stop=lambda summed: len(summed) == 3)
    assert len(cut.loss) == 3


def test_status_words() -> None:
    assert status(drawn(*np.linspace(1.0, 0.01, 20))) == "converged"
    assert status(drawn(*np.linspace(1.0, 0.5, 20))) == "still falling"
    assert status(drawn(1.0, *[0.5] * 19)) == "stalled"
    assert status(drawn(1.0, 0.5)) == "still falling"
    assert status(drawn(0.0, 0.0)) == "converged"
    assert status(replace(drawn(1.0, 2.0), rises_from=1)) == "unstable: loss rises from step 1"
    assert status(replace(drawn(1.0, 2.0), rises_from=1, diverged_at=2)) == "diverged at step 2"


def test_one_point_is_no_trend() -> None:
    assert status(drawn(1.0)) == "no step taken"


# ----- one step size for all


def share(
    runs: list[Run], steps: int, step_size: float | Literal["auto"] = "auto", optimizer: Literal["gd", "adam"] = "gd"
) -> CurveSet:
    return relearn_all(runs, steps=steps, step_size=step_size, algorithm=Algorithm(optimizer), compute=WHOLE)


def test_the_automatic_step_is_a_quarter_of_the_largest_inverse_curvature(noise: Noise) -> None:
    start = [1.0] * 20
    runs = [Run(Point(start), noise(2), HALF, valley([top, *[1.0] * 19])) for top in (3.0, 8.0, 5.0)]
    found = share(runs, 10)
    assert found.search.lambda_max == pytest.approx(8.0, rel=0.01)
    assert found.step_size == pytest.approx(1 / 32, rel=0.01)
    assert found.search.halvings == 0
    for run, curve in zip(runs, found.curves, strict=True):
        np.testing.assert_array_equal(curve.loss, go(run, 10, found.step_size).loss)


def test_a_model_so_sharp_that_nobody_else_would_move_has_no_say(noise: Noise) -> None:
    start = [1.0] * 20
    tops = {"a": 3.0, "b": 5.0, "wrecked": 1e7}
    runs = [Run(Point(start), noise(2), HALF, valley([top, *[1.0] * 19])) for top in tops.values()]

    def shared(owners: list[str | None]) -> CurveSet:
        return relearn_all(runs, steps=10, step_size="auto", owners=owners, compute=WHOLE)

    found = shared(list(tops))
    assert found.step_size == pytest.approx(1 / 20, rel=0.01)  # of those that are heard
    assert found.search.left_behind == ("wrecked",)
    assert found.curves[2].rises_from == 1  # it goes as it goes
    for run, curve in zip(runs[:2], found.curves[:2], strict=True):
        np.testing.assert_array_equal(curve.loss, go(run, 10, found.step_size).loss)
    assert not any(map(hardly_moved, found.curves[:2]))
    # Who does not count as somebody that has to move, or all of whom are one, changes nothing.
    assert shared([None, None, "wrecked"]).search.left_behind == ()
    assert shared(["one", "one", "one"]).step_size == pytest.approx(1 / 4e7, rel=0.01)
    # A later search begins where this one ended, and hears the same ones.
    again = relearn_all(
        runs, steps=10, step_size="auto", start=Start(float(found.step_size), 0, ("wrecked",)), owners=list(tops),
        compute=WHOLE,
    )  # fmt: skip
    assert (again.step_size, again.search.left_behind) == (found.step_size, ("wrecked",))


def test_a_sharper_model_that_lets_the_others_move_is_heard(noise: Noise) -> None:
    tops = {"a": 3.0, "sharp": 30.0}
    runs = [Run(Point([1.0] * 20), noise(2), HALF, valley([top, *[1.0] * 19])) for top in tops.values()]
    found = relearn_all(runs, steps=40, step_size="auto", owners=list(tops), compute=WHOLE)
    assert found.search.left_behind == ()
    assert found.step_size == pytest.approx(1 / 120, rel=0.01)


def test_a_loss_near_zero_need_not_move() -> None:
    assert hardly_moved(drawn(1.0, 0.99))
    assert not hardly_moved(drawn(1.0, 0.9))
    assert not hardly_moved(drawn(1e-4, 1e-4))
    assert not hardly_moved(drawn(1.0))


def test_no_curve_rises_under_the_automatic_step_and_the_search_is_counted_apart(noise: Noise) -> None:
    nets = [make_net(seed) for seed in range(2)]
    counts = [Count(net) for net in nets]
    found = share([Run(net, noise(50, seed=seed), HALF) for seed, net in enumerate(nets)], 60)
    for curve in found.curves:
        assert (curve.loss[1:] <= curve.loss[:-1] * 1.001).all()
        assert (curve.forwards, curve.backwards) == (61, 60)
    assert found.search.forwards > 0
    spent = sum(curve.forwards for curve in found.curves) + found.search.forwards
    assert sum(count.forwards for count in counts) == spent


def test_a_step_that_lets_a_loss_rise_is_halved_for_all(noise: Noise) -> None:
    # log cosh(10 x) is nearly flat at x = 3 (step 1.0 is tried) and has curvature 100 at its minimum.
    def height(place: Tensor, labels: Tensor | None = None) -> Tensor:
        scaled = 10 * place.abs().sum(1)
        return scaled + torch.log1p(torch.exp(-2 * scaled)) - np.log(2)

    steep = Run(Point([3.0, 0.0, 0.0]), noise(1), HALF, landscape(height))
    gentle = Run(Point([1.0, 1.0, 1.0]), noise(1), HALF, valley([0.1, 0.1, 0.1]))
    count = Count(gentle.model)
    found = share([gentle, steep], 400)
    assert 1 <= found.search.halvings <= HALVINGS
    assert found.step_size == 2.0**-found.search.halvings
    assert found.step_size <= 2 / 100
    assert [curve.rises_from for curve in found.curves] == [None, None]
    np.testing.assert_array_equal(found.curves[0].loss, go(gentle, 400, found.step_size).loss)
    assert count.forwards > 401 * (found.search.halvings + 1)


def test_a_loss_that_always_rises_is_reported_after_the_last_halving(noise: Noise) -> None:
    uphill = landscape(lambda place, labels=None: 2 * place.square().sum(1).detach() - place.square().sum(1))
    found = share([Run(Point([1.0, 1.0, 1.0]), noise(1), HALF, uphill)], 10)
    assert found.search.halvings == HALVINGS
    assert found.curves[0].rises_from == 1
    assert len(found.curves[0].loss) == 11


def test_adam_starts_at_its_published_step_and_only_divergence_halves_it(noise: Noise) -> None:
    found = share([Run(Point(START), noise(2), HALF, valley(CURVATURES))], 5, optimizer="adam")
    assert (found.step_size, found.search) == (1e-3, StepSearch(None, 0, 0, 0))
    # Infinite beyond 0.9996: only steps below 4e-4 stay on the finite side.
    cliff = landscape(lambda place, labels=None: (place + torch.where(place < 0.9996, torch.inf, 0)).sum(1))
    found = share([Run(Point([1.0]), noise(1), HALF, cliff)], 1, optimizer="adam")
    assert (found.step_size, found.search.halvings) == (2.5e-4, 2)
    assert (found.search.forwards, found.search.backwards) == (4, 2)


def test_a_given_step_is_taken_as_it_is(noise: Noise) -> None:
    runs = [Run(Point([1.0, 1.0]), noise(1), HALF, valley([top, 1.0])) for top in (1.0, 1e300)]
    found = share(runs, 4, 0.5)
    assert found.step_size == 0.5
    assert found.search == StepSearch(None, 0, 0, 0)
    assert [curve.diverged_at for curve in found.curves] == [None, 1]
