"""LiRA and U-LiRA: scores against Algorithm 1 written out with loops, and samples whose AUC is a closed form."""

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
from made_up_evidence import Floats, logits_of, made_up, with_shadows
from numpy.typing import NDArray
from scipy import stats

from unlearn_audit import metrics
from unlearn_audit.attacks import Attack, Evidence, Shadows, lira
from unlearn_audit.attacks.lira import LiraSettings
from unlearn_audit.attacks.ulira import ulira
from unlearn_audit.errors import MeasurementError

Variance = Literal["pooled", "per_example"]


def phi(logits: Any, label: int) -> float:
    """log p_y - log of the sum of the other probabilities, as the paper writes it, in float64."""
    raised = np.exp(np.asarray(logits, dtype=np.float64) - max(logits))
    shares = raised / raised.sum()
    return float(np.log(shares[label]) - np.log(sum(share for c, share in enumerate(shares) if c != label)))


def normals(shadows: Shadows, labels: Any, side: NDArray[np.bool_], view: int, variance: Variance) -> list[Any]:
    """Return a frozen normal distribution for each example: of what the models of a side say of it."""
    heard = [
        [phi(shadows.logits[m, i, view], labels[i]) for m in range(len(side)) if side[m, i]] for i in range(len(labels))
    ]
    if variance == "per_example":
        return [stats.norm(np.mean(said), np.std(said, ddof=1)) for said in heard]
    squares = sum((one - np.mean(said)) ** 2 for said in heard for one in said)
    freedom = sum(len(said) - 1 for said in heard)
    return [stats.norm(np.mean(said), np.sqrt(squares / freedom)) for said in heard]


def written_out(evidence: Evidence, shadows: Shadows, variance: Variance, *, offline: bool) -> list[float]:
    """Return the scores of all examples: one sum over views each."""
    labels, views = evidence.labels, range(evidence.logits.shape[1])
    total = np.zeros(len(labels))
    for view in views:
        insides = None if offline else normals(shadows, labels, shadows.inside, view, variance)
        outsides = normals(shadows, labels, shadows.outside, view, variance)
        for i, outside in enumerate(outsides):
            seen = phi(evidence.logits[i, view], labels[i])
            total[i] += -outside.logsf(seen) if insides is None else insides[i].logpdf(seen) - outside.logpdf(seen)
    return list(total / len(views))


@pytest.mark.parametrize("queries", [1, 3])
@pytest.mark.parametrize("variance", ["pooled", "per_example"])
def test_scores_are_those_of_the_algorithm_written_out(variance: Variance, queries: int) -> None:
    evidence = made_up(1, queries=queries)
    assert evidence.shadows is not None
    online = written_out(evidence, evidence.shadows, variance, offline=False)
    np.testing.assert_allclose(
        lira.online(LiraSettings(variance=variance)).score(evidence), online, rtol=1e-6, atol=1e-9
    )
    offline = written_out(evidence, evidence.shadows, variance, offline=True)
    np.testing.assert_allclose(
        lira.offline(LiraSettings(variance=variance)).score(evidence), offline, rtol=1e-6, atol=1e-9
    )


