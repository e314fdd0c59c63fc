"""Entries with lists of seeds and of values: which models they stand for, how these are called, what is refused."""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unlearn_audit import catalogue
from unlearn_audit.audit import build_models
from unlearn_audit.audit.config_checks import problems_of
from unlearn_audit.config import ApplyEntry, AuditConfig, Layer, TrainEntry, WrittenConfig, check_config, resolve
from unlearn_audit.errors import ConfigError
from unlearn_audit.methods import Method, Settings
from unlearn_audit.methods.lookup import find_method

Cli = Callable[..., Any]

HEAD = 'data = "digits"\nforget = "class:3"\nmodel = "small-cnn"\n[gaps]\n[[train]]\nlabel = "original"\n'
FIRST = len(HEAD.splitlines()) + 1  # the line that follows


def config_of(
    *apply: Mapping[str, Any], train: tuple[Mapping[str, Any], ...] = ({"label": "original"},)
) -> AuditConfig:
    return resolve([Layer("config", {"train": [*train], "apply": [*apply]}, "c.toml")]).config


def told(folder: Path, text: str) -> list[str]:
    """Return what `validate` tells of a config that goes on with this text, each with its line."""
    (folder / "c.toml").write_text(HEAD + text)
    with pytest.raises(ConfigError) as caught:
        check_config(folder / "c.toml", also=problems_of)
    return [*caught.value.problems]


# ----- what an entry stands for


def test_seeds_make_a_model_each_that_is_called_by_its_seed() -> None:
    config = config_of(train=({"label": "original"}, {"label": "retrained", "without": True, "seeds": [3, 1]}))
    assert config.train == (
        TrainEntry(label="original"),
        TrainEntry(label="retrained-3", without=True, seed=3),
        TrainEntry(label="retrained-1", without=True, seed=1),
    )


def test_every_value_is_taken_with_every_seed_in_the_order_of_the_file() -> None:
    entry = {"label": "ieu", "method": "ieu", "seeds": [1, 0], "settings": {"steps": [5, 2], "alpha": 1, "c": [0.2]}}
    config = config_of(entry)
    assert [(one.label, one.seed, [*one.settings.items()]) for one in config.apply] == [
        (f"ieu-steps-{steps}-c-0.2-seed-{seed}", seed, [("steps", steps), ("alpha", 1), ("c", 0.2)])
        for steps in (5, 2)
        for seed in (1, 0)
    ]
    assert all(one.method == "ieu" and one.to == "original" for one in config.apply)


def test_an_entry_without_lists_is_what_it_was() -> None:
    values = {
        "train": [{"label": "original", "seed": 4}],
        "apply": [{"label": "u", "method": "ieu", "settings": {"steps": 5}, "transforms": ["l1"], "seed": 2}],
    }
    config = resolve([Layer("config", values, "c.toml")]).config
    assert config == AuditConfig.model_validate(values)
    # All of this is in the digest that a model is kept under: a key more, and every model is made anew.
    assert config.apply[0].model_dump() == {
        "label": "u", "method": "ieu", "to": "original", "recipe": None, "settings": {"steps": 5},
        "transforms": ("l1",), "seed": 2}  # fmt: skip


@pytest.mark.parametrize(
    ("value", "part"),
    [
        (0.05, "0.05"), (1e-5, "1e-5"), (1e20, "1e20"), (-0.5, "-0.5"), (-3, "-3"), (True, "true"), ("cos", "cos"),
        ("layer4.*", "layer4"), ("class:3,5", "class-3-5"), ([1, [2, 0.5]], "1-2-0.5"), (10**30, "1" + 30 * "0"),
    ],
)  # fmt: skip
def test_a_label_has_the_value_as_it_is_written(value: Any, part: str) -> None:
    (made,) = config_of({"label": "u", "method": "ieu", "settings": {"c": [value]}}).apply
    assert made.label == f"u-c-{part}"
    assert made.settings == {"c": value}


# Of few digits: three floats of seventeen make a label that is refused as too long.
some = st.integers(0, 10**6) | st.integers(-(10**6), 10**6).map(lambda number: number / 1000)
numbers = st.lists(some, min_size=1, max_size=4, unique=True)


