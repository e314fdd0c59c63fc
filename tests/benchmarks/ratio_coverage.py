"""What do `rcd.ratio_to_unseen` and other statistics of the same curves say of original and retrained models?

Trains an original and several retrained models for each draw of the forget set and audits them, with and without
matching on difficulty. From the areas under every example's curve it computes the statistics of `area_statistics.py`.
One line for each scenario and statistic says in how many draws the original's interval lies on the remembering side
of the value of nothing remembered ("seen") and of all retrained models ("beyond"), how many retrained models' intervals
lie there ("alarms"), and how many hold that value and the mean of the other retrained ones. Audits are kept and found
again. A run of minutes, no test:

    python tests/benchmarks/ratio_coverage.py digits --draws 3 --retrained 3 --early 0
    python tests/benchmarks/ratio_coverage.py 'idx:DIR?train=3000' --epochs 15 --sample 300 --early 0
"""

import argparse
import itertools
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from area_statistics import NULLS, Estimate, Pair, statistics

from unlearn_audit.audit import audit_checkpoints
from unlearn_audit.config import Layer, resolve
from unlearn_audit.data import load_data, read_training_indices
from unlearn_audit.engine import setup_device
from unlearn_audit.metrics import wilson_interval
from unlearn_audit.report import AuditReport, read_report, write_arrays, write_report
from unlearn_audit.training import pick_recipe, train_checkpoint


class Case(NamedTuple):
    """One draw of the forget set of one scenario, with or without matching on difficulty."""

    scenario: str
    draw: int
    spec: str
    forget: str
    matched: bool

    @property
    def name(self) -> str:
        """What its audit's folder is called."""
        return f"{self.scenario}-{self.draw}-{'matched' if self.matched else 'unmatched'}"


class Row(NamedTuple):
    """One statistic of one model in one case, from steps + 1 losses an example."""

    scenario: str
    draw: int
    matched: bool
    steps: int
    statistic: str
    role: str
    label: str
    n: int
    found: Estimate | None


def cases(data: str, draws: Sequence[int]) -> list[Case]:
    """Return every case, the unmatched one of a draw before the matched one."""
    join = "&" if "?" in data else "?"
    found = []
    for draw in draws:
        forgets = {
            "mislabelled": (f"{data}{join}mislabel=0.1&seed={draw}", "mislabelled"),
            "random": (data, f"random:0.1:{draw}"),
            "class": (data, f"class:{(3, 5, 8, 0, 7, 1, 2, 4, 6, 9)[draw % 10]}"),
        }
        for scenario, matched in itertools.product(forgets, (False, True)):
            found.append(Case(scenario, draw, *forgets[scenario], matched))
    return found


def train_all(folder: Path, case: Case, arguments: argparse.Namespace) -> list[dict[str, str]]:
    """Train the models of one case, or take those that are there, and return the checkpoint entries."""
    dataset = load_data(case.spec)
    left_out = read_training_indices(case.forget, dataset)
    recipe, compute = pick_recipe("small", "small-cnn", epochs=arguments.epochs), setup_device("cpu")
    entries = []
    for index in range(arguments.retrained + 1):
        name = f"{left_out.sha256[:8]}-retrained-{index}" if index else "original"
        path = folder / f"{dataset.sha256[:8]}-{name}.safetensors"
        without = left_out if index else None
        if not path.exists():
            train_checkpoint(
                path, "small-cnn", dataset, recipe, without=without, seed=100 * case.draw + index, compute=compute
            )
        entries.append({"path": str(path), "role": "retrained" if index else "original"})
    return entries


def measured(case: Case, arguments: argparse.Namespace, kept: Path, **rcd: Any) -> None:
    """Leave the report of one audit in the folder `kept` with its arrays, unless they are there."""
    if (kept / "report.json").exists():
        return
    asked: dict[str, Any] = {
        "checkpoint": train_all(kept.parent, case, arguments),
        "forget": case.forget,
        "rcd": {"controls": False, "match_difficulty": case.matched} | rcd,
        "device": "cpu",
    }
    if arguments.sample:
        asked["sample"] = arguments.sample
    request = resolve([Layer("flag", asked, "benchmark")])
    report, arrays = audit_checkpoints(request.config, origins=request.origins, only=("rcd",))
    kept.mkdir(parents=True, exist_ok=True)
    write_arrays(arrays, kept / "arrays.npz")
    write_report(report, kept / "report.json")


def rows_of(case: Case, kept: Path, steps: int) -> Iterator[Row]:
    """Yield every statistic of every model of a kept audit."""
    report = read_report(kept / "report.json")
    with np.load(kept / "arrays.npz") as arrays:
        areas, common = _areas(report, arrays)
    for subject in report.subjects:
        retrained = [one.label for one in report.subjects if one.role == "retrained" and one.label != subject.label]
        own = areas[subject.label]
        found = statistics(own, [areas[label] for label in retrained] if common else [], steps=steps)
        which = (case.scenario, case.draw, case.matched, steps)
        for name, estimate in found.items():
            yield Row(*which, name, subject.role, subject.label, len(own.forget), estimate)


