"""Membership inference from end to end: direction and power, whose question is asked, what is missing, user attacks."""

import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import make_fleet

from unlearn_audit.audit import audit_checkpoints
from unlearn_audit.catalogue import ATTACK_GROUPS, ATTACKS
from unlearn_audit.checkpoints import read_checkpoint
from unlearn_audit.config import Layer, resolve
from unlearn_audit.data import load_data, make_pool, make_splits
from unlearn_audit.errors import DataError, UsageError
from unlearn_audit.report import AuditReport, Measurement
from unlearn_audit.shadows import open_fleet_context, plan_fleet, work

Cli = Callable[..., Any]
RETRAINED = ("retrained-1", "retrained-2", "retrained-3")
SIGHTED = ("loss", "modified-entropy", "quantile", "svc", "shokri", "lira", "lira-offline", "rmia", "rmia-offline")
BLIND_TO_LABELS = ("confidence", "entropy")
TRAINED_SHADOWS = ("shokri", "lira", "lira-offline", "rmia", "rmia-offline")


def audited(
    folder: Path,
    names: tuple[str, ...],
    arrays: dict[str, Any] | None = None,
    *,
    forget: str | None = None,
    **mia: Any,
) -> AuditReport:
    """Attack checkpoints of a folder."""
    entries = [{"path": str(folder / f"{name}.safetensors")} for name in names]
    asked: dict[str, Any] = {"checkpoint": entries, "forget": forget or str(folder / "forget.npy"), "device": "cpu"}
    request = resolve([Layer("flag", asked | {"mia": mia}, "test")])
    found = audit_checkpoints(request.config, origins=request.origins, only=("mia",))
    if arrays is not None:
        arrays |= found.arrays
    return found.report


def of(report: AuditReport, name: str, subject: str) -> Measurement:
    found = report.find(name, subject)
    assert found is not None, (name, subject)
    return found


def auc(report: AuditReport, attack: str, subject: str) -> float:
    value = of(report, f"mia.{attack}.auc", subject).value
    assert isinstance(value, float), (attack, subject)
    return value


# ----- direction and power, and what each attack says of itself


@pytest.fixture(scope="module")
def found(tiny: Path, tiny_fleet: Path) -> AuditReport:
    """All attacks with four shadow models on checkpoints that are quick to make."""
    names = ("original", "unlearned", "retrained-1", "retrained-2")
    return audited(tiny, names, attacks=["all"], shadows=str(tiny_fleet))


def holds_direction_and_power(found: AuditReport) -> None:
    for attack in SIGHTED:
        assert auc(found, attack, "original") > 0.9, attack
    for attack in BLIND_TO_LABELS:  # the original is less sure of wrong labels: nothing here that they could see
        assert auc(found, attack, "original") < 0.45, attack
    for attack in ATTACKS:
        for retrained in RETRAINED:
            assert abs(auc(found, attack, retrained) - 0.5) <= 0.10, (attack, retrained)


@pytest.mark.slow
def test_every_attack_that_sees_labels_finds_the_original_and_none_finds_a_retrained_model(
    demo: tuple[Path, Any], tmp_path: Path
) -> None:
    fleet = tmp_path / "shadows"
    make_fleet(fleet, demo[0])
    found = audited(demo[0], ("original", "unlearned", *RETRAINED), attacks=["all"], shadows=str(fleet))
    holds_direction_and_power(found)
    assert of(found, "mia.lira.auc", "original").details["shadow_models"] == 4


@pytest.mark.slow
def test_a_larger_fleet_finds_the_same(demo: tuple[Path, Any], tmp_path: Path) -> None:
    fleet = tmp_path / "shadows"
    make_fleet(fleet, demo[0], 16)
    report = audited(demo[0], ("original", "unlearned", *RETRAINED), attacks=["all"], shadows=str(fleet))
    holds_direction_and_power(report)
    assert auc(report, "ulira", "unlearned") > 0.6  # enough shadow models see what the loss attack (.53) does not


def test_ulira_asks_of_unlearned_models_and_concludes_nothing_of_an_original(found: AuditReport) -> None:
    """Far from both of its sides the log ratio of two normal distributions has no direction: .02 and .86 were seen."""
    assert "never unlearned" in of(found, "mia.ulira.auc", "original").details["wrong_hypothesis"]
    assert "another question" in of(found, "mia.ulira.auc", "original").flags
    assert "ulira" not in next(line for line in found.conclusion if line.startswith("original"))
    assert [line for line in found.limitations if line.startswith("ulira of original: this model was never unlearned")]
    details = of(found, "mia.ulira.auc", "unlearned").details
    assert details["unlearned_by"] == "ieu"
    assert details["variance"] == "eb"
    assert set(details["nu_0"]) == {"inside", "outside"}
    assert "own_models" not in details  # of four models two are left when a pair is left out


