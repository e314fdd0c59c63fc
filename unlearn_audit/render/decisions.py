"""A gate's decisions: a table for people, plain values for programs."""

from collections.abc import Sequence
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from unlearn_audit.gate import Decision
from unlearn_audit.render.table import printable

__all__ = ["as_values", "render"]

STYLES = {"passed": "green", "failed": "red", "inconclusive": "yellow"}


def as_values(decisions: Sequence[Decision], code: int) -> dict[str, Any]:
    """Return the decisions and the exit code as plain values for one JSON document."""
    return {
        "exit_code": code,
        "decisions": [
            {
                "rule": decision.rule.id,
                "metric": decision.rule.metric,
                "subject": decision.subject,
                "verdict": decision.verdict.value,
                "severity": decision.rule.severity,
                "why": decision.why,
            }
            for decision in decisions
        ],
    }


def render(decisions: Sequence[Decision]) -> RenderableType:
    """Return the decisions as a table."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("rule", "subject", "verdict", "why"):
        table.add_column(heading, overflow="fold")
    for decision in decisions:
        warning = " (warning)" if decision.rule.severity == "warn" else ""
        table.add_row(
            Text(printable(decision.rule.id)),
            Text(printable(decision.subject)),
            Text(decision.verdict + warning, style=STYLES[decision.verdict]),
            Text(printable(f"{decision.rule.metric}: {decision.why}")),
        )
    return table
