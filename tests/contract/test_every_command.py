"""Every command that README, guide and `--help` print is run as it stands there, on models that are quickly made.

Slow: minutes. What makes a command short is said in `SHORTER` and `FLAGS`; which are not run, and why, in `NOT_RUN`.
"""

import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

Cli = Callable[..., Any]
ROOT = Path(__file__).parents[2]

NOT_RUN = {
    r"\bsd14": "a text-to-image model of gigabytes, which is not to be had without a network",
    r"--until-settled": "grows a fleet until its verdict stands: hours",
    r"\br\*\.": "the same, of several retrained models",
    r"--nproc": "several processes, each with a start of its own: tests/cli/test_joint.py",
    r"^unlearn-audit demo": "a minute: the fixture of tests/contract/test_demo.py",
    r"--backend ray": "a cluster: tests/shadows/test_ray.py and tests/audit/test_models_apart.py",
    r"--scope head": "needs a model that has converged: tests of truncation and spectrum",
}
SHORTER = {
    r"--data digits --model small-unet": "--data 'digits?train=80&test=80' --model tiny-unet",
    r"(generate .*)--count \d+": r"\1--count 2",
    r"(shadows .*)--count \d+": r"\1--count 4",
    r"--retrain 3": "--retrain 1",
    r"--steps \d+": "--steps 2",
}
FLAGS = {
    "train": "--epochs 1",
    "apply": "--steps 1",
    "generate": "--sampling-steps 2",
    "fidelity": "--samples 10 --kept-samples 3 --sampling-steps 2",
    "rcd": "--steps 2",
    "truncation": "--steps 12",
}
OF_GENERATORS = {"rcd": "--draws 4"}
MAY_END = {"gate": (0, 1, 4), "show": (0,), "validate": (0,)}  # others: 0, or 4 where so small a model shows nothing


