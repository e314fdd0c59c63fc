"""Which reports may stand in one table: those of one question, put to other seeds and other draws of a forget set."""

import re
from collections.abc import Sequence
from pathlib import PureWindowsPath
from typing import NamedTuple

from unlearn_audit.config import is_index_words
from unlearn_audit.report import AuditReport, SetSummary

SEED_OF_DATA = re.compile(r"(?<=[?&])(seed|subset_seed)=[^&]*&?")
DRAWN = re.compile(r"(random:[^:]+)(:[0-9]+)?")
INDEX_FILES = "index files"


class Named(NamedTuple):
    """A report and what it is called: the file that it came from."""

    name: str
    report: AuditReport


class Setting(NamedTuple):
    """What reports of one table share. Seeds of data and forget sets are left out: other draws may be averaged.

    Attributes:
        data: the data spec, without folders.
        content: the digest of the data, where no seed draws them.
        forget: the forget set's spec; files of indices are one kind, whatever they are called.
        n: how many examples are to be forgotten.
        measured: how many of them and of the retain set are measured, where that is a sample.
        retain: the retain set's spec.
        unseen: the spec of what the twin is drawn from.
        adjacent: the adjacent set's, where one is named.
        models: the architectures.
    """

    data: str
    content: str
    forget: str
    n: int
    measured: tuple[int | None, int | None]
    retain: str
    unseen: str
    adjacent: str
    models: tuple[str, ...]

    def unlike(self, other: "Setting") -> list[str]:
        """Return in words what two settings do not share."""
        found = [text for name, text in WORDS.items() if getattr(self, name) != getattr(other, name)]
        return list(dict.fromkeys(found))


WORDS = {
    "data": "data",
    "content": "data",
    "forget": "forget sets",
    "n": "numbers of forget examples",
    "measured": "numbers of measured examples",
    "retain": "retain sets",
    "unseen": "held-out examples",
    "adjacent": "adjacent sets",
    "models": "architectures",
}


def setting_of(report: AuditReport) -> Setting:
    """Return what a report has to share with others that stand in its table."""
    data = report.data
    spec = SEED_OF_DATA.sub("", data.source).rstrip("?&")
    return Setting(
        without_folders(spec),
        data.sha256 if spec == data.source else "",
        kind_of_set(data.forget.spec),
        data.forget.n,
        (_sampled(data.forget), _sampled(data.retain)),
        kind_of_set(data.retain.spec),
        "" if data.unseen is None else kind_of_set(data.unseen.spec),
        "" if data.adjacent is None else kind_of_set(data.adjacent.spec),
        tuple(sorted({one.model for one in report.subjects})),
    )


def _sampled(found: SetSummary) -> int | None:
    return found.measured if found.is_sampled else None


def without_folders(spec: str) -> str:
    """Return a data spec without the folders of whoever made the report.

    >>> without_folders("idx:/home/me/fashion?train=100"), without_folders("npz:d.npz?labels=/home/me/l.npy&size=14")
    ('idx:fashion?train=100', 'npz:d.npz?labels=l.npy&size=14')
    """
    place, mark, options = spec.partition("?")
    kind, colon, path = place.rpartition(":") if not re.search(r"[/\\]", place) else place.partition(":")
    kept = "&".join(f"{key}{equals}{_name(value)}" for key, equals, value in map(_parted, options.split("&")))
    return f"{kind}{colon}{_name(path)}{mark}{kept}"


def _parted(option: str) -> tuple[str, str, str]:
    return option.partition("=")


def _name(path: str) -> str:
    """Return the last part of a path, whichever way its slashes lean."""
    return PureWindowsPath(path).name if "/" in path or "\\" in path else path


def kind_of_set(spec: str) -> str:
    """Return an index spec without what only draws it.

    >>> kind_of_set("random:0.1:3"), kind_of_set("class:3"), kind_of_set("/data/forget.npy")
    ('random:0.1', 'class:3', 'index files')
    """
    drawn = DRAWN.fullmatch(spec)
    if drawn is not None:
        return drawn[1]
    return spec if is_index_words(spec) or not PureWindowsPath(spec).suffix else INDEX_FILES


def same_setting(reports: Sequence[Named]) -> dict[Setting, list[Named]]:
    """Return the reports by setting, in the order in which they came."""
    found: dict[Setting, list[Named]] = {}
    for one in reports:
        found.setdefault(setting_of(one.report), []).append(one)
    return found
