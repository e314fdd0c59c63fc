"""Made-up models for what could be seen: a difficulty that all share, chance, and what the original remembers."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from lookup_models import CLASSES, TEST, TRAIN, Lookup, context_of, right

from unlearn_audit.audit.context import AuditContext
from unlearn_audit.config import AuditConfig


def remembering(forget: str, *labels: str, memory: float = 5.0, seed: int = 0, **config: Any) -> AuditContext:
    """Return a context of models whose log-odds are difficulty + chance, and on the forget set more in the original.

    Args:
        forget: the forget set.
        labels: of the models; a role up to a "-".
        memory: by how much log-odds of the forget set are higher in the original.
        seed: of difficulty and chance.
        config: sections.
    """
    sides = {label: (label.partition("-")[0], right()) for label in labels}
    context = context_of(forget, **sides)
    rng = np.random.default_rng(seed)
    difficulty = rng.normal(-2, 2, TRAIN + TEST)
    for candidate in context.subjects:
        odds = difficulty + rng.normal(0, 0.5, TRAIN + TEST)
        if candidate.role == "original":
            odds[context.splits.forget.indices] += memory
        table = np.zeros((TRAIN + TEST, CLASSES), dtype="f4")
        table[np.arange(TRAIN + TEST), np.arange(TRAIN + TEST) % CLASSES] = odds + np.log(CLASSES - 1)
        candidate.model.load_state_dict(Lookup(torch.from_numpy(table)).state_dict())
    return replace(context, config=AuditConfig.model_validate(config))
