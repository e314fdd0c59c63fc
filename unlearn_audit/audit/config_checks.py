"""What is wrong with a config that only those who would carry it out can tell: methods, models, data, recipes."""

import os.path
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from unlearn_audit import catalogue, models
from unlearn_audit.attacks import Attack
from unlearn_audit.audit.mia.nn import FEWEST_RETRAINED
from unlearn_audit.config.layers import FILE_SOURCES
from unlearn_audit.data import parse_spec
from unlearn_audit.errors import ConfigError, DataError, UsageError
from unlearn_audit.files import expanded
from unlearn_audit.methods import Method
from unlearn_audit.methods.apply import joining, parse_settings
from unlearn_audit.step_transforms import training_extras
from unlearn_audit.strict_json import ConfigIssue, Place, dotted
from unlearn_audit.training import pick_recipe


def problems_of(values: Mapping[str, Any]) -> Iterator[ConfigIssue]:
    """Yield what is wrong with the values of a config file beside keys and types; nothing is loaded or run.

    Args:
        values: as `config.check_config` hands them out, with absolute paths; they may be of any type.
    """
    data = values.get("data")
    if isinstance(data, str):
        yield from _problem_of(("data",), partial(_check_data, data))
    yield from _model_problems((), values)
    for table in ("checkpoint", "train"):
        for index, entry in _tables(values, table):
            yield from _model_problems((table, index), entry)
            recipe = entry.get("recipe")
            if isinstance(recipe, str):
                yield from _problem_of((table, index, "recipe"), partial(pick_recipe, recipe, ""))
            joining = entry.get("transforms", ())
            for text in joining if isinstance(joining, list | tuple) else ():
                if isinstance(text, str):
                    yield from _problem_of((table, index, "transforms"), partial(training_extras, [text]))
    yield from method_problems(values)
    yield from attack_problems(values)


def attack_problems(values: Mapping[str, Any]) -> Iterator[ConfigIssue]:
    """Yield which attacks are named that need shadow models, or retrained ones, or another kind of models."""
    mia = values.get("mia")
    if not isinstance(mia, Mapping):
        return
    asked, model = mia.get("attacks"), _trained_model(values)
    for name in filter(lambda one: isinstance(one, str), asked if isinstance(asked, list | tuple) else ()):
        wrong = _wrong_kind(name, model)
        if wrong:
            yield ConfigIssue(("mia", "attacks"), f"mia.attacks: {name} {wrong}")
            continue
        if name in catalogue.ATTACKS and mia.get("shadows") is None:
            attack: Attack = catalogue.load("attack", catalogue.ATTACKS, name)
            if attack.needs_shadows:
                yield ConfigIssue(
                    ("mia", "attacks"), f"mia.attacks: {name} needs shadow models; name their folder: mia.shadows"
                )
        if name == "nn" and any(values.get(key) for key in ("checkpoint", "train", "apply")):
            known = _possibly_retrained(values)
            if known < FEWEST_RETRAINED:
                yield ConfigIssue(
                    ("mia", "attacks"),
                    f"mia.attacks: nn needs at least {FEWEST_RETRAINED} retrained models, three for their own level, "
                    f"and {known or 'none'} can be among those named here; name more, such as [[apply]] with method = "
                    '"retrain"',
                )


def _wrong_kind(attack: str, model: str | None) -> str | None:
    """Return why an attack of ours cannot be asked of a model; None where it can, or where nobody knows."""
    of_classifiers = {*catalogue.ATTACKS, *catalogue.MODEL_ATTACKS} - {*catalogue.GENERATOR_ATTACKS}
    of_generators = {*catalogue.GENERATOR_ATTACKS} - {*catalogue.ATTACKS}
    if model in catalogue.GENERATORS and attack in of_classifiers:
        asked_by = ", ".join(catalogue.GENERATOR_ATTACKS)
        return f"needs class probabilities, and {model} is a generator, which has none; those are asked by {asked_by}"
    if model in catalogue.MODELS and model not in catalogue.GENERATORS and attack in of_generators:
        return f"asks a denoiser, and {model} is a classifier"
    return None


def _trained_model(values: Mapping[str, Any]) -> str | None:
    """Return the one model that all of `[[train]]` are, None where nothing is trained or models differ."""
    found = {str(entry.get("model") or values.get("model")) for _, entry in _tables(values, "train")}
    return found.pop() if len(found) == 1 else None


def _possibly_retrained(values: Mapping[str, Any]) -> int:
    """Return how many of the models are, or may turn out to be, trained without the forget set."""
    given = [entry.get("role") in (None, "retrained") for _, entry in _tables(values, "checkpoint")]
    trained = [bool(entry.get("without")) for _, entry in _tables(values, "train")]
    methods = [str(entry.get("method")) for _, entry in _tables(values, "apply")]
    return sum(given) + sum(trained) + sum(name == "retrain" or models.is_code(name) for name in methods)


def method_problems(values: Mapping[str, Any]) -> Iterator[ConfigIssue]:
    """Yield what methods and transforms do not take of what `[[apply]]` gives them; the user's own are not run."""
    for index, entry in _tables(values, "apply"):
        name = entry.get("method")
        if not isinstance(name, str) or name not in catalogue.METHODS:
            continue  # which is told with the types
        method: Method = catalogue.load("method", catalogue.METHODS, name)
        settings, transforms = entry.get("settings", {}), entry.get("transforms", ())
        if isinstance(settings, Mapping):
            published = entry.get("recipe") == "published"
            attempt = partial(parse_settings, method, settings, published=published)
            yield from _problem_of(("apply", index, "settings"), attempt)
        place: Place = ("apply", index, "transforms")
        if transforms and not method.composes:
            yield ConfigIssue(place, f"{dotted(place)}: {method.name} takes none: it is no loop of steps")
            continue
        for text in transforms if isinstance(transforms, list | tuple) else ():
            if isinstance(text, str):
                yield from _problem_of(place, partial(joining, method, [text]))


def _tables(values: Mapping[str, Any], key: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield the entries of an array of tables that are tables."""
    entries = values.get(key)
    for index, entry in enumerate(entries if isinstance(entries, list | tuple) else ()):
        if isinstance(entry, Mapping):
            yield index, entry


def _problem_of(place: Place, attempt: Callable[[], object]) -> Iterator[ConfigIssue]:
    """Yield what an attempt is refused with."""
    try:
        attempt()
    except ConfigError as refusal:
        yield from (ConfigIssue(place, f"{dotted(place)}: {text}") for text in refusal.problems)
    except UsageError as refusal:
        yield ConfigIssue(place, f"{dotted(place)}: {refusal}")


def _check_data(spec: str) -> None:
    found = parse_spec(spec)
    if found.source in FILE_SOURCES and not os.path.exists(expanded(found.target, DataError)):
        raise UsageError(f"no such file or folder: {found.target}")
    if found.options.labels is not None and not os.path.isfile(expanded(found.options.labels, DataError)):
        raise UsageError(f"labels: no such file: {found.options.labels}")


def _model_problems(table: Place, values: Mapping[str, Any]) -> Iterator[ConfigIssue]:
    """Yield that a model is not known; the user's own code is not run to find out."""
    spec = values.get("model")
    if isinstance(spec, str) and not models.is_code(spec):
        yield from _problem_of((*table, "model"), partial(models.check_name, spec))
