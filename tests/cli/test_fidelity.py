"""`fidelity` end to end on tiny generators with random weights: both halves, the judge, sheets, twice the same."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Run

from unlearn_audit.checkpoints import Metadata
from unlearn_audit.checkpoints.pipelines import write_pipeline
from unlearn_audit.generation.pipelines import configs_of
from unlearn_audit.models.denoisers import tiny_unet

CLASSES = 3
FEW = ("--samples", "10", "--kept-samples", "4", "--sampling-steps", "2", "--quiet")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write two generators of three classes, and images of three levels of grey."""
    pytest.importorskip("diffusers", reason="pip install 'unlearn-audit[diffusion]'")
    found = tmp_path_factory.mktemp("fidelity")
    rng = np.random.default_rng(0)
    labels = np.arange(135) % CLASSES
    images = np.clip(labels[:, None, None] * 90 + 30 + rng.normal(0, 10, (135, 8, 8)), 0, 255).astype(np.uint8)
    np.savez(found / "grey.npz", x_train=images[:90], y_train=labels[:90], x_test=images[90:], y_test=labels[90:])
    for seed, name in enumerate(("original", "unlearned")):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            denoiser: Any = tiny_unet(classes=CLASSES, channels=1)
        metadata = Metadata(model="tiny-unet", classes=CLASSES, channels=1, image_size=(8, 8))
        write_pipeline(found / name, denoiser.state_dict(), metadata, beside=configs_of(denoiser, (8, 8)), force=False)
    return found


@pytest.fixture
def asked(folder: Path) -> tuple[str, ...]:
    data = ("--data", f"npz:{folder / 'grey.npz'}", "--forget", "class:2", "--mean", "0.5", "--std", "0.5")
    return ("--original", f"{folder / 'original'}", "--unlearned", f"{folder / 'unlearned'}", *data)


def test_both_halves_stand_together_and_the_page_shows_samples(asked: tuple[str, ...], here: Path, run: Run) -> None:
    ran = run("fidelity", *asked, *FEW, "--out", "report")
    assert ran.code == 0, ran.stderr
    for row in ("forget rate", "kept rate", "KID", "KID forgotten", "the judge on real held-out images"):
        assert row in ran.stdout
    assert max(map(len, ran.stdout.splitlines())) <= 80
    assert "No retrained model was given" in ran.stdout  # the original, which KID is read against, is none
    report = json.loads((here / "report" / "report.json").read_text())
    found = {(one["name"], one["subject"]): one for one in report["measurements"]}
    assert found["generation.judge_accuracy", "judge"]["value"] == 1.0
    assert found["generation.forget_rate", "unlearned"]["n"] == 10
    assert found["generation.kept_rate", "unlearned"]["n"] == 8
    assert "ddim, 2 steps, guidance 1" in found["generation.kid", "unlearned"]["method"]
    assert found["generation.kid", "unlearned"]["reference"]["role"] == "original"
    assert run("show", "report/report.json", "--html", "page.html").code == 0
    assert (here / "page.html").read_text().count('<img src="data:image/png;base64,') == 4
    gated = run("gate", "report/report.json", "--policy", "generation")
    assert gated.code in (1, 4)  # random weights draw no kept class, and no retrained model says how relearning goes
    again = run("fidelity", *asked, *FEW, "--format", "json")
    assert json.loads(again.stdout)["measurements"] == report["measurements"]


def test_the_help_shows_judges_of_every_kind(run: Run) -> None:
    told = run("fidelity", "--help").stdout
    for part in ("--judge judge.safetensors", "--judge my.module:callable", "--prompts i2p.csv --judge nudenet"):
        assert part in told


def test_a_classifier_and_prompts_for_classes_are_refused(asked: tuple[str, ...], here: Path, run: Run) -> None:
    (here / "p.csv").write_text("prompt\na\n")
    ran = run("fidelity", *asked, *FEW, "--prompts", "p.csv")
    assert (ran.code, "generators that take texts" in ran.stderr) == (2, True)
    ran = run("fidelity", *asked, *FEW, "--judge", str(asked[1]))
    assert (ran.code, "is a generator" in ran.stderr) == (2, True)


def test_generators_of_texts_need_prompts_and_no_forget_set(
    stable_diffusion_folder: Path, here: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Detector:
        def detect(self, file: str) -> list[dict[str, Any]]:
            return []

    monkeypatch.setitem(sys.modules, "nudenet", SimpleNamespace(NudeDetector=Detector))
    (here / "i2p.csv").write_text("prompt\nnude\na dog\n")
    asked = ("fidelity", stable_diffusion_folder, "--prompts", "i2p.csv", "--sampling-steps", "2", "--quiet")
    ran = run(*asked, "--judge", "nudenet")
    assert ran.code == 0, ran.stderr
    assert "nudity rate" in ran.stdout
    assert "forget 1 " not in ran.stdout  # the image that stands in
    report = json.loads(run(*asked, "--judge", "nudenet", "--format", "json").stdout)
    found = {one["name"]: one for one in report["measurements"]}
    assert (found["generation.nudity_rate"]["value"], found["generation.nudity_rate"]["n"]) == (0.0, 2)
    assert found["generation.kid"]["value"] is None
    assert report["conclusion"]


def test_generators_of_classes_need_a_forget_set_whatever_the_prompts(folder: Path, here: Path, run: Run) -> None:
    (here / "p.csv").write_text("prompt\na\n")
    ran = run("fidelity", folder / "original", "--prompts", "p.csv")
    assert (ran.code, "name what is forgotten: --forget" in ran.stderr) == (2, True)
