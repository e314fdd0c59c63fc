"""From a checkpoint to an unlearned checkpoint: settle what it is, run the method, write what was done."""

import copy
import os
import time
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from unlearn_audit import __version__
from unlearn_audit.checkpoints import (
    Checkpoint,
    Metadata,
    check_checkpoint_output,
    nonfinite,
    write_checkpoint,
)
from unlearn_audit.config import Resolved, names_generator
from unlearn_audit.data import Splits, rows_digest
from unlearn_audit.engine import Device
from unlearn_audit.errors import AuditError, ConfigError, MeasurementError, UsageError
from unlearn_audit.files import check_output, sha256_of_bytes, without_ending
from unlearn_audit.inputs import Candidate, inputs_of_concept, resolve_inputs
from unlearn_audit.methods import Extra, Kind, Method, Settings, Unlearned, UnlearningContext, on_kind
from unlearn_audit.methods.adjacent import with_request, with_settings
from unlearn_audit.methods.adversarial_sets import content_of
from unlearn_audit.methods.generators import OF_NO_DATA, concept_alone, kind_of, scoped
from unlearn_audit.methods.lookup import find_method
from unlearn_audit.methods.published import notes_of, with_published
from unlearn_audit.methods.resume import StateFile, state_path
from unlearn_audit.normalisation import assumptions
from unlearn_audit.pipeline_folder import PipelineFolder
from unlearn_audit.progress import Progress, silent
from unlearn_audit.step_transforms import checked, forms_of, parse_extras
from unlearn_audit.training import describe

SAVE_EVERY = 30.0  # seconds between two writes of the state that --resume goes on with


@dataclass(frozen=True)
class Applied:
    """What was written, what was done, and what the person should hear.

    Attributes:
        sha256: of the file.
        done: by the method.
        seconds: of wall time, loading and writing left out, time before a kill included.
        resumed_at: the step that a killed run was taken up at; 0 for a run from the start.
        limitations: of the data, the checkpoint and the method.
    """

    sha256: str
    done: Unlearned
    seconds: float
    resumed_at: int
    limitations: tuple[str, ...]


def parse_settings(
    method: Method, values: Mapping[str, Any], *, published: bool = False, kind: Kind | None = None
) -> Any:
    """Return a method's settings, checked, with its defaults filled in, or with what its source has.

    Args:
        method: which one.
        values: that were given; they win.
        published: take what is published for all others, and our defaults only where nothing is.
        kind: of the model; where it is not known yet, the first kind is taken whose settings these can be.

    Raises:
        ConfigError: unknown or out of range; every problem at once.
        UsageError: nothing is published of the method, or it cannot be used on this kind.
    """
    if kind is None:
        return _somewhere(method, values, published=published)
    there = on_kind(method, kind)
    taken = with_published(there.name, there.settings, values) if published else values
    return checked(f"settings of {there.name}", there.settings, taken)


def _somewhere(method: Method, values: Mapping[str, Any], *, published: bool) -> Any:
    """Return settings on the first kind of models that takes them; else what is wrong on the first one of all."""
    refusals: list[AuditError] = []
    for kind in forms_of(method):
        try:
            return parse_settings(method, values, published=published, kind=kind)
        except (ConfigError, UsageError) as refusal:
            refusals.append(refusal)
    raise refusals[0]


def joining(method: Method, texts: Sequence[str], kind: Kind = "classifier") -> tuple[Extra, ...]:
    """Return the transforms that are to join a method.

    Args:
        method: which one.
        texts: as `--with` takes them.
        kind: of the model.

    Raises:
        UsageError: an unknown transform, or a method that is no loop.
        ConfigError: a setting is out of range.
    """
    added = parse_extras(texts, kind)
    if added and not method.composes:
        raise UsageError(f"{method.name} takes no --with: it is no loop of gradient steps that a transform could join")
    for extra in added:
        if method.takes is not None and extra.transform.name not in method.takes:
            raise UsageError(f"{method.name} takes no --with {extra.transform.name}: {method.because}")
    return added


