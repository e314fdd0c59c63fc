"""Divergences of two models' answers: closed forms, bounds, traps of published code, and what chance does to them."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from scipy.special import softmax

from unlearn_audit import metrics
from unlearn_audit.audit.reference import compared

Floats = NDArray[np.float64]
RNG = np.random.default_rng(0)
OURS, THEIRS = RNG.normal(0, 3, (2, 60, 10))


def test_divergences_are_what_scipy_says_of_the_probabilities() -> None:
    found = metrics.divergences(OURS, THEIRS)
    p, q = softmax(OURS, axis=1), softmax(THEIRS, axis=1)
    assert found.kl == pytest.approx(stats.entropy(q, p, axis=1))  # of the retrained model's from ours
    m = (p + q) / 2
    assert found.js == pytest.approx((stats.entropy(p, m, axis=1) + stats.entropy(q, m, axis=1)) / 2)
    assert found.tv == pytest.approx(np.abs(p - q).sum(axis=1) / 2)
    assert found.l2 == pytest.approx(np.linalg.norm(p - q, axis=1))
    assert found.agreement.tolist() == (OURS.argmax(axis=1) == THEIRS.argmax(axis=1)).tolist()


def test_the_reverse_and_the_division_by_classes_are_other_numbers() -> None:
    """Two things that published code does: KL the other way round, and a mean over classes as well as over rows."""
    kl = metrics.divergences(OURS, THEIRS).kl.mean()
    reverse = metrics.divergences(THEIRS, OURS).kl.mean()
    assert abs(kl - reverse) > 0.1
    p, q = softmax(OURS, axis=1), softmax(THEIRS, axis=1)
    assert float((q * np.log(q / p)).mean()) == pytest.approx(kl / 10)


def test_js_is_bounded_by_ln_2_and_symmetric_and_zero_for_one_model() -> None:
    far = metrics.divergences(np.array([[1e4, 0.0, -1e4]]), np.array([[-1e4, 0.0, 1e4]]))
    assert far.js[0] == pytest.approx(np.log(2))
    assert (far.tv[0], far.l2[0], far.agreement[0]) == (1.0, pytest.approx(2**0.5), 0.0)
    assert far.kl[0] == 2e4  # where a probability is zero in float64, its logarithm is not
    both = metrics.divergences(OURS, THEIRS).js, metrics.divergences(THEIRS, OURS).js
    assert both[0] == pytest.approx(both[1], abs=1e-15)
    same = metrics.divergences(OURS, OURS + 5.0)
    assert max(one.max() for one in same[:4]) < 1e-7
    assert same.agreement.all()


def test_many_examples_are_looked_at_in_parts_and_none_give_none(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = metrics.divergences(OURS, THEIRS)
    monkeypatch.setattr("unlearn_audit.metrics.outputs.NUMBERS", 70)
    parts = metrics.divergences(OURS, THEIRS)
    assert all(np.array_equal(one, other) for one, other in zip(whole, parts, strict=True))
    assert [len(one) for one in metrics.divergences(OURS[:0], THEIRS[:0])] == [0] * 5


def test_zrf_is_one_for_the_teachers_answers_and_zero_for_quite_other_ones() -> None:
    assert metrics.zero_retrain_forgetting(np.array([0.0, np.log(2)])).tolist() == [1.0, 0.0]


def test_tug_of_war_of_one_percent_each_is_97_and_of_the_same_model_1() -> None:
    assert metrics.tug_of_war((0.90, 0.99, 0.93), (0.91, 1.00, 0.94)) == pytest.approx(0.99**3)
    assert round(0.99**3, 3) == 0.970
    assert metrics.tug_of_war((0.5, 1.0), (0.5, 1.0)) == 1.0
    assert metrics.tug_of_war((0.0, 0.5), (1.0, 0.5)) == 0.0


def test_levels_of_pairs_are_spread_as_one_more_models_where_each_brings_its_own() -> None:
    own = np.random.default_rng(1).normal(0, 1, (2000, 4))  # what each of four models brings along, in many draws
    pairs = own[:, :, None] + own[:, None, :]
    levels = (pairs.sum(axis=2) - 2 * own) / 3
    spread = np.stack([metrics.as_if_apart(one) for one in levels]).std(axis=1, ddof=1)
    assert spread == pytest.approx(own.std(axis=1, ddof=1))


@pytest.mark.parametrize("models", [3, 5])
def test_one_more_retrained_model_is_seldom_called_different(models: int) -> None:
    """Logits of an example are its own, plus a seed's in general and on each example; 400 draws, at most 8 % seen."""
    rng, seen, runs, n = np.random.default_rng(models), 0, 400, 30
    noise = rng.normal(0, 1, (runs, models + 1, n, 4)) * np.exp(rng.normal(0, 0.3, (runs, models + 1, 1, 1)))
    p = softmax(rng.normal(0, 2, (runs, 1, n, 4)) + noise, axis=-1)
    for tv in np.abs(p[:, :, None] - p[:, None]).sum(axis=-1) / 2:
        apart = metrics.as_if_apart(tv[1:, 1:].sum(axis=1) / (models - 1))
        ours = tv[0, 1:].mean(axis=0)
        found = compared(float(ours.mean()), [float(one.mean()) for one in apart], [(ours, apart)])
        seen += found is not None and found.seen
    assert seen / runs <= 0.08


def test_a_paired_interval_is_that_of_the_differences() -> None:
    ours = RNG.exponential(1, 400)
    theirs = ours + RNG.normal(0.1, 0.01, 400)
    found = metrics.paired_bootstrap(ours, theirs, seed=0)
    assert found is not None
    assert found.low < (ours - theirs).mean() < found.high
    assert found.high - found.low < 0.003  # the examples' own spread has no part in it
    apart = ours - theirs
    assert found == pytest.approx(stats.t.interval(0.95, 399, apart.mean(), stats.sem(apart)), abs=3e-4)
    assert metrics.paired_bootstrap(ours, theirs, seed=0) == found
    assert metrics.paired_bootstrap(ours[:1], theirs[:1], seed=0) is None
    many = metrics.paired_bootstrap(np.tile(ours, 20), np.tile(theirs, 20), seed=0)
    assert many is not None
    assert many.high - many.low == pytest.approx((found.high - found.low) / 20**0.5, rel=0.1)