def test_ulira_says_what_it_finds_of_the_fleets_own_models(tiny: Path, tiny_fleet: Path, tmp_path: Path) -> None:
    fleet = tmp_path / "shadows"
    shutil.copytree(tiny_fleet, fleet)
    plan_fleet(fleet, resolve([]), count=6)
    work(open_fleet_context(fleet))
    report = audited(tiny, ("unlearned", "retrained-1"), attacks=["ulira", "loss"], shadows=str(fleet))
    own = of(report, "mia.ulira.auc", "unlearned").details["own_models"]
    assert (own["targets"], own["compared_with"]) == (6, 4)
    assert 0 <= own["low"] <= own["auc"] <= own["high"] <= 1
    for subject in ("unlearned", "retrained-1"):
        could_see = of(report, "mia.ulira.auc", subject).could_see
        assert could_see is not None
        assert (could_see.auc, could_see.share, could_see.runs) == (own["auc"], None, 6)
    assert of(report, "mia.loss.auc", "unlearned").could_see is None
    told = [line for line in report.limitations if line.startswith("ulira: of the fleet's own models")]
    assert len(told) == 1
    assert f"AUC of {own['auc']:.3f}" in told[0]


def test_shadows_that_were_only_trained_are_named_as_the_wrong_question_for_an_unlearned_model(
    found: AuditReport,
) -> None:
    for attack in ATTACKS:
        asks_wrong = "another question" in of(found, f"mia.{attack}.auc", "unlearned").flags
        assert asks_wrong == (attack in TRAINED_SHADOWS), attack
        if attack != "ulira":
            assert "another question" not in of(found, f"mia.{attack}.auc", "original").flags
    (said,) = [line for line in found.limitations if "trained and not unlearned" in line]
    assert said.startswith("shokri, lira, lira-offline, rmia, rmia-offline of unlearned: ")
    unlearned = next(line for line in found.conclusion if line.startswith("unlearned"))
    assert "ulira" in unlearned
    assert "the lira attack" not in unlearned or "differs" in unlearned


def test_a_legacy_attack_says_so_and_concludes_nothing(found: AuditReport) -> None:
    for ending in ("auc", "accuracy", "efficacy"):
        assert "never a verdict" in of(found, f"mia.svc.{ending}", "original").details["legacy"]
        assert "legacy" in of(found, f"mia.svc.{ending}", "original").flags
    assert not any("svc" in line for line in found.conclusion)
    assert any("comparisons, each at 95 %" in line for line in found.conclusion)
    efficacy = of(found, "mia.svc.efficacy", "retrained-1")
    assert efficacy.direction == "compare to retrained"
    assert set(efficacy.details["by_feature"]) >= {"confidence", "entropy", "modified entropy"}


def test_each_attack_says_what_is_compared_and_reads_it_against_retrained(found: AuditReport) -> None:
    for attack in ATTACKS:
        measured = of(found, f"mia.{attack}.auc", "original")
        assert measured.details["members"] == "144 forget examples"
        assert measured.details["non_members"] == "144 examples of their unseen twin"
        assert measured.n == 288
        assert measured.reference is not None
        assert measured.reference.n == 2
        assert measured.comparison is not None  # its `seen` agrees with its interval, or there would be no report
        assert of(found, f"mia.{attack}.base_rate", "original").value == 0.5
        rate = of(found, f"mia.{attack}.tpr_at_fpr_1e-3", "original")
        assert rate.value is None
        assert "needs about 3,688 non-members" in str(rate.reason)


# ----- which shadow models, and what is missing


def test_without_shadow_models_all_runs_what_it_can_and_names_the_rest(tiny: Path) -> None:
    report = audited(tiny, ("original", "retrained-1"), attacks=["all"])
    ran = {m.name.split(".")[1] for m in report.measurements}
    assert ran == {"loss", "confidence", "entropy", "modified-entropy", "quantile", "svc"}
    (said,) = [line for line in report.limitations if line.startswith("attacks not run")]
    assert all(name in said for name in (*TRAINED_SHADOWS, "ulira"))
    assert "unlearn-audit shadows run" in said


