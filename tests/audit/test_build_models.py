"""One config from nothing to a report: models made once, parts kept, the same report after a kill at any point."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from unlearn_audit.audit import cache as parts_room
from unlearn_audit.audit.build_models import models_to_make
from unlearn_audit.checkpoints import read_checkpoint, write_checkpoint
from unlearn_audit.config import Layer, resolve
from unlearn_audit.report import read_report

Cli = Callable[..., Any]

CONFIG = """
schema_version = 1
data = "digits?mislabel=0.1&seed=0&train=400&test=200"
forget = "mislabelled"
model = "small-cnn"
device = "cpu"

[[train]]
label = "original"
epochs = 1

[[train]]
label = "retrained-1"
without = true
seed = 1
epochs = 1

[[train]]
label = "retrained-2"
without = true
seed = 2
epochs = 1

[[apply]]
label = "unlearned"
method = "ieu"
settings = { steps = 3 }

[gaps]

[rcd]
steps = 3
resamples = 100
step_size = 0.001

[mia]
attacks = ["loss"]
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "comparison.toml"
    path.write_text(CONFIG)
    return path


def without_time(path: Path) -> Mapping[str, Any]:
    body = json.loads(path.read_text())
    body["environment"].pop("git_commit")  # of the folder that the command was given in; it may move on meanwhile
    return {key: value for key, value in body.items() if key not in ("created_at", "body_sha256")}


