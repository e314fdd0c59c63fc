"""Architectures: their published sizes, finding them from weights, and every refusal on the way."""

import importlib.util
import json
import sys
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unlearn_audit import models
from unlearn_audit.catalogue import GENERATORS, MODELS
from unlearn_audit.errors import CheckpointError, MeasurementError, UsageError
from unlearn_audit.models import fingerprints
from unlearn_audit.models.building import skeleton
from unlearn_audit.models.recognition import fingerprint, sketch

HAS_TIMM = importlib.util.find_spec("timm") is not None
needs_timm = pytest.mark.skipif(not HAS_TIMM, reason="timm is not installed")
OURS = sorted(set(MODELS) - set(GENERATORS))
TORCHVISION = [
    "resnet18",
    "vgg11_bn",
    "densenet121",
    "mobilenet_v2",
    "squeezenet1_0",
    "vit_b_16",
    "swin_t",
    "googlenet",
]
TIMM = [
    "vit_tiny_patch16_224",
    "convnext_atto",
    "efficientnet_b0",
    "deit_tiny_distilled_patch16_224",
    "vit_tiny_r_s16_p8_224",
]
# What this room has besides architectures.
MACHINERY = {
    "__init__", "adapting", "answers", "blame", "building", "loading", "hugging_face", "naming", "recognition",
    "fingerprints", "redrawing",
}  # fmt: skip


def weightless(spec: str, *, classes: int, channels: int = 3) -> dict[str, Tensor]:
    """Return a state dict on the meta device: names and shapes are all that identification reads."""
    shapes = skeleton(spec, classes=classes, channels=channels)
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def resnet_parameters(blocks: int, classes: int, channels: int) -> int:
    """Count by hand: 3x3 convolutions with BatchNorm (9ab + 2b), no shortcut weights, one linear layer."""

    def conv(a: int, b: int) -> int:
        return 9 * a * b + 2 * b

    widths = [16] + [16] * 2 * blocks + [32] * 2 * blocks + [64] * 2 * blocks
    return conv(channels, 16) + sum(map(conv, widths, widths[1:])) + 65 * classes


@pytest.mark.parametrize(
    ("name", "blocks", "millions"),
    [("resnet20", 3, 0.27), ("resnet32", 5, 0.46), ("resnet44", 7, 0.66), ("resnet56", 9, 0.85)],
)
def test_cifar_resnets_have_the_papers_size(name: str, blocks: int, millions: float) -> None:
    model = models.build(name, classes=10)
    assert models.parameter_count(model) == resnet_parameters(blocks, 10, 3)
    assert models.parameter_count(model) / 1e6 == pytest.approx(millions, abs=0.006)
    grey = models.build(name, classes=4, channels=1)
    assert models.parameter_count(grey) == resnet_parameters(blocks, 4, 1)


@pytest.mark.parametrize(("name", "count"), [("cifar-resnet18", 11_173_962), ("cifar-resnet50", 23_520_842)])
def test_small_stem_resnets_have_the_known_size(name: str, count: int) -> None:
    assert models.parameter_count(models.build(name, classes=10)) == count


@pytest.mark.parametrize("name", OURS)
def test_ours_take_small_images_and_end_in_fc(name: str) -> None:
    model = models.build(name, classes=5, channels=1)
    assert model.fc.out_features == 5
    models.adapt(model, torch.randn(2, 1, 16, 16), spec=name, classes=5)
    assert model.training


def test_small_cnn_is_small_and_takes_digits() -> None:
    model = models.build("small-cnn", classes=10, channels=1)
    assert models.parameter_count(model) == 24_058
    assert model(torch.randn(3, 1, 8, 8)).shape == (3, 10)


def test_shortcut_takes_every_other_pixel_and_pads_channels_on_both_sides() -> None:
    block = models.build("resnet20", classes=10).layer2[0].eval()
    for norm in (block.bn1, block.bn2):
        nn.init.zeros_(norm.weight)
    x = torch.rand(2, 16, 8, 8)
    answer = block(x)
    assert torch.equal(answer[:, 8:24], x[:, :, ::2, ::2])
    assert not answer[:, :8].any()
    assert not answer[:, 24:].any()


