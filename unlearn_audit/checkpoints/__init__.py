"""Checkpoints: read safely from anywhere, written so that they describe themselves, told apart by content.

A file is recognised by what is in it, never by its ending, and no pickle is executed: safetensors, or torch files
whose pickle is read by a machine of our own that imports and calls nothing; anything else is refused with the way out.
"""

from unlearn_audit.checkpoints.choosing import OneSetOfWeights, SeveralWeights
from unlearn_audit.checkpoints.metadata import STATE_ENTRY, Metadata
from unlearn_audit.checkpoints.overlays import is_part_of_unet, read_overlay
from unlearn_audit.checkpoints.reading import Checkpoint, check_finite, read_checkpoint
from unlearn_audit.checkpoints.states import digest_of_state, nonfinite
from unlearn_audit.checkpoints.writing import check_checkpoint_output, write_checkpoint

__all__ = [
    "STATE_ENTRY",
    "Checkpoint",
    "Metadata",
    "OneSetOfWeights",
    "SeveralWeights",
    "check_checkpoint_output",
    "check_finite",
    "digest_of_state",
    "is_part_of_unet",
    "nonfinite",
    "read_checkpoint",
    "read_overlay",
    "write_checkpoint",
]
