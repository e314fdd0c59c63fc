"""Time of the two-sample test against its floor: the products of its swaps, at this machine's own rate, and one sort.

With n pairs and B swaps the kernel statistic is one [B, n] x [n, n] product, 2 n^2 B operations. The classifier's
scores are linear in the labels; through one [2n, 2n] matrix they would take 4 n^2 B, by the sums of seven features of
each fold they take 3 x 42 n B. Each labelling's AUC needs its 2n scores sorted. All in CPU seconds, so that whatever
else runs does not count; one thread (OMP_NUM_THREADS=1). Half a minute, not a test:

    python tests/benchmarks/bench_two_sample.py --pairs 144 500 1000 2000
"""

import argparse
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from unlearn_audit.metrics import paired_swaps, two_sample_test
from unlearn_audit.metrics.two_sample import MOST_PAIRS, REPEATS

FEATURES = 7


class Taken(NamedTuple):
    """CPU seconds of a test and of what it cannot do without, and its operations."""

    test: float
    floor: float
    operations: float


def seconds(task: Callable[[], object], repeats: int) -> float:
    """Return the CPU seconds of the fastest of some runs."""
    found = []
    for _ in range(repeats):
        began = time.process_time()
        task()
        found.append(time.process_time() - began)
    return min(found)


def operations(pairs: int, swaps: int) -> float:
    """Return the floating-point operations of the products: kernel statistic, sums of features, scores."""
    used = min(pairs, MOST_PAIRS)
    return (swaps + 1) * (2.0 * used**2 + REPEATS * 6.0 * used * FEATURES)


def measure(pairs: int, swaps: int, *, repeats: int = 3) -> Taken:
    """Return what a test of made-up log-odds takes."""
    rng = np.random.default_rng(0)
    difficulty = rng.normal(0, 3, 2 * pairs)
    target, references = (difficulty + rng.normal(0, 1.5, shape) for shape in (2 * pairs, (3, 2 * pairs)))
    drawn = paired_swaps(pairs, swaps=swaps, generator=rng)
    used = min(pairs, MOST_PAIRS)
    signs, kernel, scores = (
        rng.normal(size=shape) for shape in ((swaps + 1, used), (used, used), (swaps + 1, 2 * used))
    )
    rate = 2.0 * used**2 * (swaps + 1) / seconds(lambda: signs @ kernel, repeats)
    sorting = seconds(lambda: np.argsort(scores, axis=1), repeats)
    test = seconds(lambda: two_sample_test(target, references, drawn), repeats)
    return Taken(test, operations(pairs, swaps) / rate + sorting, operations(pairs, swaps))


def main() -> None:
    """Print a line for each number of pairs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, nargs="+", default=[144, 500, 1000, 2000])
    parser.add_argument("--swaps", type=int, nargs="+", default=[299, 999])
    asked = parser.parse_args()
    print("pairs  swaps  CPU s  floor s  ratio  GFLOP")
    for pairs in asked.pairs:
        for swaps in asked.swaps:
            found = measure(pairs, swaps)
            ratio, work = found.test / found.floor, found.operations / 1e9
            print(f"{pairs:5}  {swaps:5}  {found.test:5.3f}  {found.floor:7.3f}  {ratio:5.1f}  {work:5.2f}")


if __name__ == "__main__":
    main()
