"""Data sources, options, label changes, mean and std, digests; a refusal for each thing that may be wrong."""

import gzip
import hashlib
import io
import os
import pickle
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import unlearn_audit.data
from unlearn_audit import catalogue
from unlearn_audit.data import Dataset, Examples, Transform, is_code, load_data
from unlearn_audit.data.examples import channel_moments
from unlearn_audit.data.spec import parse_spec
from unlearn_audit.errors import DataError

SHARED = Path(os.environ.get("UNLEARN_AUDIT_TEST_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
FASHION = SHARED / "fashion_mnist"


def idx_bytes(array: NDArray[np.uint8]) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_idx(folder: Path, *, zipped: bool = False, seed: int = 0) -> dict[str, NDArray[np.uint8]]:
    rng = np.random.default_rng(seed)
    arrays = {}
    for split, size in (("train", 30), ("t10k", 12)):
        arrays[f"{split}-images-idx3-ubyte"] = rng.integers(0, 256, (size, 5, 4), dtype=np.uint8)
        arrays[f"{split}-labels-idx1-ubyte"] = (np.arange(size) % 3).astype(np.uint8)
    for name, array in arrays.items():
        data = idx_bytes(array)
        (folder / (f"{name}.gz" if zipped else name)).write_bytes(gzip.compress(data) if zipped else data)
    return arrays


def small_arrays(**changes: object) -> dict[str, object]:
    rng = np.random.default_rng(1)
    arrays: dict[str, object] = {
        "x_train": rng.integers(0, 256, (20, 6, 5, 3), dtype=np.uint8),
        "y_train": np.arange(20) % 4,
        "x_test": rng.integers(0, 256, (8, 6, 5, 3), dtype=np.uint8),
        "y_test": np.arange(8) % 4,
    }
    return {**arrays, **changes}


def write_npz(path: Path, **changes: object) -> str:
    np.savez(path, **{name: value for name, value in small_arrays(**changes).items() if value is not None})  # type: ignore[arg-type]
    return f"npz:{path}"


def write_folder(where: Path, *, size: tuple[int, int] = (4, 3)) -> Path:
    rng = np.random.default_rng(2)
    for split, names in (("train", ("b.png", "a.png", "c.PNG")), ("test", ("z.png",))):
        for label in ("cat", "cat-big", "dog"):
            (where / split / label).mkdir(parents=True)
            for name in names:
                pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
                Image.fromarray(pixels).save(where / split / label / name)
    return where


def refusal(spec: str, *, base: Path = Path("."), **kwargs: bool) -> str:
    with pytest.raises(DataError) as caught:
        load_data(spec, base=base, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message


# What a data set is


def test_public_names_exist() -> None:
    assert all(hasattr(unlearn_audit.data, name) for name in unlearn_audit.data.__all__)


def test_every_source_of_the_catalogue_can_be_loaded() -> None:
    for name in catalogue.DATA_SOURCES:
        assert callable(catalogue.load("data source", catalogue.DATA_SOURCES, name))


def test_examples_refuse_tensors_that_do_not_fit_together() -> None:
    images, labels = torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64)
    for bad in ((images.double(), labels, labels), (images[0], labels, labels), (images, labels[:2], labels)):
        with pytest.raises(DataError):
            Examples(*bad)
    with pytest.raises(DataError, match="int64"):
        Examples(images, labels.int(), labels)


def test_moments_of_bytes_match_float64_numpy() -> None:
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (50, 3, 7, 5), dtype=np.uint8))
    mean, std = channel_moments(images)
    scaled = images.numpy().astype(np.float64) / 255
    np.testing.assert_allclose(mean, scaled.mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std, scaled.std(axis=(0, 2, 3)), rtol=1e-12)


def test_moments_of_floats_match_float64_numpy_over_several_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unlearn_audit.data.examples.CHUNK", 100)
    images = torch.from_numpy(np.random.default_rng(0).normal(5, 2, (50, 2, 3, 3)).astype(np.float32))
    mean, std = channel_moments(images)
    wide = images.numpy().astype(np.float64)
    np.testing.assert_allclose(mean, wide.mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std, wide.std(axis=(0, 2, 3)), rtol=1e-12)


