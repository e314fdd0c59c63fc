"""Random streams: each purpose has its own, all are listed, and what was drawn under a name is drawn again."""

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import unlearn_audit
from unlearn_audit.checkpoints import read_checkpoint, write_checkpoint
from unlearn_audit.data import (
    load_data,
    make_splits,
    old_forget_set,
    old_subsets,
    read_indices,
    read_training_indices,
)
from unlearn_audit.errors import DataError
from unlearn_audit.files import sha256_of_bytes
from unlearn_audit.streams import NUMBERED, STREAMS, derive_seed, generator

HOUSE = Path(unlearn_audit.__file__).parent
SEEDS = (0, 1, 2, 7, 2**32 - 1, 2**40)


# ----- no two coincide


@pytest.mark.parametrize(("size", "count"), [(1437, 144), (1437, 1437), (60_000, 6000), (40, 4)])
def test_no_two_streams_draw_the_same_for_equal_seeds_and_sizes(size: int, count: int) -> None:
    for seed in SEEDS[:3]:
        chosen = {name: np.sort(generator(name, seed).choice(size, count, replace=False)) for name in STREAMS}
        order = {name: generator(name, seed).permutation(size) for name in STREAMS}
        for one, other in combinations(STREAMS, 2):
            assert count == size or not np.array_equal(chosen[one], chosen[other]), (one, other)
            assert not np.array_equal(order[one], order[other]), (one, other)


def test_no_two_generators_begin_in_the_same_state() -> None:
    states = {generator(name, seed).bit_generator.state["state"]["state"] for name in STREAMS for seed in SEEDS}
    assert len(states) == len(STREAMS) * len(SEEDS)


def test_no_two_streams_of_torch_draw_the_same() -> None:
    drawn = {
        tuple(torch.randperm(1437, generator=torch.Generator().manual_seed(derive_seed(seed, name))).tolist()[:50])
        for name in STREAMS
        for seed in SEEDS
    }
    assert len(drawn) == len(STREAMS) * len(SEEDS)


@pytest.mark.parametrize("seed", range(5))
def test_a_random_set_is_not_the_mislabelled_one(seed: int) -> None:
    data = load_data(f"digits?mislabel=0.1&seed={seed}")
    random = read_training_indices(f"random:0.1:{seed}", data).indices
    assert len(random) == len(data.changed) == 144
    common = len(np.intersect1d(random, data.changed))
    assert common < 30  # 14.4 are expected, with a standard deviation of 3.4


@pytest.mark.parametrize("seed", range(3))
def test_subsets_samples_and_random_sets_share_no_draws(seed: int) -> None:
    whole = load_data("digits")
    rows = {image.tobytes(): row for row, image in enumerate(whole.train.images.numpy())}
    kept = load_data(f"digits?train=144&subset_seed={seed}").train.images.numpy()
    test_rows = {image.tobytes(): row for row, image in enumerate(whole.test.images.numpy())}
    held_out = load_data(f"digits?test=144&subset_seed={seed}").test.images.numpy()
    everything = make_splits(whole, "range:0-1435", sample=144, seed=seed)
    sets = [
        read_training_indices(f"random:144:{seed}", whole).indices,
        load_data(f"digits?mislabel=0.1&seed={seed}").changed,
        np.array([rows[image.tobytes()] for image in kept]),
        everything.measured,
    ]
    for one, other in combinations(sets, 2):
        assert len(one) == len(other) == 144
        assert len(np.intersect1d(one, other)) < 35
    unseen = read_indices(f"random:144:{seed}", examples=whole.test, name="digits", base=Path(), split="test").indices
    assert len(np.intersect1d(unseen, [test_rows[image.tobytes()] for image in held_out])) < 90  # 57.6 expected


def test_a_split_has_its_own_random_set() -> None:
    data = load_data("digits")
    examples = data.train.subset(np.arange(360))
    one, other = (
        read_indices("random:36", examples=examples, name="x", base=Path(), split=split).indices
        for split in ("training", "test")
    )
    assert not np.array_equal(one, other)


# ----- what a name draws never changes


def digest(*arrays: Any) -> str:
    return sha256_of_bytes(*(np.asarray(array, dtype="<i8").tobytes() for array in arrays))[:16]


