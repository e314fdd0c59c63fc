"""What theory says of relearning, held against measurements: bounds, certificates, rates, and where it is wrong."""

from pathlib import Path

import numpy as np
import pytest
import torch
from known_decays import Softmax
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import nn

from unlearn_audit.config import Layer, resolve
from unlearn_audit.data import Examples, Transform, load_data
from unlearn_audit.engine import Device
from unlearn_audit.relearning import (
    Algorithm,
    Certificate,
    Curve,
    Floor,
    Run,
    certificate,
    fit_floor,
    relearn_all,
    scoped,
    truncation,
)

Floats = NDArray[np.float64]
CPU = Device(torch.device("cpu"))
UNIT = Transform((0.0,), (1.0,))


def linear_run(examples: Examples, classes: int, seed: int = 0) -> Run:
    """Softmax regression on pixels, from random weights."""
    torch.manual_seed(seed)
    width = examples.images[0].numel()
    return Run(nn.Sequential(nn.Flatten(), nn.Linear(width, classes)).eval(), examples, UNIT)


def synthetic() -> Run:
    """60 random images of 9 pixels in 3 classes that a linear rule makes, some of them wrong."""
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (60, 1, 3, 3), generator=generator, dtype=torch.uint8)
    scores = images.flatten(1).float() @ torch.randn(9, 3, generator=generator)
    labels = scores.argmax(1)
    labels[::6] = (labels[::6] + 1) % 3
    return linear_run(Examples(images, labels, labels.clone()), 3)


def digits() -> Run:
    """150 of scikit-learn's digits, as pixels."""
    return linear_run(load_data("digits").train.subset(np.arange(150)), 10)


def demo_head(folder: Path, name: str) -> Run:
    """The classifier of one of the demo's models, which relearns its mislabelled examples."""
    from unlearn_audit.audit.context import open_context

    values = {"checkpoint": [{"path": str(folder / f"{name}.safetensors")}], "forget": str(folder / "forget.npy")}
    request = resolve([Layer("flag", values, "command line")])
    context = open_context(request.config, request.origins)
    return Run(context.subjects[0].model, context.examples("forget"), context.subjects[0].transform)


def in_numpy(run: Run, weight_decay: float) -> tuple[Softmax, Floats]:
    """The same objective and start in NumPy, from a run of the classifier alone."""
    features = run.transform(run.examples.images).double().numpy()
    layer = run.model
    assert isinstance(layer, nn.Linear)
    start = np.column_stack([layer.weight.detach().numpy(), layer.bias.detach().numpy()]).T
    targets = np.eye(layer.out_features)[run.examples.labels.numpy()]
    return Softmax(np.column_stack([features, np.ones(len(features))]), targets, weight_decay), start


def head_curve(run: Run, weight_decay: float, lengths: float) -> tuple[Run, Curve, Floor, Certificate]:
    """Relearn the classifier alone for so many condition numbers, with the step 1/beta."""
    head = scoped(run, "head", compute=CPU, weight_decay=weight_decay)
    assert head.smoothness is not None
    steps = int(lengths * head.smoothness / weight_decay)
    algorithm = Algorithm(weight_decay=weight_decay)
    found = relearn_all([head], steps=steps, step_size="auto", compute=CPU, algorithm=algorithm)
    assert found.step_size == 1 / head.smoothness
    floor = fit_floor(head, compute=CPU, weight_decay=weight_decay, tolerance=1e-9)
    proved = certificate(smoothness=head.smoothness, weight_decay=weight_decay, step_size=found.step_size, floor=floor)
    assert proved is not None
    assert proved.kappa == pytest.approx(head.smoothness / weight_decay)
    return head, found.curves[0], floor, proved


def hold_against_theory(run: Run, weight_decay: float) -> None:
    """Corollary 5 at every K, contraction, certificate against a run 100 times as long, rate and verdict."""
    head, curve, floor, proved = head_curve(run, weight_decay, 10.5)
    excess, kappa = curve.objective - floor.value, proved.kappa
    assert len(excess) > 10 * kappa
    problem, start = in_numpy(head, weight_decay)
    assert problem.smoothness == pytest.approx(head.smoothness, rel=1e-12)

    short = int(min(2 * kappa, 300))
    long = problem.descend(start, 100 * short, 1 / problem.smoothness)  # an implementation of its own
    np.testing.assert_allclose(curve.objective[: short + 1], long[: short + 1], rtol=1e-10)

    rounding = 1e-13 * curve.objective[0]
    assert (np.cumsum(excess) <= kappa * excess[0]).all()
    assert (excess[1:] <= (1 - 1 / kappa) * excess[:-1] + rounding).all()
    low, high = proved.bounds(excess, short)
    assert low <= (long - floor.value).sum() <= high
    assert high - low <= kappa * excess[short] + 1e-6

    found = truncation(curve.objective, floor.value, regularised=True)
    assert found.verdict == "exponential"
    assert found.rate is not None
    assert found.rate >= proved.slowest_rate
    assert found.total == pytest.approx((long - floor.value).sum(), rel=1e-4)


