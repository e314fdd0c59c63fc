"""`unlearn-audit audit`: everything that a config asks for, one report."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from unlearn_audit.cli.backends import Address, Backend, check_address
from unlearn_audit.cli.console import draw, message, progress_bars
from unlearn_audit.cli.flags import Shared, config_layers, flag_values, measuring
from unlearn_audit.cli.measure import audit_and_emit
from unlearn_audit.cli.plans import duration, steps_table
from unlearn_audit.errors import UsageError


@measuring
def _audit(
    path: Annotated[Path, typer.Argument(metavar="CONFIG", help="The config: unlearn-audit.toml.")],
    only: Annotated[str | None, typer.Option(help="Only these sections: rcd,mia.")] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Show what would be done and how long it would take, without doing it.")
    ] = False,
    retrain: Annotated[
        int, typer.Option(help="Train this many more models without the forget set, with the original's recipe.", min=0)
    ] = 0,
    recipe: Annotated[
        str | None, typer.Option(help="Recipe for --retrain: small or resnet; default: the original's.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs for --retrain; default: the recipe's.", min=1)] = None,
    fresh: Annotated[
        bool,
        typer.Option("--fresh", help="First remove the models and measurements that an earlier run left in --out."),
    ] = False,
    backend: Backend = "local",
    address: Address = None,
    *,
    shared: Shared,
) -> None:
    """Make the models that a config asks for, run every measurement that it has a section for, write one report.

    Killed at any point and run again with the same --out, it goes on where it
    was: models and measurements that are finished are found there. With another
    section or model in the config only that is new (--force replaces the report,
    not the parts). With --backend ray models that do not need each other are
    made at once, each on one CPU thread; measuring is this process's.

    [bold]Examples[/bold]

      unlearn-audit audit demo/unlearn-audit.toml --out report/

      unlearn-audit audit unlearn-audit.toml --out report/ --retrain 3

      unlearn-audit audit comparison.toml --out comparison/ --plan

      unlearn-audit audit comparison.toml --out comparison/ --only rcd,mia

      unlearn-audit audit sweep.toml --out shared/sweep/ --backend ray
    """
    from unlearn_audit.config import resolve
    from unlearn_audit.config.early import refuse_early

    check_address(address, backend)
    request = resolve(config_layers(flag_values((), shared, {}), path))
    refuse_early(request.config)
    if not retrain and (recipe or epochs):
        raise UsageError("--recipe and --epochs require --retrain N")
    if retrain:
        from unlearn_audit.audit.build_models import with_retrained

        request = with_retrained(request, retrain, recipe=recipe, epochs=epochs)
    if any(entry.method == "retrain" for entry in request.config.apply):
        from unlearn_audit.audit.build_models import assumed_recipes

        for text in assumed_recipes(request):
            message(f"note: {text}", quiet=shared.quiet)
    sections = tuple(part.strip() for part in only.split(",")) if only else ()
    if plan:
        _tell_plan(request, shared, sections)
        return
    if (request.config.train or request.config.apply) and shared.out is None:
        raise UsageError("models are to be made ([[train]], [[apply]] or --retrain); name a folder for them with --out")
    from unlearn_audit.audit import sections_asked

    sections_asked(request.config, sections)  # refused before any model is made
    spread = partial(_on_ray, address) if backend == "ray" else None
    audit_and_emit(request, shared, only=sections, makes=True, fresh=fresh, spread=spread)


def _on_ray(address: str | None, request: Any, folder: Path, progress: Any) -> None:
    """Make the models on a cluster."""
    from unlearn_audit.audit.models_apart import make_models_on_ray

    make_models_on_ray(request, folder, address=address, progress=progress)


def _tell_plan(request: Any, shared: Shared, sections: tuple[str, ...]) -> None:
    """Print what would be done, and where some of it was done here, how far the estimates were from what it took."""
    from unlearn_audit.audit import sections_asked
    from unlearn_audit.audit.cost import planned_steps

    asked = sections_asked(request.config, sections)
    with progress_bars(quiet=shared.quiet) as progress:
        planned = planned_steps(request, shared.out or Path(), asked, whole=not sections, progress=progress)
        steps = list(planned)
    draw(steps_table(steps))
    known = [step for step in steps if step.seconds is not None and not step.there]
    at_most = " at most" if any(step.at_most for step in known) else ""
    total = duration(sum(step.seconds or 0 for step in known))
    message(f"about {total}{at_most} for the parts that can be estimated", quiet=shared.quiet)
    done = [step for step in known if step.took is not None]
    if done:
        said, took = (
            sum(seconds) for seconds in zip(*((one.seconds or 0, one.took or 0) for one in done), strict=True)
        )
        message(f"estimated {duration(said)}, took {duration(took)}: {', '.join(step.name for step in done)}",
                quiet=shared.quiet)  # fmt: skip


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("audit")(_audit)
