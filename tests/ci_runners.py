"""A runner of GitHub's and a shell of GitLab's, as far as the Action and the job here need them."""

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import yaml

__all__ = ["ACTION", "JOB", "ROOT", "Acted", "act", "installed", "job", "serving"]

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / ".github" / "actions" / "audit"
ACTION: Mapping[str, Any] = yaml.safe_load((FOLDER / "action.yml").read_text())
JOB: Mapping[str, Any] = yaml.safe_load((ROOT / "sample_configs" / "gitlab-ci.yml").read_text())["unlearning-audit"]


class Acted(NamedTuple):
    """What the Action left: whether it succeeded, its outputs, log and summary, and what was asked of other actions."""

    passed: bool
    outputs: dict[str, str]
    log: str
    summary: str
    ran: dict[str, str]  # by the name of each step: success, failure or skipped
    used: dict[str, dict[str, str]]  # by the name of each step that is another action: what it is given


# What is run for `unlearn-audit`: it hands its words and streams over, and ends as the process ends that they go to.
CLIENT = """
import json, os, socket, sys
line = socket.socket(socket.AF_UNIX)
line.connect(sys.argv[1])
socket.send_fds(line, [json.dumps([sys.argv[2:], os.getcwd()]).encode()], [1, 2])
sys.exit(int(line.recv(100)))
"""


@contextmanager
def serving(run: Callable[..., Any]) -> Iterator[Path]:
    """Run the tool in this process for whoever connects to a socket, in the current folder: no Python is started anew.

    Args:
        run: the command line, as conftest has it.

    Yields:
        The socket, until the end of the block.
    """
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as door:
        place = Path(folder) / "door"
        door.bind(str(place))
        door.listen()
        worker = threading.Thread(target=_serve, args=(door, run), daemon=True)
        worker.start()
        yield place
        with socket.socket(socket.AF_UNIX) as last:  # which says nothing
            last.connect(str(place))
        worker.join(60)


def _serve(door: socket.socket, run: Callable[..., Any]) -> None:
    while True:
        line, _ = door.accept()
        with line:
            asked, streams, _, _ = socket.recv_fds(line, 1 << 16, 2)
            if not asked:
                return
            words, folder = json.loads(asked)
            assert Path.cwd() == Path(folder)
            code, *texts = run(*words)
            for stream, text in zip(streams, texts, strict=True):
                with open(stream, "w") as file:
                    file.write(text)
            line.send(str(code).encode())


def installed(folder: Path, tool: Path, *, audited: Path | None = None) -> Path:
    """Make a runner's temporary folder in which the tool is installed.

    Args:
        folder: the temporary folder.
        tool: what `serving` yielded.
        audited: a report that the verb `audit` puts into its --out in the place of measuring anything.
    """
    script = folder / "unlearn-audit" / "bin" / "unlearn-audit"
    script.parent.mkdir(parents=True)
    (folder / "client.py").write_text(CLIENT)
    short = f'[ "$1" = audit ] && {{ mkdir -p "$4" && cp {shlex.quote(str(audited))} "$4/report.json"; exit; }}'
    words = shlex.join([sys.executable, "-S", "-E", str(folder / "client.py"), str(tool)])
    script.write_text(f'#!/bin/sh\n{short if audited else ""}\nexec {words} "$@"\n')
    script.chmod(0o755)
    return folder


def act(folder: Path, temporary: Path, *, but: tuple[str, ...] = ("Install",), **inputs: str) -> Acted:
    """Run the Action's steps one after another, as they stand in its file.

    Args:
        folder: the workspace.
        temporary: the runner's folder, with the tool in it.
        but: steps that are left out.
        inputs: of the Action; the others have their defaults.
    """
    values = {name: str(about.get("default", "")) for name, about in ACTION["inputs"].items()} | inputs
    found = {f"inputs.{name}": value for name, value in values.items()} | {"runner.os": "Linux"}
    acted = Acted(True, {}, "", "", {}, {})
    for step in ACTION["runs"]["steps"]:
        going = "success()" if "if" not in step else str(step["if"])
        if step["name"] in but or not _holds(going, found, succeeded=acted.passed):
            acted.ran[step["name"]] = "skipped"
            continue
        if "uses" in step:
            acted.used[step["name"]] = {key: _filled(str(value), found) for key, value in step["with"].items()}
            acted.ran[step["name"]] = "success"
            continue
        acted = _run(step, folder, temporary, found, acted)
    expressions = {name: about["value"] for name, about in ACTION["outputs"].items()}
    return acted._replace(outputs={name: _filled(text, found) for name, text in expressions.items()})


def _run(step: Mapping[str, Any], folder: Path, temporary: Path, found: dict[str, str], acted: Acted) -> Acted:
    """Run the shell lines of a step, take up its outputs and what it adds to the summary."""
    out, summary = temporary / "outputs", temporary / "summary.md"
    out.write_text("")
    summary.write_text("")
    environment = os.environ | {
        "RUNNER_TEMP": str(temporary),
        "GITHUB_OUTPUT": str(out),
        "GITHUB_STEP_SUMMARY": str(summary),
        "GITHUB_ACTION_PATH": str(FOLDER),
    }
    environment |= {name: _filled(text, found) for name, text in step["env"].items()}
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", "-c", step["run"]], cwd=folder, env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600, check=False,
    )  # fmt: skip
    outcome = "success" if done.returncode == 0 else "failure"
    if "id" in step:
        found[f"steps.{step['id']}.outcome"] = outcome
        for line in out.read_text().splitlines():
            name, _, value = line.partition("=")
            found[f"steps.{step['id']}.outputs.{name}"] = value
    acted.ran[step["name"]] = outcome
    passed, log = acted.passed and done.returncode == 0, acted.log + done.stdout
    return acted._replace(passed=passed, log=log, summary=acted.summary + summary.read_text())


def _filled(text: str, found: Mapping[str, str]) -> str:
    """Return a text whose expressions are evaluated: names, and the first of several that is not empty."""

    def value(match: re.Match[str]) -> str:
        return next(filter(None, (found.get(name.strip(), "") for name in match[1].split("||"))), "")

    return re.sub(r"\$\{\{(.*?)\}\}", value, text, flags=re.DOTALL)


def _holds(condition: str, found: Mapping[str, str], *, succeeded: bool) -> bool:
    """Evaluate a condition of the few kinds that the Action has; without `always()` a failure before ends it."""
    terms = condition.split(" && ")
    return all(_term(term, found) for term in terms if term not in ("always()", "success()")) and (
        succeeded or "always()" in terms
    )


def _term(term: str, found: Mapping[str, str]) -> bool:
    name, sign, value = term.split(" ")
    return (found.get(name, "") == value.strip("'")) == {"==": True, "!=": False}[sign]


def job(folder: Path, temporary: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the script of the GitLab job in one shell, as its runner does; `pip` is there and installs nothing."""
    pip = temporary / "unlearn-audit" / "bin" / "pip"
    pip.write_text("#!/bin/sh\n")
    pip.chmod(0o755)
    environment = os.environ | JOB["variables"] | {"PACKAGE": "a.whl"} | variables
    environment["PATH"] = f"{pip.parent}:{environment['PATH']}"
    return subprocess.run(
        ["sh", "-e", "-c", "\n".join(JOB["script"])], cwd=folder, env=environment, capture_output=True, text=True,
        timeout=600, check=False,
    )  # fmt: skip
