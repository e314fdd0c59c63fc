"""Whatever is wrong with a stream, the exit code is that of the answer, and stdout holds one document."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Run

from unlearn_audit.cli.streams import ASCII, in_ascii
from unlearn_audit.render.untrusted import LONGEST, brief
from unlearn_audit.report import write_report

Make = Callable[..., Any]
MAIN = "import sys; sys.argv[0] = 'unlearn-audit'; from unlearn_audit.cli import main; main()"
METRIC = "accuracy.test"
POLICY = 'schema_version = 1\n[[rule]]\nid = "a"\nmetric = "accuracy.test"\nmin = 0.5\n'


@pytest.fixture
def folder(here: Path, make_report: Make, make_measurement: Make) -> Path:
    """A folder with a report that passes, one that fails, one that is none, and a policy."""
    for name, value in (("good", 0.9), ("bad", 0.1)):
        measured = make_measurement(value=value, interval=(value - 0.05, value + 0.05))
        write_report(make_report(measured, limitations=("± é \x1b[2J\n",)), here / f"{name}.json")
    (here / "none.json").write_text("{")
    (here / "p.toml").write_text(POLICY)
    return here


def shell(line: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a line of a shell in which `ua` is the command line."""
    whole = f'ua() {{ "{sys.executable}" -c "{MAIN}" "$@"; }}\n{line}'
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"} | more
    return subprocess.run(
        ["bash", "-c", whole], capture_output=True, text=True, env=environment, timeout=600, check=False
    )


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("ua gate good.json --policy p.toml >&-", 3),
        ("ua gate bad.json --policy p.toml >&- 2>&-", 3),
        ("ua gate good.json --policy p.toml > /dev/full", 3),
        ("ua gate good.json --policy p.toml > /dev/full 2>&1", 3),
        ("ua gate good.json --policy p.toml 2>&- > /dev/null", 0),
        ("ua gate bad.json --policy p.toml 2> /dev/full > /dev/null", 1),
        ("ua gate none.json --policy p.toml 2>&-", 3),
        ("ua gate none.json --policy none.toml <&- 2> /dev/full", 2),
        ("ua gate good.json --nonsense 2>&-", 2),
        ("ua show good.json >&-", 3),
        ("ua schema policy > /dev/full", 3),
        ("ua gate --help >&-", 3),
        ("ua validate p.toml <&- >&- 2>&-", 0),
        ("ua gate good.json --policy p.toml --format json | head -0; exit ${PIPESTATUS[0]}", 3),
    ],
)
def test_streams_that_take_nothing_never_change_the_answer_to_another_one(folder: Path, line: str, code: int) -> None:
    done = shell(line)
    assert done.returncode == code, done
    assert "Traceback" not in done.stderr
    assert "passed" not in done.stderr or code == 0, done.stderr


