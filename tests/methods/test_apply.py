"""`apply` where it is hard: divergence, sets of odd sizes, every method's help, and the parent that is only read."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Run
from small_problems import CPU, make_context, make_net, make_small_splits, same, snapshot

from unlearn_audit import catalogue
from unlearn_audit.checkpoints import nonfinite, read_checkpoint, write_checkpoint
from unlearn_audit.config import Layer, resolve
from unlearn_audit.data import load_data, make_splits, read_training_indices
from unlearn_audit.engine import Hooks, setup_device
from unlearn_audit.errors import MeasurementError, UsageError
from unlearn_audit.files import sha256_of_file
from unlearn_audit.methods import Extra, Method, Settings, StepTransform, Unlearned, UnlearningContext, ft
from unlearn_audit.methods.apply import Applied, all_looked_at, apply_method, parse_settings
from unlearn_audit.methods.loop import mean_loss
from unlearn_audit.models import build
from unlearn_audit.step_transforms import forms_of, parse_extras
from unlearn_audit.training import pick_recipe, train_checkpoint


def method(name: str) -> Method:
    loaded: Method = catalogue.load("method", catalogue.METHODS, name)
    return loaded


METHODS = [name for name in catalogue.METHODS if "classifier" in forms_of(method(name))]
COMPOSING = [name for name in METHODS if method(name).composes]
every_method = pytest.mark.parametrize("name", METHODS)


def short(name: str) -> list[object]:
    """A budget of next to nothing."""
    others: dict[str, list[object]] = {"retrain": ["--epochs", 1], "iu": ["--iterations", 2, "--sample", 64],
                                      "fisher": ["--batch-size", 100],
                                      "amun": ["--steps", 3, "--first-radius", 1, "--attack-steps", 10]}  # fmt: skip
    return others.get(name, ["--steps", 3] if method(name).composes else [])


def to_forget(name: str, otherwise: object) -> object:
    """What a method can forget: a set of any kind, or only a whole class."""
    return "class:3" if method(name).whole_classes else otherwise


# ----- divergence


def diverging(tiny: Path, out: Path, at: int, *, force: bool = False, steps: int = 60) -> Applied:
    """Fine-tune with a loss that is infinite from a step on."""
    original = mean_loss

    def broken(problem: Any, batches: Any, step: int, **more: Any) -> Any:
        return original(problem, batches, step, **more) * (float("inf") if step >= at else 1.0)

    asked = {"checkpoint": [{"path": str(tiny / "original.safetensors")}], "forget": str(tiny / "forget.npy")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ft, "mean_loss", broken)
        request = resolve([Layer("flag", asked | {"device": "cpu"})])
        return apply_method("ft", out, request, {"steps": steps, "schedule": "constant"}, save_every=0, force=force)


@pytest.mark.parametrize(("at", "kept"), [(20, 20), (33, 20), (39, 20), (40, 40), (59, 40)])
def test_divergence_names_the_step_and_keeps_the_last_good_weights(
    run: Run, tiny: Path, tmp_path: Path, at: int, kept: int
) -> None:
    out, rescued = tmp_path / "u.safetensors", tmp_path / f"u.step-{kept}.safetensors"
    with pytest.raises(MeasurementError) as caught:
        diverging(tiny, out, at)
    assert str(caught.value) == (
        f"FT diverged at step {at}: retain inf; use a smaller step size; the weights after {kept} steps are kept in "
        f"{rescued}"
    )
    assert caught.value.exit_code == 3
    assert [path.name for path in tmp_path.iterdir()] == [rescued.name]  # neither the output nor a state
    inspected = run("inspect", rescued, "--format", "json")
    assert inspected.code == 0, inspected.stderr
    told = json.loads(inspected.stdout)
    assert (told["role"], told["metadata"]["steps"], told["metadata"]["method"]) == ("unlearned", kept, "ft")
    assert told["metadata"]["notes"] == [
        f"stopped early: FT diverged at step {at}: retain inf; use a smaller step size"
    ]
    diverging(tiny, tmp_path / "short.safetensors", 99, steps=kept)
    found = read_checkpoint(rescued)
    assert nonfinite(found.state) == {}
    assert same(dict(found.state), dict(read_checkpoint(tmp_path / "short.safetensors").state))


@pytest.mark.parametrize("at", [0, 7, 19])
def test_without_a_good_look_nothing_is_kept(tiny: Path, tmp_path: Path, at: int) -> None:
    with pytest.raises(
        MeasurementError, match=rf"^FT diverged at step {at}: retain (inf|nan); use a smaller step size$"
    ):
        diverging(tiny, tmp_path / "u.safetensors", at)
    assert list(tmp_path.iterdir()) == []


def test_weights_kept_before_are_replaced_only_by_force(tiny: Path, tmp_path: Path) -> None:
    out, rescued = tmp_path / "u.safetensors", tmp_path / "u.step-20.safetensors"
    rescued.write_bytes(b"mine")
    with pytest.raises(
        MeasurementError, match=r"diverged at step 33: .*could not be kept: .* exists already"
    ) as caught:
        diverging(tiny, out, 33)
    assert rescued.read_bytes() == b"mine"
    assert (tmp_path / "u.safetensors.resume").exists()  # the last good weights are not lost for that
    assert "\n" not in str(caught.value)
    with pytest.raises(MeasurementError, match="are kept in"):
        diverging(tiny, out, 33, force=True)
    assert nonfinite(read_checkpoint(rescued).state) == {}
    assert [path.name for path in tmp_path.iterdir()] == [rescued.name]


@pytest.mark.parametrize("name", ["ieu", "ga", "neggrad-plus", "scrub", "salun", "l1-sparse"])
def test_steps_that_are_far_too_long_end_in_one_line(refused: Callable[..., None], tiny: Path, name: str) -> None:
    """The current folder is empty before and after: nothing was good enough to be kept."""
    refused("apply", name, tiny / "original.safetensors", "--forget", tiny / "forget.npy", "--out", "u.safetensors",
            "--steps", 40, "--step-size", 1e25, code=3,
            says=["diverged at step ", "use a smaller step size"])  # fmt: skip


# ----- every method, odd sets

# Sets whose unseen twin leaves no held-out example over, which this method needs.
LEAVING_NONE = (("reference", "range:0-279"), ("reference", "class:3"))
TRAIN = 400  # examples of the network that they are tried on


@pytest.fixture(scope="module")
def little(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with original.safetensors, trained for an epoch on a few mislabelled digits, and forget.npy."""
    folder = tmp_path_factory.mktemp("little")
    dataset = load_data(f"digits?train={TRAIN}&test=200&mislabel=0.1&seed=0")
    np.save(folder / "forget.npy", read_training_indices("mislabelled", dataset).indices)
    recipe = pick_recipe("small", "small-cnn", epochs=1)
    train_checkpoint(folder / "original.safetensors", "small-cnn", dataset, recipe, seed=0, compute=CPU)
    return folder


