"""NegGrad+: descent on retain and ascent on forget in one step (Kurmanji et al. 2023, section 4)."""

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from unlearn_audit.engine import Term, Terms
from unlearn_audit.methods import Method, Unlearned, UnlearningContext
from unlearn_audit.methods.generators import NOTHING, GeneratorSettings
from unlearn_audit.methods.loop import (
    LoopSettings,
    Share,
    Step,
    mean_loss,
    minibatches,
    paired,
    run_composition,
)


class NegGradPlusSettings(LoopSettings):
    """Settings of NegGrad+: those of the SCRUB code (alpha .95, SGD .01, 10 epochs, no decay)."""

    PUBLISHED: ClassVar[Mapping[str, Any] | None] = {}
    UNKNOWN: ClassVar[tuple[str, ...]] = ("batch_size",)

    alpha: Share = Field(default=0.95, description="weight of the retain loss; the forget loss gets alpha - 1")
    epochs: float | None = Field(default=10, gt=0, le=1e6, description="passes over the retain set")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="momentum of SGD")
    loss_clip: Step | None = Field(
        default=None, description="clip an example's ascended loss at this; a deviation, recorded"
    )


def run_neggrad_plus(context: UnlearningContext, settings: NegGradPlusSettings) -> Unlearned:
    """Descend alpha·CE(retain batch) - (1 - alpha)·CE(forget batch), one retain batch a step.

    The forget set is shuffled anew each time it is through, so that its batches do not repeat.
    """
    retain = minibatches(context, "retain", settings) if settings.alpha > 0 else None
    forget = minibatches(context, "forget", settings) if settings.alpha < 1 else None

    def terms(step: int) -> Terms:
        found = {}
        if retain:
            found["retain"] = Term(mean_loss(context, retain, step), settings.alpha, "retain")
        if forget:
            found["forget"] = Term(
                mean_loss(context, forget, step, clip=settings.loss_clip), settings.alpha - 1, "forget"
            )
        return found

    objective = paired(retain, forget, terms)
    return run_composition(context, objective, settings, task="NegGrad+")


class NegGradPlusOnGenerators(GeneratorSettings, NegGradPlusSettings):
    """Settings of NegGrad+ on a generator; alpha is that of classifiers."""

    loss_clip: Step | None = Field(default=1.0, description=NOTHING)


NEGGRAD_PLUS = Method(
    "neggrad-plus",
    "Kurmanji et al. 2023; values of the SCRUB code",
    NegGradPlusSettings,
    run_neggrad_plus,
    deviations=("the forget set is shuffled anew in each pass; the published code repeats its first pass",),
    on={
        "generator": Method(
            "neggrad-plus", "Kurmanji et al. 2023; settings of ours", NegGradPlusOnGenerators, run_neggrad_plus
        )
    },
)
