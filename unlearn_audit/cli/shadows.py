"""`unlearn-audit shadows`: the fleet of shadow models."""

import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from unlearn_audit.catalogue import SECTION_TITLES
from unlearn_audit.cli.backends import Address, Backend, check_address
from unlearn_audit.cli.console import command_line, message, progress_bars
from unlearn_audit.cli.flags import Quiet, Shared, config_layers, flag_values, measuring
from unlearn_audit.cli.plans import tell_of_gpus
from unlearn_audit.cli.until_settled import run_until_settled

if TYPE_CHECKING:
    from unlearn_audit.shadows import FleetContext, FleetRun

PANEL = "Fleet"


def _option(text: str, *names: str, metavar: str | None = None, least: int | None = None) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=PANEL, metavar=metavar, min=least)


Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The fleet's folder, which holds all of its state.")]
Checkpoints = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[CKPT]...", help="Checkpoints whose recipe to follow; unlearned ones add their method for ulira."
    ),
]
Count = Annotated[int | None, _option("Total number of models, even; default 16. A fleet can grow.", metavar="N")]
Queries = Annotated[
    int | None, _option("Views per image: 1, 2 or 18; default 1, or 2 if the recipe augments.", metavar="N")
]
RecipeName = Annotated[
    str | None,
    _option(
        "Recipe, if no checkpoint records one: small or resnet; or fast: the recorded one in a third of its steps, "
        "for a first look.",
        "--recipe",
    ),
]
Epochs = Annotated[int | None, _option("Epochs, instead of the recipe's.", least=1)]
AllowCode = Annotated[bool, _option("Allow the plan's data and model to be module:callable code.", "--allow-code")]


@measuring
def _plan(
    folder: Folder,
    checkpoints: Checkpoints = None,
    count: Count = None,
    queries: Queries = None,
    recipe: RecipeName = None,
    epochs: Epochs = None,
    allow_code: AllowCode = False,
    *,
    shared: Shared,
) -> None:
    r"""Write down what a fleet is to be, and what it will cost; nothing is trained.

    What it would take on 1, 8 and 64 GPUs is an estimate from stated rates.

    [bold]Example[/bold]

      unlearn-audit shadows plan shadows/ u.safetensors --forget idx.npy \
        --count 32
    """
    context = _planned(folder, checkpoints, shared, count, queries, recipe, epochs, allow_code=allow_code)
    work = _work_left(context)
    for line in _cost(context, work):
        sys.stdout.write(line + "\n")
    _tell_of_gpus(context, work)


def _planned(
    folder: Path, checkpoints: list[str] | None, shared: Shared, *settings: Any, allow_code: bool
) -> "FleetContext":
    """Plan the fleet, or take the plan that is there, and say what of it is done already."""
    from unlearn_audit.config import resolve
    from unlearn_audit.shadows import open_fleet_context, plan_fleet

    count, queries, recipe, epochs = settings
    given = bool(checkpoints or shared.original or shared.unlearned)
    layers = config_layers(flag_values(checkpoints or (), shared, {}), shared.config)
    if (folder / "fleet.json").exists() and not given and shared.config is None:
        layers = layers[:1]  # the plan that is there says all; a config found here may be of something else
    request = resolve([
        layer._replace(values={k: v for k, v in layer.values.items() if k not in SECTION_TITLES}) for layer in layers
    ])
    planned = plan_fleet(folder, request, count=count, queries=queries, recipe=recipe, epochs=epochs)
    # What a request names it may run; a plan that merely lies there is a file, and must not choose code.
    context = open_fleet_context(folder, allow_code=allow_code or bool(request.config.checkpoint))
    for line in (*planned.said, *_reused(context)):
        message(line, quiet=shared.quiet)
    return context


def _reused(context: "FleetContext") -> list[str]:
    """Say which models are there already, and which are not."""
    told = []
    for kind in dict.fromkeys(job.kind for job in context.jobs):
        own = [job for job in context.jobs if job.kind == kind]
        there = sum(context.folder.finished(job) for job in own)
        told.append(f"{kind}: {there} of {len(own)} models are there and are reused, {len(own) - there} are to be made")
    return told if any(context.folder.finished(job) for job in context.jobs) else []


def _attacked(context: "FleetContext") -> str:
    """Return how many forget examples are attacked, and of how many, where it is not all of them."""
    attacked, whole = len(context.pool.forget), len(context.splits.forget)
    return str(attacked) if attacked == whole else f"{attacked} of {whole}"


class _Work(NamedTuple):
    """What is left to do of one kind: models, gradients of single examples and operations of each model."""

    kind: str
    models: int
    gradients: int
    flop: float


