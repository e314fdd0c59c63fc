"""The grammar of `--with NAME[:VARIANT][,KEY=VALUE…]`: transforms that compose with any objective."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from unlearn_audit import catalogue
from unlearn_audit.errors import ConfigError, UsageError
from unlearn_audit.methods import Extra, Settings, StepTransform
from unlearn_audit.strict_json import problems


def parse_extras(texts: Sequence[str]) -> tuple[Extra, ...]:
    """Return the transforms asked for, in order.

    Raises:
        UsageError: as `parse_extra`.
        ConfigError: as `parse_extra`.
    """
    return tuple(parse_extra(text) for text in texts)


def parse_extra(text: str) -> Extra:
    """Return one transform with its settings: `reinit:alpha=0.99,scale=fan_in`, `mask:saliency,density=0.5`, `l1`.

    Raises:
        UsageError: unknown name, a word where KEY=VALUE belongs, a key twice.
        ConfigError: a setting is unknown or out of range.
    """
    name, colon, rest = text.partition(":")
    if not colon:
        name, _, rest = text.partition(",")
    transform: StepTransform = catalogue.load("transform", catalogue.TRANSFORMS, name.strip())
    values: dict[str, str] = {}
    for index, item in enumerate(part.strip() for part in rest.split(",")) if rest.strip() else ():
        key, equals, value = (part.strip() for part in item.partition("="))
        if not equals and index == 0 and colon and "variant" in transform.settings.model_fields:
            key, value = "variant", item
        elif not equals or not key:
            raise UsageError(f"--with {text}: '{item}' is no KEY=VALUE; {_offered(transform)}")
        if key in values:
            raise UsageError(f"--with {text}: {key} is given twice")
        values[key] = value
    return Extra(transform, checked(f"--with {name.strip()}", transform.settings, values))


def _offered(transform: StepTransform) -> str:
    keys = [key for key in transform.settings.model_fields if key != "variant"]
    return f"{transform.name} has the settings {', '.join(keys)}"


def checked(where: str, settings: type[Settings], values: Mapping[str, Any]) -> Any:
    """Return settings, checked, with their defaults filled in.

    Raises:
        ConfigError: unknown or out of range; every problem at once.
    """
    try:
        return settings.model_validate(dict(values))
    except ValidationError as problem:
        raise ConfigError(where, problems(problem, values, settings)) from problem
