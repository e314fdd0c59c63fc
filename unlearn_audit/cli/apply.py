"""`unlearn-audit apply METHOD`, also named `unlearn`: remove a forget set's influence from a checkpoint."""

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand, TyperGroup

from unlearn_audit import catalogue
from unlearn_audit.cli.console import command_line, message, progress_bars
from unlearn_audit.cli.flags import Force, Quiet, Shared, resolved
from unlearn_audit.cli.generated import option_of, shown
from unlearn_audit.errors import UsageError, unknown_name

EXAMPLE_WIDTH = 76  # of a line in 80 columns


class _Methods(TyperGroup):
    """The methods of the catalogue as commands; a method's module is loaded only when it is to run or to explain."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(catalogue.METHODS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if ":" in cmd_name:
            return _Unloaded(name=cmd_name, help="A method of your own.", rich_markup_mode="rich")
        if cmd_name not in catalogue.METHODS:
            hint = "Of your own: module:callable"
            raise UsageError(unknown_name("method", cmd_name, catalogue.METHODS, hint=hint))
        return _Unloaded(name=cmd_name, help=catalogue.METHODS[cmd_name].what, rich_markup_mode="rich")


class _Unloaded(TyperCommand):
    """A method of which only the name and a line of help is known so far."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Load the method and go on as its command."""
        from unlearn_audit.methods.lookup import find_method

        method = find_method(str(self.name), allow_code=True)
        one = typer.Typer(add_completion=False, rich_markup_mode="rich")
        one.command(self.name, help=_help(method))(_command(method, str(self.name)))
        return typer.main.get_command(one).make_context(info_name, args, parent=parent, **extra)


def _help(method: Any) -> str:
    for_generators = isinstance(method.on.get("classifier"), str)
    forget = "class:3" if method.whole_classes or for_generators else "idx.npy"
    parent, child = ("original/", "unlearned/") if for_generators else ("o.safetensors", "u.safetensors")
    command = f"unlearn-audit apply {method.name} {parent} --forget {forget}"
    masked = method.name == "ieu" or "reinit" not in _taken(method)
    extra = "mask:saliency,density=0.5" if masked else "reinit:alpha=0.999"
    out = f"--out {child}"
    examples = [_example(command, out)] + ([_example(command, f"{out} --with {extra}")] if method.composes else [])
    if "concept" in _fields(method):
        examples.append(_example(f'unlearn-audit apply {method.name} sd14/ --concept "nudity"', out))
    text = " ".join((inspect.getdoc(method.run) or method.name).replace("\n\n", "\0").split("\n")).replace("\0", "\n\n")
    joined = f"\n\n[bold]Settings of --with[/bold]\n\n{_transforms(method)}" if method.composes else ""
    differs = "".join(f"\n\nDeviation: {each}." for each in method.deviations)
    shown_last = "\n\n".join(["[bold]Example[/bold]", *examples])
    return f"{text}\n\nSource: {method.source}.{differs}{joined}\n\n{shown_last}"


def _example(command: str, rest: str) -> str:
    """Return a command as it can be pasted, on a second line where the first one is too narrow."""
    fits = len(f"{command} {rest}") <= EXAMPLE_WIDTH
    return f"  {command} {rest}" if fits else f"  {command} \\\n    {rest}"


def _taken(method: Any) -> tuple[str, ...]:
    """Return the transforms that a method takes on the first kind of models that it can be used on."""
    return tuple(_joining(method))


def _joining(method: Any) -> dict[str, Any]:
    """Return these transforms as they are on that kind, by name; one that cannot be used on it is none of them."""
    kind = next(iter(_forms(method)))
    names = [name for name in catalogue.TRANSFORMS if method.takes is None or name in method.takes]
    forms = {name: _forms(catalogue.load("transform", catalogue.TRANSFORMS, name)) for name in names}
    return {name: form[kind] for name, form in forms.items() if kind in form}


def _transforms(method: Any) -> str:
    """Return every transform that a method takes with its settings."""
    found = []
    for name, transform in _joining(method).items():
        keys = ", ".join(f"{key}={shown(field.default)}" for key, field in transform.settings.model_fields.items())
        found.append(f"  {name}: {keys}")
    return "\n\n".join(found)


