"""What the numbers of a section depend on, so that a cached section can be found again and never a stale one."""

from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from unlearn_audit import data, models
from unlearn_audit.audit.context import AuditContext
from unlearn_audit.audit.mia import score_cache
from unlearn_audit.audit.rcd.common_step import RELEARNING
from unlearn_audit.catalogue import METRICS
from unlearn_audit.config import INCEPTION
from unlearn_audit.files import sha256_of_file
from unlearn_audit.inputs import Candidate
from unlearn_audit.model_folder import sha256_of_checkpoint
from unlearn_audit.relearning import Start

# Section -> others whose settings it reads.
READS = {"truncation": ("rcd",), "detectable": ("gaps", "twosample", "mia")}
# Packages that models, samples and their judges may come from.
PACKAGES = ("diffusers", "transformers", "torchvision", "timm", "nudenet")


def depends_on(context: AuditContext, section: str, start: Start | None) -> dict[str, Any] | None:
    """Return everything that a section's numbers depend on, as JSON; None where code of the user's has a part in it.

    Args:
        context: the models, the sets and the settings.
        section: its name in the configuration.
        start: where a search for a step size begins.
    """
    if _is_code(context, section, context.subjects):
        return None
    adjacent = context.splits.adjacent
    return {
        **_of_all(context, section),
        # a section that measures one more thing than it did is measured again
        "metrics": [name for name, info in METRICS.items() if info.section == section],
        "subjects": [[one.label, *_of_model(one)] for one in context.subjects],
        **({"adjacent": adjacent.sha256} if adjacent and section == "gaps" else {}),
        "start": start if section in RELEARNING else None,
        "shadows": [score_cache.CODE_VERSION, _fleet(context)] if section == "mia" else None,
        **({"recipes": [one.recipe for one in context.subjects]} if section == "resurgence" else {}),
    }


def part_depends_on(context: AuditContext, section: str, candidate: Candidate) -> dict[str, Any] | None:
    """Return what the part of a section that is about one model alone depends on, whatever other models there are.

    Args:
        context: the sets and the settings.
        section: its name in the configuration, or "" for what several sections read and no settings change.
        candidate: whose part it is; None is returned where it, or anything else in the part, is code of the user's.
    """
    if _is_code(context, section, (candidate,)):
        return None
    drawn_anew = candidate.role == "control"  # of the first model's architecture
    models_read = (candidate, *context.subjects[:1]) if drawn_anew else (candidate,)
    return {**_of_all(context, section), "models": [_of_model(one) for one in models_read]}


def _of_model(candidate: Candidate) -> list[Any]:
    transform = candidate.transform
    return [candidate.role, candidate.sha256, candidate.weights, candidate.spec, transform.mean, transform.std]


def _of_all(context: AuditContext, section: str) -> dict[str, Any]:
    """Return what a section depends on beside the models."""
    config, splits, compute = context.config, context.splits, context.compute
    more = ("generation",) if section != "generation" and _draws_samples(context, section) else ()
    asked = {name: getattr(config, name) for name in (*_sections_read(section), *more) if name}
    return {
        "section": section,
        "settings": {name: part.model_dump(mode="json") for name, part in asked.items() if part is not None},
        "given": {name: sorted(part.model_fields_set) for name, part in asked.items() if part is not None},
        "data": splits.dataset.sha256,
        "sets": [
            data.digest_of(rows)
            for rows in (splits.forget.indices, splits.measured, splits.retain, splits.measured_retain,
                         splits.unseen.forget, splits.unseen.unseen, splits.pool)
        ],
        "labels": data.digest_of(splits.unseen.examples.labels.numpy()),
        "seed": config.seed,
        "packages": [_version_of(name) for name in PACKAGES],
        "compute": [str(compute.device), compute.precision, compute.chunk, torch.get_num_threads()],
        **({"files": _files_of_samples(context)} if _draws_samples(context, section) else {}),
        **({"draws": context.draws("forget").count} if context.of_generators else {}),
    }  # fmt: skip


def _sections_read(section: str) -> tuple[str, ...]:
    return (section, *READS.get(section, ()))


def _draws_samples(context: AuditContext, section: str) -> bool:
    """Return whether a section draws and judges samples: its own, or what probes look at while models relearn."""
    relearning = context.config.rcd
    return section == "generation" or (section == "rcd" and relearning is not None and bool(relearning.probe))


def _is_code(context: AuditContext, section: str, candidates: Sequence[Candidate]) -> bool:
    """Return whether a model, the data or an attack is a callable of the user's: nobody knows when its code changes."""
    attacks = context.config.mia.attacks if section == "mia" and context.config.mia else ()
    generation = context.config.generation if _draws_samples(context, section) else None
    named = (generation.judge, generation.real) if generation else ()
    return (
        any(name is not None and data.is_code(name) and not Path(name).exists() for name in named)
        or any(models.is_code(one.spec) for one in candidates)
        or data.is_code(context.splits.dataset.spec)
        or any(":" in name for name in attacks)
    )


def _files_of_samples(context: AuditContext) -> dict[str, str | None]:
    """Return the digests of what samples are asked for, judged with and compared with; None for what is no file."""
    settings = context.config.generation
    if settings is None:
        return {}
    named = (settings.judge, settings.features.removeprefix(INCEPTION), settings.prompts, settings.kept_prompts)
    paths = [Path(name).expanduser() for name in named if name]
    found = {str(path): sha256_of_file(path) if path.is_file() else None for path in paths}
    found |= {str(path): sha256_of_checkpoint(path) for path in paths if path.is_dir()}
    if settings.real is not None:  # no code of the user's: that is never cached
        found[f"real {settings.real}"] = data.load_data(settings.real).sha256
    return found


@cache
def _version_of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _fleet(context: AuditContext) -> list[list[Any]] | None:
    """Return which models of a fleet have spoken, by file, size and time."""
    folder = context.config.mia.shadows if context.config.mia else None
    if folder is None:
        return None
    files = sorted((Path(folder) / "signals").glob("*.npz"))
    return [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]
