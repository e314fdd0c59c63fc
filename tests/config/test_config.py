"""Who wins when several say something, what is refused, and where a relative path starts."""

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unlearn_audit import audit, catalogue, config
from unlearn_audit.config import (
    AuditConfig,
    Layer,
    RcdSettings,
    anchored_data_spec,
    check_config,
    code_is_allowed,
    environment_layer,
    file_layer,
    find_config,
    outranks_metadata,
    resolve,
)
from unlearn_audit.errors import ConfigError, DataError, UsageError

PRECEDENCE = ("flag", "environment", "config", "found")  # highest first; metadata stands between the last two


def layers(**values: dict[str, Any]) -> list[Layer]:
    return [Layer(origin, values[origin], origin) for origin in PRECEDENCE if origin in values]


def problems(*given_layers: Layer) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        resolve(given_layers)
    assert caught.value.exit_code == 2
    return caught.value.problems


def written(folder: Path, text: str, name: str = "unlearn-audit.toml") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    return folder / name


# ----- precedence


@pytest.mark.parametrize("first", range(4))
def test_the_first_layer_that_says_something_wins(first: int) -> None:
    said = {origin: {"device": f"cuda:{index}"} for index, origin in enumerate(PRECEDENCE) if index >= first}
    found = resolve(layers(**said))
    assert found.config.device == f"cuda:{first}"
    assert found.origins["device"] == PRECEDENCE[first]


def test_what_nobody_says_is_the_default_and_has_no_origin() -> None:
    found = resolve([])
    assert found.config == AuditConfig()
    assert found.origins == {}


def test_layers_are_merged_key_by_key_also_inside_a_section() -> None:
    found = resolve(
        layers(
            flag={"rcd": {"steps": 3}},
            environment={"seed": 5},
            config={"rcd": {"optimizer": "adam", "steps": 7}},
            found={"rcd": {"floor": "best"}, "seed": 6, "mia": {}},
        )
    )
    assert found.config.rcd == RcdSettings(steps=3, optimizer="adam", floor="best")
    assert found.config.seed == 5
    assert found.config.mia is not None
    assert found.origins["rcd.steps"] == "flag"
    assert found.origins["rcd.optimizer"] == "config"
    assert found.origins["rcd.floor"] == "found"
    assert found.origins["seed"] == "environment"


def test_a_list_of_checkpoints_is_taken_as_a_whole() -> None:
    found = resolve(layers(flag={"checkpoint": [{"path": "a"}]}, config={"checkpoint": [{"path": "b"}, {"path": "c"}]}))
    assert [entry.path for entry in found.config.checkpoint] == ["a"]


@given(st.permutations(PRECEDENCE), st.integers(1, 4))
def test_the_order_of_the_layers_decides_and_nothing_else(order: list[str], count: int) -> None:
    given_layers = [Layer(origin, {"seed": index}, origin) for index, origin in enumerate(order[:count])]
    assert resolve(given_layers).config.seed == 0
    assert resolve(given_layers[::-1]).config.seed == count - 1


@pytest.mark.parametrize(
    ("origin", "outranks", "code"),
    [
        ("flag", True, True),
        ("environment", True, False),
        ("config", True, True),
        ("metadata", False, False),
        ("found", False, False),
        ("default", False, False),
    ],
)
def test_who_outranks_a_checkpoint_and_who_may_name_code(origin: str, outranks: bool, code: bool) -> None:
    assert outranks_metadata(origin) == outranks
    assert code_is_allowed(origin) == code


# ----- sections


def test_a_section_switches_its_measurement_on_even_when_it_is_empty(tmp_path: Path) -> None:
    found = resolve([file_layer(written(tmp_path, "[gaps]\n[rcd]\nsteps = 5\n"), origin="config")]).config
    assert found.gaps is not None
    assert found.rcd is not None
    assert found.rcd.steps == 5
    assert found.mia is None


