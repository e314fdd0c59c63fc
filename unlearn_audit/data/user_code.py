"""Data from a callable of the user's own; the caller has already decided that this code may run."""

import contextlib
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path

from unlearn_audit.data.arrays import examples_from_arrays
from unlearn_audit.data.examples import Dataset, Examples
from unlearn_audit.data.sources import Loaded
from unlearn_audit.errors import AuditError, DataError

__all__ = ["call_for_data"]


def call_for_data(module: str, name: str) -> Loaded:
    """Import `module`, call `name` without arguments and return the data.

    The current folder is importable meanwhile; what the code prints goes to stderr.

    Args:
        module: dotted module name.
        name: the callable; it returns a `Dataset`, or a mapping with x_train, y_train, x_test and y_test.

    Raises:
        DataError: the import or the call fails, or something else comes back.
    """
    where = f"{module}:{name}"
    try:
        with _current_folder_importable(), contextlib.redirect_stdout(sys.stderr):
            return _as_loaded(where, name, getattr(import_module(module), name)())
    except AuditError:
        raise
    except Exception as problem:
        raise DataError(f"data from {where} failed: {type(problem).__name__}: {problem}") from problem


def _as_loaded(where: str, name: str, result: object) -> Loaded:
    """Turn what the callable returned into splits."""
    if isinstance(result, Dataset):
        train, test = (
            Examples(part.images.cpu(), part.labels.cpu(), part.true_labels.cpu())
            for part in (result.train, result.test)
        )
        return Loaded(name, train, test, result.classes, result.mean, result.std, origin=result.origin)
    if isinstance(result, Mapping):
        return Loaded(name, *examples_from_arrays(where, result))
    kind = type(result).__name__
    raise DataError(f"{where} returned {kind}; a Dataset, or a mapping with x_train, y_train, x_test, y_test is needed")


@contextlib.contextmanager
def _current_folder_importable() -> Iterator[None]:
    """Put the current folder first on the import path."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)
