"""One run on several processes: one report, one voice, one exit code."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import Run
from forking import Forker

from unlearn_audit.cli import joint
from unlearn_audit.cli import measure as verbs
from unlearn_audit.cli.flags import Shared
from unlearn_audit.errors import UsageError

START = "import sys; sys.argv[0] = 'unlearn-audit'; from unlearn_audit.cli import main; main()"
AT_WORK = 8.0  # CPU seconds, some five of which a process takes to load torch
QUICK = {
    "rcd": ("--steps", 3, "--step-size", 0.01, "--resamples", 100, "--no-controls"),
    "spectrum": ("--eigenvalues", 1, "--probes", 2, "--no-controls"),
}


def asked(target: Path, verb: str, *more: object) -> list[object]:
    """A verb on a model of a small target, in chunks small enough that there are several."""
    return [
        verb,
        target / "unlearned.safetensors",
        "--forget",
        target / "forget.npy",
        "--batch-size",
        4,
        *QUICK[verb],
        *more,
    ]


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as one:
        one.bind(("localhost", 0))
        return int(one.getsockname()[1])


def on_two(forker: Forker, folder: Path, words: list[object]) -> list[tuple[int, str]]:
    """Exit code and stderr of each of two ranks that run the same words, as torchrun or srun start them."""
    environment = os.environ | {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port())}
    with open(folder / "0.err", "w+") as first, open(folder / "1.err", "w+") as second:
        said = (first, second)
        started = [
            forker.start(*words, env=environment | {"RANK": str(rank)}, stderr=said[rank].fileno()) for rank in range(2)
        ]
        return [(process.wait(), (folder / f"{rank}.err").read_text()) for rank, process in enumerate(started)]


def body(folder: Path) -> dict[str, Any]:
    """A report without what differs from run to run."""
    found = json.loads((folder / "report.json").read_text())
    return {key: value for key, value in found.items() if key not in ("created_at", "body_sha256")}


@pytest.mark.parametrize("verb", ["rcd", pytest.param("spectrum", marks=pytest.mark.slow)])
def test_two_processes_write_the_report_of_one(
    target: Path, tmp_path: Path, forker: Forker, run: Run, verb: str
) -> None:
    assert run(*asked(target, verb, "--out", tmp_path / "one", "--quiet")).code == 0
    assert on_two(forker, tmp_path, asked(target, verb, "--out", tmp_path / "two", "--quiet")) == [(0, "")] * 2
    assert body(tmp_path / "two") == body(tmp_path / "one")


def test_what_goes_wrong_on_all_of_them_the_first_one_tells(target: Path, tmp_path: Path, forker: Forker) -> None:
    (first, said), other = on_two(forker, tmp_path, asked(target, "rcd", "--unseen", "range:0-99999"))
    assert first == 2
    waits, error = said.splitlines()
    assert waits == "waiting up to 5 min for 1 more of the 2 processes of this run (WORLD_SIZE)"
    assert error.startswith("error: ")
    assert other == (0, "")


@pytest.mark.parametrize(
    ("codes", "code", "says"),
    [
        ({1: -9}, 3, "error: rank 1 of 4 was killed by signal 9 (SIGKILL), which ended the whole run\n"),
        ({0: 3, 2: -11}, 3, "error: rank 2 of 4 was killed by signal 11 (SIGSEGV), which ended the whole run\n"),
        ({0: 4}, 4, ""),
        ({1: 3, 0: 2}, 2, ""),
        ({3: 3}, 3, "error: rank 3 of 4: OSError: no space\n"),
        ({2: 3}, 3, "error: rank 2 of 4 ended with 3, which ended the whole run\n"),
    ],
)
def test_the_launcher_ends_with_the_first_ranks_code_and_tells_what_that_one_cannot(
    codes: dict[int, int], code: int, says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    log = tmp_path / "run" / "attempt_0" / "3" / "stderr.log"
    log.parent.mkdir(parents=True)
    log.write_text("a warning\nerror: rank 3 of 4: OSError: no space\n")
    assert joint._told(codes, 4, tmp_path) == code
    assert capsys.readouterr().err == says


def test_a_size_that_is_no_number_is_refused(target: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WORLD_SIZE": "two", "RANK": "0", "MASTER_ADDR": "localhost"}.items():
        monkeypatch.setenv(name, value)
    ran = run(*asked(target, "rcd"))
    assert ran.code == 2
    assert "WORLD_SIZE=two is no number of processes" in ran.stderr


def test_a_size_without_a_rank_is_somebody_elses(target: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run(*asked(target, "rcd", "--quiet")).code == 0


def test_a_verb_without_the_flag_joins_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "localhost"}.items():
        monkeypatch.setenv(name, value)
    done: list[tuple[str, ...]] = []
    monkeypatch.setattr(verbs, "resolved", lambda *words, **section: None)
    monkeypatch.setattr(verbs, "audit_and_emit", lambda request, shared, *, only: done.append(only))
    verbs.measure([], Shared(), gaps={})
    assert done == [("gaps",)]
    with pytest.raises(UsageError, match="MASTER_PORT expected"):
        verbs.measure([], Shared(), ranks=joint.on_ranks(None, quiet=True), rcd={})


def test_layers_take_no_processes(target: Path, run: Run) -> None:
    ran = run("spectrum", "--layers", target / "original.safetensors", "--nproc", 2)
    assert ran.code == 2
    assert "--nproc is of the curvature" in ran.stderr


def launched(words: list[object]) -> "subprocess.Popen[str]":
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", START, *map(str, words)],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def cpu_seconds(pid: int) -> float:
    """How long a process has computed."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) / os.sysconf("SC_CLK_TCK")


def ranks_of(process: "subprocess.Popen[str]") -> list[int]:
    """The numbers of the processes that a launcher has started."""
    found = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(pid) for pid in found if b"shadows" not in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.mark.slow
def test_nproc_prints_one_document_which_is_that_of_one_process(target: Path, run: Run) -> None:
    process = launched(asked(target, "rcd", "--nproc", 2, "--format", "json"))
    out, err = process.communicate(timeout=600)
    assert (process.returncode, err) == (0, "")
    alone = json.loads(run(*asked(target, "rcd", "--format", "json")).stdout)
    assert json.loads(out)["measurements"] == alone["measurements"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("which", "code", "says"),
    [
        (1, 3, "error: rank 1 of 2 was killed by signal 9 (SIGKILL), which ended the whole run\n"),
        (0, 3, "error: rank 0 of 2 was killed by signal 9 (SIGKILL), which ended the whole run\n"),
        (None, 130, "interrupted\n"),
    ],
    ids=["the second rank is killed", "the first rank is killed", "the launcher is interrupted"],
)
def test_one_that_dies_ends_the_whole_run_with_one_error(
    target: Path, tmp_path: Path, which: int | None, code: int, says: str
) -> None:
    words = asked(target, "rcd", "--nproc", 2, "--quiet", "--out", tmp_path / "r")
    process = launched([*words, "--steps", 100_000])
    while not (len(pids := ranks_of(process)) == 2 and all(cpu_seconds(pid) > AT_WORK for pid in pids)):
        time.sleep(0.1)
    os.kill(process.pid if which is None else pids[which], signal.SIGINT if which is None else signal.SIGKILL)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out, err) == (code, "", says)
    assert not (tmp_path / "r" / "report.json").exists()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
