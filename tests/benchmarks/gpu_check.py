"""One command for whoever has a GPU: does it compute what the CPU does, does anything wait for it, and how fast is it?

    python tests/benchmarks/gpu_check.py                      # five minutes on a GPU; gpu_check.json and a table
    python tests/benchmarks/gpu_check.py --device cpu         # the same at toy size: what CI runs

First whether relearning curves, logits and what every method adds to the weights are the CPU's, within limits that
are stated (`gpu_parity.py`); then how often a step waits for the device; then speeds as a share of the floor and
against the usual loops, and what CUDA graphs, compiling and repeatable kernels gain or cost (`gpu_speed.py`). Parts for
which no time is left, and parts that a CPU cannot have, are null with the reason. It ends with 1 where a limit is
broken or a part failed, else with 0: a speed below its aim is told, and fails nothing.
"""

import argparse
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import gpu_parity
import gpu_speed
import torch
from gpu_speed import FULL, TOY, Figure, Size

import unlearn_audit
from unlearn_audit import catalogue
from unlearn_audit.data import make_splits
from unlearn_audit.engine import Device, setup_device
from unlearn_audit.files import atomic_write
from unlearn_audit.methods import UnlearningContext
from unlearn_audit.methods.ieu import IeuSettings, run_ieu
from unlearn_audit.relearning import Run, relearn
from unlearn_audit.training import new_model

WAITS_AIM = "<= .25"  # of one step: a look at every twentieth step waits a few times
ASKED_OF_DRIVER = ("driver_version", "clocks.sm", "clocks.max.sm", "clocks.mem", "power.limit", "temperature.gpu")


class Machine(NamedTuple):
    """What was measured on."""

    card: str
    told: dict[str, Any]


def machine(device: Device) -> Machine:
    """Return what the device and its surroundings say of themselves."""
    told: dict[str, Any] = {
        "device": str(device.device), "python": platform.python_version(), "torch": torch.__version__,
        "tool": unlearn_audit.__version__, "threads": torch.get_num_threads(), "cores": os.cpu_count(),
        "processor": platform.processor() or platform.machine(), "driver": None,
    }  # fmt: skip
    if device.device.type != "cuda":
        return Machine("cpu", told | {"card": None, "reason": "no CUDA device is measured"})
    found = torch.cuda.get_device_properties(device.device)
    told |= {
        "card": found.name, "capability": f"{found.major}.{found.minor}", "memory_bytes": found.total_memory,
        "multiprocessors": found.multi_processor_count, "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(), "driver": asked_of_driver(device),
    }  # fmt: skip
    return Machine(found.name, told)


def asked_of_driver(device: Device) -> dict[str, str] | str:
    """Return driver, clocks, limits and temperature as nvidia-smi tells them, or why it does not."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return "nvidia-smi is not installed"
    asked = [
        command,
        f"--query-gpu={','.join(ASKED_OF_DRIVER)}",
        "--format=csv,noheader",
        "-i",
        str(device.device.index or 0),
    ]
    try:
        said = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError) as problem:
        return f"nvidia-smi: {problem}"
    return dict(zip(ASKED_OF_DRIVER, (part.strip() for part in said.strip().split(",")), strict=False))


def parity(device: Device, size: Size, names: Sequence[str]) -> Iterator[Figure]:
    """Compare with the CPU.

    Yields:
        A figure with a limit for each comparison.
    """
    for found in chain(gpu_parity.curves(device, spec=size.curves), gpu_parity.updates(device, names)):
        if isinstance(found, gpu_parity.Compared):
            finite = math.isfinite(found.difference)
            yield Figure(
                found.name, found.difference if finite else None, "relative", limit=found.limit, how=found.how,
                reason=None if finite else "one of the two is not finite",
            )  # fmt: skip
        else:
            yield Figure(found[0], None, "relative", reason=found[1])


def waits(device: Device) -> Iterator[Figure]:
    """Count how often the host waits for the device in a step: in runs of 60 steps beyond those in runs of 20.

    Yields:
        A figure for relearning, and one for unlearning.
    """
    data = gpu_speed.noise(400, 8)
    splits = make_splits(data, "range:0-39")
    model = device.to_device(new_model("small-cnn", data, 0))
    run = Run(model, splits.forget_examples, data.transform)
    context = UnlearningContext(model, data.transform, splits, device, seed=0)
    arms: dict[str, Callable[[int], object]] = {
        "rcd": lambda steps: relearn(run, steps=steps, step_size=1e-3, compute=device),
        "ieu": lambda steps: run_ieu(context, IeuSettings(alpha=0.999, c=1e-3, steps=steps, step_size=1e-4)),
    }
    for name, arm in arms.items():
        arm(20)  # what happens once
        share = (waited(arm, 60) - waited(arm, 20)) / 40
        yield Figure(f"waits.{name}", share, "a step", aim=WAITS_AIM, how="warnings of torch's synchronisation check")


def waited(arm: Callable[[int], object], steps: int) -> int:
    """Return how many calls of a run waited for the device."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            arm(steps)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing CUDA operation" in str(each.message) for each in caught)


