"""Reading `arrays.npz` beside a report: lists of numbers only, none of it trusted, and what is left out is said."""

import io
import math
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unlearn_audit.render.details import RcdDetails, details_of
from unlearn_audit.report import ARRAYS_NAME, AuditReport, Measurement

Floats = NDArray[np.float64]
Pixels = NDArray[np.uint8]
MOST_PIXELS = 2 * 1024 * 1024  # bytes of one sheet of samples
MOST_BYTES = 64 * 1024 * 1024  # of one array: eight million numbers
PLAIN = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
ENCRYPTED = 1  # bit of a zip entry's flags
BROKEN = (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, RecursionError, MemoryError)


class Arrays(NamedTuple):
    """What was found, by name, and sentences on what was left out; pictures apart from lists of numbers."""

    found: dict[str, Floats]
    problems: tuple[str, ...] = ()
    pixels: Mapping[str, Pixels] = MappingProxyType({})


def score_names(attack: str, subject: str) -> tuple[str, str]:
    """Return the names of an attack's scores on members and on non-members."""
    return f"mia.{attack}/{subject}/members", f"mia.{attack}/{subject}/non_members"


def curve_name(subject: str, kind: str = "forget", what: str = "loss") -> str:
    """Return the name of a relearning curve that is too long for a report, on the forget set or on its unseen twin."""
    return f"rcd/{subject}/{kind}/{what}"


def trace_names(subject: str) -> tuple[str, str]:
    """Return the names of difficulty and residual of the two-sample test, forget examples first in each."""
    return f"twosample/{subject}/difficulty", f"twosample/{subject}/residual"


def sheet_name(subject: str, side: str) -> str:
    """Return the name of a sheet of samples: side "forgotten", "kept", or "relearned-K" after K steps."""
    return f"generation/{subject}/{side}"


def exposed_name(attack: str, subject: str) -> str:
    """Return the name of the pictures of the examples that an attack is surest of."""
    return f"mia.{attack}/{subject}/exposed"


def read_arrays(path: Path, report: AuditReport) -> Arrays:
    """Read what a report's pictures need.

    Args:
        path: of the report; the arrays lie beside it.
        report: what is to be drawn.

    Returns:
        The arrays that are there and are lists of real numbers; one that is larger than 64 MiB, holds NaN or is no
        such list is left out, with a sentence.
    """
    place = path.with_name(ARRAYS_NAME)
    if not place.is_file():
        return Arrays({})
    try:
        with zipfile.ZipFile(place) as archive:
            return _taken(archive, dict.fromkeys(_lists(report)), dict.fromkeys(_sheets(report)))
    except BROKEN as problem:
        return Arrays({}, (f"{ARRAYS_NAME} beside the report cannot be read ({problem}); its pictures are left out",))


def _lists(report: AuditReport) -> Iterator[str]:
    """Yield the names of lists of numbers that pictures need."""
    for measurement in report.measurements:
        attack = measurement.name.removeprefix("mia.").removesuffix(".auc")
        if measurement.name == f"mia.{attack}.auc":
            yield from score_names(attack, measurement.subject)
        if measurement.name == "twosample.p":
            yield from trace_names(measurement.subject)
        if measurement.name == "rcd.raw" and details_of(measurement, RcdDetails).loss is None:
            yield from (curve_name(measurement.subject, "forget", what) for what in ("loss", "objective"))
            yield curve_name(measurement.subject, "unseen")


def _sheets(report: AuditReport) -> Iterator[str]:
    """Yield the names of what is shown as it is."""
    for measurement in report.measurements:
        attack = measurement.name.removeprefix("mia.").removesuffix(".auc")
        if measurement.name == f"mia.{attack}.auc":
            yield exposed_name(attack, measurement.subject)
        if measurement.name == "generation.kept_rate":
            yield from (sheet_name(measurement.subject, side) for side in ("forgotten", "kept"))
        if measurement.name == "rcd.raw":
            yield from (sheet_name(measurement.subject, f"relearned-{k}") for k in probed(measurement))


def probed(raw: Measurement) -> tuple[int, ...]:
    """Return after how many relearning steps samples were drawn, as `rcd.raw` says in its details."""
    probe = raw.details.get("probe")
    rates = probe.get("rates") if isinstance(probe, dict) else None
    entries = rates if isinstance(rates, list | tuple) else ()
    return tuple(one[0] for one in entries if isinstance(one, list | tuple) and one and type(one[0]) is int)


def _taken(archive: zipfile.ZipFile, lists: Iterable[str], sheets: Iterable[str]) -> Arrays:
    there = {info.filename: info for info in archive.infolist()}
    problems: list[str] = []

    def taken(names: Iterable[str], read: Callable[[zipfile.ZipFile, zipfile.ZipInfo], Any]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name in names:
            info = there.get(f"{name}.npy")
            try:
                found |= {} if info is None else {name: read(archive, info)}
            except BROKEN as problem:
                problems.append(f"{ARRAYS_NAME}: {name} is left out: {problem}")
        return found

    found, pixels = taken(lists, _numbers), taken(sheets, _pixels)
    return Arrays(found, tuple(problems), pixels)


def _numbers(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Floats:
    """Return one list of numbers."""
    entry = _entry(archive, info, most=MOST_BYTES)
    if entry.dtype.kind != "f" or len(entry.shape) != 1:
        raise ValueError(f"it is no list of real numbers (type {entry.dtype}, shape {entry.shape})")
    numbers = np.frombuffer(entry.content, entry.dtype).astype(np.float64)
    if np.isnan(numbers).any():
        raise ValueError("some of it is not a number")
    return numbers


def _pixels(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Pixels:
    """Return one picture, [H, W] or [H, W, 3]."""
    entry = _entry(archive, info, most=MOST_PIXELS)
    if (
        entry.dtype != np.uint8
        or not math.prod(entry.shape)
        or entry.shape[2:] not in ((), (3,))
        or len(entry.shape) < 2
    ):
        raise ValueError(f"it is no picture (type {entry.dtype}, shape {entry.shape})")
    return np.frombuffer(entry.content, np.uint8).reshape(entry.shape)


class _Entry(NamedTuple):
    """One array as it lies in a file."""

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    content: memoryview


def _entry(archive: zipfile.ZipFile, info: zipfile.ZipInfo, *, most: int) -> _Entry:
    """Return an array's content; the header is held against the size before anything is made of it."""
    if info.file_size > most:
        raise ValueError(f"it is larger than {most >> 20} MiB")
    if info.compress_type not in PLAIN or info.flag_bits & ENCRYPTED:
        raise ValueError("it is packed in a way that this tool does not write")
    stream = io.BytesIO(archive.read(info))
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(stream)
    if version not in readers:
        raise ValueError(f"it is of version {version} of the .npy format")
    shape, fortran, dtype = readers[version](stream)
    rest = stream.getbuffer()[stream.tell() :]
    if (fortran and len(shape) > 1) or dtype.hasobject or math.prod(shape) * dtype.itemsize != len(rest):
        raise ValueError(f"it is no list of real numbers (type {dtype}, shape {shape}, {len(rest)} bytes)")
    return _Entry(shape, dtype, rest)
