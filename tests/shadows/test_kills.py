"""Processes of a fleet: killed at any moment, asked to end, abandoned; what comes out is what nobody disturbed."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Run
from small_fleets import contents, plan_small

from unlearn_audit.checkpoints import read_checkpoint, write_checkpoint
from unlearn_audit.engine import Device
from unlearn_audit.errors import MeasurementError, UsageError
from unlearn_audit.shadows import (
    FleetContext,
    default_workers,
    members,
    open_fleet_context,
    run_workers,
    verify,
    work,
)
from unlearn_audit.training import SMALL

RUNNING: ModuleType = sys.modules[run_workers.__module__]
START = ["-c", "import sys; sys.argv[0] = 'unlearn-audit'; from unlearn_audit.cli import main; main()"]
EPOCHS = 40  # a step each: long enough to be killed in the midst of it


@pytest.fixture(scope="module")
def undisturbed(target: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a fleet of four models comes to that one worker made in one go."""
    folder = tmp_path_factory.mktemp("undisturbed") / "s"
    plan_small(folder, target, epochs=EPOCHS)
    assert work(open_fleet_context(folder)) == 8
    return contents(folder)


@pytest.fixture
def empty(target: Path, tmp_path: Path) -> FleetContext:
    """The same fleet, with nothing done yet."""
    plan_small(tmp_path / "s", target, epochs=EPOCHS)
    return open_fleet_context(tmp_path / "s")


def start(verb: str, folder: Path, *flags: str) -> "subprocess.Popen[str]":
    """Start a verb in a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *START, "shadows", verb, str(folder), *flags]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(what: Callable[[], Any], timeout: float = 600) -> Any:
    """Return the first answer that is true."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        found = what()
        if found:
            return found
        time.sleep(0.005)
    pytest.fail("it did not come to pass")


def at_work(folder: Path) -> set[int]:
    """The processes that have claimed something."""
    found = set()
    for path in folder.glob("claims/*.json"):
        try:
            found.add(int(json.loads(path.read_text())["pid"]))
        except (OSError, ValueError):
            continue
    return found


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/status")
    return not (status.exists() and "State:\tZ" in status.read_text())


def inodes(folder: Path) -> dict[str, tuple[int, int]]:
    """Which files are there, and since when."""
    found = [*folder.glob("models/[!.]*"), *folder.glob("signals/[!.]*")]
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in found}


def drafts(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob(".*") if path.is_file())


# ----- really killed


def test_workers_and_runs_that_are_killed_lose_nothing_that_is_finished(
    empty: FleetContext, undisturbed: dict[str, bytes]
) -> None:
    folder = empty.folder.path
    with start("run", folder, "--workers", "1", "--quiet") as process:
        (first,) = wait_for(lambda: at_work(folder))
        os.kill(first, signal.SIGKILL)
        (second,) = wait_for(lambda: at_work(folder) - {first})
        wait_for(lambda: inodes(folder))
        kept = inodes(folder)
        process.send_signal(signal.SIGKILL)
        process.wait()
    wait_for(lambda: not alive(second), timeout=600)  # a worker does not outlive its run
    assert kept.items() <= inodes(folder).items()
    kept = inodes(folder)
    assert len(kept) < 16
    assert work(empty) >= 8 - len(kept) // 2 - 1
    assert kept.items() <= inodes(folder).items()
    assert {name: each for name, each in contents(folder).items() if "/." not in name} == undisturbed
    assert verify(empty) == []


