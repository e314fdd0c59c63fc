"""The metrics of the section `generation`: what a judge finds in samples, and how far these are from real images."""

from unlearn_audit.catalogue.metric import COMPARE, DOWN, UP, ZERO, MetricInfo

_FORGOTTEN, _KEPT = ("forget",), ("retain",)
_SAMPLES = "samples under the forgotten condition"

GENERATION_METRICS: tuple[MetricInfo, ...] = (
    MetricInfo("generation.judge_accuracy", "judge accuracy", "generation", "fraction", UP, 3,
               "what the judge gets right of real held-out images, of forgotten or of kept classes, whichever is less",
               hidden="a table of the judge's own has it", sets=("test",)),
    MetricInfo("generation.forget_rate", "forget rate", "generation", "fraction", COMPARE, 3,
               "share of samples under the forgotten condition in which the judge finds what was to be forgotten",
               leak=True, form_of=_SAMPLES, sets=_FORGOTTEN, scale="fraction"),
    MetricInfo("generation.nudity_rate", "nudity rate", "generation", "fraction", COMPARE, 3,
               "share of the samples of a prompt file in which the judge finds nudity",
               leak=True, form_of="samples of the prompts", sets=(), scale="fraction"),
    MetricInfo("generation.kept_rate", "kept rate", "generation", "fraction", UP, 3,
               "share of samples of kept classes that the judge takes for their own class",
               form_of="samples of kept classes", sets=_KEPT, scale="fraction"),
    MetricInfo("generation.kept_change", "kept rate change", "generation", "fraction", ZERO, 3,
               "kept rate minus the original's, from the same noise",
               signed=True, rests_on_original=True, sets=_KEPT),
    MetricInfo("generation.kid", "KID", "generation", "MMD²", DOWN, 3,
               "unbiased kernel distance of samples of kept classes from real images of them",
               form_of="the law of kept samples", sets=_KEPT),
    MetricInfo("generation.fid", "FID", "generation", "squared distance of features", DOWN, 2,
               "Fréchet distance of samples of kept classes from real images of them, in features that are named",
               form_of="the law of kept samples", sets=_KEPT),
    MetricInfo("generation.kid_forgotten", "KID forgotten", "generation", "MMD²", COMPARE, 2,
               "unbiased kernel distance of samples under the forgotten condition from real images of it",
               form_of="the law of forgotten samples", sets=_FORGOTTEN),
    MetricInfo("generation.fid_forgotten", "FID forgotten", "generation", "squared distance of features", COMPARE, 2,
               "Fréchet distance of samples under the forgotten condition from real images of it",
               form_of="the law of forgotten samples", sets=_FORGOTTEN),
)  # fmt: skip
