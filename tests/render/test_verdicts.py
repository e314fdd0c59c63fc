"""The verdict of many models as a table, whose sentences are folded; what it does not say stays in sight."""

from collections.abc import Callable
from typing import Any

import pytest
from conftest import comparison
from pages_seen import Seen

from unlearn_audit.conclusion import conclude
from unlearn_audit.render import html
from unlearn_audit.render.verdicts import verdicts_of
from unlearn_audit.report import Measurement, Reference

Make = Callable[..., Any]
LEVEL = Reference(role="retrained", value=0.5, spread=0.01, n=3)
SEEN, EQUAL, BLIND = comparison(0.3, 0.29, 0.31), comparison(0.0, -0.01, 0.01), comparison(0.0, -0.4, 0.4)


@pytest.fixture
def made(make_measurement: Make) -> list[Measurement]:
    """Models that differ, that do not, and of which it cannot be told."""
    said = {
        ("original", "original"): (SEEN, SEEN, EQUAL),
        ("ga", "unlearned"): (SEEN, EQUAL, BLIND),
        ("ft", "unlearned"): (EQUAL, BLIND, BLIND),
        ("r1", "retrained"): (EQUAL, SEEN, EQUAL),
        ("r2", "retrained"): (EQUAL, EQUAL, EQUAL),
    }
    names = ("gap.forget", "gap.test", "mia.loss.auc")
    return [
        make_measurement(name, label, role=role, comparison=found, reference=LEVEL)
        for (label, role), all_found in said.items()
        for name, found in zip(names, all_found, strict=True)
    ]


def test_every_model_of_the_conclusion_has_a_line(made: list[Measurement], make_report: Make) -> None:
    report = make_report(*made, conclusion=conclude(made))
    table, sentences, others = verdicts_of(report)
    assert table is not None
    assert table.rows == (
        ("original", "forget accuracy, test accuracy", "the loss attack", "nothing"),
        ("ga (unlearned)", "forget accuracy", "test accuracy", "the loss attack (nor the original)"),
        ("ft (unlearned)", "nothing", "forget accuracy", "test accuracy (blind), the loss attack (nor the original)"),
        ("r1 (retrained)", "test accuracy", "", ""),
    )
    assert {*sentences, *others} == set(report.conclusion)
    assert [text.partition(":")[0] for text in sentences] == [row[0] for row in table.rows]
    assert [text[:14] for text in others] == ["With the loss ", "6 comparisons,"]


def test_sentences_of_another_version_stay_as_they_are(made: list[Measurement], make_report: Make) -> None:
    report = make_report(*made, conclusion=("ga: differs, said in other words.",))
    assert verdicts_of(report) == (None, (), report.conclusion)


def test_on_the_page_the_sentences_are_folded_and_the_rest_is_not(made: list[Measurement], make_report: Make) -> None:
    seen = Seen(html.render(make_report(*made, conclusion=(*conclude(made), "Run `unlearn-audit gate`."))))
    assert "Each model beside the retrained ones" in seen.of("caption")
    assert seen.of("code") == ["unlearn-audit gate"]
    words = [text for _, text in seen.texts]
    fold = words.index("The comparisons in sentences, with their numbers")
    (told,) = [at for at, text in enumerate(words) if text.startswith("ga (unlearned): differs from")]
    assert words.index("ga (unlearned)") < words.index("unlearn-audit gate") < fold < told
