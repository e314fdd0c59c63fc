"""`generate` end to end on tiny generators with random weights: files, index, refusals, and diffusers' own images."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Run
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_pipelines import stable_diffusion

from unlearn_audit.checkpoints import Metadata, read_checkpoint
from unlearn_audit.checkpoints.pipelines import write_pipeline
from unlearn_audit.generation.pipelines import configs_of
from unlearn_audit.models.denoisers import tiny_unet

CLASSES, STEPS = 3, ("--sampling-steps", "2")


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a class-conditional generator of three classes, 8 x 8 and grey."""
    pytest.importorskip("diffusers", reason="pip install 'unlearn-audit[diffusion]'")
    path = tmp_path_factory.mktemp("classes") / "generator"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        denoiser: Any = tiny_unet(classes=CLASSES, channels=1)
    metadata = Metadata(model="tiny-unet", classes=CLASSES, channels=1, image_size=(8, 8))
    write_pipeline(path, denoiser.state_dict(), metadata, beside=configs_of(denoiser, (8, 8)), force=False)
    return path


@pytest.fixture(scope="module")
def theirs() -> Any:
    return stable_diffusion()


@pytest.fixture(scope="module")
def text_to_image(theirs: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "sd"
    theirs.save_pretrained(path)
    return path


def index(folder: Path) -> list[dict[str, str]]:
    with (folder / "index.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ----- classes


def test_a_folder_of_images_and_its_index(generator: Path, tmp_path: Path, run: Any) -> None:
    ran = run("generate", generator, "--class", "2,0", "--count", 3, *STEPS, "--out", tmp_path / "a", "--seed", 5)
    assert (ran.code, ran.stdout) == (0, "")
    assert "6 images, ddim, 2 steps, guidance 1" in ran.stderr
    rows = index(tmp_path / "a")
    assert [row["file"] for row in rows] == [f"{c}/{m:05d}.png" for c in (2, 0) for m in range(3)]
    assert set(files(tmp_path / "a")) == {"index.csv", *(row["file"] for row in rows)}
    assert {row["generator"] for row in rows} == {read_checkpoint(generator).sha256}
    assert rows[0] | {"seed": "", "generator": ""} == {
        "file": "2/00000.png", "number": "0", "condition": "2", "seed": "", "sampler": "ddim", "steps": "2",
        "guidance": "1", "height": "8", "width": "8", "generator": "",
    }  # fmt: skip
    assert len({row["seed"] for row in rows}) == 6
    image = np.asarray(Image.open(tmp_path / "a" / "2" / "00000.png"))
    assert (image.shape, image.dtype) == ((8, 8), np.uint8)


def test_the_same_call_writes_the_same_bytes_whatever_is_drawn_beside(
    generator: Path, tmp_path: Path, run: Any
) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    run("generate", generator, "--class", 1, "--count", 2, *STEPS, "--out", one)
    run("generate", generator, "--count", 3, *STEPS, "--out", other, "--batch-size", 2)
    found, among = files(one), files(other)
    assert len(among) == 1 + CLASSES * 3
    assert all(among[name] == content for name, content in found.items() if name != "index.csv")
    assert files(one) == found


def test_a_sheet_alone_and_beside_a_folder(generator: Path, tmp_path: Path, run: Any) -> None:
    sheet, again = tmp_path / "sheet.png", tmp_path / "again.png"
    ran = run("generate", generator, "--count", 4, *STEPS, "--grid", sheet)
    assert (ran.code, sorted(path.name for path in tmp_path.iterdir())) == (0, ["sheet.png"])
    assert "12 of 12 images" in ran.stderr
    run("generate", generator, "--count", 4, *STEPS, "--grid", again, "--out", tmp_path / "all")
    assert sheet.read_bytes() == again.read_bytes()
    across, down = 4 * 9 + 1, CLASSES * 9 + 1  # pixels, each drawn as 17 x 17
    assert Image.open(sheet).size == (across * 17, down * 17)


def test_guidance_changes_images_and_is_recorded(generator: Path, tmp_path: Path, run: Any) -> None:
    for name, guidance in (("plain", 1), ("guided", 4)):
        run("generate", generator, "--class", 0, "--count", 1, *STEPS, "--guidance", guidance, "--out", tmp_path / name)
    plain, guided = index(tmp_path / "plain")[0], index(tmp_path / "guided")[0]
    assert (plain["seed"], guided["guidance"]) == (guided["seed"], "4")
    assert files(tmp_path / "plain")["0/00000.png"] != files(tmp_path / "guided")["0/00000.png"]


def test_what_cannot_be_is_refused_and_leaves_nothing(generator: Path, tmp_path: Path, run: Any) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("keep me")
    (tmp_path / "p.csv").write_text("prompt\nx\n")
    before = sorted(path for path in tmp_path.rglob("*"))
    out = ("--out", tmp_path / "out")
    for arguments, said in [
        ([], "nothing would be kept"),
        (["--class", 3, *out], "classes 0 to 2"),
        (["--class", "x", *out], "no class number"),
        (["--prompts", tmp_path / "p.csv", *out], "takes no prompts"),
        (["--prompts", tmp_path / "p.csv", "--count", 3, *out], "leave out --class and --count"),
        (["--sampling-steps", 1001, *out], "1 to 1000"),
        (["--out", tmp_path / "mine", "--force"], "letter.txt"),
        (["--out", tmp_path / "p.csv" / "where"], "p.csv is a file, not a folder"),
        (["--grid", tmp_path / "sheet.jpg"], "name it FILE.png"),
    ]:
        ran = run("generate", generator, *arguments)
        assert ran.code == 2, arguments
        assert said in " ".join(ran.stderr.split()), arguments
    assert sorted(path for path in tmp_path.rglob("*")) == before


def test_a_folder_that_is_there_is_replaced_only_by_force(generator: Path, tmp_path: Path, run: Any) -> None:
    out = tmp_path / "out"
    run("generate", generator, "--class", 0, "--count", 2, *STEPS, "--out", out)
    first = files(out)
    refused = run("generate", generator, "--class", 1, "--count", 1, *STEPS, "--out", out)
    assert (refused.code, files(out)) == (2, first)
    assert "--force" in refused.stderr
    run("generate", generator, "--class", 1, "--count", 1, *STEPS, "--out", out, "--force")
    assert set(files(out)) == {"index.csv", "1/00000.png"}


def test_images_that_no_call_drew_are_never_replaced(generator: Path, tmp_path: Path, run: Any) -> None:
    out = tmp_path / "out"
    draw = ("generate", generator, "--class", 0, "--count", 2, *STEPS, "--out", out, "--force")
    run(*draw)
    (out / "0" / "holiday.png").write_bytes(b"mine")
    refused = run(*draw)
    assert (refused.code, (out / "0" / "holiday.png").read_bytes()) == (2, b"mine")
    assert "0/holiday.png" in " ".join(refused.stderr.split())
    (out / "0" / "holiday.png").unlink()
    for content in ("file,label\n0/00000.png,3\n0/00001.png,3\n", "", "\x00"):
        (out / "index.csv").write_text(content)
        refused = run(*draw)
        assert (refused.code, (out / "index.csv").read_text()) == (2, content)
        assert (out / "0" / "00000.png").is_file()


def test_a_classifier_is_no_generator(tmp_path: Path, run: Any) -> None:
    from unlearn_audit.checkpoints import write_checkpoint

    path = tmp_path / "c.safetensors"
    write_checkpoint(path, {"w": torch.zeros(2)}, Metadata(model="small-cnn"), force=False)
    ran = run("generate", path, "--out", tmp_path / "out")
    assert (ran.code, (tmp_path / "out").exists()) == (3, False)
    assert "is no generator" in ran.stderr


# ----- prompts


def test_prompts_draw_the_images_of_diffusers_own_pipeline(
    theirs: Any, text_to_image: Path, tmp_path: Path, run: Any
) -> None:
    (tmp_path / "p.csv").write_text(
        "prompt,evaluation_seed,evaluation_guidance,sd_image_height,sd_image_width,case_number\n"
        "a nude,7,3.5,24,16,12\n"
        "a house,8,,,,40\n"
        "a tree,,,,,41\n"
    )
    out = tmp_path / "out"
    ran = run("generate", text_to_image, "--prompts", tmp_path / "p.csv", *STEPS, "--out", out)
    assert (ran.code, ran.stdout) == (0, ""), ran.stderr
    assert (
        "obeyed beside prompt: evaluation_seed, evaluation_guidance, sd_image_width, sd_image_height, case_number"
        in " ".join(ran.stderr.split())
    )
    rows = index(out)
    assert [(row["file"], row["condition"], row["guidance"]) for row in rows] == [
        ("000012.png", "a nude", "3.5"),
        ("000040.png", "a house", "7.5"),
        ("000041.png", "a tree", "7.5"),
    ]
    for row in rows:  # the third one's seed is ours, and written down
        wanted = theirs(
            row["condition"], num_inference_steps=2, guidance_scale=float(row["guidance"]), height=int(row["height"]),
            width=int(row["width"]), generator=torch.Generator().manual_seed(int(row["seed"])),
        ).images[0]  # fmt: skip
        found = np.asarray(Image.open(out / row["file"])).astype(int)
        assert found.shape == (int(row["height"]), int(row["width"]), 3)
        assert np.abs(found - np.asarray(wanted).astype(int)).max() <= 1, row
        assert found.std() > 1


def test_a_prompt_file_is_needed_where_texts_are_drawn(text_to_image: Path, tmp_path: Path, run: Any) -> None:
    for arguments, said in [
        ([], "--prompts FILE"),
        (["--prompts", tmp_path / "none.csv"], "not found"),
        (["--class", "1"], "--prompts FILE"),
    ]:
        ran = run("generate", text_to_image, *arguments, "--out", tmp_path / "out")
        assert (ran.code, (tmp_path / "out").exists()) == (2, False)
        assert said in ran.stderr


def test_a_size_that_latents_do_not_divide_leaves_nothing_behind(text_to_image: Path, tmp_path: Path, run: Any) -> None:
    (tmp_path / "p.csv").write_text("prompt,sd_image_width,sd_image_height\nx,,\ny,17,16\n")
    ran = run("generate", text_to_image, "--prompts", tmp_path / "p.csv", *STEPS, "--out", tmp_path / "out")
    assert (ran.code, [path.name for path in tmp_path.iterdir()]) == (2, ["p.csv"])
    assert "multiples of 2" in ran.stderr


def test_the_data_says_which_rows_of_a_foreign_folder_are_classes(generator: Path, here: Path, run: Run) -> None:
    foreign = here / "foreign"
    shutil.copytree(generator, foreign)
    (weights,) = (foreign / "unet").glob("*.safetensors")
    save_file(load_file(weights), weights)  # without what this tool records
    for classes in (3, 4):
        labels = np.arange(8) % classes
        np.savez(here / f"{classes}.npz", x_train=np.zeros((8, 8, 8), np.uint8), y_train=labels,
                 x_test=np.zeros((8, 8, 8), np.uint8), y_test=labels)  # fmt: skip
    asked = ("generate", foreign, *STEPS, "--count", "1")
    alone = run(*asked, "--out", "alone")
    assert (alone.code, "assumed: the last of 4 label rows" in alone.stderr) == (0, True)
    three = run(*asked, "--data", "npz:3.npz", "--out", "three")
    assert (three.code, "assumed" in three.stderr) == (0, False)
    four = run(*asked, "--data", "npz:4.npz", "--out", "four")  # the last row is a class, too
    assert (four.code, len(index(here / "four"))) == (0, 4)
    (here / "c.toml").write_text('data = "npz:4.npz"\n')
    named = run(*asked, "--config", "c.toml", "--out", "named")
    assert (named.code, len(index(here / "named"))) == (0, 4)
    wrong = run(*asked, "--data", "digits", "--out", "wrong")
    assert (wrong.code, "4 label rows, the data has 10 classes" in wrong.stderr) == (3, True)


def test_a_size_that_the_folder_does_not_say_is_named_by_its_own_key(generator: Path, here: Path, run: Run) -> None:
    unsized = here / "unsized"
    shutil.copytree(generator, unsized)
    config = unsized / "unet" / "config.json"
    said = json.loads(config.read_text())
    config.write_text(json.dumps(said | {"sample_size": None}))
    ran = run("generate", unsized, *STEPS, "--out", "images")
    assert (ran.code, "add sample_size to its unet/config.json" in ran.stderr) == (2, True)