class Applying:
    """Runs a method on the fixture's original and looks at what was left."""

    def __init__(self, run: Run, little: Path, folder: Path) -> None:
        self.run, self.parent, self.out = run, little / "original.safetensors", folder / "u.safetensors"

    def __call__(self, name: str, forget: object, *flags: object) -> str:
        """Return what was said."""
        before = sha256_of_file(self.parent)
        done = self.run("apply", name, self.parent, "--forget", forget, "--out", self.out, *flags)
        assert (done.code, done.stdout) == (0, ""), done.stderr
        assert sha256_of_file(self.parent) == before
        beside = sorted(path.name.split("-")[0] for path in self.out.parent.iterdir())
        assert beside == (["adversarial"] if name == "amun" else []) + [self.out.name]
        made, origin = read_checkpoint(self.out), read_checkpoint(self.parent)
        assert nonfinite(made.state) == {}
        assert list(made.state) == list(origin.state)
        assert [each.shape for each in made.state.values()] == [each.shape for each in origin.state.values()]
        metadata = made.metadata
        assert metadata is not None
        assert (metadata.method, metadata.role) == (name, "retrained" if name == "retrain" else "unlearned")
        assert metadata.parent_sha256 == before
        assert metadata.steps is not None
        assert metadata.gradient_evaluations is not None
        assert (metadata.gradient_evaluations > 0) == (name != "mask-only")
        assert f"audit it: unlearn-audit rcd {self.parent} {self.out} --forget {forget}" in done.stderr
        return done.stderr