def test_the_two_sides_may_be_of_different_sizes_and_each_has_its_own_variance() -> None:
    evidence = made_up(2, models=9)
    inside = np.zeros((9, 12), bool)
    inside[:2] = True
    inside[2, ::3] = True
    changed = with_shadows(evidence, inside=inside, outside=~inside)
    assert changed.shadows is not None
    expected = written_out(changed, changed.shadows, "pooled", offline=False)
    np.testing.assert_allclose(lira.lira.score(changed), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("models", [8, 64])
def test_ulira_compares_models_that_unlearned_with_those_that_never_saw(models: int) -> None:
    evidence = made_up(3, models=models, count=6)
    assert evidence.unlearned is not None
    assert not (evidence.unlearned.inside | evidence.unlearned.outside).all()  # some were trained on, and kept
    for variance in ("pooled", "per_example") if models == 64 else ("pooled",):
        expected = written_out(evidence, evidence.unlearned, variance, offline=False)
        found = ulira.with_settings({"variance": variance}).score(evidence)
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("attack", [lira.lira, lira.lira_offline, ulira])
def test_four_models_are_enough_for_empirical_bayes_and_fewer_examples_than_20_are_not(attack: Attack) -> None:
    assert attack.explain is not None
    trends = "examples have two shadow models on each side that is read"
    for models, count, asked, taken, because in (
        (4, 24, "auto", "eb", None),
        (64, 24, "auto", "eb", None),
        (4, 24, "eb", "eb", None),
        (3, 24, "auto", "pooled", "fewer than 4 shadow models"),
        (8, 19, "auto", "pooled", f"fewer than 20 {trends}"),
        (8, 19, "eb", "pooled", f"fewer than 20 {trends}"),
        (8, 24, "pooled", "pooled", None),
    ):
        evidence = made_up(4, models=models, count=count)
        evidence = replace(evidence, unlearned=evidence.shadows)
        made = attack.with_settings({"variance": asked})
        assert made.explain is not None
        told = made.explain(evidence)
        assert told["variance"] == taken
        assert told.get("variance_because", "").partition(":")[0] == (because or "")
        if models < 4:
            continue  # one side has a single model, and pooled has its own refusal
        found = made.score(evidence)
        assert (found == attack.with_settings({"variance": taken}).score(evidence)).all()
        other = "pooled" if taken == "eb" else "eb"
        if asked != "pooled":
            assert (found == attack.with_settings({"variance": other}).score(evidence)).all() == (taken == "pooled")


def test_what_empirical_bayes_shrinks_by_is_told() -> None:
    evidence = made_up(4, models=8, count=24)
    assert lira.lira.explain is not None
    assert lira.lira_offline.explain is not None
    told = lira.lira.explain(evidence)
    assert set(told) == {"variance", "nu_0", "tau", "gamma", "mean_w"}
    assert set(told["nu_0"]) == {"inside", "outside"}
    assert len(told["gamma"]) == 3
    assert 0 <= told["mean_w"] < 1
    assert set(lira.lira_offline.explain(evidence)["nu_0"]) == {"outside"}


# --- closed forms ---

GRID = 800


def normal_sample(shift: float, spread: Floats, models: int = 8) -> Evidence:
    """Return an evidence whose log-odds are normal about each example's own mean, higher by `shift` where it was in.

    The shadow models' are standardised, so that the fit is exact; the target's lie on a grid of quantiles.
    """
    rng = np.random.default_rng(5)
    half, labels = models // 2, np.arange(2 * GRID) % 4
    said = rng.normal(0, 1, (2, half, 2 * GRID))
    said = (said - said.mean(axis=1, keepdims=True)) / said.std(axis=1, ddof=1, keepdims=True)
    ease = rng.normal(0, 2, 2 * GRID)
    inside = np.repeat([True, False], half)[:, None] & np.ones(2 * GRID, bool)
    odds = ease + spread * (said.reshape(models, -1) + shift * inside)
    quantiles = stats.norm.ppf((np.arange(GRID) + 0.5) / GRID)
    asked = ease + spread * np.concatenate([rng.permutation(quantiles) + shift, rng.permutation(quantiles)])
    nothing = np.zeros((models, 0), bool)
    shadows = Shadows(
        logits_of(odds, labels)[:, :, None], inside, ~inside, np.zeros((models, 0, 4), np.float32), nothing,
        np.zeros(0, np.int64), np.zeros((models, 0, 4), np.float32),
    )  # fmt: skip
    return Evidence(logits_of(asked, labels)[:, None], labels, np.zeros((2 * GRID, 0), np.float32), shadows, shadows)


def area(scores: Floats) -> float:
    found = metrics.auc(scores[:GRID], scores[GRID:])
    assert found is not None
    return found


@pytest.mark.parametrize("shift", [0.0, 0.5, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("variance", ["pooled", "per_example"])
def test_normal_log_odds_have_the_auc_of_the_closed_form(variance: Variance, shift: float) -> None:
    evidence = normal_sample(shift, np.ones(2 * GRID))
    expected = pytest.approx(stats.norm.cdf(shift / np.sqrt(2)), abs=2e-3)
    if shift:
        assert area(lira.online(LiraSettings(variance=variance)).score(evidence)) == expected
        assert area(ulira.with_settings({"variance": variance}).score(evidence)) == expected
    assert area(lira.offline(LiraSettings(variance=variance)).score(evidence)) == expected


def test_scores_are_the_log_ratio_of_two_normal_densities() -> None:
    evidence = normal_sample(1.5, np.full(2 * GRID, 2.0))
    assert evidence.shadows is not None
    asked = np.array([phi(*each) for each in zip(evidence.logits[:, 0], evidence.labels, strict=True)])
    said = np.array([[phi(*each) for each in zip(row[:, 0], evidence.labels, strict=True)]
                     for row in evidence.shadows.logits])  # fmt: skip
    inside, outside = stats.norm(said[:4].mean(axis=0), 2), stats.norm(said[4:].mean(axis=0), 2)
    pooled = lira.online(LiraSettings(variance="pooled"))
    np.testing.assert_allclose(pooled.score(evidence), inside.logpdf(asked) - outside.logpdf(asked), atol=1e-4)


def test_examples_of_different_spread_need_a_variance_each_to_reach_it() -> None:
    spread = np.random.default_rng(6).choice([0.2, 5.0], 2 * GRID)
    evidence = normal_sample(1.0, spread)
    expected = stats.norm.cdf(1 / np.sqrt(2))
    assert area(lira.offline(LiraSettings(variance="per_example")).score(evidence)) == pytest.approx(expected, abs=2e-3)
    assert area(lira.online(LiraSettings(variance="per_example")).score(evidence)) == pytest.approx(expected, abs=2e-3)
    assert area(lira.offline(LiraSettings(variance="pooled")).score(evidence)) < expected - 0.01


# --- behaviour ---


def with_odds(evidence: Evidence, odds: float) -> Evidence:
    """Return the evidence with the same log-odds of all examples in all views."""
    shape = evidence.logits.shape[:2]
    return replace(evidence, logits=logits_of(np.full(shape, odds), evidence.labels[:, None]))


def test_offline_the_surer_is_the_more_suspect_without_end_and_unlike_is_not_enough() -> None:
    evidence = made_up(7)
    found = np.array([lira.lira_offline.score(with_odds(evidence, odds)) for odds in (-500, -5, 0, 5, 50, 500, 5000)])
    assert (np.diff(found, axis=0) > 0).all()
    assert (found[0] < 1e-6).all()  # far below what other models say: not a member, however unlike
    assert (found >= 0).all()


def test_online_what_is_like_the_models_with_it_is_a_member() -> None:
    evidence = normal_sample(6.0, np.ones(2 * GRID))
    scores = lira.lira.score(evidence)
    assert (scores[:GRID] > 0).mean() > 0.99
    assert (scores[GRID:] < 0).mean() > 0.99
    assert (lira.lira.threshold, ulira.threshold, lira.lira_offline.threshold) == (0.0, 0.0, None)


@pytest.mark.parametrize("filler", [np.nan, 1e4, -7.0])
def test_offline_no_model_that_saw_the_example_is_read(filler: float) -> None:
    evidence = made_up(8)
    assert evidence.shadows is not None
    poisoned = evidence.shadows.logits.copy()
    poisoned[evidence.shadows.inside] = filler
    poisoned[evidence.shadows.inside, :, 0] = -filler
    changed = replace(evidence, shadows=replace(evidence.shadows, logits=poisoned))
    for variance in ("pooled", "per_example"):
        attack = lira.offline(LiraSettings(variance=variance))
        assert (attack.score(changed) == attack.score(evidence)).all()


def test_a_model_that_is_on_neither_side_is_not_read() -> None:
    evidence = made_up(9)
    assert evidence.unlearned is not None
    poisoned = evidence.unlearned.logits.copy()
    poisoned[~(evidence.unlearned.inside | evidence.unlearned.outside)] = np.nan
    changed = replace(evidence, unlearned=replace(evidence.unlearned, logits=poisoned))
    assert (ulira.score(changed) == ulira.score(evidence)).all()


def test_models_that_agree_to_the_last_bit_give_finite_scores() -> None:
    evidence = made_up(10)
    assert evidence.shadows is not None
    agreed = with_shadows(evidence, logits=np.broadcast_to(evidence.shadows.logits[:1], evidence.shadows.logits.shape))
    for attack in (
        *(make(LiraSettings(variance=v)) for make in (lira.online, lira.offline) for v in ("pooled", "per_example")),
        ulira,
    ):
        assert np.isfinite(attack.score(agreed)).all()
        assert np.isfinite(attack.score(with_odds(agreed, 2e4))).all()


# --- refusals ---


def test_without_shadow_models_there_is_no_score() -> None:
    bare = replace(made_up(), shadows=None, unlearned=None)
    for attack in (lira.lira, lira.lira_offline):
        with pytest.raises(MeasurementError, match="LiRA needs shadow models"):
            attack.score(bare)
    with pytest.raises(MeasurementError, match="U-LiRA needs shadow models that were unlearned"):
        ulira.score(replace(made_up(), unlearned=None))


@pytest.mark.parametrize("side", ["inside", "outside"])
def test_an_example_without_a_model_on_a_side_is_counted_and_refused(side: str) -> None:
    evidence = made_up()
    assert evidence.shadows is not None
    mask = getattr(evidence.shadows, side).copy()
    mask[:, [2, 5]] = False
    lacking = with_shadows(evidence, **{side: mask})
    says = "2 of 12 examples have no shadow model on one side; more are needed"
    for attack in (lira.lira, ulira) if side == "inside" else (lira.lira, ulira, lira.lira_offline):
        with pytest.raises(MeasurementError, match=says):
            attack.score(lacking)
    if side == "inside":
        assert np.isfinite(lira.lira_offline.score(lacking)).all()


@pytest.mark.parametrize("make", [lira.online, lira.offline])
def test_a_variance_for_each_example_needs_two_models_a_side(make: Any) -> None:
    evidence = made_up(models=4)
    assert evidence.shadows is not None
    outside = evidence.shadows.outside.copy()
    outside[np.flatnonzero(outside[:, 0])[0], 0] = False
    lacking = with_shadows(evidence, outside=outside)
    with pytest.raises(MeasurementError, match="needs two shadow models on each side; use pooled"):
        make(LiraSettings(variance="per_example")).score(lacking)
    assert np.isfinite(make(LiraSettings(variance="pooled")).score(lacking)).all()


@pytest.mark.parametrize("attack", [lira.lira, lira.lira_offline])
def test_one_model_a_side_has_no_variance_at_all(attack: Any) -> None:
    with pytest.raises(MeasurementError, match="needs an example with two shadow models on one side"):
        attack.score(made_up(models=2))
