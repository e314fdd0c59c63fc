"""The check of a GPU runs to its end on a CPU at toy size, agrees with itself, and fails where something is broken."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from unlearn_audit import catalogue

KEYS = {"name", "value", "unit", "low", "high", "limit", "aim", "how", "reason", "excused"}
SOME = ("ft", "ieu", "fisher")  # a loop, one with noise of the device, one without steps


@pytest.fixture(scope="module")
def check(load_benchmark: Callable[[str], ModuleType]) -> ModuleType:
    """The script tests/benchmarks/gpu_check.py as a module."""
    return load_benchmark("gpu_check")


def document(check: ModuleType, folder: Path, *flags: str) -> dict[str, Any]:
    """Run the check on the CPU; return what it wrote, which must agree with how it ended."""
    out = folder / "gpu.json"
    code = check.main(["--device", "cpu", "--out", str(out), *flags])
    found: dict[str, Any] = json.loads(out.read_text())
    assert code == (0 if found["passed"] else 1)
    return found


def test_it_ends_on_a_cpu_and_agrees_with_itself(
    check: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = document(check, tmp_path, "--methods", *SOME)
    assert found["faults"] == []
    assert (found["schema_version"], found["size"], found["machine"]["card"]) == (1, "toy", None)
    figures = {each["name"]: each for each in found["figures"]}
    assert all(set(each) == KEYS for each in found["figures"])
    assert len(figures) == len(found["figures"])
    compared = [each for each in found["figures"] if each["limit"] is not None]
    assert {"curve: gd", "curve: adam", "areas: gd", "logits", *(f"weights: {name}" for name in SOME)} <= set(figures)
    assert all(each["value"] == 0 for each in compared if "bf16" not in each["name"])
    assert 0 < figures["curve: gd in bf16"]["value"] < 1e-2
    for name in ("rcd.fp32.speed", "rcd.fp32.of_usual", "rcd.bf16.share_of_floor", "ieu.fp32.of_bare", "shadow.fp32"):
        assert 0 < figures[name]["low"] <= figures[name]["value"] <= figures[name]["high"]
    for name in ("waits", "graph", "compile"):
        assert (figures[name]["value"], figures[name]["reason"]) == (None, "needs a CUDA device")
    table = capsys.readouterr().out.splitlines()
    assert len(table) == len(figures) + 1
    assert max(map(len, table[:-1])) <= 80
    assert table[-1].startswith("passed; ")


def parity_alone(check: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out all parts but the comparison with the CPU."""
    every = check.parts
    monkeypatch.setattr(check, "parts", lambda *given: [each for each in every(*given) if each.name == "parity"])


def fourth(call: Callable[..., Any], spoil: Callable[[Any, tuple[Any, ...]], Any]) -> Callable[..., Any]:
    """Return a function every fourth answer of which is spoiled: the device's, after the CPU's three."""
    calls: list[int] = []

    def spoiled(*given: Any, **named: Any) -> Any:
        calls.append(1)
        answer = call(*given, **named)
        return answer if len(calls) % 4 else spoil(answer, given)

    return spoiled


def test_a_curve_that_is_another_one_fails_it(
    check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parity_alone(check, monkeypatch)
    wrong = fourth(check.gpu_parity.relearn, lambda curve, given: replace(curve, loss=curve.loss * 1.001))
    monkeypatch.setattr(check.gpu_parity, "relearn", wrong)
    found = document(check, tmp_path, "--methods", "mask-only")
    assert found["faults"] == [f"curve: {name}" for name in check.gpu_parity.ALGORITHMS]


def test_a_method_that_makes_other_weights_fails_it(
    check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parity_alone(check, monkeypatch)
    monkeypatch.setattr(check.gpu_parity, "curves", lambda device, spec: iter(()))

    def sign(done: Any, given: tuple[Any, ...]) -> Any:
        with torch.no_grad():
            given[1].model.conv2.weight.mul_(1.01)
        return done

    monkeypatch.setattr(check.gpu_parity, "run_method", fourth(check.gpu_parity.run_method, sign))
    assert document(check, tmp_path, "--methods", *SOME)["faults"] == [f"weights: {name}" for name in SOME]


def test_a_part_that_breaks_or_refuses_is_a_fault_and_the_rest_goes_on(
    check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks() -> Iterator[Any]:
        yield check.Figure("first", 1.0)
        raise RuntimeError("out of\nmemory")

    monkeypatch.setitem(check.gpu_parity.SHORT, "reference", {"least": 5000})
    monkeypatch.setattr(check.gpu_parity, "curves", lambda device, spec: iter(()))
    every = check.parts
    monkeypatch.setattr(
        check,
        "parts",
        lambda *given: [
            check.Part("broken", breaks),
            *(part for part in every(*given) if part.name == "parity"),
            check.Part("last", lambda: [check.Figure("last", float("nan"), limit=1.0)][:0]),
        ],
    )
    found = document(check, tmp_path, "--methods", "reference", "mask-only")
    assert found["faults"] == ["broken", "weights: reference"]
    figures = {each["name"]: each for each in found["figures"]}
    assert figures["broken"]["reason"] == "RuntimeError: out of\nmemory"
    assert "5000 are needed" in figures["weights: reference"]["reason"]
    assert figures["weights: mask-only"]["value"] == 0


def test_without_time_nothing_is_begun(check: ModuleType, tmp_path: Path) -> None:
    found = document(check, tmp_path, "--minutes", "0")
    assert found["passed"]
    assert {each["reason"] for each in found["figures"]} == {"no time was left (--minutes)", "needs a CUDA device"}


@pytest.mark.slow
def test_every_method_agrees_with_itself(check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parity_alone(check, monkeypatch)
    found = document(check, tmp_path)
    assert found["faults"] == []
    assert {each["name"] for each in found["figures"]} >= {f"weights: {name}" for name in catalogue.METHODS}
    assert all(each["limit"] < 0.1 for each in found["figures"])  # a wrong sign moves an update by a tenth or more


@pytest.mark.gpu
def test_the_whole_check_passes_on_a_gpu(check: ModuleType, tmp_path: Path) -> None:
    code = check.main(["--device", "cuda", "--out", str(tmp_path / "gpu.json")])
    assert code == 0, (tmp_path / "gpu.json").read_text()
