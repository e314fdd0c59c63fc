"""`unlearn-audit shadows`: the fleet of shadow models."""

import json
import signal
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from unlearn_audit.cli.console import message, progress_bars
from unlearn_audit.cli.flags import Quiet, Shared, config_layers, flag_values, measuring

__all__ = ["register"]

PANEL = "Fleet"


def _option(text: str, *names: str, metavar: str | None = None) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=PANEL, metavar=metavar)


Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The fleet's folder; it is all there is of a fleet.")]
Checkpoints = Annotated[
    list[str] | None,
    typer.Argument(metavar="[CKPT]...", help="Whose recipe to follow; unlearned ones add their method for ulira."),
]
Count = Annotated[int | None, _option("Models in all, an even number; default 16. A fleet can grow.", metavar="N")]
Queries = Annotated[
    int | None, _option("Views of an image: 1, 2 or 18; default 1, or 2 where the recipe augments.", metavar="N")
]
RecipeName = Annotated[str | None, _option("Recipe, where no checkpoint says one: small or resnet.", "--recipe")]
Epochs = Annotated[int | None, _option("Instead of the recipe's.")]
AllowCode = Annotated[bool, _option("Run the module:callable that the plan names as data or model.", "--allow-code")]


@measuring
def _plan(
    folder: Folder,
    checkpoints: Checkpoints = None,
    count: Count = None,
    queries: Queries = None,
    recipe: RecipeName = None,
    epochs: Epochs = None,
    *,
    shared: Shared,
) -> None:
    """Write down what a fleet is to be, and what it will cost; nothing is trained.

    [bold]Example[/bold]

      unlearn-audit shadows plan shadows/ unlearned.safetensors --forget idx.npy --count 32
    """
    _planned(folder, checkpoints, shared, count, queries, recipe, epochs)
    from unlearn_audit.shadows import open_workshop

    shop = open_workshop(folder, allow_code=True)  # the request that was just planned has named it
    for line in _cost(shop):
        sys.stdout.write(line + "\n")


def _planned(folder: Path, checkpoints: list[str] | None, shared: Shared, *settings: Any) -> bool:
    """Plan the fleet, or take the plan that is there; return whether the request named its models itself."""
    from unlearn_audit.config import resolve
    from unlearn_audit.shadows import plan_fleet

    count, queries, recipe, epochs = settings
    given = bool(checkpoints or shared.original or shared.unlearned)
    layers = config_layers(flag_values(checkpoints or (), shared, {}), shared.config)
    if (folder / "fleet.json").exists() and not given and shared.config is None:
        layers = layers[:1]  # the plan that is there says all; a config found here may be of something else
    request = resolve([
        layer._replace(values={k: v for k, v in layer.values.items() if k not in SECTIONS}) for layer in layers
    ])
    planned = plan_fleet(folder, request, count=count, queries=queries, recipe=recipe, epochs=epochs)
    for line in planned.said:
        message(line, quiet=shared.quiet)
    return bool(request.config.checkpoint)


SECTIONS = ("gaps", "rcd", "truncation", "spectrum", "mia")


def _cost(shop: Any) -> list[str]:
    """Say how many models there will be and what they take."""
    from unlearn_audit.models import flops_per_image
    from unlearn_audit.recipes import new_model

    plan, half = shop.plan, len(shop.pool.examples) // 2
    recipe = plan.training_recipe()
    model = shop.compute.place(new_model(plan.model, shop.pooled, 0, allow_code=shop.allow_code))
    image = shop.pooled.transform(shop.pool.examples.images[:1].to(shop.compute.device))
    flop = 3 * flops_per_image(model, image) * plan.count * half * recipe.epochs
    done = sum(shop.folder.finished(task) for task in shop.tasks)
    return [
        f"{plan.count} x {plan.model}, {recipe.name} recipe, {recipe.epochs} epochs, {half} examples each",
        f"attacked: {len(shop.pool.forget)} forget examples and their twin; {plan.queries} view(s) of each",
        "then unlearned by: " + (", ".join(each.method for each in plan.treatments) or "nothing (no ulira)"),
        f"{plan.count * half * recipe.epochs:,} gradients of single examples, {flop:.2g} FLOP; "
        f"{done} of {len(shop.tasks)} models are there",
        f"next: unlearn-audit shadows run {shop.folder.path}",
    ]


