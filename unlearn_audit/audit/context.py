"""The context that measurements stand on: which models, on which data, with which transform, and who said so."""

import platform
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from unlearn_audit import models
from unlearn_audit.attacks import Signals
from unlearn_audit.audit.identities import identity_doubts, other_parents
from unlearn_audit.catalogue import STAND_IN
from unlearn_audit.checkpoints import Metadata
from unlearn_audit.config import NEIGHBOURS, AuditConfig, Resolved
from unlearn_audit.data import Examples, Splits, old_forget_set, old_subsets, rows_digest
from unlearn_audit.engine import Device, predict
from unlearn_audit.errors import MeasurementError, UsageError
from unlearn_audit.inputs import Candidate, resolve_inputs, with_neighbours
from unlearn_audit.normalisation import read_otherwise
from unlearn_audit.progress import Progress, silent
from unlearn_audit.report import Subject

FEW = 10  # forget examples, below which numbers over them say little
Split = Literal["retain", "forget", "test", "unseen", "adjacent", "remote"]
SPLITS: tuple[Split, ...] = ("retain", "forget", "test", "unseen")
PARTS: tuple[Split, ...] = ("adjacent", "remote")  # of the retain set, where an adjacent set is named


class Note(NamedTuple):
    """A sentence for whoever reads the report; one that is `about` a subject is a doubt, on which no gate passes."""

    text: str
    about: str | None = None


def limitations_of(notes: Iterable[Note]) -> tuple[str, ...]:
    """Return every sentence once, in order."""
    return tuple(dict.fromkeys(note.text for note in notes))


def doubts_of(notes: Iterable[Note]) -> dict[str, tuple[str, ...]]:
    """Return why numbers about a subject may not answer the question, by label."""
    found: dict[str, dict[str, None]] = {}
    for note in notes:
        if note.about is not None:
            found.setdefault(note.about, {})[note.text] = None
    return {label: tuple(texts) for label, texts in found.items()}


@dataclass(frozen=True)
class AuditContext:
    """Everything that measurements share; predictions are made once and kept.

    Attributes:
        config: what to audit and how.
        origins: where each of its dotted keys came from.
        compute: where to compute.
        splits: the sets.
        subjects: the models.
        notes: what has been found about models and data so far.
        progress: progress callback, called after each step.
        alone: whether the sections were named one by one: what cannot be measured then is refused, and not null.
    """

    config: AuditConfig
    origins: Mapping[str, str]
    compute: Device
    splits: Splits
    subjects: tuple[Candidate, ...]
    notes: tuple[Note, ...] = ()
    progress: Progress = silent
    alone: bool = False
    _signals: dict[tuple[str, str], Signals] = field(default_factory=dict)  # a cache: it holds what was predicted

    def examples(self, split: Split) -> Examples:
        """Return the examples of a split; "forget" is the measured part of the forget set."""
        splits = self.splits
        if split == "forget":
            return splits.measured_examples
        if split in PARTS:
            return splits.retain_examples.subset(self._rows_of_part(split))
        return {"retain": splits.retain_examples, "test": splits.test_examples, "unseen": splits.unseen.examples}[split]

    @property
    def parts(self) -> tuple[Split, ...]:
        """The parts of the retain set that are looked at apart; () without an adjacent set."""
        return PARTS if self.splits.adjacent is not None else ()

    def _rows_of_part(self, split: Split) -> NDArray[np.int64]:
        """Return which of the examples to retain are adjacent, or remote."""
        splits = self.splits
        if splits.adjacent is None:
            raise UsageError(f"no adjacent set is named, so that there is no {split} one")
        return np.flatnonzero(np.isin(splits.retain, splits.adjacent.indices, invert=split == "remote"))

    def signals(self, candidate: Candidate, split: Split) -> Signals:
        """Return a candidate's logits and the labels on a split, computed once."""
        key = (candidate.label, split)
        if split in PARTS:
            whole, rows = self.signals(candidate, "retain"), self._rows_of_part(split)
            return Signals(whole.logits[rows], whole.labels[rows])
        if key not in self._signals:
            examples = self.examples(split)
            logits = predict(candidate.model, examples.images, candidate.transform, compute=self.compute)
            if not np.isfinite(logits).all():
                raise MeasurementError(f"{candidate.label}: the model's outputs are not finite on the {split} set")
            self._signals[key] = Signals(logits, examples.labels.numpy())
        return self._signals[key]

    @property
    def paired(self) -> NDArray[np.bool_]:
        """Which of the measured forget examples have a partner in the unseen twin, [m]."""
        return np.isin(self.splits.measured, self.splits.unseen.forget)

    def paired_forget(self, candidate: Candidate) -> Signals:
        """Return the signals of those measured forget examples that have a partner in the unseen twin."""
        signals = self.signals(candidate, "forget")
        return Signals(signals.logits[self.paired], signals.labels[self.paired])

    def with_role(self, role: str) -> tuple[Candidate, ...]:
        """Return the subjects of a role."""
        return tuple(candidate for candidate in self.subjects if candidate.role == role)

    def references(self, candidate: Candidate) -> tuple[Candidate, ...]:
        """Return the retrained models that a candidate is compared with: all of them, but never itself."""
        return tuple(other for other in self.with_role("retrained") if other.label != candidate.label)


