"""`init` writes a config that is valid and a policy that can be read, and takes no code from a checkpoint."""

import re
import shutil
import tomllib
from pathlib import Path

import pytest
import torch
from conftest import Refused, Run
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from unlearn_audit.cli.init_templates import StarterFiles, StartingCheckpoint, starting_config, starting_policy
from unlearn_audit.config import check_config
from unlearn_audit.errors import ConfigError, UsageError
from unlearn_audit.gate import read_policy

pytestmark = pytest.mark.usefixtures("here")
NAMES = ("original", "retrained-1", "retrained-2", "unlearned")


@pytest.fixture
def models(tiny: Path, here: Path) -> Path:
    """A folder with checkpoints that describe themselves, and forget.npy."""
    for name in (*(f"{name}.safetensors" for name in NAMES), "forget.npy"):
        (here / "models").mkdir(exist_ok=True)
        shutil.copy(tiny / name, here / "models" / name)
    return here / "models"


def values(path: Path) -> dict[str, object]:
    return tomllib.loads(path.read_text())


def test_what_it_writes_is_valid_and_says_what_the_checkpoints_say(models: Path, here: Path, run: Run) -> None:
    ran = run("init", *(models / f"{name}.safetensors" for name in NAMES), "--forget", models / "forget.npy")
    assert (ran.code, ran.stdout) == (0, "")
    assert ran.stderr == "wrote unlearn-audit.toml\nwrote policy.toml\n"
    config = check_config(here / "unlearn-audit.toml")
    assert [entry.role for entry in config.checkpoint] == ["original", "retrained", "retrained", "unlearned"]
    assert values(here / "unlearn-audit.toml")["forget"] == "models/forget.npy"
    assert config.gaps is not None
    assert config.rcd is not None
    assert config.mia is not None
    assert len(read_policy(here / "policy.toml").rule) > 3
    assert run("validate", "unlearn-audit.toml").code == 0
    assert "digits?mislabel=0.1&seed=0" in (here / "unlearn-audit.toml").read_text()


def test_the_config_can_be_audited_and_gated(models: Path, here: Path, run: Run) -> None:
    assert run("init", *(models / f"{name}.safetensors" for name in NAMES), "--forget", "mislabelled").code == 0
    text = (here / "unlearn-audit.toml").read_text().replace("steps = 100 ", "steps = 2 ")
    (here / "unlearn-audit.toml").write_text(text)
    few = ["--only", "gaps,rcd", "--sample", 20]
    assert run("audit", "unlearn-audit.toml", *few, "--out", "report", "--quiet").code == 0
    ran = run("gate", "report/report.json", "--policy", "policy.toml")
    assert ran.code in (1, 4)
    assert "not-told-apart" in ran.stdout


@pytest.mark.parametrize("out", ["deep/er", "models", "../elsewhere"])
def test_paths_are_taken_from_where_the_config_is(models: Path, here: Path, run: Run, out: str) -> None:
    arguments = ["--unlearned", "models/unlearned.safetensors", "--forget", "models/forget.npy", "--data", "npz:d.npz"]
    assert run("init", *arguments, "--out", out).code == 0
    config = check_config(here / out / "unlearn-audit.toml")
    assert Path(config.checkpoint[0].path).samefile(models / "unlearned.safetensors")
    assert Path(str(config.forget)).samefile(models / "forget.npy")
    assert config.data == f"npz:{here / 'd.npz'}"


def test_a_flag_gives_the_role_and_a_stranger_gets_none(models: Path, here: Path, run: Run) -> None:
    torch.save({"fc.weight": torch.zeros(2, 2)}, here / "plain.pt")
    ran = run("init", "plain.pt", "--retrained", models / "unlearned.safetensors", "--forget", "class:3")
    config = check_config(here / "unlearn-audit.toml")
    assert [entry.role for entry in config.checkpoint] == [None, "retrained"]
    assert "# role =" in (here / "unlearn-audit.toml").read_text()
    assert "what data the checkpoints belong to" in ran.stderr
    assert 'to do: no checkpoint is "unlearned"' in ran.stderr


def test_what_is_missing_is_said(here: Path, run: Run) -> None:
    torch.save({"fc.weight": torch.zeros(2, 2)}, here / "plain.pt")
    ran = run("init", "--unlearned", "plain.pt")
    assert ran.code == 0
    for text in (
        "to do: say in unlearn-audit.toml what is to be forgotten",
        "what data the checkpoints",
        "note: without a retrained model",
    ):
        assert text in ran.stderr
    text = (here / "unlearn-audit.toml").read_text()
    assert "There is no retrained model yet" in text
    assert not {"forget", "data", "model"} & set(values(here / "unlearn-audit.toml"))
    with pytest.raises(ConfigError, match="forget: not given"):
        check_config(here / "unlearn-audit.toml")


def test_the_forget_set_that_the_checkpoints_agree_on_is_taken(models: Path, here: Path, run: Run) -> None:
    assert run("init", models / "unlearned.safetensors", models / "retrained-1.safetensors").code == 0
    text = (here / "unlearn-audit.toml").read_text()
    assert values(here / "unlearn-audit.toml")["forget"]
    assert 'safetensors" says' in text


