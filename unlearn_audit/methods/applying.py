"""From a checkpoint to an unlearned checkpoint: settle what it is, run the method, write what was done."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from unlearn_audit import catalogue
from unlearn_audit.checkpoints import Checkpoint, Metadata, check_finite, nonfinite, read_checkpoint, write_checkpoint
from unlearn_audit.config import AuditConfig, Resolved
from unlearn_audit.data import Splits, make_splits
from unlearn_audit.engine import Compute, prepare
from unlearn_audit.errors import ConfigError, MeasurementError, UsageError
from unlearn_audit.files import check_output
from unlearn_audit.methods import Method, Problem, Unlearned
from unlearn_audit.progress import Progress, silent
from unlearn_audit.recipes import describe
from unlearn_audit.subjects import Candidate, build_candidate, settle_data

__all__ = ["Applied", "apply_method", "parse_settings"]


@dataclass(frozen=True)
class Applied:
    """What was written, and what the person should hear."""

    sha256: str
    done: Unlearned
    limitations: tuple[str, ...]


def parse_settings(method: Method, values: Mapping[str, Any]) -> Any:
    """Return a method's settings, checked, with its defaults filled in.

    Raises:
        ConfigError: unknown or out of range; every problem at once.
    """
    try:
        return method.settings.model_validate(dict(values))
    except ValidationError as problem:
        lines = [
            f"{'.'.join(map(str, error['loc']))}: {error['msg']} (got {error['input']!r})" for error in problem.errors()
        ]
        raise ConfigError(f"settings of {method.name}", lines) from problem


def apply_method(
    name: str,
    out: Path,
    request: Resolved,
    values: Mapping[str, Any],
    *,
    force: bool = False,
    progress: Progress = silent,
) -> Applied:
    """Unlearn with a method and write the result; the parent checkpoint is only read.

    Args:
        name: of the method, in the catalogue.
        out: the file to write.
        request: a configuration with one checkpoint and a forget set, and where its keys came from.
        values: the method's settings that were given.
        force: replace an existing file.
        progress: told along the way.

    Raises:
        UsageError: unknown method, settings out of range, no forget set, nothing left to retain.
        OutputError: the file exists or cannot be written; found out before any work.
        MeasurementError: the checkpoint cannot be read or does not fit, or the method diverged.
    """
    method: Method = catalogue.load("method", catalogue.METHODS, name)
    settings = parse_settings(method, values)
    config = request.config
    check_output(out, force=force)
    parent = read_checkpoint(Path(config.checkpoint[0].path))
    check_finite(parent)
    if out.exists() and out.samefile(parent.path):
        raise UsageError(f"{out} is the checkpoint to start from; write the unlearned one elsewhere")
    compute = prepare(config.device, config.precision, config.batch_size)
    candidate, splits, limitations = _settle(request, parent, compute)
    model = copy.deepcopy(candidate.model)
    problem = Problem(model, candidate.transform, splits, compute, config.seed, progress)
    done = method.run(problem, settings)
    broken = nonfinite(model.state_dict())
    if broken:
        raise MeasurementError(f"{name} diverged: {next(iter(broken))} is not finite; use a smaller step size")
    metadata = _metadata(parent, candidate, splits, method, config).model_copy(
        update={
            "settings": settings.model_dump(mode="json"),
            "steps": done.steps,
            "gradient_evaluations": done.gradient_evaluations,
        }
    )
    return Applied(write_checkpoint(out, model.state_dict(), metadata, force=force), done, limitations)


def _settle(request: Resolved, parent: Checkpoint, compute: Compute) -> tuple[Candidate, Splits, tuple[str, ...]]:
    """Return the model, the splits and what the person should hear about them."""
    config, origins = request.config, dict(request.origins)
    if not config.forget:
        raise UsageError("no forget set given; name it with --forget (an index file, class:3, random:0.1:SEED, …)")
    limitations: list[str] = []
    dataset = settle_data(config, origins, [parent], limitations)
    splits = make_splits(dataset, config.forget, retain=config.retain, seed=config.seed)
    candidate = build_candidate(config, origins, config.checkpoint[0], parent, "model", dataset, compute)
    if not len(splits.retain):
        raise UsageError("the retain set is empty; a method needs something to keep")
    return candidate, splits, (*limitations, *candidate.notes)


def _metadata(
    parent: Checkpoint, candidate: Candidate, splits: Splits, method: Method, config: AuditConfig
) -> Metadata:
    return describe(candidate.spec, splits.dataset).model_copy(
        update={
            "role": "unlearned",
            "mean": tuple(candidate.transform.mean),
            "std": tuple(candidate.transform.std),
            "recipe": parent.metadata.recipe if parent.metadata else {},
            "seed": config.seed,
            "method": method.name,
            "parent_sha256": parent.sha256,
            "forget": splits.forget.spec,
            "forget_sha256": splits.forget.sha256,
            "forget_n": len(splits.forget.indices),
        }
    )
