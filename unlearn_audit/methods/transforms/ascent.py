"""Ascent on the forget set as a part that joins any objective: IEU's "GA" (Tran & Woo 2026, Algorithm 1)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import Field

from unlearn_audit.engine import Hooks, Term, Terms
from unlearn_audit.methods import Course, Settings, StepTransform, UnlearningContext
from unlearn_audit.methods.generators import NOTHING, GeneratorSettings
from unlearn_audit.methods.loop import LoopSettings, Share, Size, Step, mean_loss, minibatches


class AscentSettings(Settings):
    """Settings of the ascent; the paper's values are not public, these are ours."""

    PUBLISHED: ClassVar[Mapping[str, Any] | None] = {"batch_size": "full", "loss_clip": "none"}
    UNKNOWN: ClassVar[tuple[str, ...]] = ("c",)

    def without_effect(self) -> tuple[str, ...]:
        """Return what does nothing where nothing is ascended."""
        return ("batch_size", "loss_clip") if self.c == 0 else ()

    c: Share = Field(default=0.2, description="weight of the forget set's mean loss; 0 leaves it out")
    batch_size: Size = Field(default=64, description="forget examples in one step")
    loss_clip: Step | Literal["none"] = Field(
        default=15.0, description="nats at which an example's loss is clipped, beyond Algorithm 1; or none"
    )


def _make(context: UnlearningContext, settings: AscentSettings, course: Course) -> Hooks:
    """Add -c·(mean loss of a forget batch) to the objective of each step."""
    if settings.c == 0:
        return Hooks()
    forget = minibatches(context, "forget", LoopSettings(steps=0, batch_size=settings.batch_size))
    forget = replace(forget, name="ascent")  # a stream of its own, whatever the method does with the forget set

    clip = None if settings.loss_clip == "none" else settings.loss_clip

    def terms(step: int) -> Terms:
        return {"forget ascended": Term(mean_loss(context, forget, step, clip=clip), -settings.c, "forget")}

    return Hooks(terms=terms, gradients=forget.taken)


class AscentOnGenerators(AscentSettings):
    """Settings of the ascent on a generator."""

    CLIP_UNIT: ClassVar[str] = GeneratorSettings.CLIP_UNIT

    batch_size: Size = Field(default=32, description="forget examples in one step")
    loss_clip: Step | Literal["none"] = Field(default=1.0, description=f"{NOTHING}; or none")


SOURCE = "Tran & Woo 2026, Algorithm 1"
ASCENT = StepTransform(
    "ascent",
    SOURCE,
    AscentSettings,
    _make,
    on={"generator": StepTransform("ascent", SOURCE, AscentOnGenerators, _make)},
)
