"""SalUn: random labels, and only the weights that matter most to the forget set move (Fan et al. 2024)."""

from pydantic import Field

from unlearn_audit.methods import Method, Unlearned, UnlearningContext
from unlearn_audit.methods.loop import Share, Step, run_composition
from unlearn_audit.methods.random_labels import RlSettings, relabelled
from unlearn_audit.methods.transforms.mask import MASK, MaskSettings


class SalunSettings(RlSettings):
    """Settings of SalUn: those of the Unlearn-Saliency README (RL, step .013, 10 epochs, density .5), but batch 64."""

    step_size: Step = Field(default=0.013, description="learning rate")
    density: Share = Field(default=0.5, description="share of all weights that move")
    strict: bool = Field(default=True, description="masked weights do not move by momentum or weight decay either")


def run_salun(context: UnlearningContext, settings: SalunSettings) -> Unlearned:
    """Random labels under a mask of the most salient weights, ranked over all parameters together."""
    mask = MaskSettings(density=settings.density, strict=settings.strict)
    return run_composition(context, relabelled(context, settings), settings, own=[(MASK, mask)], task="SalUn")


SALUN = Method(
    "salun",
    "Fan et al. 2024; values of the Unlearn-Saliency README",
    SalunSettings,
    run_salun,
    deviations=MASK.deviations,
)
