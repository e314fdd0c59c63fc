"""The gate: a policy's rules against a report, without torch. It fails closed."""

from unlearn_audit.gate.evaluate import (
    Decision,
    Gated,
    ReportSource,
    ReviewedWaiver,
    apply_policy,
    exit_code,
    gate_files,
    review_waivers,
)
from unlearn_audit.gate.policy import (
    SHIPPED,
    Policy,
    Rule,
    Waiver,
    is_policy_name,
    policy_file,
    read_policy,
    shipped_policy,
)
from unlearn_audit.gate.rules import Judgement, Verdict, judge, worst

__all__ = [
    "SHIPPED",
    "Decision",
    "Gated",
    "Judgement",
    "Policy",
    "ReportSource",
    "ReviewedWaiver",
    "Rule",
    "Verdict",
    "Waiver",
    "apply_policy",
    "exit_code",
    "gate_files",
    "is_policy_name",
    "judge",
    "policy_file",
    "read_policy",
    "review_waivers",
    "shipped_policy",
    "worst",
]
