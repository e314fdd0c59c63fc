"""The house as ARCHITECTURE draws it: which room may know which, who prints, what the catalogue names."""

import ast
import importlib
import inspect
import json
import os
import pkgutil
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
from conftest import make_fleet

import unlearn_audit
from unlearn_audit import catalogue

HOUSE = Path(unlearn_audit.__file__).parent
NAME = "unlearn_audit"

# A later room may import an earlier one, never the reverse.
TORCH_FREE = (
    "errors", "streams", "catalogue", "files", "strict_json", "pipeline_folder", "model_folder", "progress",
    "user_code", "config", "metrics", "report", "results", "gate", "conclusion", "render",
)  # fmt: skip
WITH_TORCH = (
    "models", "data", "checkpoints", "engine", "generation", "layers", "step_transforms", "training", "curvature",
    "relearning", "normalisation", "inputs", "methods", "shadows", "attacks", "judges", "audit", "demo", "in_memory",
)  # fmt: skip
ROOMS = (*TORCH_FREE, *WITH_TORCH, "cli", "__main__")
HEAVY = ("torch", "torchvision", "sklearn", "scipy.stats", "timm", "transformers", "diffusers", "safetensors")
LONGEST_FILE = 400
SAY_NOTHING = {"util", "utils", "helper", "helpers", "common", "core", "misc", "manager", "handler", "base"}


class Source(NamedTuple):
    """One file of the package."""

    path: Path
    module: str
    tree: ast.Module

    @property
    def room(self) -> str:
        return self.module.split(".")[1] if "." in self.module else ""


def sources() -> list[Source]:
    found = []
    for path in sorted(HOUSE.rglob("*.py")):
        parts = path.relative_to(HOUSE.parent).with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found.append(Source(path, module, ast.parse(path.read_text())))
    return found


SOURCES = sources()
MODULES = {source.module for source in SOURCES}


def imports(source: Source) -> Iterator[tuple[str, str | None, bool]]:
    """Yield (module, name or None, whether for type checkers only) of every import, wherever in the file it stands."""
    typing_only = {
        id(inner)
        for node in ast.walk(source.tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for inner in ast.walk(node)
    }
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None, id(node) in typing_only) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source.path}: a relative import"
            yield from ((node.module or "", alias.name, id(node) in typing_only) for alias in node.names)


def own_imports(source: Source) -> Iterator[str]:
    """Yield the modules of this package that a file imports.

    What the package itself offers it loads when it is asked for, and imports for type checkers only.
    """
    for module, name, typing_only in imports(source):
        if module.split(".")[0] == NAME and (source.room or not typing_only):
            yield f"{module}.{name}" if f"{module}.{name}" in MODULES else module


def each_source(rule: Callable[[Source], None]) -> Callable[[], None]:
    """Hold every file to a rule in one test, which names all those that break it; a test a file would be thousands."""

    def test() -> None:
        broken = []
        for source in SOURCES:
            try:
                rule(source)
            except AssertionError as problem:
                broken.append(f"{source.module}: {problem}")
        assert not broken, "\n".join(broken)

    test.__name__ = rule.__name__
    return test


# ----- the rooms and their order


def test_every_room_has_its_place_and_stands_there() -> None:
    standing = {source.room for source in SOURCES} - {""}
    assert standing <= set(ROOMS), "a new room needs a place in the order of the house"
    assert set(TORCH_FREE) <= standing


def test_architecture_lists_the_rooms_in_their_order() -> None:
    page = (HOUSE.parent / ".github" / "ARCHITECTURE.md").read_text()
    above, line, below = page.partition("## The rooms")[2].partition("below this line torch may be imported")
    assert line
    assert re.findall(r"^\| `(\w+)` \|", above, re.MULTILINE) == list(TORCH_FREE)
    assert re.findall(r"^\| `(\w+)` \|", below.partition("## ")[0], re.MULTILINE) == list(ROOMS[len(TORCH_FREE) :])


@each_source
def test_a_room_imports_earlier_rooms_only(source: Source) -> None:
    for module in own_imports(source):
        room = module.split(".")[1] if "." in module else ""  # the package itself holds the version alone
        if source.room and room:
            assert ROOMS.index(room) <= ROOMS.index(source.room), f"{source.module} imports {module}"
        assert source.room or not room, f"{NAME}/__init__.py imports {module}"


def test_modules_do_not_import_each_other_in_a_circle() -> None:
    knows = {source.module: set(own_imports(source)) - {source.module} for source in SOURCES}
    free: set[str] = set()
    while ready := {module for module, others in knows.items() if module not in free and not others - free}:
        free |= ready
    assert set(knows) - free == set()


