"""Relearning curves of denoisers: a closed form, passes, fresh draws, and what a gradient on measured ones learns."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from analytic_denoisers import AsIs, closed_form, denoiser, drawn, images_of
from torch import nn

from unlearn_audit.engine import Device, Draws
from unlearn_audit.generation import denoising_task
from unlearn_audit.models.denoisers import Denoiser, linear_schedule
from unlearn_audit.relearning import Algorithm, Curve, Run, relearn, relearn_all
from unlearn_audit.relearning.rises import means_rise, rises_over_its_start

CPU = Device(torch.device("cpu"))
GRID = Draws(0, ("pair",), count=1)


def run_of(model: nn.Module, *, n: int = 12, draws: Draws = GRID, size: int = 2) -> Run:
    return Run(model, images_of(n, size=size), AsIs, denoising_task(model), draws=draws)


def go(run: Run, steps: int, step_size: float, compute: Device = CPU, **algorithm: object) -> Curve:
    return relearn(run, steps=steps, step_size=step_size, compute=compute, algorithm=Algorithm(**algorithm))  # type: ignore[arg-type]


def weight_alone(weight: float) -> Denoiser:
    """A denoiser of which only the factor of x_t is relearned."""
    model = denoiser(weight)
    model.get_parameter("class_embedding.weight").requires_grad_(False)
    return model


# ----- the closed form


@pytest.mark.parametrize("chunk", [128, 5])
def test_descent_on_one_grid_is_that_of_a_quadratic(chunk: int) -> None:
    model, step, steps = weight_alone(0.7), 0.05, 30
    run = run_of(model)
    curve = go(run, steps, step, replace(CPU, chunk=chunk))
    above, along, constant = closed_form(*drawn(run.examples, model, GRID))
    best = along / above
    weights = best + (0.7 - best) * (1 - 2 * step * above) ** np.arange(steps + 1)
    expected = above * weights**2 - 2 * along * weights + constant
    np.testing.assert_allclose(curve.loss, expected, rtol=1e-6)
    np.testing.assert_allclose(curve.gradient_norm, np.abs(2 * (above * weights - along))[:-1], rtol=1e-5)
    assert (curve.forwards, curve.backwards) == (steps + 1, steps)
    assert curve.error.shape == curve.error_areas.shape == (0,)
    assert curve.areas.mean() == pytest.approx(curve.loss.sum())


def test_a_step_on_fresh_draws_takes_their_gradient_and_no_other() -> None:
    model, step, steps = weight_alone(0.7), 0.05, 4
    run = run_of(model, draws=Draws(0, ("pair",), count=3))
    curve = go(run, steps, step, gradient_draws=2, seed=9)
    above, along, constant = closed_form(*drawn(run.examples, model, run.draws))
    weight, expected = 0.7, []
    for k in range(steps + 1):
        expected.append(above * weight**2 - 2 * along * weight + constant)
        mine = closed_form(*drawn(run.examples, model, Draws(9, ("relearn", k), count=2, grid=False)))
        weight -= step * 2 * (mine[0] * weight - mine[1])
    np.testing.assert_allclose(curve.loss, expected, rtol=1e-6)
    assert (curve.forwards, curve.backwards) == (steps + 1, steps)


class Counted(nn.Module):
    """Counts the rows that it sees with and without a gradient."""

    def __init__(self, inner: nn.Module, seen: dict[bool, list[torch.Tensor]]) -> None:
        super().__init__()
        self.inner, self.seen = inner, seen

    def forward(self, x: torch.Tensor, t: torch.Tensor, class_labels: torch.Tensor) -> torch.Tensor:
        self.seen[torch.is_grad_enabled()].append(torch.cat([x.flatten(1), t[:, None].to(x.dtype)], dim=1).detach())
        return self.inner(x, t, class_labels)


class Shared(dict[bool, list[torch.Tensor]]):
    """Stays one and the same in copies of a model."""

    def __deepcopy__(self, memo: object) -> "Shared":
        return self


@pytest.mark.parametrize("minibatch", [None, 5])
def test_measured_and_gradient_rows_are_counted_and_have_nothing_in_common(minibatch: int | None) -> None:
    seen, steps, n = Shared({True: [], False: []}), 5, 12
    model = Denoiser(Counted(denoiser(0.3).unet, seen), linear_schedule(), null=2)
    run = run_of(model, n=n, draws=Draws(0, ("pair",), count=8))
    go(run, steps, 0.01, optimizer="adam", gradient_draws=4, minibatch=minibatch)
    measured, taken = torch.cat(seen[False]), torch.cat(seen[True])
    batches = [n] * steps if minibatch is None else [5, 5, 2, 5, 5]
    assert len(measured) == (steps + 1) * n * 8
    assert len(taken) == sum(batches) * 4
    grid = {tuple(row) for row in measured.tolist()}
    fresh = {tuple(row) for row in taken.tolist()}
    assert len(grid) == n * 8
    assert len(fresh) == len(taken)
    assert not grid & fresh


def test_the_same_seed_gives_the_same_bits_and_another_one_other_draws() -> None:
    run = run_of(denoiser(0.4), draws=Draws(1, ("pair",), count=4))
    first, again, other = (go(run, 6, 0.02, optimizer="adam", gradient_draws=2, seed=seed) for seed in (5, 5, 6))
    assert np.array_equal(first.loss, again.loss)
    assert np.array_equal(first.areas, again.areas)
    assert first.loss[0] == other.loss[0]
    assert not np.array_equal(first.loss[2:], other.loss[2:])


def test_a_visit_sees_the_model_of_its_step() -> None:
    seen: dict[int, float] = {}

    def visit(step: int, model: nn.Module) -> None:
        seen[step] = model.get_parameter("weight").item()

    run = run_of(weight_alone(0.7))
    relearn(run, steps=3, step_size=0.05, compute=CPU, visit=visit)
    above, along, _ = closed_form(*drawn(run.examples, run.model, GRID))
    expected = along / above + (0.7 - along / above) * (1 - 0.1 * above) ** np.arange(4)
    assert list(seen) == [0, 1, 2, 3]
    np.testing.assert_allclose(list(seen.values()), expected, rtol=1e-5)


# ----- learning the noise instead of the set


class Table(nn.Module):
    """So many free numbers that it can learn by heart what noise stands in which x_t."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(5, 256), nn.Tanh(), nn.Linear(256, 4))

    def forward(self, x: torch.Tensor, t: torch.Tensor, class_labels: torch.Tensor) -> torch.Tensor:
        inputs = torch.cat([x.flatten(1), t[:, None] / 1000], dim=1)
        return self.layers(inputs).view_as(x)


