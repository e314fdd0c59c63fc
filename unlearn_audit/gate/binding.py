"""Whom a gate is about: whose measurements each rule judges, and that no file passes that no rule looked at."""

import os
from collections.abc import Sequence
from pathlib import Path

from unlearn_audit.errors import CheckpointError, UsageError, unknown_name
from unlearn_audit.files import check_input
from unlearn_audit.gate.doubting import named_twice
from unlearn_audit.gate.policy import Policy, Rule
from unlearn_audit.model_folder import sha256_of_checkpoint
from unlearn_audit.report import AuditReport, Subject

ANYBODY = "unlearned"  # the subject of a rule that names none; --subject and --checkpoint take its place


def measured_as(report: AuditReport, checkpoint: Path) -> Subject:
    """Return the subject that a file or a model's folder is, by its SHA-256.

    Raises:
        UsageError: the file cannot be read, is none of the report's, or is several of them.
    """
    if not os.path.isdir(checkpoint):
        check_input(checkpoint, "checkpoint", UsageError)
    try:
        digest = sha256_of_checkpoint(checkpoint)
    except (CheckpointError, OSError) as problem:
        raise UsageError(str(problem)) from problem
    found = [entry for entry in report.subjects if entry.sha256 == digest]
    if not found:
        raise UsageError(f"{checkpoint} (sha256 {digest[:12]}…) is none of the checkpoints that the report measured")
    if same := named_twice(report, digest):
        labels = " and ".join(f"{entry.label} ({entry.role})" for entry in same)
        raise UsageError(
            f"{checkpoint} (sha256 {digest[:12]}…) is {labels} in the report: it is not clear as what it is gated; "
            "audit it once, in one role"
        )
    return found[0]


def _named(report: AuditReport, wanted: str) -> tuple[Subject, ...]:
    """Return the subjects that have a label or a role."""
    return tuple(entry for entry in report.subjects if wanted in (entry.label, entry.role))


def bind(policy: Policy, report: AuditReport, subject: str | Subject | None) -> tuple[Subject, ...] | None:
    """Return the subjects that a gate is bound to; None where nobody was named, and every rule says whom it judges.

    Args:
        policy: whose blocking rules must all judge each of them.
        report: which measured them.
        subject: a label or role, or the subject itself.

    Raises:
        UsageError: the report has none such, or a rule that blocks speaks of others.
    """
    if subject is None:
        return None
    wanted = (subject,) if isinstance(subject, Subject) else _named(report, subject)
    if not wanted:
        known = [entry.label if entry.label.isprintable() else ascii(entry.label) for entry in report.subjects]
        hint = "A role names every subject that has it"
        raise UsageError(unknown_name("subject", str(subject), known, hint=hint))
    for rule in policy.rule:
        if rule.severity == "fail" and not _judges(rule, report, wanted):
            labels = " and ".join(entry.label for entry in wanted)
            raise UsageError(
                f"rule '{rule.id}' judges {rule.subject}, not {labels}: --subject and --checkpoint gate with rules "
                f"that judge what they name, so that nothing passes unseen; leave `subject` out of the rule, let it "
                'only warn (severity = "warn"), or gate without them'
            )
    return wanted


def _judges(rule: Rule, report: AuditReport, wanted: Sequence[Subject]) -> bool:
    return rule.subject == ANYBODY or set(wanted) <= set(_named(report, rule.subject))


def subjects_of(rule: Rule, report: AuditReport, bound: Sequence[Subject] | None) -> tuple[Subject, ...]:
    """Return whom a rule judges: those that the gate is bound to, or those that the rule names."""
    if bound is not None and (rule.subject == ANYBODY or rule.severity == "fail"):
        return tuple(bound)
    return _named(report, rule.subject)