@pytest.mark.parametrize("how", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_run_that_is_asked_to_end_ends_with_its_workers_and_leaves_neither_claim_nor_draft(
    how: signal.Signals, empty: FleetContext, undisturbed: dict[str, bytes]
) -> None:
    folder = empty.folder.path
    with start("run", folder, "--workers", "1") as process:
        (worker,) = wait_for(lambda: at_work(folder))
        process.send_signal(how)
        _, said = process.communicate(timeout=600)
    assert process.returncode == 130
    assert said.endswith("interrupted\n")
    assert "Traceback" not in said
    assert not alive(worker)
    assert at_work(folder) == set()
    assert drafts(folder) == []
    work(empty)
    assert contents(folder) == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_a_fleet_killed_ten_times_at_random_comes_to_the_same_bytes(seed: int, target: Path, tmp_path: Path) -> None:
    """Kills fall on workers of the run, on the run itself, and on both; two workers at once."""
    rng, folder, whole = np.random.default_rng(seed), tmp_path / "s", tmp_path / "whole"
    for each in (folder, whole):
        plan_small(each, target, count=12, epochs=400)
    kills, known = 0, {}
    while kills < 10:
        with start("run", folder, "--workers", "2", "--quiet") as process:
            for _ in range(2):
                workers = wait_for(lambda: at_work(folder) or process.poll() is not None)
                time.sleep(float(rng.uniform(0, 3)))
                victims = [pid for pid in sorted(at_work(folder)) if alive(pid)] if workers is not True else []
                if victims:
                    os.kill(int(rng.choice(victims)), signal.SIGKILL)
                    kills += 1
            process.send_signal(signal.SIGKILL)
            kills += 1
            process.wait()
        assert known.items() <= inodes(folder).items()
        known = inodes(folder)
        assert len(known) < 48, "all was done before the tenth kill: the test tells nothing"
    for pid in at_work(folder):
        wait_for(lambda pid=pid: not alive(pid), timeout=600)
    known = inodes(folder)
    with start("run", folder, "--workers", "2") as process:
        _, said = process.communicate()
    assert process.returncode == 0, said
    assert known.items() <= inodes(folder).items()
    assert work(open_fleet_context(whole)) == 24
    assert {name: each for name, each in contents(folder).items() if "/." not in name} == contents(whole)
    assert verify(open_fleet_context(folder)) == []


# ----- the run and its workers


def test_two_workers_share_the_work_and_what_diverges_is_told_at_the_end(
    run: Run, target: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The unlearned model that the fleet follows took steps so large that no shadow model survives them."""
    shutil.copytree(target, tmp_path / "t")
    path = tmp_path / "t" / "unlearned.safetensors"
    checkpoint = read_checkpoint(path)
    assert checkpoint.metadata is not None
    wild = dict(checkpoint.metadata.settings) | {"step_size": 1e30, "steps": 30}
    write_checkpoint(path, checkpoint.state, checkpoint.metadata.model_copy(update={"settings": wild}), force=True)
    words = [tmp_path / "t" / "original.safetensors", path, "--forget", tmp_path / "t" / "forget.npy"]
    fleet = tmp_path / "s"
    done = run("shadows", "run", fleet, *words, "--count", 4, "--device", "cpu", "--workers", 2)
    assert done.code == 3
    assert done.stdout == ""
    assert "4 of 8 models are there: 0 from before, 4 made now in " in done.stderr
    context = open_fleet_context(fleet)
    for job in context.jobs[4:]:
        failure = context.folder.failed(job)
        assert failure is not None
        assert "diverged" in failure.message
        said = f"shadow {job.number + 1}, ieu: {failure.message}; to have it tried again, remove "
        assert said + str(context.folder.failure(job)) in done.stderr
    assert capfd.readouterr().err == ""
    again = run("shadows", "run", fleet, "--quiet")  # nobody is started where nothing can be done
    assert again.code == 3
    assert again.stderr.count("diverged") == 4


def replaced(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Let workers run this instead of their work, with the command line that follows the place of the package."""
    monkeypatch.setattr(RUNNING, "START", "import sys; sys.argv.pop(1); " + code)


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (
            "import sys; sys.stderr.write('one\\nCUDA error: out of memory\\n'); sys.exit(1)",
            "CUDA error: out of memory",
        ),
        ("import os; os.kill(os.getpid(), 9)", "killed by signal 9"),
        ("raise SystemExit(7)", "ended with 7"),
    ],
)
def test_workers_that_only_die_are_given_up_with_their_last_words(
    code: str, says: str, empty: FleetContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    replaced(monkeypatch, code)
    with pytest.raises(
        MeasurementError, match=f"keep dying without finishing a job; the last error: {says}$"
    ) as caught:
        run_workers(empty, workers=2)
    assert caught.value.exit_code == 3


def test_a_worker_that_talks_too_much_is_not_held_up(empty: FleetContext, monkeypatch: pytest.MonkeyPatch) -> None:
    replaced(monkeypatch, "import sys; sys.stderr.write('a warning\\n' * 100_000)")
    outcome = run_workers(empty, workers=1)
    assert (outcome.done, outcome.reused, outcome.failed, outcome.waiting) == (0, 0, (), 8)


def test_a_worker_that_does_not_listen_is_ended(empty: FleetContext, monkeypatch: pytest.MonkeyPatch) -> None:
    replaced(
        monkeypatch,
        "import os, signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "open(sys.argv[3] + '/deaf', 'w').write(str(os.getpid())); time.sleep(60)",
    )
    monkeypatch.setattr(RUNNING, "PATIENCE", 0.2)

    def stop(*_: object) -> None:
        if (empty.folder.path / "deaf").exists() and (empty.folder.path / "deaf").read_text():
            raise KeyboardInterrupt

    monkeypatch.setattr(RUNNING, "time", SimpleNamespace(sleep=stop, monotonic=time.monotonic))
    with pytest.raises(KeyboardInterrupt):
        run_workers(empty, workers=1)
    monkeypatch.undo()
    assert not alive(int((empty.folder.path / "deaf").read_text()))


TELL = "import os, sys; open(sys.argv[3] + '/told-' + str(os.getpid()), 'w').write(os.environ['OMP_NUM_THREADS'])"


@pytest.mark.parametrize(("set_to", "threads"), [(None, "1"), ("3", "3")])
@pytest.mark.parametrize("workers", [1, 3])
def test_a_workers_threads_do_not_depend_on_how_many_workers_there_are(
    workers: int, set_to: str | None, threads: str, empty: FleetContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On other threads the same sums come out otherwise in the last bits."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if set_to:
        monkeypatch.setenv("OMP_NUM_THREADS", set_to)
    replaced(monkeypatch, TELL)
    run_workers(empty, workers=workers)
    told = [path.read_text() for path in empty.folder.path.glob("told-*")]
    assert told == [threads] * workers


def test_there_are_no_more_workers_than_work(target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan_small(tmp_path / "s", target)
    context = open_fleet_context(tmp_path / "s")
    work(context)
    for job in (context.jobs[0], context.jobs[5]):
        context.folder.signals(job).unlink()
    context.folder.record(context.jobs[5], MeasurementError("diverged"), final=True)
    replaced(monkeypatch, TELL)
    run_workers(context, workers=5)
    assert len(list(context.folder.path.glob("told-*"))) == 1


@pytest.mark.parametrize("workers", [0, -1])
def test_less_than_one_worker_is_refused(workers: int, empty: FleetContext) -> None:
    with pytest.raises(UsageError, match="--workers must be at least 1"):
        run_workers(empty, workers=workers)


def test_as_many_workers_as_cores_or_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 5)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert default_workers(Device(torch.device("cpu"))) == len(os.sched_getaffinity(0))
    assert default_workers(Device(torch.device("cuda"))) == 5
    assert default_workers(Device(torch.device("cuda:1"))) == 1
    assert default_workers(Device(torch.device("mps"))) == 1


# ----- the benchmark


def test_the_benchmarks_arms_take_the_same_steps_on_the_same_examples(
    load_benchmark: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    bench = load_benchmark("bench_shadows")
    context = bench.plan(tmp_path / "f", 2, replace(SMALL, epochs=3))
    assert work(context) == 2
    model, steps = bench.usual_training(context, 0)
    inside = members(context.plan, 0, len(context.pool.examples))
    assert steps == 3 * math.ceil(len(inside) / SMALL.batch_size)
    assert bench.learnt(context, 0, model) > 0.7
    assert min(bench.learnt_by_fleet(context)) > 0.7
    mine = context.pool.examples.subset(inside[:5])
    one = torch.stack([image for image, _ in bench.PerSample(mine, context.plan.mean[0], context.plan.std[0])])
    assert torch.equal(one, context.pooled.transform(mine.images))
    pair = bench.Pair(bench.Seconds(4.0, 1.0), bench.Seconds(8.0, 2.0))
    assert bench.told("both", [pair]).count("ratio 2.00 [2.00, 2.00]") == 2
