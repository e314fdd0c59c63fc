"""What a checkpoint is: its architecture, its data and its transform, settled by precedence.

Flag, environment, named config, the checkpoint's own metadata, a config found, the default; an architecture that
nobody names is read off the weights. `origins` remembers who said what.
"""

from unlearn_audit.inputs.candidate import IN_MEMORY, SAMPLE, Candidate
from unlearn_audit.inputs.concepts import inputs_of_concept
from unlearn_audit.inputs.entries import read_entry, resolve_data, unique_labels
from unlearn_audit.inputs.inspection import inspect_checkpoint
from unlearn_audit.inputs.neighbours import with_as_many, with_neighbours
from unlearn_audit.inputs.resolving import NO_FORGET_SET, Inputs, resolve_inputs

__all__ = [
    "IN_MEMORY",
    "NO_FORGET_SET",
    "SAMPLE",
    "Candidate",
    "Inputs",
    "inputs_of_concept",
    "inspect_checkpoint",
    "read_entry",
    "resolve_data",
    "resolve_inputs",
    "unique_labels",
    "with_as_many",
    "with_neighbours",
]
