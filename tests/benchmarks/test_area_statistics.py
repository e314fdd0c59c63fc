"""The statistics of the coverage study against independent implementations and on areas of known making."""

from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score


@pytest.fixture(scope="module")
def area(load_benchmark: Callable[[str], ModuleType]) -> ModuleType:
    """The file tests/benchmarks/area_statistics.py as a module."""
    return load_benchmark("area_statistics")


def heavy(seed: int, n: int = 150) -> np.ndarray:
    return np.exp(3 * np.random.default_rng(seed).standard_normal(n))


def test_welch_and_auc_agree_with_scipy_and_scikit_learn(area: ModuleType) -> None:
    forget, twin = np.log(heavy(0)), np.log(heavy(1, n=90)) + 0.5
    found = area.mean_difference(area.Pair(forget, twin))
    expected = stats.ttest_ind(forget, twin, equal_var=False).confidence_interval()
    assert found[1:] == pytest.approx((expected.low, expected.high))
    truth = np.concatenate([np.zeros(len(forget)), np.ones(len(twin))])
    value = area.remembered_auc(area.Pair(forget, twin)).value
    assert value == pytest.approx(roc_auc_score(truth, np.concatenate([forget, twin])))


def test_a_common_factor_is_found_by_every_statistic(area: ModuleType) -> None:
    usual = area.Pair(heavy(0), heavy(1))
    asked = area.Pair(usual.forget * 0.01, usual.twin)
    found = area.statistics(asked, [area.Pair(usual.forget * 2, usual.twin * 2)], steps=0)
    assert set(found) == set(area.NULLS)
    assert all(area.NULLS[name].left(found[name]) for name in ("geometric ratio", "rank AUC", "calibrated AUC"))
    assert found["calibrated AUC"].value == 1
    assert found["calibrated log difference"].value == pytest.approx(np.log(0.01))
    assert found["ratio of medians"].value == pytest.approx(0.01 * np.median(usual.forget) / np.median(usual.twin))
    assert found["ratio of sums"].value == pytest.approx(0.01 * usual.forget.sum() / usual.twin.sum())


def test_calibration_sees_what_difficulty_hides(area: ModuleType) -> None:
    difficulty, noise = area.Pair(heavy(2), heavy(3)), np.random.default_rng(4)
    seeds = [area.Pair(*(side * np.exp(0.5 * noise.standard_normal(len(side))) for side in difficulty)) for _ in "abcd"]
    asked = area.Pair(seeds[0].forget * 0.6, seeds[0].twin)
    found = area.statistics(asked, seeds[1:], steps=0)
    assert found["rank AUC"].holds(0.5)
    assert found["calibrated AUC"].low > 0.6
    assert found["calibrated log difference"].holds(np.log(0.6))
    retrained = area.statistics(seeds[0], seeds[1:], steps=0)
    assert retrained["calibrated AUC"].holds(0.5)


def test_areas_of_zero_are_taken_as_rounding_and_nothing_to_calibrate_with_is_none(area: ModuleType) -> None:
    found = area.statistics(area.Pair(np.array([0.0, 1.0, 2.0]), np.array([0.0, 0.0, 3.0])), [], steps=100)
    assert np.isfinite(found["geometric ratio"]).all()
    assert found["ratio of medians"] is None
    assert found["calibrated AUC"] is found["calibrated log difference"] is None
