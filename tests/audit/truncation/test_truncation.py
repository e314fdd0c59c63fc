"""Truncation: the verdict on curves whose truth is known, closed forms, and the verb."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from known_decays import FAMILIES, problems
from scipy.stats import beta

from unlearn_audit.relearning import Truncation, steps_for, truncation, unsettled
from unlearn_audit.render.semilog import CAPTION

Run = Callable[..., Any]
MAY_BE_WRONG = {
    "softmax regression, not separable": 1,
    "power law over a floor too high": 1,
    "quadratic, .1 kappa only": 1,
}
WIDE, HIDDEN = "quadratic, 1 kappa only", "slow mode not yet seen"


class Count(NamedTuple):
    """How often a family was judged right, not decided, or wrong; and how often the tail's bracket held the truth."""

    right: int
    undecided: int
    wrong: int
    tails: int
    held: int


@pytest.fixture(scope="module")
def counts() -> dict[str, Count]:
    """Judge every known curve once."""
    return {name: count(name) for name in FAMILIES}


def count(name: str) -> Count:
    right = undecided = wrong = tails = held = 0
    for known in problems(name):
        found = truncation(known.loss, known.floor, precision=known.precision, regularised=known.regularised)
        right += found.verdict == known.truth
        undecided += found.verdict != known.truth and found.verdict == "not converged"
        wrong += found.verdict not in (known.truth, "not converged")
        if known.beyond and found.tail_low is not None and found.tail_high is not None:
            tails += 1
            held += found.tail_low * (1 - 1e-9) <= known.beyond(found.used) <= found.tail_high * (1 + 1e-9)
    return Count(right, undecided, wrong, tails, held)


def test_verdicts_on_curves_whose_truth_is_known(counts: dict[str, Count]) -> None:
    """The thresholds were set on other curves: 9 heads, and quadratics, power laws and regressions of other seeds.

    Measured (right, not decided, wrong; the simpler rule before, wrong):

        quadratic, log-uniform spectrum, 10 kappa   40   0   0     0
        quadratic, beta spectrum, 10 kappa          38   2   0     0
        quadratic in float32, 10 kappa              16   4   0     0
        quadratic, heavy ball                       11   4   0     0
        large fast and small slow mode              30   0   0     0
        softmax regression, l2, 10 kappa            12   0   0     0
        the same, separable                         12   0   0     0
        the same, .1 to 1 kappa only                 4  11   0     2
        softmax regression, not separable           10   1   1     1
        softmax regression, separable               11   1   0     0
        power law, exponent .5 to 1.2               25   0   0     0
        power law, exponent 1.2 to 4                 1  19   0     0
        power law with float32 noise                15   0   0     0
        power law over a floor too high              7  22   1    13
        stretched exponential, .2 to .9              6  24   0     9
        constant, or stalled above the floor        25   0   0    10
        quadratic, 1 kappa only                     11   9   0     0
        quadratic, .1 kappa only                     6  13   1     1
        slow mode not yet seen                       9  11   0     2
        all (413)                                  289 121   3    38

    Wrong 3 of 413: .7 % (Clopper-Pearson 95 % interval .2 to 2.1 %). Two are curves far shorter than their condition
    number that fall like a power of t as far as they go, which no rule that sees only them can tell; one has a floor
    that is wrong by most of the last excess. Without the three families that hold them 0 of 351, at most 1.0 %.
    """
    wrong = {name: found.wrong for name, found in counts.items() if found.wrong}
    assert all(number <= MAY_BE_WRONG.get(name, 0) for name, number in wrong.items()), wrong
    n = sum(number for number, _ in FAMILIES.values())
    assert n == sum(found.right + found.undecided + found.wrong for found in counts.values()) >= 400
    k = sum(wrong.values())
    assert beta.ppf(0.975, k + 1, n - k) < 0.0215
    for name in list(FAMILIES)[:7]:  # exponentials followed for ten condition numbers
        assert counts[name].right >= 0.7 * FAMILIES[name][0], name
    assert sum(counts[name].right for name in list(FAMILIES)[:7]) >= 0.93 * sum(
        FAMILIES[n][0] for n in list(FAMILIES)[:7]
    )


