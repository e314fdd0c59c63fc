"""Whatever is done to a report, a policy or a baseline: nothing that was not measured passes; the exit code says so."""

import contextlib
import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Run, comparison
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from unlearn_audit.catalogue import METRICS
from unlearn_audit.errors import AuditError
from unlearn_audit.gate import Policy, gate_files
from unlearn_audit.report import Reference, canonical_digest, dump_report

Make = Callable[..., Any]
METRIC = "rcd.ratio_to_unseen"
RULES: dict[str, dict[str, Any]] = {
    "min": {"min": 0.8},
    "max": {"max": 1.2},
    "both": {"min": 0.8, "max": 1.2},
    "value": {"min": 0.8, "bound": "value"},
    "upper": {"min": 0.8, "bound": "upper"},
    "equivalent": {"equivalent_to": "retrained", "margin": 0.5},
    "decrease": {"max_decrease": 0.5},
    "increase": {"max_increase": 0.5},
}
each_rule = pytest.mark.parametrize("rule", RULES)
in_a_shared_folder = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.fixture(scope="module")
def whole(make_report: Make, make_measurement: Make) -> dict[str, Any]:
    """A report that passes every rule of RULES when it is its own baseline."""
    measured = make_measurement(
        METRIC, value=1.0, interval=(0.95, 1.05), n=200, comparison=comparison(0.0, -0.1, 0.1, df=10.0),
        reference=Reference(role="retrained", value=1.0, spread=0.01, n=3),
    )  # fmt: skip
    other = make_measurement("accuracy.test", "original", value=0.9)
    body: dict[str, Any] = json.loads(dump_report(make_report(measured, other)))
    return body


class Tried:
    """A folder with a report, a baseline and a policy of one rule."""

    def __init__(self, folder: Path, whole: dict[str, Any]) -> None:
        self.report, self.baseline, self.policy = (folder / name for name in ("r.json", "old.json", "p.toml"))
        self.whole = whole
        self.write(self.report, whole)
        self.write(self.baseline, whole)
        self.rule("min")

    def write(self, path: Path, body: Any, *, digest: bool = True) -> None:
        """Write a body, with its digest computed anew where JSON can carry it."""
        body = copy.deepcopy(body)
        if digest:
            try:
                body["body_sha256"] = canonical_digest(body)
            except ValueError:
                body["body_sha256"] = "0" * 64
        path.write_text(json.dumps(body))

    def rule(self, name: str, **more: Any) -> None:
        lines = {"id": name, "metric": METRIC, "min_n": 100} | RULES[name] | more
        text = "\n".join(f"{key} = {json.dumps(value)}" for key, value in lines.items())
        self.policy.write_text(f"schema_version = 1\n[[rule]]\n{text}\n")

    def code(self) -> int:
        """Return the exit code, as the command line answers."""
        try:
            found = gate_files(self.report, self.policy, baseline=self.baseline)
        except AuditError as problem:
            return problem.exit_code
        return found.code


@pytest.fixture
def tried(tmp_path: Path, whole: dict[str, Any]) -> Tried:
    return Tried(tmp_path, whole)


def changed(whole: dict[str, Any], **values: Any) -> dict[str, Any]:
    """Return the report with other fields in its first measurement."""
    body = copy.deepcopy(whole)
    body["measurements"][0] |= values
    return body


@each_rule
def test_the_report_passes_as_it_is(tried: Tried, rule: str) -> None:
    tried.rule(rule)
    assert tried.code() == 0


# ----- values

ILLEGAL = [math.nan, math.inf, -math.inf, True, [1.0], {"value": 1.0}, 10**400]


@each_rule
@pytest.mark.parametrize("value", ILLEGAL, ids=str)
def test_what_is_no_number_is_an_invalid_report(tried: Tried, rule: str, value: object) -> None:
    tried.rule(rule)
    if isinstance(value, int) and not isinstance(value, bool):
        text = json.dumps(changed(tried.whole, value="@")).replace('"@"', str(value))
        tried.report.write_text(text)
    else:
        tried.write(tried.report, changed(tried.whole, value=value))
    assert tried.code() == 3


@each_rule
@pytest.mark.parametrize("value", ["1.0", "NaN", "", "passed"])
def test_a_text_is_an_invalid_report(tried: Tried, rule: str, value: str) -> None:
    tried.rule(rule)
    tried.write(tried.report, changed(tried.whole, value=value))
    assert tried.code() == 3
    tried.write(tried.report, changed(tried.whole, value=value, n=0))
    assert tried.code() == 3