def _work_left(context: "FleetContext") -> list[_Work]:
    """Return what is left to do."""
    from unlearn_audit import models
    from unlearn_audit.shadows import expected_gradients
    from unlearn_audit.training import new_model

    plan = context.plan
    model = new_model(plan.model, context.pooled, 0, allow_code=context.allow_code, compute=context.compute)
    image = context.pooled.transform(context.pool.examples.images[:1].to(context.compute.device))
    price, found = 3 * models.flops_per_image(model, image), []
    for kind in dict.fromkeys(job.kind for job in context.jobs):
        left = [job for job in context.jobs if job.kind == kind and not context.folder.model(job).exists()]
        gradients = expected_gradients(context, left[0]) if left else 0
        found.append(_Work(kind, len(left), gradients, price * gradients))
    return found


def _cost(context: "FleetContext", work: Sequence[_Work]) -> list[str]:
    """Say how many models there will be and what making them takes."""
    from unlearn_audit import data, models

    plan, half, recipe = context.plan, len(context.pool.examples) // 2, context.plan.training_recipe()
    told = [
        f"{plan.count} x {plan.model}, {recipe.name} recipe, {recipe.epochs} epochs, {half} examples each",
        f"attacked: {_attacked(context)} forget examples and their twin; {plan.queries} view(s) of each",
        "then unlearned by: " + (", ".join(each.method for each in plan.treatments) or "nothing (no ulira)"),
    ]
    told += [
        f"to do, {kind}: {count} models, about {count * gradients:,} gradients of single examples, "
        f"{count * flop:.2g} FLOP"
        for kind, count, gradients, flop in work
    ]
    done = sum(context.folder.finished(job) for job in context.jobs)
    runs_code = data.is_code(plan.data) or models.is_code(plan.model)
    return [
        *told,
        f"{done} of {len(context.jobs)} models are there",
        "next: " + command_line("shadows", "run", str(context.folder.path), allow_code=runs_code),
    ]


def _tell_of_gpus(context: "FleetContext", work: Sequence[_Work]) -> None:
    """Say what the work would take on GPUs."""
    from unlearn_audit.engine.estimates import Span, in_turn, independent

    left = [each for each in work if each.models and each.flop]
    if left:

        def takes(**on: Any) -> Span:
            return in_turn(independent(each.models, each.flop, **on) for each in left)

        tell_of_gpus(takes, context.plan.precision)


@measuring
def _run(
    folder: Folder,
    checkpoints: Checkpoints = None,
    count: Count = None,
    queries: Queries = None,
    recipe: RecipeName = None,
    epochs: Epochs = None,
    workers: Annotated[
        int | None, _option("Number of processes; default: one per GPU, else one per CPU core.", least=1)
    ] = None,
    backend: Backend = "local",
    address: Address = None,
    until_settled: Annotated[
        bool,
        _option(
            "Grow the fleet to 4, 8, 16, … models, at most --count (default 32), until ulira's difference between "
            "the unlearned model and the retrained ones is seen, or lies within --margin. Where more are planned "
            "already, all of these are made before the first look.",
            "--until-settled",
        ),
    ] = False,
    margin: Annotated[
        float, typer.Option(help="Of that difference, as an AUC.", rich_help_panel=PANEL, min=0.001, max=0.5)
    ] = 0.15,
    allow_code: AllowCode = False,
    *,
    shared: Shared,
) -> None:
    r"""Train the fleet, or go on with it: killed and run again, it loses no finished model.

    What is there already is reused, also where the plan has grown since. Exit 3
    if a model could not be made; the others are made all the same.

    --until-settled takes three or more retrained models beside the unlearned
    one: files that say so themselves, as `train --without` writes them, or each
    named with --retrained FILE. Exit 4 where the verdict stays open.

    [bold]Examples[/bold]

      unlearn-audit shadows run shadows/ u.safetensors --forget idx.npy --count 16

      unlearn-audit shadows run shadows/ --count 32

      unlearn-audit shadows run shadows/ u.safetensors r*.safetensors \
        --forget idx.npy --until-settled

      unlearn-audit shadows run shared/shadows/ --backend ray --address auto
    """
    from unlearn_audit.shadows import read_plan, run_on_ray, run_workers

    check_address(address, backend)

    def plan(models: int | None) -> "FleetContext":
        if until_settled and models is not None and (folder / "fleet.json").exists():
            models = max(models, read_plan(folder).count)
        return _planned(folder, checkpoints, shared, models, queries, recipe, epochs, allow_code=allow_code)

    def make(context: "FleetContext") -> int:
        with progress_bars(quiet=shared.quiet) as progress:
            if backend == "ray":
                outcome = run_on_ray(context, workers=workers, address=address, progress=progress)
            else:
                outcome = run_workers(context, workers=workers, progress=progress)
        return _told(context, outcome, quiet=shared.quiet)

    if until_settled:
        run_until_settled(folder, checkpoints, shared, most=count, margin=margin, plan=plan, make=make)
    raise typer.Exit(make(plan(count)))