def _command(method: Any, name: str) -> Callable[..., None]:
    """Return a command whose options are the method's settings; `name` is how the method was asked for."""

    def run(**values: Any) -> None:
        settings = {key: values.pop(key) for key in _fields(method)}
        _apply(name, {key: value for key, value in settings.items() if value is not None}, **values)

    own = ("recipe",) if "recipe" in _fields(method) else ()  # retrain's, of another kind
    taken = ("method", "settings", *own, *(() if method.composes else ("extras",)))
    common = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for key, parameter in inspect.signature(_apply, eval_str=True).parameters.items()
        if key not in taken
    ]
    if method.composes:
        what = " ".join(f"{each}: {catalogue.TRANSFORMS[each].what}." for each in _taken(method))
        option = typer.Option("--with", metavar="SPEC", help=f"Join a transform, NAME:KEY=VALUE,…; repeatable. {what}")
        joining = Annotated[list[str] | None, option]
        common = [one.replace(annotation=joining) if one.name == "extras" else one for one in common]
    run.__signature__ = inspect.Signature([*common, *_options(method)])  # type: ignore[attr-defined]
    run.__annotations__ = {}
    return run


def _options(method: Any) -> Iterator[inspect.Parameter]:
    """Yield an option for each setting, those that the method defines itself first."""
    fields = _fields(method)
    first = next(iter(_forms(method).values())).settings
    for name in sorted(fields, key=lambda name: _place(first, name)):
        panel = (f"Settings of {method.name}", "The loop", "On a generator")[_place(first, name)]
        settings = fields[name]
        yield option_of(
            name,
            settings.model_fields[name],
            panel=panel,
            default=_defaults(settings, name) + _elsewhere(method, settings, name),
            negative=settings.model_fields[name].default is True,
        )


def _forms(thing: Any) -> dict[Any, Any]:
    """Return a method, or a transform, as it is on each kind of models that it can be used on, the first kind first."""
    from unlearn_audit.step_transforms import forms_of

    return forms_of(thing)


def _fields(method: Any) -> dict[str, Any]:
    """Return the names of all settings, on whatever kind of models, and the first form's class that has each."""
    forms = [form.settings for form in _forms(method).values()]
    names = dict.fromkeys(name for settings in forms for name in settings.model_fields)
    return {name: next(each for each in forms if name in each.model_fields) for name in names}


def _place(first: Any, name: str) -> int:
    """Return which panel a setting stands in: the method's own, the loop's, or what only other kinds have."""
    return 2 if name not in first.model_fields else int(name not in first.__annotations__)


ELSEWHERE = {"classifier": "On a classifier", "generator": "On a generator", "text-to-image": "On a generator of texts"}


def _elsewhere(method: Any, settings: Any, name: str) -> str:
    """Return what a setting is by default on other kinds of models, where it is another value."""
    told, last = "", settings
    for kind, form in _forms(method).items():
        field, before = form.settings.model_fields.get(name), last.model_fields[name]
        if field is not None and field.default != before.default:
            means = "" if field.description == before.description else f" ({field.description})"
            told, last = f"{told} {ELSEWHERE[kind]} {shown(field.default)}{means}.", form.settings
    return told


def _defaults(settings: Any, name: str) -> str:
    """Return what a setting is by default, and what its source has."""
    from unlearn_audit.methods.published import BUDGET, published_value

    ours = settings.model_fields[name].default
    said = "" if ours is None or ours is False else f" Default {shown(ours)}"
    if settings.PUBLISHED is None:
        return said and f"{said}."
    try:
        theirs = published_value(settings, name)
    except LookupError:
        return f"{said}; no value is published." if said else " No value is published."
    if theirs == ours:
        of_no_source = name in BUDGET or name in settings().without_effect()
        return f"{said}, as published." if said else "" if of_no_source else " Published: not used."
    return f"{said}; published {shown(theirs)}." if said else f" Published {shown(theirs)}."


