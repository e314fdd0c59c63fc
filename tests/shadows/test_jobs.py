"""Work on a fleet: claims, failures, damage, and that nothing that is finished is ever lost or made twice."""

import contextlib
import errno
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from conftest import Run
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_fleets import contents, plan_small, small_request

from unlearn_audit import training as recipes
from unlearn_audit.errors import MeasurementError, OutputError, UsageError
from unlearn_audit.methods.apply import apply_method
from unlearn_audit.progress import Progress
from unlearn_audit.shadows import (
    FleetContext,
    FleetFolder,
    Job,
    open_fleet_context,
    remove_damaged,
    verify,
    work,
    work_until_done,
)

WORK: ModuleType = sys.modules[work.__module__]
FOLDER: ModuleType = sys.modules[FleetFolder.__module__]
SOME = Job("0123456789abcdef" * 2, 0)


class Killed(BaseException):
    """What nobody catches: as with SIGKILL, only what is on the disk is left."""


@pytest.fixture
def empty(target: Path, tmp_path: Path) -> FleetContext:
    """The same fleet, with nothing done yet."""
    plan_small(tmp_path / "s", target)
    return open_fleet_context(tmp_path / "s")


@pytest.fixture
def folder(tmp_path: Path) -> FleetFolder:
    """The folder of a fleet that has no plan yet."""
    found = FleetFolder(tmp_path / "claimed")
    found.make()
    return found


def left_behind(folder: Path) -> list[str]:
    """Claims, drafts and states in a folder."""
    drafts = [path for path in folder.rglob(".*") if path.is_file()]
    return sorted(path.name for path in [*drafts, *folder.glob("claims/*"), *folder.glob("state/*")])


# ----- claims


def claim(folder: FleetFolder, *, age: float = 0.0, **about: Any) -> Path:
    """Leave a claim as another worker would have made it."""
    said = {"host": socket.gethostname(), "pid": os.getpid(), "nonce": "theirs", "since": 0.0} | about
    path = folder.claim_of(SOME)
    path.write_text(json.dumps(said))
    then = time.time() - age
    os.utime(path, (then, then))
    return path


