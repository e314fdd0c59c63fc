"""A folder of generated images, whole or absent: PNG files, and an index that says how each can be drawn again."""

import csv
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from unlearn_audit.engine import Device
from unlearn_audit.errors import UsageError
from unlearn_audit.files import atomic_folder, check_replaced_folder, first_other_file
from unlearn_audit.generation.pipelines import Pipeline
from unlearn_audit.generation.sampling import Sampling, Wanted, images
from unlearn_audit.progress import Progress, silent
from unlearn_audit.render.png import png

INDEX = "index.csv"
COLUMNS = ("file", "number", "condition", "seed", "sampler", "steps", "guidance", "height", "width", "generator")


def of_classes(classes: Sequence[int], count: int) -> tuple[Wanted, ...]:
    """Return images 0 … count - 1 of each class, class by class."""
    return tuple(Wanted(c, number) for c in dict.fromkeys(classes) for number in range(count))


def check_image_folder(folder: Path, *, force: bool) -> Path:
    """Return `folder` if images may be written there; called before any work is done.

    Raises:
        OutputError: as `files.check_replaced_folder`; it holds images of an earlier call (without `force`), or a file
            that its index does not name.
    """
    kind = "a folder of images that were drawn here"
    return check_replaced_folder(folder, force=force, stranger_in=_stranger_in, kind=kind)


def _stranger_in(folder: Path) -> str | None:
    """Return the name of a file that no earlier call wrote there: an index of other columns, or what none names."""
    try:
        with (folder / INDEX).open(newline="", encoding="utf-8") as stream:
            rows = csv.reader(stream)
            ours = {INDEX, *(row[0] for row in rows if row)} if tuple(next(rows, ())) == COLUMNS else set()
    except (FileNotFoundError, ValueError, csv.Error):
        ours = set()
    return first_other_file(folder, ours)


def write_image_folder(
    folder: Path,
    pipeline: Pipeline,
    wanted: Sequence[Wanted],
    sampling: Sampling,
    *,
    generator: str,
    seed: int,
    compute: Device,
    seen: Callable[[int, Tensor], object] = lambda index, image: None,
    progress: Progress = silent,
) -> None:
    """Draw images and write them, those of a class into a folder of its number, with their index.

    Args:
        folder: to make or to replace, see `check_image_folder`.
        pipeline: the generator, on the device.
        wanted: what is drawn; the number of a prompt names its file.
        sampling: how.
        generator: digest of the folder that it was read from, for the index.
        seed: the person's.
        compute: where.
        seen: called with the place and each image, uint8 [C, H, W].
        progress: progress callback.

    Raises:
        UsageError: as `sampling.images`; nothing is written then.
        MeasurementError: likewise.
        OutputError: no space, no permission.
    """
    names = [_name(one) for one in wanted]
    if len(set(names)) < len(names):
        raise UsageError("two images would have the same name: a condition and number come twice")

    def fill(target: Path) -> None:
        rows: dict[int, tuple[object, ...]] = {}
        for index, image in images(pipeline, wanted, sampling, seed=seed, compute=compute, progress=progress):
            one = wanted[index]
            path = target / names[index]
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(png(pixels_of(image)))
            guidance = sampling.guidance if one.guidance is None else one.guidance
            how = (one.seeded(seed), sampling.sampler, sampling.steps, f"{guidance:g}", *image.shape[1:], generator)
            rows[index] = (names[index], one.number, one.condition, *how)
            seen(index, image)
        with (target / INDEX).open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream, lineterminator="\n").writerows([COLUMNS, *(rows[index] for index in sorted(rows))])

    atomic_folder(folder, fill)


def _name(one: Wanted) -> str:
    """Return the name of an image's file within the folder."""
    return f"{one.condition}/{one.number:05d}.png" if isinstance(one.condition, int) else f"{one.number:06d}.png"


def pixels_of(image: Tensor) -> NDArray[np.uint8]:
    """Return an image, uint8 [C, H, W], as pixels: [H, W] of a grey one, [H, W, 3] of one in colour."""
    pixels: NDArray[np.uint8] = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
    return pixels[:, :, 0] if pixels.shape[2] == 1 else pixels
