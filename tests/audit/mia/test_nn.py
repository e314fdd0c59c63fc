"""MIA-NN on made-up models: its three numbers against their definitions, what is null, and what is refused."""

import re
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from lookup_models import CLASSES, TEST, TRAIN, Lookup, numbered
from numpy.typing import NDArray

from unlearn_audit.audit import audit_candidates
from unlearn_audit.audit.context import AuditContext
from unlearn_audit.audit.mia.measure import measure_mia
from unlearn_audit.audit.mia.nn import (
    _Question,
    measure_nn,
    retained_log_probabilities,
    told_apart,
    total_variation,
    total_variation_interval,
)
from unlearn_audit.audit.section import ANEW
from unlearn_audit.catalogue import ATTACK_GROUPS
from unlearn_audit.config import AuditConfig, MiaSettings
from unlearn_audit.data import make_splits
from unlearn_audit.engine import setup_device
from unlearn_audit.errors import UsageError
from unlearn_audit.inputs import Candidate
from unlearn_audit.report import Measurement

Floats = NDArray[np.float64]
F = 3
THREE = np.array([F])


def answers(like: int, seed: int, *, sure: float = 4.0) -> Floats:
    """Logits of a model that takes class 3 for another one, knows the others, and has noise of its own."""
    rng = np.random.default_rng(seed)
    labels = np.arange(TRAIN + TEST) % CLASSES
    told = np.where(labels == F, like, labels)
    return sure * np.eye(CLASSES)[told] + rng.normal(0, 1, (TRAIN + TEST, CLASSES)) - 30 * np.eye(CLASSES)[F]


def context(forget: str = "class:3", **subjects: tuple[str, Floats]) -> AuditContext:
    dataset = numbered()
    candidates = tuple(
        Candidate(label, role, f"{label}.safetensors", f"{index:064x}", "lookup",  # type: ignore[arg-type]
                  Lookup(torch.from_numpy(logits).float()).eval(), dataset.transform)
        for index, (label, (role, logits)) in enumerate(subjects.items())
    )  # fmt: skip
    return AuditContext(AuditConfig(), {}, setup_device("cpu"), make_splits(dataset, forget), candidates)


RETRAINED = {f"r{seed}": ("retrained", answers(8, seed)) for seed in (1, 2, 3)}


def numbers(forget: str = "class:3", **subjects: tuple[str, Floats]) -> dict[tuple[str, str], Measurement]:
    return {(one.name, one.subject): one for one in measure_nn(context(forget, **subjects))}


@pytest.fixture(scope="module")
def found() -> dict[tuple[str, str], Measurement]:
    """A model that answers as retrained ones do, one that takes the class for another one, and one that is vague."""
    return numbers(
        alike=("unlearned", answers(8, 9)), other=("unlearned", answers(5, 9)),
        vague=("unlearned", answers(8, 9, sure=0.0)), **RETRAINED,
    )  # fmt: skip


def value(found: dict[tuple[str, str], Measurement], name: str, subject: str) -> float:
    number = found[name, subject].value
    assert isinstance(number, float)
    return number


# ----- the parts


def test_features_leave_the_forgotten_classes_out_before_the_softmax() -> None:
    logits = np.array([[1.0, 2.0, 3.0, 900.0], [0.0, -100.0, 0.0, -900.0]])
    features = retained_log_probabilities(logits, THREE)
    np.testing.assert_allclose(np.exp(features[0]), np.exp([1, 2, 3]) / np.exp([1, 2, 3]).sum(), rtol=1e-12)
    np.testing.assert_allclose(features[1], [-np.log(2), -50, -np.log(2)])
    changed = retained_log_probabilities(logits - 7 * np.eye(4)[[F, F]], THREE)
    assert (changed == features).all()


def test_total_variation_is_half_the_sum_of_differences_of_means() -> None:
    ours = np.array([[0.5, 0.5, 0.0], [0.7, 0.3, 0.0]])
    others = [np.array([[0.0, 0.0, 1.0]] * 2), ours[::-1]]
    assert total_variation(ours, others) == pytest.approx(0.5)  # 1 and 0
    bounds = total_variation_interval(ours, others, np.random.default_rng(0))
    assert bounds.low <= 0.5 <= bounds.high + 1e-12


def test_the_interval_holds_the_distance_of_the_population_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    p, q = rng.dirichlet([1, 1, 1], 20_000), rng.dirichlet([3, 1, 1], 20_000)
    true = total_variation(p, [q])
    inside = 0
    for _ in range(100):
        rows = rng.integers(0, 20_000, 60)
        bounds = total_variation_interval(p[rows], [q[rows]], rng)
        inside += bounds.low <= true <= bounds.high
    assert 85 <= inside <= 100