def test_no_code_gets_from_a_checkpoint_into_the_config(models: Path, here: Path, run: Run) -> None:
    with safe_open(models / "unlearned.safetensors", "pt") as stream:
        entries = stream.metadata()
        tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118, it is no dict
    wild = 'evil:main\\"\\n[mia]\\nattacks = [\\"evil:main'
    changed = entries["unlearn_audit"].replace('"small-cnn"', f'"{wild}"').replace("digits?mislabel=0.1&seed=0", wild)
    save_file(tensors, here / "e.safetensors", {"unlearn_audit": changed})
    assert run("init", "e.safetensors", "--forget", "class:3").code == 0
    config = check_config(here / "unlearn-audit.toml")
    assert (config.data, config.model) == (None, None)
    assert config.mia is not None
    assert config.mia.attacks == ("loss",)
    lines = [line for line in (here / "unlearn-audit.toml").read_text().splitlines() if "evil" in line]
    assert lines
    assert all(line.startswith("# ") for line in lines)


# ----- what is refused


@pytest.mark.parametrize("name", ["unlearn-audit.toml", "policy.toml"])
def test_nothing_is_replaced_unasked(models: Path, here: Path, run: Run, refused: Refused, name: str) -> None:
    (here / name).write_text("mine")
    request = ["init", "models/unlearned.safetensors", "--forget", "class:3"]
    refused(*request, code=2, says=[f"{name} exists already", "--force"])
    assert run(*request, "--force").code == 0
    assert (here / name).read_text() != "mine"


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ([], 2, "no checkpoint is given"),
        (["none.safetensors"], 3, "checkpoint not found"),
        (["models/forget.npy"], 3, "forget.npy"),
        (["models/original.safetensors", "--forget", "none.npy"], 2, "--forget: no such file: none.npy"),
        (["models/original.safetensors", "--out", "models/forget.npy"], 2, "is a file"),
    ],
)
def test_what_cannot_be_written_about_is_refused(
    models: Path, refused: Refused, arguments: list[str], code: int, says: str
) -> None:
    refused("init", *arguments, code=code, says=[says])


# ----- the text itself

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(texts, texts, texts, texts, st.sampled_from([None, "original", "unlearned"]))
def test_whatever_the_names_they_are_read_back(path: str, forget: str, data: str, said: str, role: str | None) -> None:
    start = StarterFiles([StartingCheckpoint(path, role, said, said)], forget, said, data, None)
    found = tomllib.loads(starting_config(start))
    assert found["checkpoint"] == [{"path": path} | ({"role": role} if role else {})]
    assert (found["forget"], found["data"]) == (forget, data)
    assert set(found) == {"schema_version", "seed", "forget", "data", "checkpoint", "gaps", "rcd", "twosample", "mia"}


def test_a_name_that_is_no_utf8_is_refused() -> None:
    with pytest.raises(UsageError, match="not UTF-8"):
        starting_config(StarterFiles([StartingCheckpoint("caf\udce9.pt")]))


def test_the_commented_keys_are_keys_of_the_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Uncommenting what is commented out leaves a config that is valid."""
    (tmp_path / "a.pt").write_bytes(b"x")
    lines = starting_config(StarterFiles([StartingCheckpoint("a.pt")])).splitlines()
    keys = ("# forget =", "# data =", "# model =", "# role =", "# match", "# shadows", "# [truncation]", "# [spectrum]")
    wanted = [line.removeprefix("# ") if line.startswith(keys) else line for line in lines]
    assert sum(line.startswith(keys) for line in lines) == len(keys)
    (tmp_path / "forget.npy").write_bytes(b"x")
    (tmp_path / "shadows").mkdir()
    (tmp_path / "c.toml").write_text("\n".join(wanted))
    config = check_config(tmp_path / "c.toml")
    assert config.truncation is not None
    assert config.rcd is not None
    assert config.rcd.match_difficulty


def test_generators_get_a_config_and_a_policy_of_their_own(here: Path, stable_diffusion_folder: Path, run: Run) -> None:
    ran = run("init", "--original", stable_diffusion_folder, "--forget", "class:3", "--data", "digits")
    assert (ran.code, "normalised" in ran.stderr) == (0, False)
    config = check_config(here / "unlearn-audit.toml")
    assert config.generation is not None
    assert config.rcd is not None
    assert (config.gaps, config.twosample, config.mean) == (None, None, None)
    assert "mean" not in (here / "unlearn-audit.toml").read_text()
    assert read_policy(here / "policy.toml") == read_policy(Path("generation"))
    commented = re.sub(
        r"(?m)^# (?=\[mia|attacks|samples|kept_|optimizer)", "", (here / "unlearn-audit.toml").read_text()
    )
    (here / "all.toml").write_text(commented)
    assert check_config(here / "all.toml").mia is not None


def test_the_policy_is_the_default_one(tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text(starting_policy())
    assert read_policy(tmp_path / "policy.toml") == read_policy(Path("default"))
    assert "--policy default" not in starting_policy()
