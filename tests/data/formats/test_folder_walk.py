"""Folders of images with links, pipes and more: no walk goes in circles, and none waits."""

import os
import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unlearn_audit.data import load_data
from unlearn_audit.data.formats import folder_walk
from unlearn_audit.errors import DataError


@pytest.fixture
def images(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for number in range(2):
                Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return tmp_path / "data"


def refusal(folder: Path) -> str:
    with pytest.raises(DataError) as caught:
        load_data(f"folder:{folder}")
    return str(caught.value)


@pytest.mark.parametrize("target", ["/", "..", "../..", "../../..", "/proc/self/root"])
def test_a_link_to_a_folder_around_the_data(images: Path, target: str) -> None:
    (images / "train" / "cat" / "loop").symlink_to(target)
    told = refusal(images)
    assert "train/cat/loop is a link to" in told
    assert "remove the link" in told


@pytest.mark.parametrize("target", [".", "../cat", "../dog"])
def test_two_ways_to_one_folder(images: Path, target: str) -> None:
    (images / "train" / "cat" / "again").symlink_to(target)
    assert "lead to the same folder" in refusal(images)


def test_folders_that_link_to_each_other(images: Path) -> None:
    one, other = images / "train" / "cat" / "one", images / "train" / "cat" / "other"
    one.mkdir()
    other.mkdir()
    (one / "link").symlink_to(other)
    (other / "link").symlink_to(one)
    assert "lead to the same folder" in refusal(images)


def test_two_classes_that_are_one(images: Path) -> None:
    (images / "train" / "kitten").symlink_to("cat")
    assert "train/kitten" in refusal(images)


def test_a_link_to_itself_is_no_class(images: Path) -> None:
    (images / "train" / "self").symlink_to("self")
    (images / "train" / "cat" / "self").symlink_to("self")
    assert len(load_data(f"folder:{images}").train) == 4
    (images / "train" / "cat" / "x.png").symlink_to("x.png")
    assert "x.png is a link to nothing, not an image" in refusal(images)


def test_links_to_images_and_folders_elsewhere_are_followed(images: Path, tmp_path: Path) -> None:
    plain = load_data(f"folder:{images}")
    store = tmp_path / "store"
    (images / "train" / "cat").rename(store)
    (images / "train" / "cat").symlink_to(store)
    image = images / "train" / "dog" / "0.png"
    image.rename(tmp_path / "0.png")
    image.symlink_to(tmp_path / "0.png")
    linked = load_data(f"folder:{images}")
    assert (linked.sha256, linked.origin) == (plain.sha256, plain.origin)


def test_a_pipe_and_a_socket_in_place_of_an_image(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = images / "train" / "cat" / "a.png"
    os.mkfifo(pipe)
    assert "a.png is a pipe, not an image; remove it" in refusal(images)
    pipe.unlink()
    pipe.symlink_to("/dev/zero")
    assert "a.png is a device, not an image" in refusal(images)
    pipe.unlink()
    monkeypatch.chdir(pipe.parent)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("a.png")
        assert "a.png is a socket, not an image" in refusal(images)


def test_a_folder_called_as_an_image_is_a_folder(images: Path) -> None:
    inner = images / "train" / "cat" / "x.png"
    inner.mkdir()
    (images / "train" / "cat" / "0.png").rename(inner / "0.png")
    assert load_data(f"folder:{images}").origin == ("cat/1.png", "cat/x.png/0.png", "dog/0.png", "dog/1.png")


def test_a_wrong_folder_with_very_many_files(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_walk, "MOST_OTHERS", 5)
    for number in range(6):
        (images / "train" / "dog" / f"{number}.txt").touch()
    assert "more than 5 files that are no images" in refusal(images)


def test_folders_nested_without_end(images: Path) -> None:
    deep = images / "train" / "cat" / "/".join(["d"] * 60)
    deep.mkdir(parents=True)
    assert "nested more than 50 deep" in refusal(images)


def test_an_image_that_is_several(images: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(images / "train" / "cat" / "a.tiff", save_all=True, append_images=frames[1:])
    assert "a.tiff holds 2 images" in refusal(images)


def test_a_class_without_images(images: Path) -> None:
    (images / "train" / "bird").mkdir()
    assert "bird holds no images" in refusal(images)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read(images: Path) -> None:
    (images / "train" / "cat" / "closed").mkdir(mode=0)
    assert "cannot read folder" in refusal(images)
