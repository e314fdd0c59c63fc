"""The folder of a fleet, its only source of truth: who works on what, what is finished, what failed.

A worker claims a job by making a file that nobody else can make, keeps touching it while it works, and publishes the
result under its final name in one step. A claim that nobody touches any more is taken over.

Why not locks of the operating system: on network file systems they depend on the mount (some grant them to several
machines at once, some refuse them, some keep those of a machine that is gone), a child process that inherits one keeps
holding it, and they do not say who works on what. A hard link and a modification time work alike on all of them.
"""

import hashlib
import json
import os
import secrets
import socket
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from unlearn_audit.errors import AuditError, OutputError
from unlearn_audit.files import atomic_write, make_subfolder
from unlearn_audit.shadows.plan import Job
from unlearn_audit.strict_json import parse_object

LEASE = 60.0  # seconds after which a claim that nobody touched may be taken over
MOST_ATTEMPTS = 3
FORGOTTEN = 10  # leases after which a draft is no longer being written


class Failure(NamedTuple):
    """Why a job could not be done, and how often it was begun."""

    message: str
    attempts: int


class FleetFolder:
    """Paths and claims of a fleet.

    Args:
        path: the folder.
        lease: seconds until an untouched claim is stale; a worker of this machine that is gone is noticed at once.
    """

    def __init__(self, path: Path, *, lease: float = LEASE) -> None:
        self.path, self.lease = path, lease

    def model(self, job: Job | str) -> Path:
        """Return where the job's checkpoint is published."""
        return self.path / "models" / f"{_id(job)}.safetensors"

    def signals(self, job: Job | str) -> Path:
        """Return where what the job's model says is published."""
        return self.path / "signals" / f"{_id(job)}.npz"

    def state(self, job: Job | str) -> Path:
        """Return where an unfinished training keeps what it goes on with."""
        return self.path / "state" / f"{_id(job)}.resume"

    def failure(self, job: Job | str) -> Path:
        """Return where it is said why a job could not be done."""
        return self.path / "failed" / f"{_id(job)}.json"

    @property
    def scores(self) -> Path:
        """Where attacks keep what they made of the signals."""
        return self.path / "scores"

    def claim_of(self, job: Job | str) -> Path:
        """Return the claim's file."""
        return self.path / "claims" / f"{_id(job)}.json"

    def make(self) -> None:
        """Make the folder and what belongs into it.

        Raises:
            OutputError: no permission, no space, or a file or a link to elsewhere is in the way.
        """
        for name in ("models", "signals", "state", "failed", "claims", "scores"):
            make_subfolder(self.path, name)

    def finished(self, job: Job) -> bool:
        """Return whether the model and what it says are there; what is in the files is `verify`'s question."""
        return self.model(job).exists() and self.signals(job).exists()

    def failed(self, job: Job | str) -> Failure | None:
        """Return why a job is given up; None where it is not."""
        try:
            about = json.loads(self.failure(job).read_text())
            found = Failure(str(about["message"]), int(about["attempts"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return found if about.get("final") or found.attempts >= MOST_ATTEMPTS else None

    def tried(self, job: Job) -> int:
        """Return how often the job was begun and neither finished nor let go."""
        try:
            return int(json.loads(self.failure(job).read_text())["attempts"])
        except (OSError, ValueError, KeyError, TypeError):
            return 0

    def record(self, job: Job, problem: BaseException | str, *, final: bool) -> None:
        """Say why a job was not done; `final` where it would come out the same way again."""
        plain = isinstance(problem, str | AuditError)
        told = str(problem) if plain else f"{type(problem).__name__}: {problem}"
        trace = [] if isinstance(problem, str) else traceback.format_exception(problem)
        about = {"message": told, "attempts": self.tried(job) + 1, "final": final, "traceback": trace}
        atomic_write(self.failure(job), json.dumps(about, indent=1).encode())

    def sweep(self) -> None:
        """Remove what killed workers left half-written: drafts that nobody has written to for ten leases."""
        for path in self.path.rglob(".*.tmp*"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > FORGOTTEN * self.lease:
                    path.unlink()

    def reset_attempts(self) -> None:
        """Begin to count anew how often workers died: a run that was killed is no fault of its jobs."""
        for path in (self.path / "failed").glob("*.json"):
            if not (_read(path) or {}).get("final"):
                path.unlink(missing_ok=True)

    def working_on(self, job: Job) -> dict[str, Any] | None:
        """Return who has claimed a job and is alive, else None."""
        seen = _read(self.claim_of(job))
        return None if seen is None or self._stale(self.claim_of(job), seen) else seen

    @contextmanager
    def claimed(self, job: Job) -> Iterator[bool]:
        """Claim a job for the block, touching the claim all the while.

        Yields:
            Whether it is ours; if not, somebody else is at work on it.
        """
        path, nonce, stop = self.claim_of(job), secrets.token_hex(8), threading.Event()
        mine = {"host": socket.gethostname(), "pid": os.getpid(), "nonce": nonce, "since": time.time()}
        beat = threading.Thread(target=_touch, args=(path, stop, self.lease / 4), daemon=True)
        try:
            ours = self._take(path, mine, job)
            if ours:
                beat.start()
            yield ours
        finally:
            stop.set()
            if beat.is_alive():
                beat.join()
            if (_read(path) or {}).get("nonce") == nonce:
                path.unlink(missing_ok=True)

    def _take(self, path: Path, mine: dict[str, Any], job: Job) -> bool:
        """Make the claim's file, or put ours in the place of a stale one; False where another one holds it."""
        seen = _read(path)
        if seen is None:
            return _make(path, mine)
        if not self._stale(path, seen):
            return False
        mark = path.with_name(f".{path.name}.{_digest(seen)}.tmp")
        if not self._mark(mark):
            return False
        try:
            if _read(path) != seen:  # somebody had made the mark before, taken over, and removed it again
                return False
            self.record(job, f"its worker ({seen.get('host')}, process {seen.get('pid')}) died", final=False)
            atomic_write(path, json.dumps(mine).encode())
        finally:
            mark.unlink(missing_ok=True)
        return True

    def _mark(self, mark: Path) -> bool:
        """Make the file that only one of those who found the same stale claim can make; whose maker died is nobody's.

        Without it, a slow one could take away what a fast one has just claimed.
        """
        try:
            with suppress(FileNotFoundError):
                if time.time() - mark.stat().st_mtime > self.lease:
                    mark.unlink()
            mark.touch(exist_ok=False)
        except FileExistsError:
            return False
        except OSError as problem:
            raise _cannot_claim(mark, problem) from problem
        return True

    def _stale(self, path: Path, seen: dict[str, Any]) -> bool:
        """Return whether nobody holds a claim any more."""
        try:
            untouched = time.time() - path.stat().st_mtime
        except OSError:
            return False
        if untouched > self.lease:
            return True
        return seen.get("host") == socket.gethostname() and not _alive(seen.get("pid"))


def _id(job: Job | str) -> str:
    return job if isinstance(job, str) else job.id


def _make(path: Path, about: dict[str, Any]) -> bool:
    """Make a file with this content if there is none of the name; it appears with its content or not at all."""
    draft = path.with_name(f".{path.name}.{about['nonce']}.tmp")
    try:
        draft.write_text(json.dumps(about))
        os.link(draft, path)
    except FileExistsError:
        return False
    except OSError as problem:
        raise _cannot_claim(path, problem) from problem
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
    return True


def _cannot_claim(path: Path, problem: OSError) -> OutputError:
    return OutputError(f"cannot claim work in {path.parent}: {problem.strerror or problem}")


def _digest(seen: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(seen, sort_keys=True).encode()).hexdigest()[:16]


def _read(path: Path) -> dict[str, Any] | None:
    """Return what a claim says; {} where it is damaged, None where there is none."""
    try:
        return parse_object(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}


def _touch(path: Path, stop: threading.Event, every: float) -> None:
    """Touch a claim until told to stop."""
    while not stop.wait(every):
        with suppress(OSError):
            os.utime(path)


def _alive(pid: object) -> bool:
    """Return whether a process of this machine is there."""
    if not isinstance(pid, int) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
