"""Small tables beside the main one: RCD under several step sizes, and its ranking as a function of K."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from unlearn_audit.render.details import RcdDetails, StepSize, details_of
from unlearn_audit.report import AuditReport

MOST_COLUMNS = 4
MOST_CHANGES = 3  # pairs of models whose change of order is told in words


class SmallTable(NamedTuple):
    """A table of texts: what it shows, its heading (the first entry names the rows), its rows, and notes below it."""

    title: str
    heading: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def small_tables(report: AuditReport) -> tuple[SmallTable, ...]:
    """Return the tables that the report has something for; none where nothing changes."""
    raw = {found.subject: details_of(found, RcdDetails) for found in report.measurements if found.name == "rcd.raw"}
    return (*_step_sizes(raw), *_ranking(raw))


def _step_sizes(raw: Mapping[str, RcdDetails]) -> list[SmallTable]:
    """Return RCD, and how far each curve moved, for every step size that was asked for."""
    rows = {label: found.step_sizes for label, found in raw.items() if found.step_sizes}
    first = next(iter(rows.values()), ())
    if any([one.step_size for one in found] != [one.step_size for one in first] for found in rows.values()):
        return []
    tables = []
    for start in range(0, len(first), MOST_COLUMNS):
        part = slice(start, start + MOST_COLUMNS)
        cells = [(label, *(_moved(entry) for entry in found[part])) for label, found in rows.items()]
        cells.append(("Kendall's tau", *(_tau(entry) for entry in first[part])))
        heading = ("step size", *(f"{entry.step_size:g}" for entry in first[part]))
        tables.append(SmallTable("RCD (and how far the loss fell) by step size", heading, tuple(cells)))
    return [*tables[:-1], tables[-1]._replace(notes=_notes(rows, first))] if tables else []


def _moved(entry: StepSize) -> str:
    if entry.value is None:
        return "–"
    return f"{entry.value:.4g}" + ("" if entry.moved is None else f" ({entry.moved:.1%})")


def _tau(entry: StepSize) -> str:
    tau = entry.kendall_tau_to_first
    return "–" if tau is None else f"{tau:.2f}"


def _notes(rows: Mapping[str, Sequence[StepSize]], first: Sequence[StepSize]) -> tuple[str, ...]:
    """Say which step sizes measure only the initial loss, and why there is no tau."""
    still = [
        f"{entry.step_size:g}"
        for index, entry in enumerate(first)
        if all(found[index].essentially_initial_loss for found in rows.values())
    ]
    reasons = dict.fromkeys(entry.kendall_tau_reason for entry in first if entry.kendall_tau_reason)
    notes = [f"at {', '.join(still)} RCD is essentially (K + 1) x initial loss"] if still else []
    notes += [f"Kendall's tau (of each ranking with the first): {reason}" for reason in reasons]
    return tuple(notes)


def _ranking(raw: Mapping[str, RcdDetails]) -> list[SmallTable]:
    """Return the models' ranks at K = 1, 10, 100, ..., where they are not the same for all of them."""
    whole = {label: found.rank_by_k for label, found in raw.items() if found.rank_by_k}
    if all(len(set(found.values())) == 1 for found in whole.values()):
        return []
    steps = list(next(iter(whole.values())))
    cells = tuple((label, *(str(found.get(k, "–")) for k in steps)) for label, found in whole.items())
    return [SmallTable("rank by RCD as K grows (1: slowest)", ("K", *steps), cells, _changes(raw))]


def _changes(raw: Mapping[str, RcdDetails]) -> tuple[str, ...]:
    """Say which models change order, and at which K, the last change of each pair."""
    said = sorted(
        (change.at, label, change.other)
        for label, found in raw.items()
        for change in found.order_changes or ()
        if change.larger_from_there
    )
    last = {frozenset((larger, smaller)): (larger, smaller, at) for at, larger, smaller in said}
    told = [f"{larger} is above {smaller} from K = {at} on" for larger, smaller, at in last.values()]
    more = len(told) - MOST_CHANGES
    return (*told[:MOST_CHANGES], *([f"and {more} more pairs change order"] if more > 0 else ()))