@pytest.fixture
def applying(run: Run, little: Path, tmp_path: Path) -> Applying:
    return Applying(run, little, tmp_path)


@pytest.mark.parametrize(
    ("name", "forget"),
    [(name, forget) for name in METHODS for forget in ("range:5-5", "range:0-279", "class:3")
     if to_forget(name, forget) == forget and (name, forget) not in LEAVING_NONE],
)  # fmt: skip
def test_one_example_most_of_the_set_and_a_whole_class_can_be_forgotten(
    applying: Applying, name: str, forget: str
) -> None:
    """Training examples 5 alone, 280 of 400, and a class of which nothing is left to retain."""
    applying(name, forget, *short(name))


# Steps of one pass with such batches, and examples: of the forget set, of the retain set.
ONE_PASS = {
    "ssd": (0, 2, 1), "ft": (1, 0, 1), "ft-wd": (1, 0, 1), "l1-sparse": (1, 0, 1), "ga": (1, 1, 0), "ieu": (1, 1, 1),
    "cf-k": (1, 0, 1), "eu-k": (1, 0, 1), "ct": (1, 0, 1),
    "neggrad-plus": (1, 1, 1), "rl": (2, 1, 1), "scrub": (2, 1, 1), "salun": (2, 2, 1),
}  # fmt: skip


@pytest.mark.parametrize("name", ONE_PASS)
def test_a_batch_larger_than_either_set_is_the_set(applying: Applying, little: Path, name: str) -> None:
    sizes = ["--batch-size", 5000] + (["--forget-batch-size", 5000] if name == "scrub" else [])
    steps = ["--epochs", 1] if name in COMPOSING else []
    said = applying(name, little / "forget.npy", *sizes, *steps)
    forget = len(np.load(little / "forget.npy"))
    retain = TRAIN - forget
    taken, of_forget, of_retain = ONE_PASS[name]
    gradients = of_forget * forget + of_retain * retain
    assert f"({taken} steps, {gradients} gradients of single examples, " in said


@pytest.mark.parametrize("name", COMPOSING)
def test_every_method_takes_a_transform_and_full_batches(applying: Applying, little: Path, name: str) -> None:
    flags = ["--batch-size", "full", "--with", "reinit:alpha=0.99"]
    flags += [] if name == "boundary-expand" else ["--with", "mask:random"]
    flags += [] if name == "entanglement" else ["--with", "l1", "--optimizer", "adam"]
    applying(name, to_forget(name, little / "forget.npy"), "--steps", 2, *flags, "--step-size", 1e-4)


@every_method
def test_bfloat16_is_there_on_request(applying: Applying, little: Path, name: str) -> None:
    applying(name, to_forget(name, little / "forget.npy"), *short(name), "--precision", "bf16")


@pytest.mark.slow
@every_method
def test_defaults_work_on_a_trained_network(applying: Applying, little: Path, name: str) -> None:
    applying(name, to_forget(name, little / "forget.npy"))


@every_method
def test_everything_cannot_be_forgotten(refused: Callable[..., None], tiny: Path, name: str) -> None:
    refused("apply", name, tiny / "original.safetensors", "--forget", "range:0-1436", "--out", "u.safetensors",
            code=2, says=["forget set 'range:0-1436' is everything", "nothing is left to compare with"])  # fmt: skip


