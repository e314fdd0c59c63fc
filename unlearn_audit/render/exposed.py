"""The examples that attacks are surest of: as tables, and as pictures where the report carries some."""

import re
from collections.abc import Iterator, Mapping

from unlearn_audit.render.arrays import Arrays, exposed_name
from unlearn_audit.render.details import Exposed, MiaDetails, details_of
from unlearn_audit.render.samples import Picture
from unlearn_audit.render.small_tables import SmallTable
from unlearn_audit.report import AuditReport

MOST_EXPOSED = 10  # examples of each subject
MOST_ATTACKS = 3  # that have a table each; more share one
MOST_PICTURES = 20  # examples on a sheet


def exposed(report: AuditReport, most: int | None = MOST_EXPOSED) -> tuple[SmallTable, ...]:
    """Return the examples that each attack is surest of, for every subject under audit.

    Of an original, which saw them all, only where there is no other subject.

    Args:
        report: of an audit.
        most: how many of each; None for all that the report has.
    """
    found = []
    for subject, by_attack in _worst(report, most).items():
        if len(by_attack) > MOST_ATTACKS:
            found.append(_together(report, subject, by_attack, most))
            continue
        for attack, worst in by_attack.items():
            cells = tuple(
                (str(one.index), _label(report, one.label), _number(one.score), f"{one.share_of_twin_above:.1%}")
                for one in worst
            )
            title = f"most exposed examples of {subject}, {attack} attack"
            heading = ("training index", "label", "score", "share of the twin that scores as high")
            found.append(SmallTable(title, heading, cells))
    return tuple(found)


def _worst(report: AuditReport, most: int | None) -> dict[str, dict[str, tuple[Exposed, ...]]]:
    """Return subject -> attack -> the examples that the attack is surest of."""
    roles = {subject.role for subject in report.subjects}
    passed_over = {"retrained", "original"} if roles - {"retrained", "original"} else {"retrained"}
    found: dict[str, dict[str, tuple[Exposed, ...]]] = {}
    for measurement in report.measurements:
        attack = re.fullmatch(r"mia\.(.+)\.auc", measurement.name)
        worst = details_of(measurement, MiaDetails).worst if attack else None
        if attack and worst and measurement.role not in passed_over:
            found.setdefault(measurement.subject, {})[attack[1]] = worst[:most]
    return found


def _label(report: AuditReport, label: int) -> str:
    """Return a label with its class's name, where the data have names."""
    names = report.data.class_names
    name = names[label] if 0 <= label < len(names) else str(label)
    return str(label) if name == str(label) else f"{label} ({name})"


def _together(
    report: AuditReport, subject: str, by_attack: Mapping[str, tuple[Exposed, ...]], most: int | None
) -> SmallTable:
    """Return one table for many attacks: the examples that most of them name among their surest ones."""
    named: dict[int, list[str]] = {}
    labels = {one.index: _label(report, one.label) for worst in by_attack.values() for one in worst}
    for attack, worst in by_attack.items():
        for one in worst:
            named.setdefault(one.index, []).append(attack)
    longest = max(len(worst) for worst in by_attack.values()) if most is None else most
    order = sorted(named, key=lambda index: (-len(named[index]), index))[:longest]
    cells = tuple(
        (str(index), labels[index], f"{len(named[index])} of {len(by_attack)}", ", ".join(named[index]))
        for index in order
    )
    title = f"most exposed examples of {subject}, by how many attacks name them among their surest"
    return SmallTable(title, ("training index", "label", "attacks", "which"), cells)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def exposed_sheets(report: AuditReport, arrays: Arrays) -> tuple[Picture, ...]:
    """Return pictures of the most exposed examples, of a few attacks; none where nobody asked an audit for them."""
    return tuple(_pictures(report, arrays))


def _pictures(report: AuditReport, arrays: Arrays) -> Iterator[Picture]:
    for subject, by_attack in _worst(report, MOST_PICTURES).items():
        for attack, worst in list(by_attack.items())[:MOST_ATTACKS]:
            pixels = arrays.pixels.get(exposed_name(attack, subject))
            if pixels is not None:
                title = f"Most exposed examples of {subject}, {attack} attack."
                which = ", ".join(str(one.index) for one in worst)
                said = f"Training examples {which}: the surest first, in rows of ten."
                yield Picture(title, said, f"{title} {said}", pixels)
