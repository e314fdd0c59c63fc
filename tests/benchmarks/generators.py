"""What discriminates between image generators that forgot a class, that pretend to, and that never saw it?

For each seed: a class-conditional diffusion model of digits, models retrained without the class, label swaps (the row
of the forgotten class is another one's; nothing is trained), methods, and ESD and SalUn, each alone and with the parts
of IEU, as the reference paper's Table 3 has them. One audit a seed, with everything that users have; models and
finished measurements are kept, so that a run goes on where it was, and one with more rows computes only these.

    nice -n 15 python tests/benchmarks/generators.py --folder kept/generators --seeds 1:3
    python tests/benchmarks/generators.py --folder kept/generators --table

The second prints what is kept as Markdown: a table for each seed, the shares over all seeds, the order of Table 3's
rows, and how often a policy stops retrained models (false alarms) and passes label swaps (misses); it reads reports
alone and loads no model. `--rows` and `--retrained` make a first, smaller run; `--models` only trains. A run of hours,
no test.

Digits with `small-unet` take about five minutes a training on one free core, half a minute a method, half a minute a
relearning curve: about an hour a seed. `--data` names other data, such as Fashion-MNIST.
"""

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from unlearn_audit.config import Layer, resolve
from unlearn_audit.gate import apply_policy, exit_code, read_policy
from unlearn_audit.metrics import student_interval, wilson_interval
from unlearn_audit.report import AuditReport, Measurement, read_report, write_report

REPORT = "audit.json"
RETRAINED, SWAPS = 5, 5
SAMPLE = 36  # forgotten images, each of which has a partner among the held-out digits of its class


class Row(NamedTuple):
    """What is applied to the original."""

    method: str
    settings: Mapping[str, Any] = {}
    transforms: tuple[str, ...] = ()


GA, NOISY = "ascent:c=0.2", "reinit:alpha=0.999"
PARTS: Mapping[str, tuple[str, ...]] = {"": (), " w/ GA": (GA,), " w/ Noisy": (NOISY,), " w/ GA+Noisy": (GA, NOISY)}
TABLE_3 = {
    f"{title}{parts}": Row(method, {}, transforms)
    for method, title in (("esd", "ESD"), ("salun", "SalUn"))
    for parts, transforms in PARTS.items()
}
ROWS: Mapping[str, Row] = {
    "ft": Row("ft"),
    "Noisy": Row("ft", {}, (NOISY,)),
    "GA": Row("ft", {}, (GA,)),
    "GA+Noisy": Row("ieu"),
    "ESD, no retain term": Row("esd", {"retain_weight": 0.0}),
    **TABLE_3,
}

# Column -> the metric that it shows, and how many digits of it.
COLUMNS: Mapping[str, tuple[str, int]] = {
    "forget rate": ("generation.forget_rate", 2),
    "kept rate": ("generation.kept_rate", 2),
    "KID": ("generation.kid", 3),
    "FID": ("generation.fid", 2),
    "loss": ("loss.forget", 3),
    "excess": ("rcd.raw", 3),
    "share of retrained": ("rcd.ratio_to_retrained", 2),
    "normalised": ("rcd.normalised", 3),
    "steps": ("rcd.steps_to_relearn", 0),
    "PIA": ("mia.pia.auc", 2),
}


def label(name: str) -> str:
    """Return a row's name as a label of a config."""
    return name.lower().replace("w/ ", "").replace(", ", "-").replace("+", "-").replace(" ", "-")


