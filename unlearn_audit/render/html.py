"""A report as one HTML page that stands alone: no script, no network, pictures drawn inline."""

import base64
import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from xml.etree.ElementTree import Element

from unlearn_audit.gate import Gated, Verdict
from unlearn_audit.render import charts
from unlearn_audit.render.arrays import Arrays
from unlearn_audit.render.charts import Chart
from unlearn_audit.render.decisions import counted, told
from unlearn_audit.render.details import unreadable
from unlearn_audit.render.figures import foreign_scores
from unlearn_audit.render.markup import as_html, element
from unlearn_audit.render.places import Places
from unlearn_audit.render.png import png
from unlearn_audit.render.samples import Picture
from unlearn_audit.render.sections import Section, by_model, decided, provenance, sections, waived
from unlearn_audit.render.small_tables import SmallTable
from unlearn_audit.render.table import Column, Row, columns, footnotes, forget_set_stands_in
from unlearn_audit.render.traces import foreign_residuals
from unlearn_audit.render.verdicts import verdicts_of
from unlearn_audit.report import AuditReport

NO_ARRAYS = Arrays({})
NOTHING_SAID = (
    "This report says nothing against itself. What holds for every one: no difference seen is weaker than the same, "
    "and it speaks of these examples, these instruments and these settings alone."
)
FEW = 3  # models that a sentence names
SIGNS = {"passed": "✓", "failed": "✗", "error": "!", "inconclusive": "?"}


def render(
    report: AuditReport, arrays: Arrays = NO_ARRAYS, *, gated: Gated | None = None, folder: Path | None = None
) -> str:
    """Return the page: the verdict, then the numbers with their pictures, then what they rest on.

    Args:
        report: what was measured.
        arrays: per-example scores and long curves that lie beside it.
        gated: what a gate found, where a policy was given.
        folder: where the report lies, from where its files are told; None where that is not known.
    """
    places = Places(report, folder)
    report = places.of_report(report)
    title = f"Unlearning audit: {', '.join(subject.label for subject in report.subjects) or 'no checkpoints'}"
    shown = _reference_first(columns(report, together=True))
    found = sections(report, arrays, shown)
    body = [
        element("header", element("h1", "Is the data gone?"), element("p", _about(report), class_="about")),
        _section("Verdict", "verdict", *_verdict(report, gated, places)),
        _contents([section.title for section in found]),
        *_measured(found, shown),
        _section("Limitations", "limitations", _list([*report.limitations, *_left_out(report, arrays)])),
        _section("How to read the numbers", "reading", _list(footnotes(report))),
        _section("Provenance", "provenance", *map(_folded, provenance(report))),
    ]
    pixels = any(section.pictures for section in found)
    page = element("html", _head(title, pixels=pixels), element("body", element("main", *body)), lang="en")
    return "<!doctype html>\n" + as_html(page) + "\n"


def fragment(report: AuditReport) -> str:
    """Return what a notebook shows of a report: the conclusion, the page's tables and the limitations, without a head.

    Args:
        report: what was measured.
    """
    shown = columns(report)
    found = sections(report, NO_ARRAYS, shown)
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


def _reference_first(shown: Sequence[Column]) -> tuple[Column, ...]:
    """Return the columns with what the others are read against before them, where it stays in sight."""
    return tuple(sorted(shown, key=lambda column: not column.is_reference))


# ----- the verdict


def _verdict(report: AuditReport, gated: Gated | None, places: Places) -> Iterator[Element]:
    """Yield what the gate decided, if it was asked, and what the numbers say: models as a table, the rest in words."""
    if gated is not None:
        yield _banner(gated)
        glance = by_model(gated.decisions)
        yield from [_small(glance)] if glance.rows[1:] else []
    table, sentences, others = verdicts_of(report)
    if table is not None:
        yield _small(table, "stacked models")
    if others or table is None:
        nothing = ("This report draws no conclusion: nothing in it was comparable.",)
        yield _list(others or nothing, class_="conclusion")
    if sentences:
        yield _details("The comparisons in sentences, with their numbers", _list(sentences, class_="conclusion"))
    if gated is not None:
        yield from _decided(gated, places)


def _banner(gated: Gated) -> Element:
    """Return the outcome, of whom, by which policy, and how many rules ended how."""
    labels = tuple(gated.judged)
    whom = ", ".join(labels) if len(labels) <= FEW else f"{len(labels)} models"
    policy = Path(gated.policy.path).name
    outcome = element("strong", f"{SIGNS[gated.outcome]} {gated.outcome.capitalize()}")
    about = f": {whom or 'no checkpoint'}, by the policy {policy}"
    counts = element("span", counted(gated.decisions) or "no rule")
    return element("p", outcome, about, counts, class_=f"outcome {gated.outcome}")