def apply_method(
    name: str,
    out: Path,
    request: Resolved,
    values: Mapping[str, Any],
    *,
    allow_code: bool = False,
    extras: Sequence[str] = (),
    published: bool = False,
    others: Sequence[Checkpoint] = (),
    force: bool = False,
    resume: bool = False,
    save_every: float = SAVE_EVERY,
    clock: Callable[[], float] | None = time.monotonic,
    progress: Progress = silent,
) -> Applied:
    """Unlearn with a method and write the result; the parent checkpoint is only read.

    While it runs, the state is written to `OUT.resume` every `save_every` seconds and on an interrupt; the file goes
    away with success. When the method diverges, the last good weights are kept as a checkpoint of their own.

    Args:
        name: of the method, in the catalogue, or `package.module:callable`.
        out: the file to write.
        request: a configuration with one checkpoint and a forget set, and where its keys came from.
        values: the method's settings that were given.
        allow_code: whether the name may be that of user code.
        extras: transforms that join the method's own, as `--with` takes them.
        published: follow the source's settings where `values` say nothing.
        others: checkpoints that may say how the parent is read where it does not say it itself, see `build_candidate`.
        force: replace an existing file, and forget the state of a killed run.
        resume: go on with the state of a killed run where there is one.
        save_every: seconds.
        clock: tells seconds; None leaves the wall time out of the metadata, so that equal runs write equal bytes.
        progress: callback, called after each step.

    Raises:
        UsageError: unknown method or transform, no forget set, nothing left to retain.
        ConfigError: settings out of range.
        OutputError: the file exists or cannot be written; found out before any work.
        MeasurementError: the checkpoint cannot be read or does not fit, or the method diverged.
    """
    asked = find_method(name, allow_code=allow_code)
    told = parse_settings(asked, values, published=published)  # what no kind takes is told before any work
    concept = concept_alone(told, joining(asked, extras), request.config.forget)
    config = request.config
    check_checkpoint_output(out, force=force, generator=names_generator(config))
    if any(out.exists() and os.path.exists(given.path) and out.samefile(given.path) for given in config.checkpoint):
        raise UsageError(f"{out} is the checkpoint to start from; write the unlearned one elsewhere")
    _check_state(out, force=force, resume=resume)
    # What is measured of the forget set, and its twin, are no matter of a method.
    plain = Resolved(config.model_copy(update=dict.fromkeys(("sample", "unseen", "adjacent"))), request.origins)
    inputs = resolve_inputs(plain, others=others) if concept is None else inputs_of_concept(plain, concept)
    candidate = inputs.candidate(0)
    kind = kind_of(candidate.model)
    method, added = on_kind(asked, kind), joining(asked, extras, kind)
    settings = with_request(parse_settings(asked, values, published=published, kind=kind), config.adjacent)
    (parent, *_), splits, compute = inputs.checkpoints, with_settings(inputs.splits, settings), inputs.compute
    metadata = record_of(candidate, splits, method, config.seed).model_copy(
        update={"method": name, "settings": settings.model_dump(mode="json"), "transforms": tuple(extras)}
        | (OF_NO_DATA if concept is not None else {})
    )
    unlearning = UnlearningContext(
        copy.deepcopy(candidate.model),
        candidate.transform,
        splits,
        compute,
        config.seed,
        progress,
        spec=candidate.spec,
        recipe=metadata.recipe,
        original_seed=parent.metadata.seed if parent.metadata and parent.metadata.role == "original" else None,
        extras=added,
        artefacts=out.parent,
        task=candidate.task,
        pipeline=candidate.pipeline,
    )
    resumable = StateFile(
        state_path(out),
        _identity(metadata, splits, compute) | content_of(settings),
        resume=resume,
        every=save_every,
        memory=unlearning.memory,
        clock=clock or time.monotonic,
    )
    if not resume:
        resumable.remove()  # asked for with --force, else there is none
    done = _run(
        method,
        replace(unlearning, resumable=resumable),
        settings=settings,
        resumable=resumable,
        metadata=metadata,
        out=out,
        force=force,
        beside=parent.pipeline,
    )
    seconds = resumable.seconds
    # A model that is trained anew is trained with this normalisation, so that its own record assumes nothing.
    inherited = assumptions(candidate.notes) if method.role == "unlearned" else ()
    notes = (*_of_parent(parent, splits), *notes_of(method, done, settings, added), *inherited)
    metadata = metadata.model_copy(
        update={
            "steps": done.steps,
            "gradient_evaluations": done.gradient_evaluations,
            "looked_at": all_looked_at(metadata.looked_at, done),
            "figures": done.figures or None,
            "wall_seconds": round(seconds, 3) if clock else None,
            "recipe": metadata.recipe if done.recipe is None else done.recipe,
            "recipe_assumed": True if done.recipe_assumed else None,
            "notes": notes,
        }
    )
    written = write_checkpoint(out, unlearning.model.state_dict(), metadata, force=force, beside=parent.pipeline)
    resumable.remove()
    return Applied(
        written, done, seconds, resumable.resumed_at, tuple(dict.fromkeys((*inputs.notes, *candidate.notes, *notes)))
    )


def run_method(method: Method, unlearning: UnlearningContext, settings: Settings) -> Unlearned:
    """Run a method on the model of its context, in place.

    Args:
        method: which one.
        unlearning: what it is given.
        settings: of this method, checked.

    Raises:
        MeasurementError: it diverged.
    """
    with scoped(unlearning.model, getattr(settings, "scope", "full")):
        done = method.run(unlearning, settings)
    broken = nonfinite(unlearning.model.state_dict())
    if broken:
        raise MeasurementError(f"{method.name} diverged: {next(iter(broken))} is not finite; use a smaller step size")
    return done


