"""How inputs are normalised: by whom it is said, that relatives are read alike, and that an assumption is told."""

import json
import shlex
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Run
from safetensors.torch import save_file

from unlearn_audit.audit import run_audit
from unlearn_audit.checkpoints import Checkpoint, Metadata, read_checkpoint, write_checkpoint
from unlearn_audit.config import AuditConfig, CheckpointEntry, Layer, resolve
from unlearn_audit.data import load_data
from unlearn_audit.errors import UsageError
from unlearn_audit.methods.apply import apply_method
from unlearn_audit.normalisation import FromFile, heir, normalised_as_asked, read_otherwise, resolve_normalisation

MEAN, STD = 0.21, 0.47
DIGITS = load_data("digits")


def checkpoint(metadata: Metadata | None = None, name: str = "o.pt", sha256: str = "a" * 64) -> Checkpoint:
    return Checkpoint(Path(name), sha256, "safetensors", {}, metadata)


def said(*, origin: str = "flag", own: Metadata | None = None, **more: Any) -> tuple[float, str, tuple[str, ...]]:
    """Return the mean that counts, who says it, and what is noted."""
    asked = more.pop("asked", {})
    entry = CheckpointEntry(path="o.pt", **more.pop("entry", {}))
    origins = dict.fromkeys(asked, origin) | {"checkpoint": origin}
    found = resolve_normalisation(
        AuditConfig(**asked), origins, entry=entry, checkpoint=checkpoint(own), dataset=DIGITS, **more
    )
    return found.transform.mean[0], found.origins["mean"], found.notes


CHILD = checkpoint(Metadata(model="m", mean=(0.3,), std=(0.4,), parent_sha256="a" * 64), "u.pt", "b" * 64)
OWN = Metadata(model="m", mean=(0.2,), std=(0.4,))


def test_precedence_from_the_flag_down_to_the_assumption() -> None:
    asked = {"mean": 0.1, "std": 0.4}
    in_file = FromFile((0.25,), (0.4,))
    assert said(asked=asked, own=OWN, in_file=in_file)[:2] == (0.1, "flag")
    assert said(asked=asked, own=OWN, entry={"mean": 0.05, "std": 1})[:2] == (0.05, "flag")
    assert said(asked=asked, own=OWN, origin="found")[:2] == (0.2, "metadata")
    assert said(asked=asked, in_file=in_file, child=CHILD, origin="found")[:2] == (0.25, "weights")
    assert said(asked=asked, child=CHILD, origin="found")[:2] == (0.3, "metadata of u.pt")
    assert said(asked=asked, origin="found")[:2] == (0.1, "found")
    mean, who, notes = said()
    assert (mean, who) == (DIGITS.mean[0], "default")
    assert notes == (
        f"assumed: inputs normalised with mean {DIGITS.mean[0]:.4g}, std {DIGITS.std[0]:.4g} (measured on the whole "
        "training split)",
    )


def test_what_is_half_said_is_half_assumed() -> None:
    assert said(asked={"mean": 0.1})[2] == (
        f"assumed: inputs normalised with std {DIGITS.std[0]:.4g} (measured on the whole training split)",
    )


def test_the_assumption_does_not_depend_on_how_much_of_the_training_set_is_kept() -> None:
    small = load_data("digits?train=100")
    assert (small.mean, small.std) == (DIGITS.mean, DIGITS.std)
    assert len(small.train) == 100


def test_children_that_disagree_are_no_help() -> None:
    parent = checkpoint()
    assert heir(parent, [parent, CHILD]) is CHILD
    assert heir(checkpoint(OWN), [CHILD]) is None
    assert heir(parent, [checkpoint(OWN, "x.pt", "c" * 64)]) is None
    assert CHILD.metadata is not None
    other = replace(CHILD, path=Path("v.pt"), metadata=CHILD.metadata.model_copy(update={"mean": (0.9,)}))
    with pytest.raises(UsageError, match=r"u\.pt and v\.pt were both made from o\.pt, and read it differently"):
        heir(parent, [CHILD, other])


def test_a_number_for_each_channel_or_one_for_all() -> None:
    with pytest.raises(UsageError, match="mean has 3 numbers, the images have 1 channels; give --mean one number"):
        said(asked={"mean": (0.1, 0.2, 0.3)})
    with pytest.raises(UsageError, match="std has 2 numbers"):
        normalised_as_asked(DIGITS, AuditConfig(std=(0.1, 0.2)))
    assert normalised_as_asked(DIGITS, AuditConfig(mean=(0.5,))).mean == (0.5,)


