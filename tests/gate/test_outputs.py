"""What `gate` prints and writes: a table, JSON, Markdown, JUnit XML and a Statement that say the same."""

import json
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from conftest import Refused, Run
from rich.console import Console

from unlearn_audit.files import sha256_of_file
from unlearn_audit.gate import gate_files
from unlearn_audit.render import badge, decisions, html, junit, markdown
from unlearn_audit.render.intoto import as_statement
from unlearn_audit.report import read_report, write_report

Make = Callable[..., Any]
HOSTILE = "\x1b[31m<b>&\"'|`\x00\n# ]]>\u202e"

POLICY = """
schema_version = 1
[[rule]]
id = "good"
metric = "accuracy.test"
min = 0.5
[[rule]]
id = "bad"
metric = "accuracy.forget"
min = 0.5
reason = "it must <be> good"
[[rule]]
id = "open"
metric = "rcd.raw"
min = 0.5
[[rule]]
id = "broken"
metric = "accuracy.retain"
min = 0.5
[[rule]]
id = "excused"
metric = "accuracy.unseen"
min = 0.5
[[rule]]
id = "only-told"
metric = "accuracy.forget"
min = 0.5
severity = "warn"
[[waiver]]
rule = "excused"
sha256 = "{digest}"
reason = "ticket 7"
owner = "jane"
expires = 2026-06-30
[[waiver]]
rule = "bad"
sha256 = "{digest}"
reason = "ticket 8"
owner = "joe"
expires = 2026-01-01
"""
VERDICTS = ["passed", "failed", "inconclusive", "error", "waived", "failed"]


@pytest.fixture
def places(here: Path, make_report: Make, make_measurement: Make) -> tuple[Path, Path]:
    """A report and a policy that give every verdict."""
    write_report(
        make_report(
            make_measurement("accuracy.test", interval=(0.85, 0.95)),
            make_measurement("accuracy.forget", value=0.1),
            make_measurement("rcd.raw", value=None, reason="diverged"),
            make_measurement("accuracy.retain", value="0.9"),
            make_measurement("accuracy.unseen", value=0.1),
        ),
        here / "r.json",
    )
    (here / "p.toml").write_text(POLICY.format(digest="b" * 64))
    return here / "r.json", here / "p.toml"


DAY = ["--today", "2026-03-01"]


def test_every_output_of_one_run_says_the_same(places: tuple[Path, Path], run: Run, here: Path) -> None:
    files = [
        text
        for kind in ("json", "markdown", "junit", "statement", "badge")
        for text in (f"--{kind}", str(here / f"o.{kind}"))
    ]
    ran = run("gate", places[0], "--policy", places[1], *DAY, *files, "--format", "json")
    assert ran.code == 3  # an error comes before a failure before what is open
    body = json.loads(ran.stdout)
    assert ran.stdout == (here / "o.json").read_text()
    assert body["exit_code"] == 3
    assert body["verdict"] == "error"
    assert [decision["verdict"] for decision in body["decisions"]] == VERDICTS
    assert body["report"] == {"path": str(places[0]), "sha256": sha256_of_file(places[0])}
    assert body["policy"] == {"path": str(places[1]), "sha256": sha256_of_file(places[1])}
    assert body["today"] == "2026-03-01"
    assert body["decisions"][0]["interval"] == {"low": 0.85, "high": 0.95, "level": 0.95, "method": "made up"}
    assert body["decisions"][1]["sha256"] == "b" * 64
    assert [(waiver["owner"], waiver["status"]) for waiver in body["waivers"]] == [("jane", "used"), ("joe", "expired")]
    table = run("gate", places[0], "--policy", places[1], *DAY).stdout
    markdown = (here / "o.markdown").read_text()
    assert markdown == run("gate", places[0], "--policy", places[1], *DAY, "--format", "markdown").stdout
    for text in (table, markdown):
        for word in (*VERDICTS, "failed (warning)", "used", "expired", "ticket 7", "ticket 8", "jane", "joe"):
            assert word in text