@pytest.mark.parametrize("attack", [*TRAINED_SHADOWS, "ulira"])
def test_an_attack_named_without_what_it_needs_is_refused(tiny: Path, attack: str) -> None:
    with pytest.raises(UsageError, match="unlearn-audit shadows run DIR"):
        audited(tiny, ("original",), attacks=[attack])


@pytest.mark.parametrize("attack", ["pia", "secmi"])
def test_an_attack_on_generators_is_refused_where_classifiers_are(tiny: Path, attack: str) -> None:
    with pytest.raises(UsageError, match=f"mia {attack}: it asks a denoiser .* classifiers"):
        audited(tiny, ("original",), attacks=[attack])


@pytest.mark.parametrize("group", ["threshold", "population"])
def test_a_group_names_the_four_that_need_nothing(tiny: Path, group: str) -> None:
    report = audited(tiny, ("original",), attacks=[group])
    assert {m.name.split(".")[1] for m in report.measurements} == set(ATTACK_GROUPS[group])


def test_ulira_has_no_value_where_no_shadow_model_was_unlearned_as_the_target_was(
    tiny: Path, tiny_fleet: Path, run: Cli, tmp_path: Path
) -> None:
    other = tmp_path / "other.safetensors"
    done = run("apply", "ft", tiny / "original.safetensors", "--forget", tiny / "forget.npy", "--steps", 2, "--quiet",
               "--out", other)  # fmt: skip
    assert done.code == 0, done.stderr
    shutil.copy(tiny / "forget.npy", tmp_path)
    report = audited(tmp_path, ("other",), attacks=["ulira"], shadows=str(tiny_fleet))
    measured = of(report, "mia.ulira.auc", "other")
    assert measured.value is None
    assert "no shadow model was unlearned as other was" in str(measured.reason)


def test_a_fleet_for_other_examples_is_refused(tiny: Path, tiny_fleet: Path) -> None:
    with pytest.raises(DataError, match="made for other examples"):
        audited(tiny, ("original",), attacks=["lira"], shadows=str(tiny_fleet), forget="random:0.1:3")


