"""Methods of the user's own: by name on the command line and in a named config, never because a file says so."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from unlearn_audit import catalogue
from unlearn_audit.checkpoints import read_checkpoint, write_checkpoint
from unlearn_audit.errors import UsageError
from unlearn_audit.methods.lookup import find_method

Cli = Callable[..., Any]

CODE = '''
import torch
from pydantic import Field
from unlearn_audit.methods import Method, Settings, Unlearned


class ShrinkSettings(Settings):
    by: float = Field(default=0.5, gt=0, lt=1, description="factor on every weight")


def run(context, settings):
    """Shrink every weight."""
    if not context.count_only:
        with torch.no_grad():
            for parameter in context.model.parameters():
                parameter *= settings.by
    return Unlearned(1, 0, notes=("weights were shrunk",))


def shrink():
    return Method("shrink", "ours", ShrinkSettings, run, composes=False)


def taken():
    return Method("ieu", "ours", ShrinkSettings, run)


def nothing():
    return None
'''


@pytest.fixture
def mine(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with methods of the user's own, which is the current one."""
    monkeypatch.delitem(sys.modules, "my_methods", raising=False)
    (here / "my_methods.py").write_text(CODE)
    return here


def shrunk(path: Path, parent: Path, by: float) -> bool:
    made, before = read_checkpoint(path).state, read_checkpoint(parent).state
    return torch.equal(made["fc.weight"], before["fc.weight"] * by)


def test_a_name_of_the_catalogue_is_found_there() -> None:
    assert find_method("ieu", allow_code=False) is catalogue.load("method", catalogue.METHODS, "ieu")


def test_apply_takes_the_users_own_with_its_settings_as_flags(mine: Path, target: Path, run: Cli) -> None:
    parent = target / "original.safetensors"
    words = ("--forget", target / "forget.npy", "--out", "u.safetensors", "--by", 0.25)
    done = run("apply", "my_methods:shrink", parent, *words)
    assert done.code == 0, done.stderr
    assert "note: weights were shrunk" in done.stderr
    assert shrunk(mine / "u.safetensors", parent, 0.25)
    metadata = read_checkpoint(mine / "u.safetensors").metadata
    assert metadata is not None
    assert (metadata.method, metadata.settings, metadata.role) == ("my_methods:shrink", {"by": 0.25}, "unlearned")


def test_its_help_is_that_of_any_method(mine: Path, run: Cli) -> None:
    told = run("apply", "my_methods:shrink", "--help").stdout
    assert "Shrink every weight." in told
    assert "--by" in told


@pytest.mark.parametrize(("name", "says"), [
    ("my_methods:taken", "not one of ours: 'ieu'"),
    ("my_methods:nothing", "returned NoneType; an unlearn_audit.methods.Method is needed"),
    ("my_methods:absent", "cannot be imported .*: AttributeError"),
    ("no_such_module:shrink", "cannot be imported .*: ModuleNotFoundError"),
])  # fmt: skip
def test_what_is_no_method_is_refused(mine: Path, name: str, says: str, run: Cli) -> None:
    with pytest.raises(UsageError, match=says):
        find_method(name, allow_code=True)
    assert run("apply", name, "o.safetensors", "--forget", "class:3", "--out", "u.safetensors").code == 2


def config(target: Path, **more: str) -> str:
    """Return a config that shrinks an original by a method of the user's own."""
    settings = more.get("settings", "by = 0.25")
    return (
        f'forget = "{target}/forget.npy"\ndevice = "cpu"\n[gaps]\n'
        f'[[checkpoint]]\npath = "{target}/original.safetensors"\nlabel = "original"\n'
        f'[[apply]]\nlabel = "mine"\nmethod = "my_methods:shrink"\nsettings = {{ {settings} }}\n'
    )


def test_a_named_config_may_name_it_and_other_code_is_another_model(mine: Path, target: Path, run: Cli) -> None:
    (mine / "named.toml").write_text(config(target))
    done = run("audit", "named.toml", "--out", "report")
    assert done.code == 0, done.stderr
    first = [*(mine / "report" / "models").glob("mine-*.safetensors")]
    assert len(first) == 1
    assert shrunk(first[0], target / "original.safetensors", 0.25)
    (mine / "my_methods.py").write_text(CODE.replace("*= settings.by", "*= settings.by / 2"))
    del sys.modules["my_methods"]
    done = run("audit", "named.toml", "--out", "report", "--force")
    assert done.code == 0, done.stderr
    (second,) = {*(mine / "report" / "models").glob("mine-*.safetensors")} - {*first}
    assert shrunk(second, target / "original.safetensors", 0.125)


def test_settings_that_it_does_not_take_are_refused_before_anything_is_made(mine: Path, target: Path, run: Cli) -> None:
    (mine / "named.toml").write_text(config(target, settings="by = 2.0"))
    done = run("audit", "named.toml", "--out", "report")
    assert done.code == 2
    assert "settings of shrink: by: must be less than 1" in done.stderr


def test_a_config_that_was_merely_found_runs_no_code(mine: Path, target: Path, run: Cli) -> None:
    from unlearn_audit.audit.build_models import make_models
    from unlearn_audit.config import file_layer, resolve

    (mine / "my_methods.py").write_text("raise SystemExit('this ran')")
    (mine / "unlearn-audit.toml").write_text(config(target))
    request = resolve([file_layer(mine / "unlearn-audit.toml", origin="found")])
    with pytest.raises(UsageError, match="a config that was merely found may not choose it"):
        make_models(request, mine / "report")


def test_a_fleet_is_not_put_through_code_that_a_file_names(mine: Path, target: Path, run: Cli) -> None:
    read = read_checkpoint(target / "unlearned.safetensors")
    assert read.metadata is not None
    other = read.metadata.model_copy(update={"method": "my_methods:shrink", "settings": {}})
    write_checkpoint(mine / "u.safetensors", read.state, other, force=False)
    done = run("shadows", "plan", "fleet", "u.safetensors", "--forget", target / "forget.npy", "--count", 4)
    assert done.code == 2, done.stderr
    assert "was unlearned by my_methods:shrink, which is code" in done.stderr
