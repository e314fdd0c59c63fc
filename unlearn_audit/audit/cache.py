"""What is kept by its content: whole sections of an audit, what takes long of each of its models, scores of attacks.

Each is kept under a digest of everything that it depends on, so that a killed audit goes on and comes to the same
report, and a second one with more sections or models measures what is new. Nothing stale can be found.
"""

import hashlib
import io
import json
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from unlearn_audit import __version__
from unlearn_audit.audit.parts import Arrays
from unlearn_audit.audit.section import SectionResult
from unlearn_audit.files import atomic_write, make_subfolder, sha256_of_bytes
from unlearn_audit.report import SCHEMA_VERSION, CouldSee, Measurement

FOLDER = "parts"  # of cached sections and of what is known of each model
TOOK = ".seconds"  # ending of the file that says how long a section took; what it found never depends on it
MOST_KEPT = 2**28  # bytes of one part: a larger one takes about as long to read as to make
VERSION = f"{__version__} torch {torch.__version__} numpy {np.__version__}"
SAYS = 3  # counted up when a section would say more, or other things, of the same parts
SECTION_VERSION = f"{VERSION} schema {SCHEMA_VERSION} says {SAYS}"  # models and parts outlive it, sections do not
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


def seconds_taken(folder: Path, section: str) -> float | None:
    """Return how long a section took that was measured here last, None where that is not known.

    Args:
        folder: where sections are kept.
        section: its name.
    """
    try:
        last = max(folder.glob(f"{section}-*{TOOK}"), key=lambda path: path.stat().st_mtime)
        return float(last.read_bytes()[:32])
    except (OSError, ValueError):
        return None


class ResultCache:
    """Finds what was measured before, and keeps what is measured now.

    Args:
        folder: where cached sections are kept; None keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.found: list[str] = []

    def section(self, name: str, depends: Mapping[str, Any], measure: Callable[[], SectionResult]) -> SectionResult:
        """Return what a section finds, measured now or before.

        Args:
            name: of the section.
            depends: everything that its numbers depend on, as JSON.
            measure: measures.
        """
        key = f"{name}-{content_key([SECTION_VERSION, depends])[:24]}"
        known = self._read(key)
        if known is not None:
            self.found += [name] if name not in self.found else []
            return known
        began = time.monotonic()
        result = measure()
        self._write(key, result)
        if self.folder is not None:
            atomic_write(self.folder / f"{key}{TOOK}", f"{time.monotonic() - began:.1f}\n".encode())
        return result

    def part(self, depends: object, make: Callable[[], Arrays]) -> Arrays:
        """Return arrays that take long, made now or before.

        Args:
            depends: everything that they depend on, as JSON.
            make: makes them.
        """
        if self.folder is None:
            return make()
        path = self.folder / f"part-{content_key([VERSION, depends])[:32]}.npz"
        known = kept_arrays(path)
        if known is not None:
            return known
        made = make()
        if sum(array.nbytes for array in made.values()) <= MOST_KEPT:
            make_subfolder(self.folder.parent, self.folder.name)
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
        """Keep a section; its JSON comes last, with a digest of both files."""
        if self.folder is None:
            return
        make_subfolder(self.folder.parent, self.folder.name)
        numbers = keep_arrays(self.folder / f"{key}.npz", result.arrays)
        body = _Kept.dump_json((result.measurements, result.limitations, dict(result.could_see)))
        atomic_write(self.folder / f"{key}.json", sha256_of_bytes(body, numbers).encode() + b"\n" + body)


NO_CACHE = ResultCache(None)
