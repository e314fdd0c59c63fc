"""How often does a truly retrained model's interval of `rcd.ratio_to_unseen` hold the other retrained ones' mean?

Trains an original and several retrained models for each draw of the forget set, audits them (with and without matching
on difficulty) and prints one row a draw, then the coverage with a Wilson interval. A run of minutes, not a test:

    python tests/benchmarks/ratio_coverage.py digits --draws 3 --retrained 3
    python tests/benchmarks/ratio_coverage.py 'idx:DIR?train=3000' --epochs 15 --sample 300
"""

import argparse
import itertools
import json
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch

from unlearn_audit.audit import run_audit
from unlearn_audit.config import Layer, resolve
from unlearn_audit.data import load_data, read_training_indices
from unlearn_audit.engine import prepare
from unlearn_audit.metrics import wilson_interval
from unlearn_audit.recipes import pick_recipe, train_checkpoint


def cases(data: str, draws: int) -> list[tuple[str, int, str, str]]:
    """Return (scenario, draw, data spec, forget spec) of every case."""
    join = "&" if "?" in data else "?"
    found = []
    for draw in range(draws):
        found.append(("mislabelled", draw, f"{data}{join}mislabel=0.1&seed={draw}", "mislabelled"))
        found.append(("random", draw, data, f"random:0.1:{draw}"))
        found.append(("class", draw, data, f"class:{(3, 5, 8, 0, 7, 1)[draw % 6]}"))
    return found


def train_all(folder: Path, spec: str, forget: str, draw: int, arguments: argparse.Namespace) -> list[dict[str, str]]:
    """Train the models of one case, or take those that are there, and return the checkpoint entries."""
    dataset = load_data(spec)
    left_out = read_training_indices(forget, dataset)
    recipe, compute = pick_recipe("small", "small-cnn", epochs=arguments.epochs), prepare("cpu")
    entries = []
    for index in range(arguments.retrained + 1):
        name = f"{left_out.sha256[:8]}-retrained-{index}" if index else "original"
        path = folder / f"{dataset.sha256[:8]}-{name}.safetensors"
        without = left_out if index else None
        if not path.exists():
            train_checkpoint(
                path, "small-cnn", dataset, recipe, without=without, seed=100 * draw + index, compute=compute
            )
        entries.append({"path": str(path), "role": "retrained" if index else "original"})
    return entries


def measured(entries: list[dict[str, str]], forget: str, arguments: argparse.Namespace, *, matched: bool) -> Any:
    """Return the report of one audit."""
    rcd = {"controls": False, "match_difficulty": matched, "steps": arguments.steps}
    if arguments.step_size:
        rcd["step_size"] = arguments.step_size
    asked: dict[str, Any] = {"checkpoint": entries, "forget": forget, "rcd": rcd, "device": "cpu"}
    if arguments.sample:
        asked["sample"] = arguments.sample
    request = resolve([Layer("flag", asked, "benchmark")])
    return run_audit(request.config, origins=request.origins, only=("rcd",))


def main() -> None:
    """Run all cases and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--retrained", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--step-size", type=float)
    parser.add_argument("--sample", type=int)
    parser.add_argument("--folder", type=Path, help="where checkpoints are kept, so that a second run trains nothing")
    parser.add_argument("--json", type=Path, help="write every row here as well")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="coverage-"))
    folder.mkdir(parents=True, exist_ok=True)
    rows, covered = [], defaultdict(list)
    for (scenario, draw, spec, forget), matched in itertools.product(
        cases(arguments.data, arguments.draws), (False, True)
    ):
        entries = train_all(folder, spec, forget, draw, arguments)
        report = measured(entries, forget, arguments, matched=matched)
        ratios = {m.subject: m for m in report.measurements if m.name == "rcd.ratio_to_unseen"}
        raws = {m.subject: m for m in report.measurements if m.name == "rcd.raw"}
        for label, m in ratios.items():
            if m.role == "retrained" and m.value is not None and m.interval and m.reference:
                covered[scenario, matched].append(m.interval.low <= m.reference.value <= m.interval.high)
            row = {
                "scenario": scenario, "draw": draw, "matched": matched, "role": m.role, "label": label, "n": m.n,
                "ratio": m.value, "low": m.interval and m.interval.low, "high": m.interval and m.interval.high,
                "medians": m.details.get("ratio_of_medians"), "tail": m.details.get("tail_share_forget"),
                "raw": raws[label].value, "status": raws[label].details.get("status"),
            }  # fmt: skip
            rows.append(row)
            print(json.dumps(row), flush=True)
    for (scenario, matched), hits in covered.items():
        bounds = wilson_interval(sum(hits), len(hits))
        kind = "matched" if matched else "unmatched"
        print(f"{scenario:12s} {kind:10s} coverage {sum(hits)}/{len(hits)} [{bounds.low:.2f}, {bounds.high:.2f}]")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
