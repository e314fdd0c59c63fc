"""Paths on the page: from the report where they are near it, else the name alone, and none of the maker's folders."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unlearn_audit.render import html
from unlearn_audit.render.places import Places
from unlearn_audit.report import AuditReport, SetSummary

Make = Callable[..., Any]
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="paths of POSIX")
HOME = "/home/jane doe/secret"


@pytest.fixture
def report(make_report: Make, make_measurement: Make) -> AuditReport:
    """A report that was made in a folder of somebody's own."""
    made: AuditReport = make_report(
        make_measurement("accuracy.test", "u", value=None, reason=f"{HOME}/models/u.pt has no classes"),
        settings={
            "config": {"forget": f"{HOME}/audit/forget.npy", "mia": {"shadows": "/data/fleet"}, "names": ["/a/b/c.pt"]},
            "from": {"forget": "flag"},
        },
        limitations=(f"models/u.pt: {HOME}/models/u.pt was chosen",),
        conclusion=("RCD / RCD of the twin is 1 / 2",),
        environment={"python": "3.13"},
    )
    subjects = tuple(one.model_copy(update={"path": f"{HOME}/models/u.pt"}) for one in made.subjects)
    forget = SetSummary(spec=f"{HOME}/audit/forget.npy", sha256="a" * 64, n=10)
    source = "npz:/data/sets/train.npz?labels=/data/sets/new.npy&seed=0"
    data = made.data.model_copy(update={"forget": forget, "source": source})
    return made.model_copy(update={"subjects": subjects, "data": data})


def test_files_near_the_report_are_told_from_there(report: AuditReport) -> None:
    places = Places(report, Path(HOME) / "audit" / "out")
    assert places.of(f"{HOME}/audit/forget.npy") == "../forget.npy"
    assert places.of(f"sha of {HOME}/models/u.pt") == "sha of ../../models/u.pt"
    assert places.of("npz:/data/sets/train.npz?labels=/data/sets/new.npy") == "npz:…/train.npz?labels=…/new.npy"
    assert places.of("RCD / RCD, 1 / step, /never/named") == "RCD / RCD, 1 / step, /never/named"


def test_a_path_is_replaced_where_it_stands_whole_and_nowhere_else(make_report: Make, make_measurement: Make) -> None:
    made: AuditReport = make_report(make_measurement("accuracy.test", "u"), settings={"root": "/", "data": "/data"})
    subjects = tuple(one.model_copy(update={"path": f"{HOME}/lr=0.1/u.pt"}) for one in made.subjects)
    places = Places(made.model_copy(update={"subjects": subjects}), Path(HOME) / "out")
    assert places.of(f"{HOME}/lr=0.1/u.pt: its weights") == "../lr=0.1/u.pt: its weights"
    assert places.of("at /data, of /data/x or '/data'.") == "at …/data, of …/data/x or '…/data'."
    for text in ("https://x/data/y", "/database/u", "1 / 2", "/data-2", "/data.npz", "a/data"):
        assert places.of(text) == text


def test_a_report_at_the_root_or_nowhere_tells_names_alone(report: AuditReport) -> None:
    for folder in (Path("/out"), Path("/"), None):
        assert Places(report, folder).of(f"{HOME}/models/u.pt") == "…/u.pt"


def test_the_page_names_no_folder_of_the_maker_and_keeps_the_digests(report: AuditReport) -> None:
    page = html.render(report, folder=Path("/srv/reports"))
    assert "jane" not in page
    assert "/data" not in page
    for text in ("…/u.pt", "…/forget.npy", "…/c.pt", "…/fleet", "npz:…/train.npz?labels=…/new.npy&amp;seed=0",
                 "b" * 64, "RCD / RCD of the twin is 1 / 2"):  # fmt: skip
        assert text in page
    assert report.subjects[0].path == f"{HOME}/models/u.pt"
