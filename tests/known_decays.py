"""Relearning curves whose truth is known: how their excess decays in the end, and what lies beyond their last step."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

__all__ = ["FAMILIES", "Known", "Softmax", "problems", "softmax_problem"]

Floats = NDArray[np.float64]
Rng = np.random.Generator
EXPONENTIAL, SLOWER, NOT_CONVERGED = "exponential", "slower than exponential", "not converged"


class Known(NamedTuple):
    """A curve with its truth; `beyond(t)` is the sum of the excess after step t, where it is known."""

    truth: str
    loss: Floats
    floor: float = 0.0
    precision: str = "float64"
    regularised: bool = False
    beyond: Callable[[int], float] | None = None


class Softmax(NamedTuple):
    """Multinomial logistic regression with weight decay on every weight, in plain NumPy."""

    features: Floats  # [N, D], the last column of ones
    targets: Floats  # [N, C], one-hot
    weight_decay: float

    @property
    def smoothness(self) -> float:
        """Boehning's bound on the Hessian."""
        return 0.5 * float(np.linalg.norm(self.features, 2) ** 2) / len(self.features) + self.weight_decay

    def value_and_slope(self, weights: Floats) -> tuple[float, Floats]:
        """Return the objective and its gradient at weights [D, C]."""
        logits = self.features @ weights
        logits -= logits.max(1, keepdims=True)
        odds = np.exp(logits)
        totals = odds.sum(1)
        norms, probabilities = np.log(totals), odds / totals[:, None]
        value = float((norms - (logits * self.targets).sum(1)).mean()) + self.weight_decay / 2 * float(
            (weights**2).sum()
        )
        slope = self.features.T @ (probabilities - self.targets) / len(self.features) + self.weight_decay * weights
        return value, slope

    def descend(self, weights: Floats, steps: int, step_size: float) -> Floats:
        """Return the objective before each step of gradient descent and after the last, [steps + 1]."""
        found = np.empty(steps + 1)
        for t in range(steps + 1):
            found[t], slope = self.value_and_slope(weights)
            weights = weights - step_size * slope
        return found

    def floor(self) -> float:
        """Return the minimum, by L-BFGS from zero."""
        shape = (self.features.shape[1], self.targets.shape[1])

        def flat(weights: Floats) -> tuple[float, Floats]:
            value, slope = self.value_and_slope(weights.reshape(shape))
            return value, slope.ravel()

        options = {"maxiter": 20_000, "maxfun": 40_000, "gtol": 1e-10, "ftol": 0.0, "maxcor": 30}
        return float(minimize(flat, np.zeros(shape).ravel(), jac=True, method="L-BFGS-B", options=options).fun)


def softmax_problem(rng: Rng, weight_decay: float, *, separable: bool) -> Softmax:
    """Return a random problem of 40 to 120 examples in 2 to 7 dimensions and 2 to 4 classes."""
    classes, width, n = int(rng.integers(2, 5)), int(rng.integers(2, 8)), int(rng.integers(40, 120))
    features = np.column_stack([rng.normal(size=(n, width)) * np.exp(rng.uniform(-1, 1, width)), np.ones(n)])
    scores = features @ rng.normal(size=(width + 1, classes))
    labels = (scores if separable else scores + rng.gumbel(size=(n, classes))).argmax(1)
    return Softmax(features, np.eye(classes)[labels], weight_decay)


def _modes(weights: Floats, rates: Floats, steps: int) -> Known:
    """Return a sum of geometric sequences."""
    q = np.exp(-rates)
    loss = (weights * q ** np.arange(steps + 1)[:, None]).sum(1)
    return Known(EXPONENTIAL, loss, beyond=lambda t: float((weights * q ** (t + 1) / (1 - q)).sum()))


def _quadratic(rng: Rng, length: float, *, log: bool) -> Known:
    """Gradient descent with step 1/lambda_max on a quadratic of random spectrum, for `length` condition numbers."""
    kappa, d = float(np.exp(rng.uniform(np.log(5), np.log(1000)))), int(rng.integers(2, 60))
    inner = np.exp(rng.uniform(-np.log(kappa), 0, d)) if log else rng.beta(0.5, 1.5, d) * (1 - 1 / kappa) + 1 / kappa
    spectrum = np.concatenate([[1 / kappa], inner * 0.999])
    return _modes(spectrum * rng.normal(size=d + 1) ** 2 / 2, -2 * np.log1p(-spectrum), int(length * kappa) + 30)


def _rounded(known: Known) -> Known:
    """Return the curve as float32 would tell it, over a floor of one nat."""
    loss = np.float64(np.float32(known.loss + 1.0))
    return known._replace(loss=loss, floor=1.0, precision="float32", beyond=None)


def _heavy_ball(rng: Rng) -> Known:
    """Momentum .9 on a quadratic: the excess oscillates while it decays."""
    kappa, d = float(np.exp(rng.uniform(np.log(20), np.log(300)))), 20
    spectrum = np.exp(rng.uniform(-np.log(kappa), 0, d))
    place, velocity, losses = rng.normal(size=d), np.zeros(d), []
    for _ in range(int(10 * kappa)):
        losses.append(float((spectrum * place**2).sum() / 2))
        velocity = 0.9 * velocity - 0.1 * spectrum * place
        place = place + velocity
    return Known(EXPONENTIAL, np.array(losses))


