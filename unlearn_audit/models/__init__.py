"""Architectures: ours and the libraries', by name or found from a state dict, filled strictly, tried on images."""

from unlearn_audit.models.building import build, check_name, is_code
from unlearn_audit.models.fitting import check_input, flops_per_image, load_state, other_types, parameter_count
from unlearn_audit.models.recognition import Identified, identify

__all__ = [
    "Identified",
    "build",
    "check_input",
    "check_name",
    "flops_per_image",
    "identify",
    "is_code",
    "load_state",
    "other_types",
    "parameter_count",
]
