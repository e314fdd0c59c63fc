"""What the comparisons say of every model as one table, and which sentences of the conclusion it stands for."""

from typing import NamedTuple

from unlearn_audit.conclusion import Compared, compared
from unlearn_audit.conclusion.words import named
from unlearn_audit.render.small_tables import SmallTable
from unlearn_audit.report import AuditReport

HEADING = ("model", "differs on", "no difference seen on", "could not tell on")


class Verdicts(NamedTuple):
    """The table, None where nothing was compared; its sentences, with their numbers; and all other sentences."""

    table: SmallTable | None
    sentences: tuple[str, ...]
    others: tuple[str, ...]


def verdicts_of(report: AuditReport) -> Verdicts:
    """Return a report's conclusion, apart by what a table of models shows at a glance.

    A model is in the table where the conclusion has its sentence; a report that another version of this tool wrote may
    have said it in other words, and then these stand as they are.
    """
    found = [one for one in compared(report.measurements) if one.sentence in report.conclusion]
    told = {one.sentence for one in found}
    others = tuple(text for text in report.conclusion if text not in told)
    if not found:
        return Verdicts(None, (), others)
    table = SmallTable("Each model beside the retrained ones", HEADING, tuple(map(_row, found)))
    return Verdicts(table, tuple(one.sentence for one in found), others)


def _row(one: Compared) -> tuple[str, ...]:
    """Return a model's line; of what others are compared with, only what differs is told."""
    blank = "" if one.role in ("retrained", "control") else "nothing"
    told = one.told
    blind = [f"{name} (blind)" for name in told.blind] + [f"{name} (nor the original)" for name in told.useless]
    return named(one.label, one.role), *(", ".join(part) or blank for part in (told.differing, told.equal, blind))
