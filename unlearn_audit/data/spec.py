"""Data specs: `SOURCE[:TARGET][?OPTION=VALUE&...]`, read into typed parts and written back in one canonical form."""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from unlearn_audit.catalogue import DATA_SOURCES
from unlearn_audit.config.early import OF_YOUR_OWN
from unlearn_audit.data.old_draws import VERSION as OLD_VERSION
from unlearn_audit.errors import DataError, unknown_name
from unlearn_audit.files import expanded

MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
LAYOUTS = ("nhwc", "nchw")
ESCAPES = {"%3F": "?", "%26": "&", "%25": "%"}  # the characters of a path that a spec gives a meaning


@dataclass(frozen=True)
class Options:
    """What may follow the `?`; images are made smaller and subsets taken first, then labels are changed.

    Attributes:
        size: make square images this many pixels wide and high, each the mean of those it stands for.
        train: keep this many training examples: the first of a permutation drawn from `subset_seed`, in source order.
        test: likewise for the test split.
        subset_seed: seed of both subsets.
        drawn_by: `0.1` takes the subsets that version 0.1 drew, for checkpoints that were made with them.
        mislabel: this fraction of the training examples (rounded) gets a wrong label, uniform over the other classes.
        seed: seed of `mislabel`.
        layout: `nhwc` or `nchw`, how the images of arrays lie, where both are plausible.
        scale: what pixels are divided by, where their range does not tell; 1 takes them as they stand.
        first_label: the number that arrays give to the first class, where they do not show it; 0 or more.
        labels: `.npy` file with the observed labels of the (subset) training examples, int [N].
        labels_sha256: digest of those labels as little-endian int64; refused when it does not match.
        root: the folder that `torchvision:` data lies in.
    """

    size: int | None = None
    train: int | None = None
    test: int | None = None
    subset_seed: int = 0
    drawn_by: str | None = None
    mislabel: float | None = None
    seed: int = 0
    layout: str | None = None
    scale: float | None = None
    first_label: int | None = None
    labels: str | None = None
    labels_sha256: str | None = None
    root: str | None = None

    def written(self) -> dict[str, str]:
        """Return the options that say something, in canonical order; a seed only beside what it seeds."""
        subset = self.subset_seed if self.train is not None or self.test is not None else None
        values: dict[str, object] = {
            "size": self.size,
            "train": self.train,
            "test": self.test,
            "subset_seed": subset,
            "drawn_by": self.drawn_by,
            "mislabel": self.mislabel,
            "seed": self.seed if self.mislabel is not None else None,
            "layout": self.layout,
            "scale": None if self.scale is None else str(self.scale).removesuffix(".0"),
            "first_label": self.first_label,
            "labels": self.labels,
            "labels_sha256": self.labels_sha256,
            "root": self.root,
        }
        return {key: str(value) for key, value in values.items() if value is not None}


@dataclass(frozen=True)
class DataSpec:
    """A data spec in its parts; `source` is a name of the catalogue, or a module when `code`."""

    source: str
    target: str
    options: Options
    code: bool = False

    def __str__(self) -> str:
        head = f"{self.source}:{_escape(self.target)}" if self.target else self.source
        options = "&".join(f"{key}={_escape(value)}" for key, value in self.options.written().items())
        return f"{head}?{options}" if options else head


def absolute(path: str, base: Path) -> Path:
    """Return `path` (a leading `~` expanded) as an absolute path; a relative one starts at `base`.

    Raises:
        DataError: it can name no file: nobody's home folder, a name that is too long.
    """
    found = Path(os.path.abspath(base / expanded(path, DataError)))
    try:
        found.exists()
    except (OSError, ValueError) as problem:
        what = getattr(problem, "strerror", None) or problem
        raise DataError(f"cannot look for '{path[:80]}{'…' if len(path) > 80 else ''}': {what}") from problem
    return found


def is_code(spec: str) -> bool:
    """Return whether the spec is `package.module:callable`, so that loading it would run code.

    A name without a dot that nearly is a data source (`torchvison:MNIST`) counts as a slip, and is never run.

    >>> is_code("mine.data:load?train=100"), is_code("digits"), is_code("npz:data.npz")
    (True, False, False)
    """
    source, _, target = spec.partition("?")[0].partition(":")
    if source in DATA_SOURCES or not MODULE.fullmatch(source) or not target.isidentifier():
        return False
    return "." in source or not get_close_matches(source[:200], DATA_SOURCES, n=1, cutoff=0.6)