@pytest.fixture(scope="module")
def dead() -> int:
    """The number of a process that is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_one_worker_at_a_time_has_a_task(folder: FleetFolder) -> None:
    other = FleetFolder(folder.path)
    for _ in range(2):
        with folder.claimed(SOME) as ours:
            assert ours
            said = json.loads(folder.claim_of(SOME).read_text())
            assert (said["host"], said["pid"]) == (socket.gethostname(), os.getpid())
            assert other.working_on(SOME) == said
            with other.claimed(SOME) as theirs:
                assert not theirs
            with other.claimed(Job("f" * 32, 1)) as another:
                assert another
            assert folder.claim_of(SOME).exists()
        assert other.working_on(SOME) is None
        assert left_behind(folder.path) == []
    assert folder.tried(SOME) == 0


@pytest.mark.parametrize(
    ("age", "about", "taken"),
    [
        (0, {}, False),
        (30, {}, False),
        (90, {}, True),  # alive, or so it seems, but it has not touched its claim
        (0, {"host": "elsewhere"}, False),
        (50, {"host": "elsewhere", "pid": -1}, False),
        (70, {"host": "elsewhere"}, True),
        (0, {"pid": "dead"}, True),
        (0, {"host": "elsewhere", "pid": "dead"}, False),  # of another machine's processes nothing is known
        (0, {"pid": -5}, True),
        (0, {"pid": "text"}, True),
        (0, {"nonce": "../../away"}, False),
        (90, {"nonce": "../../away"}, True),
    ],
)
def test_a_claim_is_taken_over_from_the_dead_and_after_the_lease_from_the_silent(
    folder: FleetFolder, dead: int, age: float, about: dict[str, Any], taken: bool
) -> None:
    about = about | ({"pid": dead} if about.get("pid") == "dead" else {})
    path = claim(folder, age=age, **about)
    assert (folder.working_on(SOME) is None) == taken
    with folder.claimed(SOME) as ours:
        assert ours == taken
        assert (json.loads(path.read_text())["nonce"] != about.get("nonce", "theirs")) == taken
    assert path.exists() != taken
    assert folder.tried(SOME) == taken
    assert [name for name in left_behind(folder.path) if name != path.name] == []


@pytest.mark.parametrize("content", ["", "{", "[1]", "null", "\x00"])
def test_a_claim_that_cannot_be_read_holds_for_a_lease(folder: FleetFolder, content: str) -> None:
    path = folder.claim_of(SOME)
    path.write_text(content)
    with folder.claimed(SOME) as ours:
        assert not ours
    os.utime(path, (0, 0))
    with folder.claimed(SOME) as ours:
        assert ours
    assert left_behind(folder.path) == []


def test_a_claim_is_touched_while_the_work_goes_on(tmp_path: Path) -> None:
    mine, theirs = (FleetFolder(tmp_path, lease=0.4) for _ in range(2))
    mine.make()
    with mine.claimed(SOME) as ours:
        assert ours
        until = time.monotonic() + 1.2
        while time.monotonic() < until:
            with theirs.claimed(SOME) as taken:
                assert not taken
            time.sleep(0.05)


@pytest.mark.parametrize("stale", [True, False])
def test_of_many_that_race_for_a_task_one_wins(folder: FleetFolder, dead: int, stale: bool) -> None:
    racers, rounds = 8, 25
    start, end, home = (threading.Barrier(racers, timeout=600) for _ in range(3))
    won: list[int] = []

    def race(number: int) -> None:
        own = FleetFolder(folder.path)
        for index in range(rounds):
            if number == 0 and stale:
                claim(folder, pid=dead, nonce=f"round {index}")
            start.wait()
            with own.claimed(SOME) as ours:
                if ours:
                    won.append(index)
                end.wait()
            home.wait()  # the winner has let go of its claim before the next round's is left

    threads = [threading.Thread(target=race, args=(number,)) for number in range(racers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert won == list(range(rounds))
    assert folder.tried(SOME) == (rounds if stale else 0)
    assert left_behind(folder.path) == []


def test_who_comes_late_to_a_stale_claim_does_not_take_what_another_one_has_claimed(
    folder: FleetFolder, dead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The late one has found the claim stale, and only then the early one takes it over."""
    claim(folder, pid=dead)
    early, late = FleetFolder(folder.path), FleetFolder(folder.path)
    with contextlib.ExitStack() as stack:

        def after_the_early_one(mark: Path) -> bool:
            assert stack.enter_context(early.claimed(SOME))
            return FleetFolder._mark(late, mark)

        monkeypatch.setattr(late, "_mark", after_the_early_one)
        with late.claimed(SOME) as ours:
            assert not ours
        assert early.working_on(SOME) is not None
        with folder.claimed(SOME) as ours:
            assert not ours
    assert folder.tried(SOME) == 1
    assert left_behind(folder.path) == []