def nothing_retained(name: str, **settings: Any) -> Unlearned:
    """Run a method where the retain set is empty, which no command line can ask for."""
    splits = make_splits(load_data("digits"), "range:0-99")
    splits = replace(splits, retain=splits.retain[:0])
    model = make_net(classes=10)
    done = method(name).run(
        UnlearningContext(model, splits.dataset.transform, splits, CPU, 0, spec="small-cnn"),
        parse_settings(method(name), settings),
    )
    assert all(torch.isfinite(each).all() for each in model.state_dict().values())
    return done


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("ga", {}),
        ("ieu", {"retain_free": True}),
        ("rl", {"retain_free": True}),
        ("salun", {"retain_free": True}),
        ("neggrad-plus", {"alpha": 0}),
        ("delete", {}),
        ("boundary-shrink", {}),
        ("boundary-expand", {}),
        ("bad-teacher", {"retain_share": 0}),
        ("reference", {"weight": 0}),
        ("ssd", {}),
    ],
)
def test_methods_that_leave_the_retain_set_alone_need_none(name: str, settings: dict[str, Any]) -> None:
    budget = {} if name == "ssd" else {"steps": 2}
    assert nothing_retained(name, **settings, **budget).gradient_evaluations > 0


FORGET_ALONE = ("ga", "ssd", "delete", "mask-only", "boundary-shrink", "boundary-expand")


@pytest.mark.parametrize("name", [name for name in METHODS if name not in FORGET_ALONE])
def test_the_other_ones_say_that_they_need_it(name: str) -> None:
    with pytest.raises(UsageError, match="^the retain set is empty; ") as caught:
        nothing_retained(name)
    assert "\n" not in str(caught.value)


def test_an_odd_start_and_a_run_of_no_step_are_told_and_recorded(run: Run, tiny: Path, tmp_path: Path) -> None:
    for start, steps, says in (
        ("unlearned", 1, "it started from a model that had unlearned this forget set before, by ieu: both count"),
        (
            "retrained-1",
            1,
            "it started from a model that was trained without this forget set: there was nothing to forg",
        ),
        ("original", 0, "no step was taken: the weights are those that it started from"),
    ):
        out = tmp_path / f"{start}.safetensors"
        done = run("apply", "ft", tiny / f"{start}.safetensors", "--forget", tiny / "forget.npy", "--out", out,
                   "--steps", steps)  # fmt: skip
        assert done.code == 0
        assert f"note: {says}" in done.stderr
        metadata = read_checkpoint(out).metadata
        assert metadata is not None
        assert metadata.notes[0].startswith(says)


def test_what_decided_about_the_parent_is_not_forgotten(tiny: Path, tmp_path: Path) -> None:
    parent = read_checkpoint(tiny / "unlearned.safetensors")
    assert parent.metadata is not None
    start = tmp_path / "u.safetensors"
    write_checkpoint(start, parent.state, parent.metadata.model_copy(update={"looked_at": (3, 9)}), force=False)
    asked = {"checkpoint": [{"path": str(start)}], "forget": str(tiny / "forget.npy"), "device": "cpu"}
    found = {}
    for name, values in (("ft", {"steps": 1}), ("retrain", {"epochs": 1})):
        apply_method(name, tmp_path / f"{name}.safetensors", resolve([Layer("flag", asked)]), values)
        metadata = read_checkpoint(tmp_path / f"{name}.safetensors").metadata
        assert metadata is not None
        found[name] = metadata.looked_at
    assert found == {"ft": (3, 9), "retrain": None}


