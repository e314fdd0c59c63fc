"""`spectrum --layers` and the section [layers]: values, interval, table, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from unlearn_audit.checkpoints import read_checkpoint

Cli = Callable[..., Any]


def test_each_layer_has_its_values_without_a_forget_set_in_every_form(tiny: Path, run: Cli, tmp_path: Path) -> None:
    path = tiny / "original.safetensors"
    done = run("spectrum", "--layers", path, "--k", 2, "--format", "json")
    assert done.code == 0, done.stderr
    assert "training example 0 stands in the report for one" in done.stderr
    report = json.loads(done.stdout)
    (found,) = report["measurements"]
    layers = {one["name"]: one for one in found["details"]["layers"]}
    assert list(layers) == ["conv1", "conv2", "conv3", "fc"]
    assert found["name"] == "layers.sigma_max"
    assert found["value"] == max(one["values"][0] for one in layers.values())
    assert found["interval"] is None
    assert all(one["residual"] >= 0 for one in layers.values())
    weight = read_checkpoint(path).state["fc.weight"]
    assert layers["fc"]["values"] == pytest.approx(torch.linalg.svdvals(weight)[:2].tolist(), rel=1e-5)
    assert layers["fc"]["stable_rank"] == pytest.approx(float(weight.square().sum()) / layers["fc"]["values"][0] ** 2)
    assert layers["conv1"]["shape"] == list(read_checkpoint(path).state["conv1.weight"].shape)
    assert (report["limitations"], report["conclusion"], report["subjects"][0]["doubts"]) == ([], [], [])
    written = tmp_path / "report.json"
    written.write_text(done.stdout)
    for form in ("table", "markdown"):
        shown = run("show", written, "--format", form).stdout
        assert "layers of original" in shown
        assert "forget 1" not in shown
        assert all(name in shown for name in layers)
        assert form == "markdown" or max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize(
    ("flags", "told"),
    [(("--k", 3), "--k is of the layers: add --layers"), (("--layers", "--probes", 9), "--probes is of the curvature")],
)
def test_a_flag_that_would_not_be_heard_is_refused(flags: tuple[object, ...], told: str, tiny: Path, run: Cli) -> None:
    done = run("spectrum", tiny / "original.safetensors", "--forget", "range:0-9", *flags)
    assert done.code == 2
    assert told in done.stderr
