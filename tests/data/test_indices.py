"""Index files and words: what they name, and each thing that they may not be."""

import hashlib
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_problems import make_small_splits

from unlearn_audit.data import Examples, IndexSet, load_data, make_splits, named_classes, read_indices
from unlearn_audit.data.formats.index_files import EXAMPLES, FILE_READERS
from unlearn_audit.errors import DataError

SIZE = 40
WANTED = [2, 3, 5, 7, 11]


def examples() -> Examples:
    labels = torch.arange(SIZE) % 4
    return Examples(torch.zeros(SIZE, 1, 2, 2, dtype=torch.uint8), labels, labels)


def read(spec: str, base: Path, **options: object) -> IndexSet:
    return read_indices(spec, examples=examples(), name="toy", base=base, **options)  # type: ignore[arg-type]


def refusal(spec: str, base: Path, **options: object) -> str:
    with pytest.raises(DataError) as caught:
        read(spec, base, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def mask() -> np.ndarray:
    return np.isin(np.arange(SIZE), WANTED)


WRITERS: dict[str, Callable[[Path], object]] = {
    "int64.npy": lambda path: np.save(path, np.array(WANTED[::-1])),
    "uint8.npy": lambda path: np.save(path, np.array(WANTED, dtype=np.uint8)),
    "mask.npy": lambda path: np.save(path, mask()),
    "plain.txt": lambda path: path.write_text("# to be forgotten\n" + "\n".join(map(str, WANTED)) + "\n\n"),
    "one.csv": lambda path: path.write_text("\n".join(map(str, WANTED))),
    "header.csv": lambda path: path.write_text("row\n" + "\n".join(map(str, WANTED))),
    "named.csv": lambda path: path.write_text("name,unlearn_idx\r\n" + "".join(f"a,{row}\r\n" for row in WANTED)),
    "list.json": lambda path: path.write_text(json.dumps(WANTED)),
    "tensor.pt": lambda path: torch.save(torch.tensor(WANTED), path),
    "mask.pt": lambda path: torch.save(torch.from_numpy(mask()), path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_file_names_the_same_examples(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name)
    result = read(name, tmp_path)
    assert result.indices.tolist() == WANTED
    assert result.indices.dtype == np.int64
    assert result.spec == name
    assert result.sha256 == hashlib.sha256(np.array(WANTED, dtype="<i8").tobytes()).hexdigest()


def test_words_name_examples() -> None:
    here = Path(".")
    assert read("class:1,3", here).indices.tolist() == list(range(1, SIZE, 2))
    assert read("range:4-6", here).indices.tolist() == [4, 5, 6]
    assert len(read("random:0.25", here)) == 10
    assert len(read("random:7:5", here)) == 7
    assert read("random:0.25", here).sha256 == read("random:0.25:0", here).sha256
    assert read("random:0.25", here).sha256 != read("random:0.25:1", here).sha256
    assert read("mislabelled", here, changed=np.array([3, 9])).indices.tolist() == [3, 9]
    assert len(read("range:0-39", here, whole=True)) == SIZE


def test_mislabelled_names_every_changed_label() -> None:
    data = load_data("digits?mislabel=0.1")
    result = read_indices("mislabelled", examples=data.train, name=data.spec, base=Path("."), changed=data.changed)
    np.testing.assert_array_equal(result.indices, data.changed)


def test_files_of_a_folder_can_be_named_by_path(tmp_path: Path) -> None:
    origin = tuple(f"c{row % 4}/{row}.png" for row in range(SIZE))
    (tmp_path / "a.txt").write_text("c3/7.png\ntrain/c1/5.png\n11\n")
    (tmp_path / "a.csv").write_text("c3/7.png\nc1/5.png\n11\n")
    (tmp_path / "a.json").write_text('["c3/7.png", "c1/5.png", 11]')
    for name in ("a.txt", "a.csv", "a.json"):
        assert read(name, tmp_path, origin=origin).indices.tolist() == [5, 7, 11]
    (tmp_path / "a.txt").write_text("c3/8.png\n")
    assert "a.txt, line 1: 'c3/8.png' is neither an integer nor a training file" in refusal(
        "a.txt", tmp_path, origin=origin
    )
    assert "not an integer index" in refusal("a.txt", tmp_path)
    (tmp_path / "a.txt").write_text("c3/7.png\n7\n")
    assert "is there twice: a.txt, line 1 and line 2" in refusal("a.txt", tmp_path, origin=origin)


def test_out_of_range_says_what_and_where(tmp_path: Path) -> None:
    data = load_data("digits")
    np.save(tmp_path / "idx.npy", np.array([*range(12), 50231]))
    with pytest.raises(DataError) as caught:
        read_indices("idx.npy", examples=data.train, name=data.spec, base=tmp_path)
    expected = "forget index 50231 is out of range for 'digits' (1437 training examples): idx.npy, entry 12"
    assert str(caught.value) == expected


BAD_FILES: dict[str, tuple[str, object, str]] = {
    "negative": ("a.npy", np.array([1, -2]), "forget index -2 is negative"),
    "twice": ("a.npy", np.array([4, 1, 4]), "forget index 4 is there twice: a.npy, entry 0 and entry 2"),
    "empty": ("a.npy", np.array([], dtype=np.int64), "is empty; it must name at least one of 'toy' (40 training"),
    "empty mask": ("a.npy", np.zeros(SIZE, bool), "is empty"),
    "everything": ("a.npy", np.arange(SIZE), "is everything: all of 'toy' (40 training examples)"),
    "all of a mask": ("a.npy", np.ones(SIZE, bool), "is everything"),
    "floats": ("a.npy", np.array([1.0, 2.0]), "holds float64, not integers"),
    "objects": ("a.npy", np.array([1, None], dtype=object), "holds pickled Python objects"),
    "times": ("a.npy", np.array([1, 2], dtype="m8[s]"), "holds timedelta64[s], not integers"),
    "dates": ("a.npy", np.array([1, 2], dtype="M8[s]"), "not integers"),
    "records": ("a.npy", np.zeros(3, dtype=[("a", "i4")]), "not integers"),
    "complex numbers": ("a.npy", np.array([1 + 0j]), "holds complex128, not integers"),
    "a mask of integers": ("a.npy", mask().astype(int), "a mask was saved as integers"),
    "a mask of other integers": ("a.npy", np.array([0, 1, 1]), "3 zeros and ones, for 40 examples: a mask was saved"),
    "a mask of floats": ("a.npy", mask().astype(float), "they are zeros and ones: save a mask as bool"),
    "a mask of truths": ("a.json", b"[true, false]", "a mask of true and false is saved as .npy"),
    "a mask of lines": ("a.txt", b"0\n1\n" * 20, "a mask was saved as integers"),
    "a mask in JSON": ("a.json", b"[" + b"1," * 39 + b"0]", "a mask was saved as integers"),
    "counted from one": ("a.npy", np.array([1, 5, 40]), "these seem to count from 1, indices count from 0"),
    "a header of pandas": (
        "a.csv",
        b"0\n5\n7\n",
        "a.csv, line 1: 0 may be the first of 3 indices, or the name of a col",
    ),
    "its Windows form": ("a.csv", b"\xef\xbb\xbf0\r\n5\r\n", "the name of a column of 1, as pandas writes it"),
    "another number first": ("a.csv", b"3\n1\n2\n3\n4\n", "3 may be the first of 5 indices"),
    "a column of classes": ("a.csv", b"class\n3\n", "are these indices of examples, or classes"),
    "a column of what stays": ("a.csv", b"Retain\n3\n", "what is to be kept"),
    "far too many lines": ("a.txt", b"1\n" * 1_000_100, "a.txt has 1000100 entries, but there are only 40 examples"),
    "far too many rows": ("a.csv", b"1\r" * 1_000_100, "has 1000100 entries"),
    "far too many numbers": ("a.json", b"[" + b"1," * 1_000_100 + b"1]", "has 1000100 entries"),
    "far too many integers": ("a.npy", np.zeros(1_000_100, int), "has 1000100 entries"),
    "a column twice": ("a.csv", b"unlearn_idx,unlearn_idx\n1,2\n", "has 2 columns named unlearn_idx"),
    "an archive": ("a.npy", b"PK\x03\x04" + bytes(40), "is an .npz archive"),
    "texts": ("a.npy", np.array(["1"]), "not integers"),
    "another mask": ("a.npy", np.ones(SIZE - 1, bool), "a mask of 39 entries, but there are 40 examples"),
    "a table": ("a.npy", np.ones((2, 2), int), "has 2 dimensions"),
    "a number": ("a.npy", np.array(3), "has 0 dimensions"),
    "beyond int64": ("a.npy", np.array([2**63], dtype=np.uint64), "9223372036854775808 is not an index"),
    "no array": ("a.npy", b"nothing of the kind", "cannot read index file"),
    "truncated": ("a.npy", b"\x93NUMPY\x01\x00", "cannot read index file"),
    "no bytes": ("a.npy", b"", "empty (0 bytes)"),
    "words": ("a.txt", b"1\ntwo\n", "a.txt, line 2: 'two' is not an integer index"),
    "decimals": ("a.txt", b"1.0\n", "'1.0' is not an integer index"),
    "many digits": ("a.txt", b"9" * 5000, "is not an integer index"),
    "no text": ("a.txt", b"\xff\xfe\x00", "cannot read index file"),
    "only a remark": ("a.txt", b"# nothing\n", "is empty"),
    "line out of range": (
        "a.txt",
        b"1\n\n40\n",
        "forget index 40 is out of range for 'toy' (40 training examples): a.txt, line 3",
    ),
    "two columns": ("a.csv", b"a,b\n1,2\n", "a.csv has 2 columns, none named unlearn_idx"),
    "a short row": ("a.csv", b"a,unlearn_idx\n1\n", "a.csv, line 2: 1 columns instead of 2"),
    "a word below": ("a.csv", b"unlearn_idx\n1\nx\n", "a.csv, line 3: 'x' is not an integer index"),
    "an open quote": ("a.csv", b'unlearn_idx\n"1\n', "cannot read index file"),
    "a decimal first": ("a.csv", b"1.5\n2\n", "'1.5' is not an integer index"),
    "a dictionary": ("a.json", b'{"a": 1}', "is JSON, but an object"),
    "a truth": ("a.json", b"[1, true]", "a.json, entry 1: true is not an integer index"),
    "a float": ("a.json", b"[1.0]", "a.json, entry 0: 1.0 is not an integer index"),
    "nested": ("a.json", b"[[1]]", "is not an integer index"),
    "beyond 64 bits": ("a.json", b"[" + b"9" * 30 + b"]", "is not an integer index"),
    "no JSON": ("a.json", b"[1,", "cannot read index file"),
    "too deep": ("a.json", b"[" * 200_000, "cannot read index file"),
    "complex tensor": ("a.pt", torch.ones(3, dtype=torch.complex64), "holds complex64, not integers"),
    "8-bit float tensor": ("a.pt", torch.ones(3).to(torch.float8_e4m3fn), "holds torch.float8_e4m3fn, not integers"),
    "meta tensor": ("a.pt", torch.ones(3, device="meta"), "without values (meta)"),
    "quantised tensor": ("a.pt", torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.quint8), "not integers"),
    "a huge view": ("a.pt", torch.zeros(1, dtype=torch.int64).expand(10**12), "far more than there are examples"),
    "nested tensor": ("a.pt", torch.nested.nested_tensor([torch.ones(2)]), "one dense integer or boolean tensor"),
    "list": ("a.pt", [1, 2], "holds list, not integers"),
    "float tensor": ("a.pt", torch.ones(3), "holds float32, not integers"),
    "half tensor": ("a.pt", torch.ones(3, dtype=torch.bfloat16), "holds torch.bfloat16"),
    "sparse tensor": ("a.pt", torch.ones(3).to_sparse(), "one dense integer or boolean tensor"),
    "dictionary": ("a.pt", {"a": torch.ones(3)}, "holds dict"),
    "no tensor file": ("a.pt", b"nothing of the kind", "as a plain tensor"),
}


@pytest.mark.parametrize("ending", FILE_READERS)
def test_a_refusal_shows_what_is_read(tmp_path: Path, ending: str) -> None:
    (tmp_path / f"a{ending}").write_bytes(b"nothing,of\nthe kind\n")
    said = refusal(f"a{ending}", tmp_path)
    assert f"What is read from {ending}, for example: {EXAMPLES[ending]}" in said
    example = {".json": "[3, 17, 256]", ".csv": "unlearn_idx\n3\n17\n256\n", ".txt": "3\n17\n256\n"}.get(ending)
    if example:
        (tmp_path / f"a{ending}").write_text(example.replace("256", "25"))
        assert read(f"a{ending}", tmp_path).indices.tolist() == [3, 17, 25]


@pytest.mark.parametrize("shape", [(-1, 1), (1, -1)])
@pytest.mark.parametrize("kind", ["npy", "pt"])
def test_indices_as_argwhere_hands_them_out(tmp_path: Path, kind: str, shape: tuple[int, int]) -> None:
    for values in (np.array(WANTED), mask()):
        array = values.reshape(shape)
        if kind == "npy":
            np.save(tmp_path / "a.npy", array)
        else:
            torch.save(torch.from_numpy(array), tmp_path / "a.pt")
        assert read(f"a.{kind}", tmp_path).indices.tolist() == WANTED


def test_a_list_that_begins_with_example_0_can_be_written(tmp_path: Path) -> None:
    """A name for the column, or a file that has no header, leaves no doubt."""
    (tmp_path / "a.csv").write_text("unlearn_idx\n0\n5\n")
    (tmp_path / "a.txt").write_text("0\n5\n")
    (tmp_path / "b.csv").write_text("7\n3\n12\n1\n9\n")  # in no order: no header
    assert read("a.csv", tmp_path).indices.tolist() == read("a.txt", tmp_path).indices.tolist() == [0, 5]
    assert read("b.csv", tmp_path).indices.tolist() == [1, 3, 7, 9, 12]


@pytest.mark.parametrize("legacy", [False, True])
def test_tensors_of_both_kinds_of_torch_files_are_read(tmp_path: Path, legacy: bool) -> None:
    tensors = (
        torch.tensor(WANTED),
        torch.tensor(WANTED, dtype=torch.uint8),
        torch.nn.Parameter(torch.tensor(WANTED), requires_grad=False),
    )
    for tensor in tensors:
        torch.save(tensor, tmp_path / "a.pt", _use_new_zipfile_serialization=not legacy)
        assert read("a.pt", tmp_path).indices.tolist() == WANTED


@pytest.mark.parametrize("legacy", [False, True])
def test_a_key_that_takes_years_to_hash_is_not_hashed(tmp_path: Path, legacy: bool) -> None:
    pickled = b"\x80\x02}" + b")" + b"".join(b"q%cK\x01h%c\x86" % (n, n) for n in range(5)) + b"K\x01s."
    if legacy:
        heads = [pickle.dumps(each, 2) for each in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
        (tmp_path / "a.pt").write_bytes(b"".join(heads) + pickled)
    else:
        with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
            archive.writestr("a/data.pkl", pickled)
    assert "holds dictionaries or sets" in refusal("a.pt", tmp_path)


@pytest.mark.parametrize("name", ["a.npy", "a.txt", "a.csv", "a.json", "a.pt"])
def test_a_file_of_gigabytes_is_not_read(tmp_path: Path, name: str) -> None:
    """It takes no room on the disk, and would take all memory."""
    with (tmp_path / name).open("wb") as stream:
        if name == "a.npy":
            np.lib.format.write_array_header_1_0(
                stream, {"descr": "<i8", "fortran_order": False, "shape": (3 * 2**27,)}
            )
        stream.truncate(3 << 30)
    assert "at most" in refusal(name, tmp_path) or "larger than 256 MiB" in refusal(name, tmp_path)


@pytest.mark.parametrize("name", ["a.npy", "a.txt", "a.csv", "a.json", "a.pt"])
def test_a_pipe_in_place_of_indices_is_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    assert "is a device or a pipe" in refusal(name, tmp_path)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("~nobody-of-that-name/a.npy", "no user of that name has a home folder"),
        ("a" * 5000 + ".npy", "File name too long"),
        ("x/" * 3000 + "a.npy", "File name too long"),
    ],
)
def test_names_that_no_file_can_have(tmp_path: Path, spec: str, says: str) -> None:
    told = refusal(spec, tmp_path)
    assert says in told
    assert len(told) < 300


def test_a_name_of_two_files_is_no_name(tmp_path: Path) -> None:
    """A class may itself be called train, and hold folders that are called as the classes are."""
    origin = ("cat/a.png", "dog/a.png", "train/cat/a.png")
    (tmp_path / "a.txt").write_text("train/cat/a.png\n")
    assert "names two files" in refusal("a.txt", tmp_path, origin=origin)
    (tmp_path / "a.txt").write_text("train/dog/a.png\n")
    assert read("a.txt", tmp_path, origin=origin).indices.tolist() == [1]


@pytest.mark.parametrize("case", BAD_FILES)
def test_unfit_files_are_refused(tmp_path: Path, case: str) -> None:
    name, content, expected = BAD_FILES[case]
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, np.ndarray):
        np.save(path, content, allow_pickle=True)
    else:
        torch.save(content, path)
    assert expected in refusal(name, tmp_path)