def models(folder: Path) -> dict[str, bytes]:
    """The models in an audit's folder; what a SIGKILL in the midst of a write left is hidden, and no model."""
    return {path.name: path.read_bytes() for path in (folder / "models").iterdir() if not path.name.startswith(".")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, run: Cli) -> Path:
    """The folder of an undisturbed run."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "comparison.toml").write_text(CONFIG)
    done = run("audit", folder / "comparison.toml", "--out", folder / "out", "--quiet")
    assert done.code == 0, done.stderr
    return folder / "out"


def test_one_file_reproduces_a_comparison(whole: Path) -> None:
    report = json.loads((whole / "report.json").read_text())
    assert [(one["label"], one["role"]) for one in report["subjects"]] == [
        ("original", "original"), ("retrained-1", "retrained"), ("retrained-2", "retrained"),
        ("unlearned", "unlearned")]  # fmt: skip
    assert {m["name"].split(".")[0] for m in report["measurements"]} == {
        "accuracy", "loss", "gap", "change", "rcd", "mia", "detectable",
    }  # fmt: skip
    made = {path.name.rpartition("-")[0]: read_checkpoint(path).metadata for path in (whole / "models").iterdir()}
    assert made["retrained-2"] is not None
    assert (made["retrained-2"].role, made["retrained-2"].seed) == ("retrained", 2)
    assert made["unlearned"] is not None
    assert made["unlearned"].settings["steps"] == 3
    assert not list(whole.rglob("*.resume"))


def test_a_second_run_computes_nothing_again(whole: Path, run: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from unlearn_audit import audit, relearning, training

    def never(*_: object, **__: object) -> None:
        raise AssertionError("computed again")

    before, report = models(whole), without_time(whole / "report.json")
    monkeypatch.setattr(training, "train", never)
    monkeypatch.setattr(relearning, "relearn_all", never)
    monkeypatch.setattr(audit, "MEASUREMENTS", dict.fromkeys(audit.MEASUREMENTS, never))
    done = run("audit", whole.parent / "comparison.toml", "--out", whole, "--force")
    assert done.code == 0, done.stderr
    assert "measured before: gaps, rcd, mia" in done.stderr
    assert models(whole) == before
    assert without_time(whole / "report.json") == report


def test_a_finished_report_is_not_replaced_without_being_asked(whole: Path, run: Cli) -> None:
    os.utime(whole / "report.json", (0, 0))  # written by another process, before this one began
    done = run("audit", whole.parent / "comparison.toml", "--out", whole)
    assert done.code == 2
    assert "--force" in done.stderr


def test_what_changes_is_made_anew_and_the_rest_is_kept(whole: Path, run: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    shutil.copytree(whole, folder)
    changed = tmp_path / "changed.toml"
    changed.write_text(CONFIG.replace("settings = { steps = 3 }", "settings = { steps = 4 }"))
    done = run("audit", changed, "--out", folder, "--force")
    assert done.code == 0, done.stderr
    assert "measured before" not in done.stderr, "another subject is another comparison"
    assert set(models(whole)) < set(models(folder))
    assert len(models(folder)) == 5
    changed.write_text(CONFIG.replace("steps = 3\nresamples", "steps = 2\nresamples"))
    assert "measured before: gaps, mia" in run("audit", changed, "--out", folder, "--force").stderr


def test_a_model_that_joins_is_measured_alone(
    whole: Path, run: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unlearn_audit.audit import context
    from unlearn_audit.relearning import search

    folder, more = tmp_path / "out", tmp_path / "more.toml"
    shutil.copytree(whole, folder)
    more.write_text(
        CONFIG.replace("[gaps]", '[[apply]]\nlabel = "tuned"\nmethod = "ft"\nsettings = { steps = 3 }\n\n[gaps]')
    )
    relearned, answered = list[str](), list[int]()
    relearn, predict = search.relearn, context.predict

    def counted(*args: Any, **given: Any) -> Any:
        relearned.append(given["task"])
        return relearn(*args, **given)

    def asked(model: Any, images: Any, *args: Any, **given: Any) -> Any:
        answered.append(len(images))
        return predict(model, images, *args, **given)

    with monkeypatch.context() as patch:
        patch.setattr(search, "relearn", counted)
        patch.setattr(context, "predict", asked)
        done = run("audit", more, "--out", folder, "--force")
    assert done.code == 0, done.stderr
    assert len(relearned) == 2, "its forget set, and its twin"
    forget, unseen, retain, test = 40, 40, 360, 200
    assert sorted(answered) == sorted([*[forget] * 2 * 5, unseen, retain, test]), "each is asked twice, as a check"
    assert run("audit", more, "--out", tmp_path / "afresh", "--quiet").code == 0
    assert without_paths(without_time(folder / "report.json")) == without_paths(
        without_time(tmp_path / "afresh" / "report.json")
    )


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


@pytest.mark.parametrize("writes", [2, 4, 9, 17])
def test_a_run_that_ends_at_any_write_goes_on_to_the_same_report(
    whole: Path, config: Path, run: Cli, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    out, left = config.parent / "out", [writes]
    kept = parts_room.atomic_write
    from unlearn_audit.audit import build_models

    written = build_models.train_checkpoint

    def count() -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Killed

    def write(*args: Any) -> Any:
        count()
        return kept(*args)

    def trained(*args: Any, **given: Any) -> Any:
        count()
        return written(*args, **given)

    with monkeypatch.context() as patch:
        patch.setattr(parts_room, "atomic_write", write)
        patch.setattr(build_models, "train_checkpoint", trained)
        with pytest.raises(Killed):
            run("audit", config, "--out", out, "--quiet")
    assert not (out / "report.json").exists()
    there = models(out)
    done = run("audit", config, "--out", out, "--quiet")
    assert done.code == 0, done.stderr
    assert {name: data for name, data in models(out).items() if name in there} == there, "no model is made twice"
    assert models(out) == models(whole)
    assert without_paths(without_time(out / "report.json")) == without_paths(without_time(whole / "report.json"))


def without_paths(report: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out where the files are, which differs from folder to folder."""
    subjects = [{key: value for key, value in one.items() if key != "path"} for one in report["subjects"]]
    return {key: value for key, value in report.items() if key != "settings"} | {"subjects": subjects}


