"""Which method is meant: one of the catalogue, or `package.module:callable` of the user's own."""

import re

from unlearn_audit import catalogue
from unlearn_audit.errors import UsageError
from unlearn_audit.methods import Method
from unlearn_audit.user_code import call_user_code


def is_code(name: str) -> bool:
    """Return whether a name is that of a callable of the user's own."""
    return ":" in name


def find_method(name: str, *, allow_code: bool) -> Method:
    """Return a method.

    Args:
        name: of the catalogue; or `package.module:callable`, called without arguments, which returns the method.
        allow_code: whether the name comes from a flag or a named config, and may therefore choose code to run.

    Raises:
        UsageError: unknown, code where it is not allowed, or code that fails or returns something else.
    """
    if not is_code(name):
        found: Method = catalogue.load("method", catalogue.METHODS, name)
        return found
    if not allow_code:
        raise UsageError(
            f"method '{name}' is code to run, and a checkpoint's metadata or a config that was merely found may not "
            "choose it; name it yourself: `apply module:callable`, or --config FILE"
        )
    return _from_code(name)


def _from_code(spec: str) -> Method:
    """Import the callable, call it, and hold the answer to what a method must be."""
    method = call_user_code("method", spec)
    if not isinstance(method, Method):
        raise UsageError(f"{spec} returned {type(method).__name__}; an unlearn_audit.methods.Method is needed")
    if not re.fullmatch(r"[a-z][a-z0-9-]*", method.name) or method.name in catalogue.METHODS:
        raise UsageError(f"{spec}: a method's name is of a-z and dashes, and not one of ours: {method.name!r}")
    return method
