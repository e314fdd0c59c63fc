"""The ways a model meets data: predict, full-batch loss and gradient, minibatch descent.

Sets live on the device as they were stored (uint8 stays uint8) and are normalised on the fly. Everything here is a
function of its arguments and seeds: the batch of a step depends on (seed, name, step) alone.
"""

from unlearn_audit.engine.batches import Augment, Batches
from unlearn_audit.engine.device import (
    Compute,
    chunks,
    full_float32,
    one_thread,
    prepare,
    trainable,
    upload,
)
from unlearn_audit.engine.loop import Descent, Hooks, Keeper, Parts, StepHook, Stop, Term, Terms, descend
from unlearn_audit.engine.passes import FullBatch, Inputs, Pass, predict
from unlearn_audit.streams import derive_seed

__all__ = [
    "Augment",
    "Batches",
    "Compute",
    "Descent",
    "FullBatch",
    "Hooks",
    "Inputs",
    "Keeper",
    "Parts",
    "Pass",
    "StepHook",
    "Stop",
    "Term",
    "Terms",
    "chunks",
    "derive_seed",
    "descend",
    "full_float32",
    "one_thread",
    "predict",
    "prepare",
    "trainable",
    "upload",
]