def _apply(
    method: str,
    settings: dict[str, Any],
    checkpoint: Annotated[str, typer.Argument(metavar="CKPT", help="The checkpoint to start from; it is only read.")],
    out: Annotated[Path, typer.Option(help="The checkpoint to write (.safetensors; of a generator a folder).")],
    forget: Annotated[
        str | None, typer.Option(help="Forget set: idx.npy, class:3, random:0.1:0, mislabelled, …")
    ] = None,
    extras: list[str] | None = None,  # --with, whose help is the method's
    recipe: Annotated[
        Literal["published"] | None,
        typer.Option(help="published: the source's own settings, where it gives any, instead of the defaults."),
    ] = None,
    retain: Annotated[str | None, typer.Option(help="Retain set; default: the rest of the training set.")] = None,
    data: Annotated[str | None, typer.Option(help="Data spec; default: as recorded in the checkpoint.")] = None,
    model: Annotated[str | None, typer.Option(help="Model spec; default: as recorded in the checkpoint.")] = None,
    weights: Annotated[
        str | None, typer.Option(metavar="KEY", help="Which of several sets of weights in the file: model_ema, …")
    ] = None,
    base: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Pipeline whose U-Net a file's weights are put over.")
    ] = None,
    mean: Annotated[str | None, typer.Option(help="Normalisation: one number, or one per channel.")] = None,
    std: Annotated[str | None, typer.Option(help="Normalisation, like --mean.")] = None,
    download: Annotated[bool, typer.Option("--download", help="Allow torchvision: data to be downloaded.")] = False,
    config: Annotated[Path | None, typer.Option(help="Configuration file; flags take precedence.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32 (default), tf32 or bf16.")] = None,
    seed: Annotated[int | None, typer.Option(help="Random seed of batches and noise.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume an interrupted run, if there is one.")] = False,
    save_every: Annotated[
        float, typer.Option(min=0, help="Seconds between two saves of the state for --resume.")
    ] = 30.0,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Run the method and say what to do next; a method never measures itself."""
    shared = Shared(
        forget=forget,
        retain=retain,
        data=data,
        model=model,
        weights=weights,
        base=base,
        mean=mean,
        std=std,
        download=download,
        config=config,
        device=device,
        precision=precision,
        seed=seed,
    )
    request = resolved([checkpoint], shared)
    from unlearn_audit.config.early import refuse_names

    refuse_names(transforms=extras or ())
    from unlearn_audit.checkpoints import check_checkpoint_output
    from unlearn_audit.config import names_generator
    from unlearn_audit.files import only_process
    from unlearn_audit.methods.apply import apply_method
    from unlearn_audit.methods.resume import state_path

    try:
        check_checkpoint_output(out, force=force, generator=names_generator(request.config))
        with only_process(out, replaced=True), progress_bars(quiet=quiet) as progress:
            applied = apply_method(
                method,
                out,
                request,
                settings,
                allow_code=True,
                extras=extras or (),
                published=recipe is not None,
                force=force,
                resume=resume,
                save_every=save_every,
                progress=progress,
            )
    except KeyboardInterrupt:
        if state_path(out).exists():
            message(f"the state so far is in {state_path(out)}; the same command with --resume goes on", quiet=quiet)
        raise
    # What says how the parent is read says it of the child, too, so that both are read alike.
    command = command_line(
        "rcd", checkpoint, str(out), forget=forget, retain=retain, data=data, model=model, weights=weights, base=base,
        mean=mean, std=std, download=download, config=config, device=device, precision=precision,
    )  # fmt: skip
    _tell(applied, command, out, quiet=quiet)


def _tell(applied: Any, command: str, out: Path, *, quiet: bool) -> None:
    """Say what was done and how to audit it."""
    for text in applied.limitations:
        message(f"note: {text}", quiet=quiet)
    done = applied.done
    since = f", taken up at step {applied.resumed_at}" if applied.resumed_at else ""
    message(
        f"wrote {out} ({done.steps} steps{since}, {done.gradient_evaluations} gradients of single examples, "
        f"{applied.seconds:.1f} s)",
        quiet=quiet,
    )
    for name, value in done.figures.items():
        message(f"{name}: {value:g}", quiet=quiet)
    message(f"audit it: {command}", quiet=quiet)
    message("          with --retrained FILE for each model that was retrained without the forget set", quiet=quiet)


def register(app: typer.Typer) -> None:
    """Add the verb under both its names."""
    text = "Remove the influence of a forget set from a checkpoint: `apply METHOD CKPT --forget SPEC --out FILE`."
    for name in ("apply", "unlearn"):
        group = typer.Typer(cls=_Methods, help=text, no_args_is_help=True)
        group.callback()(_nothing)
        app.add_typer(group, name=name, help=text + (" The same as apply." if name == "unlearn" else ""))


def _nothing() -> None:
    """Have a group without options of its own."""
