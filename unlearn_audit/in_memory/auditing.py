"""The audit of models in memory: what the command line does with files."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from unlearn_audit.audit import audit_candidates
from unlearn_audit.config import Layer, resolve
from unlearn_audit.data import Splits
from unlearn_audit.engine import setup_device
from unlearn_audit.errors import UsageError, unknown_name
from unlearn_audit.in_memory.models import Model, Moments, TrainedModel, as_candidate, module_of
from unlearn_audit.in_memory.report import Report
from unlearn_audit.progress import Progress, silent

ROLES = ("original", "retrained", "unlearned", "subject")
Section = Mapping[str, Any] | bool | None


def audit(
    models: Mapping[str, Model],
    splits: Splits,
    *,
    roles: Mapping[str, str] | None = None,
    gaps: bool = True,
    rcd: Section = None,
    truncation: Section = None,
    spectrum: Section = None,
    layers: Section = None,
    twosample: Section = None,
    outputs: Section = None,
    mia: Section | Sequence[str] = None,
    resurgence: Section = None,
    mean: Moments = None,
    std: Moments = None,
    seed: int = 0,
    device: str = "auto",
    precision: str = "fp32",
    batch_size: int | None = None,
    progress: Progress = silent,
) -> Report:
    """Audit models in memory: is the data gone, are they still good, how sure are we?

    A section runs where it is asked for: `rcd=True` with its defaults, `rcd={"steps": 100, "optimizer": "adam"}` with
    settings, whose names and meanings are those of the configuration file.

    Args:
        models: by label, modules or what `train` and `unlearn` returned; all are left as they are. A label that begins
            with original, unlearned or retrained says the model's role; else it is what `train` or `unlearn` made.
        splits: what was to be forgotten, and what it is compared with.
        roles: of labels that do not say it: `{"scrub": "unlearned"}`; original, retrained, unlearned, or subject.
        gaps: accuracy and loss on every split, and the gaps to the retrained models.
        rcd: the relearning convergence delay, all models at one step size.
        truncation: whether the truncation error of RCD is exponential in K.
        spectrum: the curvature of the loss on the forget set.
        layers: the largest singular values of each layer.
        twosample: whether forget set and unseen twin are told apart, given the retrained models.
        outputs: how far answers and features are from retrained models', with the floor between these.
        mia: membership inference: names of attacks, or settings.
        resurgence: whether it comes back without the data: copies are rounded, pruned, fine-tuned.
        mean: of inputs in [0, 1] as all these models were trained, one number or one per channel; default: what `train`
            and `unlearn` recorded; for other modules the data's own, and the report says that it is assumed.
        std: likewise.
        seed: of intervals and random controls.
        device: "auto" (cuda, else mps, else cpu), "cpu", "cuda", "cuda:N" or "mps".
        precision: "fp32", "tf32" or "bf16".
        batch_size: images in one forward pass.
        progress: progress callback, called after each step.

    Returns:
        The report: the same document that the command line writes, to be looked at, saved and gated.

    Raises:
        UsageError: no models, no role, one module under two names, or a section that contradicts itself.
        ConfigError: a section's settings are unknown or out of range; every problem at once.
        MeasurementError: a model does not fit the data, or is not deterministic.
    """
    _check_distinct(models)
    named = {label: _role(label, model, roles or {}) for label, model in models.items()}
    asked = {
        "gaps": gaps,
        "rcd": rcd,
        "truncation": truncation,
        "spectrum": spectrum,
        "layers": layers,
        "twosample": twosample,
        "outputs": outputs,
        "mia": _attacks(mia),
        "resurgence": resurgence,
    }
    values = {
        "data": splits.dataset.spec,
        "forget": splits.forget.spec,
        "seed": seed,
        "device": device,
        "precision": precision,
        "batch_size": batch_size,
        **{name: {} if section is True else section for name, section in asked.items() if section not in (None, False)},
    }
    request = resolve([Layer("flag", {key: value for key, value in values.items() if value is not None})])
    compute = setup_device(device, precision, batch_size)
    candidates = [
        as_candidate(model, splits.dataset, compute, label=label, role=named[label], mean=mean, std=std)
        for label, model in models.items()
    ]
    found = audit_candidates(
        candidates, splits, request.config, compute=compute, origins=request.origins, progress=progress
    )
    return Report.of(found.report, found.arrays)


def _attacks(mia: Section | Sequence[str]) -> Section:
    """Return the settings of a section that may be given by the names of its attacks alone."""
    if isinstance(mia, str):
        return {"attacks": [mia]}
    if mia is None or isinstance(mia, bool | Mapping):
        return mia
    return {"attacks": list(mia)}


def _role(label: str, model: Model, roles: Mapping[str, str]) -> str:
    """Return what a model is: as it is named, as its label begins, or as it was made."""
    if label in roles:
        if roles[label] not in ROLES:
            raise UsageError(unknown_name("role", roles[label], ROLES))
        return roles[label]
    begins = re.match(rf"({'|'.join(ROLES)})(?![a-z])", label.lower())
    if begins:
        return begins[1]
    made = model.record.role if isinstance(model, TrainedModel) else None
    if made in ROLES:
        return str(made)
    raise UsageError(
        f"what is '{label}'? Let its label begin with {', '.join(ROLES[:3])}, or say roles={{'{label}': 'unlearned'}}"
    )


def _check_distinct(models: Mapping[str, Model]) -> None:
    """Refuse one module under two labels, which no file could be by accident."""
    labels: dict[int, str] = {}
    for label, model in models.items():
        other = labels.setdefault(id(module_of(model, label)), label)
        if other != label:
            raise UsageError(
                f"{other} and {label} are one module; whatever changed one in place has changed both: hand "
                "copy.deepcopy(model) to what edits in place, or use unlearn, which returns a new model"
            )
