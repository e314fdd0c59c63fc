"""A waiver excuses one rule for one checkpoint until a day, in everybody's sight, and nothing else."""

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from unlearn_audit.errors import ConfigError
from unlearn_audit.gate import Policy, Verdict, apply_policy, exit_code, read_policy, review_waivers
from unlearn_audit.report import AuditReport

Make = Callable[..., Any]
METRIC = "accuracy.test"
HERE, ELSEWHERE = "b" * 64, "e" * 64  # the made-up subjects' digest, and another
LAST = date(2026, 6, 30)


def policy(demand: dict[str, Any] | None = None, **waiver: Any) -> Policy:
    entry = {"rule": "r", "sha256": HERE, "reason": "ticket 1", "owner": "jane", "expires": LAST} | waiver
    rules = [{"id": "r", "metric": METRIC} | (demand or {"min": 0.8})]
    rules.append({"id": "other", "metric": METRIC, "min": 0.0})
    return Policy.model_validate({"schema_version": 1, "rule": rules, "waiver": [entry]})


@pytest.fixture
def failing(make_report: Make, make_measurement: Make) -> AuditReport:
    report: AuditReport = make_report(make_measurement(value=0.1))
    return report


@pytest.mark.parametrize("today", [date(2020, 1, 1), LAST])
def test_what_failed_is_waived_through_the_last_day(failing: AuditReport, today: date) -> None:
    rules = policy()
    decisions = apply_policy(rules, failing, today=today)
    assert [decision.verdict for decision in decisions] == [Verdict.WAIVED, Verdict.PASSED]
    assert exit_code(decisions) == 0
    assert decisions[0].why == "failed: 0.1, min 0.8; waived by jane until 2026-06-30: ticket 1"
    ((_, status, why),) = review_waivers(rules, decisions, today)
    assert (status, why) == ("used", "in use until 2026-06-30")


def test_what_is_inconclusive_can_be_waived(make_report: Make, make_measurement: Make) -> None:
    report = make_report(make_measurement(value=None, reason="diverged"))
    decision = apply_policy(policy(), report, today=LAST)[0]
    assert decision.verdict == Verdict.WAIVED
    assert "inconclusive: no value: diverged" in decision.why


def test_an_error_cannot_be_waived(make_report: Make, make_measurement: Make) -> None:
    rules = policy()
    decisions = apply_policy(rules, make_report(make_measurement(value="0.9")), today=LAST)
    assert decisions[0].verdict == Verdict.ERROR
    assert exit_code(decisions) == 3
    assert review_waivers(rules, decisions, LAST)[0].status == "unused"


def test_an_expired_waiver_waives_nothing_and_is_listed(failing: AuditReport) -> None:
    rules, late = policy(), date(2026, 7, 1)
    decisions = apply_policy(rules, failing, today=late)
    assert decisions[0].verdict == Verdict.FAILED
    assert "the waiver by jane expired on 2026-06-30" in decisions[0].why
    assert exit_code(decisions) == 1
    assert review_waivers(rules, decisions, late)[0].status == "expired"


@pytest.mark.parametrize(
    ("waiver", "why"),
    [
        ({"sha256": ELSEWHERE}, "no checkpoint that was gated has this digest"),
        ({"rule": "other"}, "the rule's verdict is passed"),
    ],
)
def test_a_waiver_for_something_else_waives_nothing(failing: AuditReport, waiver: dict[str, Any], why: str) -> None:
    rules = policy(**waiver)
    decisions = apply_policy(rules, failing, today=LAST)
    assert [decision.verdict for decision in decisions] == [Verdict.FAILED, Verdict.PASSED]
    (reviewed,) = review_waivers(rules, decisions, LAST)
    assert reviewed.status == "unused"
    assert why in reviewed.why


