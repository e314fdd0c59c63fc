"""Paths of the machine that measured, told as a reader elsewhere can follow them: relative to the report."""

import re
from collections.abc import Iterator
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import Any

from unlearn_audit.report import AuditReport

SCHEME = re.compile(r"^[a-z][a-z0-9_-]+:(?=.)")  # of a spec, such as npz:FILE; a drive has one letter
NEAR = 2  # folders above the report's own, whose files are told from there


class Places:
    """The absolute paths that a report names, each with what is shown in its place.

    A file in the report's folder, or within two folders above it, is told from there; of any other the name alone.

    Args:
        report: which.
        folder: where it lies; None where that is not known.
    """

    def __init__(self, report: AuditReport, folder: Path | None) -> None:
        above = [] if folder is None else [folder.absolute(), *folder.absolute().parents][: NEAR + 1]
        near = [each for each in above if each != Path(each.anchor)]
        found = sorted({path for path in _paths(report) if len(PurePath(path).parts) > 1}, key=len, reverse=True)
        self.shown = {path: _told(path, near) for path in found}
        # A path that ends here: not the beginning of a longer name, and no part of a longer path or address.
        ends = "|".join(re.escape(path) for path in found)
        self.named = re.compile(rf"(?<![\w/.-])(?:{ends})(?![\w-]|\.\w)") if found else None

    def of(self, text: str) -> str:
        """Return a text without absolute paths."""
        return text if self.named is None else self.named.sub(lambda found: self.shown[found.group()], text)

    def within(self, value: Any) -> Any:
        """Return plain values, such as settings, without absolute paths."""
        if isinstance(value, str):
            return self.of(value)
        if isinstance(value, dict):
            return {key: self.within(entry) for key, entry in value.items()}
        return [self.within(entry) for entry in value] if isinstance(value, list | tuple) else value

    def of_report(self, report: AuditReport) -> AuditReport:
        """Return what a page shows of a report without absolute paths; its numbers are the same."""
        subjects = tuple(
            one.model_copy(update={"path": self.of(one.path), "notes": tuple(map(self.of, one.notes))})
            for one in report.subjects
        )
        sets = {name: one.model_copy(update={"spec": self.of(one.spec)}) for name, one in _sets(report)}
        data = report.data.model_copy(update={"source": self.of(report.data.source), **sets})
        reasons = tuple(
            one.model_copy(update={"reason": self.of(one.reason)}) if one.reason else one for one in report.measurements
        )
        said = {key: self.within(getattr(report, key)) for key in ("settings", "environment")}
        lists = {key: tuple(map(self.of, getattr(report, key))) for key in ("limitations", "conclusion")}
        return report.model_copy(update={"subjects": subjects, "data": data, "measurements": reasons, **said, **lists})


def _sets(report: AuditReport) -> Iterator[tuple[str, Any]]:
    for name in ("forget", "retain", "test", "unseen", "adjacent", "remote"):
        one = getattr(report.data, name)
        if one is not None:
            yield name, one


def _paths(report: AuditReport) -> Iterator[str]:
    """Yield every absolute path that a report names where it names files."""
    specs = [report.data.source, *(one.spec for _, one in _sets(report)), *_texts(report.settings)]
    for text in (*(one.path for one in report.subjects), *specs):
        whole = SCHEME.sub("", text)
        # What a spec says after its file, such as ?labels=FILE&seed=0, names files, too; a folder may be lr=0.1.
        file, *options = whole.split("?")
        for path in (file, *(part.partition("=")[2] for each in options for part in each.split("&"))):
            if PurePosixPath(path).is_absolute() or PureWindowsPath(path).is_absolute():
                yield path


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list | tuple):
        for entry in value.values() if isinstance(value, dict) else value:
            yield from _texts(entry)


def _told(path: str, near: list[Path]) -> str:
    """Return what is shown in the place of a path."""
    for up, folder in enumerate(near):
        if Path(path).is_relative_to(folder):
            return "../" * up + str(Path(path).relative_to(folder))
    pure = PurePosixPath(path) if path.startswith("/") else PureWindowsPath(path)
    return f"…/{pure.name}" if pure.name else "…"