def test_every_section_has_a_measurement() -> None:
    assert set(config.SECTIONS) - {"checkpoint"} == set(audit.MEASUREMENTS)
    assert list(catalogue.SECTION_TITLES) == list(audit.MEASUREMENTS)
    assert set(config.SECTIONS) <= set(AuditConfig.model_fields)


# ----- refusals

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": ({"devise": "cpu"}, "unknown key 'devise'; did you mean 'device'?"),
    "unknown section": ({"rdc": {}}, "unknown key 'rdc'; did you mean 'rcd'?"),
    "unknown key in a section": ({"rcd": {"stepz": 3}}, "unknown key 'rcd.stepz'; did you mean 'steps'?"),
    "unknown key of a checkpoint": (
        {"checkpoint": [{"path": "a", "rle": "x"}]},
        "unknown key 'checkpoint.0.rle'; did you mean 'role'?",
    ),
    "a quoted dotted key": ({"rcd.steps": 3}, "unknown key 'rcd.steps'; did you mean"),
    "empty section has no keys": ({"gaps": {"x": 1}}, "unknown key 'gaps.x'; known: "),
    "version": ({"schema_version": 2}, "schema_version: must be 1"),
    "version true": ({"schema_version": True}, "schema_version: must be 1"),
    "step size": ({"rcd": {"step_size": -1}}, "rcd.step_size: must be 'auto'"),
    "step size nan": ({"rcd": {"step_size": float("nan")}}, "rcd.step_size: must be 'auto'"),
    "step size text": ({"rcd": {"step_size": "0.1"}}, "rcd.step_size: must be 'auto'"),
    "floor": ({"rcd": {"floor": "lowest"}}, " or a number (got 'lowest')"),
    "floor true": ({"rcd": {"floor": True}}, "rcd.floor: must be"),
    "controls": ({"rcd": {"controls": "yes"}}, "rcd.controls: must be true or false (got 'yes')"),
    "steps": ({"rcd": {"steps": 1.5}}, "a whole number (got 1.5)"),
    "steps below 0": ({"rcd": {"steps": -1}}, "at least 0 (got -1)"),
    "optimizer": ({"rcd": {"optimizer": "adm"}}, "unknown optimizer 'adm'; did you mean 'adam'?"),
    "precision": ({"precision": "fp16"}, "unknown precision 'fp16'; did you mean "),
    "device": ({"device": "gpu"}, "unknown device 'gpu'"),
    "device without a number": ({"device": "cuda:"}, "unknown device 'cuda:'"),
    "device with another number": ({"device": "cpu:0"}, "unknown device 'cpu:0'"),
    "seed": ({"seed": -1}, "seed: must be at least 0 (got -1)"),
    "seed true": ({"seed": True}, "seed: must be a whole number"),
    "sample": ({"sample": 0}, "sample: must be greater than 0"),
    "std": ({"std": [0.5, 0.0]}, "std: every std must be greater than 0"),
    "no std": ({"std": []}, "std: must be a list of 1 or more"),
    "mean": ({"mean": [0.5, "x"]}, "mean.1: must be a number (got 'x')"),
    "mean true": ({"mean": True}, "mean: must be a list"),
    "attack": ({"mia": {"attacks": ["los"]}}, "unknown attack 'los'; did you mean 'loss'?"),
    "attack twice": ({"mia": {"attacks": ["loss", "loss"]}}, "attack 'loss' is named twice"),
    "no attack": ({"mia": {"attacks": []}}, "mia.attacks: must be a list of 1 or more"),
    "section for a value": ({"rcd": 3}, "rcd: must be a table (got 3)"),
    "value for a section": ({"seed": {"a": 1}}, "seed: must be a whole number"),
    "one checkpoint for a list": ({"checkpoint": {"path": "a"}}, "checkpoint: must be a list"),
    "checkpoint without a path": ({"checkpoint": [{"role": "original"}]}, "checkpoint.0.path is missing"),
    "role": ({"checkpoint": [{"path": "a", "role": "retraned"}]}, "unknown role 'retraned'; did you mean 'retrained'?"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_key_is_one_line_that_names_it(case: str) -> None:
    values, expected = WRONG[case]
    (line,) = problems(Layer("config", values, "c.toml"))
    assert expected in line
    assert "\n" not in line


def test_every_problem_is_told_at_once() -> None:
    values: dict[str, Any] = {"rcd": {}}
    for key in ("devise", "precision", "std", "seed", "sample"):
        values |= next(wrong for wrong, _ in WRONG.values() if key in wrong)
    values["rcd"] = {"step_size": -1, "optimizer": "adm", "stepz": 1}
    lines = problems(Layer("config", values, "c.toml"))
    for key in ("devise", "precision", "std", "seed", "sample", "step_size", "optimizer", "stepz"):
        assert len([line for line in lines if key in line]) == 1, key
    assert len(lines) == 8


def test_problems_of_several_sources_are_named_as_they_were_given() -> None:
    with pytest.raises(ConfigError) as caught:
        resolve([
            Layer("flag", {"rcd": {"step_size": -1.0}, "batch_size": 0}, "command line"),
            Layer("environment", {"seed": -1}, "environment"),
            Layer("config", {"device": "gpu"}, "c.toml"),
        ])
    text = " | ".join(caught.value.problems)
    assert "--step-size: must be" in text
    assert "--batch-size: must be" in text
    assert "UNLEARN_AUDIT_SEED: must be" in text
    assert "device: unknown device" in text
    assert caught.value.source == "c.toml, command line, environment"


@pytest.mark.parametrize("upper", [{"rcd": 3}, {"rcd": {"steps": 5}}])
@pytest.mark.parametrize("lower", [{"rcd": 3}, {"rcd": {"floor": "best"}}])
def test_a_table_and_a_value_under_one_name_never_crash(upper: dict[str, Any], lower: dict[str, Any]) -> None:
    stack = layers(config=upper, found=lower)
    if upper == {"rcd": 3}:
        assert problems(*stack) == ("rcd: must be a table (got 3)",)
    else:
        assert resolve(stack).config.rcd is not None


def test_the_line_of_a_wrong_key_is_named(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "# first\ndevise = 'cpu'\nmean = [\n 0.5,\n 'x',\n]\n\n[[checkpoint]]\nrole = 'original'\n\n"
        "[rcd]\nsteps = 5\nstep_size = -1\n",
    )
    with pytest.raises(ConfigError) as caught:
        resolve([file_layer(path, origin="config")])
    assert caught.value.source == str(path)
    assert [line.partition(":")[0] for line in caught.value.problems] == ["line 2", "line 3", "line 8", "line 13"]


def test_the_line_is_that_of_a_project_file(tmp_path: Path) -> None:
    path = written(tmp_path, "[project]\nname = 'x'\n\n[tool.unlearn-audit]\nsed = 3\n", "pyproject.toml")
    assert problems(file_layer(path, origin="found")) == ("line 5: unknown key 'sed'; did you mean 'seed'?",)


# ----- checking a file


def test_a_file_is_checked_with_everything_it_names(tmp_path: Path) -> None:
    path = written(
        tmp_path, 'forget = "f.npy"\nretain = "class:3"\nseed = -1\n[[checkpoint]]\npath = "a.safetensors"\n'
    )
    with pytest.raises(ConfigError) as caught:
        check_config(path)
    first, *others = caught.value.problems
    assert first.startswith("nothing to measure: add a section of [gaps], [rcd]")
    assert others == [
        f"line 1: forget: no such file: {tmp_path / 'f.npy'}",
        "line 3: seed: must be at least 0 (got -1)",
        f"line 5: checkpoint.0.path: no such file: {tmp_path / 'a.safetensors'}",
    ]


def test_a_file_without_a_checkpoint_misses_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"checkpoint: none given; add \[\[checkpoint\]\]"):
        check_config(written(tmp_path, "[rcd]\n"))


