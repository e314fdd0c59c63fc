"""Unlearning methods side by side, or one method over a grid of settings, as a TOML file asks for.

Trains what is missing (an original and retrained models for each case), applies every run to every case, audits all
of it and prints a table for each case and the mean over cases. A run of minutes to hours, not a test:

    python tests/benchmarks/method_table.py sample_configs/ieu-sweep-digits.toml --folder sweep/
    python tests/benchmarks/method_table.py sample_configs/methods-fashion-mnist.toml --data-dir data/ --folder table/

In the file a `[[case]]` is what to forget from which data, a `[[run]]` a method with settings, where a list stands for
each of its values, in the cases that it names or in all; what is to be measured stands in the file, or in a case where
it has its own. `seeds` makes each of them so often. `columns` are metrics to
be shown instead of the usual ones, each as mean [lowest, highest] over the models of a row. `[shadows]` has how many
shadow models a case gets that says nothing else, and which runs they are put through. Everything that is in the folder
already is taken as it is, so that a killed run goes on.
"""

import argparse
import itertools
import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch

from unlearn_audit.audit import run_audit
from unlearn_audit.checkpoints import read_checkpoint
from unlearn_audit.config import Layer, resolve
from unlearn_audit.data import load_data, read_training_indices
from unlearn_audit.engine import setup_device
from unlearn_audit.errors import MeasurementError
from unlearn_audit.files import sha256_of_bytes
from unlearn_audit.methods.apply import apply_method
from unlearn_audit.report import AuditReport, Measurement, read_report, write_report
from unlearn_audit.shadows import open_fleet_context, run_workers
from unlearn_audit.shadows.planner import plan_fleet
from unlearn_audit.training import pick_recipe, train_checkpoint

COLUMNS = ("retain", "forget", "test")
SEED = " / seed "  # between a run and its seed, in a label


class Run(NamedTuple):
    """A method with its settings and transforms, and the label that tables show."""

    label: str
    method: str
    settings: Mapping[str, Any]
    extras: tuple[str, ...]
    cases: tuple[str, ...] = ()  # all where it is empty


def runs_of(plan: Mapping[str, Any]) -> Iterator[Run]:
    """Yield every run, a list among the settings standing for each of its values."""
    for entry in plan["run"]:
        swept = {key: value for key, value in entry.get("settings", {}).items() if isinstance(value, list)}
        fixed = {key: value for key, value in entry.get("settings", {}).items() if key not in swept}
        name = entry.get("label", entry["method"])
        for values in itertools.product(*swept.values()):
            chosen = dict(zip(swept, values, strict=True))
            label = " ".join([name, *(f"{key}={value}" for key, value in chosen.items())])
            extras, cases = tuple(entry.get("with", ())), tuple(entry.get("cases", ()))
            yield Run(label, entry["method"], fixed | chosen, extras, cases)


def runs_in(plan: Mapping[str, Any], case: Mapping[str, Any]) -> list[Run]:
    """Return the runs that a case gets."""
    return [run for run in runs_of(plan) if not run.cases or case["name"] in run.cases]


