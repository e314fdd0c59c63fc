"""What lies in the current folder is no code to run, unless the user names it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from unlearn_audit.errors import DataError
from unlearn_audit.user_code import call_user_code, import_user_code

CHECKOUT = Path(__file__).parents[1]
PLANTED = ("json", "numpy", "torch", "sitecustomize", "usercustomize", "filelock", "typing", "unlearn_audit")
# Each verb in a process that is forked once the heavy modules are there, which were imported beside the traps, too.
RUN = """
import os, sys
sys.path.insert(0, sys.argv.pop(1))
from unlearn_audit.cli import main
import unlearn_audit.audit, unlearn_audit.demo
import sklearn.datasets, torch._dynamo
for line in open("verbs.txt").read().splitlines():
    child = os.fork()
    if not child:
        sys.argv = ["unlearn-audit", *line.split()]
        main()
    print(line, "->", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
QUICK = """
inspect o.safetensors
mia loss o.safetensors --forget forget.npy --out mia
gate mia/report.json --policy default
shadows run fleet o.safetensors --forget forget.npy --count 2 --epochs 1 --workers 1
""".strip()
VERBS = """
train --data digits?train=100 --epochs 1 --out trained.safetensors
apply ieu o.safetensors --forget forget.npy --steps 2 --out applied.safetensors
inspect o.safetensors
rcd o.safetensors r.safetensors --forget forget.npy --steps 2
gaps o.safetensors r.safetensors --forget forget.npy
truncation o.safetensors --forget forget.npy --steps 2 --reference-steps 30
spectrum o.safetensors --forget forget.npy --tolerance 0.5
mia loss o.safetensors --forget forget.npy --out mia
show mia/report.json --html page.html
gate mia/report.json --policy default
schema report
init o.safetensors r.safetensors --forget forget.npy --out made
validate made/unlearn-audit.toml
shadows run fleet o.safetensors --forget forget.npy --count 2 --epochs 1 --workers 1
shadows status fleet
shadows verify fleet
mia lira o.safetensors --forget forget.npy --shadows fleet
""".strip()


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """A folder full of modules that leave a mark when they are imported."""
    for name in PLANTED:
        path = tmp_path / name / "__init__.py" if name == "unlearn_audit" else tmp_path / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"open({str(tmp_path / f'ran-{name}')!r}, 'w').close()")
    return tmp_path


def marks(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("ran-*"))


@pytest.mark.parametrize("verbs", [QUICK, pytest.param(VERBS, marks=pytest.mark.slow)], ids=["four", "all"])
def test_no_verb_runs_what_lies_in_the_current_folder(planted: Path, tiny: Path, verbs: str) -> None:
    for short, name in (("o", "original"), ("r", "retrained-1")):
        (planted / f"{short}.safetensors").write_bytes((tiny / f"{name}.safetensors").read_bytes())
    (planted / "forget.npy").write_bytes((tiny / "forget.npy").read_bytes())
    (planted / "verbs.txt").write_text(verbs)
    done = subprocess.run(
        [sys.executable, "-P", "-c", RUN, str(CHECKOUT)],
        cwd=planted,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    codes = [line.rsplit(" -> ", 1) for line in done.stdout.splitlines() if " -> " in line]
    assert marks(planted) == []
    assert len(codes) == len(verbs.splitlines()), done.stdout + done.stderr
    # 4: so few steps and models measure nothing; what the gate says of that is the policy's word.
    assert [verb for verb, code in codes if code not in ("0", "4")] == [], done.stderr


def test_the_traps_are_traps(planted: Path) -> None:
    for name in ("json", "numpy", "unlearn_audit"):
        subprocess.run([sys.executable, "-c", f"import {name}"], cwd=planted, check=False, timeout=600)
    assert marks(planted) == ["ran-json", "ran-numpy", "ran-unlearn_audit"]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    # An empty current folder whose modules are forgotten afterwards.
    monkeypatch.chdir(tmp_path)
    before, path = set(sys.modules), list(sys.path)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]
    assert sys.path == path


def test_a_module_of_the_current_folder_is_found_with_what_it_imports(project: Path) -> None:
    (project / "my_layers.py").write_text("class Net:\n    size = 3\n")
    (project / "my_model.py").write_text("import my_layers\n\nclass Made:\n    net = my_layers.Net\n")
    assert import_user_code("my_model:Made.net.size") == 3


@pytest.mark.parametrize("name", ["json", "numpy", "torch"])
def test_a_module_that_is_there_twice_is_refused_with_both_places(project: Path, name: str) -> None:
    (project / f"{name}.py").write_text("def make():\n    return 1\n")
    with pytest.raises(ImportError, match=f"module '{name}' is .*{name}.py and .*too; give yours another name"):
        import_user_code(f"{name}:make")


def test_an_installed_module_needs_no_current_folder(project: Path) -> None:
    assert import_user_code("json:loads")("[1]") == [1]
    with pytest.raises(ModuleNotFoundError):
        import_user_code("no_such_module:make")
    with pytest.raises(AttributeError):
        import_user_code("json:no_such_name")


MINE = """
import sys
def prints():
    print("a remark")
    return 3
def exits():
    sys.exit(0)
def raises():
    raise ValueError("no such width")
def refuses():
    from unlearn_audit.errors import DataError
    raise DataError("no data today")
number = 3
"""


def test_code_is_called_and_what_it_prints_goes_to_stderr(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "my_calls.py").write_text(MINE)
    assert call_user_code("data", "my_calls:prints") == 3
    assert tuple(capsys.readouterr()) == ("", "a remark\n")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (
            "exits",
            "data 'my_calls:exits' failed when called without arguments: SystemExit: 0 (my_calls.py:7, in exits)",
        ),
        ("raises", "failed when called without arguments: ValueError: no such width (my_calls.py:9, in raises)"),
        ("refuses", "no data today"),
        ("number", "data 'my_calls:number' is a int, not a callable"),
        ("absent", "data 'my_calls:absent' cannot be imported (as installed, or from "),
    ],
)
def test_code_that_fails_is_the_error_asked_for_with_its_own_line(project: Path, name: str, says: str) -> None:
    (project / "my_calls.py").write_text(MINE)
    with pytest.raises(DataError) as caught:
        call_user_code("data", f"my_calls:{name}", DataError)
    assert says in str(caught.value)
