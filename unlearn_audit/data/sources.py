"""The data sources of the catalogue: each turns the part after `:` into two splits."""

import contextlib
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from unlearn_audit.data.arrays import ARRAY_NAMES, examples_from_arrays, image_tensor, label_array
from unlearn_audit.data.examples import Examples
from unlearn_audit.data.formats.array_files import read_npz
from unlearn_audit.data.formats.captioned import read_captioned
from unlearn_audit.data.formats.cifar_batches import cifar_class_names, read_cifar
from unlearn_audit.data.formats.idx import find_idx, read_idx
from unlearn_audit.data.formats.image_folder import class_names, read_split
from unlearn_audit.data.spec import Options, absolute
from unlearn_audit.errors import DataError, unknown_name
from unlearn_audit.files import check_input

DATA_FOLDER = "UNLEARN_AUDIT_DATA_FOLDER"


@dataclass(frozen=True)
class Context:
    """What a source may need beside its target.

    Attributes:
        options: the spec's options.
        base: the folder that relative paths start at.
        download: whether missing data may be fetched.
    """

    options: Options
    base: Path
    download: bool = False


@dataclass(frozen=True, eq=False)
class LoadedArrays:
    """What a source returns, before subsets and label changes.

    Attributes:
        target: the canonical target (an absolute path, the exact name).
        train: training examples.
        test: held-out examples.
        classes: number of classes where the source says it; None means largest training label + 1.
        mean: per channel, where the source has a customary value.
        std: likewise.
        origin: relative paths of the training files, for image folders.
        class_names: in the order of the labels, where the source has names.
        prompted: whether they are prompts, which may also be one alone.
    """

    target: str
    train: Examples
    test: Examples
    classes: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    origin: tuple[str, ...] | None = None
    class_names: tuple[str, ...] = ()
    prompted: bool = False


class DataSource(Protocol):
    """The signature of every data source."""

    def __call__(self, target: str, context: Context) -> LoadedArrays:
        """Return what `target` (the part of the spec after `:`) names."""


def digits(target: str, context: Context) -> LoadedArrays:
    """Return scikit-learn's embedded digits: float32 [N, 1, 8, 8] in [0, 1], 1437 for training and 360 held out.

    The split depends on no seed and no library version: in the order of class and position, every fifth is held out.

    Raises:
        DataError: a target is given.
    """
    from sklearn.datasets import load_digits  # imported here: it takes a second, and most data needs none of it

    if target:
        raise DataError(f"digits takes nothing after ':', but 'digits:{target}' was given")
    pixels, numbers = load_digits(return_X_y=True)
    images = torch.from_numpy((pixels / 16).astype(np.float32).reshape(-1, 1, 8, 8))
    labels = torch.from_numpy(numbers.astype(np.int64))
    everything = Examples(images, labels, labels)
    held_out = np.sort(np.argsort(numbers, kind="stable")[::5])
    kept = np.setdiff1d(np.arange(len(numbers)), held_out)
    return LoadedArrays("", everything.subset(kept), everything.subset(held_out), classes=10)


def idx(target: str, context: Context) -> LoadedArrays:
    """Return MNIST-format files: {train,t10k}-images-idx3-ubyte and -labels-idx1-ubyte, each plain or .gz.

    Raises:
        DataError: a file is missing, damaged or of another length than its partner.
    """
    where = _needed_folder("idx", target, context)
    splits = {}
    for split in ("train", "t10k"):
        images = read_idx(find_idx(where, f"{split}-images-idx3-ubyte"), 3)
        labels = read_idx(find_idx(where, f"{split}-labels-idx1-ubyte"), 1)
        splits[split] = images, labels
    (x_train, y_train), (x_test, y_test) = splits["train"], splits["t10k"]
    arrays = {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}
    return LoadedArrays(str(where), *examples_from_arrays(f"idx:{target}", arrays, context.options))


def npz(target: str, context: Context) -> LoadedArrays:
    """Return the arrays x_train, y_train, x_test and y_test of one .npz file; pickled objects are refused.

    Raises:
        DataError: the file is missing, damaged or no .npz, or an array is missing or of the wrong kind.
    """
    if not target:
        raise DataError("npz needs a file: npz:FILE")
    path = check_input(absolute(target, context.base), "npz", DataError)
    return LoadedArrays(str(path), *examples_from_arrays(f"npz:{target}", read_npz(path, ARRAY_NAMES), context.options))


def folder(target: str, context: Context) -> LoadedArrays:
    """Return the images of DIR/train/CLASS/ and DIR/test/CLASS/ as RGB uint8; labels number the sorted class names.

    Raises:
        DataError: a folder is missing or empty, a file is no image, or the images have several sizes.
    """
    where = _needed_folder("folder", target, context)
    classes = class_names(where / "train")
    train, test = read_split(where / "train", classes), read_split(where / "test", classes)
    return LoadedArrays(
        str(where), train.examples, test.examples, classes=len(classes), origin=train.paths, class_names=classes
    )


