"""The GitHub Action and the GitLab job, run step by step as they stand there: what each outcome leaves to be read."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from ci_runners import ACTION, JOB, ROOT, act, installed, job, serving

from unlearn_audit.report import write_report

Make = Callable[..., Any]

CONFIG = 'forget = "class:3"\n[[checkpoint]]\npath = "u.pt"\n[gaps]\n'  # of which nothing needs torch to be checked
RULE = 'schema_version = 1\n[[rule]]\nid = "good"\nmetric = "accuracy.test"\nreason = "it must work"\n'
CHANGE = '[[rule]]\nid = "no-worse"\nmetric = "accuracy.test"\nmax_decrease = 0.05\n'
# The policy, what the Action ends with, what is said of the rule in the log, in the summary and in the Statement.
OUTCOMES = {
    "passed": (f"{RULE}min = 0.5\n", 0, "passed: good, unlearned: accuracy.test: 0.9", "passed", "PASSED"),
    "failed": (f"{RULE}min = 0.99\n", 1, "::error title=good%3A failed::unlearned: accuracy.test: 0.9", "failed",
               "FAILED"),
    "inconclusive": (f"{RULE}min = 0.5\nmin_n = 9999\n", 4, "::error title=good%3A inconclusive::", "inconclusive",
                     "FAILED"),
    "warned": (f'{RULE}min = 0.99\nseverity = "warn"\n{CHANGE.replace("max_decrease = 0.05", "min = 0.5")}', 0,
               "::warning title=good%3A failed::", "passed", "WARNED"),
    "advisory": (RULE.replace("[[rule]]", "advisory = true\n[[rule]]") + 'min = 0.99\nseverity = "warn"\n', 0,
                 "::warning title=good%3A failed::", "passed", None),
}  # fmt: skip


@pytest.fixture(scope="module")
def tool(run: Callable[..., Any]) -> Iterator[Path]:
    with serving(run) as door:
        yield door


@pytest.fixture
def place(here: Path, tool: Path, make_report: Make, make_measurement: Make) -> tuple[Path, Path]:
    """A workspace with a config, and a runner whose audit measures nothing but brings a report."""
    (here / "u.pt").write_bytes(b"")
    (here / "audit.toml").write_text(CONFIG)
    write_report(make_report(make_measurement("accuracy.test", interval=(0.85, 0.95))), here / "given.json")
    return here, installed(here / "runner", tool, audited=here / "given.json")


@pytest.mark.parametrize("name", OUTCOMES)
def test_an_outcome_is_told_everywhere(name: str, place: tuple[Path, Path]) -> None:
    text, code, said, verdict, stated = OUTCOMES[name]
    folder, temporary = place
    (folder / "p.toml").write_text(text)
    done = act(folder, temporary, config="audit.toml", policy="p.toml")
    assert done.outputs["exit-code"] == str(code), done.log
    assert done.passed == (code == 0)
    assert said in done.log
    assert f"The policy's verdict: {verdict}" in done.summary
    assert "the artifact unlearn-audit of this run" in done.summary
    out = folder / "unlearn-audit"
    assert (out / "report.html").stat().st_size > 1000
    assert json.loads((out / "gate.json").read_text())["exit_code"] == code
    suite = ElementTree.parse(out / "gate.xml").getroot()[0]
    assert suite.get("timestamp")
    assert float(suite.get("time", "")) >= 0
    assert verdict in (out / "badge.svg").read_text()
    if stated is None:
        assert done.outputs["statement"] == ""
        assert "no Statement could be made" in done.log
    else:
        assert json.loads((folder / done.outputs["statement"]).read_text())["predicate"]["result"] == stated
    assert "unlearn-audit/report.html" in done.used["Upload"]["path"]


def test_a_rule_that_fails_says_why_it_is_there(place: tuple[Path, Path]) -> None:
    folder, temporary = place
    (folder / "p.toml").write_text(OUTCOMES["failed"][0])
    log = act(folder, temporary, config="audit.toml", policy="p.toml").log
    assert "min 0.99; it must work" in log


def test_an_unknown_policy_is_refused_before_anything_is_measured(place: tuple[Path, Path]) -> None:
    folder, temporary = place
    done = act(folder, temporary, config="audit.toml", policy="defualt")
    assert done.outputs["exit-code"] == "2"
    assert not done.passed
    assert done.ran["Audit"] == done.ran["Gate"] == done.ran["Page"] == "skipped"
    assert "::error title=unlearn-audit, checking config and policy::error: unknown policy 'defualt'" in done.log
    assert "did you mean 'default'" in done.summary
    assert "(exit 2)" in done.summary


def test_every_slip_of_a_config_stands_in_one_annotation_and_in_the_summary(place: tuple[Path, Path]) -> None:
    folder, temporary = place
    (folder / "audit.toml").write_text('forgot = "class:3"\n[rcd]\nsteps = "many"\n')
    done = act(folder, temporary, config="audit.toml")
    assert done.outputs["exit-code"] == "2"
    (line,) = [line for line in done.log.splitlines() if line.startswith("::error")]
    for text in (line, done.summary):
        assert "forgot" in text
        assert "rcd.steps" in text
    assert "%0A" in line
    missing = act(folder, temporary, config="no-such.toml")
    assert missing.outputs["exit-code"] == "2"
    assert "no-such.toml" in missing.summary


def test_an_audit_that_ends_in_an_error_is_told(place: tuple[Path, Path], tool: Path) -> None:
    folder, temporary = place
    broken = installed(temporary / "real", tool)  # u.pt is empty, which no audit can read
    (folder / "unlearn-audit").mkdir()
    (folder / "unlearn-audit" / "report.json").write_bytes((folder / "given.json").read_bytes())
    done = act(folder, broken, config="audit.toml")
    assert done.outputs["exit-code"] == "3", done.log
    assert done.ran["Gate"] == done.ran["Page"] == "skipped"
    assert "::error title=unlearn-audit, the audit::error: " in done.log
    assert "u.pt" in done.summary
    assert not (folder / "unlearn-audit" / "report.json").exists(), "no report of another run is uploaded as this one's"


def test_a_report_that_is_not_about_the_checkpoint_is_told(place: tuple[Path, Path]) -> None:
    folder, temporary = place
    done = act(folder, temporary, config="audit.toml", policy="lenient", checkpoint="u.pt")
    assert done.outputs["exit-code"] == "2"
    assert "checkpoint is empty (0 bytes): u.pt" in done.summary
    assert done.ran["Page"] == "success", "there is a report to look at all the same"
    assert act(folder, temporary, config="audit.toml", policy="lenient", subject="nobody").outputs["exit-code"] == "2"


def test_a_first_release_has_no_baseline_and_a_second_one_has(place: tuple[Path, Path]) -> None:
    folder, temporary = place
    (folder / "p.toml").write_text(f"{RULE}min = 0.5\n{CHANGE}")
    first = act(folder, temporary, config="audit.toml", policy="p.toml", baseline="last/report.json")
    assert first.outputs["exit-code"] == "4"
    assert "::notice title=unlearn-audit::There is no baseline" in first.log
    assert "first release" in first.summary
    assert "no-worse" in first.summary
    second = act(folder, temporary, config="audit.toml", policy="p.toml", baseline="given.json")
    assert second.outputs["exit-code"] in ("0", "4")
    assert "no baseline" not in second.log
    assert "in the baseline, 0.9 now" in second.summary


def test_what_the_gate_says_of_a_foreign_baseline_is_no_command(place: tuple[Path, Path]) -> None:
    folder, temporary = place
    (folder / "##[add-mask]x.json").write_text("no report")
    done = act(folder, temporary, config="audit.toml", policy="lenient", baseline="##[add-mask]x.json")
    assert done.outputs["exit-code"] == "3"
    stopped = re.findall(r"^::stop-commands::(\w+)$(.*?)^::\1::$", done.log, flags=re.MULTILINE | re.DOTALL)
    assert any("##[add-mask]" in text for _, text in stopped)
    without = re.sub(r"^::stop-commands::(\w+)$.*?^::\1::$", "", done.log, flags=re.MULTILINE | re.DOTALL)
    assert all(line.startswith("::error ") for line in without.splitlines() if "##[" in line)


def test_measurements_are_kept_by_their_content_and_taken_up_only_where_asked(place: tuple[Path, Path]) -> None:
    folder, temporary = place
    assert "Restore" not in act(folder, temporary, config="audit.toml", policy="lenient").used
    parts = folder / "unlearn-audit" / "parts"
    parts.mkdir()
    (parts / "gaps-0123.json").write_text("")
    given = {"config": "audit.toml", "policy": "lenient", "fresh": "false"}
    first, again = (act(folder, temporary, **given).used for _ in range(2))
    assert first["Keep"]["key"] == again["Keep"]["key"]
    assert first["Keep"]["key"].startswith(first["Restore"]["key"] + "-")
    (parts / "mia-4567.json").write_text("")
    assert act(folder, temporary, **given).used["Keep"]["key"] != first["Keep"]["key"]
    (folder / "audit.toml").write_text(CONFIG + "[twosample]\n")
    assert act(folder, temporary, **given).used["Restore"]["key"] != first["Restore"]["key"]


def test_an_input_is_never_a_command(place: tuple[Path, Path]) -> None:
    folder, temporary = place
    hostile = '"; touch stolen; echo "\n::set-env name=A::b'
    for name in ("policy", "config", "checkpoint", "subject", "baseline"):
        done = act(folder, temporary, **{"config": "audit.toml", "policy": "lenient", name: hostile})
        assert not [line for line in done.log.splitlines() if line.startswith("::set-env")], name
    assert not (folder / "stolen").exists()
    for one in ACTION["runs"]["steps"]:
        assert "${{" not in one.get("run", ""), "an expression in a script is text that an input can break out of"


def test_what_a_report_says_is_never_a_command(
    place: tuple[Path, Path], make_report: Make, make_measurement: Make
) -> None:
    folder, temporary = place
    name = "u\n::add-mask::a\n##[add-mask]b"
    measured = make_measurement("accuracy.test", name, value=None, reason=name, role="unlearned")
    write_report(make_report(measured), folder / "given.json")
    (folder / "p.toml").write_text(f"{RULE}min = 0.5\n".replace("it must work", "##[add-mask]c"))
    done = act(folder, temporary, config="audit.toml", policy="p.toml")
    assert done.outputs["exit-code"] == "4", done.log
    ours = re.compile(r"::(error|notice) title=|::stop-commands::[0-9a-f]{32}$|::[0-9a-f]{32}::$")
    for line in done.log.splitlines():
        assert ours.match(line) or not (line.startswith("::") or "##[" in line), line


def test_what_cannot_be_installed_is_told(here: Path) -> None:
    (here / "temporary").mkdir()
    python = here / "python"  # whose `-m venv FOLDER` makes a pip that notes what it is asked for, and fails
    python.write_text(
        '#!/bin/sh\nmkdir -p "$3/bin"\n'
        'printf \'#!/bin/sh\\necho "$*" > asked; exit 1\' > "$3/bin/pip"\nchmod +x "$3/bin/pip"\n'
    )
    python.chmod(0o755)
    done = act(here, here / "temporary", but=(), config="audit.toml", python=str(python), index="https://mirror")
    assert done.outputs["exit-code"] == "3"
    assert "could not be installed" in done.summary
    assert set(done.ran.values()) == {"failure", "skipped", "success"}
    assert done.ran["Validate"] == "skipped"
    assert "--extra-index-url https://mirror" in (here / "asked").read_text()


def test_every_input_and_output_of_the_action_says_what_it_is() -> None:
    used = json.dumps(ACTION["runs"]["steps"])
    for name, about in ACTION["inputs"].items():
        assert about["description"]
        assert f"inputs.{name} " in used, f"{name} is not used"
    steps = {one.get("id") for one in ACTION["runs"]["steps"]}
    for about in ACTION["outputs"].values():
        assert about["value"].split(".")[1] in steps
    for one in ACTION["runs"]["steps"]:
        assert "uses" not in one or len(one["uses"].partition("@")[2]) == 40, "an action of others by its commit"


def test_the_quickstart_goes_through_the_action_from_data_to_a_verdict(here: Path, tool: Path) -> None:
    """Everything in it is as it stands there, for fewer epochs and steps: those that it has are the demo's."""
    text = (ROOT / "sample_configs" / "quickstart.toml").read_text()
    shorter = {
        "[[train]]": "[[train]]\nepochs = 5",
        "steps = 100": "steps = 5\nstep_size = 0.005",
        'method = "ieu"': 'method = "ieu"\nsettings = { steps = 30 }',
    }
    for whole, short in shorter.items():
        assert whole in text
        text = text.replace(whole, short)
    (here / "quickstart.toml").write_text(text)
    done = act(here, installed(here / "runner", tool), config="quickstart.toml")
    assert done.outputs["exit-code"] == "1", done.log  # IEU leaves a trace
    assert "::error title=no-trace%3A failed::unlearned: twosample.p: " in done.log
    assert "| no-trace | unlearned | failed |" in done.summary
    suite = ElementTree.parse(here / "unlearn-audit" / "gate.xml").getroot()
    assert len(suite.findall(".//failure")) == 1
    page = (here / "unlearn-audit" / "report.html").read_text()
    assert page.index("forgotten") < page.index("Accuracy and gaps"), "the verdict comes first"