@each_source
def test_nothing_above_the_line_imports_torch(source: Source) -> None:
    if source.room in (*TORCH_FREE, ""):
        heavy = {
            module for module, _, _ in imports(source) if any(f"{module}.".startswith(f"{name}.") for name in HEAVY)
        }
        assert heavy == set()


def test_the_half_above_the_line_and_the_command_line_load_no_torch() -> None:
    above = [source.module for source in SOURCES if source.room in (*TORCH_FREE, "cli", "")]
    code = f"import sys, importlib; [importlib.import_module(m) for m in {above!r}]; print(sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(HOUSE.parent)},
    )
    loaded = set(ast.literal_eval(done.stdout))
    assert loaded & set(HEAVY) == set()


# ----- files and names


@each_source
def test_no_file_is_too_long(source: Source) -> None:
    assert len(source.path.read_text().splitlines()) < LONGEST_FILE


@each_source
def test_a_name_says_what_is_inside(source: Source) -> None:
    assert source.path.stem.strip("_") not in SAY_NOTHING
    assert source.path.parent.name not in SAY_NOTHING


@each_source
def test_every_module_says_in_a_sentence_what_it_is_for(source: Source) -> None:
    first = (ast.get_docstring(source.tree) or "").split("\n\n")[0]
    assert first.endswith((".", "?", ":")), source.path


@each_source
def test_user_input_is_not_asserted_and_work_is_not_put_off(source: Source) -> None:
    assert not [node.lineno for node in ast.walk(source.tree) if isinstance(node, ast.Assert)]
    assert not re.findall(r"\b(?:TODO|FIXME|XXX|HACK)\b|raise NotImplementedError", source.path.read_text())


@each_source
def test_no_path_of_somebodys_machine_stands_in_the_code(source: Source) -> None:
    assert not re.findall(r"""["'(\s]/(?:work|home|Users|root|tmp)/""", source.path.read_text())


# ----- __all__


def definitions(tree: ast.Module) -> Iterator[str]:
    """Yield the names that a module defines at its top level, whatever `if` they stand under."""
    nodes = list(tree.body)
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.If | ast.Try):
            nodes += [*node.body, *node.orelse]
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            yield from (name.id for name in ast.walk(node) if isinstance(name, ast.Name))


def all_of(source: Source) -> list[str] | None:
    for node in source.tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    return None


PUBLIC = [source for source in SOURCES if all_of(source) is not None]


@pytest.mark.parametrize("source", PUBLIC, ids=lambda source: source.module)
def test_all_names_what_is_there_once(source: Source) -> None:
    exported = all_of(source) or []
    there = {*definitions(source.tree), *(name for _, name, _ in imports(source))}
    assert set(exported) <= there, "names of __all__ that are not there"
    assert len(set(exported)) == len(exported)


@each_source
def test_what_one_module_takes_from_another_is_defined_or_offered_there(source: Source) -> None:
    by_name = {other.module: other for other in SOURCES}
    for module, name, _ in imports(source):
        if module in MODULES and name is not None and f"{module}.{name}" not in MODULES and module != NAME:
            offered = all_of(by_name[module]) or definitions(by_name[module].tree)
            assert name in offered, f"{source.module} takes {name} from {module}"
            assert not name.startswith("_")


# ----- who prints and who exits

STREAMS = {"sys.stdout.write", "sys.stderr.write", "sys.stdout.buffer.write", "sys.stdout.flush", "print", "os.write"}
EXITS = {"sys.exit", "exit", "quit", "os._exit", "os.abort", "typer.Exit", "typer.Abort", "SystemExit"}


def in_use(tree: ast.Module) -> Iterator[ast.AST]:
    """Yield the nodes of a module, without what runs only when the module itself is run as a program."""
    programs = [node for node in tree.body if isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)]
    for node in tree.body:
        if not (programs and (node in programs or (isinstance(node, ast.FunctionDef) and node.name == "main"))):
            yield from ast.walk(node)


@each_source
def test_only_the_command_line_prints_and_exits(source: Source) -> None:
    if source.room == "cli":
        return
    calls = {ast.unparse(node.func) for node in in_use(source.tree) if isinstance(node, ast.Call)}
    raised = {ast.unparse(node.exc) for node in in_use(source.tree) if isinstance(node, ast.Raise) and node.exc}
    assert calls & (STREAMS | EXITS) == set()
    assert raised & EXITS == set()
    assert not {call for call in calls if call.split(".")[-1] in ("Console", "print_exc", "print")}


@each_source
def test_only_the_command_line_knows_typer(source: Source) -> None:
    if source.room != "cli":
        assert not {module for module, _, _ in imports(source) if module.split(".")[0] in ("typer", "click")}


# ----- the catalogue

