"""Processes of the command line, forked from one in which what is slow to load is there: seconds less for each."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

__all__ = ["Forked", "Forker"]

# Reads [words, folder, environment] with stdout and stderr, and answers with the number of the process; or reads such
# a number, and answers with how it ended, or null. Nothing of the command line itself is loaded before the fork.
CODE = """
import json, os, signal, socket, sys
import sklearn.datasets, torch, torch._dynamo
import unlearn_audit.audit, unlearn_audit.demo, unlearn_audit.shadows

signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs, and theirs, ignore
line = socket.socket(fileno=int(sys.argv[1]))
line.send(b"ready")
while True:
    asked, streams, _, _ = socket.recv_fds(line, 1 << 20, 2)
    if not asked:
        break
    asked = json.loads(asked)
    if isinstance(asked, int):
        found, status = os.waitpid(asked, os.WNOHANG)
        line.send(json.dumps(os.waitstatus_to_exitcode(status) if found else None).encode())
        continue
    child = os.fork()
    if not child:
        line.close()
        for number, stream in zip((1, 2), streams):
            os.dup2(stream, number)
            os.close(stream)
        words, folder, environment = asked
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))
        sys.argv = ["unlearn-audit", *words]
        from unlearn_audit.cli import main
        main()
        sys.exit(0)
    for stream in streams:
        os.close(stream)
    line.send(json.dumps(child).encode())
"""


class Forked:
    """A process that was forked; it is asked for as `subprocess.Popen` is, and its number is `pid`."""

    def __init__(self, line: socket.socket, pid: int) -> None:
        self.line, self.pid, self.returncode = line, pid, None  # type: tuple[socket.socket, int, int | None]

    def poll(self) -> int | None:
        """Return how it ended, None while it runs."""
        if self.returncode is None:
            self.line.send(json.dumps(self.pid).encode())
            self.returncode = json.loads(self.line.recv(100))
        return self.returncode

    def wait(self, timeout: float = 600) -> int:
        """Wait for its end, and return it."""
        deadline = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("a forked process", timeout)
            time.sleep(0.005)
        return code

    def send_signal(self, which: signal.Signals) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, which)

    def kill(self) -> None:
        """Kill it, unless it has ended."""
        self.send_signal(signal.SIGKILL)


class Forker:
    """The process that forks others; it is started when the first is asked for."""

    def __init__(self) -> None:
        self.line: socket.socket | None = None
        self.process: subprocess.Popen[bytes] | None = None

    def start(
        self, *words: object, cwd: Path | None = None, env: Mapping[str, str] | None = None, stderr: int | None = None
    ) -> Forked:
        """Run the command line in a process of its own, whose stdout nobody reads.

        Args:
            words: of the command line.
            cwd: the folder to run it in, if not this one.
            env: its whole environment, if not this one.
            stderr: an open file of this process, by number, if somebody reads it.
        """
        line = self.line or self._begun()
        asked = [[str(word) for word in words], str(cwd or Path.cwd()), dict(os.environ if env is None else env)]
        with open(os.devnull, "wb") as nowhere:
            streams = [nowhere.fileno(), nowhere.fileno() if stderr is None else stderr]
            socket.send_fds(line, [json.dumps(asked).encode()], streams)
        return Forked(line, json.loads(line.recv(100)))

    def _begun(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        found = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", CODE, str(theirs.fileno())]
        self.process = subprocess.Popen(command, env=found, pass_fds=[theirs.fileno()])
        theirs.close()
        assert ours.recv(100) == b"ready"
        self.line = ours
        return ours

    def close(self) -> None:
        """End it; what it has forked goes on."""
        if self.line and self.process:
            self.line.close()
            self.process.wait(60)
