"""A report survives the way to disk and back, and nothing that is not exactly a report is taken for one."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from conftest import comparison, could_see
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from unlearn_audit.errors import ReportError
from unlearn_audit.report import (
    AuditReport,
    Interval,
    Measurement,
    canonical_digest,
    dump_report,
    read_report,
    report_schema,
    write_report,
)

Make = Callable[..., Any]

finite = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
json_values = st.recursive(
    st.none() | st.booleans() | finite | st.integers(-(2**70), 2**70) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture
def report(make_report: Make, make_measurement: Make) -> AuditReport:
    found: AuditReport = make_report(
        make_measurement("rcd.raw", "original", value=1.5, interval=(1.0, 2.0)),
        make_measurement("rcd.raw", "unlearned", value=None, reason="diverged at step 3"),
        make_measurement("accuracy.test", "unlearned", value=1, details={"loss": [0.1, 1e-300], "deep": {"é": None}}),
        limitations=("a [bold] one",),
        conclusion=("“quoted” — ✓",),
    )
    return found


def rewritten(
    report: AuditReport, path: Path, change: Callable[[dict[str, Any]], object], *, sign: bool = True
) -> Path:
    """Write a report whose body was changed; its digest fits the changed body where `sign` is true."""
    body = json.loads(dump_report(report))
    change(body)
    if sign:
        body["body_sha256"] = canonical_digest(body)
    path.write_text(json.dumps(body, indent=1))
    return path


def refusal(path: Path) -> str:
    with pytest.raises(ReportError) as caught:
        read_report(path)
    assert caught.value.exit_code == 3
    assert str(path) in str(caught.value)
    return str(caught.value)


# ----- there and back


def test_a_report_comes_back_as_it_was(report: AuditReport, tmp_path: Path) -> None:
    write_report(report, tmp_path / "report.json")
    back = read_report(tmp_path / "report.json")
    assert back.body_sha256 is not None
    assert back.model_copy(update={"body_sha256": None}) == report


def test_writing_what_was_read_gives_the_same_bytes(report: AuditReport, tmp_path: Path) -> None:
    write_report(report, tmp_path / "one.json")
    write_report(read_report(tmp_path / "one.json"), tmp_path / "two.json")
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=25, deadline=None
)
@given(
    st.one_of(finite, st.integers(-1000, 1000), texts, st.none()),
    st.tuples(finite, finite),
    st.dictionaries(texts, json_values, max_size=3),
)
def test_whatever_is_finite_comes_back(
    tmp_path: Path,
    make_report: Make,
    make_measurement: Make,
    value: Any,
    ends: tuple[float, float],
    details: dict[str, Any],
) -> None:
    interval = Interval(low=min(ends), high=max(ends), method="percentile bootstrap")  # which may miss the value
    measured = make_measurement(value=value, reason="none", interval=interval, details=details)
    report = make_report(measured)
    write_report(report, tmp_path / "report.json")
    back = read_report(tmp_path / "report.json")
    assert back.measurements == (measured,)
    assert back.measurements[0].details == json.loads(json.dumps(details))
    jsonschema.validate(json.loads(dump_report(report)), report_schema())


def test_a_file_name_that_is_not_utf8_is_written_as_escapes(
    make_report: Make, make_measurement: Make, tmp_path: Path
) -> None:
    name = b"caf\xe9".decode("utf-8", "surrogateescape")
    write_report(make_report(make_measurement("rcd.raw", name)), tmp_path / "report.json")
    assert read_report(tmp_path / "report.json").subjects[0].label == r"caf\udce9"


# ----- the digest


def test_the_digest_is_independent_of_key_order_and_whitespace(report: AuditReport, tmp_path: Path) -> None:
    body = json.loads(dump_report(report))
    turned = json.loads(json.dumps(body), object_pairs_hook=lambda pairs: dict(reversed(pairs)))
    assert list(turned) != list(body)
    assert canonical_digest(turned) == canonical_digest(body) == body["body_sha256"]
    for indent, ascii_only in [(None, True), (7, False)]:
        (tmp_path / "r.json").write_text(json.dumps(turned, indent=indent, ensure_ascii=ascii_only))
        assert read_report(tmp_path / "r.json").body_sha256 == body["body_sha256"]


def test_the_digest_is_that_of_the_canonical_text() -> None:
    import hashlib

    text = '{"a":[1,2.5,null],"é":"x"}'
    body = {"é": "x", "body_sha256": "whatever", "a": [1, 2.5, None]}
    assert canonical_digest(body) == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body["measurements"][0].update(value=1.5000000000000002),
        lambda body: body["measurements"].pop(),
        lambda body: body["subjects"].reverse(),
        lambda body: body.update(created_at="2026-01-02T00:00:00Z"),
        lambda body: body.update(body_sha256="0" * 64),
        lambda body: body.update(body_sha256=None),
        lambda body: body.pop("body_sha256"),
    ],
)
def test_a_changed_body_does_not_match_its_digest(
    report: AuditReport, tmp_path: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    assert "does not match its body_sha256" in refusal(rewritten(report, tmp_path / "r", change, sign=False))


# ----- what is not a report


def test_a_truncated_report_is_refused_at_every_length(report: AuditReport, tmp_path: Path) -> None:
    text = dump_report(report)
    for length in range(1, len(text) - 2, 97):
        (tmp_path / "r.json").write_text(text[:length])
        assert "strict JSON" in refusal(tmp_path / "r.json")


def test_missing_empty_and_folder(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert "not found" in refusal(tmp_path / "nowhere.json")
    assert "empty" in refusal(tmp_path / "empty")
    assert "directory" in refusal(tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"[]", b"3", b'"report"', b"null", b"\x80\x02}q\x00.", b"PK\x03\x04", b"\x00" * 9, b"{}trailing", b"[" * 100_000],
)
def test_other_content_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "r.json").write_bytes(content)
    refusal(tmp_path / "r.json")


@pytest.mark.parametrize("depth", [500, 900, 980, 2000])
def test_nesting_beyond_the_stack_is_refused(report: AuditReport, tmp_path: Path, depth: int) -> None:
    text = dump_report(report).replace('"settings": {}', '"settings": {"a": ' + "[" * depth + "]" * depth + "}")
    (tmp_path / "r.json").write_text(text)
    refusal(tmp_path / "r.json")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e400", "1" + "0" * 400, "1" * 5000])
def test_numbers_that_are_not_finite_are_refused(report: AuditReport, tmp_path: Path, number: str) -> None:
    text = dump_report(report)
    assert '"value": 1.5' in text
    changed = text.replace('"value": 1.5', f'"value": {number}')
    (tmp_path / "r.json").write_text(changed)
    refusal(tmp_path / "r.json")
    if number.startswith("1") and "e" not in number and len(number) < 4000:
        body = json.loads(changed)
        (tmp_path / "r.json").write_text(json.dumps(body | {"body_sha256": canonical_digest(body)}))
        assert "where a number belongs" in refusal(tmp_path / "r.json")


@pytest.mark.parametrize("number", ["1e400", "1" + "0" * 400, "-1" + "0" * 400])
def test_numbers_beyond_all_floats_are_refused_in_free_details_too(
    make_report: Make, make_measurement: Make, tmp_path: Path, number: str
) -> None:
    text = dump_report(make_report(make_measurement(details={"status": {"low": -7.25}})))
    (tmp_path / "r.json").write_text(text.replace("-7.25", number))
    assert "where a number belongs" in refusal(tmp_path / "r.json")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "latin-1"])
def test_another_encoding_than_utf8_is_refused(report: AuditReport, tmp_path: Path, encoding: str) -> None:
    text = dump_report(report).replace("original", "originäl") if encoding == "latin-1" else dump_report(report)
    (tmp_path / "r.json").write_bytes(text.encode(encoding))
    assert "strict JSON in UTF-8" in refusal(tmp_path / "r.json")


@pytest.mark.parametrize(
    ("value", "method", "valid"),
    [
        (0.5, "Wilson", True),
        (0.4, "Wilson", True),
        (0.4 - 1e-9, "Wilson", True),  # rounding
        (0.399, "Wilson", False),
        (0.601, "Student t over examples", False),
        (0.7, "some method that nobody knows", False),
        (0.7, "percentile bootstrap over examples", True),
        (0.7, "a bracket of the decay; not a sampling interval", True),
    ],
)
def test_a_value_outside_its_own_interval_is_refused_where_the_method_cannot_give_that(
    make_report: Make, make_measurement: Make, tmp_path: Path, value: float, method: str, valid: bool
) -> None:
    interval = Interval(low=0.4, high=0.6, method=method)
    write_report(make_report(make_measurement(value=value, interval=interval)), tmp_path / "r.json")
    if valid:
        assert read_report(tmp_path / "r.json").measurements[0].value == value
    else:
        assert "outside its own interval [0.4, 0.6]" in refusal(tmp_path / "r.json")


def test_nan_in_details_is_refused_and_not_silently_null(make_report: Make, make_measurement: Make) -> None:
    for broken in (math.nan, math.inf):
        with pytest.raises(ReportError, match="cannot carry"):
            dump_report(make_report(make_measurement(details={"x": [broken]})))


def test_an_object_in_details_is_refused(make_report: Make, make_measurement: Make) -> None:
    with pytest.raises(ReportError, match="cannot carry"):
        dump_report(make_report(make_measurement(details={"x": object()})))


def test_half_a_surrogate_pair_is_refused(report: AuditReport, tmp_path: Path) -> None:
    text = dump_report(report).replace("made up", r"\ud800", 1)
    (tmp_path / "r.json").write_text(text)
    assert "strict JSON" in refusal(tmp_path / "r.json")


def test_a_repeated_key_is_refused(report: AuditReport, tmp_path: Path) -> None:
    text = dump_report(report).replace('"value": 1.5', '"value": 0.1,\n   "value": 1.5')
    (tmp_path / "r.json").write_text(text)
    assert "the key 'value' twice" in refusal(tmp_path / "r.json")


@pytest.mark.parametrize("version", [0, 1, 3, "2", None, True, 2.0, [2]])
def test_another_schema_version_is_refused(report: AuditReport, tmp_path: Path, version: object) -> None:
    path = rewritten(report, tmp_path / "r", lambda body: body.update(schema_version=version))
    assert f"schema_version is {version!r}; this tool reads 2" in refusal(path)


def test_a_report_of_an_older_or_newer_version_says_how_to_get_one_that_is_read(
    report: AuditReport, tmp_path: Path
) -> None:
    old = refusal(rewritten(report, tmp_path / "old", lambda body: body.update(schema_version=1)))
    assert "a report is not converted: measure anew (unlearn-audit audit CONFIG --out DIR" in old
    new = refusal(rewritten(report, tmp_path / "new", lambda body: body.update(schema_version=3)))
    assert "with the version of this tool that wrote it, or measure anew" in new


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"seen": False}, "seen is False, which the interval"),
        ({"difference": 0.7}, "the difference 0.7 lies outside its interval"),
        ({"df": 0.5}, "comparison.df: must be at least 1"),
        ({"scale": "percent"}, "comparison.scale"),
        ({"blind_below": 0.05}, "blind_below is 0.05, half of the interval's width 0.1"),
        ({"blind_below": None}, "comparison.blind_below"),
        ({"p_value": 0.05}, "comparison.p_value"),
    ],
)
def test_a_comparison_that_contradicts_itself_or_is_not_whole_is_refused(
    make_report: Make, make_measurement: Make, tmp_path: Path, values: dict[str, Any], said: str
) -> None:
    whole = make_report(make_measurement(comparison=comparison(0.5, 0.4, 0.6)))
    write_report(whole, tmp_path / "whole.json")
    assert read_report(tmp_path / "whole.json").measurements[0].comparison == comparison(0.5, 0.4, 0.6)
    path = rewritten(whole, tmp_path / "r", lambda body: body["measurements"][0]["comparison"].update(values))
    assert said in refusal(path)


@pytest.mark.parametrize(("half", "flags"), [(0.2, []), (0.05, ["blind"]), (None, ["blind"])])
def test_a_flag_that_the_comparison_contradicts_is_refused(
    make_report: Make, make_measurement: Make, tmp_path: Path, half: float | None, flags: list[str]
) -> None:
    found = None if half is None else comparison(0.5, 0.5 - half, 0.5 + half)
    whole = make_report(make_measurement(comparison=found))
    write_report(whole, tmp_path / "whole.json")
    assert read_report(tmp_path / "whole.json").measurements[0].flags == (("blind",) if half == 0.2 else ())
    path = rewritten(whole, tmp_path / "r", lambda body: body["measurements"][0].update(flags=flags))
    assert 'flag "blind", which its comparison contradicts' in refusal(path)


def test_what_could_be_seen_comes_back_and_is_no_part_of_reports_without_it(
    make_report: Make, make_measurement: Make, tmp_path: Path
) -> None:
    whole = make_report(make_measurement(could_see=could_see(0.03, None)), make_measurement("loss.test"))
    write_report(whole, tmp_path / "whole.json")
    jsonschema.validate(json.loads((tmp_path / "whole.json").read_bytes()), report_schema())
    back = read_report(tmp_path / "whole.json").measurements
    assert (back[0].could_see, back[1].could_see) == (could_see(0.03, None), None)
    older = rewritten(whole, tmp_path / "r", lambda body: [one.pop("could_see") for one in body["measurements"]])
    assert [one.could_see for one in read_report(older).measurements] == [None, None]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"share": 0.0}, "could_see.share: must be greater than 0"),
        ({"dose": 1.5}, "could_see.dose"),
        ({"share": None}, "what could be seen is null without a reason"),
        ({"power": 1.0}, "could_see.power"),
        ({"runs": None}, "could_see.runs"),
        ({"chance": 0.5}, "could_see.chance"),
        ({"auc_low": 0.4}, "it takes auc, auc_low and auc_high"),
        ({"auc": 0.3, "auc_low": 0.4, "auc_high": 0.5}, "could_see.auc lies outside"),
        ({"auc": 1.0, "auc_low": 0.4, "auc_high": 1.5}, "could_see.auc_high"),
        ({"share": None, "dose": None, "reason": "not even the original"}, "comparison and could_see contradict"),
    ],
)
def test_what_could_be_seen_is_refused_where_it_is_not_whole(
    make_report: Make, make_measurement: Make, tmp_path: Path, values: dict[str, Any], said: str
) -> None:
    whole = make_report(make_measurement(could_see=could_see()))
    path = rewritten(whole, tmp_path / "r", lambda body: body["measurements"][0]["could_see"].update(values))
    assert said in refusal(path)


def test_what_misses_even_the_original_is_blind(make_measurement: Make) -> None:
    assert make_measurement(could_see=could_see(None, None)).flags == ("blind",)
    assert make_measurement(could_see=could_see(None, 0.9)).flags == ()  # it is seen where every example has some of it
    assert make_measurement(could_see=could_see(None, None, auc=0.77)).flags == ()
    told = could_see(None, None, auc=0.77, auc_low=0.7, auc_high=0.84)
    assert make_measurement(could_see=told).flags == ()
    nothing = could_see(None, None, auc=0.5, auc_low=0.47, auc_high=0.53)
    assert make_measurement(could_see=nothing).flags == ("blind",)


def test_an_unknown_flag_is_refused(report: AuditReport, tmp_path: Path) -> None:
    path = rewritten(report, tmp_path / "r", lambda body: body["measurements"][0].update(flags=["fine"]))
    assert "flags" in refusal(path)


def test_a_report_without_a_version_is_refused(report: AuditReport, tmp_path: Path) -> None:
    assert "schema_version is None" in refusal(
        rewritten(report, tmp_path / "r", lambda body: body.pop("schema_version"))
    )


BAD_BODIES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "unknown field": (lambda b: b.update(extra=1), "extra"),
    "unknown field inside": (lambda b: b["measurements"][0].update(p_value=0.5), "p_value"),
    "repeated measurement": (lambda b: b["measurements"].append(b["measurements"][0]), "measurement appears twice"),
    "repeated subject": (lambda b: b["subjects"].append(b["subjects"][0]), "subject appears twice: original"),
    "null without a reason": (lambda b: b["measurements"][0].update(value=None), "null without a reason"),
    "null with an empty reason": (lambda b: b["measurements"][1].update(reason=""), "null without a reason"),
    "upside-down interval": (lambda b: b["measurements"][0]["interval"].update(low=3.0), "upside down"),
    "interval without an end": (lambda b: b["measurements"][0]["interval"].update(low=None), "interval.low"),
    "level of 1": (lambda b: b["measurements"][0]["interval"].update(level=1.0), "interval.level"),
    "bool for a number": (lambda b: b["measurements"][0].update(value=True), "value"),
    "list for a number": (lambda b: b["measurements"][0].update(value=[1]), "value"),
    "text for a count": (lambda b: b["measurements"][0].update(n="100"), "n"),
    "negative count": (lambda b: b["measurements"][0].update(n=-1), "n"),
    "count beyond all data": (lambda b: b["measurements"][0].update(n=10**19), "n"),
    "fractional count": (lambda b: b["measurements"][0].update(n=1.5), "n"),
    "missing field": (lambda b: b["measurements"][0].pop("method"), "method"),
    "unknown direction": (lambda b: b["measurements"][0].update(direction="up"), "direction"),
    "name with spaces": (lambda b: b["measurements"][0].update(name="RCD raw"), "name"),
    "digest that is none": (lambda b: b["subjects"][0].update(sha256="xyz"), "sha256"),
    "no data": (lambda b: b.pop("data"), "data"),
    "measurements as a table": (lambda b: b.update(measurements={}), "measurements"),
    "infinity as a text in a count": (lambda b: b["data"]["test"].update(n="Infinity"), "data.test.n"),
}


@pytest.mark.parametrize("case", BAD_BODIES)
def test_a_body_that_breaks_the_contract_is_refused_even_with_a_matching_digest(
    report: AuditReport, tmp_path: Path, case: str
) -> None:
    change, place = BAD_BODIES[case]
    message = refusal(rewritten(report, tmp_path / "r", change))
    assert "not a valid report" in message
    assert place in message


def test_a_report_that_breaks_the_contract_cannot_even_be_made(make_report: Make, make_measurement: Make) -> None:
    with pytest.raises(ValidationError, match="twice"):
        make_report(make_measurement(), make_measurement())
    with pytest.raises(ValidationError, match="upside down"):
        Interval(low=1.0, high=0.0, method="m")
    with pytest.raises(ValidationError, match="finite"):
        make_measurement(value=math.nan)
    with pytest.raises(ValidationError, match="reason"):
        make_measurement(value=None)


def test_a_report_is_frozen(report: AuditReport) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        report.measurements[0].value = 2.0


# ----- the published schema


def test_the_schema_is_a_valid_one_and_refuses_what_the_reader_refuses(report: AuditReport) -> None:
    schema = report_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    assert validator.is_valid(json.loads(dump_report(report)))
    beyond_a_schema = {
        "repeated measurement", "repeated subject", "null without a reason", "null with an empty reason",
        "upside-down interval",
    }  # fmt: skip
    for case, (change, _) in BAD_BODIES.items():
        body = json.loads(dump_report(report))
        change(body)
        assert validator.is_valid(body) == (case in beyond_a_schema), case


def test_the_schema_asks_for_every_field_that_is_written(report: AuditReport) -> None:
    validator = jsonschema.Draft202012Validator(report_schema())
    for key in json.loads(dump_report(report)):
        body = json.loads(dump_report(report))
        del body[key]
        assert not validator.is_valid(body), key


def test_find_and_roles(report: AuditReport) -> None:
    found = report.find("rcd.raw", "original")
    assert isinstance(found, Measurement)
    assert found.value == 1.5
    assert report.find("rcd.raw", "nobody") is None
    assert [subject.label for subject in report.with_role("unlearned")] == ["unlearned"]
