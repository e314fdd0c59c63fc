"""Of several sets of weights in one file none is read in silence, and --weights takes the one that is meant."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from unlearn_audit.checkpoints import OneSetOfWeights, SeveralWeights, read_checkpoint
from unlearn_audit.checkpoints.choosing import at_key, sets_within
from unlearn_audit.checkpoints.entries import is_average
from unlearn_audit.cli import main
from unlearn_audit.config import AuditConfig, CheckpointEntry, Resolved
from unlearn_audit.errors import CheckpointError
from unlearn_audit.inputs import inspect_checkpoint, read_entry
from unlearn_audit.methods.apply import apply_method
from unlearn_audit.models import build


def weights(value: float) -> dict[str, Tensor]:
    return {"conv.weight": torch.full((2, 1, 3, 3), value), "conv.bias": torch.full((2,), value)}


def saved(folder: Path, content: Any, **options: Any) -> Path:
    torch.save(content, folder / "c.pt", **options)
    return folder / "c.pt"


@pytest.mark.parametrize(
    ("raw", "average"),
    [
        ("model", "model_ema"),
        ("state_dict", "ema_state_dict"),
        ("state_dict", "state_dict_ema"),
        ("params", "params_ema"),
        ("net", "ema"),
        ("student", "teacher"),
        ("model_state_dict", "swa_model"),
        ("generator", "discriminator"),
    ],
)
def test_two_sets_are_refused_with_both_keys_and_either_can_be_had(raw: str, average: str, tmp_path: Path) -> None:
    path = saved(tmp_path, {raw: weights(1), average: weights(2), "epoch": 3})
    with pytest.raises(SeveralWeights, match=f"'{raw}' .2 tensors, 20 values.*'{average}' .*--weights KEY") as caught:
        read_checkpoint(path)
    assert list(caught.value.sets) == [raw, average]
    for key, value in ((raw, 1), (average, 2)):
        read = read_checkpoint(path, weights=key)
        assert read.state["conv.bias"].tolist() == [value] * 2
        assert read.weights == key
        assert list(read.sets) == [raw, average]
        assert any(note.startswith("not read: the weights under ") for note in read.notes)


def test_wrappers_of_one_set_do_not_make_it_the_same(tmp_path: Path) -> None:
    ema = {f"module.{name}": tensor for name, tensor in weights(2).items()}
    path = saved(tmp_path, {"model": weights(1), "model_ema": ema})
    with pytest.raises(SeveralWeights):
        read_checkpoint(path)
    assert read_checkpoint(path, weights="model_ema").state.keys() == weights(1).keys()


def test_two_keys_of_the_same_weights_are_one_set(tmp_path: Path) -> None:
    one = weights(1)
    read = read_checkpoint(saved(tmp_path, {"model": one, "model_ema": weights(1), "net": one}))
    assert read.weights == "model"
    assert "the same weights stand under 'model_ema', too" in read.notes


def test_very_many_sets_and_placeholders_are_bounded(tmp_path: Path) -> None:
    path = saved(tmp_path, {f"model{i}": weights(1) for i in range(65)})
    with pytest.raises(CheckpointError, match="holds 65 sets of weights; at most 64"):
        read_checkpoint(path)
    for number in range(120):
        setattr(argparse, f"C{number}", type(f"C{number}", (), {"__module__": "argparse"}))
    try:
        made = [getattr(argparse, f"C{number}")() for number in range(120)]
        read = read_checkpoint(saved(tmp_path, {"model": weights(1), "more": made}))
    finally:
        for number in range(120):
            delattr(argparse, f"C{number}")
    assert len(read.placeholders) == 101
    assert read.placeholders[-1] == "and 20 more"


@pytest.mark.parametrize("key", ["model_ema", "ema", "module", "weights", "params_ema", "state.model", "0", "my.key"])
def test_the_only_set_is_read_wherever_it_stands(key: str, tmp_path: Path) -> None:
    content: Any = {"state": {"model": weights(1)}} if key == "state.model" else {key: weights(1), "epoch": 1}
    read = read_checkpoint(saved(tmp_path, [weights(1), 3] if key == "0" else content))
    assert read.weights == key
    assert read_checkpoint(read.path, weights=key).weights == key
    assert ("averaged weights, by the name of their key" in read.notes) is is_average(key)


def test_states_of_optimizers_losses_and_random_numbers_are_no_rivals(tmp_path: Path) -> None:
    content = {
        "model": weights(1),
        "optimizer": {"state": {0: {"exp_avg": torch.ones(1)}}, "param_groups": []},
        "ema_optimizer": {"m.weight": torch.ones(1)},
        "criterion": {"weight": torch.ones(3)},
        "rng_state": {"cpu": torch.get_rng_state()},
        "metrics": {"acc": torch.tensor(1.0)},
        "normalizer_state": {"mean": torch.ones(1)},
    }
    assert read_checkpoint(saved(tmp_path, content)).weights == "model"


def test_a_key_that_is_not_there_answers_with_those_that_are(tmp_path: Path) -> None:
    path = saved(tmp_path, {"model": weights(1), "model_ema": weights(2)})
    with pytest.raises(CheckpointError, match="unknown set of weights 'model_em'; did you mean 'model_ema'"):
        read_checkpoint(path, weights="model_em")
    with pytest.raises(OneSetOfWeights, match="leave out --weights"):
        read_checkpoint(saved(tmp_path, weights(1)), weights="model")


def test_any_dictionary_of_tensors_can_be_asked_for(tmp_path: Path) -> None:
    path = saved(tmp_path, {"a": {"loss.b": {"weight": torch.ones(2)}}})
    with pytest.raises(CheckpointError, match="no state dict"):
        read_checkpoint(path)
    assert read_checkpoint(path, weights="a.loss.b").state["weight"].tolist() == [1, 1]


@pytest.mark.parametrize("kind", ["safetensors", "torch"])
def test_an_average_within_one_dictionary(kind: str, tmp_path: Path) -> None:
    both = {f"model.{name}": tensor for name, tensor in weights(1).items()} | {
        f"model_ema.module.{name}": tensor for name, tensor in weights(2).items()
    }
    path = tmp_path / "c"
    if kind == "safetensors":
        save_file(both, path)
    else:
        torch.save({"state_dict": both, "epoch": 1}, path)
    with pytest.raises(SeveralWeights, match=r"'model' .*'model_ema' .*'\.' "):
        read_checkpoint(path)
    assert read_checkpoint(path, weights="model").state["conv.bias"].tolist() == [1, 1]
    assert read_checkpoint(path, weights="model_ema").state["conv.bias"].tolist() == [2, 2]
    assert len(read_checkpoint(path, weights=".").state) == 4


def test_an_average_whose_names_have_lost_their_dots_is_seen() -> None:
    shapes = {"model.conv.weight": (2, 2), "model.conv.bias": (2,)}
    average = {"model_ema.convweight": (2, 2), "model_ema.convbias": (2,), "model_ema.decay": ()}
    assert sets_within(shapes | average) == ("model", "model_ema")


def test_twin_branches_that_are_no_averages_are_one_model() -> None:
    shapes = {f"{head}.{name}": (2, 2) for head in ("left", "right", "0", "1") for name in ("weight", "bias")}
    assert sets_within(shapes) == ()
    assert sets_within({"quantise.ema_w": (2,), "quantise.w": (2,), "ema.decay": (1,), "net.w": (3,)}) == ()


def test_an_average_without_names_is_told(tmp_path: Path) -> None:
    ema = {"decay": 0.99, "num_updates": 3, "shadow_params": [torch.ones(2)] * 20}
    path = saved(tmp_path, {"model": weights(1), "ema": ema})
    with pytest.raises(
        SeveralWeights, match=r"'model' .*'ema\.shadow_params' \(an average in 20 tensors without names"
    ):
        read_checkpoint(path)
    assert read_checkpoint(path, weights="model").weights == "model"


def test_an_average_as_a_whole_model_is_told(tmp_path: Path) -> None:
    path = saved(tmp_path, {"state_dict": weights(1), "ema": nn.Linear(2, 2)})
    with pytest.raises(SeveralWeights, match="an average as a whole pickled model"):
        read_checkpoint(path)
    assert read_checkpoint(path, weights="state_dict").weights == "state_dict"


def test_an_average_in_the_state_of_a_callback_is_told(tmp_path: Path) -> None:
    path = saved(tmp_path, {"state_dict": weights(1), "callbacks": {"EMA": {"ema_weights": weights(2)}}})
    with pytest.raises(SeveralWeights, match="'callbacks.EMA.ema_weights'"):
        read_checkpoint(path)
    assert read_checkpoint(path, weights="callbacks.EMA.ema_weights").state["conv.bias"].tolist() == [2, 2]


def test_keys_with_dots_are_walked() -> None:
    assert at_key({"a.b": {"c": 1}, "a": {"b": {"c": 2}}}, "a.b.c") == 1 or 2
    assert at_key({"a": [5, {"x": 6}]}, "a.1.x") == 6
    assert at_key({"a": 1}, "b") is None
    assert at_key({"a": {}}, "a." * 100_000) is None


def test_one_dictionary_under_very_many_names_is_looked_at_once(tmp_path: Path) -> None:
    one = {f"w.{i}": None for i in range(2000)}
    content = {f"k{i}": one for i in range(2000)} | {"model": weights(1)}
    assert read_checkpoint(saved(tmp_path, content)).weights == "model"


# --- through the tool


def test_a_key_for_all_concerns_the_files_that_have_keys(tmp_path: Path) -> None:
    keyed = saved(tmp_path, {"model": weights(1), "model_ema": weights(2)})
    save_file(weights(3), tmp_path / "flat.safetensors")
    entries = tuple(CheckpointEntry(path=str(path)) for path in (keyed, tmp_path / "flat.safetensors"))
    config = AuditConfig(checkpoint=entries, weights="model_ema")
    assert read_entry(config, entries[0]).state["conv.bias"].tolist() == [2, 2]
    assert (
        "it holds one set of weights, under no key: --weights does not concern it"
        in read_entry(config, entries[1]).notes
    )
    own = CheckpointEntry(path=str(keyed), weights="model")
    assert read_entry(config, own).state["conv.bias"].tolist() == [1, 1]
    with pytest.raises(OneSetOfWeights):
        read_entry(AuditConfig(checkpoint=entries[1:], weights="model"), entries[1])


def test_inspect_lists_every_set_and_what_stands_beside(tmp_path: Path) -> None:
    content = {"model": weights(1), "model_ema": weights(2), "epoch": 3, "acc": 0.5, "args": argparse.Namespace()}
    found = inspect_checkpoint(saved(tmp_path, content), Resolved(AuditConfig(), {}))
    assert found["weights"] == {
        "model": "2 tensors, 20 values",
        "model_ema": "2 tensors, 20 values, averaged by its name",
    }
    assert found["beside the weights"] == {"epoch": "3", "acc": "0.5", "args": "argparse.Namespace"}
    assert found["not read"] == ["argparse.Namespace"]
    assert found["format"] == "torch zip"
    assert len(found["sha256"]) == 64


def test_the_flag_reaches_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = nn.Sequential()
    model.add_module("fc", nn.Linear(2, 2))
    path = saved(tmp_path, {"model": model.state_dict(), "model_ema": {"fc.weight": torch.ones(2, 2)}})
    monkeypatch.setattr("sys.argv", ["unlearn-audit", "inspect", str(path), "--format", "json"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code in (0, None)
    assert set(json.loads(capsys.readouterr().out)["weights"]) == {"model", "model_ema"}


def test_a_child_records_which_weights_it_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    state = build("small-cnn", classes=10, channels=1).state_dict()
    half = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    saved(tmp_path, {"model": {name: tensor + 1 for name, tensor in state.items()}, "model_ema": half})
    entry = CheckpointEntry(path="c.pt", weights="model_ema")
    config = AuditConfig(checkpoint=(entry,), data="digits", forget="class:3")
    request = Resolved(config, {"data": "flag", "forget": "flag"})
    applied = apply_method("ga", Path("u.safetensors"), request, {"steps": 1})
    metadata = read_checkpoint(Path("u.safetensors")).metadata
    assert metadata is not None
    assert metadata.parent_weights == "model_ema"
    assert "state dict taken from 'model_ema'" in applied.limitations
    assert "17 tensors are stored as float16 and computed with as float32" in applied.limitations
    other = request._replace(config=config.model_copy(update={"checkpoint": (CheckpointEntry(path="c.pt"),)}))
    with pytest.raises(SeveralWeights):
        apply_method("ga", Path("v.safetensors"), other, {"steps": 1})


def test_init_writes_which_weights_are_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    saved(tmp_path, {"model": weights(1), "model_ema": weights(2)})
    save_file(weights(3), "flat.safetensors")
    arguments = ["unlearn-audit", "init", "c.pt", "flat.safetensors", "--weights", "model_ema", "--forget", "class:3"]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code in (0, None)
    assert 'weights = "model_ema"\n' in Path("unlearn-audit.toml").read_text()
