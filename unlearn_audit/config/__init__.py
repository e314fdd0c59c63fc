"""What to audit and how: a frozen, typed configuration, merged from flags, environment and files.

Precedence, highest first: flag, `UNLEARN_AUDIT_*`, the config named by `--config`, the checkpoint's own metadata
(filled in by the audit, for `data`, `model`, `mean` and `std`), a config found here or in a parent, the default.
Unknown keys are refused and every problem is reported at once.
"""

from unlearn_audit.config.generation import INCEPTION, NUDENET, OF_THE_JUDGE, TRAIN, GenerationSettings
from unlearn_audit.config.layers import (
    CONFIG_NAME,
    METADATA,
    NEIGHBOURS,
    Layer,
    anchored_data_spec,
    code_is_allowed,
    environment_layer,
    file_layer,
    find_config,
    is_index_words,
    outranks_metadata,
)
from unlearn_audit.config.lists import WrittenConfig
from unlearn_audit.config.merging import Resolved, check_config, names_generator, resolve
from unlearn_audit.config.settings import (
    SECTIONS,
    ApplyEntry,
    AuditConfig,
    CheckpointEntry,
    DetectableSettings,
    GapSettings,
    LayersSettings,
    MiaSettings,
    OutputsSettings,
    RcdSettings,
    ResurgenceSettings,
    SpectrumSettings,
    TrainEntry,
    TruncationSettings,
    TwosampleSettings,
)

__all__ = [
    "CONFIG_NAME",
    "INCEPTION",
    "METADATA",
    "NEIGHBOURS",
    "NUDENET",
    "OF_THE_JUDGE",
    "SECTIONS",
    "TRAIN",
    "ApplyEntry",
    "AuditConfig",
    "CheckpointEntry",
    "DetectableSettings",
    "GapSettings",
    "GenerationSettings",
    "Layer",
    "LayersSettings",
    "MiaSettings",
    "OutputsSettings",
    "RcdSettings",
    "Resolved",
    "ResurgenceSettings",
    "SpectrumSettings",
    "TrainEntry",
    "TruncationSettings",
    "TwosampleSettings",
    "WrittenConfig",
    "anchored_data_spec",
    "check_config",
    "code_is_allowed",
    "environment_layer",
    "file_layer",
    "find_config",
    "is_index_words",
    "names_generator",
    "outranks_metadata",
    "resolve",
]
