"""Shadow models go through what the target went through, whatever joined its method, and are trained as it was."""

from pathlib import Path

import pytest
from small_fleets import make_target, plan_small, small_request

from unlearn_audit.catalogue import TRANSFORMS
from unlearn_audit.checkpoints import read_checkpoint
from unlearn_audit.data import load_data
from unlearn_audit.engine import setup_device
from unlearn_audit.methods.apply import apply_method
from unlearn_audit.shadows import open_fleet, open_fleet_context, work
from unlearn_audit.training import pick_recipe, train_checkpoint

COUNT = 2
# Transform -> the method that it joins, and how it is asked for.
JOINED: dict[str, tuple[str, str]] = {
    "ascent": ("ft", "ascent:c=0.2"),
    "reinit": ("ft", "reinit:alpha=0.99"),
    "mask": ("ieu", "mask:saliency,density=0.5"),
    "l1": ("ft", "l1"),
    "feasible": ("neggrad-plus", "feasible:opt,on=step"),
    "nash": ("neggrad-plus", "nash"),
    "clip": ("ft", "clip:c=1,k=4,every=1"),
}


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An original that was trained with clipped layers, and one model unlearned with each transform."""
    folder = make_target(tmp_path_factory.mktemp("target"))
    recipe = pick_recipe("small", "small-cnn", epochs=1, transforms=["clip:c=1.5,k=4,every=2"])
    original = folder / "clipped.safetensors"
    dataset = load_data(f"npz:{folder / 'data.npz'}")
    train_checkpoint(original, "small-cnn", dataset, recipe, seed=0, compute=setup_device("cpu"), clock=None)
    for name, (method, extra) in JOINED.items():
        request = small_request(folder, "clipped")
        apply_method(method, folder / f"{name}.safetensors", request, {"steps": 2}, extras=(extra,), clock=None)
    return folder


def test_every_transform_is_tried_here() -> None:
    assert set(JOINED) == set(TRANSFORMS)


def test_a_fleet_repeats_every_transform_and_a_clipped_training(target: Path, tmp_path: Path) -> None:
    folder = tmp_path / "shadows"
    plan = plan_small(folder, target, "clipped", *JOINED, count=COUNT)
    assert plan.recipe["transforms"] == ["clip:c=1.5,k=4,every=2"]
    assert {one.transforms for one in plan.treatments} == {
        read_checkpoint(target / f"{name}.safetensors").metadata.transforms  # type: ignore[union-attr]
        for name in JOINED
    }
    assert work(open_fleet_context(folder)) == COUNT * (1 + len(JOINED))
    assert not list((folder / "failed").iterdir())
    states = [read_checkpoint(path).state for path in (folder / "models").glob("*.safetensors")]
    weights = {b"".join(tensor.numpy().tobytes() for tensor in state.values()) for state in states}
    assert len(states) == len(weights) == COUNT * (1 + len(JOINED)), "no treatment leaves a shadow model as it was"
    assert open_fleet(folder).plan.treatments == plan.treatments
