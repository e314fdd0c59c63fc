"""Flags made of pydantic settings, so that name, type, help and default of each stand once: in the settings."""

import inspect
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import typer
from typer.core import TyperCommand

from unlearn_audit.cli.flags import measuring


class OptionKind(NamedTuple):
    """What the command line takes for a setting: a plain type, the words that it knows, whether it may be a list.

    `mixed` says that it may be a word or a number, and so is read from text.
    """

    plain: type
    words: tuple[str, ...] = ()
    mixed: bool = False
    metavar: str | None = None
    several: Literal["never", "with a comma", "always"] = "never"


def kind_of(annotation: Any) -> OptionKind:
    """Return what the command line takes for a field of settings."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return kind_of(get_args(annotation)[0])
    if origin is Literal:
        return OptionKind(str, get_args(annotation))
    if origin is tuple:
        return OptionKind(str, mixed=True, metavar="X,…", several="always")
    if origin in (Union, types.UnionType):
        kinds = [kind_of(each) for each in get_args(annotation) if each is not type(None)]
        if len(kinds) == 1:
            return kinds[0]
        parts = [metavar for kind in kinds for metavar in kind.words or (_METAVARS.get(kind.plain, "TEXT"),)]
        metavar = "|".join(parts) if len(parts) <= SHORT else "VALUE"
        listed = any(kind.several != "never" for kind in kinds)
        return OptionKind(str, mixed=True, metavar=metavar, several="with a comma" if listed else "never")
    return OptionKind(annotation if annotation in (bool, int, float) else str)


_METAVARS = {int: "N", float: "X"}
SHORT = 2  # parts of a metavar; more of them would leave no room for the help


def option_of(
    name: str, field: Any, *, panel: str, text: str = "", default: str | None = None, negative: bool = True
) -> inspect.Parameter:
    """Return a field of settings as an option; None stands for one that was not given.

    Args:
        name: of the field.
        field: pydantic's.
        panel: of the help.
        text: instead of the field's description.
        default: the sentence on its default, with a space before it; made of the field's where None.
        negative: whether a switch can be turned off, too, as a config may have it on.
    """
    kind, flag = kind_of(field.annotation), f"--{name.replace('_', '-')}"
    choice = f" One of {', '.join(kind.words)}." if kind.words else ""
    option = typer.Option(
        f"{flag}/--no-{flag[2:]}" if kind.plain is bool and negative else flag,
        help=f"{text or field.description}.{choice}{_default(field) if default is None else default}",
        rich_help_panel=panel,
        show_default=False,
        metavar=kind.metavar,
    )
    plain = kind.plain
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[plain | None, option]
    )


def _default(field: Any) -> str:
    return "" if field.default is None or field.default is False else f" Default {shown(field.default)}."


def shown(value: object) -> str:
    """Return a value as it would be typed."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, tuple):
        return ",".join(map(shown, value))
    return f"{value:g}" if isinstance(value, float) else f"{value}"


def value_of(text: Any, kind: OptionKind) -> Any:
    """Return what was typed as a number, a word or a list of them; what is none of these the settings refuse."""
    if not kind.mixed or not isinstance(text, str):
        return text
    if kind.several == "always" or (kind.several == "with a comma" and "," in text):
        return [_number_or_word(part.strip()) for part in text.split(",")]
    return _number_or_word(text)


def _number_or_word(text: str) -> int | float | str:
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text


class Flags(NamedTuple):
    """Which settings of a section become flags of a verb.

    Attributes:
        section: of the configuration.
        names: of its fields; all where empty.
        without: fields that are no flags.
        texts: other descriptions than the fields' own, by name.
        only_on: switches that no flag turns off.
        on_generators: what they are on a generator by default, where that is another value.
    """

    section: str
    names: Sequence[str] = ()
    without: Sequence[str] = ()
    texts: Mapping[str, str] = {}
    only_on: Sequence[str] = ()
    on_generators: Mapping[str, str] = {}

    def options(self, panel: str) -> Iterator[tuple[inspect.Parameter, OptionKind]]:
        """Yield every flag, in the order of the section, and what it takes.

        Args:
            panel: of the help.

        Yields:
            Parameters of a command.
        """
        from unlearn_audit.config import SECTIONS

        fields = SECTIONS[self.section].model_fields
        for name in self.names or fields:
            if name not in self.without:
                field, text = fields[name], self.texts.get(name, "")
                there = f" On a generator {self.on_generators[name]}." if name in self.on_generators else ""
                default, negative = f"{_default(field)}{there}", name not in self.only_on
                option = option_of(name, field, panel=panel, text=text, default=default, negative=negative)
                yield option, kind_of(field.annotation)


def add_verb(app: typer.Typer, name: str, function: Callable[..., None], *, panel: str, flags: Sequence[Flags]) -> None:
    """Add a measuring verb; its flags are made when it is to run or to explain, since that loads the settings.

    Args:
        app: where it is added.
        name: of the verb.
        function: takes its own parameters, `shared`, and `sections`: what was given, by section and name.
        panel: of the generated flags in the help.
        flags: which ones.
    """
    told = inspect.getdoc(function) or ""

    def load() -> Callable[..., None]:
        return _verb(function, panel, flags)

    class Unloaded(TyperCommand):
        """The verb, of which only the name and its help is known so far."""

        def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
            """Make its flags and go on as the whole command."""
            one = typer.Typer(add_completion=False, rich_markup_mode="rich")
            one.command(name, help=told)(load())
            return typer.main.get_command(one).make_context(info_name, args, parent=parent, **extra)

    app.command(name, cls=Unloaded, help=told)(_nothing)


def _nothing() -> None:
    """Stand for a verb that is not loaded yet."""


def _verb(function: Callable[..., None], panel: str, flags: Sequence[Flags]) -> Callable[..., None]:
    """Return the verb with all its flags."""
    made = [(each.section, *option) for each in flags for option in each.options(panel)]

    def verb(**values: Any) -> None:
        sections: dict[str, dict[str, Any]] = {each.section: {} for each in flags}
        for section, option, kind in made:
            sections[section][option.name] = value_of(values.pop(option.name), kind)
        function(**values, sections=sections)

    own = inspect.signature(function, eval_str=True).parameters
    shared = [parameter for name, parameter in own.items() if name == "shared"]
    rest = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for name, parameter in own.items()
        if name not in ("shared", "sections")
    ]
    verb.__signature__ = inspect.Signature([*rest, *(option for _, option, _ in made), *shared])  # type: ignore[attr-defined]
    return measuring(verb)
