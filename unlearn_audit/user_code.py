"""Calling code of the user's own, `package.module:name`; the caller has already decided that it may run."""

import contextlib
import hashlib
import os
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from unlearn_audit.errors import AuditError, UsageError


def call_user_code(kind: str, spec: str, error: type[UsageError] = UsageError) -> Any:
    """Import a callable, call it without arguments and return what comes back.

    The current folder is importable meanwhile, for modules of the user's that import each other. What the code prints
    goes to stderr, so that stdout holds the tool's own output alone.

    Args:
        kind: what the callable makes, for messages ("model", "data", "attack").
        spec: see `import_user_code`.
        error: the error to raise.

    Raises:
        UsageError: `error`, when the import or the call fails or ends the process; one of ours passes as it is.
    """
    doing = f"cannot be imported (as installed, or from {os.getcwd()})"
    try:
        with current_folder_importable(), contextlib.redirect_stdout(sys.stderr):
            made = import_user_code(spec)
            if not callable(made):
                raise error(f"{kind} '{spec}' is a {type(made).__name__}, not a callable")
            doing = "failed when called without arguments"
            return made()
    except AuditError:
        raise
    except (Exception, SystemExit) as problem:  # an exit is no answer, whatever its code
        raise error(f"{kind} '{spec}' {doing}: {raised(problem)}") from problem


def import_user_code(spec: str) -> Any:
    """Return what `package.module:name` names; modules are looked for where Python looks, then in the current folder.

    The current folder comes last, so that a file `json.py` or `numpy.py` that lies there takes the place of no module
    that anything else imports. A module that is there *and* elsewhere is ambiguous and refused.

    Args:
        spec: dotted module name, a colon, and a name in it, which may be dotted, too.

    Raises:
        ImportError: the module is not found, or is found in two places.
        AttributeError: it has no such name.
        Exception: whatever the module raises.
    """
    module, _, attribute = spec.partition(":")
    top = module.partition(".")[0]
    with current_folder_importable():
        _check_unambiguous(top)
        found: Any = import_module(module)
    for part in attribute.split("."):
        found = getattr(found, part)
    return found


def sha256_of_code(spec: str) -> str | None:
    """Return the SHA-256 of the file of a module that has been imported; None for one without a file.

    What the module imports in its turn has no part in it.

    Args:
        spec: `package.module:name`, as it was imported.
    """
    file = getattr(sys.modules.get(spec.partition(":")[0]), "__file__", None)
    return None if file is None else hashlib.sha256(Path(file).read_bytes()).hexdigest()


def _check_unambiguous(top: str) -> None:
    """Refuse a module of the current folder that another one of the same name hides."""
    here = str(Path.cwd())
    ours = PathFinder.find_spec(top, [here])
    if ours is None or ours.origin is None or not Path(ours.origin).is_relative_to(here):
        return
    elsewhere = PathFinder.find_spec(top, [path for path in sys.path if path and Path(path).resolve() != Path(here)])
    other = "Python's own" if top in sys.stdlib_module_names else elsewhere.origin if elsewhere else None
    if other is not None and Path(other).resolve() != Path(ours.origin).resolve():
        raise ImportError(f"module '{top}' is {ours.origin} and {other}, too; give yours another name")


@contextlib.contextmanager
def current_folder_importable() -> Iterator[None]:
    """Put the current folder last on the import path for a while, for modules of the user's that import each other."""
    here = str(Path.cwd())
    sys.path.append(here)
    try:
        yield
    finally:
        sys.path.reverse()
        sys.path.remove(here)  # the last one, which is ours
        sys.path.reverse()


def _folder_of(package: str) -> str:
    """Return where a package lies, without importing it."""
    found = find_spec(package)
    return str(Path(found.origin).resolve().parent) if found and found.origin else ""


LONGEST = 300
_OURS = str(Path(__file__).resolve().parent)
TORCH = _folder_of("torch")
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
    """Return whether a file is ours, torch's or the interpreter's."""
    path = str(Path(name).resolve())
    inside = [path.startswith(f"{folder}{os.sep}") for folder in (_OURS, TORCH, _PYTHON)]
    return name.startswith("<") or inside[0] or inside[1] or (inside[2] and not _is_installed(path))