def test_a_constant_channel_is_centred_and_left_alone() -> None:
    assert channel_moments(torch.full((4, 1, 2, 2), 51, dtype=torch.uint8)) == ((0.2,), (1.0,))


def test_transform_scales_bytes_and_takes_floats_as_they_stand() -> None:
    transform = Transform((0.5, 0.0), (0.5, 2.0))
    images = torch.tensor([[[[255]], [[51]]]], dtype=torch.uint8)
    torch.testing.assert_close(transform(images), torch.tensor([[[[1.0]], [[0.1]]]]))
    torch.testing.assert_close(transform(torch.ones(1, 2, 1, 1)), torch.tensor([[[[1.0]], [[0.5]]]]))
    assert Transform((0.5,), (0.5,))(torch.zeros(2, 3, 1, 1)).unique().tolist() == [-1.0]


@pytest.mark.parametrize(("mean", "std"), [((0.5,), (0.0,)), ((float("nan"),), (1.0,)), ((), (1.0,))])
def test_transform_refuses_numbers_that_do_not_normalise(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    with pytest.raises(DataError):
        Transform(mean, std)


def test_transform_refuses_another_number_of_channels() -> None:
    with pytest.raises(DataError, match="2 entries, but images have 3 channels"):
        Transform((0.5, 0.5), (1.0, 1.0))(torch.zeros(1, 3, 2, 2))


# digits and options


def test_digits_are_split_once_and_for_all() -> None:
    data = load_data("digits")
    assert (len(data.train), len(data.test), data.classes, data.spec) == (1437, 360, 10, "digits")
    assert data.train.images.shape[1:] == (1, 8, 8)
    assert data.train.images.dtype == torch.float32
    assert float(data.train.images.max()) == 1.0
    shares = np.bincount(data.test.labels.numpy()) / np.bincount(
        torch.cat([data.train.labels, data.test.labels]).numpy()
    )
    assert np.abs(shares - 0.2).max() < 0.01
    assert len(data.changed) == 0
    np.testing.assert_allclose(data.mean[0], data.train.images.double().mean().item(), rtol=1e-9)


def test_mislabelling_changes_exactly_the_fraction_and_never_keeps_the_true_label() -> None:
    data = load_data("digits?mislabel=0.1&seed=3")
    assert len(data.changed) == round(0.1 * 1437) == 144
    rows = torch.from_numpy(data.changed)
    assert (data.train.labels[rows] != data.train.true_labels[rows]).all()
    assert torch.equal(data.train.true_labels, load_data("digits").train.labels)
    assert torch.equal(data.test.labels, data.test.true_labels)
    assert int(data.train.labels.min()) >= 0
    assert int(data.train.labels.max()) <= 9


def test_wrong_labels_are_uniform_over_the_other_classes() -> None:
    data = load_data("digits?mislabel=1")
    assert len(data.changed) == 1437
    steps = np.bincount(((data.train.labels - data.train.true_labels) % 10).numpy(), minlength=10)
    assert steps[0] == 0
    assert ((steps[1:] - 1437 / 9) ** 2 / (1437 / 9)).sum() < 26.1  # chi-squared with 8 degrees of freedom, p = .001


def test_same_spec_same_data_and_another_seed_another_digest() -> None:
    first, again, other = (load_data(f"digits?mislabel=0.1{seed}") for seed in ("", "&seed=0", "&seed=1"))
    assert first.spec == again.spec == "digits?mislabel=0.1&seed=0"
    assert first.sha256 == again.sha256 != other.sha256
    assert torch.equal(first.train.labels, again.train.labels)


def test_subsets_keep_source_order_and_come_before_label_changes() -> None:
    data = load_data("digits?train=100&test=50&mislabel=0.1")
    assert (len(data.train), len(data.test), len(data.changed)) == (100, 50, 10)
    assert data.spec == "digits?train=100&test=50&subset_seed=0&mislabel=0.1&seed=0"
    whole = {image.tobytes(): row for row, image in enumerate(load_data("digits").train.images.numpy())}
    rows = [whole[image.tobytes()] for image in data.train.images.numpy()]
    assert rows == sorted(rows)
    other = load_data("digits?train=100&subset_seed=1")
    assert not torch.equal(other.train.images, data.train.images)
    all_of_it = load_data("digits")  # a subset is normalised as the whole is
    assert (data.mean, data.std) == (all_of_it.mean, all_of_it.std)


def test_smaller_images_have_the_means_of_the_pixels_they_stand_for() -> None:
    whole, small = load_data("digits"), load_data("digits?size=4&train=100")
    assert small.spec == "digits?size=4&train=100&subset_seed=0"
    rows = load_data("digits?train=100").train.images
    means = rows.double().reshape(100, 1, 4, 2, 4, 2).mean(dim=(3, 5))
    wanted = means.round().to(torch.uint8) if rows.dtype == torch.uint8 else means.float()
    assert torch.equal(small.train.images, wanted)
    assert small.test.images.shape == (360, 1, 4, 4)
    assert small.mean == pytest.approx(whole.mean, abs=1e-2)
    assert small.std[0] < whole.std[0]


def test_the_canonical_spec_loads_the_same_data(tmp_path: Path) -> None:
    write_npz(tmp_path / "a.npz")
    np.save(tmp_path / "labels.npy", np.zeros(20, dtype=np.int32))
    data = load_data("npz:a.npz?labels=labels.npy", base=tmp_path)
    assert str(tmp_path / "a.npz") in data.spec
    assert load_data(data.spec).sha256 == data.sha256
    assert load_data(data.spec).spec == data.spec


def test_paths_may_hold_the_characters_of_a_spec(tmp_path: Path) -> None:
    where = tmp_path / "a&b?c%26"
    where.mkdir()
    write_npz(where / "x.npz")
    spec = "npz:" + str(where / "x.npz").replace("%26", "%2526").replace("&", "%26").replace("?", "%3F")
    data = load_data(spec)
    assert load_data(data.spec).sha256 == data.sha256
    assert parse_spec("npz:100%/x.npz").target == "100%/x.npz"


def test_label_files_change_labels_and_keep_the_true_ones(tmp_path: Path) -> None:
    labels = np.arange(20) % 4
    labels[[3, 7]] = 0
    spec = write_npz(tmp_path / "a.npz")
    np.save(tmp_path / "labels.npy", labels)
    data = load_data(f"{spec}?labels={tmp_path / 'labels.npy'}")
    assert data.changed.tolist() == [3, 7]
    assert hashlib.sha256(labels.astype("<i8").tobytes()).hexdigest() in data.spec
    np.save(tmp_path / "labels.npy", labels % 2)
    assert "holds other labels" in refusal(data.spec)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (np.zeros(19, dtype=np.int64), "19 labels, but there are 20"),
        (np.full(20, 4), r"label 4 (entry 0) is out of range"),
        (np.full(20, -1), "negative label (-1)"),
        (np.zeros(20), "float64"),
        (np.array([None] * 20, dtype=object), "Object arrays cannot be loaded"),
    ],
)
def test_unfit_label_files_are_refused(tmp_path: Path, labels: NDArray[np.generic], expected: str) -> None:
    np.save(tmp_path / "labels.npy", labels, allow_pickle=True)
    assert expected in refusal(f"{write_npz(tmp_path / 'a.npz')}?labels={tmp_path / 'labels.npy'}")


