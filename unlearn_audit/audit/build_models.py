"""Making the models that a config asks for: trained, retrained and unlearned ones, each once, in the audit's folder.

A model's file is named by its label and a digest of what determines it, so that a second run finds it, and one that a
config describes differently is another file. A killed run goes on where it was.
"""

import itertools
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from unlearn_audit import catalogue
from unlearn_audit.audit.cache import FOLDER as CACHED_SECTIONS
from unlearn_audit.audit.cache import VERSION
from unlearn_audit.audit.config_checks import attack_problems, method_problems
from unlearn_audit.checkpoints import Checkpoint, read_checkpoint
from unlearn_audit.config import (
    NEIGHBOURS,
    ApplyEntry,
    AuditConfig,
    CheckpointEntry,
    Resolved,
    TrainEntry,
    code_is_allowed,
)
from unlearn_audit.data import Dataset, IndexSet, read_training_indices
from unlearn_audit.engine import setup_device
from unlearn_audit.errors import CheckpointError, ConfigError, MeasurementError, OutputError, UsageError
from unlearn_audit.files import make_subfolder, sha256_of_bytes
from unlearn_audit.inputs import NO_FORGET_SET, read_entry, resolve_data, unique_labels
from unlearn_audit.methods import Settings
from unlearn_audit.methods.adjacent import with_request
from unlearn_audit.methods.adversarial_sets import content_of
from unlearn_audit.methods.apply import SAVE_EVERY, apply_method, joining, parse_settings
from unlearn_audit.methods.lookup import find_method, is_code
from unlearn_audit.methods.resume import StateFile, state_path
from unlearn_audit.model_folder import sha256_of_checkpoint
from unlearn_audit.normalisation import normalised_as_asked
from unlearn_audit.pipeline_folder import is_pipeline_folder
from unlearn_audit.progress import Progress, silent
from unlearn_audit.training import pick_recipe, train_checkpoint
from unlearn_audit.user_code import sha256_of_code

FOLDER = "models"
# What an audit calls the files that it keeps; others in these folders are none of its business.
OURS = re.compile(
    r".+-([0-9a-f]{12}(\.safetensors)?(\.resume)?|[0-9a-f]{24}\.(json|npz|seconds)|[0-9a-f]{32}\.npz)|\.unlearn-audit-.+\.tmp"
)


class Made(NamedTuple):
    """A model that a config asks for: its entry, and where its file is or will be; None before its parent is there."""

    entry: TrainEntry | ApplyEntry
    path: Path | None

    @property
    def is_there(self) -> bool:
        """Whether it is made."""
        return self.path is not None and self.path.exists()


class _BuildContext(NamedTuple):
    """What all models of a config share."""

    config: AuditConfig
    origins: Mapping[str, str]
    dataset: Dataset
    forget: IndexSet
    folder: Path
    checkpoints: tuple[Checkpoint, ...] = ()


def with_retrained(request: Resolved, count: int, *, recipe: str | None = None, epochs: int | None = None) -> Resolved:
    """Return the request with models to be retrained as its original was, by what the checkpoint says of itself.

    Args:
        request: the first original in it, else the first unlearned checkpoint, says how to train.
        count: how many more; their seeds are those that no checkpoint names.
        recipe: by name, instead of what the checkpoint says.
        epochs: instead of the recipe's own.

    Raises:
        UsageError: there is neither, or the recipe is not known.
        CheckpointError: a checkpoint cannot be read.
    """
    config = request.config
    labels = unique_labels(config.checkpoint)
    known = [read_entry(config, entry).metadata for entry in config.checkpoint]
    roles = [entry.role or (said.role if said else None) for entry, said in zip(config.checkpoint, known, strict=True)]
    to = _first(labels, roles, "original") or next((entry.label for entry in config.train if not entry.without), None)
    to = to or _first(labels, roles, "unlearned")
    if to is None:
        raise UsageError("--retrain follows an original or an unlearned checkpoint, and the config has neither")
    settings = {key: value for key, value in (("recipe", recipe), ("epochs", epochs)) if value is not None}
    pick_recipe(recipe, "")  # refused before anything is made
    made: list[TrainEntry | ApplyEntry] = [*config.train, *config.apply]
    seeds = {said.seed for said in known if said} | {entry.seed for entry in made}
    names = {*labels, *(entry.label for entry in made)}
    free_seeds = (seed for seed in itertools.count(1) if seed not in seeds)
    free_names = (name for number in itertools.count(1) if (name := f"retrained-{number}") not in names)
    more = tuple(
        ApplyEntry(label=next(free_names), method="retrain", to=to, seed=next(free_seeds), settings=settings)
        for _ in range(count)
    )
    return Resolved(config.model_copy(update={"apply": (*config.apply, *more)}), request.origins)


