"""The command line itself: streams, exit codes, interrupts, pipes, help, and what it costs to start."""

import contextlib
import json
import os
import pty
import re
import select
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from conftest import Run
from forking import Forked, Forker

from unlearn_audit import __version__
from unlearn_audit.catalogue import TRANSFORMS
from unlearn_audit.checkpoints import read_checkpoint
from unlearn_audit.cli import app
from unlearn_audit.cli.console import finish
from unlearn_audit.report import AuditReport, Measurement

pytestmark = pytest.mark.usefixtures("here")

MAIN = "import sys; sys.argv[0] = 'unlearn-audit'; from unlearn_audit.cli import main; main()"
# A shell's background jobs ignore Ctrl-C, and so would what they start.
HEEDING = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
VERBS = [
    "demo",
    "rcd",
    "truncation",
    "spectrum",
    "gaps",
    "twosample",
    "outputs",
    "mia",
    "resurgence",
    "fidelity",
    "train",
    "generate",
    "init",
    "audit",
    "gate",
    "show",
    "results",
    "inspect",
    "validate",
    "schema",
]
POLICY = 'schema_version = 1\n[[rule]]\nid = "good"\nmetric = "accuracy.test"\nsubject = "{subject}"\nmin = {least}\n'


def environment(**more: str) -> dict[str, str]:
    """Return an environment in which a process of its own finds the package, and computes on one thread."""
    return os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"} | more


