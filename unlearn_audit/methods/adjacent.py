"""The adjacent set of a method that has one: named by its own setting, else by the request, else found by itself."""

import os
from typing import Any

import numpy as np

from unlearn_audit.config import NEIGHBOURS, is_index_words
from unlearn_audit.data import Dataset, IndexSet, Splits, digest_of, read_training_indices, with_adjacent
from unlearn_audit.methods import Settings


def with_request(settings: Any, adjacent: str | None) -> Any:
    """Return a method's settings with the request's adjacent set, where the method has one and names none itself.

    A file is named by its whole path, since shadow models that go through the same look for it from elsewhere.

    Args:
        settings: of the method.
        adjacent: the request's, as `--adjacent` takes it.
    """
    if "adjacent" not in type(settings).model_fields:
        return settings
    spec = settings.adjacent or (adjacent if adjacent != NEIGHBOURS else None)
    if spec is None:
        return settings
    named = spec if is_index_words(spec) else os.path.abspath(os.path.expanduser(spec))
    return settings.model_copy(update={"adjacent": named})


def with_settings(splits: Splits, settings: Settings) -> Splits:
    """Return the sets with the adjacent one that a method's settings name, if any.

    Args:
        splits: what is to be forgotten and retained.
        settings: of the method.

    Raises:
        DataError: as `with_adjacent`.
    """
    named = getattr(settings, "adjacent", None)
    return splits if named in (None, NEIGHBOURS) else with_adjacent(splits, str(named))


def with_retained(splits: Splits, named: object, dataset: Dataset) -> Splits:
    """Return the sets of a shadow model with those of an adjacent set that it retains.

    Args:
        splits: of the shadow model, whose data begin with the training set that the adjacent set is of.
        named: the adjacent set, as a method's settings have it; None where they name none.
        dataset: the data with that training set.

    Raises:
        DataError: as `with_adjacent`.
    """
    if named in (None, NEIGHBOURS):
        return splits
    whole = read_training_indices(str(named), dataset, role="adjacent")
    indices = np.intersect1d(whole.indices, splits.retain)
    return with_adjacent(splits, IndexSet(whole.spec, indices, digest_of(indices), splits.dataset))
