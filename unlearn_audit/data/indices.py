"""Naming a part of a data set: index files and the words `class:`, `random:`, `range:` and `mislabelled`."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from unlearn_audit.data.arrays import first_where
from unlearn_audit.data.examples import Dataset, Examples
from unlearn_audit.data.formats.index_files import FILE_READERS, Entries, Reader, read_entries
from unlearn_audit.data.spec import absolute
from unlearn_audit.errors import DataError, unknown_name
from unlearn_audit.files import sha256_of_bytes
from unlearn_audit.streams import generator

IN_MEMORY = "indices in memory"  # the spec of a set that no file and no words name


@dataclass(frozen=True, eq=False)
class IndexSet:
    """Some examples of a split.

    Attributes:
        spec: as typed.
        indices: [n] int64, sorted, unique, n >= 1.
        sha256: digest of `indices` as little-endian int64.
        dataset: the data whose training examples these are; None for a set of other examples.
    """

    spec: str
    indices: NDArray[np.int64]
    sha256: str
    dataset: Dataset | None = None

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def examples(self) -> Examples:
        """The examples themselves, as a copy, with observed labels.

        Raises:
            DataError: the set does not know its data.
        """
        if self.dataset is None:
            raise DataError(f"the set '{self.spec}' does not know its data; take dataset.train.subset(indices)")
        return self.dataset.train.subset(self.indices)


@dataclass(frozen=True)
class Within:
    """The split that a spec points into, and how messages speak of it.

    Attributes:
        examples: the split's examples.
        name: the data set's name.
        role: what the indices are for: forget, retain, unseen.
        split: training or test.
        changed: indices of changed labels; None where labels cannot have changed.
    """

    examples: Examples
    name: str
    role: str
    split: str
    changed: NDArray[np.int64] | None

    @property
    def described(self) -> str:
        """The data set with its size, for messages."""
        return f"'{self.name}' ({len(self.examples)} {self.split} examples)"


def read_indices(
    spec: str | ArrayLike,
    *,
    examples: Examples,
    name: str,
    base: Path,
    changed: NDArray[np.int64] | None = None,
    origin: tuple[str, ...] | None = None,
    role: str = "forget",
    split: str = "training",
    whole: bool = False,
) -> IndexSet:
    """Return the examples that a spec names.

    Files: `.npy` or `.pt` (integers, or a boolean mask of the split's length), `.txt` (one per line), `.csv` (one
    column, or `unlearn_idx`), `.json` (a flat list); for image folders also the images' paths. Words: `class:3,5` (by
    observed label), `random:0.1:SEED` or `random:COUNT:SEED` (seed 0 by default), `range:0-999` (both ends included),
    `mislabelled` (every changed label).

    Args:
        spec: the file or the words; or the indices themselves, or a boolean mask of the split's length.
        examples: the split that it points into.
        name: the data set's name, for messages.
        base: the folder that a relative file starts at.
        changed: [m] indices whose label was changed; None where `mislabelled` makes no sense.
        origin: the examples' files in index order, for image folders.
        role: what the indices are for, for messages.
        split: which split it is, for messages.
        whole: whether naming every example is allowed.

    Raises:
        DataError: the spec is unknown or malformed, or its indices are out of range, negative, repeated, none or all.
    """
    within = Within(examples, name, role, split, changed)
    if not isinstance(spec, str):
        given = np.asarray(spec)  # a tensor on a GPU is refused by torch, which says how to copy it
        entries = Reader(Path(), IN_MEMORY, len(examples), {}).array(given)
        return _sorted(IN_MEMORY, _checked(IN_MEMORY, entries, within), within, whole)
    word, colon, rest = spec.partition(":")
    if word in WORDS and bool(colon) == WORDS[word].takes_value:
        indices = WORDS[word].read(spec, rest, within)
    elif word in WORDS and not Path(spec).suffix:
        raise DataError(f"{role} set '{spec}' is incomplete; it is written {WORDS[word].form}")
    else:
        path = _index_file(spec, role, base)
        indices = _checked(spec, read_entries(path, spec, size=len(examples), origin=origin), within)
    return _sorted(spec, indices, within, whole)


def _sorted(spec: str, indices: NDArray[np.int64], within: Within, whole: bool) -> IndexSet:
    """Return the set of these indices, if they are some and not all."""
    if len(indices) == 0:
        raise DataError(f"{within.role} set '{spec}' is empty; it must name at least one of {within.described}")
    if len(indices) == len(within.examples) and not whole:
        raise DataError(
            f"{within.role} set '{spec}' is everything: all of {within.described}; nothing is left to compare with"
        )
    ordered = np.sort(indices).astype(np.int64)
    return IndexSet(spec, ordered, digest_of(ordered))


def digest_of(indices: NDArray[np.int64]) -> str:
    """Return the digest of indices: SHA-256 of them as little-endian int64."""
    return sha256_of_bytes(indices.astype("<i8").tobytes())


def named_classes(spec: str, dataset: Dataset) -> tuple[str, ...]:
    """Return the names of the classes that a spec such as "class:3,5" names by number.

    Args:
        spec: as `read_indices` takes it.
        dataset: whose classes they are.

    Returns:
        In the order of the spec; () for another spec, for data without names, and where names are the numbers.
    """
    word, _, rest = spec.partition(":")
    numbers = rest.split(",") if word == "class" else []
    known = [int(number) for number in numbers if number.isdecimal() and int(number) < len(dataset.class_names)]
    names = tuple(dataset.class_names[number] for number in known)
    return names if len(known) == len(numbers) and names != tuple(map(str, known)) else ()


def _index_file(spec: str, role: str, base: Path) -> Path:
    """Return the file that a spec names, if its ending is one that can be read."""
    path = absolute(spec, base)
    if path.is_dir():
        raise DataError(f"{role} set '{spec}' is a directory; name an index file ({', '.join(FILE_READERS)})")
    if path.suffix.lower() in FILE_READERS:
        return path
    if path.suffix and ":" not in spec:
        raise DataError(f"{role} set '{spec}': {unknown_name('kind of index file', path.suffix, FILE_READERS)}")
    forms = ", ".join(word.form for word in WORDS.values())
    hint = f"Written {forms}, or a file ({', '.join(FILE_READERS)})"
    raise DataError(f"{role} set '{spec}': {unknown_name('index word', spec.partition(':')[0], WORDS, hint=hint)}")


def _checked(spec: str, entries: Entries, within: Within) -> NDArray[np.int64]:
    """Refuse indices that are out of range or repeated, saying which and where."""
    values, size = entries.values, len(within.examples)
    outside = first_where((values < 0) | (values >= size))
    if outside is not None:
        problem = "is negative; indices count from 0" if values[outside] < 0 else "is out of range"
        from_one = values[outside] == values.max() == size and values.min() == 1
        hint = "; these seem to count from 1, indices count from 0" if from_one else ""
        place = f"{spec}, {entries.place(outside)}"
        raise DataError(f"{within.role} index {values[outside]} {problem} for {within.described}: {place}{hint}")
    order = np.argsort(values, kind="stable")
    twice = first_where(np.diff(values[order]) == 0)
    if twice is not None:
        first, second = order[twice], order[twice + 1]
        places = f"{entries.place(int(first))} and {entries.place(int(second))}"
        raise DataError(f"{within.role} index {values[first]} is there twice: {spec}, {places}")
    return values


def _of_class(spec: str, rest: str, within: Within) -> NDArray[np.int64]:
    """Return the examples whose observed label is one of the classes."""
    if not re.fullmatch(r"[0-9]{1,9}(,[0-9]{1,9})*", rest):
        raise DataError(f"{within.role} set '{spec}' names no classes; it is written {WORDS['class'].form}")
    wanted = [int(number) for number in rest.split(",")]
    observed = within.examples.labels.numpy()
    for position, number in enumerate(wanted):
        if number in wanted[:position]:
            raise DataError(f"{within.role} set '{spec}' names class {number} twice")
        if not (observed == number).any():
            span = f"classes {observed.min()}-{observed.max()}"
            raise DataError(f"{within.role} set '{spec}': class {number} is not in {within.described}: {span}")
    return np.flatnonzero(np.isin(observed, wanted))


def _random(spec: str, rest: str, within: Within) -> NDArray[np.int64]:
    """Return a seeded choice: a fraction below 1 (rounded), or a count."""
    match = re.fullmatch(r"(0?\.[0-9]{1,18}|[0-9]{1,18})(?::([0-9]{1,18}))?", rest)
    if match is None:
        raise DataError(f"{within.role} set '{spec}' is malformed; it is written {WORDS['random'].form}")
    amount, size = match[1], len(within.examples)
    count = round(float(amount) * size) if "." in amount else int(amount)
    if count > size:
        raise DataError(f"{within.role} set '{spec}' asks for {count} of {within.described}")
    return generator("random set", int(match[2] or 0), within.split).choice(size, size=count, replace=False)


def _range(spec: str, rest: str, within: Within) -> NDArray[np.int64]:
    """Return consecutive indices, both ends included."""
    match = re.fullmatch(r"([0-9]{1,18})-([0-9]{1,18})", rest)
    if match is None or int(match[1]) > int(match[2]):
        raise DataError(f"{within.role} set '{spec}' is malformed; it is written {WORDS['range'].form}")
    if int(match[2]) >= len(within.examples):
        raise DataError(f"{within.role} index {match[2]} is out of range for {within.described}: {spec}")
    return np.arange(int(match[1]), int(match[2]) + 1)


def _mislabelled(spec: str, rest: str, within: Within) -> NDArray[np.int64]:
    """Return the examples whose label was changed."""
    if within.changed is None or len(within.changed) == 0:
        remedy = "add mislabel= or labels= to the data spec, or name the examples"
        raise DataError(f"{within.role} set 'mislabelled': no label of {within.described} was changed; {remedy}")
    return within.changed


@dataclass(frozen=True)
class Word:
    """A word that names examples without a file."""

    read: Callable[[str, str, Within], NDArray[np.int64]]
    form: str
    takes_value: bool = True


WORDS: Mapping[str, Word] = {
    "class": Word(_of_class, "class:3,5"),
    "random": Word(_random, "random:0.1:SEED or random:COUNT:SEED"),
    "range": Word(_range, "range:0-999"),
    "mislabelled": Word(_mislabelled, "mislabelled", takes_value=False),
}
