"""The gate passes measured, finite numbers whose required end holds, and nothing else."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import comparison
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from unlearn_audit import metrics
from unlearn_audit.catalogue import METRICS
from unlearn_audit.errors import ConfigError, UsageError
from unlearn_audit.files import sha256_of_bytes
from unlearn_audit.gate import Decision, Policy, Rule, Verdict, apply_policy, exit_code, gate_files, read_policy
from unlearn_audit.gate import judge as judge_one
from unlearn_audit.report import (
    Comparison,
    Interval,
    Measurement,
    Reference,
    canonical_digest,
    dump_report,
    write_report,
)

Make = Callable[..., Any]
PASSED, FAILED, INCONCLUSIVE, ERROR = Verdict.PASSED, Verdict.FAILED, Verdict.INCONCLUSIVE, Verdict.ERROR
METRIC = "accuracy.test"


def policy(*rules: dict[str, Any]) -> Policy:
    return Policy.model_validate({
        "schema_version": 1,
        "rule": [{"id": f"r{i}", "metric": METRIC} | rule for i, rule in enumerate(rules)],
    })


@pytest.fixture
def judge(make_report: Make, make_measurement: Make) -> Callable[..., Verdict]:
    """Judge one measurement by one rule: judge({"min": 0.8}, value=0.9, interval=(0.7, 1.0))."""

    def decide(rule: dict[str, Any], **values: Any) -> Verdict:
        name = rule.get("metric", METRIC)
        (decision,) = apply_policy(policy(rule), make_report(make_measurement(name, **values)))
        assert decision.why
        return decision.verdict

    return decide


# ----- limits that retrained models themselves do not keep


@pytest.mark.parametrize(
    ("reference", "verdict"),
    [
        (Reference(role="retrained", value=1.0, n=2), FAILED),
        (Reference(role="retrained", value=0.8, n=1), FAILED),
        (Reference(role="retrained", value=0.79, n=3), INCONCLUSIVE),
        (Reference(role="original", value=1.0, n=1), INCONCLUSIVE),
        (None, INCONCLUSIVE),
    ],
)
def test_a_limit_that_must_hold_for_retrained_models_is_void_where_it_does_not(
    judge: Callable[..., Verdict], reference: Reference | None, verdict: Verdict
) -> None:
    rule = {"min": 0.8, "holds_for": "retrained"}
    assert judge(rule, value=0.3, interval=(0.2, 0.4), reference=reference) == verdict
    passing = PASSED if verdict == FAILED else INCONCLUSIVE
    assert judge(rule, value=0.9, interval=(0.85, 0.95), reference=reference) == passing
    assert judge({"min": 0.8}, value=0.3, interval=(0.2, 0.4), reference=reference) == FAILED


# ----- a rule on the audit, and not on the model


@pytest.mark.parametrize(
    ("rule", "values", "verdict"),
    [
        ({"max": 0.1}, {"value": 0.04}, PASSED),
        ({"max": 0.1}, {"value": 0.88}, INCONCLUSIVE),
        ({"max": 0.1}, {"value": None, "reason": "not even the original"}, INCONCLUSIVE),
        ({"max": 0.1}, {"value": 0.88, "interval": (0.8, 0.9)}, INCONCLUSIVE),
        ({"max": 0.1}, {"value": "text"}, ERROR),
        ({"equals": "exponential", "metric": "truncation.verdict"}, {"value": "slower"}, INCONCLUSIVE),
        (
            {"equivalent_to": "retrained", "margin": 0.01},
            {
                "value": 0.9,
                "comparison": comparison(0.4, 0.3, 0.5, scale="fraction"),
                "reference": Reference(role="retrained", value=0.5, n=3),
            },
            INCONCLUSIVE,
        ),
    ],
)
def test_a_rule_may_leave_open_what_would_have_failed(
    make_measurement: Make, rule: dict[str, Any], values: dict[str, Any], verdict: Verdict
) -> None:
    plain = Rule.model_validate({"id": "r", "metric": METRIC} | rule)
    found = make_measurement(plain.metric, **values)
    left_open = judge_one(plain.model_copy(update={"otherwise": "inconclusive"}), found)
    assert left_open.verdict == verdict
    not_met = "not met, which limits the audit and says nothing against the model" in left_open.why
    assert judge_one(plain, found).verdict == (FAILED if not_met else verdict)


def test_a_report_that_misses_such_a_rule_exits_4(make_report: Make, make_measurement: Make) -> None:
    able = {"id": "able", "min": 0.5}  # without a rule by which a model can fail a policy is refused
    limit = {"id": "could-have-seen", "metric": "loss.test", "max": 0.1, "otherwise": "inconclusive"}
    report = make_report(make_measurement(METRIC, value=0.9), make_measurement("loss.test", value=0.88))
    assert exit_code(apply_policy(policy(able, limit), report)) == 4
    assert exit_code(apply_policy(policy(able, limit | {"otherwise": None}), report)) == 1
    assert exit_code(apply_policy(policy(able | {"min": 0.95}, limit), report)) == 1  # a leak comes first


# ----- min and max


@pytest.mark.parametrize(
    ("rule", "value", "interval", "verdict"),
    [
        ({"min": 0.8}, 0.9, None, PASSED),
        ({"min": 0.8}, 0.8, None, PASSED),
        ({"min": 0.8}, 0.7, None, FAILED),
        ({"max": 0.8}, 0.7, None, PASSED),
        ({"max": 0.8}, 0.9, None, FAILED),
        # the unfavourable end is tested by default
        ({"min": 0.8}, 0.9, (0.85, 0.95), PASSED),
        ({"min": 0.8}, 0.9, (0.75, 0.95), INCONCLUSIVE),
        ({"min": 0.8}, 0.7, (0.65, 0.95), INCONCLUSIVE),
        ({"min": 0.8}, 0.7, (0.65, 0.75), FAILED),
        ({"max": 0.8}, 0.7, (0.6, 0.75), PASSED),
        ({"max": 0.8}, 0.7, (0.6, 0.85), INCONCLUSIVE),
        ({"max": 0.8}, 0.9, (0.6, 0.95), INCONCLUSIVE),
        ({"max": 0.8}, 0.9, (0.85, 0.95), FAILED),
        # another end when it is asked for
        ({"min": 0.8, "bound": "value"}, 0.9, (0.75, 0.95), PASSED),
        ({"min": 0.8, "bound": "upper"}, 0.7, (0.65, 0.95), PASSED),
        ({"min": 0.8, "bound": "upper"}, 0.7, (0.65, 0.75), FAILED),
        ({"max": 0.8, "bound": "lower"}, 0.9, (0.75, 0.95), PASSED),
        ({"max": 0.8, "bound": "upper"}, 0.7, (0.6, 0.85), INCONCLUSIVE),
        ({"min": 0.8, "bound": "lower"}, 0.9, None, PASSED),
        # both sides at once: the worse of them
        ({"min": 0.4, "max": 0.6}, 0.5, (0.45, 0.55), PASSED),
        ({"min": 0.4, "max": 0.6}, 0.5, (0.35, 0.55), INCONCLUSIVE),
        ({"min": 0.4, "max": 0.6}, 0.7, (0.3, 0.8), INCONCLUSIVE),
        ({"min": 0.4, "max": 0.6}, 0.7, (0.65, 0.8), FAILED),
        ({"min": 0.5, "max": 0.5}, 0.5, None, PASSED),
        # a value outside of its own interval does not slip through
        ({"min": 0.8}, 0.5, (0.85, 0.95), FAILED),
        ({"max": 0.8}, 0.9, (0.6, 0.75), FAILED),
        # an interval may be required
        ({"min": 0.8, "require_interval": True}, 0.9, None, INCONCLUSIVE),
        ({"min": 0.8, "require_interval": True}, 0.9, (0.85, 0.95), PASSED),
    ],
)
def test_limits(
    judge: Callable[..., Verdict],
    rule: dict[str, Any],
    value: float,
    interval: tuple[float, float] | None,
    verdict: Verdict,
) -> None:
    assert judge(rule, value=value, interval=interval) == verdict


def test_too_few_examples_never_pass_and_never_fail(judge: Callable[..., Verdict]) -> None:
    assert judge({"min": 0.8, "min_n": 100}, value=0.9, n=99) == INCONCLUSIVE
    assert judge({"min": 0.8, "min_n": 100}, value=0.1, n=99) == INCONCLUSIVE
    assert judge({"min": 0.8, "min_n": 100}, value=0.9, n=100) == PASSED
    assert judge({"min": 0.8}, value=0.9, n=0) == INCONCLUSIVE


def test_null_is_inconclusive_and_its_reason_is_told(make_report: Make, make_measurement: Make) -> None:
    report = make_report(make_measurement(value=None, reason="diverged at step 37"))
    (decision,) = apply_policy(policy({"max": 1e9}), report)
    assert decision.verdict == INCONCLUSIVE
    assert "diverged at step 37" in decision.why


def test_what_was_not_measured_is_inconclusive(make_report: Make, make_measurement: Make) -> None:
    report = make_report(make_measurement("accuracy.retain"))
    (decision,) = apply_policy(policy({"min": 0.0}), report)
    assert decision[1:4] == ("unlearned", INCONCLUSIVE, "not measured")


# ----- texts


def test_a_text_must_be_equal(judge: Callable[..., Verdict]) -> None:
    rule = {"metric": "truncation.verdict", "equals": "exponential"}
    assert judge(rule, value="exponential") == PASSED
    assert judge(rule, value="exponential ") == FAILED
    assert judge(rule, value="power law") == FAILED


def test_a_number_is_no_text_and_a_text_no_number(judge: Callable[..., Verdict]) -> None:
    assert judge({"metric": "truncation.verdict", "equals": "1.0"}, value=1.0) == ERROR
    assert judge({"min": 0.0}, value="1.0") == ERROR
    assert judge({"max": 0.0}, value="Infinity", n=0) == ERROR
    assert judge({"equivalent_to": "retrained", "margin": 1e9}, value="0") == ERROR
    assert judge({"max_increase": 1e9}, value="0") == ERROR


# ----- equivalence with retrained models


def compared(levels: list[float], value: float, variance: float, scale: str = "fraction") -> dict[str, Any]:
    """The reference and the difference as an audit writes them."""
    mean, spread = metrics.mean_and_spread(levels)
    values: dict[str, Any] = {
        "value": value,
        "reference": Reference(role="retrained", value=mean, spread=spread, n=len(levels)),
    }
    shown = [math.log(level) for level in levels] if scale == "log ratio" else levels
    middle, width = metrics.mean_and_spread(shown)
    if width is not None:
        ours = math.log(value) if scale == "log ratio" else value
        found = metrics.difference_from_references(
            ours, middle, spread=width, references=len(levels), example_variance=variance
        )
        freedom = found.degrees_of_freedom
        df = None if math.isinf(freedom) else freedom
        values["comparison"] = comparison(found.value, found.low, found.high, scale, df)
    return values


LEVELS = [0.90, 0.91, 0.92]


@pytest.mark.parametrize(
    ("value", "margin", "verdict"),
    [
        (0.91, 0.06, PASSED),
        (0.91, 0.02, INCONCLUSIVE),  # the seeds alone vary more than that
        (0.50, 0.06, FAILED),
        (0.99, 0.02, FAILED),
        (0.95, 0.06, INCONCLUSIVE),
    ],
)
def test_equivalence_is_two_one_sided_tests(
    judge: Callable[..., Verdict], value: float, margin: float, verdict: Verdict
) -> None:
    rule = {"equivalent_to": "retrained", "margin": margin}
    assert judge(rule, **compared(LEVELS, value, 1e-5)) == verdict


@pytest.mark.parametrize("scale", ["fraction", "log ratio"])
def test_the_margin_at_which_equivalence_begins_is_the_ninety_percent_interval(
    judge: Callable[..., Verdict], scale: str
) -> None:
    values = compared(LEVELS, 0.93, 2e-4, scale)
    kept = values["comparison"]
    shown = [math.log(x) for x in LEVELS] if scale == "log ratio" else LEVELS
    mean, spread = metrics.mean_and_spread(shown)
    error = math.sqrt((spread or 0) ** 2 * (4 / 3) + 2e-4)
    low, high = stats.t.interval(0.9, kept.df, loc=kept.difference, scale=error)
    if scale == "log ratio":
        level = math.exp(mean)
        low, high = level * math.expm1(low), level * math.expm1(high)
    edge = max(-low, high)
    assert judge({"equivalent_to": "retrained", "margin": edge * 1.001}, **values) == PASSED
    assert judge({"equivalent_to": "retrained", "margin": edge * 0.999}, **values) == INCONCLUSIVE


@pytest.mark.parametrize("count", [0, 1, 2])
def test_below_three_retrained_seeds_nothing_is_equivalent(judge: Callable[..., Verdict], count: int) -> None:
    values = compared(LEVELS[:count], 0.9, 1e-9) if count else {"value": 0.9, "reference": None}
    for value in (0.91, 0.1):
        assert judge({"equivalent_to": "retrained", "margin": 0.5}, **values | {"value": value}) == INCONCLUSIVE


@pytest.mark.parametrize(
    "kept",
    [
        None,
        comparison(0.0, -0.01, 0.01).model_copy(update={"to": "original"}),
        comparison(-1e4, -1e4, -1e4, "log ratio"),  # beyond what a number can hold
    ],
)
def test_without_a_comparison_with_retrained_models_nothing_is_equivalent(
    judge: Callable[..., Verdict], kept: Comparison | None
) -> None:
    values = compared(LEVELS, 0.91, 0.0) | {"comparison": kept}
    assert judge({"equivalent_to": "retrained", "margin": 1e9}, **values) == INCONCLUSIVE


def test_details_decide_nothing(judge: Callable[..., Verdict]) -> None:
    values = compared(LEVELS, 0.91, 1e-5)
    kept = values.pop("comparison")
    said = {"difference": kept.model_dump() | {"value": 0.0, "low": 0.0, "high": 0.0}, "comparison": kept.model_dump()}
    assert judge({"equivalent_to": "retrained", "margin": 1e9}, **values, details=said) == INCONCLUSIVE


def test_a_gap_is_tested_as_the_difference_that_it_is(judge: Callable[..., Verdict]) -> None:
    """A gap's reference is the retrained models' accuracy; subtracting it a second time would fail every gap."""
    values = compared(LEVELS, 0.91, 1e-6) | {"value": 0.0}
    assert judge({"metric": "gap.test", "equivalent_to": "retrained", "margin": 0.06}, **values) == PASSED


# ----- subjects


def test_a_role_speaks_of_every_subject_that_has_it(make_report: Make, make_measurement: Make) -> None:
    report = make_report(
        make_measurement(METRIC, "a", role="unlearned", value=0.9),
        make_measurement(METRIC, "b", role="unlearned", value=0.1),
        make_measurement(METRIC, "o", role="original", value=0.0),
    )
    decisions = apply_policy(policy({"min": 0.8}), report)
    assert [(d.subject, d.verdict) for d in decisions] == [("a", PASSED), ("b", FAILED)]
    assert exit_code(decisions) == 1


def test_a_label_speaks_of_one_subject_and_can_be_put_in_the_place_of_the_unlearned(
    make_report: Make, make_measurement: Make
) -> None:
    report = make_report(
        make_measurement(METRIC, "a", role="unlearned", value=0.9),
        make_measurement(METRIC, "b", role="subject", value=0.1),
        make_measurement(METRIC, "r", role="retrained", value=0.95),
    )
    rules = policy({"min": 0.8}, {"min": 0.8, "subject": "r"})
    assert [(d.subject, d.verdict) for d in apply_policy(rules, report)] == [("a", PASSED), ("r", PASSED)]
    with pytest.raises(UsageError, match="rule 'r1' judges r, not b"):
        apply_policy(rules, report, subject="b")
    told = policy({"min": 0.8}, {"min": 0.8, "subject": "r", "severity": "warn"})
    replaced = apply_policy(told, report, subject="b")
    assert [(d.subject, d.verdict) for d in replaced] == [("b", FAILED), ("r", PASSED)]


def test_a_subject_that_is_not_there_is_inconclusive(make_report: Make, make_measurement: Make) -> None:
    report = make_report(make_measurement(METRIC, "o", role="original"))
    for rule in ({}, {"subject": "nobody"}):
        (decision,) = apply_policy(policy({"min": 0.0} | rule), report)
        assert decision.verdict == INCONCLUSIVE
        assert "no subject" in decision.why


def test_a_control_is_no_subject(make_report: Make, make_measurement: Make) -> None:
    report = make_report(make_measurement(METRIC, "unlearned", role="control", value=1.0))
    (decision,) = apply_policy(policy({"min": 0.0}), report)
    assert decision.verdict == INCONCLUSIVE


# ----- the exit code


# ----- doubts about a checkpoint


@pytest.mark.parametrize(
    ("label", "least", "verdict"),
    [
        ("unlearned", 0.5, Verdict.INCONCLUSIVE),
        ("retrained", 0.5, Verdict.INCONCLUSIVE),  # what everything is read against
        ("original", 0.5, Verdict.PASSED),  # of no consequence for the unlearned one
        ("unlearned", 0.95, Verdict.FAILED),  # a failure stays one
    ],
)
def test_nothing_passes_that_rests_on_a_checkpoint_in_doubt(
    make_report: Make, make_measurement: Make, label: str, least: float, verdict: Verdict
) -> None:
    report = make_report(*(make_measurement(subject=name) for name in ("original", "unlearned", "retrained")))
    subjects = tuple(
        one.model_copy(update={"doubts": ("another forget set",) if one.label == label else ()})
        for one in report.subjects
    )
    rules = policy({"metric": "accuracy.test", "min": least})
    (decision,) = apply_policy(rules, report.model_copy(update={"subjects": subjects}))
    assert decision.verdict == verdict
    assert ("another forget set" in decision.why) == (verdict == Verdict.INCONCLUSIVE)


@pytest.mark.parametrize(
    ("label", "verdict"),
    [("unlearned", Verdict.INCONCLUSIVE), ("retrained", Verdict.INCONCLUSIVE), ("original", Verdict.PASSED)],
)
def test_nothing_passes_that_rests_on_a_number_in_doubt(
    make_report: Make, make_measurement: Make, label: str, verdict: Verdict
) -> None:
    doubts = {label: ("its curve hardly moves",)}
    report = make_report(
        *(make_measurement("rcd.ratio_to_unseen", name, doubts=doubts.get(name, ()))
          for name in ("original", "unlearned", "retrained")),
        *(make_measurement("accuracy.test", name) for name in ("original", "unlearned", "retrained")),
    )  # fmt: skip
    (decision,) = apply_policy(policy({"metric": "rcd.ratio_to_unseen", "min": 0.5, "require_interval": False}), report)
    assert decision.verdict == verdict
    assert ("hardly moves" in decision.why) == (verdict == Verdict.INCONCLUSIVE)
    (other,) = apply_policy(policy({"metric": "accuracy.test", "min": 0.5}), report)
    assert other.verdict == Verdict.PASSED  # the doubt is about another number


GENERATORS, CLASSIFIERS = {"draws": 8}, {"draws": None}


@pytest.mark.parametrize(
    ("metric", "rcd", "rests"),
    [
        ("rcd.anamnesis_index", None, True),
        ("rcd.raw", {"floor": "original", **GENERATORS}, True),
        ("rcd.ratio_to_retrained", {"floor": "original", **CLASSIFIERS}, True),
        ("rcd.steps_to_relearn", {"floor": "zero", **GENERATORS}, True),
        ("rcd.steps_to_relearn", {"floor": "zero", **CLASSIFIERS}, False),
        ("rcd.ratio_to_retrained", {"floor": "zero", **CLASSIFIERS}, False),
        ("rcd.ratio_to_unseen", {"floor": "original", **GENERATORS}, False),
        ("rcd.raw", None, False),
    ],
)
def test_what_is_read_against_the_original_does_not_pass_on_an_original_in_doubt(
    make_report: Make, make_measurement: Make, metric: str, rcd: dict[str, Any] | None, rests: bool
) -> None:
    found = (make_measurement(metric, name) for name in ("original", "unlearned"))
    report = make_report(*found, settings={"config": {"rcd": rcd}})
    subjects = tuple(
        one.model_copy(update={"doubts": ("wrecked",) if one.label == "original" else ()}) for one in report.subjects
    )
    (decision,) = apply_policy(
        policy({"metric": metric, "min": 0.5, "require_interval": False}),
        report.model_copy(update={"subjects": subjects}),
    )
    assert decision.verdict == (Verdict.INCONCLUSIVE if rests else Verdict.PASSED)
    assert ("wrecked" in decision.why) == rests


def decided(verdict: Verdict, severity: str = "fail") -> Decision:
    return Decision(
        Rule.model_validate({"id": "r", "metric": METRIC, "min": 0, "severity": severity}), "u", verdict, ""
    )


@pytest.mark.parametrize(
    ("decisions", "code"),
    [
        ([], 4),
        ([decided(PASSED)], 0),
        ([decided(PASSED), decided(INCONCLUSIVE)], 4),
        ([decided(INCONCLUSIVE), decided(FAILED), decided(PASSED)], 1),
        ([decided(PASSED), decided(FAILED, "warn")], 0),
        ([decided(INCONCLUSIVE, "warn"), decided(PASSED)], 0),
        ([decided(INCONCLUSIVE), decided(FAILED, "warn")], 4),
        ([decided(PASSED), decided(ERROR, "warn")], 3),
        ([decided(FAILED), decided(ERROR, "warn")], 3),
    ],
)
def test_failed_comes_before_inconclusive_before_passed_and_warnings_do_not_count(
    decisions: list[Decision], code: int
) -> None:
    assert exit_code(decisions) == code


# ----- policies that are refused

REFUSED: dict[str, tuple[str, str]] = {
    "unknown metric": (
        '[[rule]]\nid="a"\nmetric="rcd.rwa"\nmin=0',
        r"line 4: [^\n]*unknown metric 'rcd.rwa'; did you mean 'rcd.raw'\? "
        r"Near it: rcd.raw[^\n]{,60} \([0-9]+ are known\)$",
    ),
    "unknown key": ('[[rule]]\nid="a"\nmetric="rcd.raw"\nmni=0', "line 5: unknown key 'rule.0.mni'.*'min'"),
    "unknown top key": ('rules=[]\n[[rule]]\nid="a"\nmetric="rcd.raw"\nmin=0', "line 2: unknown key 'rules'"),
    "repeated id": ('[[rule]]\nid="a"\nmetric="rcd.raw"\nmin=0\n' * 2, "rule id 'a' appears twice"),
    "no id": ('[[rule]]\nmetric="rcd.raw"\nmin=0', "line 2: rule.0.id is missing"),
    "empty id": ('[[rule]]\nid=""\nmetric="rcd.raw"\nmin=0', "rule.0.id: must be a text that is not empty"),
    "no rules": ("", "rule is missing"),
    "empty rules": ("rule=[]", "rule: must be a list of 1 or more"),
    "a rule for a list": ('[rule]\nid="a"\nmetric="rcd.raw"\nmin=0', "rule: must be a list"),
    "no demand": (
        '[[rule]]\nid="a"\nmetric="rcd.raw"',
        "exactly one of min/max, equals, equivalent_to, max_increase/max_decrease",
    ),
    "two demands": ('[[rule]]\nid="a"\nmetric="rcd.raw"\nmin=0\nequals="x"', "exactly one of"),
    "margin alone": ('[[rule]]\nid="a"\nmetric="rcd.raw"\nmin=0\nmargin=1', "belong together"),
    "no margin": ('[[rule]]\nid="a"\nmetric="rcd.raw"\nequivalent_to="retrained"', "belong together"),
    "margin of 0": ('[[rule]]\nid="a"\nmetric="rcd.raw"\nequivalent_to="retrained"\nmargin=0', "greater than 0"),
    "equivalent to else": ('[[rule]]\nid="a"\nmetric="rcd.raw"\nequivalent_to="original"\nmargin=1', "'original'"),
    "min above max": ('[[rule]]\nid="a"\nmetric="rcd.raw"\nmin=2\nmax=1', "min 2.0 is greater than max 1.0"),
    "nan": ('[[rule]]\nid="a"\nmetric="rcd.raw"\nmin=nan', "must be a finite number"),
    "infinity": ('[[rule]]\nid="a"\nmetric="rcd.raw"\nmax=inf', "must be a finite number"),
    "true": ('[[rule]]\nid="a"\nmetric="rcd.raw"\nmin=true', "rule.0.min: must be a number"),
    "text": ('[[rule]]\nid="a"\nmetric="rcd.raw"\nmin="0.8"', "rule.0.min: must be a number"),
    "bound": ('[[rule]]\nid="a"\nmetric="rcd.raw"\nmin=0\nbound="lowr"', "unknown bound 'lowr'; did you mean 'lower'"),
    "bound of a text": (
        '[[rule]]\nid="a"\nmetric="rcd.raw"\nequivalent_to="retrained"\nmargin=1\nbound="lower"',
        "bound says which end",
    ),
    "bound that needs no interval": (
        '[[rule]]\nid="a"\nmetric="rcd.raw"\nmin=0\nbound="value"\nrequire_interval=true',
        "cannot require one",
    ),
    "min_n": ('[[rule]]\nid="a"\nmetric="rcd.raw"\nmin=0\nmin_n=-1', "rule.0.min_n: must be at least 0"),
    "fractional min_n": ('[[rule]]\nid="a"\nmetric="rcd.raw"\nmin=0\nmin_n=1.5', "must be a whole number"),
    "only warnings": (
        '[[rule]]\nid="a"\nmetric="rcd.raw"\nmin=0\nseverity="warn"',
        "every rule only warns, so that nothing could ever fail.*advisory = true",
    ),
    "nothing can fail": (
        '[[rule]]\nid="a"\nmetric="rcd.raw"\nmin=0\notherwise="inconclusive"',
        "every rule only warns or leaves the verdict open.*and no `otherwise`",
    ),
    "otherwise": ('[[rule]]\nid="a"\nmetric="rcd.raw"\nmin=0\notherwise="pass"', "unknown otherwise 'pass'"),
    "advisory but blocking": (
        'advisory=true\n[[rule]]\nid="a"\nmetric="rcd.raw"\nmin=0',
        "advisory = true says that nothing blocks, but rule 'a' does",
    ),
    "advisory of a text": ('advisory="yes"\n[[rule]]\nid="a"\nmetric="rcd.raw"\nmin=0', "must be true or false"),
    "unseen id": ('[[rule]]\nid="\u200b"\nmetric="rcd.raw"\nmin=0', "must say something that can be seen"),
    "most of a p-value": ('[[rule]]\nid="a"\nmetric="twosample.p"\nmax=0.05', "limit it with min alone"),
    "equivalent p-values": (
        '[[rule]]\nid="a"\nmetric="twosample.p"\nequivalent_to="retrained"\nmargin=0.1',
        "only a small one says something",
    ),
    "change of a p-value": ('[[rule]]\nid="a"\nmetric="twosample.p"\nmax_decrease=0.1', "limit it with min alone"),
    "p-value that is always reached": (
        '[[rule]]\nid="a"\nmetric="twosample.p"\nmin=0.001',
        "could not fail; take 0.01",
    ),
    "interval of a p-value": (
        '[[rule]]\nid="a"\nmetric="twosample.p"\nmin=0.01\nrequire_interval=true',
        "has no interval that could be required",
    ),
    "severity": ('[[rule]]\nid="a"\nmetric="rcd.raw"\nmin=0\nseverity="ignore"', "unknown severity"),
    "require_interval": ('[[rule]]\nid="a"\nmetric="rcd.raw"\nmin=0\nrequire_interval=1', "must be true or false"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_policy_that_is_wrong_is_refused(tmp_path: Path, case: str) -> None:
    text, says = REFUSED[case]
    (tmp_path / "p.toml").write_text("schema_version = 1\n" + text)
    with pytest.raises(ConfigError, match=f"(?s){says}") as caught:
        read_policy(tmp_path / "p.toml")
    assert caught.value.exit_code == 2
    assert str(tmp_path / "p.toml") in str(caught.value)
    assert all("\n" not in line for line in caught.value.problems)


@pytest.mark.parametrize("version", ["", "schema_version = 2", "schema_version = true", "schema_version = 1.0"])
def test_another_schema_version_is_refused(tmp_path: Path, version: str) -> None:
    (tmp_path / "p.toml").write_text(version + '\n[[rule]]\nid = "a"\nmetric = "rcd.raw"\nmin = 0\n')
    with pytest.raises(ConfigError, match="schema_version"):
        read_policy(tmp_path / "p.toml")


@pytest.mark.parametrize("content", [b"rule = = 1", b"\xff\xfe", b"\x00"])
def test_a_policy_that_is_not_toml_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "p.toml").write_bytes(content)
    with pytest.raises(ConfigError, match="not readable TOML"):
        read_policy(tmp_path / "p.toml")


def test_every_problem_of_a_policy_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text(
        'schema_version = 2\n[[rule]]\nid = "a"\nmetric = "nonsense"\nmin = "x"\n'
        '[[rule]]\nidd = "b"\nmetric = "rcd.raw"\n'
    )
    with pytest.raises(ConfigError) as caught:
        read_policy(tmp_path / "p.toml")
    starts = [line.partition(":")[0] for line in caught.value.problems]
    assert starts == ["line 1", "line 4", "line 5", "line 6", "line 7"]


# ----- end to end, through the command line

GATED = "rcd.ratio_to_unseen"
POLICY = """
schema_version = 1
[[rule]]
id = "forgotten"
metric = "rcd.ratio_to_unseen"
subject = "unlearned"
min = 0.8
bound = "lower"
min_n = 100
"""


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({"value": 0.95, "interval": (0.89, 1.01), "n": 144}, 0),
        ({"value": 0.5, "interval": (0.4, 0.6), "n": 144}, 1),
        ({"value": 0.85, "interval": (0.7, 1.0), "n": 144}, 4),
        ({"value": 0.95, "interval": (0.89, 1.01), "n": 99}, 4),
        ({"value": None, "reason": "diverged", "n": 144}, 4),
    ],
)
def test_the_exit_code_and_one_json_document(
    run: Make, make_report: Make, make_measurement: Make, tmp_path: Path, values: dict[str, Any], code: int
) -> None:
    write_report(make_report(make_measurement("rcd.ratio_to_unseen", **values)), tmp_path / "r.json")
    (tmp_path / "p.toml").write_text(POLICY)
    done = run("gate", tmp_path / "r.json", "--policy", tmp_path / "p.toml", "--format", "json")
    assert done.code == code
    body = json.loads(done.stdout)
    assert body["exit_code"] == code
    (decision,) = body["decisions"]
    assert (decision["rule"], decision["metric"], decision["subject"]) == ("forgotten", GATED, "unlearned")
    assert decision["severity"] == "fail"


@pytest.mark.parametrize("value", [math.nan, math.inf, "0.95", True, [0.95]])
def test_a_report_with_something_else_for_a_number_never_passes(
    run: Make, make_report: Make, make_measurement: Make, tmp_path: Path, value: object
) -> None:
    body = json.loads(dump_report(make_report(make_measurement(GATED, value=0.95, n=144))))
    body["measurements"][0]["value"] = value
    if not isinstance(value, float):
        body["body_sha256"] = canonical_digest(body)
    (tmp_path / "r.json").write_text(json.dumps(body))
    (tmp_path / "p.toml").write_text(POLICY)
    done = run("gate", tmp_path / "r.json", "--policy", tmp_path / "p.toml")
    assert done.code == 3, done.stderr


# ----- whatever the rule and whatever the measurement

numbers = st.floats(allow_nan=False, allow_infinity=False)
limits = st.one_of(
    st.fixed_dictionaries({"min": numbers}, optional={"bound": st.sampled_from(["lower", "upper", "value"])}),
    st.fixed_dictionaries({"max": numbers}, optional={"bound": st.sampled_from(["lower", "upper", "value"])}),
    st.tuples(numbers, numbers).map(lambda pair: {"min": min(pair), "max": max(pair)}),
    st.fixed_dictionaries({"equivalent_to": st.just("retrained"), "margin": st.floats(1e-300, 1e300)}),
    st.fixed_dictionaries({"max_increase": st.floats(0, 1e300)}, optional={"max_decrease": st.floats(0, 1e300)}),
)
COMPARABLE = sorted(info.name for info in METRICS.values() if not (info.is_text or info.within_one_run or info.p_value))
extras = st.fixed_dictionaries(
    {"metric": st.sampled_from(COMPARABLE)},
    optional={"min_n": st.integers(0, 200), "severity": st.just("warn")},
)
rules = st.tuples(limits, extras).map(lambda parts: Rule.model_validate({"id": "r"} | parts[0] | parts[1]))
junk = st.none() | st.booleans() | st.text(max_size=5) | st.lists(numbers, max_size=2) | numbers
finite = st.floats(allow_nan=False, allow_infinity=False)
differences = st.none() | st.builds(
    lambda ends, scale, df: comparison(ends[1], ends[0], ends[2], scale, df),
    st.tuples(finite, finite, finite).map(sorted).filter(lambda ends: math.isfinite(ends[2] - ends[0])),
    st.sampled_from(["fraction", "AUC", "nats", "log ratio"]),
    st.none() | st.floats(1, 1e300),
)
intervals = st.none() | st.tuples(numbers, numbers).map(
    lambda ends: Interval.model_construct(low=min(ends), high=max(ends), level=0.95, method="m")
)
references = st.none() | st.builds(
    Reference.model_construct,
    role=st.just("retrained"),
    value=numbers,
    spread=st.none() | st.floats(0, 1e300),
    n=st.integers(0, 5),
)


def judged(rule: Rule, **values: Any) -> Verdict:
    made = Measurement.model_construct(name=rule.metric, subject="u", reason="r", method="m", **values)
    return judge_one(rule, made, made).verdict  # compared with itself where the rule limits a change


@given(rules, st.none() | st.text(), st.integers(0, 1000), intervals, references, differences)
def test_nothing_but_a_number_can_pass_a_rule_for_numbers(
    rule: Rule, value: str | None, n: int, interval: Any, reference: Any, difference: Any
) -> None:
    verdict = judged(rule, value=value, n=n, interval=interval, reference=reference, comparison=difference)
    assert verdict == (INCONCLUSIVE if value is None else ERROR)


@given(rules, numbers, st.integers(0, 1000), intervals, references, differences)
def test_what_passes_holds_its_limits_and_has_its_examples(
    rule: Rule, value: float, n: int, interval: Any, reference: Any, difference: Any
) -> None:
    verdict = judged(rule, value=value, n=n, interval=interval, reference=reference, comparison=difference)
    if verdict != PASSED:
        return
    assert n >= max(1, rule.min_n)
    if rule.equivalent_to is not None:
        assert reference is not None
        assert reference.n >= 3
        return
    if rule.compares:
        return
    ends = {"value": value} | ({} if interval is None else {"lower": interval.low, "upper": interval.high})
    if rule.min is not None:
        assert ends.get(rule.bound or "lower", value) >= rule.min
    if rule.max is not None:
        assert ends.get(rule.bound or "upper", value) <= rule.max
    if rule.bound is None:
        assert rule.min is None or value >= rule.min
        assert rule.max is None or value <= rule.max


# ----- the very file to be released


def test_a_file_is_gated_only_by_a_report_that_measured_it(
    make_report: Make, make_measurement: Make, here: Path, run: Callable[..., Any]
) -> None:
    (here / "u.safetensors").write_bytes(b"weights")
    (here / "p.toml").write_text('schema_version = 1\n[[rule]]\nid = "r"\nmetric = "accuracy.test"\nmin = 0.5\n')
    report = make_report(*(make_measurement(subject=name, role="unlearned") for name in ("a", "b")))
    subjects = [one.model_copy(update={"sha256": sha256_of_bytes(one.label.encode())}) for one in report.subjects]
    subjects[1] = subjects[1].model_copy(update={"sha256": sha256_of_bytes(b"weights")})
    write_report(report.model_copy(update={"subjects": tuple(subjects)}), here / "r.json")
    asked = ["gate", "r.json", "--policy", "p.toml", "--checkpoint", "u.safetensors"]
    done = run(*asked, "--format", "json")
    assert (done.code, [one["subject"] for one in json.loads(done.stdout)["decisions"]]) == (0, ["b"])
    (here / "u.safetensors").write_bytes(b"other weights")
    done = run(*asked)
    assert done.code == 2
    assert "is none of the checkpoints that the report measured" in done.stderr
    assert run(*asked, "--subject", "a").code == 2
    assert run(*asked[:-1], "nowhere.safetensors").code == 2


# ----- nothing passes that no rule looked at


THREE = ("original", "retrained", "unlearned")


@pytest.fixture
def three(here: Path, make_report: Make, make_measurement: Make) -> Callable[..., list[str]]:
    """Three checkpoints with their report, and a policy of rules on the given subjects: three("ieu", "retrained")."""

    def write(*subjects: str, **more: Any) -> list[str]:
        report = make_report(*(make_measurement(subject=name) for name in THREE))
        named = [one.model_copy(update={"sha256": sha256_of_bytes(one.label.encode())}) for one in report.subjects]
        for one in named:
            (here / f"{one.label}.pt").write_bytes(one.label.encode())
        write_report(report.model_copy(update={"subjects": tuple(named)} | more), here / "r.json")
        rules = (f'[[rule]]\nid = "r{i}"\nmetric = "{METRIC}"\nmin = 0.5\nsubject = "{name}"\n'
                 for i, name in enumerate(subjects))  # fmt: skip
        (here / "p.toml").write_text("schema_version = 1\n" + "".join(rules))
        return ["gate", "r.json", "--policy", "p.toml"]

    return write


@pytest.mark.parametrize("how", [["--subject", "original"], ["--checkpoint", "original.pt"]])
@pytest.mark.parametrize("others", [["retrained"], ["unlearned", "retrained"], ["nobody"], ["original", "retrained"]])
def test_a_file_that_a_blocking_rule_does_not_judge_is_not_gated(
    three: Callable[..., list[str]], run: Make, how: list[str], others: list[str]
) -> None:
    done = run(*three(*others), *how)
    assert (done.code, done.stdout) == (2, "")
    assert f"judges {others[-1]}, not original" in done.stderr


@pytest.mark.parametrize("rule", ["unlearned", "original"])
def test_a_file_is_gated_by_rules_that_judge_it(three: Callable[..., list[str]], run: Make, rule: str) -> None:
    done = run(*three(rule), "--checkpoint", "original.pt", "--format", "json")
    body = json.loads(done.stdout)
    assert (done.code, [one["subject"] for one in body["decisions"]]) == (0, ["original"])
    assert [(one["label"], one["path"]) for one in body["judged"]] == [("original", "original.safetensors")]
    assert [one["label"] for one in body["not_judged"]] == ["retrained", "unlearned"]


def test_a_rule_on_a_role_judges_the_bound_file_alone(make_report: Make, make_measurement: Make) -> None:
    report = make_report(*(make_measurement(METRIC, name, role="retrained") for name in ("r1", "r2")))
    rules = policy({"min": 0.5, "subject": "retrained"})
    assert [d.subject for d in apply_policy(rules, report, subject="r2")] == ["r2"]
    assert [d.subject for d in apply_policy(rules, report, subject="retrained")] == ["r1", "r2"]
    with pytest.raises(UsageError, match="judges r1, not r1 and r2"):
        apply_policy(policy({"min": 0.5, "subject": "r1"}), report, subject="retrained")


def test_every_output_names_whom_a_pass_is_about(three: Callable[..., list[str]], run: Make, here: Path) -> None:
    files = ["--json", "o.json", "--junit", "o.xml", "--statement", "s.json", "--markdown", "o.md"]
    done = run(*three("retrained"), *files)
    digest = sha256_of_bytes(b"retrained")
    assert done.code == 0
    for text in (done.stdout.replace("\n", ""), (here / "o.md").read_text(), (here / "o.xml").read_text()):
        assert digest in text
        assert "retrained.safetensors" in text
    assert "not judged: original (original), unlearned (unlearned)" in done.stdout
    assert "not judged: original (original), unlearned (unlearned)" in (here / "o.md").read_text()
    assert "not_judged.unlearned" in (here / "o.xml").read_text()
    statement = json.loads((here / "s.json").read_text())
    assert statement["subject"] == [{"name": "retrained", "digest": {"sha256": digest}}]
    (others,) = [one["annotations"]["notJudged"] for one in statement["predicate"]["configuration"]
                 if "notJudged" in one.get("annotations", {})]  # fmt: skip
    assert [one["name"] for one in others] == ["original", "unlearned"]


def test_who_is_only_warned_about_is_not_judged(make_report: Make, make_measurement: Make, here: Path) -> None:
    report = make_report(make_measurement(), make_measurement(METRIC, "original"))
    write_report(report, here / "r.json")
    rule = f'[[rule]]\nid = "a"\nmetric = "{METRIC}"\nmin = 0.5\n'
    warning = rule.replace('"a"', '"b"') + 'subject = "original"\nseverity = "warn"\n'
    (here / "p.toml").write_text("schema_version = 1\n" + rule + warning)
    found = gate_files(here / "r.json", here / "p.toml")
    assert (found.code, list(found.judged), [one.label for one in found.not_judged]) == (0, ["unlearned"], ["original"])
    (here / "p.toml").write_text("schema_version = 1\nadvisory = true\n" + warning)
    found = gate_files(here / "r.json", here / "p.toml")
    assert (found.code, list(found.judged)) == (0, ["original"])


def test_an_error_in_a_warning_is_no_pass(make_report: Make, make_measurement: Make) -> None:
    report = make_report(make_measurement(), make_measurement("accuracy.retain", value="0.9"))
    decisions = apply_policy(policy({"min": 0.5}, {"metric": "accuracy.retain", "min": 0, "severity": "warn"}), report)
    assert [decision.verdict for decision in decisions] == [PASSED, ERROR]
    assert exit_code(decisions) == 3


# ----- one file under two names


def test_one_file_under_two_names_is_not_gated_as_either(
    three: Callable[..., list[str]], run: Make, here: Path
) -> None:
    request = three("unlearned")
    body = json.loads((here / "r.json").read_text())
    body["subjects"][0]["sha256"] = body["subjects"][2]["sha256"]
    (here / "r.json").write_text(json.dumps(body | {"body_sha256": canonical_digest(body)}))
    done = run(*request)
    assert done.code == 4
    assert "original and unlearned are one file" in " ".join(done.stdout.split())
    done = run(*request, "--checkpoint", "unlearned.pt")
    assert done.code == 2
    assert "is original (original) and unlearned (unlearned) in the report" in done.stderr
    assert run(*request, "--subject", "retrained").code == 0  # the others are no references


def test_a_retrained_model_that_is_there_twice_is_a_doubt_for_all(make_report: Make, make_measurement: Make) -> None:
    report = make_report(make_measurement(), *(make_measurement(METRIC, f"r{i}", role="retrained") for i in (1, 2)))
    subjects = [one.model_copy(update={"sha256": "d" * 64 if one.role == "retrained" else one.sha256})
                for one in report.subjects]  # fmt: skip
    (decision,) = apply_policy(policy({"min": 0.5}), report.model_copy(update={"subjects": tuple(subjects)}))
    assert decision.verdict == INCONCLUSIVE
    assert "r1 and r2 are one file" in decision.why


# ----- what shows a leak wants its interval

LEAKS = ["rcd.ratio_to_unseen", "rcd.raw", "mia.loss.auc", "mia.svc.efficacy", "gap.forget", "accuracy.forget"]


@pytest.mark.parametrize("metric", LEAKS)
@pytest.mark.parametrize("demand", [{"min": 0.5}, {"max": 0.95}])
def test_a_leak_without_an_interval_passes_only_where_the_rule_says_so(
    judge: Callable[..., Verdict], metric: str, demand: dict[str, Any]
) -> None:
    rule = demand | {"metric": metric}
    assert judge(rule) == INCONCLUSIVE
    assert judge(rule, interval=(0.85, 0.93)) == PASSED
    assert judge(rule | {"bound": "value"}) == PASSED
    assert judge(rule | {"require_interval": False}) == PASSED
    assert judge(rule | {"bound": "lower"}) == INCONCLUSIVE
    assert judge(rule, value=0.1 if "min" in demand else 0.99) == FAILED  # it needs none to fail
    assert judge(rule | {"require_interval": True}, value=0.1 if "min" in demand else 0.99) == INCONCLUSIVE


@pytest.mark.parametrize("metric", sorted(info.name for info in METRICS.values() if not info.leak and not info.is_text))
def test_what_shows_no_leak_is_held_by_its_value(judge: Callable[..., Verdict], metric: str) -> None:
    assert judge({"metric": metric, "min": 0.5}) == PASSED


@pytest.mark.parametrize(("value", "verdict"), [(0.0099, FAILED), (0.01, PASSED), (1.0, PASSED), (None, INCONCLUSIVE)])
def test_a_p_value_is_held_by_itself_from_below(
    judge: Callable[..., Verdict], value: float | None, verdict: Verdict
) -> None:
    rule = {"metric": "twosample.p", "min": 0.01}
    reason = {"reason": "no retrained model to compare with was given"} if value is None else {}
    assert judge(rule, value=value, **reason) == verdict
    assert judge(rule | {"min_n": 101}, value=value, **reason) == INCONCLUSIVE
    known = [Reference(role="retrained", value=usual, spread=0.1, n=3) for usual in (0.4, 0.005)]
    assert judge(rule | {"holds_for": "retrained"}, value=value, reference=known[0], **reason) == verdict
    assert judge(rule | {"holds_for": "retrained"}, value=value, reference=known[1], **reason) == INCONCLUSIVE
    assert judge(rule | {"holds_for": "retrained"}, value=value, **reason) == INCONCLUSIVE


def test_the_readmes_policy_passes_no_report_without_intervals(
    make_report: Make, make_measurement: Make, here: Path
) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    rule = readme.partition("## A gate for releases")[2].partition("```toml\n")[2].partition('[[rule]]\nid = "no-w')[0]
    (here / "p.toml").write_text(rule)
    for interval, verdict in ((None, INCONCLUSIVE), ((0.9, 1.1), PASSED)):
        report = make_report(make_measurement("rcd.ratio_to_unseen", value=1.0, n=200, interval=interval))
        (decision,) = apply_policy(read_policy(here / "p.toml"), report)
        assert decision.verdict == verdict