def _areas(report: AuditReport, arrays: Mapping[str, Any]) -> tuple[dict[str, Pair], bool]:
    """Return each model's areas, and whether all models have the same examples in both sets."""
    found, examples = {}, set()
    for label in (subject.label for subject in report.subjects):
        paired = "paired" if f"rcd/{label}/paired/areas" in arrays else "forget"
        sides = (f"rcd/{label}/{paired}", f"rcd/{label}/unseen")
        found[label] = Pair(*(arrays[f"{side}/areas"] for side in sides))
        examples.add(tuple(arrays[f"{side}/indices"].tobytes() for side in sides))
    return found, len(examples) == 1


def step_size_of(kept: Path) -> Any:
    """Return the step size that a kept audit took."""
    return next(m for m in read_report(kept / "report.json").measurements if m.name == "rcd.raw").details["step_size"]


def all_rows(folder: Path, arguments: argparse.Namespace) -> Iterator[Row]:
    """Yield the rows of every case, audited now or before; unmatched ones also at the early steps."""
    given = {"step_size": arguments.step_size} if arguments.step_size else {}
    for case in cases(arguments.data, range(arguments.draws)):
        kept = folder / case.name
        if arguments.kept and not (kept / "report.json").exists():
            continue
        measured(case, arguments, kept, steps=arguments.steps, **given)
        yield from rows_of(case, kept, arguments.steps)
        for steps in arguments.early if not case.matched else ():
            early = folder / f"{case.name}-{steps}"
            measured(case, arguments, early, steps=steps, step_size=step_size_of(kept))
            yield from rows_of(case, early, steps)


def others_mean(row: Row, rows: Sequence[Row]) -> float | None:
    """Return the mean over the other retrained models of a row's own draw."""
    found = [
        other.found.value
        for other in rows
        if other.draw == row.draw and other.role == "retrained" and other.label != row.label and other.found
    ]
    return sum(found) / len(found) if found else None


def share(hits: Sequence[bool]) -> str:
    """Return how many of them with Wilson's interval."""
    bounds = wilson_interval(sum(hits), len(hits))
    return f"{sum(hits)}/{len(hits)} [{bounds.low:.2f}, {bounds.high:.2f}]" if bounds else "0/0"


def retrained_values(row: Row, rows: Sequence[Row]) -> list[float]:
    """Return the values of the retrained models of a row's draw."""
    return [one.found.value for one in rows if one.role == "retrained" and one.draw == row.draw and one.found]


def summary(rows: Sequence[Row]) -> dict[str, str]:
    """Return one line of the table: all rows of one scenario and statistic."""
    null = NULLS[rows[0].statistic]
    originals = [row for row in rows if row.role == "original"]
    retrained = [row for row in rows if row.role == "retrained"]
    values = [row.found.value for row in retrained if row.found]
    means = [(row.found, others_mean(row, rows)) for row in retrained if row.found]
    return {
        "original": "  ".join(shown(row.found) for row in originals),
        "retrained": f"{min(values):.3g} to {max(values):.3g}" if values else "none",
        "seen": f"{sum(null.left(row.found) for row in originals)}/{len(originals)}",
        "beyond": f"{sum(null.left(row.found, retrained_values(row, rows)) for row in originals)}/{len(originals)}",
        "alarms": share([null.left(row.found) for row in retrained if row.found]),
        "null held": share([row.found.holds(null.value) for row in retrained if row.found]),
        "others held": share([found.holds(mean) for found, mean in means if mean is not None]),
    }


def shown(found: Estimate | None) -> str:
    """Return an estimate in a few characters."""
    return f"{found.value:.3g} [{found.low:.3g}, {found.high:.3g}]" if found else "undefined"


def report_tables(rows: Sequence[Row]) -> None:
    """Print one table for each scenario, matching and K."""
    tables: dict[tuple[str, bool, int], dict[str, list[Row]]] = {}
    for row in rows:
        tables.setdefault((row.scenario, row.matched, row.steps), {}).setdefault(row.statistic, []).append(row)
    for (scenario, matched, steps), by_statistic in sorted(tables.items(), key=lambda item: item[0]):
        sizes = sorted({row.n for group in by_statistic.values() for row in group})
        print(f"\n{scenario}, {'matched' if matched else 'unmatched'}, K = {steps}, n = {', '.join(map(str, sizes))}")
        for name, group in by_statistic.items():
            if any(row.found for row in group):
                print(f"  {name}: " + "; ".join(f"{key} {text}" for key, text in summary(group).items()))


def main() -> None:
    """Run all cases and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--retrained", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--step-size", type=float)
    parser.add_argument("--early", type=int, nargs="*", default=[], help="smaller K that unmatched cases also get")
    parser.add_argument("--sample", type=int)
    parser.add_argument("--folder", type=Path, help="where checkpoints and audits are kept and found")
    parser.add_argument("--kept", action="store_true", help="leave out the cases whose audit is not there")
    parser.add_argument("--json", type=Path, help="write every row here as well")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="coverage-"))
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for row in all_rows(folder, arguments):
        rows.append(row)
        print(*row[:8], shown(row.found), flush=True)
    report_tables(rows)
    if arguments.json:
        said = [row._asdict() | {"found": row.found and row.found._asdict()} for row in rows]
        arguments.json.write_text(json.dumps(said, indent=1))


if __name__ == "__main__":
    main()
