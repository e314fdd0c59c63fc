"""A gate's decisions and waivers: tables for people, Markdown for a step summary, plain values for programs."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from unlearn_audit.gate import Decision, Gated, ReportSource, ReviewedWaiver, Verdict
from unlearn_audit.render.gfm import bullets, kept_short, pipe_table
from unlearn_audit.render.untrusted import brief
from unlearn_audit.report import Subject

STYLES = {
    "passed": "green",
    "failed": "red",
    "inconclusive": "yellow",
    "waived": "yellow",
    "error": "red",
    "used": "yellow",
    "unused": "dim",
    "expired": "red",
}
DECIDED = ("rule", "subject", "verdict", "why")
WAIVED = ("waiver of rule", "checkpoint", "status", "owner, reason")


def as_values(decisions: Sequence[Decision], code: int) -> dict[str, Any]:
    """Return the decisions and the exit code as plain values for one JSON document."""
    return {"exit_code": code, "decisions": [_decision_values(decision) for decision in decisions]}


def _decision_values(decision: Decision) -> dict[str, Any]:
    found = decision.measurement
    return {
        "rule": decision.rule.id,
        "metric": decision.rule.metric,
        "subject": decision.subject,
        "sha256": decision.sha256,
        "verdict": decision.verdict.value,
        "severity": decision.rule.severity,
        "why": decision.why,
        "reason": decision.rule.reason,
        "value": found.value if found else None,
        "n": found.n if found else None,
        "interval": found.interval.model_dump(mode="json") if found and found.interval else None,
    }


def as_document(gated: Gated) -> dict[str, Any]:
    """Return everything that a gate found as plain values: what was read with its digest, decisions, waivers."""
    return {
        "schema_version": 1,
        "verdict": gated.outcome,
        "problem": str(gated.problem) if gated.problem else None,
        "report": gated.report._asdict(),
        "policy": gated.policy._asdict(),
        "baseline": gated.baseline._asdict() if gated.baseline else None,
        "today": gated.today.isoformat(),
        **as_values(gated.decisions, gated.code),
        "waivers": [_waiver_values(reviewed) for reviewed in gated.waivers],
        "judged": [_subject_values(entry) for entry in gated.subjects if entry.label in gated.judged],
        "not_judged": [_subject_values(entry) for entry in gated.not_judged],
        "notes": list(gated.revived),
        "limitations": list(gated.limitations),
    }


def _subject_values(entry: Subject) -> dict[str, str]:
    return {"label": entry.label, "role": entry.role, "path": entry.path, "sha256": entry.sha256}


def told(gated: Gated) -> Iterator[str]:
    """Yield sentences on what the outcome is about, what it says nothing about, and waivers that a day revived."""
    for label, decision in gated.judged.items():
        yield f"judged: {label}, {decision.path}, sha256 {decision.sha256}"
    if gated.subjects and not gated.judged:
        yield "judged: no checkpoint"
    if gated.not_judged:
        yield "not judged: " + ", ".join(f"{entry.label} ({entry.role})" for entry in gated.not_judged)
    yield from gated.revived


def _waiver_values(reviewed: ReviewedWaiver) -> dict[str, Any]:
    return {**reviewed.waiver.model_dump(mode="json"), "status": reviewed.status, "why": reviewed.why}


def _verdict(decision: Decision) -> str:
    """Return a verdict as people read it; one that stops nothing says so."""
    return decision.verdict.value + (" (warning)" if _only_warns(decision) else "")


def _only_warns(decision: Decision) -> bool:
    """Return whether a verdict stops nothing, because its rule only warns."""
    return decision.rule.severity == "warn" and decision.verdict != Verdict.PASSED


def counted(decisions: Sequence[Decision]) -> str:
    """Return how many decisions ended how, in the order in which they come, warnings last and apart.

    What a rule that only warns did not pass stops nothing: it is a warning, and no failure.
    """
    counts = Counter(decision.verdict.value for decision in decisions if not _only_warns(decision))
    warnings = sum(map(_only_warns, decisions))
    told = [f"{count} {verdict}" for verdict, count in counts.items()]
    return ", ".join(told + ([f"{warnings} warning{'s' * (warnings > 1)}"] if warnings else []))


def decision_rows(decisions: Iterable[Decision]) -> Iterator[tuple[str, str, str, str]]:
    """Yield rule, subject, verdict and reason of each decision, as `DECIDED` heads them."""
    for decision in decisions:
        yield decision.rule.id, decision.subject, _verdict(decision), f"{decision.rule.metric}: {decision.why}"


def waiver_rows(waivers: Iterable[ReviewedWaiver]) -> Iterator[tuple[str, str, str, str]]:
    """Yield rule, checkpoint, status and reason of each waiver, as `WAIVED` heads them."""
    for waiver, status, why in waivers:
        yield waiver.rule, f"{waiver.sha256[:12]}…", status, f"{waiver.owner}, {waiver.reason} ({why})"


def render(decisions: Sequence[Decision]) -> RenderableType:
    """Return the decisions as a table: the verdict, and beside it the rule with the reason for the verdict."""
    return _table(
        ("verdict", "rule"),
        ((verdict, f"{name}, {subject}", why) for name, subject, verdict, why in decision_rows(decisions)),
    )


def render_gated(gated: Gated) -> RenderableType:
    """Return whom the outcome is about, the decisions, below them waivers, and the report's limitations."""
    shown = render(gated.decisions)
    waived = (
        (status, f"{rule}, checkpoint {checkpoint}", why)
        for rule, checkpoint, status, why in waiver_rows(gated.waivers)
    )
    parts: list[RenderableType] = [shown, "", _table(("waiver", "of rule"), waived)] if gated.waivers else [shown]
    parts = [*(Text(brief(text)) for text in told(gated)), Text(), *parts]
    if gated.limitations:
        parts += [Text("\nLimitations of the report", style="bold")]
        parts += [Padding(Text(brief(text), style="yellow"), (0, 0, 0, 2)) for text in gated.limitations]
    return Group(*parts)


