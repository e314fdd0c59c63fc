"""The ways a model meets data: predict, full-batch loss and gradient, minibatch descent.

Sets live on the device as they were stored (uint8 stays uint8) and are normalised on the fly. Everything here is a
function of its arguments and seeds: the batch of a step depends on (seed, name, step) alone.
"""

from unlearn_audit.engine.augmentation import crop_and_flip
from unlearn_audit.engine.batches import Augment, Batches
from unlearn_audit.engine.device import (
    Device,
    all_at_once,
    chunks,
    full_float32,
    one_thread,
    setup_device,
    trainable,
    upload,
)
from unlearn_audit.engine.loop import (
    Descent,
    Hooks,
    Outcome,
    Part,
    Resumable,
    Side,
    StepHook,
    Stop,
    Term,
    TermGradients,
    Terms,
    descend,
    outcome,
)
from unlearn_audit.engine.mixture import MixedBatch, MixedSet, Mixture
from unlearn_audit.engine.passes import (
    GRID,
    FullBatch,
    Inputs,
    Pass,
    autocast_for,
    encoded,
    modes_kept,
    predict,
    read_passes,
)
from unlearn_audit.engine.ranks import JOIN_WITHIN, Joined, RankLostError, Ranks, join_ranks
from unlearn_audit.engine.task import CLASSIFICATION, Draws, Rows, Task
from unlearn_audit.streams import derive_seed

__all__ = [
    "CLASSIFICATION",
    "GRID",
    "JOIN_WITHIN",
    "Augment",
    "Batches",
    "Descent",
    "Device",
    "Draws",
    "FullBatch",
    "Hooks",
    "Inputs",
    "Joined",
    "MixedBatch",
    "MixedSet",
    "Mixture",
    "Outcome",
    "Part",
    "Pass",
    "RankLostError",
    "Ranks",
    "Resumable",
    "Rows",
    "Side",
    "StepHook",
    "Stop",
    "Task",
    "Term",
    "TermGradients",
    "Terms",
    "all_at_once",
    "autocast_for",
    "chunks",
    "crop_and_flip",
    "derive_seed",
    "descend",
    "encoded",
    "full_float32",
    "join_ranks",
    "modes_kept",
    "one_thread",
    "outcome",
    "predict",
    "read_passes",
    "setup_device",
    "trainable",
    "upload",
]
