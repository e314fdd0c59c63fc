"""A judge that is trained for an audit: once for a folder, the same as in memory, and none where one is named."""

from pathlib import Path

import pytest
from torch import nn

from unlearn_audit.audit.context import AuditContext
from unlearn_audit.audit.generated.judge_file import with_judge
from unlearn_audit.audit.generated.judging import trained_judge
from unlearn_audit.config import Layer, Resolved, resolve
from unlearn_audit.data import load_data, make_splits
from unlearn_audit.engine import setup_device
from unlearn_audit.errors import UsageError
from unlearn_audit.inputs import Candidate
from unlearn_audit.judges import as_stored, open_judge


def asked(**values: object) -> Resolved:
    section = {"generation": dict(values)}
    return resolve([Layer("flag", {"data": "digits?train=120", "forget": "class:3", **section}, "test")])


def test_a_folder_keeps_its_judge_and_a_named_one_stays(tmp_path: Path) -> None:
    request = with_judge(asked(), tmp_path)
    assert request.config.generation is not None
    path = Path(request.config.generation.judge)
    assert path.parent == tmp_path / "models"
    before = path.stat().st_mtime_ns
    assert with_judge(asked(), tmp_path) == request
    assert path.stat().st_mtime_ns == before
    named = asked(judge="judge.safetensors")
    assert with_judge(named, tmp_path) is named
    assert with_judge(resolve([Layer("flag", {"forget": "class:3"}, "test")]), tmp_path).config.generation is None


def with_checkpoint(path: Path, **more: object) -> Resolved:
    values = {"data": "digits?train=120", "forget": "class:3", "generation": {}, "checkpoint": [{"path": str(path)}]}
    return resolve([Layer("flag", values | more, "test")])


def test_no_judge_is_trained_for_sections_that_are_not_measured(tmp_path: Path) -> None:
    request = asked()
    assert with_judge(request, tmp_path, only=("gaps",)) is request
    assert with_judge(request, tmp_path, only=("rcd",)) is request
    assert list(tmp_path.iterdir()) == []


def test_no_judge_is_trained_for_classifiers(tiny: Path, tmp_path: Path) -> None:
    request = with_checkpoint(next(tiny.glob("*.safetensors")))
    assert with_judge(request, tmp_path) is request
    assert list(tmp_path.iterdir()) == []


def test_a_judge_of_classes_is_refused_for_generators_of_texts(stable_diffusion_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nudenet"):
        with_judge(with_checkpoint(stable_diffusion_folder), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_verb_without_a_folder_trains_the_very_same_judge(tmp_path: Path) -> None:
    request, dataset, compute = with_judge(asked(), tmp_path), load_data("digits?train=120"), setup_device("cpu")
    assert request.config.generation is not None
    subject = Candidate("u", "unlearned", "u/", "0" * 64, "made up", nn.Identity(), dataset.transform)
    context = AuditContext(asked().config, {}, compute, make_splits(dataset, "class:3"), (subject,))
    ours, kept = (
        trained_judge(context),
        open_judge(request.config.generation.judge, dataset=dataset, compute=compute),
    )
    images = as_stored(dataset.test.images[:50])
    assert (ours.features(images) == kept.features(images)).all()
    assert (ours.labels(images) == kept.labels(images)).all()
