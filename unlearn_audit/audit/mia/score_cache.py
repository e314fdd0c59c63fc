"""Scores of attacks that read shadow models, kept in the fleet's folder under a digest of all that they depend on."""

import dataclasses
import hashlib
import io
from contextlib import suppress
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from unlearn_audit.attacks import Attack, Evidence, Shadows
from unlearn_audit.catalogue import ATTACKS
from unlearn_audit.errors import OutputError
from unlearn_audit.files import atomic_write

Floats = NDArray[np.float64]
CODE = 3  # counted up when an attack of the catalogue would give other scores on the same evidence


class KeptScores:
    """Asks an attack for its scores, or finds them; the key is made of the numbers that the attack is given.

    Args:
        folder: where scores are kept; None keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def of(self, attack: Attack, evidence: Evidence) -> Floats:
        """Return the scores [N] of an attack.

        An attack of the user's own is always asked: nobody knows when its code changes.

        Args:
            attack: which one, with its settings.
            evidence: that it is given.

        Raises:
            MeasurementError: the attack cannot score.
        """
        reads_shadows = bool({"shadows", "unlearned"} & set(attack.needs))
        if self.folder is None or attack.name not in ATTACKS or not reads_shadows:
            return attack.score(evidence)
        path = self.folder / f"{_key(attack, evidence)}.npy"
        known = _read(path, len(evidence.labels))
        if known is not None:
            return known
        scores = attack.score(evidence)
        stream = io.BytesIO()
        np.save(stream, scores, allow_pickle=False)
        with suppress(OutputError):  # a folder that is only lent for reading serves as well, a little slower
            atomic_write(path, stream.getvalue())
        return scores


def _read(path: Path, count: int) -> Floats | None:
    """Return what is kept; None where there is nothing, or nothing whole."""
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return found if found.dtype == np.float64 and found.shape == (count,) else None


def _key(attack: Attack, evidence: Evidence) -> str:
    settings = attack.settings.model_dump_json()
    digest = hashlib.sha256(f"{CODE} {attack.name} {settings} {evidence.seed}".encode())
    for array in (evidence.logits, evidence.labels):
        digest.update(_told(array))
    for shadows in (evidence.shadows, evidence.unlearned):
        digest.update(b"none" if shadows is None else _digest(shadows))
    return digest.hexdigest()[:32]


_digests: WeakKeyDictionary[Shadows, bytes] = WeakKeyDictionary()  # one object serves many attacks and targets


def _digest(shadows: Shadows) -> bytes:
    """Return the digest of everything that shadow models say."""
    if shadows not in _digests:
        digest = hashlib.sha256()
        for field in dataclasses.fields(shadows):
            digest.update(_told(getattr(shadows, field.name)))
        _digests[shadows] = digest.digest()
    return _digests[shadows]


def _told(array: NDArray[np.generic]) -> bytes:
    return f"{array.dtype} {array.shape}".encode() + np.ascontiguousarray(array).tobytes()