@pytest.fixture(scope="module")
def report(tiny: Path, run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of one subject without a retrained model."""
    folder = tmp_path_factory.mktemp("report")
    forget = ["--forget", tiny / "forget.npy", "--quiet"]
    assert run("gaps", tiny / "unlearned.safetensors", *forget, "--out", folder).code == 0
    return folder / "report.json"


# --- Ctrl-C


def interrupt(
    *arguments: object,
    when: Callable[[str], bool],
    patience: float = 600,
    by: signal.Signals = signal.SIGINT,
    forker: Forker | None = None,
) -> tuple[int, str]:
    """Run the command line with a terminal for stderr, send Ctrl-C once `when` holds of what it showed there.

    The process is Python's own from its start, or, where a forker is given, forked with torch loaded.

    Returns:
        The exit code and everything that was shown.
    """
    ours, theirs = pty.openpty()
    found = environment(TERM="xterm", COLUMNS="80")
    process: subprocess.Popen[bytes] | Forked
    if forker:
        process = forker.start(*arguments, env=found, stderr=theirs)
    else:
        command = [sys.executable, "-c", HEEDING + MAIN, *map(str, arguments)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=theirs, env=found)
    os.close(theirs)
    shown, sent, deadline = "", False, time.monotonic() + patience
    while time.monotonic() < deadline:
        if select.select([ours], [], [], 0.05)[0]:
            try:
                shown += os.read(ours, 65536).decode(errors="replace")
            except OSError:  # the other end is closed
                break
        if not sent and when(shown):
            process.send_signal(by)
            sent = True
    os.close(ours)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(600)
    process.kill()
    assert sent, f"it ended before it could be interrupted: {shown}"
    return process.wait(), shown


def test_ctrl_c_while_training_leaves_nothing(here: Path) -> None:
    arguments = ["train", "--data", "digits", "--epochs", 9999, "--out", here / "o.safetensors"]
    code, shown = interrupt(*arguments, when=lambda shown: "training" in shown)
    assert (code, list(here.iterdir())) == (130, []), shown
    assert "Traceback" not in shown
    assert shown.rstrip().endswith("interrupted")


def test_ctrl_c_while_relearning_leaves_nothing(here: Path, tiny: Path, forker: Forker) -> None:
    subject = [tiny / "unlearned.safetensors", "--forget", tiny / "forget.npy"]
    arguments = ["rcd", *subject, "--steps", 100_000, "--step-size", 1e-4, "--out", here / "report"]
    code, shown = interrupt(*arguments, when=lambda shown: "relearning" in shown, forker=forker)
    assert (code, list(here.iterdir())) == (130, []), shown
    assert "Traceback" not in shown


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_while_unlearning_keeps_what_was_there(
    here: Path, tiny: Path, forker: Forker, by: signal.Signals
) -> None:
    (here / "o.safetensors").write_bytes(b"old")
    subject = [tiny / "original.safetensors", "--forget", tiny / "forget.npy"]
    arguments = ["apply", "ieu", *subject, "--steps", 100_000, "--out", here / "o.safetensors", "--force"]
    code, shown = interrupt(*arguments, when=lambda shown: "IEU" in shown, by=by, forker=forker)
    assert code == 130, shown
    assert {path.name for path in here.iterdir()} <= {"o.safetensors", "o.safetensors.resume"}, shown
    assert (here / "o.safetensors").read_bytes() == b"old"
    assert ("--resume goes on" in shown) == (here / "o.safetensors.resume").exists()


def test_ctrl_c_in_the_demo_leaves_whole_files_only(here: Path, forker: Forker) -> None:
    first = here / "demo" / "original.safetensors"
    code, shown = interrupt("demo", "--out", here / "demo", when=lambda shown: first.exists(), forker=forker)
    assert code == 130, shown
    assert "Traceback" not in shown
    left = {path.name for path in (here / "demo").iterdir()}
    assert {"forget.npy", "original.safetensors"} <= left
    assert not [name for name in left if name.startswith(".")]
    assert not left & {"report.json", "unlearn-audit.toml"}
    assert len(np.load(here / "demo" / "forget.npy")) > 100
    for path in (here / "demo").glob("*.safetensors"):
        assert read_checkpoint(path).metadata is not None


# --- stdout and stderr


def pipe(command: str) -> tuple[int, str, str]:
    """Run a shell pipeline in which `audit` is the command line; return the exit code of its first part."""
    script = f'audit() {{ \'{sys.executable}\' -c "{MAIN}" "$@"; }}\n{command}\nexit ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=environment(), check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    "pipeline",
    [
        "audit gaps {model} --forget class:3 --format json | head -1",
        "audit show {report} | head -1",
        "audit show {report} | true",
        "audit schema | true",
        "audit --help | true",
        "audit nonsense 2>&1 | true",
    ],
)
def test_a_closed_pipe_is_no_crash(pipeline: str, tiny: Path, report: Path) -> None:
    code, _, stderr = pipe(pipeline.format(model=tiny / "unlearned.safetensors", report=report))
    assert code in (0, 2, 3)  # 3 where the reader went away first, and never 1, which is a failed policy
    assert stderr == ""


def test_json_is_one_document_whatever_the_width_and_the_labels(
    run: Run, tiny: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = ["[red]unlearned[/red]", "a label that is far longer than forty columns, [1] [/] \\[bold]"]
    entries = "".join(
        f"[[checkpoint]]\npath = '{tiny / name}.safetensors'\nlabel = '{label}'\n"
        for name, label in zip(("unlearned", "original"), labels, strict=True)
    )
    (here / "c.toml").write_text(f"forget = '{tiny / 'forget.npy'}'\n{entries}[gaps]\n[mia]\n")
    monkeypatch.setenv("COLUMNS", "40")
    ran = run("audit", "c.toml", "--format", "json", "--out", "report")
    assert (ran.code, ran.stderr) == (0, "wrote report/report.json\nwrote report/arrays.npz\n")
    assert [subject["label"] for subject in json.loads(ran.stdout)["subjects"]] == labels
    assert ran.stdout == (here / "report" / "report.json").read_text()
    monkeypatch.setenv("COLUMNS", "200")
    table = run("show", "report/report.json").stdout
    assert "[red]unlearned" in table.replace("\n", "")
    assert max(map(len, run("show", "report/report.json").stdout.splitlines())) <= 200


def test_a_stream_without_dashes_gets_them_spelt_out(
    run_process: Run, report: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    ran = run_process("show", report, cwd=here)
    assert (ran.code, ran.stderr) == (0, "")
    assert "accuracy retain" in ran.stdout
    assert run_process("größe", cwd=here).code == 2


@pytest.mark.parametrize("verb", ["rcd", "gaps", "mia", "train", "apply", "audit"])
def test_quiet_silences_stderr(verb: str, run: Run, run_process: Run, tiny: Path, here: Path) -> None:
    start, forget = tiny / "original.safetensors", ["--forget", tiny / "forget.npy"]
    (here / "c.toml").write_text(f"forget = 'class:3'\n[[checkpoint]]\npath = '{start}'\n[gaps]\n")
    requests: dict[str, list[object]] = {
        "rcd": ["rcd", start, *forget, "--steps", 1, "--sample", 20],
        "gaps": ["gaps", start, *forget, "--out", "report"],
        "mia": ["mia", "loss", start, *forget],
        "train": ["train", "--data", "digits", "--epochs", 1, "--out", "o.safetensors"],
        "apply": ["apply", "ieu", start, *forget, "--steps", 1, "--out", "o.safetensors"],
        "audit": ["audit", "c.toml", "--out", "report"],
    }
    request = [*requests[verb], "--quiet"]
    # A process of its own also shows the warnings that Python prints by itself.
    ran = run_process(*request, cwd=here) if verb == "rcd" else run(*request)
    assert (ran.code, ran.stderr) == (0, "")
    assert bool(ran.stdout) == (verb not in ("train", "apply"))


def test_colours_only_for_terminals_and_never_with_no_color(
    run_process: Run, report: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coloured = re.compile(r"\x1b\[[0-9;]*\b(3[0-7]|9[0-7]|38;)")
    (here / "p.toml").write_text(POLICY.format(subject="unlearned", least=0.01))
    request = ["gate", report, "--policy", "p.toml"]
    assert "\x1b" not in run_process(*request, cwd=here).stdout
    monkeypatch.delenv("_TYPER_FORCE_DISABLE_TERMINAL")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert coloured.search(run_process(*request, cwd=here).stdout)
    monkeypatch.setenv("NO_COLOR", "1")
    for arguments in (request, ["show", report], ["--help"], ["rdc"]):
        ran = run_process(*arguments, cwd=here)
        assert not coloured.search(ran.stdout + ran.stderr)


# --- exit codes


def test_4_when_everything_asked_for_is_null(run: Run, tiny: Path) -> None:
    wild = ["--forget", tiny / "forget.npy", "--step-size", "1e25", "--steps", 3]
    ran = run("rcd", tiny / "unlearned.safetensors", *wild, "--format", "json")
    assert ran.code == 4
    found = json.loads(ran.stdout)["measurements"]
    assert found
    assert all(measurement["value"] is None and measurement["reason"] for measurement in found)
    assert all(measurement["reason"] for measurement in found)


@pytest.mark.parametrize(("values", "code"), [((None, 1.0), 4), ((0.5, 1.0), 0), ((0.5, None), 0), ((None, None), 4)])
def test_a_control_does_not_stand_for_the_subject(
    values: tuple[float | None, float | None],
    code: int,
    make_measurement: Callable[..., Measurement],
    make_report: Callable[..., AuditReport],
) -> None:
    found = [
        make_measurement("rcd.raw", role, role=role, value=value, reason="made up" if value is None else None)
        for role, value in zip(("unlearned", "control"), values, strict=True)
    ]
    with pytest.raises(typer.Exit) as stop:
        finish(make_report(*found))
    assert stop.value.exit_code == code


@pytest.mark.parametrize(
    ("subject", "least", "code"), [("unlearned", 0.01, 0), ("unlearned", 0.9999, 1), ("x", 0.5, 4)]
)
def test_a_gate_answers_with_its_exit_code(
    subject: str, least: float, code: int, run: Run, report: Path, here: Path
) -> None:
    (here / "p.toml").write_text(POLICY.format(subject=subject, least=least))
    ran = run("gate", report, "--policy", "p.toml", "--format", "json", "--quiet")
    assert (ran.code, json.loads(ran.stdout)["exit_code"], ran.stderr) == (code, code, "")


@pytest.mark.parametrize("problem", [RuntimeError("on\ntwo lines"), OSError(5, "broken disk"), KeyError("x")])
def test_a_crash_is_3_in_one_line_with_the_traceback_on_request(
    problem: Exception, run: Run, report: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(path: Path) -> None:
        raise problem

    monkeypatch.setattr("unlearn_audit.report.read_report", crash)
    ran = run("show", report)
    assert (ran.code, ran.stdout) == (3, "")
    assert "Traceback" not in ran.stderr
    assert len(ran.stderr.splitlines()) == 1
    assert "Traceback" in run("-v", "show", report).stderr


def test_an_end_of_input_is_no_failed_policy(run: Run, report: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(path: Path) -> None:
        raise EOFError

    monkeypatch.setattr("unlearn_audit.report.read_report", crash)
    assert run("show", report).code == 3


# --- help


def test_version(run: Run) -> None:
    assert run("--version") == (0, f"unlearn-audit {__version__}\n", "")


@pytest.mark.parametrize("arguments", [[], *([verb] for verb in VERBS), ["apply"], ["unlearn"], ["apply", "ieu"]])
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_every_help_fits_80_columns(arguments: list[str], flag: str, run: Run) -> None:
    ran = run(*arguments, flag)
    assert (ran.code, ran.stderr) == (0, "")
    assert f"Usage: {' '.join(['unlearn-audit', *arguments])}" in ran.stdout
    assert max(map(len, ran.stdout.splitlines())) <= 80
    assert not re.search(r"--[a-z-]*…", ran.stdout)


@pytest.mark.parametrize(
    "arguments",
    [
        *(["apply", method] for method in ("ieu", "boundary-expand", "entanglement")),
        ["shadows", "plan"],
        ["shadows", "run"],
        *([v] for v in VERBS),
    ],
)
def test_examples_can_be_pasted_as_they_are_printed(arguments: list[str], run: Run) -> None:
    printed = run(*arguments, "--help").stdout.partition("Example")[2].partition("╭")[0].splitlines()[1:]
    lines = [line.strip() for line in printed if line.strip()]
    assert lines or arguments == ["demo"]
    for before, line in zip(["", *lines], lines, strict=False):
        assert line.startswith("unlearn-audit ") != before.endswith("\\"), line
        assert "…" not in line


def test_help_of_a_method_names_the_transforms_that_it_takes_and_no_other(run: Run) -> None:
    named = {method: run("apply", method, "--help").stdout for method in ("entanglement", "ieu")}
    for transform in TRANSFORMS:
        assert f"{transform}: " in named["ieu"]
        assert (f"{transform}: " in named["entanglement"]) == (transform in ("mask", "reinit", "clip"))


def test_all_verbs_are_listed_and_known_here(run: Run) -> None:
    known = [command.name for command in app.registered_commands] + [group.name for group in app.registered_groups]
    assert sorted(map(str, known)) == sorted([*VERBS, "apply", "unlearn", "shadows"])
    text = run("--help").stdout
    assert all(re.search(rf"^│ {verb} ", text, re.MULTILINE) for verb in (*VERBS, "apply", "unlearn", "shadows"))


def test_apply_and_unlearn_are_one_group(run: Run, tiny: Path, here: Path) -> None:
    for name in ("apply", "unlearn"):
        arguments = [name, "ieu", tiny / "original.safetensors", "--forget", "class:3", "--steps", 2]
        assert run(*arguments, "--out", f"{name}.safetensors").code == 0
    one, two = (read_checkpoint(here / f"{name}.safetensors") for name in ("apply", "unlearn"))
    assert all(torch.equal(one.state[key], two.state[key]) for key in one.state)
    assert one.metadata is not None
    assert two.metadata is not None
    untimed = [each.model_copy(update={"wall_seconds": None}) for each in (one.metadata, two.metadata)]
    assert untimed[0] == untimed[1]
    assert run("apply", "ieu", "-h").stdout.split("\n")[2:] == run("unlearn", "ieu", "-h").stdout.split("\n")[2:]


# --- what a start costs


def seconds(*arguments: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], capture_output=True, env=environment(), check=True)
    return time.perf_counter() - started


def test_help_starts_within_30_times_a_bare_interpreter() -> None:
    for _ in range(3):  # other work on the machine may disturb a try, not all three
        rounds = [(seconds("-c", "pass"), seconds("-c", MAIN, "--help")) for _ in range(5)]
        bare, ours = (statistics.median(column) for column in zip(*rounds, strict=True))
        if ours <= 30 * bare:
            return
    pytest.fail(f"--help takes {ours / bare:.0f} times a bare interpreter's start ({ours:.2f} s)")


def test_without_a_terminal_a_line_tells_now_and_then(
    run: Run, tiny: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ["apply", "ft", tiny / "original.safetensors", "--forget", "class:3", "--steps", 60, "--out"]
    assert "fine-tuning" not in run(*asked, "a.safetensors").stderr.lower()
    monkeypatch.setattr("unlearn_audit.cli.console.EVERY", 0.0)
    lines = run(*asked, "b.safetensors").stderr.splitlines()
    assert any(re.fullmatch(r".+: 60 of 60, retain [0-9.]+", line) for line in lines), lines
    assert run(*asked, "c.safetensors", "--quiet").stderr == ""
