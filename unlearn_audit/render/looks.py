"""How every subject of a report looks in its pictures: name, colour, dash and mark."""

import json
from collections.abc import Iterator, Mapping, Sequence

from unlearn_audit.render.charts import CONTROL, ORIGINAL, RETRAINED, Series, Style, style_of
from unlearn_audit.report import AuditReport, Subject


class Look:
    """How every subject of a report is called and drawn, the same in all of its pictures."""

    def __init__(self, report: AuditReport) -> None:
        self.roles = {entry.subject: entry.role for entry in report.measurements}
        seeds = sum(role == "retrained" for role in self.roles.values())
        together = f"retrained ({seeds})"
        self.labels = {
            label: together if role == "retrained" and seeds > 1 else label for label, role in self.roles.items()
        }
        self.styles = dict(_styles(self.roles, {one.label: _method(one) for one in report.subjects}))

    def series(self, label: str, xs: Sequence[float], ys: Sequence[float]) -> Series:
        """Return a subject's points in its style."""
        return Series(self.labels[label], xs, ys, self.styles[label])


def _method(subject: Subject) -> str:
    """Return what models of one method have in common, whatever their seed; a label where no record says the method."""
    made = subject.made
    if made is None or made.method is None:
        return subject.label
    return json.dumps([made.method, made.transforms, made.settings, made.parent], sort_keys=True)


def _styles(roles: Mapping[str, str], methods: Mapping[str, str]) -> Iterator[tuple[str, Style]]:
    """Yield a style for every subject: the first original, retrained seeds, controls and a method's seeds share one."""
    free = (style for style in map(style_of, range(10**9)) if style.colour != ORIGINAL.colour)
    fixed = {"retrained": RETRAINED, "control": CONTROL}
    first = next((label for label, role in roles.items() if role == "original"), None)
    known: dict[str, Style] = {}
    for label, role in roles.items():
        if label == first or role in fixed:
            yield label, ORIGINAL if label == first else fixed[role]
            continue
        method = methods.get(label, label)
        known[method] = known.get(method) or next(free)
        yield label, known[method]
