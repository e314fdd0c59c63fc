"""Reading index files: `.npy`, `.txt`, `.csv`, `.json` and `.pt` become raw entries that know where they stand."""

import csv
import io
import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unlearn_audit.data.arrays import first_where
from unlearn_audit.data.formats.array_files import MOST_INDEX_BYTES, read_npy, reading
from unlearn_audit.data.formats.index_tensors import read_tensor
from unlearn_audit.errors import DataError
from unlearn_audit.files import check_input, read_input
from unlearn_audit.strict_json import kind_of, parse

COLUMN = "unlearn_idx"
OTHER_THINGS = frozenset({  # headers of a single column that say something else than where examples stand
    "class", "classes", "label", "labels", "target", "targets", "y", "mask", "keep", "kept", "retain", "retained",
})  # fmt: skip
MOST_REPEATS = 1_000_000  # entries beyond the number of examples that are still looked through for the wrong ones
LONG_ENOUGH = 4  # rows in order below a number that is not, before that number is taken for a header
MOST_PAIR = 2  # entries that may all be 0 or 1 without repeating: the indices 0 and 1
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
            return self._file(text, place)
        if INTEGER.fullmatch(text):
            return int(text)
        what = "neither an integer nor a training file" if self.files else "not an integer index"
        raise DataError(f"{self.shown}, {place}: '{text[:80]}' is {what}")

    def _file(self, name: str, place: str) -> int:
        """Return the index of a file; `train/a/b.png` may be below the class `train` or below the folder `train`."""
        other = self.files.get(name.removeprefix("train/"))
        if other not in (None, self.files[name]):
            raise DataError(f"{self.shown}, {place}: '{name}' names two files, train/{name} and {name}; use indices")
        return self.files[name]

    def array(self, array: NDArray[np.generic]) -> Entries:
        """Return the entries of an array of integers, or of a boolean mask.

        Raises:
            DataError: other dimensions, another type, or a mask of another length.
        """
        if array.ndim == 2 and 1 in array.shape:
            array = array.reshape(-1)  # as argwhere and nonzero hand indices out
        if array.ndim != 1:
            raise DataError(f"{self.shown} has {array.ndim} dimensions; indices are a flat list, a mask is 1-D")
        if array.dtype == np.bool_:
            if len(array) != self.size:
                raise DataError(f"{self.shown} is a mask of {len(array)} entries, but there are {self.size} examples")
            return Entries(np.flatnonzero(array).astype(np.int64))
        if array.size and array.dtype.kind not in "iu":
            mask = array.dtype.kind == "f" and len(array) > MOST_PAIR and np.isin(array, (0, 1)).all()
            way_out = "they are zeros and ones: save a mask as bool" if mask else "save indices as int64"
            raise DataError(f"{self.shown} holds {array.dtype}, not integers; {way_out}")
        self._check_count(len(array))
        values = array.astype(np.int64)
        wrapped = first_where(values < 0) if array.dtype == np.uint64 else None
        if wrapped is not None:
            raise DataError(f"{self.shown}, entry {wrapped}: {array[wrapped]} is not an index")
        return self.entries(values)

    def entries(self, values: Sequence[int] | NDArray[np.int64], lines: Sequence[int] | None = None) -> Entries:
        """Return entries of these values, unless they are zeros and ones of a mask, of whatever length.

        Raises:
            DataError: they are a mask that was saved as integers.
        """
        found = np.array(values, dtype=np.int64)
        if len(found) > MOST_PAIR and np.isin(found, (0, 1)).all():
            length = "as many as there are examples" if len(found) == self.size else f"for {self.size} examples"
            raise DataError(
                f"{self.shown} holds {len(found)} zeros and ones, {length}: a mask was saved as integers, "
                "which would be read as the indices 0 and 1; save it as bool, one entry for each example: "
                "np.save('forget.npy', a.astype(bool))"
            )
        return Entries(found, None if lines is None else tuple(lines))

    def _check_count(self, count: int) -> None:
        if count > self.size + MOST_REPEATS:
            raise DataError(f"{self.shown} has {count} entries, but there are only {self.size} examples")

    def text(self, ends: Sequence[bytes] = (b"\n", b"\r")) -> str:
        """Return the file's text, of bounded size, in which at most so many entries end as there may be.

        Raises:
            DataError: too large, or not UTF-8.
        """
        content = read_input(self.path, "index file", DataError, most=MOST_INDEX_BYTES)
        self._check_count(max(content.count(end) for end in ends))
        with reading("index file", self.path):
            return content.decode("utf-8-sig")


def _npy(reader: Reader) -> Entries:
    """Read a NumPy array; pickled objects are refused."""
    return reader.array(read_npy("index file", reader.path))


def _pt(reader: Reader) -> Entries:
    """Read a tensor of integers or booleans; nothing is executed."""
    return reader.array(read_tensor(reader.path, reader.shown, most=reader.size + MOST_REPEATS))


def _txt(reader: Reader) -> Entries:
    """Read one entry per line; blank lines and lines that start with # are skipped."""
    lines = reader.text().splitlines()
    kept = {number: line for number, line in enumerate(lines, 1) if line.strip() and not line.startswith("#")}
    values = [reader.number(line, f"line {number}") for number, line in kept.items()]
    return reader.entries(values, tuple(kept))


