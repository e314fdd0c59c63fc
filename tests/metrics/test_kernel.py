"""The kernel distance: the sums written out, no bias, no order, and how often its interval holds the truth."""

import numpy as np
import pytest
from numpy.typing import NDArray

from unlearn_audit import metrics

Floats = NDArray[np.float64]
RNG = np.random.default_rng(11)


def distance(ours: Floats, theirs: Floats) -> metrics.KernelDistance:
    """Return the distance of two sets that have one."""
    found = metrics.kernel_distance(ours, theirs)
    assert found is not None
    return found


def written_out(ours: Floats, theirs: Floats) -> float:
    """Return the unbiased MMD² by a double loop."""

    def mean(x: Floats, y: Floats, *, same: bool) -> float:
        terms = [(a @ b / len(a) + 1) ** 3 for i, a in enumerate(x) for j, b in enumerate(y) if not (same and i == j)]
        return float(np.mean(terms))

    within = mean(ours, ours, same=True) + mean(theirs, theirs, same=True)
    return within - 2 * mean(ours, theirs, same=False)


def test_it_is_the_double_loop_and_does_not_depend_on_the_order() -> None:
    ours, theirs = RNG.normal(size=(14, 3)), RNG.normal(size=(9, 3)) + 0.4
    found = distance(ours, theirs)
    assert found.value == pytest.approx(written_out(ours, theirs))
    assert distance(RNG.permutation(ours), RNG.permutation(theirs)).value == pytest.approx(found.value)
    assert distance(theirs, ours).value == pytest.approx(found.value)


def test_pseudo_values_are_those_of_leaving_one_out_and_their_mean_is_the_value() -> None:
    ours, theirs = RNG.normal(size=(8, 3)), RNG.normal(size=(6, 3)) + 0.4
    found = distance(ours, theirs)
    without = [written_out(np.delete(ours, i, axis=0), theirs) for i in range(8)]
    np.testing.assert_allclose(found.ours, 8 * found.value - 7 * np.array(without))
    without = [written_out(ours, np.delete(theirs, i, axis=0)) for i in range(6)]
    np.testing.assert_allclose(found.theirs, 6 * found.value - 5 * np.array(without))
    assert found.ours.mean() == pytest.approx(found.value)
    assert found.theirs.mean() == pytest.approx(found.value)


def by_class(x: Floats, y: Floats, of_x: list[int], of_y: list[int]) -> float:
    """Return the MMD² of sets that were drawn class by class, classes equally often, by loops over classes."""

    def mean(x: Floats, y: Floats, of_x: list[int], of_y: list[int], *, same: bool) -> float:
        blocks = []
        for a in sorted(set(of_x)):
            for b in sorted(set(of_y)):
                left, right = x[np.array(of_x) == a], y[np.array(of_y) == b]
                kernel = (left @ right.T / x.shape[1] + 1) ** 3
                inside = same and a == b
                count = kernel.size - (len(left) if inside else 0)
                blocks.append((kernel.sum() - (np.trace(kernel) if inside else 0)) / count)
        return float(np.mean(blocks))

    within = mean(x, x, of_x, of_x, same=True) + mean(y, y, of_y, of_y, same=True)
    return within - 2 * mean(x, y, of_x, of_y, same=False)


def test_sets_drawn_class_by_class_count_pairs_of_classes_by_their_share() -> None:
    of_x, of_y = [0, 1, 0, 1, 0, 1, 0, 1], [5, 5, 5, 5, 7, 7, 7, 7]
    ours, theirs = RNG.normal(size=(8, 3)), RNG.normal(size=(8, 3)) + 0.4
    found = metrics.kernel_distance(ours, theirs, strata=(np.array(of_x), np.array(of_y)))
    assert found is not None
    assert found.value == pytest.approx(by_class(ours, theirs, of_x, of_y))
    assert (found.ours.mean(), found.theirs.mean()) == pytest.approx((found.value, found.value))
    terms = []
    for i in range(8):
        rest, of_rest = np.delete(ours, i, axis=0), [*of_x[:i], *of_x[i + 1 :]]
        terms.append(by_class(rest, theirs, of_rest, of_y) - found.value)
    jackknife = 3 / 4 * np.sum(np.square(terms))  # (n_c - 1) / n_c for strata of four
    assert found.ours.var(ddof=1) / 8 == pytest.approx(jackknife)


def test_sets_drawn_class_by_class_are_at_zero_where_plain_means_are_below() -> None:
    centres, classes = 3 * RNG.normal(size=(5, 4)), np.arange(40) % 5
    plain, stratified, held = [], [], []
    for _ in range(100):
        ours, theirs = (centres[classes] + RNG.normal(size=(40, 4)) for _ in range(2))
        plain.append(distance(ours, theirs).value)
        found = metrics.kernel_distance(ours, theirs, strata=(classes, classes))
        assert found is not None
        stratified.append(found.value)
        held.append(found.interval().low <= 0 <= found.interval().high)
    assert np.mean(plain) < -10 * np.std(plain) / 10
    assert abs(np.mean(stratified)) < 3 * np.std(stratified) / 10
    assert np.mean(held) >= 0.93


def test_blocks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = RNG.normal(size=(40, 3)), RNG.normal(size=(31, 3))
    whole = distance(ours, theirs)
    monkeypatch.setattr("unlearn_audit.metrics.kernel.BLOCK", 7)
    np.testing.assert_allclose(distance(ours, theirs).ours, whole.ours)


def test_splits_of_one_set_are_at_zero_on_average_and_half_of_them_below() -> None:
    everything = RNG.normal(size=(120, 5))
    values = []
    for _ in range(200):
        order = RNG.permutation(120)
        values.append(distance(everything[order[:60]], everything[order[60:]]).value)
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(200)
    assert 0.3 < np.mean(np.array(values) < 0) < 0.8


def test_its_interval_holds_the_truth_as_often_as_it_says() -> None:
    def drawn(shift: float, n: int) -> Floats:
        return RNG.normal(size=(n, 4)) + shift

    truth = np.mean([distance(drawn(0, 400), drawn(0.5, 400)).value for _ in range(40)])
    ends = [distance(drawn(0, 40), drawn(0.5, 40)).interval() for _ in range(200)]
    assert 0.9 <= np.mean([low <= truth <= high for low, high in ends]) <= 0.99
    ends = [distance(drawn(0, 40), drawn(0, 40)).interval() for _ in range(200)]
    assert np.mean([low <= 0 <= high for low, high in ends]) >= 0.95


def test_another_implementation_finds_the_same_on_the_same_features() -> None:
    other = pytest.importorskip("torch_fidelity.metric_kid", reason="pip install torch-fidelity")
    ours, theirs = RNG.normal(size=(80, 16)), RNG.normal(size=(80, 16)) + 0.2
    expected = other.kernel_mmd(ours, theirs, kid_kernel="poly")
    assert distance(ours, theirs).value == pytest.approx(expected, rel=1e-9)


def test_two_samples_no_features_and_features_that_are_not_finite_have_none() -> None:
    features = RNG.normal(size=(10, 3))
    assert metrics.kernel_distance(features[:2], features) is None
    assert metrics.kernel_distance(features, features[:2]) is None
    assert metrics.kernel_distance(features[:, :0], features[:, :0]) is None
    broken = features.copy()
    broken[0, 0] = np.inf
    assert metrics.kernel_distance(features, broken) is None