def test_digest_changes_with_any_change(tmp_path: Path) -> None:
    base = small_arrays()
    digests = [load_data(write_npz(tmp_path / "same.npz")).sha256, load_data(write_npz(tmp_path / "copy.npz")).sha256]
    assert digests[0] == digests[1]
    for name, value in base.items():
        changed = np.array(value)
        changed.flat[0] = changed.flat[0] ^ 1
        digests.append(load_data(write_npz(tmp_path / f"{name}.npz", **{name: changed})).sha256)
    assert len(set(digests)) == 5


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("digit", "did you mean 'digits'?"),
        ("torchvison:MNIST", "did you mean 'torchvision'?"),
        ("", "unknown data source ''"),
        ("digits:8x8", "takes nothing after ':'"),
        ("digits?mislable=0.1", "did you mean 'mislabel'?"),
        ("digits?", "'' is not OPTION=VALUE"),
        ("digits?train", "'train' is not OPTION=VALUE"),
        ("digits?train=10&train=20", "given twice"),
        ("digits?train=0", "integer of at least 1"),
        ("digits?train=1.5", "integer of at least 1"),
        ("digits?train=1438", "more than the 1437 examples"),
        ("digits?test=361", "more than the 360 examples"),
        ("digits?train=1", "fewer than 2 classes"),
        ("digits?mislabel=0", "above 0 and at most 1"),
        ("digits?mislabel=1.1", "above 0 and at most 1"),
        ("digits?mislabel=nan", "above 0 and at most 1"),
        ("digits?mislabel=0.0001", "changes none"),
        ("digits?mislabel=0.1&seed=-1", "integer of at least 0"),
        ("digits?seed=1", "no effect without mislabel="),
        ("digits?subset_seed=1", "no effect without train= or test="),
        ("digits?labels_sha256=00", "no effect without labels="),
        ("digits?mislabel=0.1&labels=x.npy", "give one of them"),
        ("digits?labels=absent.npy", "label file not found"),
        ("digits?size=9", "makes square images smaller, and these are 8x8"),
        ("digits?size=1", "integer of at least 2"),
        ("digits?root=somewhere", "torchvision: data only"),
        ("idx", "needs a folder: idx:DIR"),
        ("folder:", "needs a folder: folder:DIR"),
        ("npz:", "needs a file: npz:FILE"),
        ("idx:absent", "not found"),
        ("npz:absent.npz", "not found"),
        ("folder:absent", "not found"),
        ("torchvision:CIFAR-10", "did you mean 'CIFAR10'?"),
        ("torchvision:ImageNet", "unknown torchvision data set"),
    ],
)
def test_malformed_specs_are_refused(tmp_path: Path, spec: str, expected: str) -> None:
    assert expected in refusal(spec, base=tmp_path)


