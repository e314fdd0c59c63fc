"""Plans on the command line: what work takes here, and what it would take on GPUs."""

from pathlib import Path

import pytest
from conftest import Run

from unlearn_audit.cli.plans import _span, duration
from unlearn_audit.engine.estimates import Span


@pytest.mark.parametrize(
    ("seconds", "told"), [(3, "3 s"), (119, "119 s"), (121, "2 min"), (7300, "2 h"), (200_000, "2 days")]
)
def test_a_duration_has_the_unit_that_a_person_would_take(seconds: float, told: str) -> None:
    assert duration(seconds) == told


@pytest.mark.parametrize(("span", "told"), [((3, 3.2), "3 s"), ((130, 300), "2–5 min"), ((100, 130), "100 s – 2 min")])
def test_a_span_names_a_unit_once(span: tuple[float, float], told: str) -> None:
    assert _span(Span(*span)) == told


@pytest.mark.usefixtures("here")
def test_relearning_is_planned_without_being_done(target: Path, run: Run) -> None:
    models = [target / f"{name}.safetensors" for name in ("original", "unlearned")]
    ran = run("rcd", *models, "--forget", target / "forget.npy", "--steps", 10, "--step-size", 0.01, "--plan")
    assert ran.code == 0
    lines = ran.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[1].split()[:4] == ["rcd", "to", "do", f"{3 * 2 * 12 * 10:,}"]  # two models, a control; two sets of 12
    assert lines[2].split() == ["estimated", "share", "of", "TFLOP/s", "1", "GPU", "8", "GPUs", "64", "GPUs"]
    assert [line.split(",")[0] for line in lines[3:5]] == ["H200", "A100"]
    assert lines[5].startswith("H200, not measured here; rates: ")


def test_a_plan_of_relearning_looks_at_no_kept_parts_and_writes_nothing(target: Path, run: Run, here: Path) -> None:
    (here / "parts").mkdir()
    (here / "parts" / "rcd-0123.json").write_text("{}")
    asked = ("rcd", target / "original.safetensors", "--forget", target / "forget.npy", "--steps", 1, "--plan")
    ran = run(*asked, "--step-size", 0.01)
    assert (ran.code, "to do" in ran.stdout, "there" in ran.stdout.splitlines()[1]) == (0, True, False)
    for more in (("--out", "o"), ("--format", "json"), ("--nproc", 2)):
        refused = run(*asked, *more)
        assert (refused.code, "--plan is a table for people" in refused.stderr) == (2, True), more
    assert not (here / "o").exists()


@pytest.mark.usefixtures("here")
def test_what_is_not_known_beforehand_is_said(target: Path, run: Run) -> None:
    asked = ("rcd", target / "original.safetensors", "--forget", target / "forget.npy", "--plan")
    ran = run(*asked, "--steps", "auto")
    assert (ran.code, ran.stderr) == (
        0, "with --steps auto, or on generators, the time on GPUs is not known beforehand\n"
    )  # fmt: skip
    assert run(*asked, "--steps", "auto", "--quiet").stderr == ""


@pytest.mark.usefixtures("here")
def test_a_fleet_is_planned_on_gpus_as_long_as_there_is_work(
    target: Path, finished: Path, run: Run, here: Path
) -> None:
    words = [target / "original.safetensors", "--forget", target / "forget.npy", "--device", "cpu"]
    ran = run("shadows", "plan", here / "s", *words, "--count", 4, "--precision", "bf16")
    assert ran.code == 0
    assert [line.split(",")[0] for line in ran.stdout.splitlines() if "%–" in line] == ["H200", "A100"]
    assert "19%–25% of 788" in ran.stdout
    assert "estimated" not in run("shadows", "plan", finished).stdout
