"""Curves as arrays: a model's curve on a set is taken once, and found again after a kill and beside more models."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from unlearn_audit.audit.parts import Arrays, PartCache
from unlearn_audit.inputs import Candidate
from unlearn_audit.relearning import Curve, CurveCache

NOTHING = -1  # stands for None in a whole number of a kept curve


def kept_curves(runs: Sequence[tuple[Candidate, object]], parts: PartCache) -> CurveCache:
    """Return where the curves of runs are looked for before they are taken.

    Args:
        runs: whose each is, and what names the sets that are relearned and measured, as JSON.
        parts: where they are kept.
    """

    def find(index: int, step: object, take: Callable[[], Curve]) -> Curve:
        candidate, sets = runs[index]
        return _as_curve(parts(candidate, ["curve", sets, repr(step)], lambda: _as_arrays(take())))

    return find


def _as_arrays(curve: Curve) -> Arrays:
    """Return a curve's fields as arrays; one that carries its model is never asked for here."""
    values = {field.name: getattr(curve, field.name) for field in dataclasses.fields(curve) if field.name != "end"}
    return {name: np.asarray(NOTHING if value is None else value) for name, value in values.items()}


def _as_curve(arrays: Arrays) -> Curve:
    values: dict[str, Any] = {name: value if value.ndim else _whole(int(value)) for name, value in arrays.items()}
    return Curve(**values)


def _whole(value: int) -> int | None:
    return None if value == NOTHING else value