def _softmax(rng: Rng, weight_decay: float, *, separable: bool, length: float = 10, steps: int = 2000) -> Known:
    problem = softmax_problem(rng, weight_decay, separable=separable)
    beta = problem.smoothness
    if weight_decay:
        steps = max(60, int(length * beta / weight_decay))
    start = rng.normal(size=(problem.features.shape[1], problem.targets.shape[1])) * rng.choice([0.0, 1.0, 3.0])
    truth = SLOWER if separable and not weight_decay else EXPONENTIAL
    return Known(truth, problem.descend(start, steps, 1 / beta), problem.floor(), regularised=weight_decay > 0)


def _power(rng: Rng, low: float, high: float) -> Known:
    steps = int(rng.integers(200, 4000))
    start = steps * np.exp(rng.uniform(np.log(1e-3), np.log(0.4)))
    return Known(SLOWER, (1 + np.arange(steps + 1) / start) ** -rng.uniform(low, high))


def _stretched(rng: Rng) -> Known:
    steps = int(rng.integers(200, 4000))
    unit = steps * np.exp(rng.uniform(np.log(1e-3), np.log(0.3)))
    return Known(SLOWER, np.exp(-((np.arange(steps + 1) / unit) ** rng.uniform(0.2, 0.9))))


def _stalled(rng: Rng) -> Known:
    """A decay that ends above the floor, or none at all."""
    steps = int(rng.integers(200, 4000))
    rate, level = 10 ** rng.uniform(0.5, 2) / steps, 10 ** rng.uniform(-2, 0)
    decay = rng.choice([0.0, 1.0]) * np.exp(-rate * np.arange(steps + 1))
    return Known(NOT_CONVERGED, level + decay + rng.normal(size=steps + 1) * 1e-7, precision="float32")


def _floor_too_high(rng: Rng) -> Known:
    known = _power(rng, 0.5, 1.5)
    return known._replace(floor=float(known.loss[-1] * rng.uniform(0.1, 1.1)))


def _noisy_power(rng: Rng) -> Known:
    known = _power(rng, 0.5, 1.2)
    return known._replace(loss=known.loss + rng.normal(size=len(known.loss)) * 1e-7, precision="float32")


def _two_modes(rng: Rng, *, seen: bool) -> Known:
    """A large fast mode and a small slow one, followed until the slow one rules, or until just before it shows."""
    fast, share = 10 ** rng.uniform(-1.5, -0.5), 10 ** rng.uniform(-4, -1)
    slow = fast * 10 ** rng.uniform(-2, -0.5)
    steps = int(10 / slow) if seen else int(np.log(0.1 / share) / fast)
    return _modes(np.array([1.0, share]), np.array([fast, slow]), max(steps, 40))


# Name -> how many, how one is made.
FAMILIES: dict[str, tuple[int, Callable[[Rng], Known]]] = {
    "quadratic, log-uniform spectrum, 10 kappa": (40, lambda rng: _quadratic(rng, 10, log=True)),
    "quadratic, beta spectrum, 10 kappa": (40, lambda rng: _quadratic(rng, 10, log=False)),
    "quadratic in float32, 10 kappa": (20, lambda rng: _rounded(_quadratic(rng, 10, log=True))),
    "quadratic, heavy ball": (15, _heavy_ball),
    "large fast and small slow mode": (30, lambda rng: _two_modes(rng, seen=True)),
    "softmax regression, l2, 10 kappa": (12, lambda rng: _softmax(rng, 10 ** rng.uniform(-2, -1), separable=False)),
    "the same, separable": (12, lambda rng: _softmax(rng, 10 ** rng.uniform(-2, -1), separable=True)),
    "the same, .1 to 1 kappa only": (
        15,
        lambda rng: _softmax(rng, 10 ** rng.uniform(-3, -2), separable=True, length=rng.uniform(0.1, 1)),
    ),
    "softmax regression, not separable": (12, lambda rng: _softmax(rng, 0.0, separable=False)),
    "softmax regression, separable": (12, lambda rng: _softmax(rng, 0.0, separable=True)),
    "power law, exponent .5 to 1.2": (25, lambda rng: _power(rng, 0.5, 1.2)),
    "power law, exponent 1.2 to 4": (20, lambda rng: _power(rng, 1.2, 4)),
    "power law with float32 noise": (15, _noisy_power),
    "power law over a floor too high": (30, _floor_too_high),
    "stretched exponential, .2 to .9": (30, _stretched),
    "constant, or stalled above the floor": (25, _stalled),
    "quadratic, 1 kappa only": (20, lambda rng: _quadratic(rng, 1, log=True)),
    "quadratic, .1 kappa only": (20, lambda rng: _quadratic(rng, 0.1, log=True)),
    "slow mode not yet seen": (20, lambda rng: _two_modes(rng, seen=False)),
}


def problems(name: str) -> Iterator[Known]:
    """Yield the family's curves, always the same ones."""
    count, make = FAMILIES[name]
    for index in range(count):
        yield make(np.random.default_rng([list(FAMILIES).index(name), index, 7]))
