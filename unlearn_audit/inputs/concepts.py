"""A concept that is forgotten, or asked for, by words alone: no data stand behind it; blank images take their place."""

import numpy as np
import torch

from unlearn_audit.catalogue import STAND_IN
from unlearn_audit.checkpoints import check_finite
from unlearn_audit.config import Resolved
from unlearn_audit.data import Dataset, Examples, make_splits
from unlearn_audit.engine import setup_device
from unlearn_audit.errors import UsageError
from unlearn_audit.files import sha256_of_bytes
from unlearn_audit.inputs.entries import read_entry, unique_labels
from unlearn_audit.inputs.resolving import Inputs
from unlearn_audit.progress import Progress, silent

SIDE = 64  # pixels of a blank image, which no step looks at


def inputs_of_concept(request: Resolved, concept: str, *, progress: Progress = silent) -> Inputs:
    """Read generators of texts; their data are blank images, of which the one to be forgotten is called as the concept.

    Args:
        request: the configuration, with neither data nor a forget set.
        concept: a prompt.
        progress: progress callback, called after each checkpoint.

    Raises:
        UsageError: one is no generator of texts.
        CheckpointError: one cannot be read, or its weights are not finite.
    """
    config = request.config
    checkpoints = []
    for index, entry in enumerate(config.checkpoint):
        checkpoint = read_entry(config, entry)
        check_finite(checkpoint)
        if checkpoint.pipeline is None or not checkpoint.pipeline.is_text_to_image:
            raise UsageError(
                f"a concept is a text, and {checkpoint.path} draws from none: name what is forgotten: --forget"
            )
        checkpoints.append(checkpoint)
        progress("reading checkpoints", index + 1, len(config.checkpoint), entry.path)
    dataset = Dataset("none", _blank(0, 1), _blank(2), 2, (0.5,) * 3, (0.5,) * 3, sha256_of_bytes(concept.encode()),
                      class_names=(concept, "nothing"))  # fmt: skip
    compute = setup_device(config.device, config.precision, config.batch_size)
    labels = tuple(unique_labels(config.checkpoint))
    splits = make_splits(dataset, np.array([0]))
    return Inputs(request, compute, (*checkpoints,), labels, splits, STAND_IN, (), (*checkpoints,))


def _blank(*shades: int) -> Examples:
    """Return one image of each shade, the first of them under the concept."""
    images = torch.tensor(shades, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, SIDE, SIDE).contiguous()
    labels = torch.arange(len(shades))
    return Examples(images, labels, labels)
