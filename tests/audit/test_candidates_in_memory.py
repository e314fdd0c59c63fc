"""Modules in memory are audited as their files are, and left alone."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from unlearn_audit import models
from unlearn_audit.audit import AuditResult, audit_candidates, audit_checkpoints
from unlearn_audit.audit.controls import RANDOM
from unlearn_audit.checkpoints import digest_of_state, read_checkpoint
from unlearn_audit.config import AuditConfig
from unlearn_audit.data import load_data, make_splits
from unlearn_audit.engine import setup_device
from unlearn_audit.errors import UsageError
from unlearn_audit.in_memory.models import as_candidate
from unlearn_audit.report import Measurement

ROLES = {"original": "original", "unlearned": "unlearned", "retrained-1": "retrained", "retrained-2": "retrained"}
SECTIONS: dict[str, Any] = {"gaps": {}, "rcd": {"steps": 3, "resamples": 100}, "mia": {"attacks": ["loss"]}}


def modules(tiny: Path) -> dict[str, nn.Module]:
    found = {}
    for label in ROLES:
        found[label] = models.build("small-cnn", classes=10, channels=1)
        models.load_state(found[label], read_checkpoint(tiny / f"{label}.safetensors").state, where=label)
    return found


def audited(tiny: Path, handed: dict[str, nn.Module], **sections: Any) -> AuditResult:
    dataset, compute = load_data("digits?mislabel=0.1&seed=0"), setup_device("cpu")
    subjects = [
        as_candidate(model, dataset, compute, label=label, role=ROLES[label]) for label, model in handed.items()
    ]
    splits = make_splits(dataset, str(tiny / "forget.npy"))
    return audit_candidates(subjects, splits, AuditConfig.model_validate(sections), compute=compute)


def measured(found: AuditResult) -> list[Measurement]:
    """Everything but the control's, which is drawn anew in another way."""
    return [one for one in found.report.measurements if one.role != "control"]


@pytest.mark.slow
def test_a_module_gives_the_numbers_of_its_file(tiny: Path) -> None:
    handed = modules(tiny)
    before = [digest_of_state(model.train().state_dict()) for model in handed.values()]
    found = audited(tiny, handed, **SECTIONS)
    assert [digest_of_state(model.state_dict()) for model in handed.values()] == before
    assert all(model.training for model in handed.values())
    files = [{"path": str(tiny / f"{label}.safetensors")} for label in ROLES]
    asked = {"checkpoint": files, "forget": str(tiny / "forget.npy"), "device": "cpu"}
    expected = audit_checkpoints(AuditConfig.model_validate(asked | SECTIONS))
    theirs, ours = (
        [one for one in result.report.measurements if one.role != "control"] for result in (expected, found)
    )
    assert ours == theirs
    assert [one.sha256 for one in found.report.subjects] == before
    assert set(found.arrays) == set(expected.arrays)


def test_a_control_draws_the_weights_of_a_module_anew(tiny: Path) -> None:
    report = audited(tiny, {"original": modules(tiny)["original"]}, **SECTIONS).report
    control = report.find("rcd.normalised", RANDOM)
    assert control is not None
    assert control.value == pytest.approx(1, abs=0.1)


class Scaled(nn.Module):
    """Has a parameter of its own that nothing draws anew."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.head = nn.Linear(64, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(images.flatten(1)) * self.scale  # type: ignore[no-any-return]


def test_a_module_that_cannot_be_drawn_anew_has_no_control_and_it_is_said(tiny: Path) -> None:
    torch.manual_seed(0)
    report = audited(tiny, {"original": Scaled()}, rcd=SECTIONS["rcd"]).report
    assert {one.role for one in report.measurements} == {"original"}
    assert any(text.startswith("no random control: Scaled has parameters of its own") for text in report.limitations)


def test_nothing_to_audit_is_refused(tiny: Path) -> None:
    with pytest.raises(UsageError, match="no model to audit"):
        audited(tiny, {}, gaps={})
    with pytest.raises(UsageError, match="nothing to measure"):
        audited(tiny, modules(tiny))