def test_a_good_file_comes_back(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").touch()
    (tmp_path / "mislabelled.npy").touch()
    path = written(
        tmp_path, 'forget = "mislabelled.npy"\nunseen = "range:0-9"\n[[checkpoint]]\npath = "a.safetensors"\n[rcd]\n'
    )
    assert check_config(path).forget == str(tmp_path / "mislabelled.npy")


# ----- paths


def test_relative_paths_start_at_the_configs_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(
        tmp_path / "a",
        'forget = "f.npy"\nretain = "../r.txt"\nunseen = "/abs/u.npy"\n'
        'data = "npz:d.npz?labels=l.npy"\n[[checkpoint]]\npath = "c.pt"\n[[checkpoint]]\npath = "/abs/c.pt"\n',
    )
    monkeypatch.chdir(tmp_path)
    for given_path in (path, Path("a/unlearn-audit.toml")):
        values = file_layer(given_path, origin="config").values
        assert values["forget"] == str(tmp_path / "a" / "f.npy")
        assert (tmp_path / "a" / values["retain"]).resolve() == tmp_path / "r.txt"
        assert values["unseen"] == "/abs/u.npy"
        assert values["data"] == f"npz:{tmp_path}/a/d.npz?labels={tmp_path}/a/l.npy"
        assert [entry["path"] for entry in values["checkpoint"]] == [str(tmp_path / "a" / "c.pt"), "/abs/c.pt"]


@pytest.mark.parametrize("words", ["class:3,5", "random:0.1:0", "range:0-99", "mislabelled"])
def test_words_are_no_paths(tmp_path: Path, words: str) -> None:
    values = file_layer(written(tmp_path, f'forget = "{words}"\ndata = "digits"\n'), origin="config").values
    assert (values["forget"], values["data"]) == (words, "digits")


@pytest.mark.parametrize("name", ["mislabelled.npy", "class.txt", "random.json", "ranges"])
def test_files_that_begin_like_words_are_paths(tmp_path: Path, name: str) -> None:
    assert (
        file_layer(written(tmp_path, f'forget = "{name}"\n'), origin="config").values["forget"] == f"{tmp_path}/{name}"
    )


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("digits?mislabel=0.1&seed=0", "digits?mislabel=0.1&seed=0"),
        ("idx:d?train=5", "idx:/c/d?train=5"),
        ("folder:/d", "folder:/d"),
        ("folder:~/d", "folder:~/d"),
        ("npz:", "npz:"),
        ("npz:a?labels=", "npz:a?labels=".replace("npz:a", "npz:/c/a")),
        ("torchvision:CIFAR10?root=r", "torchvision:CIFAR10?root=/c/r"),
        ("mine.data:load", "mine.data:load"),
    ],
)
def test_paths_of_a_data_spec(spec: str, expected: str) -> None:
    assert anchored_data_spec(spec, Path("/c")) == expected


