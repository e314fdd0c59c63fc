"""What a written report is made of, whatever its format: sections with rows of numbers, small tables and pictures."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from unlearn_audit.catalogue import SECTION_TITLES
from unlearn_audit.gate import Decision, ReviewedWaiver
from unlearn_audit.render import figures
from unlearn_audit.render.arrays import Arrays
from unlearn_audit.render.charts import Chart
from unlearn_audit.render.decisions import DECIDED, WAIVED, decision_rows, waiver_rows
from unlearn_audit.render.details import Exposed, MiaDetails, details_of
from unlearn_audit.render.layers import layer_tables
from unlearn_audit.render.outputs import output_chart, output_tables
from unlearn_audit.render.resurgence import resurgence_chart, resurgence_tables
from unlearn_audit.render.samples import Picture, sample_sheets, sample_tables
from unlearn_audit.render.small_tables import SmallTable, small_tables
from unlearn_audit.render.table import Column, Row, columns, rows
from unlearn_audit.render.traces import trace_charts
from unlearn_audit.report import AuditReport

OTHERS = "Other measurements"  # heading of what only another version of this tool knows
MOST_EXPOSED = 10  # examples of each subject
MOST_ATTACKS = 3  # that have a table each; more share one


class Section(NamedTuple):
    """One part of a report: its heading, rows of the common table, and what stands below them."""

    title: str
    rows: tuple[Row, ...]
    tables: tuple[SmallTable, ...]
    charts: tuple[Chart, ...]
    pictures: tuple[Picture, ...] = ()


def sections(report: AuditReport, arrays: Arrays, shown: Sequence[Column] | None = None) -> tuple[Section, ...]:
    """Return the sections that the report has something for.

    Args:
        report: what was measured.
        arrays: what lies beside it.
        shown: columns of the rows; default: those of every format.
    """
    all_rows = [row for row in rows(report, columns(report) if shown is None else shown) if not row.is_empty()]
    charts = {
        "rcd": (
            *figures.relearning_curves(report, arrays),
            *figures.gap_against_rcd(report),
            *figures.step_sizes(report),
            *figures.rcd_by_steps(report, arrays),
        ),
        "spectrum": figures.spectrum(report),
        "truncation": figures.truncation(report),
        "twosample": trace_charts(report, arrays),
        "outputs": output_chart(report),
        "mia": figures.roc_curves(report, arrays),
        "resurgence": resurgence_chart(report),
    }
    tables = {
        "rcd": small_tables(report),
        "outputs": output_tables(report),
        "layers": layer_tables(report),
        "mia": exposed(report),
        "resurgence": resurgence_tables(report),
        "generation": sample_tables(report),
    }
    pictures = {"generation": sample_sheets(report, arrays)}
    found = (
        Section(
            title,
            tuple(row for row in all_rows if row.info.section == key),
            tables.get(key, ()),
            charts.get(key, ()),
            pictures.get(key, ()),
        )
        for key, title in {**SECTION_TITLES, "": OTHERS}.items()
    )
    return tuple(section for section in found if any(section[1:]))


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


def decided(decisions: Sequence[Decision], said: Sequence[str] = ()) -> SmallTable:
    """Return a gate's decisions as a table, and below it sentences such as whom they are about."""
    return SmallTable("Decisions of the gate", DECIDED, tuple(decision_rows(decisions)), tuple(said))


def by_model(decisions: Sequence[Decision]) -> SmallTable:
    """Return verdicts without their reasons: a line for every model, a column for every rule."""
    rules = tuple(dict.fromkeys(decision.rule.id for decision in decisions))
    found: dict[str, dict[str, str]] = {}
    for rule, subject, verdict, _ in decision_rows(decisions):
        found.setdefault(subject, {})[rule] = verdict
    cells = tuple((label, *(of_model.get(rule, "") for rule in rules)) for label, of_model in found.items())
    return SmallTable("Verdicts by model", ("model", *rules), cells)


def waived(waivers: Sequence[ReviewedWaiver]) -> SmallTable:
    """Return every waiver of a policy as a table."""
    return SmallTable("Waivers of the policy", WAIVED, tuple(waiver_rows(waivers)))


# ----- provenance


def provenance(report: AuditReport) -> tuple[SmallTable, ...]:
    """Return what the report was made of: checkpoints, data, settings and who said them, environment, tool."""
    found = (_checkpoints(report), _data(report), _settings(report.settings), _environment(report), _document(report))
    return tuple(table for table in found if table.rows)


def _checkpoints(report: AuditReport) -> SmallTable:
    heading = ("label", "role", "model", "parameters", "file", "SHA-256")
    cells = tuple(
        (one.label, one.role, one.model, f"{one.parameters:,}", one.path, one.sha256) for one in report.subjects
    )
    notes = tuple(f"{one.label}: {note}" for one in report.subjects for note in one.notes)
    return SmallTable("Checkpoints", heading, cells, notes)


def _data(report: AuditReport) -> SmallTable:
    data = report.data
    sets = {"forget": data.forget, "retain": data.retain, "test": data.test, "unseen twin": data.unseen,
            "adjacent": data.adjacent, "remote": data.remote}  # fmt: skip
    cells = []
    for name, one in sets.items():
        if one is not None:
            cells.append((name, str(one.n), one.described, one.sha256))
        if one is not None and one.is_sampled:
            cells.append((f"{name}, measured", str(one.measured), "a sample", one.measured_sha256 or ""))
    return SmallTable(
        "Data", ("set", "examples", "from", "SHA-256"), (("source", "", data.source, data.sha256), *cells)
    )


def _settings(settings: Mapping[str, Any]) -> SmallTable:
    """Return every setting with its value and where it came from; one that nobody named is the default."""
    config, said = (part if isinstance(part, dict) else {} for part in (settings.get("config"), settings.get("from")))
    rest = {key: value for key, value in settings.items() if key not in ("config", "from")}
    cells = [(".".join(keys), _value(value), str(said.get(".".join(keys), "default"))) for keys, value in _flat(config)]
    for keys, value in _flat(rest):  # normalisation, "mean" of "unlearned", is said as "mean of unlearned"
        cells.append((".".join(keys), _value(value), str(said.get(" of ".join(reversed(keys[1:])), ""))))
    return SmallTable("Settings", ("setting", "value", "said by"), tuple(cells))


def _flat(values: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], object]]:
    """Yield keys from the top down with their values; a section with nothing in it is told as it stands."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, (*above, key))
        else:
            yield (*above, key), value


def _value(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _environment(report: AuditReport) -> SmallTable:
    cells = tuple((".".join(keys), _value(value)) for keys, value in _flat(report.environment))
    return SmallTable("Environment", ("what", "value"), cells)


def _document(report: AuditReport) -> SmallTable:
    facts = {
        "tool": f"{report.tool.name} {report.tool.version}",
        "written": report.created_at,
        "SHA-256 of the body": report.body_sha256 or "not written yet",
    }
    return SmallTable("This report", ("what", "value"), tuple(facts.items()))
