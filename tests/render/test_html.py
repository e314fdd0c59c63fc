"""The page that `show --html` writes: whole, accessible, closed to scripts and the network, and true to the report."""

import base64
import hashlib
import io
import json
import re
import zipfile
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pages_seen import Seen
from sklearn.metrics import roc_curve

from unlearn_audit import metrics
from unlearn_audit.gate import Gated, Policy, ReportSource, apply_policy
from unlearn_audit.render import figures, html, markdown
from unlearn_audit.render.arrays import MOST_BYTES, Arrays, read_arrays, score_names
from unlearn_audit.render.untrusted import printable
from unlearn_audit.report import AuditReport, write_arrays, write_report

Make = Callable[..., Any]
Cli = Callable[..., Any]
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</style></title></svg><b>",
    "&lt;i&gt; &amp;",
    "a'b\"c`d",
    "\x1b[31mred\x07\x00",
    "two\nlines",
    "‮turned",
    "caf\udce9",
]


SUBJECTS = [("o", "original"), ("u", "unlearned"), ("r1", "retrained"), ("r2", "retrained"), ("random init", "control")]
EXAMPLE = {"index": 7, "label": 3, "score": 1.5, "share_of_twin_above": 0.25}


@pytest.fixture
def scores() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    found = {}
    for shift, label in enumerate(("r1", "u", "o")):
        members, non_members = score_names("loss", label)
        found |= {members: rng.normal(shift, 1, 150), non_members: rng.normal(0, 1, 150)}
    return found


@pytest.fixture
def full(make_report: Make, make_measurement: Make, scores: dict[str, Any]) -> Callable[..., AuditReport]:
    """Make up a report with something for every section: full("a label for the unlearned model")."""

    def make(unlearned: str = "u", **values: Any) -> AuditReport:
        found = []
        for index, (label, role) in enumerate(SUBJECTS):
            named = unlearned if label == "u" else label
            curve = {"steps": [0, 5, 10], "values": [1.0, 0.1, 0.01]}
            sizes = [
                {"step_size": s, "value": 4.0 * s + index, "moved": 0.1, "kendall_tau_to_first": 1.0} for s in (1, 0.1)
            ]
            details = {"loss": [3.0, 2.0, 1.0 + index], "step_sizes": sizes}
            found += [
                make_measurement("accuracy.test", named, role=role, value=0.9),
                make_measurement("gap.average", named, role=role, value=0.01 * (index + 1)),
                make_measurement("rcd.raw", named, role=role, value=6.0, interval=(5.0, 7.0), details=details),
                make_measurement("truncation.verdict", named, role=role, value="exponential",
                                 details={"excess": curve}),
                make_measurement("spectrum.trace", named, role=role, value=2.0),
            ]  # fmt: skip
            if label in ("o", "u", "r1"):
                sides = [scores[name] for name in score_names("loss", label)]
                worst = {"worst": [EXAMPLE]}
                found.append(
                    make_measurement("mia.loss.auc", named, role=role, value=metrics.auc(*sides), details=worst)
                )
        defaults: dict[str, Any] = {
            "conclusion": ("the conclusion",),
            "limitations": ("a limitation",),
            "settings": {"config": {"rcd": {"steps": 2}, "gaps": {}}, "from": {"rcd.steps": "flag"}},
            "environment": {"python": "3.11"},
        }
        report: AuditReport = make_report(*found, **defaults | values)
        return report

    return make


def page_of(report: AuditReport, arrays: dict[str, Any] | None = None, **values: Any) -> Seen:
    return Seen(html.render(report, Arrays(arrays or {}), **values))


# ----- the page


