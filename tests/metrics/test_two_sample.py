"""The two-sample test: its four statistics against their definitions, exact under swaps, blind to a change of units."""

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score

from unlearn_audit.metrics import Swaps, TwoSample, paired_swaps, two_sample_test

Floats = NDArray[np.float64]
PAIRS, SWAPS = 60, 99


def made_up(seed: int = 0, pairs: int = PAIRS, models: int = 3) -> tuple[Floats, Floats]:
    """Return log-odds of a target that never saw either set, and of references: difficulty plus chance."""
    rng = np.random.default_rng(seed)
    difficulty = rng.normal(0, 3, 2 * pairs)
    return difficulty + rng.normal(0, 1.5, 2 * pairs), difficulty + rng.normal(0, 1.5, (models, 2 * pairs))


def swaps_of(pairs: int = PAIRS, swaps: int = SWAPS, seed: int = 1) -> Swaps:
    return paired_swaps(pairs, swaps=swaps, generator=np.random.default_rng(seed))


def found_by(target: Floats, references: Floats, swaps: Swaps) -> TwoSample:
    found = two_sample_test(target, references, swaps)
    assert isinstance(found, TwoSample), found
    return found


# ----- the four statistics, written out one labelling at a time


def by_hand(target: Floats, references: Floats, swaps: Swaps) -> dict[str, list[float]]:
    """Return every statistic of every labelling, slowly and by other people's code where there is some."""
    pairs = swaps.signs.shape[1]
    a = references.mean(axis=0)
    line = np.polyfit(a, target, 1)
    rest = target - np.polyval(line, a)
    e = np.clip(rest / (1.4826 * np.median(np.abs(rest - np.median(rest)))), -6, 6)
    z = (a - a.mean()) / a.std()
    x = np.stack([e, abs(e), e**2, e * z, abs(e) * z, z, z**2], axis=1)
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    points = np.stack([e / e.std(), z], axis=1)
    squares = ((points[:, None] - points[None]) ** 2).sum(axis=-1)
    kernel = sum(np.exp(-squares / (width * np.median(squares))) for width in (0.1, 0.4, 1.6))
    found: dict[str, list[float]] = {name: [] for name in ("calibrated", "mmd", "tail", "c2st")}
    for signs in swaps.signs.astype(int):
        y = np.concatenate([signs, -signs])
        found["calibrated"].append(abs(roc_auc_score(y, target - a) - 0.5))
        found["mmd"].append(float(y @ kernel @ y) / pairs**2)
        found["tail"].append(tail_by_hand(target - a, y))
        scores = np.zeros(2 * pairs)
        for folds in swaps.folds:
            both = np.concatenate([folds, folds])
            for fold in range(10):
                ridge = Ridge(alpha=3.0, fit_intercept=False).fit(x[both != fold], y[both != fold])
                scores[both == fold] += ridge.predict(x[both == fold])
        found["c2st"].append(roc_auc_score(y, scores))
    return found


