"""A report's pictures as files: charts as SVG, which any converter makes a PDF of, sheets of samples as PNG."""

import re
from collections.abc import Iterator, Mapping

from unlearn_audit.render import charts
from unlearn_audit.render.arrays import Arrays
from unlearn_audit.render.png import png
from unlearn_audit.render.sections import sections
from unlearn_audit.report import AuditReport

LONGEST = 80  # characters of a name


def figure_files(report: AuditReport, arrays: Arrays) -> Mapping[str, bytes]:
    """Return every picture of a report under the name of a file, in the order of the page.

    Args:
        report: what was measured.
        arrays: what lies beside it.
    """
    found: dict[str, bytes] = {}
    for name, ending, content in _pictures(report, arrays):
        free = (f"{name}{suffix}.{ending}" for suffix in ("", *(f"-{number}" for number in range(2, len(found) + 3))))
        found[next(each for each in free if each not in found)] = content
    return found


def _pictures(report: AuditReport, arrays: Arrays) -> Iterator[tuple[str, str, bytes]]:
    for section in sections(report, arrays):
        for chart in section.charts:
            yield _name(chart.title), "svg", charts.document(chart).encode()
        for picture in section.pictures:
            yield _name(picture.title), "png", png(picture.pixels)


def _name(title: str) -> str:
    """Return a title as a name that every system takes.

    >>> _name("Average gap against RCD / RCD of the unseen twin"), _name("../..")
    ('average-gap-against-rcd-rcd-of-the-unseen-twin', 'figure')
    """
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:LONGEST].rstrip("-") or "figure"
