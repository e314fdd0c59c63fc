"""GitHub-flavoured Markdown from text that is not trusted: tables, lists, and a length that GitHub keeps."""

import re
from collections.abc import Iterable, Iterator, Sequence

from unlearn_audit.render.untrusted import brief

SPECIAL = str.maketrans({character: f"\\{character}" for character in "\\|`*_[]<>~&$"})
EMOJI = re.compile(r":(?=[\w+-]+:)")  # GitHub shows a picture in the place of :name:
MOST_BYTES = 1_000_000  # GitHub drops a step summary of more than 1 MiB altogether
CUT = "\n**This text was cut here, since a step summary may hold 1 MiB; the JSON output has the rest.**\n"


def escaped(text: str) -> str:
    r"""Return text from elsewhere so that Markdown shows it as it is.

    >>> escaped("a|b <i>")
    'a\\|b \\<i\\>'
    """
    return EMOJI.sub(r"\:", brief(text).translate(SPECIAL))


def bullets(texts: Iterable[str]) -> list[str]:
    """Return list items; a text that begins like a list or a heading is no list or heading of its own."""
    return ["- " + re.sub(r"^(\d*)([-+#.)])", r"\1\\\2", escaped(text)) for text in texts]


def pipe_table(heading: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: bool = False) -> Iterator[str]:
    """Yield the lines of a table whose cells are escaped; with `numbers` all columns but the first stand right."""
    yield "| " + " | ".join(escaped(cell) for cell in heading) + " |"
    yield "|---|" + ("---:|" if numbers else "---|") * (len(heading) - 1)
    for row in rows:
        yield "| " + " | ".join(escaped(cell) for cell in row) + " |"


def kept_short(text: str) -> str:
    """Return the text, or as many of its lines as a step summary may hold and a sentence that says so."""
    data = text.encode()
    if len(data) <= MOST_BYTES:
        return text
    whole = data[: MOST_BYTES - len(CUT.encode())]
    return whole[: whole.rfind(b"\n") + 1].decode() + CUT
