"""A text-to-image folder from one end to the other: measured on images with prompts, unlearned into a folder."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import tiny_pipelines as tiny
import torch
from conftest import Run
from PIL import Image
from safetensors.torch import save_file
from small_problems import CPU

from unlearn_audit.checkpoints import read_checkpoint
from unlearn_audit.config import Layer, resolve
from unlearn_audit.engine import Draws
from unlearn_audit.inputs import resolve_inputs

pytest.importorskip("diffusers", reason=tiny.NEEDS)
DATA = ("--data", "captioned:data", "--forget", "range:0-3", "--batch-size", "64")


@pytest.fixture
def data(here: Path) -> Path:
    """Six images to train on and four held out, under two prompts."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("test", 4)):
        (here / "data" / split).mkdir(parents=True)
        lines = ["file,prompt"]
        for number in range(count):
            pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(here / "data" / split / f"{number}.png")
            lines.append(f"{number}.png,{'a nude dog' if number % 2 else 'a dog'}")
        (here / "data" / split / "captions.csv").write_text("\n".join(lines) + "\n")
    return here


def test_unlearned_into_a_folder_and_measured_beside_an_overlay(
    data: Path, stable_diffusion_folder: Path, run: Run
) -> None:
    done = run("apply", "ft", stable_diffusion_folder, *DATA, "--epochs", "1", "--out", "unlearned/")
    assert done.code == 0, done.stderr
    unlearned, original = read_checkpoint(data / "unlearned"), read_checkpoint(stable_diffusion_folder)
    assert unlearned.metadata is not None
    assert unlearned.metadata.parent_sha256 == original.sha256
    assert unlearned.state.keys() == original.state.keys()
    assert (data / "unlearned" / "vae" / "config.json").samefile(stable_diffusion_folder / "vae" / "config.json")
    some = {name: tensor for name, tensor in unlearned.state.items() if "attn2" in name}
    save_file({name: tensor + 0.1 for name, tensor in some.items()}, data / "esd.safetensors")
    done = run("rcd", "--original", stable_diffusion_folder, "unlearned", "esd.safetensors", "--base",
               stable_diffusion_folder, *DATA, "--steps", "1", "--draws", "2", "--format", "json")  # fmt: skip
    assert done.code == 0, done.stderr
    report = json.loads(done.stdout)
    assert {subject["label"] for subject in report["subjects"]} == {"sd", "unlearned", "esd"}
    raw = {each["subject"]: each["value"] for each in report["measurements"] if each["name"] == "rcd.raw"}
    assert raw["sd"] == 0
    assert raw["esd"] != raw["unlearned"]


def test_a_plan_prices_it_on_a_row_of_its_own_and_esd_by_its_pipeline(
    data: Path, stable_diffusion_folder: Path, run: Run
) -> None:
    config = data / "plan.toml"
    config.write_text(
        f'forget = "range:0-3"\ndata = "captioned:data"\n[[checkpoint]]\npath = "{stable_diffusion_folder}"\n'
        'label = "sd"\n[[apply]]\nmethod = "esd"\nto = "sd"\nlabel = "esd"\nsettings = { steps = 3 }\n'
        "[rcd]\nsteps = 1\ndraws = 2\n"
    )
    done = run("audit", config, "--plan")
    assert done.code == 0, done.stderr
    assert re.search(r"^apply esd: esd +to do +3 ", done.stdout, re.MULTILINE), done.stdout


def test_retain_rows_that_lose_their_text_get_that_of_the_empty_prompt(
    data: Path, stable_diffusion_folder: Path
) -> None:
    asked = {"checkpoint": [{"path": str(stable_diffusion_folder)}], "data": "captioned:data", "forget": "range:0-3"}
    found = resolve_inputs(resolve([Layer("flag", asked, "test")])).candidate(0)
    assert found.task.rows is not None
    latents, labels, numbers = torch.zeros(4, 4, 8, 8), torch.tensor([0, 1, 0, 1]), torch.arange(4)
    rows = found.task.rows(latents, labels, numbers, Draws(0, count=1, grid=False, drop=1.0))
    empty = found.pipeline.encode([""], CPU)
    assert torch.equal(rows.inputs.condition, empty.expand(4, -1, -1))


def test_images_of_another_size_than_latents_have_are_refused(
    data: Path, stable_diffusion_folder: Path, run: Run
) -> None:
    for file in (data / "data").rglob("*.png"):
        Image.open(file).resize((15, 15)).save(file)
    done = run("rcd", stable_diffusion_folder, *DATA, "--steps", "1")
    assert done.code == 3
    assert "sides that 2 divides" in done.stderr
