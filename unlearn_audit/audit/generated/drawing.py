"""Which samples are drawn of every subject, and the real images that they are held against."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unlearn_audit.audit.context import AuditContext
from unlearn_audit.audit.parts import Arrays
from unlearn_audit.audit.section import SearchState
from unlearn_audit.catalogue import STAND_IN
from unlearn_audit.config import AuditConfig, GenerationSettings, code_is_allowed
from unlearn_audit.data import Dataset, Examples, load_data
from unlearn_audit.errors import UsageError
from unlearn_audit.files import expanded
from unlearn_audit.generation.prompts import PromptFile, read_prompts
from unlearn_audit.generation.sampling import Sampling, Wanted, images, of_prompts, usual_sampling
from unlearn_audit.inputs import Candidate
from unlearn_audit.judges import as_stored
from unlearn_audit.streams import generator

MOST_REAL = 10_000  # images of each side that samples are compared with
NOT_CLASSES = "the forget set is not all training examples of some classes, so that no condition asks for it"
NO_PROMPTS = "no prompts were named; say --prompts FILE"


class Asked(NamedTuple):
    """The samples of one side: of every subject the same ones, from the same noise.

    Attributes:
        wanted: [n] what is drawn.
        classes: [n] of each; -1 for a prompt.
        reason: why nothing is drawn; None where something is.
        source: where the conditions come from, in words.
        facts: of a prompt file: its digest, what is obeyed of it.
    """

    wanted: tuple[Wanted, ...]
    classes: NDArray[np.int64]
    reason: str | None
    source: str
    facts: dict[str, Any]


class Plan(NamedTuple):
    """What is drawn of every subject, and how."""

    forgotten: Asked
    kept: Asked
    sampling: Sampling
    of_classes: bool

    @property
    def how(self) -> str:
        """How samples are drawn, in words."""
        sampling = self.sampling
        steps = f"{sampling.sampler}, {sampling.steps} steps, guidance {sampling.guidance:g}"
        return f"{steps}; the same noise for every model"


def plan_of(context: AuditContext, settings: GenerationSettings) -> Plan:
    """Return what is to be drawn.

    Raises:
        UsageError: a subject is no generator, or they are of two kinds.
        DataError: a prompt file cannot be read.
    """
    kinds = {pipeline_of(candidate).denoiser.conditioning for candidate in context.subjects}
    if len(kinds) > 1:
        raise UsageError("some of these generators take classes and some take texts: audit each kind by itself")
    (kind,) = kinds
    sampling = usual_sampling(kind, sampler=settings.sampler, steps=settings.sampling_steps, guidance=settings.guidance)
    if kind == "text":
        return Plan(_prompts(settings.prompts), _prompts(settings.kept_prompts), sampling, of_classes=False)
    if settings.prompts or settings.kept_prompts:
        raise UsageError("prompts are for generators that take texts; these take classes, which the forget set names")
    splits = context.splits
    gone = splits.forgotten_classes
    kept = [c for c in range(splits.dataset.classes) if c not in gone]
    return Plan(
        _classes(gone, settings.samples, None if gone else NOT_CLASSES),
        _classes(kept, settings.kept_samples, None if kept else "no class is kept"),
        sampling,
        of_classes=True,
    )


def asks_by_prompts_alone(config: AuditConfig) -> bool:
    """Return whether samples are drawn by prompts, and nobody names data or what of them is to be forgotten."""
    prompts = config.generation.prompts if config.generation else None
    return prompts is not None and not config.forget and not config.data


def draws(candidate: Candidate) -> bool:
    """Return whether a subject is a generator with everything that samples take."""
    return candidate.pipeline is not None


def draws_none(candidate: Candidate) -> str:
    """Return why a subject draws no samples."""
    if candidate.is_generator:
        return f"{candidate.label} was handed over without a pipeline, and draws no samples: save it as a folder"
    return f"{candidate.label} is a classifier, and draws no samples"


def pipeline_of(candidate: Candidate) -> Any:
    """Return what a subject draws with.

    Raises:
        UsageError: it is no generator, or one without the parts that stand beside the U-Net.
    """
    pipeline = candidate.pipeline
    if pipeline is None:
        raise UsageError(f"{draws_none(candidate)}; or leave out [generation]")
    return pipeline


def _classes(classes: Sequence[int], each: int, reason: str | None) -> Asked:
    wanted = tuple(Wanted(c, number) for c in classes for number in range(each))
    numbers = np.repeat(np.asarray(classes, dtype=np.int64), each)
    source = f"{each} samples of {'class' if len(classes) == 1 else 'each class'} {', '.join(map(str, classes))}"
    return Asked(wanted, numbers, reason, source, {})


def _prompts(path: str | None) -> Asked:
    if path is None:
        return Asked((), np.zeros(0, dtype=np.int64), NO_PROMPTS, "prompts", {})
    found: PromptFile = read_prompts(expanded(path, UsageError))
    wanted = of_prompts(found)
    facts = {"prompts": Path(path).name, "prompts_sha256": found.sha256, "obeyed": list(found.obeyed)}
    source = f"{len(wanted)} prompts of {Path(path).name}, one sample each"
    return Asked(wanted, np.full(len(wanted), -1, dtype=np.int64), None, source, facts)


def drawn(
    context: AuditContext, candidate: Candidate, plan: Plan, search: SearchState
) -> tuple[list[Tensor], list[Tensor]]:
    """Return one subject's samples of both sides, uint8 [C, H, W] each; found again where they were drawn before."""
    wanted = (*plan.forgotten.wanted, *plan.kept.wanted)
    found = search.kept(candidate, "samples", partial(_draw, context, candidate, wanted, plan.sampling))
    samples = [torch.from_numpy(np.array(found[str(place)])) for place in range(len(wanted))]
    first = len(plan.forgotten.wanted)
    return samples[:first], samples[first:]


