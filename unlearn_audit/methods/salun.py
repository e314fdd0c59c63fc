"""SalUn: random labels, and only the weights that matter most to the forget set move (Fan et al. 2024)."""

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from unlearn_audit.methods import Method, Unlearned, UnlearningContext
from unlearn_audit.methods.loop import Share, Step, run_composition
from unlearn_audit.methods.pseudo import DEVIATIONS, PseudoSettings, redirected
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


class SalunOnGenerators(PseudoSettings):
    """Settings of SalUn on a generator; published are those of its DDPM code (CIFAR-10).

    That code's alpha of 1e-3 counts sums over 3,072 elements, and is the weight of 3.07 that stands here.
    """

    PUBLISHED: ClassVar[Mapping[str, Any] | None] = {
        "steps": 1000,
        "step_size": 1e-4,
        "batch_size": 128,
        "schedule": "constant",
        "retain_weight": 3.072,
    }
    UNKNOWN: ClassVar[tuple[str, ...]] = ("scope",)

    density: Share = Field(default=0.5, description="share of all weights that move")
    strict: bool = Field(default=True, description="masked weights do not move by momentum or weight decay either")


def run_salun_on_generator(context: UnlearningContext, settings: SalunOnGenerators) -> Unlearned:
    """Pseudo conditions under a mask of the weights that are most salient to the forget set's denoising loss."""
    mask = MaskSettings(density=settings.density, strict=settings.strict)
    return run_composition(context, redirected(context, settings), settings, own=[(MASK, mask)], task="SalUn")


SALUN = Method(
    "salun",
    "Fan et al. 2024; values of the Unlearn-Saliency README",
    SalunSettings,
    run_salun,
    deviations=MASK.deviations,
    on={
        "generator": Method(
            "salun",
            "Fan et al. 2024; values of the Unlearn-Saliency code for DDPM",
            SalunOnGenerators,
            run_salun_on_generator,
            deviations=(
                *DEVIATIONS,
                "saliency is the gradient of the plain prediction's loss over a grid of timesteps; the published code "
                "takes the guided prediction, timesteps at random, and sums batch gradients clipped to a norm of 1",
                "the gradient is clipped after the mask; the published code clips before it, so that masked gradients "
                "shrink the others",
            ),
        )
    },
)
