"""A report as one HTML page that stands alone: no script, no network, pictures drawn inline."""

import base64
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from xml.etree.ElementTree import Element

from unlearn_audit.gate import Decision, ReviewedWaiver, Verdict, exit_code
from unlearn_audit.render import charts
from unlearn_audit.render.arrays import Arrays
from unlearn_audit.render.charts import Chart
from unlearn_audit.render.decisions import counted
from unlearn_audit.render.details import unreadable
from unlearn_audit.render.figures import foreign_scores
from unlearn_audit.render.markup import as_html, element
from unlearn_audit.render.png import png
from unlearn_audit.render.samples import Picture
from unlearn_audit.render.sections import Section, decided, provenance, sections, waived
from unlearn_audit.render.small_tables import SmallTable
from unlearn_audit.render.table import Column, Row, columns, footnotes, forget_set_stands_in
from unlearn_audit.render.traces import foreign_residuals
from unlearn_audit.report import AuditReport

NO_ARRAYS = Arrays({})
NOTHING_SAID = (
    "This report says nothing against itself. What holds for every one: no difference seen is weaker than the same, "
    "and it speaks of these examples, these instruments and these settings alone."
)
OUTCOMES = {0: ("passed", "✓"), 1: ("failed", "✗"), 3: ("error", "!"), 4: ("inconclusive", "?")}


def render(
    report: AuditReport,
    arrays: Arrays = NO_ARRAYS,
    *,
    decisions: Sequence[Decision] | None = None,
    waivers: Sequence[ReviewedWaiver] = (),
    said: Sequence[str] = (),
) -> str:
    """Return the page: the verdict, then the numbers with their pictures, then what they rest on.

    Args:
        report: what was measured.
        arrays: per-example scores and long curves that lie beside it.
        decisions: of a gate, where a policy was given.
        waivers: of that policy.
        said: sentences of that gate, such as whom its outcome is about.
    """
    title = f"Unlearning audit: {', '.join(subject.label for subject in report.subjects) or 'no checkpoints'}"
    found = sections(report, arrays)
    body = [
        element("header", element("h1", "Is the data gone?"), element("p", _about(report), class_="about")),
        _verdict(report, decisions, waivers, said),
        _contents([section.title for section in found]),
        *_measured(report, found),
        _section("Limitations", "limitations", _list([*report.limitations, *_left_out(report, arrays)])),
        _section("How to read the numbers", "reading", _list(footnotes(report))),
        _section("Provenance", "provenance", *(_small(table) for table in provenance(report))),
    ]
    pixels = any(section.pictures for section in found)
    page = element("html", _head(title, pixels=pixels), element("body", element("main", *body)), lang="en")
    return "<!doctype html>\n" + as_html(page) + "\n"


def fragment(report: AuditReport) -> str:
    """Return what a notebook shows of a report: the conclusion, the page's tables and the limitations, without a head.

    Args:
        report: what was measured.
    """
    shown, found = columns(report), sections(report, NO_ARRAYS)
    parts = [element("p", _about(report)), _list(report.conclusion, class_="conclusion") if report.conclusion else None]
    for section in found:
        parts += [_table(section, shown)] if section.rows else []
        parts += [_small(table) for table in section.tables]
    parts += [element("p", element("strong", "Limitations")), _list(report.limitations)] if report.limitations else []
    return as_html(element("div", *(part for part in parts if part is not None)))


def _head(title: str, *, pixels: bool) -> Element:
    """Return the head; its policy lets a browser apply this page's own stylesheet and pictures, and do nothing else."""
    text = Path(__file__).with_name("page.css").read_text(encoding="utf-8") + charts.STYLESHEET
    style = element("style")
    style.text = text
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    shown = " img-src data:;" if pixels else ""
    allowed = f"default-src 'none'; style-src 'sha256-{digest}';{shown} base-uri 'none'; form-action 'none'"
    return element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=allowed),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", name="referrer", content="no-referrer"),
        element("title", title),
        style,
    )


def _about(report: AuditReport) -> str:
    data = report.data
    part = f", {data.forget.measured} of them measured," if data.forget.is_sampled else ""
    forget = f"{data.forget.n} examples to forget ({data.forget.described}){part} of "
    return (
        f"{'' if forget_set_stands_in(report) else forget}{data.source}. "
        f"Measured by {report.tool.name} {report.tool.version}, {report.created_at}."
    )


# ----- the verdict


