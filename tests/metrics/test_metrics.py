"""Every number against an oracle: torch, SciPy, scikit-learn, brute force over all pairs, or simulation."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats
from sklearn.metrics import roc_auc_score

from unlearn_audit import metrics
from unlearn_audit.metrics.values import Floats

# Few distinct values, so that ties are everywhere.
tied_scores = st.lists(st.sampled_from([-2.0, -1.0, 0.0, 0.5, 0.5000001, 3.0]), min_size=1, max_size=40).map(np.array)


def pairs(members: Floats, non_members: Floats) -> Floats:
    """The kernel of Mann and Whitney for all pairs, [M, N]: 1 in the right order, 1/2 for a tie, else 0."""
    ours, theirs = members[:, None], non_members[None, :]
    return np.asarray((ours > theirs) + 0.5 * (ours == theirs))


# ----- losses and accuracy


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0, 1e4])
def test_cross_entropy_is_torchs_in_float64(scale: float) -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(200, 7)) * scale, rng.integers(0, 7, 200)
    theirs = torch.nn.functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels), reduction="none")
    np.testing.assert_allclose(metrics.cross_entropy(logits, labels), theirs.numpy(), rtol=1e-12, atol=1e-12)


def test_cross_entropy_is_scipys_log_softmax_even_for_float32_logits() -> None:
    rng = np.random.default_rng(1)
    logits, labels = rng.normal(size=(50, 3)).astype(np.float32) * 100, rng.integers(0, 3, 50)
    theirs = -special.log_softmax(logits.astype(np.float64), axis=1)[np.arange(50), labels]
    found = metrics.cross_entropy(logits.astype(np.float64), labels)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, theirs, rtol=1e-12, atol=1e-12)


def test_cross_entropy_of_huge_logits_neither_overflows_nor_loses_the_loss() -> None:
    found = metrics.cross_entropy(np.array([[1e300, -1e300], [0.0, 800.0]]), np.array([0, 0]))
    assert found.tolist() == [0.0, 800.0]


@pytest.mark.parametrize("shape", [(0, 10), (0, 0)])
def test_an_empty_set_has_no_losses_and_no_accuracy(shape: tuple[int, int]) -> None:
    labels = np.zeros(0, dtype=np.int64)
    assert metrics.cross_entropy(np.zeros(shape), labels).shape == (0,)
    assert metrics.accuracy(np.zeros(shape), labels) is None


def test_accuracy_is_the_share_of_right_answers() -> None:
    logits = np.array([[1.0, 2.0], [3.0, 1.0], [0.0, 1.0], [0.0, 5.0]])
    assert metrics.accuracy(logits, np.array([1, 0, 0, 1])) == 0.75


# ----- intervals of one number


@pytest.mark.parametrize("level", [0.8, 0.9, 0.95, 0.99])
@pytest.mark.parametrize(("successes", "n"), [(0, 1), (1, 1), (0, 30), (30, 30), (7, 30), (15, 30), (4999, 5000)])
def test_wilson_is_scipys(successes: int, n: int, level: float) -> None:
    bounds = metrics.wilson_interval(successes, n, level)
    theirs = stats.binomtest(successes, n).proportion_ci(level, method="wilson")
    assert bounds is not None
    assert bounds == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_wilson_ends_are_the_roots_of_the_score_test() -> None:
    bounds, z = metrics.wilson_interval(8, 10), stats.norm.ppf(0.975)
    assert bounds is not None
    for end in bounds:
        assert abs(0.8 - end) == pytest.approx(z * np.sqrt(end * (1 - end) / 10))


def test_wilson_of_nothing_is_none() -> None:
    assert metrics.wilson_interval(0, 0) is None


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_share_within_zero_and_one(counts: tuple[int, int]) -> None:
    bounds = metrics.wilson_interval(*counts)
    assert bounds is not None
    assert 0 <= bounds.low <= counts[0] / counts[1] <= bounds.high <= 1
    assert bounds.low < bounds.high


@pytest.mark.parametrize("freedom", [1.0, 2.0, 2.7, 30.0, 1e12])
def test_student_is_scipys(freedom: float) -> None:
    expected = stats.t.interval(0.9, freedom, loc=3, scale=0.5)
    assert metrics.student_interval(3.0, 0.5, freedom, 0.9) == pytest.approx(expected, rel=1e-9)


def test_student_at_infinite_freedom_is_normal() -> None:
    expected = stats.norm.interval(0.95, loc=-1, scale=2)
    assert metrics.student_interval(-1.0, 2.0, float("inf")) == pytest.approx(expected)


def test_spread_is_the_sample_standard_deviation_and_missing_for_one_value() -> None:
    assert metrics.mean_and_spread([1.0, 2.0, 4.0]) == pytest.approx((7 / 3, np.std([1, 2, 4], ddof=1)))
    assert metrics.mean_and_spread([5.0]) == (5.0, None)


# ----- AUC


@given(tied_scores, tied_scores)
def test_auc_with_ties_is_scikit_learns(members: Floats, non_members: Floats) -> None:
    labels = [1] * len(members) + [0] * len(non_members)
    expected = roc_auc_score(labels, np.concatenate([members, non_members]))
    assert metrics.auc(members, non_members) == pytest.approx(expected, abs=1e-12)


@given(tied_scores, tied_scores)
def test_auc_turns_around_with_the_sides_and_ignores_monotone_maps(members: Floats, non_members: Floats) -> None:
    found = metrics.auc(members, non_members)
    assert found == metrics.auc(np.exp(members), np.exp(non_members))
    assert found == pytest.approx(1 - (metrics.auc(non_members, members) or 0))


def test_the_distance_of_kolmogorov_and_smirnov_is_scipys() -> None:
    draws = np.random.default_rng(0)
    for n, m in ((20, 20), (150, 90), (400, 7)):
        first, second = draws.normal(size=n).round(1), draws.normal(0.3, 1.5, size=m).round(1)
        found = metrics.kolmogorov_smirnov(first, second)
        assert found is not None
        assert found.value == pytest.approx(stats.ks_2samp(first, second).statistic)
        assert found.p == pytest.approx(stats.kstwobign.sf(found.value * np.sqrt(n * m / (n + m))))
    assert metrics.kolmogorov_smirnov(np.ones(3), np.ones(5)) == (0.0, 1.0)


def test_half_of_all_pairs_of_samples_lie_as_far_apart_as_the_median_distance() -> None:
    draws = np.random.default_rng(1)
    found = [metrics.kolmogorov_smirnov(*draws.normal(size=(2, 200))) for _ in range(1000)]
    share = np.mean([each.p >= 0.5 for each in found if each])
    assert share == pytest.approx(0.5, abs=0.1)  # steps of 1/200 make the limit a little conservative


def test_a_distance_is_undefined_for_an_empty_side_and_for_nan() -> None:
    assert metrics.kolmogorov_smirnov(np.zeros(0), np.ones(3)) is None
    assert metrics.kolmogorov_smirnov(np.ones(3), np.array([1.0, np.nan])) is None


def test_auc_is_undefined_for_an_empty_side_and_for_nan() -> None:
    some, none, broken = np.array([1.0, 2.0]), np.zeros(0), np.array([1.0, np.nan])
    for one, other in [(some, none), (none, some), (none, none), (broken, some), (some, broken)]:
        assert metrics.auc(one, other) is None
        assert metrics.auc_interval(one, other) is None


def test_infinite_scores_are_the_most_extreme_ones() -> None:
    assert metrics.auc(np.array([np.inf, 0.0]), np.array([-np.inf, 0.0])) == 0.875


@given(tied_scores.filter(lambda s: len(s) > 1), tied_scores.filter(lambda s: len(s) > 1))
def test_delongs_variance_is_the_brute_force_one(members: Floats, non_members: Floats) -> None:
    kernel = pairs(members, non_members)
    expected = kernel.mean(axis=1).var(ddof=1) / len(members) + kernel.mean(axis=0).var(ddof=1) / len(non_members)
    assert metrics.auc_variance(members, non_members) == pytest.approx(expected, abs=1e-15)
    ours, theirs = metrics.auc_components(members, non_members)
    np.testing.assert_allclose(ours, kernel.mean(axis=1), atol=1e-12)
    np.testing.assert_allclose(theirs, kernel.mean(axis=0), atol=1e-12)


@pytest.mark.parametrize("shift", [0.0, 0.6, 1.2, 2.3])
def test_the_interval_covers_by_simulation(shift: float) -> None:
    rng, runs, truth = np.random.default_rng(2), 1000, stats.norm.cdf(shift / np.sqrt(2))
    hits = 0
    for _ in range(runs):
        bounds = metrics.auc_interval(rng.normal(shift, 1, 40), rng.normal(0, 1, 60))
        assert bounds is not None
        hits += bounds.low <= truth <= bounds.high
    assert 0.93 <= hits / runs <= 0.97


def test_the_interval_is_symmetric_in_the_logit_with_delongs_error() -> None:
    rng = np.random.default_rng(4)
    members, non_members = rng.normal(1, 1, 30), rng.normal(0, 1, 50)
    bounds, area = metrics.auc_interval(members, non_members, 0.9), metrics.auc(members, non_members)
    assert bounds is not None
    assert area is not None
    error = np.sqrt(metrics.auc_variance(members, non_members)) / (area * (1 - area))
    expected = special.expit(special.logit(area) + np.array([-1, 1]) * stats.norm.ppf(0.95) * error)
    np.testing.assert_allclose(bounds, expected)


@pytest.mark.parametrize("n", [2, 10, 144])
def test_a_perfect_separation_has_an_interval_with_width(n: int) -> None:
    low, high = np.arange(n, dtype=float), np.arange(n, dtype=float) + n
    above, below = metrics.auc_interval(high, low), metrics.auc_interval(low, high)
    exact = stats.binomtest(n, n).proportion_ci(0.95, method="exact").low
    assert above == pytest.approx((exact, 1.0))
    assert below == pytest.approx((0.0, 1 - exact))


def test_the_interval_of_a_perfect_separation_is_not_too_narrow_by_simulation() -> None:
    """One member in fifty scores like a non-member: samples of 40 often look perfect and must not hide it."""
    rng, truth = np.random.default_rng(3), 0.98 + 0.02 * 0.5
    perfect = covered = 0
    for _ in range(400):
        members = np.where(rng.random(40) < 0.02, 0.0, 10.0) + rng.random(40)
        non_members = rng.random(40)
        if metrics.auc(members, non_members) == 1:
            bounds = metrics.auc_interval(members, non_members)
            assert bounds is not None
            perfect, covered = perfect + 1, covered + (bounds.low <= truth <= bounds.high)
    assert perfect > 50
    assert covered == perfect


def test_scores_that_are_all_equal_have_no_interval() -> None:
    assert metrics.auc_interval(np.ones(5), np.ones(6)) is None
    assert metrics.auc_interval(np.ones(1), np.zeros(6)) is None


@given(tied_scores, tied_scores)
def test_an_auc_interval_holds_its_value_and_has_width(members: Floats, non_members: Floats) -> None:
    bounds, area = metrics.auc_interval(members, non_members), metrics.auc(members, non_members)
    if bounds is not None and area is not None:
        assert 0 <= bounds.low <= area <= bounds.high <= 1
        assert bounds.low < bounds.high


# ----- ratios


def test_tail_share_by_hand() -> None:
    assert metrics.tail_share(np.arange(1.0, 101.0)) == pytest.approx(sum(range(96, 101)) / 5050)
    assert metrics.tail_share(np.arange(1.0, 101.0), 1.0) == 1.0
    assert metrics.tail_share(np.array([3.0])) == 1.0
    assert metrics.tail_share(np.array([1.0, 3.0])) == 0.75


@pytest.mark.parametrize("values", [[], [0.0], [0.0, 0.0], [-1.0, 0.5], [np.nan, 1.0], [np.inf, 1.0]])
def test_tail_share_of_nothing_is_undefined(values: list[float]) -> None:
    assert metrics.tail_share(np.array(values)) is None


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=100), st.floats(0.01, 1))
def test_tail_share_is_a_share_and_does_not_depend_on_the_order(values: list[float], fraction: float) -> None:
    share = metrics.tail_share(np.array(values), fraction)
    if share is not None:
        assert 0 < share <= 1 + 1e-12
        assert metrics.tail_share(np.array(values[::-1]), fraction) == pytest.approx(share)


def test_ratio_of_medians_by_hand() -> None:
    assert metrics.ratio_of_medians(np.array([1.0, 2.0, 1e9]), np.array([3.0, 5.0])) == 0.5
    assert metrics.ratio_of_medians(np.array([7.0]), np.array([2.0])) == 3.5
    assert metrics.ratio_of_medians(np.array([0.0]), np.array([2.0])) == 0


def test_ratio_of_medians_is_undefined_without_a_positive_finite_denominator() -> None:
    some = np.array([1.0, 2.0])
    sides = [[], [0.0], [0.0, 0.0, 9.0], [-1.0], [np.nan, 1.0, 2.0]]
    for below in sides:
        assert metrics.ratio_of_medians(some, np.array(below)) is None
    for above, below in itertools.product([[], [np.nan], [np.inf]], [[1.0]]):
        assert metrics.ratio_of_medians(np.array(above), np.array(below)) is None


@settings(max_examples=50)
@given(st.lists(st.floats(0, 1e300), max_size=6), st.lists(st.floats(0, 1e300), max_size=6))
def test_what_comes_back_is_none_or_finite(above: list[float], below: list[float]) -> None:
    for found in (
        metrics.ratio_of_medians(np.array(above), np.array(below)),
        metrics.tail_share(np.array(above)),
        metrics.auc(np.array(above), np.array(below)),
    ):
        assert found is None or np.isfinite(found)
