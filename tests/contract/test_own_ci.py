"""The project's own CI, releases and commit hooks: the checks of everybody's machine, and no secret anywhere."""

import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from unlearn_audit import __version__

ROOT = Path(__file__).parents[2]
WORKFLOWS = {path.stem: path.read_text() for path in (ROOT / ".github" / "workflows").glob("*.yml")}
CI, RELEASE = (yaml.safe_load(WORKFLOWS[name]) for name in ("ci", "release"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CHECKS = (ROOT / ".ci" / "run").read_text()
TRIGGERS = True  # how YAML 1.1 reads the key `on`


def steps(workflow: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for job in workflow["jobs"].values():
        yield from job.get("steps", ())


def test_ci_runs_the_checks_of_everybody_on_every_python_that_is_promised() -> None:
    (job,) = CI["jobs"].values()
    checks, commands = (one["run"] for one in job["steps"] if "run" in one)
    assert checks == ".ci/run"
    assert (ROOT / commands.split()[-1]).is_file()
    promised = [one.rpartition(" ")[2] for one in PROJECT["classifiers"] if "Python :: 3." in one]
    assert job["strategy"]["matrix"]["python"] == promised
    assert PROJECT["requires-python"] == f">={promised[0]}"
    assert {"push", "pull_request"} <= set(CI[TRIGGERS])


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_has_no_secret_and_takes_what_it_uses_by_its_digest(name: str) -> None:
    assert "secrets" not in WORKFLOWS[name].replace("repository's secrets", "")
    workflow = yaml.safe_load(WORKFLOWS[name])
    for one in steps(workflow):
        if "uses" in one:
            assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", one["uses"])
        assert "${{" not in one.get("run", ""), "an expression in a script is text that an input can break out of"
    writes = {job for job, about in workflow["jobs"].items() if "write" in about.get("permissions", {}).values()}
    assert "write" not in workflow["permissions"].values()
    assert writes == ({"publish"} if name == "release" else set())


def test_a_release_is_published_from_a_tag_after_all_checks_and_by_trusted_publishing_alone() -> None:
    assert RELEASE[TRIGGERS] == {"push": {"tags": ["v*"]}}
    publish = RELEASE["jobs"]["publish"]
    assert publish["permissions"] == {"id-token": "write"}
    assert publish["environment"] == "pypi"
    assert set(publish["needs"]) == {"checks", "build"}
    assert RELEASE["jobs"]["checks"]["uses"] == "./.github/workflows/ci.yml"
    assert "workflow_call" in CI[TRIGGERS]
    last = publish["steps"][-1]
    assert last["uses"].startswith("pypa/gh-action-pypi-publish@")
    assert "with" not in last, "a password or a token would be named here"


HOME = "https://github.com/somebody/unlearn-audit"


@pytest.mark.parametrize(
    ("tag", "changes", "home", "complaint"),
    [
        (f"v{__version__}", f"## {__version__} (2027-01-01)", HOME, ""),
        ("v9.9.9", f"## {__version__} (2027-01-01)", HOME, "the tag is v9.9.9"),
        (f"v{__version__}", "## Unreleased", HOME, "CHANGELOG.md has no section"),
        (f"v{__version__}", f"## {__version__} (2027-01-01)", f"{HOME}-fork", "does not name"),
    ],
)
def test_a_release_is_of_the_version_that_its_tag_names(
    tmp_path: Path, tag: str, changes: str, home: str, complaint: str
) -> None:
    (tmp_path / "unlearn_audit").mkdir()
    shutil.copy(ROOT / "unlearn_audit" / "__init__.py", tmp_path / "unlearn_audit")
    (tmp_path / ".github").mkdir()
    (tmp_path / ".github" / "CHANGELOG.md").write_text(f"# Changes\n\n{changes}\n")
    (tmp_path / "pyproject.toml").write_text(f'[project.urls]\nRepository = "{home}"\n')
    (version,) = [one for one in steps(RELEASE) if one.get("name") == "Version"]
    environment = os.environ | {"TAG": tag, "REPOSITORY": HOME}
    done = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", version["run"]],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert (done.returncode, complaint in done.stderr) == (1 if complaint else 0, True)


def test_commit_hooks_are_checks_of_ci_in_ones_own_environment() -> None:
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert local["repo"] == "local"
    assert [hook["id"] for hook in local["hooks"]] == ["ruff", "ruff-format", "mypy"]
    for hook in local["hooks"]:
        assert hook["language"] == "system"
        assert hook["entry"].removesuffix(" --force-exclude") in CHECKS


def test_an_sdist_holds_what_the_tests_read() -> None:
    included = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["sdist"]
    assert all((ROOT / name).exists() for name in included["include"])
    read = {".ci", ".github", ".pre-commit-config.yaml", ".pre-commit-hooks.yaml", "README.md", "sample_configs"}
    assert read <= set(included["include"])


def test_limits_that_security_states_are_those_of_the_code() -> None:
    from unlearn_audit.checkpoints import unpickling
    from unlearn_audit.config import toml_source
    from unlearn_audit.data.formats import array_files, image_folder
    from unlearn_audit.report import MAX_REPORT_BYTES

    page = (ROOT / ".github" / "SECURITY.md").read_text()
    for stated, limit in (
        ("256 MiB |", MAX_REPORT_BYTES),
        ("16 MiB |", toml_source.MOST_BYTES),
        ("256 MiB of indices", array_files.MOST_INDEX_BYTES),
        ("2²⁵ pixels", image_folder.MOST_PIXELS),
        ("3,000,000 steps", unpickling._MOST_OPCODES),
    ):
        number, unit = re.match(r"([\d,²⁵]+) (\w+)", stated).groups()  # type: ignore[union-attr]
        value = 2**25 if number == "2²⁵" else int(number.replace(",", ""))
        assert stated in page
        assert limit == value * (2**20 if unit == "MiB" else 1), stated
