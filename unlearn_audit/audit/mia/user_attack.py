"""Attacks of the user's own; the caller has already decided that this code may run."""

import re
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from unlearn_audit.attacks import Attack, Evidence
from unlearn_audit.catalogue import ATTACKS, GENERATOR_ATTACKS
from unlearn_audit.errors import MeasurementError, UsageError
from unlearn_audit.user_code import call_user_code, raised


def attack_from_code(spec: str) -> Attack:
    """Return the attack that `package.module:callable` makes.

    Raises:
        UsageError: the import or the call fails, something else comes back, or its name is taken or no name.
    """
    attack = call_user_code("attack", spec)
    if not isinstance(attack, Attack):
        raise UsageError(f"{spec} returned {type(attack).__name__}; an unlearn_audit.attacks.Attack is needed")
    if not re.fullmatch(r"[a-z][a-z0-9-]*", attack.name) or attack.name in {*ATTACKS, *GENERATOR_ATTACKS}:
        raise UsageError(f"{spec}: an attack's name is of a-z and dashes, and not one of ours: {attack.name!r}")
    return attack._replace(score=partial(_checked, spec, attack.score))


def _checked(spec: str, score: Callable[[Evidence], object], evidence: Evidence) -> NDArray[np.float64]:
    """Return the scores of somebody else's attack; what is no score for each example is a reason, not a number."""
    try:
        found = np.asarray(score(evidence), dtype=np.float64)
    except Exception as problem:
        raise MeasurementError(f"{spec} failed: {raised(problem)}") from problem
    if found.shape != evidence.labels.shape:
        raise MeasurementError(f"{spec} gave {found.shape} scores for {len(evidence.labels)} examples")
    return found
