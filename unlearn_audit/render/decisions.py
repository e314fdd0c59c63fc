"""A gate's decisions: a table for people, one JSON document for programs."""

import json
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from unlearn_audit.gate import Decision

__all__ = ["write"]

STYLES = {"passed": "green", "failed": "red", "inconclusive": "yellow"}


def write(decisions: Sequence[Decision], code: int, *, as_json: bool) -> None:
    """Write the decisions to stdout."""
    if as_json:
        body = {
            "exit_code": code,
            "decisions": [
                {"rule": d.rule.id, "metric": d.rule.metric, "subject": d.subject, "verdict": d.verdict, "why": d.why}
                for d in decisions
            ],
        }
        sys.stdout.write(json.dumps(body, indent=1, allow_nan=False) + "\n")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("rule", "subject", "verdict", "why"):
        table.add_column(heading, overflow="fold")
    for d in decisions:
        verdict = Text(d.verdict + (" (warning)" if d.rule.severity == "warn" else ""), style=STYLES[d.verdict])
        table.add_row(Text(d.rule.id), Text(d.subject), verdict, Text(f"{d.rule.metric}: {d.why}"))
    Console().print(table)
