"""A report as a notebook looks at it: a number by name, a table, a data frame."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import PrivateAttr

from unlearn_audit.errors import UsageError, unknown_name
from unlearn_audit.files import make_output_folder
from unlearn_audit.render import html, markdown
from unlearn_audit.report import ARRAYS_NAME, AuditReport, Measurement, write_arrays, write_report
from unlearn_audit.report import read_report as read_document

if TYPE_CHECKING:
    import pandas
    from numpy.typing import NDArray

REPORT_NAME = "report.json"


class Report(AuditReport):
    """An audit's report, which `gate`, `show` and everything else that reads reports takes, with views for a notebook.

    `report["rcd.raw", "unlearned"]` is a measurement: `.value`, `.interval`, `.reference`, `.reason` where it is None.
    Shown by itself in a notebook it is the page's tables.
    """

    _arrays: "Mapping[str, NDArray[Any]]" = PrivateAttr(default_factory=dict)

    @classmethod
    def of(cls, report: AuditReport, arrays: "Mapping[str, NDArray[Any]] | None" = None) -> "Report":
        """Return a report with these views.

        Args:
            report: as an audit made it or a file held it.
            arrays: what was too long for it.
        """
        found = cls(**{name: getattr(report, name) for name in type(report).model_fields})
        found._arrays = dict(arrays or {})
        return found

    @property
    def arrays(self) -> "Mapping[str, NDArray[Any]]":
        """By name what is too long for a report: per-example areas and scores, long curves."""
        return self._arrays

    def __getitem__(self, key: tuple[str, str]) -> Measurement:
        """Return a measurement by its name and the label of its model.

        Raises:
            KeyError: there is none, and the message has the nearest name and the list; or the key is not such a pair.
        """
        given: Any = key  # in a notebook no type is checked
        if not isinstance(given, tuple) or len(given) != 2:
            labels = ", ".join(one.label for one in self.subjects)
            asked = given if isinstance(given, str) else "NAME"
            raise KeyError(f'a name and a label are needed: report["{asked:.80}", "LABEL"]; labels: {labels}')
        name, subject = given
        found = self.find(name, subject)
        if found is None:
            subjects = {one.subject for one in self.measurements}
            names = {one.name for one in self.measurements if subject not in subjects or one.subject == subject}
            known = ("measurement", name, names) if name not in names else ("model", subject, subjects)
            raise KeyError(unknown_name(*known))
        return found

    def to_frame(self) -> "pandas.DataFrame":
        """Return a data frame with a row for each measurement, by its name and the label of its model.

        `report.to_frame()["value"].unstack()` has models as columns.

        Returns:
            Columns role, value, low, high, unit, direction, n, reference (the retrained models' mean), reason, method.

        Raises:
            UsageError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as missing:
            raise UsageError("to_frame needs pandas: pip install 'unlearn-audit[pandas]'") from missing
        rows = [
            {
                "measurement": one.name,
                "model": one.subject,
                "role": one.role,
                "value": one.value,
                "low": one.interval.low if one.interval else None,
                "high": one.interval.high if one.interval else None,
                "unit": one.unit,
                "direction": one.direction,
                "n": one.n,
                "reference": one.reference.value if one.reference else None,
                "reason": one.reason,
                "method": one.method,
            }
            for one in self.measurements
        ]
        return pandas.DataFrame(rows).set_index(["measurement", "model"])

    def save(self, folder: str | Path, *, force: bool = False) -> Path:
        """Write report.json, and arrays.npz where there are any, and return the path of the report.

        Args:
            folder: made where it is missing.
            force: replace what an earlier report left there.

        Raises:
            OutputError: the folder cannot be written, or has a report already.
        """
        folder = Path(folder)
        make_output_folder(folder, force=force, owned=(REPORT_NAME, ARRAYS_NAME))
        write_arrays(self.arrays, folder / ARRAYS_NAME)
        write_report(self, folder / REPORT_NAME)
        return folder / REPORT_NAME

    def __repr__(self) -> str:
        """Say in a line what was measured of whom."""
        labels = ", ".join(subject.label for subject in self.subjects)
        return f"Report({len(self.measurements)} measurements of {labels}; forget {self.data.forget.described})"

    def __str__(self) -> str:
        """Return the report as text: its tables, conclusion and limitations in Markdown."""
        return markdown.render(self)

    def _repr_html_(self) -> str:
        """Return what Jupyter shows."""
        return html.fragment(self)


def read_report(path: str | Path) -> Report:
    """Read and check the report.json of an audit.

    Args:
        path: the file.

    Raises:
        ReportError: it is missing, damaged, of another version, or altered.
    """
    return Report.of(read_document(Path(path)))