# idx


@pytest.mark.parametrize("zipped", [False, True])
def test_idx_files_come_back_as_they_were_written(tmp_path: Path, zipped: bool) -> None:
    arrays = write_idx(tmp_path, zipped=zipped)
    data = load_data(f"idx:{tmp_path.name}", base=tmp_path.parent)
    assert data.spec == f"idx:{tmp_path}"
    assert data.train.images.shape == (30, 1, 5, 4)
    np.testing.assert_array_equal(data.train.images[:, 0].numpy(), arrays["train-images-idx3-ubyte"])
    np.testing.assert_array_equal(data.test.labels.numpy(), arrays["t10k-labels-idx1-ubyte"])
    assert data.classes == 3


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("train-images-idx3-ubyte", lambda data: data[:-1], "truncated: 599 of 600 bytes"),
        ("train-images-idx3-ubyte", lambda data: data + b"x", "more than the 600 bytes"),
        ("train-images-idx3-ubyte", lambda data: data[:9], "within the header"),
        ("train-images-idx3-ubyte", lambda data: b"\x00\x00\x0d\x03" + data[4:], "starts with 00000d03"),
        ("train-images-idx3-ubyte", lambda data: b"\x00\x00\x08\x03" + b"\xff" * 12, "truncated or damaged"),
        ("train-images-idx3-ubyte", lambda data: b"", "empty (0 bytes)"),
        ("train-images-idx3-ubyte", lambda data: gzip.compress(data)[:-20], "cannot read idx file"),
        ("train-images-idx3-ubyte", lambda data: b"\x1f\x8b" + b"\x00" * 30, "cannot read idx file"),
        ("train-labels-idx1-ubyte", lambda data: idx_bytes(np.zeros(29, np.uint8)), "30 images, but"),
        ("train-labels-idx1-ubyte", lambda data: idx_bytes(np.zeros(30, np.uint8)), "fewer than 2 classes"),
        (
            "t10k-labels-idx1-ubyte",
            lambda data: idx_bytes(np.full(12, 3, np.uint8)),
            "label 3 (entry 0) is out of range",
        ),
        ("t10k-images-idx3-ubyte", lambda data: idx_bytes(np.zeros((12, 5, 5), np.uint8)), "differ in size"),
    ],
)
def test_damaged_idx_files_are_refused(tmp_path: Path, name: str, content: object, expected: str) -> None:
    write_idx(tmp_path)
    path = tmp_path / name
    path.write_bytes(content(path.read_bytes()))  # type: ignore[operator]
    assert expected in refusal(f"idx:{tmp_path}")


