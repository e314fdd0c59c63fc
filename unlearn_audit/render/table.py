"""The table that every format shows: measurements down, subjects across, retrained seeds as mean ± spread."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from unlearn_audit.catalogue import ASSUMED_INPUTS
from unlearn_audit.files import without_ending
from unlearn_audit.metrics import mean_and_spread
from unlearn_audit.render.details import lower_bound
from unlearn_audit.render.untrusted import printable
from unlearn_audit.report import AuditReport, Measurement

# Name -> how a person calls it, digits after the point, whether a sign is always shown.
NAMES: dict[str, tuple[str, int, bool]] = {
    "accuracy.retain": ("accuracy retain", 3, False),
    "accuracy.forget": ("accuracy forget", 3, False),
    "accuracy.test": ("accuracy test", 3, False),
    "accuracy.unseen": ("accuracy unseen", 3, False),
    "gap.retain": ("gap retain", 3, True),
    "gap.forget": ("gap forget", 3, True),
    "gap.test": ("gap test", 3, True),
    "gap.average": ("average |gap|", 3, False),
    "change.retain": ("change retain", 3, True),
    "change.test": ("change test", 3, True),
    "rcd.raw": ("RCD raw", 1, False),
    "rcd.ratio_to_unseen": ("RCD / unseen", 3, False),
    "rcd.ratio_to_retrained": ("RCD / retrained", 3, False),
    "rcd.scaled": ("RCD x step", 4, False),
    "rcd.normalised": ("RCD normalised", 3, False),
    "rcd.steps_to_relearn": ("steps to relearn", 0, False),
    "truncation.verdict": ("truncation error", 0, False),
    "truncation.half_life": ("half-life, steps", 1, False),
    "truncation.relative_error": ("error at K / sum", 4, False),
    "truncation.steps_for_1_percent": ("K for 1 % error", 0, False),
    "spectrum.lambda_max": ("lambda max", 3, False),
    "spectrum.relative_lambda_max": ("lambda max relative", 3, False),
    "spectrum.lambda_min": ("lambda min", 3, False),
    "spectrum.lambda_ratio_10": ("lambda max / 10th", 2, False),
    "spectrum.trace": ("trace", 2, False),
    "spectrum.concentration": ("lambda max x d / tr", 1, False),
    "spectrum.effective_rank": ("effective rank", 2, False),
    "spectrum.condition_number": ("condition number", 1, False),
}
# The same for the last part of `mia.<attack>.…`; the attack's name stands before it. The base rate is a footnote.
ATTACK_NAMES: dict[str, tuple[str, int, bool]] = {
    "auc": ("attack AUC", 3, False),
    "tpr_at_fpr_1e-2": ("TPR at 1 % FPR", 3, False),
    "tpr_at_fpr_1e-3": ("TPR at 0.1 % FPR", 3, False),
    "accuracy": ("attack accuracy", 3, False),
    "efficacy": ("MIA-efficacy", 3, False),
}
MOST_COLUMNS = 4


class Column(NamedTuple):
    """One column: a heading and the subjects whose values it holds (several for retrained seeds)."""

    heading: str
    subjects: tuple[str, ...]


class Cell(NamedTuple):
    """A value and, below it, its interval or spread; or a dash."""

    value: str
    interval: str


class Row(NamedTuple):
    """One measurement across all columns; `family` is the first part of its name."""

    label: str
    cells: tuple[Cell, ...]
    family: str = ""


def columns(report: AuditReport) -> tuple[Column, ...]:
    """Return the columns: subjects in their order, retrained seeds together where there are too many, controls last."""
    seen = dict.fromkeys((m.subject, m.role) for m in report.measurements)
    retrained = tuple(label for label, role in seen if role == "retrained")
    together = len(retrained) > 1 and len(seen) > MOST_COLUMNS
    found: list[Column] = []
    for label, role in seen:
        if role == "retrained" and together:
            if label == retrained[0]:
                found.append(Column(f"retrained ({len(retrained)})", retrained))
        else:
            found.append(Column(label, (label,)))
    return tuple(found)


def rows(report: AuditReport, shown: Sequence[Column]) -> tuple[Row, ...]:
    """Return one row per measurement that a person looks at, in a fixed order."""
    by_key = {(measurement.name, measurement.subject): measurement for measurement in report.measurements}
    found = []
    for name, (label, digits, signed) in _named(report).items():
        cells = tuple(
            _cell([by_key[name, subject] for subject in column.subjects if (name, subject) in by_key], digits, signed)
            for column in shown
        )
        found.append(Row(label, cells, name.partition(".")[0]))
    return tuple(found)


def _named(report: AuditReport) -> dict[str, tuple[str, int, bool]]:
    """Return how the measurements that there are are called; all attacks' AUCs first, then all rates, and so on."""
    present = dict.fromkeys(measurement.name for measurement in report.measurements)
    found = {name: told for name, told in NAMES.items() if name in present}
    parts = [(name, attack) for name in present if (attack := re.fullmatch(r"mia\.(.+)\.([^.]+)", name))]
    for ending, (label, digits, signed) in ATTACK_NAMES.items():
        found |= {name: (f"{attack[1]} {label}", digits, signed) for name, attack in parts if attack[2] == ending}
    return found