WORDS = ("METRICS", "ATTACK_METRICS", "ATTACK_GROUPS", "SECTION_TITLES")  # tables of words, not of what is somewhere
TABLES: Mapping[str, Mapping[str, Any]] = {
    name: table
    for name in catalogue.__all__
    if isinstance(table := getattr(catalogue, name), Mapping) and name not in WORDS
}
ENTRIES = [(table, name) for table, entries in TABLES.items() for name in entries]


@pytest.mark.parametrize(("table", "name"), ENTRIES)
def test_every_entry_of_the_catalogue_is_there(table: str, name: str) -> None:
    entry = TABLES[table][name]
    target = entry if isinstance(entry, str) else entry.where
    module, colon, attribute = target.partition(":")
    assert colon
    assert module in MODULES, f"no file for {target}"
    assert catalogue.load(table, TABLES[table], name) is getattr(importlib.import_module(module), attribute)


@pytest.mark.parametrize("name", catalogue.METHODS)
def test_a_method_has_the_name_it_is_listed_under(name: str) -> None:
    assert catalogue.load("method", catalogue.METHODS, name).name == name


@pytest.mark.parametrize("name", catalogue.TRANSFORMS)
def test_a_transform_has_the_name_it_is_listed_under(name: str) -> None:
    assert catalogue.load("transform", catalogue.TRANSFORMS, name).name == name


@pytest.mark.parametrize("table", [catalogue.ATTACKS, catalogue.GENERATOR_ATTACKS], ids=["classifiers", "generators"])
def test_an_attack_has_the_name_it_is_listed_under(table: Mapping[str, catalogue.Entry]) -> None:
    assert [catalogue.load("attack", table, name).name for name in table] == list(table)


@pytest.mark.parametrize("name", catalogue.RECIPES)
def test_a_recipe_has_the_name_it_is_listed_under(name: str) -> None:
    assert catalogue.load("recipe", catalogue.RECIPES, name).name == name


def modules_in(package: str) -> Iterator[ModuleType]:
    room = importlib.import_module(f"{NAME}.{package}")
    for found in pkgutil.iter_modules(room.__path__):
        yield importlib.import_module(f"{NAME}.{package}.{found.name}")


def things(package: str, belongs: Callable[[Any], bool]) -> set[str]:
    """Return "module:name" of everything of a kind that the files of a package define."""
    return {
        f"{module.__name__}:{name}"
        for module in modules_in(package)
        for name, value in vars(module).items()
        if not name.startswith("_")
        and belongs(value)
        and getattr(value, "__module__", module.__name__) == module.__name__
        or not name.startswith("_")
        and belongs(value)
        and not inspect.isroutine(value)
        and not inspect.isclass(value)
    }


def test_every_attack_is_in_the_catalogue() -> None:
    from unlearn_audit.attacks import Attack

    assert things("attacks", lambda value: isinstance(value, Attack)) == {
        entry.where for entry in (*catalogue.ATTACKS.values(), *catalogue.GENERATOR_ATTACKS.values())
    }


def test_groups_of_attacks_hold_attacks() -> None:
    assert {name for group in catalogue.ATTACK_GROUPS.values() for name in group} <= set(catalogue.ATTACKS)
    assert not set(catalogue.ATTACK_GROUPS) & set(catalogue.ATTACKS)


def test_every_method_is_in_the_catalogue() -> None:
    from unlearn_audit.methods import Method

    assert things("methods", lambda value: isinstance(value, Method)) == {
        entry.where for entry in catalogue.METHODS.values()
    }


def test_every_transform_is_in_the_catalogue() -> None:
    from unlearn_audit.methods import StepTransform

    made = {
        id(value)
        for module in modules_in("methods.transforms")
        for value in vars(module).values()
        if isinstance(value, StepTransform)
    }
    listed = {id(catalogue.load("transform", catalogue.TRANSFORMS, name)) for name in catalogue.TRANSFORMS}
    assert made == listed


def test_every_model_is_in_the_catalogue() -> None:
    def is_model(value: Any) -> bool:
        return inspect.isfunction(value) and list(inspect.signature(value).parameters) == ["classes", "channels"]

    assert things("models", is_model) == set(catalogue.MODELS.values())


def test_every_data_source_is_in_the_catalogue() -> None:
    from unlearn_audit.data import sources as room

    def is_source(value: Any) -> bool:
        return inspect.isfunction(value) and list(inspect.signature(value).parameters) == ["target", "context"]

    found = {name for name, value in vars(room).items() if not name.startswith("_") and is_source(value)}
    like_a_source = {f"{room.__name__}:{name}" for name in found}
    assert like_a_source == set(catalogue.DATA_SOURCES.values())


def test_every_recipe_is_in_the_catalogue() -> None:
    from unlearn_audit import training

    found = {
        f"{training.__name__}:{name}" for name, value in vars(training).items() if isinstance(value, training.Recipe)
    }
    assert found == set(catalogue.RECIPES.values())