def test_a_folder_that_is_no_fleet_is_refused(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no fleet"):
        audited(tiny, ("original",), attacks=["lira"], shadows=str(tmp_path))


@pytest.fixture
def copied(tiny_fleet: Path, tmp_path: Path) -> Path:
    """A copy of the fleet, without scores that attacks have kept."""
    shutil.copytree(tiny_fleet, tmp_path / "shadows", ignore=shutil.ignore_patterns("scores"))
    (tmp_path / "shadows" / "scores").mkdir()
    return tmp_path / "shadows"


def trainings(fleet: Path) -> list[str]:
    """Ids of the tasks that only train."""
    return [job.id for job in open_fleet_context(fleet).jobs if job.treatment is None]


def test_an_unfinished_fleet_serves_with_what_it_has_and_says_so(tiny: Path, copied: Path) -> None:
    for task in trainings(copied)[2:]:
        (copied / "signals" / f"{task}.npz").unlink()
    report = audited(tiny, ("original",), attacks=["lira", "rmia"], shadows=str(copied))
    assert any("2 models of the fleet" in line and "not finished" in line for line in report.limitations)
    assert of(report, "mia.rmia.auc", "original").details["shadow_models"] == 2
    lira = of(report, "mia.lira.auc", "original")  # one model a side has no variance
    assert lira.value is None
    assert "train more" in str(lira.reason)


def test_a_fleet_that_was_trained_otherwise_than_a_target_says_so(tiny: Path, tmp_path: Path) -> None:
    entries = [{"path": str(tiny / "original.safetensors")}]
    asked = {"checkpoint": entries, "forget": str(tiny / "forget.npy"), "device": "cpu"}
    plan_fleet(tmp_path / "shadows", resolve([Layer("flag", asked)]), count=2, epochs=1)
    work(open_fleet_context(tmp_path / "shadows"))
    report = audited(tiny, ("original", "unlearned"), attacks=["shokri"], shadows=str(tmp_path / "shadows"))
    assert report.limitations[0].startswith("the shadow models were not trained as original, unlearned (epochs 1, not")
    recipe = of(report, "mia.shokri.auc", "original").details["shadow_recipe"]
    assert (recipe["model"], recipe["epochs"]) == ("small-cnn", 1)


def test_a_fleet_with_nothing_finished_gives_a_reason(tiny: Path, copied: Path) -> None:
    shutil.rmtree(copied / "signals")
    report = audited(tiny, ("original",), attacks=["lira"], shadows=str(copied))
    measured = of(report, "mia.lira.auc", "original")
    assert measured.value is None
    assert "unlearn-audit shadows run" in str(measured.reason)
    assert measured.details["shadow_models"] == 0


@pytest.mark.parametrize("damage", ["truncated", "foreign", "text"])
def test_a_damaged_file_of_signals_is_a_reason_that_names_it(tiny: Path, copied: Path, damage: str) -> None:
    first, second = (copied / "signals" / f"{task}.npz" for task in trainings(copied)[:2])
    if damage == "truncated":
        first.write_bytes(first.read_bytes()[:1000])
    elif damage == "foreign":
        shutil.copy(second, first)
    else:
        first.write_text("no archive")
    measured = of(audited(tiny, ("original",), attacks=["rmia"], shadows=str(copied)), "mia.rmia.auc", "original")
    assert measured.value is None
    assert str(first) in str(measured.reason)


# ----- scores that are kept


def test_kept_scores_are_found_again_and_follow_what_they_depend_on(tiny: Path, copied: Path) -> None:
    first = audited(tiny, ("original",), attacks=["shokri", "lira"], shadows=str(copied))
    kept = {path.name: path.stat().st_mtime_ns for path in (copied / "scores").iterdir()}
    assert len(kept) == 2
    again = audited(tiny, ("original",), attacks=["shokri", "lira"], shadows=str(copied))
    assert first.measurements == again.measurements
    assert kept == {path.name: path.stat().st_mtime_ns for path in (copied / "scores").iterdir()}
    audited(tiny, ("original",), attacks=["lira"], variance="per_example", shadows=str(copied))
    audited(tiny, ("retrained-1",), attacks=["lira"], shadows=str(copied))
    assert len(list((copied / "scores").iterdir())) == 4


def test_a_kept_score_that_is_damaged_is_made_anew(tiny: Path, copied: Path) -> None:
    first = audited(tiny, ("original",), attacks=["lira"], shadows=str(copied))
    (path,) = (copied / "scores").iterdir()
    whole = path.read_bytes()
    for damaged in (b"", whole[:60], whole[:-8]):
        path.write_bytes(damaged)
        assert audited(tiny, ("original",), attacks=["lira"], shadows=str(copied)).measurements == first.measurements
        assert path.read_bytes() == whole


def test_scores_that_cannot_be_kept_are_used_all_the_same(
    tiny: Path, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unlearn_audit.audit.mia import score_cache
    from unlearn_audit.errors import OutputError

    def full(*_: object) -> None:
        raise OutputError("no space")

    monkeypatch.setattr(score_cache, "keep_arrays", full)
    report = audited(tiny, ("original",), attacks=["rmia"], shadows=str(copied))
    assert isinstance(of(report, "mia.rmia.auc", "original").value, float)
    assert not list((copied / "scores").iterdir())


def test_other_settings_are_other_scores(tiny: Path, copied: Path) -> None:
    for a, kept in ((0.3, 1), (0.6, 2), (0.3, 2)):
        audited(tiny, ("original",), attacks=["rmia-offline"], shadows=str(copied), a=a)
        assert len(list((copied / "scores").iterdir())) == kept


# ----- what the attacks are given


@pytest.fixture
def seen(tiny: Path, tiny_fleet: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The evidence that ulira is given on the unlearned model."""
    from unlearn_audit.attacks import ulira as room

    caught: list[Any] = []

    def score(evidence: Any) -> Any:
        caught.append(evidence)
        return np.arange(len(evidence.labels), dtype=np.float64)

    needs = ("shadows", "unlearned", "population")
    monkeypatch.setattr(room, "ulira", room.ulira._replace(score=score, needs=needs, make=None))
    shutil.rmtree(tiny_fleet / "scores")
    (tiny_fleet / "scores").mkdir()
    audited(tiny, ("unlearned",), attacks=["ulira"], shadows=str(tiny_fleet))
    shutil.rmtree(tiny_fleet / "scores")
    (tiny_fleet / "scores").mkdir()
    return caught[0]


def test_evidence_pairs_forget_examples_with_their_twin_and_knows_who_saw_what(tiny: Path, seen: Any) -> None:
    dataset = load_data("digits?mislabel=0.1&seed=0")
    splits = make_splits(dataset, str(tiny / "forget.npy"))
    pool = make_pool(splits)
    half = len(pool.forget)
    assert np.array_equal(seen.labels[:half], dataset.train.labels.numpy()[splits.unseen.forget])
    assert np.array_equal(seen.labels[half:], splits.unseen.examples.labels.numpy())
    assert np.array_equal(seen.shadows.inside, ~seen.shadows.outside)
    assert (seen.shadows.inside.sum(axis=0) == 2).all(), "each example is in half of the four models"
    assert (seen.shadows.rest_inside.sum(axis=0) == 2).all()
    assert np.array_equal(seen.unlearned.inside, seen.shadows.inside), "what a model had seen of them it has unlearned"
    assert np.array_equal(seen.unlearned.outside, seen.shadows.outside)
    assert not np.array_equal(seen.unlearned.logits, seen.shadows.logits)
    assert seen.shadows.logits.shape == (4, 2 * half, 1, 10)
    assert len(seen.population.signals.labels) == len(splits.pool) - half
    assert seen.population.inputs.shape[1] == seen.inputs.shape[1] == 64


def test_a_model_is_asked_in_evaluation_mode_and_stays_as_it_was(tiny: Path, seen: Any) -> None:
    import torch

    from unlearn_audit.models import build

    dataset = load_data("digits?mislabel=0.1&seed=0")
    splits = make_splits(dataset, str(tiny / "forget.npy"))
    pool = make_pool(splits)
    model = build("small-cnn", classes=10, channels=1).eval()
    model.load_state_dict(dict(read_checkpoint(tiny / "unlearned.safetensors").state))
    with torch.no_grad():
        alone = [model(dataset.transform(pool.examples.images[[row]]))[0] for row in pool.targets[:5]]
    assert np.allclose(seen.logits[:5, 0], torch.stack(alone).numpy(), atol=1e-5), "no example changes another's answer"


def test_a_model_that_overflows_on_held_out_images_alone_is_a_reason(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unlearn_audit.audit.mia import inputs

    ask = inputs.predict

    def overflow(*given: Any, **more: Any) -> Any:
        return ask(*given, **more) + np.float32("inf")

    monkeypatch.setattr(inputs, "predict", overflow)
    measured = of(audited(tiny, ("original",), attacks=["quantile"]), "mia.quantile.auc", "original")
    assert measured.value is None
    assert "outputs are not finite" in str(measured.reason)


# ----- the most exposed


def test_the_most_exposed_come_first_with_their_place_in_the_training_set(tiny: Path) -> None:
    arrays: dict[str, Any] = {}
    report = audited(tiny, ("original",), arrays, attacks=["loss"], worst=7)
    shown = of(report, "mia.loss.auc", "original").details["worst"]
    members, others = (arrays[f"mia.loss/original/{side}"] for side in ("members", "non_members"))
    dataset = load_data("digits?mislabel=0.1&seed=0")
    rows = make_splits(dataset, str(tiny / "forget.npy")).unseen.forget
    assert len(shown) == 7
    assert [one["score"] for one in shown] == sorted(members, reverse=True)[:7]
    for one in shown:
        place = int(np.flatnonzero(rows == one["index"])[0])
        assert members[place] == one["score"]
        assert one["label"] == int(dataset.train.labels[one["index"]])
        assert one["share_of_twin_above"] == pytest.approx(float((others >= one["score"]).mean()))


def test_their_pictures_are_kept_only_where_somebody_asks(tiny: Path) -> None:
    plain: dict[str, Any] = {}
    asked: dict[str, Any] = {}
    audited(tiny, ("original",), plain, attacks=["loss"])
    report = audited(tiny, ("original",), asked, attacks=["loss"], worst=3, thumbnails=True)
    assert asked.keys() - plain.keys() == {"mia.loss/original/exposed"}
    first = of(report, "mia.loss.auc", "original").details["worst"][0]["index"]
    image = load_data("digits?mislabel=0.1&seed=0").train.images[first, 0].numpy()
    assert np.array_equal(asked["mia.loss/original/exposed"][1:9, 1:9], np.rint(255 * image))
    none: dict[str, Any] = {}
    audited(tiny, ("original",), none, attacks=["loss"], worst=0, thumbnails=True)
    assert none.keys() == plain.keys()


def test_worst_lists_them_on_the_terminal_only_when_asked(run: Cli, tiny: Path) -> None:
    arguments = ("mia", "loss", tiny / "original.safetensors", "--forget", tiny / "forget.npy", "--quiet")
    assert "most exposed" not in run(*arguments).stdout
    asked = run(*arguments, "--worst", 12).stdout
    lines = asked.split("most exposed examples of original, loss attack\n")[1].splitlines()
    listed = [line for line in lines if re.match(r"\d+ +\d +-", line)]
    assert len(listed) == 12


# ----- attacks of the user's own

CODE = """
import numpy as np
from unlearn_audit.attacks import Attack

def margin():
    return Attack("margin", "is the margin wider?", "ours", lambda e: np.sort(e.logits[:, 0])[:, -1].astype(float))

def broken():
    def score(evidence):
        raise RuntimeError("no such luck")
    return Attack("broken", "?", "ours", score)

def short():
    return Attack("short", "?", "ours", lambda evidence: [1.0, 2.0])

def taken():
    return Attack("loss", "?", "ours", lambda evidence: evidence.labels)

def strange():
    return Attack("no name!", "?", "ours", lambda evidence: evidence.labels)

def nothing():
    return None
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a module of attacks."""
    (tmp_path / "my_attacks.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_users_attack_is_measured_as_any_other(tiny: Path, mine: Path) -> None:
    report = audited(tiny, ("original", "retrained-1", "retrained-2"), attacks=["my_attacks:margin", "loss"])
    measured = of(report, "mia.margin.auc", "original")
    assert isinstance(measured.value, float)
    assert measured.method == "is the margin wider? (ours)"
    assert measured.reference is not None


@pytest.mark.parametrize(("name", "says"), [
    ("broken", "my_attacks:broken failed: RuntimeError: no such luck"),
    ("short", r"my_attacks:short gave \(2,\) scores for 288 examples"),
])  # fmt: skip
def test_a_users_attack_that_fails_is_a_reason(tiny: Path, mine: Path, name: str, says: str) -> None:
    measured = of(audited(tiny, ("original",), attacks=[f"my_attacks:{name}"]), f"mia.{name}.auc", "original")
    assert measured.value is None
    assert re.search(says, str(measured.reason)), measured.reason


@pytest.mark.parametrize(("name", "says"), [
    ("taken", "not one of ours: 'loss'"),
    ("strange", "a-z and dashes"),
    ("nothing", "returned NoneType"),
    ("absent", "AttributeError"),
])  # fmt: skip
def test_what_is_no_attack_is_refused(tiny: Path, mine: Path, name: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        audited(tiny, ("original",), attacks=[f"my_attacks:{name}"])


def test_a_config_that_was_merely_found_runs_no_code(tiny: Path, mine: Path, run: Cli) -> None:
    (mine / "my_attacks.py").write_text("raise SystemExit('this ran')")
    config = f'forget = "{tiny}/forget.npy"\n[mia]\nattacks = ["my_attacks:margin"]\n'
    (mine / "unlearn-audit.toml").write_text(config)
    done = run("audit", tiny / "original.safetensors")
    assert done.code == 2, done
    assert "this ran" not in done.stderr


# ----- the verb


def test_the_verb_takes_settings_and_writes_the_scores(run: Cli, tiny: Path, tiny_fleet: Path, tmp_path: Path) -> None:
    done = run("mia", "rmia-offline", tiny / "original.safetensors", "--forget", tiny / "forget.npy", "--shadows",
               tiny_fleet, "--a", 0.3, "--out", tmp_path / "kept", "--format", "json", "--quiet")  # fmt: skip
    assert done.code == 0, done.stderr
    report: Mapping[str, Any] = json.loads(done.stdout)
    assert report["settings"]["config"]["mia"]["a"] == 0.3
    with np.load(tmp_path / "kept" / "arrays.npz", allow_pickle=False) as arrays:
        assert arrays["mia.rmia-offline/original/members"].shape == (144,)


@pytest.mark.parametrize(("words", "says"), [
    (["loss", "--a", "2"], "mia.a"),
    (["loss", "--variance", "some"], "mia.variance"),
    (["lyra"], "did you mean 'lira'"),
    (["loss", "--worst", "-1"], "worst"),
])  # fmt: skip
def test_settings_that_make_no_sense_are_refused(run: Cli, tiny: Path, words: list[str], says: str) -> None:
    done = run("mia", *words, tiny / "original.safetensors", "--forget", tiny / "forget.npy")
    assert done.code == 2, done
    assert says in done.stderr.replace("--", "mia."), done.stderr