def assumed_recipes(request: Resolved) -> list[str]:
    """Say which models are to be retrained by a default recipe, since neither file nor request says the original's.

    Raises:
        CheckpointError: a checkpoint cannot be read.
    """
    config = request.config
    known = {entry.label: True for entry in config.train}
    for entry, label in zip(config.checkpoint, unique_labels(config.checkpoint), strict=True):
        metadata = read_entry(config, entry).metadata
        known[label] = bool(entry.recipe or (metadata and metadata.recipe))
    assumed: dict[str, list[str]] = {}
    for applied in config.apply:
        known[applied.label] = known.get(applied.to, True)
        if applied.method == "retrain" and not known[applied.to] and not applied.settings.get("recipe"):
            assumed.setdefault(applied.to, []).append(applied.label)
    return [
        f"{', '.join(labels)}: nothing says how {to} was trained, so that a default recipe is assumed and no gate "
        "passes on what rests on it; name the recipe with --recipe and --epochs, or as `recipe` of its [[checkpoint]]"
        for to, labels in assumed.items()
    ]


def discard(folder: Path) -> None:
    """Remove what former audits have kept in a folder to go on with: models, and cached sections."""
    for path in [*(folder / FOLDER).glob("*"), *(folder / CACHED_SECTIONS).glob("*")]:
        if not OURS.fullmatch(path.name) or (path.is_dir() and not is_pipeline_folder(path)):
            continue
        try:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        except OSError as problem:
            raise OutputError(f"cannot remove {path}: {problem.strerror or problem}") from problem


def _first(labels: Sequence[str], roles: Sequence[str | None], role: str) -> str | None:
    return next((label for label, own in zip(labels, roles, strict=True) if own == role), None)


def make_models(request: Resolved, folder: Path, progress: Progress = silent) -> Resolved:
    """Make what `[[train]]` and `[[apply]]` ask for, and return the request with them among its checkpoints.

    Args:
        request: the configuration; nothing happens where it asks for no models.
        folder: of the audit; models go into its folder `models`.
        progress: callback, called after each step.

    Raises:
        UsageError: data or forget set are not named.
        MeasurementError: a model cannot be made.
        OutputError: the folder cannot be written.
    """
    if not request.config.train and not request.config.apply:
        return request
    _check_methods(request)
    build = _build_context(request, folder)
    make_subfolder(folder, FOLDER)
    entries = list(request.config.checkpoint)
    for trained in request.config.train:
        path = _path_of_trained(build, trained)
        if not path.exists():
            _train(build, trained, path, progress)
        role = "retrained" if trained.without else "original"
        _check_made(path, build, {"role": role, "seed": trained.seed})
        entries.append(CheckpointEntry.model_validate({"path": str(path), "role": role, "label": trained.label}))
    for applied in request.config.apply:
        parent = _entry_of(entries, applied.to)
        digest = sha256_of_checkpoint(Path(parent.path))
        path = _path_of_applied(build, applied, parent, digest)
        if not path.exists():
            _apply(build, applied, parent=parent, path=path, progress=progress)
        made_by = {"method": applied.method, "seed": applied.seed, "parent_sha256": digest}
        _check_made(path, build, made_by | {"transforms": applied.transforms})
        role = find_method(applied.method, allow_code=_code_may_apply(request.origins)).role
        entries.append(CheckpointEntry(path=str(path), role=role, label=applied.label))
    made = request.config.model_copy(update={"checkpoint": tuple(entries)})
    return Resolved(made, dict(request.origins) | {"checkpoint": request.origins.get("train", "config")})


