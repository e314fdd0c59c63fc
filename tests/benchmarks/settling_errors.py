"""How often is `shadows run --until-settled` wrong? Simulated with normal log-odds, and on the models of a real fleet.

The looks and levels are those of `audit/settling.py`. A truly retrained target that is said to differ is a false alarm
(at most 5 % are promised); an unlearned one that kept a trace and is said to lie within the margin is a miss. Beside
the rates stands what looking at 95 % each time would have given. With normal log-odds every draw has its own examples,
target, retrained models and fleet. With `--shadows` the order of a real fleet's pairs is drawn again and again; the
targets are retrained checkpoints against three others, and the fleet's own models with their pairs left out. These
draws share models and examples, so that their intervals are too narrow. A run of minutes, no test:

    python tests/benchmarks/settling_errors.py --draws 400
    python tests/benchmarks/settling_errors.py demo/*.safetensors --forget demo/forget.npy --shadows shadows/
"""

import argparse
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from evidence import REFERENCES, opened, share
from numpy.typing import NDArray

from unlearn_audit.attacks import Shadows, log_odds
from unlearn_audit.attacks import empirical_bayes as eb
from unlearn_audit.attacks.leave_pair_out import only, pairs_of, without
from unlearn_audit.attacks.ulira import ulira
from unlearn_audit.audit.mia.numbers import Scores, auc_difference
from unlearn_audit.audit.settling import Verdict, look_at, look_sizes

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
MOST = 32  # shadow models
MARGINS = (0.15, 0.1)


class Settled(NamedTuple):
    """How one run ended: by margin the verdict and with how many models, and whether 95 % looks would have differed."""

    verdicts: dict[float, tuple[Verdict, int]]
    uncorrected: bool


def settle(scored: Callable[[int], tuple[Scores, Sequence[Scores]]], sizes: Sequence[int]) -> Settled:
    """Take looks until they are settled.

    Args:
        scored: number of shadow models -> scores of the target and of the retrained models.
        sizes: of the looks.
    """
    found: dict[float, tuple[Verdict, int]] = {}
    uncorrected = False
    for number, models in enumerate(sizes, 1):
        ours, others = scored(models)
        look = look_at(number, models, ours, others)
        plain = auc_difference(ours, others)
        uncorrected = uncorrected or (plain is not None and plain.seen)
        for margin in MARGINS:
            if found.get(margin, ("open", 0))[0] == "open":
                found[margin] = (look.verdict(margin), models)
    return Settled(found, uncorrected)


def ratio(values: Floats, inside: Mask, target: Floats) -> Floats:
    """Return the empirical Bayes log-likelihood ratio of one target."""
    fit = eb.fit_both(eb.side_of(values, inside), eb.side_of(values, ~inside))
    sides = [-0.5 * ((target - m) ** 2 / v + np.log(v)) for m, v in zip(fit.means, fit.variances, strict=True)]
    return np.asarray(sides[0] - sides[1])