def test_idx_needs_all_four_files_and_a_folder(tmp_path: Path) -> None:
    write_idx(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    assert "t10k-labels-idx1-ubyte" in refusal(f"idx:{tmp_path}")
    assert "is not a folder" in refusal(f"idx:{tmp_path / 'train-labels-idx1-ubyte'}")


def test_idx_files_that_are_there_plain_and_zipped_must_be_the_same(tmp_path: Path) -> None:
    write_idx(tmp_path)
    path = tmp_path / "train-labels-idx1-ubyte"
    zipped = path.with_name(f"{path.name}.gz")
    zipped.write_bytes(gzip.compress(path.read_bytes()))
    assert len(load_data(f"idx:{tmp_path}").train) == 30
    for other in (path.read_bytes()[:-1] + b"\x02", path.read_bytes() + b"x", path.read_bytes()[:-1]):
        zipped.write_bytes(gzip.compress(other))
        if other != path.read_bytes():
            assert "are different data; leave the one that is meant" in refusal(f"idx:{tmp_path}")


def test_idx_empty_split_is_refused(tmp_path: Path) -> None:
    write_idx(tmp_path)
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx_bytes(np.zeros((0, 5, 4), np.uint8)))
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx_bytes(np.zeros(0, np.uint8)))
    assert "the test set is empty" in refusal(f"idx:{tmp_path}")


@pytest.mark.skipif(not FASHION.is_dir(), reason=f"Fashion-MNIST is not in {FASHION}")
def test_fashion_mnist_is_read_as_published() -> None:
    data = load_data(f"idx:{FASHION}?train=10000")
    assert (len(data.train), len(data.test), data.classes) == (10_000, 10_000, 10)
    assert data.test.labels[:10].tolist() == [9, 2, 1, 1, 6, 1, 4, 6, 5, 7]
    assert abs(data.mean[0] - 0.286) < 0.003
    assert abs(data.std[0] - 0.353) < 0.003


# npz


def test_npz_bytes_become_channels_first(tmp_path: Path) -> None:
    data = load_data(write_npz(tmp_path / "a.npz"))
    expected = np.asarray(small_arrays()["x_train"]).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(data.train.images.numpy(), expected)
    assert data.train.images.dtype == torch.uint8


def test_npz_grey_and_float_images(tmp_path: Path) -> None:
    grey = np.zeros((20, 6, 5), np.uint8), np.zeros((8, 6, 5), np.uint8)
    assert load_data(write_npz(tmp_path / "g.npz", x_train=grey[0], x_test=grey[1])).train.images.shape == (20, 1, 6, 5)
    real = np.random.default_rng(0).normal(size=(20, 2, 6, 5)), np.zeros((8, 2, 6, 5))
    data = load_data(write_npz(tmp_path / "f.npz", x_train=real[0], x_test=real[1]))
    np.testing.assert_array_equal(data.train.images.numpy(), real[0].astype(np.float32))


