"""What is refused before torch is loaded: in the words of whoever would read it, and nothing that might be right."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from unlearn_audit.config import AuditConfig
from unlearn_audit.config.early import refuse_early, refuse_index_file, refuse_names, refuse_source
from unlearn_audit.errors import AuditError, CheckpointError, DataError, UsageError

Refused = Callable[..., None]


def config(**values: object) -> AuditConfig:
    return AuditConfig.model_validate({"rcd": {}} | values)


@pytest.mark.parametrize(
    ("values", "error", "says"),
    [
        ({"checkpoint": [{"path": "nosuch.pt"}]}, CheckpointError, "checkpoint not found: nosuch.pt"),
        ({"forget": "nosuch.npy"}, DataError, "index file not found: .*nosuch.npy"),
        ({"retain": "nosuch.TXT"}, DataError, "index file not found: .*nosuch.TXT"),
        ({"data": "digts?mislabel=0.1"}, DataError, "unknown data source 'digts'; did you mean 'digits'"),
    ],
)
def test_what_is_not_there_is_refused(
    here: Path, values: dict[str, object], error: type[AuditError], says: str
) -> None:
    with pytest.raises(error, match=says):
        refuse_early(config(**values))


@pytest.mark.parametrize(
    "values",
    [
        {"checkpoint": [{"path": "org/name"}, {"path": "folder"}]},  # a hub's name, a folder: told by who reads them
        {"forget": "class:3"}, {"forget": "mislabelled"}, {"forget": "prompt: a cat.txt"}, {"forget": "nosuch.xyz"},
        {"data": "mine.data:load"}, {"data": "npz:nosuch.npz"}, {"data": "digits?seed=1"},
    ],
)  # fmt: skip
def test_what_may_be_right_is_left_to_who_reads_it(here: Path, values: dict[str, object]) -> None:
    refuse_early(config(**values))


def test_names_of_recipes_and_transforms(here: Path) -> None:
    refuse_names(recipe="small", transforms=["l1", "clip:c=1", "mine:transform"])
    for wrong in ({"recipe": "smal"}, {"transforms": ["l2"]}):
        with pytest.raises(UsageError, match="did you mean|Known"):
            refuse_names(**wrong)  # type: ignore[arg-type]
    with pytest.raises(DataError):
        refuse_index_file("nosuch.npy")
    refuse_source("torchvision:MNIST")


@pytest.mark.parametrize(
    "words",
    [
        ("rcd", "nosuch.pt", "--forget", "i.npy"),
        ("train", "--data", "digts", "--out", "o.safetensors"),
        ("train", "--data", "digits", "--recipe", "smal", "--out", "o.safetensors"),
    ],
)
def test_the_command_line_needs_no_torch_for_it(here: Path, words: tuple[str, ...]) -> None:
    code = (
        "import sys; sys.modules['torch'] = None; "
        f"sys.argv = ['unlearn-audit', *{words!r}]; from unlearn_audit.cli import main; main()"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=here,
                          env={"PYTHONPATH": str(root), "PATH": ""}, check=False)  # fmt: skip
    assert done.returncode in (2, 3), done.stderr
    assert done.stderr.startswith("error: ")
    assert "needs torch" not in done.stderr
