"""MIA-efficacy: against scikit-learn on features that are written out, its direction, and its refusals."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from made_up_evidence import Floats, logits_of, made_up
from sklearn.svm import SVC

from unlearn_audit.attacks import Evidence, Signals, svc
from unlearn_audit.errors import MeasurementError


def features(signals: Signals) -> Mapping[str, Floats]:
    """Return the five features of the published code, example by example, the modified entropy as its paper has it."""
    found: dict[str, list[list[float]]] = {name: [] for name in svc.FEATURES}
    for logits, label in zip(signals.logits.astype(np.float64), signals.labels, strict=True):
        raised = [np.exp(one - max(logits)) for one in logits]
        shares = [one / sum(raised) for one in raised]
        without = [sum(s for d, s in enumerate(shares) if d != c) for c in range(len(shares))]
        modified = -without[label] * np.log(shares[label])
        modified -= sum(s * np.log(w) for c, (s, w) in enumerate(zip(shares, without, strict=True)) if c != label)
        found["confidence"].append([shares[label]])
        found["correctness"].append([float(np.argmax(logits) == label)])
        found["entropy"].append([-sum(s * np.log(s) for s in shares)])
        found["modified entropy"].append([modified])
        found["probabilities"].append(shares)
    return {name: np.array(rows) for name, rows in found.items()}


def signals(seed: int, size: int, shift: float = 0.0) -> Signals:
    """Return the outputs of a model that is right by `shift` nats more than chance would have it."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, size)
    logits = rng.normal(0, 2, (size, 4)) + shift * np.eye(4)[labels]
    return Signals(logits.astype(np.float32), labels)


@pytest.mark.parametrize("feature", list(svc.FEATURES))
def test_a_feature_is_what_its_definition_gives(feature: str) -> None:
    asked = signals(0, 30, 1.0)
    found = svc.FEATURES[feature](asked)
    np.testing.assert_allclose(found.reshape(30, -1), features(asked)[feature], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("feature", list(svc.FEATURES))
@pytest.mark.parametrize(("retained", "tested"), [(70, 50), (40, 60)])
def test_efficacy_is_the_share_that_scikit_learn_calls_non_members(feature: str, retained: int, tested: int) -> None:
    retain, test, forget = signals(1, retained, 2.0), signals(2, tested), signals(3, 45, 1.0)
    size = min(retained, tested)
    rows = np.concatenate([features(retain)[feature][:size], features(test)[feature][:size]])
    model = SVC(C=3, gamma="auto", kernel="rbf").fit(rows, [1] * size + [0] * size)
    expected = 1 - model.predict(features(forget)[feature]).mean()
    assert svc.efficacy(retain, test, forget, feature) == pytest.approx(expected, abs=1e-6)
    assert 0 < expected < 1 or feature == "correctness"


def test_scores_are_scikit_learns_decisions_on_confidences() -> None:
    evidence = made_up(1)
    assert evidence.retain is not None
    assert evidence.test is not None
    size = len(evidence.test.labels)
    sides = [features(side)["confidence"][:size] for side in (evidence.retain, evidence.test)]
    model = SVC(C=3, gamma="auto", kernel="rbf").fit(np.concatenate(sides), [1] * size + [0] * size)
    expected = model.decision_function(features(evidence.plain)["confidence"])
    np.testing.assert_allclose(svc.svc.score(evidence), expected, atol=1e-6)


def test_what_scores_below_its_own_threshold_is_what_efficacy_counts() -> None:
    evidence = replace(made_up(2, count=60), retain=signals(4, 80, 2.0), test=signals(5, 80))
    assert evidence.retain is not None
    assert evidence.test is not None
    below = (svc.svc.score(evidence) < (svc.svc.threshold or 0.0)).mean()
    assert svc.efficacy(evidence.retain, evidence.test, evidence.plain) == pytest.approx(below)
    assert (svc.svc.threshold, svc.svc.legacy) == (0.0, svc.LEGACY)


def test_a_forget_set_like_the_retain_set_has_an_efficacy_near_nought_and_one_like_the_test_set_near_one() -> None:
    labels = np.arange(60) % 4
    sure, unsure = (Signals(logits_of(np.linspace(low, low + 2, 60), labels), labels) for low in (5.0, -4.0))
    for feature in ("confidence", "correctness", "modified entropy"):
        assert svc.efficacy(sure, unsure, sure, feature) == 0
        assert svc.efficacy(sure, unsure, unsure, feature) == 1


def test_only_the_first_examples_of_large_sets_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert svc.MOST == 10_000
    monkeypatch.setattr(svc, "MOST", 20)
    retain, test, forget = signals(6, 90, 2.0), signals(7, 80), signals(8, 40, 1.0)
    kept, asked = (Signals(side.logits[:20], side.labels[:20]) for side in (retain, test))
    for feature in svc.FEATURES:
        assert svc.efficacy(retain, test, forget, feature) == svc.efficacy(kept, asked, forget, feature)


@pytest.mark.parametrize("empty", [0, 1, 2])
def test_efficacy_of_an_empty_set_is_nothing(empty: int) -> None:
    retain, test, forget = (signals(9, 0 if number == empty else 20, 1.0) for number in range(3))
    assert svc.efficacy(retain, test, forget) is None


@pytest.mark.parametrize("name", ["retain", "test"])
def test_without_a_retain_or_a_test_set_there_is_no_score(name: str) -> None:
    def with_set(found: Signals | None) -> Evidence:
        return replace(made_up(), retain=found) if name == "retain" else replace(made_up(), test=found)

    with pytest.raises(MeasurementError, match="needs a retain and a test set"):
        svc.svc.score(with_set(None))
    with pytest.raises(MeasurementError, match="one of the two sets is empty"):
        svc.svc.score(with_set(signals(0, 0)))
