"""Unknown names, unusable outputs, devices, configs and flags: refused in one line before any work is done."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Refused, Run

pytestmark = pytest.mark.usefixtures("here")

without_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
with_proc = pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="no /proc, where root cannot write either")


def asked(tiny: Path, verb: str) -> list[object]:
    """Return a request of a verb that would succeed, with outputs into the current folder."""
    subject, forget = tiny / "unlearned.safetensors", ["--forget", tiny / "forget.npy"]
    forms: dict[str, list[object]] = {
        "rcd": ["rcd", subject, *forget],
        "gaps": ["gaps", subject, *forget],
        "mia": ["mia", "loss", subject, *forget],
        "apply": ["apply", "ieu", subject, *forget, "--out", "o.safetensors"],
        "unlearn": ["unlearn", "ieu", subject, *forget, "--out", "o.safetensors"],
        "train": ["train", "--data", "digits", "--out", "o.safetensors", "--epochs", 1],
    }
    return forms[verb]


# --- unknown names, with the nearest match

NAMES: list[tuple[str, list[object], list[str]]] = [
    ("rcd", ["--model", "smal-cnn"], ["unknown model 'smal-cnn'", "did you mean 'small-cnn'?"]),
    ("rcd", ["--model", "torchvision:resnet81"], ["torchvision", "'resnet81'", "did you mean resnet18"]),
    ("apply", ["--model", "resnet200"], ["unknown model 'resnet200'", "did you mean 'resnet20'?"]),
    ("train", ["--model", "vgg16"], ["unknown model 'vgg16'", "torchvision:vgg16"]),
    ("gaps", ["--data", "digit"], ["unknown data source 'digit'", "did you mean 'digits'?"]),
    ("train", ["--data", "digits?mislable=0.1"], ["unknown option 'mislable'", "did you mean 'mislabel'?"]),
    ("apply", ["--data", "torchvision:MNITS"], ["data set 'MNITS'", "did you mean 'MNIST'?"]),
    ("rcd", ["--data", "idx:nowhere"], ["data not found", "nowhere"]),
    ("rcd", ["--optimizer", "adm"], ["--optimizer", "'adm'", "did you mean 'adam'?"]),
    ("rcd", ["--optimiser", "gd"], ["--optimiser", "--optimizer"]),
    ("train", ["--recipe", "resent"], ["unknown recipe 'resent'", "did you mean 'resnet'?"]),
    ("rcd", ["--device", "gpu"], ["--device", "'gpu'", "did you mean 'cpu'?"]),
    ("train", ["--device", "cuda:one"], ["--device", "'cuda:one'", "cuda:N"]),
    ("apply", ["--device", "cudo"], ["--device", "'cudo'", "did you mean 'cuda'?"]),
    ("gaps", ["--precision", "fp16"], ["--precision", "'fp16'", "did you mean 'bf16'?"]),
    ("train", ["--precision", "tf23"], ["--precision", "'tf23'", "did you mean 'tf32'?"]),
    ("apply", ["--precision", "float"], ["--precision", "'float'", "fp32"]),
    ("mia", ["--format", "jsn"], ["--format", "'jsn'", "'json'"]),
    ("apply", ["--scale", "fan_im"], ["scale", "'fan_im'", "'fan_in'"]),
]


@pytest.mark.parametrize(("verb", "flags", "says"), NAMES)
def test_an_unknown_name(verb: str, flags: list[object], says: list[str], refused: Refused, tiny: Path) -> None:
    refused(*asked(tiny, verb), *flags, code=2, says=says)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["rdc", "c.safetensors"], ["'rdc'", "Did you mean 'rcd'?"]),
        (["frobnicate"], ["'frobnicate'"]),
        (["apply", "ieo", "c", "--forget", "f", "--out", "o"], ["unknown method 'ieo'", "did you mean 'ieu'?"]),
        (["unlearn", "ieo", "c", "--forget", "f", "--out", "o"], ["unknown method 'ieo'", "did you mean 'ieu'?"]),
        (["mia", "los", "c", "--forget", "f"], ["unknown attack 'los'", "did you mean 'loss'?"]),
        (["demo", "--scenario", "mislabeled"], ["--scenario", "'mislabeled'", "'mislabelled'"]),
        (["schema", "reprot"], ["'reprot'", "'report'"]),
    ],
)
def test_an_unknown_word(arguments: list[object], says: list[str], refused: Refused) -> None:
    refused(*arguments, code=2, says=says)


def test_an_unknown_section(refused: Refused, here: Path) -> None:
    (here / "c.toml").write_text('forget = "class:3"\n[rcd]\n')
    refused("audit", "c.toml", "--only", "rdc", code=2, says=["'rdc'", "did you mean 'rcd'?"])


# --- outputs

FILES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "exists": (lambda here: (here / "o.safetensors").write_bytes(b"old"), "o.safetensors", "--force"),
    "is a directory": (lambda here: (here / "o.safetensors").mkdir(), "o.safetensors", "is a directory"),
    "below a file": (lambda here: (here / "f").touch(), "f/o.safetensors", "f is a file, not a folder"),
    "unwritable": (lambda here: None, "/proc/o.safetensors", "cannot write /proc/o.safetensors"),
}


def an_old_report(here: Path) -> None:
    """Leave a report that was there before this process; one of today could be what another audit just wrote."""
    (here / "report.json").touch()
    os.utime(here / "report.json", (0, 0))


FOLDERS: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "exists": (an_old_report, ".", "report.json exists already; use --force"),
    "is a file": (lambda here: (here / "o").touch(), "o", "o is a file; --out needs a folder"),
    "below a file": (lambda here: (here / "f").touch(), "f/o", "f is a file, not a folder"),
    "unwritable": (lambda here: None, "/proc/o", "cannot write into /proc/o"),
}


@pytest.mark.parametrize("verb", ["train", "apply"])
@pytest.mark.parametrize("wrong", [pytest.param(w, marks=with_proc) if w == "unwritable" else w for w in FILES])
def test_a_checkpoint_that_cannot_be_written(wrong: str, verb: str, refused: Refused, tiny: Path, here: Path) -> None:
    prepare, out, mention = FILES[wrong]
    prepare(here)
    refused(*asked(tiny, verb), "--out", out, code=2, says=[out, mention])


@pytest.mark.parametrize("verb", ["rcd", "gaps", "mia", "audit", "demo"])
@pytest.mark.parametrize("wrong", [pytest.param(w, marks=with_proc) if w == "unwritable" else w for w in FOLDERS])
def test_a_folder_that_cannot_be_written(wrong: str, verb: str, refused: Refused, tiny: Path, here: Path) -> None:
    prepare, out, mention = FOLDERS[wrong]
    prepare(here)
    (here / "c.toml").write_text('forget = "class:3"\n[gaps]\n')
    request = {"audit": ["audit", "c.toml"], "demo": ["demo"]}.get(verb) or asked(tiny, verb)
    refused(*request, "--out", out, code=2, says=[out, mention])


def test_a_demo_is_not_written_over_other_files(refused: Refused, here: Path) -> None:
    np.save(here / "forget.npy", np.arange(3))
    refused("demo", "--out", ".", code=2, says=["forget.npy exists already", "--force"])


def test_force_replaces(run: Run, tiny: Path, here: Path) -> None:
    (here / "o.safetensors").write_bytes(b"old")
    (here / "report.json").write_bytes(b"old")
    assert run(*asked(tiny, "apply"), "--steps", 1, "--force").code == 0
    assert run("gaps", "o.safetensors", "--forget", "class:3", "--out", ".", "--force").code == 0
    assert (here / "o.safetensors").stat().st_size > 1000
    assert (here / "report.json").read_text().startswith("{")
    assert len(list(here.iterdir())) == 2


def test_a_method_does_not_replace_what_it_starts_from(refused: Refused, tiny: Path, here: Path) -> None:
    start = here / "o.safetensors"
    start.write_bytes((tiny / "original.safetensors").read_bytes())
    forget = ["--forget", tiny / "forget.npy"]
    refused("apply", "ieu", start, *forget, "--out", start, "--force", code=2, says=["o.safetensors", "elsewhere"])


@pytest.mark.parametrize("verb", ["rcd", "gaps", "mia"])
def test_no_folder_is_left_when_the_measurement_fails(verb: str, refused: Refused, tiny: Path) -> None:
    refused(*asked(tiny, verb), "--forget", "class:99", "--out", "a/b", code=2, says=["class 99"])


def test_nothing_is_left_when_a_method_diverges(refused: Refused, tiny: Path) -> None:
    wild = ["--step-size", "1e20", "--steps", 30]
    refused(*asked(tiny, "apply"), *wild, code=3, says=["diverged", "use a smaller step size"])


# --- devices


@without_cuda
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
@pytest.mark.parametrize("verb", ["rcd", "gaps", "mia", "apply", "train"])
def test_cuda_that_is_not_there(verb: str, device: str, refused: Refused, tiny: Path) -> None:
    refused(*asked(tiny, verb), "--device", device, code=2, says=[f"--device {device}", "no CUDA device", "cpu"])


# --- configs

CONFIGS: dict[str, tuple[bytes, list[str]]] = {
    "empty": (b"", ["is empty"]),
    "not TOML": (b"forget = = 3", ["not readable TOML", "line 1"]),
    "not text": (b"\xff\xfe\x00", ["not readable TOML"]),
    "unknown key": (b"forgett = 'a'", ["unknown key 'forgett'", "did you mean 'forget'?"]),
    "version": (b"schema_version = 2", ["schema_version"]),
    "every problem": (
        b"forgett = 'a'\nprecision = 'fp1'\nstd = 0\nmean = 'a'\nseed = -1\n[rcd]\nstepps = 2\nsteps = -1\n",
        ["7 problems", "'forgett'", "'fp1'", "every std", "mean: ", "seed: ", "did you mean 'steps'?", "rcd.steps: "],
    ),
}


@pytest.mark.parametrize("verb", ["rcd", "audit", "validate", "apply"])
@pytest.mark.parametrize("wrong", CONFIGS)
def test_a_config_that_is_wrong(wrong: str, verb: str, refused: Refused, tiny: Path, here: Path) -> None:
    content, says = CONFIGS[wrong]
    (here / "c.toml").write_bytes(content)
    request = [verb, "c.toml"] if verb in ("audit", "validate") else [*asked(tiny, verb), "--config", "c.toml"]
    if wrong == "every problem" and verb == "apply":  # another verb's section is none of its business
        says = ["5 problems"]
    if wrong == "every problem" and verb == "validate":  # which also misses a checkpoint and a forget set
        says = ["9 problems", *says[1:]]
    refused(*request, code=2, says=["c.toml", *says])


@pytest.mark.parametrize("verb", ["rcd", "audit", "validate", "inspect"])
@pytest.mark.parametrize(("config", "mention"), [("nowhere.toml", "config not found"), (".", "is a directory")])
def test_a_config_that_is_no_file(verb: str, config: str, mention: str, refused: Refused, tiny: Path) -> None:
    request: Sequence[object] = [verb, config] if verb in ("audit", "validate") else [
        verb, tiny / "original.safetensors", "--config", config]  # fmt: skip
    refused(*request, code=2, says=[config, mention])


def test_a_found_config_that_is_wrong_is_named(refused: Refused, tiny: Path, here: Path) -> None:
    (here / "pyproject.toml").write_text("[tool.unlearn-audit]\nsed = 3\n")
    refused(*asked(tiny, "rcd"), code=2, says=["pyproject.toml", "unknown key 'sed'", "did you mean 'seed'?"])
    (here / "pyproject.toml").write_text("[tool]\nunlearn-audit = 3  # [tool.unlearn-audit]\n")
    refused(*asked(tiny, "rcd"), code=2, says=["pyproject.toml", "must be a table"])


def test_a_config_names_files_that_are_not_there(refused: Refused, here: Path) -> None:
    (here / "c.toml").write_text('forget = "f.npy"\n[[checkpoint]]\npath = "c.safetensors"\n')
    says = ["3 problems", "c.safetensors", "f.npy", "nothing to measure"]
    refused("validate", "c.toml", code=2, says=says)


@pytest.mark.parametrize("name", ["SEED", "BATCH_SIZE", "SAMPLE", "PRECISION", "DEVICE"])
def test_the_environment_is_checked_too(
    name: str, refused: Refused, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"UNLEARN_AUDIT_{name}", "-7")
    refused(*asked(tiny, "rcd"), code=2, says=[f"UNLEARN_AUDIT_{name}", "-7"])


# --- flags out of range

FLAGS: dict[str, list[tuple[str, list[str]]]] = {
    "rcd": [
        ("--mean", ["x", "", "nan", "0.1,0.2"]),
        ("--std", ["0", "-1", "inf", "0.1,0.2,0.3", "1,"]),
        ("--steps", ["-1", "x", "1.5", "1000000000"]),
        ("--step-size", ["nan", "inf", "-1", "0", "x"]),
        ("--floor", ["nan", "lowest"]),
        ("--sample", ["0", "-2"]),
        ("--seed", ["-1", "x", str(2**63)]),
        ("--batch-size", ["0", "-1"]),
    ],
    "train": [("--seed", ["-1", str(2**63)]), ("--epochs", ["0", "x"])],
    "apply": [
        ("--seed", ["-1"]),
        ("--alpha", ["1.5", "nan"]),
        ("--c", ["-1", "inf"]),
        ("--step-size", ["nan", "inf", "0"]),
        ("--steps", ["-1", "x"]),
        ("--batch-size", ["0"]),
    ],
}


@pytest.mark.parametrize(
    ("verb", "flag", "value"),
    [(verb, flag, value) for verb in FLAGS for flag, values in FLAGS[verb] for value in values],
)
def test_a_flag_out_of_range(verb: str, flag: str, value: str, refused: Refused, tiny: Path) -> None:
    key = flag.removeprefix("--").replace("-", "_")
    mention = key if verb == "apply" and flag != "--seed" and value != "x" else flag
    refused(*asked(tiny, verb), f"{flag}={value}", code=2, says=[mention])


@pytest.mark.parametrize("seed", ["-1", str(10**18)])
def test_a_seed_that_the_demo_cannot_take(seed: str, refused: Refused) -> None:
    refused("demo", f"--seed={seed}", code=2, says=["--seed"])


# --- reports and policies


@pytest.mark.parametrize(
    ("content", "mention"),
    [(None, "not found"), (b"", "is empty"), (b"{", "not a readable report"), (b"{}", "schema_version is None")],
)
@pytest.mark.parametrize("verb", ["show", "gate"])
def test_a_report_that_is_none(verb: str, content: bytes | None, mention: str, refused: Refused, here: Path) -> None:
    (here / "p.toml").write_text('schema_version = 1\n[[rule]]\nid = "a"\nmetric = "rcd.raw"\nmin = 1\n')
    if content is not None:
        (here / "r.json").write_bytes(content)
    policy = ["--policy", "p.toml"] if verb == "gate" else []
    refused(verb, "r.json", *policy, code=3, says=["r.json", mention])


@pytest.mark.parametrize(
    ("content", "mention"),
    [(None, "not found"), (b"", "is empty"), (b"a = = 1", "not readable TOML"), (b"schema_version = 1", "rule")],
)
def test_a_policy_that_is_none(content: bytes | None, mention: str, refused: Refused, here: Path) -> None:
    if content is not None:
        (here / "p.toml").write_bytes(content)
    refused("gate", "r.json", "--policy", "p.toml", code=2, says=["p.toml", mention])