def test_everything_that_there_is_data_for_is_on_the_page(full: Make, scores: dict[str, Any]) -> None:
    seen = page_of(full(), scores)
    assert seen.of("h1") == ["Is the data gone?"]
    assert seen.of("h2") == [
        "Verdict", "Accuracy and gaps", "Relearning", "Truncation", "Curvature", "Membership inference",
        "Limitations", "How to read the numbers", "Provenance"]  # fmt: skip
    assert seen.of("title")[1:] == [
        "Relearning the forget set", "Average gap against RCD", "RCD against the step size",
        "Is the truncation error exponential?", "ROC of the loss attack"]  # fmt: skip
    captions = seen.of("caption")
    assert {"Most exposed examples of u, loss attack", "Checkpoints", "Data", "Settings", "Environment"} <= set(
        captions
    )
    assert {"a limitation", "the conclusion"} <= set(seen.of("li"))
    words = [text for _, text in seen.texts]
    assert words[words.index("rcd.steps") + 1 :][:2] == ["2", "flag"]
    assert words[words.index("gaps") + 1 :][:2] == ["{}", "default"]
    assert not any("left out" in text for text in words)


def test_what_there_is_no_data_for_is_left_out(make_report: Make, make_measurement: Make) -> None:
    seen = page_of(make_report(make_measurement("accuracy.test", "u")))
    assert seen.of("h2") == [
        "Verdict", "Accuracy and gaps", "Limitations", "How to read the numbers", "Provenance"]  # fmt: skip
    assert "svg" not in seen.names()
    assert any(text.startswith("This report says nothing against itself.") for text in seen.of("p"))
    assert page_of(make_report()).of("h2")[0] == "Verdict"