def test_junit_tells_failures_from_errors_and_what_is_skipped(places: tuple[Path, Path], run: Run, here: Path) -> None:
    run("gate", places[0], "--policy", places[1], *DAY, "--junit", "o.xml")
    suites = ElementTree.parse(here / "o.xml").getroot()
    (suite,) = suites
    for node in (suites, suite):
        assert (node.get("tests"), node.get("failures")) == ("6", "1")
        assert (node.get("errors"), node.get("skipped")) == ("2", "2")
    cases = suite.findall("testcase")
    assert [case.get("name") for case in cases] == ["good", "bad", "open", "broken", "excused", "only-told"]
    assert [[child.tag for child in case] for case in cases] == [
        [], ["failure"], ["error"], ["error"], ["skipped"], ["skipped"]]  # fmt: skip
    assert {case.get("classname") for case in cases} == {"unlearn-audit.unlearned"}
    assert "it must <be> good" in (cases[1][0].text or "")
    assert (cases[5][0].get("message") or "").startswith("warning: failed: 0.1")
    properties = [(node.get("name"), node.get("value") or "") for node in suite.iter("property")]
    named = dict(properties)
    assert named["policy.sha256"] == sha256_of_file(places[1])
    assert named["report.sha256"] == sha256_of_file(places[0])
    assert "used" in named["waiver.excused"]
    assert "expired" in named["waiver.bad"]


def test_what_a_rule_leaves_open_is_no_failure_in_any_output(
    here: Path, make_report: Make, make_measurement: Make, run: Run
) -> None:
    write_report(make_report(make_measurement(), make_measurement("loss.test", value=0.88)), here / "r.json")
    rules = '[[rule]]\nid = "able"\nmetric = "accuracy.test"\nmin = 0.5\n[[rule]]\nid = "could-have-seen"\n'
    rules += 'metric = "loss.test"\nmax = 0.1\notherwise = "inconclusive"\n'
    (here / "p.toml").write_text(f"schema_version = 1\n{rules}")
    ran = run("gate", "r.json", "--policy", "p.toml", "--junit", "o.xml", "--statement", "o.json")
    assert ran.code == 4
    assert "0.88, max 0.1: not met, which limits the audit" in " ".join(ran.stdout.split())
    (suite,) = ElementTree.parse(here / "o.xml").getroot()
    assert (suite.get("failures"), suite.get("errors")) == ("0", "1")
    assert (suite[2][0].get("message") or "").startswith("inconclusive: 0.88, max 0.1: not met")
    said = json.loads((here / "o.json").read_text())["predicate"]  # the format has no word for "open"
    assert (said["result"], said["passedTests"], said["failedTests"]) == ("FAILED", ["able"], ["could-have-seen"])
    assert '"otherwise"' in run("schema", "policy").stdout


def test_text_that_is_not_trusted_stays_text_everywhere(
    here: Path, make_report: Make, make_measurement: Make, run: Run
) -> None:
    measurement = make_measurement("rcd.raw", HOSTILE, role="unlearned", value=None, reason=HOSTILE)
    write_report(make_report(measurement), here / "r.json")
    policy = '[[rule]]\nid = "{id}"\nmetric = "rcd.raw"\nmin = 1\nreason = "{id}"\n'.format(id="<i>|\\u0007")
    (here / "p.toml").write_text(f"schema_version = 1\n{policy}")
    for kind in ("table", "markdown", "json"):
        ran = run("gate", "r.json", "--policy", "p.toml", "--format", kind)
        assert ran.code == 4
        assert not set("\x1b\x00\x07\u202e") & set(ran.stdout)
    text = run("gate", "r.json", "--policy", "p.toml", "--format", "markdown").stdout
    assert "<b>" not in text.replace("\\<b\\>", "")
    run("gate", "r.json", "--policy", "p.toml", "--junit", "o.xml", "--statement", "o.json")
    (case,) = ElementTree.parse(here / "o.xml").getroot().iter("testcase")
    assert case.get("name") == "<i>|\\x07"
    assert json.loads((here / "o.json").read_text())["subject"][0]["name"] == HOSTILE