def simulated(seed: int, *, pairs: int, leak: float, retrained: bool, off: float) -> Settled:
    """Settle one draw of normal log-odds.

    Each example has a difficulty, and its log-odds after unlearning a mean about it; models that unlearned it lie
    `leak`·(1 + z/2) lower, and scatter 1.5 where others scatter 2.4, as after IEU on mislabelled digits. Retrained
    models were never treated: their log-odds are `off` higher, with a scatter of 2.4 and of 0.5 of the seed's own.

    Args:
        seed: of everything.
        pairs: of a forget example and its twin.
        leak: size of the trace.
        retrained: whether the target is one more retrained model; else it was unlearned like the fleet.
        off: how far retrained models lie from both sides.
    """
    rng = np.random.default_rng([seed, pairs, int(1000 * leak), int(retrained)])
    count = 2 * pairs
    z = rng.normal(0, 1, count)
    members = np.arange(count) < pairs

    def treated(inside: Mask) -> Floats:
        spread = np.where(inside, 1.5 if leak else 2.4, 2.4)
        return np.asarray(3 * z - leak * (1 + z / 2) * inside + spread * rng.normal(0, 1, inside.shape))

    def trained_anew() -> Floats:
        return np.asarray(3 * z + off + rng.normal(0, 0.5) + 2.4 * rng.normal(0, 1, count))

    first = rng.random((MOST // 2, count)) < 0.5
    inside = np.stack([first, ~first], axis=1).reshape(MOST, count)
    values = treated(inside)
    target = trained_anew() if retrained else treated(members)
    others = [trained_anew() for _ in range(REFERENCES)]

    def scored(models: int) -> tuple[Scores, Sequence[Scores]]:
        found = [ratio(values[:models], inside[:models], one) for one in (target, *others)]
        ours, *rest = (Scores(one[members], one[~members]) for one in found)
        return ours, rest

    return settle(scored, look_sizes(MOST))


def on_fleet(
    shadows: Shadows, labels: NDArray[np.int64], answers: dict[str, Floats], draws: int
) -> Iterator[tuple[str, Settled]]:
    """Yield how runs on a real fleet end, by the kind of their target.

    Args:
        shadows: all models of a treatment.
        labels: of the attacked examples.
        answers: log-odds of the retrained checkpoints by label, [2 n], forget examples first.
        draws: orders of the fleet's pairs.
    """
    half = np.arange(len(labels)) < len(labels) // 2
    odds = log_odds(shadows.logits[:, :, 0], labels)
    for draw in range(draws):
        rng = np.random.default_rng(draw)
        order = rng.permutation(len(pairs_of(shadows)))
        for label in answers:
            yield "retrained", _run(shadows, order, half, answers[label], answers, label, rng, odds)
        pair = pairs_of(shadows)[int(order[-1])]
        others = without(shadows, pair)
        kept = np.delete(odds, pair, axis=0)
        for model in pair:
            mask = shadows.inside[model]
            order_of_others = rng.permutation(len(pairs_of(others)))
            yield "unlearned", _run(others, order_of_others, mask, odds[model], answers, "", rng, kept)


def _run(
    shadows: Shadows,
    order: NDArray[np.int64],
    members: Mask,
    target: Floats,
    answers: dict[str, Floats],
    label: str,
    rng: np.random.Generator,
    odds: Floats,
) -> Settled:
    """Settle one target under a fleet whose pairs come in this order."""
    pairs = pairs_of(shadows)
    rows = [model for number in order for model in pairs[number]]
    peers = rng.permutation([other for other in answers if other != label])[:REFERENCES]

    def scored(models: int) -> tuple[Scores, Sequence[Scores]]:
        chosen = rows[:models]
        said = (target, *(answers[peer] for peer in peers))
        found = [ratio(odds[chosen], shadows.inside[chosen], one) for one in said]
        ours, *rest = (Scores(one[members], one[~members]) for one in found)
        return ours, rest

    return settle(scored, look_sizes(len(rows)))


def report(name: str, ended: Sequence[Settled]) -> None:
    """Print rates with Wilson's intervals."""
    for margin in MARGINS:
        verdicts = Counter(one.verdicts[margin][0] for one in ended)
        models = np.mean([one.verdicts[margin][1] for one in ended])
        told = "; ".join(
            f"{verdict} {share([one.verdicts[margin][0] == verdict for one in ended])}" for verdict in sorted(verdicts)
        )
        print(f"{name}, margin {margin}: {told}; {models:.1f} shadow models", flush=True)
    print(f"{name}, every look at 95 %: differs {share([one.uncorrected for one in ended])}", flush=True)


def main() -> None:
    """Simulate, or run on a fleet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="*")
    parser.add_argument("--forget")
    parser.add_argument("--shadows")
    parser.add_argument("--seed", type=int, default=0, help="of the audit, as the fleet was planned with")
    parser.add_argument("--draws", type=int, default=400)
    parser.add_argument("--pairs", type=int, nargs="+", default=[144, 500])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.shadows is None:
        for pairs in arguments.pairs:
            for name, leak, retrained in (
                ("truly retrained, no trace", 0.0, True),
                ("truly retrained, a method that leaves a trace", 1.05, True),
                ("unlearned without a trace", 0.0, False),
                ("unlearned, half the trace", 0.5, False),
                ("unlearned, IEU's trace", 1.05, False),
            ):
                settings = {"pairs": pairs, "leak": leak, "retrained": retrained, "off": 1.0}
                report(f"n = {pairs}, {name}", [simulated(seed, **settings) for seed in range(arguments.draws)])
        return
    inputs, candidates = opened(arguments)
    labels = inputs.pool.examples.labels.numpy()[inputs.pool.targets]
    for treatment in inputs.fleet.plan.treatments if inputs.fleet else ():
        if inputs.count(treatment) < 6:
            continue
        shadows = inputs.shadows(treatment)
        shadows = only(shadows, [model for pair in pairs_of(shadows) for model in pair])
        answers = {
            one.label: log_odds(inputs.evidence(one, ulira, treatment).logits[:, 0], labels)
            for one in candidates
            if one.role == "retrained"
        }
        ended: dict[str, list[Settled]] = {}
        for kind, one in on_fleet(shadows, labels, answers, arguments.draws):
            ended.setdefault(kind, []).append(one)
        for kind, runs in ended.items():
            report(f"{treatment.method}, {len(shadows.inside)} models, {kind}", runs)


if __name__ == "__main__":
    main()