@each_rule
@pytest.mark.parametrize(
    "values",
    [
        {"value": None, "reason": "diverged"},
        {"n": 99},
        {"n": 0},
        {"name": "rcd.ratio_to_unseeen"},
        {"name": "rcd.ratio-to-unseen"},
        {"name": "rcd.raw"},
        {"subject": "original", "role": "original"},
        {"subject": "somebody"},
        {"subject": "Unlearned"},
    ],
    ids=str,
)
def test_null_missing_renamed_and_too_few_are_inconclusive(tried: Tried, rule: str, values: dict[str, Any]) -> None:
    tried.rule(rule)
    tried.write(tried.report, changed(tried.whole, **values))
    assert tried.code() == 4


@each_rule
def test_nothing_measured_and_nobody_there_are_inconclusive(tried: Tried, rule: str) -> None:
    tried.rule(rule)
    tried.write(tried.report, tried.whole | {"measurements": []})
    assert tried.code() == 4
    tried.write(tried.report, tried.whole | {"subjects": []})
    assert tried.code() == 4


@each_rule
def test_a_measurement_that_stands_twice_is_an_invalid_report(tried: Tried, rule: str) -> None:
    tried.rule(rule)
    body = copy.deepcopy(tried.whole)
    body["measurements"].append(body["measurements"][0] | {"value": 0.0})
    tried.write(tried.report, body)
    assert tried.code() == 3
    body["measurements"].reverse()
    tried.write(tried.report, body)
    assert tried.code() == 3


@each_rule
@pytest.mark.parametrize("role", ["control", "retrained", ""])
def test_a_report_that_contradicts_itself_is_an_error(tried: Tried, rule: str, role: str) -> None:
    tried.rule(rule)
    tried.write(tried.report, changed(tried.whole, role=role))
    assert tried.code() == 3


@pytest.mark.parametrize("end", ["low", "high"])
@pytest.mark.parametrize("value", [math.nan, math.inf, None, "0.9", True])
@pytest.mark.parametrize("rule", ["min", "max", "both", "decrease"])
def test_an_interval_without_ends_is_an_invalid_report(tried: Tried, rule: str, end: str, value: object) -> None:
    tried.rule(rule)
    interval = tried.whole["measurements"][0]["interval"] | {end: value}
    tried.write(tried.report, changed(tried.whole, interval=interval))
    assert tried.code() == 3


@pytest.mark.parametrize("rule", ["min", "max", "both", "upper", "decrease"])
def test_an_interval_that_promises_less_is_inconclusive(tried: Tried, rule: str) -> None:
    tried.rule(rule)
    interval = tried.whole["measurements"][0]["interval"] | {"level": 0.5}
    tried.write(tried.report, changed(tried.whole, interval=interval))
    assert tried.code() == 4


@pytest.mark.parametrize("rule", ["min", "max", "both", "decrease"])
def test_an_interval_that_is_required_and_not_there_is_inconclusive(tried: Tried, rule: str) -> None:
    tried.rule(rule, require_interval=True)
    assert tried.code() == 0
    tried.write(tried.report, changed(tried.whole, interval=None))
    assert tried.code() == 4


# ----- the document

VERSIONS = [0, 1, 3, -1, 2.0, True, None, "2", [2]]


@each_rule
@pytest.mark.parametrize("version", VERSIONS, ids=str)
def test_another_version_of_the_report_or_the_baseline_is_3(tried: Tried, rule: str, version: object) -> None:
    tried.rule(rule)
    tried.write(tried.baseline, tried.whole | {"schema_version": version})
    assert tried.code() == 3
    tried.write(tried.baseline, tried.whole)
    tried.write(tried.report, tried.whole | {"schema_version": version})
    assert tried.code() == 3


@each_rule
@pytest.mark.parametrize("version", ["2", "0", "1.0", "true", '"1"'])
def test_another_version_of_the_policy_is_2(tried: Tried, rule: str, version: str) -> None:
    tried.rule(rule)
    tried.policy.write_text(tried.policy.read_text().replace("schema_version = 1", f"schema_version = {version}"))
    assert tried.code() == 2


@each_rule
def test_a_metric_that_nobody_measures_is_2(tried: Tried, rule: str) -> None:
    tried.rule(rule, metric="rcd.ratio_to_unseeen")
    assert tried.code() == 2


@given(st.data())
@in_a_shared_folder
def test_a_truncated_report_or_baseline_is_3(tried: Tried, data: st.DataObject) -> None:
    tried.rule(data.draw(st.sampled_from(sorted(RULES))))
    for path in (tried.report, tried.baseline):
        text = json.dumps(tried.whole)
        path.write_text(text[: data.draw(st.integers(0, len(text) - 1))])
        assert tried.code() == 3
        path.write_text(text)
    assert tried.code() == 0


