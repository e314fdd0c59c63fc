"""What U-LiRA sees with 4, 8, 16 or all shadow models: pooled, with a variance an example, and by empirical Bayes.

On a finished fleet (`shadows run DIR unlearned.safetensors --forget SPEC --count 32`) with the checkpoints of one
forget set. First its own models are the targets, whose truth is known: each is compared with random subsets of the
others, its whole pair left out. Then the checkpoints: by their first shadow models and by random subsets of them;
retrained ones also against three other retrained ones, where the interval of the difference should leave zero out in
5 % of all cases (targets and references are few and the same throughout: the rate has a wide interval). What is printed
has mean ± standard deviation over targets. A run of minutes, no test:

    python tests/benchmarks/evidence.py demo/*.safetensors --forget demo/forget.npy --shadows shadows/
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from unlearn_audit import metrics
from unlearn_audit.attacks import Evidence, Shadows
from unlearn_audit.attacks.leave_pair_out import only, pairs_of, without
from unlearn_audit.attacks.ulira import ulira
from unlearn_audit.audit.context import open_context
from unlearn_audit.audit.mia.inputs import AttackInputs, attack_inputs
from unlearn_audit.audit.mia.numbers import Scores, auc_difference
from unlearn_audit.config import Layer, resolve
from unlearn_audit.inputs import Candidate
from unlearn_audit.shadows import Treatment

Floats = NDArray[np.float64]
SIZES = (4, 8, 16)
ESTIMATES = ("pooled", "per_example", "eb")
REFERENCES = 3  # retrained models that a user has


def area(scores: Scores) -> float:
    """Return the AUC."""
    found = metrics.auc(*scores)
    return float("nan") if found is None else found


def score_by(variance: str) -> Callable[[Evidence], Floats]:
    """Return U-LiRA's score with one estimate of the variance."""
    return ulira.with_settings({"variance": variance}).score


