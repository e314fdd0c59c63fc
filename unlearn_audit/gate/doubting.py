"""Why a number that keeps its limits may still not answer the question: doubts of the report, and files named twice."""

from collections.abc import Iterator

from unlearn_audit.catalogue import METRICS
from unlearn_audit.report import AuditReport, Subject

OVER_A_FLOOR = frozenset({"rcd.raw", "rcd.scaled", "rcd.normalised", "rcd.ratio_to_retrained"})


def doubts_about(metric: str, entry: Subject, report: AuditReport) -> Iterator[str]:
    """Yield why what a rule looks at may not answer its question: the subject, what it is read against, the number.

    Args:
        metric: that the rule limits.
        entry: the subject that it judges.
        report: which has both.
    """
    peers = [entry, *report.with_role("retrained")]
    peers += report.with_role("original") if _rests_on_original(metric, report) else ()
    for peer in peers:
        yield from peer.doubts
        measurement = report.find(metric, peer.label)
        yield from measurement.doubts if measurement is not None else ()
        same = named_twice(report, peer.sha256)
        if same:
            labels = " and ".join(other.label for other in same)
            yield f"{labels} are one file (sha256 {peer.sha256[:12]}…), so that it is not clear what it is"


def _rests_on_original(metric: str, report: AuditReport) -> bool:
    """Return whether a metric is read off an original: always, over its curve, or in steps to a generator's loss."""
    config = report.settings.get("config")
    rcd = config.get("rcd") if isinstance(config, dict) else None
    rcd = rcd if isinstance(rcd, dict) else {}
    if metric in OVER_A_FLOOR and rcd.get("floor") == "original":
        return True
    of_generators = rcd.get("draws") is not None
    return METRICS[metric].rests_on_original or (metric == "rcd.steps_to_relearn" and of_generators)


def named_twice(report: AuditReport, digest: str) -> tuple[Subject, ...]:
    """Return the subjects that are the file of a digest, where there are several; else none."""
    same = tuple(entry for entry in report.subjects if entry.sha256 == digest)
    return same if len(same) > 1 else ()
