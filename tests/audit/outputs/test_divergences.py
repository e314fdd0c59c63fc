"""Answers beside retrained models': value, floor and difference, who is compared with whom, and what has no value."""

import numpy as np
import pytest
import torch
from lookup_models import CLASSES, TEST, TRAIN, context_of, right
from numpy.typing import NDArray

from unlearn_audit import metrics
from unlearn_audit.audit.context import AuditContext
from unlearn_audit.audit.outputs.divergences import NOT_WHOLE_CLASSES, Levels, _interval, _one, measure_divergences
from unlearn_audit.conclusion import conclude
from unlearn_audit.report import Measurement

Floats = NDArray[np.float64]
ROLES = {"original": "original", "unlearned": "unlearned", "r1": "retrained", "r2": "retrained", "r3": "retrained"}
N = 120


def audited(forget: str = "range:0-119", *, labels: tuple[str, ...] = tuple(ROLES)) -> AuditContext:
    """Return models with common logits and a little of their own; the original has its own on the forget set."""
    context = context_of(forget, **{label: (ROLES[label], right(seed=k)) for k, label in enumerate(labels)})
    rng = np.random.default_rng(4)
    common = rng.normal(0, 2, (TRAIN + TEST, CLASSES))
    for candidate in context.subjects:
        logits = common + rng.normal(0, 0.3, (TRAIN + TEST, CLASSES))
        if candidate.label == "original":
            rows = context.splits.forget.indices
            logits[rows] += 5 * np.eye(CLASSES)[(rows + 3) % CLASSES]
        candidate.model.load_state_dict({"table": torch.from_numpy(logits).float()})
    return context


def measured(context: AuditContext, class_test: bool | None = None) -> dict[tuple[str, str], Measurement]:
    found = measure_divergences(context, class_test=class_test)
    return {(one.name.removeprefix("outputs."), one.subject): one for one in found}


def table(context: AuditContext, label: str, rows: NDArray[np.int64]) -> Floats:
    (model,) = (one.model for one in context.subjects if one.label == label)
    return model.state_dict()["table"][torch.from_numpy(rows)].numpy()


def test_value_floor_and_difference_are_means_over_examples_and_models() -> None:
    context = audited()
    found = measured(context)
    assert len(found) == 5 * 5
    rows = np.arange(N)
    answers = {label: table(context, label, rows) for label in ROLES}
    for kind in metrics.Divergences._fields:
        one = found[kind, "unlearned"]

        def apart(first: str, second: str, kind: str = kind) -> float:
            return float(getattr(metrics.divergences(answers[first], answers[second]), kind).mean())

        retrained = ("r1", "r2", "r3")
        assert one.value == pytest.approx(np.mean([apart("unlearned", other) for other in retrained]))
        pairs = [apart(a, b) for a in retrained for b in retrained if a != b]
        assert one.reference is not None
        assert (one.reference.value, one.reference.n) == (pytest.approx(np.mean(pairs)), 3)
        assert one.reference.spread is not None
        assert one.details["floor"] == pytest.approx(np.mean(pairs))
        assert one.details["difference"] == pytest.approx(float(one.value or 0) - np.mean(pairs))
        assert one.details["difference_low"] < one.details["difference"] < one.details["difference_high"]
        assert one.interval is not None
        assert one.interval.low <= float(one.value or 0) <= one.interval.high
        assert one.interval.high <= {"js": np.log(2), "kl": np.inf, "l2": 2**0.5}.get(kind, 1.0)
        assert one.n == N


def test_what_answers_otherwise_is_seen_and_one_more_retrained_model_is_not() -> None:
    found = measured(audited())
    for kind in metrics.Divergences._fields:
        for label in ("original", "unlearned"):
            comparison = found[kind, label].comparison
            assert comparison is not None
            assert comparison.seen == (label == "original")
    told = conclude(tuple(found.values()))
    assert "; and 3 more forms)" in told[0]
    assert "outputs.tv" not in told[0]
    assert told[0].startswith(
        "original: differs from the retrained models on its answers on the forget set (outputs.js"
    )