class Model:
    """A model as far as its normalisation goes."""

    def __init__(self, label: str, mean: float, by: str, recorded: float | None = None, note: str = "") -> None:
        self.label, self.transform, self.normalised_by = label, replace(DIGITS.transform, mean=(mean,)), by
        self.metadata = None if recorded is None else Metadata(model="m", mean=(recorded,), std=DIGITS.std)
        self.notes = (note,) if note else ()


ASSUMED = "assumed: inputs normalised with mean 0.3"


def test_an_assumption_beside_a_record_is_a_doubt() -> None:
    doubts, limitations = read_otherwise([Model("u", 0.2, "metadata", 0.2), Model("o", 0.3, "default", note=ASSUMED)])
    assert doubts["u"] == []
    assert "o is read with mean 0.3" in doubts["o"][0]
    assert "only assumed, but u with mean 0.2" in doubts["o"][0]
    assert limitations[0].startswith(f"o: {ASSUMED}; the numbers are wrong where")


def test_a_record_that_is_overruled_is_a_doubt_unless_digits_are_all_that_is_left_out() -> None:
    doubts, limitations = read_otherwise([Model("u", 0.3, "flag", 0.2), Model("r", 0.30004, "flag", 0.3)])
    assert "u is read with mean 0.3" in doubts["u"][0]
    assert "its metadata says mean 0.2" in doubts["u"][0]
    assert doubts["r"] == []
    assert limitations == []


def test_records_may_differ_and_what_was_named_apart_is_told() -> None:
    assert read_otherwise([Model("a", 0.2, "metadata", 0.2), Model("b", 0.4, "metadata", 0.4)]) == (
        {"a": [], "b": []},
        [],
    )
    _, limitations = read_otherwise([Model("a", 0.2, "config"), Model("b", 0.4, "metadata", 0.4)])
    assert "the inputs of a and b are normalised differently (mean 0.2" in limitations[0]


# ----- end to end


