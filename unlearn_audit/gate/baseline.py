"""What a subject's measurement is compared with where a rule limits a change: the last release's, if that is fair."""

import json

from unlearn_audit.catalogue import METRICS
from unlearn_audit.gate.doubting import doubts_about
from unlearn_audit.report import AuditReport, Data, Measurement, SetSummary, Subject


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
    for section in _sections(metric):
        changed = sorted(_instrument(report, section).items() ^ _instrument(baseline, section).items())
        if changed:
            return f"the baseline was measured with another {section}.{changed[0][0]}, so a change would say nothing"
    peers = [peer for peer in baseline.subjects if peer.role == entry.role]
    same = [peer for peer in peers if peer.label == entry.label] or peers
    if len(same) != 1:
        return f"the baseline has {len(same)} subjects of role {entry.role}, and none of them is labelled {entry.label}"
    doubt = next(doubts_about(metric, same[0], baseline), None)
    if doubt is not None:
        return f"the baseline is in doubt: {doubt}"
    found = baseline.find(metric, same[0].label)
    return found if found is not None and found.role == entry.role else "the baseline did not measure it"


def _sections(metric: str) -> tuple[str, ...]:
    """Return the sections of a config that say how a metric is measured; truncation relearns as `rcd` says."""
    section = METRICS[metric].section
    return ("rcd", section) if section == "truncation" else (section,)


def _sampling(report: AuditReport) -> tuple[str, ...]:
    """Return what decides which examples of the forget set were measured: nothing, or a number and a seed."""
    config = report.settings.get("config")
    if not isinstance(config, dict) or config.get("sample") is None:
        return ()
    return tuple(json.dumps(config.get(key)) for key in ("sample", "seed"))


OF_NO_CONSEQUENCE = ("resamples", "controls", "accuracies", "worst", "attacks", "shadows")  # for a number's meaning


def _instrument(report: AuditReport, section: str) -> dict[str, str]:
    """Return the settings that a section of the report was measured with, as far as they change what is measured."""
    config = report.settings.get("config")
    found = config.get(section) if isinstance(config, dict) else None
    settings = found if isinstance(found, dict) else {}
    return {key: json.dumps(value) for key, value in settings.items() if key not in OF_NO_CONSEQUENCE}


def _digest(data: Data, name: str) -> str | None:
    found: SetSummary | None = getattr(data, name)
    return None if found is None else found.measured_sha256 or found.sha256
