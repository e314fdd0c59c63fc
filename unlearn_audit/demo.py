"""The demo: everything end to end on embedded data, written with the rooms of the house.

Handwritten digits, a small network with BatchNorm: an original model, three retrained ones, one that is called
unlearned (by IEU, or retrained with a part of the forget set left in, or with none), and an audit of all.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from unlearn_audit.audit import run_audit
from unlearn_audit.checkpoints import write_checkpoint
from unlearn_audit.config import Layer, file_layer, resolve
from unlearn_audit.data import Dataset, IndexSet, digest_of, load_data, read_training_indices
from unlearn_audit.engine import Device, derive_seed, one_thread, setup_device
from unlearn_audit.files import atomic_write, check_output_folder, make_output_folder
from unlearn_audit.methods.apply import apply_method
from unlearn_audit.progress import Progress, silent
from unlearn_audit.report import AuditReport, write_report
from unlearn_audit.streams import generator
from unlearn_audit.training import SMALL, train_checkpoint, train_recorded

MODEL = "small-cnn"
RETRAINED = 3
OWNED = (
    "original.safetensors",
    *(f"retrained-{index + 1}.safetensors" for index in range(RETRAINED)),
    "unlearned.safetensors",
    "forget.npy",
    "unlearn-audit.toml",
    "report.json",
)


class Scenario(NamedTuple):
    """What is to be forgotten, and what is handed in as unlearned.

    Attributes:
        data: data spec, with {seed} to fill in.
        forget: index spec, likewise.
        story: a sentence.
        kept: share of the forget set that "unlearned" was trained with, anew; None: IEU is applied to the original.
    """

    data: str
    forget: str
    story: str
    kept: float | None = None


SCENARIOS: Mapping[str, Scenario] = {
    "mislabelled": Scenario(
        "digits?mislabel=0.1&seed={seed}", "mislabelled", "10 % of the training labels are wrong; forget these examples"
    ),
    "random": Scenario("digits", "random:0.1:{seed}", "forget a random 10 % of the training examples"),
    "class": Scenario("digits", "class:3", "forget every 3"),
    "partial": Scenario(
        "digits?mislabel=0.1&seed={seed}",
        "mislabelled",
        "10 % of the training labels are wrong; the model called unlearned was retrained with a tenth of them left in",
        kept=0.1,
    ),
    "retrained": Scenario(
        "digits?mislabel=0.1&seed={seed}",
        "mislabelled",
        "10 % of the training labels are wrong; the model called unlearned was retrained without them, as it should be",
        kept=0.0,
    ),
}

CONFIG = """\
# What `unlearn-audit audit` measures here; paths are relative to this file.
schema_version = 1
forget = "forget.npy"
seed = {seed}

{checkpoints}
[gaps]                 # accuracy on every split, and the gaps to the retrained models

[rcd]                  # relearning convergence delay
optimizer = "gd"       # gd, sgd or adam
steps = 100            # K: K + 1 forward and K backward passes over the forget set
step_size = "auto"     # 1 / (4 lambda_max), halved until no curve rises; or a number, several, or "lambda"
floor = "zero"         # zero, fit, best, or a number

[twosample]            # given the retrained models: can forget examples be told from unseen ones?

