"""A gate's decisions as GitHub Actions shows them: an annotation for each rule that is not passed, a line for others.

The runner takes every line that begins with `::` for a command (and `##[` anywhere in a line). So what comes from a
report or a policy is escaped, and stands in no other place than a command's message or title.
"""

from collections.abc import Iterator

from unlearn_audit.gate import Decision, Gated, Verdict
from unlearn_audit.render.untrusted import brief


def render(gated: Gated) -> str:
    """Return lines for the log: what blocks is an error, what only warns a warning, what is waived a notice.

    Args:
        gated: what a gate found.
    """
    return "".join(f"{line}\n" for line in _lines(gated))


def _lines(gated: Gated) -> Iterator[str]:
    for decision in gated.decisions:
        rule, verdict = decision.rule, decision.verdict.value
        told = f"{decision.subject}: {rule.metric}: {decision.why}" + (f"; {rule.reason}" if rule.reason else "")
        kind = _kind(decision)
        if kind is None:
            yield _plain(f"{verdict}: {rule.id}, {told}")
        else:
            yield command(kind, f"{rule.id}: {verdict}", told)
    for text in gated.revived:
        yield command("warning", "waiver", text)


def _kind(decision: Decision) -> str | None:
    if decision.verdict == Verdict.PASSED:
        return None
    if decision.verdict == Verdict.WAIVED:
        return "notice"
    return "warning" if decision.rule.severity == "warn" else "error"


def command(kind: str, title: str, text: str) -> str:
    """Return a workflow command that makes an annotation.

    Args:
        kind: "error", "warning" or "notice".
        title: of the annotation.
        text: its message; of both nothing can end the command or begin another.

    >>> command("error", "a, b: failed", "100 % of it")
    '::error title=a%2C b%3A failed::100 %25 of it'
    """
    data = brief(text).replace("%", "%25")
    name = brief(title).replace("%", "%25").replace(":", "%3A").replace(",", "%2C")
    return f"::{kind} title={name}::{data}"


def _plain(text: str) -> str:
    """Return a line in which the runner finds no command."""
    return brief(text).replace("##[", "## [")