@pytest.mark.parametrize("name", ["50%26more", "a&b", "what?", "100%"])
def test_a_folder_with_a_name_that_data_specs_give_a_meaning(tmp_path: Path, name: str) -> None:
    from unlearn_audit.data.spec import parse_spec

    spec = file_layer(written(tmp_path / name, 'data = "npz:a%26b.npz"\n'), origin="config").values["data"]
    assert parse_spec(spec).target == str(tmp_path / name / "a&b.npz")


# ----- files that are found


def test_the_nearest_config_is_found_here_or_above(tmp_path: Path) -> None:
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    assert find_config(deep) is None
    project = written(tmp_path, "[tool.unlearn-audit]\n", "pyproject.toml")
    assert find_config(deep) == project
    above = written(tmp_path, "")
    assert find_config(deep) == above
    near = written(tmp_path / "a", "[tool.unlearn-audit.rcd]\nsteps = 3\n", "pyproject.toml")
    assert find_config(deep) == near
    here = written(deep, "")
    assert find_config(deep) == here


@pytest.mark.parametrize(
    ("text", "ours"),
    [
        ("[tool.unlearn-audit]\n", True),
        ('[ tool . "unlearn-audit" ]\n', True),
        ("[tool]\nunlearn-audit = { seed = 1 }\n", True),
        ("[tool.other]\n# [tool.unlearn-audit]\n", False),
        ('[project]\ndependencies = ["unlearn-audit"]\n', False),
        ("[project\nbroken by somebody else, unlearn-audit\n", False),
        ("[tool.unlearn-audit]\nbroken = = 1\n", True),
    ],
)
def test_a_project_file_counts_with_our_table_only(tmp_path: Path, text: str, ours: bool) -> None:
    path = written(tmp_path, text, "pyproject.toml")
    assert find_config(tmp_path) == (path if ours else None)


