"""How far answers are from retrained models': a table of values beside their floor, and a picture of all subjects."""

from collections.abc import Mapping
from math import log

from unlearn_audit.catalogue import DIVERGENCES, info_or_name
from unlearn_audit.render.charts import Axis, Chart, Series
from unlearn_audit.render.details import OutputDetails, details_of
from unlearn_audit.render.looks import Look
from unlearn_audit.render.small_tables import SmallTable
from unlearn_audit.report import AuditReport, Measurement

HEADING = ("value", "floor", "value - floor", "with seeds' chance")
NOTE = (
    "floor: the same between retrained models; value - floor: with its interval over examples, these models given; "
    "then with the chance of training seeds, from three retrained models on"
)
SETS: Mapping[str, str] = {"": "the forget set", ".class_test": "test examples of the forgotten classes"}
SHOWN: Mapping[str, str] = {"js": "JS / ln 2", "tv": "total variation", "agreement": "disagreement"}  # all 0 to 1
SPAN = 0.6  # of a kind's room on the axis, shared by all subjects


def output_tables(report: AuditReport) -> tuple[SmallTable, ...]:
    """Return a table for each subject that is no retrained model and each set that has a floor."""
    tables = []
    for subject in dict.fromkeys(one.subject for one in report.measurements if one.role != "retrained"):
        for suffix, words in SETS.items():
            found = (report.find(f"outputs.{kind}{suffix}", subject) for kind in DIVERGENCES)
            rows = [_cells(one) for one in found if one is not None and one.value is not None]
            if any(row[2] != "–" for row in rows):
                tables.append(SmallTable(f"answers of {subject} on {words}", ("", *HEADING), tuple(rows)))
    return (*tables[:-1], tables[-1]._replace(notes=(NOTE,))) if tables else ()


def _cells(one: Measurement) -> tuple[str, ...]:
    details, comparison = details_of(one, OutputDetails), one.comparison
    kind, digits = one.name.split(".")[1], info_or_name(one.name).digits
    over_examples = _ends(details.difference_low, details.difference_high, digits)
    with_seeds = None if comparison is None else _ends(comparison.interval.low, comparison.interval.high, digits)
    return (
        kind,
        _number(one.value, digits),
        _number(details.floor, digits),
        " ".join(filter(None, [_number(details.difference, digits, "+"), over_examples])),
        with_seeds or "–",
    )


def _number(value: object, digits: int, sign: str = "") -> str:
    """Return a number without the zero before the point."""
    if not isinstance(value, int | float):
        return "–"
    text = f"{value:{sign}.{digits}f}"
    return text.replace("0.", ".", 1) if abs(value) < 1 else text


def _ends(low: float | None, high: float | None, digits: int) -> str:
    return "" if low is None or high is None else f"[{_number(low, digits, '+')}, {_number(high, digits, '+')}]"


# ----- the picture


def output_chart(report: AuditReport) -> tuple[Chart, ...]:
    """Return how far every subject's answers on the forget set are from retrained models', with 95 % intervals."""
    look = Look(report)
    found = {
        (one.subject, kind): one
        for one in report.measurements
        for kind in SHOWN
        if one.name == f"outputs.{kind}" and isinstance(one.value, int | float)
    }
    labels = list(dict.fromkeys(subject for subject, _ in found))
    groups = list(dict.fromkeys(look.labels[label] for label in labels))
    series = tuple(
        _series(look, label, place + SPAN * ((groups.index(look.labels[label]) + 0.5) / len(groups) - 0.5), one)
        for label in labels
        for place, kind in enumerate(SHOWN)
        if (one := found.get((label, kind))) is not None
    )
    if not series:
        return ()
    return (
        Chart(
            "How far the answers are from retrained models'",
            "On the forget set; retrained models, each against the others, are the floor. Bars are 95 % intervals over "
            "examples.",
            Axis("", low=-0.5, high=len(SHOWN) - 0.5, names=tuple(SHOWN.values())),
            Axis("distance, 0 to 1", low=0.0),
            series,
            described=_described(found),
        ),
    )


def _series(look: Look, label: str, at: float, one: Measurement) -> Series:
    ends = None if one.interval is None else _scaled(one.name, one.interval.low, one.interval.high)
    (value, _) = _scaled(one.name, _value(one), _value(one))
    return look.series(label, [at], [value])._replace(ends=[ends], joined=False)


def _value(one: Measurement) -> float:
    return float(one.value) if isinstance(one.value, int | float) else 0.0


def _scaled(name: str, low: float, high: float) -> tuple[float, float]:
    """Return both ends as distances from 0 to 1."""
    if name == "outputs.agreement":
        return 1 - high, 1 - low
    unit = log(2) if name == "outputs.js" else 1.0
    return low / unit, high / unit


def _described(found: Mapping[tuple[str, str], Measurement]) -> str:
    told = (f"{subject} {SHOWN[kind]} {_scaled(one.name, _value(one), 0.0)[kind == 'agreement']:.3f}"
            for (subject, kind), one in found.items())  # fmt: skip
    return f"Distance of the answers on the forget set from retrained models': {', '.join(told)}."