def subset(shadows: Shadows, size: int, rng: np.random.Generator) -> Shadows:
    """Return a random choice of whole pairs of models."""
    pairs = pairs_of(shadows)
    chosen = rng.permutation(len(pairs))[: size // 2]
    return only(shadows, [model for number in sorted(chosen) for model in pairs[number]])


def own_areas(shadows: Shadows, labels: NDArray[np.int64], size: int, subsets: int) -> Iterator[dict[str, float]]:
    """Yield for each model of a fleet what every estimate finds with so many others, its pair left out.

    Args:
        shadows: all models of one treatment.
        labels: of the attacked examples.
        size: how many others; all where there are no more.
        subsets: how many random choices of others; the mean is taken.
    """
    nothing = np.zeros((len(labels), 0), np.float32)
    for pair in pairs_of(shadows):
        others = without(shadows, pair)
        for model in pair:
            rng = np.random.default_rng([model, size])
            draws = [subset(others, size, rng) for _ in range(subsets if size < len(others.inside) else 1)]
            found: dict[str, float] = {}
            for name in ESTIMATES:
                areas = []
                for draw in draws:
                    scores = score_by(name)(Evidence(shadows.logits[model], labels, nothing, unlearned=draw))
                    areas.append(area(Scores(scores[shadows.inside[model]], scores[shadows.outside[model]])))
                found[name] = float(np.mean(areas))
            yield found


def of_own_models(name: str, shadows: Shadows, labels: NDArray[np.int64], subsets: int) -> dict[tuple[str, int], float]:
    """Print and return the mean AUC by estimate and number of models, the fleet's own models being the targets."""
    largest = 2 * len(pairs_of(shadows)) - 2
    means: dict[tuple[str, int], float] = {}
    for size in [*(size for size in SIZES if size < largest), largest]:
        rows = list(own_areas(shadows, labels, size, subsets))
        told = []
        for estimate in ESTIMATES:
            values = np.array([row[estimate] for row in rows])
            means[estimate, size] = float(values.mean())
            told.append(f"{estimate} {values.mean():.3f} ± {values.std(ddof=1):.3f}")
        print(f"own models, {name}, N = {size}, {len(rows)} targets: {', '.join(told)}", flush=True)
    return means


def asked(inputs: AttackInputs, candidate: Candidate, treatment: Treatment) -> Evidence:
    """Return what a checkpoint says, with all shadow models."""
    return inputs.evidence(candidate, ulira, treatment)


def scores_of(evidence: Evidence, shadows: Shadows, variance: str) -> Scores:
    """Return the scores of a checkpoint under some shadow models."""
    found, half = score_by(variance)(replace(evidence, unlearned=shadows)), len(evidence.labels) // 2
    return Scores(found[:half], found[half:])


def of_checkpoints(name: str, evidences: dict[str, Evidence], shadows: Shadows, draws: int) -> None:
    """Print each checkpoint's AUC under its first shadow models and under random subsets."""
    for label, evidence in evidences.items():
        for size in [size for size in SIZES if size < len(shadows.inside)] + [len(shadows.inside)]:
            told = []
            for variance in ("pooled", "eb"):
                first = area(scores_of(evidence, only(shadows, range(size)), variance))
                rng = np.random.default_rng(size)
                choices = [subset(shadows, size, rng) for _ in range(draws)]
                areas = [area(scores_of(evidence, choice, variance)) for choice in choices]
                told.append(f"{variance} {first:.3f}, subsets {np.mean(areas):.3f} ± {np.std(areas, ddof=1):.3f}")
            print(f"{label}, {name}, first {size}: {'; '.join(told)}", flush=True)


def of_differences(
    name: str, evidences: dict[str, Evidence], retrained: Sequence[str], shadows: Shadows, draws: int
) -> None:
    """Print how often a checkpoint is told from three retrained models, and these from each other."""
    for size in [size for size in SIZES if size <= len(shadows.inside)]:
        for variance in ("pooled", "eb"):
            rng = np.random.default_rng(size)
            seen: dict[str, list[bool]] = {}
            for _ in range(draws):
                choice = subset(shadows, size, rng)
                scores = {label: scores_of(one, choice, variance) for label, one in evidences.items()}
                for label, own in scores.items():
                    peers = [other for other in retrained if other != label]
                    others = [scores[peer] for peer in rng.permutation(peers)[:REFERENCES]]
                    found = auc_difference(own, others)
                    if found is not None:
                        seen.setdefault("retrained" if label in retrained else label, []).append(found.seen)
            told = "; ".join(f"{label} {share(rows)}" for label, rows in seen.items())
            print(f"told from {REFERENCES} retrained, {name}, N = {size}, {variance}: {told}", flush=True)


def share(seen: Sequence[bool]) -> str:
    """Return k/n with its share and interval."""
    bounds = metrics.wilson_interval(sum(seen), len(seen))
    ends = "" if bounds is None else f" [{bounds.low:.3f}, {bounds.high:.3f}]"
    return f"{sum(seen)}/{len(seen)} = {np.mean(seen):.3f}{ends}"


def accepted(means: dict[tuple[str, int], float]) -> None:
    """Print whether four models by empirical Bayes see what sixteen pooled ones see."""
    if ("eb", 4) not in means:
        return
    gained = means["eb", 4] - means["pooled", 4]
    print(f"eb(4) - pooled(4) = {gained:+.3f} (at least +.03 on mislabelled digits after IEU)")
    if ("pooled", 16) in means:
        print(f"eb(4) - pooled(16) = {means['eb', 4] - means['pooled', 16]:+.3f} (at least -.01)")


def opened(arguments: argparse.Namespace) -> tuple[AttackInputs, Sequence[Candidate]]:
    """Return what attacks look at, and the checkpoints."""
    settings: dict[str, Any] = {
        "checkpoint": [{"path": str(path)} for path in arguments.checkpoints],
        "forget": arguments.forget,
        "device": "cpu",
        "seed": arguments.seed,
    }
    request = resolve([Layer("flag", settings, "benchmark")])
    context = open_context(request.config, request.origins)
    inputs, _ = attack_inputs(context, str(arguments.shadows))
    return inputs, context.subjects


def main() -> None:
    """Print the tables of every treatment of a fleet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument("--forget", required=True)
    parser.add_argument("--shadows", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0, help="of the audit, as the fleet was planned with")
    parser.add_argument("--subsets", type=int, default=3, help="random choices of others for each of the own models")
    parser.add_argument("--draws", type=int, default=20, help="random choices of shadow models for the checkpoints")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    inputs, candidates = opened(arguments)
    treatments = inputs.fleet.plan.treatments if inputs.fleet else ()
    for treatment in treatments:
        if inputs.count(treatment) < SIZES[0]:
            continue
        shadows = inputs.shadows(treatment)
        labels = inputs.pool.examples.labels.numpy()[inputs.pool.targets]
        if len(pairs_of(shadows)) > 2:
            accepted(of_own_models(treatment.method, shadows, labels, arguments.subsets))
        evidences = {one.label: asked(inputs, one, treatment) for one in candidates if one.role != "original"}
        of_checkpoints(treatment.method, evidences, shadows, arguments.draws)
        retrained = [one.label for one in candidates if one.role == "retrained"]
        of_differences(treatment.method, evidences, retrained, shadows, arguments.draws)


if __name__ == "__main__":
    main()
