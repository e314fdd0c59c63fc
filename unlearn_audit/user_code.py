"""Importing a callable of the user's own, `package.module:name`; the caller has already decided that it may run."""

import contextlib
import hashlib
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any


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
