"""Reading CIFAR-10 and CIFAR-100 in their published "python version", whose pickles are not allowed to run anything."""

import hashlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unlearn_audit.errors import DataError

# What a pickled uint8 array is made of; every other name is refused before it is looked up.
ARRAY_PARTS = frozenset({
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("_codecs", "encode"),
})


LARGEST = 1 << 28  # bytes of a published file


class ArrayUnpickler(pickle.Unpickler):
    """An unpickler that builds plain containers and arrays, and can name nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """Return a part of an array.

        Raises:
            DataError: the pickle names anything else.
        """
        if (module, name) not in ARRAY_PARTS:
            raise DataError(f"refused: a CIFAR batch names {module}.{name}, which is no part of an array")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def read_cifar(name: str, root: Path, *, train: bool, download: bool) -> tuple[NDArray[np.uint8], NDArray[np.generic]]:
    """Return the images [N, 32, 32, 3] and (fine) labels [N] of one split, in the published order.

    A file is opened only if its MD5 is the published one, and even then with an unpickler that knows arrays alone.

    Args:
        name: `CIFAR10` or `CIFAR100`.
        root: the folder that holds `cifar-10-batches-py` or `cifar-100-python`.
        train: the training split, or the test split.
        download: fetch the archive where files are missing.

    Raises:
        DataError: a file is missing, altered, or names more than arrays.
    """
    from torchvision import datasets  # imported here: it takes a second
    from torchvision.datasets.utils import download_and_extract_archive

    published = getattr(datasets, name)
    folder = root / published.base_folder
    files = [(folder / file, md5) for file, md5 in (published.train_list if train else published.test_list)]
    if download and not all(_intact(path, md5) for path, md5 in files):
        download_and_extract_archive(published.url, str(root), filename=published.filename, md5=published.tgz_md5)
    batches = [_read_batch(path, md5) for path, md5 in files]
    images = np.concatenate([images for images, _ in batches])
    return images, np.concatenate([labels for _, labels in batches])


def cifar_class_names(name: str, root: Path) -> tuple[str, ...]:
    """Return the names of the (fine) classes in the order of their labels; () where their file is missing or altered.

    Args:
        name: as in `read_cifar`.
        root: likewise.

    Raises:
        DataError: the file names more than containers.
    """
    from torchvision import datasets  # imported here: it takes a second

    published = getattr(datasets, name)
    path = root / published.base_folder / published.meta["filename"]
    if not _intact(path, published.meta["md5"]):
        return ()
    with path.open("rb") as stream:
        return tuple(map(str, ArrayUnpickler(stream, encoding="latin1").load()[published.meta["key"]]))


def _intact(path: Path, md5: str) -> bool:
    """Return whether the file is there with the published MD5."""
    if not path.is_file() or path.stat().st_size > LARGEST:
        return False
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() == md5


def _read_batch(path: Path, md5: str) -> tuple[NDArray[np.uint8], NDArray[np.generic]]:
    """Return images [n, 32, 32, 3] and labels [n] of one file."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing")
    if not _intact(path, md5):
        raise ValueError(f"{path} is damaged (its MD5 is not the published {md5})")
    with path.open("rb") as stream:
        batch = ArrayUnpickler(stream, encoding="latin1").load()
    images = np.asarray(batch["data"], dtype=np.uint8).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return images, np.asarray(batch["labels"] if "labels" in batch else batch["fine_labels"])
