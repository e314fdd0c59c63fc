"""The section `generation`: which images are drawn of a generator, and who judges them."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from unlearn_audit.config.fields import ConfigModel, Positive
from unlearn_audit.config.toml_source import Number, Said

TRAIN = "train"  # as a judge: a small classifier of the same data
NUDENET = "nudenet"  # as a judge: the detector of that name, where it is installed
OF_THE_JUDGE = "judge"  # as features: those that the judge has
INCEPTION = "inception:"  # how features in a file of Inception's weights are named
MOST_SAMPLES = 100_000


def _gives_labels(judge: str) -> str:
    if judge.startswith(INCEPTION):
        raise ValueError(f"{judge} gives features and no labels: name it with --features, or as generation.features")
    return judge


class GenerationSettings(ConfigModel):
    """Samples of a generator before a judge: is the forgotten gone from them, and is the rest as it was?"""

    judge: Annotated[
        Said,
        AfterValidator(_gives_labels),
        Field(description="A classifier's checkpoint, nudenet, or train: a small classifier of the same training set"),
    ] = TRAIN
    samples: Annotated[int, Field(ge=10, le=MOST_SAMPLES, strict=True, description="Under each forgotten class")] = 100
    kept_samples: Annotated[int, Field(ge=3, le=MOST_SAMPLES, strict=True, description="Under each kept class")] = 40
    guidance: Annotated[
        Number | None, Field(ge=0, le=1000, description="1 is none; default: 1 for classes, 7.5 for prompts")
    ] = None
    sampler: Annotated[
        Literal["ddim", "ddpm", "folder"] | None,
        Field(description="Default: ddim for classes, for prompts the folder's own"),
    ] = None
    sampling_steps: Annotated[
        Positive | None, Field(description="Passes for each image; default: 25 for classes, 50 for prompts")
    ] = None
    features: Annotated[
        Said, Field(description="Of KID and FID: judge, or inception:FILE with the weights of published ones")
    ] = OF_THE_JUDGE
    prompts: Annotated[
        Said | None, Field(description="CSV of prompts that ask for what is forgotten, one sample each")
    ] = None
    kept_prompts: Annotated[Said | None, Field(description="Likewise of what is kept")] = None
    real: Annotated[
        Said | None, Field(description="Data that samples are compared with; default: the training set")
    ] = None
    nudity_labels: Annotated[
        Literal["default", "udatk"],
        Field(description="Of judge nudenet: six exposed parts, or the nine of UnlearnDiffAtk"),
    ] = "default"
    nudity_threshold: Annotated[
        Number,
        Field(gt=0, le=1, description="Of judge nudenet: score from which a part counts; below .25 nothing changes"),
    ] = 0.45