def test_what_decided_in_two_runs_is_their_union() -> None:
    assert all_looked_at((3, 9), Unlearned(1, 0, looked_at=(4, 9))) == (3, 4, 9)
    assert all_looked_at((3, 9), Unlearned(1, 0)) == (3, 9)
    assert all_looked_at(None, Unlearned(1, 0, looked_at=(4, 9))) == (4, 9)
    assert all_looked_at(None, Unlearned(1, 0)) is None


def test_an_ascent_that_joins_a_method_says_that_it_is_clipped(run: Run, tiny: Path, tmp_path: Path) -> None:
    command = ["apply", "ft", tiny / "original.safetensors", "--forget", tiny / "forget.npy", "--steps", 1]
    for extra, clipped in (("ascent", True), ("ascent:loss_clip=none", False)):
        done = run(*command, "--out", tmp_path / f"{clipped}.safetensors", "--with", extra)
        assert ("note: ascent: the ascended loss of an example is clipped at 15 nats" in done.stderr) == clipped
        assert "note: ascent joined ft, whose published form has it not" in done.stderr


@pytest.mark.parametrize("verb", ["apply", "train"])
def test_an_ending_of_another_format_is_refused_before_any_work(
    refused: Callable[..., None], tiny: Path, verb: str
) -> None:
    asked = ["ft", tiny / "original.safetensors", "--forget", "class:3"] if verb == "apply" else ["--data", "digits"]
    refused(verb, *asked, "--out", "u.pt", code=2, says=["written as safetensors; name it u.safetensors"])


@pytest.mark.parametrize(
    ("name", "settings", "extras"),
    [(name, {}, ()) for name in METHODS if name != "amun"] + [  # how long its search is nobody knows: its own tests
        ("scrub", {"rewind": True}, ()),
        ("ieu", {"retain_free": True}, ("mask:saliency",)),
        ("ft", {}, ("ascent", "l1", "reinit")),
        ("rl", {"order": "alternate"}, ()),
    ],
)  # fmt: skip
def test_what_a_run_takes_is_known_before_it(name: str, settings: dict[str, Any], extras: tuple[str, ...]) -> None:
    splits = make_splits(load_data("digits?train=200"), str(to_forget(name, "range:0-39")))
    chosen = method(name)
    budget = {"epochs": 1} if name in ("retrain", "scrub") else {"steps": 7} if chosen.composes else {}
    budget = {"iterations": 3, "sample": 32} if name == "iu" else budget
    values = parse_settings(chosen, settings | budget)
    problem = UnlearningContext(make_net(classes=10), splits.dataset.transform, splits, CPU, 0, spec="small-cnn",
                      extras=parse_extras(extras))  # fmt: skip
    if name == "retrain":
        problem = replace(problem, model=build("small-cnn", classes=10, channels=1))
    before = snapshot(problem.model)
    told = chosen.run(replace(problem, count_only=True), values)
    assert same(problem.model, before)
    done = chosen.run(problem, values)
    assert (told.steps, told.gradient_evaluations) == (done.steps, done.gradient_evaluations)
    assert (done.gradient_evaluations > 0) == (name != "mask-only")
    assert name == "ssd" or not same(problem.model, before)


# ----- the command line


@every_method
@pytest.mark.parametrize("verb", ["apply", "unlearn"])
def test_the_help_of_every_method_fits_eighty_columns(run: Run, here: Path, name: str, verb: str) -> None:
    done = run(verb, name, "--help")
    assert done.code == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if len(line) > 80] == []
    shown = re.sub(r"[\s│]+", " ", done.stdout)
    for setting in method(name).settings.model_fields:
        assert f"--{setting.replace('_', '-')}" in shown, setting
    assert method(name).source.split(";")[0] in shown
    assert ("--with" in shown) == method(name).composes
    assert f"unlearn-audit apply {name} o.safetensors --forget {to_forget(name, 'idx.npy')}" in shown


