"""The table that every format shows: measurements down, subjects across, retrained seeds as mean ± spread."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from unlearn_audit.catalogue import ASSUMED_INPUTS, METRICS, STAND_IN, MetricInfo, info_or_name
from unlearn_audit.conclusion.words import percent
from unlearn_audit.files import without_ending
from unlearn_audit.metrics import mean_and_spread
from unlearn_audit.render.untrusted import printable
from unlearn_audit.report import AuditReport, Measurement, Reference

MOST_COLUMNS = 4


class Column(NamedTuple):
    """One column: a heading and the subjects whose values it holds (several for retrained seeds)."""

    heading: str
    subjects: tuple[str, ...]
    is_reference: bool = False  # whether the others are read against it


class Cell(NamedTuple):
    """A value and, below it, its interval or spread; or a dash."""

    value: str
    interval: str


class Row(NamedTuple):
    """One metric across all columns."""

    info: MetricInfo
    cells: tuple[Cell, ...]
    sees: str = ""  # how small a leak it would have shown, in a few words

    @property
    def label(self) -> str:
        """What the metric is called."""
        return self.info.title

    def is_empty(self, among: Sequence[int] | None = None) -> bool:
        """Return whether it has nothing to show, in all cells or in those of some columns."""
        cells = self.cells if among is None else [self.cells[index] for index in among]
        return all(cell.value == "–" for cell in cells)


def columns(report: AuditReport, *, together: bool = False) -> tuple[Column, ...]:
    """Return the columns: subjects in their order, retrained seeds together where there are too many, controls last.

    Args:
        report: what was measured.
        together: join retrained seeds in any case.
    """
    seen = dict.fromkeys((m.subject, m.role) for m in report.measurements if m.role != "control" or _is_shown(m))
    retrained = tuple(label for label, role in seen if role == "retrained")
    together = len(retrained) > 1 and (together or len(seen) > MOST_COLUMNS)
    found: list[Column] = []
    for label, role in seen:
        if role == "retrained" and together:
            if label == retrained[0]:
                found.append(Column(f"retrained ({len(retrained)})", retrained, is_reference=True))
        else:
            found.append(Column(label, (label,), role == "retrained"))
    return tuple(found)


def _is_shown(measurement: Measurement) -> bool:
    """Return whether a table has a row for it: a judge of samples stands in the table of its own alone."""
    return not info_or_name(measurement.name).hidden


def rows(report: AuditReport, shown: Sequence[Column]) -> tuple[Row, ...]:
    """Return one row per measurement that a person looks at, in a fixed order."""
    by_key = {(measurement.name, measurement.subject): measurement for measurement in report.measurements}
    found = []
    for info in shown_metrics(report):
        levels = next((m.reference for m in report.measurements if m.name == info.name and _of_all(m)), None)
        cells = tuple(
            _cell([by_key[info.name, label] for label in column.subjects if (info.name, label) in by_key], info, levels)
            for column in shown
        )
        found.append(Row(info, cells, _sees(report, info.name)))
    return tuple(found)


def _of_all(measurement: Measurement) -> bool:
    """Return whether a measurement is held against all the retrained models, and so is no retrained model's own."""
    found = measurement.reference
    return measurement.role != "retrained" and found is not None and found.role == "retrained"


def _sees(report: AuditReport, name: str) -> str:
    """Return in a few words how small a leak a metric would have shown; nothing where that was not measured."""
    seen = next((m.could_see for m in report.measurements if m.name == name and m.could_see), None)
    if seen is None or seen.auc is not None:
        return ""
    if seen.share is not None:
        return f"sees {percent(seen.share)} kept"
    return "blind" if seen.dose is None else f"sees {percent(seen.dose)} dose"


def shown_metrics(report: AuditReport) -> tuple[MetricInfo, ...]:
    """Return the metrics that a table of the report has: in the catalogue's order, then those that it does not know."""
    names = dict.fromkeys(measurement.name for measurement in report.measurements)
    places = {kind: place for place, kind in enumerate(dict.fromkeys(map(_kind, METRICS)))}
    infos = sorted(map(info_or_name, names), key=lambda info: places.get(_kind(info.name), len(places)))
    return tuple(info for info in infos if not info.hidden)


def _kind(name: str) -> str:
    """Return a metric's name without the attack's, so that all attacks' AUCs stand together, then all rates."""
    return re.sub(r"^mia\..+\.", "mia.", name)