def _told(context: "FleetContext", outcome: "FleetRun", *, quiet: bool) -> int:
    """Say what became of the tasks; return the exit code."""
    from unlearn_audit.render.untrusted import brief

    total = len(context.jobs)
    message(
        f"{outcome.done + outcome.reused} of {total} models are there: {outcome.reused} from before, "
        f"{outcome.done} made now in {outcome.seconds:.0f} s",
        quiet=quiet,
    )
    for job, why in outcome.failed:
        record = context.folder.failure(job)
        message(brief(f"shadow {job.number + 1}, {job.kind}: {why}; to have it tried again, remove {record}"))
    if outcome.waiting:
        message(f"{outcome.waiting} models wait for one of these")
    return 0 if outcome.done + outcome.reused == total else 3


def _end_with_stdin() -> None:
    """End this process once whoever holds the other end of its stdin is gone."""
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _worker(
    folder: Folder,
    allow_code: AllowCode = False,
    quiet: Quiet = False,
    crew: Annotated[bool, typer.Option("--crew", hidden=True, help="End when stdin ends.")] = False,
) -> None:
    """Help with a fleet from any machine that sees its folder, until nothing is left to do.

    [bold]Example[/bold]

      unlearn-audit shadows worker shared-disk/shadows/
    """
    if crew:
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    from unlearn_audit.engine import one_thread
    from unlearn_audit.shadows import open_fleet_context, work_until_done

    context = open_fleet_context(folder, allow_code=allow_code)
    threads = nullcontext() if "OMP_NUM_THREADS" in os.environ else one_thread()  # as all the fleet's workers
    with threads, progress_bars(quiet=quiet) as progress:
        done = work_until_done(context, progress)
    message(f"{done} models made here", quiet=quiet)


def _status(
    folder: Folder,
    format: Annotated[Literal["table", "json"], typer.Option(help="Format of stdout.")] = "table",
    allow_code: AllowCode = False,
) -> None:
    """What is done, what is being worked on and by whom, what failed.

    [bold]Example[/bold]

      unlearn-audit shadows status shadows/
    """
    from unlearn_audit.render.untrusted import brief
    from unlearn_audit.shadows import open_fleet_context

    context = open_fleet_context(folder, allow_code=allow_code)
    found = [_state_of(context, job) for job in context.jobs]
    if format == "json":
        sys.stdout.write(json.dumps({"tasks": found}, indent=1) + "\n")
        return
    for kind in dict.fromkeys(entry["kind"] for entry in found):
        states = [entry["state"] for entry in found if entry["kind"] == kind]
        counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
        sys.stdout.write(f"{kind}: {counts}\n")
    for entry in found:
        if entry["state"] in ("running", "failed"):
            told = f"shadow {entry['number'] + 1}, {entry['kind']}, {entry['state']}: {entry['note']}"
            sys.stdout.write(brief(told) + "\n")


def _state_of(context: Any, job: Any) -> dict[str, Any]:
    """Return where one job stands."""
    entry = {"id": job.id, "number": job.number, "kind": job.kind, "state": "waiting", "note": ""}
    failure, holder = context.folder.failed(job), context.folder.working_on(job)
    if context.folder.finished(job):
        entry["state"] = "done"
    elif failure is not None:
        entry |= {"state": "failed", "note": failure.message}
    elif holder is not None:
        entry |= {"state": "running", "note": f"on {holder.get('host')}, process {holder.get('pid')}"}
    return entry


def _verify(
    folder: Folder,
    remove: Annotated[
        bool, _option("Remove damaged files, so that `shadows run` makes them again.", "--remove")
    ] = False,
    allow_code: AllowCode = False,
    quiet: Quiet = False,
) -> None:
    """Read every file again and say what is wrong; exit 3 if anything is.

    [bold]Examples[/bold]

      unlearn-audit shadows verify shadows/

      unlearn-audit shadows verify shadows/ --remove
    """
    from unlearn_audit.render.untrusted import brief
    from unlearn_audit.shadows import open_fleet_context, remove_damaged, verify

    context = open_fleet_context(folder, allow_code=allow_code)
    with progress_bars(quiet=quiet) as progress:
        wrong = verify(context, progress)
    for damage in wrong:
        sys.stdout.write(brief(damage.told) + "\n")
    removed = remove_damaged(wrong) if remove else 0
    done = sum(context.folder.finished(job) for job in context.jobs)
    message(f"{done} of {len(context.jobs)} models are there, {len(wrong)} problems", quiet=quiet)
    if any(damage.files for damage in wrong):
        first = (
            f"{removed} files removed" if remove else f"`shadows verify {folder} --remove` removes the damaged files"
        )
        message(f"{first}; `unlearn-audit shadows run {folder}` makes them anew", quiet=quiet)
    raise typer.Exit(3 if wrong else 0)


def register(app: typer.Typer) -> None:
    """Add the verb with its own verbs."""
    fleet = typer.Typer(no_args_is_help=True, help="Shadow models: plan, run, worker, status, verify.")
    for name, verb in (("plan", _plan), ("run", _run), ("worker", _worker), ("status", _status), ("verify", _verify)):
        fleet.command(name)(verb)
    app.add_typer(fleet, name="shadows")
