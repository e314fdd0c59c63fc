"""From a data spec to a data set: load, take subsets, change labels, measure mean and std, digest."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from unlearn_audit import catalogue
from unlearn_audit.data.arrays import first_where, label_array
from unlearn_audit.data.examples import MEASURED, Dataset, Examples, channel_moments, content_digest, means_of_pixels
from unlearn_audit.data.formats.array_files import read_npy
from unlearn_audit.data.old_draws import VERSION, old_subset
from unlearn_audit.data.sources import Context, DataSource, LoadedArrays
from unlearn_audit.data.spec import DataSpec, Options, absolute, parse_spec
from unlearn_audit.data.user_data import call_for_data
from unlearn_audit.errors import DataError
from unlearn_audit.files import check_input, sha256_of_bytes
from unlearn_audit.streams import generator

# Options that say where data lies, or what the examples show anyway.
UNDIGESTED = ("labels", "root", "drawn_by", "layout", "scale", "first_label", "size")
MOST_CLASSES = 100_000  # a larger label is an identifier, not a class


def load_data(spec: str, *, base: Path = Path("."), allow_code: bool = False, download: bool = False) -> Dataset:
    """Return the data set that a spec names.

    Args:
        spec: `digits`, `idx:DIR`, `npz:FILE`, `folder:DIR`, `captioned:DIR`, `torchvision:NAME` or
            `package.module:callable`, with options after `?` as `Options` describes them.
        base: the folder that relative paths start at.
        allow_code: whether `package.module:callable` may be imported and called.
        download: whether missing torchvision data may be fetched.

    Raises:
        DataError: the spec is malformed, or what it names is missing, damaged or unfit.
    """
    parsed = parse_spec(spec)
    loaded = _load(spec, parsed, Context(parsed.options, base, download), allow_code)
    classes = _check_classes(spec, loaded, parsed.options)
    train, test, origin = _take_subsets(spec, loaded, parsed.options)
    train, options = _change_labels(spec, train, classes=classes, options=parsed.options, base=base)
    if options.root is not None:
        options = replace(options, root=str(absolute(options.root, base)))
    described = {key: value for key, value in options.written().items() if key not in UNDIGESTED}
    prompts = {"prompts": loaded.class_names} if loaded.prompted else {}
    sha256 = content_digest(train, test, {"classes": classes, "options": described, "origin": origin, **prompts})
    canonical = str(replace(parsed, target=loaded.target, options=options))
    if loaded.mean and loaded.std:
        mean, std, said = loaded.mean, loaded.std, f"customary for {parsed.source}:{loaded.target}"
    else:
        mean, std, said = *channel_moments(loaded.train.images), MEASURED
    return Dataset(canonical, train, test, classes, mean, std, sha256, origin, loaded.class_names, said)


def old_subsets(spec: str, sha256: str, *, allow_code: bool = False) -> str:
    """Return a sentence on data whose subsets version 0.1 drew; "" where the recorded data is not of that kind.

    Args:
        spec: as it was asked for.
        sha256: digest of the data that was recorded.
        allow_code: whether `package.module:callable` may be imported and called.
    """
    parsed = parse_spec(spec)
    if parsed.options.drawn_by is not None or not (parsed.options.train or parsed.options.test):
        return ""
    before = replace(parsed, options=replace(parsed.options, drawn_by=VERSION))
    if load_data(str(before), allow_code=allow_code).sha256 != sha256:
        return ""
    return f"version {VERSION} drew other examples for train= and test=; to have those, write the data as '{before}'"


def _load(spec: str, parsed: DataSpec, context: Context, allow_code: bool) -> LoadedArrays:
    """Ask the source, and hold its answer to what every data set must be."""
    if parsed.code and not allow_code:
        raise DataError(
            f"data spec '{spec}' would run code, which only a flag or a named config may ask for: "
            "give it with --data, or in a config given with --config"
        )
    if parsed.code:
        loaded = call_for_data(parsed.source, parsed.target, parsed.options)
    else:
        source: DataSource = catalogue.load("data source", catalogue.DATA_SOURCES, parsed.source)
        loaded = source(parsed.target, context)
    _check_images(spec, loaded)
    return loaded if parsed.options.size is None else _made_smaller(spec, loaded, parsed.options.size)


def _made_smaller(spec: str, loaded: LoadedArrays, size: int) -> LoadedArrays:
    """Return the data with images of `size` x `size`; what is customary for the larger ones does not hold for them."""
    height, width = loaded.train.images.shape[2:]
    if height != width or size > height:
        raise DataError(f"data spec '{spec}': size={size} makes square images smaller, and these are {height}x{width}")
    smaller = [replace(part, images=means_of_pixels(part.images, size)) for part in (loaded.train, loaded.test)]
    return replace(loaded, train=smaller[0], test=smaller[1], mean=None, std=None)


def _check_images(spec: str, loaded: LoadedArrays) -> None:
    """Refuse an empty split, images without pixels, splits that differ in shape or type, and non-finite pixels."""
    for name, part in (("training", loaded.train), ("test", loaded.test)):
        if len(part) == 0:
            raise DataError(f"data '{spec}': the {name} set is empty")
        if part.images[0].numel() == 0:
            raise DataError(f"data '{spec}': images of the {name} set have no pixels")
        finite = torch.isfinite(part.images).flatten(1).all(dim=1) if part.images.is_floating_point() else None
        if finite is not None and not finite.all():
            raise DataError(f"data '{spec}': {name} image {int((~finite).nonzero()[0])} has NaN or infinite pixels")
    train, test = loaded.train.images, loaded.test.images
    if train.shape[1:] != test.shape[1:] or train.dtype != test.dtype:
        shapes = " and ".join(f"{'x'.join(map(str, images.shape[1:]))} {images.dtype}" for images in (train, test))
        raise DataError(f"data '{spec}': training and test images differ in size or type: {shapes}")


def _check_classes(spec: str, loaded: LoadedArrays, options: Options) -> int:
    """Return the number of classes; refuse labels outside of them, and numbers that may mean something else."""
    train = loaded.train.true_labels
    classes = loaded.classes if loaded.classes is not None else int(train.max()) + 1
    if loaded.classes is not None and options.first_label is not None:
        raise DataError(f"data spec '{spec}': first_label= has no effect, since the data says how many classes it has")
    if classes > MOST_CLASSES:
        raise DataError(f"data '{spec}': label {classes - 1} is out of range; labels number classes from 0")
    if not loaded.prompted and (classes < 2 or len(np.unique(train.numpy())) < 2):
        raise DataError(f"data '{spec}' has fewer than 2 classes")
    if loaded.classes is None and options.first_label is None:
        _check_numbering(spec, loaded)
    for name, part in (("training", loaded.train), ("test", loaded.test)):
        for labels in (part.labels, part.true_labels):
            _check_range(f"data '{spec}': {name} label", labels.numpy(), classes)
    return classes


def _check_numbering(spec: str, loaded: LoadedArrays) -> None:
    """Refuse labels that do not begin at 0, or leave most numbers out: they may be counted in another way."""
    seen = np.union1d(loaded.train.true_labels.numpy(), loaded.test.true_labels.numpy())
    least, most = int(seen[0]), int(seen[-1])
    if least > 0:
        raise DataError(
            f"data '{spec}': labels go from {least} to {most}, and none is 0; say whether they count classes from "
            f"{least} (first_label={least}: {most - least + 1} classes) or class 0 has no examples (first_label=0: "
            f"{most + 1} classes), as in npz:FILE?first_label={least}"
        )
    if 2 * len(seen) <= most:
        raise DataError(
            f"data '{spec}': {len(seen)} different labels between 0 and {most}; if they are identifiers, number them: "
            f"numpy.unique(y, return_inverse=True)[1]; if {most + 1} classes are right, say first_label=0"
        )


def _check_range(where: str, labels: NDArray[np.int64], classes: int) -> None:
    """Refuse a label outside 0 .. classes - 1."""
    bad = first_where((labels < 0) | (labels >= classes))
    if bad is not None:
        raise DataError(f"{where} {labels[bad]} (entry {bad}) is out of range; training labels are 0-{classes - 1}")


def _take_subsets(
    spec: str, loaded: LoadedArrays, options: Options
) -> tuple[Examples, Examples, tuple[str, ...] | None]:
    """Return both splits after `train=` and `test=`, and the training files that are left."""
    train = _subset_rows(spec, "train", wanted=options.train, size=len(loaded.train), options=options)
    test = _subset_rows(spec, "test", wanted=options.test, size=len(loaded.test), options=options)
    kept = loaded.train if train is None else loaded.train.subset(train)
    if not loaded.prompted and len(np.unique(kept.labels.numpy())) < 2:
        raise DataError(f"data spec '{spec}' leaves fewer than 2 classes to train on; take a larger train=")
    origin = loaded.origin
    if origin is not None and train is not None:
        origin = tuple(origin[row] for row in train)
    return kept, loaded.test if test is None else loaded.test.subset(test), origin


def _subset_rows(spec: str, split: str, *, wanted: int | None, size: int, options: Options) -> NDArray[np.int64] | None:
    """Return the sorted first `wanted` rows of a permutation; the two splits draw from different streams."""
    if wanted is None:
        return None
    if wanted > size:
        raise DataError(f"data spec '{spec}': {split}={wanted} is more than the {size} examples there are")
    if options.drawn_by is not None:
        return old_subset(split, size, wanted, options.subset_seed)
    stream = generator("training subset" if split == "train" else "test subset", options.subset_seed)
    return np.sort(stream.permutation(size)[:wanted]).astype(np.int64)


def _change_labels(
    spec: str, train: Examples, *, classes: int, options: Options, base: Path
) -> tuple[Examples, Options]:
    """Apply `mislabel=` or `labels=`; return the examples and the options as they are to be recorded."""
    if options.mislabel is not None:
        return _mislabel(spec, train, classes=classes, fraction=options.mislabel, seed=options.seed), options
    if options.labels is None:
        return train, options
    path = absolute(options.labels, base)
    labels = _read_labels(path, len(train)) - (options.first_label or 0)  # they count as those of the data do
    _check_range(f"{path}: label", labels, classes)
    digest = sha256_of_bytes(labels.astype("<i8").tobytes())
    if options.labels_sha256 not in (None, digest):
        raise DataError(f"{path} holds other labels (sha256 {digest[:12]}...) than the data spec '{spec}' records")
    changed = replace(train, labels=torch.from_numpy(labels))
    return changed, replace(options, labels=str(path), labels_sha256=digest)


def _mislabel(spec: str, train: Examples, *, classes: int, fraction: float, seed: int) -> Examples:
    """Give a seeded choice of examples a label uniform over the classes that are not the true one."""
    count = round(fraction * len(train))
    if count == 0:
        raise DataError(f"data spec '{spec}': mislabel={fraction} changes none of {len(train)} examples")
    rng = generator("label changes", seed)
    rows = np.sort(rng.choice(len(train), size=count, replace=False))
    labels = train.labels.numpy().copy()
    labels[rows] = (train.true_labels.numpy()[rows] + rng.integers(1, classes, size=count)) % classes
    return replace(train, labels=torch.from_numpy(labels))


def _read_labels(path: Path, size: int) -> NDArray[np.int64]:
    """Return the labels of a .npy file, one per training example."""
    check_input(path, "label file", DataError)
    labels = label_array(str(path), read_npy("label file", path))
    if len(labels) != size:
        raise DataError(f"{path} has {len(labels)} labels, but there are {size} training examples")
    return labels
