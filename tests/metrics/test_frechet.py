"""The Fréchet distance: closed forms, another implementation on the same features, and when there is none."""

import numpy as np
import pytest
from numpy.typing import NDArray

from unlearn_audit import metrics

Floats = NDArray[np.float64]
RNG = np.random.default_rng(5)


def with_moments(mean: Floats, covariance: Floats, n: int = 400) -> Floats:
    """Return n features whose own mean and covariance (n - 1) are exactly these."""
    raw = RNG.normal(size=(n, len(mean)))
    raw -= raw.mean(axis=0)
    whitened = raw @ np.linalg.inv(np.linalg.cholesky(np.cov(raw, rowvar=False))).T
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray(whitened @ (vectors * np.sqrt(values)) @ vectors.T + mean)


def test_equal_sets_are_at_zero_and_a_translation_adds_its_square() -> None:
    features = RNG.normal(size=(200, 6))
    shift = RNG.normal(size=6)
    assert metrics.frechet_distance(features, features) == pytest.approx(0.0, abs=1e-10)
    assert metrics.frechet_distance(features, features + shift) == pytest.approx(shift @ shift)


def test_gaussians_with_commuting_covariances_have_the_closed_form() -> None:
    basis = np.linalg.qr(RNG.normal(size=(4, 4)))[0]
    ours, theirs = np.array([0.5, 1.0, 4.0, 9.0]), np.array([2.0, 0.25, 1.0, 16.0])
    mean = np.array([1.0, -2.0, 0.0, 0.5])
    first = with_moments(np.zeros(4), basis @ np.diag(ours) @ basis.T)
    second = with_moments(mean, basis @ np.diag(theirs) @ basis.T)
    expected = mean @ mean + ((np.sqrt(ours) - np.sqrt(theirs)) ** 2).sum()
    assert metrics.frechet_distance(first, second) == pytest.approx(expected)
    assert metrics.frechet_distance(second, first) == pytest.approx(expected)


def test_another_implementation_finds_the_same_on_the_same_features() -> None:
    torch = pytest.importorskip("torch")
    other = pytest.importorskip("torch_fidelity.metric_fid", reason="pip install torch-fidelity")
    mix = RNG.normal(size=(24, 24))
    ours, theirs = RNG.normal(size=(300, 24)) @ mix, RNG.gamma(2.0, size=(260, 24))
    sides = [other.fid_features_to_statistics(torch.from_numpy(side)) for side in (ours, theirs)]
    expected = other.fid_statistics_to_metric(*sides, verbose=False)["frechet_inception_distance"]
    assert metrics.frechet_distance(ours, theirs) == pytest.approx(expected, rel=1e-6)


def test_features_that_never_vary_count_by_their_mean_alone() -> None:
    ours = np.column_stack([RNG.normal(size=50), np.zeros(50)])
    theirs = ours + np.array([0.0, 2.0])
    assert metrics.frechet_distance(ours, theirs) == pytest.approx(4.0)


def test_too_few_samples_no_features_and_features_that_are_not_finite_have_none() -> None:
    features = RNG.normal(size=(50, 6))
    assert metrics.frechet_distance(features[:6], features) is None
    assert metrics.frechet_distance(features, features[:6]) is None
    assert metrics.frechet_distance(features[:7], features) is not None
    assert metrics.frechet_distance(features[:, :0], features[:, :0]) is None
    broken = features.copy()
    broken[3, 2] = np.nan
    assert metrics.frechet_distance(broken, features) is None
