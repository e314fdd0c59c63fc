"""TOML files whose every problem is named by its key and its line."""

import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, ValidationError

from unlearn_audit.errors import ConfigError, nearest, unknown_name
from unlearn_audit.files import read_input

MOST_BYTES = 16 * 1024 * 1024  # of a file that people write by hand
DEEPEST = 50  # tables within tables

Place = tuple[str | int, ...]  # keys and indices from the top, e.g. ("checkpoint", 0, "path")


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


class ConfigIssue(NamedTuple):
    """What is wrong, in one line that names its key, and where that key would stand."""

    place: Place
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
    if _is_deeper(values, DEEPEST):
        raise ConfigError(str(path), [f"tables and lists are nested deeper than {DEEPEST}; no {kind} needs that"])
    return Document(values, text)


def _is_deeper(values: object, most: int) -> bool:
    """Return whether tables and lists stand within each other more than `most` times; level by level, no recursion."""
    level = [values]
    for _ in range(most + 1):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True


def dotted(place: Place) -> str:
    """Return a place as people write it.

    >>> dotted(("checkpoint", 0, "path"))
    'checkpoint.0.path'
    """
    return ".".join(str(part) for part in place)


def explain(
    problem: ValidationError,
    values: Mapping[str, Any],
    model: type[BaseModel],
    name: Callable[[Place], str] = dotted,
) -> list[ConfigIssue]:
    """Turn what pydantic says into one line per key, however many types the key could have had.

    Args:
        problem: raised when `model` looked at `values`.
        values: what was validated.
        model: its type, for the keys that are known.
        name: how the key at a place is called where it was given.
    """
    by_place: dict[Place, list[Any]] = {}
    for error in problem.errors(include_url=False):
        by_place.setdefault(_place(error, values), []).append(error)
    inside = {place[:length] for place in by_place for length in range(len(place))}
    return [
        ConfigIssue(place, _line(place, errors, model, name))
        for place, errors in by_place.items()
        # Items that are wrong are not counted, so that a list with one of them also seems to be too short.
        if not (place in inside and errors[0]["type"] == "too_short")
    ]


def _place(error: Any, values: Any) -> Place:
    """Return where an error is, without the names that pydantic gives to the types of a union."""
    found: list[str | int] = []
    for part in error["loc"]:
        known = (
            part in values
            if isinstance(values, Mapping)
            else isinstance(part, int) and isinstance(values, list | tuple)
        )
        if not known:
            return (*found, part) if error["type"] == "missing" else tuple(found)
        found.append(part)
        values = values[part]
    return tuple(found)


# What pydantic calls an error -> what the value must be; {} is filled from its context.
MUST_BE: Mapping[str, str] = {
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "bool_type": "true or false",
    "string_type": "a text",
    "string_too_short": "a text that is not empty",
    "string_pattern_mismatch": "a text like {pattern}",
    "tuple_type": "a list",
    "model_type": "a table",
    "greater_than": "greater than {gt:g}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "too_short": "a list of {min_length} or more",
}
LONGEST_VALUE = 60  # characters of a wrong value that a message repeats


def _line(place: Place, errors: Sequence[Any], model: type[BaseModel], name: Callable[[Place], str]) -> str:
    """Say what is wrong with one key."""
    error, key = errors[0], name(place)
    if error["type"] == "extra_forbidden":
        return _unknown_key(key, place, model)
    if error["type"] == "missing":
        return f"{key} is missing"
    prefix = f"{key}: " if key else ""
    if error["type"] == "value_error":
        return prefix + str(error["msg"]).removeprefix("Value error, ")
    given = error.get("input")
    if [each["type"] for each in errors] == ["literal_error"] and isinstance(given, str):
        return prefix + unknown_name(str(place[-1]), given, re.findall("'([^']*)'", error["ctx"]["expected"]))
    *others, last = dict.fromkeys(phrase for each in errors for phrase in _must_be(each))
    value = repr(given)
    shown = value if len(value) <= LONGEST_VALUE else value[:LONGEST_VALUE] + "…"
    return f"{prefix}must be {', '.join(others)}{' or ' if others else ''}{last} (got {shown})"


def _must_be(error: Any) -> list[str]:
    """Return what the value must be: one phrase, or every choice that there is."""
    if error["type"] == "literal_error":
        return re.split(", | or ", error["ctx"]["expected"])
    if error["type"] in MUST_BE:
        return [MUST_BE[error["type"]].format(**error.get("ctx", {}))]
    return [str(error["msg"]).removeprefix("Input should be ")]


def _unknown_key(key: str, place: Place, model: type[BaseModel]) -> str:
    for part in place[:-1]:
        if isinstance(part, str):
            model = next(_models_in(model.model_fields[part].annotation))
    known = sorted(model.model_fields)
    near = nearest(str(place[-1]), known)
    hint = f"; {model.HINT}" if hasattr(model, "HINT") else ""
    return (
        f"unknown key '{key}'"
        + (f"; did you mean '{near}'?" if near else f"; known: {', '.join(known) or 'none'}")
        + hint
    )


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the models within an annotation such as `tuple[Rule, ...]` or `Settings | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models_in(inner)


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