def test_an_unknown_name_answers_with_the_nearest_and_the_list() -> None:
    from unlearn_audit.errors import UsageError

    with pytest.raises(UsageError, match=r"unknown attack 'los'; did you mean 'loss'\? Known: .*loss"):
        catalogue.load("attack", catalogue.ATTACKS, "los")


# ----- what is measured is what the catalogue says


@pytest.fixture(scope="module")
def everything(tiny: Path, tmp_path_factory: pytest.TempPathFactory, run: Callable[..., Any]) -> dict[str, Any]:
    """The report of an audit with every section, on small checkpoints and shadow models."""
    from unlearn_audit.config import SECTIONS

    names = ("original", "unlearned", "retrained-1", "retrained-2")
    entries = "".join(f'[[checkpoint]]\npath = "{tiny / name}.safetensors"\n' for name in names)
    folder = tmp_path_factory.mktemp("everything")
    make_fleet(folder / "shadows", tiny, sample=40)
    sections = "".join(f"[{name}]\n{SMALL.get(name, '')}\n" for name in SECTIONS if name != "checkpoint")
    config = folder / "everything.toml"
    config.write_text(f'forget = "{tiny}/forget.npy"\nadjacent = "neighbours"\nsample = 40\n{entries}{sections}')
    done = run("audit", config, "--format", "json", "--quiet")
    assert done.code == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


@pytest.fixture(scope="module")
def of_classes(tiny: Path, run: Callable[..., Any]) -> list[dict[str, Any]]:
    """What is measured where whole classes are forgotten, and there alone."""
    paths = [tiny / f"{name}.safetensors" for name in ("unlearned", "retrained-1", "retrained-2")]
    done = run("mia", "nn", *paths, "--forget", "class:3", "--format", "json", "--quiet")
    assert done.code == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)["measurements"]
    return found


# What is measured of generators alone.
OF_GENERATORS = {
    f"mia.{attack}.{ending}"
    for attack in set(catalogue.GENERATOR_ATTACKS) - set(catalogue.ATTACKS)
    for ending in catalogue.ATTACK_METRICS
}

# Settings that keep the audit short.
SMALL = {
    "rcd": "steps = 5\nresamples = 100",
    "truncation": "reference_steps = 30",
    "spectrum": "eigenvalues = 2\nprobes = 2",
    "layers": "k = 1",
    "mia": f"attacks = {json.dumps(list(catalogue.ATTACKS))}\nshadows = 'shadows'",
    "outputs": "class_test = true\nprobe = true\nsvc = true\npopulations = true",
    "resurgence": "steps = 3\nrcd_steps = 2",
}


def test_every_metric_of_the_catalogue_is_measured_and_nothing_else(
    everything: dict[str, Any], of_classes: list[dict[str, Any]]
) -> None:
    measured = {measurement["name"] for measurement in [*everything["measurements"], *of_classes]}
    assert measured == set(catalogue.METRICS) - OF_GENERATORS


def test_every_measurement_carries_what_is_needed_to_read_it(
    everything: dict[str, Any], of_classes: list[dict[str, Any]]
) -> None:
    for measurement in [*everything["measurements"], *of_classes]:
        for key in ("unit", "direction", "method", "role"):
            assert measurement[key], (measurement["name"], key)
        assert measurement["n"] > 0


def test_a_real_report_fits_the_published_schema(everything: dict[str, Any]) -> None:
    import jsonschema

    from unlearn_audit.report import report_schema

    jsonschema.validate(everything, report_schema())


def test_a_real_report_can_be_drawn_and_gated(
    everything: dict[str, Any], tmp_path: Path, run: Callable[..., Any]
) -> None:
    path = tmp_path / "report.json"
    path.write_text(json.dumps(everything))
    assert run("show", path).code == 0
    assert run("show", path, "--format", "markdown").code == 0
    limits = {"verdict": 'equals = "x"\nseverity = "warn"', True: 'min = 0.01\notherwise = "inconclusive"',
              False: "max = 1e300"}  # fmt: skip
    demands = {name: limits.get(info.unit, limits[info.p_value]) for name, info in catalogue.METRICS.items()}
    rules = "".join(f'[[rule]]\nid = "{name}"\nmetric = "{name}"\n{demand}\n' for name, demand in demands.items())
    (tmp_path / "policy.toml").write_text(f"schema_version = 1\n{rules}")
    done = run("gate", path, "--policy", tmp_path / "policy.toml", "--format", "json")
    assert done.code in (0, 4), done.stderr
    assert len(json.loads(done.stdout)["decisions"]) == len(catalogue.METRICS)
