"""Images with prompts: a label is a prompt's number; what a file names outside its folder is not read."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unlearn_audit.data import load_data
from unlearn_audit.errors import DataError

GREY = {"a dog": 10, "a nude person": 200, "a cat": 60}


def split(folder: Path, rows: list[tuple[str, str]], text: str | None = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, prompt in rows:
        (folder / name).parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((4, 6, 3), GREY.get(prompt, 0), dtype=np.uint8)).save(folder / name)
    lines = "".join(f'{name},"{prompt}"\n' for name, prompt in rows)
    (folder / "captions.csv").write_text(text or f"file,prompt\n{lines}")


@pytest.fixture
def where(tmp_path: Path) -> Path:
    split(tmp_path / "train", [("2.png", "a nude person"), ("in/1.png", "a dog"), ("3.png", "a nude person")])
    split(tmp_path / "test", [("1.png", "a cat"), ("2.png", "a dog")])
    return tmp_path


def test_labels_number_the_prompts_in_their_order(where: Path) -> None:
    data = load_data(f"captioned:{where}")
    assert data.class_names == ("a cat", "a dog", "a nude person")
    assert data.train.labels.tolist() == [2, 1, 2]
    assert data.test.labels.tolist() == [0, 1]
    assert data.train.images.shape == (3, 3, 4, 6)
    assert data.train.images[:, 0, 0, 0].tolist() == [200, 10, 200]
    assert data.origin == ("2.png", "in/1.png", "3.png")
    assert load_data(data.spec).sha256 == data.sha256


def test_another_prompt_is_another_digest_though_its_number_stays(where: Path) -> None:
    before = load_data(f"captioned:{where}")
    for part in ("train", "test"):
        file = where / part / "captions.csv"
        file.write_text(file.read_text().replace("a dog", "a dogfish"))
    after = load_data(f"captioned:{where}")
    assert torch.equal(after.train.labels, before.train.labels)
    assert after.sha256 != before.sha256


def test_one_prompt_for_all_is_enough(tmp_path: Path) -> None:
    for part in ("train", "test"):
        split(tmp_path / part, [("1.png", "a dog")])
    assert load_data(f"captioned:{tmp_path}").classes == 1


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("file,text\n1.png,a\n", "no column 'prompt'"),
        ("file,prompt\n", "no line under it"),
        ("file,prompt\n2.png, \n", "line 2: a file and a prompt"),
        ("file,prompt\n2.png,a,b\n", "line 2: a file and a prompt"),
        ("file,prompt\n2.png,a\n2.png,b\n", "line 3: '2.png' comes twice"),
        ("file,prompt\n9.png,a\n", "there is no image"),
        ("file,prompt\n../test/1.png,a\n", "refused: .* lies outside"),
        ("file,prompt\n/etc/1.png,a\n", "refused: .* lies outside"),
        ("file,prompt\nlink.png,a\n", "refused: .* lies outside"),
        ("file,prompt\n/etc/passwd,a\n", "is no image"),
        ('file,prompt\n2.png,"a\n', "unexpected end of data"),
        (f"file,prompt\n2.png,{'a' * 10_001}\n", "at most 10,000 characters"),
        ("file,prompt\ncaptions.png,a\n", "cannot read image"),
    ],
)
def test_what_is_not_understood_is_refused_with_its_line(where: Path, text: str, match: str) -> None:
    (where / "train" / "link.png").symlink_to(where / "test" / "1.png")
    (where / "train" / "captions.png").write_text("no image")
    (where / "train" / "captions.csv").write_text(text)
    with pytest.raises(DataError, match=match):
        load_data(f"captioned:{where}")


def test_no_captions_no_data(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match="captions not found"):
        load_data(f"captioned:{tmp_path}")
