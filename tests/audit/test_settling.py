"""Growing a fleet until its verdict is settled: when to look, what a look says, what is refused, and what is reused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unlearn_audit import shadows
from unlearn_audit.audit.mia.numbers import Scores
from unlearn_audit.audit.settling import ALPHA, Look, look_at, look_sizes, share_of
from unlearn_audit.errors import MeasurementError
from unlearn_audit.shadows import FleetContext, FleetRun, open_fleet_context, work

Run = Callable[..., Any]


def scores(seed: int, shift: float, count: int = 300) -> Scores:
    rng = np.random.default_rng(seed)
    return Scores(rng.normal(shift, 1, count), rng.normal(0, 1, count))


def test_looks_are_taken_at_twice_as_many_models_each_time() -> None:
    assert look_sizes(3) == ()
    assert look_sizes(7) == (4,)
    assert look_sizes(40) == (4, 8, 16, 32)
    assert look_sizes(40) == look_sizes(100)[:4]  # a higher maximum adds looks and changes none


def test_the_looks_share_alpha() -> None:
    spent = [share_of(look) for look in range(1, 2000)]
    assert spent[:3] == pytest.approx([0.015, 0.005, 0.0025])
    assert sum(spent) < ALPHA
    assert sum(spent) == pytest.approx(ALPHA, abs=1e-4)


def test_a_difference_is_seen_in_both_directions_and_a_small_one_lies_within_the_margin() -> None:
    others = [scores(seed, 0.0, 3000) for seed in (1, 2, 3)]
    for shift in (1.0, -1.0):
        found = look_at(1, 4, scores(9, shift, 3000), others)
        assert found.verdict(0.15) == "differs"
        assert found.difference.value * shift > 0
    same = look_at(1, 4, scores(4, 0.0, 3000), others)
    assert same.verdict(0.15) == "within the margin"
    assert same.verdict(0.02) == "open"
    assert "4 shadow models: AUC 0." in same.told
    assert "at 98.50%" in same.told
    assert same.as_json["level"] == 0.985


def test_a_later_look_has_the_wider_interval() -> None:
    others = [scores(seed, 0.0) for seed in (1, 2, 3)]
    widths = [found.high - found.low for found in (look_at(k, 4, scores(4, 0.0), others).difference for k in (1, 2, 7))]
    assert widths == sorted(widths)
    assert widths[2] > 1.3 * widths[0]


def test_the_margin_has_the_narrower_interval() -> None:
    found = look_at(1, 4, scores(4, 0.0, 3000), [scores(seed, 0.0, 3000) for seed in (1, 2, 3)])
    assert found.difference.low < found.narrow.low < found.narrow.high < found.difference.high
    ends = max(-found.narrow.low, found.narrow.high)
    assert found.verdict(ends + 1e-6) == "within the margin"
    assert found.verdict(ends - 1e-6) == "open"


@pytest.mark.parametrize(("ours", "others"), [
    (Scores(np.ones(5), np.ones(5)), 2),
    (Scores(np.array([np.nan, 1.0]), np.ones(2)), 2),
    (Scores(np.ones(1), np.zeros(1)), 2),
    (Scores(np.array([1.0, 2.0]), np.zeros(2)), 1),
])  # fmt: skip
def test_scores_that_mean_nothing_settle_nothing(ours: Scores, others: int) -> None:
    count = len(ours.members)
    with pytest.raises(MeasurementError, match="ulira with 4 shadow models"):
        look_at(1, 4, ours, [scores(seed, 0.0, count) for seed in range(others)])


# --- the verb


@pytest.fixture
def asked(tiny: Path, tiny_fleet: Path, here: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, ...]:
    """Arguments about a copy of the tiny fleet of four; what is missing is made in this process."""
    shutil.copytree(tiny_fleet, here / "s")

    def in_process(context: FleetContext, **_: Any) -> FleetRun:
        before = sum(context.folder.finished(job) for job in context.jobs)
        return FleetRun(work(context), before, (), 0, 0.0)

    monkeypatch.setattr(shadows, "run_workers", in_process)
    names = ("unlearned", "retrained-1", "retrained-2", "retrained-3")
    for name in names[:3]:
        shutil.copy(tiny / f"{name}.safetensors", here)
    run("train", "--data", "digits?mislabel=0.1&seed=0", "--without", tiny / "forget.npy", "--epochs", 3, "--seed", 3,
        "--out", here / "retrained-3.safetensors", "--quiet")  # fmt: skip
    return ("shadows", "run", "s", *(here / f"{name}.safetensors" for name in names),
            "--forget", tiny / "forget.npy", "--until-settled")  # fmt: skip


def looked(ran: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


def test_a_verdict_that_is_settled_by_what_is_there_makes_no_model(
    asked: tuple[Any, ...], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Look, "verdict", lambda self, margin: "differs")
    retrained = [path for path in asked if isinstance(path, Path) and path.stem.startswith("retrained")]
    flagged = [word for path in retrained for word in ("--retrained", path)]  # as the guide's example has it
    ran = run(*(word for word in asked if word not in retrained), *flagged, "--format", "json")
    assert ran.code == 0, ran.stderr
    found = looked(ran)
    assert (found["verdict"], found["subject"], found["retrained"]) == (
        "differs", "unlearned", ["retrained-1", "retrained-2", "retrained-3"],
    )  # fmt: skip
    assert [look["shadow_models"] for look in found["looks"]] == [4]
    assert found["conclusion"].startswith("settled: unlearned differs from the retrained models under ulira (4 shadow")
    assert open_fleet_context(Path("s")).plan.count == 4


def test_an_open_verdict_grows_the_fleet_and_a_second_run_says_the_same_and_makes_nothing(
    asked: tuple[Any, ...], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Look, "verdict", lambda self, margin: "open")
    ran = run(*asked, "--count", 8)
    assert ran.code == 4, ran.stderr
    first, second, last = ran.stdout.splitlines()
    assert first.startswith("4 shadow models: AUC")
    assert second.startswith("8 shadow models: AUC")
    assert last.startswith("not settled: whether unlearned differs from the retrained models under ulira by 0.15 or")
    assert "the 144 pairs of examples and the 3 retrained models" in last
    assert "4 shadow models: AUC" in ran.stderr  # told as soon as it is known
    assert open_fleet_context(Path("s")).plan.count == 8
    again = run(*asked, "--count", 8)
    assert again.stdout == ran.stdout
    assert "16 of 16 models are there: 16 from before, 0 made now" in again.stderr


@pytest.mark.parametrize(("left_out", "says"), [
    (("unlearned",), ["one unlearned model, and 0 are given", "--unlearned FILE"]),
    (("retrained-2",), ["3 retrained models or more, and 2 are given", "unlearn-audit train"]),
    (("unlearned", "retrained-1", "retrained-2", "retrained-3"), ["--unlearned FILE --retrained FILE"]),
])  # fmt: skip
def test_what_is_missing_is_asked_for(
    left_out: tuple[str, ...], says: list[str], asked: tuple[Any, ...], refused: Run
) -> None:
    given = [word for word in asked if not (isinstance(word, Path) and word.stem in left_out)]
    if len(left_out) == 4:
        given = [word for word in given if word != "--forget" and not isinstance(word, Path)]
    refused(*given, code=2, says=says)


def test_too_few_models_for_a_look_are_refused(asked: tuple[Any, ...], refused: Run) -> None:
    refused(*asked, "--count", 2, code=2, says=["looks with 4 shadow models first", "--count 2"])