def test_a_taker_that_died_while_taking_over_holds_up_the_others_for_a_lease(
    folder: FleetFolder, dead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim(folder, pid=dead)
    with monkeypatch.context() as patch:
        patch.setattr(FleetFolder, "record", kill)
        patch.setattr(Path, "unlink", lambda *_, **__: None)
        with pytest.raises(Killed), folder.claimed(SOME):
            pass
    (mark,) = folder.path.glob("claims/.*.tmp")
    with folder.claimed(SOME) as ours:
        assert not ours
    os.utime(mark, (0, 0))
    with folder.claimed(SOME) as ours:
        assert ours
    assert left_behind(folder.path) == []


def kill(*_: object, **__: object) -> None:
    raise Killed


@pytest.mark.parametrize("place", ["link", "write_text", "touch"])
@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOSPC, errno.EROFS])
def test_a_folder_that_takes_no_claim_is_said(
    folder: FleetFolder, dead: int, place: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    if place == "touch":
        claim(folder, pid=dead)
    monkeypatch.setattr(os if place == "link" else Path, place, refuse)
    with (
        pytest.raises(OutputError, match=f"cannot claim work in .*claims: {os.strerror(number)}"),
        folder.claimed(SOME),
    ):
        pass
    monkeypatch.undo()
    folder.claim_of(SOME).unlink(missing_ok=True)
    assert left_behind(folder.path) == []


@pytest.mark.parametrize("place", ["link", "unlink"])
def test_an_interrupt_while_a_claim_is_made_leaves_none(
    folder: FleetFolder, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    original: Callable[..., Any] = getattr(os if place == "link" else Path, place)
    calls: list[object] = []

    def interrupted(*given: object, **more: object) -> None:
        original(*given, **more)
        calls.append(given)
        if len(calls) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(os if place == "link" else Path, place, interrupted)
    with pytest.raises(KeyboardInterrupt), folder.claimed(SOME):
        pass
    assert left_behind(folder.path) == []


def test_a_task_is_given_up_after_three_deaths_and_forgiven_by_the_next_run(folder: FleetFolder, dead: int) -> None:
    for attempt in range(3):
        assert folder.failed(SOME) is None
        claim(folder, pid=dead, nonce=str(attempt))
        with folder.claimed(SOME) as ours:
            assert ours
    failure = folder.failed(SOME)
    assert failure is not None
    assert failure == (f"its worker ({socket.gethostname()}, process {dead}) died", 3)
    folder.reset_attempts()
    assert folder.failed(SOME) is None
    assert folder.tried(SOME) == 0
    folder.record(SOME, MeasurementError("diverged"), final=True)
    folder.reset_attempts()
    assert folder.failed(SOME) == ("diverged", 1)


def test_drafts_that_killed_workers_left_are_swept_and_others_are_not(folder: FleetFolder) -> None:
    names = ("models/.unlearn-audit-0.tmp", "signals/.a.tmp", f"claims/.{SOME.id}.json.1.tmp", "models/x.safetensors")
    for name in names:
        (folder.path / name).touch()
        os.utime(folder.path / name, (0, 0))
    (folder.path / "models" / ".fresh.tmp").touch()
    folder.sweep()
    assert {path.name for path in folder.path.rglob("*") if path.is_file()} == {".fresh.tmp", "x.safetensors"}


# ----- each job once, and the same whoever does it


def inodes(folder: Path) -> dict[str, tuple[int, int]]:
    found = [*folder.glob("models/*"), *folder.glob("signals/*")]
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in found}


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Count the trainings; one at a time, since the random numbers of a process are one stream."""
    begun: list[str] = []
    lock = threading.Lock()

    def train(*given: Any, **more: Any) -> Any:
        begun.append(more["task"])
        with lock:
            return recipes.train(*given, **more)

    monkeypatch.setattr(WORK, "train", train)
    return begun


def test_what_is_finished_is_not_made_again(whole: FleetContext, monkeypatch: pytest.MonkeyPatch) -> None:
    before, begun = inodes(whole.folder.path), counted(monkeypatch)
    assert work(whole) == 0
    assert work_until_done(whole) == 0
    assert inodes(whole.folder.path) == before
    assert begun == []


def test_a_fleet_that_grows_keeps_what_it_has(
    whole: FleetContext, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, begun = inodes(whole.folder.path), counted(monkeypatch)
    plan_small(whole.folder.path, target, count=6)
    assert work(open_fleet_context(whole.folder.path)) == 4
    assert begun == ["shadow 5", "shadow 6"]
    assert before.items() <= inodes(whole.folder.path).items()
    assert verify(open_fleet_context(whole.folder.path)) == []


def test_workers_at_once_train_each_model_once(empty: FleetContext, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = counted(monkeypatch)
    done: list[int] = []
    threads = [
        threading.Thread(target=lambda: done.append(work_until_done(open_fleet_context(empty.folder.path), wait=0.02)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(begun) == ["shadow 1", "shadow 2", "shadow 3", "shadow 4"]
    assert sum(done) == 8
    assert left_behind(empty.folder.path) == []


def test_another_folder_comes_to_the_same_bytes(empty: FleetContext, finished: Path) -> None:
    assert work(empty) == 8
    assert contents(empty.folder.path) == contents(finished)
    assert all(name.split("/")[1][0] != "." for name in contents(finished))


def interrupting(at: int, how: type[BaseException] = KeyboardInterrupt) -> Progress:
    """A progress that ends its worker when it hears so many steps."""

    def tell(job: str, done: int, total: int, note: str = "") -> None:
        if job.startswith("shadow") and done >= at:
            raise how

    return tell


def plan_long(where: Path, target: Path) -> FleetContext:
    """A fleet of two models of 45 steps, which are only trained."""
    plan_small(where, target, "original", count=2, epochs=45)
    return open_fleet_context(where)


@pytest.fixture(scope="module")
def long_whole(target: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What these come to, undisturbed."""
    context = plan_long(tmp_path_factory.mktemp("long") / "s", target)
    assert work(context) == 2
    return contents(context.folder.path)


@pytest.mark.parametrize("how", [KeyboardInterrupt, Killed])
def test_a_worker_that_is_stopped_leaves_no_claim_and_is_gone_on_with(
    how: type[BaseException], target: Path, tmp_path: Path, long_whole: dict[str, bytes]
) -> None:
    context = plan_long(tmp_path / "s", target)
    with pytest.raises(how):
        work(context, interrupting(40, how))
    asked = how is KeyboardInterrupt  # whoever is asked to end writes down how far it is
    assert left_behind(tmp_path / "s") == ([context.folder.state(context.jobs[0]).name] if asked else [])
    heard: list[int] = []
    work(context, lambda job, done, *_: heard.append(done))
    assert heard[0] == (40 if asked else 20)
    assert contents(tmp_path / "s") == long_whole
    assert left_behind(tmp_path / "s") == []


DAMAGED_STATES: dict[str, Callable[[Path], object]] = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:3000]),
    "text": lambda path: path.write_text("nothing"),
    "empty": lambda path: path.write_bytes(b""),
    "another job's": lambda path: save_file(
        load_file(path),
        path,
        metadata={
            "unlearn_audit_state": json.dumps({"schema": 1, "identity": {"task": "x"}, "done": 20, "seconds": 1.0})
        },
    ),
    "of another network": lambda path: rewrite_state(path, torch.zeros(3)),
}