def printed() -> Iterator[str]:
    """Yield every command, from the pages and from the docstrings that `--help` prints."""
    for page in (ROOT / "README.md", *sorted((ROOT / ".github").rglob("*.md"))):
        for block in re.findall(r"^```(?:bash|sh)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
            yield from re.findall(r"^unlearn-audit .*$", block.replace("\\\n", " "), re.MULTILINE)
    for source in sorted((ROOT / "unlearn_audit" / "cli").glob("*.py")):
        text = re.sub(r"\\+\n", " ", source.read_text())
        yield from re.findall(r"^ {6}(unlearn-audit [^{}]*?)$", text, re.MULTILINE)


COMMANDS = list(dict.fromkeys(" ".join(line.split()) for line in printed()))
RUN = [line for line in COMMANDS if not any(re.search(pattern, line) for pattern in NOT_RUN)]

CONFIG = """
schema_version = 1
forget = "forget.npy"
[[checkpoint]]
path = "original.safetensors"
role = "original"
[[checkpoint]]
path = "unlearned.safetensors"
role = "unlearned"
[gaps]
[rcd]
steps = 2
[mia]
attacks = ["loss"]
"""
JUDGE = """
import numpy as np
class Judge:
    def labels(self, images):
        return np.arange(len(images)) % 10
def callable():
    return Judge()
"""
POLICY = 'schema_version = 1\n[[rule]]\nid = "useful"\nmetric = "accuracy.test"\nmin = 0.01\n'
NAMES = {  # of the models that examples speak of
    "original": ("original.safetensors", "original.pt", "o.pt", "o.safetensors", "judge.safetensors"),
    "unlearned": ("unlearned.safetensors", "u.pt", "u.safetensors", "masked.safetensors"),
    "retrained-1": ("retrained.safetensors", "retrained-1.safetensors", "r.pt", "r1.pt", "r1.safetensors"),
    "retrained-2": ("retrained-2.safetensors", "r2.pt", "r2.safetensors"),
    "retrained-3": ("retrained-3.safetensors", "r3.pt", "r3.safetensors"),
}


@pytest.fixture(scope="module")
def workshop(tiny: Path, tiny_fleet: Path, run: Cli, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that the examples name."""
    folder = tmp_path_factory.mktemp("workshop")

    def made(*words: object) -> None:
        done = run(*words, "--quiet")
        assert done.code == 0, done.stderr

    third = ("--data", "digits?mislabel=0.1&seed=0", "--without", "mislabelled", "--seed", 3, "--epochs", 3)
    made("train", *third, "--out", folder / "third.safetensors")
    copy_models(tiny, folder)
    for copy in ("shadows", "shared-disk/shadows"):
        shutil.copytree(tiny_fleet, folder / copy)
    for place in ("demo/unlearn-audit.toml", "unlearn-audit.toml", "comparison.toml"):
        (folder / place).write_text(CONFIG)
    (folder / "policy.toml").write_text(POLICY)
    made("audit", folder / "unlearn-audit.toml", "--out", folder / "report")
    for copy in ("demo", "study", "another-study"):
        (folder / copy).mkdir(exist_ok=True)
        shutil.copy(folder / "report" / "report.json", folder / copy)
    (folder / "my").mkdir()
    (folder / "my" / "module.py").write_text(JUDGE)
    if find_spec("diffusers") is not None:
        make_generators(folder, made)
    return folder


def copy_models(tiny: Path, folder: Path) -> None:
    """Put the classifiers and the forget set there under each of their names."""
    (folder / "demo").mkdir()
    for name, copies in NAMES.items():
        for copy in copies:
            third = folder / "third.safetensors"
            shutil.copy(third if name == "retrained-3" else tiny / f"{name}.safetensors", folder / copy)
    for name in ("original", "unlearned", "retrained-1", "retrained-2"):
        shutil.copy(tiny / f"{name}.safetensors", folder / "demo")
    for copy in ("idx.npy", "i.npy", "forget.npy", "demo/forget.npy"):
        shutil.copy(tiny / "forget.npy", folder / copy)


def make_generators(folder: Path, made: Cli) -> None:
    """Train generators of next to nothing, under each of their names."""
    small = ("--data", "digits?train=80&test=80", "--model", "tiny-unet", "--epochs", 1)
    made("train", *small, "--out", folder / "original")
    for seed, name in ((1, "retrained"), (1, "retrained-1"), (2, "retrained-2")):
        made("train", *small, "--without", "class:3", "--seed", seed, "--out", folder / name)
    made("apply", "ft", folder / "original", "--forget", "class:3", "--steps", 1, "--out", folder / "unlearned")
    for name, copy in (("original", "o"), ("unlearned", "u")):
        shutil.copytree(folder / name, folder / copy)


def made_by(words: list[str]) -> list[str]:
    """Return what a command makes anew, which must not be there yet."""
    outputs = [after for flag, after in pairwise(words) if flag in ("--out", "--html", "--junit", "--figures")]
    if words[0] == "init":
        return ["unlearn-audit.toml", "policy.toml"]
    new_fleet = words[0] == "shadows" and words[1] in ("run", "plan") and "--forget" in words
    return [*outputs, words[2]] if new_fleet else outputs


@pytest.mark.parametrize("command", RUN)
def test_a_command_runs(command: str, workshop: Path, run: Cli, here: Path) -> None:
    folders = [word for word in shlex.split(command) if word.endswith("/") and (workshop / word / "unet").is_dir()]
    if (folders or "unet" in command) and find_spec("diffusers") is None:
        pytest.skip("pip install 'unlearn-audit[diffusion]'")
    shutil.copytree(workshop, here, dirs_exist_ok=True)
    for pattern, shorter in SHORTER.items():
        command = re.sub(pattern, shorter, command)
    words = shlex.split(command)[1:]
    for path in (here / name for name in made_by(words)):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    more = f"{FLAGS.get(words[0], '')} {OF_GENERATORS.get(words[0], '') if folders else ''}".split()
    done = run(*words, *more)
    assert done.code in MAY_END.get(words[0], (0, 4)), (command, done.stderr)


def test_what_is_not_run_is_there() -> None:
    """A reason that fits no command any more is none."""
    for pattern in NOT_RUN:
        if "demo" not in pattern:
            assert any(re.search(pattern, line) for line in COMMANDS), pattern
    assert len(RUN) > 80