def _cell(found: Sequence[Measurement], digits: int, signed: bool) -> Cell:
    words = Counter(measurement.value for measurement in found if isinstance(measurement.value, str))
    if words:
        said = ", ".join(f"{word} ({n})" if len(found) > 1 else word for word, n in words.items())
        return Cell(printable(said), "")
    sign = "+" if signed else ""
    values = [measurement.value for measurement in found if isinstance(measurement.value, int | float)]
    if not values:
        return _bound([lower_bound(measurement) for measurement in found], digits, sign)
    if len(found) > 1:
        mean, spread = mean_and_spread(values)
        parts = [f"± {spread:.{digits}f}"] if spread is not None else []
        parts += [f"({len(values)} of {len(found)})"] if len(values) < len(found) else []
        return Cell(f"{mean:{sign}.{digits}f}", " ".join(parts))
    interval = found[0].interval
    digits = max(digits, 3) if digits and 0 < abs(values[0]) < 1 else digits
    ends = f"[{_short(interval.low, digits, sign)}, {_short(interval.high, digits, sign)}]" if interval else ""
    return Cell(f"{values[0]:{sign}.{digits}f}", ends)


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
    notes = [f"{forget}, retain {data.retain.n}, test {data.test.n}{unseen}"]
    notes += _assumed_inputs(report)
    rcd = next((m for m in report.measurements if m.name == "rcd.raw"), None)
    if rcd is not None:
        notes.append(f"RCD: {rcd.method}; read against retrained, not maximised")
    truncation = next((m for m in report.measurements if m.name == "truncation.verdict"), None)
    if truncation is not None:
        notes.append(f"truncation: {truncation.method}; its [low, high] brackets the decay at the end")
    notes += _of_attacks(report)
    notes.append("[low, high]: 95 % interval; ±: standard deviation over retrained seeds" + _own_gaps(report))
    notes += _numbered(report)
    named = _named(report)
    without = [m for m in report.measurements if m.reason and m.name in named]
    reasons = dict.fromkeys(f"{m.name} of {m.subject}: {m.reason}" for m in without)
    if len(reasons) > 6:
        names: dict[str, dict[str, None]] = {}
        for m in without:
            names.setdefault(str(m.reason), {})[m.name] = None
        reasons = dict.fromkeys(f"{', '.join(_shortened(tuple(found)))}: {reason}" for reason, found in names.items())
    return (*notes, *reasons)


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
        f"attacks: forget examples against their unseen twin, n = {rate.n}, base rate {rate.value:.3f}; AUC .5: not "
        "told apart; read against retrained",
        *(f"{name} is not as in published tables: {text}" for name, text in differs.items()),
    ]
