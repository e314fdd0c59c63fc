"""Image folders: what systems and notebooks leave in them is no image, and no class."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unlearn_audit.data.formats.image_folder import class_names, read_split


def draw(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((4, 4, 3), dtype=np.uint8)).save(path)


LEFT_OVER = (
    "a/.ipynb_checkpoints/1-checkpoint.png",
    "a/deep/.ipynb_checkpoints/1-checkpoint.png",
    "a/__MACOSX/1.png",
    "a/__MACOSX/a/._1.png",
    "a/@eaDir/1.png/SYNOPHOTO_THUMB_M.png",
    "a/._1.png",
    "a/~$1.png",
    "a/.thumbnails/1.png",
    ".ipynb_checkpoints/1.png",
    "__MACOSX/1.png",
    "@eaDir/1.png",
)


@pytest.mark.parametrize("name", LEFT_OVER)
def test_what_is_left_over_does_not_count(name: str, tmp_path: Path) -> None:
    for number in (1, 2):
        draw(tmp_path / "a" / f"{number}.png")
    draw(tmp_path / "a" / "deep" / "1.png")
    draw(tmp_path / name)
    assert class_names(tmp_path) == ("a",)
    assert read_split(tmp_path, ("a",)).paths == ("a/1.png", "a/2.png", "a/deep/1.png")
