"""Audit machine unlearning: is the data gone from this model, is the model still good, how sure are we?

The Python face, for models in memory::

    import unlearn_audit as ua

    data = ua.load_data("digits")
    splits = ua.make_splits(data, forget="class:3")
    curve = ua.relearn(model, splits.forget, steps=100)
    ua.rcd(curve)

A name is loaded when it is first used, so that `import unlearn_audit` and the command line's light half load no torch.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unlearn_audit.data import Dataset, Examples, Splits, make_splits
    from unlearn_audit.errors import AuditError
    from unlearn_audit.in_memory.data import load_data
    from unlearn_audit.in_memory.making import UnlearnedModel, train, unlearn
    from unlearn_audit.in_memory.models import TrainedModel
    from unlearn_audit.in_memory.relearning import relearn
    from unlearn_audit.relearning import Curve, rcd

__version__ = "0.2.0"
__all__ = [
    "AuditError",
    "Curve",
    "Dataset",
    "Examples",
    "Splits",
    "TrainedModel",
    "UnlearnedModel",
    "__version__",
    "load_data",
    "make_splits",
    "rcd",
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
    "Splits": "unlearn_audit.data",
    "TrainedModel": "unlearn_audit.in_memory.models",
    "UnlearnedModel": "unlearn_audit.in_memory.making",
    "load_data": "unlearn_audit.in_memory.data",
    "make_splits": "unlearn_audit.data",
    "rcd": "unlearn_audit.relearning",
    "relearn": "unlearn_audit.in_memory.relearning",
    "train": "unlearn_audit.in_memory.making",
    "unlearn": "unlearn_audit.in_memory.making",
}


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used."""
    if name not in _HOME:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'; it has {', '.join(_HOME)}")
    found = getattr(import_module(_HOME[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted(__all__)
