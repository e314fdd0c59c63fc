"""Which models can be held against each other at all: those of whom one number says the same thing."""

from collections.abc import Iterator, Sequence

import torch
from torch import nn

from unlearn_audit.errors import UsageError
from unlearn_audit.inputs import Candidate
from unlearn_audit.models.denoisers import Denoiser, Schedule

SAME_BETA = 1e-3  # relative, of the products of 1 - beta: a thousand factors in single precision add up to 1e-4
CLOSE, SMALL = 1e-2, 1e-4  # of weights: an autoencoder that was stored in half precision is the same one


def refuse_a_mixture(candidates: Sequence[Candidate]) -> None:
    """Refuse models whose losses are of different things.

    Args:
        candidates: the subjects.

    Raises:
        UsageError: some are generators and some classifiers, or generators differ in the kind of condition, the noise
            schedule, what is predicted, or the autoencoder.
    """
    makes = [one for one in candidates if one.is_generator]
    if 0 < len(makes) < len(candidates):
        names = next(one.label for one in candidates if not one.is_generator)
        raise UsageError(
            f"{makes[0].label} is a generator, {names} a classifier: no number says the same of both; audit them apart "
            "(a classifier that judges samples is named as --judge)"
        )
    for other in makes[1:]:
        for text in _differences(makes[0], other):
            raise UsageError(f"{text}: their losses are of different things; audit them apart")


def _differences(one: Candidate, other: Candidate) -> Iterator[str]:
    """Yield in what two generators differ that their losses depend on."""
    ours, theirs = one.model, other.model
    if not isinstance(ours, Denoiser) or not isinstance(theirs, Denoiser):
        return
    if ours.conditioning != theirs.conditioning:
        taken = {"class": "classes", "text": "texts"}
        yield (
            f"{one.label} takes {taken[ours.conditioning]}, {other.label} takes {taken[theirs.conditioning]} as "
            "conditions"
        )
    yield from _of_schedules(one.label, ours.schedule, other=other.label, theirs=theirs.schedule)
    if not _same_encoder(one, other):
        yield f"{one.label} and {other.label} have different autoencoders"


def _of_schedules(label: str, ours: Schedule, *, other: str, theirs: Schedule) -> Iterator[str]:
    if ours.prediction != theirs.prediction:
        yield f"{label} predicts {ours.prediction}, {other} {theirs.prediction}"
    if ours.timesteps != theirs.timesteps:
        yield f"{label} has {ours.timesteps} timesteps, {other} {theirs.timesteps}"
    elif not torch.allclose(ours.alphas_bar.double(), theirs.alphas_bar.double(), rtol=SAME_BETA, atol=0):
        yield f"{label} and {other} have different noise schedules (betas)"


def _same_encoder(one: Candidate, other: Candidate) -> bool:
    """Return whether two generators have the same autoencoder, or none both; without a pipeline nobody knows."""
    if one.pipeline is None or other.pipeline is None:
        return True
    ours, theirs = one.pipeline.vae, other.pipeline.vae
    if ours is None or theirs is None or ours is theirs:
        return ours is theirs
    return _scaled(ours) == _scaled(theirs) and _same_weights(ours, theirs)


def _scaled(vae: nn.Module) -> tuple[object, ...]:
    config = getattr(vae, "config", {})
    return config.get("scaling_factor"), config.get("shift_factor")


def _same_weights(one: nn.Module, other: nn.Module) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(
        ours[name].shape == theirs[name].shape
        and torch.allclose(ours[name].float(), theirs[name].to(ours[name].device).float(), rtol=CLOSE, atol=SMALL)
        for name in ours
    )
