"""From a request to its inputs, once: checkpoints read, data loaded, sets drawn, models built."""

from collections.abc import Sequence
from dataclasses import dataclass

from unlearn_audit.checkpoints import Checkpoint, check_finite
from unlearn_audit.config import NEIGHBOURS, Resolved
from unlearn_audit.data import Splits, make_splits
from unlearn_audit.engine import Device, setup_device
from unlearn_audit.errors import UsageError
from unlearn_audit.inputs.candidate import Candidate
from unlearn_audit.inputs.candidates import build_candidate
from unlearn_audit.inputs.entries import read_entry, resolve_data, unique_labels
from unlearn_audit.progress import Progress, silent

NO_FORGET_SET = (
    "no forget set given; name it in the config, or with --forget (an index file, class:3, random:0.1:SEED, …)"
)


@dataclass(frozen=True)
class Inputs:
    """What a request comes to; nothing of the request itself is changed.

    Attributes:
        request: the configuration and where its keys came from.
        compute: where models go.
        checkpoints: as they were read, in the order of the request.
        labels: of the checkpoints, unique.
        splits: the sets, with the data that they are of.
        data_origin: who named the data.
        notes: which checkpoints were made with other data.
        others: checkpoints that may tell how one is read that does not tell it itself.
    """

    request: Resolved
    compute: Device
    checkpoints: tuple[Checkpoint, ...]
    labels: tuple[str, ...]
    splits: Splits
    data_origin: str
    notes: tuple[str, ...]
    others: tuple[Checkpoint, ...]

    def candidate(self, index: int) -> Candidate:
        """Build one of the models.

        Args:
            index: in the order of the request.

        Raises:
            UsageError: as `build_candidate`.
            MeasurementError: as `build_candidate`.
        """
        config, origins = self.request
        return build_candidate(
            config,
            origins,
            entry=config.checkpoint[index],
            checkpoint=self.checkpoints[index],
            label=self.labels[index],
            dataset=self.splits.dataset,
            compute=self.compute,
            others=self.others,
        )

    def candidates(self) -> tuple[Candidate, ...]:
        """Build all models, in the order of the request."""
        return tuple(self.candidate(index) for index in range(len(self.checkpoints)))

    def origins(self, candidates: Sequence[Candidate]) -> dict[str, str]:
        """Return who said each value: those of the request, the data, and what the models were settled by.

        Args:
            candidates: that were built.
        """
        settled = {f"{key} of {one.label}": who for one in candidates for key, who in one.origins.items()}
        return {**self.request.origins, "data": self.data_origin, **settled}


def resolve_inputs(request: Resolved, *, others: Sequence[Checkpoint] = (), progress: Progress = silent) -> Inputs:
    """Read the checkpoints that a request names, load the data, and draw the sets.

    Args:
        request: the configuration, and where its keys came from.
        others: checkpoints besides its own that may tell how one of these is read.
        progress: progress callback, called after each checkpoint.

    Raises:
        UsageError: something is needed that neither the request nor a checkpoint says.
        DataError: the data cannot be read, or have changed since a checkpoint was made with them.
        CheckpointError: a checkpoint cannot be read, or its weights are not finite.
    """
    config = request.config
    if not config.forget:
        raise UsageError(NO_FORGET_SET)
    compute = setup_device(config.device, config.precision, config.batch_size)
    checkpoints: list[Checkpoint] = []
    for index, entry in enumerate(config.checkpoint):
        checkpoints.append(read_entry(config, entry))
        check_finite(checkpoints[-1])
        progress("reading checkpoints", index + 1, len(config.checkpoint), entry.path)
    dataset, origin, notes = resolve_data(config, request.origins, checkpoints)
    splits = make_splits(
        dataset,
        config.forget,
        unseen=config.unseen,
        retain=config.retain,
        adjacent=None if config.adjacent == NEIGHBOURS else config.adjacent,  # these take a model
        sample=config.sample,
        retain_sample=config.retain_sample,
        seed=config.seed,
    )
    labels = tuple(unique_labels(config.checkpoint))
    return Inputs(request, compute, tuple(checkpoints), labels, splits, origin, notes, (*others, *checkpoints))