# Of eight integers at seed 3.
PINNED = {
    "fisher": "da7425a452ec47f2",
    "influence": "5dc7cbf8c9f6a489",
    "nn": "15e7cf63b1fe6ba3",
    "adjacent": "1dfafa0aef3ca43b",
    "remote": "762d2be41339358f",
    "stage": "ca9d605776a49832",
    "label changes": "03dfdbd48e17ab23",
    "training subset": "05da109cad72cbb2",
    "test subset": "2c65d3cd0b050a65",
    "random set": "dabd8be3b06197d4",
    "sample": "c570df1dfb4e7222",
    "retain sample": "e0f3d2c4681a23d0",
    "spare twin": "780fd15f28e6981d",
    "twin": "e08cc9a2fb7dec59",
    "population": "45503699a06437e2",
    "assignment": "eaad8637974a6512",
    "initialisation": "4544d96a051e59fd",
    "train": "4bcb66c9f053e635",
    "retain": "0885607e08e7cbb7",
    "forget": "41b4f62639c297bd",
    "mixture": "0ccff7b2ab4041b4",
    "relearn": "d0c7fdc195c3ff1b",
    "augment": "92602d9edcd27f9a",
    "dropout": "98811cc042a55d60",
    "reinit": "b4d8097d4e5220f7",
    "random labels": "4502b0fdceacb7eb",
    "random direction": "8495e3f3f8d1d961",
    "random mask": "24a115832c0a3367",
    "power qr": "d4cbc1f44ece7044",
    "shadow": "fea32385afda1232",
    "treatment": "e0eaa9c82b3e12c6",
    "demo": "3e15b90fa8f8298e",
    "image": "70fe524ee5ee9fe2",
    "noise": "521b4bbe2c75274d",
    "timestep": "2db34d224f907010",
    "label drop": "6383531f3e1245e0",
    "states": "d8dbd13eeaced86b",
    "probe": "1356ae97c4d399b3",
    "relearning": "24f26ce19042cc1c",
    "relearned part": "ba88a3781e68a698",
    "random control": "c605225b7940a0d9",
    "planted": "359009a49dd4c79b",
    "bootstrap": "ac3cd9686b74c125",
    "spectrum": "7f700f21e07e8287",
    "swaps": "36db18a1a3b8a813",
    "lanczos": "0a9c65e3785bcdb3",
    "lanczos restart": "b83f94639887c679",
    "resurgence": "9eddd0b1b2c45bb8",
    "shokri": "14279db465b4e7d2",
    "shokri network": "bbad534732697d92",
    "judge": "f66e4744a02704a7",
    "real images": "ce1a27dfffc990b8",
}


def test_streams_keep_their_names_and_sequences_for_good() -> None:
    assert {name: digest(generator(name, 3).integers(0, 2**62, 8)) for name in STREAMS} == PINNED


def test_sets_stay_what_they_are() -> None:
    data = load_data("digits?mislabel=0.1&seed=0")
    splits = make_splits(data, "mislabelled", sample=100)
    assert digest(data.changed, data.train.labels[data.changed]) == "60d7c2cb8709cc70"
    assert digest(read_training_indices("random:0.1", data).indices) == "ff7ea1dbff1d4948"
    assert digest(splits.measured) == "af8e980a3d26935e"
    assert digest(make_splits(data, "mislabelled").unseen.unseen) == "fb3380ddbdee8e9f"
    assert load_data("digits?train=500&test=100&subset_seed=4").sha256[:16] == "efd17493773a36e8"


@pytest.mark.parametrize("seed", SEEDS)
def test_the_older_streams_are_numbers_beside_the_seed(seed: int) -> None:
    assert generator("label changes", seed).random() == np.random.default_rng(seed).random()
    assert generator("twin", seed).random() == np.random.default_rng([seed, 1]).random()
    assert set(NUMBERED) <= set(STREAMS)
    assert len(set(NUMBERED.values())) == len(NUMBERED)


def test_an_unknown_stream_is_none() -> None:
    with pytest.raises(KeyError, match="no random stream is called 'smaple'"):
        generator("smaple", 0)


# ----- every use is listed