def _draw(context: AuditContext, candidate: Candidate, wanted: Sequence[Wanted], sampling: Sampling) -> Arrays:
    found = images(
        pipeline_of(candidate),
        wanted,
        sampling,
        seed=context.config.seed,
        compute=context.compute,
        progress=lambda task, done, total, *more: context.progress(f"{task} {candidate.label}", done, total, *more),
    )
    return {str(place): image.numpy() for place, image in found}


# ----- real images


class RealImages(NamedTuple):
    """Real images; None where there are none.

    Attributes:
        kept: of kept classes of the training set, equally many of each.
        forgotten: likewise of the forgotten classes.
        held_out: of kept classes, held out.
        source: in words.
    """

    kept: "InTurn | None"
    forgotten: "InTurn | None"
    held_out: "InTurn | None"
    source: str


class InTurn(NamedTuple):
    """Real images as a file holds them, uint8 [m, C, H, W], classes in turn, and the class of each, [m]."""

    images: Tensor
    classes: NDArray[np.int64]


def real_images(context: AuditContext, settings: GenerationSettings, plan: Plan) -> RealImages:
    """Return what samples are compared with: what a retrained model learns, or the data that the settings name.

    Raises:
        DataError: such data cannot be read.
        UsageError: their classes are not those of the audit, whose numbers say which are forgotten.
    """
    splits, seed = context.splits, context.config.seed
    if settings.real is not None:
        allowed = code_is_allowed(context.origins.get("generation.real", "default"))
        named = load_data(settings.real, allow_code=allowed)
        if plan.of_classes:
            _refuse_other_classes(named, splits.dataset, settings.real)
        gone = splits.forgotten_classes if plan.of_classes else ()
        return _of_classes(named, gone, seed, settings.real)
    if context.origins.get("forget") == STAND_IN:
        return RealImages(None, None, None, "real images")  # blank ones stand in
    if plan.of_classes:
        return _of_classes(splits.dataset, splits.forgotten_classes, seed, "the training set")
    forget, retain = (_in_turn(part, None, seed) for part in (splits.measured_examples, splits.retain_examples))
    return RealImages(retain, forget, _in_turn(splits.test_examples, None, seed), "the training set")


def _refuse_other_classes(named: Dataset, ours: Dataset, spec: str) -> None:
    if named.classes != ours.classes:
        raise UsageError(
            f"real {spec} has {named.classes} classes, the data of the audit {ours.classes}: which of them are "
            "forgotten would be guessed; name data of the same classes, in the same order"
        )
    for number, (one, other) in enumerate(zip(named.class_names, ours.class_names, strict=False)):
        if one != other:
            raise UsageError(
                f"real {spec}: its class {number} is {one}, that of the audit's data is {other}; name data of the same "
                "classes, in the same order"
            )


def _of_classes(dataset: Dataset, gone: Sequence[int], seed: int, source: str) -> RealImages:
    kept = [c for c in range(dataset.classes) if c not in gone]
    return RealImages(
        _in_turn(dataset.train, kept, seed),
        _in_turn(dataset.train, gone, seed) if len(gone) else None,
        _in_turn(dataset.test, kept, seed),
        source,
    )


def _in_turn(examples: Examples, classes: Sequence[int] | None, seed: int) -> InTurn | None:
    """Return images of these classes in turn, equally many of each and at most `MOST_REAL`; of None, any of all."""
    labels = examples.labels.numpy() if classes is not None else np.zeros(len(examples), dtype=np.int64)
    groups = [np.flatnonzero(labels == c) for c in (classes if classes is not None else (0,))]
    groups = [rows for rows in groups if len(rows)]
    if not groups:
        return None
    count = min(*map(len, groups), max(1, MOST_REAL // len(groups)))
    chosen = [generator("real images", seed, place).permutation(rows)[:count] for place, rows in enumerate(groups)]
    rows = np.stack(chosen, axis=1).ravel()
    return InTurn(as_stored(examples.images[torch.from_numpy(rows)]), labels[rows])
