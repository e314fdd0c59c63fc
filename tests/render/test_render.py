"""What a person looks at: it fits, it is complete, and text from elsewhere is shown as it is and steers nothing."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from conftest import could_see
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.console import Console, RenderableType

from unlearn_audit.catalogue import METRICS
from unlearn_audit.gate import Decision, Rule, Verdict
from unlearn_audit.render import decisions, gfm, html, markdown, table, terminal
from unlearn_audit.report import AuditReport, Reference, SetSummary

Make = Callable[..., Any]
SHOWN = [info.name for info in METRICS.values() if not info.hidden and info.section != "mia"]
HOSTILE = [
    "[bold red]x[/bold red]",
    "[link=https://evil.example]y[/link]",
    "a|b",
    "*a* _b_ `c` ~~d~~ <script>e</script> &lt; [f](http://g)",
    "\\",
    "# h",
    "1. one",
    "- item",
    "\x1b[31mred\x07",
    "two\nlines\r\n| a | b |",
    "\u202eturned",
    "caf\udce9",
]


def shown(renderable: RenderableType, width: int = 80) -> str:
    console = Console(width=width, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


@pytest.fixture
def report_of(make_report: Make, make_measurement: Make) -> Callable[..., AuditReport]:
    """Make up a full report on subjects: report_of([("label", "role"), ...])."""

    def make(subjects: Sequence[tuple[str, str]], **values: Any) -> AuditReport:
        found = []
        for index, (label, role) in enumerate([*subjects, ("random initialisation", "control")]):
            for name in SHOWN:
                big = name == "rcd.raw"
                value = 12345.67 + index if big else -0.1234 - index / 100
                ends = (value - 1000, value + 1000) if big else (value - 0.01, value + 0.01)
                found.append(make_measurement(name, label, role=role, value=value, interval=ends))
        report: AuditReport = make_report(*found, **values)
        return report

    return make


def many(count: int) -> list[tuple[str, str]]:
    roles = ["original", "unlearned", "retrained", "retrained", "retrained", "unlearned", "subject", "subject"]
    return [(f"a-rather-long-label-of-a-checkpoint-{i}", roles[i]) for i in range(count)]


# ----- the terminal


@pytest.mark.parametrize("count", range(1, 9))
def test_a_table_fits_eighty_columns_and_breaks_no_number(report_of: Make, count: int) -> None:
    report = report_of(many(count))
    lines = shown(terminal.render(report)).splitlines()
    assert max(map(len, lines)) <= 80
    words = set(" ".join(lines).split())
    for column in table.columns(report):
        for row in table.rows(report, [column]):
            assert set(row.cells[0].value.split()) <= words
            assert set(row.cells[0].interval.split()) <= words


def test_models_that_do_not_fit_stand_in_blocks_each_with_the_retrained_ones(report_of: Make) -> None:
    subjects = [(f"u{i}", "unlearned") for i in range(7)] + [(f"r{i}", "retrained") for i in range(3)]
    report = report_of(subjects)
    for width, blocks in ((80, [3, 3, 1]), (130, [6, 1]), (200, [7])):  # and a control at the end
        lines = shown(terminal.render(report, width=width), width=width).splitlines()
        heads = [line for line in lines if "retrained (3)" in line and ":" not in line]
        assert [len(re.findall(r"u\d", head)) for head in heads] == blocks, width
        assert max(map(len, lines)) <= width


@pytest.mark.parametrize("count", range(1, 9))
def test_every_label_is_there_in_full(report_of: Make, count: int) -> None:
    report = report_of(many(count))
    text = shown(terminal.render(report), width=400)
    for column in table.columns(report):
        for word in column.heading.split():
            assert all(word[start : start + 18] in text for start in range(0, len(word), 18)), word


@pytest.mark.parametrize("label", HOSTILE)
def test_labels_and_words_are_shown_as_they_are(report_of: Make, label: str) -> None:
    report = report_of([(label, "unlearned")], conclusion=(f"{label} c",), limitations=(f"{label} l",))
    text = shown(terminal.render(report), width=200)
    flat = re.sub(r"\s+", "", text)
    for part in (label, f"{label} c", f"{label} l"):
        assert re.sub(r"\s+", "", table.printable(part)) in flat
    assert "\x1b" not in text
    assert all(character.isprintable() for character in text.replace("\n", ""))


@given(st.text())
def test_printable_text_is_printable_and_plain_text_is_left_alone(text: str) -> None:
    assert table.printable(text).isprintable()
    if text.isprintable():
        assert table.printable(text) == text


def test_a_row_without_any_value_is_left_out_and_its_reason_told(make_report: Make, make_measurement: Make) -> None:
    report = make_report(
        make_measurement("accuracy.test", "u", value=0.5),
        make_measurement("gap.test", "u", value=None, reason="no retrained model to compare with was given"),
    )
    text = shown(terminal.render(report))
    assert "accuracy test" in text
    assert "gap test " not in text
    assert "gap.test of u: no retrained model to compare with was given" in text


def test_a_report_without_measurements_can_be_shown(make_report: Make) -> None:
    assert "forget 10" in shown(terminal.render(make_report()))
    assert "forget 10" in markdown.render(make_report())


# ----- the table that all formats share


FORMS: dict[str, Callable[[AuditReport], str]] = {
    "terminal": lambda report: shown(terminal.render(report)),
    "markdown": markdown.render,
    "html": html.render,
}


@pytest.mark.parametrize("form", FORMS)
def test_every_metric_is_shown_in_every_format_or_says_why_it_is_hidden(
    form: str, make_report: Make, make_measurement: Make
) -> None:
    for info in METRICS.values():
        value: Any = "exponential" if info.is_text else 4321.0
        text = FORMS[form](make_report(make_measurement(info.name, "u", value=value)))
        last = info.title.split()[-1]  # a title may be broken into lines
        if info.hidden:
            assert len(info.hidden.split()) > 3
            assert info.title not in text
        else:
            assert ("exponential" if info.is_text else "4321") in text, info.name
            assert last in text or gfm.escaped(last) in text, info.name


@pytest.mark.parametrize("form", FORMS)
def test_beside_each_number_stands_how_small_a_leak_it_would_have_shown(
    form: str, make_report: Make, make_measurement: Make
) -> None:
    sizes = {
        "gap.forget": could_see(0.0465, 0.57),
        "mia.loss.auc": could_see(None, 0.57),
        "mia.entropy.auc": could_see(None, None),
        "mia.ulira.auc": could_see(None, None, auc=0.77),
    }
    found = [make_measurement(name, "u", could_see=seen) for name, seen in sizes.items()]
    found += [
        make_measurement(f"detectable.{what}", "u", value=value) for what, value in (("share", 0.0465), ("dose", 0.57))
    ]
    text = FORMS[form](make_report(*found))
    for words in ("sees 4.7 % kept", "sees 57 % dose", "blind", "detectable.share 4.7 %"):
        assert words in " ".join(text.split()) or gfm.escaped(words) in text, words
    assert text.count("sees 4.7") == 1
    assert "sees N %" not in FORMS[form](make_report(make_measurement("gap.forget", "u")))


@pytest.mark.parametrize("form", FORMS)
def test_a_metric_that_only_another_version_knows_is_shown_by_its_name(
    form: str, make_report: Make, make_measurement: Make
) -> None:
    text = FORMS[form](make_report(make_measurement("outputs.sharpness", "u", value=4321.5)))
    assert "4321.5" in text
    assert "outputs.sharpness" in text


def test_the_page_says_of_each_row_what_it_is(make_report: Make, make_measurement: Make) -> None:
    text = html.render(make_report(make_measurement("loss.test", "u")))
    assert re.search(r'<th scope="row" title="mean cross-entropy on the test set">loss test</th>', text)


def test_a_fraction_of_one_has_three_digits_whatever_is_usual(make_report: Make, make_measurement: Make) -> None:
    def cells(*values: float) -> list[str]:
        found = [make_measurement("loss.test", f"r{i}", role="retrained", value=v) for i, v in enumerate(values)]
        report = make_report(*found)
        return [cell.value + cell.interval for cell in table.rows(report, [table.Column("r", tuple(
            measurement.subject for measurement in found))])[0].cells]  # fmt: skip

    assert cells(13.8664) == ["13.87"]
    assert cells(0.0062) == ["0.006"]
    assert cells(13.0, 14.0) == ["13.50± 0.71"]
    assert cells(0.001, 0.003) == ["0.002± 0.001"]


def test_rows_stand_in_the_catalogues_order_and_attacks_of_the_users_own_among_the_others(
    make_report: Make, make_measurement: Make
) -> None:
    names = ["mia.mine.auc", "mia.svc.efficacy", "mia.mine.accuracy", "mia.loss.auc", "rcd.raw", "loss.test"]
    infos = table.shown_metrics(make_report(*(make_measurement(name, "u", value=0.5) for name in names)))
    assert [info.name for info in infos] == [
        "loss.test", "rcd.raw", "mia.mine.auc", "mia.loss.auc", "mia.mine.accuracy", "mia.svc.efficacy"]  # fmt: skip
    assert infos[2].title == "mine attack AUC"


def test_every_number_of_an_attack_has_a_row(make_report: Make, make_measurement: Make) -> None:
    parts = ("auc", "tpr_at_fpr_1e-2", "tpr_at_fpr_1e-3", "accuracy", "base_rate")
    found = [make_measurement(f"mia.{a}.{part}", "u", value=0.5) for a in ("loss", "lira-offline") for part in parts]
    report = make_report(*found, make_measurement("accuracy.test", "u"), make_measurement("mia.loss.other", "u"))
    named = [row.label for row in table.rows(report, table.columns(report))]
    assert named == [
        "accuracy test", "loss attack AUC", "lira-offline attack AUC", "loss TPR at 1 % FPR",
        "lira-offline TPR at 1 % FPR", "loss TPR at 0.1 % FPR", "lira-offline TPR at 0.1 % FPR",
        "loss attack accuracy", "lira-offline attack accuracy", "mia.loss.other"]  # fmt: skip
    assert "base rate 0.500" in table.footnotes(report)[1]
    lines = shown(terminal.render(report)).splitlines()
    assert max(map(len, lines)) <= 80
    assert "lira-offline attack" in {line[:19] for line in lines}


def test_retrained_seeds_stand_together_where_there_are_many_columns(report_of: Make) -> None:
    few = report_of([("o", "original"), ("r1", "retrained"), ("r2", "retrained")])
    assert [column.heading for column in table.columns(few)] == ["o", "r1", "r2", "random initialisation"]
    more = report_of([("o", "original"), ("r1", "retrained"), ("u", "unlearned"), ("r2", "retrained")])
    assert [column.heading for column in table.columns(more)] == [
        "o", "retrained (2)", "u", "random initialisation"]  # fmt: skip
    row = next(row for row in table.rows(more, table.columns(more)) if row.label == "accuracy test")
    assert row.cells[1] == table.Cell("-0.143", "± 0.014")  # the mean and n - 1 spread of -0.1334 and -0.1534


def test_the_spread_of_numbers_between_pairs_is_that_which_they_are_compared_with(
    make_report: Make, make_measurement: Make
) -> None:
    levels = Reference(role="retrained", value=0.2, spread=0.04, n=3)
    found = [make_measurement("outputs.tv", label, role="unlearned", value=0.5, reference=levels) for label in "ab"]
    found += [make_measurement("outputs.tv", f"r{i}", role="retrained", value=0.16 + 0.02 * i) for i in (1, 2, 3)]
    (row,) = table.rows(make_report(*found), table.columns(make_report(*found)))
    assert row.cells[-1] == table.Cell("0.200", "± 0.040")  # their own is .020
    other = [one.model_copy(update={"reference": levels.model_copy(update={"value": 0.3})}) for one in found[:2]]
    (row,) = table.rows(make_report(*other, *found[2:]), table.columns(make_report(*found)))
    assert row.cells[-1] == table.Cell("0.200", "± 0.020")


def test_a_mean_over_fewer_seeds_says_so(make_report: Make, make_measurement: Make) -> None:
    found = [make_measurement("rcd.raw", label, role="original", value=1.0) for label in ("a", "b", "c")]
    found += [make_measurement("rcd.raw", f"r{i}", role="retrained", value=float(i)) for i in (1, 2)]
    broken = make_measurement("rcd.raw", "r3", role="retrained", value=None, reason="diverged at step 3")
    report = make_report(*found, broken)
    (row,) = table.rows(report, table.columns(report))
    assert row.cells[-1] == table.Cell("1.5", "± 0.7 (2 of 3)")
    assert "rcd.raw of r3: diverged at step 3" in table.footnotes(report)


@pytest.mark.parametrize(
    ("name", "value", "interval", "cell"),
    [
        ("accuracy.test", 0.5, None, ("0.500", "")),
        ("accuracy.test", 1.0, (0.9951, 1.0), ("1.000", "[.995, 1.000]")),
        ("gap.test", -0.0166, (-0.0345, 0.0012), ("-0.017", "[-.035, +.001]")),
        ("gap.test", 0.0, None, ("+0.000", "")),
        ("gap.average", 0.2, None, ("0.200", "")),
        ("rcd.raw", 391.34, (-0.04, 1409.1), ("391.3", "[-.0, 1409.1]")),
        ("accuracy.test", None, None, ("–", "")),
    ],
)
def test_how_numbers_are_written(
    make_report: Make,
    make_measurement: Make,
    name: str,
    value: float | None,
    interval: tuple[float, float] | None,
    cell: tuple[str, str],
) -> None:
    report = make_report(make_measurement(name, value=value, reason="r", interval=interval))
    (row,) = table.rows(report, table.columns(report))
    assert row.cells == (cell,)


def test_footnotes_give_sizes_method_and_reasons(make_report: Make, make_measurement: Make) -> None:
    report = make_report(
        make_measurement("rcd.raw", "u", value=1.0, method="full-batch GD, K = 100"),
        make_measurement("gap.test", "u", value=None, reason="no retrained model"),
    )
    notes = table.footnotes(report)
    assert notes[0] == "forget 10 (forget), retain 10, test 10, unseen twin 10"
    assert notes[1] == "RCD: full-batch GD, K = 100; read against retrained, not maximised"
    assert notes[-1] == "gap.test of u: no retrained model"


def test_many_reasons_are_told_once_for_all_subjects(make_report: Make, make_measurement: Make) -> None:
    null = [
        make_measurement(name, f"subject-{i}", value=None, reason="no retrained model")
        for i in range(5)
        for name in ("gap.test", "gap.retain")
    ]
    notes = table.footnotes(make_report(*null))
    assert notes[-1] == "gap.test, gap.retain: no retrained model"
    assert not any("subject-" in note for note in notes)


def test_how_mia_nn_is_read_stands_below_its_numbers(make_report: Make, make_measurement: Make) -> None:
    level = Reference(role="retrained", value=0.125, n=3)
    found = [make_measurement("nn.tv", s, role=r, value=0.375, reference=level)
             for s, r in (("u", "unlearned"), ("r1", "retrained"))]  # fmt: skip
    (told,) = [note for note in table.footnotes(make_report(*found)) if note.startswith("MIA-NN: read total variation")]
    assert told.endswith("; total variation minus retrained: u +0.250")
    assert not [note for note in table.footnotes(make_report(make_measurement("gap.test", "u"))) if "MIA-NN" in note]


def test_a_reason_that_only_some_subjects_have_names_them(make_report: Make, make_measurement: Make) -> None:
    names = ("gap.test", "gap.retain", "gap.forget", "rcd.raw")
    null = [make_measurement(name, s, value=None, reason="diverged") for s in ("r1", "u") for name in names]
    notes = table.footnotes(make_report(*null, make_measurement("gap.test", "original", value=0.5)))
    (told,) = [note for note in notes if note.endswith(": diverged")]
    assert told.endswith("(of r1, u): diverged")
    assert all(name in told for name in names)


# ----- Markdown, read by another parser


def parsed(text: str) -> list[tuple[str, str]]:
    """Return (kind, text) of what a Markdown parser sees: th, td, li and headings, with marks taken away."""
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)
    found: list[tuple[str, str]] = []
    kind = ""
    for token in tokens:
        if token.type in ("th_open", "td_open", "heading_open", "list_item_open"):
            kind = token.tag
        elif token.type == "inline":
            children = token.children or []
            assert {child.type for child in children} <= {"text", "text_special"}, token.content
            found.append((kind, "".join(child.content for child in children)))
        else:
            assert token.type.endswith("_close") or token.type.removesuffix("_open") in (
                "table", "thead", "tbody", "tr", "bullet_list", "paragraph"), token.type  # fmt: skip
    return found


@pytest.mark.parametrize("label", HOSTILE)
def test_markdown_shows_labels_as_they_are(report_of: Make, label: str) -> None:
    report = report_of([(label, "unlearned"), ("o", "original")], conclusion=(label, "b"), limitations=(label,))
    found = parsed(markdown.render(report))
    plain = table.printable(label)
    assert [text for kind, text in found if kind == "th"] == ["", plain, "o", "random initialisation"]
    assert [text for kind, text in found if kind == "li"][:2] == [plain, "b"]
    assert [text for kind, text in found if kind == "li"][-1] == plain
    assert len([text for kind, text in found if kind == "td"]) == 4 * len(SHOWN)


def test_markdown_has_the_numbers_with_their_intervals(make_report: Make, make_measurement: Make) -> None:
    report = make_report(make_measurement("accuracy.test", "u", value=0.5, interval=(0.4, 0.6)))
    assert parsed(markdown.render(report))[:4] == [
        ("th", ""), ("th", "u"), ("td", "accuracy test"), ("td", "0.500 [.400, .600]")]  # fmt: skip


@pytest.mark.parametrize("count", range(1, 9))
def test_every_row_of_markdown_has_as_many_cells_as_the_head(report_of: Make, count: int) -> None:
    found = parsed(markdown.render(report_of(many(count))))
    head = [text for kind, text in found if kind == "th"]
    assert len([text for kind, text in found if kind == "td"]) == len(head) * len(SHOWN)


NASTY = ["a|b", "`c`", "<script>x</script>", "two\nlines", "*d*", "_e_", "[x](http://y)", "|", "\\|", "\\", "a || b",
         "$m$ :smile: &amp;", "![p](q)", "```", "| a |\n|---|", " -- ", "a\\"]  # fmt: skip


@pytest.mark.parametrize("label", NASTY)
def test_every_number_of_markdown_stands_in_its_row_and_under_its_model(
    make_report: Make, make_measurement: Make, label: str
) -> None:
    reasons = {name: f"{label} of {name}" for name in ("gap.test", "rcd.raw", "mia.loss.tpr_at_fpr_1e-3")}
    values = {name: index + 0.125 for index, name in enumerate(sorted(METRICS)) if name not in reasons}
    report = make_report(
        *(make_measurement(name, subject, role="unlearned", value=values[name] + shift, interval=None)
          if name in values
          else make_measurement(name, subject, role="unlearned", value=None, reason=reasons[name])
          for subject, shift in ((label, 0), ("other", 1000))
          for name in sorted(METRICS)),
    )  # fmt: skip
    found = parsed(markdown.render(report))
    assert [text for kind, text in found if kind == "th"] == ["", table.printable(label).strip(), "other"]
    cells = [text for kind, text in found if kind == "td"]
    got = [tuple(cells[start : start + 3]) for start in range(0, len(cells), 3)]
    shown = table.rows(report, table.columns(report))
    assert got == [(row.label, *(f"{cell.value} {cell.interval}".strip() for cell in row.cells)) for row in shown]
    assert ("average |gap|", f"{values['gap.average']:.3f}", f"{values['gap.average'] + 1000:.3f}") in got
    notes = [text for kind, text in found if kind == "li"]
    assert [text for text in notes if table.printable(reasons["rcd.raw"]).strip() in text]


@pytest.mark.parametrize("label", NASTY)
def test_the_gates_markdown_shows_labels_and_reasons_as_they_are(label: str) -> None:
    rule = Rule.model_validate({"id": f"id {label}", "metric": "rcd.raw", "min": 0, "severity": "warn"})
    made = [Decision(rule, subject, Verdict.FAILED, f"why {label}") for subject in (label, "other")]
    found = parsed("\n".join(gfm.pipe_table(decisions.DECIDED, decisions.decision_rows(made))))
    cells = [text for kind, text in found if kind == "td"]
    plain = table.printable
    want = [[plain(f"id {label}"), plain(subject), "failed (warning)", plain(f"rcd.raw: why {label}")]
            for subject in (label, "other")]  # fmt: skip
    assert cells == [cell.strip() for row in want for cell in row]


def test_no_emoji_and_no_formula_comes_of_a_text() -> None:
    assert gfm.escaped(":tada: 1:2:3 a: b $x$") == "\\:tada: 1\\:2:3 a: b \\$x\\$"


# ----- decisions


def decision(subject: str, verdict: Verdict, why: str = "why", severity: str = "fail") -> Decision:
    rule = Rule.model_validate({"id": "the rule", "metric": "rcd.raw", "min": 0, "severity": severity})
    return Decision(rule, subject, verdict, why)


@pytest.mark.parametrize("label", HOSTILE)
def test_decisions_are_shown_as_they_are(label: str) -> None:
    text = shown(decisions.render([decision(label, Verdict.FAILED, why=f"{label} w")]), width=300)
    assert table.printable(label) in text
    assert table.printable(f"rcd.raw: {label} w") in text
    assert "failed" in text
    assert "\x1b" not in text


def test_warnings_are_marked_and_everything_is_in_the_values() -> None:
    made = [decision("a", Verdict.PASSED), decision("b", Verdict.FAILED, severity="warn")]
    assert "failed (warning)" in shown(decisions.render(made))
    values = decisions.as_values(made, 0)
    assert values["exit_code"] == 0
    assert [(d["rule"], d["verdict"], d["severity"]) for d in values["decisions"]] == [
        ("the rule", "passed", "fail"), ("the rule", "failed", "warn")]  # fmt: skip


def test_decisions_fit_eighty_columns() -> None:
    made = [decision("a-rather-long-label-of-a-checkpoint", Verdict.INCONCLUSIVE, why="x" * 300) for _ in range(3)]
    assert max(map(len, shown(decisions.render(made)).splitlines())) <= 80


@pytest.mark.parametrize("form", [markdown.render, lambda report: shown(terminal.render(report)), html.render])
def test_a_value_that_is_only_bounded_from_below_shows_its_bound(
    form: Callable[[AuditReport], str], make_report: Make, make_measurement: Make
) -> None:
    name, why = "truncation.relative_error", "not converged: the decay has not settled"
    found = make_measurement(name, value=None, reason=why, at_least=0.02349)
    assert "≥ 0.0234" in form(make_report(found))
    assert "≥" not in form(make_report(make_measurement(name, value=0.5, at_least=0.02349)))


def test_seeds_together_are_bounded_by_the_lowest_bound_if_each_has_one(
    make_report: Make, make_measurement: Make
) -> None:
    def cell(*bounds: float | None) -> str:
        found = [
            make_measurement("truncation.relative_error", f"r{index}", role="retrained", value=None, reason="so",
                             at_least=bound)
            for index, bound in enumerate(bounds)
        ]  # fmt: skip
        others = [make_measurement("truncation.relative_error", f"u{index}") for index in range(4)]
        report = make_report(*found, *others)
        (row,) = table.rows(report, table.columns(report))
        return str(row.cells[0].value)

    assert cell(0.5, 0.25) == "≥ 0.2500"
    assert cell(0.5, None) == "–"


@pytest.mark.parametrize("form", [markdown.render, lambda report: shown(terminal.render(report)), html.render])
def test_a_sample_stands_beside_the_size_of_its_set_and_a_class_beside_its_name(
    form: Callable[[AuditReport], str], make_report: Make, make_measurement: Make
) -> None:
    one = {"index": 7, "label": 3, "score": 1.0, "share_of_twin_above": 0.0}
    found = make_report(
        make_measurement("mia.loss.auc", details={"worst": [one]}), settings={"from": {"mia.worst": "flag"}}
    )
    forget = SetSummary(
        spec="class:3", sha256="a" * 64, n=487, measured=100, measured_sha256="b" * 64, class_names=("Dress",)
    )
    named = found.data.model_copy(update={"forget": forget, "class_names": ("a", "b", "c", "Dress")})
    text = form(found.model_copy(update={"data": named}))
    assert re.search(r"487\b.{0,40}class:3 = Dress.{0,5}100 of them\s+measured", text, re.DOTALL)
    assert re.search(r"3 \\?\(Dress\\?\)", text)
    assert "of them" not in form(found)
