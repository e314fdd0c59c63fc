"""The plan of a fleet: who is trained on what, what an id depends on, what is refused, what the finished models say."""

import hashlib
import json
import math
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Run
from numpy.typing import NDArray
from safetensors.torch import load_file
from small_fleets import FORGET, POOL, plan_small, small_request

from unlearn_audit import catalogue
from unlearn_audit.checkpoints import read_checkpoint, write_checkpoint
from unlearn_audit.data import Splits, query
from unlearn_audit.errors import ConfigError, DataError, MeasurementError, OutputError, UsageError
from unlearn_audit.methods import Method, Settings, Unlearned, UnlearningContext
from unlearn_audit.models import load_state
from unlearn_audit.shadows import (
    Fleet,
    FleetContext,
    FleetPlan,
    Job,
    Treatment,
    all_jobs,
    members,
    open_fleet,
    open_fleet_context,
    plan_fleet,
    read_plan,
    work,
)
from unlearn_audit.shadows.plan import differences, make_plan
from unlearn_audit.shadows.store import load_signals
from unlearn_audit.training import RESNET, SMALL, new_model

VALUES: dict[str, Any] = {
    "data": "digits",
    "data_sha256": "d" * 64,
    "pool_sha256": "e" * 64,
    "seed": 0,
    "model": "small-cnn",
    "mean": (0.3,),
    "std": (0.4,),
    "recipe": SMALL.settings(),
    "count": 4,
}
IEU = Treatment(method="ieu", settings={"steps": 2}, transforms=())


def made_up(**changes: Any) -> FleetPlan:
    return make_plan(VALUES | changes)