@given(st.data())
@in_a_shared_folder
def test_a_body_that_does_not_match_its_digest_is_3(tried: Tried, data: st.DataObject) -> None:
    tried.rule(data.draw(st.sampled_from(sorted(RULES))))
    entry = data.draw(st.sampled_from(["value", "n", "subject", "name", "method"]))
    old = tried.whole["measurements"][0][entry]
    new = old + 1 if isinstance(old, int | float) else old + "x"
    tried.write(tried.report, changed(tried.whole, **{entry: new}), digest=False)
    assert tried.code() == 3
    tried.write(tried.report, tried.whole)


@given(st.data())
@in_a_shared_folder
def test_a_changed_byte_never_passes_with_another_value(tried: Tried, data: st.DataObject) -> None:
    tried.rule("min")
    content = bytearray(json.dumps(tried.whole).encode())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    tried.report.write_bytes(bytes(content))
    same = False
    with contextlib.suppress(ValueError):
        same = json.loads(bytes(content)) == tried.whole  # a space for another, an escape for its character
    assert tried.code() == (0 if same else 3)
    tried.write(tried.report, tried.whole)


# ----- anything at all

junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)
FIELDS = ("name", "subject", "role", "value", "reason", "n", "interval", "reference", "comparison", "flags")


@given(st.sampled_from(sorted(RULES)), st.dictionaries(st.sampled_from(FIELDS), junk, min_size=1, max_size=3))
@in_a_shared_folder
def test_junk_in_a_measurement_passes_only_where_the_number_still_holds(
    tried: Tried, rule: str, values: dict[str, Any]
) -> None:
    tried.rule(rule)
    body = changed(tried.whole, **values)
    tried.write(tried.report, body)
    code = tried.code()
    assert code in (0, 1, 3, 4)
    if code == 0:
        found = body["measurements"][0]
        assert (found["name"], found["subject"], found["role"]) == (METRIC, "unlearned", "unlearned")
        assert type(found["value"]) in (int, float)
        assert math.isfinite(found["value"])
        assert type(found["n"]) is int
        assert found["n"] >= 100
    tried.write(tried.report, tried.whole)


@given(st.dictionaries(st.sampled_from(["schema_version", "rule", "waiver", "rules"]), junk))
def test_junk_is_no_policy(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Policy.model_validate(values)


def test_every_metric_that_is_not_in_the_report_is_open_or_refused(tried: Tried) -> None:
    for metric in METRICS:
        if metric != METRIC:
            tried.rule("min", metric=metric)
            assert tried.code() == (2 if metric.endswith(".verdict") else 4), metric


# ----- through the console


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("passes", 1.0, 0),
        ("fails", 0.1, 1),
        ("policy", 1.0, 2),
        ("text", "1.0", 3),
        ("null", None, 4),
        ("bare", 1.0, 4),
    ],
)
def test_each_exit_code_through_the_real_console(
    tried: Tried, run_process: Run, name: str, value: object, code: int
) -> None:
    more: dict[str, Any] = {} if name == "passes" else {"interval": None}
    tried.write(tried.report, changed(tried.whole, value=value, reason="made up", **more))
    if name == "policy":
        tried.policy.write_text("schema_version = 1\n")
    ran = run_process("gate", tried.report, "--policy", tried.policy)
    assert ran.code == code, ran
    assert "Traceback" not in ran.stderr
    assert len(ran.stderr.splitlines()) == 1


SEVERAL = {3: "accuracy.retain", 1: "accuracy.forget", 4: "rcd.raw", 0: "accuracy.test"}


@pytest.mark.parametrize("codes", [(0,), (0, 4), (0, 4, 1), (0, 4, 1, 3), (4, 3), (1, 3), (0, 1), (0, 3)])
def test_of_several_3_comes_before_1_before_4_before_0(
    make_report: Make, make_measurement: Make, tmp_path: Path, run: Run, codes: tuple[int, ...]
) -> None:
    report = make_report(
        make_measurement("accuracy.retain", value="0.9"),
        make_measurement("accuracy.forget", value=0.1),
        make_measurement("accuracy.test", value=0.9),
    )
    (tmp_path / "r.json").write_text(dump_report(report))
    rules = "".join(f'[[rule]]\nid = "{code}"\nmetric = "{SEVERAL[code]}"\nmin = 0.5\n' for code in codes)
    (tmp_path / "p.toml").write_text(f"schema_version = 1\n{rules}")
    worst = next(code for code in (3, 1, 4, 0) if code in codes)
    assert run("gate", tmp_path / "r.json", "--policy", tmp_path / "p.toml").code == worst
