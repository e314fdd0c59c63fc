"""`import unlearn_audit`: its names, loaded when they are used; `python -m unlearn_audit`; types for checkers."""

import ast
import importlib
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from small_problems import make_net, same, snapshot

import unlearn_audit as ua
from unlearn_audit import errors

HOUSE = Path(ua.__file__).parent
NAMES = sorted({*ua.__all__} - {"__version__"})


def in_a_process(*args: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own, with this checkout on its path."""
    found = os.environ | {"PYTHONPATH": str(HOUSE.parent), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *args], capture_output=True, text=True, env=found, timeout=600, check=False)


def test_importing_the_package_and_listing_its_names_loads_next_to_nothing() -> None:
    code = "import sys, unlearn_audit; dir(unlearn_audit); print([m for m in sys.modules if 'unlearn_audit.' in m])"
    assert in_a_process("-c", code).stdout == "[]\n"


def test_a_light_name_loads_no_torch() -> None:
    done = in_a_process("-c", "import sys, unlearn_audit as ua; print(ua.AuditError.__name__, 'torch' in sys.modules)")
    assert done.stdout == "AuditError False\n"


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_is_what_its_module_has(name: str) -> None:
    home = importlib.import_module(ua._HOME[name])
    assert name == "audit" or getattr(ua, name) is getattr(home, name)  # which is a package, too, see below
    assert getattr(ua, name).__doc__


def test_dir_lists_the_public_names_and_a_star_takes_them() -> None:
    assert dir(ua) == sorted(ua.__all__)
    taken: dict[str, object] = {}
    exec("from unlearn_audit import *", taken)
    assert {*NAMES} <= {*taken}


def test_type_checkers_see_each_name_where_it_is_taken_from() -> None:
    tree = ast.parse((HOUSE / "__init__.py").read_text())
    seen = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("unlearn_audit")
        for alias in node.names
    }
    assert seen == dict(ua._HOME)
    assert sorted(seen) == NAMES
    assert (HOUSE / "py.typed").read_text() == ""


def test_an_unknown_name_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="no attribute 'relearning_curve'"):
        ua.relearning_curve  # noqa: B018


def test_the_errors_are_those_of_the_house() -> None:
    assert ua.AuditError is errors.AuditError


def test_python_m_is_the_command_line() -> None:
    done = in_a_process("-m", "unlearn_audit", "--version")
    assert (done.returncode, done.stdout) == (0, f"unlearn-audit {ua.__version__}\n")
    done = in_a_process("-m", "unlearn_audit", "gate", "no-such.json", "--policy", "default")
    assert (done.returncode, done.stdout) == (3, "")


# What a researcher types, with a model, an original and a retrained module at hand.
NOTEBOOK = """
data = ua.load_data("digits"); splits = ua.make_splits(data, forget="class:3")
curve = ua.relearn(model, splits.forget, steps=100); ua.rcd(curve)
new = ua.unlearn("scrub", model, splits, alpha=0.1)
report = ua.audit({"original": m0, "unlearned": new, "retrained-1": r1}, splits, rcd={"steps": 100}, mia=["loss"])
report["rcd.ratio_to_unseen", "unlearned"].value
"""


def test_a_notebooks_lines_run_on_modules_in_memory() -> None:
    fewer = NOTEBOOK.replace('"digits"', '"digits?train=120&test=100"').replace("steps=100", "steps=3")
    fewer = fewer.replace('"steps": 100', '"steps": 3')
    names: dict[str, Any] = {"ua": ua, "model": make_net(0, 10), "m0": make_net(0, 10), "r1": make_net(1, 10)}
    before = snapshot(names["model"])
    exec(fewer, names)
    assert same(names["model"], before)
    report = names["report"]
    assert {one.role for one in report.subjects} == {"original", "unlearned", "retrained"}
    assert report["rcd.ratio_to_unseen", "unlearned"].value > 0
    assert "<table>" in report._repr_html_()


def test_the_sample_notebook_runs_and_tells_unlearned_from_original(capsys: pytest.CaptureFixture[str]) -> None:
    names = runpy.run_path(str(HOUSE.parent / "sample_configs" / "notebook.py"))
    report = names["report"]
    ratio = {label: report["rcd.ratio_to_unseen", label].value for label in ("original", "unlearned", "retrained-1")}
    assert ratio["original"] < 0.1 < 0.2 < ratio["unlearned"] < ratio["retrained-1"]  # IEU goes a part of the way here
    assert "### Conclusion" in capsys.readouterr().out


# Each order of imports in a process that is forked before the first of them, once what is slow to load is there.
ORDERS = """
import importlib, inspect, os, sys, traceback
import torch, torchvision, scipy.stats, scipy.optimize, scipy.linalg, safetensors, sklearn

def tried(first):
    assert not [name for name in sys.modules if name.startswith("unlearn_audit")]
    import unlearn_audit as ua
    ua.audit if first == "ua.audit" else importlib.import_module(first)
    from unlearn_audit import audit
    from unlearn_audit.audit import run_audit
    from unlearn_audit.in_memory.auditing import audit as function
    assert audit is ua.audit and ua.audit.run_audit is run_audit
    assert inspect.signature(ua.audit) == inspect.signature(function)
    try:
        ua.audit({}, None)
    except AttributeError as problem:  # None has no data: the call has come through
        return str(problem)

for first in sys.argv[1:]:
    child = os.fork()
    if not child:
        try:
            print("called", first, tried(first), flush=True)
        except BaseException:
            traceback.print_exc()
        os._exit(0)
    os.waitpid(child, 0)
"""


def test_audit_is_a_function_and_a_package_whatever_was_imported_first() -> None:
    orders = ("ua.audit", "unlearn_audit.audit.context", "unlearn_audit.in_memory.auditing")
    done = in_a_process("-c", ORDERS, *orders)
    called = [line.split()[:2] for line in done.stdout.splitlines()]
    assert called == [["called", first] for first in orders], done.stderr
