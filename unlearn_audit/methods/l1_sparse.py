"""l1-sparse: fine-tuning on the retain set with an l1 penalty that decays over the epochs (Jia et al. 2023)."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from unlearn_audit.methods import Method, Unlearned, UnlearningContext
from unlearn_audit.methods.ft import FtSettings, on_retain
from unlearn_audit.methods.generators import GeneratorSettings
from unlearn_audit.methods.loop import run_composition
from unlearn_audit.methods.transforms.l1 import L1, L1Settings


class L1SparseSettings(FtSettings):
    """Settings of l1-sparse: FT's, and the penalty that comparisons use (the code asks for a value and has none)."""

    UNKNOWN: ClassVar[tuple[str, ...]] = ("alpha",)

    alpha: Annotated[float, Field(ge=0, le=1e30)] = Field(default=5e-4, description="weight of the sum of |weights|")
    decay: Literal["linear", "none"] = Field(
        default="linear", description="schedule of the penalty: to zero over the epochs, or none"
    )
    free_epochs: Annotated[int, Field(ge=0)] = Field(default=0, description="epochs at the end without the penalty")


def run_l1_sparse(context: UnlearningContext, settings: L1SparseSettings) -> Unlearned:
    """Descend CE(retain) + alpha_t·|weights|_1, alpha_t = alpha·(1 - epoch/epochs)."""
    penalty = L1Settings(alpha=settings.alpha, decay=settings.decay, free_epochs=settings.free_epochs)
    return run_composition(context, on_retain(context, settings), settings, own=[(L1, penalty)], task="l1-sparse")


class L1SparseOnGenerators(GeneratorSettings, L1SparseSettings):
    """Settings of l1-sparse on a generator; alpha is that of classifiers."""


L1_SPARSE = Method(
    "l1-sparse",
    "Jia et al. 2023; alpha as in AMUN's comparison, the rest FT's",
    L1SparseSettings,
    run_l1_sparse,
    on={"generator": Method("l1-sparse", "Jia et al. 2023; settings of ours", L1SparseOnGenerators, run_l1_sparse)},
)