@measuring
def _run(
    folder: Folder,
    checkpoints: Checkpoints = None,
    count: Count = None,
    queries: Queries = None,
    recipe: RecipeName = None,
    epochs: Epochs = None,
    workers: Annotated[int | None, _option("Processes; default: one a GPU, else one a CPU core.")] = None,
    backend: Annotated[
        Literal["local", "ray"], _option("Processes of this machine, or a Ray cluster (extra `ray`).", "--backend")
    ] = "local",
    allow_code: AllowCode = False,
    *,
    shared: Shared,
) -> None:
    """Train the fleet, or go on with it: killed and run again, it loses no finished model.

    [bold]Examples[/bold]

      unlearn-audit shadows run shadows/ original.safetensors unlearned.safetensors --forget idx.npy --count 16

      unlearn-audit shadows run shadows/ --count 32
    """
    named = _planned(folder, checkpoints, shared, count, queries, recipe, epochs)
    from unlearn_audit.shadows import open_workshop, run_on_ray, run_workers

    shop = open_workshop(folder, allow_code=allow_code or named)
    with progress_bars(quiet=shared.quiet) as progress:
        if backend == "ray":
            outcome = run_on_ray(shop, progress=progress)
        else:
            outcome = run_workers(shop, workers=workers, progress=progress)
    total = len(shop.tasks)
    message(
        f"{outcome.done + outcome.reused} of {total} models are there: {outcome.reused} from before, "
        f"{outcome.done} made now in {outcome.seconds:.0f} s",
        quiet=shared.quiet,
    )
    for task, why in outcome.failed.items():
        message(f"shadow {task.number + 1}, {task.kind}: {why}")
    raise typer.Exit(0 if outcome.done + outcome.reused == total else 3)


def _worker(folder: Folder, allow_code: AllowCode = False, quiet: Quiet = False) -> None:
    """Help with a fleet from any machine that sees its folder, until nothing is left to do.

    [bold]Example[/bold]

      unlearn-audit shadows worker shared-disk/shadows/
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # end as on Ctrl-C: let go of the claim, leave no drafts
    from unlearn_audit.shadows import open_workshop, work_until_done

    with progress_bars(quiet=quiet) as progress:
        done = work_until_done(open_workshop(folder, allow_code=allow_code), progress)
    message(f"{done} models made here", quiet=quiet)


def _status(
    folder: Folder,
    format: Annotated[Literal["table", "json"], typer.Option(help="What stdout gets.")] = "table",
    allow_code: AllowCode = False,
) -> None:
    """What is done, what is being worked on and by whom, what failed.

    [bold]Example[/bold]

      unlearn-audit shadows status shadows/
    """
    from unlearn_audit.shadows import open_workshop

    shop = open_workshop(folder, allow_code=allow_code)
    found = [_state_of(shop, task) for task in shop.tasks]
    if format == "json":
        sys.stdout.write(json.dumps({"tasks": found}, indent=1) + "\n")
        return
    for kind in dict.fromkeys(entry["kind"] for entry in found):
        states = [entry["state"] for entry in found if entry["kind"] == kind]
        counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
        sys.stdout.write(f"{kind}: {counts}\n")
    for entry in found:
        if entry["state"] in ("running", "failed"):
            sys.stdout.write(f"shadow {entry['number'] + 1}, {entry['kind']}, {entry['state']}: {entry['note']}\n")


def _state_of(shop: Any, task: Any) -> dict[str, Any]:
    """Return where one task stands."""
    entry = {"id": task.id, "number": task.number, "kind": task.kind, "state": "waiting", "note": ""}
    failure, holder = shop.folder.failed(task), shop.folder.working_on(task)
    if shop.folder.finished(task):
        entry["state"] = "done"
    elif failure is not None:
        entry |= {"state": "failed", "note": failure.message}
    elif holder is not None:
        entry |= {"state": "running", "note": f"on {holder.get('host')}, process {holder.get('pid')}"}
    return entry


def _verify(folder: Folder, allow_code: AllowCode = False, quiet: Quiet = False) -> None:
    """Read every file again and say what is wrong; exit 3 if anything is.

    [bold]Example[/bold]

      unlearn-audit shadows verify shadows/
    """
    from unlearn_audit.shadows import open_workshop, verify

    shop = open_workshop(folder, allow_code=allow_code)
    with progress_bars(quiet=quiet) as progress:
        wrong = verify(shop, progress)
    for line in wrong:
        sys.stdout.write(line + "\n")
    done = sum(shop.folder.finished(task) for task in shop.tasks)
    message(f"{done} of {len(shop.tasks)} models are there, {len(wrong)} problems", quiet=quiet)
    raise typer.Exit(3 if wrong else 0)


def register(app: typer.Typer) -> None:
    """Add the verb with its own verbs."""
    fleet = typer.Typer(no_args_is_help=True, help="Shadow models: plan, run, worker, status, verify.")
    for name, verb in (("plan", _plan), ("run", _run), ("worker", _worker), ("status", _status), ("verify", _verify)):
        fleet.command(name)(verb)
    app.add_typer(fleet, name="shadows")
