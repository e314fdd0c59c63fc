"""The types that settings are made of: strict numbers, channels, and the frozen model that refuses unknown keys."""

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from unlearn_audit.config.toml_source import Number

USER_CODE = re.compile(r"[\w.]+:[\w.]+")  # `package.module:callable` of the user's own


def _tuple_of_numbers(value: Any) -> Any:
    return (value,) if isinstance(value, int | float) and not isinstance(value, bool) else value


Channels = Annotated[tuple[Number, ...], BeforeValidator(_tuple_of_numbers), Field(min_length=1)]
Positive = Annotated[int, Field(gt=0, strict=True)]
Step = Annotated[Number, Field(gt=0, le=1e30)]


class ConfigModel(BaseModel):
    """A part of a configuration: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _positive(std: tuple[float, ...] | None) -> tuple[float, ...] | None:
    if std is not None and min(std) <= 0:
        raise ValueError("every std must be greater than 0")
    return std


Mean = Channels | None
Std = Annotated[Channels | None, AfterValidator(_positive)]
