"""`--retain-sample`: a part of the retain set is measured, of every class its share; nothing else looks at less."""

import numpy as np
import pytest
from lookup_models import context_of, numbered, right

from unlearn_audit.audit.accuracy import measure_gaps
from unlearn_audit.audit.reference_checks import examine_subjects
from unlearn_audit.audit.section import ANEW
from unlearn_audit.config import GapSettings
from unlearn_audit.data import Splits, load_data, make_splits
from unlearn_audit.errors import DataError

FORGET = "range:0-99"


def sampled(size: int, seed: int = 0, forget: str = FORGET) -> Splits:
    return make_splits(numbered(), forget, retain_sample=size, seed=seed)


@pytest.mark.parametrize("size", [1, 7, 10, 90, 450, 899])
def test_every_class_has_its_share_and_no_example_is_measured_twice(size: int) -> None:
    splits = sampled(size)
    assert len(np.unique(splits.measured_retain)) == len(splits.measured_retain) == size
    assert np.isin(splits.measured_retain, splits.retain).all()
    counts = np.bincount(splits.dataset.train.labels.numpy()[splits.measured_retain], minlength=10)
    assert counts.max() - counts.min() <= 1  # 90 of each are retained


def test_shares_follow_classes_of_unequal_size() -> None:
    splits = make_splits(load_data("digits"), "class:3", retain_sample=300)
    labels = splits.dataset.train.labels.numpy()
    whole, part = (np.bincount(labels[rows], minlength=10) for rows in (splits.retain, splits.measured_retain))
    assert part[3] == 0
    assert np.abs(part - whole * 300 / whole.sum()).max() < 1


@pytest.mark.parametrize("size", [900, 10**6])
def test_a_sample_as_large_as_the_set_is_the_set(size: int) -> None:
    splits = sampled(size)
    assert np.array_equal(splits.measured_retain, splits.retain)
    assert not any("to retain" in text for text in splits.limitations)


def test_the_rest_of_the_sets_does_not_change_and_the_report_says_what_was_measured() -> None:
    splits, whole = sampled(90), make_splits(numbered(), FORGET)
    for name in ("retain", "measured", "pool"):
        assert np.array_equal(getattr(splits, name), getattr(whole, name))
    assert np.array_equal(splits.unseen.unseen, whole.unseen.unseen)
    assert not np.array_equal(splits.measured_retain, sampled(90, seed=1).measured_retain)
    assert any(
        text.startswith("90 of the 900 examples to retain are measured, a sample drawn with seed 0, of each class its")
        for text in splits.limitations
    )


def test_none_cannot_be_measured() -> None:
    with pytest.raises(DataError, match="--retain-sample needs at least 1"):
        sampled(0)


def test_intervals_of_samples_hold_the_whole_sets_accuracy() -> None:
    made = context_of(FORGET, u=("unlearned", right(retain=0.8)))
    truth = float(made.signals(made.subjects[0], "retain").logits.argmax(axis=1).__eq__(
        made.signals(made.subjects[0], "retain").labels).mean())  # fmt: skip
    held = 0
    for seed in range(100):
        made = context_of(FORGET, u=("unlearned", right(retain=0.8)))
        object.__setattr__(made, "splits", sampled(90, seed))
        found = {one.name: one for one in measure_gaps(made, GapSettings(), ANEW).measurements}["accuracy.retain"]
        assert found.n == 90
        assert found.interval is not None
        held += found.interval.low <= truth <= found.interval.high
    assert held >= 93


def test_an_adjacent_set_of_which_nothing_is_drawn_is_refused() -> None:
    splits = sampled(20)
    missed = np.setdiff1d(splits.retain, splits.measured_retain)
    for adjacent, says in (
        (missed[:2], "none are in the adjacent set"),
        (splits.measured_retain, "all are in the adj"),
    ):
        with pytest.raises(DataError, match=f"that --retain-sample draws {says}"):
            make_splits(numbered(), FORGET, retain_sample=20, adjacent=adjacent)
    both = make_splits(numbered(), FORGET, retain_sample=20, adjacent=splits.measured_retain[:5])
    assert both.adjacent is not None


def test_whether_a_retrained_model_is_sound_is_looked_at_on_the_whole_retain_set() -> None:
    broken = right(retain=1.0)
    broken[np.arange(100, 1000)[np.arange(100, 1000) % 10 == 4]] = False  # one class of the retain set
    made = context_of(FORGET, o=("original", right(retain=1.0)), r=("retrained", broken))
    whole = {note.text for note in examine_subjects(made)}
    object.__setattr__(made, "splits", sampled(20))
    assert {note.text for note in examine_subjects(made)} == whole
    assert any(text.startswith("r:") for text in whole)
