"""The generators' table says what the reports say, and its configs are configs."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from unlearn_audit.config import Layer, resolve
from unlearn_audit.report import AuditReport

Make = Callable[..., Any]
SHARE = "rcd.ratio_to_retrained"


@pytest.fixture(scope="module")
def bench(load_benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return load_benchmark("generators")


def asked(bench: ModuleType, monkeypatch: pytest.MonkeyPatch, *words: str) -> Any:
    monkeypatch.setattr(sys, "argv", ["generators.py", "--folder", "kept", *words])
    return bench.read_arguments()


def test_a_seeds_config_is_one_and_has_every_row(bench: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    config = resolve([Layer("flag", bench.config_of(asked(bench, monkeypatch), 7), "test")]).config
    assert [entry.label for entry in config.train] == ["original", *(f"retrained-{number}" for number in range(1, 6))]
    assert len({entry.seed for entry in config.train}) == 6
    labels = [entry.label for entry in config.apply]
    assert labels[:5] == [f"swap-{other}" for other in (4, 5, 6, 7, 8)]
    assert len(labels) == len(set(labels)) == 5 + len(bench.ROWS)
    assert set(map(bench.label, bench.TABLE_3)) <= set(labels)
    assert len(bench.TABLE_3) == 8


def test_a_smaller_run_asks_for_the_same_models(bench: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = bench.config_of(asked(bench, monkeypatch), 7)
    part = bench.config_of(asked(bench, monkeypatch, "--retrained", "2", "--swaps", "1", "--rows", "esd,salun-ga"), 7)
    assert part["train"] == whole["train"][:3]
    assert [entry["label"] for entry in part["apply"]] == ["swap-4", "esd", "salun-ga"]
    assert all(entry in whole["apply"] for entry in part["apply"])


@pytest.fixture
def reports(make_report: Make, make_measurement: Make) -> list[AuditReport]:
    """Two seeds: retrained models at about 1, a swap, ESD and SalUn with GA."""
    shares = {"retrained-1": (0.9, 1.2), "retrained-2": (1.1, 0.8), "swap-4": (0.2, 0.4), "esd": (0.5, 0.7)}
    found = []
    for seed in range(2):
        measured = [
            make_measurement(SHARE, label, value=values[seed], interval=(values[seed] - 0.1, values[seed] + 0.1),
                             role="retrained" if "retrained" in label else "unlearned")
            for label, values in shares.items()
        ]  # fmt: skip
        measured.append(make_measurement(SHARE, "salun-ga", role="unlearned", value=None, reason="diverged"))
        found.append(make_report(*measured))
    return found


def test_a_share_is_one_number_a_seed(bench: ModuleType, reports: list[AuditReport]) -> None:
    shares = bench.levels_of(reports, SHARE)
    assert shares["retrained"] == pytest.approx([1.0, 1.0])
    assert shares["swap"] == [0.2, 0.4]
    assert "salun-ga" not in shares
    lines = list(bench.table_of_seeds(reports, "share of retrained"))
    assert "| swap | 0.30 | [-0.97, 1.57] | 2 | 0.20 | 0.40 |" in lines  # t of one degree of freedom: 12.7 x 0.1


def test_what_has_no_value_has_a_dash_and_no_place_in_the_order(bench: ModuleType, reports: list[AuditReport]) -> None:
    rows = list(bench.table_of(reports[0]))
    assert any(row.startswith("| esd |") and "0.50 [0.40, 0.60]" in row for row in rows)
    assert any(row.startswith("| salun-ga |") and "0." not in row for row in rows)
    assert next(iter(bench.order_of_table_3(reports))) == "share of retrained: ESD 0.60"


def test_error_rates_count_models_of_a_kind_together(
    bench: ModuleType, reports: list[AuditReport], tmp_path: Path
) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text(f'schema_version = 1\n[[rule]]\nid = "share"\nmetric = "{SHARE}"\nmin = 0.55\n')
    rows = {line.split(" | ")[0].strip("| "): line for line in bench.error_rates(reports, policy)}
    assert "4 of 4 [0.51, 1.00] | 0 of 4" in rows["retrained"]
    assert "0 of 2 [0.00, 0.66] | 2 of 2" in rows["swap"]
    assert "share (failed) 2" in rows["swap"]
    assert "2 of 2 [0.34, 1.00] | share (inconclusive) 2" in rows["salun-ga"]