class Part(NamedTuple):
    """A part of the check: what it is called, what makes its figures, and whether a CPU can have it."""

    name: str
    make: Callable[[], Iterable[Figure]]
    on_cpu: bool = True


def parts(device: Device, size: Size, card: str, names: Sequence[str]) -> tuple[Part, ...]:
    """Return everything that is checked, what matters most first."""
    measured: dict[str, float] = {}

    def rates() -> Iterator[Figure]:
        for figure in gpu_speed.rates(device, size, card):
            measured[figure.name.removeprefix("product.")] = (figure.value or 0.0) * 1e12
            yield figure

    return (
        Part("product", rates),
        Part("parity", lambda: parity(device, size, names)),
        Part("waits", lambda: waits(device), on_cpu=False),
        Part("rcd", lambda: gpu_speed.relearning(device, size, card, measured)),
        Part("ieu", lambda: gpu_speed.stepping(device, size)),
        Part("determinism", lambda: gpu_speed.determinism(device, size)),
        Part("shadow", lambda: gpu_speed.shadows(device, size)),
        Part("graph", lambda: gpu_speed.gains(device, size, "graph"), on_cpu=False),
        Part("compile", lambda: gpu_speed.gains(device, size, "compile"), on_cpu=False),
    )


def figures(part: Part, device: Device, until: float) -> Iterator[Figure]:
    """Yield what a part finds; whatever goes wrong in it is a figure, too, and the other parts go on."""
    if device.device.type == "cpu" and not part.on_cpu:
        yield Figure(part.name, None, reason="needs a CUDA device", excused=True)
        return
    late = Figure(f"{part.name}.rest", None, reason="no time was left (--minutes)", excused=True)
    if time.monotonic() > until:
        yield late
        return
    try:
        for figure in part.make():
            yield figure
            if time.monotonic() > until:
                yield late
                return
    except Exception as problem:  # one part that fails must not cost the rest of borrowed time
        yield Figure(part.name, None, reason=f"{type(problem).__name__}: {problem}")


def faults(found: Sequence[Figure]) -> list[str]:
    """Return which figures are beyond their limit or missing without excuse."""
    return [
        each.name
        for each in found
        if (each.value is None and not each.excused)
        or (each.value is not None and each.limit is not None and not each.value <= each.limit)
    ]


def line(figure: Figure) -> str:
    """Return a figure as a row of the table, at most 80 columns wide."""
    if figure.value is None:
        return f"{figure.name:28.28s} null: {' '.join((figure.reason or '').split())}"[:80]
    told = "" if figure.limit is None else f"limit {figure.limit:.1e}"
    told = told if figure.low is None else f"[{figure.low:.4g}, {figure.high:.4g}]"
    return f"{figure.name:28.28s} {figure.value:10.4g} {figure.unit:9.9s} {told:20s} {figure.aim}".rstrip()[:80]


def main(arguments: Sequence[str] | None = None) -> int:
    """Check, print the table, write the JSON; return the exit code."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--device", default="auto")
    flags.add_argument("--size", choices=["auto", "full", "toy"], default="auto", help="auto: full on a GPU, else toy")
    flags.add_argument("--minutes", type=float, default=5.0, help="after which nothing new is begun")
    flags.add_argument("--methods", nargs="+", default=list(catalogue.METHODS), choices=list(catalogue.METHODS))
    flags.add_argument("--out", type=Path, default=Path("gpu_check.json"))
    asked = flags.parse_args(arguments)
    device = setup_device(asked.device)
    full = asked.size == "full" or (asked.size == "auto" and device.device.type == "cuda")
    size, found, began = FULL if full else TOY, [], time.monotonic()
    of = machine(device)
    for part in parts(device, size, of.card, asked.methods):
        for figure in figures(part, device, began + 60 * asked.minutes):
            found.append(figure)
            sys.stdout.write(f"{line(figure)}\n")
            sys.stdout.flush()
    wrong = faults(found)
    after = asked_of_driver(device) if device.device.type == "cuda" else None
    document = {
        "schema_version": 1, "created_at": datetime.now(UTC).isoformat(timespec="seconds"), "passed": not wrong,
        "faults": wrong, "size": "full" if full else "toy", "seconds": round(time.monotonic() - began, 1),
        "machine": of.told | {"driver_after": after}, "settings": size._asdict(),
        "figures": [each._asdict() for each in found],
    }  # fmt: skip
    atomic_write(asked.out, json.dumps(document, indent=1, allow_nan=False).encode())
    sys.stdout.write(f"{'failed: ' + ', '.join(wrong) if wrong else 'passed'}; {document['seconds']} s; {asked.out}\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
