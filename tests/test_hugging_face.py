"""Image classifiers of Hugging Face: built from config.json alone, answering with logits, no code of a folder run."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from unlearn_audit import models
from unlearn_audit.errors import UsageError

VIT: dict[str, Any] = {
    "architectures": ["ViTForImageClassification"], "model_type": "vit", "image_size": 16, "patch_size": 8,
    "num_channels": 1, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
}  # fmt: skip
needs_transformers = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="transformers is not installed"
)


def spec_of(folder: Path, **changed: object) -> str:
    (folder / "config.json").write_text(json.dumps(VIT | changed))
    return f"transformers:{folder}"


@needs_transformers
def test_a_classifier_is_built_from_its_config_and_answers_with_logits(tmp_path: Path) -> None:
    model = models.build(spec_of(tmp_path), classes=5, channels=1)
    assert models.adapt(model, torch.randn(2, 1, 16, 16), spec="transformers:x", classes=5) == ()
    assert model.eval()(torch.randn(3, 1, 16, 16)).shape == (3, 5)


@needs_transformers
@pytest.mark.parametrize("kind", ["bert", "timm_wrapper", "resnet"])
def test_a_classifier_that_transformers_does_not_have_is_refused(tmp_path: Path, kind: str) -> None:
    with pytest.raises(UsageError, match="code from a folder is not run"):
        models.build(spec_of(tmp_path, model_type=kind, auto_map={"AutoModel": "evil.Net"}), classes=5)


@pytest.mark.parametrize("named", [[], ["BertModel"], "ViTForImageClassification", None, ["a", "b"]])
def test_a_config_of_something_else_is_refused(tmp_path: Path, named: object) -> None:
    with pytest.raises(UsageError, match="not of an image classifier"):
        models.build(spec_of(tmp_path, architectures=named), classes=5)


def test_no_config_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="config"):
        models.check_name(f"transformers:{tmp_path}")


def test_the_missing_package_names_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(UsageError, match=r"pip install 'unlearn-audit\[transformers\]'"):
        models.build(spec_of(tmp_path), classes=5)
