"""The demo: everything end to end on embedded data, written with the rooms of the house.

Handwritten digits, a small network with BatchNorm: an original model, three retrained ones, one that is called
unlearned (by IEU, or retrained with a part of the forget set left in, or with none), and an audit of all. Or a small
diffusion model of the same digits, with three retrained ones, one in which nothing is forgotten but a name, and SalUn.
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
from unlearn_audit.training import pick_recipe, train_checkpoint, train_recorded

RETRAINED = 3  # models in each scenario: with two of them the differences of one seed decide
DOCUMENTS = ("forget.npy", "unlearn-audit.toml", "report.json")


class Scenario(NamedTuple):
    """What is to be forgotten, and what is handed in as unlearned.

    Attributes:
        data: data spec, with {seed} to fill in.
        forget: index spec, likewise.
        story: a sentence.
        kept: share of the forget set that "unlearned" was trained with, anew; None: methods make it from the original.
        model: of all models.
        epochs: of each training; None: the recipe's.
        applied: label -> the method that makes it from the original.
        ending: of the models' files; "" for folders.
    """

    data: str
    forget: str
    story: str
    kept: float | None = None
    model: str = "small-cnn"
    epochs: int | None = None
    applied: Mapping[str, str] = {"unlearned": "ieu"}
    ending: str = ".safetensors"

    @property
    def trained(self) -> tuple[str, ...]:
        """Labels of the models that are trained, the original first."""
        return ("original", *(f"retrained-{index + 1}" for index in range(RETRAINED)))

    @property
    def owned(self) -> tuple[str, ...]:
        """What is written into the folder of the demo."""
        return (*(f"{label}{self.ending}" for label in (*self.trained, *self.applied)), *DOCUMENTS)


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
    "generation": Scenario(
        "digits",
        "class:3",
        "a diffusion model draws them; forget every 3, by SalUn, and by a mere change of labels",
        model="tiny-unet",
        epochs=36,
        applied={"label-swap": "label-swap", "salun": "salun"},
        ending="",
    ),
}

CONFIG = """\
# What `unlearn-audit audit` measures here; paths are relative to this file.
schema_version = 1
forget = "forget.npy"
{sample}seed = {seed}

{checkpoints}
{sections}"""

SAMPLE = "sample = 36             # of the forgotten images: as many as have a partner that nobody has seen\n"

OF_CLASSIFIERS = """\
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

OF_GENERATORS = """\
[generation]           # samples before a judge: is the class gone from them, and is the rest as it was?
judge = "train"        # a small classifier of the same digits
samples = 100          # under the forgotten class
kept_samples = 20      # under each kept class

[rcd]                  # relearning convergence delay, above the original's own curve on the same noise
optimizer = "adam"
steps = 20
controls = false       # true: an untrained network, too

[mia]                  # membership inference: denoisers are asked to find noise again
attacks = ["loss", "pia", "secmi"]
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
    plan = SCENARIOS[scenario]
    check_output_folder(out, force=force, owned=plan.owned)
    with one_thread():
        return _run(out, plan, seed=seed, force=force, progress=progress)


def _run(out: Path, plan: Scenario, *, seed: int, force: bool, progress: Progress) -> AuditReport:
    """Do the work of `run_demo`."""
    dataset = load_data(plan.data.format(seed=seed))
    forget = read_training_indices(plan.forget.format(seed=seed), dataset)
    compute = setup_device("cpu")
    make_output_folder(out, force=force, owned=plan.owned)
    atomic_write(out / "forget.npy", lambda path: _save(path, forget))
    _train(out, plan, dataset, forget=forget, seed=seed, compute=compute, progress=progress)
    if plan.kept is not None:
        _retrain_in_part(out, plan, dataset, forget=forget, seed=seed, compute=compute, progress=progress)
    else:
        _unlearn(out, plan, seed, progress)
    atomic_write(out / "unlearn-audit.toml", _config(plan, seed).encode())
    request = resolve([file_layer(out / "unlearn-audit.toml", origin="config")])
    report = run_audit(request.config, origins=request.origins, progress=progress)
    write_report(report, out / "report.json")
    return report


def _save(path: Path, forget: IndexSet) -> None:
    with path.open("wb") as stream:
        np.save(stream, forget.indices, allow_pickle=False)


def _train(
    out: Path, plan: Scenario, dataset: Dataset, *, forget: IndexSet, seed: int, compute: Device, progress: Progress
) -> None:
    """Train the original model on everything and the retrained ones without the forget set."""
    recipe = pick_recipe(None, plan.model, epochs=plan.epochs)
    for name in plan.trained:
        train_checkpoint(
            out / f"{name}{plan.ending}",
            plan.model,
            dataset,
            recipe,
            without=None if name == "original" else forget,
            seed=derive_seed(seed, "demo", name),
            compute=compute,
            force=True,
            clock=None,
            progress=progress,
            task=f"training {name}",
        )


def _unlearn(out: Path, plan: Scenario, seed: int, progress: Progress) -> None:
    """Apply each method with its defaults to the original model."""
    asked = {
        "checkpoint": [{"path": str(out / f"original{plan.ending}")}],
        "forget": str(out / "forget.npy"),
        "device": "cpu",
        "seed": seed,
    }
    request = resolve([Layer("flag", asked)])
    for label, method in plan.applied.items():
        apply_method(method, out / f"{label}{plan.ending}", request, {}, force=True, clock=None, progress=progress)


def _retrain_in_part(
    out: Path, plan: Scenario, dataset: Dataset, *, forget: IndexSet, seed: int, compute: Device, progress: Progress
) -> None:
    """Train anew without the forget set or most of it, and record of that only that it is called unlearned."""
    kept = plan.kept or 0.0
    count = round(len(forget) * (1 - kept))
    rows = np.sort(generator("demo", seed, "kept").choice(forget.indices, count, replace=False))
    model, metadata = train_recorded(
        plan.model,
        dataset,
        pick_recipe(None, plan.model, epochs=plan.epochs),
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


def _config(plan: Scenario, seed: int) -> str:
    roles = {"original": "original", **dict.fromkeys(plan.applied, "unlearned")}
    roles |= dict.fromkeys(plan.trained[1:], "retrained")
    entries = (f'[[checkpoint]]\npath = "{label}{plan.ending}"\nrole = "{role}"\n' for label, role in roles.items())
    sections, sample = (OF_CLASSIFIERS, "") if plan.ending else (OF_GENERATORS, SAMPLE)
    return CONFIG.format(seed=seed, sample=sample, checkpoints="\n".join(entries), sections=sections)
