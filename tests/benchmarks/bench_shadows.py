"""How fast is a fleet? N shadow models against the loop that is usually written, one model after the other.

Both train N small CNNs on mislabelled digits with the demo's recipe (30 epochs, batches of 64, SGD with Nesterov
momentum, cosine schedule after a warm-up), model by model on the same examples and with as many steps; both must fit
what they saw, which is checked. The usual loop has a Dataset that makes a normalised float tensor of each image, a
DataLoader with its defaults and shuffle=True, and torch's own number of threads.

Two pairs are timed, in turns, several times, since other work on the machine hits both arms of a pair alike:

- as run: `shadows run` with its worker processes, against a script that trains all models. Wall time of the commands
  from start to end; then the same without start-up, which for the script is the time until it trains, and for the fleet
  the time until a first worker has claimed its first model (imports, data, plan). The fleet's time holds what it does
  beside training: checkpoints, logits of the whole pool, claims, and the end of its processes.
- in one process, on one thread: the same work by one worker, against the same loop, in seconds of the processor's time.
  No start-up in either; both are warmed up by one epoch. Beside them stand the floor, as many bare steps on one batch
  that is always the same, and a fleet with the recipe "fast", whose models must fit nearly as much.

A run of minutes, not a test:

    OMP_WAIT_POLICY=PASSIVE python tests/benchmarks/bench_shadows.py --count 8 --rounds 3
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from unlearn_audit.checkpoints import read_checkpoint, write_checkpoint
from unlearn_audit.config import Layer, resolve
from unlearn_audit.data import Examples, load_data
from unlearn_audit.engine import one_thread
from unlearn_audit.engine.device import packed
from unlearn_audit.models import load_state
from unlearn_audit.shadows import FleetContext, default_workers, members, open_fleet_context, plan_fleet, work
from unlearn_audit.training import FAST, SMALL, Recipe, describe, new_model
from unlearn_audit.training.descending import optimizer_of

DATA, FORGET = "digits?mislabel=0.1&seed=0", "mislabelled"
FITTED = 0.97  # share of its own examples that a model must have learnt after the demo's recipe
NEARLY = 0.95  # after a third of its steps
COMMAND = "from unlearn_audit.cli import main; main()"


class Seconds(NamedTuple):
    """Wall time of one arm, and how much of it went by before any training."""

    whole: float
    start_up: float = 0.0

    @property
    def without(self) -> float:
        """What is left without start-up."""
        return self.whole - self.start_up


class PerSample(Dataset[tuple[Tensor, Tensor]]):
    """Images one at a time, scaled and normalised as they are asked for."""

    def __init__(self, examples: Examples, mean: float, std: float) -> None:
        self.examples, self.mean, self.std = examples, mean, std

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if index >= len(self):
            raise IndexError(index)
        image = self.examples.images[index]
        if image.dtype == torch.uint8:
            image = image.float() / 255
        return (image - self.mean) / self.std, self.examples.labels[index]


def plan(folder: Path, count: int, recipe: Recipe, named: str | None = None) -> FleetContext:
    """Plan a fleet after a target that has the recipe, or one that is named; it need not be trained for that."""
    data = load_data(DATA)
    folder.mkdir(parents=True)
    metadata = describe("small-cnn", data).model_copy(update={"recipe": recipe.settings(), "role": "original"})
    target = folder / "target.safetensors"
    write_checkpoint(target, new_model("small-cnn", data, 0).state_dict(), metadata, force=False)
    asked = {"checkpoint": [{"path": str(target)}], "forget": FORGET, "device": "cpu"}
    plan_fleet(folder / "shadows", resolve([Layer("flag", asked)]), count=count, recipe=named)
    return open_fleet_context(folder / "shadows")


def usual_training(context: FleetContext, number: int) -> tuple[nn.Module, int]:
    """Train one model the way it is usually written; return it and its number of steps."""
    torch.manual_seed(number)
    recipe = context.plan.training_recipe()
    model = new_model(context.plan.model, context.pooled, number)
    inside = torch.from_numpy(members(context.plan, number, len(context.pool.examples)))
    data = PerSample(context.pool.examples.subset(inside.numpy()), context.plan.mean[0], context.plan.std[0])
    loader = DataLoader(data, batch_size=recipe.batch_size, shuffle=True)
    total = recipe.epochs * len(loader)
    optimizer = torch.optim.SGD(model.parameters(), lr=recipe.step_size, momentum=recipe.momentum, nesterov=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1.0, (step + 1) / (0.05 * total)) * 0.5 * (1 + math.cos(math.pi * step / total)),
    )
    model.train()
    steps = 0
    for _ in range(recipe.epochs):
        for images, labels in loader:
            optimizer.zero_grad()
            torch.autograd.backward(functional.cross_entropy(model(images), labels))
            optimizer.step()
            schedule.step()
            steps += 1
    return model.eval(), steps


def usual(context: FleetContext) -> list[float]:
    """Train all models one after the other; return the share of its own examples that each has learnt."""
    return [learnt(context, number, usual_training(context, number)[0]) for number in range(context.plan.count)]


def learnt(context: FleetContext, number: int, model: nn.Module) -> float:
    """Return the share of a model's own examples that it answers as it was taught."""
    mine = context.pool.examples.subset(members(context.plan, number, len(context.pool.examples)))
    with torch.no_grad():
        answers = model.eval()(context.pooled.transform(mine.images)).argmax(dim=1)
    return float((answers == mine.labels).float().mean())


