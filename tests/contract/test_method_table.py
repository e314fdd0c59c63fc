"""The plans in sample_configs/ name methods, settings, transforms and forget sets that exist."""

import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from unlearn_audit import catalogue
from unlearn_audit.methods.apply import parse_settings
from unlearn_audit.step_transforms import parse_extras

ROOT = Path(__file__).parents[2]
SAMPLES = sorted((ROOT / "sample_configs").glob("*.toml"))
PLANS = [path for path in SAMPLES if "run" in tomllib.loads(path.read_text())]


@pytest.fixture(scope="module")
def table(load_benchmark: Callable[[str], ModuleType]) -> ModuleType:
    """The script tests/benchmarks/method_table.py as a module."""
    return load_benchmark("method_table")


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_every_run_of_a_plan_is_one_that_the_methods_take(path: Path, table: ModuleType) -> None:
    plan = tomllib.loads(path.read_text())
    runs = list(table.runs_of(plan))
    assert len({run.label for run in runs}) == len(runs) > 0
    for run in runs:
        parse_settings(catalogue.load("method", catalogue.METHODS, run.method), run.settings)
        parse_extras(run.extras)
    cases = {case["name"] for case in plan["case"]}
    assert {"random", "class"} <= cases <= {"mislabelled", "random", "class"}
    assert all(set(run.cases) <= cases for run in runs)
    assert set(plan.get("shadows", {}).get("runs", ())) <= {run.label for run in runs}


def test_a_list_among_the_settings_stands_for_each_of_its_values(table: ModuleType) -> None:
    plan = {
        "run": [{"method": "ieu", "settings": {"c": [0.1, 0.2], "alpha": [1.0, 0.9], "steps": 3}}, {"method": "ft"}]
    }
    assert [(run.label, dict(run.settings)) for run in table.runs_of(plan)] == [
        (f"ieu c={c} alpha={alpha}", {"c": c, "alpha": alpha, "steps": 3}) for c in (0.1, 0.2) for alpha in (1.0, 0.9)
    ] + [("ft", {})]


def test_a_plan_runs_from_nothing_to_a_table(
    table: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text(
        'model = "small-cnn"\nepochs = 1\nretrained = 1\nmeasure = ["gaps"]\n'
        '[[case]]\nname = "class"\ndata = "digits"\nforget = "class:3"\n'
        '[[run]]\nmethod = "ieu"\nsettings = { steps = [1, 2] }\n[[run]]\nmethod = "ssd"\n'
    )
    monkeypatch.setattr(sys, "argv", ["method_table.py", str(plan), "--folder", str(tmp_path / "kept")])
    table.main()
    first = capsys.readouterr().out
    for label in ("original", "ieu steps=1", "ieu steps=2", "ssd"):
        assert first.count(f"| {label} |") == 2, first  # once in the case's table, once among the means
    assert first.count("| retrained-1 |") == 1  # a single one has no other to be compared with
    table.main()
    assert capsys.readouterr().out == first


@pytest.mark.slow
def test_a_plan_of_seeds_and_columns_has_one_row_a_run_and_shadow_models_of_its_own(
    table: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text(
        'model = "small-cnn"\nepochs = 1\nretrained = 1\nmeasure = ["gaps", "mia"]\nseeds = [0, 1]\nsample = 20\n'
        'mia = { attacks = ["loss", "ulira"], worst = 0 }\ncolumns = ["accuracy.forget", "mia.ulira.auc"]\n'
        '[shadows]\ncount = 4\nruns = ["ft"]\n'
        '[[case]]\nname = "random"\ndata = "digits?train=200"\nforget = "random:0.2:0"\n'
        '[[run]]\nmethod = "ft"\nsettings = { steps = 1 }\n[[run]]\nmethod = "ssd"\ncases = ["class"]\n'
    )
    monkeypatch.setattr(sys, "argv", ["method_table.py", str(plan), "--folder", str(tmp_path / "kept")])
    table.main()
    lines = capsys.readouterr().out.strip().splitlines()
    rows = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]] for line in lines[4:]}
    assert list(rows) == ["retrained", "original", "ft"]  # ssd is asked for in another case
    assert rows["retrained"][0].count("[") == 0 < rows["ft"][0].count("[")
    assert rows["ft"][1].count("[") == 1  # one number a seed, by shadow models that were fine-tuned, too