def _run(
    method: Method,
    unlearning: UnlearningContext,
    *,
    settings: Settings,
    resumable: StateFile,
    metadata: Metadata,
    out: Path,
    force: bool,
    beside: PipelineFolder | None,
) -> Unlearned:
    """Run the method; whatever ends it early, what it had reached is not lost."""
    try:
        done = run_method(method, unlearning, settings)
    except MeasurementError as problem_:
        names = set(unlearning.model.state_dict())  # what a method added for its own use has gone
        kept = _keep_last_good(resumable, metadata, str(problem_), out, names=names, force=force, beside=beside)
        raise type(problem_)(f"{problem_}{kept}") from problem_
    except KeyboardInterrupt:
        resumable.write()
        raise
    return done


def _keep_last_good(
    resumable: StateFile,
    metadata: Metadata,
    why: str,
    out: Path,
    *,
    names: Container[str],
    force: bool,
    beside: PipelineFolder | None,
) -> str:
    """Write the last good weights as a checkpoint and return what the message says of it.

    The state is of no more use then: whoever goes on with it comes to the same end.
    """
    if resumable.last is None:
        return ""
    stem = without_ending(out)
    path = out.with_name(f"{stem}.step-{resumable.last.done}{out.name[len(stem) :]}")
    notes = (f"stopped early: {why}",)
    told = metadata.model_copy(update={"steps": resumable.last.done, "notes": notes})
    try:
        weights = {name: tensor for name, tensor in resumable.weights().items() if name in names}
        write_checkpoint(path, weights, told, force=force, beside=beside)
    except AuditError as problem:
        return f"; the weights of step {resumable.last.done} could not be kept: {problem}"
    resumable.remove()
    return f"; the weights after {resumable.last.done} steps are kept in {path}"


def _check_state(out: Path, *, force: bool, resume: bool) -> None:
    """Leave no doubt about the state of a killed run: it is gone on with, or forgotten on request."""
    path = check_output(state_path(out), force=True)
    if path.exists() and not resume and not force:
        raise UsageError(
            f"{path} holds the state of an interrupted run; add --resume to continue, or --force to start again"
        )


def record_of(candidate: Candidate, splits: Splits, method: Method, seed: int) -> Metadata:
    """Return what a model that a method made says of itself, but for the method's name, its settings and the run.

    Args:
        candidate: the model that the method started from.
        splits: what it forgot and kept.
        method: which one.
        seed: of the run.
    """
    known = candidate.metadata  # a method that trains anew takes nothing over of what decided about its parent
    looked_at = known.looked_at if known and method.role != "retrained" else None
    return describe(candidate.spec, splits.dataset).model_copy(
        update={
            "role": method.role,
            "mean": tuple(candidate.transform.mean),
            "std": tuple(candidate.transform.std),
            "recipe": candidate.recipe,
            "rows_sha256": rows_digest(splits.dataset.train, splits.retain if method.role == "retrained" else None),
            "seed": seed,
            "parent_sha256": candidate.sha256,
            "parent_weights": candidate.weights,
            "forget": splits.forget.spec,
            "forget_sha256": splits.forget.sha256,
            "forget_n": len(splits.forget.indices),
            "looked_at": looked_at,
        }
    )


def all_looked_at(before: tuple[int, ...] | None, done: Unlearned) -> tuple[int, ...] | None:
    """Return the held-out examples that decided something about a model, in a run before or in its own.

    Args:
        before: what the record says at the start, see `record_of`.
        done: by the method.
    """
    return done.looked_at if before is None else tuple(sorted({*before, *(done.looked_at or ())}))


def _identity(metadata: Metadata, splits: Splits, compute: Device) -> dict[str, Any]:
    """Return everything that the result depends on."""
    keys = ("method", "settings", "transforms", "seed", "parent_sha256", "parent_weights", "data_sha256",
            "forget_sha256", "model", "mean", "std")  # fmt: skip
    return {key: getattr(metadata, key) for key in keys} | {
        "retain_sha256": sha256_of_bytes(splits.retain.astype("<i8").tobytes()),
        **({"adjacent_sha256": splits.adjacent.sha256} if splits.adjacent else {}),
        "device": compute.device.type,
        "precision": compute.precision,
        "chunk": compute.chunk,
        "torch": torch.__version__,
        "tool": __version__,
    }


def _of_parent(parent: Checkpoint, splits: Splits) -> tuple[str, ...]:
    """Say what makes a checkpoint an odd one to start from."""
    metadata = parent.metadata
    if metadata is None:
        return ()
    same = metadata.forget_sha256 == splits.forget.sha256
    if metadata.role == "unlearned":
        which = "this forget set" if same else "another forget set"
        return (f"it started from a model that had unlearned {which} before, by {metadata.method}: both count",)
    if metadata.role == "retrained" and same:
        return ("it started from a model that was trained without this forget set: there was nothing to forget",)
    return ()
