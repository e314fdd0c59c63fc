"""stdout for the product, stderr for messages: whatever is wrong with one of them, the exit code stays right.

A stream that is closed, full or narrow must not end a gate with the code of another answer. What cannot be written to
stdout is an error (exit 3), what cannot be written to stderr is lost, what an encoding lacks is spelled out, and what
the user's own code prints meanwhile goes to stderr, so that stdout holds one document.
"""

import codecs
import contextlib
import ctypes
import errno
import io
import os
import sys
from collections.abc import Iterator
from typing import Any, cast

from unlearn_audit.render.untrusted import brief

SPELLED = "unlearn-audit"  # the name of our way to write what an encoding lacks
ASCII = {
    "·": "*", "…": "...", "─": "-", "━": "-", "²": "^2", "‖": "|", "–": "-", "—": "-", "±": "+-", "├": "|", "└": "+",
    "│": "|", "┤": "|", "┬": "+", "≥": ">=", "≤": "<=", "×": "x", "½": "1/2", "✅": "[passed]", "❌": "[failed]",
    "❗": "[error]", "❔": "[inconclusive]", "✓": "+", "✗": "x",
    **{high: f"^{low}" for low, high in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")}, "⁻": "^-",
}  # fmt: skip


def in_ascii(text: str) -> str:
    r"""Return text in ASCII: what has a likeness by it, everything else spelled out.

    >>> in_ascii("± 0.003 é")
    '+- 0.003 \\xe9'
    """
    return "".join(
        char if char.isascii() else ASCII.get(char) or char.encode("ascii", "backslashreplace").decode()
        for char in text
    )


def _spelled(problem: UnicodeError) -> tuple[str, int]:
    if not isinstance(problem, UnicodeEncodeError):
        raise problem
    return in_ascii(problem.object[problem.start : problem.end]), problem.end


def is_narrow() -> bool:
    """Return whether stdout's encoding lacks what tables and charts are made of."""
    try:
        "–±│".encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except (UnicodeError, LookupError):
        return True
    return False


def write_error(text: str) -> None:
    """Write a message to stderr: one line of a bounded length, from which nothing can steer a screen or fill it."""
    sys.stderr.write(brief(text) + "\n")


class StdoutError(OSError):
    """stdout takes nothing any more."""


class _Sink(io.RawIOBase):
    """A file descriptor to write to; without one, and once it was given up, nothing is taken."""

    def __init__(self, descriptor: int | None, *, forgiving: bool) -> None:
        self.descriptor, self.forgiving = descriptor, forgiving

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        if self.descriptor is None:
            raise io.UnsupportedOperation("a stream that was closed has no number")
        return self.descriptor

    def isatty(self) -> bool:
        return self.descriptor is not None and os.isatty(self.descriptor)

    def write(self, data: "bytes | bytearray | memoryview", /) -> int:  # type: ignore[override]
        try:
            if self.descriptor is None and not self.forgiving:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            return len(data) if self.descriptor is None else os.write(self.descriptor, data)
        except OSError as problem:
            if self.forgiving:
                return len(data)
            raise StdoutError(problem.errno, problem.strerror) from problem


def stand() -> None:
    """Put streams in the place of stdout and stderr that do as this module says; those of a caller are left alone."""
    codecs.register_error(SPELLED, _spelled)
    for descriptor in range(3):
        # A file that is opened later would get the number of a closed stream, and whatever is printed to it.
        with contextlib.suppress(OSError):
            os.fstat(descriptor)
            continue
        os.open(os.devnull, os.O_RDWR)
    if sys.stdout is sys.__stdout__:
        sys.stdout = _stream(sys.stdout, 1, forgiving=False)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _stream(sys.stderr, 2, forgiving=True)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            narrow = stream.isatty() and _locale_is_ascii()
            stream.reconfigure(encoding="ascii" if narrow else None, errors=SPELLED)


def _locale_is_ascii() -> bool:
    """Return whether the locale says of a terminal that it shows ASCII, where Python itself would write UTF-8.

    LC_ALL says it: of LANG and LC_CTYPE Python makes C.UTF-8 where they are C, before anybody can look at them.
    """
    own = {"PYTHONIOENCODING", "PYTHONUTF8"} & set(os.environ)
    return os.environ.get("LC_ALL") in ("C", "POSIX") and not own


def _stream(old: object, descriptor: int, *, forgiving: bool) -> io.TextIOWrapper:
    sink = _Sink(None if old is None else descriptor, forgiving=forgiving)
    encoding = getattr(old, "encoding", None) or "utf-8"
    return io.TextIOWrapper(
        io.BufferedWriter(cast(Any, sink)),
        encoding,
        SPELLED,
        line_buffering=forgiving or sink.isatty(),
        write_through=forgiving,
    )


def give_up_stdout() -> None:
    """Let what is still printed go to stderr, and what waits to be written to nowhere: the product is out, or lost."""
    buffer = getattr(sys.stdout, "buffer", None)
    sink = getattr(buffer, "raw", None)
    if not isinstance(sink, _Sink):
        return
    sink.descriptor, sink.forgiving = None, True
    sys.stdout = sys.stderr
    with contextlib.suppress(OSError):
        os.dup2(2, 1)


@contextlib.contextmanager
def stdout_kept() -> Iterator[None]:
    """Send to stderr what anybody prints while the block runs, also below Python: stdout is for the product alone."""
    sys.stdout.flush()
    sink = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    kept = os.dup(1) if isinstance(sink, _Sink) else None  # a stream of a caller has no number that is ours
    if kept is not None:
        os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        if kept is not None:
            with contextlib.suppress(OSError, AttributeError, ValueError):
                sys.__stdout__.flush()  # type: ignore[union-attr]
            with contextlib.suppress(OSError, AttributeError, TypeError):
                ctypes.CDLL(None).fflush(None)  # what libraries have printed and not yet written
            os.dup2(kept, 1)
            os.close(kept)