def describe(context: AuditContext, candidate: Candidate, doubts: Sequence[str]) -> Subject:
    """Return the report's entry for a candidate."""
    image = context.examples("forget").images[:1].to(context.compute.device)
    return Subject(
        label=candidate.label,
        role=candidate.role,
        path=candidate.path,
        sha256=candidate.sha256,
        model=candidate.spec,
        parameters=models.parameter_count(candidate.model),
        flop_per_image=models.flops_per_image(candidate.model, candidate.transform(image)),
        notes=candidate.notes,
        doubts=tuple(doubts),
    )


def open_context(config: AuditConfig, origins: Mapping[str, str], progress: Progress = silent) -> AuditContext:
    """Read the checkpoints, settle what they do not say, load the data, and check the instrument.

    Args:
        config: the merged configuration.
        origins: where each of its dotted keys came from; decides between it and a checkpoint's metadata.
        progress: progress callback, called after each checkpoint.

    Raises:
        UsageError: something is needed that neither the request nor a checkpoint says.
        MeasurementError: a checkpoint cannot be read or does not fit.
    """
    if not config.checkpoint:
        raise UsageError("no checkpoint given; name at least one file")
    inputs = resolve_inputs(Resolved(config, origins), progress=progress)  # its notes are among the doubts below
    candidates = inputs.candidates()
    return context_of(
        candidates,
        _with_neighbours(inputs.splits, candidates, inputs.compute) if config.adjacent == NEIGHBOURS else inputs.splits,
        config,
        origins=inputs.origins(candidates),
        compute=inputs.compute,
        progress=progress,
    )


def _with_neighbours(splits: Splits, candidates: Sequence[Candidate], compute: Device) -> Splits:
    """Return the sets with the forget set's neighbours in the features of the original."""
    originals = [one for one in candidates if one.role == "original"]
    if not originals:
        raise UsageError(
            f"--adjacent {NEIGHBOURS} takes the original's features, and no original is given; name it with "
            "--original, or the adjacent examples themselves"
        )
    return with_neighbours(splits, originals[0].model, originals[0].transform, compute)


def context_of(
    candidates: Sequence[Candidate],
    splits: Splits,
    config: AuditConfig,
    *,
    origins: Mapping[str, str],
    compute: Device,
    progress: Progress = silent,
) -> AuditContext:
    """Hold models, data and what each is named as against each other, and check the instrument.

    Args:
        candidates: the subjects, on the device and in evaluation mode.
        splits: the sets.
        config: what to measure and how.
        origins: where its keys came from.
        compute: where to compute.
        progress: progress callback, called after each step.

    Raises:
        MeasurementError: two passes of a model disagree, or its outputs are not finite.
    """
    notes = tuple(_opening_notes(candidates, None if origins.get("forget") == STAND_IN else splits))
    context = AuditContext(config, origins, compute, splits, tuple(candidates), notes, progress)
    for candidate in candidates:
        _check_instrument(context, candidate)
    return context


def _opening_notes(candidates: Sequence[Candidate], splits: Splits | None) -> Iterator[Note]:
    """Yield what is to be said of models and data before anything is measured; without sets, of the models alone."""
    yield from map(Note, (*splits.limitations, *_too_few(len(splits.measured))) if splits else ())
    read_wrongly, assumed = read_otherwise(candidates)
    doubts = [
        Note(text, one.label)
        for one in candidates
        for text in (*_doubts(one, splits), *read_wrongly[one.label], *(splits.doubts if splits else ()))
    ]
    doubts += [Note(text, label) for label, text in identity_doubts(candidates)]
    yield from doubts
    yield from map(Note, assumed)
    doubted = {note.about for note in doubts}
    yield from (Note(text) for one in candidates if one.label not in doubted for text in _other_role(one))
    yield from map(Note, other_parents(candidates))
    yield from (Note(f"{one.label}: {text}") for one in candidates for text in one.types)


def _too_few(n: int) -> list[str]:
    """Say that a forget set is so small that what is measured on it says little."""
    if n >= FEW:
        return []
    examples = "1 forget example is" if n == 1 else f"{n} forget examples are"
    return [f"{examples} measured: an interval over so few says little, and no attack can be judged by them"]


