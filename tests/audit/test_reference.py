"""The difference to retrained models: an interval ends where no difference can be."""

import numpy as np
import pytest

from unlearn_audit.audit.reference import comparison_of, difference_of_means


@pytest.mark.parametrize(("widest", "high"), [(1.0, 1.0), (2.0, 2.0)])
def test_the_interval_of_a_difference_of_shares_ends_at_the_largest_that_there_can_be(
    widest: float, high: float
) -> None:
    found = difference_of_means(np.ones(1), [np.zeros(1), np.zeros(1)], "fraction", widest=widest)
    assert found is not None
    assert (found.value, found.high) == (1.0, high)
    assert found.low < 0  # one example says nothing
    comparison = comparison_of(found, "fraction")
    assert comparison is not None
    assert comparison.blind
    assert comparison.blind_below == (found.high - found.low) / 2


def test_nats_have_no_end() -> None:
    found = difference_of_means(np.array([9.0, 1.0]), [np.zeros(2), np.array([0.0, 9.0])], "nats")
    assert found is not None
    assert found.high > 20
