"""A policy's rules over a whole report: whose value, the waivers, the exit code."""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Literal, NamedTuple

from unlearn_audit.errors import ReportError, UsageError, unknown_name
from unlearn_audit.files import check_input, sha256_of_file
from unlearn_audit.gate.judging import NO_BASELINE, Judgement, Verdict, judge
from unlearn_audit.gate.policy import Policy, Rule, Waiver, policy_file, read_policy
from unlearn_audit.report import AuditReport, Data, Measurement, Subject, read_report

__all__ = [
    "Decision",
    "Gated",
    "ReviewedWaiver",
    "Source",
    "apply_policy",
    "exit_code",
    "gate_files",
    "review_waivers",
]


class Decision(NamedTuple):
    """A rule's verdict on one subject, and why."""

    rule: Rule
    subject: str
    verdict: Verdict
    why: str
    sha256: str | None = None  # of the subject's file, None where the report has no such subject
    measurement: Measurement | None = None


class ReviewedWaiver(NamedTuple):
    """A waiver of the policy and what it did."""

    waiver: Waiver
    status: Literal["used", "unused", "expired"]
    why: str


class Source(NamedTuple):
    """A file that was read, and its digest; None where it could not be read."""

    path: str
    sha256: str | None


class Gated(NamedTuple):
    """Everything that a gate found; `problem` is there where a report could not be read."""

    decisions: tuple[Decision, ...]
    waivers: tuple[ReviewedWaiver, ...]
    report: Source
    policy: Source
    baseline: Source | None
    today: date
    problem: ReportError | None = None
    limitations: tuple[str, ...] = ()  # of the report

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
) -> Gated:
    """Hold a report against a policy.

    Args:
        report: report.json of an audit.
        policy: the policy, or the bare name of a shipped one.
        baseline: report.json of the last release, for rules that limit a change.
        subject: a label or role to gate in the place of the role "unlearned".
        checkpoint: the file that is to be released, likewise; the report must have measured one with its digest.
        today: the day that waivers are looked at; default: today (UTC).

    Returns:
        The decisions. Where a report cannot be read, every rule ends in an error, and `problem` says why.

    Raises:
        ConfigError: the policy is wrong.
        UsageError: the report has no such subject, or the file cannot be read.
    """
    if checkpoint is not None and subject is not None:
        raise UsageError("--subject and --checkpoint both say whom to gate; give one of them")
    rules, day = read_policy(policy), today or datetime.now(UTC).date()
    sources = _source(report), _source(policy_file(policy))._replace(path=str(policy))
    earlier = None if baseline is None else _source(baseline)
    try:
        found = read_report(report)
        old = None if baseline is None else read_report(baseline)
    except ReportError as problem:
        broken = tuple(Decision(rule, rule.subject, Verdict.ERROR, str(problem)) for rule in rules.rule)
        return Gated(broken, review_waivers(rules, broken, day), *sources, earlier, day, problem)
    if checkpoint is not None:
        subject = _measured_as(found, checkpoint)
    decisions = apply_policy(rules, found, subject=subject, baseline=old, today=day)
    waivers = review_waivers(rules, decisions, day)
    return Gated(decisions, waivers, *sources, earlier, day, limitations=found.limitations)


def _measured_as(report: AuditReport, checkpoint: Path) -> str:
    """Return the label of the subject that a file is."""
    digest = sha256_of_file(check_input(checkpoint, "checkpoint", UsageError))
    label = next((entry.label for entry in report.subjects if entry.sha256 == digest), None)
    if label is None:
        raise UsageError(f"{checkpoint} (sha256 {digest[:12]}…) is none of the checkpoints that the report measured")
    return label


def _source(path: Path) -> Source:
    """Return a file with its digest; whether it can be read is said where it is read."""
    try:
        return Source(str(path), sha256_of_file(path) if path.is_file() else None)
    except OSError:
        return Source(str(path), None)


def apply_policy(
    policy: Policy,
    report: AuditReport,
    *,
    subject: str | None = None,
    baseline: AuditReport | None = None,
    today: date | None = None,
) -> tuple[Decision, ...]:
    """Return a decision for every rule and every subject that it speaks of.

    Args:
        policy: the rules and waivers.
        report: what was measured.
        subject: a label or role to gate in the place of the role "unlearned".
        baseline: what was measured of the last release.
        today: the day that waivers are looked at; default: today (UTC).

    Raises:
        UsageError: no subject of the report has that label or role.
    """
    if subject is not None and not _named(report, subject):
        labels = [entry.label if entry.label.isprintable() else ascii(entry.label) for entry in report.subjects]
        raise UsageError(unknown_name("subject", subject, labels, hint="A role names every subject that has it"))
    day = today or datetime.now(UTC).date()
    return tuple(
        _excused(decision, policy.waiver, day)
        for rule in policy.rule
        for decision in _decide(rule, report, subject, baseline)
    )


