"""A table of results in every format: the same numbers, read back by whoever reads that format."""

import csv
import io
import json
import re
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from unlearn_audit.catalogue import info_or_name
from unlearn_audit.render.results import csv_text, json_text, latex, markdown, terminal
from unlearn_audit.results import Cell, Column, Line, ResultTable, Value
from unlearn_audit.results.studies import Setting

EVIL = "=cmd|'/c calc'!A0 & a_b \\input{x} \x1b[31m|"
SETTING = Setting("idx:fashion?train=100", "", "random:0.1", 10, (None, None), "rest", "test", "", ("small-cnn",))


def cell(*values: float | str | None, doubts: tuple[str, ...] = ()) -> Cell:
    return Cell(tuple(Value(f"m{n}", one, "diverged" if one is None else None, doubts) for n, one in enumerate(values)))


def table(*lines: tuple[str, tuple[Cell, ...]], metrics: tuple[str, ...]) -> ResultTable:
    columns = tuple(Column(info_or_name(name)) for name in metrics)
    made = tuple(
        Line(title, "unlearned", tuple(SimpleNamespace(who=one.who) for one in cells[0].values), cells)  # type: ignore[misc]
        for title, cells in lines
    )
    return ResultTable(SETTING, (), columns, made, ("a note with 5 % and an_underscore",))


USUAL = table(
    ("retrained", (cell(0.4, 0.6), cell(0.5, 0.9))),
    ("ieu", (cell(0.5), cell(0.001))),
    (EVIL, (cell(0.25, None, doubts=("wrong file",)), cell(None, None))),
    metrics=("gap.forget", "twosample.p"),
)


def drawn(*tables: ResultTable, width: int = 80) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width, color_system=None).print(terminal.render(tables, ("why they are apart",)))
    return stream.getvalue()


def test_csv_has_unrounded_numbers_and_nothing_where_there_is_none() -> None:
    rows = list(csv.DictReader(io.StringIO(csv_text.render((USUAL,)))))
    assert [row["n"] for row in rows] == ["2", "1", "2"]
    assert float(rows[0]["gap.forget"]) == 0.5
    assert float(rows[0]["gap.forget.sd"]) == pytest.approx(0.02**0.5)
    assert (rows[1]["gap.forget.sd"], rows[1]["gap.forget.n"]) == ("", "1")
    assert (rows[0]["twosample.p.lowest"], rows[0]["twosample.p.highest"]) == ("0.5", "0.9")
    assert (rows[2]["twosample.p.lowest"], rows[2]["twosample.p.n"]) == ("", "0")
    assert {row["data"] for row in rows} == {"idx:fashion?train=100"}
    assert [row["gap.forget.doubted"] for row in rows] == ["0", "0", "1"]


def test_pandas_reads_the_csv() -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = pandas.read_csv(io.StringIO(csv_text.render((USUAL, USUAL))))
    assert frame.groupby("method")["gap.forget"].mean()["ieu"] == 0.5
    assert frame["twosample.p.lowest"].isna().sum() == 2


def test_no_cell_of_a_csv_is_a_formula() -> None:
    for row in csv.reader(io.StringIO(csv_text.render((USUAL,)))):
        assert not any(text.startswith(("=", "@")) for text in row)


def test_latex_is_balanced_and_what_came_from_elsewhere_is_text() -> None:
    text = latex.render((USUAL,), ("apart\n\\input{y}",))
    assert r"$+0.500 \pm 0.141$" in text
    assert r"\input" not in text.replace(r"\textbackslash{}input", "").split("%", 1)[0]
    body = [line for line in text.splitlines() if not line.startswith("%")]
    bare = re.sub(r"\\[{}\\]", "", "\n".join(body))
    assert bare.count("{") == bare.count("}")
    assert len({line.count(" & ") for line in body if line.endswith(r"\\") and "multicolumn" not in line}) == 1
    assert "* in doubt" in text
    assert all(line.startswith("%") for line in text.splitlines() if "a note" in line or "apart" in line)
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == 1


def test_markdown_has_a_row_for_each_line_and_its_notes() -> None:
    text = markdown.render((USUAL,), ("apart",))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 3
    assert {re.sub(r"\\.", "", row).count("|") for row in rows} == {5}
    assert "- apart" in text
    assert "\x1b" not in text


def test_json_has_every_models_number_and_each_null_its_reason() -> None:
    body = json.loads(json_text.render((USUAL,), ("apart",)))
    (found,) = body["tables"]
    cells = found["lines"][2]["cells"]
    assert cells["gap.forget"]["n"] == 1
    assert cells["gap.forget"]["values"][1] == {"who": "m1", "value": None, "reason": "diverged",
                                                "doubts": ["wrong file"]}  # fmt: skip
    assert cells["twosample.p"]["mean"] is None
    assert body["apart"] == ["apart"]


def test_the_terminal_shows_ranges_doubts_and_how_many_there_are() -> None:
    text = drawn(USUAL)
    assert "0.500 to 0.900" in text
    assert "+0.250* (1 of 2)" in text
    assert "\x1b" not in text
    assert "why they are apart" in text


@pytest.mark.parametrize("width", [60, 80, 200])
def test_columns_that_do_not_fit_stand_in_a_block_below(width: int) -> None:
    names = tuple(f"accuracy.{split}" for split in ("retain", "forget", "test", "unseen", "adjacent", "remote"))
    made = table(
        ("retrained", tuple(cell(0.1, 0.2) for _ in names)),
        ("a method with a long name and settings c=0.2", tuple(cell(0.3) for _ in names)),
        metrics=names,
    )
    text = drawn(made, width=width)
    assert max(map(len, text.splitlines())) <= width
    assert text.count("retrained") >= (1 if width == 200 else 2)
    assert text.count("0.150 ± 0.071") == len(names)


@pytest.mark.parametrize("render", [csv_text, json_text, latex, markdown])
def test_nothing_at_all_is_no_failure(render: ModuleType) -> None:
    made: Callable[..., Any] = render.render
    assert made((), ("apart",)).endswith("\n")
