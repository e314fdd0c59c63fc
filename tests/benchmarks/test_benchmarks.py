"""The benchmarks compute what they say: on a few small images, both arms take the same curve."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from unlearn_audit.data import Transform
from unlearn_audit.models.cifar import resnet20
from unlearn_audit.relearning import Run


@pytest.fixture(scope="module")
def bench(load_benchmark: Callable[[str], ModuleType]) -> ModuleType:
    """The script tests/benchmarks/bench_relearning.py as a module."""
    return load_benchmark("bench_relearning")


@pytest.fixture(scope="module")
def run(bench: ModuleType) -> Run:
    torch.manual_seed(0)
    net = resnet20(classes=10, channels=3).eval()
    return Run(net, bench.random_images(20, size=8), Transform((0.5,) * 3, (0.25,) * 3))


def test_both_arms_take_the_same_curve(bench: ModuleType, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    found = bench.compare(run, steps=3, step_size=0.01, batch_size=8)
    for arm in (found.ours, found.usual):
        assert len(arm.losses) == len(arm.seconds) == 4
    assert found.largest_difference <= bench.SAME
    assert found.ours.losses[3] < found.ours.losses[0]
    bench.report("random", run, found)
    said = capsys.readouterr().out
    assert said.startswith("random: n = 20, K = 3, 1 threads")
    assert "ratio" in said
    assert "reached of that rate: ours" in said


def test_operations_are_counted_twice_per_multiply_add(bench: ModuleType) -> None:
    layer = torch.nn.Linear(5, 3, bias=False)
    forward, both = bench.flops_of_image(layer, torch.zeros(1, 5))
    assert (forward, both) == (2 * 15, 4 * 15)
    forward, both = bench.flops_of_image(resnet20(classes=10, channels=3).eval(), torch.zeros(1, 3, 32, 32))
    assert forward == pytest.approx(81.1e6, rel=0.01)
    assert both == pytest.approx(3 * forward, rel=0.02)


def test_the_two_sample_tests_floor_is_part_of_what_it_takes(load_benchmark: Callable[[str], ModuleType]) -> None:
    bench = load_benchmark("bench_two_sample")
    assert bench.operations(100, 9) == 10 * (2 * 100**2 + 3 * 42 * 100)
    assert bench.operations(5000, 9) == bench.operations(1000, 9)  # two of the statistics look at a thousand pairs
    found = bench.measure(60, 19, repeats=1)
    assert found.floor > 0
    assert found.test > 0


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the kernel does not tell peaks of memory")
def test_a_set_beyond_its_room_never_takes_its_size(load_benchmark: Callable[[str], ModuleType]) -> None:
    """4096 images of 3 x 16 x 16 numbers are 12 MiB as the network takes them; a chunk of 64 is a 64th of that."""
    growth = load_benchmark("bench_growth")
    _, _, streaming, staying = growth.MEMORY
    few, many, all_of_them = growth.peak(streaming, 1024), growth.peak(streaming, 4096), growth.peak(staying, 4096)
    assert all_of_them - many > 8 * 2**20
    assert many - few < 6 * 2**20


def test_exponents_are_slopes_of_logarithms(load_benchmark: Callable[[str], ModuleType]) -> None:
    growth = load_benchmark("bench_growth")
    assert growth.exponent([1, 2, 4, 8], [3, 12, 48, 192]) == pytest.approx(2)
    axis = growth.Axis("made up", (2, 4), lambda size: sum(range(20_000 * size)))
    assert all(len(each) == 2 and each[0] > 0 for each in growth.times(axis, 2))
