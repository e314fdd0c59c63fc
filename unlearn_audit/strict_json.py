"""JSON read strictly, and in words what pydantic finds wrong with values."""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel, ValidationError

from unlearn_audit.errors import nearest, unknown_name

DEEPEST = 100  # objects and lists within each other

Place = tuple[str | int, ...]  # keys and indices from the top, e.g. ("checkpoint", 0, "path")


def parse(text: str | bytes) -> Any:
    """Return the value of a JSON text.

    Python's own reader takes NaN, makes infinity of 1e999, keeps the last of two equal keys and ends with a
    `RecursionError` at a depth that differs between versions; here all of these are refused.

    Args:
        text: as text, or as bytes in UTF-8, with or without a byte order mark.

    Raises:
        ValueError: not such JSON; the message says why, and that strict JSON is needed.
    """
    try:
        value = json.loads(
            text.decode("utf-8-sig") if isinstance(text, bytes) else text,
            parse_constant=_refuse_constant,
            parse_float=_finite,
            parse_int=_whole,
            object_pairs_hook=_unique_keys,
        )
        if is_deeper(value, DEEPEST):
            raise ValueError(f"nested deeper than {DEEPEST} levels")
    except (ValueError, RecursionError) as problem:
        raise ValueError(f"not strict JSON in UTF-8: {problem}") from problem
    return value


def parse_object(text: str | bytes) -> dict[str, Any]:
    """Return the JSON object of a text, see `parse`.

    Raises:
        ValueError: as `parse`, or another value than an object.
    """
    value = parse(text)
    if not isinstance(value, dict):
        raise ValueError(f"a JSON object is needed, not {kind_of(value)}")
    return value


def kind_of(value: object) -> str:
    """Return what kind of JSON a value is, in words for messages."""
    if value is None:
        return "null"
    names = {bool: "true or false", str: "a text", list: "a list", dict: "an object"}
    return names.get(type(value), "a number")


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name:.40} where a number belongs")


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _refuse_constant(text)


def _whole(text: str) -> int:
    _finite(text)  # otherwise a whole number that no float can hold passes
    return int(text)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        repeated = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"an object has the key {repeated!r:.80} twice")
    return found


def is_deeper(values: object, most: int) -> bool:
    """Return whether objects and lists stand within each other more than `most` times; level by level, no recursion."""
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


class ConfigIssue(NamedTuple):
    """What is wrong, in one line that names its key, and where that key would stand."""

    place: Place
    text: str


def dotted(place: Place) -> str:
    """Return a place as people write it.

    >>> dotted(("checkpoint", 0, "path"))
    'checkpoint.0.path'
    """
    return ".".join(str(part) for part in place)


def explain(
    problem: ValidationError,
    values: Mapping[str, Any],
    model: type[Any],
    name: Callable[[Place], str] = dotted,
) -> list[ConfigIssue]:
    """Turn what pydantic says into one line per key, however many types the key could have had.

    Args:
        problem: raised when `model` looked at `values`.
        values: what was validated.
        model: its type, a model or a dataclass of pydantic's, for the keys that are known.
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
            else isinstance(part, int) and isinstance(values, list | tuple) and part < len(values)
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
    "string_too_long": "a text of at most {max_length} characters",
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


def _line(place: Place, errors: Sequence[Any], model: type[Any], name: Callable[[Place], str]) -> str:
    """Say what is wrong with one key."""
    error, key = errors[0], name(place)
    if error["type"] in {"extra_forbidden", "unexpected_keyword_argument"}:  # of a model, of a dataclass
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


def _unknown_key(key: str, place: Place, model: type[Any]) -> str:
    for part in place[:-1]:
        if isinstance(part, str):
            field = model.__pydantic_fields__.get(part)  # None for the key of a mapping from names to models
            model = next(_models_in(field.annotation), model) if field else model
    known = sorted(model.__pydantic_fields__)
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


def problems(problem: ValidationError, values: Mapping[str, Any], model: type[Any]) -> list[str]:
    """Return what `explain` says, each line once."""
    return list(dict.fromkeys(wrong.text for wrong in explain(problem, values, model)))


def first_problem(problem: ValidationError, values: Mapping[str, Any], model: type[Any]) -> str:
    """Return the first of the `problems`, and how many others there are."""
    first, *others = problems(problem, values, model)
    return first + (f" (and {len(others)} more)" if others else "")