NAN = np.zeros((20, 1, 6, 5), np.float32)
NAN[4, 0, 2, 2] = np.nan


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"y_test": None}, "lacks y_test"),
        ({"x_train": NAN}, "NaN or infinite pixels, first in image 4"),
        ({"x_train": np.full((20, 1, 6, 5), 1e300)}, "NaN or infinite pixels, first in image 0"),
        ({"x_train": np.zeros((20, 3, 6, 5), np.uint8)}, "looks like N C H W"),
        ({"x_train": np.zeros((20, 6, 5), np.float32)}, "images are uint8"),
        ({"x_train": np.zeros((20, 6, 5, 3), np.int64)}, "images are uint8"),
        ({"x_train": np.array([None] * 20, dtype=object)}, "cannot read npz file"),
        ({"x_train": np.zeros((19, 6, 5, 3), np.uint8)}, "19 images, but"),
        ({"x_train": np.zeros((0, 6, 5, 3), np.uint8), "y_train": np.zeros(0, int)}, "training set is empty"),
        ({"x_train": np.zeros((0, 3, 6, 5)), "y_train": np.zeros(0, int)}, "training set is empty"),
        ({"x_train": np.zeros((20, 0, 5, 3), np.uint8), "x_test": np.zeros((8, 0, 5, 3), np.uint8)}, "no pixels"),
        ({"x_test": np.zeros((8, 6, 6, 3), np.uint8)}, "differ in size or type"),
        ({"y_train": np.arange(20) % 4 - 1}, "negative label (-1) at entry 0"),
        ({"y_train": np.arange(20) / 4}, "float64"),
        ({"y_train": np.ones((20, 2), int)}, "labels are integers, one per example"),
        ({"y_train": np.zeros(20, int)}, "fewer than 2 classes"),
        ({"y_train": np.arange(20) * 10**6}, "label 19000000 is out of range"),
        ({"y_test": np.full(8, 9)}, "test label 9 (entry 0) is out of range"),
    ],
)
def test_unfit_npz_arrays_are_refused(tmp_path: Path, changes: dict[str, object], expected: str) -> None:
    assert expected in refusal(write_npz(tmp_path / "a.npz", **changes))


def test_files_that_are_no_npz_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    whole = io.BytesIO()
    np.savez(whole, **small_arrays())  # type: ignore[arg-type]
    path.write_bytes(whole.getvalue()[:-100])
    assert "cannot read npz file" in refusal(f"npz:{path}")
    path.write_bytes(b"")
    assert "empty (0 bytes)" in refusal(f"npz:{path}")
    assert "is a directory" in refusal(f"npz:{tmp_path}")
    np.save(tmp_path / "single.npy", np.arange(3))
    assert "single array" in refusal(f"npz:{tmp_path / 'single.npy'}")
    with zipfile.ZipFile(path, "w") as archive:
        for name in small_arrays():
            archive.writestr(f"{name}.npy", b"not an array")
    assert "x_train is no array" in refusal(f"npz:{path}")