# Calls whose seed is one of a named stream already, by module and function, with the stream.
SEEDED = {
    ("metrics/skewed.py", "_streams"): "bootstrap",
    ("models/adapting.py", "_settle_answer"): "probe",
    ("relearning/curve.py", "relearn"): "relearning",
    ("generation/sampling.py", "images"): "image",
    ("engine/batches.py", "at"): "train",
    ("engine/batches.py", "_permutation"): "train",
    ("engine/mixture.py", "at"): "mixture",
    ("engine/mixture.py", "_permutation"): "mixture",
    ("methods/boundary.py", "_expanded"): "initialisation",
    ("metrics/outputs.py", "paired_bootstrap"): "bootstrap",
    ("data/old_draws.py", "old_forget_set"): "random set",
    ("data/old_draws.py", "old_subset"): "training subset",
}
DRAWING = {"derive_seed", "default_rng", "manual_seed", "generator", "seed", "RandomState", "SeedSequence"}
BARE = {"rand", "randn", "randint", "randperm", "bernoulli", "multinomial", "normal", "rand_like", "randn_like"}


def calls() -> Iterator[tuple[str, str, ast.Call]]:
    """Yield (file, function, call) of every call in the package, streams.py aside."""
    for path in sorted(HOUSE.rglob("*.py")):
        tree = ast.parse(path.read_text())
        owner: dict[int, str] = {}
        for function in ast.walk(tree):
            if isinstance(function, ast.FunctionDef):
                owner |= {id(node): function.name for node in ast.walk(function)}
        if path.name != "streams.py":
            for node in ast.walk(tree):
                if isinstance(node, ast.Call):
                    yield path.relative_to(HOUSE).as_posix(), owner.get(id(node), ""), node


def called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def names_in(node: ast.Call) -> set[str]:
    """Return the texts among the arguments of a call."""
    given = [*node.args, *(keyword.value for keyword in node.keywords)]
    return {inner.value for each in given for inner in ast.walk(each) if isinstance(inner, ast.Constant)
            and isinstance(inner.value, str)}  # fmt: skip


def names_in_use() -> set[str]:
    found = set(SEEDED.values())
    for _, _, node in calls():
        if called(node) in ("derive_seed", "generator", "Batches", "Mixture", "minibatches"):
            found |= names_in(node) & set(STREAMS)
    return found


def test_every_use_of_chance_goes_by_a_listed_name() -> None:
    for file, function, node in calls():
        where = f"{file}:{node.lineno} {ast.unparse(node)}"
        name = called(node)
        if (file, function) in SEEDED:
            continue
        if name in ("derive_seed", "generator"):
            assert names_in(node) & set(STREAMS), f"{where}: no name of STREAMS"
        elif name in DRAWING:
            assert "derive_seed(" in ast.unparse(node), f"{where}: draws from a seed without a name"
        elif name in ("Batches", "Mixture"):
            last = [*node.args, *(keyword.value for keyword in node.keywords)]
            assert names_in(node) & set(STREAMS) or "which" in map(ast.unparse, last), where
        elif name == "minibatches":
            assert names_in(node) & set(STREAMS), where
        elif name in BARE:
            assert "generator=" in ast.unparse(node), f"{where}: draws from torch's own state"
        for keyword in node.keywords:
            if keyword.arg == "random_state":
                assert keyword.value is not None
                assert "seed" in ast.unparse(keyword.value), where


def test_no_module_knows_other_sources_of_chance() -> None:
    for path in HOUSE.rglob("*.py"):
        text = path.read_text()
        assert not re.search(r"^\s*(import random|from random|from numpy.random)\b", text, re.MULTILINE), path
        assert set(re.findall(r"np\.random\.(\w+)", text)) <= {"Generator", "default_rng"}, path


def test_no_name_is_listed_in_vain() -> None:
    assert set(STREAMS) - names_in_use() == set()


# ----- sets of version 0.1


@pytest.mark.parametrize(("spec", "seed", "count"), [("random:0.1:0", 0, 144), ("random:144:5", 5, 144),
                                                     ("random:.2", 0, 287)])  # fmt: skip
