"""An l1 penalty on the weights: its subgradient joins the gradient, so that momentum carries it (Jia et al. 2023)."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from unlearn_audit.engine import Hooks, TermGradients, trainable
from unlearn_audit.methods import Course, Settings, StepContext, StepTransform


class L1Settings(Settings):
    """Settings of the penalty: 5e-4 is what comparisons use, the linear decay is the paper's."""

    PUBLISHED: ClassVar[Mapping[str, Any] | None] = {}
    UNKNOWN: ClassVar[tuple[str, ...]] = ("alpha",)

    alpha: Annotated[float, Field(ge=0, le=1e30)] = Field(default=5e-4, description="weight of the sum of |weights|")
    decay: Literal["linear", "none"] = Field(default="linear", description="to zero over the epochs, or none")
    free_epochs: Annotated[int, Field(ge=0)] = Field(default=0, description="epochs at the end without the penalty")


def _make(context: StepContext, settings: L1Settings, course: Course) -> Hooks:
    """Add alpha_t·sign(w) to the gradient of every trainable parameter, as the gradient of the penalty."""
    parameters = list(trainable(context.model).values())
    epochs = course.epoch_of(max(course.steps - 1, 0)) + 1 - settings.free_epochs

    def gradient(step: int, parts: TermGradients) -> None:
        epoch = course.epoch_of(step)
        if epoch >= epochs:
            return
        weight = settings.alpha * (1 - epoch / epochs if settings.decay == "linear" else 1)
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.add_(parameter.sign(), alpha=weight)

    return Hooks(gradient=gradient)


L1 = StepTransform("l1", "Jia et al. 2023", L1Settings, _make, trains=True)