def _cell(found: Sequence[Measurement], info: MetricInfo, levels: Reference | None = None) -> Cell:
    """Return what stands in one cell.

    Args:
        found: of the cell's subjects.
        info: their metric.
        levels: what others are held against. Where it is the mean of the cell's values, its spread is told: that of
            numbers between pairs is the spread of one more model, and not of values that share these pairs.
    """
    words = Counter(measurement.value for measurement in found if isinstance(measurement.value, str))
    if words:
        said = ", ".join(f"{word} ({n})" if len(found) > 1 else word for word, n in words.items())
        return Cell(printable(said), "")
    digits, sign = info.digits, "+" if info.signed else ""
    values = [measurement.value for measurement in found if isinstance(measurement.value, int | float)]
    if not values:
        return _bound([measurement.at_least for measurement in found], digits, sign)
    if len(found) > 1:
        mean, spread = mean_and_spread(values)
        if levels is not None and levels.n == len(values) and math.isclose(levels.value, mean, rel_tol=1e-6):
            spread = levels.spread
        digits = _digits(digits, mean)
        parts = [f"± {spread:.{digits}f}"] if spread is not None else []
        parts += [f"({len(values)} of {len(found)})"] if len(values) < len(found) else []
        return Cell(f"{mean:{sign}.{digits}f}", " ".join(parts))
    interval = found[0].interval
    digits = _digits(digits, values[0])
    ends = f"[{_short(interval.low, digits, sign)}, {_short(interval.high, digits, sign)}]" if interval else ""
    return Cell(f"{values[0]:{sign}.{digits}f}", ends)


def _digits(usual: int, value: float) -> int:
    """Return the digits after the point: at least three of a fraction of one, unless its metric counts."""
    return max(usual, 3) if usual and 0 < abs(value) < 1 else usual


def _bound(bounds: Sequence[float | None], digits: int, sign: str) -> Cell:
    """Return the lower bound that holds for all values that are missing, or a dash where one of them has none."""
    known = [bound for bound in bounds if bound is not None]
    if not known or len(known) < len(bounds):
        return Cell("–", "")
    rounded_down = math.floor(min(known) * 10**digits) / 10**digits  # a bound that was rounded up would be none
    return Cell(f"≥ {rounded_down:{sign}.{digits}f}", "")


def _short(value: float, digits: int, sign: str) -> str:
    """Format an interval's end without the zero before the point, so that both ends fit one line."""
    text = f"{value:{sign}.{digits}f}"
    return text.replace("0.", ".", 1) if abs(value) < 1 else text


def footnotes(report: AuditReport) -> tuple[str, ...]:
    """Return what a reader needs beside the table: sizes, method, how to read it, why a value is missing."""
    data = report.data
    unseen = f", unseen twin {data.unseen.n}" if data.unseen else ""
    part = f", {data.forget.measured} of them measured" if data.forget.is_sampled else ""
    forget = f"forget {data.forget.n} ({data.forget.described}{part})"
    parts = ""
    if data.adjacent and data.remote:
        parts = f" (adjacent {data.adjacent.how_many}, remote {data.remote.how_many})"
    sets = f"{forget}, retain {data.retain.how_many}{parts}, test {data.test.n}{unseen}"
    notes = [] if forget_set_stands_in(report) else [sets]
    notes += _assumed_inputs(report)
    rcd = next((m for m in report.measurements if m.name == "rcd.raw"), None)
    if rcd is not None:
        notes.append(f"RCD: {rcd.method}; read against retrained, not maximised")
    truncation = next((m for m in report.measurements if m.name == "truncation.verdict"), None)
    if truncation is not None:
        notes.append(f"truncation: {truncation.method}; its [low, high] brackets the decay at the end")
    notes += _of_attacks(report)
    notes += _of_answers(report)
    notes += _of_plants(report)
    notes.append("[low, high]: 95 % interval; ±: standard deviation over retrained seeds" + _own_gaps(report))
    notes += _numbered(report)
    named = {info.name for info in shown_metrics(report)}
    without = [m for m in report.measurements if m.reason and m.name in named]
    reasons = dict.fromkeys(f"{m.name} of {m.subject}: {m.reason}" for m in without)
    if len(reasons) > 6:
        alike: dict[str, list[Measurement]] = {}
        for m in without:
            alike.setdefault(str(m.reason), []).append(m)
        reasons = dict.fromkeys(_together(report, reason, found) for reason, found in alike.items())
    return (*notes, *reasons)


