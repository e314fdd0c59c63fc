"""Limits on the change since the last release: its interval, and no comparison of what is not comparable."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unlearn_audit.errors import ConfigError
from unlearn_audit.gate import Decision, Policy, Verdict, apply_policy, read_policy
from unlearn_audit.report import AuditReport, Data, SetSummary

Make = Callable[..., Any]
PASSED, FAILED, INCONCLUSIVE, ERROR = Verdict.PASSED, Verdict.FAILED, Verdict.INCONCLUSIVE, Verdict.ERROR
METRIC = "accuracy.test"


def policy(**rule: Any) -> Policy:
    return Policy.model_validate({"schema_version": 1, "rule": [{"id": "r", "metric": METRIC} | rule]})


def data(**digests: str) -> Data:
    """The data of made-up reports, with other digests for some sets."""
    sets = {
        name: SetSummary(spec=name, sha256=digests.get(name, "a" * 64), n=10)
        for name in ("forget", "retain", "test", "unseen")
    }
    return Data(source="digits", sha256=digests.get("source", "c" * 64), **sets)


@pytest.fixture
def change(make_report: Make, make_measurement: Make) -> Callable[..., Decision]:
    """Judge one measurement against an earlier one: change({"max_decrease": 0.1}, {"value": 0.8}, {"value": 0.9})."""

    def decide(rule: dict[str, Any], now: dict[str, Any], then: dict[str, Any]) -> Decision:
        name = rule.get("metric", METRIC)
        reports = [make_report(make_measurement(name, **values)) for values in (now, then)]
        (decision,) = apply_policy(policy(**rule), reports[0], baseline=reports[1])
        return decision

    return decide


@pytest.mark.parametrize(
    ("rule", "now", "then", "verdict"),
    [
        ({"max_decrease": 0.02}, 0.90, 0.90, PASSED),
        ({"max_decrease": 0.02}, 0.89, 0.90, PASSED),
        ({"max_decrease": 0.02}, 0.87, 0.90, FAILED),
        ({"max_decrease": 0.02}, 0.99, 0.50, PASSED),
        ({"max_increase": 0.02}, 0.99, 0.50, FAILED),
        ({"max_increase": 0.02}, 0.10, 0.50, PASSED),
        ({"max_increase": 0.0}, 0.50, 0.50, PASSED),
        ({"max_increase": 0.02, "max_decrease": 0.02}, 0.51, 0.50, PASSED),
        ({"max_increase": 0.02, "max_decrease": 0.02}, 0.40, 0.50, FAILED),
    ],
)
def test_the_change_is_held_against_its_limit(
    change: Callable[..., Decision], rule: dict[str, Any], now: float, then: float, verdict: Verdict
) -> None:
    assert change(rule, {"value": now}, {"value": then}).verdict == verdict


def test_the_unfavourable_end_of_the_change_must_hold(change: Callable[..., Decision]) -> None:
    now, then = {"value": 0.90, "interval": (0.87, 0.93)}, {"value": 0.90, "interval": (0.86, 0.94)}
    assert change({"max_decrease": 0.051}, now, then).verdict == PASSED  # .03 and .04 make .05
    assert change({"max_decrease": 0.049}, now, then).verdict == INCONCLUSIVE
    assert change({"max_decrease": 0.049, "bound": "value"}, now, then).verdict == PASSED
    assert change({"max_decrease": 0.0, "bound": "upper"}, now, then).verdict == PASSED
    assert change({"max_increase": 0.049}, now, then).verdict == INCONCLUSIVE


def test_each_end_of_a_change_has_the_distances_that_push_it_out(change: Callable[..., Decision]) -> None:
    """Down: .03 below the new value and .04 above the old one; up: .05 above the new one and .12 below the old one."""
    now, then = {"value": 0.50, "interval": (0.47, 0.55)}, {"value": 0.50, "interval": (0.38, 0.54)}
    for limit, end in (("max_decrease", 0.05), ("max_increase", 0.13)):
        assert change({limit: end * 1.001}, now, then).verdict == PASSED
        assert change({limit: end * 0.999}, now, then).verdict == INCONCLUSIVE


def test_the_interval_of_a_change_covers_it(change: Callable[..., Decision]) -> None:
    """A release no worse than the last is let through with a margin of 0 in at most 2.5 % of draws, about."""
    generator, passes, draws = np.random.default_rng(0), 0, 1500
    for _ in range(draws):
        new, old = generator.normal(0.0, 0.01), generator.normal(0.0, 0.02)
        now = {"value": new, "interval": (new - 0.0196, new + 0.0196)}
        then = {"value": old, "interval": (old - 0.0392, old + 0.0392)}
        passes += change({"max_decrease": 0.0}, now, then).verdict == PASSED
    assert 0.012 < passes / draws < 0.04


def test_one_interval_is_better_than_none(change: Callable[..., Decision]) -> None:
    now, then = {"value": 0.90, "interval": (0.87, 0.93)}, {"value": 0.90}
    assert change({"max_decrease": 0.02}, now, then).verdict == INCONCLUSIVE
    assert change({"max_decrease": 0.02}, then, now).verdict == INCONCLUSIVE
    assert change({"max_decrease": 0.5, "require_interval": True}, now, then).verdict == INCONCLUSIVE
    assert change({"max_decrease": 0.5, "require_interval": True}, then, now).verdict == INCONCLUSIVE


@pytest.mark.parametrize(
    ("then", "verdict", "says"),
    [
        ({"value": None, "reason": "diverged"}, INCONCLUSIVE, "in the baseline: no value: diverged"),
        ({"value": "0.9"}, ERROR, "in the baseline: the rule needs a number"),
        ({"value": 0.9, "n": 9}, INCONCLUSIVE, "in the baseline: n = 9 is below"),
        ({"value": 0.9, "subject": "older"}, PASSED, "0.9 in the baseline, 0.9 now"),
        ({"value": 0.9, "role": "original"}, INCONCLUSIVE, "0 subjects of role unlearned"),
        ({"value": -1.7e308}, PASSED, ""),
    ],
)
def test_an_earlier_value_that_is_none(
    change: Callable[..., Decision], then: dict[str, Any], verdict: Verdict, says: str
) -> None:
    role = {"role": "unlearned"} | then
    decision = change({"max_decrease": 0.02, "min_n": 10}, {"value": 0.9}, role)
    assert decision.verdict == verdict
    assert says in decision.why


def test_a_change_beyond_all_numbers_is_no_pass(change: Callable[..., Decision]) -> None:
    for rule in ({"max_increase": 1e308}, {"max_decrease": 1e308}):
        assert change(rule, {"value": 1.7e308}, {"value": -1.7e308}).verdict == INCONCLUSIVE


def test_without_a_baseline_it_is_inconclusive(make_report: Make, make_measurement: Make) -> None:
    (decision,) = apply_policy(policy(max_decrease=0.5), make_report(make_measurement()))
    assert decision.verdict == INCONCLUSIVE
    assert "--baseline" in decision.why


def test_what_the_baseline_did_not_measure_is_inconclusive(make_report: Make, make_measurement: Make) -> None:
    earlier = make_report(make_measurement("accuracy.retain"))
    (decision,) = apply_policy(policy(max_decrease=0.5), make_report(make_measurement()), baseline=earlier)
    assert (decision.verdict, decision.why) == (INCONCLUSIVE, "the baseline did not measure it")


def test_a_control_of_the_baseline_is_no_subject(make_report: Make, make_measurement: Make) -> None:
    odd = make_report(make_measurement("accuracy.retain"), make_measurement(METRIC, role="control"))
    (decision,) = apply_policy(policy(max_decrease=0.5), make_report(make_measurement()), baseline=odd)
    assert decision.verdict == INCONCLUSIVE


# ----- whose value


def two(make_report: Make, make_measurement: Make, **values: float) -> AuditReport:
    report: AuditReport = make_report(
        *(make_measurement(METRIC, label, role="unlearned", value=value) for label, value in values.items())
    )
    return report


def test_the_same_label_is_compared(make_report: Make, make_measurement: Make) -> None:
    now = two(make_report, make_measurement, ieu=0.9, ft=0.5)
    then = two(make_report, make_measurement, ft=0.5, ieu=0.9)
    assert [d.verdict for d in apply_policy(policy(max_decrease=0.1), now, baseline=then)] == [PASSED, PASSED]


def test_among_several_of_a_role_nobody_is_guessed(make_report: Make, make_measurement: Make) -> None:
    now = two(make_report, make_measurement, new=0.9)
    then = two(make_report, make_measurement, ft=0.5, ieu=0.9)
    (decision,) = apply_policy(policy(max_decrease=1.0), now, baseline=then)
    assert decision.verdict == INCONCLUSIVE
    assert "2 subjects of role unlearned, and none of them is labelled new" in decision.why


# ----- only what was measured on the same examples


@pytest.mark.parametrize(
    ("metric", "sets"),
    [
        ("accuracy.test", {"test"}),
        ("accuracy.retain", {"retain"}),
        ("gap.forget", {"forget"}),
        ("loss.unseen", {"unseen"}),
        ("gap.average", {"retain", "forget", "test"}),
        ("rcd.ratio_to_unseen", {"forget", "unseen"}),
        ("mia.loss.auc", {"forget", "unseen"}),
        ("spectrum.lambda_max", {"forget", "unseen"}),
    ],
)
def test_other_examples_are_not_compared(
    make_report: Make, make_measurement: Make, metric: str, sets: set[str]
) -> None:
    now = make_report(make_measurement(metric), data=data())
    for name in ("forget", "retain", "test", "unseen", "source"):
        then = make_report(make_measurement(metric), data=data(**{name: "d" * 64}))
        (decision,) = apply_policy(policy(metric=metric, max_increase=1.0, require_interval=False), now, baseline=then)
        matters = name in sets or name in ("source", "forget")
        assert decision.verdict == (INCONCLUSIVE if matters else PASSED), name
        assert ("a change would say nothing" in decision.why) == matters


@pytest.mark.parametrize("name", ["forget", "retain"])
def test_another_sample_of_the_same_set_is_not_compared(make_report: Make, make_measurement: Make, name: str) -> None:
    def report(digest: str) -> AuditReport:
        sampled = getattr(data(), name).model_copy(update={"measured": 5, "measured_sha256": digest})
        found: AuditReport = make_report(make_measurement(metric), data=data().model_copy(update={name: sampled}))
        return found

    metric = f"accuracy.{name}"
    now, rule = report("d" * 64), policy(metric=metric, max_increase=1.0, require_interval=False)
    for then, verdict in ((report("d" * 64), PASSED), (report("e" * 64), INCONCLUSIVE)):
        assert apply_policy(rule, now, baseline=then)[0].verdict == verdict


# ----- the policy

BASE = 'schema_version = 1\n[[rule]]\nid = "a"\n'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('metric = "accuracy.test"\nmax_decrease = -0.1', "max_decrease: must be at least 0"),
        ('metric = "accuracy.test"\nmax_increase = inf', "must be a finite number"),
        ('metric = "accuracy.test"\nmax_increase = 0.1\nmin = 0.5', "exactly one of"),
        ('metric = "rcd.raw"\nmax_decrease = 1', "compares only within one run"),
        ('metric = "rcd.steps_to_relearn"\nmax_decrease = 1', "compares only within one run"),
        ('metric = "truncation.verdict"\nmax_decrease = 1', "is a text; use equals"),
        ('metric = "truncation.verdict"\nmin = 1', "is a text; use equals"),
        ('metric = "accuracy.test"\nequals = "good"', "equals is for texts"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "p.toml").write_text(BASE + text)
    with pytest.raises(ConfigError, match=says):
        read_policy(tmp_path / "p.toml")


@pytest.mark.parametrize(
    ("metric", "section", "now", "verdict"),
    [
        ("rcd.ratio_to_unseen", "rcd", {"steps": 100, "worst": 1}, PASSED),
        ("rcd.ratio_to_unseen", "rcd", {"steps": 0}, INCONCLUSIVE),
        ("rcd.ratio_to_unseen", "rcd", None, INCONCLUSIVE),
        ("rcd.ratio_to_unseen", "mia", {"variance": "pooled"}, PASSED),
        ("mia.loss.auc", "mia", {"variance": "pooled"}, INCONCLUSIVE),
    ],
)
def test_what_was_measured_with_other_settings_is_not_compared(
    make_report: Make, make_measurement: Make, metric: str, section: str, now: object, verdict: Verdict
) -> None:
    before = {"rcd": {"steps": 100, "resamples": 5}, "mia": {"variance": "auto", "attacks": ["loss"]}}
    settings = [{"config": before | {section: now}}, {"config": before}]
    reports = [make_report(make_measurement(metric), settings=each) for each in settings]
    rules = policy(metric=metric, max_decrease=0.5, require_interval=False)
    (decision,) = apply_policy(rules, reports[0], baseline=reports[1])
    assert decision.verdict == verdict, decision.why
    assert (verdict == PASSED) or f"another {section}." in decision.why


@pytest.mark.parametrize("metric", ["accuracy.test", "gap.retain", "mia.loss.auc", "rcd.scaled", "spectrum.trace"])
@pytest.mark.parametrize(
    ("then", "verdict"),
    [
        ({"sample": None, "seed": 1}, PASSED),
        ({"sample": 100, "seed": 0}, INCONCLUSIVE),
        ({"sample": None}, PASSED),
    ],
)
def test_another_sample_is_not_compared(
    make_report: Make, make_measurement: Make, metric: str, then: dict[str, Any], verdict: Verdict
) -> None:
    now = make_report(make_measurement(metric), settings={"config": {"sample": None, "seed": 0}})
    before = make_report(make_measurement(metric), settings={"config": then})
    rules = policy(metric=metric, max_decrease=0.5, require_interval=False)
    for reports in ((now, before), (before, now)):
        (decision,) = apply_policy(rules, reports[0], baseline=reports[1])
        assert decision.verdict == verdict, decision.why


@pytest.mark.parametrize("metric", ["accuracy.test", "gap.retain", "mia.loss.auc"])
@pytest.mark.parametrize("label", ["unlearned", "retrained"])
def test_a_baseline_in_doubt_is_not_compared_with(
    make_report: Make, make_measurement: Make, metric: str, label: str
) -> None:
    now = make_report(*(make_measurement(metric, name) for name in ("unlearned", "retrained")))
    doubtful = tuple(
        one.model_copy(update={"doubts": ("made of other data",) if one.label == label else ()}) for one in now.subjects
    )
    rules = policy(metric=metric, max_decrease=0.5, require_interval=False)
    assert apply_policy(rules, now, baseline=now)[0].verdict == PASSED
    (decision,) = apply_policy(rules, now, baseline=now.model_copy(update={"subjects": doubtful}))
    assert decision.verdict == INCONCLUSIVE
    assert "the baseline is in doubt: made of other data" in decision.why


def test_a_change_of_a_leak_wants_an_interval(make_report: Make, make_measurement: Make) -> None:
    with_interval, without = (
        make_report(make_measurement("mia.loss.auc", interval=interval)) for interval in ((0.85, 0.95), None)
    )
    for now, then in ((with_interval, without), (without, with_interval)):
        (decision,) = apply_policy(policy(metric="mia.loss.auc", max_increase=0.5), now, baseline=then)
        assert decision.verdict == INCONCLUSIVE
        assert "no interval" in decision.why