def test_the_page_is_well_formed_and_can_be_read_without_eyes(full: Make, scores: dict[str, Any]) -> None:
    seen = page_of(full(), scores)
    assert seen.open == []
    assert seen.attributes("html") == [{"lang": "en"}]
    assert {"charset": "utf-8"} in seen.attributes("meta")
    levels = [int(name[1]) for name in seen.names() if re.fullmatch("h[1-6]", name)]
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in zip(levels, levels[1:], strict=False))
    ids = [attributes["id"] for _, attributes in seen.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert seen.names().count("caption") == seen.names().count("table")
    assert {attributes.get("scope") for attributes in seen.attributes("th")} == {"col", "row"}
    for attributes in [*seen.attributes("svg"), *seen.attributes("section")]:
        named = (attributes["aria-labelledby"] or "").split()
        assert set(named) <= set(ids)
        assert attributes.get("role", "img") == "img"
    targets = [attributes["href"] or "" for attributes in seen.attributes("a")]
    assert targets
    assert {target[1:] for target in targets} <= set(ids)


def test_the_page_needs_nothing_from_elsewhere_and_allows_nothing(full: Make, scores: dict[str, Any]) -> None:
    page = html.render(full(), Arrays(scores))
    seen = Seen(page)
    forbidden = {"script", "link", "img", "iframe", "object", "embed", "image", "use", "form", "base", "foreignobject"}
    assert forbidden & set(seen.names()) == set()
    named = {name for _, attributes in seen.tags for name in attributes}
    assert not {name for name in named if name.startswith("on") or name in ("src", "style", "xlink:href", "srcdoc")}
    assert not re.findall(r"url\(|@import|https?:|javascript:|data:", page)
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    (allowed,) = [m["content"] for m in seen.attributes("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert allowed == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


@pytest.mark.parametrize("label", HOSTILE)
def test_text_from_elsewhere_stays_text(full: Make, scores: dict[str, Any], label: str) -> None:
    renamed = {name.replace("/u/", f"/{label}/"): array for name, array in scores.items()}
    said = {"conclusion": (label,), "limitations": (label,), "environment": {label: label}}
    page = html.render(full(label, **said), Arrays(renamed))
    plain = page_of(full("u", conclusion=("c",), limitations=("l",), environment={"a": "b"}), scores)
    seen = Seen(page)
    assert seen.names() == plain.names()
    assert [set(attributes) for _, attributes in seen.tags] == [set(attributes) for _, attributes in plain.tags]
    assert printable(label) in seen.of("li")
    assert printable(label) in seen.of("td")
    assert printable(label) in seen.of("th")
    assert "\x1b" not in page
    page.encode()


def test_the_same_report_gives_the_same_page(full: Make, scores: dict[str, Any]) -> None:
    assert html.render(full(), Arrays(scores)) == html.render(full(), Arrays(scores))


# ----- the verdict


def policy(*rules: dict[str, Any]) -> Policy:
    return Policy.model_validate({"schema_version": 1, "rule": [{"id": f"rule {i}"} | r for i, r in enumerate(rules)]})


LENIENT = {"metric": "accuracy.test", "min": 0.1}
STRICT = {"metric": "accuracy.test", "min": 0.99}
OPEN = {"metric": "mia.loss.auc", "subject": "r2", "max": 1.0}


@pytest.mark.parametrize(
    ("rules", "outcome", "counts"),
    [
        ((LENIENT,), "✓ Passed", "1 passed"),
        ((LENIENT, STRICT), "✗ Failed", "1 passed, 1 failed"),
        ((LENIENT, OPEN), "? Inconclusive", "1 passed, 1 inconclusive"),
        (({**STRICT, "severity": "warn"}, LENIENT), "✓ Passed", "1 passed, 1 warning"),
        (({**STRICT, "severity": "warn"}, {**OPEN, "severity": "warn"}, STRICT), "✗ Failed", "1 failed, 2 warnings"),
    ],
)
def test_the_verdict_of_the_gate_comes_first(full: Make, rules: tuple[Any, ...], outcome: str, counts: str) -> None:
    report = full()
    decisions = apply_policy(policy(*rules), report)
    source = ReportSource("elsewhere/strict.toml", "a" * 64)
    seen = page_of(report, gated=Gated(decisions, (), source, source, None, date(2026, 1, 1), subjects=report.subjects))
    words = [text for _, text in seen.texts]
    at = words.index(outcome)
    whom = "u, r2" if rules[-1] is OPEN else "u"
    assert words[at + 1 : at + 3] == [f": {whom}, by the policy strict.toml", counts]
    assert (
        at < words.index("the conclusion") < words.index("Decisions of the gate") < words.index("Relearning, by model")
    )
    assert [text for text in seen.of("th") if re.fullmatch(r"rule \d", text)][-len(rules) :] == [
        f"rule {i}" for i in range(len(rules))
    ]


def test_without_a_policy_there_is_a_conclusion_and_no_outcome(full: Make) -> None:
    seen = page_of(full())
    assert not [attributes for attributes in seen.attributes("p") if "outcome" in (attributes.get("class") or "")]
    assert "draws no conclusion" in " ".join(page_of(full(conclusion=())).of("li"))


def test_several_models_are_judged_at_a_glance(full: Make) -> None:
    report = full()
    rules = (LENIENT, {**STRICT, "subject": "r1"}, {**LENIENT, "subject": "r1", "severity": "warn", "min": 1.0})
    decisions = apply_policy(policy(*rules), report)
    source = ReportSource("strict.toml", "a" * 64)
    seen = page_of(report, gated=Gated(decisions, (), source, source, None, date(2026, 1, 1), subjects=report.subjects))
    words = [text for _, text in seen.texts]
    at = words.index("Verdicts by model")
    assert words[at + 1 : at + 11] == [
        "model", "rule 0", "rule 1", "rule 2", "u", "passed", "r1", "failed", "failed (warning)",
        "the conclusion"]  # fmt: skip


# ----- tables


def test_the_reference_comes_first_and_no_column_is_all_dashes(full: Make) -> None:
    seen = page_of(full())
    heads = [dict(attributes) for attributes in seen.attributes("th") if attributes.get("class")]
    assert [one["class"] for one in heads[:4]] == ["number reference", "number", "number", "number"]
    words = [text for _, text in seen.texts]
    at = words.index("Accuracy and gaps, by model")
    assert words[at + 1 : at + 6] == ["measured", "retrained (2)", "o", "u", "random init"]
    at = words.index("Membership inference, by model")
    assert words[at + 1 : at + 5] == ["measured", "retrained (2)", "o", "u"]
    assert words[at + 5] == "loss attack AUC"


def test_settings_and_provenance_are_folded(full: Make) -> None:
    seen = page_of(full())
    assert seen.of("summary") == ["Checkpoints", "Data", "Settings", "Environment", "This report"]
    assert not any("open" in attributes for attributes in seen.attributes("details"))


# ----- pictures


def test_relearning_curves_show_every_model_and_control(full: Make) -> None:
    (chart,) = figures.relearning_curves(full(), Arrays({}))
    assert [one.label for one in chart.series] == ["o", "u", "retrained (2)", "retrained (2)", "random init"]
    assert [list(one.ys) for one in chart.series] == [[3.0, 2.0, 1.0 + index] for index in range(5)]
    assert len({one.style for one in chart.series}) == 4


def test_a_long_curve_comes_from_the_arrays(make_report: Make, make_measurement: Make) -> None:
    report = make_report(make_measurement("rcd.raw", "a/b", value=1.0, details={"loss": None}))
    assert figures.relearning_curves(report, Arrays({})) == ()
    (chart,) = figures.relearning_curves(report, Arrays({"rcd/a/b/forget/loss": np.array([2.0, 1.0])}))
    assert list(chart.series[0].ys) == [2.0, 1.0]


def test_a_model_looks_the_same_in_all_pictures(full: Make, scores: dict[str, Any]) -> None:
    report = full()
    charts = [
        *figures.relearning_curves(report, Arrays({})),
        *figures.gap_against_rcd(report),
        *figures.step_sizes(report),
        *figures.truncation(report),
        *figures.roc_curves(report, Arrays(scores)),
    ]
    assert len(charts) == 5
    looks = {(one.label, one.style) for chart in charts for one in chart.series}
    assert len(looks) == len({label for label, _ in looks}) == 4


def test_rcd_over_the_gap_has_the_numbers_and_intervals_of_the_report(full: Make) -> None:
    (chart,) = figures.gap_against_rcd(full())
    assert [(one.xs[0], one.ys[0], one.ends) for one in chart.series] == [
        (pytest.approx(0.01 * (i + 1)), 6.0, ((5.0, 7.0),)) for i in range(5)
    ]


def test_rcd_over_step_sizes_has_the_numbers_of_the_details(full: Make) -> None:
    (chart,) = figures.step_sizes(full())
    assert chart.x.log
    assert [(list(one.xs), list(one.ys)) for one in chart.series][1] == ([0.1, 1.0], [1.4, 5.0])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(-4, 4), min_size=1, max_size=40),
    st.lists(st.integers(-4, 4), min_size=1, max_size=40),
)
def test_roc_curves_are_those_of_another_implementation(members: list[int], non_members: list[int]) -> None:
    """At every false positive rate that scikit-learn knows, our steps have its highest true positive rate."""
    ours, others = np.array(members, float), np.array(non_members, float)
    xs, ys = figures.roc_steps(ours, others)
    labels = [1] * len(members) + [0] * len(non_members)
    false, true, _ = roc_curve(labels, [*members, *non_members], drop_intermediate=False)
    assert xs == sorted(xs)
    assert ys == sorted(ys)
    assert (xs[0], xs[-1], ys[-1]) == (1 / len(others), 1.0, 1.0)
    for rate in {1 / len(others), *false[false >= 1 / len(others)]}:
        highest = max(t for f, t in zip(false, true, strict=True) if f <= rate + 1e-12)
        assert max(y for x, y in zip(xs, ys, strict=True) if x <= rate + 1e-12) == pytest.approx(highest)


def test_infinite_scores_have_a_curve() -> None:
    xs, ys = figures.roc_steps(np.array([np.inf, 0.0, -np.inf]), np.array([-np.inf, 0.0, 1.0]))
    assert (xs[0], ys[0]) == (pytest.approx(1 / 3), pytest.approx(1 / 3))
    assert (xs[-1], ys[-1]) == (1.0, 1.0)


def test_a_roc_chart_says_where_it_resolves_nothing(full: Make, scores: dict[str, Any]) -> None:
    (chart,) = figures.roc_curves(full(), Arrays(scores))
    assert (chart.x.log, chart.y.log, chart.diagonal) == (True, True, True)
    assert [guide.at for guide in chart.guides] == [1e-3, 1e-2]
    assert "150 non-members resolve no false positive rate below 0.0067" in chart.caption
    assert min(one.xs[0] for one in chart.series) == 1 / 150
    assert [one.label for one in chart.series] == ["o", "u", "retrained (2)"]


# ----- arrays are not trusted


def npy(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=array.dtype.hasobject)
    return stream.getvalue()


def lying(shape: str) -> bytes:
    """Return an .npy file whose header promises more than is there."""
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + b"\0" * 8


class Trap:
    """Unpickling it would leave a file."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.path, "w")


def write_zip(path: Path, entries: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(f"{name}.npy", data)


MEMBERS, OTHERS = score_names("loss", "u")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (npy(np.zeros((2, 2))), "no list of real numbers"),
        (npy(np.array(1.0)), "no list of real numbers"),
        (npy(np.arange(3)), "no list of real numbers"),
        (npy(np.array(["a"])), "no list of real numbers"),
        (npy(np.array([1.0, np.nan])), "not a number"),
        (lying("(1000000000000,)"), "no list of real numbers"),
        (lying("(-1,)"), "no list of real numbers"),
        (lying("(" * 60 + ")" * 60), "left out"),
        (npy(np.zeros(9))[:-3], "no list of real numbers"),
        (b"", "left out"),
        (b"\x93NUMPY\x09\x00", "left out"),
        (npy(np.zeros(MOST_BYTES // 8)), "larger than 64 MiB"),
    ],
)
def test_an_array_of_another_kind_is_left_out_and_told(full: Make, tmp_path: Path, data: bytes, says: str) -> None:
    write_zip(tmp_path / "arrays.npz", {MEMBERS: data, OTHERS: npy(np.array([1.0, 2.0]))})
    found = read_arrays(tmp_path / "report.json", full())
    assert list(found.found) == [OTHERS]
    (problem,) = found.problems
    assert MEMBERS in problem
    assert says in problem
    assert problem in Seen(html.render(full(), found)).of("li")


def test_no_pickle_is_run(full: Make, tmp_path: Path) -> None:
    trap = np.array([Trap(tmp_path / "sprung")], dtype=object)
    write_zip(tmp_path / "arrays.npz", {MEMBERS: npy(trap)})
    found = read_arrays(tmp_path / "report.json", full())
    assert not found.found
    assert "type object" in found.problems[0]
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("data", [b"no archive", b"PK\x03\x04", b""])
def test_a_file_that_is_no_archive_is_left_out_and_told(full: Make, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "arrays.npz").write_bytes(data)
    found = read_arrays(tmp_path / "report.json", full())
    assert not found.found
    assert "cannot be read" in found.problems[0]


def test_a_damaged_entry_is_left_out_and_told(full: Make, scores: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "arrays.npz"
    write_arrays(scores, path)
    data = bytearray(path.read_bytes())
    data[data.index(b"NUMPY") + 200] ^= 1
    path.write_bytes(data)
    found = read_arrays(tmp_path / "report.json", full())
    assert len(found.found) == 5
    assert "CRC" in found.problems[0]


def test_what_this_tool_writes_is_read(full: Make, scores: dict[str, Any], tmp_path: Path) -> None:
    assert read_arrays(tmp_path / "report.json", full()) == Arrays({})
    write_arrays(scores | {"other": np.zeros((3, 3))}, tmp_path / "arrays.npz")
    found = read_arrays(tmp_path / "report.json", full())
    assert found.problems == ()
    assert found.found.keys() == scores.keys()
    assert all((found.found[name] == scores[name]).all() for name in scores)


def test_scores_of_another_run_are_not_drawn(full: Make, scores: dict[str, Any]) -> None:
    wrong = scores | {MEMBERS: scores[MEMBERS] + 0.1}
    (chart,) = figures.roc_curves(full(), Arrays(wrong))
    assert "u" not in [one.label for one in chart.series]
    seen = page_of(full(), wrong)
    assert any("mia.loss.auc of u beside the report do not give its value" in text for text in seen.of("li"))


# ----- details are not trusted either

ODD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["steps", "values", "step_size", "value", "with", "at", "index", "1", "10"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
KEYS = ["loss", "step_sizes", "rank_by_k", "order_changes", "excess", "worst"]


@settings(max_examples=150, deadline=None)
@given(details=st.lists(st.dictionaries(st.sampled_from(KEYS), ODD, max_size=4), min_size=2, max_size=2))
def test_odd_details_break_no_page_and_no_table(make_report: Make, make_measurement: Make, details: list[Any]) -> None:
    report = make_report(
        *(
            make_measurement(name, label, value="text" if name == "truncation.verdict" else 1.0, details=found)
            for name in ("rcd.raw", "truncation.verdict", "mia.loss.auc")
            for label, found in zip("ab", details, strict=True)
        )
    )
    assert page_of(report).open == []
    assert markdown.render(report)


def test_details_of_no_known_form_are_told(make_report: Make, make_measurement: Make) -> None:
    report = make_report(make_measurement("rcd.raw", "u", details={"loss": [1.0, "x"]}))
    assert any("rcd.raw of u: its details are of no known form (first: loss.1)" in t for t in page_of(report).of("li"))


# ----- Markdown that a step summary can hold


def test_markdown_begins_with_the_decisions(full: Make) -> None:
    report = full()
    text = markdown.render(report, apply_policy(policy(LENIENT), report))
    assert text.startswith("**Decisions of the gate**")
    assert text.index("passed") < text.index("### Conclusion") < text.index("accuracy test")
    assert "most exposed examples of u, loss attack" in text


def test_markdown_is_cut_where_a_summary_would_be_dropped(make_report: Make) -> None:
    short = markdown.render(make_report(limitations=("é" * 1000,)))
    assert "cut here" not in short
    text = markdown.render(make_report(limitations=tuple(f"{i} " + "é" * 1000 for i in range(700))))
    assert len(text.encode()) <= 1_000_000 < 1024**2
    assert text.endswith(
        "**This text was cut here, since a step summary may hold 1 MiB; the JSON output has the rest.**\n"
    )
    assert text.splitlines()[-3].endswith("é" * 1000)


# ----- the verb


@pytest.fixture
def written(full: Make, scores: dict[str, Any], here: Path) -> Path:
    folder = here / "report"
    folder.mkdir()
    write_arrays(scores, folder / "arrays.npz")
    write_report(full(), folder / "report.json")
    (here / "policy.toml").write_text('schema_version = 1\n[[rule]]\nid = "r"\nmetric = "accuracy.test"\nmin = 0.99\n')
    return folder / "report.json"


def test_show_writes_both_files_and_prints_nothing_else(written: Path, here: Path, run: Cli) -> None:
    ran = run("show", written, "--html", "a.html", "--markdown", "a.md", "--policy", "policy.toml")
    assert (ran.code, ran.stdout, ran.stderr) == (0, "", "wrote a.html\nwrote a.md\n")
    seen = Seen((here / "a.html").read_text(encoding="utf-8"))
    assert "✗ Failed" in seen.of("strong")
    assert "ROC of the loss attack" in seen.of("title")
    assert (here / "a.md").read_text().startswith("**Decisions of the gate**")
    again = run("show", written, "--html", "a.html", "--force", "--quiet", "--format", "markdown")
    assert (again.code, again.stderr) == (0, "")
    assert again.stdout.startswith("### Conclusion")


def test_show_prints_the_decisions_below_the_table(written: Path, run: Cli) -> None:
    lines = run("show", written, "--policy", "policy.toml").stdout.splitlines()
    assert lines.index("Conclusion") < lines.index("Decisions of the gate")
    assert "failed" in lines[-2]


def test_decisions_are_the_gates_with_a_baseline_as_without_one(written: Path, here: Path, run: Cli) -> None:
    with (here / "policy.toml").open("a") as policy:
        policy.write('[[rule]]\nid = "change"\nmetric = "accuracy.test"\nmax_decrease = 0.9\n')
    shown = [
        run("show", written, "--policy", "policy.toml", "--format", "markdown", *more).stdout
        for more in ([], ["--baseline", written])
    ]
    assert "| change | u | inconclusive |" in shown[0]
    assert "| change | u | passed |" in shown[1]
    (here / "old.json").write_text("{}")
    assert run("show", written, "--policy", "policy.toml", "--baseline", "old.json").code == 3
    assert run("show", written, "--baseline", written).code == 2


def test_every_waiver_is_listed_whatever_became_of_it(written: Path, here: Path, run: Cli) -> None:
    waiver = '[[waiver]]\nrule = "r"\nsha256 = "{}"\nreason = "ticket {}"\nowner = "jane"\nexpires = {}\n'
    with (here / "policy.toml").open("a") as policy:
        policy.write(waiver.format("0" * 64, 7, "2999-01-01") + waiver.format("1" * 64, 8, "2001-01-01"))
    ran = run("show", written, "--html", "a.html", "--markdown", "a.md", "--policy", "policy.toml", "--format", "table")
    for text in (ran.stdout, (here / "a.md").read_text(), (here / "a.html").read_text()):
        for word in ("unused", "expired", "ticket 7", "ticket 8", "jane"):
            assert word in text


def test_the_subject_of_the_decisions_can_be_another(written: Path, run: Cli) -> None:
    ran = run("show", written, "--policy", "policy.toml", "--subject", "r1", "--format", "markdown")
    assert "| r | r1 | failed |" in ran.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--html", "old.html"], 2, ["old.html exists already", "--force"]),
        (["--markdown", "old.html"], 2, ["old.html exists already", "--force"]),
        (["--html", "old.html/where.html"], 2, ["old.html is a file, not a folder"]),
        (["--html", "report"], 2, ["report is a directory"]),
        (["--html", "x", "--markdown", "./x"], 2, ["both write", "name two files"]),
        (["--html", "x.html", "--subject", "u"], 2, ["--subject", "--policy"]),
        (["--html", "x.html", "--policy", "missing.toml"], 2, ["missing.toml"]),
        (["--html", "x.html", "--policy", "wrong.toml"], 2, ["wrong.toml", "accuracy.tset"]),
        (["--html", "x.html", "--format", "json"], 2, ["--format"]),
    ],
)
def test_what_show_refuses(
    written: Path, here: Path, refused: Make, arguments: list[str], code: int, says: Any
) -> None:
    (here / "old.html").write_text("mine")
    (here / "wrong.toml").write_text('schema_version = 1\n[[rule]]\nid = "r"\nmetric = "accuracy.tset"\nmin = 0\n')
    refused("show", written, *arguments, code=code, says=says)


def test_a_report_that_cannot_be_trusted_is_not_drawn(written: Path, here: Path, refused: Make) -> None:
    body = json.loads(written.read_text())
    body["conclusion"] = ["all is well"]
    written.write_text(json.dumps(body))
    refused("show", written, "--html", "x.html", code=3, says=["does not match its body_sha256"])
