"""What came back in altered copies: a table and a picture of the gaps to retrained models before and after."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from unlearn_audit.catalogue import ALTERATIONS
from unlearn_audit.render.charts import Axis, Chart, Series
from unlearn_audit.render.details import GapDetails, ResurgenceDetails, details_of
from unlearn_audit.render.looks import Look
from unlearn_audit.render.small_tables import SmallTable
from unlearn_audit.report import AuditReport, Measurement

SPAN = 0.7  # of an alteration's room on the axis, shared by all subjects
STEP = 0.28  # from before to after, in rooms of a subject
HEADING = ("resurgence of {}", "gap before", "gap after", "test acc.", "two-sample p")
NOTE = (
    "gap: forget accuracy minus that of retrained models, before and after the same was done to all; two-sample p: "
    "forget set against its unseen twin"
)


class _Found(NamedTuple):
    """One subject after one alteration."""

    alteration: str
    measurement: Measurement
    details: ResurgenceDetails


def _found(report: AuditReport) -> dict[str, list[_Found]]:
    """Return what was measured, by subject."""
    found: dict[str, list[_Found]] = {}
    for one in report.measurements:
        name = one.name.removeprefix("resurgence.")
        details = details_of(one, ResurgenceDetails)
        if name in ALTERATIONS and name != one.name and details.gap_before is not None:
            found.setdefault(one.subject, []).append(_Found(name, one, details))
    return found


# ----- tables


def resurgence_tables(report: AuditReport) -> tuple[SmallTable, ...]:
    """Return a table for every subject that is no retrained model: gaps, what the copies are worth, p-values."""
    tables = [
        SmallTable(HEADING[0].format(label), ("", *HEADING[1:]), tuple(_cells(report, one) for one in found))
        for label, found in _found(report).items()
        if found[0].measurement.role != "retrained"
    ]
    return (*tables[:-1], tables[-1]._replace(notes=(NOTE,))) if tables else ()


def _cells(report: AuditReport, one: _Found) -> tuple[str, ...]:
    details = one.details
    p = report.find(f"{one.measurement.name}.twosample_p", one.measurement.subject)
    late = p.value if p is not None and isinstance(p.value, int | float) else None
    return (
        one.alteration,
        _gap(details.gap_before),
        _gap(details.gap_after),
        _change(details.test_accuracy or (None, None), 2),
        _change((details.twosample_p_before, late), 3),
    )


def _gap(gap: GapDetails | None) -> str:
    if gap is None or gap.value is None:
        return "–"
    ends = "" if gap.low is None or gap.high is None else f" [{_short(gap.low, 2)}, {_short(gap.high, 2)}]"
    return f"{_short(gap.value, 2)}{ends}"


def _short(value: float, digits: int) -> str:
    """Return a signed fraction without the zero before the point."""
    return f"{value:+.{digits}f}".replace("0.", ".", 1)


def _change(sides: Sequence[float | None], digits: int) -> str:
    told = ["–" if value is None else f"{value:.{digits}f}".replace("0.", ".", 1) for value in sides]
    return "–" if set(told) == {"–"} else " → ".join(told)


# ----- the picture


def resurgence_chart(report: AuditReport) -> tuple[Chart, ...]:
    """Return the gap of every subject before and after each alteration, retrained models and original beside it."""
    found, look = _found(report), Look(report)
    names = [name for name in ALTERATIONS if any(one.alteration == name for ones in found.values() for one in ones)]
    places = _places(found, look)
    series = tuple(
        one
        for label, ones in found.items()
        for one in _series(look, label, {one.alteration: one.details for one in ones}, names, places)
    )
    if not series:
        return ()
    return (
        Chart(
            "What comes back without the data",
            "Each pair of points: before and after the same was done to a copy of every model. Zero is a retrained "
            "model's level; bars are 95 % intervals.",
            Axis("", low=-0.5, high=len(names) - 0.5, names=tuple(names)),
            Axis("forget accuracy minus that of retrained models"),
            series,
            described=_described(found),
        ),
    )


def _places(found: Mapping[str, Sequence[_Found]], look: Look) -> dict[str, float]:
    """Return where in an alteration's room a subject stands; retrained models stand together."""
    groups = list(dict.fromkeys(look.labels[label] for label in found))
    return {label: SPAN * ((groups.index(look.labels[label]) + 0.5) / len(groups) - 0.5) for label in found}


def _series(
    look: Look,
    label: str,
    details: Mapping[str, ResurgenceDetails],
    names: Sequence[str],
    places: Mapping[str, float],
) -> Iterator[Series]:
    step = STEP * SPAN / max(1, len(set(places.values())))
    for index, name in enumerate(names):
        one = details.get(name)
        gaps = [gap for gap in (one.gap_before, one.gap_after) if gap] if one else []
        values = [gap.value for gap in gaps if gap.value is not None]
        if len(values) == 2:
            at = index + places[label]
            ends = [(gap.low, gap.high) if gap.low is not None and gap.high is not None else None for gap in gaps]
            yield look.series(label, [at - step, at + step], values)._replace(ends=ends)


def _described(found: Mapping[str, Sequence[_Found]]) -> str:
    """Say in words what the picture shows."""
    told = []
    for label, ones in found.items():
        pairs = (f"{one.alteration} {_gap(one.details.gap_before)} to {_gap(one.details.gap_after)}" for one in ones)
        told.append(f"{label}: {', '.join(pairs)}")
    return f"Forget accuracy minus that of retrained models, before and after. {'; '.join(told)}."