def test_a_narrow_terminal_gets_ascii(folder: Path) -> None:
    line = "ua show good.json; ua gate good.json --policy p.toml --format markdown"
    done = shell(line, PYTHONIOENCODING="ascii:strict")
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()
    assert "  +- \\xe9 \\x1b[2J\\n" in done.stdout
    done = shell("ua gate --help; ua gate --nonsense", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert (done.stdout + done.stderr).isascii()


@pytest.mark.skipif(sys.platform == "win32", reason="no terminals of POSIX")
@pytest.mark.parametrize(("locale", "ascii_alone"), [({"LC_ALL": "C"}, True), ({"LC_ALL": "C.UTF-8"}, False),
                                                     ({"LC_ALL": "C", "PYTHONUTF8": "1"}, False)])  # fmt: skip
def test_a_terminal_whose_locale_is_ascii_gets_ascii(folder: Path, locale: dict[str, str], ascii_alone: bool) -> None:
    import pty

    master, slave = pty.openpty()
    plain = {key: text for key, text in os.environ.items() if not key.startswith(("LC_", "LANG", "PYTHON"))}
    environment = plain | {"PYTHONPATH": str(Path(__file__).parents[2]), "TERM": "xterm"} | locale
    done = subprocess.run([sys.executable, "-c", MAIN, "show", "good.json"], stdout=slave, stderr=slave,
                          env=environment, timeout=600, check=False)  # fmt: skip
    os.close(slave)
    shown = os.read(master, 2**16)
    os.close(master)
    assert done.returncode == 0
    assert b"accuracy test" in shown
    assert shown.isascii() == ascii_alone


PRINTS = """
import atexit, os, subprocess, sys
print("at import"); os.write(1, b"below python\\n"); sys.__stdout__.write("around\\n")
subprocess.run(["echo", "from a child"])
atexit.register(print, "at the end")
from unlearn_audit.models.small import small_cnn
def make():
    print("when called")
    network = small_cnn(classes=10, channels=1)
    network.register_forward_pre_hook(lambda *_: print("at every pass"))
    return network
"""


def test_what_the_users_own_code_prints_is_no_part_of_the_product(tiny: Path, here: Path) -> None:
    (here / "talking.py").write_text(PRINTS)
    request = f"--model talking:make {tiny}/unlearned.safetensors"
    done = shell(f"ua gaps {request} --forget {tiny}/forget.npy --format json --quiet")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["schema_version"] == 2
    for text in ("at import", "below python", "around", "from a child", "when called", "at every pass", "at the end"):
        assert text in done.stderr, text
    done = shell(f"ua inspect {tiny}/unlearned.safetensors --model talking:make --format json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)


# ----- messages


@pytest.mark.parametrize("length", [LONGEST, LONGEST + 1, 100_000, 10_000_000])
def test_a_message_is_one_line_of_a_bounded_length(length: int) -> None:
    text = brief("a\x1b[31m\r\n\u202e" + "x" * (length - 9))
    assert len(text) < 2 * LONGEST
    assert text.isprintable()
    assert text.endswith("x" if length <= LONGEST else " more characters)")


@pytest.mark.parametrize("length", [100_000, 1_000_000])
def test_no_input_fills_the_screen(folder: Path, run: Run, length: int) -> None:
    (folder / "p.toml").write_text(POLICY.replace("accuracy.test", "x" * length))
    done = run("gate", "good.json", "--policy", "p.toml")
    assert done.code == 2
    assert len(done.stderr) < 3 * LONGEST


def test_a_report_cannot_steer_the_screen_with_its_errors(
    folder: Path, run: Run, make_report: Make, make_measurement: Make
) -> None:
    label = "\x1b[2J\nfake: passed\x07"
    write_report(make_report(make_measurement("accuracy.test", label, role="unlearned")), folder / "good.json")
    for request in (["--subject", "nobody"], ["--checkpoint", "p.toml"], ["--subject", label, "--today", "\x1b[2J"]):
        done = run("gate", "good.json", "--policy", "p.toml", *request)
        assert done.code == 2
        assert not set("\x1b\x07") & set(done.stdout + done.stderr)
        assert "\nfake" not in done.stderr
    (folder / "\x1b[2J\n.toml").write_text("schema_version = 2")
    done = run("validate", "\x1b[2J\n.toml", "p.toml")
    assert (done.code, "\x1b" in done.stderr) == (2, False)


@pytest.mark.parametrize("length", [100_000, 1_000_000])
def test_no_text_of_a_report_fills_the_screen(
    here: Path, run: Run, make_report: Make, make_measurement: Make, length: int
) -> None:
    long = "x" * length
    measured = make_measurement(METRIC, long, role="unlearned", value=None, reason=long)
    write_report(make_report(measured, limitations=(long,), conclusion=(long,)), here / "r.json")
    (here / "p.toml").write_text(POLICY)
    for request in (["show", "r.json"], ["gate", "r.json", "--policy", "p.toml"]):
        for kind in ("table", "markdown"):
            done = run(*request, "--format", kind)
            assert done.code in (0, 4)
            assert len(done.stdout + done.stderr) < 12 * LONGEST, (request, kind)


def test_many_problems_are_counted_not_listed(folder: Path, run: Run) -> None:
    rules = "".join(f'[[rule]]\nid = "{i}"\nmetric = "x"\n' for i in range(500))
    (folder / "p.toml").write_text("schema_version = 1\n" + rules)
    done = run("gate", "good.json", "--policy", "p.toml")
    assert done.code == 2
    assert "500 problems" in done.stderr
    assert done.stderr.splitlines()[-1] == "  - and 400 more"


def test_every_likeness_is_ascii() -> None:
    assert all(text.isascii() and text.isprintable() for text in ASCII.values())
    assert in_ascii("a ± b – c … é \U0001f600") == "a +- b - c ... \\xe9 \\U0001f600"


def test_a_stream_of_a_caller_is_left_alone(run: Run) -> None:
    before = sys.stdout
    assert run("--version").stdout.startswith("unlearn-audit ")
    assert sys.stdout is before
    assert not isinstance(before, io.RawIOBase)