def _table(headings: tuple[str, str], rows: Iterable[tuple[str, str, str]]) -> Table:
    """Return a table of two columns: a status, and a name above the reason, which so has room in 80 columns."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column(headings[0], no_wrap=True)
    table.add_column(headings[1], overflow="fold")
    for status, name, why in rows:
        style = STYLES[status.removesuffix(" (warning)")]
        table.add_row(Text(status, style=style), Text.assemble((brief(name), "bold"), "\n", brief(why)))
    return table


def as_markdown(gated: Gated) -> str:
    """Return everything as Markdown of at most 1 MB; a text that would be longer ends with a sentence that says so."""
    sign = {"passed": "✅", "failed": "❌", "error": "❗", "inconclusive": "❔"}[gated.outcome]
    lines = [f"### {sign} The policy's verdict: {gated.outcome}", ""]
    lines += [*bullets([str(gated.problem)]), ""] if gated.problem else []
    lines += [*pipe_table(DECIDED, decision_rows(gated.decisions)), ""]
    lines += [*pipe_table(WAIVED, waiver_rows(gated.waivers)), ""] if gated.waivers else []
    lines += [*bullets(told(gated)), ""]
    lines += ["#### Limitations of the report", "", *bullets(gated.limitations), ""] if gated.limitations else []
    return kept_short("\n".join([*lines, *bullets(_read(gated))]) + "\n")


def _read(gated: Gated) -> Iterator[str]:
    """Yield what was read."""
    for what, source in (("report", gated.report), ("policy", gated.policy), ("baseline", gated.baseline)):
        if source is not None:
            yield f"{what} {source.path}, {_digest(source)}"
    yield f"waivers as of {gated.today}"


def _digest(source: ReportSource) -> str:
    return f"sha256 {source.sha256}" if source.sha256 else "not readable"