def test_the_brackets_of_the_tail_hold_what_lies_beyond(counts: dict[str, Count]) -> None:
    """The bracket held the true remainder in 124 of 125 (at least 95.6 %), and never where a slow mode had not shown.

    A mode too small to be seen yet is beyond any rule that sees only the curve; strong convexity proves a bound there.
    The plain bracket of slopes, without their slowing down, held it in 28 of 125.
    """
    seen = [found for name, found in counts.items() if name != HIDDEN]
    held, tails = sum(found.held for found in seen), sum(found.tails for found in seen)
    assert tails >= 120
    assert beta.ppf(0.025, held, tails - held + 1) > 0.955
    assert counts[HIDDEN].held == 0


# ----- closed forms


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.2])
@pytest.mark.parametrize("floor", [0.0, 0.7])
def test_everything_about_a_geometric_curve(rate: float, floor: float) -> None:
    steps = int(8 / rate)
    found = truncation(floor + 3 * np.exp(-rate * np.arange(steps + 1)), floor)
    assert found.verdict == "exponential"
    assert found.reason is None
    assert [found.rate, found.rate_low, found.rate_high] == pytest.approx([rate] * 3, rel=1e-6)
    assert found.half_life == pytest.approx(np.log(2) / rate, rel=1e-6)
    assert found.kappa_effective == pytest.approx(1 / rate, rel=1e-6)
    assert found.total == pytest.approx(3 / (1 - np.exp(-rate)), rel=1e-6)
    shares = found.error / found.total
    np.testing.assert_allclose(shares, np.exp(-rate * (np.arange(steps + 1) + 1)), rtol=1e-5)
    for share in (0.1, 0.01, 0.001, 1e-6, 1e-9):  # the last two lie beyond the trajectory
        assert steps_for(found, share) == int(np.ceil(-np.log(share) / rate)) - 1


def test_what_lies_below_rounding_is_not_summed() -> None:
    excess = np.exp(-0.1 * np.arange(1001))
    found = truncation(np.float64(np.float32(1 + excess)), 1.0, precision="float32")
    assert found.verdict == "exponential"
    assert 60 < found.used < 120
    assert found.total == pytest.approx(1 / (1 - np.exp(-0.1)), rel=1e-4)
    assert len(found.error) == 1001
    assert found.error[1000] < 1e-20


def test_a_curve_that_fades_in_a_few_steps_is_exponential() -> None:
    found = truncation(0.01 ** np.arange(40.0), 0.0)
    assert (found.verdict, found.used) == ("exponential", 4)
    assert found.rate == pytest.approx(np.log(100))
    at_once = truncation(np.array([1.0, *[0.0] * 40]), 0.0)
    assert (at_once.verdict, at_once.rate, at_once.tail) == ("exponential", None, None)
    assert (steps_for(at_once, 0.01), at_once.total) == (0, 1.0)


@pytest.mark.parametrize(
    ("loss", "floor", "verdict", "why"),
    [
        ([1.0] * 20, 1.0, None, "starts at its floor"),
        ([1.0] * 20, 2.0, "not converged", "below the floor"),
        ([1.0, 0.9, 0.8], 0.0, "not converged", "fewer than 30 steps"),
        ([0.5] * 100, 0.0, "not converged", "does not fall"),
        (list(0.3 + np.exp(-np.arange(100.0))), 0.0, "not converged", "does not fall|levels off"),
        ([1.0, np.nan], 0.0, "diverged", "not finite"),
        ([], 0.0, "diverged", "not finite"),
    ],
)
def test_curves_without_a_tail_say_why(loss: list[float], floor: float, verdict: str | None, why: str) -> None:
    found = truncation(np.array(loss), floor)
    assert found.verdict == verdict
    assert any(part in (found.reason or "") for part in why.split("|"))
    assert (found.tail, found.half_life, steps_for(found, 0.01)) == (None, None, None)
    assert len(found.error) == len(loss)


