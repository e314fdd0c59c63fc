"""`validate` on what only methods, models and data sources can tell: every problem at once, each with its line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unlearn_audit.audit.config_checks import attack_problems, problems_of

Cli = Callable[..., Any]

BAD = """\
schema_version = 1
data = "idx:/nowhere"
forget = "missing.npy"
model = "resnt20"
[[checkpoint]]
path = "a.safetensors"
model = "torchvision:resnet19"
[[train]]
label = "original"
recipe = "smal"
[[apply]]
label = "u"
method = "ieu"
steps = 5
[[apply]]
label = "v"
method = "ieu"
settings = { stepz = 5, c = 3, schedule = "cos" }
transforms = ["mask:saliency,dens=1", "foo"]
[[apply]]
label = "w"
method = "ssd"
transforms = ["l1"]
[mia]
shadows = "nowhere"
[rcd]
steps = "x"
"""
LINES = {
    2: "data: no such file or folder: /nowhere",
    3: "forget: no such file: ",
    4: "model: unknown model 'resnt20'; did you mean 'resnet20'?",
    6: "checkpoint.0.path: no such file: ",
    7: "checkpoint.0.model: torchvision has no image classifier 'resnet19'",
    10: "train.0.recipe: unknown recipe 'smal'; did you mean 'small'?",
    14: "unknown key 'apply.0.steps'; ",
    18: "apply.1.settings: unknown key 'stepz'; did you mean 'steps'?",
    19: "apply.1.transforms: unknown key 'dens'; did you mean 'density'?",
    23: "apply.2.transforms: ssd takes none",
    25: "mia.shadows: no such folder: ",
    27: "rcd.steps: must be 'auto' or a whole number",
}


def test_every_problem_is_told_with_its_line(run: Cli, here: Path) -> None:
    (here / "bad.toml").write_text(BAD)
    done = run("validate", "bad.toml")
    assert done.code == 2
    told = done.stderr.splitlines()
    for line, says in LINES.items():
        assert any(text.startswith(f"  - line {line}: {says}") for text in told), (line, done.stderr)
    for says in (
        "settings: c: must be at most 1",
        "schedule: must be constant, linear",
        "unknown transform 'foo'",
        "into settings = {",
    ):
        assert says in done.stderr
    assert len(told) == 1 + len(LINES) + 3


def test_a_policy_is_known_by_its_rules(run: Cli, here: Path) -> None:
    (here / "policy.toml").write_text('schema_version = 1\n[[rule]]\nid = "a"\nmetric = "accuracy.tst"\nmin = 0.5\n')
    done = run("validate", "policy.toml")
    assert done.code == 2
    assert "line 4: rule.0.metric: unknown metric 'accuracy.tst'; did you mean 'accuracy.test'?" in done.stderr
    shipped = Path(__file__).parents[2] / "unlearn_audit/policies"
    assert [run("validate", path).code for path in shipped.glob("*.toml")] == [0] * 5


RETRAINED = [{"method": "retrain"}, {"method": "my.module:anew"}]


@pytest.mark.parametrize(
    ("models", "known"),
    [
        ({}, 2),  # named on the command line
        ({"checkpoint": [{"role": "original"}]}, 0),
        ({"checkpoint": [{"role": "original"}, {}], "apply": [{"method": "ieu"}]}, 1),  # {}: its metadata says what
        ({"train": [{"without": False}, {"without": True}], "apply": [{"method": "retrain"}]}, 2),
        ({"train": [{"label": "original"}], "apply": RETRAINED}, 2),
    ],
)
def test_nn_wants_two_models_that_may_be_retrained(models: dict[str, Any], known: int) -> None:
    told = [issue.text for issue in attack_problems({"mia": {"attacks": ["loss", "nn"]}, **models})]
    assert len(told) == (known < 2)
    assert (
        not told or f"at least 2 retrained models, three for their own level, and {known or 'none'} can be" in told[0]
    )


@pytest.mark.parametrize(
    ("model", "attack", "says"),
    [
        ("small-unet", "confidence", "confidence needs class probabilities, and small-unet is a generator"),
        ("small-unet", "nn", "those are asked by loss, pia, secmi"),
        ("small-cnn", "pia", "pia asks a denoiser, and small-cnn is a classifier"),
        ("small-unet", "secmi", None),
        ("small-unet", "loss", None),
        ("small-cnn", "loss", None),
        ("small-cnn", "my.module:attack", None),
    ],
)
def test_attacks_fit_the_kind_of_models_that_are_trained(model: str, attack: str, says: str | None) -> None:
    trained = {"train": [{"label": "original"}, {"label": "r-1", "without": True}, {"label": "r-2", "without": True}]}
    told = [issue.text for issue in attack_problems({"model": model, "mia": {"attacks": [attack]}, **trained})]
    assert len(told) == (says is not None)
    assert says is None or says in told[0]


@pytest.mark.parametrize(
    "values",
    [
        {"data": 3, "model": [], "mia": "x", "apply": 3, "train": [3], "checkpoint": [{"model": 1}]},
        {"apply": [{"method": ["ieu"]}], "train": {"recipe": "x"}},
        {"apply": [{"method": "ieu", "settings": 3, "transforms": "x"}, {"method": "ssd", "transforms": 3}]},
        {"data": "my.module:load", "model": "my.module:make"},
    ],
)
def test_values_of_any_type_are_looked_at_and_no_code_is_run(values: dict[str, Any]) -> None:
    list(problems_of(values))
