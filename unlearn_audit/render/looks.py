"""How every subject of a report looks in its pictures: name, colour, dash and mark."""

from collections.abc import Iterator, Mapping, Sequence

from unlearn_audit.render.charts import CONTROL, ORIGINAL, RETRAINED, Series, Style, style_of
from unlearn_audit.report import AuditReport


class Look:
    """How every subject of a report is called and drawn, the same in all of its pictures."""

    def __init__(self, report: AuditReport) -> None:
        self.roles = {entry.subject: entry.role for entry in report.measurements}
        seeds = sum(role == "retrained" for role in self.roles.values())
        together = f"retrained ({seeds})"
        self.labels = {
            label: together if role == "retrained" and seeds > 1 else label for label, role in self.roles.items()
        }
        self.styles = dict(_styles(self.roles))

    def series(self, label: str, xs: Sequence[float], ys: Sequence[float]) -> Series:
        """Return a subject's points in its style."""
        return Series(self.labels[label], xs, ys, self.styles[label])


def _styles(roles: Mapping[str, str]) -> Iterator[tuple[str, Style]]:
    """Yield a style for every subject: one for the first original, one for all retrained seeds, one for controls."""
    free = (style for style in map(style_of, range(10**9)) if style.colour != ORIGINAL.colour)
    fixed = {"retrained": RETRAINED, "control": CONTROL}
    first = next((label for label, role in roles.items() if role == "original"), None)
    for label, role in roles.items():
        yield label, ORIGINAL if label == first else fixed.get(role) or next(free)