def _together(report: AuditReport, reason: str, found: Sequence[Measurement]) -> str:
    """Return a reason with all metrics that have it, and of which subjects where it is not of all."""
    names = _shortened(tuple(dict.fromkeys(m.name for m in found)))
    subjects = tuple(dict.fromkeys(m.subject for m in found))
    more = f", … ({len(subjects)})" if len(subjects) > MOST_COLUMNS else ""
    everybody = len(subjects) == len({m.subject for m in report.measurements})
    of = "" if everybody else f" (of {', '.join(subjects[:MOST_COLUMNS])}{more})"
    return f"{', '.join(names)}{of}: {reason}"


def _of_answers(report: AuditReport) -> list[str]:
    """Say how the numbers of MIA-NN are read, and how far each subject's total variation is from retrained models'."""
    found = [m for m in report.measurements if m.name == "nn.tv" and isinstance(m.value, int | float)]
    if not found:
        return []
    away = ", ".join(f"{m.subject} {m.value - m.reference.value:+.3f}"  # type: ignore[operator]
                     for m in found if m.reference and m.role != "retrained")  # fmt: skip
    return [
        "MIA-NN: read total variation first, against the retrained models' own and not against 0 (the AUC not against "
        "0.5); accepted is for comparison with the paper only"
        + (f"; total variation minus retrained: {away}" if away else "")
    ]


def forget_set_stands_in(report: AuditReport) -> bool:
    """Return whether nothing that was measured depends on the forget set, and nobody named it."""
    said = report.settings.get("from")
    return isinstance(said, dict) and said.get("forget") == STAND_IN


def _of_plants(report: AuditReport) -> list[str]:
    """Say what could have been seen, and what the words for it below a metric's name mean."""
    by_name = {m.name: m for m in report.measurements if m.name.startswith("detectable.")}
    share, dose = by_name.get("detectable.share"), by_name.get("detectable.dose")
    if share is None or dose is None or not any(m.could_see for m in report.measurements):
        return []
    values = [f"{percent(m.value)}" if isinstance(m.value, int | float) else "–" for m in (share, dose)]
    return [
        "sees N % kept: a model that keeps N % of the forget set as the original has it would have been told from the "
        f"retrained ones in 80 % of the cases; detectable.share {values[0]}, detectable.dose (a part of the way back "
        f"on every example) {values[1]}; blind: not even the original would have been"
    ]


def _assumed_inputs(report: AuditReport) -> list[str]:
    """Say whose inputs were normalised as nobody said that they are."""
    assumed = [
        f"{one.label}: {note}" for one in report.subjects for note in one.notes if note.startswith(ASSUMED_INPUTS)
    ]
    return assumed if len(assumed) < 4 else [f"{len(assumed)} checkpoints, such as {assumed[0]}"]


def _own_gaps(report: AuditReport) -> str:
    """Say what the gap of a retrained model is, where there are any."""
    shown = any(
        m.name.startswith("gap.") and m.role == "retrained" and m.value is not None for m in report.measurements
    )
    return ", whose own gaps are each to the other ones" if shown else ""


def _numbered(report: AuditReport) -> list[str]:
    """Say which files the labels stand for that were numbered because several files have one name."""
    labels = {subject.label for subject in report.subjects}
    return [
        f"{subject.label}: {subject.path}"
        for subject in report.subjects
        if (found := re.fullmatch(r"(.+)-[0-9]+", subject.label))
        and found[1] in labels
        and without_ending(subject.path) == found[1]
    ]


def _shortened(names: Sequence[str]) -> Sequence[str]:
    """Return the names, or one for all where they are the same number of many attacks."""
    endings = {name.rpartition(".")[2] for name in names}
    alike = len(names) > 3 and len(endings) == 1 and all(name.startswith("mia.") for name in names)
    return [f"mia.*.{endings.pop()} ({len(names)} attacks)"] if alike else names


def _of_attacks(report: AuditReport) -> list[str]:
    """Say what attacks tell from what, and what one gets right that says the same of everybody."""
    rate = next((m for m in report.measurements if m.name.startswith("mia.") and m.name.endswith(".base_rate")), None)
    if rate is None or not isinstance(rate.value, int | float):
        return []
    differs = {
        m.name.removesuffix(".auc"): str(m.details["differs_from_tables"])
        for m in report.measurements
        if m.name.endswith(".auc") and m.details.get("differs_from_tables")
    }
    return [
        f"attacks: forget examples against their unseen twin, n = {rate.n}, base rate {rate.value:.3f}; AUC 0.5: "
        "indistinguishable; read against retrained",
        *(f"{name} is not as in published tables: {text}" for name, text in differs.items()),
    ]
