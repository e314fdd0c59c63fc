"""Accuracy and gaps on the parts of the retain set, where an adjacent set is named."""

from dataclasses import replace

import numpy as np
import pytest
from lookup_models import CLASSES, TRAIN, context_of, right

from unlearn_audit.audit.accuracy import measure_gaps
from unlearn_audit.audit.context import AuditContext
from unlearn_audit.audit.section import SearchState
from unlearn_audit.config import GapSettings
from unlearn_audit.data import with_adjacent
from unlearn_audit.report import Measurement


def measured(context: AuditContext) -> dict[tuple[str, str], Measurement]:
    found = measure_gaps(context, GapSettings(), SearchState()).measurements
    return {(one.subject, one.name): one for one in found}


@pytest.fixture
def context() -> AuditContext:
    """A model that has lost half of class 9 beside two retrained ones, of which one lacks a tenth of it."""
    unlearned, first, second = (right() for _ in range(3))
    nines = np.flatnonzero(np.arange(TRAIN) % CLASSES == 9)
    unlearned[nines[:50]] = first[nines[:10]] = False
    subjects = {"o": ("original", right()), "u": ("unlearned", unlearned)}
    return context_of("class:3", **subjects, a=("retrained", first), b=("retrained", second))


def test_each_part_is_measured_and_held_against_the_retrained_models(context: AuditContext) -> None:
    found = measured(replace(context, splits=with_adjacent(context.splits, "class:9")))
    for part, value, level, gap, n in (("adjacent", 0.5, 0.95, -0.45, 100), ("remote", 1.0, 1.0, 0.0, 800)):
        one, two = found["u", f"accuracy.{part}"], found["u", f"gap.{part}"]
        assert (one.value, one.n, two.n) == (value, n, n)
        assert two.value == pytest.approx(gap)
        assert one.reference is not None
        assert one.reference.value == pytest.approx(level)
        assert one.interval is not None
    assert found["u", "change.adjacent"].value == -0.5
    assert found["a", "gap.adjacent"].value == pytest.approx(-0.1)
    whole = found["u", "accuracy.retain"].value
    assert whole == pytest.approx((0.5 * 100 + 1.0 * 800) / 900)


def test_what_was_measured_before_is_measured_still_and_nothing_else_without_an_adjacent_set(
    context: AuditContext,
) -> None:
    plain = measured(context)
    named = measured(replace(context, splits=with_adjacent(context.splits, "class:9"), _signals={}))
    assert {key: one for key, one in named.items() if key in plain} == plain
    parts = {name.partition(".")[2] for _, name in set(named) - set(plain)}
    assert parts == {"adjacent", "remote"}
