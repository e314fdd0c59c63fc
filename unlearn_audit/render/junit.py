"""A gate's decisions as JUnit XML, which every CI system shows: a rule is a test case, a subject its class."""

from collections.abc import Iterator
from xml.etree.ElementTree import Element, indent

from unlearn_audit.gate import Decision, Gated, Verdict
from unlearn_audit.render.markup import as_xml, element
from unlearn_audit.render.untrusted import brief

SUITE = "unlearn-audit"
OUTCOMES = {
    Verdict.FAILED: "failure",
    Verdict.INCONCLUSIVE: "error",
    Verdict.ERROR: "error",
    Verdict.WAIVED: "skipped",
}


def render(gated: Gated) -> str:
    """Return the XML text: failed is a failure, inconclusive and error are errors, waived is skipped.

    A failure turns a build red, which a rule that only warns must not: it is skipped, with its verdict in the message.
    """
    cases = [_case(decision) for decision in gated.decisions]
    kinds = [child.tag for case in cases for child in case]
    counts = {f"{kind}s": kinds.count(kind) for kind in ("failure", "error")} | {"skipped": kinds.count("skipped")}
    properties = [element("property", name=name, value=value) for name, value in _properties(gated)]
    seconds = f"{sum(decision.seconds for decision in gated.decisions):.6f}"
    same = {"name": SUITE, "tests": len(cases), "time": seconds, **counts}
    stamp = gated.moment.replace(tzinfo=None).isoformat(timespec="seconds")  # the format has no place for a zone: UTC
    suite = element("testsuite", element("properties", *properties), *cases, timestamp=stamp, **same)
    tree = element("testsuites", suite, **same)
    for node in tree.iter():
        node.tail = None
    indent(tree)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{as_xml(tree)}\n'


def _case(decision: Decision) -> Element:
    outcome, rule, verdict = _outcome(decision), decision.rule, decision.verdict.value
    message = f"{'warning: ' * (rule.severity == 'warn')}{verdict}: {brief(decision.why)}"
    said = f"{rule.metric} of {brief(decision.subject)}: {brief(decision.why)}" + (
        f"; the rule: {rule.reason}" if rule.reason else ""
    )
    kind = None if outcome == "skipped" else verdict
    children = [element(outcome, said, message=message, type=kind)] if outcome else []
    taken = f"{decision.seconds:.6f}"
    return element("testcase", *children, classname=f"{SUITE}.{decision.subject}", name=rule.id, time=taken)


def _outcome(decision: Decision) -> str | None:
    outcome = OUTCOMES.get(decision.verdict)
    return "skipped" if outcome and decision.rule.severity == "warn" else outcome


def _properties(gated: Gated) -> Iterator[tuple[str, str]]:
    """Yield what was read and every waiver, as names and values."""
    yield "verdict", gated.outcome
    for what, source in (("report", gated.report), ("policy", gated.policy), ("baseline", gated.baseline)):
        if source is not None:
            yield what, source.path
            yield f"{what}.sha256", source.sha256 or "not readable"
    yield "today", gated.today.isoformat()
    for label, decision in gated.judged.items():
        yield f"judged.{label}", f"{decision.path}, sha256 {decision.sha256}"
    for entry in gated.not_judged:
        yield f"not_judged.{entry.label}", f"{entry.path}, sha256 {entry.sha256}"
    for number, text in enumerate(gated.revived):
        yield f"note.{number}", text
    for waiver, status, why in gated.waivers:
        said = f"{status}: {why}; {waiver.owner}, {waiver.reason}; checkpoint {waiver.sha256}"
        yield f"waiver.{waiver.rule}", said