def _decided(gated: Gated, places: Places) -> Iterator[Element]:
    """Yield the decisions with their reasons, whom they are about, and the waivers."""
    said = [places.of(text) for text in told(gated)]
    yield _small(
        _without_paths(decided(gated.decisions, said if len(said) <= FEW else ()), places), "stacked decisions"
    )
    if len(said) > FEW:
        yield _details("What was judged, and what was not", _list(said, class_="notes"))
    if gated.waivers:
        yield _small(_without_paths(waived(gated.waivers), places), "stacked decisions")


def _without_paths(small: SmallTable, places: Places) -> SmallTable:
    return small._replace(rows=tuple(tuple(map(places.of, row)) for row in small.rows))


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


def _measured(found: Iterable[Section], shown: Sequence[Column]) -> Iterator[Element]:
    """Yield the sections of numbers, each with its rows, its pictures and its small tables."""
    number = 0
    for section in found:
        figures = [_figure(chart, f"chart-{number + index}") for index, chart in enumerate(section.charts)]
        number += len(figures)
        parts = [_table(section, shown)] if section.rows else []
        figures += map(_sheet, section.pictures)
        parts += [element("div", *figures, class_="figures")] if figures else []
        yield _section(section.title, _key(section.title), *parts, *(_small(table) for table in section.tables))


def _list(texts: Iterable[str], class_: str | None = None) -> Element:
    items = [element("li", *_words(text)) for text in texts]
    return element("ul", *items, class_=class_) if items else element("p", NOTHING_SAID)


def _words(text: str) -> Iterator[Element | str]:
    """Yield a text with what stands between backticks as code."""
    for index, part in enumerate(re.split(r"`([^`\n]+)`", text)):
        if part:
            yield element("code", part) if index % 2 else part


def _details(title: str, *parts: Element) -> Element:
    """Return what is folded until somebody asks for it; print has it whole."""
    return element("details", element("summary", title), *parts)


def _folded(small: SmallTable) -> Element:
    """Return a small table folded below its title."""
    return _details(small.title, _small(small, "folded"))


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
    """Return a table in a box of its own, which scrolls where the table is wider than the window; keys reach it."""
    return element("div", table, class_="scroll", role="region", aria_label=name, tabindex=0)


def _table(section: Section, shown: Sequence[Column]) -> Element:
    """Return the section's numbers; a model of which it has none has no column."""
    kept = [index for index in range(len(shown)) if not all(row.is_empty([index]) for row in section.rows)]
    classes = _sides(shown)
    heads = [element("th", shown[index].heading, scope="col", class_=classes[index]) for index in kept]
    table = element(
        "table",
        element("caption", f"{section.title}, by model"),
        element("thead", element("tr", element("th", "measured", scope="col"), *heads)),
        element("tbody", *(_row(row, kept, classes) for row in section.rows)),
        class_="numbers",
    )
    return _scrolling(table, section.title)


def _sides(shown: Sequence[Column]) -> list[str]:
    """Return the class of every column: the reference stays in sight where there is one."""
    alone = sum(column.is_reference for column in shown) == 1
    return ["number reference" if alone and column.is_reference else "number" for column in shown]


def _row(row: Row, kept: Sequence[int], classes: Sequence[str]) -> Element:
    cells = [
        element("td", cell.value, *([element("small", cell.interval)] if cell.interval else []), class_=classes[index])
        for index, cell in enumerate(row.cells)
        if index in kept
    ]
    sees = [element("small", row.sees)] if row.sees else []
    return element("tr", element("th", row.label, *sees, scope="row", title=row.info.what or None), *cells)


def _small(small: SmallTable, class_: str = "") -> Element:
    """Return a small table; in one that is stacked on a narrow screen every cell knows its heading."""
    stacked = class_.startswith("stacked")
    heads = [element("th", cell, scope="col") for cell in small.heading]
    rows = []
    for first, *rest in small.rows:
        cells = [
            element("td", *_words(cell), class_=_class(cell), data_head=head if stacked else None)
            for cell, head in zip(rest, small.heading[1:], strict=True)
        ]
        rows.append(element("tr", element("th", *_words(first), scope="row"), *cells))
    title = small.title[:1].upper() + small.title[1:]
    table = element("table", element("caption", title), element("thead", element("tr", *heads)),
                    element("tbody", *rows))  # fmt: skip
    notes = [_list(small.notes, class_="notes")] if small.notes else []
    return element("div", _scrolling(table, title), *notes, class_=f"small {class_}".strip())


def _class(cell: str) -> str | None:
    """Return how a cell is shown: verdicts in their colour, digests broken anywhere."""
    word = cell.removesuffix(" (warning)")
    if word in {verdict.value for verdict in Verdict}:
        return word if word == cell else "warning"
    return "digest" if len(cell) == 64 and not set(cell) - set("0123456789abcdef") else None
