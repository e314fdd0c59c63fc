"""The audit on real checkpoints: numbers against computation by hand, and what it says of what it was given."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import nn

from unlearn_audit import __version__
from unlearn_audit.audit import MEASUREMENTS, run_audit
from unlearn_audit.audit.controls import RANDOM
from unlearn_audit.catalogue import ATTACK_METRICS, METRICS
from unlearn_audit.checkpoints import read_checkpoint, write_checkpoint
from unlearn_audit.config import SECTIONS, AuditConfig, CheckpointEntry
from unlearn_audit.data import (
    Examples,
    Splits,
    Transform,
    load_data,
    make_spare_twin,
    make_splits,
    read_training_indices,
)
from unlearn_audit.engine import Device, FullBatch, setup_device
from unlearn_audit.errors import DataError, MeasurementError, UsageError
from unlearn_audit.models import build
from unlearn_audit.models.small import SmallCNN
from unlearn_audit.relearning import Run, relearn
from unlearn_audit.report import AuditReport, Measurement, dump_report, read_report
from unlearn_audit.training import pick_recipe, train_checkpoint

Ran = Any
Cli = Callable[..., Ran]
Floats = NDArray[np.float64]
ROLES = ("original", "unlearned", "retrained-1", "retrained-2")
CPU = Device(torch.device("cpu"))
RCD = {"steps": 6, "resamples": 200, "step_size": 0.01}


def paths(folder: Path, *labels: str) -> list[dict[str, str]]:
    return [{"path": str(folder / f"{label}.safetensors")} for label in labels]


def config_of(folder: Path, *labels: str, **more: Any) -> AuditConfig:
    """A config for checkpoints of the folder, on the forget set that is there."""
    values = {"checkpoint": paths(folder, *labels), "forget": str(folder / "forget.npy"), "device": "cpu"} | more
    return AuditConfig.model_validate(values)


@pytest.fixture(scope="module")
def report(tiny: Path) -> AuditReport:
    """Everything, on all four checkpoints."""
    sections = {"gaps": {}, "rcd": RCD | {"step_size": "auto"}, "spectrum": {"probes": 2, "tolerance": 0.1}, "mia": {}}
    return run_audit(config_of(tiny, *ROLES, **sections))


@pytest.fixture(scope="module")
def splits(tiny: Path) -> Splits:
    return make_splits(load_data("digits?mislabel=0.1&seed=0"), str(tiny / "forget.npy"))


def of(report: AuditReport, name: str, subject: str) -> Measurement:
    found = report.find(name, subject)
    assert found is not None, (name, subject)
    return found


def number(report: AuditReport, name: str, subject: str) -> float:
    value = of(report, name, subject).value
    assert isinstance(value, float), (name, subject, value)
    return value


def logits_of(folder: Path, label: str, examples: Examples, transform: Transform) -> Floats:
    """A forward pass that owes nothing to the engine."""
    model = build("small-cnn", classes=10, channels=1)
    model.load_state_dict(dict(read_checkpoint(folder / f"{label}.safetensors").state))
    with torch.no_grad():
        return np.asarray(model.eval()(transform(examples.images)).double().numpy())


def sets_of(splits: Splits) -> dict[str, Examples]:
    return {
        "retain": splits.retain_examples,
        "forget": splits.forget_examples,
        "test": splits.test_examples,
        "unseen": splits.unseen.examples,
    }


# ----- numbers against computation by hand


def test_accuracies_losses_and_gaps_are_those_of_plain_numpy(tiny: Path, splits: Splits, report: AuditReport) -> None:
    right: dict[tuple[str, str], Floats] = {}
    for label in ROLES:
        for split, examples in sets_of(splits).items():
            logits, labels = logits_of(tiny, label, examples, splits.dataset.transform), examples.labels.numpy()
            right[label, split] = (logits.argmax(1) == labels).astype(float)
            exps = np.exp(logits - logits.max(1, keepdims=True))
            loss = -np.log((exps / exps.sum(1, keepdims=True))[np.arange(len(labels)), labels]).mean()
            accuracy = of(report, f"accuracy.{split}", label)
            assert (accuracy.value, accuracy.n) == (pytest.approx(right[label, split].mean()), len(labels))
            assert of(report, f"loss.{split}", label).value == pytest.approx(loss, rel=1e-4)
    for label in ROLES:
        others = [other for other in ("retrained-1", "retrained-2") if other != label]
        gaps = {}
        for split in ("retain", "forget", "test"):
            levels = [right[other, split].mean() for other in others]
            gaps[split] = right[label, split].mean() - np.mean(levels)
            found = of(report, f"gap.{split}", label)
            assert found.value == pytest.approx(gaps[split], abs=1e-12)
            assert found.reference is not None
            assert (found.reference.value, found.reference.n) == (pytest.approx(np.mean(levels)), len(others))
            if len(others) == 2:
                assert found.reference.spread == pytest.approx(np.std(levels, ddof=1))
                assert found.details["noise_floor"] == pytest.approx(abs(levels[0] - levels[1]))
                assert found.interval is not None
                assert found.interval.low <= found.value <= found.interval.high
        assert of(report, "gap.average", label).value == pytest.approx(np.mean(np.abs(list(gaps.values()))))


def test_a_gap_is_signed(report: AuditReport) -> None:
    one, two = (number(report, "gap.test", f"retrained-{index}") for index in (1, 2))
    assert one == pytest.approx(-two)
    accuracies = [number(report, "accuracy.test", f"retrained-{index}") for index in (1, 2)]
    assert one == pytest.approx(accuracies[0] - accuracies[1])
    assert number(report, "gap.forget", "original") > 0, "the original fits labels that no retrained model saw"


def test_the_attack_is_the_rank_sum_of_losses_against_the_twin(tiny: Path, splits: Splits, report: AuditReport) -> None:
    for label in ROLES:
        losses = []
        for examples in (splits.paired_examples, splits.unseen.examples):
            logits = torch.from_numpy(logits_of(tiny, label, examples, splits.dataset.transform))
            losses.append(nn.functional.cross_entropy(logits, examples.labels, reduction="none").numpy())
        members, others = losses
        ranks = rankdata(np.concatenate([-members, -others]))[: len(members)]
        area = (ranks.sum() - len(members) * (len(members) + 1) / 2) / (len(members) * len(others))
        found = of(report, "mia.loss.auc", label)
        assert found.value == pytest.approx(area, abs=2e-3)
        assert found.n == len(members) + len(others)
        assert found.details["base_rate"] == 0.5


def test_rcd_is_the_sum_of_the_curve_and_the_ratio_that_of_both_sums(
    tiny: Path, splits: Splits, report: AuditReport
) -> None:
    step = of(report, "rcd.raw", "original").details["step_size"]
    for label in ROLES:
        model = build("small-cnn", classes=10, channels=1)
        model.load_state_dict(dict(read_checkpoint(tiny / f"{label}.safetensors").state))
        sums = [
            relearn(
                Run(model.eval(), examples, splits.dataset.transform), steps=6, step_size=step, compute=CPU
            ).loss.sum()
            for examples in (splits.forget_examples, splits.unseen.examples)
        ]
        raw, ratio = of(report, "rcd.raw", label), of(report, "rcd.ratio_to_unseen", label)
        assert raw.value == pytest.approx(sums[0], rel=1e-5)
        assert raw.value == pytest.approx(sum(raw.details["loss"]), rel=1e-12)
        assert len(raw.details["loss"]) == 7
        assert raw.details["on_unseen"] == pytest.approx(sums[1], rel=1e-5)
        assert ratio.value == pytest.approx(sums[0] / sums[1], rel=1e-5)
        assert raw.interval is not None
        assert ratio.interval is not None
        assert raw.interval.low < raw.value < raw.interval.high
        assert ratio.interval.low < ratio.value < ratio.interval.high


def test_several_checkpoints_share_one_step(report: AuditReport) -> None:
    raw = [m for m in report.measurements if m.name == "rcd.raw"]
    assert len(raw) == 5
    assert len({m.details["step_size"] for m in raw}) == 1
    assert len({m.method for m in raw}) == 1
    assert all(m.details["passes"] == {"forward": 7, "backward": 6} for m in raw)
    assert [m.role for m in raw] == ["original", "unlearned", "retrained", "retrained", "control"]


def test_the_floor_shifts_every_sum_by_its_terms(tiny: Path, report: AuditReport) -> None:
    step = of(report, "rcd.raw", "original").details["step_size"]
    for floor in (0.25, "best"):
        settings = RCD | {"floor": floor, "step_size": step, "controls": False}
        shifted = run_audit(config_of(tiny, "original", "retrained-1", rcd=settings))
        shifts = [
            number(report, "rcd.raw", label) - number(shifted, "rcd.raw", label)
            for label in ("original", "retrained-1")
        ]
        assert shifts[0] == pytest.approx(shifts[1])
        assert shifts[0] / 7 == pytest.approx(0.25) if floor == 0.25 else shifts[0] > 0
        assert (
            of(shifted, "rcd.ratio_to_unseen", "original").value == of(report, "rcd.ratio_to_unseen", "original").value
        )
        assert "floor zero" in of(shifted, "rcd.ratio_to_unseen", "original").method
        assert [s for s in shifted.subjects if s.role == "control"] == []


def test_k_steps_cost_k_plus_one_forward_and_k_backward_passes(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts: dict[int, list[int]] = {}
    current: list[int] = []
    plain = FullBatch.measured

    def watched(self: FullBatch, model: nn.Module, *, backward: bool) -> Any:
        current[:] = [id(self)]
        counts.setdefault(id(self), [0, 0])
        keep.append(self)
        found = plain(self, model, backward=backward)
        current.clear()
        return found

    def forward(module: nn.Module, inputs: Any, output: Any) -> None:
        if current and isinstance(module, SmallCNN):
            batch = current[0]
            counts[batch][0] += 1
            if output.requires_grad:
                output.register_hook(lambda _: counts[batch].__setitem__(1, counts[batch][1] + 1))

    keep: list[FullBatch] = []
    monkeypatch.setattr(FullBatch, "measured", watched)
    hook = torch.nn.modules.module.register_module_forward_hook(forward)
    try:
        run_audit(config_of(tiny, "original", "unlearned", rcd=RCD, batch_size=1000))
    finally:
        hook.remove()
    assert sorted(counts.values()) == [[7, 6]] * 6, "two subjects and a control, each on the forget set and its twin"


# ----- repeatability


def without_time(report: AuditReport) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(dump_report(report))
    return {key: value for key, value in body.items() if key not in ("created_at", "body_sha256")}


def test_the_same_inputs_and_seed_give_the_same_report(tiny: Path) -> None:
    found = []
    for global_seed in (1, 2):
        torch.manual_seed(global_seed)
        np.random.seed(global_seed)
        config = config_of(tiny, "unlearned", "retrained-1", "retrained-2", gaps={}, rcd=RCD, mia={}, sample=30)
        found.append(without_time(run_audit(config)))
    assert found[0] == found[1]


def test_another_seed_draws_another_twin(tiny: Path, report: AuditReport) -> None:
    other = run_audit(config_of(tiny, *ROLES, mia={}, seed=1))
    assert other.data.unseen is not None
    assert report.data.unseen is not None
    assert other.data.unseen.sha256 != report.data.unseen.sha256
    assert other.data.forget == report.data.forget


def test_a_sample_is_said_with_its_size(tiny: Path) -> None:
    found = run_audit(config_of(tiny, "original", gaps={}, sample=20))
    forget = found.data.forget
    assert (forget.n, forget.measured, found.data.unseen.n) == (144, 20, 20)  # type: ignore[union-attr]
    assert forget.sha256 != forget.measured_sha256
    assert found.limitations[0].startswith("20 of the 144 forget examples are measured, a sample drawn with seed 0")
    assert of(found, "accuracy.forget", "original").n == 20
    assert found.data.retain.n == 1437 - 144


# ----- the report as a whole


def test_roles_come_from_the_metadata(report: AuditReport) -> None:
    assert [(s.label, s.role) for s in report.subjects] == [
        ("original", "original"),
        ("unlearned", "unlearned"),
        ("retrained-1", "retrained"),
        ("retrained-2", "retrained"),
    ]
    assert {s.model for s in report.subjects} == {"small-cnn"}
    notes = {s.label: s.notes for s in report.subjects if s.notes}
    assert list(notes) == ["unlearned"]
    assert "schedule is cosine, published is constant" in notes["unlearned"]  # as its metadata has it
    assert report.tool.version == __version__


def test_a_role_that_was_given_wins_and_the_disagreement_is_said(tiny: Path) -> None:
    entry = paths(tiny, "unlearned")[0] | {"role": "original"}
    found = run_audit(config_of(tiny, gaps={}, checkpoint=[entry]))
    assert found.subjects[0].role == "original"
    assert found.limitations == ("unlearned is used as original, but its metadata says unlearned",)


def test_every_measurement_is_in_the_catalogue_and_reads_without_knowing_the_code(report: AuditReport) -> None:
    assert {m.name for m in report.measurements} <= set(METRICS)
    for found in report.measurements:
        assert found.method
        assert found.unit
        assert found.n > 0
        assert (found.value is None) == (found.reason is not None)
    assert set(MEASUREMENTS) <= set(SECTIONS)


def test_the_data_are_described_with_digests(report: AuditReport, splits: Splits) -> None:
    data = report.data
    assert (data.source, data.sha256) == ("digits?mislabel=0.1&seed=0", splits.dataset.sha256)
    assert data.forget.sha256 == data.forget.measured_sha256 == splits.forget.sha256
    assert data.forget.measured == data.forget.n
    assert data.unseen is not None
    assert (data.forget.n, data.retain.n, data.test.n, data.unseen.n) == (144, 1293, 360, 144)


def test_where_settings_came_from_is_said(report: AuditReport) -> None:
    assert report.settings["from"]["data"] == "metadata"
    assert report.settings["from"]["model of original"] == "metadata"
    assert report.settings["from"]["forget"] == "flag"
    assert report.settings["config"]["rcd"]["steps"] == 6


def test_a_retrained_subject_is_compared_with_the_other_retrained_ones(report: AuditReport) -> None:
    for mine, other in ((1, 2), (2, 1)):
        for name in ("rcd.raw", "rcd.ratio_to_unseen", "mia.loss.auc"):
            found = of(report, name, f"retrained-{mine}").reference
            assert found is not None
            assert (found.n, found.spread) == (1, None)
            assert found.value == pytest.approx(of(report, name, f"retrained-{other}").value)
    both = of(report, "rcd.ratio_to_unseen", "unlearned").reference
    assert both is not None
    assert both.n == 2
    levels = [number(report, "rcd.ratio_to_unseen", f"retrained-{index}") for index in (1, 2)]
    assert (both.value, both.spread) == (pytest.approx(np.mean(levels)), pytest.approx(np.std(levels, ddof=1)))


def test_a_lone_retrained_model_has_nothing_to_be_compared_with(tiny: Path) -> None:
    found = run_audit(config_of(tiny, "retrained-1", gaps={}, mia={}))
    assert of(found, "gap.test", "retrained-1").value is None
    assert of(found, "gap.test", "retrained-1").reason == "no other retrained model to compare with was given"
    assert of(found, "gap.average", "retrained-1").value is None
    assert of(found, "mia.loss.auc", "retrained-1").reference is None


def test_labels_are_unique(tiny: Path, tmp_path: Path) -> None:
    for folder in "ab":
        (tmp_path / folder).mkdir()
        shutil.copy(tiny / "original.safetensors", tmp_path / folder / "model.safetensors")
    entries = [{"path": str(tmp_path / folder / "model.safetensors")} for folder in "ab"]
    found = run_audit(config_of(tiny, gaps={}, checkpoint=[*entries, {**entries[0], "label": "model-2"}]))
    assert [s.label for s in found.subjects] == ["model", "model-2", "model-2-2"]


def test_a_point_in_a_files_name_is_a_part_of_its_label(tiny: Path, tmp_path: Path) -> None:
    entries = []
    for name in ("part-0.05-0.safetensors", "part-0.10-0.safetensors", "v1.2.pt"):
        shutil.copy(tiny / "original.safetensors", tmp_path / name)
        entries.append({"path": str(tmp_path / name)})
    found = run_audit(config_of(tiny, gaps={}, checkpoint=entries))
    assert [s.label for s in found.subjects] == ["part-0.05-0", "part-0.10-0", "v1.2"]


def test_a_checkpoint_named_like_the_control_keeps_its_name(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / f"{RANDOM}.safetensors"
    shutil.copy(tiny / "original.safetensors", path)
    found = run_audit(config_of(tiny, rcd=RCD | {"steps": 0}, checkpoint=[{"path": str(path)}]))
    labels = [m.subject for m in found.measurements if m.name == "rcd.raw"]
    assert labels == [RANDOM, f"{RANDOM}-2"]


# ----- fairness


def test_another_forget_set_than_the_one_unlearned_is_said(tiny: Path) -> None:
    config = config_of(tiny, *ROLES, gaps={}).model_copy(update={"forget": "range:0-99"})
    assert run_audit(config).limitations == (
        "unlearned has unlearned a forget set that is not the one measured here: not a fair comparison",
        "retrained-1 was trained without a forget set that is not the one measured here: not a fair comparison",
        "retrained-2 was trained without a forget set that is not the one measured here: not a fair comparison",
    )


def test_an_unfair_comparison_is_in_the_report_for_the_gate_to_see(tiny: Path) -> None:
    config = config_of(tiny, *ROLES, gaps={}).model_copy(update={"forget": "range:0-99"})
    doubts = {one.label: one.doubts for one in run_audit(config).subjects}
    assert doubts["original"] == ()
    assert [label for label, found in doubts.items() if found] == ["unlearned", "retrained-1", "retrained-2"]
    entries = (CheckpointEntry(path=str(tiny / "original.safetensors"), role="retrained"),)
    (one,) = run_audit(config.model_copy(update={"checkpoint": entries})).subjects
    assert one.doubts == ("original is used as retrained, but its metadata says original",)


def test_a_model_that_was_stopped_by_a_look_at_the_twin_is_in_doubt_and_by_other_examples_not(
    tiny: Path, tmp_path: Path
) -> None:
    parent = read_checkpoint(tiny / "unlearned.safetensors")
    assert parent.metadata is not None
    splits = make_splits(load_data("digits?mislabel=0.1&seed=0"), str(tiny / "forget.npy"))
    spare = make_spare_twin(splits, at_most=50)
    assert spare is not None
    for looked_at, expected in ((spare.unseen, ""), (splits.unseen.unseen[:7], "by a look at 7 of the 144 examples")):
        path = tmp_path / f"{len(looked_at)}.safetensors"
        told = parent.metadata.model_copy(update={"looked_at": tuple(looked_at.tolist())})
        write_checkpoint(path, parent.state, told, force=False)
        entry = {"path": str(path), "role": "unlearned"}
        (subject,) = run_audit(config_of(tiny, gaps={}, checkpoint=[entry])).subjects
        assert [expected in text for text in subject.doubts] == [True] * bool(expected)


def test_retrained_models_that_were_trained_otherwise_than_the_original_are_named(tiny: Path, tmp_path: Path) -> None:
    dataset = load_data("digits?mislabel=0.1&seed=0")
    forget = read_training_indices(str(tiny / "forget.npy"), dataset)
    recipe, path = pick_recipe("small", "small-cnn", epochs=2), tmp_path / "short.safetensors"
    train_checkpoint(path, "small-cnn", dataset, recipe, without=forget, seed=5, compute=setup_device("cpu"))
    config = config_of(tiny, "original", "retrained-1", gaps={})
    entries = (*config.checkpoint, CheckpointEntry(path=str(path), role="retrained"))
    (said,) = run_audit(config.model_copy(update={"checkpoint": entries})).limitations
    assert said.startswith("short: not trained as original was (epochs 2, not 3): a difference may come from that")


def test_a_handful_of_forget_examples_is_said_to_say_little(tiny: Path) -> None:
    config = config_of(tiny, "original", gaps={})
    said = [run_audit(config.model_copy(update={"sample": n})).limitations for n in (1, 9, 10)]
    few = [[text.partition(" measured")[0] for text in texts if "says little" in text] for texts in said]
    assert few == [["1 forget example is"], ["9 forget examples are"], []]


def test_a_fair_comparison_has_no_limitation_but_its_few_steps_and_examples(report: AuditReport) -> None:
    # The examples of a small set that a model knows by heart are few to carry its loss: told, and nothing else.
    told = [text for text in report.limitations if "falls by less than 5 %" not in text]
    assert not [text for text in told if not text.startswith("the hardest 5 %")]


def test_an_incomplete_twin_pairs_examples_and_says_so(tiny: Path) -> None:
    dataset = load_data("digits?mislabel=0.1&seed=0")
    splits = make_splits(dataset, "class:3")
    n, paired = len(splits.measured), len(splits.unseen)
    assert paired < n
    config = config_of(tiny, "original", "retrained-1", gaps={}, rcd=RCD, mia={})
    found = run_audit(config.model_copy(update={"forget": "class:3"}))
    assert any(f"partners for {paired} of {n} measured" in text for text in found.limitations)
    raw, ratio = (of(found, name, "original") for name in ("rcd.raw", "rcd.ratio_to_unseen"))
    auc = of(found, "mia.loss.auc", "original")
    assert (raw.n, ratio.n, auc.n) == (n, paired, 2 * paired)
    assert (of(found, "accuracy.forget", "original").n, of(found, "accuracy.unseen", "original").n) == (n, paired)
    model = build("small-cnn", classes=10, channels=1)
    model.load_state_dict(dict(read_checkpoint(tiny / "original.safetensors").state))
    sums = [
        relearn(
            Run(model.eval(), examples, dataset.transform), steps=6, step_size=raw.details["step_size"], compute=CPU
        ).loss.sum()
        for examples in (splits.paired_examples, splits.unseen.examples)
    ]
    assert ratio.value == pytest.approx(sums[0] / sums[1], rel=1e-5)
    assert sorted(splits.paired_examples.labels.tolist()) == sorted(splits.unseen.examples.labels.tolist())


# ----- curves that are no descents


def test_divergence_is_null_with_a_reason_and_never_nan(tiny: Path) -> None:
    found = run_audit(config_of(tiny, "original", "retrained-1", "retrained-2", rcd=RCD | {"step_size": 1e25}))
    for label in ("original", "retrained-1", RANDOM):
        raw, ratio = of(found, "rcd.raw", label), of(found, "rcd.ratio_to_unseen", label)
        assert raw.value is None
        assert raw.reason is not None
        assert raw.reason.startswith("diverged at step")
        assert (raw.interval, ratio.value, ratio.interval) == (None, None, None)
        assert ratio.reason is not None
        assert "diverged at step" in ratio.reason
    assert any("original relearning its forget set: diverged at step" in text for text in found.limitations)
    assert "NaN" not in dump_report(found)


def test_no_step_is_the_initial_loss(tiny: Path, report: AuditReport) -> None:
    found = run_audit(config_of(tiny, "original", rcd=RCD | {"steps": 0}))
    assert of(found, "rcd.raw", "original").value == pytest.approx(
        of(report, "loss.forget", "original").value, rel=1e-5
    )
    assert of(found, "rcd.raw", "original").details["status"] == "no step taken"


def test_one_forget_example_is_measured_without_intervals_that_need_two(tiny: Path) -> None:
    config = config_of(tiny, "original", "retrained-1", "retrained-2", gaps={}, rcd=RCD, mia={})
    found = run_audit(config.model_copy(update={"forget": "range:5-5"}))
    for name in ("rcd.raw", "rcd.ratio_to_unseen", "mia.loss.auc", "loss.forget"):
        measured = of(found, name, "original")
        assert measured.value is not None
        assert measured.interval is None
    dump_report(found)


# ----- checkpoints from elsewhere


@pytest.fixture(scope="module")
def foreign(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The original's bare weights as a torch file, under a usual key and prefix."""
    path = tmp_path_factory.mktemp("foreign") / "weights.pth.tar"
    state = read_checkpoint(tiny / "original.safetensors").state
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}, "epoch": 3}, path)
    return path


