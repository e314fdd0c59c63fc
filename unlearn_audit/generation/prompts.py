"""Prompt files: a CSV with a prompt a line and, where it has them, each one's own seed, guidance, size and number."""

import csv
import io
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from unlearn_audit.errors import DataError
from unlearn_audit.files import read_input, sha256_of_bytes

MOST_BYTES = 64 << 20
MOST_PROMPTS = 1_000_000
LONGEST = 10_000  # characters of a prompt; an encoder takes the first 77 tokens
LARGEST_SEED = 2**63 - 1
LARGEST_SIDE = 8192

# What is obeyed, under each name that files of I2P's kind have it; the first one there is counts.
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "seed": ("evaluation_seed", "sd_seed"),
    "guidance": ("evaluation_guidance", "sd_guidance_scale"),
    "width": ("sd_image_width",),
    "height": ("sd_image_height",),
    "number": ("case_number",),
}
FILE = "prompt file"


class Prompt(NamedTuple):
    """One line of a prompt file; what it does not say is None.

    Attributes:
        text: the prompt.
        number: its case number, else its place in the file, counted from 0.
        seed: of the generator that its x_T is drawn from, as a pipeline of diffusers draws it on the CPU.
        guidance: of its image.
        width: in pixels.
        height: in pixels.
    """

    text: str
    number: int
    seed: int | None = None
    guidance: float | None = None
    width: int | None = None
    height: int | None = None


class PromptFile(NamedTuple):
    """A prompt file as read.

    Attributes:
        path: the file.
        sha256: of its bytes.
        prompts: in the file's order.
        obeyed: columns that count beside `prompt`.
        passed_over: columns that do not.
    """

    path: Path
    sha256: str
    prompts: tuple[Prompt, ...]
    obeyed: tuple[str, ...]
    passed_over: tuple[str, ...]


def read_prompts(path: Path) -> PromptFile:
    """Read a prompt file strictly: what it says is obeyed, and what cannot be read is refused with its line.

    A header is needed, with `prompt` in it; `evaluation_seed` (or `sd_seed`), `evaluation_guidance` (or
    `sd_guidance_scale`), `sd_image_width`, `sd_image_height` and `case_number` are obeyed, I2P's as they are.

    Args:
        path: CSV in UTF-8; prompts may be quoted and hold line breaks.

    Raises:
        DataError: no such file, no text, no `prompt`, a name that stands twice, a line with more or fewer fields than
            the header, an empty prompt, a number that is none or out of range, a width without a height, or a case
            number that comes twice.
    """
    content = read_input(path, FILE, DataError, most=MOST_BYTES)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        raise DataError(f"{path} is not text in UTF-8 (byte {problem.start}); save it as UTF-8") from None
    lines = _lines(path, text)
    _, header = next(lines, (1, []))
    names = _names(path, header)
    taken = {key: next(name for name in each if name in names) for key, each in COLUMNS.items() if {*each} & {*names}}
    prompts: list[Prompt] = []
    for line, fields in lines:
        if len(fields) != len(names):
            raise DataError(f"{path}, line {line}: {len(fields)} fields where the header has {len(names)}")
        if len(prompts) == MOST_PROMPTS:
            raise DataError(f"{path} has more than {MOST_PROMPTS:,} prompts")
        prompts.append(_prompt(f"{path}, line {line}", dict(zip(names, fields, strict=True)), taken, len(prompts)))
    if not prompts:
        raise DataError(f"{path} has a header and no prompt under it")
    _check_numbers(path, prompts)
    obeyed = tuple(taken.values())
    others = tuple(name for name in names if name != "prompt" and name not in obeyed)
    return PromptFile(path, sha256_of_bytes(content), tuple(prompts), obeyed, others)


def _lines(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the line on which each record ends, and its fields; empty lines are passed over."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for fields in reader:
            if fields:
                yield reader.line_num, fields
    except csv.Error as problem:
        raise DataError(f"{path}, line {reader.line_num}: {problem}") from None


def _names(path: Path, header: list[str]) -> list[str]:
    """Return the names of the columns; a nameless one, as tables with row numbers have it in front, is passed over."""
    names = [name.strip() or f"column {index + 1}" for index, name in enumerate(header)]
    if "prompt" not in names:
        raise DataError(f"{path} has no column 'prompt'; its first line has {', '.join(names)[:200] or 'nothing'}")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{path} has two columns that are called {twice!r:.80}")
    return names


def _prompt(where: str, fields: Mapping[str, str], taken: Mapping[str, str], place: int) -> Prompt:
    """Return one line as a prompt."""
    text = fields["prompt"].strip()
    if not text:
        raise DataError(f"{where}: the prompt is empty, which is the null condition")
    if len(text) > LONGEST:
        raise DataError(f"{where}: the prompt has {len(text):,} characters; at most {LONGEST:,} are taken")
    most = {"seed": LARGEST_SEED, "number": LARGEST_SEED, "width": LARGEST_SIDE, "height": LARGEST_SIDE}
    whole = {
        key: _whole(where, name, fields[name], least=8 if key in ("width", "height") else 0, most=most[key])
        for key, name in taken.items()
        if key != "guidance"
    }
    guidance = _guidance(where, taken["guidance"], fields[taken["guidance"]]) if "guidance" in taken else None
    if (whole.get("width") is None) is not (whole.get("height") is None):
        raise DataError(f"{where}: it names a width or a height without the other; name both or neither")
    number = whole.pop("number", place)
    return Prompt(text, place if number is None else number, guidance=guidance, **whole)


def _whole(where: str, name: str, text: str, *, least: int, most: int) -> int | None:
    """Return a whole number, which tables that miss some write as 512.0; None where the field is empty."""
    text = text.strip()
    if not text:
        return None
    plain = text.removesuffix(".0")
    if not (plain.isascii() and plain.isdecimal()) or len(plain) > 19 or not least <= int(plain) <= most:
        raise DataError(f"{where}: {name} is {text!r:.40}; a whole number from {least} to {most} is needed")
    return int(plain)


def _guidance(where: str, name: str, text: str) -> float | None:
    """Return a guidance; None where the field is empty."""
    if not text.strip():
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1000:  # also where it is NaN
        raise DataError(f"{where}: {name} is {text.strip()!r:.40}; a number from 0 to 1000 is needed")
    return value


def _check_numbers(path: Path, prompts: list[Prompt]) -> None:
    """Refuse a case number that comes twice: images are named after it."""
    seen: set[int] = set()
    for prompt in prompts:
        if prompt.number in seen:
            raise DataError(f"{path}: case number {prompt.number} comes twice; images are named after it")
        seen.add(prompt.number)
