"""All that relearns in one audit relearns at one step size, or the report says where it does not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unlearn_audit.audit import run_audit
from unlearn_audit.audit.rcd.common_step import RELEARNING, with_common_step
from unlearn_audit.audit.section import SectionResult
from unlearn_audit.config import AuditConfig, TruncationSettings
from unlearn_audit.relearning import Start
from unlearn_audit.report import AuditReport, Measurement

Make = Callable[..., Measurement]


def audited(tiny: Path, truncation: dict[str, Any], **rcd: Any) -> AuditReport:
    names = ("original", "unlearned", "retrained-1")
    entries = [{"path": str(tiny / f"{name}.safetensors")} for name in names]
    return run_audit(
        AuditConfig.model_validate({
            "checkpoint": entries,
            "forget": str(tiny / "forget.npy"),
            "device": "cpu",
            "sample": 30,
            "rcd": {"steps": 3, "resamples": 100} | rcd,
            "truncation": {"reference_steps": 30, "floor": "zero"} | truncation,
        })
    )


def steps_of(report: AuditReport, name: str) -> set[float]:
    return {m.details["step_size"] for m in report.measurements if m.name == name}


@pytest.fixture(scope="module")
def shared(tiny: Path) -> AuditReport:
    return audited(tiny, {})


def test_the_sum_and_its_truncation_error_speak_of_the_same_steps(shared: AuditReport) -> None:
    (rcd,), (truncation,) = steps_of(shared, "rcd.raw"), steps_of(shared, "truncation.verdict")
    assert rcd == truncation
    assert {f"step {rcd:.4g}" in m.method for m in shared.measurements} == {True}
    assert not any("step size of its own" in text for text in shared.limitations)


def test_a_step_size_of_its_own_is_a_limitation(tiny: Path, shared: AuditReport) -> None:
    (common,) = steps_of(shared, "rcd.raw")
    other = audited(tiny, {"step_size": common / 3})
    assert steps_of(other, "rcd.raw") == {common}
    assert steps_of(other, "truncation.verdict") == {common / 3}
    (told,) = (text for text in other.limitations if "step size of its own" in text)
    assert f"{common / 3:.4g}, RCD is taken at {common:.4g}" in told


def test_a_step_size_that_was_given_is_everybodys(tiny: Path) -> None:
    found = audited(tiny, {}, step_size=1e-3)
    assert steps_of(found, "rcd.raw") == steps_of(found, "truncation.verdict") == {1e-3}


# ----- the agreement itself


class Sections:
    """Stands for sections whose trajectories bear at most a given step; counts how often each is measured."""

    def __init__(self, make: Make, bears: dict[str, float], **sections: Any) -> None:
        self.make, self.bears, self.asked = make, bears, []  # type: tuple[Make, dict[str, float], list[str]]
        self.config = AuditConfig(**sections)

    def measure(self, name: str, start: Start | None) -> SectionResult:
        self.asked.append(name)
        step, halvings, *_ = start or (1.0, 0)
        while step > self.bears[name] and halvings < 8:
            step, halvings = step / 2, halvings + 1
        details = {"step_size": step, "step_size_search": {"halvings": halvings}}
        return SectionResult((self.make(RELEARNING[name], details=details),), (f"{name} at {step}",))

    def results(self) -> tuple[SectionResult, ...]:
        return with_common_step(self.config, tuple(self.bears), self.measure)

    def ends(self) -> list[float]:
        return [one.details["step_size"] for result in self.results() for one in result.measurements]


def test_one_that_bears_the_step_is_measured_once(make_measurement: Make) -> None:
    sections = Sections(make_measurement, {"rcd": 0.3, "truncation": 1.0})
    assert sections.ends() == [0.25, 0.25]
    assert sections.asked == ["rcd", "truncation"]


def test_where_a_longer_trajectory_needs_a_smaller_step_all_are_measured_at_it(make_measurement: Make) -> None:
    sections = Sections(make_measurement, {"rcd": 1.0, "truncation": 0.3})
    assert [result.limitations for result in sections.results()] == [("rcd at 0.25",), ("truncation at 0.25",)]
    assert sections.asked == ["rcd", "truncation"] * 2


def test_what_no_step_size_helps_ends_all_the_same(make_measurement: Make) -> None:
    sections = Sections(make_measurement, {"rcd": 1.0, "truncation": 0.0})
    assert sections.ends() == [2.0**-8, 2.0**-8]


def test_a_section_with_a_step_of_its_own_moves_no_other(make_measurement: Make) -> None:
    own = TruncationSettings(step_size="auto")
    sections = Sections(make_measurement, {"rcd": 1.0, "truncation": 0.3}, truncation=own)
    assert sections.ends() == [1.0, 0.25]
    assert sections.asked == ["rcd", "truncation"]


def test_without_a_step_size_nothing_is_agreed_on(make_measurement: Make) -> None:
    starts = []

    def measure(name: str, start: Start | None) -> SectionResult:
        starts.append(start)
        return SectionResult((make_measurement("rcd.raw", details={"step_size": "lambda"}),))

    assert len(with_common_step(AuditConfig(), ("rcd",), measure)) == 1
    assert starts == [None]
