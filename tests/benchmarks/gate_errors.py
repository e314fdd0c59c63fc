"""How often does a policy stop a truly retrained model, and how often does it let a leak pass?

For each draw of wrong labels, or of a random tenth, on digits: an original, three retrained models for reference, more
retrained ones that are put before the gate as if they had been unlearned (each stopped one is a false alarm), and three
leaks (each passed one is missed): the original itself, the original fine-tuned for one epoch on the retain set, and the
original taught for one epoch to be unsure on the forget set. One audit a draw; audits are kept, and a policy is applied
to them afterwards, so that trying another one costs nothing. Policies are tuned on one range of draws and reported on
another:

    python tests/benchmarks/gate_errors.py --draws 100:110 --tested 3 --folder kept/ --policy default
    python tests/benchmarks/gate_errors.py --draws 200:225 --tested 2 --folder kept/ --policy default

A run of an hour, no test. "Stopped" is any verdict but passed (or waived); inconclusive stops, too.
"""

import argparse
import contextlib
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from unlearn_audit.audit import run_audit
from unlearn_audit.checkpoints import Metadata, read_checkpoint, write_checkpoint
from unlearn_audit.cli import main as command_line
from unlearn_audit.config import Layer, resolve
from unlearn_audit.data import Dataset, IndexSet, Splits, load_data, make_splits, read_training_indices
from unlearn_audit.engine import prepare
from unlearn_audit.gate import apply_policy, read_policy
from unlearn_audit.metrics import wilson_interval
from unlearn_audit.models import build
from unlearn_audit.recipes import pick_recipe, train_checkpoint
from unlearn_audit.report import AuditReport, read_report, write_report

REFERENCES = 3
SCENARIOS = {
    "mislabelled": ("digits?mislabel=0.1&seed={}", "mislabelled"),
    "random": ("digits", "random:0.1:{}"),
}
LEAKS = ("original", "fine-tuned", "quieted")


class Case(NamedTuple):
    """One draw: its data, its forget set, and where its files are."""

    draw: int
    dataset: Dataset
    forget: IndexSet
    folder: Path
    words: str

    def path(self, name: str) -> Path:
        """Return where a checkpoint is."""
        return self.folder / f"{name}.safetensors"


def open_case(folder: Path, scenario: str, draw: int) -> Case:
    """Load the data of a draw."""
    spec, words = SCENARIOS[scenario]
    dataset, words = load_data(spec.format(draw)), words.format(draw)
    where = folder / (f"draw-{draw}" if scenario == "mislabelled" else f"{scenario}-{draw}")
    where.mkdir(parents=True, exist_ok=True)
    return Case(draw, dataset, read_training_indices(words, dataset), where, words)


def make_models(case: Case, tested: int) -> None:
    """Train what is not there yet, and plant the leaks."""
    recipe, compute = pick_recipe("small", "small-cnn", epochs=30), prepare("cpu")
    names = ["original", *(f"reference-{i}" for i in range(REFERENCES)), *(f"retrained-{i}" for i in range(tested))]
    for number, name in enumerate(names):
        if not case.path(name).exists():
            without, seed = case.forget if number else None, 1000 * case.draw + number
            train_checkpoint(
                case.path(name), "small-cnn", case.dataset, recipe, without=without, seed=seed, compute=compute
            )
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


def audited(case: Case, tested: int) -> AuditReport:
    """Return the report on every model of a draw, made now or before."""
    kept = case.folder / "report.json"
    if not kept.exists():
        make_models(case, tested)
        references = [{"path": str(case.path(f"reference-{i}")), "role": "retrained"} for i in range(REFERENCES)]
        names = [*LEAKS, *(f"retrained-{i}" for i in range(tested))]
        asked: dict[str, Any] = {
            "checkpoint": [
                {"path": str(case.path("original")), "role": "original", "label": "before"},
                *references,
                *({"path": str(case.path(name)), "role": "unlearned"} for name in names),
            ],
            "data": case.dataset.spec,
            "forget": case.words,
            "gaps": {},
            "rcd": {"controls": False},
            "mia": {"attacks": ["loss", "modified-entropy", "quantile"], "worst": 0},
            "device": "cpu",
        }
        request = resolve([Layer("flag", asked, "benchmark")])
        write_report(run_audit(request.config, origins=request.origins), kept)
    return read_report(kept)