def _verdict(
    report: AuditReport,
    decisions: Sequence[Decision] | None,
    waivers: Sequence[ReviewedWaiver],
    told: Sequence[str],
) -> Element:
    """Return what the gate decided, if it was asked, and what the numbers say in words."""
    parts: list[Element] = []
    if decisions is not None:
        outcome, sign = OUTCOMES[exit_code(decisions)]
        parts.append(
            element("p", element("strong", f"{sign} {outcome.capitalize()}"),
                    f" by the policy: {counted(decisions) or 'no rule'}",
                    class_=f"outcome {outcome}")
        )  # fmt: skip
    said = report.conclusion or ("This report draws no conclusion: nothing in it was comparable.",)
    parts.append(_list(said, class_="conclusion"))
    parts += [_small(decided(decisions, told), "decisions")] if decisions else []
    parts += [_small(waived(waivers), "decisions")] if waivers else []
    return _section("Verdict", "verdict", *parts)


def _left_out(report: AuditReport, arrays: Arrays) -> tuple[str, ...]:
    return (*unreadable(report), *arrays.problems, *foreign_scores(report, arrays), *foreign_residuals(report, arrays))


# ----- sections


def _contents(titles: Sequence[str]) -> Element:
    fixed = {"Limitations": "limitations", "How to read the numbers": "reading", "Provenance": "provenance"}
    places = {title: _key(title) for title in titles} | fixed
    links = [element("li", element("a", title, href=f"#{place}")) for title, place in places.items()]
    return element("nav", element("ul", *links), aria_label="Contents")


def _key(title: str) -> str:
    return title.lower().replace(" ", "-")


def _section(title: str, key: str, *parts: Element) -> Element:
    heading = element("h2", title, id=f"{key}-title")
    return element("section", heading, *parts, id=key, aria_labelledby=f"{key}-title")


def _measured(report: AuditReport, found: Iterable[Section]) -> Iterator[Element]:
    """Yield the sections of numbers, each with its rows, its pictures and its small tables."""
    shown = columns(report)
    number = 0
    for section in found:
        figures = [_figure(chart, f"chart-{number + index}") for index, chart in enumerate(section.charts)]
        number += len(figures)
        parts = [_table(section, shown)] if section.rows else []
        figures += map(_sheet, section.pictures)
        parts += [element("div", *figures, class_="figures")] if figures else []
        yield _section(section.title, _key(section.title), *parts, *(_small(table) for table in section.tables))


def _list(texts: Iterable[str], class_: str | None = None) -> Element:
    items = [element("li", text) for text in texts]
    return element("ul", *items, class_=class_) if items else element("p", NOTHING_SAID)


def _figure(chart: Chart, key: str) -> Element:
    caption = element("figcaption", element("strong", chart.title), f" {chart.caption}")
    return element("figure", caption, charts.draw(chart, key=key))


def _sheet(picture: Picture) -> Element:
    """Return a picture of pixels within the page itself, as wide as there is room."""
    height, width = picture.pixels.shape[:2]
    content = base64.b64encode(png(picture.pixels)).decode()
    shown = element("img", src=f"data:image/png;base64,{content}", alt=picture.alternative, width=width, height=height)
    caption = element("figcaption", element("strong", picture.title), f" {picture.caption}")
    return element("figure", caption, shown, class_="sheet")


def _scrolling(table: Element, name: str) -> Element:
    """Return a table in a box of its own, which scrolls where the table is wider than the page; keys reach it."""
    return element("div", table, class_="scroll", role="region", aria_label=name, tabindex=0)


def _table(section: Section, shown: Sequence[Column]) -> Element:
    heads = [element("th", column.heading, scope="col", class_="number") for column in shown]
    table = element(
        "table",
        element("caption", f"{section.title}, by model"),
        element("thead", element("tr", element("th", "measured", scope="col"), *heads)),
        element("tbody", *(_row(row) for row in section.rows)),
    )
    return _scrolling(table, section.title)


def _row(row: Row) -> Element:
    cells = [
        element("td", cell.value, *([element("small", cell.interval)] if cell.interval else []), class_="number")
        for cell in row.cells
    ]
    sees = [element("small", row.sees)] if row.sees else []
    return element("tr", element("th", row.label, *sees, scope="row", title=row.info.what or None), *cells)


def _small(small: SmallTable, class_: str = "") -> Element:
    heads = [element("th", cell, scope="col") for cell in small.heading]
    rows = [
        element(
            "tr", element("th", row[0], scope="row"), *(element("td", cell, class_=_class(cell)) for cell in row[1:])
        )
        for row in small.rows
    ]
    title = small.title[:1].upper() + small.title[1:]
    table = element("table", element("caption", title), element("thead", element("tr", *heads)),
                    element("tbody", *rows))  # fmt: skip
    notes = [_list(small.notes, class_="notes")] if small.notes else []
    return element("div", _scrolling(table, title), *notes, class_=f"small {class_}".strip())


def _class(cell: str) -> str | None:
    """Return how a cell is shown: verdicts in their colour, digests broken anywhere."""
    word = cell.removesuffix(" (warning)")
    if word in {verdict.value for verdict in Verdict}:
        return word
    return "digest" if len(cell) == 64 and not set(cell) - set("0123456789abcdef") else None