def test_markdown_stays_below_what_github_keeps(
    places: tuple[Path, Path], make_report: Make, make_measurement: Make
) -> None:
    many = [make_measurement("accuracy.test", f"{i} " + "é" * 300, role="unlearned", value=0.1) for i in range(1500)]
    write_report(make_report(*many), places[0])
    text = decisions.as_markdown(gate_files(*places))
    assert len(text.encode()) <= 1_000_000 < 1024**2
    assert "This text was cut here" in text.splitlines()[-1]
    assert text.startswith("### ❌ The policy's verdict: failed")


# ----- when there is nothing to decide on


@pytest.mark.parametrize("content", [b"", b"{", b'{"schema_version": 2}'])
def test_a_report_that_cannot_be_read_is_an_error_in_every_file(
    places: tuple[Path, Path], run: Run, here: Path, content: bytes
) -> None:
    places[0].write_bytes(content)
    ran = run("gate", places[0], "--policy", places[1], "--json", "o.json", "--junit", "o.xml", "--markdown", "o.md")
    assert (ran.code, ran.stdout) == (3, "")
    body = json.loads((here / "o.json").read_text())
    assert (body["exit_code"], body["verdict"]) == (3, "error")
    assert "r.json" in body["problem"]
    assert {decision["verdict"] for decision in body["decisions"]} == {"error"}
    cases = list(ElementTree.parse(here / "o.xml").getroot().iter("testcase"))
    assert [child.tag for case in cases for child in case] == ["error"] * 5 + ["skipped"]
    assert "verdict: error" in (here / "o.md").read_text()


def test_a_baseline_that_cannot_be_read_is_an_error(places: tuple[Path, Path], run: Run, here: Path) -> None:
    (here / "old.json").write_text('{"schema_version": 0}')
    request = ["gate", places[0], "--policy", places[1]]
    ran = run(*request, "--baseline", "old.json", "--json", "o.json")
    assert ran.code == 3
    assert "old.json: schema_version is 0" in ran.stderr
    assert json.loads((here / "o.json").read_text())["baseline"]["path"] == "old.json"
    assert run(*request, "--baseline", "none.json").code == 3


def test_warnings_do_not_hide_a_report_that_cannot_be_read(here: Path, run: Run) -> None:
    (here / "p.toml").write_text(
        'schema_version = 1\nadvisory = true\n[[rule]]\nid = "a"\nmetric = "rcd.raw"\nmin = 1\nseverity = "warn"\n'
    )
    ran = run("gate", "none.json", "--policy", "p.toml", "--json", "o.json")
    assert ran.code == 3
    assert json.loads((here / "o.json").read_text())["exit_code"] == 3


def test_no_output_of_an_earlier_gate_outlives_a_gate_that_cannot_decide(
    places: tuple[Path, Path], run: Run, here: Path
) -> None:
    request = ["gate", places[0], "--policy", places[1], "--statement", "s.json", "--json", "o.json", "--force"]
    run(*request)
    assert (here / "s.json").exists()
    places[0].write_bytes(b"{")
    assert run(*request).code == 3
    assert not (here / "s.json").exists()
    assert json.loads((here / "o.json").read_text())["verdict"] == "error"
    places[1].write_text("schema_version = 2")
    assert run(*request).code == 2
    assert not (here / "o.json").exists()


# ----- what is refused


@pytest.mark.parametrize("kind", ["json", "markdown", "junit", "statement", "badge"])
def test_a_file_that_exists_is_not_replaced_unasked(places: tuple[Path, Path], refused: Refused, kind: str) -> None:
    (places[0].parent / "o").write_text("old")
    refused("gate", "r.json", "--policy", "p.toml", f"--{kind}", "o", code=2, says=["o exists already", "--force"])


