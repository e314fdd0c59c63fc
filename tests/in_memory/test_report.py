"""A report in a notebook: numbers by name, the page's tables, a data frame where pandas is."""

import sys
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest

import unlearn_audit as ua
from unlearn_audit.errors import UsageError
from unlearn_audit.report import AuditReport, Measurement


@pytest.fixture
def report(make_report: Callable[..., AuditReport], make_measurement: Callable[..., Measurement]) -> ua.Report:
    return ua.Report.of(
        make_report(
            make_measurement("accuracy.test", "unlearned", value=0.9, interval=(0.8, 0.95)),
            make_measurement("rcd.ratio_to_unseen", "unlearned", value=None, reason="diverged", unit="ratio"),
            make_measurement("accuracy.test", "original <b>", value=0.8),
            limitations=("few & small",),
        )
    )


def test_a_number_is_found_by_name_and_model(report: ua.Report) -> None:
    assert report["accuracy.test", "unlearned"].value == 0.9
    assert report["rcd.ratio_to_unseen", "unlearned"].reason == "diverged"


@pytest.mark.parametrize(
    ("key", "says"),
    [
        (("accuracy.tets", "unlearned"), "unknown measurement 'accuracy.tets'; did you mean 'accuracy.test'"),
        ("accuracy.forget", r'needed: report\["accuracy.forget", "LABEL"\]; labels: unlearned, original <b>'),
        (("accuracy.test", "unlearned", 0), r'needed: report\["NAME", "LABEL"\]; labels'),
        (("accuracy.test", "unlerned"), "unknown model 'unlerned'; did you mean 'unlearned'"),
        (("rcd.ratio_to_unseen", "original <b>"), "unknown measurement 'rcd.ratio_to_unseen'"),
    ],
)
def test_a_number_that_is_not_there_is_told_with_the_nearest(key: Any, says: str, report: ua.Report) -> None:
    with pytest.raises(KeyError, match=says):
        report[key]


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)


def test_a_notebook_shows_the_pages_tables_and_no_page(report: ua.Report) -> None:
    shown = report._repr_html_()
    parser = _Tags()
    parser.feed(shown)
    assert not {"html", "head", "body", "style", "script"} & {*parser.tags}
    assert parser.tags.count("table") == 1
    assert "0.900" in shown
    assert "[.800, .950]" in shown
    assert "few &amp; small" in shown
    assert "<b>" not in shown


def test_in_text_it_is_a_line_and_printed_it_is_markdown(report: ua.Report) -> None:
    assert repr(report) == "Report(3 measurements of unlearned, original <b>; forget forget)"
    assert "accuracy test" in str(report)


def test_a_data_frame_has_a_row_for_each_measurement(report: ua.Report) -> None:
    pandas = pytest.importorskip("pandas")
    frame = report.to_frame()
    assert isinstance(frame, pandas.DataFrame)
    assert list(frame.index.names) == ["measurement", "model"]
    one = frame.loc["accuracy.test", "unlearned"]
    assert (one["value"], one["low"], one["high"], one["n"]) == (0.9, 0.8, 0.95, 100)
    assert frame.loc["rcd.ratio_to_unseen", "unlearned"]["reason"] == "diverged"
    assert frame["value"].unstack().loc["accuracy.test"].to_dict() == {"original <b>": 0.8, "unlearned": 0.9}


def test_without_pandas_it_says_what_to_install(report: ua.Report, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UsageError, match=r"pip install 'unlearn-audit\[pandas\]'"):
        report.to_frame()