@given(st.dictionaries(st.sampled_from(["c", "alpha", "step_size"]), numbers), st.sets(st.integers(0, 99), max_size=4))
def test_there_are_as_many_as_combinations_each_with_its_label_and_one_value_more_changes_no_other(
    lists: dict[str, list[float]], seeds: set[int]
) -> None:
    entry = {"label": "u", "method": "ieu", "settings": lists} | ({"seeds": [*seeds]} if seeds else {})
    made = config_of(entry).apply
    assert len(made) == math.prod(map(len, lists.values())) * max(len(seeds), 1)
    assert len({one.label for one in made}) == len({(str(one.settings), one.seed) for one in made}) == len(made)
    for key, values in lists.items():
        fewer = config_of({**entry, "settings": {**lists, key: values[-1:]}}).apply
        assert {one.label: one for one in fewer}.items() <= {one.label: one for one in made}.items()


def test_a_model_is_found_again_where_seeds_and_values_join() -> None:
    first = {one.label: one for one in config_of({"label": "u", "method": "ft", "seeds": [1]}).apply}
    assert first == {one.label: one for one in config_of({"label": "u", "method": "ft", "seeds": [0, 1]}).apply[1:]}


# ----- where an entry starts from


def test_an_entry_starts_from_each_model_that_its_parent_stands_for() -> None:
    config = config_of(
        {"label": "ieu", "method": "ieu", "settings": {"c": [0.1, 0.2]}},
        {"label": "tuned", "method": "ft", "to": "ieu", "seeds": [5]},
        train=({"label": "original", "seeds": [0, 1]},),
    )
    assert [(one.label, one.to) for one in config.apply[:4]] == [
        (f"ieu-to-original-{seed}-c-{c}", f"original-{seed}") for seed in (0, 1) for c in (0.1, 0.2)
    ]
    assert [(one.label, one.to, one.seed) for one in config.apply[4:]] == [
        (f"tuned-to-{one.label}-seed-5", one.label, 5) for one in config.apply[:4]
    ]


def test_an_entry_may_start_from_one_model_of_a_list() -> None:
    (made,) = config_of(
        {"label": "ieu", "method": "ieu", "to": "original-1"}, train=({"label": "original", "seeds": [0, 1]},)
    ).apply
    assert (made.label, made.to) == ("ieu", "original-1")


# ----- refusals

SLIPS = {
    "seed and seeds": ("seed = 1\nseeds = [1]\n", 2, "train.0.seeds: there is `seed`, too; keep one of the two"),
    "no seed": ("seeds = []\n", 1, "train.0.seeds: must be a list of 1 or more (got [])"),
    "no list": ("seeds = 3\n", 1, "train.0.seeds: must be a list (got 3)"),
    "a text": ('seeds = [1, "2"]\n', 1, "train.0.seeds.1: must be a whole number (got '2')"),
    "true": ("seeds = [1, true]\n", 1, "train.0.seeds.1: must be a whole number (got True)"),
    "below 0": ("seeds = [1, -1]\n", 1, "train.0.seeds.1: must be at least 0 (got -1)"),
    "twice": ("seeds = [1, 2,\n 2]\n", 1, "train.0.seeds: 2 is there twice; take one out"),
    "mistyped": ("sedes = [1, 2]\n", 1, "unknown key 'train.0.sedes'; did you mean 'seeds'?"),
    "long label": (
        f'[[train]]\nlabel = "{"x" * 99}"\nseeds = [12]\n',
        2,
        f"train.1.label: with what the lists add it is '{'x' * 99}-12', and 100 characters are the most; shorten it",
    ),
    "an entry's label": (
        '[[train]]\nlabel = "r"\nseeds = [1, 2]\n[[train]]\nlabel = "r-2"\n',
        5,
        "train.2.label: two models are labelled 'r-2': one of train.1, one of train.2; give one of these entries "
        "another label",
    ),
    "a label of another list": (
        '[[train]]\nlabel = "r"\nseeds = [1]\n[[apply]]\nmethod = "ft"\nlabel = "r"\nseeds = [2, 1]\n',
        6,
        "apply.0.label: two models are labelled 'r-1': one of train.1, one of apply.0; ",
    ),
    "a label without lists": (
        '[[train]]\nlabel = "original"\n',
        2,
        "train.1.label: two models are labelled 'original': one of train.0, one of train.1; ",
    ),
    "which parent": (
        '[[train]]\nlabel = "r"\nseeds = [1]\n[[train]]\nlabel = "r"\nseeds = [2]\n'
        '[[apply]]\nlabel = "u"\nmethod = "ft"\nto = "r"\n',
        10,
        "apply.0.to: 'r' may be each of train.1 and train.2; give one of these entries another label",
    ),
    "no parent": (
        '[[train]]\nlabel = "r"\nseeds = [1]\n[[apply]]\nlabel = "u"\nmethod = "ft"\nto = "orignal"\n',
        7,
        "apply.0.to: unknown model 'orignal'; did you mean 'original'? Known: original, r. `to` names another model's",
    ),
    "no value": (
        '[[apply]]\nlabel = "u"\nmethod = "ft"\nsettings = { steps = [] }\n',
        4,
        "apply.0.settings.steps: a list stands for each of its values, and this one has none; name one or more",
    ),
    "a value twice": (
        '[[apply]]\nlabel = "u"\nmethod = "ieu"\n[apply.settings]\nsteps = 5\nc = [1, 0.5, 1.0]\n',
        6,
        "apply.0.settings.c: 1.0 is there twice; take one out",
    ),
    "a table": (
        '[[apply]]\nlabel = "u"\nmethod = "ft"\nsettings = { steps = [5, { a = 1 }] }\n',
        4,
        "apply.0.settings.steps: {'a': 1} makes no part of a label; write an entry of its own for it",
    ),
    "a wrong value": (
        '[[apply]]\nlabel = "u"\nmethod = "ieu"\nseeds = [1, 2]\nsettings = { c = [0.5, 2.0] }\n',
        5,
        "apply.0.settings: c: must be at most 1.0 (got 2.0)",
    ),
    "a wrong method": (
        '[[apply]]\nlabel = "v"\nmethod = "ft"\nseeds = [1]\n[[apply]]\nlabel = "u"\nmethod = "ieo"\nseeds = [1, 2]\n',
        7,
        "apply.1.method: unknown method 'ieo'; did you mean 'ieu'?",
    ),
    "values that look alike": (
        '[[apply]]\nlabel = "u"\nmethod = "entanglement"\nsettings = { adjacent = ["class:5", "class-5"] }\n',
        1,
        "apply.0: two models are labelled 'u-adjacent-class-5': two values of one list look alike in a label; write an",
    ),
    "too many": (
        f'[[apply]]\nlabel = "u"\nmethod = "ft"\nseeds = {[*range(250)]}\nsettings = {{ steps = [1, 2, 3, 4] }}\n',
        1,
        "apply.0: its lists make 1,000 models, 1,001 with those before it, and 1,000 are the most; take values out",
    ),
}  # fmt: skip


