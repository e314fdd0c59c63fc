"""The page in a real browser: nothing overflows, overlaps or is pale, on a desk and on a phone, light and dark."""

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import browser, measure
from conftest import comparison

from unlearn_audit import metrics
from unlearn_audit.conclusion import conclude
from unlearn_audit.gate import Gated, Policy, ReportSource, apply_policy, review_waivers
from unlearn_audit.render import html
from unlearn_audit.render.arrays import Arrays, score_names, sheet_name
from unlearn_audit.report import AuditReport, Reference

Make = Callable[..., Any]
pytestmark = pytest.mark.skipif(browser() is None, reason="no chromium or chrome is installed")
MODELS = [("original", "original"), *((f"method-number-{i}-with-a-long-label", "unlearned") for i in range(8)),
          *((f"retrained-{i}", "retrained") for i in range(3)), ("random init", "control")]  # fmt: skip
NUMBERS = ("accuracy.test", "gap.forget", "gap.average", "loss.test", "rcd.raw", "rcd.ratio_to_unseen",
           "truncation.relative_error")  # fmt: skip
RULES = [
    {"id": "accuracy-as-before-and-more", "metric": "accuracy.test", "min": 0.99},
    {"id": "forgotten", "metric": "rcd.ratio_to_unseen", "min": 0.1},
    {"id": "not-told-apart", "metric": "mia.loss.auc", "max": 0.1, "severity": "warn"},
]


def of_model(make_measurement: Make, label: str, role: str, place: int, scores: dict[str, Any]) -> list[Any]:
    """Make up what is measured of one model."""
    made = []
    level = Reference(role="retrained", value=0.5, spread=0.01, n=3)
    for name in NUMBERS:
        seen = comparison(0.3, 0.1 - 0.1 * (place % 2), 0.5)
        value = (12345.678 if name == "rcd.raw" else 0.1234) + 0.01 * place
        details = {
            "loss": [3.0 / (1 + place), 2.0, 1.0 + 0.1 * place],
            "step_sizes": [{"step_size": size, "value": size * 100 + place, "moved": 0.1} for size in (1, 0.1, 0.01)],
        }
        beside = {"comparison": seen, "reference": level} if role != "control" else {}
        made.append(
            make_measurement(name, label, role=role, value=value, interval=(value - 0.1, value + 0.1), **beside,
                             details=details if name == "rcd.raw" else {})
        )  # fmt: skip
    curve = {"steps": [0, 5, 10], "values": [1.0, 0.1, 0.01 + 0.01 * place]}
    made.append(make_measurement("truncation.verdict", label, role=role, value="not converged",
                                 details={"excess": curve}))  # fmt: skip
    sides = [scores.setdefault(name, np.random.default_rng(place + at).normal(size=60))
             for at, name in enumerate(score_names("loss", label))]  # fmt: skip
    worst = [{"index": 1000 + n, "label": n, "score": -1.25, "share_of_twin_above": 0.25} for n in range(4)]
    return [*made, make_measurement("mia.loss.auc", label, role=role, value=metrics.auc(*sides),
                                    details={"worst": worst})]  # fmt: skip


@pytest.fixture
def page(make_report: Make, make_measurement: Make) -> str:
    """A page of eight methods with everything on it that pages have, gated."""
    scores: dict[str, Any] = {}
    made = [one for place, (label, role) in enumerate(MODELS)
            for one in of_model(make_measurement, label, role, place, scores)]  # fmt: skip
    made.append(make_measurement("generation.kept_rate", MODELS[1][0], role="unlearned", value=0.5))
    sheet = {sheet_name(MODELS[1][0], "kept"): np.full((40, 300, 3), 128, np.uint8)}
    flat = {"config": {"rcd": {f"setting_number_{n}": "a value of several words" for n in range(12)}}, "from": {}}
    told = {
        "conclusion": (
            *conclude(made),
            "A sentence that is no table's, with `unlearn-audit audit CONFIG --out DIR` in it. " * 3,
        ),
        "limitations": ("nothing-can-be-broken-in-this-very-long-word-" * 6, "another limitation"),
        "settings": flat,
        "environment": {"python": "3.13", "torch": "2.9"},
    }
    report: AuditReport = make_report(*made, **told)
    policy = Policy.model_validate({"schema_version": 1, "rule": RULES})
    decisions = apply_policy(policy, report)
    source = ReportSource("policy.toml", "a" * 64)
    day = date(2026, 1, 1)
    waivers = review_waivers(policy, decisions, day)
    gated = Gated(decisions, waivers, source, source, None, day, subjects=report.subjects)
    return html.render(report, Arrays(scores, (), sheet), gated=gated)


BROKEN = """<!doctype html><style>body{margin:0}</style>
<div style="width:2000px">wider than any window</div>
<p style="position:absolute;top:90px">one text over</p><p style="position:absolute;top:92px">another text</p>
<p style="position:absolute;top:300px;color:#999;background:#fff">pale</p>
<div class=scroll style="position:absolute;top:400px;width:300px;overflow:auto"><table style="width:900px"><tbody>
<tr><th>name</th><td class=reference>level</td><td>value</td></tr></tbody></table></div>"""


def test_the_page_fits_windows_and_phones_light_and_dark(page: str, tmp_path: Path) -> None:
    """All at once, since it is the start of a browser that takes time; a page that is wrong shows that it is told."""
    found = measure({"page": page, "broken": BROKEN}, tmp_path)
    assert len(found) == 8
    told = [
        " ".join(state["wrong"]) for key, states in found.items() if key[:6] == "broken" for state in states.values()
    ]
    for text in told:
        assert "the page is 2000 wide" in text
        assert "beyond the window: DIV" in text
        assert 'overlap: "one text over" and "another text"' in text
        assert 'contrast 2.85: "pale"' in text
        assert "out of sight: name" in text
    for key, states in found.items():
        if key[:4] == "page":
            assert states["open"]["lines"] > states["closed"]["lines"] + 12 > 200
            assert [state["wrong"] for state in states.values()] == [[], []], key
