"""`results`: reports by file or folder, formats to stdout or into a file, refusals; no torch."""

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unlearn_audit.report import Made, write_report

Run = Callable[..., Any]
Make = Callable[..., Any]


@pytest.fixture
def reports(tmp_path: Path, make_report: Make, make_measurement: Make) -> list[Path]:
    """Two audits of one question, by another seed each."""
    found = []
    for number, value in enumerate((0.5, 0.7)):
        report = make_report(make_measurement("accuracy.forget", "u", value=value, role="unlearned"),
                             make_measurement("accuracy.forget", "r", value=0.4, role="retrained"))  # fmt: skip
        subjects = tuple(
            one.model_copy(update={"made": Made(method="ieu", seed=number), "sha256": f"{number + 1}" * 64})
            if one.role == "unlearned"
            else one
            for one in report.subjects
        )
        path = tmp_path / f"seed-{number}" / "report.json"
        path.parent.mkdir()
        write_report(report.model_copy(update={"subjects": subjects}), path)
        found.append(path)
    return found


def test_reports_and_folders_are_joined(run: Run, reports: list[Path]) -> None:
    ran = run("results", reports[0], reports[1].parent, "--format", "csv")
    assert ran.code == 0, ran.stderr
    rows = {row["method"]: row for row in csv.DictReader(io.StringIO(ran.stdout))}
    assert list(rows) == ["retrained", "ieu"]
    assert float(rows["ieu"]["accuracy.forget"]) == pytest.approx(0.6)
    assert rows["ieu"]["n"] == "2"
    assert rows["retrained"]["n"] == "1", "it is the same file in both"


@pytest.mark.parametrize("format", ["csv", "latex", "markdown", "json"])
def test_a_file_holds_what_stdout_would(run: Run, reports: list[Path], tmp_path: Path, format: str) -> None:
    out = tmp_path / f"table.{format}"
    shown = run("results", *reports, "--format", format)
    ran = run("results", *reports, "--format", format, "--out", out)
    assert (shown.code, ran.code, ran.stdout) == (0, 0, "")
    assert out.read_text() == shown.stdout
    again = run("results", *reports, "--format", format, "--out", out)
    assert again.code == 2
    assert "--force" in again.stderr


def test_the_table_says_how_many_models_and_reports(run: Run, reports: list[Path]) -> None:
    ran = run("results", *reports)
    assert "0.600 ± 0.141" in ran.stdout
    assert "2 reports, 1 forget set:" in " ".join(ran.stdout.split())


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--out", "table.txt"], 2, "--out takes --format csv, latex, markdown or json"),
        (["--metrics", "accuracy.forgot"], 2, "near it: accuracy.forget"),
        (["--by", "colour"], 2, "--by"),
    ],
)
def test_refusals(run: Run, reports: list[Path], words: list[str], code: int, says: str) -> None:
    ran = run("results", *reports, *words)
    assert ran.code == code
    assert says in ran.stderr


def test_one_report_is_not_counted_twice(run: Run, reports: list[Path]) -> None:
    ran = run("results", reports[0], reports[0].parent)
    assert ran.code == 2
    assert "is named twice" in ran.stderr


def test_a_folder_without_a_report_and_a_damaged_one_are_refused(run: Run, reports: list[Path], tmp_path: Path) -> None:
    assert run("results", tmp_path / "nothing").code == 3
    reports[0].write_text(reports[0].read_text().replace("0.5", "0.6"))
    assert run("results", *reports).code == 3
