"""GA: gradient ascent on the forget set alone (Thudi et al. 2022). The loss is unbounded: stop in time."""

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from unlearn_audit.engine import Term, Terms
from unlearn_audit.methods import Method, Unlearned, UnlearningContext
from unlearn_audit.methods.generators import NOTHING, GeneratorSettings
from unlearn_audit.methods.loop import (
    LoopSettings,
    Step,
    mean_loss,
    minibatches,
    paired,
    run_composition,
)


class GaSettings(LoopSettings):
    """Settings of GA: those of the Unlearn-Sparse and Unlearn-Saliency code (1e-4, 5 epochs, batch 256), batch 64."""

    PUBLISHED: ClassVar[Mapping[str, Any] | None] = {"batch_size": 256}

    step_size: Step = Field(default=1e-4, description="learning rate; published ones go from 1e-6 to 1e-3")
    epochs: float | None = Field(default=5, gt=0, le=1e6, description="passes over the forget set")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="momentum of SGD")
    weight_decay: float = Field(default=5e-4, ge=0, description="weight decay of the optimiser, on every parameter")
    loss_clip: Step | None = Field(default=None, description="clip an example's loss at this; a deviation, recorded")


def run_ga(context: UnlearningContext, settings: GaSettings) -> Unlearned:
    """Ascend the forget set's loss; the retain set is never looked at.

    At the published step size little happens, at larger ones the network collapses: --stop-forget-loss ends it.
    """
    forget = minibatches(context, "forget", settings)

    def terms(step: int) -> Terms:
        return {"forget": Term(mean_loss(context, forget, step, clip=settings.loss_clip), -1.0, "forget")}

    objective = paired(None, forget, terms)
    return run_composition(context, objective, settings, task="GA")


class GaOnGenerators(GeneratorSettings, GaSettings):
    """Settings of GA on a generator: without a clip it is left unable to denoise at all."""

    loss_clip: Step | None = Field(default=1.0, description=NOTHING)


GA = Method(
    "ga",
    "Thudi et al. 2022; values of the Unlearn-Saliency code",
    GaSettings,
    run_ga,
    on={"generator": Method("ga", "Thudi et al. 2022; settings of ours", GaOnGenerators, run_ga)},
)
