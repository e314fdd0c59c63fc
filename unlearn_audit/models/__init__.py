"""Architectures: ours and the libraries', by name or found from a state dict, filled strictly, tried on images."""

from unlearn_audit.models.adapting import adapt, layout_of, materialise
from unlearn_audit.models.blame import models_own
from unlearn_audit.models.building import RGB, Architecture, build, check_name, is_code, name_of
from unlearn_audit.models.hugging_face import spec_of_config, written_out
from unlearn_audit.models.loading import check_fits, flops_of, flops_per_image, load_state, other_types, parameter_count
from unlearn_audit.models.naming import NameReading, normalises_itself, read_for, read_names, wanted_by
from unlearn_audit.models.recognition import Identified, identify
from unlearn_audit.models.redrawing import cannot_redraw, redrawn

__all__ = [
    "RGB",
    "Architecture",
    "Identified",
    "NameReading",
    "adapt",
    "build",
    "cannot_redraw",
    "check_fits",
    "check_name",
    "flops_of",
    "flops_per_image",
    "identify",
    "is_code",
    "layout_of",
    "load_state",
    "materialise",
    "models_own",
    "name_of",
    "normalises_itself",
    "other_types",
    "parameter_count",
    "read_for",
    "read_names",
    "redrawn",
    "spec_of_config",
    "wanted_by",
    "written_out",
]
