"""What is kept by its content: whole sections of an audit, the curves of one that is under way, scores of attacks.

Each is kept under a digest of everything that it depends on, so that a killed audit goes on and comes to the same
report, and a second one with more sections or models measures what is new. Nothing stale can be found.
"""

import dataclasses
import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from unlearn_audit import __version__
from unlearn_audit.audit.section import ArrayCache, Arrays, SectionResult, no_array_cache
from unlearn_audit.files import atomic_write, make_subfolder, sha256_of_bytes
from unlearn_audit.relearning import Curve, CurveCache
from unlearn_audit.report import SCHEMA_VERSION, CouldSee, Measurement

FOLDER = "parts"  # of cached sections, their curves and scores
VERSION = f"{__version__} torch {torch.__version__} numpy {np.__version__}"
SECTION_VERSION = f"{VERSION} schema {SCHEMA_VERSION}"  # models outlive another schema of reports, sections do not
_Kept = TypeAdapter(tuple[tuple[Measurement, ...], tuple[str, ...], dict[str, CouldSee]])


def content_key(depends: object, *arrays: NDArray[Any]) -> str:
    """Return the SHA-256 of everything that something depends on, by which it is kept and found again.

    Args:
        depends: as JSON.
        arrays: numbers; their types and shapes count, too.
    """
    digest = hashlib.sha256(json.dumps(depends, sort_keys=True).encode())
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def keep_arrays(path: Path, arrays: Mapping[str, Any]) -> bytes:
    """Write arrays and return the bytes of their file; the same arrays give the same bytes."""
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    atomic_write(path, stream.getvalue())
    return stream.getvalue()


def kept_arrays(source: Path | bytes) -> dict[str, NDArray[Any]] | None:
    """Return the arrays of a file or of its bytes; None where there is none, or none that is whole."""
    try:
        content = source if isinstance(source, bytes) else source.read_bytes()
        with np.load(io.BytesIO(content), allow_pickle=False) as kept:
            return {name: kept[name] for name in kept.files}
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile):
        return None


class ResultCache:
    """Finds what was measured before, and keeps what is measured now.

    Args:
        folder: where cached sections are kept; None keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.found: list[str] = []

    def section(
        self, name: str, depends: Mapping[str, Any], measure: Callable[[CurveCache], SectionResult]
    ) -> SectionResult:
        """Return what a section finds, measured now or before.

        Args:
            name: of the section.
            depends: everything that its numbers depend on, as JSON.
            measure: measures, with a place to keep its curves in.
        """
        key = _section_key(name, depends)
        known = self._read(key)
        if known is not None:
            self.found += [name] if name not in self.found else []
            return known
        result = measure(partial(self.curve, key))
        self._write(key, result)
        return result

    def curve(self, key: str, index: int, step: object, take: Callable[[], Curve]) -> Curve:
        """Return a curve of the section under way, taken now or before a kill.

        Args:
            key: the section's.
            index: of the curve in the section.
            step: the step size, and whatever else the search for one decided.
            take: relearns.
        """
        if self.folder is None:
            return take()
        path = self.folder / f"{key}.curve-{index}-{sha256_of_bytes(repr(step).encode())[:12]}.npz"
        known = _read_curve(path)
        if known is not None:
            return known
        curve = take()
        if curve.end is None:
            make_subfolder(self.folder.parent, self.folder.name)
            keep_arrays(path, _as_arrays(curve))
        return curve

    def arrays(self, name: str, depends: Mapping[str, Any]) -> ArrayCache:
        """Return where a section under way keeps arrays that take long, each under a name of its own.

        Args:
            name: of the section.
            depends: everything that its numbers depend on, as JSON.
        """
        return no_array_cache if self.folder is None else partial(self._arrays, _section_key(name, depends))

    def _arrays(self, key: str, name: str, make: Callable[[], Arrays]) -> Arrays:
        folder = self.folder or Path()
        path = folder / f"{key}.arrays-{name}.npz"
        known = kept_arrays(path)
        if known is not None:
            return known
        made = make()
        make_subfolder(folder.parent, folder.name)
        keep_arrays(path, made)
        return made

    def _read(self, key: str) -> SectionResult | None:
        if self.folder is None:
            return None
        try:
            digest, _, body = (self.folder / f"{key}.json").read_bytes().partition(b"\n")
            arrays_file = (self.folder / f"{key}.npz").read_bytes()
            if digest.decode() != sha256_of_bytes(body, arrays_file):
                return None
            measured, said, could_see = _Kept.validate_json(body)
        except (OSError, ValueError, ValidationError):
            return None
        arrays = kept_arrays(arrays_file)
        return None if arrays is None else SectionResult(measured, said, arrays, could_see)

    def _write(self, key: str, result: SectionResult) -> None:
        """Keep a section; its JSON comes last, with a digest of both files. Its curves and arrays have served."""
        if self.folder is None:
            return
        make_subfolder(self.folder.parent, self.folder.name)
        numbers = keep_arrays(self.folder / f"{key}.npz", result.arrays)
        body = _Kept.dump_json((result.measurements, result.limitations, dict(result.could_see)))
        atomic_write(self.folder / f"{key}.json", sha256_of_bytes(body, numbers).encode() + b"\n" + body)
        for part in ("curve", "arrays"):
            for path in self.folder.glob(f"{key}.{part}-*.npz"):
                path.unlink(missing_ok=True)


def _section_key(name: str, depends: Mapping[str, Any]) -> str:
    return f"{name}-{content_key([SECTION_VERSION, depends])[:24]}"


NO_CACHE = ResultCache(None)


NOTHING = -1  # stands for None in a whole number of a kept curve


def _as_arrays(curve: Curve) -> dict[str, Any]:
    """Return a curve's fields as arrays."""
    values = {field.name: getattr(curve, field.name) for field in dataclasses.fields(curve) if field.name != "end"}
    return {name: np.asarray(NOTHING if value is None else value) for name, value in values.items()}


def _read_curve(path: Path) -> Curve | None:
    """Return a kept curve; None where there is none, or none that is whole."""
    found = kept_arrays(path) or {}
    values: dict[str, Any] = {name: value if value.ndim else _whole(int(value)) for name, value in found.items()}
    try:
        return Curve(**values)
    except TypeError:
        return None


def _whole(value: int) -> int | None:
    return None if value == NOTHING else value
