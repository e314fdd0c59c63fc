"""Empirical Bayes variances and differences: formulas written out, limits, simulations with a known best score."""

from typing import Any

import numpy as np
import pytest
from made_up_evidence import Floats, halves
from numpy.typing import NDArray
from scipy import special, stats

from unlearn_audit import metrics
from unlearn_audit.attacks import empirical_bayes as eb

Mask = NDArray[np.bool_]


def scores(fit: eb.Fit, target: Floats) -> Floats:
    """Log-likelihood ratio of the fit's two sides."""
    inside, outside = (
        stats.norm.logpdf(target, mean, np.sqrt(variance))
        for mean, variance in zip(fit.means, fit.variances, strict=True)
    )
    return np.asarray(inside - outside)


def fitted(values: Floats, inside: Mask) -> eb.Fit:
    return eb.fit_both(eb.side_of(values, inside), eb.side_of(values, ~inside))


def pooled(values: Floats, inside: Mask, target: Floats) -> Floats:
    """The ratio with one variance a side for all examples."""
    found = []
    for chosen in (inside, ~inside):
        side = eb.side_of(values, chosen)
        spread = np.sqrt(side.squares.sum() / (side.models - 1).sum())
        found.append(stats.norm.logpdf(target, side.mean, spread))
    return np.asarray(found[0] - found[1])


def area(found: Floats) -> float:
    """AUC of the first half of the scores against the second."""
    half = len(found) // 2
    value = metrics.auc(found[:half], found[half:])
    assert value is not None
    return value