@pytest.mark.slow
def test_ten_kills_at_random_points_end_in_the_same_report(whole: Path, config: Path) -> None:
    out, dice = config.parent / "out", random.Random(7)
    code = "import sys; sys.argv[0] = 'unlearn-audit'; from unlearn_audit.cli import main; main()"
    command = [sys.executable, "-c", code, "audit", str(config), "--out", str(out), "--quiet"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    began = time.monotonic()
    subprocess.run([*command[:-2], str(config.parent / "timed"), "--quiet"], env=environment, check=True)
    usual, kills = time.monotonic() - began, 0
    while kills < 10:
        process = subprocess.Popen(command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL)
        try:
            assert process.wait(timeout=dice.uniform(0.3 * usual, 0.8 * usual)) == 0
            shutil.rmtree(out)  # it was done before the kill: begin anew
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
    if not (out / "report.json").exists():
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    assert models(out) == models(whole)
    assert without_paths(without_time(out / "report.json")) == without_paths(without_time(whole / "report.json"))


# ----- parts that are damaged, and code of the user's


def test_a_damaged_part_is_measured_again(whole: Path, run: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    shutil.copytree(whole, folder)
    for path in (found for name in ("rcd*.json", "rcd*.npz", "gaps*.json") for found in (folder / "parts").glob(name)):
        for part in (folder / "parts").glob("part-*"):
            part.write_bytes(part.read_bytes()[:-20])
        path.write_bytes(path.read_bytes()[:-20])
        done = run("audit", whole.parent / "comparison.toml", "--out", folder, "--force")
        assert done.code == 0, done.stderr
        assert path.name.split("-")[0] not in done.stderr.split("measured before: ")[1].splitlines()[0]
        assert without_paths(without_time(folder / "report.json")) == without_paths(without_time(whole / "report.json"))


def test_what_code_of_the_users_measures_is_not_kept(run: Cli, config: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(config.parent)
    (config.parent / "mine.py").write_text(
        "import numpy as np\nfrom unlearn_audit.attacks import Attack\n"
        "def zero(): return Attack('zero', '?', 'ours', lambda e: np.arange(len(e.labels)) * 1.0)\n"
    )
    config.write_text(CONFIG.replace('["loss"]', '["mine:zero"]'))
    done = run("audit", config, "--out", config.parent / "out", "--quiet")
    assert done.code == 0, done.stderr
    kept = {path.name.split("-")[0] for path in (config.parent / "out" / "parts").iterdir()}
    assert kept == {"part", "gaps", "rcd", "detectable"}  # plants are shown to our own attacks alone


# ----- refusals, and the plan


@pytest.mark.parametrize(("old", "new", "says"), [
    ('label = "retrained-2"', 'label = "original"', "two models are labelled 'original'"),
    ('label = "unlearned"', 'label = "original"', "two models are labelled 'original'"),
    ('label = "unlearned"', 'label = "unlearned"\nto = "orignal"', "did you mean 'original'"),
    ('method = "ieu"', 'method = "ieo"', "did you mean 'ieu'"),
    ('label = "unlearned"', 'label = "../up"', "label"),
    ('epochs = 1', 'epochs = 0', "epochs"),
    ('epochs = 1', 'epoch = 1', "epoch"),
])  # fmt: skip
@pytest.mark.parametrize("verb", ["validate", "audit"])
def test_entries_that_make_no_sense_are_refused(
    run: Cli, config: Path, verb: str, old: str, new: str, says: str
) -> None:
    config.write_text(CONFIG.replace(old, new))
    arguments = ("--out", config.parent / "out") if verb == "audit" else ()
    done = run(verb, config, *arguments)
    assert done.code == 2, done
    assert says in done.stderr
    assert not (config.parent / "out").exists()


def test_settings_of_a_method_are_checked_by_the_method(run: Cli, config: Path) -> None:
    config.write_text(CONFIG.replace("steps = 3 }", "stepps = 3 }"))
    done = run("audit", config, "--out", config.parent / "out", "--quiet")
    assert done.code == 2
    assert "stepps" in done.stderr
    assert not (config.parent / "out").exists(), "nothing is trained before"
    config.write_text(CONFIG.replace("settings = { steps = 3 }", 'transforms = ["ascnt:c=0.2"]'))
    assert "ascnt" in run("audit", config, "--out", config.parent / "out", "--quiet").stderr
    assert run("audit", config, "--out", config.parent / "out", "--only", "foo").code == 2
    assert not (config.parent / "out").exists()


def test_models_need_a_folder_data_and_a_forget_set(run: Cli, config: Path) -> None:
    done = run("audit", config)
    assert (done.code, "--out" in done.stderr) == (2, True)
    config.write_text(CONFIG.replace('data = "digits?mislabel=0.1&seed=0&train=400&test=200"', ""))
    assert "need data" in run("audit", config, "--out", config.parent / "out").stderr
    config.write_text(CONFIG.replace('forget = "mislabelled"', ""))
    assert "forget" in run("audit", config, "--out", config.parent / "out").stderr


def test_the_plan_tells_what_is_there_and_does_nothing(whole: Path, run: Cli, config: Path) -> None:
    done = run("audit", config, "--out", config.parent / "out", "--plan")
    assert done.code == 0, done.stderr
    assert done.stdout.count("to do") == 8
    assert re.search(r"detectable +to do +– +– +≤ 0 s", done.stdout), "plants, since all that they need will be there"
    assert re.search(r"train original +to do +400 ", done.stdout), "one epoch of the training set"
    assert re.search(r"apply ieu: unlearned +to do +312 ", done.stdout), "three steps of 40 and 64 each"
    assert "about" in done.stderr
    assert not (config.parent / "out").exists()
    there = run("audit", whole.parent / "comparison.toml", "--out", whole, "--plan")
    again = there.stdout
    assert "to do" not in again
    assert again.splitlines()[0].split()[-2:] == ["about", "took"]
    assert re.search(r"estimated \d+ s, took \d+ s: gaps, rcd", there.stderr)
    assert again.count("there, if nothing changed") == 4
    only = run("audit", config, "--out", config.parent / "out", "--plan", "--only", "rcd").stdout
    assert "gaps" not in only
    assert "detectable" not in only
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_a_model_is_known_by_what_the_adversarial_set_holds_that_was_brought(tiny: Path, tmp_path: Path) -> None:
    brought = tmp_path / "mine.npz"
    applied = {"label": "u", "method": "amun", "to": "original", "settings": {"adversarial": str(brought)}}
    asked = {"checkpoint": [{"path": str(tiny / "original.safetensors")}], "forget": str(tiny / "forget.npy")}
    request = resolve([Layer("flag", asked | {"apply": [applied], "device": "cpu"})])

    def path(content: bytes) -> Path | None:
        brought.write_bytes(content)
        (made,) = models_to_make(request, tmp_path)
        return made.path

    assert path(b"one") == path(b"one") != path(b"two")


# ----- what lies there already


def test_a_file_in_the_place_of_a_model_that_is_another_one_is_refused(whole: Path, run: Cli, tmp_path: Path) -> None:
    shutil.copytree(whole.parent, tmp_path / "copy")
    out = tmp_path / "copy" / "out"
    (one,), (other,) = ([*(out / "models").glob(f"{label}-*.safetensors")] for label in ("retrained-1", "original"))
    shutil.copy(other, one)
    asked = ["audit", tmp_path / "copy" / "comparison.toml", "--out", out, "--force", "--quiet"]
    done = run(*asked)
    assert done.code == 3
    assert "is not the model that the config asks for (other role); remove it, and the audit makes it" in done.stderr
    one.write_bytes(b"damaged")
    assert "or remove it, and the audit makes it anew" in run(*asked).stderr
    mine = out / "models" / "resnet-18.safetensors"
    mine.write_bytes(b"not the audit's own")
    before = {path.name: path.stat().st_mtime_ns for path in (out / "parts").iterdir()}
    assert run(*asked, "--fresh").code == 0
    after = {path.name: path.stat().st_mtime_ns for path in (out / "parts").iterdir()}
    assert set(before) == set(after)
    assert not set(before.items()) & set(after.items()), "every part was made anew"
    assert mine.exists()
    assert without_time(out / "report.json")["measurements"] == without_time(whole / "report.json")["measurements"]


def test_a_part_that_somebody_edited_is_measured_again(whole: Path, run: Cli, tmp_path: Path) -> None:
    shutil.copytree(whole.parent, tmp_path / "copy")
    out = tmp_path / "copy" / "out"
    (part,) = (out / "parts").glob("gaps-*.json")
    text = part.read_text()
    part.write_text(re.sub(r'"value":[0-9.]+', '"value":0.5', text))
    assert part.read_text() != text
    done = run("audit", tmp_path / "copy" / "comparison.toml", "--out", out, "--force")
    assert "measured before: rcd, mia" in done.stderr
    assert without_time(out / "report.json")["measurements"] == without_time(whole / "report.json")["measurements"]
    assert part.read_text() == text


def test_an_attack_without_its_shadow_models_is_refused_before_training(refused: Cli, config: Path) -> None:
    config.write_text(CONFIG.replace('attacks = ["loss"]', 'attacks = ["loss", "ulira"]'))
    refused("audit", config, "--out", "out", code=2, says=["mia.attacks: ulira needs shadow models", "mia.shadows"])
    refused("validate", config, code=2, says=["line 37: mia.attacks: ulira needs shadow models"])


def test_a_section_that_the_config_lacks_is_not_passed_over(refused: Cli, config: Path) -> None:
    refused("audit", config, "--out", "o", "--only", "gaps,spectrum", code=2, says=["has no section [spectrum]"])


# ----- retrained models on request


def test_models_are_retrained_as_the_original_says_it_was(tiny: Path, run: Cli, here: Path) -> None:
    lines = "".join(f"[[checkpoint]]\npath = '{tiny / name}.safetensors'\n" for name in ("original", "retrained-1"))
    (here / "c.toml").write_text(f"forget = '{tiny}/forget.npy'\ndevice = 'cpu'\n{lines}[gaps]\n")
    asked = ["audit", "c.toml", "--retrain", 2, "--out", "report"]
    planned = run(*asked, "--plan").stdout
    assert len(re.findall(r"apply retrain: retrained-[23] +to do +3,879 ", planned)) == 2, "three epochs"
    done = run(*asked)
    assert done.code == 0, done.stderr
    body = json.loads((here / "report" / "report.json").read_text())
    assert [one["label"] for one in body["subjects"]] == ["original", "retrained-1", "retrained-2", "retrained-3"]
    assert [one["role"] for one in body["subjects"]] == ["original", *["retrained"] * 3]
    assert body["limitations"] == []
    made = [read_checkpoint(path).metadata for path in sorted((here / "report/models").iterdir())]
    assert [one.seed for one in made if one] == [2, 3], "0 and 1 are those of the checkpoints"
    assert {one.recipe["epochs"] for one in made if one} == {3}
    assert "to do" not in run(*asked, "--plan").stdout


@pytest.fixture
def no_recipe(tiny: Path, here: Path) -> str:
    """A config with an original that does not say how it was trained."""
    original = read_checkpoint(tiny / "original.safetensors")
    assert original.metadata is not None
    metadata = original.metadata.model_copy(update={"recipe": {}})
    write_checkpoint(here / "o.safetensors", original.state, metadata, force=False)
    text = f"forget = '{tiny}/forget.npy'\ndevice = 'cpu'\n[gaps]\n[[checkpoint]]\npath = 'o.safetensors'\n"
    (here / "c.toml").write_text(text)
    return text


ASSUMED = "retrained-1: nothing says how o was trained, so that a default recipe is assumed and no gate passes"


def test_a_default_recipe_is_told_in_the_plan_at_the_start_and_as_a_doubt(no_recipe: str, run: Cli, here: Path) -> None:
    asked = ["audit", "c.toml", "--retrain", 1, "--out", "report"]
    planned = run(*asked, "--plan")
    assert "apply retrain: retrained-1 (recipe assumed) " in planned.stdout
    assert ASSUMED in planned.stderr
    done = run(*asked, "--epochs", 1)  # epochs alone do not say which recipe
    assert done.code == 0, done.stderr
    assert done.stderr.index(ASSUMED) < done.stderr.index("wrote")
    report = read_report(here / "report" / "report.json")
    (doubt,) = [text for text in report.with_role("retrained")[0].doubts if "recipe" in text]
    assert doubt.startswith("retrained-1 was trained by a default recipe (small, 1 epochs), since nothing says how")
    assert doubt in report.limitations


@pytest.mark.parametrize("by", ["flag", "checkpoint", "apply"])
def test_a_recipe_that_is_named_is_the_originals(no_recipe: str, run: Cli, here: Path, by: str) -> None:
    text, flags = no_recipe, ["--retrain", 1]
    if by == "flag":
        flags += ["--recipe", "small", "--epochs", 1]
    elif by == "checkpoint":
        text += 'recipe = "small"\nepochs = 1\n'
    else:
        flags = []
        text += "label = 'original'\n[[apply]]\nlabel = 'retrained-1'\nmethod = 'retrain'\n"
        text += "settings = { recipe = 'small', epochs = 1 }\nseed = 1\n"
    (here / "c.toml").write_text(text)
    done = run("audit", "c.toml", "--out", "report", *flags)
    assert done.code == 0, done.stderr
    assert "nothing says how" not in done.stderr
    report = read_report(here / "report" / "report.json")
    assert not [text for subject in report.subjects for text in subject.doubts if "recipe" in text]
    (made,) = (here / "report" / "models").iterdir()
    metadata = read_checkpoint(made).metadata
    assert metadata is not None
    assert (metadata.recipe["name"], metadata.recipe["epochs"], metadata.recipe_assumed) == ("small", 1, None)


def test_a_recipe_without_something_to_retrain_is_refused(refused: Cli, no_recipe: str) -> None:
    refused("audit", "c.toml", "--recipe", "small", "--out", "r", code=2, says=["--retrain N"])
    refused("audit", "c.toml", "--retrain", 1, "--recipe", "smal", "--out", "r", code=2, says=["small"])


def test_there_is_nothing_to_retrain_after_without_an_original(refused: Cli, tiny: Path, here: Path) -> None:
    text = f"forget = '{tiny}/forget.npy'\n[[checkpoint]]\npath = '{tiny}/retrained-1.safetensors'\n[gaps]\n"
    (here / "c.toml").write_text(text)
    refused("audit", "c.toml", "--retrain", 1, "--out", "r", code=2, says=["--retrain follows an original or an unl"])
    (here / "c.toml").write_text(text.replace("retrained-1", "original"))
    refused("audit", "c.toml", "--retrain", 1, code=2, says=["name a folder for them with --out"])


def test_a_plan_asks_the_checkpoints_what_the_config_does_not_say(tiny: Path, run: Cli, here: Path) -> None:
    (here / "c.toml").write_text(
        f'forget = "{tiny}/forget.npy"\n[[checkpoint]]\npath = "{tiny}/original.safetensors"\n[gaps]\n[rcd]\n'
    )
    done = run("audit", "c.toml", "--plan")
    assert done.code == 0, done.stderr
    assert re.search(r"rcd +to do +94,464 ", done.stdout), "two models, 164 gradients of 144 + 144 examples"
    assert re.search(r"gaps +to do +– ", done.stdout)


def test_a_plan_that_cannot_know_says_what_it_needs(run: Cli, config: Path) -> None:
    config.write_text(CONFIG.replace('model = "small-cnn"', ""))
    done = run("audit", config, "--out", config.parent / "out", "--plan")
    assert done.code == 2
    assert "model" in done.stderr
