"""Data from a callable of the user's own; the caller has already decided that this code may run."""

from collections.abc import Mapping

from unlearn_audit.data.arrays import AS_THEY_STAND, examples_from_arrays
from unlearn_audit.data.examples import Dataset, Examples
from unlearn_audit.data.sources import LoadedArrays
from unlearn_audit.data.spec import Options
from unlearn_audit.errors import DataError
from unlearn_audit.user_code import call_user_code


def call_for_data(module: str, name: str, options: Options = AS_THEY_STAND) -> LoadedArrays:
    """Import `module`, call `name` without arguments and return the data.

    Args:
        module: dotted module name.
        name: the callable; it returns a `Dataset`, or a mapping with x_train, y_train, x_test and y_test.
        options: how arrays are read, see `examples_from_arrays`.

    Raises:
        DataError: the import or the call fails, or something else comes back.
    """
    where = f"{module}:{name}"
    result = call_user_code("data", where, DataError)
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