def test_a_gradient_on_the_measured_draws_learns_these_and_fresh_ones_do_not() -> None:
    model = Denoiser(Table(), linear_schedule())
    measured, other = Draws(0, ("pair",), count=4), Draws(1, ("pair",), count=4)
    settled = relearn(run_of(model, n=16, draws=measured), steps=150, step_size=3e-3, compute=CPU, keep_end=True,
                      algorithm=Algorithm("adam", gradient_draws=8)).end  # fmt: skip
    assert settled is not None
    ends = {}
    for kind, gradient_draws in (("fixed", None), ("fresh", 8)):
        algorithm = Algorithm("adam", gradient_draws=gradient_draws, seed=1)
        ends[kind] = relearn(
            run_of(settled, n=16, draws=measured), steps=60, step_size=3e-3, compute=CPU, keep_end=True,
            algorithm=algorithm,
        )  # fmt: skip

    def loss(model: nn.Module | None, draws: Draws) -> float:
        assert model is not None
        return float(run_of(model, n=16, draws=draws).prepared(CPU)[1].forward(model).losses.mean())

    before = loss(settled, other)
    assert ends["fixed"].loss[-1] < 0.8 * ends["fixed"].loss[0]
    assert loss(ends["fixed"].end, other) > 1.05 * before
    assert loss(ends["fresh"].end, other) < 1.02 * before


# ----- the step size


def test_running_means_say_what_rises() -> None:
    flat = [1.0, 1.3, 0.8, 1.0, 0.9, 1.0, 1.1, 0.9]
    assert not rises_over_its_start(flat)
    assert not means_rise(flat)
    falls_and_returns = [2.0] + [1.0] * 5 + [1.6] * 4
    assert means_rise(falls_and_returns)
    assert not rises_over_its_start(falls_and_returns)
    assert rises_over_its_start([1.0] * 5 + [1.2] * 4)
    assert not rises_over_its_start([1.0, 9.0])
    assert not means_rise([])


def test_the_step_is_halved_until_the_judged_curve_does_not_rise() -> None:
    good = closed_form(*drawn(images_of(12), denoiser(), GRID))
    runs = [run_of(weight_alone(float(good[1] / good[0]))), run_of(weight_alone(40.0))]
    algorithm = Algorithm("adam", gradient_draws=2)
    judged = relearn_all(runs, steps=20, step_size="auto", compute=CPU, judged=[0], owners=["o", "r"],
                         algorithm=replace(algorithm))  # fmt: skip
    assert judged.search.halvings == 0
    assert judged.step_size == 1e-3
    assert judged.search.left_behind == ()
    # What Adam does to a model that is at its best already depends on the step alone.
    spoiled = [replace_model(runs[0], 300.0), runs[1]]
    found = relearn_all(spoiled, steps=20, step_size="auto", compute=CPU, judged=[0], algorithm=algorithm)
    assert found.search.halvings > 0
    assert not rises_over_its_start(found.curves[0].loss)
    free = relearn_all(spoiled, steps=20, step_size="auto", compute=CPU, judged=[1], algorithm=algorithm)
    assert free.search.halvings == 0
    assert rises_over_its_start(free.curves[0].loss)


class Steep(nn.Module):
    """f = (1 + s·w)·best·x_t: a small step of w is a large one of the prediction."""

    def __init__(self, best: float, steepness: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.best, self.steepness = best, steepness

    def forward(self, x: torch.Tensor, t: torch.Tensor, class_labels: torch.Tensor) -> torch.Tensor:
        return (self.best + self.steepness * self.weight) * x.double()


def replace_model(run: Run, steepness: float) -> Run:
    above, along, _ = closed_form(*drawn(run.examples, run.model, run.draws))
    model = Denoiser(Steep(float(along / above), steepness), linear_schedule(), null=2)
    return run._replace(model=model, task=denoising_task(model))
