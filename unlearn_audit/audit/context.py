"""The context that measurements stand on: which models, on which data, with which transform, and who said so."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unlearn_audit.attacks import Signals
from unlearn_audit.audit.identities import identity_doubts, other_parents
from unlearn_audit.audit.mixtures import refuse_a_mixture
from unlearn_audit.audit.null_rows import with_null_row
from unlearn_audit.audit.parts import Arrays, PartCache, make_parts
from unlearn_audit.catalogue import STAND_IN
from unlearn_audit.checkpoints import Metadata
from unlearn_audit.config import NEIGHBOURS, AuditConfig, Resolved
from unlearn_audit.data import Examples, Splits, old_forget_set, old_subsets, rows_digest
from unlearn_audit.engine import Device, Draws, FullBatch, predict
from unlearn_audit.errors import MeasurementError, UsageError
from unlearn_audit.inputs import Candidate, inputs_of_concept, resolve_inputs, with_neighbours
from unlearn_audit.normalisation import read_otherwise
from unlearn_audit.progress import Progress, silent

OF_PROMPTS = "what the prompts ask for"  # where nothing else says what is forgotten
DRAWS = 8  # timesteps and noises of an example that a generator is measured on: fewer give a biased share
MOST_NOISED = 512  # examples of retain and test set that a generator's loss is measured on
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
        kept: asked for what a model answers before it is asked itself.
    """

    config: AuditConfig
    origins: Mapping[str, str]
    compute: Device
    splits: Splits
    subjects: tuple[Candidate, ...]
    notes: tuple[Note, ...] = ()
    progress: Progress = silent
    alone: bool = False
    kept: PartCache = make_parts
    _signals: dict[tuple[str, str], Signals] = field(default_factory=dict)  # a cache: it holds what was predicted
    _losses: dict[tuple[str, str], NDArray[np.float64]] = field(default_factory=dict)  # likewise

    @property
    def of_generators(self) -> bool:
        """Whether the subjects make images: they have losses, and neither logits nor signals."""
        return self.subjects[0].is_generator

    def examples(self, split: Split) -> Examples:
        """Return the examples of a split that are measured: of forget and retain set the whole, or a sample."""
        splits = self.splits
        if split == "forget":
            return splits.measured_examples
        if split in PARTS:
            return splits.measured_retain_examples.subset(self._rows_of_part(split))
        if split == "retain":
            return splits.measured_retain_examples
        return splits.test_examples if split == "test" else splits.unseen.examples

    @property
    def parts(self) -> tuple[Split, ...]:
        """The parts of the retain set that are looked at apart; () without an adjacent set."""
        return PARTS if self.splits.adjacent is not None else ()

    def _rows_of_part(self, split: Split) -> NDArray[np.int64]:
        """Return which of the measured examples to retain are adjacent, or remote."""
        splits = self.splits
        if splits.adjacent is None:
            raise UsageError(f"no adjacent set is named, so that there is no {split} one")
        return np.flatnonzero(np.isin(splits.measured_retain, splits.adjacent.indices, invert=split == "remote"))

    def signals(self, candidate: Candidate, split: Split) -> Signals:
        """Return a candidate's logits and the labels on a split, computed once."""
        key = (candidate.label, split)
        if split in PARTS:
            whole, rows = self.signals(candidate, "retain"), self._rows_of_part(split)
            return Signals(whole.logits[rows], whole.labels[rows])
        if key not in self._signals:
            examples = self.examples(split)

            def answers() -> Arrays:
                return {"logits": predict(candidate.model, examples.images, candidate.transform, compute=self.compute)}

            logits = self.kept(candidate, ["answers", split], answers)["logits"]
            if not np.isfinite(logits).all():
                raise MeasurementError(f"{candidate.label}: the model's outputs are not finite on the {split} set")
            self._signals[key] = Signals(logits, examples.labels.numpy())
        return self._signals[key]

    def draws(self, split: Split) -> Draws:
        """Return the noise that generators are measured on: pairs of forget set and unseen twin share theirs.

        It is a grid of timesteps common to all examples, sets and models; an example's noise depends on its own number,
        and on no other example.
        """
        asked = self.config.rcd.draws if self.config.rcd else None
        purpose = "pair" if split in ("forget", "unseen") else "test" if split == "test" else "retain"
        return Draws(self.config.seed, (purpose,), count=asked if isinstance(asked, int) else DRAWS)

    def noised(self, split: Split) -> Examples:
        """Return the examples of a split that a generator's loss is measured on, evenly spread where there are many."""
        examples = self.examples(split)
        if split in ("forget", "unseen") or len(examples) <= MOST_NOISED:
            return examples
        return examples.subset(np.linspace(0, len(examples) - 1, MOST_NOISED).astype(np.int64))

    def losses(self, candidate: Candidate, split: Split) -> NDArray[np.float64]:
        """Return a generator's loss on each example of `noised(split)`, mean over its draws, computed once.

        A model that was made without a whole class is measured with the row of no condition in the place of the one
        that nothing has trained.
        """
        key = (candidate.label, split)
        if key not in self._losses:
            batch = FullBatch(self.noised(split), candidate.transform, compute=self.compute, task=candidate.task,
                              draws=self.draws(split), resident=False)  # fmt: skip

            def losses() -> Arrays:
                return {"losses": batch.forward(with_null_row(candidate, self.splits)).losses}

            which = self.splits.adjacent.sha256 if self.splits.adjacent and split in PARTS else ""
            found = self.kept(candidate, ["losses", split, which], losses)["losses"] if batch.n else np.zeros(0)
            if not np.isfinite(found).all():
                raise MeasurementError(f"{candidate.label}: the model's outputs are not finite on the {split} set")
            self._losses[key] = found
        return self._losses[key]

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
    request = Resolved(config, origins)
    if origins.get("forget") == STAND_IN and not config.forget:
        inputs = inputs_of_concept(request, OF_PROMPTS, progress=progress)
    else:
        inputs = resolve_inputs(request, progress=progress)  # its notes are among the doubts below
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
        UsageError: no number says the same of all of them.
        MeasurementError: two passes of a model disagree, or its outputs are not finite.
    """
    notes = tuple(_opening_notes(candidates, None if origins.get("forget") == STAND_IN else splits))
    context = AuditContext(config, origins, compute, splits, tuple(candidates), notes, progress)
    refuse_a_mixture(candidates)
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
    if candidate.is_generator:
        _check_losses(context, candidate)
        return
    first = context.signals(candidate, "forget").logits
    again = predict(candidate.model, context.examples("forget").images, candidate.transform, compute=context.compute)
    if not np.array_equal(first, again):
        raise MeasurementError(
            f"{candidate.label}: two passes over the same images disagree; the model is not deterministic"
        )


def _check_losses(context: AuditContext, candidate: Candidate) -> None:
    first = context.losses(candidate, "forget")
    context._losses.clear()
    if not np.array_equal(first, context.losses(candidate, "forget")):
        raise MeasurementError(
            f"{candidate.label}: two passes over the same images and noise disagree; the model is not deterministic"
        )
