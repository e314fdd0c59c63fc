"""Centred kernel alignment: what it does not depend on, what independent features have, the whole formula."""

import numpy as np
import pytest
from numpy.typing import NDArray

from unlearn_audit import metrics

Floats = NDArray[np.float64]
RNG = np.random.default_rng(3)


@pytest.mark.parametrize("cka", [metrics.linear_cka, metrics.unbiased_cka])
def test_it_does_not_depend_on_rotation_scale_or_place(cka: object) -> None:
    features = RNG.normal(size=(60, 12))
    turned = np.linalg.qr(RNG.normal(size=(12, 12)))[0]
    assert callable(cka)
    assert cka(features, 3 * features @ turned + 7) == pytest.approx(1.0)
    other = RNG.normal(size=(60, 5)) + features[:, :5]
    assert cka(features, other) == pytest.approx(cka(other, features))


@pytest.mark.parametrize(("width", "biased"), [(512, 0.84), (10, 0.1)])
def test_independent_features_look_alike_to_the_biased_estimator_alone(width: int, biased: float) -> None:
    pairs = [RNG.normal(size=(2, 100, width)) for _ in range(20)]
    assert np.mean([metrics.linear_cka(*pair) for pair in pairs]) == pytest.approx(biased, abs=0.03)
    found = [metrics.unbiased_cka(*pair) for pair in pairs]
    assert np.mean([one for one in found if one is not None]) == pytest.approx(0.0, abs=0.02)


def test_the_unbiased_estimator_is_that_of_the_whole_matrices() -> None:
    x = RNG.normal(size=(15, 4))
    y = x[:, :3] ** 2 + RNG.normal(size=(15, 3))

    def hsic(k: Floats, m: Floats) -> float:
        n, one = len(k), np.ones(len(k))
        k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
        whole = (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
        return float(np.trace(k @ m) + whole - 2 / (n - 2) * one @ k @ m @ one)

    k, m = x @ x.T, y @ y.T
    assert metrics.unbiased_cka(x, y) == pytest.approx(hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m)))


def test_constant_features_and_few_examples_have_none() -> None:
    x = RNG.normal(size=(10, 3))
    assert metrics.linear_cka(x, np.ones((10, 2))) is None
    assert metrics.unbiased_cka(x, np.ones((10, 2))) is None
    assert metrics.unbiased_cka(x[:3], x[:3]) is None
    assert metrics.linear_cka(x[:0], x[:0]) is None
