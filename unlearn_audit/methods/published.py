"""What a method's source says of its settings, beside our defaults: how to follow it, and how a run deviates from it.

A settings class says both: a field's default is ours, `PUBLISHED` names those values that the source has otherwise, and
`UNKNOWN` those of which it has none. Every other default is the published value.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from unlearn_audit.errors import UsageError
from unlearn_audit.methods import Extra, Method, Settings, Unlearned

BUDGET = ("steps", "epochs")  # two ways to say one thing
CLIP = "loss_clip"


def published_value(settings: type[Settings], key: str) -> Any:
    """Return what the source has for a setting.

    Raises:
        LookupError: nothing is published, or no value of this setting.
    """
    if settings.PUBLISHED is None or key in settings.UNKNOWN:
        raise LookupError(key)
    return settings.PUBLISHED.get(key, settings.model_fields[key].default)


def with_published(name: str, settings: type[Settings], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that were given, and for all others that the source has otherwise than we, its own.

    Args:
        name: of the method, for the message.
        settings: of the method.
        values: that were given; they win.

    Raises:
        UsageError: nothing is published.
    """
    if settings.PUBLISHED is None:
        raise UsageError(f"{name} has no published recipe: its defaults are all there is; leave the recipe out")
    budget_is_given = any(values.get(key) is not None for key in BUDGET)
    ours = {key: value for key, value in settings.PUBLISHED.items() if not (key in BUDGET and budget_is_given)}
    return ours | dict(values)


def deviations(settings: Settings, *, part: str = "") -> tuple[str, ...]:
    """Return how a run's settings differ from the published ones, in words, one text for each.

    Args:
        settings: as they were used.
        part: of whom they are, where it is a transform that joined a method.
    """
    if settings.PUBLISHED is None:
        return ()
    idle = settings.without_effect()
    told = [text for key in type(settings).model_fields if key not in idle for text in _deviation(settings, key)]
    unknown = [
        f"{key} {_shown(getattr(settings, key))}"
        for key in settings.UNKNOWN
        if key not in idle and getattr(settings, key) is not None
    ]
    if unknown:
        told.append(f"of our own, since no value is published: {', '.join(unknown)}")
    return tuple(f"{part}: {text}" if part else text for text in told)


def _deviation(settings: Settings, key: str) -> Iterator[str]:
    """Yield the text for one setting that is known not to be as published."""
    used = getattr(settings, key)
    try:
        wanted = published_value(type(settings), key)
    except LookupError:
        return
    if used == wanted or (key in BUDGET and used is None):  # the other one of the two says it
        return
    if key == CLIP:
        unit = getattr(settings, "CLIP_UNIT", "nats")
        yield f"the ascended loss of an example is clipped at {_shown(used)} {unit}, in the source {_shown(wanted)}"
    elif key in BUDGET and wanted is None:
        yield from _other_budget(settings, key, used)
    else:
        yield f"{key} is {_shown(used)}, published is {_shown(wanted)}{_more_steps(settings, key, used, wanted)}"


def _other_budget(settings: Settings, key: str, used: object) -> Iterator[str]:
    """Yield that a budget is given in another unit than the published one."""
    other = next(name for name in BUDGET if name != key)
    if other not in type(settings).UNKNOWN and (wanted := published_value(type(settings), other)) is not None:
        yield f"{_shown(used)} {key}, published are {_shown(wanted)} {other}"


def _more_steps(settings: Settings, key: str, used: object, wanted: object) -> str:
    """Return what another batch size means where the budget is in epochs."""
    by_epochs = getattr(settings, "epochs", None) is not None
    if key != "batch_size" or not by_epochs or not isinstance(used, int) or not isinstance(wanted, int):
        return ""
    return f": {wanted / used:g} times the steps" if wanted > used else f": 1/{used / wanted:g} of the steps"


def _shown(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    return f"{value:g}" if isinstance(value, float) else f"{value}"


def notes_of(method: Method, done: Unlearned, settings: Settings, extras: Sequence[Extra]) -> tuple[str, ...]:
    """Return what happened, and every deviation from the sources."""
    stopped = (f"stopped after {done.steps} steps: {done.stopped}",) if done.stopped else ()
    idle = (
        ("no step was taken: the weights are those that it started from",) if method.composes and not done.steps else ()
    )
    return (*stopped, *idle, *done.notes, *deviations_of(method, settings, extras))


def deviations_of(method: Method, settings: Settings, extras: Sequence[Extra]) -> tuple[str, ...]:
    """Return how a run deviates from the sources: in settings, in what is none, in what joined."""
    joined = [
        text
        for extra in extras
        for text in (
            f"{extra.transform.name} joined {method.name}, whose published form has it not",
            *deviations(extra.settings, part=extra.transform.name),
            *(f"{extra.transform.name}: {text}" for text in extra.transform.deviations),
        )
    ]
    return (*deviations(settings), *method.deviations, *joined)