def test_a_bare_torch_file_is_audited_and_what_was_assumed_is_said(
    tiny: Path, foreign: Path, report: AuditReport
) -> None:
    entry, data = {"path": str(foreign)}, "digits?mislabel=0.1&seed=0"
    found = run_audit(config_of(tiny, gaps={}, checkpoint=[entry], data=data))
    (subject,) = found.subjects
    assert (subject.label, subject.role, subject.model) == ("weights", "subject", "small-cnn")
    assert any(note.startswith("assumed: ") for note in subject.notes)
    assert any("normalised with mean" in note for note in subject.notes)
    assert found.settings["from"]["model of weights"] == "state dict"
    (assumed,) = found.limitations
    assert assumed.startswith("weights: assumed: inputs normalised with mean")
    for split in ("retain", "forget", "test", "unseen"):
        name = f"accuracy.{split}"
        assert of(found, name, "weights").value == of(report, name, "original").value


def test_absurd_normalisation_is_warned_of_as_chance(tiny: Path, foreign: Path) -> None:
    config = config_of(tiny, gaps={}, checkpoint=[{"path": str(foreign)}], data="digits", mean=[900.0], std=[1e-3])
    (text,) = run_audit(config).limitations
    assert text.startswith("weights: accuracy on training examples is at chance")
    assert "--mean and --std" in text