def learnt_by_fleet(context: FleetContext) -> list[float]:
    """Return the same of the fleet's models."""
    found = []
    for job in context.jobs:
        model = new_model(context.plan.model, context.pooled, 0)
        load_state(model, read_checkpoint(context.folder.model(job)).state, where=str(job.number))
        found.append(learnt(context, job.number, model))
    return found


def check(shares: list[float], recipe: Recipe) -> None:
    """Refuse to time what did not learn."""
    hurried = recipe.name.endswith(FAST)
    least, whole = (NEARLY, 2 * SMALL.epochs // 3) if hurried else (FITTED, SMALL.epochs)
    if recipe.epochs == whole and min(shares) < least:
        raise SystemExit(f"a model learnt {min(shares):.3f} of its examples only, less than {least}")


def timed(action: Callable[[], object]) -> Seconds:
    """Return what something takes of the processor's time: of the clock's, others that compute here have a share."""
    began = time.process_time()
    action()
    return Seconds(time.process_time() - began)


def bare(context: FleetContext) -> None:
    """Take as many steps as the fleet does, with all that a step cannot do without and nothing else."""
    recipe = context.plan.training_recipe()
    inside = members(context.plan, 0, len(context.pool.examples))[: recipe.batch_size]
    mine = context.pool.examples.subset(inside)
    images = packed(context.pooled.transform(mine.images))
    per_epoch = math.ceil((len(context.pool.examples) // 2) / recipe.batch_size)
    for number in range(context.plan.count):
        model = context.compute.to_device(new_model(context.plan.model, context.pooled, number)).train()
        optimizer = optimizer_of(model, recipe)
        for _ in range(recipe.epochs * per_epoch):
            optimizer.zero_grad()
            torch.autograd.backward(functional.cross_entropy(model(images), mine.labels))
            optimizer.step()


def fleet_as_run(context: FleetContext, workers: int) -> Seconds:
    """Time the command, and watch for the first claim."""
    claims, first = context.folder.path / "claims", None
    command = [sys.executable, "-c", COMMAND, "shadows", "run", str(context.folder.path), "--workers", str(workers)]
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            if first is None and any(claims.glob("*.json")):
                first = time.perf_counter() - began
            time.sleep(0.01)
        said = process.stderr.read() if process.stderr else ""
    whole = time.perf_counter() - began
    if process.returncode or first is None:
        raise SystemExit(f"the fleet ended with {process.returncode}: {said}")
    return Seconds(whole, first)


def usual_as_run(context: FleetContext, recipe: Recipe) -> Seconds:
    """Time this file as a script that trains all models and says how long that alone took."""
    command = [sys.executable, __file__, "--usual", str(context.folder.path)]
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    whole = time.perf_counter() - began
    said = json.loads(done.stdout)
    check(said["learnt"], recipe)
    return Seconds(whole, whole - said["seconds"])


class Pair(NamedTuple):
    """Both arms of one round."""

    ours: Seconds
    usual: Seconds


def in_turns(index: int, ours: Callable[[], Seconds], theirs: Callable[[], Seconds]) -> Pair:
    """Time both arms; in every other round the usual loop goes first."""
    if index % 2:
        last = theirs()
        return Pair(ours(), last)
    return Pair(ours(), theirs())


def told(name: str, pairs: list[Pair]) -> str:
    """Return medians in words, and the ratios of the rounds."""
    lines = [f"{name}:"]
    for label in ("whole", "without") if any(pair.ours.start_up for pair in pairs) else ("whole",):
        ours, theirs = ([getattr(each, label) for each in arm] for arm in zip(*pairs, strict=True))
        ratios = sorted(b / a for a, b in zip(ours, theirs, strict=True))
        lines.append(
            f"  {'without start-up' if label == 'without' else label}: ours {statistics.median(ours):.1f} s, "
            f"usual {statistics.median(theirs):.1f} s, ratio {statistics.median(ratios):.2f} "
            f"[{ratios[0]:.2f}, {ratios[-1]:.2f}]"
        )
    return "\n".join(lines) + "\n"


def as_run(folder: Path, count: int, recipe: Recipe, index: int, workers: int | None) -> Pair:
    """Time the commands."""
    context = plan(folder / f"run-{index}", count, recipe)
    size = workers or default_workers(context.compute)
    pair = in_turns(index, lambda: fleet_as_run(context, size), lambda: usual_as_run(context, recipe))
    check(learnt_by_fleet(context), recipe)
    return pair


def in_one_process(folder: Path, count: int, recipe: Recipe, index: int) -> dict[str, Pair]:
    """Time the work without processes, on one thread, after a warm-up: the fleet, the floor, and a fast fleet."""
    warm = plan(folder / f"warm-{index}", 2, Recipe(**recipe.settings() | {"epochs": 1}))
    context = plan(folder / f"alone-{index}", count, recipe)
    fast = plan(folder / f"fast-{index}", count, recipe, FAST)
    with one_thread():
        work(warm)
        usual(warm)
        shares: list[float] = []
        pair = in_turns(
            index, lambda: timed(lambda: work(context)), lambda: timed(lambda: shares.extend(usual(context)))
        )
        floor, hurried = timed(lambda: bare(context)), timed(lambda: work(fast))
    check(shares, recipe)
    for each in (context, fast):
        check(learnt_by_fleet(each), each.plan.training_recipe())
    return {"fleet": pair, "floor": Pair(floor, pair.usual), "fast recipe": Pair(hurried, pair.usual)}


def main() -> None:
    """Print both pairs; with --usual, be the script that is timed."""
    flags = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    flags.add_argument("--count", type=int, default=8)
    flags.add_argument("--epochs", type=int, default=SMALL.epochs)
    flags.add_argument("--rounds", type=int, default=3)
    flags.add_argument("--workers", type=int)
    flags.add_argument("--usual", type=Path, help=argparse.SUPPRESS)
    asked = flags.parse_args()
    if asked.usual:
        context = open_fleet_context(asked.usual)
        began = time.perf_counter()
        shares = usual(context)
        sys.stdout.write(json.dumps({"seconds": time.perf_counter() - began, "learnt": shares}))
        return
    recipe = Recipe(**SMALL.settings() | {"epochs": asked.epochs})
    threads = f"{os.cpu_count()} cores, torch {torch.__version__}"
    sys.stdout.write(f"{asked.count} small CNNs, {recipe.epochs} epochs, {asked.rounds} rounds, {threads}\n")
    with tempfile.TemporaryDirectory() as folder:
        alone = [in_one_process(Path(folder), asked.count, recipe, index) for index in range(asked.rounds)]
        for arm in alone[0]:
            pairs = [each[arm] for each in alone]
            sys.stdout.write(told(f"in one process, one thread, processor's time: {arm}", pairs))
        run = [as_run(Path(folder), asked.count, recipe, index, asked.workers) for index in range(asked.rounds)]
        sys.stdout.write(told("as run, a worker a core", run))


if __name__ == "__main__":
    main()