class Drawn:
    """Normal log-odds of N examples under M models and a target, which has seen the first half of the examples."""

    def __init__(
        self, seed: int, *, models: int, count: int = 288, difference: Any = -1.0, spreads: tuple[float, float] = (1, 1)
    ) -> None:
        rng = np.random.default_rng(seed)
        ease = rng.normal(0, 1, count)
        self.shift = difference(rng, ease) if callable(difference) else np.full(count, difference)
        self.ease, self.spreads = ease, spreads
        self.inside = halves(rng, models, count)
        self.values = self._said(rng, self.inside)
        self.target = self._said(rng, np.arange(count) < count // 2)

    def _said(self, rng: Any, inside: Any) -> Floats:
        spread = np.where(inside, *self.spreads)
        return np.asarray(4 * self.ease + self.shift * (inside - 0.5) + spread * rng.normal(0, 1, inside.shape))

    @property
    def eb(self) -> Floats:
        return scores(fitted(self.values, self.inside), self.target)

    @property
    def pooled(self) -> Floats:
        return pooled(self.values, self.inside, self.target)

    @property
    def best(self) -> Floats:
        inside, outside = (
            stats.norm.logpdf(self.target, 4 * self.ease + sign * self.shift / 2, spread)
            for sign, spread in zip((1, -1), self.spreads, strict=True)
        )
        return np.asarray(inside - outside)


def test_the_formulas_written_out_example_by_example() -> None:
    drawn = Drawn(1, models=8, count=40, difference=lambda rng, ease: 1 + ease + rng.normal(0, 1, len(ease)))
    values, inside = drawn.values, drawn.inside
    sides = [[values[mask[:, i], i] for i in range(40)] for mask in (inside, ~inside)]
    means = [np.array([each.mean() for each in side]) for side in sides]
    a, d = (means[0] + means[1]) / 2, means[0] - means[1]
    z = (a - a.mean()) / a.std()
    x = np.stack([np.ones(40), z, z**2 - 1], axis=1)
    shrunken, priors = [], []
    for side in sides:
        s2 = np.array([each.var(ddof=1) for each in side])
        f = len(side[0]) - 1
        trend = x @ np.linalg.solve(x.T @ x, x.T @ np.log(s2))
        e = np.log(s2) - trend - special.digamma(f / 2) + np.log(f / 2)
        excess = ((e - e.mean()) ** 2).sum() / (40 - 3) - special.polygamma(1, f / 2)
        nu = 1000.0 if excess <= 0 else 2 * float(root_of_trigamma(excess))
        s0 = np.exp(e.mean() + special.digamma(nu / 2) - np.log(nu / 2))
        shrunken.append((nu * s0 * np.exp(trend) + f * s2) / (nu + f))
        priors.append(nu)
    noise = shrunken[0] / 4 + shrunken[1] / 4
    omega = 1 / (noise + 0.1 * d.var())
    gamma = np.linalg.solve(x.T @ (omega[:, None] * x), x.T @ (omega * d))
    tau2 = max(0.0, float((omega * ((d - x @ gamma) ** 2 * 40 / 37 - noise)).sum() / omega.sum()))
    w = tau2 / (tau2 + noise)
    shift = x @ gamma + w * (d - x @ gamma)
    found = eb.fit_both(eb.side_of(values, inside), eb.side_of(values, ~inside))
    np.testing.assert_allclose(found.prior, priors, rtol=1e-6)
    assert found.spread == pytest.approx(np.sqrt(tau2))
    np.testing.assert_allclose(found.trend, gamma, rtol=1e-9)
    np.testing.assert_allclose(found.own, w, rtol=1e-6)
    for side, sign in ((0, 1), (1, -1)):
        np.testing.assert_allclose(found.means[side], a + sign * shift / 2, rtol=1e-6)
        np.testing.assert_allclose(found.variances[side], shrunken[side] + noise / 4 + w * noise / 4, rtol=1e-6)


def root_of_trigamma(value: float) -> float:
    from scipy.optimize import brentq

    return float(brentq(lambda x: special.polygamma(1, x) - value, 1e-6, 1e6, xtol=1e-12))


def test_degrees_of_freedom_of_variances_that_were_drawn_with_some() -> None:
    rng = np.random.default_rng(0)
    true = 6.0 / rng.chisquare(6.0, 100_000)  # nu0 = 6, s0² = 1
    squares = true * rng.chisquare(3, 100_000)
    side = eb.Side(np.full(100_000, 4.0), np.zeros(100_000), squares)
    found = eb.shrunken_variances(side, np.ones((100_000, 1)))
    assert found.prior == pytest.approx(6.0, rel=0.05)
    np.testing.assert_allclose(found.values[:100], (6 + squares[:100]) / 9, rtol=0.03)


def test_scale_and_shift_change_nothing_and_exchanged_sides_change_the_sign() -> None:
    drawn = Drawn(2, models=8)
    other = scores(fitted(3.7 * drawn.values - 11, drawn.inside), 3.7 * drawn.target - 11)
    np.testing.assert_allclose(other, drawn.eb, atol=1e-9)
    fit, swapped = fitted(drawn.values, drawn.inside), fitted(drawn.values, ~drawn.inside)
    assert (swapped.means[0] == fit.means[1]).all()
    assert (swapped.variances[0] == fit.variances[1]).all()
    assert (scores(swapped, drawn.target) == -drawn.eb).all()


def test_with_very_many_models_every_example_speaks_for_itself() -> None:
    drawn = Drawn(3, models=512, count=100, difference=lambda rng, ease: -1 - 0.5 * ease + rng.normal(0, 1, len(ease)))
    sides = [eb.side_of(drawn.values, chosen) for chosen in (drawn.inside, ~drawn.inside)]
    own = [stats.norm.logpdf(drawn.target, s.mean, np.sqrt(s.squares / (s.models - 1))) for s in sides]
    assert np.corrcoef(drawn.eb, own[0] - own[1])[0, 1] > 0.99


def test_an_example_with_one_model_on_a_side_has_the_trend_alone() -> None:
    drawn = Drawn(4, models=8, count=60)
    inside = drawn.inside.copy()
    outside = ~inside
    outside[np.flatnonzero(outside[:, 0])[1:], 0] = False
    sides = [eb.side_of(drawn.values, chosen) for chosen in (inside, outside)]
    assert sides[1].models[0] == 1
    terms = eb.difficulty_terms((sides[0].mean + sides[1].mean) / 2)
    far = sides[1]._replace(squares=np.concatenate([[0.0], sides[1].squares[1:]]))
    found = eb.shrunken_variances(far, terms)
    assert np.isfinite(found.values).all()
    fit = eb.fit_both(*sides)
    assert np.isfinite(scores(fit, drawn.target)).all()
    kept = eb.shrunken_variances(eb.Side(*(part[1:] for part in far)), terms[1:])
    np.testing.assert_allclose(found.values[1:], kept.values, rtol=1e-9)  # it says nothing about the others


@pytest.mark.parametrize("kind", ["constant", "equal means", "one model differs"])
def test_values_without_scatter_give_finite_scores(kind: str) -> None:
    values = np.zeros((4, 30)) + (0 if kind == "constant" else np.arange(30.0))
    if kind == "one model differs":
        values[0] += 1e-3
    inside = np.repeat([[True], [True], [False], [False]], 30, axis=1)
    found = scores(fitted(values, inside), np.linspace(-1e4, 1e4, 30))
    assert np.isfinite(found).all()


def test_trends_need_20_examples_with_two_models_on_every_side() -> None:
    inside = np.repeat([[True], [True], [False], [False]], 20, axis=1)
    assert eb.enough(inside, ~inside)
    assert not eb.enough(inside[:, 1:], ~inside[:, 1:])
    assert not eb.enough(inside[1:], ~inside[1:])
    assert eb.enough(~inside[1:])


def mean_area(kind: str, draws: int, **settings: Any) -> float:
    return float(np.mean([area(getattr(Drawn(seed, **settings), kind)) for seed in range(draws)]))


# --- simulations, against the best score there is ---


def scattered(rng: Any, ease: Floats) -> Floats:
    return np.asarray(-1 - 0.5 * ease + 1.8 * rng.normal(0, 1, len(ease)))


def test_without_an_effect_nothing_is_found() -> None:
    assert mean_area("eb", 200, models=4, difference=0.0) == pytest.approx(0.5, abs=0.01)


def test_a_difference_in_spread_alone_is_found_better_than_with_pooled_means() -> None:
    settings = {"models": 4, "difference": 0.0, "spreads": (1.5, 2.4)}
    found, other, best = (mean_area(kind, 60, **settings) for kind in ("eb", "pooled", "best"))
    assert found == pytest.approx(0.607, abs=0.015)
    assert best == pytest.approx(0.645, abs=0.015)
    assert found > other + 0.02


@pytest.mark.slow
@pytest.mark.parametrize(("models", "gained"), [(4, -0.003), (8, 0.002)])
def test_where_differences_hardly_follow_difficulty_nothing_is_lost(models: int, gained: float) -> None:
    settings = {"models": models, "difference": scattered, "spreads": (1.5, 2.0)}
    found, other = (mean_area(kind, 400, **settings) for kind in ("eb", "pooled"))
    assert found >= other + gained