def test_the_help_shows_transforms_as_the_methods_own_kind_of_models_takes_them(run: Run, here: Path) -> None:
    of_generators = re.sub(r"[\s│]+", " ", run("apply", "esd", "--help").stdout)
    assert "ascent: c=0.2, batch_size=32, loss_clip=1 " in of_generators
    assert "clip: no layer" not in of_generators
    assert " clip: c=1" not in of_generators
    of_classifiers = re.sub(r"[\s│]+", " ", run("apply", "salun", "--help").stdout)
    assert "ascent: c=0.2, batch_size=64, loss_clip=15 " in of_classifiers
    assert " clip: c=1" in of_classifiers


def test_the_help_of_esd_shows_a_concept_and_blames_no_source_for_it(run: Run, here: Path) -> None:
    shown = run("apply", "esd", "--help").stdout
    assert 'unlearn-audit apply esd sd14/ --concept "nudity" --out unlearned/' in shown
    after = re.sub(r"[\s│]+", " ", shown).partition(" --concept <str> ")[2]
    assert after.startswith("what is forgotten, as a prompt; default: the forget set's own prompts. ")
    assert "not used" not in after


def test_the_list_of_methods_fits_eighty_columns_and_names_all(run: Run, here: Path) -> None:
    done = run("apply", "--help")
    assert done.code == 0
    assert [line for line in done.stdout.splitlines() if len(line) > 80] == []
    assert [name for name in catalogue.METHODS if f" {name} " not in done.stdout] == []


