"""Reading `arrays.npz` beside a report: lists of numbers only, none of it trusted, and what is left out is said."""

import io
import math
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unlearn_audit.render.details import RcdDetails, details_of
from unlearn_audit.report import ARRAYS_NAME, AuditReport

Floats = NDArray[np.float64]
MOST_BYTES = 64 * 1024 * 1024  # of one array: eight million numbers
PLAIN = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
ENCRYPTED = 1  # bit of a zip entry's flags
BROKEN = (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, RecursionError, MemoryError)


class Arrays(NamedTuple):
    """What was found, by name, and sentences on what was left out."""

    found: dict[str, Floats]
    problems: tuple[str, ...] = ()


def score_names(attack: str, subject: str) -> tuple[str, str]:
    """Return the names of an attack's scores on members and on non-members."""
    return f"mia.{attack}/{subject}/members", f"mia.{attack}/{subject}/non_members"


def curve_name(subject: str) -> str:
    """Return the name of a relearning curve that is too long for a report."""
    return f"rcd/{subject}/forget/loss"


def trace_names(subject: str) -> tuple[str, str]:
    """Return the names of difficulty and residual of the two-sample test, forget examples first in each."""
    return f"twosample/{subject}/difficulty", f"twosample/{subject}/residual"


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
    wanted = dict.fromkeys(_wanted(report))
    try:
        with zipfile.ZipFile(place) as archive:
            return _taken(archive, list(wanted))
    except BROKEN as problem:
        return Arrays({}, (f"{ARRAYS_NAME} beside the report cannot be read ({problem}); its pictures are left out",))


def _wanted(report: AuditReport) -> Iterator[str]:
    for measurement in report.measurements:
        attack = measurement.name.removeprefix("mia.").removesuffix(".auc")
        if measurement.name == f"mia.{attack}.auc":
            yield from score_names(attack, measurement.subject)
        if measurement.name == "twosample.p":
            yield from trace_names(measurement.subject)
        if measurement.name == "rcd.raw" and details_of(measurement, RcdDetails).loss is None:
            yield curve_name(measurement.subject)


def _taken(archive: zipfile.ZipFile, wanted: list[str]) -> Arrays:
    there = {info.filename: info for info in archive.infolist()}
    found: dict[str, Floats] = {}
    problems = []
    for name in wanted:
        info = there.get(f"{name}.npy")
        try:
            if info is not None:
                found[name] = _numbers(archive, info)
        except BROKEN as problem:
            problems.append(f"{ARRAYS_NAME}: {name} is left out: {problem}")
    return Arrays(found, tuple(problems))


def _numbers(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Floats:
    """Return one list of numbers; the header is held against the size before anything is made of it."""
    if info.file_size > MOST_BYTES:
        raise ValueError(f"it is larger than {MOST_BYTES >> 20} MiB")
    if info.compress_type not in PLAIN or info.flag_bits & ENCRYPTED:
        raise ValueError("it is packed in a way that this tool does not write")
    stream = io.BytesIO(archive.read(info))
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(stream)
    if version not in readers:
        raise ValueError(f"it is of version {version} of the .npy format")
    shape, _, dtype = readers[version](stream)
    rest = stream.getbuffer()[stream.tell() :]
    if dtype.kind != "f" or len(shape) != 1 or math.prod(shape) * dtype.itemsize != len(rest):
        raise ValueError(f"it is no list of real numbers (type {dtype}, shape {shape}, {len(rest)} bytes)")
    numbers = np.frombuffer(rest, dtype).astype(np.float64)
    if np.isnan(numbers).any():
        raise ValueError("some of it is not a number")
    return numbers
