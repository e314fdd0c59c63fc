"""`unlearn-audit demo`: everything end to end on embedded data."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from unlearn_audit.cli.console import command_line, draw, message, progress_bars, width
from unlearn_audit.cli.flags import Force, Quiet


def _demo(
    out: Annotated[Path, typer.Option(help="Folder to write into.")] = Path("demo"),
    scenario: Annotated[
        Literal["mislabelled", "random", "class", "partial", "retrained", "generation"],
        typer.Option(
            help="What to forget. partial, retrained: mislabelled examples, and the model called unlearned was trained "
            "anew with a tenth of them, or with none. generation: a class, of a diffusion model (minutes)."
        ),
    ] = "mislabelled",
    seed: Annotated[
        int, typer.Option(help="Random seed; the same seed gives the same report.", min=0, max=10**18 - 1, metavar="N")
    ] = 0,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Train, unlearn and audit a small network on handwritten digits.

    About a minute on two CPU cores; a diffusion model (--scenario generation)
    takes several.

    Writes original, retrained and unlearned checkpoints, the forget set, a
    config and report.json to --out, and ends with commands to try next.
    """
    from unlearn_audit.demo import SCENARIOS, run_demo
    from unlearn_audit.files import check_output_folder

    plan = SCENARIOS[scenario]
    check_output_folder(out, force=force, owned=plan.owned)
    message(f"digits, {plan.story}", quiet=quiet)
    with progress_bars(quiet=quiet) as progress:
        report = run_demo(out, scenario=scenario, seed=seed, force=force, progress=progress)
    from unlearn_audit.render import terminal

    draw(terminal.render(report, width=width()))
    last, ending = tuple(plan.applied)[-1], plan.ending
    names = [f"{name}{ending}" for name in ("original", "retrained-1", last)]
    sys.stdout.write("\n" + _next_commands(out, *names, steps="300" if ending else "20"))


def _next_commands(out: Path, *names: str, steps: str) -> str:
    """Return commands to try next.

    Args:
        out: the demo's folder.
        names: of an original, a retrained and an unlearned checkpoint in it.
        steps: of a longer relearning, as many as take seconds.
    """
    original, retrained, unlearned = (str(out / name) for name in names)
    forget = out / "forget.npy"
    lines = [
        command_line("inspect", unlearned),
        command_line("rcd", unlearned, forget=forget),
        command_line("rcd", original, retrained, unlearned, forget=forget, optimizer="adam", steps=steps),
        command_line("audit", str(out / "unlearn-audit.toml"), out=out / "audit"),
        command_line("show", str(out / "report.json")),
    ]
    return "Try next:\n" + "".join(f"  {line}\n" for line in lines)


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("demo")(_demo)