def test_defaults_that_the_help_tells_are_those_that_are_recorded(run: Run, tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "u.safetensors"
    assert run("apply", "scrub", tiny / "original.safetensors", "--forget", tiny / "forget.npy", "--out", out,
               "--steps", 1).code == 0  # fmt: skip
    metadata = read_checkpoint(out).metadata
    assert metadata is not None
    assert metadata.settings == {**method("scrub").settings().model_dump(mode="json"), "steps": 1, "epochs": None}


@pytest.mark.parametrize(
    ("name", "flags", "says"),
    [
        ("salun", ["--no-strict"], {"strict": False}),
        ("salun", ["--strict"], {"strict": True}),
        ("ieu", ["--retain-free", "--include-1d"], {"retain_free": True, "include_1d": True}),
        ("ieu", ["--epochs", 0.1], {"epochs": 0.1, "steps": None}),
        ("rl", ["--exclude-true", "--order", "alternate"], {"exclude_true": True, "order": "alternate"}),
        ("scrub", ["--rewind", "--schedule", "milestones:1"], {"rewind": True, "schedule": "milestones:1"}),
    ],
)
def test_flags_reach_the_settings(
    run: Run, tiny: Path, tmp_path: Path, name: str, flags: list[object], says: dict[str, Any]
) -> None:
    out = tmp_path / "u.safetensors"
    budget = [] if "--epochs" in flags else ["--steps", 1]
    done = run("unlearn", name, tiny / "original.safetensors", "--forget", tiny / "forget.npy", "--out", out, *flags,
               *budget)  # fmt: skip
    assert done.code == 0, done.stderr
    metadata = read_checkpoint(out).metadata
    assert metadata is not None
    assert {key: metadata.settings[key] for key in says} == says


@pytest.mark.parametrize(
    ("name", "flags", "says"),
    [
        ("ieu", ["--steps", 3, "--epochs", 1], ["steps and epochs exclude each other"]),
        ("ieu", ["--c", 1.5], ["settings of ieu", "c: "]),
        ("ieu", ["--retain-free", "--c", 0], ["no gradient is left to take"]),
        ("rl", ["--retain-free", "--order", "alternate"], ["order alternate needs the retain set"]),
        ("ft", ["--stop-forget-loss", 2], ["stop_forget_loss: no step of this method takes the forget set's loss"]),
        ("ga", ["--stop-forget-loss", 9, "--loss-clip", 5], ["stop_forget_loss is above loss_clip"]),
        ("retrain", ["--recipe", "resent"], ["unknown recipe 'resent'", "did you mean 'resnet'?"]),
        ("ssd", ["--batch-size", 0], ["settings of ssd", "batch_size: "]),
        ("scrub", ["--schedule", "steps"], ["settings of scrub", "schedule: "]),
    ],
)
def test_requests_that_make_no_sense_are_refused_in_one_line(
    refused: Callable[..., None], tiny: Path, name: str, flags: list[object], says: list[str]
) -> None:
    refused("apply", name, tiny / "original.safetensors", "--forget", tiny / "forget.npy", "--out", "u.safetensors",
            *flags, code=2, says=says)  # fmt: skip


def test_what_deviates_is_said_and_recorded(applying: Applying, little: Path) -> None:
    said = applying("ga", little / "forget.npy", "--steps", 2, "--loss-clip", 4)
    notes = (
        "2 steps, published are 5 epochs",
        "batch_size is 64, published is 256",
        "the ascended loss of an example is clipped at 4 nats, in the source none",
    )
    assert all(f"note: {note}\n" in said for note in notes)
    metadata = read_checkpoint(applying.out).metadata
    assert metadata is not None
    assert metadata.notes == notes


def test_the_published_recipe_is_followed_and_what_is_given_wins(applying: Applying, little: Path) -> None:
    applying("ft", little / "forget.npy", "--recipe", "published", "--epochs", 1)
    metadata = read_checkpoint(applying.out).metadata
    assert metadata is not None
    assert (metadata.settings["batch_size"], metadata.settings["epochs"], metadata.steps) == (256, 1, 2)
    assert metadata.notes == ("epochs is 1, published is 10",)


def test_a_recipe_that_nobody_published_is_refused(refused: Callable[..., None], tiny: Path) -> None:
    refused("apply", "ft-wd", tiny / "original.safetensors", "--forget", tiny / "forget.npy", "--out", "u.safetensors",
            "--recipe", "published", code=2, says=["ft-wd has no published recipe"])  # fmt: skip


def test_a_stop_is_said_and_recorded(applying: Applying, little: Path) -> None:
    said = applying("ga", little / "forget.npy", "--steps", 60, "--stop-forget-loss", 1)
    metadata = read_checkpoint(applying.out).metadata
    assert metadata is not None
    assert metadata.steps == 20
    assert re.fullmatch(r"stopped after 20 steps: forget loss \d+\.\d{3} reached 1", metadata.notes[0])
    assert f"note: {metadata.notes[0]}\n" in said


# ----- a GPU


def takes(chosen: Method, text: str) -> bool:
    """Whether a transform may join a method."""
    return chosen.takes is None or text.partition(":")[0] in chosen.takes


@pytest.mark.gpu
@pytest.mark.parametrize("name", COMPOSING)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_between_two_looks_nothing_waits_for_the_gpu(noise: Any, name: str, precision: str) -> None:
    """From step 3 to step 18 any wait of the host raises, with every transform that edits steps joined."""
    guarded: list[int] = []

    def guard(step: int) -> None:
        if 2 <= step < 18:
            torch.cuda.set_sync_debug_mode("error")
            guarded.append(step)
        else:
            torch.cuda.set_sync_debug_mode("default")

    watch = Extra(StepTransform("watch", "", Settings, lambda *_: Hooks(after=guard)), Settings())
    compute = setup_device("cuda", precision)
    splits = make_small_splits(noise, forget=str(to_forget(name, "range:0-9")))
    problem = make_context(compute.to_device(make_net()), splits, compute=compute)
    names = [text for text in ("ascent", "reinit", "mask:random", "l1") if takes(method(name), text)]
    extras = (*parse_extras(names), watch)
    settings = parse_settings(method(name), {"steps": 40, "batch_size": 16, "augment": "yes"})
    try:
        done = method(name).run(replace(problem, extras=extras), settings)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert done.steps == (80 if name == "entanglement" else 40)
    assert guarded == list(range(2, 18))