def models_of(folder: Path, case: Mapping[str, Any], plan: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the original and the retrained checkpoints of a case; train those that are not there."""
    if "original" in case:
        paths = [case["original"], *case["retrained"]]
        return [{"path": path, "role": "retrained" if index else "original"} for index, path in enumerate(paths)]
    dataset = load_data(case["data"])
    left_out = read_training_indices(case["forget"], dataset)
    recipe, compute = pick_recipe(plan.get("recipe"), plan["model"], epochs=plan.get("epochs")), setup_device()
    entries = []
    for index in range(plan["retrained"] + 1):
        name = f"{left_out.sha256[:8]}-retrained-{index}" if index else "original"
        path = folder / f"{dataset.sha256[:8]}-{name}.safetensors"
        if not path.exists():
            train_checkpoint(
                path,
                plan["model"],
                dataset,
                recipe,
                without=left_out if index else None,
                seed=plan.get("seed", 0) + index,
                compute=compute,
            )
        entries.append({"path": str(path), "role": "retrained" if index else "original"})
    return entries


def unlearned(folder: Path, case: Mapping[str, Any], run: Run, original: str, seed: int) -> Path | None:
    """Apply one run to one case; None where it diverged."""
    key = sha256_of_bytes(json.dumps([case["name"], original, run[:4], seed]).encode())[:8]
    out = folder / f"{case['name']}-{run.method.replace(':', '-')}-{key}.safetensors"
    asked = {"checkpoint": [{"path": original}], "seed": seed} | sets_of(case)
    if not out.exists():
        try:
            apply_method(run.method, out, resolve([Layer("flag", asked)]), run.settings, extras=run.extras, resume=True)
        except MeasurementError as problem:
            print(f"{case['name']}: {run.label}: {problem}", flush=True)
            return None
    return out


def sets_of(case: Mapping[str, Any]) -> dict[str, Any]:
    """Return the data of a case and the sets of it, as a configuration has them."""
    return {key: case[key] for key in ("data", "forget", "adjacent") if key in case}


def fleet_of(
    folder: Path, case: Mapping[str, Any], plan: Mapping[str, Any], entries: list[dict[str, str]]
) -> dict[str, Any]:
    """Return what `[mia]` is to be told of the case's shadow models, made here or before; {} where it gets none."""
    wanted = case.get("shadows", plan.get("shadows", {}))
    treated = [entry for entry in entries if entry["label"].split(SEED)[0] in wanted.get("runs", ())]
    if not treated:
        return {}
    path = folder / f"{case['name']}-shadows"
    asked = {"checkpoint": [*entries[:1], *first_of_each(treated)]} | sets_of(case)
    asked |= {"sample": plan["sample"]} if "sample" in plan else {}
    plan_fleet(path, resolve([Layer("flag", asked, "benchmark")]), count=wanted["count"])
    outcome = run_workers(open_fleet_context(path), workers=plan.get("workers", 1))
    for job, why in outcome.failed:
        print(f"{case['name']}: shadow {job.number + 1}, {job.kind}: {why}", flush=True)
    return {"shadows": str(path)}


def first_of_each(entries: list[dict[str, str]]) -> list[dict[str, str]]:
    """Return one entry a run: what the shadow models are put through does not depend on a seed."""
    return list({entry["label"].split(SEED)[0]: entry for entry in reversed(entries)}.values())


def audited(
    folder: Path, case: Mapping[str, Any], plan: Mapping[str, Any], entries: list[dict[str, str]]
) -> AuditReport:
    """Return the audit of all models of a case."""
    kept = folder / f"{case['name']}-report.json"
    if not kept.exists():
        asked: dict[str, Any] = {"checkpoint": entries} | sets_of(case)
        asked |= {name: dict(case.get(name, plan.get(name, {}))) for name in plan["measure"]}
        asked |= {"sample": plan["sample"]} if "sample" in plan else {}
        if "mia" in plan["measure"]:
            asked["mia"] |= fleet_of(folder, case, plan, entries)
        request = resolve([Layer("flag", asked, "benchmark")])
        write_report(run_audit(request.config, origins=request.origins, only=tuple(plan["measure"])), kept)
    return read_report(kept)


def row_of(report: AuditReport, label: str, path: Path | None, base: float) -> dict[str, Any]:
    """Return the numbers of one model; `base` is the mean number of gradients that retraining takes."""
    mine = {m.name: m for m in report.measurements if m.subject == label}
    made = read_checkpoint(path).metadata if path else None
    average = mine["gap.average"]
    return {
        "accuracy": {split: mine[f"accuracy.{split}"].value for split in COLUMNS},
        "gap": {split: mine[f"gap.{split}"].value for split in COLUMNS},
        "average": average.value,
        "live_average": average.details.get("without_constant_columns"),
        "rcd": shown(mine.get("rcd.raw")),
        "ratio": shown(mine.get("rcd.ratio_to_unseen")),
        "cost": (made.gradient_evaluations or 0) / base if made and base else None,
        "seconds": made.wall_seconds if made else None,
    }


def shown(found: Measurement | None) -> dict[str, Any] | None:
    """Return a measurement's value with its interval, or why there is none."""
    if found is None:
        return None
    ends = (found.interval.low, found.interval.high) if found.interval else None
    return {"value": found.value, "interval": ends, "reason": found.reason}


def line_of(label: str, row: Mapping[str, Any]) -> str:
    """Return one line of a Markdown table."""
    cells = [f"{row['accuracy'][split]:.3f} ({_signed(row['gap'][split])})" for split in COLUMNS]
    cells += [_plain(row["average"]), _plain(row["live_average"])]
    for name, digits in (("rcd", 1), ("ratio", 3)):
        found = row[name]
        if found is None or found["value"] is None:
            cells.append("–" if found is None else str(found["reason"]))
        else:
            ends = found["interval"] and f" [{found['interval'][0]:.{digits}f}, {found['interval'][1]:.{digits}f}]"
            cells.append(f"{found['value']:.{digits}f}{ends or ''}")
    cells += [_plain(row["cost"]), "–" if row["seconds"] is None else f"{row['seconds']:.0f}"]
    return f"| {label} | {' | '.join(cells)} |"


def _plain(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.3f}"


HEAD = (
    "| model | retain (gap) | forget (gap) | test (gap) | avg. gap | live columns | RCD raw | RCD / unseen | gradients "
    "/ retraining | s |\n|---|---|---|---|---|---|---|---|---|---|"
)


def rows_over_seeds(
    report: AuditReport, paths: Mapping[str, Path], plan: Mapping[str, Any], base: float
) -> Iterator[str]:
    """Yield the lines of a table of the metrics that the plan names: retrained, original, then the runs."""
    groups: dict[str, list[str]] = {"retrained": [], "original": []}
    for label in paths:
        groups.setdefault("retrained" if label.startswith("retrained-") else label.split(SEED)[0], []).append(label)
    found = {(m.subject, m.name): m for m in report.measurements}
    yield f"| model | {' | '.join(plan['columns'])} | gradients / retraining | s |"
    yield f"|---{'|---' * (len(plan['columns']) + 2)}|"
    for name, labels in groups.items():
        made = [read_checkpoint(paths[label]).metadata for label in labels]
        cells = [over([getattr(found.get((label, column)), "value", None) for label in labels])
                 for column in plan["columns"]]  # fmt: skip
        cells.append(over([(about.gradient_evaluations or 0) / base if about and base else None for about in made]))
        cells.append(over([about.wall_seconds if about else None for about in made], digits=0))
        yield f"| {name} | {' | '.join(cells)} |"


def over(values: list[float | None], digits: int = 3) -> str:
    """Return the mean of the values that are there with the lowest and the highest.

    >>> over([0.25, 0.75]), over([0.5]), over([None, 0.5]), over([None])
    ('0.500 [0.250, 0.750]', '0.500', '0.500 (1 of 2)', '–')
    """
    there = [value for value in values if value is not None]
    if not there:
        return "–"
    spread = f" [{min(there):.{digits}f}, {max(there):.{digits}f}]" if len(there) > 1 else ""
    return f"{fmean(there):.{digits}f}{spread}" + (f" ({len(there)} of {len(values)})" * (len(there) < len(values)))


def main() -> None:
    """Do what the file asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan", type=Path)
    parser.add_argument("--folder", type=Path, required=True, help="where checkpoints and reports are kept")
    parser.add_argument("--data-dir", default="", help="what {data} stands for in the file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    plan = tomllib.loads(arguments.plan.read_text().replace("{data}", arguments.data_dir.rstrip("/")))
    arguments.folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, dict[str, Any]] = {}
    for case in plan["case"]:
        report, paths, base = measured(arguments.folder, case, plan, plan.get("seeds", [arguments.seed]))
        print(f"\n{case['name']}: {case['forget']} of {case['data']}\n")
        if "columns" in plan:
            print("\n".join(rows_over_seeds(report, paths, plan, base)), flush=True)
            continue
        found[case["name"]] = {label: row_of(report, label, path, base) for label, path in paths.items()}
        print(HEAD)
        print("\n".join(line_of(label, row) for label, row in found[case["name"]].items()), flush=True)
    if found:
        (arguments.folder / "table.json").write_text(json.dumps(found, indent=1))
        summarise(found)


def measured(
    folder: Path, case: Mapping[str, Any], plan: Mapping[str, Any], seeds: list[int]
) -> tuple[AuditReport, dict[str, Path], float]:
    """Return the audit of a case, the files of its models by label, and the mean gradients that retraining takes."""
    entries = models_of(folder, case, plan)
    made = {
        run.label + (f"{SEED}{seed}" if len(seeds) > 1 else ""): unlearned(folder, case, run, entries[0]["path"], seed)
        for run in runs_in(plan, case)
        for seed in seeds
    }
    asked = [{**entry, "label": label_of(entry, index)} for index, entry in enumerate(entries)]
    asked += [{"path": str(path), "role": "unlearned", "label": label} for label, path in made.items() if path]
    report = audited(folder, case, plan, asked)
    paths = {entry["label"]: Path(entry["path"]) for entry in asked}
    costs = [read_checkpoint(path).metadata for label, path in paths.items() if label.startswith("retrained")]
    return report, paths, fmean([about.gradient_evaluations or 0 for about in costs if about] or [0])


def label_of(entry: Mapping[str, str], index: int) -> str:
    """Return "original" or "retrained-1" and so on."""
    return entry["role"] if not index else f"retrained-{index}"


def summarise(found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
    """Print each model's average gap in each case and the mean over cases, best first."""
    labels = {label for rows in found.values() for label in rows}
    complete = [
        label
        for label in labels
        if all(label in rows and rows[label]["average"] is not None for rows in found.values())
    ]
    means = {label: fmean(rows[label]["average"] for rows in found.values()) for label in complete}
    print(f"\nmean over cases of the average gap\n\n| model | mean | {' | '.join(found)} |")
    print(f"|---|---{'|---' * len(found)}|")
    for label in sorted(means, key=lambda label: means[label]):
        each = " | ".join(_plain(rows[label]["average"]) for rows in found.values())
        print(f"| {label} | {means[label]:.4f} | {each} |")


if __name__ == "__main__":
    main()
