"""Scores of attacks, kept under a digest of all that they depend on.

Those of attacks that read shadow models stand in the fleet's folder, which serves many audits; the others, which look
at the target alone, are among the audit's own parts.
"""

import dataclasses
from contextlib import suppress
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from unlearn_audit.attacks import Attack, Evidence, Shadows
from unlearn_audit.audit.cache import content_key, keep_arrays, kept_arrays
from unlearn_audit.audit.parts import PartCache, make_parts
from unlearn_audit.catalogue import ATTACKS, GENERATOR_ATTACKS
from unlearn_audit.errors import OutputError
from unlearn_audit.inputs import Candidate

Floats = NDArray[np.float64]
CODE_VERSION = 4  # counted up when an attack of the catalogue would give other scores on the same evidence


class KeptScores:
    """Asks an attack for its scores, or finds them; the key is made of the numbers that the attack is given.

    Args:
        folder: the fleet's, for attacks that read its models; None keeps nothing of these.
        parts: where scores of all other attacks are kept.
    """

    def __init__(self, folder: Path | None, parts: PartCache = make_parts) -> None:
        self.folder, self.parts = folder, parts

    def of(self, candidate: Candidate, attack: Attack, evidence: Evidence) -> Floats:
        """Return the scores [N] of an attack.

        An attack of the user's own is always asked: nobody knows when its code changes.

        Args:
            candidate: the target.
            attack: which one, with its settings.
            evidence: that it is given.

        Raises:
            MeasurementError: the attack cannot score.
        """
        if attack.name not in {*ATTACKS, *GENERATOR_ATTACKS}:
            return attack.score(evidence)
        if not attack.needs_shadows:
            queries = evidence.logits.shape[1]
            depends = ["scores", CODE_VERSION, attack.name, attack.settings.model_dump(mode="json"), queries]
            return self.parts(candidate, depends, lambda: {"scores": attack.score(evidence)})["scores"]
        if self.folder is None:
            return attack.score(evidence)
        path = self.folder / f"{_key(attack, evidence)}.npz"
        known = (kept_arrays(path) or {}).get("scores")
        if known is not None and known.dtype == np.float64 and known.shape == evidence.labels.shape:
            return known
        scores = attack.score(evidence)
        with suppress(OutputError):  # a folder that is only lent for reading serves as well, a little slower
            keep_arrays(path, {"scores": scores})
        return scores


def _key(attack: Attack, evidence: Evidence) -> str:
    shadows = [None if each is None else _digest(each) for each in (evidence.shadows, evidence.unlearned)]
    depends = [CODE_VERSION, attack.name, attack.settings.model_dump(mode="json"), evidence.seed, shadows]
    return content_key(depends, evidence.logits, evidence.labels)[:32]


_digests: WeakKeyDictionary[Shadows, str] = WeakKeyDictionary()  # one object serves many attacks and targets


def _digest(shadows: Shadows) -> str:
    """Return the digest of everything that shadow models say."""
    if shadows not in _digests:
        fields = dataclasses.fields(shadows)
        _digests[shadows] = content_key(
            [each.name for each in fields], *(getattr(shadows, each.name) for each in fields)
        )
    return _digests[shadows]
