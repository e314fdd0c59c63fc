"""The report as a file: one JSON document that is written whole, and read by `gate` and `show` without torch.

A report is refused, never repaired: another schema version, an unknown field, a non-finite number, a duplicated
measurement or a body that does not match its digest each raise `ReportError`.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from unlearn_audit.errors import ReportError
from unlearn_audit.files import atomic_write, read_input
from unlearn_audit.report.schema import SCHEMA_VERSION, AuditReport, Measurement
from unlearn_audit.strict_json import first_problem, parse_object

if TYPE_CHECKING:
    from numpy.typing import NDArray

ARRAYS_NAME = "arrays.npz"
MAX_REPORT_BYTES = 256 * 1024 * 1024


def canonical_digest(body: dict[str, Any]) -> str:
    """Return the SHA-256 of a report's body: sorted keys, no spaces, UTF-8, without `body_sha256`.

    Raises:
        ValueError: the body cannot be written as strict JSON (NaN, infinity, half a surrogate pair).
    """
    rest = {key: value for key, value in body.items() if key != "body_sha256"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def dump_report(report: AuditReport) -> str:
    """Return the report as JSON text with its digest filled in.

    Bytes of a file name that are not UTF-8 are written as escapes, since JSON has no way to carry them.

    Raises:
        ReportError: something in the details cannot be written as strict JSON, such as NaN or infinity.
    """
    try:
        body = _encodable(report.model_dump(mode="json"))
        body["body_sha256"] = canonical_digest(body)
        return json.dumps(body, indent=1, allow_nan=False) + "\n"  # ASCII, which every stream can carry
    except (ValueError, RecursionError) as problem:
        raise ReportError(f"the report holds something that JSON cannot carry: {problem}") from problem


def _encodable(value: Any) -> Any:
    """Return JSON values with lone surrogates (undecodable bytes of file names) written out as escapes."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_encodable(key): _encodable(item) for key, item in value.items()}
    return [_encodable(item) for item in value] if isinstance(value, list) else value


def write_report(report: AuditReport, path: Path) -> None:
    """Write the report so that the file is whole or absent."""
    atomic_write(path, dump_report(report).encode())


def write_arrays(arrays: "Mapping[str, NDArray[Any]]", path: Path) -> None:
    """Write what is too long for a report beside it, as an uncompressed .npz; the same arrays give the same bytes.

    Args:
        arrays: numbers by name, such as "rcd/original/forget/areas".
        path: of the file; one that an earlier report left is removed where there is nothing to write.

    Raises:
        ReportError: an array holds Python objects, which only pickle could carry.
    """
    if not arrays:
        path.unlink(missing_ok=True)
        return
    objects = [name for name, array in arrays.items() if array.dtype.hasobject]
    if objects:
        raise ReportError(f"array {objects[0]} holds Python objects; only numbers are written")

    import numpy as np

    def save(place: Path) -> None:
        with place.open("wb") as stream:
            np.savez(stream, allow_pickle=False, **{_encodable(name): array for name, array in arrays.items()})

    atomic_write(path, save)


def read_report(path: Path) -> AuditReport:
    """Read and check a report.

    Raises:
        ReportError: missing, larger than 256 MiB, truncated, not strict JSON in UTF-8, another schema version, an
            unknown or malformed field, a value outside its own interval, or a body that does not match its digest.
    """
    return parse_report(path, read_input(path, "report", ReportError, most=MAX_REPORT_BYTES))


def parse_report(path: Path, content: bytes) -> AuditReport:
    """Check the content of a report and return it; the path is for messages.

    Raises:
        ReportError: as `read_report`.
    """
    try:
        body = parse_object(content)
    except ValueError as problem:
        raise ReportError(f"{path}: not a readable report: {problem}") from problem
    version = body.get("schema_version")
    if type(version) is not int or version != SCHEMA_VERSION:
        raise ReportError(
            f"{path}: schema_version is {version!r}; this tool reads {SCHEMA_VERSION}; {_way_out(version)}"
        )
    try:
        digest = canonical_digest(body)
    except ValueError as problem:  # half a surrogate pair
        raise ReportError(f"{path}: not a readable report (strict JSON in UTF-8): {problem}") from problem
    if body.get("body_sha256") != digest:
        raise ReportError(f"{path}: the body does not match its body_sha256: altered or damaged; write it again")
    try:
        report = AuditReport.model_validate_json(json.dumps(body, allow_nan=False))
    except ValidationError as problem:
        why = first_problem(problem, body, AuditReport)
        raise ReportError(f"{path}: not a valid report: {why}") from problem
    for outside in _outside(report.measurements):
        raise ReportError(f"{path}: not a valid report: {outside}")
    return report


def _way_out(version: object) -> str:
    """Return what to do about a report of another version: what decides was not in it, so that none is converted."""
    if type(version) is int and version > SCHEMA_VERSION:
        return "read it with the version of this tool that wrote it, or measure anew"
    return "a report is not converted: measure anew (unlearn-audit audit CONFIG --out DIR, or the verb that wrote it)"


# Methods whose interval need not hold the value, by what they call themselves: quantiles of resamples, and brackets of
# something else than the value's sampling error. Every other method puts its interval around its value.
MAY_MISS_ITS_VALUE = re.compile(r"bootstrap|percentile|not a sampling interval")
ROUNDING = 1e-6  # of the interval's ends, by which a value may lie beyond them


def _outside(measurements: Sequence[Measurement]) -> Iterator[str]:
    """Yield which values lie outside their own interval, though the interval's method cannot give that."""
    for one in measurements:
        value, interval = one.value, one.interval
        if interval is None or isinstance(value, str) or value is None or MAY_MISS_ITS_VALUE.search(interval.method):
            continue
        slack = ROUNDING * max(1e-6, abs(interval.low), abs(interval.high))
        if not interval.low - slack <= value <= interval.high + slack:
            ends = f"[{interval.low:.6g}, {interval.high:.6g}]"
            yield f"{one.name} of {one.subject} is {value:.6g}, outside its own interval {ends} ({interval.method})"
