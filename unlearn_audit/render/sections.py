"""What a written report is made of, whatever its format: sections with rows of numbers, small tables and pictures."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from unlearn_audit.catalogue import SECTION_TITLES
from unlearn_audit.gate import Decision, ReviewedWaiver
from unlearn_audit.render import figures
from unlearn_audit.render.arrays import Arrays
from unlearn_audit.render.charts import Chart
from unlearn_audit.render.decisions import DECIDED, WAIVED, decision_rows, waiver_rows
from unlearn_audit.render.exposed import exposed, exposed_sheets
from unlearn_audit.render.layers import layer_tables
from unlearn_audit.render.outputs import output_chart, output_tables
from unlearn_audit.render.resurgence import resurgence_chart, resurgence_tables
from unlearn_audit.render.samples import Picture, sample_sheets, sample_tables
from unlearn_audit.render.small_tables import SmallTable, small_tables
from unlearn_audit.render.table import Column, Row, columns, rows
from unlearn_audit.render.traces import trace_charts
from unlearn_audit.report import AuditReport

OTHERS = "Other measurements"  # heading of what only another version of this tool knows


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
    pictures = {"generation": sample_sheets(report, arrays), "mia": exposed_sheets(report, arrays)}
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
