"""Fine-tuning on the retain set, plain (FT) and with weight decay (FT-WD).

FT is IEU with alpha = 1 and c = 0. FT-WD is its Noisy variant without the noise: the weights shrink by alpha in each
step, which for plain SGD is weight decay (1 - alpha)/eta. What Noisy does beyond FT-WD is what the noise does.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from unlearn_audit.engine import Term, Terms
from unlearn_audit.methods import Method, Unlearned, UnlearningContext
from unlearn_audit.methods.generators import GeneratorSettings
from unlearn_audit.methods.loop import (
    LoopSettings,
    Objective,
    Schedule,
    Share,
    mean_loss,
    minibatches,
    paired,
    run_composition,
)
from unlearn_audit.methods.transforms.reinit import REINIT, ReinitSettings


class FtSettings(LoopSettings):
    """Settings of FT: those of the Unlearn-Saliency code (SGD .01, momentum .9, decay 5e-4, 10 epochs), but batch 64.

    Its batch of 256 is in `PUBLISHED`: with 64 as many epochs are four times the steps.
    """

    PUBLISHED: ClassVar[Mapping[str, Any] | None] = {"batch_size": 256}

    step_size: float = Field(default=0.01, gt=0, le=1e30, description="learning rate")
    epochs: float | None = Field(default=10, gt=0, le=1e6, description="passes over the retain set")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="momentum of SGD")
    weight_decay: float = Field(default=5e-4, ge=0, description="weight decay of the optimiser, on every parameter")


class FtWdSettings(FtSettings):
    """Settings of FT-WD: those of IEU's defaults, so that the two differ by the noise alone."""

    PUBLISHED: ClassVar[Mapping[str, Any] | None] = None

    alpha: Share = Field(default=0.999, description="factor on weights of two or more dimensions in each step")
    step_size: float = Field(default=0.05, gt=0, le=1e30, description="learning rate, IEU's")
    epochs: float | None = Field(default=None, gt=0, le=1e6, description="passes over the retain set, instead of steps")
    steps: int | None = Field(default=400, ge=0, description="minibatch steps, IEU's")
    schedule: Schedule = Field(
        default="cosine", description="schedule of the learning rate, IEU's: constant, linear, cosine, milestones:3,5"
    )
    momentum: float = Field(default=0.0, ge=0, lt=1, description="momentum of SGD")
    weight_decay: float = Field(
        default=0.0, ge=0, description="weight decay of the optimiser, on every parameter, beside alpha"
    )


def run_ft(context: UnlearningContext, settings: FtSettings) -> Unlearned:
    """Fine-tune on the retain set; the forget set is never looked at."""
    return _fine_tune(context, settings, alpha=1.0, task="FT")


def run_ft_wd(context: UnlearningContext, settings: FtWdSettings) -> Unlearned:
    """Fine-tune on the retain set while the weights shrink by alpha in each step, decoupled from the gradient."""
    return _fine_tune(context, settings, alpha=settings.alpha, task="FT-WD")


def on_retain(context: UnlearningContext, settings: LoopSettings) -> Objective:
    """Return fine-tuning's objective: the mean loss of a retain batch, and nothing else.

    Raises:
        UsageError: the retain set is empty.
    """
    retain = minibatches(context, "retain", settings)

    def terms(step: int) -> Terms:
        return {"retain": Term(mean_loss(context, retain, step), side="retain")}

    return paired(retain, None, terms)


def _fine_tune(context: UnlearningContext, settings: LoopSettings, *, alpha: float, task: str) -> Unlearned:
    shrinking = [(REINIT, ReinitSettings(alpha=alpha, scale="none"))] if alpha < 1 else []
    return run_composition(context, on_retain(context, settings), settings, own=shrinking, task=task)


class FtOnGenerators(GeneratorSettings, FtSettings):
    """Settings of FT on a generator."""


class FtWdOnGenerators(GeneratorSettings, FtWdSettings):
    """Settings of FT-WD on a generator."""


ON_GENERATORS = "Warnecke et al. 2021; settings of ours"
WD = "ours: the ablation that IEU's Noisy variant must beat"
FT = Method(
    "ft",
    "Warnecke et al. 2021; values of the Unlearn-Saliency code",
    FtSettings,
    run_ft,
    on={"generator": Method("ft", ON_GENERATORS, FtOnGenerators, run_ft)},
)
FT_WD = Method("ft-wd", WD, FtWdSettings, run_ft_wd, on={"generator": Method("ft-wd", WD, FtWdOnGenerators, run_ft_wd)})
