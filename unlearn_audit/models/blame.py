"""Whose exception it is: the kind, the message and the place in the user's code where a model raised it."""

import os
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from unlearn_audit.errors import AuditError, MeasurementError

LONGEST = 300
_OURS = str(Path(__file__).resolve().parents[1])
_TORCH = str(Path(torch.__path__[0]).resolve())
_PYTHON = str(Path(sysconfig.get_paths()["stdlib"]).resolve())
_INSTALLED = ("site-packages", "dist-packages")


def raised(problem: BaseException) -> str:
    """Return an exception in one bounded line: kind, message, and the innermost line of code that is a user's own.

    >>> raised(ValueError("no such width"))
    'ValueError: no such width'
    """
    lines = str(problem).strip().splitlines()
    said = "".join(c if c.isprintable() else "?" for c in lines[0]) if lines else ""
    cut = said if len(said) <= LONGEST else f"{said[:LONGEST]}…"
    place = _place(problem)
    return f"{type(problem).__name__}{f': {cut}' if cut else ''}{f' ({place})' if place else ''}"


def _place(problem: BaseException) -> str:
    """Return file, line and function of the innermost frame that is a user's own, or else of an installed library."""
    frames = [frame for frame in traceback.extract_tb(problem.__traceback__) if not _is_machinery(frame.filename)]
    own = [frame for frame in frames if not _is_installed(frame.filename)] or frames
    if not own:
        return ""
    path, here = Path(own[-1].filename).resolve(), Path.cwd()
    shown = path.relative_to(here) if path.is_relative_to(here) else path
    return f"{shown}:{own[-1].lineno}, in {own[-1].name}"


def _is_installed(name: str) -> bool:
    return any(part in _INSTALLED for part in Path(name).parts)


def _is_machinery(name: str) -> bool:
    """Tell whether a file is ours, torch's or the interpreter's."""
    path = str(Path(name).resolve())
    inside = [path.startswith(f"{folder}{os.sep}") for folder in (_OURS, _TORCH, _PYTHON)]
    return name.startswith("<") or inside[0] or inside[1] or (inside[2] and not _is_installed(path))


@contextmanager
def models_own(doing: str) -> Iterator[None]:
    """Tell an exception that a model raises within the block, or its gradient, as the model's own, in one line.

    Args:
        doing: what came to an end.

    Yields:
        Nothing.

    Raises:
        MeasurementError: the model raised; what was raised outside of a model passes as it is.
    """
    try:
        yield
    except AuditError:
        raise
    except Exception as problem:
        if not _within_a_model(problem):
            raise
        raise MeasurementError(f"{doing}: the model raised {raised(problem)}") from problem


def _within_a_model(problem: BaseException) -> bool:
    """Tell whether an exception came out of a module's call or of a gradient."""
    names = [frame.filename for frame in traceback.extract_tb(problem.__traceback__)]
    return any(name.startswith((f"{_TORCH}{os.sep}nn", f"{_TORCH}{os.sep}autograd")) for name in names)
