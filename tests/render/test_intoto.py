"""The in-toto Statement speaks of what was gated, and never better of it than the exit code."""

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from unlearn_audit.errors import ReportError
from unlearn_audit.files import sha256_of_file
from unlearn_audit.gate import Gated, gate_files
from unlearn_audit.render.intoto import as_statement
from unlearn_audit.report import write_report

Make = Callable[..., Any]
GOOD = {"metric": "accuracy.test", "min": 0.5}
BAD = {"metric": "accuracy.test", "min": 0.95}
OPEN = {"metric": "rcd.raw", "min": 0.5}
BROKEN = {"metric": "accuracy.retain", "min": 0.5}
WARN = {"severity": "warn"}


@pytest.fixture
def gate(tmp_path: Path, make_report: Make, make_measurement: Make) -> Callable[..., Gated]:
    """Gate a made-up report by rules: gate(GOOD, BAD, waive=(1,))."""

    def decide(*rules: dict[str, Any], waive: tuple[int, ...] = ()) -> Gated:
        report = make_report(
            make_measurement("accuracy.test", value=0.9),
            make_measurement("accuracy.test", "original", value=0.99),
            make_measurement("accuracy.retain", value="0.9"),
        )
        write_report(report, tmp_path / "r.json")
        lines = ["schema_version = 1"]
        for index, rule in enumerate(rules):
            lines += ["[[rule]]", f'id = "r{index}"', *(f"{key} = {value!r}" for key, value in rule.items())]
        for index in waive:
            lines += ["[[waiver]]", f'rule = "r{index}"', f'sha256 = "{"b" * 64}"', 'reason = "x"', 'owner = "y"']
            lines += ["expires = 2026-06-30"]
        (tmp_path / "p.toml").write_text("\n".join(lines))
        return gate_files(tmp_path / "r.json", tmp_path / "p.toml", today=date(2026, 1, 1))

    return decide


@pytest.mark.parametrize(
    ("rules", "result", "tests"),
    [
        ((GOOD,), "PASSED", (["r0"], [], [])),
        ((GOOD, BAD), "FAILED", (["r0"], [], ["r1"])),
        ((GOOD, OPEN), "FAILED", (["r0"], [], ["r1"])),
        ((GOOD, BROKEN), "FAILED", (["r0"], [], ["r1"])),
        ((GOOD, BAD | WARN), "WARNED", (["r0"], ["r1"], [])),
        ((GOOD, OPEN | WARN), "WARNED", (["r0"], ["r1"], [])),
        ((GOOD | WARN, GOOD), "PASSED", (["r0", "r1"], [], [])),
        ((BAD | WARN, BAD), "FAILED", ([], ["r0"], ["r1"])),
    ],
)
def test_the_result_and_the_lists(
    gate: Callable[..., Gated], rules: tuple[dict[str, Any], ...], result: str, tests: tuple[list[str], ...]
) -> None:
    found = as_statement(gate(*rules))["predicate"]
    assert found["result"] == result
    assert (found["passedTests"], found["warnedTests"], found["failedTests"]) == tests


def test_a_waived_rule_is_warned(gate: Callable[..., Gated]) -> None:
    gated = gate(GOOD, BAD, waive=(1,))
    found = as_statement(gated)["predicate"]
    assert gated.code == 0
    assert (found["result"], found["warnedTests"]) == ("WARNED", ["r1"])


def test_its_form_its_subjects_and_what_it_rests_on(gate: Callable[..., Gated], tmp_path: Path) -> None:
    found = as_statement(gate(GOOD))
    assert found["_type"] == "https://in-toto.io/Statement/v1"
    assert found["predicateType"] == "https://in-toto.io/attestation/test-result/v0.1"
    assert found["subject"] == [{"name": "unlearned", "digest": {"sha256": "b" * 64}}]  # not the original
    policy, report = found["predicate"]["configuration"]
    assert policy == {
        "name": str(tmp_path / "p.toml"),
        "digest": {"sha256": sha256_of_file(tmp_path / "p.toml")},
        "annotations": {"today": "2026-01-01", "waivers": []},
    }
    assert report["digest"] == {"sha256": sha256_of_file(tmp_path / "r.json")}


def test_the_worst_of_several_checkpoints_counts(gate: Callable[..., Gated]) -> None:
    gated = gate(BAD | {"subject": "original"}, BAD)
    assert as_statement(gated)["predicate"]["passedTests"] == ["r0"]
    both = gated._replace(decisions=tuple(entry._replace(rule=gated.decisions[0].rule) for entry in gated.decisions))
    found = as_statement(both)
    assert [subject["name"] for subject in found["subject"]] == ["original", "unlearned"]
    assert (found["predicate"]["passedTests"], found["predicate"]["failedTests"]) == ([], ["r0"])


def test_of_an_advisory_policy_there_is_no_statement(gate: Callable[..., Gated]) -> None:
    gated = gate(GOOD | WARN, GOOD)
    with pytest.raises(ReportError, match="the policy is advisory, so nothing can fail"):
        as_statement(gated._replace(decisions=gated.decisions[:1]))


def test_without_a_checkpoint_there_is_no_statement(gate: Callable[..., Gated], tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="no rule speaks of a checkpoint that the report has"):
        as_statement(gate(GOOD | {"subject": "nobody"}))
    (tmp_path / "r.json").write_text("{")
    broken = gate_files(tmp_path / "r.json", tmp_path / "p.toml")
    with pytest.raises(ReportError, match="not a readable report"):
        as_statement(broken)
