"""How often does a policy stop a truly retrained model, and how often does it let a leak pass?

For each draw of wrong labels, or of random clean examples to forget: an original, retrained models, each of which is
gated against the others (a stopped one is a false alarm), and three leaks (a passed one is missed): the original
itself, the original fine-tuned for one epoch on the retain set, and the original taught for one epoch to be unsure on
the forget set. One audit a draw; models and audits are kept, and a policy is applied to them afterwards, so that trying
another one costs nothing. Policies are tuned on one range of draws and reported on another:

    python tests/benchmarks/gate_errors.py --draws 200:212 --folder kept/
    python tests/benchmarks/gate_errors.py --data 'idx:DIR?train=10000' --forget random:500 --epochs 10 --steps 20 \\
        --draws 0:2 --folder kept/

A run of an hour or more, no test; `--models` only trains. "Stopped" is any verdict but passed; inconclusive stops, too,
and is counted apart, since it is no claim that anything is left.
"""

import argparse
import contextlib
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from unlearn_audit.audit import run_audit
from unlearn_audit.checkpoints import Metadata, read_checkpoint, write_checkpoint
from unlearn_audit.cli import main as command_line
from unlearn_audit.config import Layer, resolve
from unlearn_audit.data import Dataset, IndexSet, Splits, load_data, make_splits, read_training_indices
from unlearn_audit.engine import setup_device
from unlearn_audit.gate import apply_policy, exit_code, read_policy
from unlearn_audit.metrics import wilson_interval
from unlearn_audit.models import build
from unlearn_audit.report import AuditReport, read_report, write_report
from unlearn_audit.training import pick_recipe, train_checkpoint

LEAKS = ("original", "fine-tuned", "quieted")


class Case(NamedTuple):
    """One draw: its data, its forget set, and where its files are; all sizes of a draw share the original."""

    draw: int
    dataset: Dataset
    forget: IndexSet
    folder: Path
    words: str

    def path(self, name: str) -> Path:
        """Return where a checkpoint is."""
        return (self.folder.parent if name == "original" else self.folder) / f"{name}.safetensors"


def open_case(folder: Path, data: str, forget: str, draw: int) -> Case:
    """Load the data of a draw; random examples are drawn here once and kept as a file."""
    join = "&" if "?" in data else "?"
    dataset = load_data(f"{data}{join}mislabel=0.1&seed={draw}" if forget == "mislabelled" else data)
    where = folder / f"draw-{draw}" / forget.replace(":", "-")
    where.mkdir(parents=True, exist_ok=True)
    if forget != "mislabelled":
        size, drawn = int(forget.removeprefix("random:")), where / "forget.npy"
        if not drawn.exists():
            np.save(drawn, np.random.default_rng([draw, size]).choice(len(dataset.train), size, replace=False))
        forget = str(drawn)
    return Case(draw, dataset, read_training_indices(forget, dataset), where, forget)


def make_models(case: Case, retrained: int, epochs: int) -> None:
    """Train what is not there yet, and plant the leaks."""
    recipe, compute = pick_recipe("small", "small-cnn", epochs=epochs), setup_device("cpu")
    for number, name in enumerate(["original", *(f"retrained-{i}" for i in range(retrained))]):
        if not case.path(name).exists():
            without = case.forget if number else None
            seed = 1000 * case.draw + number + (len(case.forget) * 100_000 if number else 0)
            train_checkpoint(
                case.path(name), "small-cnn", case.dataset, recipe, without=without, seed=seed, compute=compute
            )
            print(f"{case.path(name)} is trained", flush=True)
    if not case.path("fine-tuned").exists():
        with contextlib.suppress(SystemExit):
            sys.argv[1:] = [
                "apply", "ft", str(case.path("original")), "--forget", case.words, "--epochs", "1",
                "--out", str(case.path("fine-tuned")), "--device", "cpu", "--quiet",
            ]  # fmt: skip
            command_line()
    if not case.path("quieted").exists():
        quieted(case, make_splits(case.dataset, case.words))


def quieted(case: Case, splits: Splits) -> None:
    """Teach the original for one epoch to be unsure on the forget set: all that changes is its confidence there."""
    torch.manual_seed(case.draw)
    model: nn.Module = build("small-cnn", classes=10, channels=1)
    parent = read_checkpoint(case.path("original"))
    model.load_state_dict(dict(parent.state))
    transform, model = case.dataset.transform, model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    retain, forget = splits.retain_examples, splits.forget_examples
    forgotten = transform(forget.images)
    for rows in torch.randperm(len(retain)).split(64):
        kept = functional.cross_entropy(model(transform(retain.images[rows])), retain.labels[rows])
        unsure = -functional.log_softmax(model(forgotten[torch.randperm(len(forgotten))[:64]]), dim=1).mean()
        optimizer.zero_grad()
        (kept + unsure).backward()
        optimizer.step()
    metadata = parent.metadata or Metadata()
    told = metadata.model_copy(update={"role": "unlearned"})
    write_checkpoint(case.path("quieted"), model.state_dict(), told, force=False)