def _named(report: AuditReport, wanted: str) -> list[Subject]:
    return [entry for entry in report.subjects if wanted in (entry.label, entry.role)]


def _decide(rule: Rule, report: AuditReport, subject: str | None, baseline: AuditReport | None) -> Iterator[Decision]:
    wanted = subject if subject is not None and rule.subject == "unlearned" else rule.subject
    entries = _named(report, wanted)
    if not entries:
        yield Decision(rule, wanted, Verdict.INCONCLUSIVE, f"the report has no subject '{wanted}'")
    for entry in entries:
        measurement = report.find(rule.metric, entry.label)
        verdict, why = _judged(rule, entry, measurement, report, baseline)
        yield Decision(rule, entry.label, verdict, why, entry.sha256, measurement)


def _judged(
    rule: Rule, entry: Subject, measurement: Measurement | None, report: AuditReport, baseline: AuditReport | None
) -> Judgement:
    """Judge a subject's measurement, and with it whether the report agrees with itself."""
    if measurement is not None and measurement.role != entry.role:
        why = f"the report contradicts itself: {entry.label} is {entry.role}, but {measurement.role} where measured"
        return Judgement(Verdict.ERROR, why)
    if rule.compares:
        found = judge(rule, measurement, NO_BASELINE if baseline is None else _earlier(rule, entry, report, baseline))
    else:
        found = judge(rule, measurement)
    doubt = next(_doubts(rule, entry, report), None)
    if found.verdict == Verdict.PASSED and doubt:
        return Judgement(Verdict.INCONCLUSIVE, f"{found.why}; but {doubt}")
    return found


def _doubts(rule: Rule, entry: Subject, report: AuditReport) -> Iterator[str]:
    """Yield why what a rule looks at may not answer its question: the subject, what it is read against, the number."""
    peers = [entry, *report.with_role("retrained")]
    peers += report.with_role("original") if rule.metric in AGAINST_ORIGINAL else ()
    for peer in peers:
        yield from peer.doubts
        measurement = report.find(rule.metric, peer.label)
        yield from measurement.doubts if measurement is not None else ()


AGAINST_ORIGINAL = ("change.retain", "change.test", "rcd.anamnesis_index")  # metrics that an original has a part in


# ----- the last release


def _earlier(rule: Rule, entry: Subject, report: AuditReport, baseline: AuditReport) -> Measurement | str:
    """Return the measurement that a subject's is compared with, or why there is none."""
    data = report.data
    other = [name for name in _sets(rule.metric) if _digest(data, name) != _digest(baseline.data, name)]
    if data.sha256 != baseline.data.sha256 or other:
        what = f"another {' and '.join(other)} set" if other else "other data"
        return f"the baseline was measured on {what}, so a change would say nothing"
    section = rule.metric.partition(".")[0]
    changed = sorted(_instrument(report, section).items() ^ _instrument(baseline, section).items())
    if changed:
        return f"the baseline was measured with another {section}.{changed[0][0]}, so a change would say nothing"
    peers = [peer for peer in baseline.subjects if peer.role == entry.role]
    same = [peer for peer in peers if peer.label == entry.label] or peers
    if len(same) != 1:
        return f"the baseline has {len(same)} subjects of role {entry.role}, and none of them is labelled {entry.label}"
    found = baseline.find(rule.metric, same[0].label)
    return found if found is not None and found.role == entry.role else "the baseline did not measure it"


OF_NO_CONSEQUENCE = ("resamples", "controls", "accuracies", "worst", "attacks", "shadows")  # for a number's meaning


def _instrument(report: AuditReport, section: str) -> dict[str, str]:
    """Return the settings that a section of the report was measured with, as far as they change what is measured."""
    config = report.settings.get("config")
    found = config.get(section) if isinstance(config, dict) else None
    settings = found if isinstance(found, dict) else {}
    return {key: json.dumps(value) for key, value in settings.items() if key not in OF_NO_CONSEQUENCE}


def _sets(metric: str) -> tuple[str, ...]:
    """Return the sets of examples that a metric was measured on."""
    ending = metric.rpartition(".")[2]
    if ending in ("forget", "retain", "test", "unseen"):
        return (ending,)
    return ("retain", "forget", "test") if metric == "gap.average" else ("forget", "unseen")


def _digest(data: Data, name: str) -> str | None:
    found = {"forget": data.forget, "retain": data.retain, "test": data.test, "unseen": data.unseen}[name]
    return None if found is None else found.sha256


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

    Warnings do not count.
    """
    if not decisions:
        return 4
    binding = {decision.verdict for decision in decisions if decision.rule.severity == "fail"}
    codes = ((Verdict.ERROR, 3), (Verdict.FAILED, 1), (Verdict.INCONCLUSIVE, 4))
    return next((code for verdict, code in codes if verdict in binding), 0)