def test_stem_keeps_the_resolution() -> None:
    model = models.build("cifar-resnet18", classes=10)
    seen = {}
    model.layer1.register_forward_pre_hook(lambda _, inputs: seen.update(shape=inputs[0].shape))
    models.adapt(model, torch.randn(2, 3, 32, 32), spec="cifar-resnet18")
    assert seen["shape"] == (2, 64, 32, 32)


def test_architecture_files_and_catalogue_agree() -> None:
    folder = Path(str(resources.files("unlearn_audit.models")))
    files = {path.stem for path in folder.glob("*.py")} - MACHINERY
    assert files == {target.partition(":")[0].rpartition(".")[2] for target in MODELS.values()}


def test_flops_of_a_known_network() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.Flatten(), nn.Linear(4 * 64, 10, bias=False))
    assert models.flops_per_image(model, torch.randn(3, 8, 8)) == 2 * (64 * 4 * 27 + 256 * 10)
    assert model.training
    with pytest.raises(MeasurementError, match=r"cannot take an image \[1, 1, 8, 8\]"):
        models.flops_per_image(model, torch.randn(1, 8, 8))


# --- building from a spec


def test_is_code() -> None:
    assert models.is_code("package.module:callable")
    assert not any(models.is_code(spec) for spec in ("resnet20", "torchvision:resnet18", "timm:resnet18"))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("small_cnn", "did you mean 'small-cnn'"),
        ("resnet18", "torchvision:resnet18"),
        ("torchvision:resnet19", "did you mean resnet1"),
        ("torchvision:fasterrcnn_resnet50_fpn", "no image classifier"),
        ("torchvision:", "no image classifier"),
    ],
)
def test_unknown_names_answer_with_the_nearest(spec: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        models.build(spec, classes=10)


def test_torchvision_refuses_grey_images_and_impossible_sizes() -> None:
    with pytest.raises(UsageError, match="takes images of 3 channels, the data has 1"):
        models.build("torchvision:resnet18", classes=10, channels=1)
    with pytest.raises(UsageError, match="takes square images"):
        models.build("torchvision:vit_b_16", classes=10, image_size=(32, 64))
    with pytest.raises(UsageError, match="cannot be built for images of 30 x 30"):
        models.build("torchvision:vit_b_16", classes=10, image_size=(30, 30))
    with pytest.raises(UsageError, match="at least 1 class"):
        models.build("resnet20", classes=0)


@pytest.mark.parametrize("name", ["resnet18", "vgg11_bn", "mobilenet_v2"])
def test_torchvision_takes_grey_images_where_it_is_told_to(name: str) -> None:
    spec = f"torchvision:{name}?channels=1"
    model = models.build(spec, classes=5, channels=1)
    models.adapt(model, torch.randn(2, 1, 32, 32), spec=spec, classes=5)
    found = models.identify(model.state_dict())
    assert (found.spec, found.classes, found.channels) == (spec, 5, 1)
    models.load_state(models.build(found.spec, classes=5, channels=1), found.state, where="grey.pt")
    with pytest.raises(UsageError, match="takes images of 1 channels, the data has 3"):
        models.build(spec, classes=5)


@needs_timm
def test_timm_takes_options() -> None:
    spec = "timm:vit_tiny_patch16_224?img_size=32&patch_size=4"
    model = models.build(spec, classes=3)
    assert model.patch_embed.proj.kernel_size == (4, 4)
    models.adapt(model, torch.randn(2, 3, 32, 32), spec=spec, classes=3)


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("torchvision:resnet18?weights=DEFAULT", "is not an option.*takes channels="),
        ("torchvision:resnet18?channels=1&channels=1", "is given twice"),
        ("torchvision:resnet18?channels=/etc/x", "a number, true, false or a word"),
        ("timm:resnet18?checkpoint_path=x", "is not an option"),
        ("timm:resnet18?pretrained=true", "is not an option"),
        ("small-cnn?width=3", "takes none"),
    ],
)
def test_options_that_are_none_are_refused(spec: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        models.build(spec, classes=2, channels=1)


@needs_timm
def test_timm_takes_grey_images_and_the_size_asked_for() -> None:
    model = models.build("timm:vit_tiny_patch16_224", classes=3, channels=1, image_size=(32, 32))
    models.adapt(model, torch.randn(2, 1, 32, 32), spec="timm:vit_tiny_patch16_224", classes=3)


@needs_timm
@pytest.mark.parametrize("spec", ["timm:resnet17q", "timm:hf-hub:someone/something", "timm:local-dir:/etc"])
def test_timm_refuses_unknown_names_and_anything_remote(spec: str) -> None:
    with pytest.raises(UsageError, match="timm has no image classifier"):
        models.build(spec, classes=10)


def test_timm_missing_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UsageError, match=r"pip install 'unlearn-audit\[timm\]'"):
        models.build("timm:resnet18", classes=10)