class Outcome(NamedTuple):
    """What the gate said of one model: whether it let it pass, and which rules stopped it."""

    draw: int
    kind: str
    passed: bool
    stopped_by: tuple[str, ...]


def outcomes(report: AuditReport, draw: int, policy: Path) -> Iterator[Outcome]:
    """Yield the gate's word on every candidate of a report."""
    decisions = [
        one for one in apply_policy(read_policy(policy), _taken_at_its_word(report)) if one.rule.severity != "warn"
    ]
    for subject in (subject for subject in report.subjects if subject.role == "unlearned"):
        stopped = tuple(
            f"{one.rule.id} ({one.verdict.value})"
            for one in decisions
            if one.subject == subject.label and one.verdict.value not in ("passed", "waived")
        )
        kind = subject.label if subject.label in LEAKS else "retrained"
        yield Outcome(draw, kind, not stopped, stopped)


def _taken_at_its_word(report: AuditReport) -> AuditReport:
    """Return the report without doubts about candidates, whose records say who they are, as no stranger's do."""
    subjects = (
        one.model_copy(update={"doubts": (), "sha256": f"{index:064x}"}) if one.role == "unlearned" else one
        for index, one in enumerate(report.subjects)
    )
    return report.model_copy(update={"subjects": tuple(subjects)})


def told(name: str, count: int, of: int) -> str:
    """Return a share with its interval."""
    bounds = wilson_interval(count, of)
    ends = f" [{bounds.low:.3f}, {bounds.high:.3f}]" if bounds else ""
    return f"{name}: {count} of {of}{ends}"


def print_table(found: list[Outcome]) -> None:
    """Print false alarms and missed leaks, and which rules decided."""
    retrained = [one for one in found if one.kind == "retrained"]
    leaks = [one for one in found if one.kind != "retrained"]
    print(told("false alarms", sum(not one.passed for one in retrained), len(retrained)))
    print(told("missed leaks", sum(one.passed for one in leaks), len(leaks)))
    for kind in LEAKS:
        group = [one for one in leaks if one.kind == kind]
        print("  " + told(f"missed, {kind}", sum(one.passed for one in group), len(group)))
    for kind in ("retrained", *LEAKS):
        counts = Counter(rule for one in found if one.kind == kind for rule in one.stopped_by)
        said = ", ".join(f"{rule} {count}" for rule, count in counts.most_common())
        print(f"  stopped, {kind}: {said or 'none'}")


def main() -> None:
    """Make the models, apply the policy, print the shares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", default="100:110", help="first:end of the seeds that draw the wrong labels")
    parser.add_argument("--scenario", choices=sorted(SCENARIOS), default="mislabelled")
    parser.add_argument("--tested", type=int, default=3, help="retrained models put before the gate in each draw")
    parser.add_argument("--folder", type=Path, required=True, help="where checkpoints and reports are kept")
    parser.add_argument(
        "--policy", type=Path, default=Path("default"), help="a policy's file, or the name of a shipped one"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    first, end = map(int, arguments.draws.split(":"))
    found: list[Outcome] = []
    for draw in range(first, end):
        case = open_case(arguments.folder, arguments.scenario, draw)
        found += outcomes(audited(case, arguments.tested), draw, arguments.policy)
        print(*(f"{one.kind} {'passed' if one.passed else 'stopped'}" for one in found if one.draw == draw), sep=", ")
    print_table(found)


if __name__ == "__main__":
    main()