def test_a_retrained_model_is_compared_with_the_others_and_has_no_part_in_its_floor() -> None:
    context = audited()
    found = measured(context)["tv", "r1"]
    answers = {label: table(context, label, np.arange(N)) for label in ("r1", "r2", "r3")}
    assert found.details["floor"] == pytest.approx(metrics.divergences(answers["r2"], answers["r3"]).tv.mean())
    assert set(found.details["by_reference"]) == {"r2", "r3"}
    assert found.reference is not None
    assert (found.reference.spread, found.reference.n, found.comparison) == (None, 2, None)  # one pair has no spread


def test_with_fewer_models_there_is_less_to_say() -> None:
    two = measured(audited(labels=("unlearned", "r1", "r2")))["js", "unlearned"]
    assert two.reference is not None
    assert (two.reference.n, two.reference.spread, two.comparison) == (2, None, None)
    one = measured(audited(labels=("unlearned", "r1")))
    assert isinstance(one["js", "unlearned"].value, float)
    assert (one["js", "unlearned"].reference, "floor" in one["js", "unlearned"].details) == (None, False)
    assert one["js", "r1"].reason == "no other retrained model to compare with was given"
    none = measured(audited(labels=("original", "unlearned")))
    assert none["agreement", "unlearned"].reason == "no retrained model to compare with was given"


def test_test_examples_of_forgotten_classes_count_where_whole_classes_are_forgotten() -> None:
    context = audited("class:3,5")
    found = measured(context)
    one = found["js.class_test", "unlearned"]
    rows = TRAIN + np.flatnonzero(np.isin(np.arange(TEST) % CLASSES, (3, 5)))
    answers = {label: table(context, label, rows) for label in ROLES}
    expected = [metrics.divergences(answers["unlearned"], answers[other]).js.mean() for other in ("r1", "r2", "r3")]
    assert (one.value, one.n) == (pytest.approx(np.mean(expected)), 100)
    assert ("js.class_test", "unlearned") not in measured(context, class_test=False)
    assert ("js.class_test", "unlearned") not in measured(audited())
    assert measured(audited(), class_test=True)["kl.class_test", "unlearned"].reason == NOT_WHOLE_CLASSES


def test_no_interval_goes_beyond_what_a_mean_can_be() -> None:
    ours = np.array([1.0] * 34 + [0.98, 0.68])
    free, found = metrics.mean_interval(ours, seed=0), _interval(ours, "tv", 0)
    assert free is not None
    assert found is not None
    assert free.high > 1
    assert (found.low, found.high) == (free.low, 1.0)


def test_models_that_answer_alike_have_zero_and_no_interval_of_zero_width() -> None:
    context = audited(labels=("unlearned", "r1", "r2", "r3"))
    for candidate in context.subjects:
        candidate.model.load_state_dict({"table": torch.ones(TRAIN + TEST, CLASSES)})
    found = measured(context)
    assert found["js", "unlearned"].value == 0.0
    assert found["js", "unlearned"].interval is None
    agreement = found["agreement", "unlearned"]
    assert agreement.value == 1.0
    assert agreement.interval is not None
    assert agreement.interval.low < 1
    comparison = found["tv", "unlearned"].comparison
    assert comparison is not None
    assert not comparison.seen
    assert comparison.blind_below > 0


def test_the_chance_of_seeds_never_narrows_that_of_examples() -> None:
    rng = np.random.default_rng(2)
    candidate, found = audited().subjects[1], 0
    for _ in range(20):
        ours = rng.lognormal(-3, 2.5, 200)  # heavy tails, whose variance does not stand out of its own error
        floor = 0.1 + rng.normal(0, 0.01, (3, 200)) ** 2
        one = _one("outputs.kl", candidate, "kl", levels=Levels(ours[None].repeat(3, 0), floor), others="abc", seed=0)
        assert one.comparison is not None
        error = float((ours - floor.mean(axis=0)).std(ddof=1)) / 200**0.5
        half = (one.comparison.interval.high - one.comparison.interval.low) / 2
        assert half >= 1.9599 * error
        found += half < 1.99 * error
    assert found  # there the limit is what holds
