"""IEU, Influence Eliminating Unlearning: descent on retain, weak ascent on forget, iterative re-initialisation.

theta_t = alpha·theta_{t-1} + (1 - alpha)·theta_init - eta·(grad L_r - c·grad L_f) (Tran & Woo 2026, Algorithm 1).
Its variants: GA (alpha = 1, c > 0), Noisy (alpha < 1, c = 0), GA+Noisy (both); alpha = 1 and c = 0 is fine-tuning.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from unlearn_audit.engine import Term, Terms
from unlearn_audit.methods import Method, Unlearned, UnlearningContext
from unlearn_audit.methods.generators import NOTHING, GeneratorSettings
from unlearn_audit.methods.loop import (
    LoopSettings,
    Schedule,
    Share,
    Step,
    mean_loss,
    minibatches,
    paired,
    run_composition,
)
from unlearn_audit.methods.transforms.reinit import REINIT, ReinitSettings


class IeuSettings(LoopSettings):
    """Settings of IEU. The paper's appendix with its values is not public: these defaults are ours.

    They were chosen on forget sets that are reported nowhere else (`sample_configs/ieu-sweep-*.toml`): a budget in
    steps, since with epochs the same settings do nothing on small data and wreck large ones; a falling step size, since
    Algorithm 1's constant one leaves the network where the last batches threw it; and a clipped ascent, a deviation
    that is recorded each time. Without it no c serves every forget set: .03 is enough for whole classes but leaves
    wrong labels half remembered (by RCD, while accuracies look right), .1 forgets these and costs a tenth of the retain
    accuracy where a class goes. `PUBLISHED` is the letter of Algorithm 1 and Definition 8: full batches, a constant
    step, noise of variance 2 / d on every parameter, no clip.
    """

    PUBLISHED: ClassVar[Mapping[str, Any] | None] = {
        "batch_size": "full",
        "schedule": "constant",
        "scale": "total_d",
        "include_1d": True,
        "loss_clip": "none",
    }
    UNKNOWN: ClassVar[tuple[str, ...]] = ("alpha", "c", "step_size", "steps", "epochs", "augment")

    def without_effect(self) -> tuple[str, ...]:
        """Return what does nothing beside alpha and c."""
        unclipped = ("loss_clip",) if self.c == 0 else ()
        return (*unclipped, *ReinitSettings(alpha=self.alpha, scale=self.scale).without_effect())

    alpha: Share = Field(
        default=0.999, description="share of the old weights kept at each step; 1 adds no noise (Algorithm 1)"
    )
    c: Share = Field(default=0.2, description="weight of the ascent on the forget set; 0 leaves it out (Algorithm 1)")
    step_size: Step = Field(default=0.05, description="eta, the step on the retain set")
    steps: Annotated[int, Field(ge=0)] | None = Field(default=400, description="T, minibatch steps")
    schedule: Schedule = Field(
        default="cosine",
        description="schedule of eta: constant (Algorithm 1), linear or cosine (to 0), "
        "milestones:3,5 (x 0.1 after epochs)",
    )
    scale: Literal["fan_in", "total_d", "none"] = Field(
        default="fan_in",
        description="variance of a fresh draw: 2 / fan-in of each tensor, 2 / all parameters, or no noise, decay alone",
    )
    draw: Literal["fresh", "fixed", "per_epoch"] = Field(
        default="fresh", description="a new draw each step (Algorithm 1), one for the whole run, or one an epoch"
    )
    include_1d: bool = Field(default=False, description="mix biases and BatchNorm's parameters, too")
    retain_free: bool = Field(
        default=False, description="do not use the retain set: a variant that no result of the paper supports"
    )
    loss_clip: Step | Literal["none"] = Field(
        default=15.0,
        description="nats at which an example's ascended loss is clipped, recorded as a deviation; or none",
    )

    @model_validator(mode="after")
    def _something_to_do(self) -> "IeuSettings":
        """Refuse a run that takes no gradient at all."""
        if self.retain_free and not self.c:
            raise ValueError("with retain_free and c = 0 no gradient is left to take")
        return self

    @property
    def clip(self) -> float | None:
        """The largest ascended loss of an example; None for Algorithm 1's unbounded one."""
        return None if self.loss_clip == "none" else self.loss_clip

    @property
    def variant(self) -> str:
        """The paper's name of this combination."""
        noisy, ascends = self.alpha < 1, self.c > 0
        return {(0, 0): "FT", (0, 1): "GA", (1, 0): "Noisy", (1, 1): "GA+Noisy"}[int(noisy), int(ascends)]


def run_ieu(context: UnlearningContext, settings: IeuSettings) -> Unlearned:
    """Unlearn by Algorithm 1 with minibatches and train-mode BatchNorm.

    Retain and forget batches pass through the network one after the other, so that their BatchNorm statistics do not
    mix; with c = 0 no forget batch passes at all.
    """
    retain = None if settings.retain_free else minibatches(context, "retain", settings)
    forget = minibatches(context, "forget", settings) if settings.c > 0 else None

    def terms(step: int) -> Terms:
        found = {}
        if retain:
            found["retain"] = Term(mean_loss(context, retain, step), side="retain")
        if forget:
            found["forget"] = Term(mean_loss(context, forget, step, clip=settings.clip), -settings.c, "forget")
        return found

    noise = ReinitSettings(
        alpha=settings.alpha, scale=settings.scale, draw=settings.draw, include_1d=settings.include_1d
    )
    return run_composition(
        context,
        paired(retain, forget, terms),
        settings,
        own=[(REINIT, noise)],
        task=f"IEU {settings.variant}",
    )


class IeuOnGenerators(GeneratorSettings, IeuSettings):
    """Settings of IEU on a generator; its paper shows one, and no value of what it was made with."""

    PUBLISHED: ClassVar[Mapping[str, Any] | None] = {
        "batch_size": "full",
        "schedule": "constant",
        "scale": "total_d",
        "include_1d": True,
        "loss_clip": "none",
        "max_norm": "none",
        "optimizer": "sgd",
    }
    UNKNOWN: ClassVar[tuple[str, ...]] = ("alpha", "c", "step_size", "steps", "epochs", "augment", "scope")

    loss_clip: Step | Literal["none"] = Field(default=1.0, description=f"{NOTHING}; or none")


IEU = Method(
    "ieu",
    "Tran & Woo 2026, Algorithm 1",
    IeuSettings,
    run_ieu,
    on={"generator": Method("ieu", "Tran & Woo 2026, Algorithm 1 and section 6.2", IeuOnGenerators, run_ieu)},
)
