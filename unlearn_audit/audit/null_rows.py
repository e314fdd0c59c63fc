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
        candidate: a class-conditional generator with a condition for no class, and retrained by its own record without
            this forget set; any other has none. A role alone proves nothing: a file that is named as retrained by
            mistake would be measured without the row that gives it away.
        splits: the forget set, and what is left.
    """
    return splits.forgotten_classes if _stands_for_retrained(candidate) and _says_so(candidate, splits) else ()


def doubtful_rows(candidate: Candidate, splits: Splits) -> tuple[int, ...]:
    """Return the classes whose conditions a model that is named as retrained may have met: no record says otherwise."""
    return splits.forgotten_classes if _stands_for_retrained(candidate) and not _says_so(candidate, splits) else ()


def _stands_for_retrained(candidate: Candidate) -> bool:
    model = candidate.model
    return candidate.role == "retrained" and isinstance(model, Denoiser) and model.null is not None


def _says_so(candidate: Candidate, splits: Splits) -> bool:
    """Return whether a model's own record says that it was retrained without this forget set."""
    record = candidate.metadata
    return record is not None and record.role == "retrained" and record.forget_sha256 == splits.forget.sha256


def with_null_row(candidate: Candidate, splits: Splits) -> nn.Module:
    """Return a generator, a copy with the row of no condition in the place of each one that nothing has trained.

    A row that was only ever initialised puts the seed's chance into the loss under that condition: two models that were
    retrained alike differed by two fifths, and by a twentieth with the row of no condition, which both have learned.

    Args:
        candidate: whose model is left as it is; one that met every class is returned itself.
        splits: the forget set, and what is left.
    """
    return taking_null_row(candidate.model, untrained_rows(candidate, splits))


def taking_null_row(model: nn.Module, classes: tuple[int, ...]) -> nn.Module:
    """Return a copy of a generator in which classes have the row of no condition; of no classes, itself."""
    if not classes:
        return model
    model = copy.deepcopy(model)
    rows, null = model.get_parameter("class_embedding.weight"), int(getattr(model, "null", -1))
    with torch.no_grad():
        for number in classes:
            rows[number] = rows[null]
    return model


def told_of_null_rows(candidates: list[Candidate] | tuple[Candidate, ...], splits: Splits) -> tuple[str, ...]:
    """Return sentences on the models that are measured with another row, and on those that may have to be."""
    made = [one.label for one in candidates if untrained_rows(one, splits)]
    unknown = [one.label for one in candidates if doubtful_rows(one, splits)]
    classes = ", ".join(map(str, splits.forgotten_classes))
    replaced = (
        f"{', '.join(made)}: made without class {classes}, whose row of the label embedding nothing has trained; "
        "losses and relearning are measured on a copy that has the row of no condition there, since its own values are "
        "the chance of a seed"
    )
    own = (
        f"{', '.join(unknown)}: named as retrained, and no record of its own says that it was made without class "
        f"{classes}; losses and relearning are measured with its own row of the label embedding, which is the chance "
        "of a seed where nothing has trained it"
    )
    return (*([replaced] if made else []), *([own] if unknown else []))
