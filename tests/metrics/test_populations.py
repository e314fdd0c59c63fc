"""KLOM and the NeurIPS F: their floors for one and the same law, which depend on the number of models, and extremes."""

import numpy as np
import pytest
from numpy.typing import NDArray

from unlearn_audit import metrics

Floats = NDArray[np.float64]


def drawn(count: int, examples: int, *, seed: int = 0) -> tuple[Floats, Floats]:
    """Return margins of two lots of models that are of one law."""
    first, second = np.random.default_rng(seed).normal(size=(2, count, examples))
    return first, second


@pytest.mark.parametrize(("count", "floor", "within"), [(8, 0.40, 0.02), (20, 0.12, 0.005), (100, 0.02, 0.001)])
def test_the_floor_of_normal_margins_is_known_and_seen(count: int, floor: float, within: float) -> None:
    expected = metrics.klom_floor(count)
    assert expected == pytest.approx(floor, abs=0.003)
    assert metrics.klom_gaussian(*drawn(count, 8000)).mean() == pytest.approx(expected, abs=within)


def test_gaussian_klom_is_the_divergence_of_two_normal_laws() -> None:
    rng = np.random.default_rng(1)
    ours, theirs = rng.normal(1.0, 2.0, (40000, 1)), rng.normal(0.0, 1.0, (40000, 1))
    assert metrics.klom_gaussian(ours, theirs)[0] == pytest.approx(np.log(2) + (1 + 1) / 8 - 0.5, abs=0.01)
    assert metrics.klom_gaussian(ours, ours)[0] == 0.0
    still = np.zeros((5, 1))
    assert metrics.klom_gaussian(still, still)[0] == 0.0
    assert metrics.klom_gaussian(still, theirs)[0] == np.inf
    assert metrics.klom_gaussian(still, still + 1)[0] == np.inf
    assert metrics.klom_floor(3) is None


@pytest.mark.parametrize(
    ("count", "mean", "high"), [(20, 3.07, 5.05), (50, 0.87, 1.71), (100, 0.35, 0.67), (200, 0.15, 0.29)]
)
def test_histograms_of_few_models_measure_their_number(count: int, mean: float, high: float) -> None:
    found = metrics.klom_histogram(*drawn(count, 400))
    assert found.mean() == pytest.approx(mean, rel=0.06)
    assert np.quantile(found, 0.95) == pytest.approx(high, rel=0.1)


def test_a_shift_of_one_deviation_reads_above_its_divergence_of_a_half() -> None:
    ours, theirs = drawn(100, 400)
    assert 0.8 < metrics.klom_histogram(ours + 1, theirs).mean() < 1.4
    assert metrics.klom_gaussian(ours + 1, theirs).mean() == pytest.approx(0.5, abs=0.05)
    assert metrics.klom_histogram(np.zeros((5, 2)), np.zeros((5, 2))).tolist() == [0.0, 0.0]
    assert metrics.klom_gaussian(ours + 1e6, theirs + 1e6).max() == 0.0  # cut off at the same margin


def test_forgetting_quality_of_a_perfect_method_is_about_a_fifth_and_falls_with_a_shift() -> None:
    ours, theirs = drawn(64, 60)
    found = [metrics.forgetting_quality(ours + shift, theirs) or 0.0 for shift in (0.0, 0.5, 1.0, 2.0)]
    assert 0.16 <= found[0] <= 0.22
    assert 0.07 <= found[1] <= 0.13
    assert 0.017 <= found[2] <= 0.05
    assert found[3] <= 0.015


def test_what_is_told_apart_without_an_error_or_never_varies_has_no_points() -> None:
    ours, theirs = drawn(8, 5)
    assert metrics.forgetting_quality(ours + 50, theirs) == 0.0
    assert metrics.forgetting_quality(ours * 1e-6, theirs) == 0.0
    assert metrics.forgetting_quality(theirs, theirs) == 1.0
    assert metrics.forgetting_quality(ours[:3], theirs) is None
    assert metrics.forgetting_quality(ours[:, :0], theirs[:, :0]) is None
