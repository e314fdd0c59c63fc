"""Reading `train/CLASS/**/image` folders into one array, in an order that can be named again.

Not torchvision's ImageFolder: it follows links in circles, counts an image that two links lead to twice, takes resource
forks and thumbnails for images, and looks at sizes and modes of images only when each is decoded.
"""

import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from unlearn_audit.data.examples import Examples
from unlearn_audit.data.formats.array_files import check_memory, reading
from unlearn_audit.data.formats.folder_walk import image_paths, is_left_over
from unlearn_audit.errors import DataError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".ppm", ".pgm", ".bmp", ".tif", ".tiff", ".webp"})
FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP")
EIGHT_BIT = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"})
MOST_PIXELS = 2**25  # of one image, before it is decoded


class ImageSplit(NamedTuple):
    """One split with the files it was read from, relative to the split's folder."""

    examples: Examples
    paths: tuple[str, ...]


def class_names(folder: Path) -> tuple[str, ...]:
    """Return the sorted names of the class folders in `folder`.

    Raises:
        DataError: the folder is missing, not a folder, or holds no class folders.
    """
    if not folder.is_dir():
        raise DataError(f"folder not found: {folder}; folder: data has train/ and test/, each with a folder per class")
    with reading("folder", folder):
        names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not is_left_over(entry.name))
    if not names:
        raise DataError(f"{folder} holds no class folders")
    return tuple(names)


def read_split(folder: Path, classes: tuple[str, ...]) -> ImageSplit:
    """Return all images below the class folders of `folder` as RGB uint8.

    Index order is that of the sorted relative paths, compared part by part (class folder first), which is the order of
    torchvision's ImageFolder where classes hold no further folders. Files with other endings are no images, and neither
    are hidden files nor what systems and notebooks leave behind (`.ipynb_checkpoints`, `__MACOSX`, `@eaDir`).

    Args:
        folder: the split's folder.
        classes: class names in label order; `folder` may hold no others.

    Raises:
        DataError: an unknown or empty class folder, a file that is no 8-bit image, or images of several sizes.
    """
    unknown = [name for name in class_names(folder) if name not in classes]
    if unknown:
        raise DataError(f"{folder / unknown[0]} is not a class of the training folder ({', '.join(classes)})")
    paths = image_paths(folder, class_names(folder), SUFFIXES)
    numbers = {name: number for number, name in enumerate(classes)}
    labels = torch.tensor([numbers[path.relative_to(folder).parts[0]] for path in paths], dtype=torch.int64)
    relative = tuple(path.relative_to(folder).as_posix() for path in paths)
    return ImageSplit(Examples(decoded(folder, paths), labels, labels), relative)


def decoded(folder: Path, paths: list[Path]) -> torch.Tensor:
    """Return images as RGB, uint8 [N, 3, H, W]; every image must have the first one's size.

    Args:
        folder: that they are of, for messages.
        paths: of the images, at least one.

    Raises:
        DataError: a file that is no 8-bit image, or images of several sizes.
    """
    first = _decode(paths[0], None)
    check_memory(folder, len(paths) * first.size)
    images = np.empty((len(paths), 3, *first.shape[:2]), dtype=np.uint8)
    for row, path in enumerate(paths):
        images[row] = _decode(path, (first.shape[1], first.shape[0])).transpose(2, 0, 1)
    return torch.from_numpy(images)


def _decode(path: Path, size: tuple[int, int] | None) -> NDArray[np.uint8]:
    """Return [H, W, 3] uint8; size and mode are checked on the header, before anything is decoded."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # held by the check of the size below
            with Image.open(path, formats=FORMATS) as image:
                _check_header(path, image, size)
                return np.asarray(image.convert("RGB"))
    except DataError:
        raise
    except Exception as problem:  # a damaged image makes its reader fail in many ways
        detail = (str(problem) or type(problem).__name__).partition("\n")[0]
        raise DataError(f"cannot read image {path}: {detail[:200]}") from problem


def _check_header(path: Path, image: Image.Image, size: tuple[int, int] | None) -> None:
    """Refuse another size than the first image's, an enormous size, and more than 8 bits per channel."""
    width, height = image.size
    if size is not None and image.size != size:
        raise DataError(f"{path} is {width}x{height}, but the first image is {size[0]}x{size[1]}; resize to one size")
    if width * height > MOST_PIXELS:
        raise DataError(f"{path} announces {width}x{height} pixels, more than {MOST_PIXELS}; resize it")
    if getattr(image, "n_frames", 1) > 1:
        raise DataError(f"{path} holds {getattr(image, 'n_frames', 1)} images; save the one that is meant by itself")
    if image.mode not in EIGHT_BIT:
        raise DataError(f"{path} has pixel type {image.mode}; 8 bits per channel are needed")
