"""The tables: retrained models first, then originals, then a line for each method, and what may not be put together."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import numpy as np

from unlearn_audit.catalogue import METRICS, MetricInfo
from unlearn_audit.report import AuditReport, Subject, other_settings
from unlearn_audit.results.cells import Cell, Value
from unlearn_audit.results.choosing import COSTS, chosen_metrics, info_of
from unlearn_audit.results.studies import Named, Setting, same_setting

By = Literal["method", "label", "role"]
ROLES = ("retrained", "original")  # whose lines come first
NO_RECORD = "its file does not say what it cost"


class Column(NamedTuple):
    """A metric or a cost, and why numbers of several reports may not share a cell of it; None where they may."""

    info: MetricInfo
    why_not: str | None = None


class Model(NamedTuple):
    """A subject of one of the reports."""

    source: Named
    subject: Subject

    @property
    def who(self) -> str:
        """Its label and its report."""
        return f"{self.subject.label} ({self.source.name})"


class Line(NamedTuple):
    """One method, label or role: the models that stand for it, and a cell for each column."""

    title: str
    role: str
    models: tuple[Model, ...]
    cells: tuple[Cell, ...]


class ResultTable(NamedTuple):
    """What reports of one setting have found.

    Attributes:
        setting: what they share.
        reports: which they are.
        columns: metrics and costs.
        lines: in the order of the table.
        notes: what a reader needs beside it.
    """

    setting: Setting
    reports: tuple[Named, ...]
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...]


def tables_of(
    reports: Sequence[Named], *, by: By = "method", metrics: Sequence[str] = ()
) -> tuple[tuple[ResultTable, ...], tuple[str, ...]]:
    """Return a table for each setting, and sentences on why there are several.

    Args:
        reports: with names that differ.
        by: what the models of a line share: method, transforms and settings; the label; or the role.
        metrics: names or patterns of the columns; the usual ones where there are none.

    Raises:
        UsageError: no report has such a metric.
    """
    names = chosen_metrics([one.report for one in reports], metrics)
    by_setting = same_setting(reports)
    tables = tuple(_table(setting, tuple(mine), names, by) for setting, mine in by_setting.items())
    return tables, tuple(_apart(list(by_setting.items())))


def _apart(found: Sequence[tuple[Setting, Sequence[Named]]]) -> Iterator[str]:
    """Yield why reports stand in tables of their own."""
    for (one, first), (other, second) in pairwise(found):
        what = " and ".join(one.unlike(other))
        yield f"not compared, since their {what} differ: {_list(first)} and {_list(second)}"


def _list(reports: Sequence[Named]) -> str:
    return ", ".join(one.name for one in reports)


def _table(setting: Setting, reports: tuple[Named, ...], names: Sequence[str], by: By) -> ResultTable:
    there = {one.name for source in reports for one in source.report.measurements}
    columns = tuple(_column(name, reports) for name in names if name in there or name in COSTS)
    lines = tuple(_lines(reports, columns, by))
    # a column in which nobody has a number is told, and not shown
    shown = [place for place, column in enumerate(columns) if any(_is_filled(line.cells[place]) for line in lines)]
    notes = (
        *_about(reports),
        *_about_lines(reports, lines),
        *_about_columns(columns, lines, shown),
        *_about_cells(columns, lines, shown),
    )
    return ResultTable(
        setting,
        reports,
        tuple(columns[place] for place in shown),
        tuple(line._replace(cells=tuple(line.cells[place] for place in shown)) for line in lines),
        tuple(dict.fromkeys(notes)),
    )


def _is_filled(cell: Cell) -> bool:
    return bool(cell.numbers) or cell.words is not None


def _column(name: str, reports: Sequence[Named]) -> Column:
    """Return a column, with the reason where several reports' numbers may not be put together."""
    info = info_of(name)
    mine = [one for one in reports if any(found.name == name for found in one.report.measurements)]
    if len(mine) < 2 or name in COSTS:
        return Column(info)
    if info.within_one_run:
        return Column(info, "compares only within one run, whose models share a step size: name one report")
    if name in METRICS:
        for other in mine[1:]:
            changed = list(other_settings(name, mine[0].report, other.report))
            if changed:
                return Column(info, f"{mine[0].name} and {other.name} measured it with another {', '.join(changed)}")
    return Column(info)


# ----- lines


def _lines(reports: Sequence[Named], columns: Sequence[Column], by: By) -> Iterator[Line]:
    models = list(_once(Model(source, subject) for source in reports for subject in source.report.subjects))
    groups: dict[tuple[str, str], list[Model]] = {}
    titled = _by_method(models) if by == "method" else _TITLES[by]
    for one in models:
        role = one.subject.role
        title = role if role == "retrained" or (role in ROLES and by != "label") else titled(one)
        groups.setdefault((role if role in ROLES else "", title), []).append(one)
    first = {role: place for place, role in enumerate(ROLES)}
    for (role, title), mine in sorted(groups.items(), key=lambda item: first.get(item[0][0], len(ROLES))):
        cells = tuple(Cell(tuple(_value(column.info.name, one) for one in mine), column.why_not) for column in columns)
        yield Line(title, role or mine[0].subject.role, tuple(mine), cells)


