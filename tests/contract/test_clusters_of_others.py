"""The sample jobs for clusters: what SLURM and Kubernetes would read, and that what they call is there."""

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

SAMPLES = Path(__file__).parents[2] / "sample_configs"
SLURM, KUBERNETES = SAMPLES / "shadows-slurm.sh", SAMPLES / "shadows-kubernetes.yaml"
JOB: dict[str, Any] = yaml.safe_load(KUBERNETES.read_text())


def submitted(folder: Path, **given: str) -> subprocess.CompletedProcess[str]:
    """The script as a node runs it, with a command line that only tells what it was called with."""
    tool = folder / "unlearn-audit"
    tool.write_text('#!/bin/sh\necho "$OMP_NUM_THREADS" "$@"\n')
    tool.chmod(0o755)
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", **given}
    return subprocess.run(["bash", SLURM], env=environment, capture_output=True, text=True, check=False)


def test_a_task_of_the_array_is_a_worker_on_the_fleet(tmp_path: Path) -> None:
    done = submitted(tmp_path, FLEET="/shared/my shadows")
    assert (done.returncode, done.stdout, done.stderr) == (0, "1 shadows worker /shared/my shadows\n", "")


def test_without_a_fleet_it_says_how_to_name_one(tmp_path: Path) -> None:
    done = submitted(tmp_path)
    assert done.returncode != 0
    assert "sbatch --export=ALL,FLEET=DIR" in done.stderr


def test_the_array_asks_for_one_core_and_to_be_told_before_its_end() -> None:
    lines = SLURM.read_text().splitlines()
    asked = dict(line.removeprefix("#SBATCH --").partition("=")[::2] for line in lines if line.startswith("#SBATCH"))
    assert asked["cpus-per-task"] == asked["ntasks"] == "1"
    assert re.fullmatch(r"0-\d+", asked["array"])
    assert asked["signal"] == "B:TERM@60"  # to the script, whose place the worker has taken
    first = next(index for index, line in enumerate(lines) if line and not line.startswith("#"))
    assert not any(line.startswith("#SBATCH") for line in lines[first:]), "SLURM reads no further"


def test_the_job_is_a_queue_of_workers_that_may_die() -> None:
    spec = JOB["spec"]
    assert (JOB["apiVersion"], JOB["kind"]) == ("batch/v1", "Job")
    assert spec["parallelism"] > 1
    assert "completions" not in spec
    assert "completionMode" not in spec
    pod = spec["template"]["spec"]
    assert pod["restartPolicy"] == "OnFailure"
    (worker,), (volume,) = pod["containers"], pod["volumes"]
    (mount,) = worker["volumeMounts"]
    assert mount["name"] == volume["name"]
    assert worker["command"][3].startswith(mount["mountPath"] + "/")
    assert {"name": "OMP_NUM_THREADS", "value": "1"} in worker["env"]


@pytest.mark.parametrize("path", [SLURM, KUBERNETES], ids=lambda path: path.suffix)
def test_what_the_samples_call_is_there(path: Path, run: Callable[..., Any], tmp_path: Path) -> None:
    calls = [line.lstrip("# ").split()[1:] for line in path.read_text().splitlines() if "unlearn-audit shadows" in line]
    calls += [JOB["spec"]["template"]["spec"]["containers"][0]["command"][1:]]
    for words in calls:
        words = words[words.index("shadows") :]
        told = run(*words[:2], "--help")
        assert told.code == 0, words
        assert [word for word in words if word.startswith("--") and word not in told.stdout] == []
    ran = run("shadows", "worker", tmp_path / "none", "--quiet")
    assert ran.code == 2
    assert "is no fleet of shadow models" in ran.stderr