def tail_by_hand(r: Floats, y: NDArray[np.int64]) -> float:
    size, best = len(r), 0.0
    for order in (np.argsort(r), np.argsort(-r)):
        for k in range(4, size // 4):
            spread = np.sqrt(k / 4 * (size - k) / (size - 1))
            best = max(best, ((y[order[:k]] > 0).sum() - k / 2) / spread)
    return best


def test_every_statistic_and_their_combination_are_as_defined() -> None:
    target, references = made_up(4)
    target[:PAIRS] *= 0.8
    swaps = swaps_of(swaps=11)
    expected = by_hand(target, references, swaps)
    found = found_by(target, references, swaps)
    ranked = {name: np.array([np.mean(np.array(t) >= one - 1e-12) for one in t]) for name, t in expected.items()}
    assert found.parts == pytest.approx({name: p[0] for name, p in ranked.items()})
    smallest = np.min(list(ranked.values()), axis=0)
    assert found.p == pytest.approx(np.mean(smallest <= smallest[0]))
    assert found.auc == pytest.approx(expected["c2st"][0], abs=1e-12)
    assert found.auc_bounds is not None
    assert found.auc_bounds.low < found.auc < found.auc_bounds.high
    assert found.shift == pytest.approx(roc_auc_score([1] * PAIRS + [0] * PAIRS, target - references.mean(axis=0)))


# ----- what it says


@pytest.mark.slow
def test_p_is_uniform_where_nothing_was_seen() -> None:
    """2,000 tests of truly unseen pairs: 5 % have p of .05 or less, whatever the distribution of the log-odds."""
    rng, found = np.random.default_rng(11), []
    for _ in range(2000):
        difficulty = rng.normal(0, 2, 100)
        target, references = difficulty + rng.standard_t(3, 100), difficulty + rng.normal(0, 1, (3, 100))
        found.append(found_by(target, references, paired_swaps(50, swaps=99, generator=rng)).p)
    shares = [np.mean(np.array(found) <= level) for level in (0.05, 0.5)]
    assert 0.035 <= shares[0] <= 0.065
    assert 0.46 <= shares[1] <= 0.54


def test_few_of_many_tests_of_unseen_pairs_are_small() -> None:
    found = [found_by(*made_up(seed, 50), swaps_of(50, 39, seed)).p for seed in range(120)]
    assert np.mean(np.array(found) <= 0.05) <= 0.11
    assert 0.37 <= np.mean(np.array(found) <= 0.5) <= 0.63


POWER = {  # kind -> share of p < .05 of calibrated, mmd, tail, c2st, combined
    "nothing": (0.06, 0.05, 0.06, 0.05, 0.04),
    "shifted by .22": (0.40, 0.25, 0.18, 0.20, 0.28),
    "shifted by .43": (0.93, 0.85, 0.65, 0.78, 0.87),
    "closer together": (0.02, 0.62, 0.00, 0.67, 0.53),
    "12 kept": (0.17, 0.20, 1.00, 0.22, 0.93),
    "7 kept": (0.05, 0.08, 0.50, 0.12, 0.13),
    "less dependent": (0.03, 0.32, 0.13, 0.62, 0.45),
}


def traced(kind: str, rng: np.random.Generator, pairs: int = 144) -> tuple[Floats, Floats]:
    """Return a target that has a trace of the forget examples, and references."""
    difficulty = rng.normal(0, 3, 2 * pairs)
    references, rest = difficulty + rng.normal(0, 1.5, (3, 2 * pairs)), rng.normal(0, 1.5, 2 * pairs)
    deviation, forget = np.hypot(1.5, 1.5 / np.sqrt(3)), slice(pairs)
    if kind.startswith("shifted"):
        rest[forget] += float(kind.split()[-1]) * deviation
    elif kind.startswith("closer"):
        rest[forget] *= 0.6 if kind == "closer together" else 0.4
    elif kind.endswith("kept"):
        rest[rng.choice(pairs, int(kind.split()[0]), replace=False)] += 5 * deviation
    elif kind == "less dependent":
        rest[forget] -= 0.27 * difficulty[forget]
    return difficulty + rest, references


@pytest.mark.slow
@pytest.mark.parametrize("kind", POWER)
def test_power_is_as_told(kind: str) -> None:
    rng, seen = np.random.default_rng(7), []
    for _ in range(300):
        found = found_by(*traced(kind, rng), paired_swaps(144, swaps=299, generator=rng))
        seen.append([p < 0.05 for p in (*found.parts.values(), found.p)])
    assert np.mean(seen, axis=0) == pytest.approx(POWER[kind], abs=0.12)


@pytest.mark.parametrize("kind", ["shifted by .8", "closer yet", "12 kept", "less dependent"])
def test_each_kind_of_trace_is_found_and_named(kind: str) -> None:
    found = found_by(*traced(kind, np.random.default_rng(3)), swaps_of(144, 199))
    assert found.p <= 0.05
    sees = {"shifted by .8": "calibrated", "closer yet": "c2st", "12 kept": "tail", "less dependent": "c2st"}
    assert found.parts[sees[kind]] <= 0.02
    if kind == "closer yet":
        assert found.spread_p <= 0.02
        assert found.spread is not None
        assert found.spread < 0.8
    if kind == "less dependent":
        assert found.slope_p <= 0.02
        assert found.slopes is not None
        assert found.slopes[0] < found.slopes[1] - 0.2
    if kind == "shifted by .8":
        assert found.shift > 0.6


def test_the_smallest_p_is_one_in_all_labellings() -> None:
    target, references = made_up(0)
    target[:PAIRS] += 20
    found = found_by(target, references, swaps_of())
    assert found.p == 1 / (SWAPS + 1)
    assert set(found.parts.values()) == {1 / (SWAPS + 1)}
    assert found.auc == 1.0


# ----- what must not matter


def test_other_units_of_target_or_references_change_nothing() -> None:
    target, references = made_up(2)
    swaps = swaps_of()
    found = found_by(target, references, swaps)
    for again in (found_by(7 * target - 3, references, swaps), found_by(target, 0.2 * references + 11, swaps)):
        assert np.abs(again.residual - found.residual).max() < 1e-9
        assert {name: again.parts[name] for name in ("mmd", "c2st")} == {
            name: found.parts[name] for name in ("mmd", "c2st")
        }
        assert again.auc == found.auc


def test_the_same_draw_gives_the_same_bits() -> None:
    target, references = made_up(5)
    first, second = (found_by(target, references, swaps_of()) for _ in range(2))
    assert (first.p, first.parts, first.auc) == (second.p, second.parts, second.auc)
    assert first.residual.tobytes() == second.residual.tobytes()


def test_equal_values_do_not_speak_for_the_side_that_comes_first() -> None:
    """A model whose log-odds are rounded has many ties; no order among them may look like a tail."""
    rng = np.random.default_rng(0)
    target, references = rng.integers(0, 2, 2 * PAIRS).astype(float), np.zeros((1, 2 * PAIRS))
    straight, turned = (found_by(np.roll(target, k), references, swaps_of(swaps=199)) for k in (0, PAIRS))
    assert straight.parts["tail"] == 1.0  # all ties at both ends: no k at which the most extreme are known
    assert straight.parts["calibrated"] == turned.parts["calibrated"]
    assert min(straight.p, turned.p) > 0.05
    assert straight.slopes is None


def test_beyond_a_thousand_pairs_two_statistics_look_at_a_thousand() -> None:
    swaps = swaps_of(1200, 19)
    assert len(np.unique(swaps.some)) == 1000
    target, references = made_up(1, 1200)
    found = found_by(target, references, swaps)
    assert found.used == 1000
    assert len(found.residual) == 2400
    assert 1 / 20 <= found.p <= 1


# ----- what has no answer


@pytest.mark.parametrize(
    ("target", "references", "said"),
    [
        (np.ones(2 * PAIRS), made_up()[1], "degenerate: the model gives every example the same log-odds"),
        (made_up()[1][0], made_up()[1][:1], "degenerate: the model's log-odds are the references'"),
        (made_up()[0], np.zeros((0, 2 * PAIRS)), "there is no reference"),
        (np.full(2 * PAIRS, np.inf), made_up()[1], "not finite"),
    ],
)
def test_why_there_is_nothing_to_find(target: Floats, references: Floats, said: str) -> None:
    found = two_sample_test(target, references, swaps_of())
    assert isinstance(found, str)
    assert said in found


def test_too_few_pairs_say_how_many_are_needed() -> None:
    assert two_sample_test(*made_up(pairs=49), swaps_of(49)) == (
        "needs 50 pairs of a forget example and its unseen twin; there are 49"
    )


def test_shapes_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(ValueError, match="60 pairs were drawn"):
        two_sample_test(np.zeros(10), np.zeros((3, 10)), swaps_of())