def _check_made(path: Path, build: _BuildContext, wanted: Mapping[str, Any]) -> None:
    """Refuse a file that stands in the place of a model that was to be made, and is another one."""
    way_out = "remove it, and the audit makes it anew"
    try:
        metadata = read_checkpoint(path).metadata
    except CheckpointError as problem:
        raise CheckpointError(f"{problem}; or {way_out}") from problem
    wanted = {"data_sha256": build.dataset.sha256, **wanted}
    if wanted.get("role") != "original":
        wanted["forget_sha256"] = build.forget.sha256
    other = [key for key, value in wanted.items() if metadata is None or getattr(metadata, key) != value]
    if other:
        raise MeasurementError(f"{path} is not the model that the config asks for (other {other[0]}); {way_out}")


def models_to_make(request: Resolved, folder: Path) -> Iterator[Made]:
    """Yield what `make_models` would make or find."""
    _check_methods(request)
    build = _build_context(request, folder)
    entries = list(request.config.checkpoint)
    for trained in request.config.train:
        path = _path_of_trained(build, trained)
        entries.append(CheckpointEntry(path=str(path), label=trained.label))
        yield Made(trained, path)
    for applied in request.config.apply:
        parent = _entry_of(entries, applied.to)
        there = Path(parent.path).exists()
        path_of = _path_of_applied(build, applied, parent, sha256_of_checkpoint(Path(parent.path))) if there else None
        entries.append(CheckpointEntry(path=str(path_of or folder / FOLDER / "later"), label=applied.label))
        yield Made(applied, path_of)


def _check_methods(request: Resolved) -> None:
    """Refuse what a method does not take, and attacks that could not run, before anything is trained."""
    values = request.config.model_dump(include={"apply", "checkpoint", "mia", "train"}, exclude_none=True)
    problems = [problem.text for problem in (*method_problems(values), *attack_problems(values))]
    if problems:
        raise ConfigError("config", problems)
    for entry in request.config.apply:
        if is_code(entry.method):
            method = find_method(entry.method, allow_code=_code_may_apply(request.origins))
            parse_settings(method, entry.settings, published=entry.recipe is not None)
            joining(method, entry.transforms)


def _code_may_apply(origins: Mapping[str, str]) -> bool:
    return code_is_allowed(origins.get("apply", "default"))


def _build_context(request: Resolved, folder: Path) -> _BuildContext:
    """Load what the models are made of."""
    config = request.config
    if not config.forget:
        raise UsageError(NO_FORGET_SET)
    if not config.data and not config.checkpoint:
        raise UsageError("[[train]] and [[apply]] need data; name it in the config, or with --data")
    checkpoints = tuple(read_entry(config, entry) for entry in config.checkpoint)
    dataset = resolve_data(config, request.origins, checkpoints).dataset
    forget = read_training_indices(config.forget, dataset)
    return _BuildContext(config, request.origins, normalised_as_asked(dataset, config), forget, folder, checkpoints)


def _entry_of(entries: list[CheckpointEntry], label: str) -> CheckpointEntry:
    return next(entry for entry, own in zip(entries, unique_labels(entries), strict=True) if own == label)


def _named(build: _BuildContext, label: str, depends: Mapping[str, Any], *, generator: bool) -> Path:
    """Return the file of a model that depends on these things, or the folder of a generator."""
    config = build.config
    common: dict[str, Any] = {
        "version": VERSION,
        "data": build.dataset.sha256,
        "forget": build.forget.sha256,
        "precision": config.precision,
        "device": setup_device(config.device, config.precision).device.type,
    }
    asked = {"mean": config.mean, "std": config.std, "retain": config.retain}
    common |= {key: value for key, value in asked.items() if value is not None}
    digest = sha256_of_bytes(json.dumps(common | dict(depends), sort_keys=True).encode())[:12]
    return build.folder / FOLDER / f"{label}-{digest}{'' if generator else '.safetensors'}"


