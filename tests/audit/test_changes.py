"""The change against the original: paired, on what is kept, null without an original."""

from dataclasses import replace

import numpy as np
import pytest
from lookup_models import CLASSES, TRAIN, context_of, right

from unlearn_audit.audit.changes import measure_changes
from unlearn_audit.data import with_adjacent
from unlearn_audit.report import Measurement


def changes(forget: str, **subjects: tuple[str, np.ndarray]) -> dict[tuple[str, str], Measurement]:
    return {(one.subject, one.name): one for one in measure_changes(context_of(forget, **subjects))}


def test_the_change_is_the_paired_difference() -> None:
    before, after = right(seed=1), right(seed=2, retain=0.9, test=0.8)
    found = changes("range:0-99", o=("original", before), u=("unlearned", after))
    for split, rows in (("retain", slice(100, TRAIN)), ("test", slice(TRAIN, None))):
        one = found["u", f"change.{split}"]
        gaps = after[rows].astype(float) - before[rows].astype(float)
        half = 1.96 * gaps.std(ddof=1) / len(gaps) ** 0.5
        assert one.n == len(gaps)
        assert one.value == pytest.approx(gaps.mean())
        assert one.interval is not None
        assert (one.interval.low, one.interval.high) == pytest.approx(
            (gaps.mean() - half, gaps.mean() + half), rel=0.01
        )
        original = found["o", f"change.{split}"]
        assert (original.value, original.reason) == (None, "this is the original")


def test_a_class_that_is_forgotten_does_not_count() -> None:
    after = right()
    after[np.arange(len(after)) % CLASSES == 3] = False
    one = changes("class:3", o=("original", right()), u=("unlearned", after))["u", "change.test"]
    assert (one.value, one.n) == (0.0, 450)
    assert one.interval is not None
    assert one.interval.low < 0 < one.interval.high  # one example more or less is always possible
    assert "without 50 of classes that are to be forgotten" in one.method


def test_there_is_no_change_without_an_original() -> None:
    found = changes("range:0-99", u=("unlearned", right()))
    assert [(one.value, one.reason) for one in found.values()] == [
        (None, "no original model to compare with was given")
    ] * 2


def test_nothing_is_left_to_compare_where_every_class_is_forgotten() -> None:
    found = changes("range:0-989", o=("original", right()), u=("unlearned", right(seed=1)))
    assert found["u", "change.test"].value is None
    assert found["u", "change.test"].reason == "no test example is of a class that is kept"
    assert found["u", "change.retain"].n == 10


def test_the_parts_of_the_retain_set_change_apart() -> None:
    after = right(seed=1)
    after[:TRAIN][np.arange(TRAIN) % CLASSES == 9] = False
    context = context_of("class:3", o=("original", right()), u=("unlearned", after))
    context = replace(context, splits=with_adjacent(context.splits, "class:9"))
    found = {one.name: one for one in measure_changes(context) if one.subject == "u"}
    assert {name: (one.value, one.n) for name, one in found.items() if name != "change.test"} == {
        "change.retain": (pytest.approx(-1 / 9), 900),
        "change.adjacent": (-1.0, 100),
        "change.remote": (0.0, 800),
    }