@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_is_one_line_with_its_number(slip: str, tmp_path: Path) -> None:
    text, line, says = SLIPS[slip]
    (found,) = told(tmp_path, text)
    assert found.startswith(f"line {FIRST - 1 + line}: {says}"), found


def test_all_slips_are_told_at_once_and_what_follows_from_them_is_not(tmp_path: Path) -> None:
    found = told(
        tmp_path,
        '[[train]]\nlabel = "r"\nseeds = [1, "x"]\nepoch = 2\n'
        f'[[train]]\nlabel = "big"\nseeds = {[*range(1001)]}\n'
        '[[apply]]\nlabel = "u"\nmethod = "ieu"\nto = "r-1"\nseed = 2\nseeds = [4]\nsettings = { c = [0.5, 3.0] }\n'
        '[[apply]]\nlabel = "v"\nmethod = "ft"\nto = "big-7"\n'
        '[[apply]]\nlabel = "v"\nmethod = "ft"\nto = "u-c-0.5-seed-4"\nstep = 5\n',
    )
    numbers = [int(re.findall(r"line (\d+): ", line)[0]) - FIRST + 1 for line in found]
    assert numbers == [3, 4, 5, 13, 14, 20, 23], "\n".join(found)


def test_many_models_may_stand_in_a_file_one_by_one() -> None:
    many = tuple({"label": f"r-{seed}", "seed": seed} for seed in range(1001))
    assert len(config_of(train=many).train) == 1001


def test_a_checkpoint_that_is_there_and_a_model_of_a_list_cannot_have_one_label(tmp_path: Path) -> None:
    (tmp_path / "r-1.safetensors").write_bytes(b"")
    text = '[[checkpoint]]\npath = "r-1.safetensors"\n[[train]]\nlabel = "r"\nseeds = [1]\n'
    (found,) = told(tmp_path, text)
    assert "train.1.label: two models are labelled 'r-1': one of checkpoint.0, one of train.1" in found


def test_what_is_no_list_of_entries_is_told_beside_a_slip() -> None:
    with pytest.raises(ConfigError) as caught:
        resolve([Layer("config", {"train": [{"label": "r", "seeds": []}, 3], "apply": 3}, "c.toml")])
    assert [*caught.value.problems] == [
        "train.1: must be a table (got 3)",
        "apply: must be a list (got 3)",
        "train.0.seeds: must be a list of 1 or more (got [])",
    ]


