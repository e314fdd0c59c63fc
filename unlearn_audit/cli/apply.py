"""`unlearn-audit apply METHOD`, also named `unlearn`: remove a forget set's influence from a checkpoint."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from unlearn_audit import catalogue
from unlearn_audit.cli.console import message, progress_bars
from unlearn_audit.cli.flags import Force, Quiet, Shared, resolved
from unlearn_audit.errors import UsageError, unknown_name

__all__ = ["register"]


class _Methods(TyperGroup):
    """The methods of the catalogue as commands; a method's module is loaded only when it is named."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(catalogue.METHODS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in catalogue.METHODS:
            raise UsageError(unknown_name("method", cmd_name, catalogue.METHODS))
        method = catalogue.load("method", catalogue.METHODS, cmd_name)
        one = typer.Typer(add_completion=False, rich_markup_mode="rich")
        one.command(cmd_name, help=f"{inspect.getdoc(method.run)}\n\nSource: {method.source}.")(_command(method))
        return typer.main.get_command(one)


def _command(method: Any) -> Callable[..., None]:
    """Return a command whose options are the method's settings."""

    def run(**values: Any) -> None:
        settings = {name: values.pop(name) for name in method.settings.model_fields}
        _apply(method.name, {name: value for name, value in settings.items() if value is not None}, **values)

    own = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                _plain_type(field.default) | None,
                typer.Option(
                    f"--{name.replace('_', '-')}",
                    help=f"{field.description}. Default {field.default}.",
                    rich_help_panel=f"Settings of {method.name}",
                ),
            ],
        )
        for name, field in method.settings.model_fields.items()
    ]
    common = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for name, parameter in inspect.signature(_apply, eval_str=True).parameters.items()
        if name not in ("method", "settings")
    ]
    run.__signature__ = inspect.Signature(common + own)  # type: ignore[attr-defined]
    run.__annotations__ = {}
    return run


def _plain_type(default: object) -> type:
    return type(default) if isinstance(default, bool | int | float) else str


def _apply(
    method: str,
    settings: dict[str, Any],
    checkpoint: Annotated[str, typer.Argument(metavar="CKPT", help="The checkpoint to start from; it is only read.")],
    forget: Annotated[str, typer.Option(help="Forget set: idx.npy, class:3, random:0.1:0, mislabelled, …")],
    out: Annotated[Path, typer.Option(help="The checkpoint to write (.safetensors).")],
    retain: Annotated[str | None, typer.Option(help="Retain set; default: the rest of the training set.")] = None,
    data: Annotated[str | None, typer.Option(help="Data spec; default: what the checkpoint says.")] = None,
    model: Annotated[str | None, typer.Option(help="Model spec; default: what the checkpoint says.")] = None,
    config: Annotated[Path | None, typer.Option(help="Configuration file; flags win over it.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32 (default), tf32 or bf16.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of batches and noise.")] = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Run the method and say what to do next; a method never measures itself."""
    shared = Shared(
        forget=forget,
        retain=retain,
        data=data,
        model=model,
        config=config,
        device=device,
        precision=precision,
        seed=seed,
    )
    request = resolved([checkpoint], shared)
    from unlearn_audit.methods.applying import apply_method

    with progress_bars(quiet=quiet) as progress:
        applied = apply_method(method, out, request, settings, force=force, progress=progress)
    for text in applied.limitations:
        message(f"note: {text}", quiet=quiet)
    message(
        f"wrote {out} ({applied.done.steps} steps, {applied.done.gradient_evaluations} gradients of single examples)",
        quiet=quiet,
    )
    message(f"audit it: unlearn-audit rcd {checkpoint} {out} --forget '{forget}'", quiet=quiet)


def register(app: typer.Typer) -> None:
    """Add the verb under both its names."""
    text = "Remove the influence of a forget set from a checkpoint: `apply METHOD CKPT --forget SPEC --out FILE`."
    for name in ("apply", "unlearn"):
        group = typer.Typer(cls=_Methods, help=text, no_args_is_help=True)
        group.callback()(_nothing)
        app.add_typer(group, name=name, help=text + (" The same as apply." if name == "unlearn" else ""))


def _nothing() -> None:
    """Have a group without options of its own."""