def rewrite_state(path: Path, weight: torch.Tensor) -> None:
    with safe_open(path, framework="pt") as stream:
        metadata = stream.metadata()
    save_file({name: weight.clone() for name in load_file(path)}, path, metadata=metadata)


@pytest.mark.parametrize("damage", list(DAMAGED_STATES))
def test_a_state_that_cannot_be_gone_on_from_costs_time_and_nothing_else(
    damage: str, target: Path, tmp_path: Path, long_whole: dict[str, bytes]
) -> None:
    context = plan_long(tmp_path / "s", target)
    with pytest.raises(KeyboardInterrupt):
        work(context, interrupting(40))
    DAMAGED_STATES[damage](context.folder.state(context.jobs[0]))
    assert work(context) == 2
    assert contents(tmp_path / "s") == long_whole
    assert left_behind(tmp_path / "s") == []


def test_a_worker_killed_between_the_model_and_its_answers_costs_no_training(
    empty: FleetContext, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(WORK, "_ask", kill)
        with pytest.raises(Killed):
            work(empty)
    before = inodes(empty.folder.path)
    assert list(before) == [empty.folder.model(empty.jobs[0]).name]
    begun = counted(monkeypatch)
    assert work(empty) == 8
    assert begun == ["shadow 2", "shadow 3", "shadow 4"]
    assert before.items() <= inodes(empty.folder.path).items()
    assert contents(empty.folder.path) == contents(finished)


def test_a_model_that_another_worker_published_meanwhile_stays(
    empty: FleetContext, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = empty.folder.model(empty.jobs[0])
    publish = WORK._publish

    def late(draft: Path, target: Path) -> None:
        if target == first and not first.exists():
            shutil.copy(finished / "models" / first.name, first)
            kept.append(first.stat().st_ino)
        publish(draft, target)

    kept: list[int] = []
    monkeypatch.setattr(WORK, "_publish", late)
    assert work(empty) == 8
    assert kept == [first.stat().st_ino]
    assert contents(empty.folder.path) == contents(finished)


def test_a_model_that_came_out_otherwise_is_said_and_the_first_one_stays(
    empty: FleetContext, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (empty.folder.model(job) for job in empty.jobs[:2])
    publish = WORK._publish

    def late(draft: Path, target: Path) -> None:
        if target == first:
            shutil.copy(finished / "models" / second.name, first)
        publish(draft, target)

    monkeypatch.setattr(WORK, "_publish", late)
    work(empty)
    said = json.loads(empty.folder.failure(empty.jobs[0]).read_text())
    assert "was made twice and came out differently: this machine does not compute repeatably" in said["message"]
    assert first.read_bytes() == (finished / "models" / second.name).read_bytes()
    assert [damage.files[0] for damage in verify(empty)] == [first]
    assert not any(name.startswith("models/.") for name in contents(empty.folder.path))


# ----- failures


@contextlib.contextmanager
def failing(problem: BaseException, shadow: str = "shadow 2", times: int = 99) -> Iterator[list[str]]:
    """Have the training of one model fail within the block.

    Yields:
        The trainings that were begun.
    """
    begun: list[str] = []

    def train(*given: Any, **more: Any) -> Any:
        begun.append(more["task"])
        if more["task"] == shadow and begun.count(shadow) <= times:
            raise problem
        return recipes.train(*given, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WORK, "train", train)
        yield begun


def test_a_task_that_diverges_is_recorded_for_good_and_the_rest_is_done(empty: FleetContext) -> None:
    with failing(MeasurementError("shadow 2 diverged at step 3: loss nan")) as begun:
        assert work_until_done(empty) == 6  # neither it, nor what starts from it
        empty.folder.reset_attempts()
        assert work_until_done(open_fleet_context(empty.folder.path)) == 0
    assert begun.count("shadow 2") == 1
    assert empty.folder.tried(empty.jobs[5]) == 0  # what has nothing to start from is no failure of its own
    assert empty.folder.failed(empty.jobs[1]) == ("shadow 2 diverged at step 3: loss nan", 1)
    assert verify(empty) == []
    empty.folder.failure(empty.jobs[1]).unlink()  # the way out that is named
    assert work_until_done(empty) == 2


def test_a_worker_that_breaks_down_leaves_its_last_words_and_after_three_the_rest_is_done(empty: FleetContext) -> None:
    with failing(RuntimeError("CUDA error: out of memory")) as begun:
        for _ in range(3):
            with pytest.raises(RuntimeError, match="out of memory"):
                work(empty)
            assert left_behind(empty.folder.path) == []
        assert work(empty) == 5
    assert begun.count("shadow 2") == 3
    assert empty.folder.failed(empty.jobs[1]) == ("RuntimeError: CUDA error: out of memory", 3)
    assert "Traceback" in empty.folder.failure(empty.jobs[1]).read_text()


def test_a_failure_that_passes_is_forgotten(empty: FleetContext, finished: Path) -> None:
    with failing(RuntimeError("once"), times=1):
        with pytest.raises(RuntimeError):
            work(empty)
        assert empty.folder.tried(empty.jobs[1]) == 1
        work(empty)
    assert list(empty.folder.path.glob("failed/*")) == []
    assert contents(empty.folder.path) == contents(finished)


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("place", ["os.link", "os.fsync", "pathlib.Path.write_bytes"])
def test_a_full_disk_is_no_fault_of_the_task(
    place: str, empty: FleetContext, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original: Any = {"os.link": os.link, "os.fsync": os.fsync, "pathlib.Path.write_bytes": Path.write_bytes}[place]
    where = {"os.link": "models", "os.fsync": "models", "pathlib.Path.write_bytes": "signals"}[place]

    def full(*given: Any, **more: Any) -> Any:
        aims = str(given[-1] if place == "os.link" else given[0])
        if f"/{where}/" in aims or (place == "os.fsync"):
            raise FULL
        return original(*given, **more)

    with monkeypatch.context() as patch:
        patch.setattr(place, full)
        with pytest.raises(OutputError, match=f"cannot write .*/{where}/.*: No space left on device"):
            work(empty)
    assert left_behind(empty.folder.path) == []
    assert list(empty.folder.path.glob("failed/*")) == []
    assert work(empty) == 8
    assert contents(empty.folder.path) == contents(finished)


def test_a_damaged_parent_is_no_lasting_failure_of_what_starts_from_it(whole: FleetContext, finished: Path) -> None:
    parent, child = whole.jobs[0], whole.jobs[4]
    whole.folder.model(parent).write_bytes(whole.folder.model(parent).read_bytes()[:1000])
    whole.folder.model(child).unlink()
    work_until_done(whole, wait=0)
    failure = whole.folder.failed(child)
    assert failure is not None
    assert f"remove {parent.id}.safetensors, and `unlearn-audit shadows run` makes it anew" in failure.message
    remove_damaged(verify(whole))
    whole.folder.reset_attempts()
    assert work_until_done(whole) == 2
    assert contents(whole.folder.path) == contents(finished)
    assert list(whole.folder.path.glob("failed/*")) == []


# ----- the verbs


def test_status_says_of_each_task_where_it_stands(run: Run, whole: FleetContext) -> None:
    trained, treated = whole.jobs[:4], whole.jobs[4:]
    folder = whole.folder
    for job in (trained[1], trained[2], *treated[1:]):
        folder.signals(job).unlink()
    folder.record(trained[1], MeasurementError("diverged at [step] 7"), final=True)
    folder.record(treated[2], RuntimeError("once"), final=False)
    with folder.claimed(trained[2]) as ours:
        assert ours
        done = run("shadows", "status", folder.path, "--format", "json")
        table = run("shadows", "status", folder.path)
    assert (done.code, done.stderr, table.code) == (0, "", 0)
    said = json.loads(done.stdout)["tasks"]
    assert [entry["id"] for entry in said] == [job.id for job in whole.jobs]
    assert [entry["number"] for entry in said] == [0, 1, 2, 3] * 2
    assert [entry["kind"] for entry in said] == ["training"] * 4 + ["ieu"] * 4
    assert [entry["state"] for entry in said] == ["done", "failed", "running", "done", "done"] + ["waiting"] * 3
    assert said[1]["note"] == "diverged at [step] 7"
    assert said[2]["note"] == f"on {socket.gethostname()}, process {os.getpid()}"
    assert "training: 2 done, 1 failed, 1 running\nieu: 1 done, 3 waiting\n" in table.stdout
    assert "shadow 2, training, failed: diverged at [step] 7\n" in table.stdout


def test_what_others_have_written_into_the_folder_does_not_steer_the_terminal(run: Run, empty: FleetContext) -> None:
    empty.folder.record(empty.jobs[0], "\x1b[2J\nshadow 2, training, done", final=True)
    said = {"host": "\x1b]0;mine\x07", "pid": 1, "nonce": "", "since": 0.0}
    empty.folder.claim_of(empty.jobs[1]).write_text(json.dumps(said))
    done = run("shadows", "status", empty.folder.path)
    assert done.stdout.isascii()
    assert "\x1b" not in done.stdout
    assert "\x07" not in done.stdout
    assert len(done.stdout.splitlines()) == 4


def test_run_on_a_finished_fleet_starts_nobody_and_says_what_is_reused(run: Run, whole: FleetContext) -> None:
    done = run("shadows", "run", whole.folder.path)
    assert done.code == 0
    assert done.stderr.splitlines() == [
        "training: 4 of 4 models are there and are reused, 0 are to be made",
        "ieu: 4 of 4 models are there and are reused, 0 are to be made",
        "8 of 8 models are there: 8 from before, 0 made now in 0 s",
    ]
    refused = run("shadows", "run", whole.folder.path, "--workers", 0)
    assert refused.code == 2


def test_ctrl_c_ends_a_worker_with_130_and_leaves_no_claim(
    run: Run, empty: FleetContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = interrupting(1)
    monkeypatch.setattr("unlearn_audit.cli.shadows.progress_bars", lambda quiet: contextlib.nullcontext(stop))
    done = run("shadows", "worker", empty.folder.path)
    assert (done.code, done.stderr) == (130, "interrupted\n")
    assert left_behind(empty.folder.path) == []
    with pytest.raises(UsageError, match="is no fleet"):
        open_fleet_context(empty.folder.path / "models")


# ----- methods of whole classes


def test_a_shadow_model_forgets_all_it_saw_of_a_class_where_the_method_takes_nothing_less(
    target: Path, tmp_path: Path
) -> None:
    """The twin is too small for the class: for other methods a shadow model keeps what has no partner."""
    apply_method(
        "trw", tmp_path / "u.safetensors", small_request(target, "original", forget="class:3"), {"steps": 2}, clock=None
    )
    plan_small(tmp_path / "s", target, "original", str(tmp_path / "u"), forget="class:3", unseen="range:0-39", count=2)
    context = open_fleet_context(tmp_path / "s")
    assert not context.splits.unseen.complete
    assert work(context) == 4
    (job,) = [each for each in context.jobs if each.treatment is not None and each.number == 0]
    whole, part = (WORK._forgetting(context, job, whole_classes=each) for each in (True, False))
    assert sorted({*whole.forget.indices, *whole.retain}) == list(range(len(whole.dataset.train)))
    assert (whole.dataset.train.labels[whole.forget.indices] == 3).all()
    assert not (whole.dataset.train.labels[whole.retain] == 3).any()
    assert len(whole.dataset.train) == len(WORK._inside(context, job)) == len(part.forget) + len(part.retain)
    assert (part.dataset.train.labels[part.retain] == 3).any()
    assert set(part.forget.indices) < set(WORK._inside(context, job)[whole.forget.indices])


def test_a_method_that_minds_whole_classes_does_to_a_shadow_model_what_it_did_to_the_target(
    target: Path, tmp_path: Path
) -> None:
    """Fisher forgetting draws the row of the forgotten class anew, far from where it was; all else moves by 1e-4."""
    asked = small_request(target, "original", forget="class:3")
    apply_method("fisher", tmp_path / "u.safetensors", asked, {"alpha": 1e-12}, clock=None)
    plan_small(tmp_path / "s", target, "original", str(tmp_path / "u"), forget="class:3", unseen="range:0-39", count=2)
    context = open_fleet_context(tmp_path / "s")
    assert work(context) == 4
    for job in (each for each in context.jobs if each.parent is not None):
        before, after = (WORK.read_model(context.folder.model(each)).state for each in (job.parent, job))
        moved = (after["fc.weight"] - before["fc.weight"]).abs().amax(dim=1)
        assert (moved > 1e-2).nonzero().flatten().tolist() == [3]
        assert moved[[0, 1, 2, *range(4, 10)]].max() < 1e-3
