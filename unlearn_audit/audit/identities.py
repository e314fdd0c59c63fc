"""Are the subjects of an audit what they are named as, and are they different models? Files, weights, seeds, roles.

A comparison between a file and its own copy says nothing, and it says so with great certainty: the copies agree on
every example. So every two subjects are held against each other before anything is measured.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

import torch
from torch import Tensor

from unlearn_audit.inputs import Candidate
from unlearn_audit.models.loading import is_counter

ROUNDING = 0.01  # relative distance of every tensor that a copy in bfloat16, or one with a little noise, stays within


def identity_doubts(candidates: Sequence[Candidate]) -> Iterator[tuple[str, str]]:
    """Yield a label with a sentence for each subject that is another one under another name, or no run of its own.

    Args:
        candidates: the subjects of one audit, built.

    Yields:
        The label of the subject in doubt, and why.
    """
    digests = {one.label: weights_digest(one) for one in candidates}
    for one, other in combinations(candidates, 2):
        told = _same(one, other, same_weights=digests[one.label] == digests[other.label])
        if told is not None:
            yield from ((label, told) for label in _in_doubt(one, other))
    yield from _same_seeds([one for one in candidates if one.role == "retrained"], digests)


def weights_digest(candidate: Candidate) -> str:
    """Return the SHA-256 of names, shapes and values of a model's weights; its file has no part in it.

    Args:
        candidate: the model, built.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(_weights(candidate).items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _weights(candidate: Candidate) -> dict[str, Tensor]:
    return {name: value for name, value in candidate.model.state_dict().items() if not is_counter(name)}


def _same(one: Candidate, other: Candidate, *, same_weights: bool) -> str | None:
    """Return in words that two subjects are one; None where they are two."""
    names = f"{one.label} ({one.role}) and {other.label} ({other.role})"
    if same_weights:  # a file may hold several sets of weights, which are several models
        where = "are the same file" if one.sha256 == other.sha256 else "have the same weights in two files"
        return f"{names} {where}: one model cannot stand for both"
    if "retrained" in (one.role, other.role) and _alike(_weights(one), _weights(other)):
        return (
            f"{names} have the same weights to within {ROUNDING:.0%} in every tensor: one is a copy of the other, and "
            "no training from scratch"
        )
    return None


def _alike(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Return whether every tensor of one is the other's, up to rounding or a little noise."""
    if {name: tensor.shape for name, tensor in one.items()} != {name: tensor.shape for name, tensor in other.items()}:
        return False
    return all(_close(tensor.double(), other[name].double()) for name, tensor in one.items())


def _close(one: Tensor, other: Tensor) -> bool:
    scale = max(float(one.norm()), float(other.norm()))
    return scale == 0 or float((one - other).norm()) <= ROUNDING * scale


def _in_doubt(one: Candidate, other: Candidate) -> tuple[str, ...]:
    """Return who is in doubt: both, but not an original whose copy is only said to have unlearned something."""
    pair = (one, other)
    if {one.role, other.role} == {"original", "unlearned"}:
        return tuple(each.label for each in pair if each.role == "unlearned")
    return tuple(each.label for each in pair)


def _same_seeds(retrained: Sequence[Candidate], digests: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield retrained models that their own records call the same run: their spread is not that of chance."""
    for one, other in combinations(retrained, 2):
        if digests[one.label] == digests[other.label] or one.metadata is None or other.metadata is None:
            continue
        if one.metadata.seed is not None and _run(one) == _run(other):
            told = (
                f"{one.label} and {other.label} were trained alike with the same seed, {one.metadata.seed}: they are "
                "no two independent runs, and their spread says nothing of chance"
            )
            yield from ((label, told) for label in (one.label, other.label))


def _run(candidate: Candidate) -> str:
    """Return what determines a training run, by its own record."""
    said = candidate.metadata
    known = (said.seed, dict(said.recipe), said.model, said.forget_sha256, said.data_sha256) if said else None
    return json.dumps(known, sort_keys=True, default=str)


def other_parents(candidates: Sequence[Candidate]) -> Iterator[str]:
    """Yield which unlearned models were, by their own record, made from another file than the original given here."""
    known = {one.sha256 for one in candidates}
    originals = [one.label for one in candidates if one.role == "original"]
    for one in candidates:
        parent = one.metadata.parent_sha256 if one.metadata else None
        if originals and one.role == "unlearned" and parent is not None and parent not in known:
            yield (
                f"{one.label} was made from another checkpoint (sha256 {parent[:12]}…) than {', '.join(originals)}: a "
                "change against the original may come from that"
            )
