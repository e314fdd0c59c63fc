"""How often is a truly retrained model called different from the other retrained ones, attack by attack?

For several draws of the forget set on digits: an original, many retrained models and a fleet of shadow models, each
also put through IEU (for ulira), then every attack on all of them. Each retrained model is held against the others,
once against all and once against three, as a user would who has three. A rejection is a difference whose 95 % interval
leaves out zero: 5 % are expected; the line of an attack says how many there were, with Wilson's interval (retrained
models of one draw share shadow models and examples, so it is optimistic), and what the attack says of the originals.
Audits are kept and found again.
A run of minutes, no test:

    python tests/benchmarks/attack_calibration.py --draws 4 --retrained 10 --shadows 8 --folder kept/
"""

import argparse
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from ratio_coverage import Case, cases, share, train_all

from unlearn_audit.audit import audit_checkpoints
from unlearn_audit.config import Layer, resolve
from unlearn_audit.report import AuditReport, read_report, write_arrays, write_report

FEW = 3  # retrained models that a user may have


class Row(NamedTuple):
    """One attack on one model of one draw: its AUC, and whether it is told from `others` retrained models."""

    scenario: str
    draw: int
    attack: str
    role: str
    label: str
    others: int
    auc: float
    seen: bool


def fleet(folder: Path, case: Case, target: str, shadows: int) -> Path:
    """Return the folder of a finished fleet for the forget set of one case, trained, and trained and unlearned."""
    where, unlearned = folder / f"shadows-{case.name}", folder / f"unlearned-{case.name}.safetensors"
    if not unlearned.exists():
        call("apply", "ieu", target, "--forget", case.forget, "--out", str(unlearned))
    call("shadows", "run", str(where), target, str(unlearned), "--forget", case.forget, "--count", str(shadows))
    return where


def call(*words: str) -> None:
    """Run a verb of the command line."""
    run = "import sys; from unlearn_audit.cli import main; sys.argv[0] = 'unlearn-audit'; main()"
    subprocess.run([sys.executable, "-c", run, *words, "--quiet"], check=True)


def audited(
    case: Case, entries: Sequence[dict[str, str]], shadows: Path, attacks: Sequence[str], kept: Path
) -> AuditReport:
    """Return the report of every attack on some models, made now or before."""
    if not (kept / "report.json").exists():
        asked: dict[str, Any] = {
            "checkpoint": list(entries),
            "forget": case.forget,
            "mia": {"attacks": list(attacks), "shadows": str(shadows), "worst": 0},
            "device": "cpu",
        }
        request = resolve([Layer("flag", asked, "benchmark")])
        report, arrays = audit_checkpoints(request.config, origins=request.origins, only=("mia",))
        kept.mkdir(parents=True, exist_ok=True)
        write_arrays(arrays, kept / "arrays.npz")
        write_report(report, kept / "report.json")
    return read_report(kept / "report.json")


def rows_of(case: Case, report: AuditReport, others: int) -> Iterator[Row]:
    """Yield the attacks of a report whose AUC could be compared."""
    for found in report.measurements:
        attack = found.name.removeprefix("mia.").removesuffix(".auc")
        if found.name.endswith(".auc") and isinstance(found.value, float) and found.comparison:
            yield Row(
                case.scenario,
                case.draw,
                attack,
                found.role,
                found.subject,
                others,
                found.value,
                found.comparison.seen,
            )


def all_rows(arguments: argparse.Namespace) -> Iterator[Row]:
    """Yield the rows of every draw: against all retrained models, and in groups of one and three others."""
    for case in cases("digits", range(arguments.draws)):
        if case.matched or case.scenario not in arguments.scenarios:
            continue
        entries = train_all(arguments.folder, case, arguments)
        shadows = fleet(arguments.folder, case, entries[0]["path"], arguments.shadows)
        kept = arguments.folder / f"attacks-{case.name}-{arguments.shadows}"
        yield from rows_of(case, audited(case, entries, shadows, arguments.attacks, kept / "all"), len(entries) - 2)
        retrained = entries[1:]
        for start in range(0, len(retrained) - FEW, FEW + 1):
            group = retrained[start : start + FEW + 1]
            yield from rows_of(case, audited(case, group, shadows, arguments.attacks, kept / f"few-{start}"), FEW)


def report_table(rows: Sequence[Row]) -> None:
    """Print one line for each scenario, attack and number of models compared with."""
    keys = sorted({(row.scenario, row.others, row.attack) for row in rows})
    for scenario, others, attack in keys:
        group = [row for row in rows if (row.scenario, row.others, row.attack) == (scenario, others, attack)]
        retrained = [row for row in group if row.role == "retrained"]
        original = " ".join(f"{row.auc:.3f}{'*' if row.seen else ''}" for row in group if row.role == "original")
        values = [row.auc for row in retrained]
        print(
            f"{scenario}, against {others}, {attack}: rejected {share([row.seen for row in retrained])}; "
            f"retrained {min(values):.3f} to {max(values):.3f}; original (* seen) {original}"
        )
    for others in sorted({row.others for row in rows}):
        retrained = [row for row in rows if row.others == others and row.role == "retrained"]
        print(f"all attacks and scenarios, against {others}: rejected {share([row.seen for row in retrained])}")


def main() -> None:
    """Run all draws and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=4)
    parser.add_argument("--retrained", type=int, default=10)
    parser.add_argument("--shadows", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--attacks", nargs="+", default=["all"])
    parser.add_argument("--scenarios", nargs="+", default=["mislabelled", "random", "class"])
    parser.add_argument("--folder", type=Path, required=True, help="where checkpoints, fleets and audits are kept")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for row in all_rows(arguments):
        rows.append(row)
        print(*row, flush=True)
    report_table(rows)


if __name__ == "__main__":
    main()
