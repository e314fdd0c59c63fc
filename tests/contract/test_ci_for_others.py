"""What other projects take from here: the sample configs and the pre-commit hook; Action and GitLab job are apart."""

import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from unlearn_audit.config import file_layer, resolve

Cli = Callable[..., Any]
ROOT = Path(__file__).parents[2]
SAMPLES = [
    path
    for path in sorted((ROOT / "sample_configs").glob("*.toml"))
    if not {"run", "rule"} & set(tomllib.loads(path.read_text()))
]
ACTION: Mapping[str, Any] = yaml.safe_load((ROOT / ".github/actions/audit/action.yml").read_text())


# ----- sample configs


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_a_sample_config_loads_and_measures_something(path: Path) -> None:
    config = resolve([file_layer(path, origin="config")]).config
    assert config.data
    assert config.forget
    assert config.checkpoint or config.train
    assert config.rcd is not None


def test_there_is_a_sample_for_each_kind_of_user() -> None:
    assert {path.stem for path in SAMPLES} == {
        "quickstart", "fashion-mnist", "class-wise", "cifar10-resnet18", "cifar10-resnet50", "tinyimagenet-vit",
        "own-checkpoints", "entanglement-digits", "amun-cifar10-resnet18", "generation", "study-fashion-mnist",
        "study-tinyimagenet"}  # fmt: skip


def test_methods_and_transforms_of_the_samples_take_their_settings() -> None:
    from unlearn_audit import catalogue
    from unlearn_audit.methods.apply import parse_settings
    from unlearn_audit.step_transforms import parse_extras

    for path in SAMPLES:
        for entry in resolve([file_layer(path, origin="config")]).config.apply:
            parse_settings(catalogue.load("method", catalogue.METHODS, entry.method), entry.settings)
            parse_extras(entry.transforms)


# ----- pre-commit


def test_the_hook_validates_several_files(run: Cli, tmp_path: Path) -> None:
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    assert hook["entry"].split()[0] in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    verb = hook["entry"].split()[1]
    good, bad, worse = (tmp_path / name for name in ("good.toml", "bad.toml", "worse.toml"))
    good.write_text((ROOT / "sample_configs" / "quickstart.toml").read_text())
    bad.write_text('forgot = "class:3"\n')
    worse.write_text("no TOML")
    assert run(verb, good, good).code == 0
    done = run(verb, bad, good, worse)
    assert done.code == 2
    assert "forgot" in done.stderr
    assert "worse.toml" in done.stderr
    assert "good.toml: a valid config" in done.stderr