class Touch:
    """Executed by an unpickler, it leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


def test_a_pickle_in_place_of_an_npz_is_not_executed(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(pickle.dumps(Touch(tmp_path / "executed")))
    assert "cannot read npz file" in refusal(f"npz:{tmp_path / 'a.npz'}")
    write_npz(tmp_path / "b.npz", x_train=np.array([Touch(tmp_path / "executed")] * 20, dtype=object))
    assert "cannot read npz file" in refusal(f"npz:{tmp_path / 'b.npz'}")
    assert not (tmp_path / "executed").exists()


# folder


def test_folders_are_read_in_the_order_of_their_paths(tmp_path: Path) -> None:
    data = load_data(f"folder:{write_folder(tmp_path)}")
    expected = tuple(f"{label}/{name}" for label in ("cat", "cat-big", "dog") for name in ("a.png", "b.png", "c.PNG"))
    assert data.origin == expected
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert data.class_names == ("cat", "cat-big", "dog")
    assert data.class_text(2) == "class 2 (dog)"
    assert data.train.images.shape == (9, 3, 3, 4)
    with Image.open(tmp_path / "train" / "dog" / "b.png") as image:
        np.testing.assert_array_equal(data.train.images[7].numpy(), np.asarray(image).transpose(2, 0, 1))


def test_folder_order_is_that_of_torchvision(tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder

    theirs = ImageFolder(str(write_folder(tmp_path) / "train"))
    paths = tuple(Path(path).relative_to(tmp_path / "train").as_posix() for path, _ in theirs.samples)
    assert load_data(f"folder:{tmp_path}").origin == paths


def test_folder_digest_follows_names_and_subsets_follow_paths(tmp_path: Path) -> None:
    before = load_data(f"folder:{write_folder(tmp_path)}")
    kept = load_data(f"folder:{tmp_path}?train=5")
    assert kept.origin is not None
    assert before.origin is not None
    for row, name in enumerate(kept.origin):
        assert torch.equal(kept.train.images[row], before.train.images[before.origin.index(name)])
    (tmp_path / "train" / "dog" / "b.png").rename(tmp_path / "train" / "dog" / "bb.png")
    assert load_data(f"folder:{tmp_path}").sha256 != before.sha256


def test_unfit_folders_are_refused(tmp_path: Path) -> None:
    where = write_folder(tmp_path)
    stray = where / "train" / "cat" / "stray.png"
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(stray)
    assert "stray.png is 9x9, but the first image is 4x3; resize to one size" in refusal(f"folder:{where}")
    stray.write_bytes((where / "train" / "cat" / "a.png").read_bytes()[:60])
    assert "cannot read image" in refusal(f"folder:{where}")
    stray.write_bytes(b"no image at all")
    assert "cannot read image" in refusal(f"folder:{where}")
    Image.fromarray(np.zeros((3, 4), np.uint16)).save(stray)
    assert "8 bits per channel" in refusal(f"folder:{where}")
    stray.unlink()
    (where / "test" / "horse").mkdir()
    assert "is not a class of the training folder" in refusal(f"folder:{where}")
    (where / "test" / "horse").rmdir()
    (where / "train" / "empty").mkdir()
    assert "holds no images" in refusal(f"folder:{where}")
    (where / "train" / "empty").rmdir()
    (where / "test").rename(where / "validation")
    assert "folder not found" in refusal(f"folder:{where}")


@pytest.mark.parametrize("side", [6000, 60_000])
def test_decompression_bombs_are_refused_before_they_are_decoded(tmp_path: Path, side: int) -> None:
    where = write_folder(tmp_path)
    header = b"P6\n" + f"{side} {side}\n255\n".encode()
    (where / "train" / "cat" / "a.ppm").write_bytes(header + b"\x00" * 100)
    (where / "train" / "cat" / "a.png").unlink()
    message = refusal(f"folder:{where}")
    assert "pixels" in message


# torchvision


def test_torchvision_reads_what_lies_in_root(tmp_path: Path) -> None:
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    arrays = write_idx(raw)
    data = load_data("torchvision:fashionmnist?root=.", base=tmp_path)
    assert data.spec == f"torchvision:FashionMNIST?root={tmp_path}"
    np.testing.assert_array_equal(data.train.images[:, 0].numpy(), arrays["train-images-idx3-ubyte"])
    assert (data.mean, data.std) == ((0.2860,), (0.3530,))
    assert (len(data.class_names), data.class_names[3]) == (10, "Dress")


@pytest.mark.parametrize("name", ["MNIST", "CIFAR10", "CIFAR100", "SVHN", "STL10"])
def test_missing_torchvision_data_names_the_flag(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNLEARN_AUDIT_DATA_FOLDER", str(tmp_path / "nowhere"))
    message = refusal(f"torchvision:{name}")
    assert "--download" in message
    assert str(tmp_path / "nowhere") in message
    assert not (tmp_path / "nowhere").exists()


def write_cifar(root: Path, monkeypatch: pytest.MonkeyPatch, payload: object = None) -> NDArray[np.uint8]:
    from torchvision.datasets import CIFAR10

    (root / CIFAR10.base_folder).mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (6, 3072), dtype=np.uint8)
    listed = {}
    for name in ("data_batch_1", "test_batch"):
        batch = payload if payload is not None else {"data": images, "labels": [0, 1, 2, 0, 1, 2]}
        data = pickle.dumps(batch, protocol=2)
        (root / CIFAR10.base_folder / name).write_bytes(data)
        listed[name] = [name, hashlib.md5(data).hexdigest()]
    monkeypatch.setattr(CIFAR10, "train_list", [listed["data_batch_1"]])
    monkeypatch.setattr(CIFAR10, "test_list", [listed["test_batch"]])
    names = pickle.dumps({"label_names": ["airplane", "automobile", "bird"]}, protocol=2)
    (root / CIFAR10.base_folder / "batches.meta").write_bytes(names)
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": hashlib.md5(names).hexdigest()})
    return images


def test_cifar_batches_are_read_without_running_their_pickles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = write_cifar(tmp_path, monkeypatch)
    data = load_data(f"torchvision:CIFAR10?root={tmp_path}")
    np.testing.assert_array_equal(data.train.images.numpy(), images.reshape(6, 3, 32, 32))
    assert data.train.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert data.class_names == ("airplane", "automobile", "bird")
    (tmp_path / "cifar-10-batches-py" / "batches.meta").write_bytes(pickle.dumps(Touch(tmp_path / "executed")))
    assert load_data(f"torchvision:CIFAR10?root={tmp_path}").class_names == ()
    assert not (tmp_path / "executed").exists()


def test_cifar_batches_that_name_code_or_were_altered_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cifar(tmp_path / "code", monkeypatch, Touch(tmp_path / "executed"))
    assert "refused" in refusal(f"torchvision:CIFAR10?root={tmp_path / 'code'}")
    write_cifar(tmp_path / "altered", monkeypatch)
    with (tmp_path / "altered" / "cifar-10-batches-py" / "test_batch").open("ab") as stream:
        stream.write(b"x")
    assert "is damaged" in refusal(f"torchvision:CIFAR10?root={tmp_path / 'altered'}")
    assert not (tmp_path / "executed").exists()


# code of the user's own


def test_what_counts_as_code() -> None:
    assert is_code("pkg.module:load")
    assert is_code("mine:load?train=3")
    for spec in ("digits", "npz:a.npz", "idx:digits", "torchvision:MNIST", "torchvison:MNIST", "a b:c", "mine:a.npz"):
        assert not is_code(spec)


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "own_data.py").write_text(
        "import numpy as np\n"
        "from unlearn_audit.data import load_data\n"
        "def arrays():\n"
        "    print('chatter')\n"
        "    x = np.zeros((8, 4, 4), np.uint8); y = np.arange(8) % 2\n"
        "    return {'x_train': x, 'y_train': y, 'x_test': x, 'y_test': y}\n"
        "def dataset(): return load_data('digits?mislabel=0.1')\n"
        "def broken(): raise KeyError('no such thing')\n"
        "def ragged(): return {'x_train': [[1], [1, 2]], 'y_train': [], 'x_test': [], 'y_test': []}\n"
        "def nothing(): return None\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "own_data", raising=False)
    return tmp_path


@pytest.mark.usefixtures("own_module")
def test_code_runs_only_when_allowed(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--data" in refusal("own_data:arrays")
    assert "own_data" not in sys.modules
    data = load_data("own_data:arrays?mislabel=0.5", allow_code=True)
    assert data.spec == "own_data:arrays?mislabel=0.5&seed=0"
    assert (len(data.train), len(data.changed)) == (8, 4)
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("own_module")
def test_code_may_return_a_dataset_with_its_label_changes() -> None:
    data = load_data("own_data:dataset", allow_code=True)
    assert isinstance(data, Dataset)
    assert len(data.changed) == 144


@pytest.mark.usefixtures("own_module")
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("broken", "KeyError"),
        ("nothing", "returned NoneType"),
        ("ragged", "x_train is no array: setting an array element with a sequence"),
        ("absent", "AttributeError"),
    ],
)
def test_code_that_fails_is_one_clear_line(name: str, expected: str) -> None:
    assert expected in refusal(f"own_data:{name}", allow_code=True)


def test_a_module_that_is_not_there_is_one_clear_line() -> None:
    assert "ModuleNotFoundError" in refusal("no.such.module:data", allow_code=True)
