"""A gate's outcome as an unsigned in-toto Statement, for those who sign releases."""

from collections.abc import Iterator
from typing import Any

from unlearn_audit.errors import ReportError
from unlearn_audit.gate import Gated, Verdict, worst

STATEMENT = "https://in-toto.io/Statement/v1"
TEST_RESULT = "https://in-toto.io/attestation/test-result/v0.1"


def as_statement(gated: Gated) -> dict[str, Any]:
    """Return the Statement as plain values; its tests are the rules, by their ids.

    A statement speaks of the checkpoints that a blocking rule judged and of no others that the report may hold: an
    original model must not be found to have passed because the unlearned one did. Inconclusive and error are FAILED;
    a rule that was waived, or only warns, is WARNED.

    Raises:
        ReportError: no checkpoint was judged by a rule that blocks, so that there is nothing to speak of.
    """
    if gated.decisions and not any(decision.rule.severity == "fail" for decision in gated.decisions):
        raise ReportError(f"{gated.policy.path}: no statement can be made: the policy is advisory, so nothing can fail")
    subjects = {label: decision.sha256 for label, decision in gated.judged.items()}
    if not subjects:
        why = gated.problem or "no rule speaks of a checkpoint that the report has"
        raise ReportError(f"{gated.report.path}: no statement can be made: {why}")
    results = _results(gated)
    named = {
        kind: [rule for rule, found in results.items() if found == kind] for kind in ("PASSED", "WARNED", "FAILED")
    }
    return {
        "_type": STATEMENT,
        "subject": [{"name": label, "digest": {"sha256": digest}} for label, digest in subjects.items()],
        "predicateType": TEST_RESULT,
        "predicate": {
            "result": _result(gated, results),
            "configuration": list(_configuration(gated)),
            "passedTests": named["PASSED"],
            "warnedTests": named["WARNED"],
            "failedTests": named["FAILED"],
        },
    }


def _results(gated: Gated) -> dict[str, str]:
    """Return the result of every rule; where it speaks of several checkpoints the worst counts."""
    found: dict[str, str] = {}
    for rule in dict.fromkeys(decision.rule for decision in gated.decisions):
        verdict = worst([decision.verdict for decision in gated.decisions if decision.rule == rule])
        mild = verdict == Verdict.WAIVED or rule.severity == "warn"
        found[rule.id] = "PASSED" if verdict == Verdict.PASSED else "WARNED" if mild else "FAILED"
    return found


def _result(gated: Gated, results: dict[str, str]) -> str:
    if gated.code != 0:
        return "FAILED"
    return "WARNED" if "WARNED" in results.values() else "PASSED"


def _configuration(gated: Gated) -> Iterator[dict[str, Any]]:
    """Yield what the result rests on: the policy with its waivers and the day, then the reports it was held against."""
    waivers = [{**found.waiver.model_dump(mode="json"), "status": found.status} for found in gated.waivers]
    notes = {"notes": list(gated.revived)} if gated.revived else {}
    said = {"today": gated.today.isoformat(), "waivers": waivers, **notes}
    others = [{"name": entry.label, "digest": {"sha256": entry.sha256}} for entry in gated.not_judged]
    unjudged = {"annotations": {"notJudged": others}} if others else {}
    for source, more in ((gated.policy, {"annotations": said}), (gated.report, unjudged), (gated.baseline, {})):
        if source is not None and source.sha256:
            yield {"name": source.path, "digest": {"sha256": source.sha256}, **more}