def parse_spec(spec: str) -> DataSpec:
    """Return the parts of a data spec; nothing is opened.

    In a path `?` is written %3F, `&` %26, and a `%` before these letters %25.

    Args:
        spec: as typed, for example `digits?mislabel=0.1&seed=0`.

    Raises:
        DataError: an unknown source or option, a malformed value, or options that contradict each other.
    """
    head, question, tail = spec.partition("?")
    source, _, target = head.partition(":")
    code = is_code(spec)
    if source not in DATA_SOURCES and not code:
        raise DataError(unknown_name("data source", source, DATA_SOURCES, hint=OF_YOUR_OWN))
    options = _parse_options(spec, tail) if question else Options()
    if options.root is not None and source != "torchvision":
        raise DataError(f"data spec '{spec}': root= belongs to torchvision: data only")
    _check_readings(spec, source, options, code=code)
    return DataSpec(source, _unescape(target), options, code)


def _check_readings(spec: str, source: str, options: Options, *, code: bool) -> None:
    """Refuse an option that says how arrays are read where there are none, or where their format says it."""
    arrays = {"layout": ("npz",), "scale": ("npz", "idx"), "first_label": ("npz", "idx")}
    for key, sources in arrays.items():
        if getattr(options, key) is not None and source not in sources and not code:
            raise DataError(f"data spec '{spec}': {key}= belongs to {': and '.join(sources)}: data only")


def _parse_options(spec: str, text: str) -> Options:
    """Read `KEY=VALUE` pairs joined by `&`."""
    values: dict[str, Any] = {}
    for pair in text.split("&"):
        key, equals, value = pair.partition("=")
        if not equals or not value:
            raise DataError(f"data spec '{spec}': '{pair}' is not OPTION=VALUE")
        if key not in READERS:
            raise DataError(f"data spec '{spec}': {unknown_name('option', key, READERS)}")
        if key in values:
            raise DataError(f"data spec '{spec}': option {key} is given twice")
        values[key] = READERS[key](f"data spec '{spec}': {key}", _unescape(value))
    _check_together(spec, values)
    return Options(**values)


def _check_together(spec: str, values: Mapping[str, object]) -> None:
    """Refuse an option that would have no effect, and two ways of changing labels at once."""
    subsets = ("train", "test")
    needs = {"seed": ("mislabel",), "subset_seed": subsets, "drawn_by": subsets, "labels_sha256": ("labels",)}
    for key, others in needs.items():
        if key in values and not any(other in values for other in others):
            raise DataError(f"data spec '{spec}': {key}= has no effect without {'= or '.join(others)}=")
    if "mislabel" in values and "labels" in values:
        raise DataError(f"data spec '{spec}': mislabel= and labels= both change labels; give one of them")


def _whole(least: int) -> Callable[[str, str], int]:
    """Return a reader of integers from `least` upwards."""

    def read(where: str, text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,18}", text) or int(text) < least:
            raise DataError(f"{where} must be an integer of at least {least}, not '{text}'")
        return int(text)

    return read


def _fraction(where: str, text: str) -> float:
    """Read a number in (0, 1]."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 < value <= 1:
        raise DataError(f"{where} must be a fraction above 0 and at most 1, not '{text}'")
    return value


def _layout(where: str, text: str) -> str:
    """Read how images lie."""
    if text not in LAYOUTS:
        raise DataError(f"{where} must be {' or '.join(LAYOUTS)}, not '{text}'")
    return text


def _scale(where: str, text: str) -> float:
    """Read a positive number of moderate size."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 1e-6 <= value <= 1e6:
        raise DataError(f"{where} must be a positive number such as 1 or 255, not '{text}'")
    return value


def _old_version(where: str, text: str) -> str:
    """Take the one version whose subsets were other ones."""
    if text != OLD_VERSION:
        raise DataError(f"{where} can only be {OLD_VERSION}, the version that drew other subsets, not '{text}'")
    return text


def _text(where: str, text: str) -> str:
    """Take a path or a digest as it stands."""
    return text


READERS: Mapping[str, Callable[[str, str], object]] = {
    "size": _whole(2),
    "train": _whole(1),
    "test": _whole(1),
    "subset_seed": _whole(0),
    "drawn_by": _old_version,
    "mislabel": _fraction,
    "seed": _whole(0),
    "layout": _layout,
    "scale": _scale,
    "first_label": _whole(0),
    "labels": _text,
    "labels_sha256": _text,
    "root": _text,
}


def _escape(text: str) -> str:
    """Write the characters that a spec gives a meaning as %XX, the percent sign only where it would be read as one."""
    escaped = re.sub(r"%(?=3F|26|25)", "%25", text)
    return escaped.replace("?", "%3F").replace("&", "%26")


def _unescape(text: str) -> str:
    """Undo `_escape`."""
    return re.sub("%3F|%26|%25", lambda match: ESCAPES[match.group()], text)