def test_a_floor_that_was_not_found_leaves_nothing_to_judge() -> None:
    found = unsettled(np.exp(-0.1 * np.arange(100)), 0.0, "the floor did not converge")
    assert (found.verdict, found.tail) == ("not converged", None)


def test_a_power_law_under_weight_decay_has_not_converged() -> None:
    loss = 1 / (1 + np.arange(500) / 5)
    assert truncation(loss, 0.0).verdict == "slower than exponential"
    assert truncation(loss, 0.0).exponent == pytest.approx(1.0, abs=0.1)
    found = truncation(loss, 0.0, regularised=True)
    assert found.verdict == "not converged"
    assert "weight decay" in (found.reason or "")


def test_diverged_is_diverged_whatever_came_before() -> None:
    found: Truncation = truncation(np.exp(-0.1 * np.arange(200)), 0.0, diverged=True)
    assert (found.verdict, found.tail) == ("diverged", None)


# ----- the verb


def measured(ran: Any) -> dict[tuple[str, str], dict[str, Any]]:
    assert ran.code == 0, ran.stderr
    return {(m["name"].removeprefix("truncation."), m["subject"]): m for m in json.loads(ran.stdout)["measurements"]}


def ask(run: Run, folder: Path, *more: object, names: tuple[str, ...] = ("original", "unlearned")) -> Any:
    paths = [folder / f"{name}.safetensors" for name in names]
    return run("truncation", *paths, "--forget", folder / "forget.npy", "--format", "json", "--quiet", *more)


