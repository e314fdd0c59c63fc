"""JSON read strictly, and pydantic's errors in words."""

import json
from typing import Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError

from unlearn_audit.config.toml_source import Flag, Number, VersionOne
from unlearn_audit.strict_json import DEEPEST, explain, first_problem, parse, parse_object, problems


@pytest.mark.parametrize(
    "value", [None, True, -3, 2**53, 1e-300, "ä\u2028", [], {}, {"a": [{"b": 1.5}, None], "": "x"}]
)
def test_what_json_can_say_is_read_as_it_was_written(value: object) -> None:
    text = json.dumps(value)
    assert parse(text) == parse(text.encode()) == parse(text.encode("utf-8-sig")) == value


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "Expecting value"),
        ("{", "Expecting property name"),
        ("{} {}", "Extra data"),
        ("[NaN]", "NaN where a number belongs"),
        ("-Infinity", "-Infinity where a number belongs"),
        ("[1e999]", "1e999 where a number belongs"),
        ("-1" + "0" * 400, "where a number belongs"),
        ("1" * 5000, "where a number belongs"),
        ('{"a": {"b": 1, "c": 2, "b": 1}}', "an object has the key 'b' twice"),
        (b'{"\xff": 1}', "can't decode byte 0xff"),
        ("{}".encode("utf-16"), "can't decode byte"),
        ("[" * (DEEPEST + 2) + "]" * (DEEPEST + 2), f"nested deeper than {DEEPEST} levels"),
        ("[" * 500_000, "not strict JSON in UTF-8: "),
        ('{"a":' * 500_000, "not strict JSON in UTF-8: "),
    ],
)
def test_what_is_not_strict_json_is_refused_with_the_reason(text: str | bytes, says: str) -> None:
    with pytest.raises(ValueError, match=r"^not strict JSON in UTF-8: ") as caught:
        parse(text)
    assert says in str(caught.value)
    assert len(str(caught.value)) < 200


def test_lists_within_each_other_are_read_down_to_the_deepest_level() -> None:
    value = parse("[" * (DEEPEST + 1) + "]" * (DEEPEST + 1))
    for _ in range(DEEPEST):
        (value,) = value
    assert value == []


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("[]", "a list"),
        ("null", "null"),
        ("3", "a number"),
        ("1.5", "a number"),
        ("true", "true or false"),
        ('"{}"', "a text"),
    ],
)
def test_another_value_than_an_object_is_refused(text: str, kind: str) -> None:
    with pytest.raises(ValueError, match=f"a JSON object is needed, not {kind}$"):
        parse_object(text)
    assert parse_object(b'{"a": 1}') == {"a": 1}


class Inner(BaseModel):
    """A table inside."""

    model_config = ConfigDict(extra="forbid")
    size: Literal["auto"] | Number = "auto"
    kind: Literal["one", "two"] = "one"
    ends: tuple[int, int] = (0, 0)
    on: Flag = True
    count: int = 0


class Named(BaseModel):
    """A table under a name that is free."""

    model_config = ConfigDict(extra="forbid")
    sets: dict[str, Inner] = {}


class Outer(BaseModel):
    """A document."""

    model_config = ConfigDict(extra="forbid")
    schema_version: VersionOne = 1
    name: str
    inner: Inner | None = None
    many: tuple[Inner, ...] = ()
    named: Named | None = None


def refused(values: dict[str, Any]) -> ValidationError:
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate(values)
    return caught.value


def problems_in(values: dict[str, Any]) -> list[str]:
    return problems(refused(values), values, Outer)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, ["name is missing"]),
        ({"name": 3}, ["name: must be a text (got 3)"]),
        ({"name": "n", "inner": 3}, ["inner: must be a table (got 3)"]),
        ({"name": "n", "inner": {"size": -1, "on": 1}}, ["inner.on: must be true or false (got 1)"]),
        ({"name": "n", "inner": {"size": "big"}}, ["inner.size: must be 'auto' or a number (got 'big')"]),
        ({"name": "n", "inner": {"size": True}}, ["inner.size: must be 'auto' or a number (got True)"]),
        ({"name": "n", "inner": {"size": float("inf")}}, ["inner.size: must be 'auto' or a finite number (got inf)"]),
        (
            {"name": "n", "inner": {"kind": "tow"}},
            ["inner.kind: unknown kind 'tow'; did you mean 'two'? Known: one, two"],
        ),
        ({"name": "n", "inner": {"kind": 3}}, ["inner.kind: must be 'one' or 'two' (got 3)"]),
        ({"name": "n", "inner": {"sise": 3}}, ["unknown key 'inner.sise'; did you mean 'size'?"]),
        ({"name": "n", "inner": {"zzz": 3}}, ["unknown key 'inner.zzz'; known: count, ends, kind, on, size"]),
        ({"name": "n", "many": [{}, {"coumt": 3}]}, ["unknown key 'many.1.coumt'; did you mean 'count'?"]),
        ({"name": "n", "many": [{}, {"count": 1.5}]}, ["many.1.count: must be a whole number (got 1.5)"]),
        ({"name": "n", "many": {"count": 1}}, ["many: must be a list (got {'count': 1})"]),
        ({"name": "n", "inner": {"ends": [3]}}, ["inner.ends.1 is missing"]),
        ({"name": "n", "inner": {"count": "x" * 99}}, [f"inner.count: must be a whole number (got '{'x' * 59}…)"]),
        (
            {"name": "n", "named": {"sets": {"forget": {"coumt": 3}}}},
            ["unknown key 'named.sets.forget.coumt'; did you mean 'count'?"],
        ),
        ({"nam": "n"}, ["name is missing", "unknown key 'nam'; did you mean 'name'?"]),
    ],
)
def test_one_line_for_each_wrong_key(values: dict[str, Any], expected: list[str]) -> None:
    assert problems_in(values) == expected


@pytest.mark.parametrize("version", [2, 0, True, 1.0, "1", [1]])
def test_only_the_whole_number_one_is_version_one(version: object) -> None:
    (line,) = problems_in({"name": "n", "schema_version": version})
    assert line.startswith("schema_version: must be 1")
    assert Outer.model_validate({"name": "n", "schema_version": 1}).schema_version == 1


def test_the_first_problem_says_how_many_others_there_are() -> None:
    one, two = {"name": 3}, {"inner": {"on": 1}, "colour": 2}
    assert first_problem(refused(one), one, Outer) == "name: must be a text (got 3)"
    assert first_problem(refused(two), two, Outer) == "name is missing (and 2 more)"
    assert [issue.place for issue in explain(refused(two), two, Outer)] == [("name",), ("inner", "on"), ("colour",)]
