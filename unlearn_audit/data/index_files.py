"""Reading index files: `.npy`, `.txt`, `.csv`, `.json` and `.pt` become raw entries that know where they stand."""

import csv
import json
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from unlearn_audit.data.arrays import first_where, reading
from unlearn_audit.errors import DataError
from unlearn_audit.files import check_input

__all__ = ["FILE_READERS", "Entries", "Reader", "read_entries"]

COLUMN = "unlearn_idx"
INTEGER = re.compile(r"[+-]?[0-9]{1,18}")  # 18 digits always fit into int64


@dataclass(frozen=True)
class Entries:
    """The integers of an index file, unchecked, in the file's order.

    Attributes:
        values: [n] int64.
        lines: [n] line numbers from 1 where the file has lines; None where entries are counted from 0.
    """

    values: NDArray[np.int64]
    lines: tuple[int, ...] | None = None

    def place(self, row: int) -> str:
        """Return where entry `row` stands."""
        return f"entry {row}" if self.lines is None else f"line {self.lines[row]}"


@dataclass(frozen=True)
class Reader:
    """What turning a file into entries depends on.

    Attributes:
        path: the file.
        shown: the file as the user typed it, for messages.
        size: number of examples that the entries point into; a boolean mask has this length.
        files: index of each file name, for image folders.
    """

    path: Path
    shown: str
    size: int
    files: Mapping[str, int]

    def number(self, text: str, place: str) -> int:
        """Return the index that a piece of text names.

        Raises:
            DataError: neither an integer nor one of the files.
        """
        text = text.strip()
        if text in self.files:
            return self.files[text]
        if INTEGER.fullmatch(text):
            return int(text)
        what = "neither an integer nor a training file" if self.files else "not an integer index"
        raise DataError(f"{self.shown}, {place}: '{text[:80]}' is {what}")

    def array(self, array: NDArray[np.generic]) -> Entries:
        """Return the entries of an array of integers, or of a boolean mask.

        Raises:
            DataError: other dimensions, another type, or a mask of another length.
        """
        if array.ndim != 1:
            raise DataError(f"{self.shown} has {array.ndim} dimensions; indices are a flat list, a mask is 1-D")
        if array.dtype == np.bool_:
            if len(array) != self.size:
                raise DataError(f"{self.shown} is a mask of {len(array)} entries, but there are {self.size} examples")
            return Entries(np.flatnonzero(array).astype(np.int64))
        if array.size and not np.issubdtype(array.dtype, np.integer):
            raise DataError(f"{self.shown} holds {array.dtype}, not integers; save indices as int64")
        values = array.astype(np.int64)
        wrapped = first_where(values < 0) if array.dtype == np.uint64 else None
        if wrapped is not None:
            raise DataError(f"{self.shown}, entry {wrapped}: {array[wrapped]} is not an index")
        return Entries(values)


def _npy(reader: Reader) -> Entries:
    """Read a NumPy array; pickled objects are refused by NumPy."""
    try:
        with reading("index file", reader.path):
            array = np.load(reader.path, allow_pickle=False)
    except DataError as problem:
        if "allow_pickle" not in str(problem.__cause__):
            raise
        what = "it holds pickled Python objects, which are never loaded; save indices as int64"
        raise DataError(f"cannot read index file {reader.shown}: {what}") from problem
    if not isinstance(array, np.ndarray):
        raise DataError(f"{reader.shown} is an .npz archive; indices are a single .npy array")
    return reader.array(array)


def _pt(reader: Reader) -> Entries:
    """Read a tensor with `weights_only=True`, which executes nothing."""
    try:
        with warnings.catch_warnings(action="ignore"):  # what torch warns of here is refused below
            tensor = torch.load(reader.path, map_location="cpu", weights_only=True)
    except Exception as problem:  # torch raises a dozen kinds for damaged files
        first_line = str(problem).partition("\n")[0]
        raise DataError(f"cannot read index file {reader.path} as a plain tensor: {first_line}") from problem
    if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided or tensor.dtype == torch.bfloat16:
        kind = tensor.dtype if isinstance(tensor, torch.Tensor) else type(tensor).__name__
        raise DataError(f"{reader.shown} holds {kind}; indices are one dense integer or boolean tensor")
    return reader.array(tensor.detach().resolve_conj().resolve_neg().numpy())