# ----- GitLab


@pytest.mark.parametrize("name", OUTCOMES)
def test_the_gitlab_job_ends_with_the_gates_exit_code(name: str, place: tuple[Path, Path]) -> None:
    text, code, _, verdict, stated = OUTCOMES[name]
    folder, temporary = place
    (folder / "policy.toml").write_text(text)
    done = job(folder, temporary, CONFIG="audit.toml")
    assert done.returncode == code, done.stderr
    assert f"{verdict}: audit/report.json against policy.toml" in done.stderr
    assert "good, unlearned" in done.stdout
    assert (folder / "audit" / "statement.json").exists() == (stated is not None)
    for path in JOB["artifacts"]["paths"]:
        assert (folder / path).exists() or path.endswith("statement.json")
    assert ElementTree.parse(folder / JOB["artifacts"]["reports"]["junit"]).getroot().get("time")


def test_the_gitlab_job_validates_first_and_knows_a_first_release(place: tuple[Path, Path]) -> None:
    folder, temporary = place
    done = job(folder, temporary, CONFIG="audit.toml", POLICY="defualt")
    assert done.returncode == 2
    assert "did you mean 'default'" in done.stderr
    assert not (folder / "audit").exists()
    (folder / "policy.toml").write_text(f"{RULE}min = 0.5\n{CHANGE}")
    first = job(folder, temporary, CONFIG="audit.toml", BASELINE="last.json")
    assert first.returncode == 4
    assert "no baseline" in first.stdout
    second = job(folder, temporary, CONFIG="audit.toml", BASELINE="given.json", SUBJECT="unlearned", FRESH="false")
    assert "in the baseline, 0.9 now" in " ".join(second.stdout.split())
    refused = job(folder, temporary, CONFIG="audit.toml", CHECKPOINT="u.pt")
    assert refused.returncode == 2
    assert (folder / "audit" / "report.html").exists()
