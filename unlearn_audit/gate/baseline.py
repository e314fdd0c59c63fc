"""What a subject's measurement is compared with where a rule limits a change: the last release's, if that is fair."""

import json

from unlearn_audit.catalogue import METRICS
from unlearn_audit.gate.doubting import doubts_about
from unlearn_audit.report import AuditReport, Data, Measurement, SetSummary, Subject, other_settings


def earlier(metric: str, entry: Subject, report: AuditReport, baseline: AuditReport) -> Measurement | str:
    """Return the measurement that a subject's is compared with, or why there is none.

    Only what was measured on the same data, for the same forget set and in the same way can show a change.

    Args:
        metric: whose change is limited.
        entry: the subject that is judged.
        report: which measured it.
        baseline: what was measured of the last release.
    """
    data = report.data
    sets = dict.fromkeys(("forget", *METRICS[metric].sets))
    other = [name for name in sets if _digest(data, name) != _digest(baseline.data, name)]
    if data.sha256 != baseline.data.sha256 or other:
        what = f"another {' and '.join(other)} set" if other else "other data"
        return f"the baseline was measured on {what}, so a change would say nothing"
    if _sampling(report) != _sampling(baseline):
        return "the baseline was measured on another sample of the forget set, so a change would say nothing"
    changed = next(other_settings(metric, report, baseline), None)
    if changed is not None:
        return f"the baseline was measured with another {changed}, so a change would say nothing"
    peers = [peer for peer in baseline.subjects if peer.role == entry.role]
    same = [peer for peer in peers if peer.label == entry.label] or peers
    if len(same) != 1:
        return f"the baseline has {len(same)} subjects of role {entry.role}, and none of them is labelled {entry.label}"
    doubt = next(doubts_about(metric, same[0], baseline), None)
    if doubt is not None:
        return f"the baseline is in doubt: {doubt}"
    found = baseline.find(metric, same[0].label)
    return found if found is not None and found.role == entry.role else "the baseline did not measure it"


def _sampling(report: AuditReport) -> tuple[str, ...]:
    """Return what decides which examples of the forget set were measured: nothing, or a number and a seed."""
    config = report.settings.get("config")
    if not isinstance(config, dict) or config.get("sample") is None:
        return ()
    return tuple(json.dumps(config.get(key)) for key in ("sample", "seed"))


def _digest(data: Data, name: str) -> str | None:
    found: SetSummary | None = getattr(data, name)
    return None if found is None else found.measured_sha256 or found.sha256
