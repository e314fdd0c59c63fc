"""RMIA: its identities, the paper's score over a population, and the formulas written out with loops."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_evidence import Floats, halves, logits_of, made_up, with_shadows
from scipy import stats
from scipy.optimize import minimize_scalar

from unlearn_audit.attacks import Attack, Evidence, Shadows, rmia
from unlearn_audit.errors import MeasurementError

AS_PUBLISHED = {"signal": "sm-taylor", "temperature": 2.0}


def offline(a: float | None) -> Attack:
    return rmia.offline(rmia.OfflineSettings(a="fit" if a is None else a))


def share(logits: Any, label: int) -> float:
    """The softmax of one vector at the label, in float64."""
    raised = np.exp(np.asarray(logits, dtype=np.float64) - max(logits))
    return float(raised[label] / raised.sum())


def of_views(logits: Any, label: int) -> float:
    """The mean over views of the label's probability."""
    return float(np.mean([share(view, label) for view in logits]))


def means(shadows: Shadows, labels: Any) -> tuple[list[float], list[float]]:
    """Return p_in and p_out of every attacked example."""
    found: tuple[list[float], list[float]] = ([], [])
    for sides, mask in zip(found, (shadows.inside, shadows.outside), strict=True):
        for i, label in enumerate(labels):
            sides.append(float(np.mean([of_views(shadows.logits[m, i], label) for m in np.flatnonzero(mask[:, i])])))
    return found


def fitted(shadows: Shadows) -> float:
    """Return a of p_in ~ a p_out + 1 - a over the rest of the pool, by search."""
    pairs = []
    for j, label in enumerate(shadows.rest_labels):
        said = np.array([share(row, label) for row in shadows.rest[:, j]])
        pairs.append((said[shadows.rest_inside[:, j]].mean(), said[~shadows.rest_inside[:, j]].mean()))
    inside, outside = np.array(pairs).T
    found = minimize_scalar(
        lambda a: ((inside - (a * outside + 1 - a)) ** 2).sum(),
        bounds=(0, 1),
        method="bounded",
        options={"xatol": 1e-9},
    )
    return float(found.x)


def written_out(evidence: Evidence, a: float | None) -> list[float]:
    """Return log of p(x | target) / p(x); online where a is None."""
    assert evidence.shadows is not None
    scores = []
    for i, (inside, outside) in enumerate(zip(*means(evidence.shadows, evidence.labels), strict=True)):
        marginal = (inside + outside) / 2 if a is None else ((1 + a) * outside + (1 - a)) / 2
        scores.append(np.log(of_views(evidence.logits[i], evidence.labels[i]) / marginal))
    return scores


# --- parity ---


@pytest.mark.parametrize("queries", [1, 3])
def test_online_scores_are_those_of_the_formula_written_out(queries: int) -> None:
    evidence = made_up(1, queries=queries)
    np.testing.assert_allclose(rmia.rmia.score(evidence), written_out(evidence, None), rtol=1e-6, atol=1e-9)


