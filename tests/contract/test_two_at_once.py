"""Two that write the same thing at once: the second waits and takes what the first made, or says who is at work."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from forking import Forked, Forker

CODE = "import sys; sys.argv[0] = 'unlearn-audit'; from unlearn_audit.cli import main; main()"
CONFIG = """
schema_version = 1
forget = "{tiny}/forget.npy"
{section}

[[checkpoint]]
path = "{tiny}/original.safetensors"

[[apply]]
label = "unlearned"
method = "ieu"
settings = {{ steps = 30 }}
"""


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Start the command line in a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}

    def begin(*arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", CODE, *map(str, arguments)]
        return subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    return begin


def wait_for(path: Path, process: subprocess.Popen[str] | Forked) -> None:
    """Wait until a file is there."""
    while not path.exists():
        assert process.poll() is None, "it has ended"
        time.sleep(0.02)


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, stderr = process.communicate(timeout=900)
    return process.returncode, stderr


@pytest.fixture
def config(tmp_path: Path, tiny: Path) -> Callable[[str], Path]:
    """Write a config with one section that makes a model."""

    def write(section: str) -> Path:
        path = tmp_path / f"{section}.toml"
        path.write_text(CONFIG.format(tiny=tiny, section=f"[{section}]"))
        return path

    return write


def numbers(folder: Path) -> Any:
    return json.loads((folder / "report.json").read_text())["measurements"]


@pytest.mark.slow
def test_of_two_audits_the_second_waits_and_reuses(
    start: Callable[..., subprocess.Popen[str]], config: Callable[[str], Path], tmp_path: Path
) -> None:
    out, asked, other = tmp_path / "out", config("gaps"), config("mia")
    first = start("audit", asked, "--out", out)
    second = start("audit", asked, "--out", out)
    wait_for(out / ".unlearn-audit.lock", first)
    third = start("audit", other, "--out", out)
    both = [ended(first), ended(second)]
    assert [code for code, _ in both] == [0, 0], both
    assert sorted("measured before: gaps" in said for _, said in both) == [False, True]
    found = numbers(out)
    code, said = ended(third)
    assert (code, "another audit wrote another report" in said) == (2, True), said
    assert numbers(out) == found
    assert sorted(path.name for path in out.iterdir()) == ["models", "parts", "report.json"]


def test_a_file_that_another_process_is_writing_is_refused(
    forker: Forker, run: Callable[..., Any], tmp_path: Path
) -> None:
    out = tmp_path / "original.safetensors"
    first = forker.start("train", "--data", "digits", "--epochs", "1000", "--out", out)
    wait_for(tmp_path / ".original.safetensors.lock", first)
    second = run("train", "--data", "digits", "--out", out)
    first.kill()
    first.wait()
    assert second.code == 2
    assert "another process is writing" in second.stderr