def audited(case: Case, retrained: int, epochs: int, steps: int) -> AuditReport:
    """Return the report on every model of a draw, made now or before."""
    kept = case.folder / "report.json"
    if not kept.exists():
        make_models(case, retrained, epochs)
        roles = [("original", "original"), *((f"retrained-{i}", "retrained") for i in range(retrained))]
        roles += [("fine-tuned", "unlearned"), ("quieted", "unlearned")]
        asked: dict[str, Any] = {
            "checkpoint": [{"path": str(case.path(name)), "role": role} for name, role in roles],
            "data": case.dataset.spec,
            "forget": case.words,
            "gaps": {},
            "rcd": {"controls": False, "steps": steps},
            "mia": {"attacks": ["loss", "modified-entropy", "quantile"], "worst": 0},
            "device": "cpu",
        }
        request = resolve([Layer("flag", asked, "benchmark")])
        write_report(run_audit(request.config, origins=request.origins), kept)
    return read_report(kept)


class Outcome(NamedTuple):
    """What the gate said of one model: its exit code, and which rules stopped it."""

    draw: int
    kind: str
    code: int
    stopped_by: tuple[str, ...]


def outcomes(report: AuditReport, draw: int, policy: Path) -> Iterator[Outcome]:
    """Yield the gate's word on every model of a report, gated by its label."""
    rules = read_policy(policy)
    for subject in report.subjects:
        decisions = apply_policy(rules, report, subject=subject.label)
        stopped = tuple(
            f"{one.rule.id} ({one.verdict.value})"
            for one in decisions
            if one.rule.severity != "warn" and one.verdict.value not in ("passed", "waived")
        )
        kind = subject.label if subject.label in LEAKS else "retrained"
        yield Outcome(draw, kind, exit_code(decisions), stopped)


def told(name: str, count: int, of: int) -> str:
    """Return a share with its interval."""
    bounds = wilson_interval(count, of)
    ends = f" [{bounds.low:.3f}, {bounds.high:.3f}]" if bounds else ""
    return f"{name}: {count} of {of}{ends}"


def print_table(found: list[Outcome]) -> None:
    """Print false alarms, inconclusive answers and missed leaks, and which rules decided."""
    retrained = [one for one in found if one.kind == "retrained"]
    leaks = [one for one in found if one.kind != "retrained"]
    print(told("retrained called leaks (exit 1)", sum(one.code == 1 for one in retrained), len(retrained)))
    print(told("retrained stopped in any way", sum(one.code != 0 for one in retrained), len(retrained)))
    print(told("missed leaks", sum(one.code == 0 for one in leaks), len(leaks)))
    for kind in LEAKS:
        codes = [one.code for one in leaks if one.kind == kind]
        print(f"  {told(f'missed, {kind}', codes.count(0), len(codes))}; failed {codes.count(1)}, "
              f"inconclusive {codes.count(4)}")  # fmt: skip
    for kind in ("retrained", *LEAKS):
        counts = Counter(rule for one in found if one.kind == kind for rule in one.stopped_by)
        said = ", ".join(f"{rule} {count}" for rule, count in counts.most_common())
        print(f"  stopped, {kind}: {said or 'none'}")


def main() -> None:
    """Make the models, apply the policy, print the shares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", default="100:110", help="first:end of the seeds that draw the forget sets")
    parser.add_argument("--data", default="digits", help="data spec")
    parser.add_argument("--forget", default="mislabelled", help="mislabelled, or random:SIZE")
    parser.add_argument("--retrained", type=int, default=4, help="retrained models in each draw, each gated in turn")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--steps", type=int, default=100, help="K")
    parser.add_argument("--models", action="store_true", help="train what is missing, and stop")
    parser.add_argument("--folder", type=Path, required=True, help="where checkpoints and reports are kept")
    parser.add_argument(
        "--policy", type=Path, default=Path("default"), help="a policy's file, or the name of a shipped one"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    first, end = map(int, arguments.draws.split(":"))
    found: list[Outcome] = []
    for draw in range(first, end):
        case = open_case(arguments.folder, arguments.data, arguments.forget, draw)
        if arguments.models:
            make_models(case, arguments.retrained, arguments.epochs)
            continue
        report = audited(case, arguments.retrained, arguments.epochs, arguments.steps)
        found += outcomes(report, draw, arguments.policy)
        print(*(f"{one.kind} {one.code}" for one in found if one.draw == draw), sep=", ", flush=True)
    if found:
        print_table(found)


if __name__ == "__main__":
    main()
