"""Audits of models in memory: the numbers are those of their files, and each slip of a caller is told."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_problems import make_net, same, snapshot
from torch import nn

import unlearn_audit as ua
from unlearn_audit.audit import audit_checkpoints
from unlearn_audit.config import AuditConfig
from unlearn_audit.data import Splits
from unlearn_audit.errors import ConfigError, MeasurementError, UsageError
from unlearn_audit.report import AuditReport, write_report

Cli = Callable[..., Any]
SMALL: dict[str, Any] = {"steps": 2, "resamples": 100}


@pytest.fixture(scope="module")
def digits() -> Splits:
    return ua.make_splits(ua.load_data("digits?train=120&test=100"), "range:0-19")


@pytest.fixture(scope="module")
def models(digits: Splits) -> dict[str, ua.TrainedModel]:
    """An original, a retrained and an unlearned model, hardly trained, under names that tell no role."""
    original = ua.train("small-cnn", digits.dataset, epochs=1, device="cpu")
    retrained = ua.train("small-cnn", digits.dataset, without=digits.forget, seed=1, epochs=1, device="cpu")
    return {"m0": original, "scrub": ua.unlearn("scrub", original, digits, epochs=1, device="cpu"), "r1": retrained}


@pytest.fixture(scope="module")
def report(digits: Splits, models: dict[str, ua.TrainedModel]) -> ua.Report:
    return ua.audit(models, digits, rcd=SMALL, mia=["loss"], device="cpu")


def test_numbers_are_those_of_the_files(
    digits: Splits, models: dict[str, ua.TrainedModel], report: ua.Report, tmp_path: Path
) -> None:
    for label, model in models.items():
        model.save(tmp_path / f"{label}.safetensors")
    files = [{"path": str(tmp_path / f"{label}.safetensors")} for label in models]
    asked = {"checkpoint": files, "forget": "range:0-19", "device": "cpu"}
    asked |= {"gaps": {}, "rcd": SMALL, "mia": {"attacks": ["loss"]}}
    wanted = audit_checkpoints(AuditConfig.model_validate(asked))
    assert report.measurements == wanted.report.measurements
    assert report.conclusion == wanted.report.conclusion
    assert {*report.arrays} == {*wanted.arrays}
    notes = [[subject.notes for subject in one.subjects] for one in (report, wanted.report)]
    assert notes[0] == notes[1]


def test_roles_are_those_that_train_and_unlearn_made(report: ua.Report) -> None:
    assert [(one.label, one.role) for one in report.subjects] == [
        ("m0", "original"), ("scrub", "unlearned"), ("r1", "retrained"),
    ]  # fmt: skip
    assert report["rcd.ratio_to_unseen", "scrub"].role == "unlearned"


def test_it_is_a_whole_report_that_can_be_saved_and_gated(report: ua.Report, run: Cli, tmp_path: Path) -> None:
    assert isinstance(report, AuditReport)
    path = report.save(tmp_path / "report")
    assert sorted(each.name for each in path.parent.iterdir()) == ["arrays.npz", "report.json"]
    write_report(ua.read_report(path), tmp_path / "same.json")
    assert path.read_text() == (tmp_path / "same.json").read_text()
    policy = tmp_path / "policy.toml"
    policy.write_text(
        'schema_version = 1\n[[rule]]\nid = "good"\nmetric = "accuracy.test"\nsubject = "scrub"\nmin = 2.0\n'
    )
    done = run("gate", path, "--policy", policy)
    assert done.code == 1, done


@pytest.mark.parametrize(
    ("label", "role"), [("original", "original"), ("retrained-1", "retrained"), ("Unlearned by mine", "unlearned")]
)
def test_a_label_that_begins_with_a_role_says_it(label: str, role: str, splits: Splits) -> None:
    assert ua.audit({label: make_net()}, splits, device="cpu").subjects[0].role == role


def test_another_label_needs_a_role(splits: Splits) -> None:
    with pytest.raises(UsageError, match=r"what is 'originally'\? .*roles=\{'originally': 'unlearned'\}"):
        ua.audit({"originally": make_net()}, splits, device="cpu")
    found = ua.audit({"originally": make_net()}, splits, roles={"originally": "subject"}, device="cpu")
    assert found.subjects[0].role == "subject"
    with pytest.raises(UsageError, match="unknown role 'orignal'; did you mean 'original'"):
        ua.audit({"a": make_net()}, splits, roles={"a": "orignal"}, device="cpu")


def test_the_callers_modules_are_left_alone(splits: Splits) -> None:
    model = make_net().train()
    before = snapshot(model)
    ua.audit({"original": model}, splits, rcd=SMALL, device="cpu")
    assert same(model, before)
    assert model.training
    assert not model._forward_pre_hooks


def test_one_module_under_two_names_is_refused_and_a_copy_is_a_doubt(splits: Splits) -> None:
    model = make_net()
    with pytest.raises(UsageError, match="original and unlearned are one module"):
        ua.audit({"original": model, "unlearned": model}, splits, device="cpu")
    found = ua.audit({"original": model, "unlearned": copy.deepcopy(model)}, splits, device="cpu")
    assert any("the same weights" in text or "are the same file" in text for text in found.subjects[1].doubts)


def test_the_normalisation_of_a_bare_module_is_assumed_unless_it_is_named(splits: Splits) -> None:
    assumed, named = (
        ua.audit({"original": make_net()}, splits, device="cpu", **moments)
        for moments in ({}, {"mean": 0.5, "std": 0.25})  # type: ignore[var-annotated]
    )
    assert assumed.measurements == named.measurements
    assert any("assumed: inputs normalised" in text for text in assumed.limitations)
    assert not any("assumed" in text for text in named.limitations)


def test_what_a_section_does_not_take_is_told_at_once(splits: Splits) -> None:
    with pytest.raises(ConfigError) as caught:
        ua.audit({"original": make_net()}, splits, rcd={"step": 3, "optimizer": "sdg"}, mia=["lose"], device="cpu")
    assert len(caught.value.problems) == 3


def test_a_model_that_does_not_fit_is_named(splits: Splits) -> None:
    with pytest.raises(MeasurementError, match="7 columns"):
        ua.audit({"original": make_net(), "unlearned": make_net(classes=7)}, splits, device="cpu")
    with pytest.raises(UsageError, match="unlearned is dict; a torch.nn.Module is needed"):
        ua.audit({"original": make_net(), "unlearned": {}}, splits, device="cpu")  # type: ignore[dict-item]
    with pytest.raises(MeasurementError, match="retrained-1"):
        ua.audit({"original": make_net(), "retrained-1": nn.Linear(2, 2)}, splits, device="cpu")
    with pytest.raises(UsageError, match="no model to audit"):
        ua.audit({}, splits, device="cpu")


def test_a_section_may_be_asked_for_by_a_word(splits: Splits) -> None:
    found = ua.audit({"original": make_net()}, splits, gaps=False, mia="loss", device="cpu")
    assert {one.name.rpartition(".")[0] for one in found.measurements} == {"mia.loss"}
    assert ua.audit({"original": make_net()}, splits, gaps=False, mia=True, device="cpu").measurements
    back = ua.audit({"original": make_net()}, splits, gaps=False, resurgence={"alterations": ["int4"]}, device="cpu")
    assert {one.name for one in back.measurements} >= {"resurgence.int4", "resurgence.int4.gap"}


def test_an_attack_of_ones_own_is_named_as_on_the_command_line(splits: Splits, here: Path) -> None:
    (here / "attacks_in_memory.py").write_text(MINE)
    found = ua.audit({"original": make_net()}, splits, gaps=False, mia=["attacks_in_memory:mine"], device="cpu")
    assert found["mia.mine.auc", "original"].value is not None


MINE = """
import numpy as np
from unlearn_audit.attacks import Attack

def mine():
    return Attack("mine", "ours", "any scores", lambda evidence: np.arange(len(evidence.labels), dtype=float))
"""