@pytest.mark.parametrize("weight_decay", [0.3, 0.1, 0.03])
@pytest.mark.parametrize("make", [synthetic, digits])
def test_theory_holds_on_regularised_softmax_regression(make: object, weight_decay: float) -> None:
    assert callable(make)
    hold_against_theory(make(), weight_decay)


@pytest.mark.parametrize("weight_decay", [1.0, 0.3, 0.1])
def test_theory_holds_on_the_head_of_a_network(tiny: Path, weight_decay: float) -> None:
    hold_against_theory(demo_head(tiny, "original"), weight_decay)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["original", "unlearned", "retrained-1"])
@pytest.mark.parametrize("weight_decay", [0.1, 0.03, 0.01])
def test_theory_holds_on_the_demos_heads(demo: tuple[Path, object], name: str, weight_decay: float) -> None:
    hold_against_theory(demo_head(demo[0], name), weight_decay)


def test_a_smaller_common_step_has_a_larger_condition_number() -> None:
    floor = Floor(0.0, 1e-6, True, 1)
    found = certificate(smoothness=4.0, weight_decay=0.5, step_size=0.1, floor=floor)
    assert found is not None
    assert found.kappa == pytest.approx(1 / (2 * 0.5 * 0.1 * (1 - 0.2)))
    assert found.slack == pytest.approx(1e-12)
    assert certificate(smoothness=4.0, weight_decay=0.5, step_size=0.5, floor=floor) is None
    assert certificate(smoothness=4.0, weight_decay=0.0, step_size=0.1, floor=floor) is None


def test_the_proved_k_keeps_its_promise() -> None:
    proved = Certificate(kappa=10.0, slack=0.0)
    excess = 0.9 ** np.arange(400)
    steps = proved.steps_for(excess, 0.01)
    assert steps is not None
    total = 1 / (1 - 0.9)
    beyond = [total - excess[: k + 1].sum() for k in (steps - 1, steps)]
    assert beyond[1] <= 0.01 * total
    assert beyond[0] > 0.01 * (total - beyond[0])  # here the bound is tight
    assert proved.bounds(excess, 50)[1] == pytest.approx(total)
    assert proved.steps_for(excess[:20], 0.01) is None


# ----- without strong convexity


@pytest.mark.parametrize("seed", range(3))
def test_separable_data_without_weight_decay_decays_slower_than_exponentially(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (40, 1, 3, 3), generator=generator, dtype=torch.uint8)
    labels = (images.flatten(1).float() @ torch.randn(9, 2, generator=generator)).argmax(1)
    head = scoped(linear_run(Examples(images, labels, labels.clone()), 2, seed), "head", compute=CPU)
    curve = relearn_all([head], steps=1000, step_size=2.0, compute=CPU).curves[0]
    problem, start = in_numpy(head, 0.0)
    long = problem.descend(start, 50_000, 2.0)
    np.testing.assert_allclose(curve.objective, long[:1001], rtol=1e-10)
    found = truncation(long, 0.0)
    assert found.verdict == "slower than exponential"
    assert found.exponent == pytest.approx(1.0, abs=0.2)
    assert found.tail is None
    # The sum grows by about the same in every doubling: like log K.
    growth = np.diff([long[: k + 1].sum() for k in (6250, 12_500, 25_000, 50_000)])
    assert growth[1:] == pytest.approx(growth[:-1], rel=0.15)


def test_an_unregularised_head_is_not_called_exponential(tiny: Path) -> None:
    head = scoped(demo_head(tiny, "original"), "head", compute=CPU)
    problem, start = in_numpy(head, 0.0)
    found = truncation(problem.descend(start, 20_000, 1 / problem.smoothness), fit_floor(head, compute=CPU).value)
    assert found.verdict in ("slower than exponential", "not converged")
    assert found.tail is None


# ----- where the published statements fail


def newton_sum(start: float, mu: float = 0.1, steps: int = 200) -> tuple[float, float, float]:
    """Descend log cosh x + mu·x²/2 with step 1/f''(x_t); return the initial excess, the sum and the last place."""
    place, total, first = start, 0.0, float(np.logaddexp(start, -start) - np.log(2) + mu * start**2 / 2)
    for _ in range(steps):
        total += float(np.logaddexp(place, -place) - np.log(2) + mu * place**2 / 2)
        place -= (np.tanh(place) + mu * place) / (1 - np.tanh(place) ** 2 + mu)
        if abs(place) > 1e6:
            break
    return first, total, place


