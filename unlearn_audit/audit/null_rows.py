"""The row of a class that a model was made without: nothing has trained it, so that it is the chance of a seed."""

import copy

import torch
from torch import nn

from unlearn_audit.data import Splits
from unlearn_audit.inputs import Candidate
from unlearn_audit.models.denoisers import Denoiser


def untrained_rows(candidate: Candidate, splits: Splits) -> tuple[int, ...]:
    """Return the classes whose conditions a model never met: those of which retraining left no example.

    Args:
        candidate: a class-conditional generator with a condition for no class, and retrained; any other has none.
        splits: the forget set, and what is left.
    """
    model = candidate.model
    if candidate.role != "retrained" or not isinstance(model, Denoiser) or model.null is None:
        return ()
    return splits.forgotten_classes


def with_null_row(candidate: Candidate, splits: Splits) -> nn.Module:
    """Return a generator, a copy with the row of no condition in the place of each one that nothing has trained.

    A row that was only ever initialised puts the seed's chance into the loss under that condition: two models that were
    retrained alike differed by two fifths, and by a twentieth with the row of no condition, which both have learned.

    Args:
        candidate: whose model is left as it is; one that met every class is returned itself.
        splits: the forget set, and what is left.
    """
    classes = untrained_rows(candidate, splits)
    if not classes:
        return candidate.model
    model = copy.deepcopy(candidate.model)
    rows, null = model.get_parameter("class_embedding.weight"), int(getattr(model, "null", -1))
    with torch.no_grad():
        for number in classes:
            rows[number] = rows[null]
    return model


def told_of_null_rows(candidates: list[Candidate] | tuple[Candidate, ...], splits: Splits) -> tuple[str, ...]:
    """Return a sentence on the models that are measured with another row, where there are any."""
    made = [one.label for one in candidates if untrained_rows(one, splits)]
    if not made:
        return ()
    classes = ", ".join(map(str, splits.forgotten_classes))
    return (
        f"{', '.join(made)}: made without class {classes}, whose row of the label embedding nothing has trained; "
        "losses and relearning are measured on a copy that has the row of no condition there, since its own values are "
        "the chance of a seed",
    )