[mia]                  # membership inference
attacks = ["loss"]
"""


def run_demo(out: Path, *, scenario: str, seed: int, force: bool, progress: Progress = silent) -> AuditReport:
    """Train, unlearn and audit; write the checkpoints, the forget set, a config and the report.

    Args:
        out: folder to write into; made where it is missing.
        scenario: one of `SCENARIOS`.
        seed: of everything; the same seed gives the same report on the same machine.
        force: replace what an earlier demo wrote.
        progress: callback, called after each step.

    Returns:
        The report. The networks are so small that one thread is fastest, and the numbers then do not depend on how
        many cores there are.

    Raises:
        OutputError: the folder cannot be written, or holds a demo already.
    """
    check_output_folder(out, force=force, owned=OWNED)
    with one_thread():
        return _run(out, SCENARIOS[scenario], seed=seed, force=force, progress=progress)


def _run(out: Path, plan: Scenario, *, seed: int, force: bool, progress: Progress) -> AuditReport:
    """Do the work of `run_demo`."""
    dataset = load_data(plan.data.format(seed=seed))
    forget = read_training_indices(plan.forget.format(seed=seed), dataset)
    compute = setup_device("cpu")
    make_output_folder(out, force=force, owned=OWNED)
    atomic_write(out / "forget.npy", lambda path: _save(path, forget))
    _train(out, dataset, forget=forget, seed=seed, compute=compute, progress=progress)
    if plan.kept is not None:
        _retrain_in_part(out, dataset, forget=forget, kept=plan.kept, seed=seed, compute=compute, progress=progress)
    else:
        _unlearn(out, seed, progress)
    atomic_write(out / "unlearn-audit.toml", _config(seed).encode())
    request = resolve([file_layer(out / "unlearn-audit.toml", origin="config")])
    report = run_audit(request.config, origins=request.origins, progress=progress)
    write_report(report, out / "report.json")
    return report


def _save(path: Path, forget: IndexSet) -> None:
    with path.open("wb") as stream:
        np.save(stream, forget.indices, allow_pickle=False)


def _train(out: Path, dataset: Dataset, *, forget: IndexSet, seed: int, compute: Device, progress: Progress) -> None:
    """Train the original model on everything and the retrained ones without the forget set."""
    for index in range(RETRAINED + 1):
        name = f"retrained-{index}" if index else "original"
        train_checkpoint(
            out / f"{name}.safetensors",
            MODEL,
            dataset,
            SMALL,
            without=forget if index else None,
            seed=derive_seed(seed, "demo", name),
            compute=compute,
            force=True,
            clock=None,
            progress=progress,
            task=f"training {name}",
        )


def _unlearn(out: Path, seed: int, progress: Progress) -> None:
    """Apply IEU with its defaults to the original model."""
    asked = {
        "checkpoint": [{"path": str(out / "original.safetensors")}],
        "forget": str(out / "forget.npy"),
        "device": "cpu",
        "seed": seed,
    }
    request = resolve([Layer("flag", asked)])
    apply_method("ieu", out / "unlearned.safetensors", request, {}, force=True, clock=None, progress=progress)


def _retrain_in_part(
    out: Path, dataset: Dataset, *, forget: IndexSet, kept: float, seed: int, compute: Device, progress: Progress
) -> None:
    """Train anew without the forget set or most of it, and record of that only that it is called unlearned."""
    count = round(len(forget) * (1 - kept))
    rows = np.sort(generator("demo", seed, "kept").choice(forget.indices, count, replace=False))
    model, metadata = train_recorded(
        MODEL,
        dataset,
        SMALL,
        without=IndexSet(f"{1 - kept:.0%} of {forget.spec}", rows, digest_of(rows)),
        seed=derive_seed(seed, "demo", "unlearned"),
        compute=compute,
        clock=None,
        progress=progress,
        task="training unlearned",
    )
    unsaid = dict.fromkeys(("forget", "forget_sha256", "forget_n", "rows_sha256"))
    told = metadata.model_copy(update={"role": "unlearned", **unsaid})
    write_checkpoint(out / "unlearned.safetensors", model.state_dict(), told, force=True)


def _config(seed: int) -> str:
    names = [name.removesuffix(".safetensors") for name in OWNED if name.endswith(".safetensors")]
    entries = (
        f'[[checkpoint]]\npath = "{name}.safetensors"\nrole = "{name.split("-")[0]}"\n'
        for name in sorted(names, key=lambda name: ["original", "unlearned", "retrained"].index(name.split("-")[0]))
    )
    return CONFIG.format(seed=seed, checkpoints="\n".join(entries))
