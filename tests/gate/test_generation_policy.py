"""The policy `generation`: samples alone never pass; what relearns soon fails by area or shape, a wreck fails, too."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import comparison

from unlearn_audit.gate import apply_policy, exit_code, read_policy
from unlearn_audit.report import AuditReport, Reference

Make = Callable[..., Any]
GOOD: dict[str, Any] = {"rate": (0.0, 0.0, 0.037), "share": (0.95, 0.85, 1.05), "kept": (0.97, 0.94, 0.98)}
GOOD |= {"change": (0.0, -0.02, 0.02), "kid": (0.0, -0.01, 0.01), "raw": (0.3, 0.2, 0.4), "others": 3}
GOOD |= {"shape": (0.32, -0.12, 0.12)}  # of a value the ends of the log ratio to the retrained models'
MODELS: dict[str, dict[str, Any]] = {
    "like a retrained model": GOOD,
    "original": GOOD | {"rate": (0.95, 0.89, 0.98), "share": (0.0, -0.05, 0.05), "raw": (0.0, 0.0, 0.0), "shape": None},
    "label swap": GOOD | {"rate": (0.03, 0.01, 0.085), "share": (0.86, 0.78, 0.94), "shape": (0.16, -0.85, -0.5)},
    "hardly unlearned": GOOD | {"share": (0.19, 0.13, 0.25)},
    "somewhat faster": GOOD | {"shape": (0.25, -0.4, -0.1)},
    "wrecked": GOOD | {"kept": (0.62, 0.57, 0.67), "change": (-0.35, -0.4, -0.3), "kid": (0.3, 0.25, 0.35)},
    "over-forgotten": GOOD | {"share": (2.2, 2.05, 2.35)},
    "nearly": GOOD | {"rate": (0.06, 0.028, 0.125)},
    "no retrained models": GOOD | {"others": 0, "share": None, "shape": None},
    "no retrained models, as fast as the original": GOOD
    | {
        "others": 0,
        "share": None,
        "shape": None,
        "raw": (0.01, -0.02, 0.04),
    },
    "few samples": GOOD | {"n": 50},
}


@pytest.fixture
def report_of(make_report: Make, make_measurement: Make) -> Callable[[str], AuditReport]:
    def make(name: str) -> AuditReport:
        model = MODELS[name]
        n, others = model.get("n", 360), model["others"]
        reference = Reference(role="retrained", value=0.0, spread=0.001, n=others) if others else None

        def measured(metric: str, values: Any, scale: str = "fraction") -> Any:
            if values is None:
                return make_measurement(metric, value=None, reason="no retrained model to compare with was given", n=n)
            told = comparison(*values, scale=scale) if others else None
            return make_measurement(
                metric, value=values[0], interval=values[1:], n=n, reference=reference, comparison=told
            )

        def shape_of(model: Any) -> Any:
            if model["shape"] is None:
                return measured("rcd.normalised", None)
            value, low, high = model["shape"]
            told = comparison((low + high) / 2, low, high, scale="log ratio") if others else None
            ends = (value - 0.02, value + 0.02)
            return make_measurement(
                "rcd.normalised", value=value, interval=ends, n=n, reference=reference, comparison=told
            )

        found: AuditReport = make_report(
            measured("generation.forget_rate", model["rate"]),
            measured("generation.kept_rate", model["kept"]),
            measured("generation.kept_change", model["change"]),
            measured("generation.kid", model["kid"], "MMD²"),
            measured("rcd.ratio_to_retrained", model["share"]),
            shape_of(model),
            measured("rcd.raw", model["raw"]),
        )
        return found

    return make


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("like a retrained model", 0),
        ("original", 1),
        ("label swap", 1),
        ("hardly unlearned", 1),
        ("somewhat faster", 4),
        ("wrecked", 1),
        ("over-forgotten", 0),  # which is warned of
        ("nearly", 4),
        ("no retrained models", 4),
        ("no retrained models, as fast as the original", 4),
        ("few samples", 4),
    ],
)
def test_the_verdict(report_of: Callable[[str], AuditReport], name: str, code: int) -> None:
    assert exit_code(apply_policy(read_policy(Path("generation")), report_of(name))) == code


@pytest.mark.parametrize(("name", "rule"), [("label swap", "not-hidden"), ("hardly unlearned", "forgotten")])
def test_what_samples_do_not_show_fails_by_relearning_alone(
    report_of: Callable[[str], AuditReport], name: str, rule: str
) -> None:
    decisions = apply_policy(read_policy(Path("generation")), report_of(name))
    assert [one.rule.id for one in decisions if one.verdict == "failed"] == [rule]


def test_too_slow_relearning_and_none_at_all_are_warned_of(report_of: Callable[[str], AuditReport]) -> None:
    policy = read_policy(Path("generation"))
    for name, rule in (("over-forgotten", "not-over-forgotten"), ("original", "slower-than-the-original")):
        verdicts = {one.rule.id: str(one.verdict) for one in apply_policy(policy, report_of(name))}
        assert verdicts[rule] == ("failed" if name == "over-forgotten" else "passed")
