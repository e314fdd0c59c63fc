"""TOML files whose every problem is named by its key and its line."""

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, BeforeValidator, Field

from unlearn_audit.errors import ConfigError
from unlearn_audit.files import read_input
from unlearn_audit.strict_json import Place, is_deeper

MOST_BYTES = 16 * 1024 * 1024  # of a file that people write by hand
DEEPEST = 50  # tables within tables


def _exactly_one(version: object) -> object:
    # A bool and a float compare equal to 1; neither is a schema version.
    if type(version) is not int or version != 1:
        raise ValueError(f"must be 1, this tool knows no other version (got {version!r})")
    return version


VersionOne = Annotated[Literal[1], BeforeValidator(_exactly_one)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]  # no text, no true or false
Flag = Annotated[bool, Field(strict=True)]


def says_something(text: str) -> str:
    """Refuse a text of which nothing is seen, however many characters it has."""
    # Letters that nothing is seen of (fillers, a Braille pattern without dots) are letters to Unicode all the same.
    if not any(char.isprintable() and not char.isspace() and char not in UNSEEN for char in text):
        raise ValueError("must say something that can be seen")
    return text


UNSEEN = "\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0" + "".join(map(chr, range(0xFE00, 0xFE10)))
Said = Annotated[str, Field(min_length=1), AfterValidator(says_something)]  # not empty, and not merely unseen


class Document(NamedTuple):
    """A TOML file: its values and its text, from which lines are found when there is a problem."""

    values: dict[str, Any]
    text: str


def read_toml(path: Path, kind: str) -> Document:
    """Read a TOML file.

    Args:
        path: the file.
        kind: what it should be, for messages ("config", "policy").

    Raises:
        ConfigError: missing, unreadable, larger than 16 MiB, not UTF-8, not TOML, or nested deeper than 50 tables.
    """
    content = read_input(path, kind, ConfigError, most=MOST_BYTES)
    try:
        text = content.decode("utf-8-sig")
        values = tomllib.loads(text)
    except (ValueError, RecursionError) as problem:
        raise ConfigError(str(path), [f"not readable TOML: {problem}"]) from problem
    if is_deeper(values, DEEPEST):
        raise ConfigError(str(path), [f"tables and lists are nested deeper than {DEEPEST}; no {kind} needs that"])
    return Document(values, text)


def nearest_line(place: Place, lines: Mapping[Place, int]) -> int | None:
    """Return the line of a key, else of the innermost table around it that has a line, else None."""
    return next((lines[place[:end]] for end in range(len(place), 0, -1) if place[:end] in lines), None)


def key_lines(text: str) -> dict[Place, int]:
    r"""Return the line (from 1) on which each key and each table of a valid TOML document starts.

    >>> key_lines("a = 1\n[[b]]\nc = [\n 2 ]\n[[b]]\nc = 3")[("b", 1, "c")]
    6
    """
    found: dict[Place, int] = {}
    counts: dict[Place, int] = {}
    table: Place = ()
    for number, statement in _statements(text):
        try:
            values = tomllib.loads(statement)
        except tomllib.TOMLDecodeError:
            continue  # a line that is not told is no reason to fail
        if statement.lstrip().startswith("["):
            table = _header(values, counts)
            found.setdefault(table, number)
        else:
            for place in _places(values):
                found.setdefault(table + place, number)
    return found


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Yield the statements of a document, of one line or more, each with the number of its first line.

    A statement goes on while a bracket or a text of several lines is open, so that each is parsed once.
    """
    pending, start, state = list[str](), 0, _Open()
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
        start = start if pending else number
        pending.append(line)
        state = _after(line, state)
        if state == _Open():
            yield start, "\n".join(pending)
            pending = []


class _Open(NamedTuple):
    """What is open at the end of a line: brackets, and the quotes that a text of several lines ends with."""

    brackets: int = 0
    quotes: str = ""


# What has a meaning in a line, the longest first: comments, texts on one line, quotes of texts on several, brackets.
TOKEN = re.compile(r"""#.*|\"""|\'\'\'|"(?:[^"\\]|\\.)*"|'[^']*'|[\[{]|[\]}]""")
INSIDE = {'"""': re.compile(r'\\.|"""+'), "'''": re.compile(r"'''+")}  # what may end a text of several lines


def _after(line: str, state: _Open) -> _Open:
    """Return what is open after a line of a valid document."""
    brackets, quotes, at = state.brackets, state.quotes, 0
    while found := (INSIDE[quotes] if quotes else TOKEN).search(line, at):
        at, token = found.end(), found[0]
        if quotes:
            quotes = "" if token.startswith(quotes) else quotes
        elif token in INSIDE:
            quotes = token
        else:
            brackets += (token in "[{") - (token in "]}")
    return _Open(brackets, quotes)


def _header(values: Mapping[str, Any], counts: dict[Place, int]) -> Place:
    """Return the place that a header such as `[a.b]` or `[[a]]` opens, counting the entries of arrays."""
    place: Place = ()
    inner: Any = values
    while isinstance(inner, dict) and inner:
        key, inner = next(iter(inner.items()))
        place = (*place, key)
        if isinstance(inner, list):
            counts[place] = counts.get(place, 0) + 1
            inner = inner[0]
        if place in counts:
            place = (*place, counts[place] - 1)
    return place


def _places(values: Any, at: Place = ()) -> Iterator[Place]:
    """Yield the places of all keys within a value, of list items only where they are tables."""
    items = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, value in items:
        if isinstance(values, dict) or isinstance(value, dict):
            yield (*at, key)
            yield from _places(value, (*at, key))