def _doubts(candidate: Candidate, splits: Splits | None) -> Iterator[str]:
    """Yield where a checkpoint's own record contradicts what it is compared as: no gate passes on such a comparison."""
    metadata = candidate.metadata
    if metadata is None or splits is None:
        return
    if metadata.role in OTHERWISE.get(candidate.role, ()):
        yield f"{candidate.label} is used as {candidate.role}, but its metadata says {metadata.role}"
    elif metadata.forget_sha256 not in (None, splits.forget.sha256) and candidate.role in ("retrained", "unlearned"):
        what = "was trained without" if candidate.role == "retrained" else "has unlearned"
        old = old_forget_set(metadata.forget, metadata.forget_sha256, len(splits.dataset.train))
        message = f"{candidate.label} {what} a forget set that is not the one measured here: not a fair comparison"
        yield f"{message}; {old}" if old else message
    elif _other_data(metadata, splits):
        old = old_subsets(splits.dataset.spec, str(metadata.data_sha256), allow_code=True)
        message = f"{candidate.label} was made with other data than is measured here: not a fair comparison"
        yield f"{message}; {old}" if old else message
    yield from _looked_at(candidate.label, metadata, splits)
    if candidate.role == "retrained" and metadata.recipe_assumed:
        recipe = f"{metadata.recipe.get('name')}, {metadata.recipe.get('epochs')} epochs"
        yield (
            f"{candidate.label} was trained by a default recipe ({recipe}), since nothing says how the original was: a "
            "difference may come from that, and not from the forget set; name the recipe with --recipe and --epochs, "
            "or as `recipe` of the original's [[checkpoint]]"
        )


def _looked_at(label: str, metadata: Metadata, splits: Splits) -> Iterator[str]:
    """Yield that examples of the twin have decided how a model was made, so that it is not judged by fresh ones."""
    stale = len(np.intersect1d(metadata.looked_at or (), splits.unseen.unseen))
    if stale:
        yield (
            f"{label}, or a model that it was made from, was stopped or taught by a look at {stale} of the "
            f"{len(splits.unseen)} examples of the unseen twin, so that a comparison with the twin flatters it; audit "
            f"with the seed of the run that looked (its own: --seed {metadata.seed}), without --unseen and --sample"
        )


def _other_data(metadata: Metadata, splits: Splits) -> bool:
    """Return whether a checkpoint's record says that its training examples are not those that it is to be compared on.

    The rows themselves count where they are recorded, and not the spec that named them: another test set, or another
    `train=` that leaves the same examples, makes no other model.
    """
    if metadata.rows_sha256 is None:
        return metadata.data_sha256 not in (None, splits.dataset.sha256)
    if metadata.role != "retrained" and metadata.data_sha256 == splits.dataset.sha256:
        return False
    train = splits.dataset.train
    rows = np.setdiff1d(np.arange(len(train)), splits.forget.indices) if metadata.role == "retrained" else None
    return metadata.rows_sha256 != rows_digest(train, rows)


# Role -> what a checkpoint of that role cannot be by its own record. A retrained model may stand for an unlearned one.
OTHERWISE = {
    "original": ("retrained", "unlearned"),
    "retrained": ("original", "unlearned"),
    "unlearned": ("original",),
}


def _other_role(candidate: Candidate) -> list[str]:
    """Say where a checkpoint is used as something else than its own record says."""
    said = candidate.metadata.role if candidate.metadata else None
    return (
        [f"{candidate.label} is used as {candidate.role}, but its metadata says {said}"]
        if said not in (None, candidate.role)
        else []
    )


def _check_instrument(context: AuditContext, candidate: Candidate) -> None:
    """Check that two passes agree."""
    first = context.signals(candidate, "forget").logits
    again = predict(candidate.model, context.examples("forget").images, candidate.transform, compute=context.compute)
    if not np.array_equal(first, again):
        raise MeasurementError(
            f"{candidate.label}: two passes over the same images disagree; the model is not deterministic"
        )


def environment(compute: Device, seed: int) -> dict[str, Any]:
    """Return what the numbers were computed with and on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "device": str(compute.device) if compute.device.type != "cuda" else torch.cuda.get_device_name(compute.device),
        "precision": compute.precision,
        "chunk": compute.chunk,
        "threads": torch.get_num_threads(),
        "seed": seed,
        "git_commit": _git_commit(),
    }


def _git_commit() -> str | None:
    """Return the commit of the folder that the command was given in, if it is a git checkout."""
    try:
        found = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None if found.returncode == 0 else None