@pytest.mark.parametrize("name", ["r.json", "p.toml"])
def test_an_input_is_never_overwritten(places: tuple[Path, Path], refused: Refused, name: str) -> None:
    request = ["gate", "r.json", "--policy", "p.toml", "--json", name, "--force"]
    refused(*request, code=2, says=["which is an input"])


def test_two_outputs_need_two_files(places: tuple[Path, Path], refused: Refused) -> None:
    request = ["gate", "r.json", "--policy", "p.toml", "--json", "o", "--junit", "./o"]
    refused(*request, code=2, says=["what --json writes"])


def test_a_subject_that_the_report_does_not_have_is_a_usage_error(places: tuple[Path, Path], refused: Refused) -> None:
    says = ["unknown subject 'unlearnt'; did you mean 'unlearned'?", "Known: unlearned"]
    refused("gate", "r.json", "--policy", "p.toml", "--subject", "unlearnt", code=2, says=says)


@pytest.mark.parametrize("day", ["2026-02-30", "tomorrow", "2026-03-01T00:00"])
def test_a_day_that_is_none_is_a_usage_error(places: tuple[Path, Path], refused: Refused, day: str) -> None:
    refused("gate", "r.json", "--policy", "p.toml", "--today", day, code=2, says=["--today"])


# ----- what CI systems read, and days that are not today


def test_junit_has_times_and_a_timestamp(places: tuple[Path, Path], here: Path) -> None:
    found = gate_files(*places, now=datetime(2026, 3, 1, 12, 30, 5, tzinfo=UTC))
    suites = ElementTree.fromstring(junit.render(found))
    (suite,) = suites
    assert suite.get("timestamp") == "2026-03-01T12:30:05"
    times = [float(case.get("time") or "none") for case in suite.findall("testcase")]
    assert len(times) == 6
    assert all(time >= 0 for time in times)
    for node in (suites, suite):
        assert float(node.get("time") or "none") == pytest.approx(sum(times), abs=1e-5)


def test_a_badge_has_outcome_and_day_in_sight_and_what_was_judged_in_its_title(places: tuple[Path, Path]) -> None:
    day = datetime(2026, 3, 1, tzinfo=UTC)
    tree = ElementTree.fromstring(badge.render(gate_files(*places, now=day)))
    shown = [part.text for part in tree.iter("{http://www.w3.org/2000/svg}text")]
    assert shown == ["unlearning audit", "error 2026-03-01"]
    title = tree.find("{http://www.w3.org/2000/svg}title")
    assert title is not None
    assert title.text == "unlearning audit: error 2026-03-01, unlearned by p.toml"
    assert not any(key.endswith("href") for part in tree.iter() for key in part.attrib)


def test_a_day_that_revives_a_waiver_is_told_in_every_output(places: tuple[Path, Path], here: Path) -> None:
    now = datetime(2026, 11, 29, tzinfo=UTC)
    found = gate_files(*places, today=date(2026, 3, 1), now=now)
    (note,), said = found.revived, tuple(decisions.told(found))
    assert note.startswith("the waiver of rule 'excused' by jane expired on 2026-06-30; it is in use because --today")
    console = Console(width=300)
    with console.capture() as capture:
        console.print(decisions.render_gated(found))
    parts = (capture.get(), decisions.as_markdown(found), junit.render(found), json.dumps(decisions.as_document(found)),
             json.dumps(as_statement(found)), badge.render(found),
             markdown.render(read_report(places[0]), found.decisions, found.waivers, said),
             html.render(read_report(places[0]), gated=found))  # fmt: skip
    assert ["expired on 2026-06-30" in text for text in parts] == [True] * 8
    for today in (None, date(2026, 11, 29)):
        assert gate_files(*places, today=today, now=now).revived == ()
    assert gate_files(*places, today=date(2026, 3, 1), now=datetime(2026, 3, 1, tzinfo=UTC)).revived == ()