def _csv(reader: Reader) -> Entries:
    """Read the column `unlearn_idx`, or the only column, with or without a header."""
    try:
        lines = csv.reader(io.StringIO(reader.text(), newline=""), strict=True)
        numbered = [(lines.line_num, row) for row in lines]
    except csv.Error as problem:
        raise DataError(f"cannot read index file {reader.path}: {problem}") from problem
    cells = _column(reader, {line: row for line, row in numbered if any(cell.strip() for cell in row)})
    values = [reader.number(cell, f"line {line}") for line, cell in cells.items()]
    return reader.entries(values, tuple(cells))


def _column(reader: Reader, rows: Mapping[int, list[str]]) -> dict[int, str]:
    """Return line -> cell of the column that holds the indices."""
    if not rows:
        return {}
    first_line, *body = rows
    header = [cell.strip() for cell in rows[first_line]]
    if header.count(COLUMN) > 1:
        raise DataError(f"{reader.shown} has {header.count(COLUMN)} columns named {COLUMN}; leave one of them")
    if COLUMN in header:
        column = header.index(COLUMN)
    elif len(header) > 1:
        raise DataError(f"{reader.shown} has {len(header)} columns, none named {COLUMN}")
    else:
        column = 0
        _check_header(reader, first_line, [row[0].strip() for row in rows.values()])
        if header[0].lower() in OTHER_THINGS:
            raise DataError(
                f"{reader.shown} has a column called '{header[0]}': are these indices of examples, or classes, flags "
                f"or what is to be kept? Name it {COLUMN} for indices; whole classes are written class:3,5"
            )
        has_header = not INTEGER.fullmatch(header[0]) and header[0] not in reader.files and header[0].isidentifier()
        body = body if has_header else list(rows)
    short = [line for line in body if len(rows[line]) != len(header)]
    if short:
        raise DataError(f"{reader.shown}, line {short[0]}: {len(rows[short[0]])} columns instead of {len(header)}")
    return {line: rows[line][column] for line in body}


def _check_header(reader: Reader, line: int, cells: Sequence[str]) -> None:
    """Refuse a first line that is a number and may be the name of the column, as pandas writes it."""
    first, *rest = cells
    if first in reader.files or not INTEGER.fullmatch(first) or not rest or not all(map(INTEGER.fullmatch, rest)):
        return
    number, values = int(first), [int(cell) for cell in rest]
    in_order = len(values) >= LONG_ENOUGH and all(a < b for a, b in itertools.pairwise(values))
    if number == 0 or (in_order and number >= values[0]):
        raise DataError(
            f"{reader.shown}, line {line}: {first} may be the first of {len(cells)} indices, or the name of a column "
            f"of {len(rest)}, as pandas writes it; name the column {COLUMN}, or save the indices one a line as .txt, "
            "which has no header"
        )


def _json(reader: Reader) -> Entries:
    """Read a flat list of integers (of file names too, for image folders)."""
    text = reader.text((b",",))
    with reading("index file", reader.path):
        document = parse(text)
    if not isinstance(document, list):
        raise DataError(f"{reader.shown} is JSON, but {kind_of(document)}; indices are a flat list of integers")
    values = [_json_entry(reader, entry, f"entry {row}") for row, entry in enumerate(document)]
    return reader.entries(values)


def _json_entry(reader: Reader, entry: object, place: str) -> int:
    """Return one entry of a JSON list; true and 3.0 are no indices."""
    if isinstance(entry, str) and entry in reader.files:
        return reader.number(entry, place)
    if not isinstance(entry, int) or isinstance(entry, bool):
        way_out = "; a mask of true and false is saved as .npy" if isinstance(entry, bool) else ""
        raise DataError(f"{reader.shown}, {place}: {json.dumps(entry)[:80]} is not an integer index{way_out}")
    return reader.number(str(entry) if abs(entry) < 10**18 else "a number beyond 64 bits", place)


FILE_READERS: Mapping[str, Callable[[Reader], Entries]] = {
    ".npy": _npy,
    ".txt": _txt,
    ".csv": _csv,
    ".json": _json,
    ".pt": _pt,
}


# What is read, by the ending of the file, as a refusal shows it.
EXAMPLES: Mapping[str, str] = {
    ".npy": "np.save('forget.npy', np.array([3, 17, 256])), or a boolean mask with an entry for each example",
    ".txt": "one index a line, 3 on the first, 17 on the second, 256 on the third",
    ".csv": f"{COLUMN} on the first line, then one index a line: 3, 17, 256",
    ".json": "[3, 17, 256]",
    ".pt": "torch.save(torch.tensor([3, 17, 256]), 'forget.pt'), or a boolean mask with an entry for each example",
}


def read_entries(path: Path, shown: str, *, size: int, origin: tuple[str, ...] | None) -> Entries:
    """Return the entries of an index file.

    Args:
        path: the file; its ending (one of `FILE_READERS`) says what it is.
        shown: the file as the user typed it, for messages.
        size: number of examples that the entries point into.
        origin: the examples' file names in index order, where they have any; with or without a leading `train/`.

    Raises:
        DataError: the file is missing, unreadable, or holds something else than integers (or files, or a mask); the
            message ends with an example of what is read.
    """
    check_input(path, "index file", DataError)
    files = {name: row for row, name in enumerate(origin or ())}
    files = {f"train/{name}": row for name, row in files.items()} | files
    ending = path.suffix.lower()
    try:
        return FILE_READERS[ending](Reader(path, shown, size, files))
    except DataError as problem:
        raise DataError(f"{problem}. What is read from {ending}, for example: {EXAMPLES[ending]}") from problem
