"""Evidence for attacks whose truth is known: who was in which model, and how much a model gives that away."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unlearn_audit.attacks import Evidence, Population, Shadows, Signals

__all__ = ["Floats", "halves", "logits_of", "made_up", "null_error", "planted", "with_shadows"]

Floats = NDArray[np.float64]
Rng = np.random.Generator


def logits_of(odds: Any, labels: NDArray[np.int64], classes: int = 4) -> NDArray[np.float32]:
    """Return logits [..., C] whose log-odds of the label are `odds`, to float32; labels broadcast to their shape."""
    wanted = np.asarray(odds, dtype=np.float64)
    chosen = np.eye(classes)[np.broadcast_to(labels, wanted.shape)]
    found: NDArray[np.float32] = (chosen * (wanted + np.log(classes - 1))[..., None]).astype(np.float32)
    return found


def halves(rng: Rng, models: int, count: int) -> NDArray[np.bool_]:
    """Return [M, N]: each example in exactly half of the models."""
    return rng.random((models, count)).argsort(axis=0) < models // 2


def made_up(
    seed: int = 0, *, count: int = 12, models: int = 8, queries: int = 3, classes: int = 4, scale: float = 3.0
) -> Evidence:
    """Return evidence with everything in it, all of it random; logits are multiples of 1/64, exact in float32."""
    rng = np.random.default_rng(seed)
    rest, held_out, splits = 4 * count, 60, 50

    def logits(*shape: int) -> NDArray[np.float32]:
        return (np.round(64 * rng.normal(0, scale, (*shape, classes))) / 64).astype(np.float32)

    def labels(size: int) -> NDArray[np.int64]:
        return rng.permutation(np.arange(size) % classes)

    def shadows(inside: NDArray[np.bool_], outside: NDArray[np.bool_]) -> Shadows:
        other = (logits(models, rest), halves(rng, models, rest), labels(rest))
        return Shadows(logits(models, count, queries), inside, outside, *other, logits(models, held_out))

    inside = halves(rng, models, count)
    forgotten = rng.random((models, count)).argsort(axis=0) < models // 4
    return Evidence(
        logits(count, queries),
        labels(count),
        rng.normal(0, 1, (count, 9)).astype(np.float32),
        shadows(inside, ~inside),
        shadows(forgotten, ~forgotten & (rng.random((models, count)).argsort(axis=0) < models - 1)),
        Population(Signals(logits(held_out), labels(held_out)), rng.normal(0, 1, (held_out, 9)).astype(np.float32)),
        Signals(logits(splits), labels(splits)),
        Signals(logits(splits - 10), labels(splits - 10)),
        seed,
    )


def planted(seed: int, leak: float, *, remembers: bool = True, pairs: int = 150, models: int = 8) -> Evidence:
    """Return evidence where being in a model adds `leak` to an example's log-odds; the first half is in the target.

    An example has a difficulty, shared by all models, and a deviation of its own in each model. Without `remembers`
    the target alone was trained without the first half, as a retrained model is.
    """
    rng = np.random.default_rng(seed)
    count, rest, held_out = 2 * pairs, 4 * pairs, 2 * pairs

    def labels(size: int) -> NDArray[np.int64]:
        return np.arange(size) % 4

    def said(inside: NDArray[np.bool_], ease: Floats) -> NDArray[np.float32]:
        odds = ease + leak * inside + rng.normal(0, 0.5, inside.shape)
        return logits_of(odds, labels(inside.shape[-1]))

    def fleet(ease: Floats) -> Shadows:
        inside, of_rest = halves(rng, models, count), halves(rng, models, rest)
        other = said(of_rest, rng.normal(0, 1, rest)), of_rest, labels(rest)
        nobody = np.zeros((models, held_out), bool)
        return Shadows(said(inside, ease)[:, :, None], inside, ~inside, *other, said(nobody, np.zeros(held_out)))

    def signals(size: int, inside: bool) -> Signals:
        return Signals(said(np.full(size, inside), rng.normal(0, 1, size)), labels(size))

    ease, members = rng.normal(0, 1, count), (np.arange(count) < pairs) & remembers
    inputs = rng.normal(0, 1, (2, count, 6)).astype(np.float32)
    return Evidence(
        said(members, ease)[:, None],
        labels(count),
        inputs[0],
        fleet(ease),
        fleet(ease),
        Population(signals(held_out, False), inputs[1]),
        signals(held_out, True),
        signals(held_out, False),
        seed,
    )


def with_shadows(evidence: Evidence, **changed: Any) -> Evidence:
    """Return the evidence with some of what its shadow models say changed, those that unlearned alike."""
    assert evidence.shadows is not None
    assert evidence.unlearned is not None
    return replace(
        evidence, shadows=replace(evidence.shadows, **changed), unlearned=replace(evidence.unlearned, **changed)
    )


def null_error(members: int, non_members: int) -> float:
    """Return the standard error of an AUC where both sides are alike (Mann-Whitney)."""
    return float(np.sqrt((members + non_members + 1) / (12 * members * non_members)))