def test_data_that_nobody_names_is_asked_for(tiny: Path, foreign: Path) -> None:
    with pytest.raises(UsageError, match=r"weights.pth.tar does not say what data it belongs to; give --data"):
        run_audit(config_of(tiny, gaps={}, checkpoint=[{"path": str(foreign)}]))


def test_other_data_than_the_recorded_is_refused_or_said(tiny: Path, tmp_path: Path) -> None:
    original = read_checkpoint(tiny / "original.safetensors")
    assert original.metadata is not None
    changed = tmp_path / "changed.safetensors"
    other = {"data_sha256": "a" * 64, "rows_sha256": "b" * 64}
    write_checkpoint(changed, original.state, original.metadata.model_copy(update=other), force=False)
    entry = {"path": str(changed)}
    with pytest.raises(DataError, match="digits.* has changed since"):
        run_audit(config_of(tiny, gaps={}, checkpoint=[entry]))
    found = run_audit(config_of(tiny, gaps={}, checkpoint=[entry], data="digits?mislabel=0.1&seed=0"))
    assert any("was made with other data" in text for text in found.limitations)


def test_a_model_that_is_not_deterministic_is_refused(
    tiny: Path, foreign: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = SmallCNN.forward
    monkeypatch.setattr(SmallCNN, "forward", lambda self, x: plain(self, x) + torch.rand(1))
    with pytest.raises(MeasurementError, match="original: two passes over the same images disagree"):
        run_audit(config_of(tiny, "original", gaps={}))


# ----- what is refused


def test_incomplete_requests_are_refused(tiny: Path) -> None:
    with pytest.raises(UsageError, match="nothing to measure"):
        run_audit(config_of(tiny, "original"))
    with pytest.raises(UsageError, match="nothing to measure"):
        run_audit(config_of(tiny, "original", gaps={}), only=("rcd",))
    with pytest.raises(UsageError, match="unknown measurement 'rdc'; did you mean 'rcd'"):
        run_audit(config_of(tiny, "original", gaps={}), only=("rdc",))
    with pytest.raises(UsageError, match="no checkpoint given"):
        run_audit(config_of(tiny, gaps={}))
    with pytest.raises(UsageError, match="no forget set given"):
        run_audit(config_of(tiny, "original", gaps={}).model_copy(update={"forget": None}))


def test_only_runs_what_is_named(tiny: Path) -> None:
    found = run_audit(config_of(tiny, "original", gaps={}, mia={}, rcd=RCD), only=("mia",))
    assert {m.name for m in found.measurements} == {f"mia.loss.{ending}" for ending in ATTACK_METRICS}


# ----- from the command line


def test_a_checkpoint_describes_itself_in_any_folder(
    run: Cli, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run("rcd", tiny / "unlearned.safetensors", "--forget", tiny / "forget.npy", "--steps", 3, "--format", "json",
               "--out", "kept")  # fmt: skip
    assert done.code == 0, done.stderr
    body = json.loads(done.stdout)
    assert body["data"]["source"] == "digits?mislabel=0.1&seed=0"
    assert {m["name"] for m in body["measurements"]} == {name for name in METRICS if name.startswith("rcd.")}
    assert without_time(read_report(tmp_path / "kept" / "report.json")) == {
        key: value for key, value in body.items() if key not in ("created_at", "body_sha256")
    }


def test_everything_null_ends_with_4_and_prints_all_the_same(run: Cli, tiny: Path) -> None:
    done = run("rcd", tiny / "original.safetensors", "--forget", tiny / "forget.npy", "--steps", 3,
               "--step-size", "1e25", "--no-controls", "--format", "json")  # fmt: skip
    assert done.code == 4
    assert all(m["value"] is None for m in json.loads(done.stdout)["measurements"])


def test_adam_shares_one_step_too(run: Cli, tiny: Path) -> None:
    done = run("rcd", *(tiny / f"{label}.safetensors" for label in ("original", "retrained-1")), "--forget",
               tiny / "forget.npy", "--optimizer", "adam", "--steps", 3, "--format", "json")  # fmt: skip
    raw = [m for m in json.loads(done.stdout)["measurements"] if m["name"] == "rcd.raw"]
    assert {m["details"]["step_size"] for m in raw} == {1e-3}
    assert all("Adam" in m["method"] for m in raw)


# ----- what was trained on


def doubts_on(data: str, *paths: Path, forget: str = "mislabelled") -> dict[str, tuple[str, ...]]:
    entries = [{"path": str(path)} for path in paths]
    config = AuditConfig.model_validate({"checkpoint": entries, "forget": forget, "data": data, "gaps": {}})
    return {subject.label: subject.doubts for subject in run_audit(config).subjects}


@pytest.mark.parametrize("options", ["&test=200", "&train=1437", "&train=1437&subset_seed=5&test=300"])
def test_the_same_training_rows_are_no_other_data_whatever_the_spec(tiny: Path, options: str) -> None:
    names = ("original", "retrained-1", "unlearned")
    found = doubts_on(f"digits?mislabel=0.1&seed=0{options}", *(tiny / f"{name}.safetensors" for name in names))
    assert found == dict.fromkeys(names, ())


def test_other_training_rows_are_other_data(tiny: Path, tmp_path: Path) -> None:
    names = ("original", "retrained-1", "unlearned")
    other = doubts_on("digits", *(tiny / f"{name}.safetensors" for name in names), forget=str(tiny / "forget.npy"))
    assert all("was made with other data" in found[0] for label, found in other.items() if label != "retrained-1")
    # Labels of the forget examples are what differs, and the retrained model has seen none of these.
    assert other["retrained-1"] == ()
    old = read_checkpoint(tiny / "original.safetensors")
    assert old.metadata is not None
    without = old.metadata.model_copy(update={"rows_sha256": None})
    write_checkpoint(tmp_path / "old.safetensors", old.state, without, force=False)
    assert doubts_on("digits?mislabel=0.1&seed=0", tmp_path / "old.safetensors") == {"old": ()}
    assert doubts_on("digits?mislabel=0.1&seed=0&test=200", tmp_path / "old.safetensors")["old"]


def test_a_model_retrained_on_a_part_of_the_rest_is_no_fair_reference(tiny: Path, tmp_path: Path, run: Cli) -> None:
    part = np.setdiff1d(np.arange(700), np.load(tiny / "forget.npy"))
    np.save(tmp_path / "part.npy", part)
    made = run("apply", "retrain", tiny / "original.safetensors", "--forget", tiny / "forget.npy", "--retain",
               tmp_path / "part.npy", "--epochs", 1, "--seed", 3, "--out", tmp_path / "r.safetensors")  # fmt: skip
    assert made.code == 0, made.stderr
    found = doubts_on("digits?mislabel=0.1&seed=0", tmp_path / "r.safetensors")
    assert "was made with other data" in found["r"][0]
