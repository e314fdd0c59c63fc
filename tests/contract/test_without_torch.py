"""Verdicts need no torch: the verbs on reports, configs and policies run where it cannot be imported at all."""

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

from unlearn_audit.report import write_report

Make = Callable[..., Any]
ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LIGHT = [
    line
    for line in (ROOT / "sample_configs" / "requirements-gate.txt").read_text().splitlines()
    if line and not line.startswith("#")
]
MODULES = {"scikit-learn": "sklearn", "pillow": "PIL"}  # where a distribution calls its module otherwise

POLICY = 'schema_version = 1\n[[rule]]\nid = "good"\nmetric = "accuracy.test"\nmin = 0.5\n'
CONFIG = 'forget = "class:3"\n[[checkpoint]]\npath = "u.pt"\n[gaps]\n[rcd]\n'
# Each with the exit code that it must have.
REQUESTS = (
    (0, "--help"),
    (0, "--version"),
    (0, "rcd --help"),
    (0, "gate r.json --policy p.toml --json o/v.json --markdown o/v.md --junit o/v.xml --badge o/b.svg"),
    (0, "gate r.json --policy p.toml --statement o/s.json"),
    (0, "gate r.json --policy p.toml --checkpoint u.pt --baseline r.json --format github"),
    (0, "show r.json --policy p.toml"),
    (0, "show r.json --policy p.toml --html o/r.html --markdown o/r.md --figures o/figures"),
    (0, "results r.json"),
    (0, "results r.json --format csv"),
    (0, "results r.json --format latex"),
    (0, "schema report"),
    (0, "schema config"),
    (0, "validate c.toml p.toml default"),
    (0, "validate more.toml"),
    (2, "validate wrong.toml"),
    (3, "rcd u.pt --forget class:3"),
    (3, "demo"),
)  # fmt: skip
# Runs each request in one process, in which the modules of a list cannot be imported, and prints what became of it.
CODE = """
import contextlib, io, json, sys
for name in json.loads(sys.argv[1]):
    sys.modules[name] = None
from unlearn_audit.cli import main
found = []
for request in json.loads(sys.argv[2]):
    sys.argv = ["unlearn-audit", *request.split()]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
    found.append([code, out.getvalue(), err.getvalue()])
json.dump(found, sys.__stdout__)
"""


def test_the_list_for_verdicts_is_a_part_of_what_the_package_needs() -> None:
    assert set(LIGHT) < set(PROJECT["dependencies"])


def test_verbs_on_reports_run_where_nothing_else_can_be_imported(
    here: Path, make_report: Make, make_measurement: Make
) -> None:
    (here / "u.pt").write_bytes(b"weights")
    report = make_report(make_measurement("accuracy.test", interval=(0.85, 0.95)))
    (subject,) = report.subjects
    subject = subject.model_copy(update={"sha256": sha256(b"weights").hexdigest()})
    write_report(report.model_copy(update={"subjects": (subject,)}), here / "r.json")
    (here / "p.toml").write_text(POLICY)
    (here / "c.toml").write_text(CONFIG)
    (here / "more.toml").write_text('data = "digits"\nmodel = "small-cnn"\n' + CONFIG)
    (here / "wrong.toml").write_text('forgot = "class:3"\n' + CONFIG)
    rest = [re.split("[<>=!]", name)[0] for name in set(PROJECT["dependencies"]) - set(LIGHT)]
    blocked = [*(MODULES.get(name, name) for name in rest), "timm", "transformers", "diffusers", "pandas"]
    done = subprocess.run(
        [sys.executable, "-c", CODE, json.dumps(blocked), json.dumps([request for _, request in REQUESTS])],
        cwd=here, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    told = {request: found for (_, request), found in zip(REQUESTS, json.loads(done.stdout), strict=True)}
    for code, request in REQUESTS:
        assert told[request][0] == code, (request, told[request])
    assert "more.toml: a valid config, as far as can be told without torch" in told["validate more.toml"][2]
    assert "c.toml: a valid config\n" in told["validate c.toml p.toml default"][2]
    assert "forgot" in told["validate wrong.toml"][2]
    assert "this needs" in told["demo"][2]
    assert "pip install unlearn-audit" in told["demo"][2]
    assert (here / "o" / "r.html").stat().st_size > 1000