def test_only_our_table_of_a_project_file_is_read(tmp_path: Path) -> None:
    path = written(tmp_path, '[project]\nname = "x"\n[tool.unlearn-audit]\nforget = "f.npy"\n',
                   "pyproject.toml")  # fmt: skip
    assert file_layer(path, origin="found").values == {"forget": str(tmp_path / "f.npy")}
    written(tmp_path, '[project]\nname = "x"\n', "pyproject.toml")
    assert file_layer(path, origin="config").values == {}


@pytest.mark.parametrize("text", ["tool = 3\n", "[tool]\nunlearn-audit = 3\n"])
def test_our_table_must_be_one(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="must be a table"):
        file_layer(written(tmp_path, text, "pyproject.toml"), origin="config")


# ----- environment


def test_variables_become_settings() -> None:
    layer = environment_layer(
        {
            "UNLEARN_AUDIT_DEVICE": "cpu", "UNLEARN_AUDIT_SEED": "7", "UNLEARN_AUDIT_BATCH_SIZE": "64",
            "UNLEARN_AUDIT_SAMPLE": "", "UNLEARN_AUDIT_DATA": "digits", "UNLEARN_AUDIT_SOMETHING": "x", "HOME": "/",
        }
    )  # fmt: skip
    assert layer.origin == "environment"
    assert layer.values == {"device": "cpu", "seed": 7, "batch_size": 64, "data": "digits"}
    assert resolve([layer]).config.seed == 7


@pytest.mark.parametrize(
    "name", ["DEVICE", "PRECISION", "DATA", "FORGET", "RETAIN", "UNSEEN", "MODEL", "SEED", "BATCH_SIZE", "SAMPLE"]
)
def test_every_variable_that_the_docstring_names_is_read(name: str) -> None:
    assert f"_{name}`" in (inspect.getdoc(environment_layer) or "")
    assert environment_layer({f"UNLEARN_AUDIT_{name}": "1"}).values.keys() == {name.lower()}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("SEED", "-1"), ("SEED", "1.5"), ("SEED", "many"), ("SEED", "²"), ("SEED", " "), ("SEED", "9" * 30),
        ("SAMPLE", "0"), ("BATCH_SIZE", "1e3"), ("DEVICE", "gpu"), ("PRECISION", "double"),
    ],
)  # fmt: skip
def test_a_wrong_variable_is_refused_by_its_name(name: str, text: str) -> None:
    (line,) = problems(environment_layer({f"UNLEARN_AUDIT_{name}": text}))
    assert line.startswith(f"UNLEARN_AUDIT_{name}: ")


# ----- code of the user's own comes from a flag or a named config only

MODULE = """
import torch
import numpy as np
def net():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
def data():
    x = np.random.default_rng(0).random((40, 1, 2, 2), dtype=np.float32)
    y = np.arange(40) % 2
    return {"x_train": x, "y_train": y, "x_test": x + 1, "y_test": y}
"""


