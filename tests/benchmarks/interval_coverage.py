"""How often do the intervals hold the truth, on data of which the truth is known?

One line for each interval and setting: how many of the simulations held it, with Wilson's interval, and the target.
Scores are normal; areas are lognormal, or drawn with replacement from the areas of an audit (`--areas`, an arrays.npz,
as `audit --out` leaves it), whose mean is then the truth. A difference is one of right answers of models that share
examples and have effects of their seeds on all of them and on each; its line says how often one more retrained model
is called different. A run of minutes, no test:

    python tests/benchmarks/interval_coverage.py --runs 2000
    python tests/benchmarks/interval_coverage.py --only areas --areas report/arrays.npz
"""

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from unlearn_audit import metrics
from unlearn_audit.audit.reference import compared

Floats = NDArray[np.float64]
Rng = np.random.Generator


class Line(NamedTuple):
    """One line of the table: of `runs` simulations so many held the truth, or were called different."""

    interval: str
    setting: str
    hits: int
    runs: int
    target: str

    def text(self) -> str:
        """Return the line as it is printed."""
        bounds = metrics.wilson_interval(self.hits, self.runs) or metrics.Bounds(0.0, 1.0)
        share = f"{self.hits / self.runs:.3f} [{bounds.low:.3f}, {bounds.high:.3f}]"
        return f"{self.interval:22} {self.setting:42} {share}  n = {self.runs}  to be {self.target}"


def held(bounds: metrics.Bounds | None, truth: float) -> bool:
    """Return whether an interval is there and holds the truth."""
    return bounds is not None and bounds.low <= truth <= bounds.high


def count(runs: int, once: Callable[[], bool]) -> int:
    """Return how many of the runs say yes."""
    return sum(once() for _ in range(runs))


