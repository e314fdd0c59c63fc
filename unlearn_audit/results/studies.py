"""Which reports may stand in one table: those of one question, put to other seeds and other draws of a forget set."""

import re
from collections.abc import Sequence
from pathlib import PureWindowsPath
from typing import NamedTuple

from unlearn_audit.config import is_index_words
from unlearn_audit.report import AuditReport

SEED_OF_DATA = re.compile(r"(?<=[?&])(seed|subset_seed)=[^&]*&?")
DRAWN = re.compile(r"(random:[0-9.]+)(:[0-9]+)?")
INDEX_FILES = "index files"


class Named(NamedTuple):
    """A report and what it is called: the file that it came from."""

    name: str
    report: AuditReport


class Setting(NamedTuple):
    """What reports of one table share. Seeds of data and forget sets are left out: other draws may be averaged.

    Attributes:
        data: the data spec.
        forget: the forget set's; files of indices are one kind, whatever they are called.
        n: how many examples are to be forgotten.
        adjacent: the adjacent set's, where one is named.
        models: the architectures.
    """

    data: str
    forget: str
    n: int
    adjacent: str
    models: tuple[str, ...]

    @property
    def data_shown(self) -> str:
        """The data spec without the folders of whoever made the report.

        >>> Setting("idx:/home/me/fashion?train=100", "class:3", 9, "", ()).data_shown
        'idx:fashion?train=100'
        """
        place, mark, options = self.data.partition("?")
        kind, colon, path = place.partition(":")
        name = PureWindowsPath(path).name  # which takes both kinds of slash
        return f"{kind}{colon}{name}{mark}{options}"

    def unlike(self, other: "Setting") -> list[str]:
        """Return in words what two settings do not share."""
        words = {"data": "data", "forget": "forget sets", "n": "numbers of forget examples",
                 "adjacent": "adjacent sets", "models": "architectures"}  # fmt: skip
        return [text for name, text in words.items() if getattr(self, name) != getattr(other, name)]


def setting_of(report: AuditReport) -> Setting:
    """Return what a report has to share with others that stand in its table."""
    data = report.data
    return Setting(
        SEED_OF_DATA.sub("", data.source).rstrip("?&"),
        kind_of_set(data.forget.spec),
        data.forget.n,
        "" if data.adjacent is None else kind_of_set(data.adjacent.spec),
        tuple(sorted({one.model for one in report.subjects})),
    )


def kind_of_set(spec: str) -> str:
    """Return an index spec without what only draws it.

    >>> kind_of_set("random:0.1:3"), kind_of_set("class:3"), kind_of_set("/data/forget.npy")
    ('random:0.1', 'class:3', 'index files')
    """
    drawn = DRAWN.fullmatch(spec)
    if drawn is not None:
        return drawn[1]
    return spec if is_index_words(spec) else INDEX_FILES


def same_setting(reports: Sequence[Named]) -> dict[Setting, list[Named]]:
    """Return the reports by setting, in the order in which they came."""
    found: dict[Setting, list[Named]] = {}
    for one in reports:
        found.setdefault(setting_of(one.report), []).append(one)
    return found