CODE = """
import torch
open("it_ran", "w").close()
def make(): return torch.nn.Linear(2, 2)
def broken(): raise ValueError("no such width")
def text(): return "a model"
number = 3
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Return a function that puts a module of this name in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(sys.path))

    def write(name: str) -> Path:
        (tmp_path / f"{name}.py").write_text(CODE)
        return tmp_path

    return write


def test_code_is_refused_without_being_imported(project: Callable[[str], Path]) -> None:
    folder = project("models_refused")
    with pytest.raises(UsageError, match="may not choose it.*--model SPEC or --config FILE"):
        models.build("models_refused:make", classes=2)
    assert not (folder / "it_ran").exists()


def test_code_from_the_current_folder(project: Callable[[str], Path]) -> None:
    project("models_allowed")
    assert isinstance(models.build("models_allowed:make", classes=2, allow_code=True), nn.Linear)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("models_bad:broken", "failed when called without arguments: ValueError: no such width"),
        ("models_bad:text", "returned str"),
        ("models_bad:number", "is a int, not a callable"),
        ("models_bad:absent", "cannot be imported"),
        ("models_that_do_not_exist:make", "cannot be imported"),
        ("models_bad:", "cannot be imported"),
    ],
)
def test_code_that_is_no_model(project: Callable[[str], Path], spec: str, message: str) -> None:
    project("models_bad")
    with pytest.raises(UsageError, match=message):
        models.build(spec, classes=2, allow_code=True)


# --- identification


@pytest.mark.parametrize("classes", [2, 10, 37])
@pytest.mark.parametrize("name", OURS)
def test_ours_are_recognised(name: str, classes: int) -> None:
    for channels in (1, 3):
        found = models.identify(weightless(name, classes=classes, channels=channels))
        assert (found.spec, found.classes, found.channels, found.alternatives) == (name, classes, channels, ())


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision_is_recognised(name: str) -> None:
    for classes in (2, 37):
        found = models.identify(weightless(f"torchvision:{name}", classes=classes))
        assert (found.spec, found.classes, found.channels) == (f"torchvision:{name}", classes, 3)


@needs_timm
@pytest.mark.parametrize("name", TIMM)
def test_timm_is_recognised(name: str) -> None:
    found = models.identify(weightless(f"timm:{name}", classes=37))
    assert (found.spec, found.classes) == (f"timm:{name}", 37)


def test_real_weights_go_round() -> None:
    original = models.build("resnet20", classes=10)
    found = models.identify(original.state_dict())
    copy = models.build(found.spec, classes=found.classes, channels=found.channels)
    models.load_state(copy, found.state, where="copy.safetensors")
    x = torch.randn(4, 3, 32, 32)
    assert torch.equal(original.eval()(x), copy.eval()(x))
    assert any("stride" in assumption for assumption in found.assumptions)


def test_ambiguous_prefers_torchvision_and_lists_the_others() -> None:
    found = models.identify(weightless("torchvision:resnet18", classes=10))
    assert found.spec == "torchvision:resnet18"
    assert found.alternatives[0] == "timm:resnet18"


@pytest.mark.parametrize(("name", "known"), [("resnet20", "linear."), ("cifar-resnet18", "linear. shortcut.")])
def test_foreign_names_are_translated(name: str, known: str) -> None:
    model = models.build(name, classes=10)
    foreign = {
        k.replace("fc.", "linear.").replace("downsample.", "shortcut."): t for k, t in model.state_dict().items()
    }
    found = models.identify(foreign)
    assert found.spec == name
    models.load_state(model, found.state, where="foreign.pth")
    said = " ".join(found.assumptions)
    assert all(f"'{part}'" in said for part in known.split())


def test_batch_counters_may_be_absent() -> None:
    model = models.build("small-cnn", classes=10, channels=1)
    old = {name: tensor for name, tensor in model.state_dict().items() if "num_batches" not in name}
    assert models.identify(old).spec == "small-cnn"
    models.load_state(model, old, where="old.pth")


def test_no_match_names_the_nearest_and_the_differing_keys() -> None:
    state = weightless("resnet20", classes=10)
    state["extra.weight"] = state.pop("layer3.2.bn2.bias")
    with pytest.raises(CheckpointError) as caught:
        models.identify(state, where="odd.pt")
    message = str(caught.value)
    assert message.startswith("odd.pt: no known architecture")
    assert "nearest: resnet20, " in message
    assert "missing: 'layer3.2.bn2.bias'; unexpected: 'extra.weight'" in message
    assert "--model" in message
    assert "\n" not in message


def test_no_match_of_another_width_tells_the_shapes() -> None:
    state = weightless("torchvision:resnet18", classes=10)
    state["layer4.1.bn2.weight"] = torch.empty(500)
    with pytest.raises(CheckpointError, match=r"'layer4.1.bn2.weight' is \[500\] where \[512\] is needed"):
        models.identify(state)


@pytest.mark.parametrize("state", [{}, {"a.b": torch.zeros(3)}, {"fc.weight": torch.tensor(1.0)}])
def test_nothing_alike_is_an_error_too(state: dict[str, Tensor]) -> None:
    with pytest.raises(CheckpointError, match=r"no known architecture.*--model"):
        models.identify(state)


def test_disagreeing_heads_are_no_match() -> None:
    state = weightless("resnet20", classes=10)
    state["fc.bias"] = torch.empty(11)
    with pytest.raises(CheckpointError, match=r"'fc.bias' is \[11\] where \[10\] is needed"):
        models.identify(state)


# --- loading


def test_class_count_is_told_when_only_the_head_differs() -> None:
    model = models.build("resnet20", classes=10)
    other = models.build("resnet20", classes=100).state_dict()
    before = model.conv1.weight.clone()
    with pytest.raises(CheckpointError, match=r"^c\.pt: checkpoint has 100 classes, data has 10"):
        models.load_state(model, other, where="c.pt")
    assert torch.equal(model.conv1.weight, before)


@pytest.mark.parametrize("other", ["resnet32", "small-cnn"])
def test_another_architecture_does_not_load(other: str) -> None:
    model = models.build("resnet20", classes=10)
    with pytest.raises(CheckpointError, match=r"c\.pt: the weights do not fit.*(missing|unexpected)") as caught:
        models.load_state(model, models.build(other, classes=10).state_dict(), where="c.pt")
    assert "\n" not in str(caught.value)


def test_other_channels_are_both_counts_in_words() -> None:
    model = models.build("resnet20", classes=10)
    with pytest.raises(CheckpointError, match="checkpoint takes images of 1 channels, data has 3"):
        models.load_state(model, models.build("resnet20", classes=10, channels=1).state_dict(), where="c.pt")


def test_another_width_is_a_shape_mismatch_and_no_class_count() -> None:
    model, wider = (nn.Sequential(nn.Conv2d(3, n, 3), nn.Conv2d(n, 2, 3)) for n in (4, 8))
    with pytest.raises(CheckpointError, match=r"other shape: '0.weight' is \[8, 3, 3, 3\]"):
        models.load_state(model, wider.state_dict(), where="c.pt")


def test_layout_versions_do_not_stand_in_the_way() -> None:
    model = models.build("torchvision:mnasnet0_5", classes=3)
    models.load_state(model, dict(model.state_dict()), where="c.safetensors")


# --- images


def test_images_of_other_channels_are_refused_in_one_line() -> None:
    model = models.build("resnet20", classes=10)
    with pytest.raises(
        MeasurementError, match="'resnet20' cannot take these images .1 channels, 8 x 8 pixels"
    ) as caught:
        models.adapt(model, torch.randn(4, 1, 8, 8), spec="resnet20")
    assert "\n" not in str(caught.value)
    assert model.training


def test_images_of_another_size_are_refused() -> None:
    model = models.build("torchvision:squeezenet1_1", classes=2)
    with pytest.raises(MeasurementError, match="3 channels, 8 x 8 pixels"):
        models.adapt(model, torch.randn(2, 3, 8, 8), spec="torchvision:squeezenet1_1")


class Answers(nn.Module):
    """Answers anything with the same thing."""

    def __init__(self, answer: object) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: Tensor) -> object:
        return self.answer


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"out": 1}, "a dict instead"),
        (torch.zeros(2, 10, 4), r"\[2, 10, 4\]"),
        (torch.zeros(1, 10), r"\[1, 10\]"),
        (torch.zeros(2, 9), r"\[2, 9\]"),
        (torch.zeros(2, 10, dtype=torch.int64), "torch.int64"),
    ],
)
def test_outputs_that_are_no_logits_are_refused(answer: object, message: str) -> None:
    with pytest.raises(MeasurementError, match=message):
        models.adapt(Answers(answer), torch.zeros(3, 3, 8, 8), spec="mine:make", classes=10)


# --- the table


def shipped() -> dict[str, Any]:
    table: dict[str, Any] = json.loads(
        resources.files("unlearn_audit.models").joinpath("fingerprints.json").read_text()
    )
    return table


@pytest.mark.parametrize(
    "spec", [*OURS, "torchvision:resnet50", "torchvision:inception_v3", "torchvision:regnet_y_400mf"]
)
def test_table_agrees_with_its_generator(spec: str) -> None:
    table = shipped()
    entry = next(entry for entry in table["entries"] if spec in entry["specs"])
    pattern, lines = fingerprints.describe(spec)
    assert entry["sha256"] == fingerprint(lines)
    assert entry["shapes"] == sketch(lines)
    assert table["patterns"][entry["pattern"]] == pattern._asdict()


def test_table_has_all_of_torchvision() -> None:
    from torchvision import models as library

    table = shipped()
    known = {spec for entry in table["entries"] for spec in entry["specs"]}
    assert {f"torchvision:{name}" for name in library.list_models(module=library)} | set(OURS) <= known
    assert sum(spec.startswith("timm:") for spec in known) > 1000


def test_generator_groups_and_tells_what_it_skips(tmp_path: Path) -> None:
    content = fingerprints.table(["torchvision:resnet18", "resnet20", "torchvision:nothing"])
    assert [entry["specs"] for entry in content["entries"]] == [("resnet20",), ("torchvision:resnet18",)]
    assert "torchvision:nothing" in content["skipped"]
    assert json.loads(fingerprints.text_of(content))["patterns"] == list(content["patterns"])


def test_generator_wants_one_argument(capsys: pytest.CaptureFixture[str]) -> None:
    assert fingerprints.main([]) == 2
    assert "usage" in capsys.readouterr().err
