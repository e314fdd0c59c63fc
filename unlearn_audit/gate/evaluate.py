"""A policy's rules over a whole report: whose value, the waivers, the exit code."""

import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Literal, NamedTuple

from unlearn_audit.errors import ReportError, UsageError
from unlearn_audit.files import read_input, sha256_of_bytes, sha256_of_file
from unlearn_audit.gate.baseline import earlier
from unlearn_audit.gate.binding import bind, measured_as, subjects_of
from unlearn_audit.gate.doubting import doubts_about
from unlearn_audit.gate.policy import Policy, Rule, Waiver, policy_file, read_policy
from unlearn_audit.gate.rules import NO_BASELINE, Judgement, Verdict, judge
from unlearn_audit.report import MAX_REPORT_BYTES, AuditReport, Measurement, Subject, parse_report


class Decision(NamedTuple):
    """A rule's verdict on one subject, and why."""

    rule: Rule
    subject: str
    verdict: Verdict
    why: str
    sha256: str | None = None  # of the subject's file, None where the report has no such subject
    measurement: Measurement | None = None
    path: str | None = None  # of the subject's file, as the report has it
    seconds: float = 0.0  # that judging took


class ReviewedWaiver(NamedTuple):
    """A waiver of the policy and what it did."""

    waiver: Waiver
    status: Literal["used", "unused", "expired"]
    why: str


class ReportSource(NamedTuple):
    """A file that was read, and its digest; None where it could not be read."""

    path: str
    sha256: str | None


class Gated(NamedTuple):
    """Everything that a gate found; `problem` is there where a report could not be read."""

    decisions: tuple[Decision, ...]
    waivers: tuple[ReviewedWaiver, ...]
    report: ReportSource
    policy: ReportSource
    baseline: ReportSource | None
    today: date
    problem: ReportError | None = None
    limitations: tuple[str, ...] = ()  # of the report
    subjects: tuple[Subject, ...] = ()  # of the report
    moment: datetime = datetime.min  # when the gate was asked

    @property
    def judged(self) -> Mapping[str, Decision]:
        """The checkpoints that the outcome is about, by label: those that a rule judged that blocks.

        Where the policy is advisory, so that none blocks, those that any rule judged.
        """
        binding = [decision for decision in self.decisions if decision.rule.severity == "fail"]
        return {found.subject: found for found in binding or self.decisions if found.sha256}

    @property
    def not_judged(self) -> tuple[Subject, ...]:
        """The report's subjects that the outcome says nothing about."""
        return tuple(entry for entry in self.subjects if entry.label not in self.judged)

    @property
    def revived(self) -> tuple[str, ...]:
        """Sentences on the waivers that are in use on the day that was named, though they have expired by the clock."""
        now = self.moment.date()
        return tuple(
            f"the waiver of rule '{waiver.rule}' by {waiver.owner} expired on {waiver.expires}; it is in use because "
            f"--today says {self.today}, while the clock says {now}"
            for waiver, status, _ in self.waivers
            if status == "used" and waiver.expires < now
        )

    @property
    def code(self) -> int:
        """The exit code; a report that could not be read is 3, however severe the rules are."""
        return 3 if self.problem else exit_code(self.decisions)

    @property
    def outcome(self) -> Literal["passed", "failed", "error", "inconclusive"]:
        """What the exit code says, in a word."""
        words: Mapping[int, Literal["passed", "failed", "error"]] = {0: "passed", 1: "failed", 3: "error"}
        return words.get(self.code, "inconclusive")


def gate_files(
    report: Path,
    policy: Path,
    *,
    baseline: Path | None = None,
    subject: str | None = None,
    checkpoint: Path | None = None,
    today: date | None = None,
    now: datetime | None = None,
) -> Gated:
    """Hold a report against a policy.

    Args:
        report: report.json of an audit.
        policy: the policy, or the bare name of a shipped one.
        baseline: report.json of the last release, for rules that limit a change.
        subject: a label or role to gate in the place of the role "unlearned".
        checkpoint: the file that is to be released, likewise; the report must have measured one with its digest.
        today: the day that waivers are looked at; default: that of `now`.
        now: when the gate is asked; default: now (UTC).

    Returns:
        The decisions. Where a report cannot be read, every rule ends in an error, and `problem` says why.

    Raises:
        ConfigError: the policy is wrong.
        UsageError: the report has no such subject, or the file cannot be read, or a rule that blocks judges another.
    """
    if checkpoint is not None and subject is not None:
        raise UsageError("--subject and --checkpoint exclude each other; give one of them")
    moment = now or datetime.now(UTC)
    rules, day = read_policy(policy), today or moment.date()
    told = ReportSource(str(policy), sha256_of_file(policy_file(policy)))
    source, found = _opened(report)
    earlier_source, old = (None, None) if baseline is None else _opened(baseline)
    problem = next((each for each in (found, old) if isinstance(each, ReportError)), None)
    if isinstance(found, ReportError) or isinstance(old, ReportError):
        broken = tuple(Decision(rule, rule.subject, Verdict.ERROR, str(problem)) for rule in rules.rule)
        waivers = review_waivers(rules, broken, day)
        return Gated(broken, waivers, source, told, earlier_source, day, problem, moment=moment)
    wanted = subject if checkpoint is None else measured_as(found, checkpoint)
    decisions = apply_policy(rules, found, subject=wanted, baseline=old, today=day)
    waivers = review_waivers(rules, decisions, day)
    return Gated(decisions, waivers, source, told, earlier_source, day, None, found.limitations, found.subjects, moment)


