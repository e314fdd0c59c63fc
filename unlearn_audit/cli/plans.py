"""Plans as tables: what work takes on this machine, and what it would take on GPUs that are not here."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from unlearn_audit.cli.console import draw, message, progress_bars

if TYPE_CHECKING:
    from rich.table import Table

    from unlearn_audit.audit.section_costs import Step
    from unlearn_audit.engine.estimates import Span


def steps_table(steps: Sequence["Step"]) -> "Table":
    """Return the steps of a plan as a table: what is there, what it took, and what the rest takes on this machine."""
    from rich.table import Table

    took = any(step.took is not None for step in steps)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in ("step", "", "gradients", "FLOP", "about", *(["took"] if took else [])):
        table.add_column(heading, justify="left" if heading in ("step", "") else "right")
    for step in steps:
        bound = "≤ " if step.at_most else ""
        cells = (
            "–" if step.gradients is None else f"{bound}{step.gradients:,}",
            "–" if step.flop is None else f"{bound}{step.flop:.2g}",
            "–" if step.seconds is None else bound + duration(step.seconds),
            *(["" if step.took is None else duration(step.took)] if took else []),
        )
        table.add_row(step.name, {True: "there", False: "to do", None: "there, if nothing changed"}[step.there], *cells)
    return table


def duration(seconds: float) -> str:
    """Return seconds as a person says them."""
    for size, name in ((86_400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {name}"
    return f"{seconds:.0f} s"


def tell_relearning(request: Any, *, quiet: bool) -> None:
    """Print what relearning all models would take, here and on GPUs.

    Args:
        request: the resolved configuration.
        quiet: no messages and no progress.
    """
    from unlearn_audit.audit.cost import planned_steps
    from unlearn_audit.engine.estimates import shared

    with progress_bars(quiet=quiet) as progress:
        steps = list(planned_steps(request, None, ("rcd",), progress=progress))
    draw(steps_table(steps))
    run = steps[-1].shared
    if run is None:
        message("with --steps auto, or on generators, the time on GPUs is not known beforehand", quiet=quiet)
        return
    tell_of_gpus(partial(shared, run), request.config.precision)


def tell_of_gpus(takes: "Callable[..., Span]", precision: str) -> None:
    """Print what work would take on known cards, and what that rests on; arguments as those of `gpus_table`."""
    from unlearn_audit.engine.estimates import CARDS

    draw(gpus_table(takes, precision))
    for name, card in CARDS.items():
        draw(f"{name}, not measured here; {card.source}")


def gpus_table(takes: "Callable[..., Span]", precision: str) -> "Table":
    """Return what work would take on known cards, as a table.

    Args:
        takes: card, precision and number of cards, by name -> seconds.
        precision: of the computation.
    """
    from rich.table import Table

    from unlearn_audit.engine.estimates import CARDS, GPUS

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in ("estimated", "share of TFLOP/s", *(f"{count} GPU{'s' * (count > 1)}" for count in GPUS)):
        table.add_column(heading)
    for name, card in CARDS.items():
        rate = card.rates[precision]
        share = f"{rate.low:.0%}–{rate.high:.0%} of {rate.flop / 1e12:g}"
        spans = [takes(card=card, precision=precision, gpus=count) for count in GPUS]
        table.add_row(f"{name}, {precision}", share, *map(_span, spans))
    return table


def _span(span: "Span") -> str:
    """Return a span as a person says it."""
    low, high = duration(span.least), duration(span.most)
    (first, unit), (_, other) = low.split(), high.split()
    return high if low == high else f"{first}–{high}" if unit == other else f"{low} – {high}"