def of_rates(rng: Rng, runs: int) -> Iterator[Line]:
    """Yield coverage of the true positive rate at a true false positive rate."""
    for name, shift, size, rate in (
        ("400 non-members", 1.5, 400, 0.01), ("1,000 non-members", 1.5, 1000, 0.01), ("strong, 400", 3.0, 400, 0.01),
        ("strong, 1,000", 3.0, 1000, 0.01), ("10,000 non-members", 1.5, 10_000, 0.01),
        ("strong, 10,000", 3.0, 10_000, 0.001),
    ):  # fmt: skip
        truth = float(ndtr(ndtri(rate) + shift))

        def once(shift: float = shift, size: int = size, rate: float = rate, truth: float = truth) -> bool:
            members, others = rng.normal(shift, 1, size), rng.normal(0, 1, size)
            return held(metrics.tpr_at_fpr(members, others, rate).bounds, truth)

        few = runs if size < 10_000 else max(runs // 5, 100)
        yield Line(f"TPR at FPR {rate:g}", name, count(few, once), few, ">= .93")


def of_accuracies(rng: Rng, runs: int) -> Iterator[Line]:
    """Yield coverage of a cross-fitted accuracy and of an AUC, with signal of several sizes."""
    for shift in (0.0, 0.5, 1.0, 2.0):
        for sizes in ((144, 144), (144, 400), (1000, 1000)):
            best, area = float(ndtr(shift / 2)), float(ndtr(shift / math.sqrt(2)))
            hits = [0, 0]
            for _ in range(runs):
                members, others = rng.normal(shift, 1, sizes[0]), rng.normal(0, 1, sizes[1])
                hits[0] += held(metrics.balanced_accuracy(members, others).bounds, best)
                hits[1] += held(metrics.auc_interval(members, others), area)
            where = f"shift {shift}, {sizes[0]} + {sizes[1]}"
            yield Line("cross-fitted accuracy", where, hits[0], runs, ">= .93")
            yield Line("AUC", where, hits[1], runs, ">= .93")


def of_areas(rng: Rng, runs: int, populations: Sequence[tuple[str, Callable[[int], Floats], float]]) -> Iterator[Line]:
    """Yield coverage of a mean of areas, and of the ratio of two such means."""
    for name, draw, truth in populations:
        for n, target in ((144, ">= .93"), (36, ">= .90")):
            hits = [0, 0, 0]
            for _ in range(runs):
                one, other = draw(n), draw(n)
                error = float(one.std(ddof=1)) / math.sqrt(n)
                hits[0] += held(metrics.mean_interval(one, seed=0), truth)
                hits[1] += held(metrics.ratio_interval(one, other, seed=0), 1.0)
                hits[2] += held(metrics.student_interval(float(one.mean()), error, n - 1), truth)
            yield Line("mean area, mean loss", f"{name}, n = {n}", hits[0], runs, target)
            yield Line("RCD / unseen", f"{name}, n = {n}", hits[1], runs, target)
            yield Line("(Student t, not used)", f"{name}, n = {n}", hits[2], runs, target)


def lognormals(rng: Rng) -> Iterator[tuple[str, Callable[[int], Floats], float]]:
    """Yield lognormal populations with the share of the sum in the largest 5 %."""
    for sigma in (1.0, 1.3, 1.645, 1.9, 2.3):
        share = float(ndtr(sigma - ndtri(0.95)))

        def draw(n: int, sigma: float = sigma) -> Floats:
            return np.exp(rng.normal(0, sigma, n))

        yield f"lognormal {sigma}, top 5 % carry {share:.0%}", draw, math.exp(sigma**2 / 2)


def recorded(rng: Rng, path: Path) -> Iterator[tuple[str, Callable[[int], Floats], float]]:
    """Yield the areas of an audit's models as populations."""
    with np.load(path) as arrays:
        found = {name: arrays[name] for name in arrays.files if name.startswith("rcd/") and name.endswith("/areas")}
    for name, areas in found.items():

        def draw(n: int, areas: Floats = areas) -> Floats:
            return rng.choice(areas, n)

        share = metrics.tail_share(areas) or 0.0
        yield f"{name.removesuffix('/areas')} ({share:.0%})", draw, float(areas.mean())


def right_answers(rng: Rng, models: int, n: int, seed: float, flip: float) -> Floats:
    """Return right answers [models, n] of models that differ by an effect on all examples and by one on each."""
    margin = rng.normal(1.5, 1, n) + seed * rng.normal(size=(models, 1)) + flip * rng.normal(size=(models, n))
    return (margin > 0).astype(np.float64)


def of_differences(rng: Rng, runs: int) -> Iterator[Line]:
    """Yield how often one more retrained model is called different from R others."""
    for n in (144, 500, 2000):
        for seed, flip in ((0.0, 0.3), (0.05, 0.3), (0.2, 0.3), (0.1, 0.7)):
            for references in (2, 3, 5):
                different = 0
                for _ in range(runs):
                    ours, *others = right_answers(rng, references + 1, n, seed, flip)
                    levels = [float(other.mean()) for other in others]
                    found = compared(float(ours.mean()), levels, [(ours, np.stack(others))], least=1 / n**2)
                    different += found is not None and found.seen
                setting = f"n = {n}, R = {references}, seeds {seed}, examples {flip}"
                yield Line("called different", setting, different, runs, ".04 to .06")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--areas", type=Path, help="arrays.npz of an audit, instead of lognormal areas")
    parser.add_argument("--only", choices=("rates", "accuracies", "areas", "differences"))
    arguments = parser.parse_args()
    rng, runs = np.random.default_rng(arguments.seed), arguments.runs
    populations = list(recorded(rng, arguments.areas) if arguments.areas else lognormals(rng))
    parts = {
        "rates": of_rates(rng, runs),
        "accuracies": of_accuracies(rng, runs),
        "areas": of_areas(rng, runs, populations),
        "differences": of_differences(rng, runs),
    }
    for name, lines in parts.items():
        for line in lines if arguments.only in (None, name) else ():
            print(line.text(), flush=True)


if __name__ == "__main__":
    main()