def test_a_set_that_version_0_1_drew_is_known_by_its_digest_and_can_be_had_again(
    spec: str, seed: int, count: int, tmp_path: Path
) -> None:
    drawn = np.sort(np.random.default_rng(seed).choice(1437, size=count, replace=False)).astype("<i8")
    told = old_forget_set(spec, sha256_of_bytes(drawn.tobytes()), 1437)
    assert f"its forget set '{spec}' was drawn by version 0.1" in told
    command = re.search(r'python3 -c "(.+)"', told)
    assert command is not None
    subprocess.run([sys.executable, "-c", command[1]], cwd=tmp_path, check=True, timeout=600)
    found = read_training_indices("old.npy", load_data("digits"), base=tmp_path)
    assert found.indices.tolist() == drawn.tolist()


def test_other_sets_are_not_taken_for_those_of_version_0_1() -> None:
    data = load_data("digits")
    now = read_training_indices("random:0.1", data).sha256
    for spec, sha256 in (("random:0.1", now), ("random:0.1", None), (None, now), ("class:3", now), ("random:1e9", now),
                         ("random:99999", now), ("random:0", now)):  # fmt: skip
        assert old_forget_set(spec, sha256, 1437) == ""


def test_subsets_of_version_0_1_can_still_be_had() -> None:
    spec = "digits?train=200&test=50&subset_seed=3"
    now, before = load_data(spec), load_data(f"{spec}&drawn_by=0.1")
    whole = load_data("digits")
    rows = np.sort(np.random.default_rng([3, 0]).permutation(1437)[:200])
    assert torch.equal(before.train.images, whole.train.images[rows])
    assert now.sha256 != before.sha256
    assert before.spec == f"{spec}&drawn_by=0.1"
    told = old_subsets(spec, before.sha256)
    assert "version 0.1 drew other examples for train= and test=" in told
    assert load_data(re.search(r"'(.+)'", told)[1]).sha256 == before.sha256  # type: ignore[index]
    assert old_subsets(spec, now.sha256) == old_subsets("digits", now.sha256) == ""
    assert old_subsets(before.spec, now.sha256) == ""


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("digits?drawn_by=0.1", "drawn_by= has no effect without train= or test="),
        ("digits?train=100&drawn_by=0.2", "can only be 0.1"),
    ],
)
def test_drawn_by_is_for_old_subsets_alone(spec: str, says: str) -> None:
    with pytest.raises(DataError, match=says):
        load_data(spec)


def test_an_old_forget_set_is_named_where_a_checkpoint_says_it(tiny: Path, run: Callable[..., Any]) -> None:
    """No fair comparison with a set of the same words, and the report says how to have one."""
    checkpoint = read_checkpoint(tiny / "retrained-1.safetensors")
    assert checkpoint.metadata is not None
    assert checkpoint.metadata.data is not None
    size = len(load_data(checkpoint.metadata.data).train)
    count = round(0.1 * size)
    drawn = np.sort(np.random.default_rng(0).choice(size, count, replace=False)).astype("<i8")
    old = {"forget": "random:0.1:0", "forget_sha256": sha256_of_bytes(drawn.tobytes()), "forget_n": count}
    write_checkpoint(tiny / "old.safetensors", checkpoint.state, checkpoint.metadata.model_copy(update=old), force=True)
    done = run("gaps", tiny / "old.safetensors", "--forget", "random:0.1:0", "--format", "json", "--quiet")
    assert done.code == 0, done.stderr
    assert "drawn by version 0.1" in done.stdout


def test_old_subsets_are_named_where_a_checkpoint_says_so(tmp_path: Path, tiny: Path, run: Callable[..., Any]) -> None:
    checkpoint = read_checkpoint(tiny / "original.safetensors")
    assert checkpoint.metadata is not None
    before = load_data("digits?train=200&drawn_by=0.1")
    old = {"data": "digits?train=200&subset_seed=0", "data_sha256": before.sha256}
    path = tmp_path / "old.safetensors"
    write_checkpoint(path, checkpoint.state, checkpoint.metadata.model_copy(update=old), force=False)
    done = run("gaps", path, "--forget", "range:0-9")
    assert done.code == 2
    assert "to have those, write the data as 'digits?train=200&subset_seed=0&drawn_by=0.1'" in done.stderr
