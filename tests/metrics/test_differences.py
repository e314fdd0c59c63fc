"""A value against retrained models: how often one more of them is called different, and what other examples add."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from unlearn_audit import metrics
from unlearn_audit.audit.reference import compared

Floats = NDArray[np.float64]
finite = st.floats(allow_nan=False, allow_infinity=False)


def right(rng: np.random.Generator, models: int, n: int, *, seed: float, flip: float, shift: float = 0.0) -> Floats:
    """Right answers [models, n]: examples of their own difficulty, a seed's effect on all, chance on each of them."""
    margin = rng.normal(1.5, 1, n) + seed * rng.normal(size=(models, 1)) + flip * rng.normal(size=(models, n))
    margin[0] += shift * rng.normal(size=n)
    return (margin > 0).astype(np.float64)


def difference(found: Floats) -> metrics.Difference:
    """The first model against the others, as a gap is compared."""
    ours, others = found[0], found[1:]
    one = compared(ours.mean(), others.mean(axis=1).tolist(), [(ours, others)], least=1 / len(ours) ** 2)
    assert one is not None
    return one


@pytest.mark.parametrize("references", [2, 3, 5])
@pytest.mark.parametrize(("n", "seed", "flip"), [(2000, 0.0, 0.3), (2000, 0.02, 0.3), (500, 0.1, 0.3), (144, 0.1, 0.5)])
def test_a_further_retrained_model_is_called_different_in_5_percent(
    n: int, seed: float, flip: float, references: int
) -> None:
    rng, runs = np.random.default_rng(0), 400
    seen = [difference(right(rng, references + 1, n, seed=seed, flip=flip)).seen for _ in range(runs)]
    assert 0.02 <= np.mean(seen) <= 0.085  # 4 to 6 %, with the error of 400 simulations


@pytest.mark.parametrize("references", [2, 3, 5, 8])
@pytest.mark.parametrize("ratio", [0.0, 0.25, 1.0, 4.0, 25.0])
def test_the_rate_is_5_percent_whatever_part_of_the_seeds_chance_is_of_single_examples(
    ratio: float, references: int
) -> None:
    """Normal seeds of variance 1 + ratio, 1 of it from single examples; the integral over both, by quantiles."""
    quantiles = (np.arange(200) + 0.5) / 200
    rates = []
    for squared in (1 + ratio) * stats.chi2.ppf(quantiles, references - 1) / (references - 1):
        found = metrics.difference_from_references(
            0.0, 0.0, spread=squared**0.5, references=references, example_variance=0.0, single=1.0
        )
        rates.append(2 * stats.norm.sf(found.high / np.sqrt((1 + ratio) * (1 + 1 / references))))
    assert 0.04 <= np.mean(rates) <= 0.06


@pytest.mark.parametrize("references", [2, 3, 5])
def test_a_difference_that_varies_over_examples_is_known_for_others_too(references: int) -> None:
    rng, runs, truth = np.random.default_rng(1), 400, 0.0
    truth = stats.norm.cdf(1.5 / np.sqrt(1 + 0.3**2 + 0.5**2)) - stats.norm.cdf(1.5 / np.sqrt(1 + 0.3**2))
    found = [difference(right(rng, references + 1, 360, seed=0.02, flip=0.3, shift=0.5)) for _ in range(runs)]
    assert np.mean([one.low <= truth <= one.high for one in found]) >= 0.92


def test_single_examples_and_the_choice_of_examples_by_hand() -> None:
    ours, others = np.array([1.0, 0.0, 0.0, 0.0]), np.array([[1.0, 0.0, 1.0, 0.0], [1.0, 1.0, 1.0, 0.0]])
    chance = metrics.chance_of_examples([(ours, others)])
    assert chance.single == pytest.approx(0.5 / 4 / 4)  # one of four examples has a variance of 1/2 over both models
    assert chance.examples == 0.0  # .0599 - 1.5 * .03125 is less than its own error
    apart = metrics.chance_of_examples([(np.repeat([0.0, 1.0], 50), np.ones((2, 100)))])
    assert apart == pytest.approx((0.0, 0.25 * 100 / 99 / 100))


def test_models_that_agree_on_every_example_leave_the_width_of_one_disagreement() -> None:
    found = difference(np.ones((4, 100)))
    assert (found.value, found.standard_error) == (0.0, 0.01)
    assert not found.seen


def test_without_a_spread_of_seeds_the_difference_is_normal() -> None:
    found = metrics.difference_from_references(1.0, 0.0, spread=0.0, references=3, example_variance=0.25)
    assert (found.degrees_of_freedom, found.standard_error) == (np.inf, 0.5)
    assert (found.low, found.high) == pytest.approx(stats.norm.interval(0.95, loc=1, scale=0.5))
    assert found.seen


def test_without_chance_of_examples_the_difference_is_students_prediction_interval() -> None:
    references = np.array([0.90, 0.92, 0.97])
    found = metrics.difference_from_references(
        0.8, references.mean(), spread=references.std(ddof=1), references=3, example_variance=0.0
    )
    error = references.std(ddof=1) * np.sqrt(1 + 1 / 3)
    assert found.degrees_of_freedom == pytest.approx(2)
    assert (found.low, found.high) == pytest.approx(stats.t.interval(0.95, 2, loc=found.value, scale=error))


def test_both_sources_of_chance_add_up() -> None:
    found = metrics.difference_from_references(2.0, 1.0, spread=0.3, references=4, example_variance=0.04)
    seeds = 0.09 * 1.25
    assert found.standard_error == pytest.approx(np.sqrt(seeds + 0.04))
    assert found.degrees_of_freedom == pytest.approx(3 * (seeds + 0.04) / seeds)


@given(finite, finite, st.floats(0, 1e100), st.integers(2, 20), st.floats(0, 1e100))
def test_a_difference_is_never_nan(value: float, mean: float, spread: float, count: int, variance: float) -> None:
    found = metrics.difference_from_references(
        value / 2, mean / 2, spread=spread, references=count, example_variance=variance
    )
    assert not np.isnan([found.value, found.low, found.high, found.degrees_of_freedom]).any()
    assert found.low <= found.value <= found.high


@pytest.mark.parametrize("spread", [5e-324, 1e-200, 1e-160])
def test_a_spread_too_small_to_square_does_not_divide_by_zero(spread: float) -> None:
    found = metrics.difference_from_references(0.5, 0.5, spread=spread, references=3, example_variance=1e-4)
    assert found.degrees_of_freedom == np.inf
    assert not found.seen


def test_a_model_far_away_is_called_different_by_simulation() -> None:
    rng = np.random.default_rng(6)
    retrained = rng.normal(size=(1000, 3))
    seen = [
        metrics.difference_from_references(
            15.0, r.mean(), spread=r.std(ddof=1), references=3, example_variance=0.1
        ).seen
        for r in retrained
    ]
    assert np.mean(seen) > 0.9