def _txt(reader: Reader) -> Entries:
    """Read one entry per line; blank lines and lines that start with # are skipped."""
    with reading("index file", reader.path):
        lines = reader.path.read_text(encoding="utf-8-sig").splitlines()
    kept = {number: line for number, line in enumerate(lines, 1) if line.strip() and not line.startswith("#")}
    values = [reader.number(line, f"line {number}") for number, line in kept.items()]
    return Entries(np.array(values, dtype=np.int64), tuple(kept))


def _csv(reader: Reader) -> Entries:
    """Read the column `unlearn_idx`, or the only column, with or without a header."""
    try:
        with reading("index file", reader.path), reader.path.open(encoding="utf-8-sig", newline="") as stream:
            lines = csv.reader(stream, strict=True)
            numbered = [(lines.line_num, row) for row in lines]
    except csv.Error as problem:
        raise DataError(f"cannot read index file {reader.path}: {problem}") from problem
    cells = _column(reader, {line: row for line, row in numbered if any(cell.strip() for cell in row)})
    values = [reader.number(cell, f"line {line}") for line, cell in cells.items()]
    return Entries(np.array(values, dtype=np.int64), tuple(cells))


def _column(reader: Reader, rows: Mapping[int, list[str]]) -> dict[int, str]:
    """Return line -> cell of the column that holds the indices."""
    if not rows:
        return {}
    first_line, *body = rows
    header = [cell.strip() for cell in rows[first_line]]
    if COLUMN in header:
        column = header.index(COLUMN)
    elif len(header) > 1:
        raise DataError(f"{reader.shown} has {len(header)} columns, none named {COLUMN}")
    else:
        column = 0
        has_header = not INTEGER.fullmatch(header[0]) and header[0] not in reader.files and header[0].isidentifier()
        body = body if has_header else list(rows)
    short = [line for line in body if len(rows[line]) != len(header)]
    if short:
        raise DataError(f"{reader.shown}, line {short[0]}: {len(rows[short[0]])} columns instead of {len(header)}")
    return {line: rows[line][column] for line in body}


def _json(reader: Reader) -> Entries:
    """Read a flat list of integers (of file names too, for image folders)."""
    try:
        with reading("index file", reader.path):
            document = json.loads(reader.path.read_text(encoding="utf-8-sig"))
    except RecursionError as problem:
        raise DataError(f"cannot read index file {reader.path}: nested too deeply") from problem
    if not isinstance(document, list):
        raise DataError(f"{reader.shown} holds a JSON {type(document).__name__}; indices are a flat list of integers")
    values = [_json_entry(reader, entry, f"entry {row}") for row, entry in enumerate(document)]
    return Entries(np.array(values, dtype=np.int64))


def _json_entry(reader: Reader, entry: object, place: str) -> int:
    """Return one entry of a JSON list; true and 3.0 are no indices."""
    if isinstance(entry, str) and entry in reader.files:
        return reader.files[entry]
    if not isinstance(entry, int) or isinstance(entry, bool):
        raise DataError(f"{reader.shown}, {place}: {json.dumps(entry)[:80]} is not an integer index")
    return reader.number(str(entry) if abs(entry) < 10**18 else "a number beyond 64 bits", place)


FILE_READERS: Mapping[str, Callable[[Reader], Entries]] = {
    ".npy": _npy,
    ".txt": _txt,
    ".csv": _csv,
    ".json": _json,
    ".pt": _pt,
}


def read_entries(path: Path, shown: str, *, size: int, origin: tuple[str, ...] | None) -> Entries:
    """Return the entries of an index file.

    Args:
        path: the file; its ending (one of `FILE_READERS`) says what it is.
        shown: the file as the user typed it, for messages.
        size: number of examples that the entries point into.
        origin: the examples' file names in index order, where they have any; with or without a leading `train/`.

    Raises:
        DataError: the file is missing, unreadable, or holds something else than integers (or files, or a mask).
    """
    check_input(path, "index file", DataError)
    files = {name: row for row, name in enumerate(origin or ())}
    files |= {f"train/{name}": row for name, row in files.items()}
    return FILE_READERS[path.suffix.lower()](Reader(path, shown, size, files))