def config_of(arguments: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Return the config of one seed's audit."""
    trained = [{"label": "original", "seed": seed}]
    trained += [
        {"label": f"retrained-{number}", "without": True, "seed": 100 * seed + number}
        for number in range(1, arguments.retrained + 1)
    ]
    if arguments.epochs:
        trained = [each | {"epochs": arguments.epochs} for each in trained]
    forgotten, classes = arguments.forget, arguments.classes
    others = [(forgotten + step) % classes for step in range(1, arguments.swaps + 1)]
    applied = [
        {"label": f"swap-{other}", "method": "label-swap", "to": "original", "settings": {"to": other}}
        for other in others
    ]
    chosen = (
        ROWS if arguments.rows is None else {name: row for name, row in ROWS.items() if label(name) in arguments.rows}
    )
    for name, row in chosen.items():
        entry = {"label": label(name), "method": row.method, "to": "original", "settings": dict(row.settings)}
        applied.append(entry | {"transforms": list(row.transforms)})
    return {
        "data": arguments.data,
        "forget": f"class:{forgotten}",
        "sample": arguments.sample,
        "model": arguments.model,
        "device": "cpu",
        "seed": seed,
        "train": trained,
        "apply": applied,
        "generation": {"judge": "train", "samples": arguments.samples},
        "rcd": {"optimizer": "adam", "steps": arguments.steps, "step_size": arguments.step_size, "controls": False},
        "mia": {"attacks": ["loss", "pia", "secmi"], "worst": 0},
    }


def run(arguments: argparse.Namespace, seed: int) -> AuditReport | None:
    """Make one seed's models and audit them, or find the report of the same config."""
    from unlearn_audit.audit import audit_checkpoints
    from unlearn_audit.audit.build_models import make_models
    from unlearn_audit.audit.cache import ResultCache
    from unlearn_audit.engine import one_thread

    folder: Path = arguments.folder / f"seed-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    asked = config_of(arguments, seed)
    of_report = folder / "config.json"
    if (folder / REPORT).exists() and of_report.exists() and json.loads(of_report.read_text()) == asked:
        return read_report(folder / REPORT)
    with one_thread():
        request = make_models(resolve([Layer("flag", asked, "benchmark")]), folder, told())
        if arguments.models:
            return None
        found = audit_checkpoints(
            request.config, origins=request.origins, cache=ResultCache(folder), progress=told()
        ).report
    write_report(found, folder / REPORT)
    of_report.write_text(json.dumps(asked))
    return found


def told() -> Any:
    """Return a progress callback that prints a line for each new task."""
    seen: set[str] = set()

    def progress(task: str, done: int, total: int, note: str = "") -> None:
        if task not in seen:
            seen.add(task)
            print(task, flush=True)

    return progress


def shown(measured: Measurement | None, digits: int) -> str:
    """Return a value with its interval."""
    if measured is None or not isinstance(measured.value, int | float):
        return "–"
    text = f"{measured.value:.{digits}f}"
    bounds = measured.interval
    if bounds is None or bounds.low is None or bounds.high is None:
        return text
    return f"{text} [{bounds.low:.{digits}f}, {bounds.high:.{digits}f}]"


def table_of(report: AuditReport) -> Iterator[str]:
    """Yield the Markdown of one seed."""
    yield f"| model | {' | '.join(COLUMNS)} |"
    yield "|---|" + "---|" * len(COLUMNS)
    for subject in report.subjects:
        cells = (shown(report.find(name, subject.label), digits) for name, digits in COLUMNS.values())
        yield f"| {subject.label} | {' | '.join(cells)} |"


def kind_of(name: str) -> str:
    """Return what a model is called over all seeds."""
    return name.rpartition("-")[0] if name.startswith(("retrained-", "swap-")) else name


def levels_of(reports: Sequence[AuditReport], metric: str) -> Mapping[str, list[float]]:
    """Return a metric of each kind of model, one number a seed: the mean over its models of the kind."""
    found: dict[str, list[float]] = {}
    for report in reports:
        here: dict[str, list[float]] = {}
        for subject in report.subjects:
            measured = report.find(metric, subject.label)
            if measured is not None and isinstance(measured.value, int | float):
                here.setdefault(kind_of(subject.label), []).append(float(measured.value))
        for kind, values in here.items():
            found.setdefault(kind, []).append(float(np.mean(values)))
    return found


def table_of_seeds(reports: Sequence[AuditReport], title: str) -> Iterator[str]:
    """Yield a column's mean and 95 % interval over seeds (Student's t) for each kind of model."""
    yield f"| model | {title}, mean over seeds | 95 % | seeds | lowest | highest |"
    yield "|---|---|---|---|---|---|"
    for kind, values in levels_of(reports, COLUMNS[title][0]).items():
        mean, seeds = float(np.mean(values)), len(values)
        spread = "–"
        if seeds > 1:
            bounds = student_interval(mean, float(np.std(values, ddof=1)) / seeds**0.5, seeds - 1)
            spread = f"[{bounds.low:.2f}, {bounds.high:.2f}]"
        yield f"| {kind} | {mean:.2f} | {spread} | {seeds} | {min(values):.2f} | {max(values):.2f} |"


def order_of_table_3(reports: Sequence[AuditReport]) -> Iterator[str]:
    """Yield a line a metric: the eight rows of the paper's table in order of their mean over seeds."""
    for title in ("share of retrained", "normalised", "forget rate", "KID", "FID"):
        metric, digits = COLUMNS[title]
        means = {}
        for name in TABLE_3:
            found = (report.find(metric, label(name)) for report in reports)
            values = [each.value for each in found if each is not None and isinstance(each.value, int | float)]
            if values:
                means[name] = float(np.mean(values))
        ordered = sorted(means, key=means.__getitem__)
        yield f"{title}: " + " < ".join(f"{name} {means[name]:.{digits}f}" for name in ordered)


def error_rates(reports: Sequence[AuditReport], policy: Path) -> Iterator[str]:
    """Yield how often each kind of model passes, fails or stays open under a policy, and by which rules."""
    rules = read_policy(policy)
    codes: dict[str, list[int]] = {}
    reasons: dict[str, Counter[str]] = {}
    for report in reports:
        for subject in report.subjects:
            kind = kind_of(subject.label)
            decisions = apply_policy(rules, report, subject=subject.label)
            codes.setdefault(kind, []).append(exit_code(decisions))
            stopped = [
                f"{one.rule.id} ({one.verdict.value})"
                for one in decisions
                if one.rule.severity != "warn" and one.verdict.value not in ("passed", "waived")
            ]
            reasons.setdefault(kind, Counter()).update(stopped)
    yield "| model | passed | failed | inconclusive | which rules |"
    yield "|---|---|---|---|---|"
    for kind, found in codes.items():
        which = ", ".join(f"{rule} {count}" for rule, count in reasons[kind].most_common())
        yield f"| {kind} | {_share(found, 0)} | {_share(found, 1)} | {_share(found, 4)} | {which or '–'} |"


def _share(codes: Sequence[int], code: int) -> str:
    bounds = wilson_interval(codes.count(code), len(codes))
    text = f"{codes.count(code)} of {len(codes)}"
    return text if bounds is None else f"{text} [{bounds.low:.2f}, {bounds.high:.2f}]"


def print_tables(folder: Path, policy: Path) -> None:
    """Print everything that is kept."""
    kept = {path.parent.name: read_report(path) for path in sorted(folder.glob(f"seed-*/{REPORT}"))}
    for name, report in kept.items():
        print(f"{name}\n", *table_of(report), "", sep="\n")
    reports = list(kept.values())
    over_seeds = (table_of_seeds(reports, title) for title in ("share of retrained", "normalised"))
    for lines in (*over_seeds, order_of_table_3(reports), error_rates(reports, policy)):
        print(*lines, "", sep="\n")


def read_arguments() -> argparse.Namespace:
    """Return what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where models, measurements and reports are kept")
    parser.add_argument("--seeds", default="1:2", help="first:end")
    parser.add_argument("--data", default="digits", help="data spec")
    parser.add_argument("--model", default="small-unet")
    parser.add_argument("--forget", type=int, default=3, help="the class")
    parser.add_argument("--sample", type=int, default=SAMPLE, help="forgotten images that are relearned and measured")
    parser.add_argument("--classes", type=int, default=10, help="how many there are")
    parser.add_argument("--retrained", type=int, default=RETRAINED, help="models without the class, for each seed")
    parser.add_argument("--swaps", type=int, default=SWAPS, help="label swaps, each with another class's row")
    parser.add_argument("--rows", type=lambda text: text.split(","), help="only these: " + ", ".join(map(label, ROWS)))
    parser.add_argument("--epochs", type=int, help="of every training; default: the recipe's")
    parser.add_argument("--samples", type=int, default=100, help="under the forgotten condition")
    parser.add_argument("--steps", type=int, default=40, help="K")
    parser.add_argument("--step-size", type=lambda text: text if text == "auto" else float(text), default=2e-4)
    parser.add_argument("--models", action="store_true", help="train what is missing, and stop")
    parser.add_argument("--table", action="store_true", help="print what is kept")
    parser.add_argument("--policy", type=Path, default=Path("generation"), help="a file, or the name of a shipped one")
    return parser.parse_args()


def main() -> None:
    """Make the models, audit them, print the tables."""
    arguments = read_arguments()
    if not arguments.table:
        first, end = map(int, arguments.seeds.split(":"))
        for seed in range(first, end):
            print(f"seed {seed}", flush=True)
            run(arguments, seed)
    if not arguments.models:
        print_tables(arguments.folder, arguments.policy)


if __name__ == "__main__":
    main()
