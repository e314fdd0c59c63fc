"""Arrays from outside: what has one reading is read, what has two is refused with both, and how to say which."""

import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unlearn_audit.data import Dataset, load_data, read_training_indices
from unlearn_audit.errors import DataError

N, M = 20, 8
LABELS = {"y_train": np.arange(N) % 4, "y_test": np.arange(M) % 4}
RNG = np.random.default_rng(0)


def pixels(*shape: int) -> dict[str, Any]:
    """Return float images in [0, 1] of both splits."""
    return {"x_train": RNG.random((N, *shape)), "x_test": RNG.random((M, *shape))}


def byte_pixels(*shape: int) -> dict[str, Any]:
    return {name: (255 * values).astype(np.uint8) for name, values in pixels(*shape).items()}


def load(folder: Path, arrays: dict[str, Any], options: str = "") -> Dataset:
    np.savez(folder / "a.npz", **{**LABELS, **arrays})
    return load_data(f"npz:{folder / 'a.npz'}{options}")


def refusal(folder: Path, arrays: dict[str, Any], options: str = "") -> str:
    with pytest.raises(DataError) as caught:
        load(folder, arrays, options)
    return str(caught.value)


@pytest.mark.parametrize("shape", [(32, 32, 3), (32, 32, 1), (16, 9, 4), (16, 16, 8), (1, 9, 3)])
def test_float_images_that_may_lie_channels_last(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    arrays = pixels(*shape)
    told = refusal(tmp_path, arrays)
    height, width, channels = shape
    assert f"N H W C ({channels} channels of {height} x {width} pixels)" in told
    assert f"N C H W ({height} channels of {width} x {channels} pixels)" in told
    last = load(tmp_path, arrays, "?layout=nhwc")
    np.testing.assert_array_equal(last.train.images.numpy(), arrays["x_train"].astype("f4").transpose(0, 3, 1, 2))
    assert last.spec.endswith("?layout=nhwc")
    assert load_data(last.spec).sha256 == last.sha256
    first = load(tmp_path, arrays, "?layout=nchw")
    np.testing.assert_array_equal(first.test.images.numpy(), arrays["x_test"].astype("f4"))


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 8, 8), (1, 1, 1), (2, 6, 5), (64, 8, 8), (1, 2, 2), (3, 3, 3)])
def test_float_images_that_can_only_lie_channels_first(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    assert load(tmp_path, pixels(*shape)).train.images.shape == (N, *shape)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 16, 9), (5, 16, 16)])
def test_bytes_that_may_lie_channels_first(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    arrays = byte_pixels(*shape)
    assert "layout=nchw" in refusal(tmp_path, arrays)
    data = load(tmp_path, arrays, "?layout=nchw")
    np.testing.assert_array_equal(data.train.images.numpy(), arrays["x_train"])


@pytest.mark.parametrize("shape", [(32, 32, 3), (6, 5, 3), (28, 28), (9, 16, 1)])
def test_bytes_that_can_only_lie_channels_last(tmp_path: Path, shape: tuple[int, ...]) -> None:
    arrays = byte_pixels(*shape)
    data = load(tmp_path, arrays)
    whole = arrays["x_train"].reshape(N, *shape[:2], -1)
    np.testing.assert_array_equal(data.train.images.numpy(), whole.transpose(0, 3, 1, 2))


@pytest.mark.parametrize("factor", [255, 16])
def test_floats_that_may_be_bytes(tmp_path: Path, factor: int) -> None:
    arrays = {name: np.floor(factor * values) for name, values in pixels(1, 8, 8).items()}
    assert "may be bytes that were not scaled" in refusal(tmp_path, arrays)
    scaled = load(tmp_path, arrays, f"?scale={factor}")
    np.testing.assert_allclose(scaled.train.images.numpy(), arrays["x_train"] / factor, rtol=1e-6)
    as_it_stands = load(tmp_path, arrays, "?scale=1")
    np.testing.assert_array_equal(as_it_stands.train.images.numpy(), arrays["x_train"])
    assert as_it_stands.sha256 != scaled.sha256
    assert load_data(scaled.spec).sha256 == scaled.sha256


def test_fractions_of_bytes_are_no_plain_floats_either(tmp_path: Path) -> None:
    assert "scale=255" in refusal(tmp_path, {name: 255 * values for name, values in pixels(1, 8, 8).items()})
    standardised = {name: 8 * values - 4 for name, values in pixels(1, 8, 8).items()}
    assert load(tmp_path, standardised).train.images.min() < 0


def test_bytes_without_a_pixel_above_one(tmp_path: Path) -> None:
    arrays = {name: values.round().astype(np.uint8) for name, values in pixels(8, 8).items()}
    assert "no pixel above 1" in refusal(tmp_path, arrays)
    assert load(tmp_path, arrays, "?scale=1").train.images.max() == 1
    assert load(tmp_path, arrays, "?scale=255").train.images.dtype == torch.uint8


# ----- labels


def test_labels_in_a_column_are_labels(tmp_path: Path) -> None:
    columns = {name: values[:, None] for name, values in LABELS.items()}
    assert load(tmp_path, pixels(1, 4, 4) | columns).train.labels.tolist() == LABELS["y_train"].tolist()


def test_labels_that_count_from_one(tmp_path: Path) -> None:
    arrays = pixels(1, 4, 4) | {name: values + 1 for name, values in LABELS.items()}
    told = refusal(tmp_path, arrays)
    assert "labels go from 1 to 4, and none is 0" in told
    assert "first_label=1: 4 classes" in told
    assert "first_label=0: 5 classes" in told
    from_one = load(tmp_path, arrays, "?first_label=1")
    assert (from_one.classes, from_one.train.labels.tolist()) == (4, LABELS["y_train"].tolist())
    from_zero = load(tmp_path, arrays, "?first_label=0")
    assert (from_zero.classes, from_zero.train.labels.tolist()) == (5, (LABELS["y_train"] + 1).tolist())
    assert load_data(from_one.spec).sha256 == from_one.sha256 != from_zero.sha256
    assert "has label 1 at entry 0, below first_label=2" in refusal(tmp_path, arrays, "?first_label=2")


def test_changed_labels_count_as_those_of_the_data(tmp_path: Path) -> None:
    arrays = pixels(1, 4, 4) | {name: values + 1 for name, values in LABELS.items()}
    np.save(tmp_path / "labels.npy", (LABELS["y_train"][::-1] + 1)[:, None])
    data = load(tmp_path, arrays, f"?first_label=1&labels={tmp_path / 'labels.npy'}")
    assert data.train.labels.tolist() == LABELS["y_train"][::-1].tolist()
    assert load_data(data.spec).sha256 == data.sha256


def test_how_arrays_are_read_is_no_part_of_what_they_are(tmp_path: Path) -> None:
    """A checkpoint that was made when one reading was taken in silence still fits its data."""
    arrays = pixels(1, 4, 4)
    assert load(tmp_path, arrays, "?layout=nchw&scale=1&first_label=0").sha256 == load(tmp_path, arrays).sha256


def test_identifiers_in_place_of_class_numbers(tmp_path: Path) -> None:
    arrays = pixels(1, 4, 4) | {name: values * 100 for name, values in LABELS.items()}
    assert "4 different labels between 0 and 300" in refusal(tmp_path, arrays)
    assert load(tmp_path, arrays, "?first_label=0").classes == 301


def test_one_class_without_training_examples_is_no_mistake(tmp_path: Path) -> None:
    arrays = pixels(1, 4, 4) | {"y_train": np.where(LABELS["y_train"] == 2, 3, LABELS["y_train"])}
    assert load(tmp_path, arrays).classes == 4


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (np.arange(N).astype("m8[s]"), "is timedelta64[s] of shape 20; labels are integers"),
        (np.arange(N).astype("M8[D]"), "datetime64[D]"),
        (np.zeros(N, dtype=[("a", "i4")]), "labels are integers"),
        (np.zeros(N, dtype="V4"), "labels are integers"),
        (np.full(N, np.nan), "float64"),
        (np.arange(N) * 1.0, "save y.astype('int64')"),
        (np.arange(N) + 0j, "complex128"),
        (np.eye(4, dtype=int)[np.arange(N) % 4], "one-hot"),
        (np.eye(4)[np.arange(N) % 4], "one-hot"),
        (np.array(["cat", "dog"] * 10), "return_inverse"),
        (np.arange(N) % 2 == 0, "bool"),
        (np.array(3), "a single number"),
        (np.zeros((N, 0), int), "labels are integers"),
        (np.full(N, 2**63, dtype=np.uint64), "beyond 64 bits"),
    ],
)
def test_labels_of_other_kinds(tmp_path: Path, labels: Any, says: str) -> None:
    assert says in refusal(tmp_path, pixels(1, 4, 4) | {"y_train": labels})


