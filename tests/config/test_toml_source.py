"""Lines of keys against TOML's own parser, and one clear line for each wrong key."""

import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from unlearn_audit.config.toml_source import Said, key_lines, nearest_line, read_toml
from unlearn_audit.errors import ConfigError

DOCUMENT = '''\
# a comment with a = 1
top = 1

text = """
[rcd]
steps = 3
"""
list = [
  1, # [not.a.header]
  2,
]
inline = { a = 1, b = { c = 2 } }
"quoted.key" = 1
dotted.key = 2

[table]          # after a header
key = "[[entry]]"

[table.inner]
key = 1

[[entry]]
path = 'a'

[entry.settings]
x = 1

[[entry]]
path = "b"
[entry.settings]
x = 2
[[entry.nested]]
y = 1
[[entry.nested]]
y = 2
'''
EXPECTED = {
    ("top",): 2,
    ("text",): 4,
    ("list",): 8,
    ("inline",): 12,
    ("inline", "b", "c"): 12,
    ("quoted.key",): 13,
    ("dotted", "key"): 14,
    ("table",): 16,
    ("table", "key"): 17,
    ("table", "inner", "key"): 20,
    ("entry", 0): 22,
    ("entry", 0, "path"): 23,
    ("entry", 0, "settings", "x"): 26,
    ("entry", 1): 28,
    ("entry", 1, "path"): 29,
    ("entry", 1, "settings", "x"): 31,
    ("entry", 1, "nested", 0, "y"): 33,
    ("entry", 1, "nested", 1, "y"): 35,
}


def look_up(values: Any, place: tuple[str | int, ...]) -> Any:
    for part in place:
        values = values[part]
    return values


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_the_line_of_every_kind_of_key(newline: str) -> None:
    lines = key_lines(DOCUMENT.replace("\n", newline))
    assert {place: lines[place] for place in EXPECTED} == EXPECTED


def test_every_place_with_a_line_is_a_key_of_the_document() -> None:
    values = tomllib.loads(DOCUMENT)
    for place in key_lines(DOCUMENT):
        look_up(values, place)


def test_the_header_in_a_text_is_no_header() -> None:
    assert ("rcd",) not in key_lines(DOCUMENT)


@given(st.lists(st.sampled_from(["", "# c", "[t]", "[t.u]", "[[e]]", "[[e.f]]", "k = 1", "l = [\n1,\n]"]), max_size=9))
def test_lines_of_whatever_parses_point_at_the_keys_own_line(statements: list[str]) -> None:
    text = "\n".join(statements)
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    for place, line in key_lines(text).items():
        look_up(values, place)
        last = next(part for part in reversed(place) if isinstance(part, str))
        assert last in text.split("\n")[line - 1]


def test_a_key_without_a_line_gets_that_of_its_table() -> None:
    lines = key_lines("a = 1\n[b]\n[[c]]\nd = 1\n")
    assert nearest_line(("b", "missing"), lines) == 2
    assert nearest_line(("c", 0, "missing"), lines) == 3
    assert nearest_line(("elsewhere",), lines) is None
    assert nearest_line((), lines) is None


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"a = = 3", "not readable TOML.*line 1"),
        (b"a = 1\na = 2", "not readable TOML"),
        (b"\xff\xfe\x00", "not readable TOML"),
        (b"a = " + b"[" * 20_000, "not readable TOML"),
        (b"", "empty"),
    ],
)
def test_what_is_not_toml_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "c.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=says):
        read_toml(path, "config")


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="policy not found"):
        read_toml(tmp_path / "nowhere.toml", "policy")
    with pytest.raises(ConfigError, match="is a directory"):
        read_toml(tmp_path, "policy")


def test_a_byte_order_mark_is_no_part_of_the_document(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_bytes("\ufeffa = 1\n".encode())
    assert read_toml(tmp_path / "c.toml", "config").values == {"a": 1}


def test_a_long_array_with_one_slip_is_read_in_a_moment(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(
        "name = 'n'\nmany = [\n" + "{ count = 1 },\n" * 20_000 + "{ coumt = 1 },\n]\nlast = 1\n"
    )
    values, text = read_toml(tmp_path / "c.toml", "config")
    start = time.process_time()
    lines = key_lines(text)
    assert (lines[("many",)], lines[("many", 20_000)], lines[("last",)]) == (2, 2, 20_005)
    assert time.process_time() - start < 60  # a second; when every line was tried with all before it, an hour
    assert values["many"][20_000] == {"coumt": 1}


STRINGS = [
    '"a]"',
    "'['",
    '"\\"["',
    '"""\n[\n"""',
    "'''\n]\"\n'''",
    '""""a""""',
    '"""\\"""[\n"""',
    "''",
    '""',
    "# [",
    "[ # ]\n]",
]


@given(st.lists(st.sampled_from(STRINGS), max_size=6))
def test_brackets_in_texts_and_comments_open_nothing(texts: list[str]) -> None:
    text = (
        "\n".join(f"k{index} = {value}" for index, value in enumerate(texts) if not value.startswith("#"))
        + "\nlast = 1"
    )
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    assert key_lines(text)[("last",)] == text.count("\n") + 1


@pytest.mark.parametrize(
    "text", [".".join("a" * 5000) + " = 1", f"[{'.'.join('a' * 5000)}]", "a = " + "[" * 60 + "]" * 60]
)
def test_tables_that_nest_without_end_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(ConfigError, match="nested deeper than 50"):
        read_toml(tmp_path / "c.toml", "config")


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "c.toml").open("wb") as stream:
        stream.truncate(3 << 30)  # sparse: it takes no room on the disk
    with pytest.raises(ConfigError, match="larger than 16 MiB.*it was not read"):
        read_toml(tmp_path / "c.toml", "policy")


@pytest.mark.parametrize("text", ["", " ", "\u200b", "\u2060\ufeff", "\u3164", "\u2800\u115f", "\u00ad\ufe0f"])
def test_a_text_that_nobody_can_see_says_nothing(text: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Said).validate_python(text)


@pytest.mark.parametrize("text", ["x", "ticket 7", "é", "合", "!", "\u200bx"])
def test_a_text_with_something_to_see_says_something(text: str) -> None:
    assert TypeAdapter(Said).validate_python(text) == text
