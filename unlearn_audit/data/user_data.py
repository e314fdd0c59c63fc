"""Data from a callable of the user's own; the caller has already decided that this code may run."""

import contextlib
import sys
from collections.abc import Mapping

from unlearn_audit.data.arrays import AS_THEY_STAND, examples_from_arrays
from unlearn_audit.data.examples import Dataset, Examples
from unlearn_audit.data.sources import LoadedArrays
from unlearn_audit.data.spec import Options
from unlearn_audit.errors import AuditError, DataError
from unlearn_audit.user_code import current_folder_importable, import_user_code


def call_for_data(module: str, name: str, options: Options = AS_THEY_STAND) -> LoadedArrays:
    """Import `module`, call `name` without arguments and return the data.

    The current folder is importable meanwhile; what the code prints goes to stderr.

    Args:
        module: dotted module name.
        name: the callable; it returns a `Dataset`, or a mapping with x_train, y_train, x_test and y_test.
        options: how arrays are read, see `examples_from_arrays`.

    Raises:
        DataError: the import or the call fails, or something else comes back.
    """
    where = f"{module}:{name}"
    try:
        with current_folder_importable(), contextlib.redirect_stdout(sys.stderr):
            return _as_loaded(where, name, import_user_code(where)(), options)
    except AuditError:
        raise
    except (Exception, SystemExit) as problem:  # an exit is no answer, whatever its code
        raise DataError(f"data from {where} failed: {type(problem).__name__}: {problem}") from problem


def _as_loaded(where: str, name: str, result: object, options: Options) -> LoadedArrays:
    """Turn what the callable returned into splits."""
    if isinstance(result, Dataset):
        _no_readings(where, options)
        train, test = (
            Examples(part.images.cpu(), part.labels.cpu(), part.true_labels.cpu())
            for part in (result.train, result.test)
        )
        return LoadedArrays(
            name, train, test, result.classes, result.mean, result.std, result.origin, tuple(result.class_names)
        )
    if isinstance(result, Mapping):
        return LoadedArrays(name, *examples_from_arrays(where, result, options))
    kind = type(result).__name__
    raise DataError(f"{where} returned {kind}; a Dataset, or a mapping with x_train, y_train, x_test, y_test is needed")


def _no_readings(where: str, options: Options) -> None:
    """Refuse options that would say how arrays are read, where a Dataset says all of it."""
    said = [key for key in ("layout", "scale", "first_label") if getattr(options, key) is not None]
    if said:
        raise DataError(f"{where} returned a Dataset, on which {said[0]}= has no effect")
