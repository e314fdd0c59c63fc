"""What CONTRIBUTING tells a newcomer to write works as it stands there, and every file that a page names is there."""

import ast
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from textwrap import dedent
from typing import Annotated, Any, ClassVar

import numpy as np
import pytest
from made_up_evidence import Floats, made_up
from pydantic import Field
from small_problems import Plain, make_context, make_small_splits, same, snapshot

from unlearn_audit import attacks, catalogue, engine, errors, methods
from unlearn_audit.audit.measurement import measurement
from unlearn_audit.methods import loop

ROOT = Path(__file__).parents[2]
PAGES = {path.name: path.read_text() for path in (ROOT / "README.md", *sorted((ROOT / ".github").rglob("*.md")))}
CONTRIBUTING = PAGES["CONTRIBUTING.md"]


def code(heading: str) -> list[str]:
    """Return the Python blocks below a heading."""
    section = CONTRIBUTING.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return [dedent(block) for block in re.findall(r"^ *```python\n(.*?)^ *```", section, re.MULTILINE | re.DOTALL)]


def names(text: str, *modules: Any, **more: Any) -> dict[str, Any]:
    """Run a block with the names of some modules, and return what it defines and was given."""
    space: dict[str, Any] = {name: value for module in modules for name, value in vars(module).items()}
    space |= {"Any": Any, "ClassVar": ClassVar, "Mapping": Mapping, "Field": Field, "__name__": "skeleton"} | more
    exec(text, space)
    return space


def test_the_method_that_is_shown_takes_a_step(noise: Callable[..., Any]) -> None:
    (text,) = code("Adding a method")
    found = names(text, engine, methods, loop)
    method, model = found["NAME"], Plain()
    before = snapshot(model)
    done = method.run(make_context(model, make_small_splits(noise)), method.settings(epochs=None, steps=1))
    assert done.steps == 1
    assert not same(before, model)


def test_the_attack_that_is_shown_scores() -> None:
    text, with_settings = code("Adding an attack")
    attack = names(text, attacks, errors, Floats=Floats)["name"]
    evidence = made_up(0)
    assert np.isfinite(attack.score(evidence)).all()
    with pytest.raises(errors.MeasurementError, match="needs shadow models"):
        attack.score(replace(evidence, shadows=None))
    more = {"Annotated": Annotated, "partial": partial, "_score": lambda evidence, weight: np.full(12, weight)}
    settable = names(with_settings, attacks, **more)["name"].with_settings({"weight": 2.0, "of_another": 3})
    assert settable.score(evidence).tolist() == [2.0] * 12
    assert settable.settings.model_dump() == {"weight": 2.0}


def test_the_metric_that_is_shown_is_one_and_is_made_as_measurements_are() -> None:
    entry, made = code("Adding a metric")
    assert isinstance(eval(entry, vars(catalogue.metrics)), catalogue.MetricInfo)
    (call,) = (node for node in ast.walk(ast.parse(made)) if isinstance(node, ast.Call) and len(node.args) == 4)
    inspect.signature(measurement).bind(*call.args, **{str(one.arg): one.value for one in call.keywords})


def test_the_data_source_that_is_shown_has_the_signature_of_one() -> None:
    from unlearn_audit.data import sources

    (text,) = code("Adding a data source")
    made, real = names(text, sources)["name"], sources.npz
    assert list(inspect.signature(made).parameters) == list(inspect.signature(real).parameters)


@pytest.mark.parametrize("page", PAGES)
def test_a_file_that_a_page_names_is_there(page: str) -> None:
    for path in re.findall(r"`((?:unlearn_audit|tests|sample_configs|\.github|\.ci)/[^`\s]*)`", PAGES[page]):
        if "NAME" not in path and "FILE" not in path:
            assert (ROOT / path).exists(), path


def test_tables_of_the_catalogue_that_are_named_are_there() -> None:
    for name in re.findall(r"`([A-Z_]{5,})` in `unlearn_audit/catalogue/\w+.py`", CONTRIBUTING):
        assert name in catalogue.__all__


def test_versions_of_documents_that_are_stated_are_those_of_the_code() -> None:
    from unlearn_audit.report import SCHEMA_VERSION

    assert f"| report (`report.json`) | {SCHEMA_VERSION} |" in PAGES["CHANGELOG.md"]
