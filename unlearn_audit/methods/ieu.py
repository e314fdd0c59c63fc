"""IEU, Influence Eliminating Unlearning: descent on retain, weak ascent on forget, iterative re-initialisation.

theta_t = alpha·theta_{t-1} + (1 - alpha)·theta_init - eta·(grad L_r - c·grad L_f) (Tran & Woo 2026, Algorithm 1).
Its variants: GA (alpha = 1, c > 0), Noisy (alpha < 1, c = 0), GA+Noisy (both); alpha = 1 and c = 0 is fine-tuning.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from unlearn_audit.methods import Method, Problem, Unlearned, mean_loss, minibatches, run_composition
from unlearn_audit.methods.reinit import Reinit

__all__ = ["IEU", "IeuSettings", "run_ieu"]

Share = Annotated[float, Field(ge=0, le=1)]


class IeuSettings(BaseModel):
    """Settings of IEU. The paper's appendix with its values is not public: these defaults are ours."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    alpha: Share = Field(0.999, description="share of the old weights kept at each step; 1 adds no noise (Algorithm 1)")
    c: Share = Field(0.1, description="weight of the ascent on the forget set; 0 leaves it out (Algorithm 1)")
    step_size: Annotated[float, Field(gt=0, le=1e30)] = Field(0.05, description="eta, the step on the retain set")
    steps: Annotated[int, Field(ge=0)] = Field(200, description="T, minibatch steps")
    batch_size: Annotated[int, Field(gt=0)] = Field(64, description="examples of each set in one step")
    scale: Literal["fan_in", "total_d"] = Field(
        "fan_in", description="variance of a fresh draw: 2 / fan-in of each tensor, or 2 / all parameters"
    )

    @property
    def variant(self) -> str:
        """The paper's name of this combination."""
        noisy, ascends = self.alpha < 1, self.c > 0
        return {(0, 0): "FT", (0, 1): "GA", (1, 0): "Noisy", (1, 1): "GA+Noisy"}[int(noisy), int(ascends)]


def run_ieu(problem: Problem, settings: IeuSettings) -> Unlearned:
    """Unlearn by Algorithm 1 with minibatches and train-mode BatchNorm.

    Retain and forget batches pass through the network one after the other, so that their BatchNorm statistics do not
    mix; with c = 0 no forget batch passes at all.
    """
    retain = minibatches(problem, "retain", settings.batch_size)
    forget = minibatches(problem, "forget", settings.batch_size)

    def objective(step: int) -> dict[str, Tensor]:
        terms = {"retain": mean_loss(problem, retain, step)}
        if settings.c > 0:
            terms["forget"] = -settings.c * mean_loss(problem, forget, step)
        return terms

    return run_composition(
        problem,
        objective,
        steps=settings.steps,
        step_size=settings.step_size,
        batches=[retain, forget] if settings.c > 0 else [retain],
        before_step=[Reinit(problem.model, alpha=settings.alpha, seed=problem.seed, scale=settings.scale)],
        task=f"IEU {settings.variant}",
    )


IEU = Method("ieu", "Tran & Woo 2026, Algorithm 1", IeuSettings, run_ieu)