def test_a_waiver_of_a_rule_that_speaks_of_others(make_report: Make, make_measurement: Make) -> None:
    report = make_report(make_measurement(value=0.1), make_measurement(METRIC, "original", value=0.1))
    report = report.model_copy(
        update={"subjects": (report.subjects[0], report.subjects[1].model_copy(update={"sha256": ELSEWHERE}))}
    )
    rules = policy({"min": 0.8, "subject": "original"})
    decisions = apply_policy(rules, report, today=LAST)
    assert decisions[0].verdict == Verdict.FAILED
    assert review_waivers(rules, decisions, LAST)[0].why == "the rule does not speak of this checkpoint"


def test_a_subject_that_is_not_there_cannot_be_waived(make_report: Make, make_measurement: Make) -> None:
    report = make_report(make_measurement(METRIC, "original"))
    assert [d.verdict for d in apply_policy(policy(), report, today=LAST)] == [Verdict.INCONCLUSIVE] * 2


def test_without_a_day_it_is_today(failing: AuditReport) -> None:
    assert apply_policy(policy(expires=date(2001, 1, 1)), failing)[0].verdict == Verdict.FAILED
    assert apply_policy(policy(expires=date(9999, 1, 1)), failing)[0].verdict == Verdict.WAIVED


GOOD = {
    "rule": '"r"', "sha256": f'"{HERE}"', "reason": '"why"', "owner": '"who"', "expires": "2026-06-30",
}  # fmt: skip


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("rule", '"rr"', "waiver.0.rule: unknown rule 'rr'; did you mean 'r'"),
        ("rule", '""', "waiver.0.rule: must be a text that is not empty"),
        ("sha256", '"bbbb"', r"line 8: waiver.0.sha256: must be the checkpoint's sha256"),
        ("sha256", f'"{"B" * 64}"', "must be the checkpoint's sha256"),
        ("sha256", '"*"', "must be the checkpoint's sha256"),
        ("reason", '"  "', "waiver.0.reason: must say something"),
        ("reason", '"\u200b\u2060"', "waiver.0.reason: must say something that can be seen"),
        ("owner", '"\u3164"', "waiver.0.owner: must say something that can be seen"),
        ("owner", '""', "waiver.0.owner: must say something"),
        ("expires", '"2026-06-30"', "waiver.0.expires: must be a valid date"),
        ("expires", "2026-06-30T10:00:00Z", "waiver.0.expires: must be a valid date"),
        ("expires", '"never"', "waiver.0.expires: must be a valid date"),
        *((key, None, f"waiver.0.{key} is missing") for key in GOOD),
        ("until", "2026-06-30", "unknown key 'waiver.0.until'"),
    ],
)
def test_a_waiver_that_is_wrong_is_refused(tmp_path: Path, key: str, value: str | None, says: str) -> None:
    lines = [f"{name} = {text}" for name, text in (GOOD | {key: value}).items() if text is not None]
    rule = 'schema_version = 1\n[[rule]]\nid = "r"\nmetric = "accuracy.test"\nmin = 0.8\n[[waiver]]\n'
    (tmp_path / "p.toml").write_text(rule + "\n".join(lines))
    with pytest.raises(ConfigError, match=says) as caught:
        read_policy(tmp_path / "p.toml")
    assert caught.value.exit_code == 2


def test_the_same_waiver_twice_is_refused(tmp_path: Path) -> None:
    one = "[[waiver]]\n" + "\n".join(f"{key} = {text}" for key, text in GOOD.items()) + "\n"
    rule = 'schema_version = 1\n[[rule]]\nid = "r"\nmetric = "accuracy.test"\nmin = 0.8\n'
    (tmp_path / "p.toml").write_text(rule + one)
    assert read_policy(tmp_path / "p.toml").waiver[0].expires == LAST
    (tmp_path / "p.toml").write_text(rule + one + one)
    with pytest.raises(ConfigError, match="rule 'r' is waived twice"):
        read_policy(tmp_path / "p.toml")