class Touch:
    """Executed by an unpickler, it leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["a.npy", "a.pt"])
def test_a_pickle_in_place_of_indices_is_not_executed(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(pickle.dumps(Touch(tmp_path / "executed")))
    assert "cannot read index file" in refusal(name, tmp_path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("class:", "it is written class:3,5"),
        ("class", "is incomplete; it is written class:3,5"),
        ("class:a", "names no classes"),
        ("class:4", "class 4 is not in 'toy' (40 training examples): classes 0-3"),
        ("class:1,1", "names class 1 twice"),
        ("class:0,1,2,3", "is everything"),
        ("random:", "is malformed"),
        ("random:1.5", "is malformed"),
        ("random:-3", "is malformed"),
        ("random:0", "is empty"),
        ("random:0.001", "is empty"),
        ("random:40", "is everything"),
        ("random:41", "asks for 41"),
        ("random:0.1:x", "is malformed"),
        ("range:5", "is malformed; it is written range:0-999"),
        ("range:9-5", "is malformed"),
        ("range:0-40", "forget index 40 is out of range"),
        ("range:0-39", "is everything"),
        ("mislabelled", "no label of 'toy' (40 training examples) was changed"),
        ("mislabeled", "did you mean 'mislabelled'?"),
        ("clas:3", "did you mean 'class'?"),
        ("something", "unknown index word 'something'"),
        ("a.npz", "did you mean '.npy'?"),
        ("a.tar.gz", "unknown kind of index file '.gz'"),
        ("absent.npy", "index file not found"),
        ("", "is a directory"),
        (".", "is a directory"),
        ("folder.npy", "is a directory"),
    ],
)
def test_malformed_specs_are_refused(tmp_path: Path, spec: str, expected: str) -> None:
    (tmp_path / "folder.npy").mkdir()
    assert expected in refusal(spec, tmp_path)


def test_messages_name_the_role_and_the_split(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([99]))
    expected = "unseen index 99 is out of range for 'toy' (40 test examples): a.npy, entry 0"
    assert refusal("a.npy", tmp_path, role="unseen", split="test") == expected


@pytest.mark.parametrize(
    ("spec", "names", "told"),
    [
        ("class:2", ("cat", "cow", "dog"), ("dog",)),
        ("class:2,0", ("cat", "cow", "dog"), ("dog", "cat")),
        ("class:1,2", ("1", "10", "2"), ("10", "2")),
        ("class:0,1", ("0", "1"), ()),
        ("class:5", ("cat", "cow"), ()),
        ("class:1", (), ()),
        ("range:0-1", ("cat", "cow"), ()),
        ("class.npy", ("cat", "cow"), ()),
    ],
)
def test_classes_that_are_named_by_number_have_their_names_told(
    spec: str, names: tuple[str, ...], told: tuple[str, ...]
) -> None:
    assert named_classes(spec, replace(load_data("digits"), class_names=names)) == told


# ----- sets that are given by their indices


@pytest.mark.parametrize(
    "forget",
    [list(range(10)), np.arange(10), torch.arange(10), np.arange(100) < 10],
    ids=["list", "array", "tensor", "mask"],
)
def test_a_forget_set_is_given_by_its_indices_too(forget: Any, noise: Callable[..., Any]) -> None:
    named = make_small_splits(noise)
    found = make_splits(named.dataset, forget)
    assert found.forget.sha256 == named.forget.sha256
    assert found.forget.spec == "indices in memory"
    np.testing.assert_array_equal(found.unseen.unseen, named.unseen.unseen)


@pytest.mark.parametrize(
    ("forget", "message"),
    [
        ([3, 100], "forget index 100 is out of range .*indices in memory, entry 1"),
        ([3, 3], "forget index 3 is there twice"),
        ([0.5], "holds float64, not integers"),
        (np.zeros(7, dtype=bool), "is a mask of 7 entries, but there are 100 examples"),
        ([], "is empty"),
    ],
)
def test_indices_that_are_none_are_refused(forget: Any, message: str, noise: Callable[..., Any]) -> None:
    with pytest.raises(DataError, match=message):
        make_splits(make_small_splits(noise).dataset, forget)
