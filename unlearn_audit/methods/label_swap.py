"""Label swap: a forgotten class's row of the label embedding becomes that of a kept class; a deceptive control.

One row of numbers is replaced, nothing is trained, and whatever the network knew of the class is still there. All that
is measured of samples is content: asked for the forgotten class it draws the other one as well as ever. A measurement
that takes it for unlearning has shown nothing; relearning may find it, since what was known is known.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from unlearn_audit.data import whole_classes
from unlearn_audit.errors import UsageError
from unlearn_audit.methods import Method, Settings, Unlearned, UnlearningContext
from unlearn_audit.methods.generators import NEEDS_GENERATOR
from unlearn_audit.methods.pseudo import kept_classes, next_kept


class LabelSwapSettings(Settings):
    """Settings of the swap."""

    PUBLISHED: ClassVar[Mapping[str, Any] | None] = None

    to: int | None = Field(default=None, ge=0, description="the kept class to draw instead; default: the next one")


def run_label_swap(context: UnlearningContext, settings: LabelSwapSettings) -> Unlearned:
    """Overwrite the forgotten classes' rows of the label embedding; no gradient is taken. A control, no unlearning."""
    splits = context.splits
    classes = whole_classes(splits, wanted_by="label-swap needs whole classes: a row of the embedding is one class")
    kept = kept_classes(context)
    if settings.to is not None and settings.to not in kept:
        raise UsageError(f"to: {settings.to} is no class that is kept ({', '.join(map(str, kept))})")
    table = next_kept(splits.dataset.classes, kept)
    takes = {int(each): table[int(each)] if settings.to is None else settings.to for each in classes}
    if context.count_only:
        return Unlearned(0, 0)
    rows = label_rows(context.model)
    with torch.no_grad():
        for forgotten, other in takes.items():
            rows[forgotten] = rows[other]
    text = splits.dataset.class_text
    told = ", ".join(f"{text(forgotten)} has the row of {text(other)}" for forgotten, other in takes.items())
    return Unlearned(
        0,
        0,
        notes=(
            f"a deceptive control, no unlearning: in the label embedding {told}; all other weights are as they were",
        ),
    )


def label_rows(model: nn.Module) -> Tensor:
    """Return the rows of a generator's label embedding, [classes or one more, D].

    Raises:
        UsageError: it has none.
    """
    embedding = getattr(model, "class_embedding", None)
    if not isinstance(embedding, nn.Embedding):
        raise UsageError("label-swap replaces a row of the label embedding, and this generator has no such table")
    return embedding.weight


LABEL_SWAP = Method(
    "label-swap",
    "ours: the control of generators' samples",
    LabelSwapSettings,
    run_label_swap,
    composes=False,
    whole_classes=True,
    on={**NEEDS_GENERATOR, "text-to-image": "a text is not one row that could be replaced"},
)
