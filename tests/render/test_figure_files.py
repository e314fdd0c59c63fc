"""A report's pictures as files: what a paper takes, under names that stay apart; seeds of a method look alike."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from unlearn_audit.render.arrays import Arrays
from unlearn_audit.render.figure_files import figure_files
from unlearn_audit.render.looks import Look
from unlearn_audit.report import AuditReport, Made, write_report

Make = Callable[..., Any]


@pytest.fixture
def report(make_report: Make, make_measurement: Make) -> AuditReport:
    curves = {"u": [1.0, 0.5, 0.25], "v": [1.0, 0.75, 0.5], "r": [2.0, 1.5, 1.25]}
    measured = [
        make_measurement("rcd.raw", label, value=sum(loss), role="retrained" if label == "r" else "unlearned",
                         details={"loss": loss, "step_size": 0.1})
        for label, loss in curves.items()
    ]  # fmt: skip
    measured += [make_measurement("gap.average", label, value=0.1, role=one.role)
                 for label, one in zip(curves, measured, strict=True)]  # fmt: skip
    found: AuditReport = make_report(*measured)
    return found


def test_every_chart_is_an_svg_of_its_own_with_its_caption_in_the_picture(report: AuditReport) -> None:
    found = figure_files(report, Arrays({}))
    assert list(found) == ["relearning-the-forget-set.svg", "average-gap-against-rcd.svg"]
    for content in found.values():
        tree = ElementTree.fromstring(content)
        width = float(tree.attrib["width"])
        texts = [text for text in tree.iter("{http://www.w3.org/2000/svg}text") if text.text]
        assert all(len(text.text or "") * 6.6 <= width for text in texts if "font-weight" not in text.attrib)
        assert not any(key.endswith("href") for part in tree.iter() for key in part.attrib)
        strokes = [part.get("stroke") for part in tree.iter() if part.get("stroke")]
        assert strokes
        assert all(str(colour).startswith("#") for colour in strokes), "converters know no variables"


def test_sheets_of_samples_are_png(report: AuditReport, make_report: Make, make_measurement: Make) -> None:
    drawn = make_report(make_measurement("generation.forget_rate", "u", value=0.1, role="unlearned"))
    sheets = {f"generation/u/{side}": np.zeros((8, 8), dtype=np.uint8) for side in ("forgotten", "kept")}
    found = figure_files(drawn, Arrays({}, (), sheets))
    assert len(found) == 2
    assert all(name.endswith(".png") and content.startswith(b"\x89PNG") for name, content in found.items())


def test_seeds_of_a_method_have_one_look_and_other_settings_another(report: AuditReport) -> None:
    def looks(*settings: float) -> Look:
        made = {label: Made(method="ieu", seed=n, settings={"c": settings[n]}) for n, label in enumerate(("u", "v"))}
        subjects = tuple(one.model_copy(update={"made": made.get(one.label)}) for one in report.subjects)
        return Look(report.model_copy(update={"subjects": subjects}))

    assert looks(0.2, 0.2).styles["u"] == looks(0.2, 0.2).styles["v"]
    assert looks(0.2, 0.5).styles["u"] != looks(0.2, 0.5).styles["v"]
    assert Look(report).styles["u"] != Look(report).styles["v"]


def test_the_verb_writes_them_and_replaces_none_unasked(report: AuditReport, run: Make, tmp_path: Path) -> None:
    write_report(report, tmp_path / "report.json")
    asked = ("show", tmp_path / "report.json", "--figures", tmp_path / "figures")
    ran = run(*asked)
    assert (ran.code, ran.stdout) == (0, "")
    assert "wrote 2 figures" in ran.stderr
    assert len(list((tmp_path / "figures").iterdir())) == 2
    assert run(*asked).code == 2
    assert run(*asked, "--force").code == 0


def test_a_report_without_pictures_says_so(
    make_report: Make, make_measurement: Make, run: Make, tmp_path: Path
) -> None:
    write_report(make_report(make_measurement("accuracy.test")), tmp_path / "report.json")
    ran = run("show", tmp_path / "report.json", "--figures", tmp_path / "figures")
    assert ran.code == 0
    assert "no figures" in ran.stderr
    assert not (tmp_path / "figures").exists()