@pytest.fixture(scope="module")
def foreign(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An original that says nothing of itself, with a normalisation of its own, and what was unlearned from it."""
    folder = tmp_path_factory.mktemp("foreign folder")
    save_file(dict(read_checkpoint(tiny / "original.safetensors").state), folder / "o.safetensors")
    shutil.copy(tiny / "forget.npy", folder / "forget.npy")
    return folder


@pytest.fixture(scope="module")
def said_by_apply(foreign: Path, run: Run) -> str:
    ran = run("apply", "ft", foreign / "o.safetensors", "--forget", foreign / "forget.npy", "--steps", 2,
              "--data", "digits?mislabel=0.1&seed=0", "--mean", MEAN, "--std", STD, "--model", "small-cnn",
              "--out", foreign / "u.safetensors")  # fmt: skip
    assert ran.code == 0, ran.stderr
    return ran.stderr


def test_the_closing_command_of_apply_reads_parent_and_child_alike(foreign: Path, said_by_apply: str, run: Run) -> None:
    line = next(line for line in said_by_apply.splitlines() if line.startswith("audit it: "))
    words = shlex.split(line.removeprefix("audit it: "))
    for flag, value in (("--mean", MEAN), ("--std", STD), ("--model", "small-cnn")):
        assert words[words.index(flag) + 1] == str(value)
    ran = run(*words[1:], "--steps", 1, "--format", "json")
    assert ran.code == 0, ran.stderr
    report = json.loads(ran.stdout)
    assert report["settings"]["normalisation"] == dict.fromkeys("ou", {"mean": [MEAN], "std": [STD]})
    assert not any("assumed: inputs" in text for text in report["limitations"])
    assert [subject["doubts"] for subject in report["subjects"]] == [[], []]


def test_a_child_says_how_its_parent_is_read(foreign: Path, said_by_apply: str, run: Run) -> None:
    paths = [foreign / "o.safetensors", foreign / "u.safetensors"]
    ran = run("gaps", *paths, "--forget", foreign / "forget.npy", "--format", "json")
    report = json.loads(ran.stdout)
    assert report["settings"]["normalisation"]["o"] == {"mean": [MEAN], "std": [STD]}
    assert report["settings"]["from"]["model of o"] == f"metadata of {foreign / 'u.safetensors'}"
    notes = report["subjects"][0]["notes"]
    assert any(note.startswith("normalised as ") and "which was made from it" in note for note in notes)
    assert any(note.startswith("architecture as ") for note in notes)
    assert not any("assumed: inputs" in text for text in report["limitations"])


def test_an_assumption_is_in_the_table_and_among_the_limitations_and_its_children_inherit_it(
    foreign: Path, tmp_path: Path, run: Run
) -> None:
    command = [foreign / "o.safetensors", "--forget", foreign / "forget.npy", "--data", "digits?mislabel=0.1&seed=0"]
    ran = run("gaps", *command)
    text = " ".join(ran.stdout.split())
    assert text.count("o: assumed: inputs normalised with mean 0.3") == 2
    assert "Limitations" in text
    assert run("apply", "ft", *command, "--steps", 1, "--out", tmp_path / "u.safetensors").code == 0
    metadata = read_checkpoint(tmp_path / "u.safetensors").metadata
    assert metadata is not None
    assert any(note.startswith("assumed: inputs normalised with mean 0.3") for note in metadata.notes)
    both = run("gaps", tmp_path / "u.safetensors", *command, "--format", "json")
    (told,) = [text for text in json.loads(both.stdout)["limitations"] if "assumed: inputs" in text]
    assert told.startswith("u, o: assumed: inputs")
    named = run("gaps", *command, "--format", "json", "--mean", MEAN, "--std", STD)
    assert not any("assumed: inputs" in text for text in json.loads(named.stdout)["limitations"])


def test_each_checkpoint_can_have_its_own(foreign: Path, tmp_path: Path) -> None:
    entries = [
        {"path": str(foreign / "o.safetensors"), "label": "a", "mean": 0.1, "std": 0.2},
        {"path": str(foreign / "o.safetensors"), "label": "b", "role": "original"},
    ]
    asked = {"checkpoint": entries, "forget": "mislabelled", "data": "digits?mislabel=0.1&seed=0", "gaps": {}}
    request = resolve([Layer("config", asked | {"mean": 0.3, "std": 0.4})])
    report = run_audit(request.config, origins=request.origins)
    assert report.settings["normalisation"] == {"a": {"mean": [0.1], "std": [0.2]}, "b": {"mean": [0.3], "std": [0.4]}}
    assert any("a and b are normalised differently" in text for text in report.limitations)
    with pytest.raises(ValueError, match="every std must be greater than 0"):
        CheckpointEntry(path="x", std=(0.0,))


def test_a_model_that_is_retrained_is_trained_as_the_file_says(foreign: Path, tmp_path: Path) -> None:
    """Trained with mean .21 it must differ from one that is trained with the data's own mean."""
    means = []
    for name, asked in (("a", {"mean": MEAN, "std": STD}), ("b", {})):
        entry = {"path": str(foreign / "o.safetensors")}
        all_asked = {"checkpoint": [entry], "forget": "mislabelled", "data": "digits?mislabel=0.1&seed=0", **asked}
        out = tmp_path / f"{name}.safetensors"
        apply_method("retrain", out, resolve([Layer("flag", all_asked)]), {"epochs": 1, "recipe": "small"})
        means.append(read_checkpoint(out))
    assert means[0].metadata is not None
    assert means[0].metadata.mean == (MEAN,)
    name = next(iter(means[0].state))
    assert not np.array_equal(means[0].state[name], means[1].state[name])
    assert not any("assumed" in note for note in means[0].metadata.notes)


def test_init_has_a_line_for_it_and_its_commands_run(foreign: Path, here: Path, run: Run) -> None:
    flags = ["--original", foreign / "o.safetensors", "--forget", foreign / "forget.npy",
             "--data", "digits?mislabel=0.1&seed=0", "--model", "small-cnn"]  # fmt: skip
    assert "how inputs are normalised" in run("init", *flags, "--out", "bare").stderr
    assert "# mean = 0.5" in (here / "bare" / "unlearn-audit.toml").read_text()
    assert run("init", *flags, "--mean", MEAN, "--std", STD).code == 0
    text = (here / "unlearn-audit.toml").read_text()
    assert f"mean = [{MEAN}]\nstd = [{STD}]\n" in text
    (train,) = [line[1:].split() for line in text.splitlines() if line.startswith("#   unlearn-audit train")]
    words = shlex.split(" ".join(train))
    assert words[words.index("--mean") + 1] == str(MEAN)
    ran = run(*words[1:], "--epochs", 1)
    assert ran.code == 0, ran.stderr
    made = read_checkpoint(here / "retrained-1.safetensors").metadata
    assert made is not None
    assert (made.mean, made.std, made.role) == ((MEAN,), (STD,), "retrained")


def test_a_child_cannot_choose_code_for_its_parent(foreign: Path, tmp_path: Path, refused: Callable[..., None]) -> None:
    parent = read_checkpoint(foreign / "o.safetensors")
    evil = Metadata(model="evil.module:make", parent_sha256=parent.sha256, data="digits", role="unlearned")
    write_checkpoint(tmp_path / "u.safetensors", parent.state, evil, force=False)
    refused("gaps", foreign / "o.safetensors", tmp_path / "u.safetensors", "--forget", "class:3", code=2,
            says=["evil.module:make", "--model"])  # fmt: skip
