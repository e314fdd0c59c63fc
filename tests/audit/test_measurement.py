"""A measurement has the catalogue's unit and direction, and a value or a reason."""

from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from unlearn_audit.audit.measurement import interval, measurement
from unlearn_audit.metrics import Bounds

ONE: Any = SimpleNamespace(label="u", role="unlearned", is_generator=False)


def test_unit_and_direction_are_the_catalogues() -> None:
    found = measurement("loss.test", ONE, 0.5, n=10, method="so")
    assert (found.unit, found.direction, found.subject, found.role) == ("nats", "lower is better", "u", "unlearned")
    mine = measurement("mia.my-attack.auc", ONE, 0.5, n=10, method="so")
    assert (mine.unit, mine.direction) == ("probability", "compare to retrained")


def test_a_value_has_no_reason_and_a_reason_no_interval() -> None:
    around = interval(Bounds(0.25, 0.75), "made up")
    assert around is not None
    assert (around.low, around.high, around.level, around.method) == (0.25, 0.75, 0.95, "made up")
    there = measurement("loss.test", ONE, 0.5, "why not", n=10, method="so", interval=around)
    assert (there.value, there.reason, there.interval) == (0.5, None, around)
    missing = measurement("loss.test", ONE, None, "why not", n=10, method="so", interval=around)
    assert (missing.value, missing.reason, missing.interval) == (None, "why not", None)
    assert interval(None, "made up") is None


def test_neither_a_value_nor_a_reason_is_refused() -> None:
    with pytest.raises(ValidationError, match="without a reason"):
        measurement("loss.test", ONE, None, n=10, method="so")


def test_a_metric_that_the_catalogue_does_not_know_is_refused() -> None:
    with pytest.raises(KeyError):
        measurement("loss.tset", ONE, 0.5, n=10, method="so")