def test_the_interval_holds_its_value_where_both_laws_are_one() -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        ours, other = rng.dirichlet([1, 1, 1], 60), rng.dirichlet([1, 1, 1], 60)
        low, high = total_variation_interval(ours, [other], rng)
        assert 0 <= low <= total_variation(ours, [other]) <= high <= 1


def halves(n: int) -> list[tuple[Any, Any]]:
    order = np.random.default_rng(0).permutation(n)
    return [(order[: n // 2], order[n // 2 :])]


def test_the_same_law_is_not_told_apart_and_another_is() -> None:
    rng = np.random.default_rng(1)
    ours, others = rng.normal(size=(200, 3)), [rng.normal(size=(200, 3)) for _ in range(3)]
    area, shifted = told_apart(ours, others, halves(200)), told_apart(ours + 3, others, halves(200))
    assert area == pytest.approx(0.5, abs=0.1)
    assert shifted is not None
    assert shifted > 0.99
    assert told_apart(np.zeros((20, 2)), [np.zeros((20, 2))], halves(20)) == 0.5


# ----- the numbers


def test_a_model_that_answers_as_retrained_ones_do_is_at_their_level(found: dict[Any, Measurement]) -> None:
    for name in ("nn.tv", "nn.auc", "nn.accept"):
        reference = found[name, "alike"].reference
        assert reference is not None
        assert reference.n == 3
        levels = [value(found, name, retrained) for retrained in RETRAINED]
        assert reference.value == pytest.approx(np.mean(levels))
        spread = np.std(levels, ddof=1) * (2 if name == "nn.tv" else 1)  # pairs count twice: (R - 1) / (R - 2)
        assert reference.spread == pytest.approx(spread)
        assert value(found, name, "alike") == pytest.approx(reference.value, abs=0.1)
        assert found[name, "alike"].details["difference"] == value(found, name, "alike") - reference.value


@pytest.mark.parametrize("subject", ["other", "vague"])
def test_another_answer_on_the_forgotten_class_is_seen(found: dict[Any, Measurement], subject: str) -> None:
    assert value(found, "nn.tv", subject) > 4 * value(found, "nn.tv", "r1")
    assert value(found, "nn.auc", subject) > 0.8 > value(found, "nn.auc", "alike")
    assert value(found, "nn.accept", subject) < 0.5 < value(found, "nn.accept", "alike")


def test_total_variation_is_that_of_softmax_on_the_test_examples_of_the_class(found: dict[Any, Measurement]) -> None:
    rows = np.flatnonzero(np.arange(TRAIN, TRAIN + TEST) % CLASSES == F) + TRAIN
    means = {
        name: np.exp(logits[rows] - np.logaddexp.reduce(logits[rows], axis=1)[:, None]).mean(axis=0)
        for name, logits in {"other": answers(5, 9), **{key: each for key, (_, each) in RETRAINED.items()}}.items()
    }
    expected = np.mean([0.5 * np.abs(means["other"] - means[one]).sum() for one in RETRAINED])
    assert value(found, "nn.tv", "other") == pytest.approx(expected, rel=1e-5)
    assert found["nn.tv", "other"].n == len(rows) == 50
    interval = found["nn.tv", "other"].interval
    assert interval is not None
    assert interval.low < expected < interval.high
    floor = 0.5 * np.abs(means["r1"] - means["r2"]).sum(), 0.5 * np.abs(means["r1"] - means["r3"]).sum()
    assert value(found, "nn.tv", "r1") == pytest.approx(np.mean(floor), rel=1e-5)


def test_none_is_a_verdict_and_the_published_form_is_marked(found: dict[Any, Measurement]) -> None:
    for (name, _), one in found.items():
        assert one.comparison is None
        assert ("legacy" in one.flags) == (name == "nn.accept")
        assert one.details["taken_for"] == {"3": 8}


def test_several_classes_are_averaged() -> None:
    both = numbers("class:3,4", u=("unlearned", answers(5, 9)), **RETRAINED)
    assert both["nn.tv", "u"].n == 100
    assert both["nn.tv", "u"].interval is None
    assert set(both["nn.tv", "u"].details["taken_for"]) == {"3", "4"}


def test_two_retrained_models_have_one_pair_for_a_level_and_no_spread() -> None:
    found = numbers(u=("unlearned", answers(5, 9)), r1=RETRAINED["r1"], r2=RETRAINED["r2"])
    for name in ("nn.tv", "nn.auc", "nn.accept"):
        reference = found[name, "u"].reference
        assert reference is not None
        assert (reference.n, reference.spread, found[name, "r1"].reference) == (2, None, None)
        assert (found[name, "r1"].value, found[name, "r1"].reason) == (
            None, "it needs two other retrained models to be held against, and there is one"
        )  # fmt: skip


def test_a_retrained_model_has_no_part_in_its_own_level(found: dict[Any, Measurement]) -> None:
    """What it answers moves its value, and not what this is read against: the pair of the other two."""
    odd = numbers(r1=("retrained", answers(5, 1)), r2=RETRAINED["r2"], r3=RETRAINED["r3"])
    before, after = found["nn.tv", "r1"].reference, odd["nn.tv", "r1"].reference
    assert before is not None
    assert (before, before.n, before.spread) == (after, 2, None)
    assert value(odd, "nn.tv", "r1") > 4 * value(found, "nn.tv", "r1")
    assert odd["nn.auc", "r1"].reference is None


def test_a_model_is_told_from_as_many_models_as_each_retrained_one_is() -> None:
    """One more of the retrained models, under another role, has the AUC that it has as one of them."""
    asked = _Question(context(u=("unlearned", answers(8, 9)), **RETRAINED))
    u, r1, r2, r3 = asked.context.subjects
    rows, halves = asked.classes[0].rows, asked.classes[0].halves
    features = {one.label: asked.features(one, rows) for one in (u, r1, r2, r3)}
    pairs = [("r2", "r3"), ("r1", "r3"), ("r1", "r2")]
    each = [told_apart(features["u"], [features[one] for one in pair], halves) for pair in pairs]
    assert asked.value("auc", u) == pytest.approx(np.mean(np.array(each, dtype=float)))
    assert asked.value("auc", r1) == told_apart(features["r1"], [features["r2"], features["r3"]], halves)


def test_a_model_whose_outputs_are_not_finite_is_not_evaluated() -> None:
    broken = answers(8, 9)
    broken[-1, 0] = np.nan
    found = numbers(u=("unlearned", broken), r4=("retrained", broken), **RETRAINED)
    for subject in ("u", "r4"):
        assert found["nn.tv", subject].value is None
        assert str(found["nn.tv", subject].reason).startswith("not evaluated: ")
    assert found["nn.tv", "r1"].details["retrained_models"] == 2


# ----- what is refused


@pytest.mark.parametrize(("forget", "subjects", "says"), [
    ("range:0-9", RETRAINED, "^mia nn needs whole classes: "),
    ("class:3", {}, "needs at least two, three for the spread of their level; there are none: name each with"),
    ("class:3", {"r1": RETRAINED["r1"]}, "there is one: name each with --retrained FILE$"),
])  # fmt: skip
def test_what_cannot_be_asked_is_null_in_an_audit_and_refused_where_it_was_all_that_was_asked(
    forget: str, subjects: Any, says: str
) -> None:
    asked = context(forget, u=("unlearned", answers(8, 9)), **subjects)
    found = [one for one in measure_nn(asked) if one.subject == "u"]
    assert [(one.name, one.value) for one in found] == [("nn.tv", None), ("nn.auc", None), ("nn.accept", None)]
    assert all(re.search(says, str(one.reason)) for one in found)
    with pytest.raises(UsageError, match=says):
        list(measure_nn(replace(asked, alone=True)))


def test_an_audit_goes_on_where_it_cannot_be_asked_and_its_verb_does_not() -> None:
    asked = context(u=("unlearned", answers(8, 9)))
    config = AuditConfig(mia=MiaSettings(attacks=("loss", "nn")))
    audit = partial(audit_candidates, asked.subjects, asked.splits, config, compute=asked.compute)
    values = {one.name: one.value for one in audit().report.measurements}
    assert values["nn.tv"] is None
    assert values["mia.loss.auc"] is not None
    with pytest.raises(UsageError, match="there are none"):
        audit(only=("mia",))


def test_it_stands_beside_attacks_and_is_in_no_group() -> None:
    asked = context(u=("unlearned", answers(8, 9)), **RETRAINED)
    names = [one.name for one in measure_mia(asked, MiaSettings(attacks=("loss", "nn")), ANEW).measurements]
    assert names.index("mia.loss.auc") < names.index("nn.tv")
    assert "nn" not in {name for group in ATTACK_GROUPS.values() for name in group}
    with pytest.raises(ValueError, match="unknown attack 'nm'; did you mean 'nn'"):
        MiaSettings(attacks=("nm",))
