"""Tells a model's own exceptions from this package's."""

import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from unlearn_audit.errors import AuditError, MeasurementError
from unlearn_audit.user_code import TORCH, raised


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
    """Return whether an exception came out of a module's call or of a gradient."""
    names = [frame.filename for frame in traceback.extract_tb(problem.__traceback__)]
    return any(name.startswith((f"{TORCH}{os.sep}nn", f"{TORCH}{os.sep}autograd")) for name in names)