def test_online_both_sides_weigh_the_same_whatever_their_sizes() -> None:
    evidence = made_up(2)
    inside = np.zeros((8, 12), bool)
    inside[:2] = True
    changed = with_shadows(evidence, inside=inside, outside=~inside)
    np.testing.assert_allclose(rmia.rmia.score(changed), written_out(changed, None), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("queries", [1, 3])
@pytest.mark.parametrize("a", [0.0, 0.3, 0.6, 1.0, None])
def test_offline_scores_are_those_of_the_formula_written_out(a: float | None, queries: int) -> None:
    evidence = made_up(3, queries=queries)
    assert evidence.shadows is not None
    expected = written_out(evidence, fitted(evidence.shadows) if a is None else a)
    np.testing.assert_allclose(offline(a).score(evidence), expected, rtol=1e-6, atol=1e-6)
    if a is None:
        assert (rmia.rmia_offline.score(evidence) == rmia.offline().score(evidence)).all()


# --- identities ---


def test_a_of_one_is_the_likelihood_without_the_example_and_a_of_none_is_halfway_to_certainty() -> None:
    evidence = made_up(4)
    assert evidence.shadows is not None
    own = np.array([of_views(*each) for each in zip(evidence.logits, evidence.labels, strict=True)])
    outside = np.array(means(evidence.shadows, evidence.labels)[1])
    np.testing.assert_allclose(own / np.exp(offline(1.0).score(evidence)), outside, rtol=1e-9)
    np.testing.assert_allclose(own / np.exp(offline(0.0).score(evidence)), (1 + outside) / 2, rtol=1e-9)


def test_models_without_the_example_that_are_certain_leave_the_targets_own_likelihood() -> None:
    evidence = made_up(5)
    assert evidence.shadows is not None
    certain = logits_of(np.full(evidence.shadows.logits.shape[:3], 200.0), evidence.labels[:, None])
    found = offline(1.0).score(with_shadows(evidence, logits=certain))
    own = [np.log(of_views(*each)) for each in zip(evidence.logits, evidence.labels, strict=True)]
    np.testing.assert_allclose(found, own, rtol=1e-9)


def test_models_that_say_what_the_target_says_give_nought() -> None:
    evidence = made_up(6)
    assert evidence.shadows is not None
    copied = with_shadows(evidence, logits=np.broadcast_to(evidence.logits, evidence.shadows.logits.shape))
    np.testing.assert_allclose(rmia.rmia.score(copied), 0, atol=1e-12)
    np.testing.assert_allclose(offline(1.0).score(copied), 0, atol=1e-12)


@pytest.mark.parametrize("attack", [rmia.rmia, rmia.rmia_offline, offline(0.3)])
def test_the_likelier_under_the_target_the_higher_the_score(attack: Any) -> None:
    evidence = made_up(7)
    shape = evidence.logits.shape[:2]
    found = np.array([
        attack.score(replace(evidence, logits=logits_of(np.full(shape, odds), evidence.labels[:, None])))
        for odds in (-600.0, -20.0, -1.0, 0.0, 1.0, 5.0, 20.0)
    ])  # fmt: skip
    assert (np.diff(found, axis=0) > 0).all()


# --- the paper's score ---


def counted(ratios: Floats, population: Floats, gamma: float) -> Floats:
    """Return the share of population examples that each example dominates, pair by pair, without logarithms."""
    return np.array([np.mean([np.exp(r) / np.exp(z) > gamma for z in population]) for r in ratios])


@given(st.integers(0, 10_000), st.sampled_from([0.3, 1.0, 1.7, 2.0, 10.0]))
@settings(max_examples=40, deadline=None)
def test_the_share_dominated_is_what_counting_pairs_gives(seed: int, gamma: float) -> None:
    rng = np.random.default_rng(seed)
    ratios, population = rng.normal(0, 2, 15), rng.normal(0, 2, 25)
    assert rmia.dominated_share(ratios, population, gamma) == pytest.approx(counted(ratios, population, gamma))


def test_an_equal_ratio_is_not_dominated() -> None:
    ties = np.array([0.0, 0.0, -1.0, 3.0])
    assert rmia.dominated_share(np.array([0.0, 3.0, 4.0, -1.0]), ties, 1.0).tolist() == [0.25, 0.75, 1.0, 0.0]


def test_swept_over_gamma_the_papers_score_ranks_as_the_log_ratio_does() -> None:
    evidence = made_up(8, count=40)
    ratios = rmia.rmia.score(evidence)
    population = np.random.default_rng(8).normal(0, 1, 30)
    swept = []
    for gamma in np.geomspace(1e-3, 1e3, 400):
        shares = rmia.dominated_share(ratios, population, gamma)
        assert (np.diff(shares[np.argsort(ratios)]) >= 0).all()
        swept.append(shares)
    assert stats.spearmanr(np.mean(swept, axis=0), ratios).statistic == pytest.approx(1, abs=1e-3)
    assert len(np.unique(ratios)) == 40  # whereas one gamma leaves ties:
    assert len(np.unique(rmia.dominated_share(ratios, population, 2.0))) < 30


# --- the fit of a ---


def rest_of(share_in: Floats, share_out: Floats, models: int = 6) -> Shadows:
    """Return shadow models that give the rest of the pool these probabilities, where it was in and where it was out."""
    count = len(share_in)
    labels = np.arange(count) % 4
    inside = halves(np.random.default_rng(0), models, count)
    shares = np.where(inside, share_in, share_out)
    evidence = made_up(models=models)
    assert evidence.shadows is not None
    logits = logits_of(np.log(shares) - np.log1p(-shares), labels)
    return replace(evidence.shadows, rest=logits, rest_inside=inside, rest_labels=labels)


@pytest.mark.parametrize("a", [0.05, 0.3, 0.6, 0.95])
def test_a_is_found_where_the_line_is_exact(a: float) -> None:
    outside = np.random.default_rng(1).uniform(0.05, 0.9, 50)
    assert rmia.fitted_a(rest_of(a * outside + 1 - a, outside)) == pytest.approx(a, abs=1e-5)


def test_a_is_least_squares_through_certainty() -> None:
    rng = np.random.default_rng(2)
    inside, outside = rng.uniform(0.3, 0.95, 50), rng.uniform(0.05, 0.6, 50)
    slope = np.linalg.lstsq((1 - outside)[:, None], 1 - inside, rcond=None)[0][0]
    assert rmia.fitted_a(rest_of(inside, outside)) == pytest.approx(slope, abs=1e-5)


def test_a_stays_within_zero_and_one() -> None:
    low, high = np.full(10, 0.2), np.full(10, 0.9)
    assert rmia.fitted_a(rest_of(low, high)) == 1.0  # models with the example are less sure of it than others
    certain = replace(rest_of(low, high), rest=logits_of(np.full((6, 10), 900.0), np.arange(10) % 4))
    assert rmia.fitted_a(certain) == 1.0  # nobody is in doubt: p(x) is p_out


def test_a_reads_only_the_rest_and_leaves_out_what_is_on_one_side() -> None:
    shadows = rest_of(np.full(10, 0.8), np.full(10, 0.5))
    known = rmia.fitted_a(shadows)
    assert known == pytest.approx(0.4, abs=1e-5)
    poisoned = replace(shadows, logits=np.full_like(shadows.logits, np.nan), inside=~shadows.inside)
    assert rmia.fitted_a(poisoned) == known
    one_sided = shadows.rest_inside.copy()
    one_sided[:, 3], one_sided[:, 4] = True, False
    wild = shadows.rest.copy()
    wild[:, 3:5] = 0
    assert rmia.fitted_a(replace(shadows, rest_inside=one_sided, rest=wild)) == pytest.approx(known, abs=1e-6)


@pytest.mark.parametrize("filler", [np.nan, 1e4, -3.0])
@pytest.mark.parametrize("attack", [rmia.rmia_offline, offline(0.3)])
def test_offline_no_model_that_saw_the_example_is_read(attack: Any, filler: float) -> None:
    evidence = made_up(9)
    assert evidence.shadows is not None
    poisoned = evidence.shadows.logits.copy()
    poisoned[evidence.shadows.inside] = filler
    poisoned[evidence.shadows.inside, :, 0] = -filler
    changed = replace(evidence, shadows=replace(evidence.shadows, logits=poisoned))
    assert (attack.score(changed) == attack.score(evidence)).all()
    assert not (rmia.rmia.score(changed) == rmia.rmia.score(evidence)).all()


# --- refusals ---


@pytest.mark.parametrize("attack", [rmia.rmia, rmia.rmia_offline, offline(0.3)])
def test_without_shadow_models_there_is_no_score(attack: Any) -> None:
    with pytest.raises(MeasurementError, match="RMIA needs shadow models"):
        attack.score(replace(made_up(), shadows=None))


@pytest.mark.parametrize(("side", "attacks"), [
    ("inside", [rmia.rmia]), ("outside", [rmia.rmia, rmia.rmia_offline, offline(0.3)]),
])  # fmt: skip
def test_an_example_without_a_model_on_a_side_is_counted_and_refused(side: str, attacks: list[Any]) -> None:
    evidence = made_up()
    assert evidence.shadows is not None
    mask = getattr(evidence.shadows, side).copy()
    mask[:, [1, 2, 7]] = False
    for attack in attacks:
        with pytest.raises(
            MeasurementError, match="3 of 12 examples have no shadow model on one side; more are needed"
        ):
            attack.score(with_shadows(evidence, **{side: mask}))


@pytest.mark.parametrize("everywhere", [True, False])
def test_a_is_not_fitted_where_no_example_is_on_both_sides(everywhere: bool) -> None:
    evidence = made_up()
    assert evidence.shadows is not None
    alone = with_shadows(evidence, rest_inside=np.full_like(evidence.shadows.rest_inside, everywhere))
    with pytest.raises(MeasurementError, match="a cannot be fitted: .* give --a"):
        rmia.rmia_offline.score(alone)
    assert np.isfinite(offline(0.3).score(alone)).all()


# ----- other signals


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_the_sm_taylor_signal_written_out(temperature: float) -> None:
    """f(z_y - m) / (f(z_y - m) + the others' f(z_c)), f the first five terms of the exponential (n = 4, m = .6)."""
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(0, 3, (20, 5)).astype(np.float32), rng.integers(0, 5, 20)

    def taylor(z: float) -> float:
        return 1 + z + z**2 / 2 + z**3 / 6 + z**4 / 24

    wanted = []
    for row, label in zip(logits.astype(np.float64) / temperature, labels, strict=True):
        own = taylor(row[label] - 0.6)
        wanted.append(own / (own + sum(taylor(z) for c, z in enumerate(row) if c != label)))
    found = rmia.of_label(logits, labels, rmia.Signal("sm-taylor", temperature))
    np.testing.assert_allclose(found, wanted, rtol=1e-12)
    assert ((found > 0) & (found < 1)).all()


def test_the_temperature_divides_the_logits() -> None:
    logits, labels = np.array([[1.0, 3.0, 0.0]], dtype=np.float32), np.array([1])
    found = rmia.of_label(logits, labels, rmia.Signal("softmax", 2.0))
    assert found[0] == pytest.approx(share(logits[0] / 2, 1), rel=1e-12)


def test_signals_give_other_scores_and_say_so() -> None:
    evidence = made_up(0)
    plain, taylor = rmia.online(), rmia.online(rmia.RmiaSettings.model_validate(AS_PUBLISHED))
    assert not np.allclose(plain.score(evidence), taylor.score(evidence))
    assert not np.allclose(
        rmia.offline().score(evidence), rmia.offline(rmia.OfflineSettings.model_validate(AS_PUBLISHED)).score(evidence)
    )
    assert "softmax at T = 1" in str(plain.differs)
    assert "SM-Taylor softmax at T = 2" in str(plain.differs)
    assert "without gamma" in str(taylor.differs)
    assert "softmax" not in str(taylor.differs)