@pytest.fixture
def own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with code of the user's own and a bare checkpoint that needs it, as the current folder."""
    import torch

    (tmp_path / "ours_for_test_config.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    torch.save({"1.weight": torch.zeros(2, 4), "1.bias": torch.zeros(2)}, "c.pt")
    np.save("f.npy", np.arange(5))
    return tmp_path


@pytest.mark.parametrize("origin", ["flag", "environment", "config", "found"])
@pytest.mark.parametrize("key", ["model", "data"])
def test_a_callable_is_run_for_flags_and_named_configs_only(own_code: Path, origin: str, key: str) -> None:
    code = {"model": "ours_for_test_config:net", "data": "ours_for_test_config:data"}
    rest = {name: spec for name, spec in code.items() if name != key}
    base = {"checkpoint": [{"path": "c.pt"}], "forget": "f.npy", "mia": {}, "device": "cpu", **rest}
    stack = [Layer("flag", base, "command line"), Layer(origin, {key: code[key]}, origin)]
    request = resolve(stack)
    if code_is_allowed(origin):
        assert audit.run_audit(request.config, origins=request.origins).measurements
    else:
        with pytest.raises((DataError, UsageError), match=rf"(?s)code.*--{key}"):
            audit.run_audit(request.config, origins=request.origins)


@pytest.mark.parametrize("origin", ["config", "found"])
def test_a_checkpoint_entrys_callable_likewise(own_code: Path, origin: str) -> None:
    entry = {"path": "c.pt", "model": "ours_for_test_config:net"}
    base = {"forget": "f.npy", "mia": {}, "device": "cpu", "data": "ours_for_test_config:data"}
    request = resolve([Layer("flag", base, "command line"), Layer(origin, {"checkpoint": [entry]}, origin)])
    if origin == "config":
        assert audit.run_audit(request.config, origins=request.origins).measurements
    else:
        with pytest.raises(UsageError, match=r"code.*--model"):
            audit.run_audit(request.config, origins=request.origins)


# ----- texts that say nothing


@pytest.mark.parametrize(
    "spec", ["class:", "class:,", "class:3,", "random:", "random:2.5", "range:", "range:5", "range:5-"]
)
@pytest.mark.parametrize("key", ["forget", "retain", "unseen"])
def test_index_words_that_name_nothing_are_refused(key: str, spec: str, tmp_path: Path) -> None:
    (line,) = problems(Layer("flag", {key: spec}, "command line"))
    assert line.startswith(f"--{key}: '{spec}' is incomplete or malformed; it is written ")
    with pytest.raises(ConfigError, match="is incomplete or malformed"):
        check_config(written(tmp_path, f'{key} = "{spec}"\n'))


@pytest.mark.parametrize("spec", ["class:3", "class:3,5", "class:red fox", "random:0.1", "random:.5:7", "random:40:1"])
def test_index_words_that_name_something_are_taken(spec: str) -> None:
    assert resolve([Layer("flag", {"forget": spec})]).config.forget == spec


NOTHING = ['forget = ""', 'data = ""', 'model = ""', '[mia]\nshadows = ""', '[[checkpoint]]\npath = ""',
           '[[checkpoint]]\npath = "a"\nlabel = ""']  # fmt: skip


@pytest.mark.parametrize("text", NOTHING)
def test_a_text_that_is_empty_is_no_name_of_the_configs_own_folder(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        check_config(written(tmp_path, text))
    said = [line for line in caught.value.problems if "must say something" in line or "not empty" in line]
    assert len(said) == 1, caught.value.problems


def test_a_broken_or_endless_project_file_on_the_way_is_no_crash(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("# unlearn-audit\na = " + "[" * 5000)
    assert find_config(tmp_path) is None or find_config(tmp_path) != tmp_path / "unlearn-audit.toml"
    with (tmp_path / "pyproject.toml").open("wb") as stream:
        stream.truncate(3 << 30)
    with pytest.raises(ConfigError, match="larger than"):
        find_config(tmp_path)


def test_names_that_no_file_can_have_are_told_as_files_that_are_not_there(tmp_path: Path) -> None:
    name = "n" * 300
    with pytest.raises(ConfigError) as caught:
        check_config(written(tmp_path, f'forget = "{name}.npy"\n[rcd]\n[[checkpoint]]\npath = "{name}"\n'))
    assert ["no such file" in line for line in caught.value.problems] == [True, True]
