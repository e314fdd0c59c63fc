"""Plants are made of two models' readings, and the smallest size that is seen often enough is found between sizes."""

from collections.abc import Callable

import numpy as np
import pytest

from unlearn_audit.audit.detectable.planting import (
    POWER,
    SIZES,
    Reach,
    Readings,
    between,
    mixed,
    orders,
    planted,
    reach,
    whole,
)


def found(sees: Callable[[float], float]) -> tuple[Reach, list[float]]:
    """Return how far an instrument sees, and the sizes that it was shown."""
    asked: list[float] = []

    def count(size: float) -> float:
        asked.append(size)
        return sees(size)

    return reach(SIZES, count, between), asked


def test_a_step_is_found_between_two_sizes_and_nothing_beyond_it_is_tried() -> None:
    seen, asked = found(lambda size: float(size >= 0.037))
    assert seen.smallest == pytest.approx(0.035 + 0.8 * 0.005)  # 0 at .035, 1 at .04, a straight line between
    assert sorted(asked) == pytest.approx([0, 0.02, 0.025, 0.03, 0.035, 0.04])
    assert seen.reason is None


def test_a_straight_line_is_found_exactly() -> None:
    assert found(lambda size: min(1.0, 2 * size))[0].smallest == pytest.approx(POWER / 2)
    assert found(lambda size: size)[0].smallest == pytest.approx(POWER)


def test_what_is_seen_never_falls() -> None:
    parts = {0.0: 0.1, 0.02: 0.6, 0.04: 0.4, 0.06: 0.7}
    seen, _ = found(lambda size: parts.get(round(size, 4), 0.5 if size < 0.06 else 1.0))
    assert seen.smallest == pytest.approx(0.06 + 0.005 * (0.82 - 0.7) / (1.0 - 0.7))  # 0.8 of the 0.9 that do not alarm


def test_what_is_never_seen_has_no_size_and_a_reason() -> None:
    seen, asked = found(lambda size: 0.75 if size else 0.0)
    assert (seen.smallest, seen.reason) == (None, "not even the original is seen: 75% of the plants that are all of it")
    assert asked == [0.0, *SIZES]


def test_an_alarm_without_a_plant_is_no_power() -> None:
    seen, asked = found(lambda _: 1.0)
    assert seen.smallest is None
    assert seen.reason == "it calls 100% of the retrained models different from each other as they are"
    assert asked == [0.0]


@pytest.mark.parametrize(("alarms", "smallest"), [(1 / 3, 0.02), (1 / 2, None), (2 / 3, None)])
def test_where_more_than_a_third_alarm_without_a_plant_there_is_no_size(alarms: float, smallest: float | None) -> None:
    """Two of three bases that alarm would have shown the third one's plants as much smaller than they need to be."""
    seen, asked = found(lambda size: alarms if size == 0 else 1.0)
    assert (seen.smallest is None) == (smallest is None)
    assert seen.smallest is None or 0 < seen.smallest < smallest
    said = f"it calls {alarms:.0%} of the retrained models different from each other as they are"
    assert seen.reason == (None if smallest else said)
    assert (asked == [0.0]) == (smallest is None)


@pytest.mark.parametrize("examples", [1, 2, 7, 30, 144])
def test_shares_are_of_examples_that_exist(examples: int) -> None:
    shares = whole(examples, SIZES)
    assert shares[-1] == 1.0
    assert shares[0] > 0
    assert list(shares) == sorted(set(shares))
    assert all((share * examples) == pytest.approx(round(share * examples)) for share in shares)


def test_a_plant_has_the_originals_reading_on_some_forget_examples_alone() -> None:
    base, original = (Readings(np.full(6, value), np.full(4, value)) for value in (0.0, 9.0))
    got = planted(base, original, np.array([4, 1]))
    assert got.forget.tolist() == [0, 9, 0, 0, 9, 0]
    assert got.unseen.tolist() == [0, 0, 0, 0]
    assert base.forget.tolist() == [0] * 6  # untouched


def test_a_larger_share_holds_every_smaller_one_and_draws_differ() -> None:
    order = orders(50, 3, np.random.default_rng(0))
    assert [sorted(rows) for rows in order.tolist()] == [list(range(50))] * 3
    assert len({tuple(rows) for rows in order.tolist()}) == 3


def test_a_dose_is_a_part_of_the_way() -> None:
    base, original = np.array([[1.0, 3.0]], dtype="f4"), np.array([[5.0, -1.0]], dtype="f4")
    assert mixed(base, original, 0.0).tolist() == base.tolist()
    assert mixed(base, original, 1.0).tolist() == original.tolist()
    assert mixed(base, original, 0.25).tolist() == [[2.0, 2.0]]