@pytest.mark.parametrize(("start", "bound", "total"), [(1.0, 0.4838, 0.7248), (0.8, 0.3228, 0.3816)])
def test_the_summed_theorem_4_fails_off_quadratics(start: float, bound: float, total: float) -> None:
    """In one dimension the condition number is 1, so the sum of Theorem 4 would be its first term alone."""
    first, found, last = newton_sum(start)
    assert abs(last) < 1e-12
    assert first == pytest.approx(bound, abs=5e-5)
    assert found == pytest.approx(total, abs=5e-5)
    assert found > first


def test_the_step_of_theorem_4_need_not_even_converge() -> None:
    assert not abs(newton_sum(1.5)[2]) < 1


def condition_number(features: Floats, weights: Floats, decay: float) -> float:
    """Of the Hessian of l2-regularised logistic regression."""
    odds = 1 / (1 + np.exp(-(features @ weights)))
    hessian = features.T * (odds * (1 - odds)) @ features / len(features) + decay * np.eye(len(weights))
    return float(np.linalg.cond(hessian, 2))


def trained(features: Floats, signs: Floats, decay: float) -> Floats:
    """Minimise l2-regularised logistic regression."""

    def objective(weights: Floats) -> tuple[float, Floats]:
        margins = signs * (features @ weights)
        slope = -(features.T @ (signs / (1 + np.exp(margins)))) / len(signs) + decay * weights
        return float(np.logaddexp(0, -margins).mean() + decay / 2 * weights @ weights), slope

    return np.asarray(minimize(objective, np.zeros(features.shape[1]), jac=True, method="L-BFGS-B").x)


def reinitialised(features: Floats, signs: Floats, decay: float, draws: int) -> tuple[float, Floats]:
    """Run Definition 8 with alpha = .9 from trained weights; return kappa at the start and [draws, 4] of it on the way.

    The columns are after 1, 5, 10 and 40 iterations; every iteration draws afresh from N(0, 2/d).
    """
    rng, weights = np.random.default_rng(0), trained(features, signs, decay)
    d, found = len(weights), []
    for _ in range(draws):
        place, row = weights.copy(), []
        for t in range(1, 41):
            place = 0.9 * place + 0.1 * rng.normal(size=d) * np.sqrt(2 / d)
            if t in (1, 5, 10, 40):
                row.append(condition_number(features, place, decay))
        found.append(row)
    return condition_number(features, weights, decay), np.array(found)


def test_lemma_9_is_false_on_well_conditioned_features() -> None:
    """Lemma 9: along theta <- alpha theta + (1 - alpha) xi from trained weights E[kappa] does not decrease.

    Found, n = 100 paths, alpha = .9, 200 Gaussian examples in 8 dimensions with bias, l2 = .01: 5.53 at the start, then
    (mean, half a 95 % interval) 5.04 +- .02 after one iteration, 3.40 +- .03 after five, 2.33 +- .02 after ten, 1.892
    +- .005 after forty. Trained weights saturate most examples, and shrinking them undoes that; kappa ends at the value
    of zero weights (1.90), not at that of an initialisation (2.38).
    """
    rng = np.random.default_rng(0)
    features = np.column_stack([rng.normal(size=(200, 8)), np.ones(200)])
    signs = np.where(features[:, :8] @ rng.normal(size=8) * 2 + rng.logistic(size=200) > 0, 1.0, -1.0)
    start, found = reinitialised(features, signs, 0.01, 100)
    mean, error = found.mean(0), 1.984 * found.std(0, ddof=1) / np.sqrt(len(found))
    assert start == pytest.approx(5.53, abs=0.01)
    assert mean == pytest.approx([5.04, 3.40, 2.33, 1.89], abs=0.05)
    assert (mean + error < [start, *(mean - error)[:-1]]).all()
    assert mean[-1] == pytest.approx(condition_number(features, np.zeros(9), 0.01), rel=0.02)


def test_lemma_9_holds_on_pixels_that_are_never_lit() -> None:
    """On digits 3 against 8, l2 = .01, n = 20 paths, E[kappa] rises from 87 to 101 +- .4, 163 +- 1.5, 232, 299 +- 1.

    Some pixels are zero in every image, so the smallest eigenvalue is the weight decay whatever the weights, and the
    largest one grows as shrinking takes the examples out of saturation; beta/mu = 301 bounds it, as the lemma says.
    """
    dataset = load_data("digits")
    images, labels = dataset.train.images.flatten(1).double().numpy(), dataset.train.labels.numpy()
    chosen = np.isin(labels, (3, 8))
    features = images[chosen] / images.max()
    start, found = reinitialised(features, np.where(labels[chosen] == 3, 1.0, -1.0), 0.01, 20)
    mean = found.mean(0)
    assert (np.diff([start, *mean]) > 0).all()
    bound = np.linalg.norm(features, 2) ** 2 / 4 / len(features) / 0.01 + 1
    assert (found <= bound).all()
