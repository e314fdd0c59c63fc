"""Audit machine unlearning: is the data gone from this model, is the model still good, how sure are we?

The Python face, for models in memory::

    import unlearn_audit as ua

    data = ua.load_data("digits")
    splits = ua.make_splits(data, forget="class:3")
    original = ua.train("small-cnn", data)
    retrained = ua.train("small-cnn", data, without=splits.forget, seed=1)
    new = ua.unlearn("scrub", original, splits, alpha=0.1)
    ua.rcd(ua.relearn(new, splits.forget, steps=100))
    report = ua.audit({"original": original, "unlearned": new, "retrained-1": retrained}, splits, rcd=True)

A name is loaded when it is first used, so that `import unlearn_audit` and the command line's light half load no torch.
"""

import inspect
import sys
from collections.abc import Mapping
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unlearn_audit.data import Dataset, Examples, Splits, make_splits
    from unlearn_audit.errors import AuditError
    from unlearn_audit.in_memory.auditing import audit
    from unlearn_audit.in_memory.data import load_data
    from unlearn_audit.in_memory.making import UnlearnedModel, train, unlearn
    from unlearn_audit.in_memory.models import TrainedModel
    from unlearn_audit.in_memory.relearning import relearn
    from unlearn_audit.in_memory.report import Report, read_report
    from unlearn_audit.relearning import Curve, rcd

__version__ = "0.2.0"
__all__ = [
    "AuditError",
    "Curve",
    "Dataset",
    "Examples",
    "Report",
    "Splits",
    "TrainedModel",
    "UnlearnedModel",
    "__version__",
    "audit",
    "load_data",
    "make_splits",
    "rcd",
    "read_report",
    "relearn",
    "train",
    "unlearn",
]

# Public name -> the module that defines it, as the imports above have it for type checkers.
_HOME: Mapping[str, str] = {
    "AuditError": "unlearn_audit.errors",
    "Curve": "unlearn_audit.relearning",
    "Dataset": "unlearn_audit.data",
    "Examples": "unlearn_audit.data",
    "Report": "unlearn_audit.in_memory.report",
    "Splits": "unlearn_audit.data",
    "TrainedModel": "unlearn_audit.in_memory.models",
    "UnlearnedModel": "unlearn_audit.in_memory.making",
    "audit": "unlearn_audit.in_memory.auditing",
    "load_data": "unlearn_audit.in_memory.data",
    "make_splits": "unlearn_audit.data",
    "rcd": "unlearn_audit.relearning",
    "read_report": "unlearn_audit.in_memory.report",
    "relearn": "unlearn_audit.in_memory.relearning",
    "train": "unlearn_audit.in_memory.making",
    "unlearn": "unlearn_audit.in_memory.making",
}


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used."""
    if name not in _HOME:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'; it has {', '.join(_HOME)}")
    found = getattr(import_module(_HOME[name]), name)
    if name in globals():  # the function has the name of a package, which importing it has put here
        return globals()[name]
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted(__all__)


class _Callable(ModuleType):
    """The package `audit/`, which is called as the function of that name is."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Audit models in memory, see `unlearn_audit.in_memory.auditing.audit`."""
        return self._function(*args, **kwargs)

    @property
    def _function(self) -> Any:
        return import_module(_HOME["audit"]).audit

    @property
    def __signature__(self) -> inspect.Signature:
        """Say what a call takes, for help and completion."""
        return inspect.signature(self._function)


class _Package(ModuleType):
    """This package: `audit` is a function of it and a package in it, and Python puts the latter where the former was.

    The two are made one, so that `ua.audit(...)` and `unlearn_audit.audit.run_audit` both work, in whatever order
    things were imported.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        """Let the package `audit/` be callable as soon as it is imported."""
        if name == "audit" and isinstance(value, ModuleType):
            value.__class__ = _Callable
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