def _once(models: Iterable[Model]) -> Iterator[Model]:
    """Yield every model once, in whichever reports on the same examples it stands."""
    seen = set()
    for one in models:
        data = one.source.report.data
        sets = (data.sha256, data.forget.sha256, data.forget.measured_sha256)
        key = (one.subject.sha256, one.subject.role, sets)
        if key not in seen:
            yield one
        seen.add(key)


_TITLES: dict[str, Callable[[Model], str]] = {
    "label": lambda one: one.subject.label,
    "role": lambda one: one.subject.role,
}


def _by_method(models: Sequence[Model]) -> Callable[[Model], str]:
    """Return how models are called by method, transforms and, where these differ under one name, settings."""
    settings: dict[str, list[dict[str, str]]] = {}
    for one in models:
        if _is_recorded(one):
            settings.setdefault(_method(one), []).append(_settings(one))
    differ = {
        name: sorted({key for each in found for key in each if len({other.get(key) for other in found}) > 1})
        for name, found in settings.items()
    }

    def title(one: Model, seen: tuple[str, ...] = ()) -> str:
        name, own = _method(one), _settings(one)
        if not _is_recorded(one):
            return f"{name} (no record)" if name in differ else name
        parent = None if one.subject.label in seen else _parent(one)
        after = "" if parent is None else f" after {title(parent, (*seen, one.subject.label))}"
        return " ".join([name, *(f"{key}={own.get(key, 'default')}" for key in differ[name])]) + after

    return title


def _is_recorded(one: Model) -> bool:
    """Return whether a model's own record names the method that made it."""
    return one.subject.made is not None and one.subject.made.method is not None


def _parent(one: Model) -> Model | None:
    """Return the model of the same report that a method started from, where that is no original."""
    made = one.subject.made
    found = (other for other in one.source.report.subjects if made is not None and other.sha256 == made.parent)
    return next((Model(one.source, other) for other in found if other.role not in ROLES and other != one.subject), None)


def _method(one: Model) -> str:
    made = one.subject.made
    if made is None or made.method is None:
        return one.subject.label
    return " + ".join((made.method, *made.transforms))


def _settings(one: Model) -> dict[str, str]:
    made = one.subject.made
    return {} if made is None else {key: _plain(value) for key, value in made.settings.items()}


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


# ----- cells


def _value(name: str, one: Model) -> Value:
    report, subject = one.source.report, one.subject
    if name in COSTS:
        cost = _cost(name, report, subject)
        return Value(one.who, cost, None if cost is not None else NO_RECORD)
    found = report.find(name, subject.label)
    if found is None:
        return Value(one.who, None, "it was not measured")
    return Value(one.who, found.value, found.reason, (*subject.doubts, *found.doubts))


def _cost(name: str, report: AuditReport, subject: Subject) -> float | None:
    made = subject.made
    if made is None or name == "cost.seconds":
        return None if made is None else made.seconds
    trained = [
        one.made.gradients for one in report.subjects if one.role == "retrained" and one.made and one.made.gradients
    ]
    return made.gradients / float(np.mean(trained)) if made.gradients is not None and trained else None


# ----- what a reader needs beside the table


def _about_lines(reports: Sequence[Named], lines: Sequence[Line]) -> Iterator[str]:
    """Yield which models stand in several reports, were trained in different ways, or cost more than is told."""
    shown = sum(len(line.models) for line in lines)
    named = sum(len(one.report.subjects) for one in reports)
    if shown < named:
        yield f"{named - shown} models stand in more than one report, or twice in one, and count once"
    for line in lines:
        recipes = {json.dumps(one.subject.made.recipe, sort_keys=True) for one in line.models if one.subject.made}
        if len(recipes) > 1:
            yield f"{line.title}: trained, or their originals were, by {len(recipes)} different recipes"
    if any(_parent(one) is not None for line in lines for one in line.models):
        yield "what a model cost that went on from another one is without what that other one cost"


def _about(reports: Sequence[Named]) -> Iterator[str]:
    sets = {one.report.data.forget.sha256 for one in reports}
    several = "s" if len(sets) > 1 else ""
    joined = f"{len(reports)} reports, {len(sets)} forget set{several}: " if len(reports) > 1 else ""
    both = "seeds and draws together" if len(sets) > 1 else "the models of a line"
    yield f"{joined}mean ± standard deviation (n - 1) over {both}; one model's number stands alone"


def _about_columns(columns: Sequence[Column], lines: Sequence[Line], shown: Sequence[int]) -> Iterator[str]:
    for place, column in enumerate(columns):
        if column.why_not:
            yield f"{column.info.name} is not shown: {column.why_not}"
        elif place not in shown:
            reasons = dict.fromkeys(str(one.reason) for line in lines for one in line.cells[place].missing)
            yield f"{column.info.name} is not shown, nobody has a number: {'; '.join(reasons)}"
    if any(columns[place].info.p_value for place in shown):
        yield "of p-values the lowest and the highest are told: their mean says nothing"


def _about_cells(columns: Sequence[Column], lines: Sequence[Line], shown: Sequence[int]) -> Iterator[str]:
    for line in lines:
        for place in shown:
            cell, name = line.cells[place], columns[place].info.name
            if cell.missing:
                reasons = "; ".join(dict.fromkeys(str(one.reason) for one in cell.missing))
                yield f"{line.title}, {name}: {len(cell.missing)} of {len(cell.values)} have no number: {reasons}"
            for one in cell.doubted:
                yield f"* in doubt: {one.who}: {'; '.join(one.doubts)}"