@pytest.mark.parametrize("kind", ["c8", "m8[s]", "V8", "U3"])
def test_images_of_other_kinds(tmp_path: Path, kind: str) -> None:
    arrays = pixels(3, 4, 4) | {"x_train": np.zeros((N, 3, 4, 4), dtype=kind)}
    assert "images are uint8" in refusal(tmp_path, arrays)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("digits?layout=nchw", "layout= belongs to npz: data only"),
        ("digits?first_label=1", "first_label= belongs to npz: and idx: data only"),
        ("folder:x?scale=255", "scale= belongs to"),
        ("npz:x?layout=chw", "must be nhwc or nchw, not 'chw'"),
        ("npz:x?scale=0", "positive number"),
        ("npz:x?scale=inf", "positive number"),
        ("npz:x?scale=nan", "positive number"),
        ("npz:x?first_label=-1", "integer of at least 0"),
    ],
)
def test_options_that_say_nothing(spec: str, says: str) -> None:
    with pytest.raises(DataError, match=says):
        load_data(spec)


# ----- code of the user's


def code(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> str:
    """Write a module under a name of its own and return its data spec."""
    name = f"made_{folder.name}".replace("-", "_")
    (folder / f"{name}.py").write_text(body)
    monkeypatch.chdir(folder)
    return f"{name}:load"


ARRAYS = """
import numpy as np
def load():
    rng = np.random.default_rng(0)
    return {"x_train": rng.random((20, 8, 8, 1)), "y_train": np.arange(20) % 4 + 1,
            "x_test": rng.random((8, 8, 8, 1)), "y_test": np.arange(8) % 4 + 1}
"""


def test_arrays_of_code_are_read_as_those_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = code(tmp_path, monkeypatch, ARRAYS)
    with pytest.raises(DataError, match="N H W C"):
        load_data(spec, allow_code=True)
    with pytest.raises(DataError, match="labels go from 1 to 4"):
        load_data(f"{spec}?layout=nhwc", allow_code=True)
    data = load_data(f"{spec}?layout=nhwc&first_label=1", allow_code=True)
    assert (data.classes, data.train.images.shape) == (4, (20, 1, 8, 8))


def test_code_that_exits_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = code(tmp_path, monkeypatch, "import sys\ndef load():\n    sys.exit(0)\n")
    with pytest.raises(DataError, match="failed when called without arguments: SystemExit: 0"):
        load_data(spec, allow_code=True)


# ----- files


def test_an_archive_that_unfolds_to_gigabytes_is_not_unfolded(tmp_path: Path) -> None:
    """Zeros pack a thousand times; no image does."""
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("x_train.npy", "w", force_zip64=True) as stream:
            header = {"descr": "|u1", "fortran_order": False, "shape": (400, 1024, 1024)}
            np.lib.format.write_array_header_1_0(stream, header)
            for _ in range(400):
                stream.write(bytes(1 << 20))
        archive.writestr("y_train.npy", b"")
    with pytest.raises(DataError, match="announces 419430528, [0-9]+ times as much.*was not read"):
        load_data(f"npz:{path}")


def test_a_name_that_is_twice_in_an_archive(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **LABELS, **pixels(1, 4, 4))
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as archive:
        archive.writestr("x_train", archive.read("x_test.npy"))
    with pytest.raises(DataError, match="holds x_train twice"):
        load_data(f"npz:{tmp_path / 'a.npz'}")


def test_an_archive_of_very_many_members_is_not_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for number in range(1001):
            archive.writestr(str(number), b"")
        archive.comment = b"x" * 1000
    with pytest.raises(DataError, match="an archive of 1001 members, which was not read"):
        load_data(f"npz:{tmp_path / 'a.npz'}")


HEADERS = {
    "an expression": "__import__('os')",
    "no dictionary": "[1]",
    "nested": "(" * 200 + ")" * 200,
    "very nested": "{'descr': '<i8', 'fortran_order': False, 'shape': " + "(" * 3000 + ")" * 3000 + "}",
    "an open string": "{'descr': '<i8",
    "a negative size": "{'descr': '<i8', 'fortran_order': False, 'shape': (-5,)}",
    "an absurd size": "{'descr': '<i8', 'fortran_order': False, 'shape': (9223372036854775807, 9223372036854775807)}",
    "a size of truth": "{'descr': '<i8', 'fortran_order': False, 'shape': (True, 'x')}",
    "an unknown type": "{'descr': '<q99', 'fortran_order': False, 'shape': (2,)}",
    "a type of nothing": "{'descr': '|S0', 'fortran_order': False, 'shape': (999999999999,)}",
    "no type": "{'descr': None, 'fortran_order': False, 'shape': (2,)}",
    "objects": "{'descr': '|O', 'fortran_order': False, 'shape': (2,)}",
    "too many dimensions": "{'descr': '<i8', 'fortran_order': False, 'shape': " + repr((1,) * 99) + "}",
    "more than there is": "{'descr': '<i8', 'fortran_order': False, 'shape': (4,)}",
    "a long one": "{'descr': '<i8', 'fortran_order': False, 'shape': (4,)" + " " * 50_000 + "}",
}


@pytest.mark.parametrize("case", HEADERS)
@pytest.mark.parametrize("where", ["index", "labels", "archive"])
def test_headers_that_are_malformed_or_absurd(tmp_path: Path, case: str, where: str) -> None:
    text = HEADERS[case].encode()
    content = b"\x93NUMPY\x02\x00" + len(text).to_bytes(4, "little") + text + bytes(16)
    if where == "archive":
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
            for name in ("x_train", "y_train", "x_test", "y_test"):
                archive.writestr(f"{name}.npy", content)
        spec = f"npz:{tmp_path / 'a.npz'}"
    else:
        (tmp_path / "a.npy").write_bytes(content)
        spec = f"digits?labels={tmp_path / 'a.npy'}"
    read = partial(load_data, spec)
    if where == "index":
        read = partial(read_training_indices, "a.npy", load_data("digits"), base=tmp_path)  # type: ignore[assignment]
    with pytest.raises(DataError, match="cannot read") as caught:
        read()
    assert len(str(caught.value)) < 600
