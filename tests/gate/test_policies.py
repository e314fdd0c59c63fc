"""The shipped policies: they can be read, each rule says why, and they decide made-up models as a team would."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Run, comparison

from unlearn_audit.errors import ConfigError
from unlearn_audit.gate import SHIPPED, apply_policy, exit_code, policy_file, read_policy, shipped_policy
from unlearn_audit.report import AuditReport, Reference, write_report

Make = Callable[..., Any]
SAMPLES = Path(__file__).parents[2] / "sample_configs"


@pytest.mark.parametrize("name", SHIPPED)
def test_every_rule_says_why_and_on_how_many_examples(name: str) -> None:
    policy = read_policy(Path(name))
    assert policy.waiver == ()
    for rule in policy.rule:
        assert rule.reason
        assert rule.subject == "unlearned"
        assert rule.min_n > 0 or rule.severity == "warn" or rule.metric.rpartition(".")[2].startswith("tpr_at")


@pytest.mark.parametrize("name", ["strict", "lenient"])
def test_the_samples_are_the_shipped_ones(name: str) -> None:
    assert (SAMPLES / f"policy-{name}.toml").read_text() == shipped_policy(name)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_policy_has_its_bare_name_and_a_file_its_path(name: str, here: Path) -> None:
    assert policy_file(Path(name)).is_file()
    (here / name).write_text("nonsense")
    assert read_policy(Path(name)).rule
    with pytest.raises(ConfigError, match="not readable TOML"):
        read_policy(here / name)


def test_each_policy_asks_no_less_than_the_next_milder_one() -> None:
    strict, default, lenient = (read_policy(Path(name)) for name in ("strict", "default", "lenient"))
    for harder, milder in ((strict, default), (default, lenient)):
        assert {rule.id for rule in milder.rule if rule.severity == "fail"} <= {rule.id for rule in harder.rule}
        rules = {rule.id: rule for rule in harder.rule}
        for rule in (rule for rule in milder.rule if rule.limits):
            other = rules[rule.id]
            assert other.metric == rule.metric
            assert other.min_n >= rule.min_n
            assert rule.min is None or (other.min is not None and other.min >= rule.min)
            assert rule.max is None or (other.max is not None and other.max <= rule.max)
            assert rule.severity == "warn" or other.severity == "fail"


# ----- what they decide on models as they are measured on digits (144 mislabelled examples)

RETRAINED = {"ratio": (1.01, 0.95, 1.07), "auc": (0.52, 0.46, 0.58), "test": (0.0, -0.02, 0.02), "others": 3}
RETRAINED |= {"change": (0.02, 0.0, 0.04)}
MODELS: dict[str, dict[str, Any]] = {
    "retrained": RETRAINED | {"others": 2},  # it is compared with the others, of which there are two
    "as good as retrained": RETRAINED,
    "original": RETRAINED | {"ratio": (0.014, 0.012, 0.016), "auc": (1.0, 0.97, 1.0), "test": (-0.05, -0.07, -0.02)},
    "pushed away": RETRAINED | {"ratio": (1.0, 0.9, 1.1), "auc": (0.1, 0.06, 0.15)},
    "ruined": RETRAINED | {"test": (-0.4, -0.45, -0.35), "change": (-0.4, -0.45, -0.35)},
    "ruined, and so are the retrained ones": RETRAINED | {"change": (-0.4, -0.45, -0.35)},
    "too few examples": RETRAINED | {"n": 20},
    "nearly": RETRAINED | {"ratio": (0.85, 0.75, 0.95)},
    "retrained, but the twin is harder": RETRAINED | {"ratio": (0.3, 0.12, 0.75), "retrained_ratio": 0.5},
    "no retrained model": RETRAINED | {"others": 0},
    "no original": RETRAINED | {"change": None},
    "no original, and of no use": RETRAINED | {"change": None, "level": 0.12},
}


@pytest.fixture
def report_of(make_report: Make, make_measurement: Make) -> Callable[[str], AuditReport]:
    """Make up the report of one of MODELS."""

    levels = {"rcd.ratio_to_unseen": 1.0, "mia.loss.auc": 0.5}

    def measured(name: str, values: tuple[float, float, float] | None, n: int, others: int) -> Any:
        if values is None:
            return make_measurement(name, value=None, reason="there is nothing to compare it with", n=n)
        value, low, high = values
        reference = Reference(role="retrained", value=levels.get(name, 0.0), spread=0.01, n=others) if others else None
        kept = comparison(value, low, high) if others > 1 else None
        return make_measurement(name, value=value, interval=(low, high), n=n, reference=reference, comparison=kept)

    def make(name: str) -> AuditReport:
        model = MODELS[name]
        levels["rcd.ratio_to_unseen"] = model.get("retrained_ratio", 1.0)
        n, others = model.get("n", 144), model["others"]
        gap = model["test"] if others else None
        forget = (0.0, -0.01, 0.01) if others else None
        level = model.get("level", 0.95)
        found: AuditReport = make_report(
            measured("rcd.ratio_to_unseen", model["ratio"], n, others),
            measured("mia.loss.auc", model["auc"], 2 * n, others),
            measured("gap.test", gap, 360, others),
            measured("gap.retain", gap, 1293, others),
            measured("gap.forget", forget, n, others),
            measured("change.test", model["change"], 360, 0),
            measured("change.retain", model["change"], 1293, 0),
            measured("accuracy.test", (level, level - 0.02, level + 0.02), 360, 0),
            measured("accuracy.retain", (level, level - 0.02, level + 0.02), 1293, 0),
        )
        return found

    return make


@pytest.mark.parametrize(
    ("model", "default", "lenient", "without"),
    [
        ("retrained", 0, 0, 0),
        ("as good as retrained", 0, 0, 0),
        ("original", 1, 1, 1),
        ("pushed away", 1, 1, 1),
        ("ruined", 1, 1, 1),
        ("ruined, and so are the retrained ones", 1, 1, 0),  # which is why there is the original
        ("too few examples", 4, 4, 4),
        ("nearly", 4, 0, 4),
        ("retrained, but the twin is harder", 4, 1, 4),
        ("no retrained model", 4, 0, 4),
        ("no original", 4, 4, 0),
        ("no original, and of no use", 4, 4, 1),
    ],
)
def test_the_verdict(
    report_of: Callable[[str], AuditReport], model: str, default: int, lenient: int, without: int
) -> None:
    report = report_of(model)
    assert exit_code(apply_policy(read_policy(Path("default")), report)) == default
    assert exit_code(apply_policy(read_policy(Path("lenient")), report)) == lenient
    assert exit_code(apply_policy(read_policy(Path("without-original")), report)) == without
    assert exit_code(apply_policy(read_policy(Path("strict")), report)) != 0  # ulira was not measured


def test_show_knows_the_names_too(report_of: Callable[[str], AuditReport], here: Path, run: Run) -> None:
    write_report(report_of("original"), here / "r.json")
    assert "not-told-apart" in run("show", "r.json", "--policy", "default").stdout
    ran = run("gate", "r.json", "--policy", "default")
    assert (ran.code, ran.stderr) == (1, "failed: r.json against default (2 failed, 2 inconclusive, 4 passed)\n")


def test_a_name_that_is_no_shipped_policy_is_answered_with_the_names(here: Path) -> None:
    with pytest.raises(ConfigError, match=r"policy not found: strct\.toml"):
        read_policy(Path("strct.toml"))
    with pytest.raises(
        ConfigError, match=r"unknown policy 'strct'; did you mean 'strict'\? Known: default, lenient, s"
    ):
        read_policy(Path("strct"))