def _opened(path: Path) -> tuple[ReportSource, AuditReport | ReportError]:
    """Return a report, or why it cannot be read, with the digest of the very bytes that were read."""
    digest = None
    try:
        content = read_input(path, "report", ReportError, most=MAX_REPORT_BYTES)
        digest = sha256_of_bytes(content)
        return ReportSource(str(path), digest), parse_report(path, content)
    except ReportError as problem:
        return ReportSource(str(path), digest), problem


def apply_policy(
    policy: Policy,
    report: AuditReport,
    *,
    subject: str | Subject | None = None,
    baseline: AuditReport | None = None,
    today: date | None = None,
) -> tuple[Decision, ...]:
    """Return a decision for every rule and every subject that it speaks of.

    Args:
        policy: the rules and waivers.
        report: what was measured.
        subject: a label or role, or a subject, to gate in the place of the role "unlearned"; every rule that blocks
            must judge it.
        baseline: what was measured of the last release.
        today: the day that waivers are looked at; default: today (UTC).

    Raises:
        UsageError: no subject of the report has that label or role, or a rule that blocks judges another.
    """
    bound = bind(policy, report, subject)
    day = today or datetime.now(UTC).date()
    return tuple(
        _excused(decision, policy.waiver, day)
        for rule in policy.rule
        for decision in _decide(rule, report, bound, baseline)
    )


def _decide(
    rule: Rule, report: AuditReport, bound: Sequence[Subject] | None, baseline: AuditReport | None
) -> Iterator[Decision]:
    entries = subjects_of(rule, report, bound)
    if not entries:
        yield Decision(rule, rule.subject, Verdict.INCONCLUSIVE, f"the report has no subject '{rule.subject}'")
    for entry in entries:
        start = time.perf_counter()
        measurement = report.find(rule.metric, entry.label)
        verdict, why = _judged(rule, entry, measurement=measurement, report=report, baseline=baseline)
        yield Decision(rule, entry.label, verdict, why, entry.sha256, measurement, entry.path,
                       time.perf_counter() - start)  # fmt: skip


def _judged(
    rule: Rule, entry: Subject, *, measurement: Measurement | None, report: AuditReport, baseline: AuditReport | None
) -> Judgement:
    """Judge a subject's measurement, and with it whether the report agrees with itself."""
    if measurement is not None and measurement.role != entry.role:
        why = f"the report contradicts itself: {entry.label} is {entry.role}, but {measurement.role} where measured"
        return Judgement(Verdict.ERROR, why)
    if rule.compares:
        before = NO_BASELINE if baseline is None else earlier(rule.metric, entry, report, baseline)
        found = judge(rule, measurement, before)
    else:
        found = judge(rule, measurement)
    doubt = next(doubts_about(rule.metric, entry, report), None)
    if found.verdict == Verdict.PASSED and doubt:
        return Judgement(Verdict.INCONCLUSIVE, f"{found.why}; but {doubt}")
    return found


# ----- waivers


def _excused(decision: Decision, waivers: Sequence[Waiver], today: date) -> Decision:
    """Return the decision as a waiver leaves it; only what failed or stayed open can be waived, and not for ever."""
    waiver = next((entry for entry in waivers if _is_for(entry, decision)), None)
    if waiver is None or decision.verdict not in (Verdict.FAILED, Verdict.INCONCLUSIVE):
        return decision
    if today > waiver.expires:
        return decision._replace(why=f"{decision.why}; the waiver by {waiver.owner} expired on {waiver.expires}")
    why = f"{decision.verdict}: {decision.why}; waived by {waiver.owner} until {waiver.expires}: {waiver.reason}"
    return decision._replace(verdict=Verdict.WAIVED, why=why)


def _is_for(waiver: Waiver, decision: Decision) -> bool:
    return (waiver.rule, waiver.sha256) == (decision.rule.id, decision.sha256)


def review_waivers(policy: Policy, decisions: Sequence[Decision], today: date) -> tuple[ReviewedWaiver, ...]:
    """Return every waiver of a policy with what became of it.

    Args:
        policy: which has the waivers.
        decisions: what `apply_policy` decided on the same day.
        today: that day.
    """
    return tuple(_reviewed(waiver, decisions, today) for waiver in policy.waiver)


def _reviewed(waiver: Waiver, decisions: Sequence[Decision], today: date) -> ReviewedWaiver:
    if today > waiver.expires:
        return ReviewedWaiver(waiver, "expired", f"expired on {waiver.expires}; it waives nothing")
    found = [decision for decision in decisions if _is_for(waiver, decision)]
    if any(decision.verdict == Verdict.WAIVED for decision in found):
        return ReviewedWaiver(waiver, "used", f"in use until {waiver.expires}")
    if not any(decision.sha256 == waiver.sha256 for decision in decisions):
        return ReviewedWaiver(waiver, "unused", "no checkpoint that was gated has this digest")
    if not found:
        return ReviewedWaiver(waiver, "unused", "the rule does not speak of this checkpoint")
    verdicts = ", ".join(dict.fromkeys(decision.verdict.value for decision in found))
    return ReviewedWaiver(
        waiver, "unused", f"the rule's verdict is {verdicts}; only failed and inconclusive are waived"
    )


# ----- the exit code


def exit_code(decisions: Sequence[Decision]) -> int:
    """Return 3 on an error, else 1 when a rule failed, else 4 when one is inconclusive or nothing was decided, else 0.

    Warnings do not count, but an error does wherever it is: a report that is wrong is no base for the other rules.
    """
    if not decisions:
        return 4
    if any(decision.verdict == Verdict.ERROR for decision in decisions):
        return 3
    binding = {decision.verdict for decision in decisions if decision.rule.severity == "fail"}
    codes = ((Verdict.FAILED, 1), (Verdict.INCONCLUSIVE, 4))
    return next((code for verdict, code in codes if verdict in binding), 0)
