"""Which models share a line, which reports a table, which numbers a cell; and what is said where they may not."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from unlearn_audit.errors import UsageError
from unlearn_audit.report import AuditReport, Data, Made, SetSummary
from unlearn_audit.results import Named, ResultTable, chosen_metrics, tables_of

Make = Callable[..., Any]
RETRAINED, METHOD = ("retrained-1", "retrained-2"), "ieu"


def data(source: str = "digits", forget: str = "random:0.1:0", n: int = 10, digest: str = "a") -> Data:
    sets = {name: SetSummary(spec=name, sha256="a" * 64, n=10) for name in ("retain", "test", "unseen")}
    return Data(source=source, sha256="c" * 64, forget=SetSummary(spec=forget, sha256=digest * 64, n=n), **sets)


@pytest.fixture
def study(make_report: Make, make_measurement: Make) -> Callable[..., AuditReport]:
    """Make up a report: study({"retrained-1": ("retrained", made or None, {metric: value or (value, fields)})})."""

    def make(models: Mapping[str, tuple[str, Made | None, Mapping[str, Any]]], **values: Any) -> AuditReport:
        measured = []
        for label, (role, _, numbers) in models.items():
            for name, number in numbers.items():
                value, fields = number if isinstance(number, tuple) else (number, {})
                measured.append(make_measurement(name, label, value=value, role=role, **fields))
        found: AuditReport = make_report(*measured, **{"data": data(), **values})
        made = {label: one[1] for label, one in models.items()}
        subjects = tuple(one.model_copy(update={"made": made[one.label]}) for one in found.subjects)
        return found.model_copy(update={"subjects": subjects})

    return make


def trained(gradients: int = 1000) -> Made:
    return Made(seed=1, gradients=gradients, seconds=10.0)


def unlearned(seed: int = 0, **settings: Any) -> Made:
    return Made(method=METHOD, settings=settings, seed=seed, gradients=100, seconds=2.0)


def usual(accuracy: float = 0.5, **more: Any) -> dict[str, Any]:
    """Two retrained models, an original and two seeds of a method."""
    return {
        "original": ("original", trained(), {"accuracy.forget": 1.0}),
        "u-0": ("unlearned", unlearned(0, c=0.2), {"accuracy.forget": accuracy} | more),
        "retrained-1": ("retrained", trained(900), {"accuracy.forget": 0.4}),
        "u-1": ("unlearned", unlearned(1, c=0.2), {"accuracy.forget": accuracy + 0.2} | more),
        "retrained-2": ("retrained", trained(1100), {"accuracy.forget": 0.6}),
    }


def only(*reports: AuditReport, **asked: Any) -> ResultTable:
    named = [Named(f"report-{number}.json", report) for number, report in enumerate(reports)]
    (table,), apart = tables_of(named, **asked)
    assert apart == ()
    return table


def cell(table: ResultTable, title: str, metric: str) -> Any:
    (line,) = (one for one in table.lines if one.title == title)
    return line.cells[[column.info.name for column in table.columns].index(metric)]


def test_retrained_models_come_first_then_the_original_then_methods_over_seeds(study: Make) -> None:
    table = only(study(usual()))
    assert [(line.title, len(line.models)) for line in table.lines] == [("retrained", 2), ("original", 1), ("ieu", 2)]
    found = cell(table, "ieu", "accuracy.forget")
    assert (found.mean, found.spread) == (pytest.approx(0.6), pytest.approx(0.02**0.5))
    assert cell(table, "original", "accuracy.forget").spread is None


def test_costs_are_shares_of_what_this_reports_retrained_models_took(study: Make) -> None:
    table = only(study(usual()))
    assert cell(table, "ieu", "cost.gradients").mean == pytest.approx(0.1)
    assert cell(table, "retrained", "cost.gradients").mean == pytest.approx(1.0)
    assert cell(table, "ieu", "cost.seconds").mean == pytest.approx(2.0)


def test_without_retrained_models_there_is_no_share_and_it_says_so(study: Make) -> None:
    models = {label: one for label, one in usual().items() if label not in RETRAINED}
    table = only(study(models))
    assert "cost.gradients" not in [column.info.name for column in table.columns]
    assert any(note.startswith("cost.gradients is not shown, nobody has a number") for note in table.notes)


def test_a_method_with_other_settings_has_a_line_of_its_own_that_says_which(study: Make) -> None:
    models = usual() | {"wild": ("unlearned", unlearned(0, c=2.0), {"accuracy.forget": 0.1}),
                        "plus": ("unlearned", Made(method=METHOD, transforms=("mask:saliency",)),
                                 {"accuracy.forget": 0.2}),
                        "foreign": ("unlearned", None, {"accuracy.forget": 0.3})}  # fmt: skip
    titles = [line.title for line in only(study(models)).lines]
    assert titles == ["retrained", "original", "ieu c=0.2", "ieu c=2.0", "ieu + mask:saliency", "foreign"]


def test_a_method_that_went_on_from_another_one_says_after_which(study: Make) -> None:
    models = usual() | {
        f"tuned-{label}": ("unlearned", Made(method="ft", parent=parent), {"accuracy.forget": 0.3})
        for label, parent in (("u-0", "d" * 64), ("original", "e" * 64))
    }
    report = study(models)
    digests = {"u-0": "d" * 64, "original": "e" * 64}
    subjects = tuple(one.model_copy(update={"sha256": digests.get(one.label, one.sha256)}) for one in report.subjects)
    titles = [line.title for line in only(report.model_copy(update={"subjects": subjects})).lines]
    assert titles == ["retrained", "original", "ieu", "ft after ieu", "ft"]


def test_by_label_and_by_role(study: Make) -> None:
    reports = study(usual()), study(usual(), data=data(digest="b"))
    by_label = only(*reports, by="label")
    assert [(line.title, len(line.models)) for line in by_label.lines][:2] == [("retrained", 4), ("original", 2)]
    assert ("u-0", 2) in [(line.title, len(line.models)) for line in by_label.lines]
    assert [line.title for line in only(*reports, by="role").lines] == ["retrained", "original", "unlearned"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (data(forget="random:0.1:0"), data(forget="random:0.1:7", digest="b")),
        (
            data("digits?mislabel=0.1&seed=0", "mislabelled"),
            data("digits?mislabel=0.1&seed=3", "mislabelled", digest="b"),
        ),
        (data(forget="/a/forget.npy"), data(forget="b/gone.txt", digest="b")),
    ],
)
def test_draws_of_one_setting_are_averaged(study: Make, one: Data, other: Data) -> None:
    table = only(study(usual(0.5), data=one), study(usual(0.3), data=other))
    assert cell(table, "ieu", "accuracy.forget").mean == pytest.approx(0.5)
    assert len(cell(table, "retrained", "accuracy.forget").numbers) == 4
    assert table.notes[0].startswith("2 reports, 2 forget sets: mean ± standard deviation (n - 1) over seeds and draws")


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (data(forget="class:3"), "forget sets"),
        (data(forget="random:0.1:0", n=12), "numbers of forget examples"),
        (data("cifar10"), "data"),
        (data("digits?mislabel=0.2"), "data"),
        (data().model_copy(update={"sha256": "f" * 64}), "data"),
        (
            data().model_copy(update={"retain": SetSummary(spec="retain", sha256="a" * 64, n=10, measured=5)}),
            "numbers of measured examples",
        ),
    ],
)
def test_other_questions_get_tables_of_their_own_and_a_reason(study: Make, other: Data, what: str) -> None:
    reports = [Named("a.json", study(usual(), data=data())), Named("b.json", study(usual(), data=other))]
    tables, apart = tables_of(reports)
    assert [[one.name for one in table.reports] for table in tables] == [["a.json"], ["b.json"]]
    assert apart == (f"not compared, since their {what} differ: a.json and b.json",)


def test_a_metric_that_compares_within_one_run_alone_is_left_out_of_several(study: Make) -> None:
    raw = {"rcd.raw": 3.0, "rcd.ratio_to_unseen": 1.0}
    alone = only(study(usual(**raw)), metrics=["rcd.*"])
    assert [column.info.name for column in alone.columns] == ["rcd.raw", "rcd.ratio_to_unseen"]
    both = only(study(usual(**raw)), study(usual(**raw), data=data(digest="b")), metrics=["rcd.*"])
    assert [column.info.name for column in both.columns] == ["rcd.ratio_to_unseen"]
    assert any(note.startswith("rcd.raw is not shown: compares only within one run") for note in both.notes)


def test_what_was_measured_otherwise_is_left_out_and_named(study: Make) -> None:
    def asked(steps: int, worst: int) -> AuditReport:
        settings = {"config": {"rcd": {"steps": steps}, "mia": {"worst": worst}}}
        return study(usual(**{"rcd.ratio_to_unseen": 1.0, "mia.loss.auc": 0.5}), settings=settings)

    table = only(asked(30, 5), asked(60, 0))
    assert "rcd.ratio_to_unseen" not in [column.info.name for column in table.columns]
    assert "rcd.ratio_to_unseen is not shown: report-0.json and report-1.json measured it with another rcd.steps" in (
        table.notes
    )
    assert cell(table, "ieu", "mia.loss.auc").mean == 0.5, "how many examples are shown changes no number"


def test_a_model_that_stands_in_two_reports_counts_once(study: Make) -> None:
    more = usual() | {"slow": ("unlearned", Made(method="scrub"), {"accuracy.forget": 0.1})}
    table = only(study(usual()), study(more))
    assert [(line.title, len(line.models)) for line in table.lines] == [
        ("retrained", 2), ("original", 1), ("ieu", 2), ("scrub", 1)]  # fmt: skip
    assert "5 models stand in more than one report, or twice in one, and count once" in table.notes


def test_a_label_without_a_record_is_not_taken_for_the_method_of_that_name(study: Make) -> None:
    models = usual() | {"ieu": ("unlearned", None, {"accuracy.forget": 0.0})}
    assert [line.title for line in only(study(models)).lines][2:] == ["ieu", "ieu (no record)"]


def test_models_that_name_each_other_as_parents_are_no_endless_tale(study: Make) -> None:
    digests = {"a": "d" * 64, "b": "e" * 64}
    models = {label: ("unlearned", Made(method=label, parent=digests[other]), {"accuracy.forget": 0.1})
              for label, other in (("a", "b"), ("b", "a"))}  # fmt: skip
    report = study(models)
    subjects = tuple(one.model_copy(update={"sha256": digests[one.label]}) for one in report.subjects)
    titles = [line.title for line in only(report.model_copy(update={"subjects": subjects})).lines]
    assert titles == ["a after b after a", "b after a after b"]


def test_other_recipes_are_told(study: Make) -> None:
    def report(epochs: int, digest: str) -> AuditReport:
        made = Made(recipe={"name": "small", "epochs": epochs})
        models = {f"r-{epochs}": ("retrained", made, {"accuracy.forget": 0.1})}
        return study(models, data=data(digest=digest))

    notes = only(report(20, "a"), report(50, "b")).notes
    assert "retrained: trained, or their originals were, by 2 different recipes" in notes


def test_p_values_are_not_averaged_and_verdicts_are_counted(study: Make) -> None:
    models = usual()
    for label, p, verdict in (("u-0", 0.001, "exponential"), ("u-1", 0.3, "undecided")):
        models[label][2].update({"twosample.p": p, "truncation.verdict": verdict})
    table = only(study(models), metrics=["twosample.p", "truncation.verdict"])
    assert any("their mean says nothing" in note for note in table.notes)
    assert cell(table, "ieu", "truncation.verdict").words == "exponential (1), undecided (1)"


def test_who_has_no_number_and_who_is_in_doubt_is_told(study: Make) -> None:
    models = usual()
    models["u-0"][2]["rcd.ratio_to_unseen"] = (None, {"reason": "the curve diverged"})
    models["u-1"][2]["rcd.ratio_to_unseen"] = (0.9, {"doubts": ("it hardly moved",)})
    table = only(study(models))
    found = cell(table, "ieu", "rcd.ratio_to_unseen")
    assert (found.mean, found.spread) == (0.9, None)
    assert "ieu, rcd.ratio_to_unseen: 1 of 2 have no number: the curve diverged" in table.notes
    assert "* in doubt: u-1 (report-0.json): it hardly moved" in table.notes


def test_controls_are_no_line(study: Make) -> None:
    models = usual() | {"random init": ("control", None, {"accuracy.forget": 0.1})}
    measured = study({label: one for label, one in models.items() if one[0] != "control"})
    assert "random init" not in [line.title for line in only(measured).lines]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ("acuracy.forget", "near it: accuracy.forget"),
        ("rcd.raw", "none of these reports has rcd.raw; measure it with [rcd] in the config"),
        ("mia.*", "no measured metric is called 'mia.*'"),
    ],
)
def test_metrics_that_are_not_there(study: Make, asked: str, says: str) -> None:
    with pytest.raises(UsageError) as refused:
        chosen_metrics([study(usual())], [asked])
    assert says in str(refused.value)


def test_the_metrics_that_were_named_stand_in_their_order(study: Make) -> None:
    table = only(study(usual(**{"mia.loss.auc": 0.5})), metrics=["cost.seconds", "mia.*.auc", "accuracy.forget"])
    assert [column.info.name for column in table.columns] == ["cost.seconds", "mia.loss.auc", "accuracy.forget"]
