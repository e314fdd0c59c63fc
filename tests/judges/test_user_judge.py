"""Judges of the user's own: only where a flag names them, and what they answer is checked."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unlearn_audit.engine import Device
from unlearn_audit.errors import MeasurementError, UsageError
from unlearn_audit.judges import Judge, open_judge

COMPUTE = Device(torch.device("cpu"))
IMAGES = torch.zeros(3, 1, 4, 4, dtype=torch.uint8)


@pytest.fixture
def judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    # A function that writes a judge's functions, as text, and opens it by a flag.
    monkeypatch.chdir(tmp_path)

    def make(**functions: str) -> Judge:
        sys.modules.pop("my_judges", None)
        lines = "".join(f"\n    def {name}(self, images):\n        return {text}\n" for name, text in functions.items())
        head = "import numpy as np, torch\n\nclass Mine:\n    x = 1\n"
        Path("my_judges.py").write_text(f"{head}{lines}")
        return open_judge("my_judges:Mine", compute=COMPUTE, allow_code=True)

    yield make
    sys.modules.pop("my_judges", None)


def test_labels_and_features_of_any_kind_of_array(judged: Any) -> None:
    judge = judged(labels="[0, 1, 2]", features="torch.ones(len(images), 2)")
    assert judge.labels(IMAGES).tolist() == [0, 1, 2]
    features = judge.features(IMAGES)
    assert (features.dtype, features.shape) == (np.float64, (3, 2))
    assert len(judge.details["sha256"]) == 64


def test_what_it_does_not_have_is_none(judged: Any) -> None:
    assert judged(labels="np.zeros(3, dtype=bool)").features(IMAGES) is None
    assert judged(features="np.zeros((3, 2))").labels(IMAGES) is None


@pytest.mark.parametrize("labels", ["[0, 1]", "[0.5, 1.0, 2.0]", "[[0], [1], [2]]", "'abc'"])
def test_labels_that_are_none_are_refused(labels: str, judged: Any) -> None:
    with pytest.raises(MeasurementError, match="my_judges:Mine gave labels"):
        judged(labels=labels).labels(IMAGES)


@pytest.mark.parametrize("features", ["np.zeros(3)", "np.zeros((2, 2))", "np.full((3, 2), np.nan)"])
def test_features_that_are_none_are_refused(features: str, judged: Any) -> None:
    with pytest.raises(MeasurementError, match="my_judges:Mine gave features"):
        judged(features=features).features(IMAGES)


def test_what_it_raises_is_its_failure(judged: Any) -> None:
    with pytest.raises(MeasurementError, match="judge my_judges:Mine failed: ZeroDivisionError"):
        judged(labels="1 / 0").labels(IMAGES)


def test_something_that_judges_nothing_is_refused(judged: Any) -> None:
    with pytest.raises(UsageError, match="a judge has labels"):
        judged(answer="3")


def test_a_file_may_not_name_code() -> None:
    with pytest.raises(UsageError, match="only a flag may name"):
        open_judge("os:getcwd", compute=COMPUTE)


def test_floats_are_refused_before_it_sees_them(judged: Any) -> None:
    with pytest.raises(UsageError, match="uint8"):
        judged(labels="[0, 1, 2]").labels(torch.rand(3, 1, 4, 4))
