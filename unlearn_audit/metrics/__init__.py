"""The numbers of an audit: pure functions of logits, labels and scores, with their intervals.

Fractions are in [0, 1], losses in nats. Nothing undefined comes back as a number: functions that may have no answer
return None, and their callers say why.
"""

from unlearn_audit.metrics.differences import (
    Chance,
    Difference,
    chance_of_examples,
    difference_from_references,
)
from unlearn_audit.metrics.frechet import frechet_distance
from unlearn_audit.metrics.kernel import FEWEST_SAMPLES, KernelDistance, kernel_distance
from unlearn_audit.metrics.operating_points import (
    Accuracy,
    OperatingPoint,
    balanced_accuracy,
    clopper_pearson,
    non_members_needed,
    tpr_at_fpr,
)
from unlearn_audit.metrics.outputs import (
    Divergences,
    as_if_apart,
    divergences,
    paired_bootstrap,
    tug_of_war,
    zero_retrain_forgetting,
)
from unlearn_audit.metrics.populations import (
    FEWEST_MODELS,
    forgetting_quality,
    klom_floor,
    klom_gaussian,
    klom_histogram,
)
from unlearn_audit.metrics.power import BLIND_ABOVE, ScaledDifference, difference_of_values
from unlearn_audit.metrics.representations import linear_cka, unbiased_cka
from unlearn_audit.metrics.skewed import mean_interval, paired_ratio_interval, ratio_interval, skewed_method
from unlearn_audit.metrics.two_sample import (
    FEWEST_PAIRS,
    STOPS_P,
    TOLD_P,
    Swaps,
    TwoSample,
    paired_swaps,
    two_sample_test,
)
from unlearn_audit.metrics.values import (
    Bounds,
    Distance,
    accuracy,
    auc,
    auc_components,
    auc_interval,
    auc_variance,
    correct,
    cross_entropy,
    kolmogorov_smirnov,
    mean_and_spread,
    ratio_of_medians,
    student_interval,
    tail_share,
    wilson_interval,
)

__all__ = [
    "BLIND_ABOVE",
    "FEWEST_MODELS",
    "FEWEST_PAIRS",
    "FEWEST_SAMPLES",
    "STOPS_P",
    "TOLD_P",
    "Accuracy",
    "Bounds",
    "Chance",
    "Difference",
    "Distance",
    "Divergences",
    "KernelDistance",
    "OperatingPoint",
    "ScaledDifference",
    "Swaps",
    "TwoSample",
    "accuracy",
    "as_if_apart",
    "auc",
    "auc_components",
    "auc_interval",
    "auc_variance",
    "balanced_accuracy",
    "chance_of_examples",
    "clopper_pearson",
    "correct",
    "cross_entropy",
    "difference_from_references",
    "difference_of_values",
    "divergences",
    "forgetting_quality",
    "frechet_distance",
    "kernel_distance",
    "klom_floor",
    "klom_gaussian",
    "klom_histogram",
    "kolmogorov_smirnov",
    "linear_cka",
    "mean_and_spread",
    "mean_interval",
    "non_members_needed",
    "paired_bootstrap",
    "paired_ratio_interval",
    "paired_swaps",
    "ratio_interval",
    "ratio_of_medians",
    "skewed_method",
    "student_interval",
    "tail_share",
    "tpr_at_fpr",
    "tug_of_war",
    "two_sample_test",
    "unbiased_cka",
    "wilson_interval",
    "zero_retrain_forgetting",
]
