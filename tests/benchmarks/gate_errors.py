"""How often does a policy stop a truly retrained model, and how often does it let a leak pass?

For each draw of what is to be forgotten (wrong labels, a class, random clean examples): an original, retrained models,
each of which is gated against the others (a stopped one is a false alarm), and leaks of a known kind (a passed one is
missed; `gate_models.py` has the kinds). One audit a draw; models and audits are kept, so that a run goes on where it
was, and a policy is applied to them afterwards, so that trying another one costs nothing. Policies are tuned on one
range of draws and reported on another:

    python tests/benchmarks/gate_errors.py --folder kept/digits --forget mislabelled --draws 300:315
    python tests/benchmarks/gate_errors.py --folder kept/fashion --data 'idx:DIR?train=4000' --forget random:500 \\
        --epochs 10 --steps 20 --draws 300:304
    python tests/benchmarks/gate_errors.py --folder kept/digits --folder kept/fashion --table

The last one prints the table of everything that is kept. A run of hours, no test; `--models` only trains. "Stopped" is
any verdict but passed; inconclusive stops, too, and is counted apart, since it is no claim that anything is left.
"""

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from gate_models import LEAKS, RETRAINED, Case, make_models, open_case

from unlearn_audit.audit import audit_checkpoints
from unlearn_audit.audit.cache import ResultCache
from unlearn_audit.config import Layer, resolve
from unlearn_audit.gate import apply_policy, exit_code, read_policy
from unlearn_audit.metrics import wilson_interval
from unlearn_audit.report import AuditReport, read_report, write_report

REPORT = "audit.json"


def audited(case: Case, steps: int) -> AuditReport:
    """Return the report on every model of a draw, made now or before."""
    kept = case.folder / REPORT
    if not kept.exists():
        for made in make_models(case):
            print(f"draw {case.draw}: {made} is there", flush=True)
        roles = [("original", "original"), *((f"retrained-{i}", "retrained") for i in range(RETRAINED))]
        roles += [(name, "unlearned") for name in case.leaks if name != "original"]
        asked: dict[str, Any] = {
            "checkpoint": [{"path": str(case.path(name)), "role": role} for name, role in roles],
            "data": case.dataset.spec,
            "forget": case.words,
            "gaps": {},
            "rcd": {"controls": False, "steps": steps},
            "mia": {"attacks": ["loss"], "worst": 0},
            "twosample": {},
            "detectable": {},
            "device": "cpu",
        }
        request = resolve([Layer("flag", asked, "benchmark")])
        cache = ResultCache(case.folder)
        write_report(audit_checkpoints(request.config, origins=request.origins, cache=cache).report, kept)
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


def share(count: int, of: int) -> str:
    """Return a count with its Wilson interval."""
    bounds = wilson_interval(count, of)
    return f"{count} of {of}" + (f" [{bounds.low:.3f}, {bounds.high:.3f}]" if bounds else "")


def print_shares(found: Sequence[Outcome]) -> None:
    """Print for each kind of model how often it passed, was stopped or stayed open, and which rules decided."""
    for kind in ("retrained", *LEAKS):
        codes = [one.code for one in found if one.kind == kind]
        if codes:
            said = f"passed {share(codes.count(0), len(codes))}, failed {share(codes.count(1), len(codes))}"
            rules = Counter(rule for one in found if one.kind == kind for rule in one.stopped_by)
            which = "; ".join(f"{rule} {count}" for rule, count in rules.most_common())
            print(f"{kind}: {said}, inconclusive {codes.count(4)}. {which}")


def print_table(folders: Sequence[Path], policy: Path) -> None:
    """Print one Markdown row for each kind of forget set of all kept audits."""
    print("| forget set | draws | retrained called a leak | inconclusive | leaks passed | inconclusive | passed |")
    print("|---|---|---|---|---|---|---|")
    for folder in folders:
        kept: dict[str, list[Outcome]] = {}
        for path in sorted(folder.glob(f"draw-*/*/{REPORT}")):
            draw = int(path.parent.parent.name.removeprefix("draw-"))
            kept.setdefault(path.parent.name, []).extend(outcomes(read_report(path), draw, policy))
        for forget, found in kept.items():
            print(f"| {folder.name} {forget} | {_row(found)} |")


def _row(found: Sequence[Outcome]) -> str:
    """Return the cells of one row: the last one names the leaks that passed."""
    retrained = [one.code for one in found if one.kind == "retrained"]
    leaks = [one for one in found if one.kind != "retrained"]
    missed = Counter(one.kind for one in leaks if one.code == 0)
    cells = [
        str(len({one.draw for one in found})),
        share(retrained.count(1), len(retrained)),
        share(retrained.count(4), len(retrained)),
        share(sum(missed.values()), len(leaks)),
        share(sum(one.code == 4 for one in leaks), len(leaks)),
        ", ".join(f"{kind} {count}" for kind, count in missed.most_common()) or "none",
    ]
    return " | ".join(cells)


def main() -> None:
    """Make the models, apply the policy, print the shares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", default="100:110", help="first:end of the seeds that draw the forget sets")
    parser.add_argument("--data", default="digits", help="data spec")
    parser.add_argument("--forget", default="mislabelled", help="mislabelled, class, or random:SIZE")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--steps", type=int, default=100, help="K")
    parser.add_argument("--models", action="store_true", help="train what is missing, and stop")
    parser.add_argument("--table", action="store_true", help="print the table of all audits that are kept")
    parser.add_argument("--folder", type=Path, required=True, action="append", help="where models and audits are kept")
    parser.add_argument(
        "--policy", type=Path, default=Path("default"), help="a policy's file, or the name of a shipped one"
    )
    arguments = parser.parse_args()
    if arguments.table:
        print_table(arguments.folder, arguments.policy)
        return
    torch.set_num_threads(1)
    first, end = map(int, arguments.draws.split(":"))
    found: list[Outcome] = []
    for draw in range(first, end):
        [folder] = arguments.folder
        case = open_case(folder, arguments.data, arguments.forget, draw=draw, epochs=arguments.epochs)
        if arguments.models:
            for made in make_models(case):
                print(f"draw {draw}: {made} is there", flush=True)
            continue
        found += outcomes(audited(case, arguments.steps), draw, arguments.policy)
        print(draw, *(f"{one.kind} {one.code}" for one in found if one.draw == draw), sep=", ", flush=True)
    print_shares(found)


if __name__ == "__main__":
    main()
