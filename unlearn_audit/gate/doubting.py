"""Why a number that keeps its limits may still not answer the question: doubts of the report, and files named twice."""

from collections.abc import Iterator

from unlearn_audit.catalogue import METRICS
from unlearn_audit.report import AuditReport, Subject


def doubts_about(metric: str, entry: Subject, report: AuditReport) -> Iterator[str]:
    """Yield why what a rule looks at may not answer its question: the subject, what it is read against, the number.

    Args:
        metric: that the rule limits.
        entry: the subject that it judges.
        report: which has both.
    """
    peers = [entry, *report.with_role("retrained")]
    peers += report.with_role("original") if METRICS[metric].rests_on_original else ()
    for peer in peers:
        yield from peer.doubts
        measurement = report.find(metric, peer.label)
        yield from measurement.doubts if measurement is not None else ()
        same = named_twice(report, peer.sha256)
        if same:
            labels = " and ".join(other.label for other in same)
            yield f"{labels} are one file (sha256 {peer.sha256[:12]}…), so that it is not clear what it is"


def named_twice(report: AuditReport, digest: str) -> tuple[Subject, ...]:
    """Return the subjects that are the file of a digest, where there are several; else none."""
    same = tuple(entry for entry in report.subjects if entry.sha256 == digest)
    return same if len(same) > 1 else ()
