"""What there is, by name: where it stands (`entries`), and what each metric is (`metrics`).

A new model, data source, method, transform or attack is one file (or function), one line there and one test file; a new
metric is one entry there, the code that measures it and a test.
"""

from unlearn_audit.catalogue.entries import (
    ALTERATIONS,
    ASSUMED_INPUTS,
    ATTACK_GROUPS,
    ATTACKS,
    DATA_SOURCES,
    GENERATOR_ATTACKS,
    GENERATORS,
    METHODS,
    MODEL_ATTACKS,
    MODELS,
    PIPELINE,
    RECIPES,
    STAND_IN,
    TRANSFORMS,
    Entry,
    is_generator,
    load,
)
from unlearn_audit.catalogue.metric import SECTION_TITLES, Direction, MetricInfo
from unlearn_audit.catalogue.metrics import (
    ATTACK_METRICS,
    METRICS,
    info_or_name,
    metric_choices,
    metric_info,
)
from unlearn_audit.catalogue.output_metrics import DIVERGENCES

__all__ = [
    "ALTERATIONS",
    "ASSUMED_INPUTS",
    "ATTACKS",
    "ATTACK_GROUPS",
    "ATTACK_METRICS",
    "DATA_SOURCES",
    "DIVERGENCES",
    "GENERATORS",
    "GENERATOR_ATTACKS",
    "METHODS",
    "METRICS",
    "MODELS",
    "MODEL_ATTACKS",
    "PIPELINE",
    "RECIPES",
    "SECTION_TITLES",
    "STAND_IN",
    "TRANSFORMS",
    "Direction",
    "Entry",
    "MetricInfo",
    "info_or_name",
    "is_generator",
    "load",
    "metric_choices",
    "metric_info",
]