def _spec(build: _BuildContext, entry: TrainEntry) -> str:
    spec = entry.model or build.config.model
    if not spec:
        raise UsageError(f"train {entry.label}: no model named; add `model` to the config or to this entry")
    return spec


def _path_of_trained(build: _BuildContext, entry: TrainEntry) -> Path:
    spec = _spec(build, entry)
    recipe = pick_recipe(entry.recipe, spec, epochs=entry.epochs, transforms=entry.transforms).settings()
    depends = {"model": spec, "recipe": recipe, "seed": entry.seed, "without": entry.without}
    return _named(build, entry.label, depends, generator=catalogue.is_generator(spec))


def _train(build: _BuildContext, entry: TrainEntry, path: Path, progress: Progress) -> None:
    """Train a model, keeping what it goes on with after a kill."""
    spec, config = _spec(build, entry), build.config
    resumable = StateFile(state_path(path), {"model": path.name}, resume=True, every=SAVE_EVERY, memory={})
    try:
        train_checkpoint(
            path,
            spec,
            build.dataset,
            pick_recipe(entry.recipe, spec, epochs=entry.epochs, transforms=entry.transforms),
            without=build.forget if entry.without else None,
            seed=entry.seed,
            compute=setup_device(config.device, config.precision),
            allow_code=code_is_allowed(build.origins.get("train", "default")),
            clock=None,
            resumable=resumable,
            progress=progress,
            task=f"training {entry.label}",
        )
    except KeyboardInterrupt:
        resumable.write()
        raise
    resumable.remove()


def _path_of_applied(build: _BuildContext, entry: ApplyEntry, parent: CheckpointEntry, parent_sha256: str) -> Path:
    asked = entry.model_dump(mode="json", exclude={"label", "to"} if entry.recipe else {"label", "to", "recipe"})
    own = parent.model_dump(mode="json", include={"model", "mean", "std", "recipe", "epochs"}, exclude_none=True)
    key = parent.weights or build.config.weights
    more = ({"weights": key} if key else {}) | ({"as": own} if own else {})
    if is_code(entry.method):  # another text of the same name is another method
        more |= {"code": str(sha256_of_code(entry.method))}
    named = with_request(_settings_of(entry, build), build.config.adjacent)
    more |= content_of(named)
    spec = getattr(named, "adjacent", None)
    if spec not in (None, NEIGHBOURS):  # by what it holds: a file may change, and the request's own is not in the entry
        more |= {"adjacent": read_training_indices(spec, build.dataset, role="adjacent").sha256}
    depends = {"parent": parent_sha256, "apply": asked} | more
    return _named(build, entry.label, depends, generator=is_pipeline_folder(Path(parent.path)))


def _settings_of(entry: ApplyEntry, build: _BuildContext) -> Settings:
    """Return the settings of a method that is to be applied, with its defaults."""
    method = find_method(entry.method, allow_code=_code_may_apply(build.origins))
    found: Settings = parse_settings(method, entry.settings, published=entry.recipe is not None)
    return found


def _apply(build: _BuildContext, entry: ApplyEntry, *, parent: CheckpointEntry, path: Path, progress: Progress) -> None:
    """Unlearn from a parent, going on with the state of a killed run."""
    config = build.config.model_copy(update={"checkpoint": (parent,), "seed": entry.seed, "sample": None})
    apply_method(
        entry.method,
        path,
        Resolved(config, build.origins),
        entry.settings,
        allow_code=_code_may_apply(build.origins),
        extras=entry.transforms,
        published=entry.recipe is not None,
        others=build.checkpoints,
        resume=True,
        clock=None,
        progress=progress,
    )
