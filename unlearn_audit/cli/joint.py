"""`--nproc`: one run on several processes, started by torchrun's own launcher, or joined where one is under way.

All ranks run the same verb, and only the first one prints and writes. A rank that fails by itself takes the others
with it; what all of them come to (a wrong flag, a file that cannot be read) the first one tells.
"""

import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unlearn_audit.cli.console import message
from unlearn_audit.cli.flags import RUN
from unlearn_audit.cli.streams import write_error
from unlearn_audit.errors import AuditError, UsageError

if TYPE_CHECKING:
    from unlearn_audit.engine import Joined

GRACE = 10.0  # seconds in which a rank waits for the first one's word, or for its end by the launcher
ENDED = "the first rank has ended"
OURS = "unlearn-audit"  # in the name of a run that `--nproc` started, whose launcher tells how it ended

Nproc = Annotated[
    int | None,
    typer.Option(
        "--nproc",
        metavar="N",
        min=1,
        help="Share the work out among N processes of one thread each, as torchrun does: the numbers of one process "
        "with OMP_NUM_THREADS=1. Inside torchrun it joins.",
        rich_help_panel=RUN,
    ),
]


@contextmanager
def on_ranks(nproc: int | None, *, quiet: bool) -> Iterator[bool]:
    """Run the block on several processes where that is asked for: each of them runs it.

    Args:
        nproc: how many to start; a run that this process is part of already (WORLD_SIZE, RANK, MASTER_ADDR) is joined.
        quiet: do not say that the others are waited for.

    Yields:
        Whether this process is the one that writes.

    Raises:
        Exit: of the processes that were started, with the first one's code.
    """
    if _is_part():
        with _joined(quiet=quiet) as first:
            yield first
        return
    if nproc is not None and nproc > 1:
        raise typer.Exit(_launched(nproc))
    yield True


def under_launcher() -> bool:
    """Return whether `--nproc` started this process, so that the one which did so says how the run ended."""
    return os.environ.get("TORCHELASTIC_RUN_ID", "").startswith(OURS)


def _is_part() -> bool:
    """Return whether this process was started as one of several."""
    size = os.environ.get("WORLD_SIZE", "1")
    if not {"RANK", "MASTER_ADDR"} <= os.environ.keys():
        return False
    if not size.isdecimal():
        raise UsageError(f"WORLD_SIZE={size} is no number of processes; unset it, or start with torchrun")
    return int(size) > 1


@contextmanager
def _joined(*, quiet: bool) -> Iterator[bool]:
    """Run the block as one rank, and end as it should: the first one speaks for all.

    Yields:
        Whether this is the first one.
    """
    from unlearn_audit.engine import JOIN_WITHIN, join_ranks

    if os.environ["RANK"] == "0" and not under_launcher():
        size, minutes = os.environ["WORLD_SIZE"], JOIN_WITHIN.total_seconds() / 60
        told = (
            f"waiting up to {minutes:g} min for {int(size) - 1} more of the {size} processes of this run (WORLD_SIZE)"
        )
        message(told, quiet=quiet)
    run = join_ranks()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # from here on there is something to put in order
    with _first(run) if run.ranks.rank == 0 else _other(run):
        yield run.ranks.rank == 0


@contextmanager
def _first(run: "Joined") -> Iterator[None]:
    """Leave word when the block ends; where another rank is gone, let whoever started us end this one, too."""
    from unlearn_audit.engine import RankLostError

    try:
        yield
    except RankLostError:
        try:
            time.sleep(GRACE)
        except KeyboardInterrupt:  # it has told why
            raise typer.Exit(3) from None
        raise
    finally:
        run.say(ENDED)


@contextmanager
def _other(run: "Joined") -> Iterator[None]:
    """Keep still, and end well where the first rank ends as well; tell what went wrong here alone."""
    from unlearn_audit.engine import RankLostError

    sys.stdout.flush()
    stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    try:
        yield
    except typer.Exit:
        raise typer.Exit(0) from None
    except BaseException as problem:
        if run.heard(ENDED, GRACE):
            raise typer.Exit(0) from None
        os.dup2(stderr, 2)
        if isinstance(problem, KeyboardInterrupt | RankLostError):  # whoever is at fault, or found it first, tells
            raise typer.Exit(3) from None
        write_error(f"error: rank {run.ranks.rank} of {run.ranks.size}: {type(problem).__name__}: {problem}")
        raise typer.Exit(problem.exit_code if isinstance(problem, AuditError) else 3) from problem


def _launched(nproc: int) -> int:
    """Start this very command on so many processes of this machine; return the exit code."""
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    from unlearn_audit.shadows.pool import PACKAGE, START

    logging.disable()  # what the launcher logs is told here in one line
    os.environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    kept = dict.fromkeys(range(1, nproc), Std.ALL)  # what others than the first one say, from their very start
    with tempfile.TemporaryDirectory() as logs:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=nproc,
            run_id=f"{OURS}-{os.getpid()}",
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            max_restarts=0,
            local_addr="localhost",
            logs_specs=DefaultLogsSpecs(log_dir=logs, redirects=kept),
        )
        try:
            elastic_launch(config, sys.executable)("-P", "-c", START, PACKAGE, *sys.argv[1:])
        except ChildFailedError as problem:
            return _told({rank: failure.exitcode for rank, failure in problem.failures.items()}, nproc, Path(logs))
        except (SignalException, KeyboardInterrupt):
            return 130
    return 0


def _told(codes: dict[int, int], nproc: int, logs: Path) -> int:
    """Return the exit code of ranks that failed; say why where the first one, which speaks for all, cannot."""
    for rank, code in codes.items():
        if code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else "unknown"
            write_error(
                f"error: rank {rank} of {nproc} was killed by signal {-code} ({name}), which ended the whole run"
            )
            return 3
    if 0 in codes:
        return codes[0]
    rank, code = next(iter(codes.items()))
    said = [line for path in sorted(logs.glob(f"**/{rank}/stderr.log")) for line in path.read_text().splitlines()]
    write_error(said[-1] if said else f"error: rank {rank} of {nproc} ended with {code}, which ended the whole run")
    return code