@pytest.fixture(scope="module")
def finished(target: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fleet of four models with all views of each image, trained and unlearned; not to be changed."""
    folder = tmp_path_factory.mktemp("finished") / "shadows"
    plan_small(folder, target, queries=18)
    assert work(open_fleet_context(folder)) == 8
    return folder


# ----- who is trained on what


@pytest.mark.parametrize("size", [10, 113, 2])
@pytest.mark.parametrize("count", [2, 4, 8])
def test_each_example_is_in_exactly_half_of_the_models(count: int, size: int) -> None:
    inside = [members(made_up(count=count), number, size) for number in range(count)]
    times = Counter(int(row) for rows in inside for row in rows)
    assert times == dict.fromkeys(range(size), count // 2)
    for rows in inside:
        assert len(rows) in (size // 2, size - size // 2)
        assert list(rows) == sorted(set(rows))


def test_an_odd_pool_gives_its_extra_example_to_either_side_in_turn() -> None:
    sizes = [len(members(made_up(count=8), number, 113)) for number in range(8)]
    assert sizes == [56, 57, 57, 56, 56, 57, 57, 56]


def test_models_that_are_added_change_nothing_for_those_before() -> None:
    few, many = made_up(count=4), made_up(count=10, treatments=(IEU,))
    for number in range(4):
        assert np.array_equal(members(few, number, 113), members(many, number, 113))
    assert all_jobs(few, 113) == all_jobs(many, 113)[:4]
    times = Counter(int(row) for number in range(10) for row in members(many, number, 113))
    assert set(times.values()) == {5}


def test_pairs_are_drawn_independently_of_each_other() -> None:
    """Each of the four ways to be in or out of two models takes about a quarter of a large pool."""
    first, other = (np.isin(np.arange(4000), members(made_up(), number, 4000)) for number in (0, 2))
    shares = [float((first == a).astype(int) @ (other == b).astype(int)) / 4000 for a in (0, 1) for b in (0, 1)]
    assert shares == pytest.approx([0.25] * 4, abs=4 * math.sqrt(0.25 * 0.75 / 4000))


def test_another_pool_or_seed_is_another_draw() -> None:
    drawn = [tuple(members(plan, 0, 113)) for plan in (made_up(), made_up(seed=1), made_up(pool_sha256="f" * 64))]
    assert len(set(drawn)) == 3


# ----- what an id depends on

DETERMINANTS: dict[str, Any] = {
    "data_sha256": "f" * 64,
    "pool_sha256": "f" * 64,
    "seed": 1,
    "model": "small-mlp",
    "mean": (0.31,),
    "std": (0.41,),
    "precision": "bf16",
    **{f"recipe {name}": value for name, value in replace(SMALL, name="x").settings().items()},
}
CHANGED = {"name": "mine", "epochs": 31, "batch_size": 65, "step_size": 0.2, "momentum": 0.8, "weight_decay": 1e-4}
FREE = {"count": 6, "treatments": (IEU,), "device": "cuda", "data": "elsewhere", "queries": 2, "sample": 5}


def ids(plan: FleetPlan, size: int = 113) -> list[str]:
    return [job.id for job in all_jobs(plan, size) if job.treatment is None]


@pytest.mark.parametrize("name", list(DETERMINANTS))
def test_everything_that_a_model_depends_on_changes_its_id(name: str) -> None:
    field, _, key = name.partition(" ")
    changes = {"recipe": SMALL.settings() | {key: CHANGED.get(key, True)}} if key else {field: DETERMINANTS[name]}
    assert set(ids(made_up(**changes))).isdisjoint(ids(made_up()))


def test_the_members_of_a_model_change_its_id() -> None:
    assert set(ids(made_up(), 113)).isdisjoint(ids(made_up(), 114))


@pytest.mark.parametrize("name", list(FREE))
def test_nothing_else_changes_it(name: str) -> None:
    assert ids(made_up(**{name: FREE[name]}))[:4] == ids(made_up())


def test_every_field_of_a_plan_is_one_or_the_other() -> None:
    named = {name.partition(" ")[0] for name in DETERMINANTS} | set(FREE) | {"schema_version"}
    assert named == set(FleetPlan.model_fields)


def test_the_id_is_the_digest_of_what_is_named(target: Path, finished: Path) -> None:
    """Finished fleets are found by their ids: a change here makes all of them strangers."""
    plan = read_plan(finished)
    rows = members(plan, 3, POOL)
    depends = {name: getattr(plan, name) for name in ("data_sha256", "pool_sha256", "seed", "model", "precision")}
    depends |= {"recipe": plan.recipe, "mean": list(plan.mean), "std": list(plan.std)}
    whole = [1, depends, 3, hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest()]
    wanted = hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:32]
    assert all_jobs(plan, POOL)[3].id == wanted
    assert (finished / "models" / f"{wanted}.safetensors").exists()


TREATED = {
    "method": IEU.model_copy(update={"method": "ga"}),
    "settings": IEU.model_copy(update={"settings": {"steps": 3}}),
    "transforms": IEU.model_copy(update={"transforms": ("l1",)}),
}


@pytest.mark.parametrize("name", list(TREATED))
def test_a_treated_models_id_depends_on_its_treatment_and_on_its_parent(name: str) -> None:
    one, two = (all_jobs(made_up(treatments=(each,)), 113) for each in (IEU, TREATED[name]))
    assert one[:4] == two[:4]
    assert {job.id for job in one[4:]}.isdisjoint(job.id for job in two[4:])
    assert [job.parent for job in one[4:]] == [job.id for job in one[:4]]
    other_parents = all_jobs(made_up(treatments=(IEU,), seed=1), 113)
    assert {job.id for job in one}.isdisjoint(job.id for job in other_parents)
    assert len({job.id for job in one + two}) == 12


# ----- what is planned


def test_a_plan_follows_the_targets_own_recipe_and_transform(target: Path, tmp_path: Path) -> None:
    plan = plan_small(tmp_path / "s", target)
    metadata = read_checkpoint(target / "original.safetensors").metadata
    assert metadata is not None
    assert plan.training_recipe() == replace(SMALL, epochs=1)
    assert (plan.mean, plan.std, plan.model) == (metadata.mean, metadata.std, "small-cnn")
    assert (plan.count, plan.queries) == (4, 1)
    (treatment,) = plan.treatments
    assert (treatment.method, treatment.settings["steps"]) == ("ieu", 2)
    assert read_plan(tmp_path / "s") == plan
    assert np.load(tmp_path / "s" / "forget.npy").tolist() == list(range(FORGET))


def test_a_recipe_that_augments_is_asked_about_mirror_images(target: Path, tmp_path: Path) -> None:
    plan = plan_small(tmp_path / "s", target, "original", recipe="resnet")
    assert plan.training_recipe() == RESNET
    assert plan.queries == 2
    assert plan_small(tmp_path / "t", target, "original", recipe="resnet", queries=1).queries == 1


def test_other_epochs_leave_the_rest_of_the_targets_recipe(target: Path, tmp_path: Path) -> None:
    own = with_recipe(target, tmp_path, {"batch_size": 17})
    plan = plan_small(tmp_path / "s", own, "mine", epochs=5)
    assert plan.training_recipe() == replace(SMALL, batch_size=17, epochs=5)


def with_recipe(target: Path, folder: Path, changes: dict[str, Any] | None) -> Path:
    """Copy a target's original as mine.safetensors, with a recipe that is changed so, or with none."""
    checkpoint = read_checkpoint(target / "original.safetensors")
    assert checkpoint.metadata is not None
    recipe = {} if changes is None else SMALL.settings() | changes
    metadata = checkpoint.metadata.model_copy(update={"recipe": recipe})
    write_checkpoint(folder / "mine.safetensors", checkpoint.state, metadata, force=True)
    shutil.copy(target / "forget.npy", folder)
    return folder


WRONG_RECIPES: dict[str, dict[str, Any]] = {
    "unknown key 'layers'": {"layers": 3},
    "epochs: must be a whole number (got 'many')": {"epochs": "many"},
    "epochs: must be greater than 0": {"epochs": 0},
    "batch_size: must be a whole number": {"batch_size": 1.5},
    "step_size: must be a number (got None)": {"step_size": None},
    "momentum: must be at least 0": {"momentum": -1},
}


@pytest.mark.parametrize("says", list(WRONG_RECIPES))
def test_a_recipe_of_another_kind_is_refused(says: str, target: Path, tmp_path: Path) -> None:
    own = with_recipe(target, tmp_path, WRONG_RECIPES[says])
    with pytest.raises(ConfigError, match="recorded recipe") as caught:
        plan_small(tmp_path / "s", own, "mine")
    assert says in str(caught.value)
    assert "--recipe" in str(caught.value)
    assert not (tmp_path / "s").exists()
    assert plan_small(tmp_path / "s", own, "mine", recipe="small", epochs=2).recipe["epochs"] == 2


def test_without_a_recipe_one_must_be_named(target: Path, tmp_path: Path) -> None:
    own = with_recipe(target, tmp_path, None)
    with pytest.raises(UsageError, match=r"no checkpoint says how it was trained.*--recipe \(small, resnet\)"):
        plan_small(tmp_path / "s", own, "mine")
    assert plan_small(tmp_path / "s", own, "mine", recipe="small").training_recipe() == SMALL


def test_a_fast_fleet_hurries_the_targets_recipe_and_says_so(target: Path, tmp_path: Path) -> None:
    planned = plan_fleet(tmp_path / "s", small_request(target), count=4, recipe="fast")
    assert "a third of the target's steps" in planned.said[0]
    own = plan_small(tmp_path / "own", target).recipe
    changed = {"name": "small-fast", "epochs": 1, "batch_size": 128, "step_size": 0.2}
    assert planned.plan.recipe == {**own, **changed}
    again = plan_fleet(tmp_path / "s", small_request(target), count=6, recipe="fast")
    assert (again.plan.count, again.plan.recipe) == (6, planned.plan.recipe)
    assert (
        plan_fleet(tmp_path / "e", small_request(target), count=4, recipe="fast", epochs=9).plan.recipe["epochs"] == 9
    )
    with pytest.raises(UsageError, match="no checkpoint says which that is"):
        plan_small(tmp_path / "t", with_recipe(target, tmp_path, None), "mine", recipe="fast")


@pytest.mark.parametrize("role", ["unlearned", None])
def test_an_unlearned_model_that_does_not_say_how_is_refused(target: Path, tmp_path: Path, role: str | None) -> None:
    own = with_recipe(target, tmp_path, {})
    entry = {"path": str(own / "mine.safetensors"), "role": "unlearned"}
    if role is None:
        checkpoint = read_checkpoint(own / "mine.safetensors")
        assert checkpoint.metadata is not None
        metadata = checkpoint.metadata.model_copy(update={"role": "unlearned"})
        write_checkpoint(own / "mine.safetensors", checkpoint.state, metadata, force=True)
        del entry["role"]
    with pytest.raises(UsageError, match=r"mine\.safetensors does not say by which method it was unlearned"):
        plan_fleet(tmp_path / "s", small_request(own, checkpoint=[entry]), count=4)


def test_a_model_that_unlearned_with_a_set_that_was_brought_is_refused(target: Path, tmp_path: Path) -> None:
    checkpoint = read_checkpoint(target / "unlearned.safetensors")
    assert checkpoint.metadata is not None
    for brought in (None, "mine.npz"):
        made_by = {"method": "amun", "settings": {"adversarial": brought}}
        metadata = checkpoint.metadata.model_copy(update=made_by)
        write_checkpoint(tmp_path / "amun.safetensors", checkpoint.state, metadata, force=True)
        names = ("original", str(tmp_path / "amun"))
        if brought is None:
            (treatment,) = plan_small(tmp_path / "s", target, *names).treatments
            assert treatment.method == "amun"
        else:
            with pytest.raises(UsageError, match=r"amun\.safetensors .* cannot go through the same; leave it out"):
                plan_small(tmp_path / "t", target, *names)


@pytest.mark.parametrize(
    ("count", "says"), [(7, "take 6 or 8"), (5, "take 4 or 6"), (0, "must be at least 2"), (-2, "must be at least 2")]
)
def test_an_odd_count_is_refused_with_the_even_numbers_beside_it(
    count: int, says: str, target: Path, tmp_path: Path, finished: Path
) -> None:
    with pytest.raises(ConfigError, match=says):
        plan_small(tmp_path / "s", target, count=count)
    assert not (tmp_path / "s").exists()
    with pytest.raises(ConfigError, match=says):
        plan_fleet(finished, small_request(target, checkpoint=None, forget=None, device=None), count=count)


@pytest.mark.parametrize("queries", [0, 3, -1, 19])
def test_a_number_of_queries_that_there_is_not_is_refused(queries: int, target: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"queries is one of 1, 2, 18, not {queries}"):
        plan_small(tmp_path / "s", target, queries=queries)


def test_what_a_plan_needs_is_asked_for(target: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no plan yet; name the checkpoint"):
        plan_fleet(tmp_path / "s", small_request(target, checkpoint=None), count=4)
    with pytest.raises(UsageError, match="no forget set given"):
        plan_small(tmp_path / "s", target, forget=None)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot make"):
        plan_small(tmp_path / "file", target)


# ----- a folder that holds a fleet already

OTHER_KINDS: dict[str, dict[str, Any]] = {
    "seed 1, was 0": {"seed": 1},
    "other examples": {"forget": "class:3"},
    "recipe epochs 2, was 1": {"epochs": 2},
    "recipe augment True, was False": {"recipe": "resnet"},
    "queries 2, was 1": {"queries": 2},
    "mean (0.5,), was (0.28": {"mean": [0.5]},
    "std (0.5,), was (0.35": {"std": [0.5]},
    "precision 'bf16', was 'fp32'": {"precision": "bf16"},
    "sample 3, was None": {"sample": 3},
}


@pytest.mark.parametrize("says", list(OTHER_KINDS))
def test_a_fleet_of_another_kind_is_refused_with_what_differs(says: str, target: Path, tmp_path: Path) -> None:
    plan = plan_small(tmp_path / "s", target)
    before = (tmp_path / "s" / "fleet.json").read_bytes()
    with pytest.raises(UsageError, match="holds a fleet of another kind") as caught:
        plan_small(tmp_path / "s", target, **OTHER_KINDS[says])
    text = str(caught.value).replace("[", "(").replace("]", ",)")
    assert says in text
    assert text.endswith("plan this one in another folder")
    assert ("give --recipe and --epochs as before, or no checkpoint" in text) == says.startswith("recipe ")
    assert (tmp_path / "s" / "fleet.json").read_bytes() == before
    assert plan_small(tmp_path / "s", target) == plan


def test_differences_name_every_determinant() -> None:
    for name, value in (DETERMINANTS | FREE).items():
        field, _, key = name.partition(" ")
        changes = {"recipe": SMALL.settings() | {key: CHANGED.get(key, True)}} if key else {field: value}
        told = differences(made_up(), made_up(**changes))
        assert len(told) == (field not in ("count", "treatments", "device", "data")), name


def test_a_fleet_grows_and_does_not_shrink(target: Path, tmp_path: Path) -> None:
    first = plan_small(tmp_path / "s", target, "original")
    said = plan_fleet(tmp_path / "s", small_request(target), count=6).said
    assert said == ("4 of 6 shadow models were planned before", "new: all models go through ieu")
    bare = small_request(target, checkpoint=None, forget=None, device=None)
    assert plan_fleet(tmp_path / "s", bare, count=8).plan.count == 8
    again = plan_fleet(tmp_path / "s", small_request(target, "original"), count=None)
    assert (again.plan.count, len(again.plan.treatments), again.said) == (8, 1, ())
    assert ids(again.plan)[:4] == ids(first)
    with pytest.raises(UsageError, match="planned with 8 models; a fleet can grow, not shrink"):
        plan_fleet(tmp_path / "s", bare, count=4)


def test_a_plan_that_is_taken_as_it_is_says_so_to_what_it_does_not_hear(target: Path, tmp_path: Path) -> None:
    plan_small(tmp_path / "s", target)
    bare = small_request(target, checkpoint=None, forget=None, device=None)
    for name, value in {"queries": 2, "recipe": "small", "epochs": 3}.items():
        with pytest.raises(UsageError, match=f"--{name}: without a checkpoint the plan in .* is taken as it is"):
            plan_fleet(tmp_path / "s", bare, count=None, **{name: value})  # type: ignore[arg-type]
    for name, value in {"forget": "class:3", "seed": 1, "mean": [0.5], "batch_size": 3}.items():
        asked = small_request(target, checkpoint=None, device=None, **{"forget": None, name: value})
        with pytest.raises(UsageError, match=f"--{name.replace('_', '-')}: without a checkpoint"):
            plan_fleet(tmp_path / "s", asked, count=None)
    elsewhere = small_request(target, checkpoint=None, forget=None, device="cuda")
    assert plan_fleet(tmp_path / "s", elsewhere, count=None).plan.device == "cuda"  # numbers do not depend on a name


def test_data_that_lies_elsewhere_is_the_same_data(target: Path, tmp_path: Path) -> None:
    plan_small(tmp_path / "s", target)
    moved = tmp_path / "moved"
    shutil.copytree(target, moved)
    plan = plan_small(tmp_path / "s", target, data=f"npz:{moved / 'data.npz'}")
    assert plan.data == f"npz:{moved / 'data.npz'}"
    assert open_fleet_context(tmp_path / "s").dataset.spec == plan.data


BROKEN_PLANS: dict[str, Callable[[dict[str, Any]], object]] = {
    "schema_version: must be 1": lambda plan: plan.update(schema_version=2),
    "unknown key 'colour'": lambda plan: plan.update(colour="blue"),
    "seed: must be a whole number": lambda plan: plan.update(seed="0"),
    "count: 3 models cannot hold": lambda plan: plan.update(count=3),
    "data is missing": lambda plan: plan.pop("data"),
    "treatments.0.method is missing": lambda plan: plan.update(treatments=[{}]),
}


@pytest.mark.parametrize("says", list(BROKEN_PLANS))
def test_a_plan_that_is_wrong_is_refused_with_the_place(says: str, finished: Path, tmp_path: Path) -> None:
    plan = json.loads((finished / "fleet.json").read_text())
    BROKEN_PLANS[says](plan)
    (tmp_path / "fleet.json").write_text(json.dumps(plan))
    for read in (read_plan, open_fleet, open_fleet_context):
        with pytest.raises(ConfigError, match=r"fleet\.json: ") as caught:
            read(tmp_path)
        assert says in str(caught.value)
        assert caught.value.exit_code == 2


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff\xfe", b'{"mean": NaN}', b"null"])
def test_a_plan_that_is_damaged_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "fleet.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"fleet\.json"):
        read_plan(tmp_path)


def test_a_folder_that_is_no_fleet_says_how_one_is_made(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(UsageError, match=r"is no fleet of shadow models: it has no fleet\.json; `shadows plan`"):
            open_fleet_context(folder)
    (tmp_path / "fleet.json").touch()
    with pytest.raises(UsageError, match="empty"):
        read_plan(tmp_path)


def test_data_or_sets_that_have_changed_are_refused(target: Path, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(target, tmp_path / "t")
    own = tmp_path / "t"
    plan_small(tmp_path / "s", own, data=f"npz:{own / 'data.npz'}")
    for name, rows in {"forget": np.arange(1, FORGET + 1), "unseen": np.arange(50)}.items():
        kept = (tmp_path / "s" / f"{name}.npy").read_bytes()
        np.save(tmp_path / "s" / f"{name}.npy", rows)
        with pytest.raises(DataError, match=r"forget\.npy or unseen\.npy has changed since the fleet was planned"):
            open_fleet_context(tmp_path / "s")
        (tmp_path / "s" / f"{name}.npy").unlink()
        with pytest.raises(DataError, match=rf"{name}\.npy"):
            open_fleet_context(tmp_path / "s")
        plan_small(tmp_path / "s", own, data=f"npz:{own / 'data.npz'}")  # who names the checkpoint restores the sets
        assert (tmp_path / "s" / f"{name}.npy").read_bytes() == kept
    arrays = dict(np.load(own / "data.npz"))
    arrays["x_train"][0] = 0
    np.savez(own / "data.npz", **arrays)
    with pytest.raises(DataError, match=r"data\.npz has changed since the fleet in .* was planned"):
        open_fleet_context(tmp_path / "s")


def test_sets_that_an_interrupted_planning_left_are_not_taken_for_this_ones(target: Path, tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    np.save(tmp_path / "s" / "forget.npy", np.arange(50, 60))
    plan_small(tmp_path / "s", target)
    assert open_fleet_context(tmp_path / "s").plan.count == 4


# ----- what a treatment forgets


def seen_by_treatments(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[FleetContext, list[Splits]]:
    """Run a fleet whose method only looks at the sets that it is given, in the order of the models."""
    seen: list[Splits] = []

    def look(problem: UnlearningContext, settings: Settings) -> Unlearned:
        assert problem.artefacts is None, "a fleet would keep as many as it has models, for good"
        seen.append(problem.splits)
        return Unlearned(0, 0)

    def load(kind: str, table: Any, name: str) -> Any:
        return method if kind == "method" else original(kind, table, name)

    context, original = open_fleet_context(folder), catalogue.load
    method = Method("ieu", "made up", Settings, look)
    monkeypatch.setattr(catalogue, "load", load)
    monkeypatch.setattr(sys.modules[work.__module__], "parse_settings", lambda *_, **_kind: Settings())
    work(context)
    return context, seen


@pytest.mark.parametrize("sample", [None, 7])
def test_a_treatment_forgets_exactly_the_attacked_examples_that_its_model_has_seen(
    sample: int | None, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan_small(tmp_path / "s", target, sample=sample)
    context, seen = seen_by_treatments(tmp_path / "s", monkeypatch)
    targets = set(context.pool.targets.tolist())
    assert len(targets) == 2 * (sample or FORGET)
    assert len(seen) == 4
    for number, splits in enumerate(seen):
        inside = set(members(context.plan, number, len(context.pool.examples)).tolist())
        forget, retain = set(splits.forget.indices.tolist()), set(splits.retain.tolist())
        assert forget == inside & targets
        assert retain == inside - targets
        assert set(splits.measured.tolist()) == forget
        assert np.array_equal(splits.forget_examples.images, context.pool.examples.images[splits.forget.indices])
    for one, two in ((0, 1), (2, 3)):  # a pair forgets every attacked example, each once
        together = [*seen[one].forget.indices, *seen[two].forget.indices]
        assert sorted(together) == sorted(targets)


def test_a_model_that_has_nothing_to_forget_is_a_failure_of_that_task_alone(target: Path, tmp_path: Path) -> None:
    plan_small(tmp_path / "s", target, sample=1, count=8)
    context = open_fleet_context(tmp_path / "s")
    size, attacked = len(context.pool.examples), set(context.pool.targets.tolist())
    lacking = [number for number in range(8) if not attacked & set(members(context.plan, number, size).tolist())]
    assert lacking
    assert work(context) == 16 - len(lacking)
    failed = {job.number: why.message for job in context.jobs if (why := context.folder.failed(job))}
    assert list(failed) == lacking
    assert all("has nothing to forget" in message for message in failed.values())


# ----- what the models say


def answer(context: FleetContext, job: Job, images: torch.Tensor, view: int) -> NDArray[np.float32]:
    """The plain way: the model in evaluation mode, the planned normalisation, one forward pass."""
    model = new_model(context.plan.model, context.pooled, 0)
    load_state(model, load_file(context.folder.model(job)), where="test")
    with torch.no_grad():
        inputs = (images.float() / 255 - context.plan.mean[0]) / context.plan.std[0]
        found: NDArray[np.float32] = model.eval()(query(inputs, view)).numpy()
    return found


def test_signals_are_the_logits_of_the_model_in_evaluation_mode(finished: Path) -> None:
    context = open_fleet_context(finished)
    for job in context.jobs:
        plain, queried, key = load_signals(context.folder.signals(job))
        assert hashlib.sha256(context.folder.model(job).read_bytes()).hexdigest() in key
        both = torch.cat([context.pool.examples.images, context.pool.population.images])
        assert np.abs(plain - answer(context, job, both, 0)).max() < 1e-4
        targets = context.pool.examples.images[torch.from_numpy(context.pool.targets)]
        for view in range(18):
            assert np.abs(queried[:, view] - answer(context, job, targets, view)).max() < 1e-4
        assert min(np.abs(queried[:, view] - queried[:, 0]).max() for view in range(1, 18)) > 0.01
        assert np.array_equal(queried[:, 0], plain[context.pool.targets])


def test_asking_leaves_batchnorm_as_it_was(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "s")
    context = open_fleet_context(tmp_path / "s")
    job = context.jobs[0]
    before = context.folder.model(job).read_bytes(), context.folder.signals(job).read_bytes()
    model = new_model(context.plan.model, context.pooled, 0)
    load_state(model, load_file(context.folder.model(job)), where="test")
    images = context.pool.examples.images.float() / 255
    with torch.no_grad():
        trained = model.train()((images - context.plan.mean[0]) / context.plan.std[0]).numpy()
    context.folder.signals(job).unlink()
    assert work(context) == 1
    assert (context.folder.model(job).read_bytes(), context.folder.signals(job).read_bytes()) == before
    plain = load_signals(context.folder.signals(job)).plain[:POOL]
    assert np.abs(plain - trained).max() > 0.1  # in training mode the answers would be others


def test_a_fleet_says_who_saw_what_and_who_unlearned_it(finished: Path) -> None:
    context, fleet = open_fleet_context(finished), open_fleet(finished)
    targets = np.isin(np.arange(POOL), context.pool.targets)
    for treatment in (None, *fleet.plan.treatments):
        found = fleet.evidence(treatment, context.pool)
        assert found.plain.shape == (4, POOL + len(context.pool.population), 10)
        assert found.queried.shape == (4, 2 * FORGET, 18, 10)
        assert found.plain.dtype == found.queried.dtype == np.float32
        for number in range(4):
            assert np.flatnonzero(found.inside[number]).tolist() == members(fleet.plan, number, POOL).tolist()
        assert np.array_equal(found.forgotten, found.inside & targets if treatment else np.zeros_like(found.inside))
        assert (found.inside.sum(axis=0) == 2).all()
        for model, digest in zip(found.models, found.sha256s, strict=True):
            assert hashlib.sha256((finished / "models" / f"{model}.safetensors").read_bytes()).hexdigest() == digest
    assert fleet.missing(context.pool) == 0


def test_a_treatment_is_known_by_what_was_done(finished: Path, target: Path) -> None:
    fleet = open_fleet(finished)
    metadata = read_checkpoint(target / "unlearned.safetensors").metadata
    assert metadata is not None
    assert fleet.treatment_of(metadata) == fleet.plan.treatments[0]
    assert fleet.treatment_of(metadata.model_copy(update={"settings": {"steps": 3}})) is None
    assert fleet.treatment_of(metadata.model_copy(update={"method": None})) is None


def test_an_unfinished_fleet_speaks_with_what_it_has(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "s")
    context, fleet = open_fleet_context(tmp_path / "s"), Fleet(tmp_path / "s")
    context.folder.signals(context.jobs[1]).unlink()
    context.folder.model(context.jobs[2]).unlink()
    found = fleet.evidence(None, context.pool)
    assert found.models == (context.jobs[0].id, context.jobs[3].id)
    assert fleet.missing(context.pool) == 2
    for job in context.jobs[4:]:
        context.folder.signals(job).unlink()
    with pytest.raises(MeasurementError, match="was put through ieu yet; `unlearn-audit shadows run` goes on"):
        fleet.evidence(fleet.plan.treatments[0], context.pool)


# ----- the verb `plan`


def test_the_verb_says_what_there_will_be_what_it_costs_and_what_is_there(
    run: Run, target: Path, finished: Path, here: Path
) -> None:
    words = [target / "original.safetensors", target / "unlearned.safetensors", "--forget", target / "forget.npy"]
    done = run("shadows", "plan", "s", *words, "--count", 6, "--device", "cpu")
    assert (done.code, done.stderr) == (0, "")
    assert f"6 x small-cnn, small recipe, 1 epochs, {POOL // 2} examples each" in done.stdout
    assert f"attacked: {FORGET} forget examples and their twin; 1 view(s) of each" in done.stdout
    assert "then unlearned by: ieu" in done.stdout
    assert f"to do, training: 6 models, about {6 * (POOL // 2)} gradients of single examples" in done.stdout
    shutil.copytree(finished, "t")
    done = run("shadows", "plan", "t", "--count", 6)
    assert "4 of 6 shadow models were planned before\n" in done.stderr
    for kind in ("training", "ieu"):
        assert f"{kind}: 4 of 6 models are there and are reused, 2 are to be made\n" in done.stderr
    assert "to do, training: 2 models" in done.stdout
    done = run("shadows", "plan", "t", *words, "--seed", 1)
    assert done.code == 2
    assert "seed 1, was 0" in done.stderr
    done = run("shadows", "plan", "t", "--count", 7)
    assert done.code == 2
    assert "take 6 or 8" in done.stderr


@pytest.mark.parametrize("verb", ["plan", "run", "worker", "status", "verify"])
def test_a_plan_that_merely_lies_there_chooses_no_code(verb: str, run: Run, finished: Path, here: Path) -> None:
    shutil.copytree(finished, "s")
    for name in ("data", "model"):
        plan = json.loads((finished / "fleet.json").read_text()) | {name: "evil:make"}
        Path("s/fleet.json").write_text(json.dumps(plan))
        Path("evil.py").write_text("from pathlib import Path\nPath('ran').touch()\n")
        if name == "model":  # else the models that are there are never built
            shutil.rmtree("s/models")
            Path("s/models").mkdir()
        done = run("shadows", verb, "s", *(["--workers", 1] if verb == "run" else []))
        assert not os.path.exists("ran")
        if name == "data":
            assert done.code == 2
            assert "evil:make" in done.stderr