def captioned(target: str, context: Context) -> LoadedArrays:
    """Return the images that DIR/train/captions.csv and DIR/test/captions.csv name, as RGB uint8.

    A label is the number of an image's prompt among the different ones of both splits, sorted; the prompts are the
    names of the classes.

    Raises:
        DataError: a folder, a file or an image is missing or not understood, or the images have several sizes.
    """
    where = _needed_folder("captioned", target, context)
    (train, train_images), (test, test_images) = (read_captioned(where / split) for split in ("train", "test"))
    prompts = tuple(sorted({*train.prompts, *test.prompts}))
    numbers = {prompt: number for number, prompt in enumerate(prompts)}
    labels = [torch.tensor([numbers[prompt] for prompt in split.prompts]) for split in (train, test)]
    return LoadedArrays(
        str(where),
        Examples(train_images, labels[0], labels[0]),
        Examples(test_images, labels[1], labels[1]),
        classes=len(prompts),
        origin=train.paths,
        class_names=prompts,
        prompted=True,
    )


def _needed_folder(source: str, target: str, context: Context) -> Path:
    """Return the absolute folder that a target names."""
    if not target:
        raise DataError(f"{source} needs a folder: {source}:DIR")
    where = absolute(target, context.base)
    if not where.is_dir():
        raise DataError(f"{source}: data {'is not a folder' if where.exists() else 'not found'}: {where}")
    return where


class Customary(NamedTuple):
    """How torchvision hands out a data set, and the mean and std that its users normalise with."""

    split: str  # the constructor's argument: `train` (a flag) or `split` (a name)
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


# Means and standard deviations over all training pixels, to four digits.
TORCHVISION: Mapping[str, Customary] = {
    "MNIST": Customary("train", (0.1307,), (0.3081,)),
    "FashionMNIST": Customary("train", (0.2860,), (0.3530,)),
    "KMNIST": Customary("train", (0.1918,), (0.3483,)),
    "CIFAR10": Customary("train", (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "CIFAR100": Customary("train", (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "SVHN": Customary("split"),
    "STL10": Customary("split"),
    "USPS": Customary("train"),
}


def torchvision_dataset(target: str, context: Context) -> LoadedArrays:
    """Return one of torchvision's image classification sets that fit in memory, as uint8.

    The files lie in `root=DIR`, else in the folder that UNLEARN_AUDIT_DATA_FOLDER names, else in
    ~/.cache/unlearn-audit/data, laid out as torchvision lays them out.

    Raises:
        DataError: an unknown name, or data that is missing or damaged and may not be (or could not be) fetched.
    """
    names = {name.lower(): name for name in TORCHVISION}
    if target.lower() not in names:
        hint = "Others: as folder: or npz:, or by code of your own"
        raise DataError(unknown_name("torchvision data set", target, TORCHVISION, hint=hint))
    name = names[target.lower()]
    root = context.options.root or os.environ.get(DATA_FOLDER) or "~/.cache/unlearn-audit/data"
    read = _read_cifar if name.startswith("CIFAR") else _read_torchvision
    try:
        with contextlib.redirect_stdout(sys.stderr):  # stdout belongs to the report
            place = absolute(root, context.base)
            (train, named), (test, _) = (read(name, place, train, context.download) for train in (True, False))
    except DataError:
        raise
    except Exception as problem:  # damaged files make its readers raise in many ways
        where = f"torchvision:{name} in {absolute(root, context.base)}"
        remedy = (
            "the download failed" if context.download else "add --download to fetch it, or name its folder: ?root=DIR"
        )
        raise DataError(f"cannot load {where}: {problem}; {remedy}") from problem
    return LoadedArrays(name, train, test, mean=TORCHVISION[name].mean, std=TORCHVISION[name].std, class_names=named)


def _read_cifar(name: str, root: Path, train: bool, download: bool) -> tuple[Examples, tuple[str, ...]]:
    """Read a CIFAR set, and its classes' names, without torchvision's unpickling."""
    images, labels = read_cifar(name, root, train=train, download=download)
    return _as_examples(name, images, labels), cifar_class_names(name, root)


def _read_torchvision(name: str, root: Path, train: bool, download: bool) -> tuple[Examples, tuple[str, ...]]:
    """Let torchvision read a set, and take its arrays and its classes' names."""
    from torchvision import datasets  # imported here: it takes a second, and most data needs none of it

    argument = TORCHVISION[name].split
    split: bool | str = train if argument == "train" else ("train" if train else "test")
    dataset = getattr(datasets, name)(str(root), download=download, **{argument: split})
    images = np.asarray(dataset.data)
    channels_last = images.transpose(0, 2, 3, 1) if name in {"SVHN", "STL10"} else images
    labels = np.asarray(getattr(dataset, "targets", getattr(dataset, "labels", None)))
    return _as_examples(name, channels_last, labels), tuple(map(str, getattr(dataset, "classes", ())))


def _as_examples(name: str, images: NDArray[np.generic], labels: NDArray[np.generic]) -> Examples:
    """Return examples from N H W C (or N H W) images and their labels."""
    numbers = torch.from_numpy(label_array(f"torchvision:{name} labels", labels))
    return Examples(image_tensor(f"torchvision:{name} images", images), numbers, numbers)
