"""Reading images that have a prompt each: a folder with captions.csv, whose columns are `file` and `prompt`."""

import csv
import io
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from unlearn_audit.data.formats.array_files import reading
from unlearn_audit.data.formats.image_folder import SUFFIXES, decoded
from unlearn_audit.errors import DataError
from unlearn_audit.files import read_input

CAPTIONS = "captions.csv"
MOST_BYTES = 64 << 20
LONGEST = 10_000  # characters of a prompt


class Captioned(NamedTuple):
    """One split: its images' paths below its folder, in the order of the file, and their prompts."""

    paths: tuple[str, ...]
    prompts: tuple[str, ...]


def read_captions(folder: Path) -> Captioned:
    """Return which images a split has, and the prompt of each; further columns are not read.

    Args:
        folder: of the split, with captions.csv in UTF-8: a header, then a line for each image.

    Raises:
        DataError: no such file, no such column, a line that is not understood, an image that is not there, lies outside
            the folder or comes twice, or a prompt that is empty.
    """
    path = folder / CAPTIONS
    try:
        text = read_input(path, "captions", DataError, most=MOST_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        raise DataError(f"{path} is not text in UTF-8 (byte {problem.start}); save it as UTF-8") from None
    lines = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    found: dict[str, str] = {}
    try:
        missing = [name for name in ("file", "prompt") if name not in (lines.fieldnames or ())]
        if missing:
            raise DataError(f"{path} has no column '{missing[0]}'; its first line must name file and prompt")
        for line in lines:
            where = f"{path}, line {lines.line_num}"
            name, prompt = str(line["file"] or ""), str(line["prompt"] or "").strip()
            if None in line or not prompt or len(prompt) > LONGEST:
                raise DataError(f"{where}: a file and a prompt of at most {LONGEST:,} characters are needed")
            if name in found:
                raise DataError(f"{where}: {name!r:.80} comes twice")
            _check_file(where, folder, name)
            found[name] = prompt
    except csv.Error as problem:
        raise DataError(f"{path}, line {lines.line_num}: {problem}") from None
    if not found:
        raise DataError(f"{path} has a header and no line under it")
    return Captioned(tuple(found), tuple(found.values()))


def _check_file(where: str, folder: Path, name: str) -> None:
    """Refuse what is no image inside the folder; a link out of it leads to where nobody asked to read."""
    image = folder / name
    if Path(name).suffix.lower() not in SUFFIXES or "\0" in name:
        raise DataError(f"{where}: {name!r:.80} is no image ({', '.join(sorted(SUFFIXES))})")
    with reading("image", image):
        inside = image.resolve().is_relative_to(folder.resolve())
    if not inside:
        raise DataError(f"{where}: refused: {name!r:.80} lies outside {folder}; put the image itself there")
    if not image.is_file():
        raise DataError(f"{where}: there is no image {image}")


def read_captioned(folder: Path) -> tuple[Captioned, Tensor]:
    """Return a split and its images, uint8 [N, 3, H, W], all of one size.

    Args:
        folder: of the split.

    Raises:
        DataError: as `read_captions`, or a file that is no 8-bit image, or images of several sizes.
    """
    captioned = read_captions(folder)
    return captioned, decoded(folder, [folder / name for name in captioned.paths])