@pytest.fixture(scope="module")
def head(run: Run, tiny: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """The classifiers alone with weight decay .3: strongly convex."""
    more = ("--scope", "head", "--weight-decay", 0.3, "--steps", 60)
    return measured(ask(run, tiny, *more, names=("original", "unlearned", "retrained-1", "retrained-2")))


def test_a_strongly_convex_head_is_exponential_and_its_numbers_agree(
    head: dict[tuple[str, str], dict[str, Any]],
) -> None:
    for label in ("original", "unlearned", "retrained-1", "retrained-2"):
        verdict, rate, half_life, error, needed = (
            head[name, label] for name in ("verdict", "rate", "half_life", "relative_error", "steps_for_1_percent")
        )
        assert verdict["value"] == "exponential"
        curve = verdict["details"]["excess"]
        assert (verdict["details"]["reference_steps"], verdict["details"]["status"]) == (600, "falls all along")
        assert curve["values"][0] > curve["values"][-1] > 0
        late = [(k, v) for k, v in zip(curve["steps"], curve["values"], strict=True) if k > 2 * curve["steps"][-1] / 3]
        slope = -np.polyfit([k for k, _ in late], np.log([v for _, v in late]), 1)[0]
        assert rate["value"] == pytest.approx(slope, rel=0.02)
        assert rate["interval"]["low"] <= rate["value"] <= rate["interval"]["high"]
        assert half_life["value"] == pytest.approx(np.log(2) / rate["value"])
        assert rate["details"]["kappa_effective"] == pytest.approx(1 / rate["value"])
        assert rate["value"] >= rate["details"]["slowest_rate_proved"] > 0
        details = error["details"]
        assert error["value"] == pytest.approx(1 - details["sum_to_k"] / details["sum"])
        assert error["interval"]["low"] <= error["value"] <= error["interval"]["high"]
        assert details["proved_sum_from_k"][0] <= details["sum"] <= details["proved_sum_from_k"][1]
        wide, narrow = (np.diff(details[f"proved_sum_from_{end}"])[0] for end in ("k", "reference"))
        assert 0 <= narrow < wide
        assert needed["details"]["10_percent"] < needed["value"] < needed["details"]["0.1_percent"]
        assert needed["value"] <= needed["details"]["proved"]["1.0%"]
        assert (error["value"] <= 0.01) == (needed["value"] <= 60)
    assert head["rate", "unlearned"]["reference"]["n"] == 2
    assert head["rate", "retrained-1"]["reference"]["value"] == head["rate", "retrained-2"]["value"]


def test_without_weight_decay_nothing_is_proved_and_nothing_extrapolated(run: Run, tiny: Path) -> None:
    found = measured(ask(run, tiny, "--scope", "head", "--steps", 300, "--step-size", 0.2, names=("original",)))
    verdict = found["verdict", "original"]
    assert verdict["value"] in ("slower than exponential", "not converged")
    assert verdict["details"]["proved"] is None
    for name in ("rate", "half_life", "relative_error", "steps_for_1_percent"):
        assert found[name, "original"]["value"] is None
        assert found[name, "original"]["reason"].startswith(verdict["value"])
    assert 0 < found["relative_error", "original"]["at_least"] < 1


def test_a_whole_network_is_judged_and_a_floor_may_be_named(run: Run, tiny: Path) -> None:
    more = ("--steps", 6, "--reference-steps", 40, "--step-size", 0.01, "--floor", "zero")
    found = measured(ask(run, tiny, *more, names=("original",)))
    verdict = found["verdict", "original"]
    assert verdict["details"]["floor"] == {"value": 0.0}
    assert verdict["details"]["passes"] == {"forward": 41, "backward": 40}
    assert "floor zero" in verdict["method"]


def test_divergence_is_said(run: Run, tiny: Path) -> None:
    ran = ask(run, tiny, "--step-size", 1e30, "--steps", 10, names=("original",))
    found = measured(ran)
    assert found["verdict", "original"]["value"] == "diverged"
    assert found["rate", "original"]["reason"].startswith("diverged at step ")
    assert any("diverged at step" in text for text in json.loads(ran.stdout)["limitations"])


def test_a_floor_of_another_model_is_no_floor(run: Run, tiny: Path) -> None:
    more = ("--scope", "head", "--weight-decay", 0.3, "--steps", 60, "--floor", 0)
    found = measured(ask(run, tiny, *more, names=("original",)))
    assert found["verdict", "original"]["value"] == "not converged"
    assert "above its floor" in found["rate", "original"]["reason"]


def test_the_picture_is_printed_and_drawn(run: Run, tiny: Path, here: Path) -> None:
    asked = ("truncation", tiny / "original.safetensors", "--forget", tiny / "forget.npy", "--scope", "head",
             "--weight-decay", 1, "--steps", 20)  # fmt: skip
    ran = run(*asked, "--plot", "curve.svg")
    assert ran.code == 0, ran.stderr
    assert ran.stderr == "wrote curve.svg\n"
    lines = ran.stdout.splitlines()
    start = lines.index(CAPTION)
    assert any(line.startswith("  o original: exponential") for line in lines[start : start + 20])
    assert max(map(len, lines)) <= 80
    assert (here / "curve.svg").read_text().startswith("<svg ")
    again = run(*asked, "--plot", "curve.svg", "--force", "--quiet")
    assert (again.code, again.stderr) == (0, "")
    assert again.stdout == ran.stdout


def test_refusals(refused: Run, tiny: Path, here: Path) -> None:
    asked = ("truncation", tiny / "original.safetensors", "--forget", tiny / "forget.npy")
    refused(*asked, "--plot", "curve.png", code=2, says=["--plot writes SVG", "curve.svg"])
    (here / "old.svg").write_text("mine")
    refused(*asked, "--plot", "old.svg", code=2, says=["old.svg exists already", "--force"])
    refused(*asked, "--steps", 100, "--reference-steps", 100, code=2, says=["must be more than --steps 100"])
    refused(*asked, "--reference-steps", 3, code=2, says=["reference-steps"])
    refused(*asked, "--floor", "lowest", code=2, says=["floor"])


@pytest.mark.parametrize(
    ("rcd", "says"),
    [
        ("step_size = [1e-3, 1e-4]", "one step size"),
        ("relearn = 0.5", "the set that is relearned"),
        ('bn = "train"', "frozen BatchNorm"),
    ],
)
def test_refusals_of_relearning_settings(refused: Run, tiny: Path, here: Path, rcd: str, says: str) -> None:
    (here / "my.toml").write_text(f"[rcd]\n{rcd}\n[truncation]\n")
    asked = ("truncation", tiny / "original.safetensors", "--forget", tiny / "forget.npy", "--config", "my.toml")
    refused(*asked, code=2, says=[says])