# ----- other rooms


def test_the_schema_knows_seeds_and_what_is_made_does_not() -> None:
    schema = WrittenConfig.model_json_schema()
    for table in ("train", "apply"):
        (name,) = re.findall(r"\w+$", schema["properties"][table]["items"]["$ref"])
        assert schema["$defs"][name]["properties"]["seeds"]["anyOf"][0]["type"] == "array"
    assert "seeds" not in {*TrainEntry.model_fields, *ApplyEntry.model_fields}


def settings_of(method: Method) -> Iterator[type[Settings]]:
    """Yield the settings of a method on every kind of models."""
    yield method.settings
    for other in method.on.values():
        if isinstance(other, Method):
            yield other.settings


@pytest.mark.parametrize("name", catalogue.METHODS)
def test_no_setting_of_ours_is_a_list_itself(name: str) -> None:
    def kinds(annotation: Any) -> Iterator[Any]:
        yield get_origin(annotation) or annotation
        for inner in get_args(annotation):
            yield from kinds(inner)

    for settings in settings_of(find_method(name, allow_code=False)):
        for key, info in settings.model_fields.items():
            assert not {list, tuple, set, frozenset} & {*kinds(info.annotation)}, key


STUDY = """
data = "digits?train=300&test=100"
forget = "random:30:0"
model = "small-cnn"
device = "cpu"

[[train]]
label = "original"
epochs = 1

[[train]]
label = "retrained"
without = true
seeds = [1, 2]
epochs = 1

[[apply]]
label = "ft"
method = "ft"
seeds = [0, 1]
settings = { step_size = [0.01, 0.02], steps = 1 }

[gaps]
"""
ONE_BY_ONE = """
data = "digits?train=300&test=100"
forget = "random:30:0"
model = "small-cnn"
device = "cpu"

[[train]]
label = "original"
epochs = 1

[[train]]
label = "retrained-2"
without = true
seed = 2
epochs = 1

[[apply]]
label = "ft-step_size-0.02-seed-1"
method = "ft"
seed = 1
settings = { steps = 1, step_size = 0.02 }

[gaps]
"""
LABELS = [
    "original", "retrained-1", "retrained-2", "ft-step_size-0.01-seed-0", "ft-step_size-0.01-seed-1",
    "ft-step_size-0.02-seed-0", "ft-step_size-0.02-seed-1",
]  # fmt: skip


def test_a_study_is_one_file_and_finds_what_was_made_one_by_one(
    run: Cli, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "one.toml").write_text(ONE_BY_ONE)
    (here / "study.toml").write_text(STUDY)
    assert run("audit", "one.toml", "--out", "out", "--quiet").code == 0
    before = {path.name: path.stat().st_mtime_ns for path in (here / "out" / "models").iterdir()}
    assert len(before) == 3
    monkeypatch.setenv("COLUMNS", "120")
    planned = run("audit", "study.toml", "--out", "out", "--plan")
    assert planned.code == 0, planned.stderr
    steps = re.findall(r"^(?:train|apply ft:) (\S+) +(there|to do) ", planned.stdout, re.MULTILINE)
    there = {"original", "retrained-2", "ft-step_size-0.02-seed-1"}
    assert steps == [(label, "there" if label in there else "to do") for label in LABELS]
    done = run("audit", "study.toml", "--out", "out", "--force")
    assert done.code == 0, done.stderr
    made = {path.name: path.stat().st_mtime_ns for path in (here / "out" / "models").iterdir()}
    assert before.items() <= made.items(), "found again"
    assert {name.rpartition("-")[0] for name in made} == {*LABELS}
    report = json.loads((here / "out" / "report.json").read_text())
    assert [subject["label"] for subject in report["subjects"]] == LABELS
    assert len({subject["sha256"] for subject in report["subjects"]}) == len(LABELS)
    assert [entry["label"] for entry in report["settings"]["config"]["apply"]] == LABELS[3:]

    def never(*_: object, **__: object) -> None:
        raise AssertionError("made again")

    monkeypatch.setattr(build_models, "train_checkpoint", never)
    monkeypatch.setattr(build_models, "apply_method", never)
    done = run("audit", "study.toml", "--out", "out", "--force")
    assert done.code == 0, done.stderr
    assert "measured before: gaps" in done.stderr
