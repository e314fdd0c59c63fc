"""What other projects take from here: the sample configs, the GitHub Action, the GitLab job, the pre-commit hook."""

import json
import os
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from unlearn_audit.config import file_layer, resolve

Cli = Callable[..., Any]
ROOT = Path(__file__).parents[2]
SAMPLES = [
    path
    for path in sorted((ROOT / "sample_configs").glob("*.toml"))
    if not {"run", "rule"} & set(tomllib.loads(path.read_text()))
]
ACTION: Mapping[str, Any] = yaml.safe_load((ROOT / ".github/actions/audit/action.yml").read_text())


# ----- sample configs


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_a_sample_config_loads_and_measures_something(path: Path) -> None:
    config = resolve([file_layer(path, origin="config")]).config
    assert config.data
    assert config.forget
    assert config.checkpoint or config.train
    assert config.rcd is not None


def test_there_is_a_sample_for_each_kind_of_user() -> None:
    assert {path.stem for path in SAMPLES} == {
        "quickstart", "fashion-mnist", "class-wise", "cifar10-resnet18", "cifar10-resnet50", "tinyimagenet-vit",
        "own-checkpoints", "entanglement-digits", "amun-cifar10-resnet18", "generation", "study-fashion-mnist",
        "study-tinyimagenet"}  # fmt: skip


def test_methods_and_transforms_of_the_samples_take_their_settings() -> None:
    from unlearn_audit import catalogue
    from unlearn_audit.methods.apply import parse_settings
    from unlearn_audit.step_transforms import parse_extras

    for path in SAMPLES:
        for entry in resolve([file_layer(path, origin="config")]).config.apply:
            parse_settings(catalogue.load("method", catalogue.METHODS, entry.method), entry.settings)
            parse_extras(entry.transforms)


# ----- the action, run as a runner would


def runner(folder: Path) -> Path:
    """A runner's temporary folder in which the tool is installed: a script that runs it from here."""
    script = folder / "unlearn-audit" / "bin" / "unlearn-audit"
    script.parent.mkdir(parents=True)
    code = "import sys; sys.argv[0] = 'unlearn-audit'; from unlearn_audit.cli import main; main()"
    path = shlex.quote(str(ROOT))
    script.write_text(f'#!/bin/sh\nPYTHONPATH={path} OMP_NUM_THREADS=1 exec {sys.executable} -c "{code}" "$@"\n')
    script.chmod(0o755)
    return folder


def step(name: str, folder: Path, temporary: Path, **inputs: str) -> subprocess.CompletedProcess[str]:
    """Run one step of the action with its inputs in the environment."""
    (found,) = [one for one in ACTION["runs"]["steps"] if one["name"] == name]
    environment = os.environ | {
        "RUNNER_TEMP": str(temporary),
        "GITHUB_OUTPUT": str(folder / "outputs"),
        "GITHUB_STEP_SUMMARY": str(folder / "summary.md"),
    }
    for variable, expression in found["env"].items():
        given = expression.removeprefix("${{ inputs.").removesuffix(" }}")
        environment[variable] = inputs.get(given, str(ACTION["inputs"][given].get("default", "")))
    return subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", found["run"]],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder in which the action's audit of the quickstart has run, and the runner's temporary folder.

    Everything in it is as it stands there, for fewer epochs and steps: those that it has are the demo's.
    """
    folder, temporary = tmp_path_factory.mktemp("project"), runner(tmp_path_factory.mktemp("runner"))
    text = (ROOT / "sample_configs" / "quickstart.toml").read_text()
    shorter = {
        "[[train]]": "[[train]]\nepochs = 5",
        "steps = 100": "steps = 5\nstep_size = 0.005",
        'method = "ieu"': 'method = "ieu"\nsettings = { steps = 30 }',
    }
    for whole, short in shorter.items():
        assert whole in text
        text = text.replace(whole, short)
    (folder / "quickstart.toml").write_text(text)
    done = step("Audit", folder, temporary, config="quickstart.toml")
    assert done.returncode == 0, done.stderr
    done = step("Show", folder, temporary)
    assert done.returncode == 0, done.stderr
    return folder, temporary


def outputs(folder: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in (folder / "outputs").read_text().splitlines())


def test_the_quickstart_goes_through_the_action_from_data_to_a_verdict(pipeline: tuple[Path, Path]) -> None:
    folder, temporary = pipeline
    (folder / "summary.md").unlink(missing_ok=True)
    done = step("Gate", folder, temporary)
    assert done.returncode == 1, done.stderr + (folder / "summary.md").read_text()  # IEU leaves a trace
    assert outputs(folder) == {"report": "unlearn-audit/report.json", "exit-code": "1"}
    assert "| no-trace | unlearned | failed |" in (folder / "summary.md").read_text()
    suite = ElementTree.parse(folder / "unlearn-audit" / "gate.xml").getroot()
    assert len(suite.findall(".//failure")) == 1
    statement = json.loads((folder / "unlearn-audit" / "statement.json").read_text())
    assert statement["predicate"]["result"] == "FAILED"
    page = (folder / "unlearn-audit" / "report.html").read_text()
    assert page.index("forgotten") < page.index("Accuracy and gaps"), "the verdict comes first"
    done = step("Gate", folder, temporary, policy="lenient")
    assert done.returncode == 0, done.stderr
    statement = json.loads((folder / "unlearn-audit" / "statement.json").read_text())
    assert statement["predicate"]["result"] in ("PASSED", "WARNED")


def test_the_action_ends_with_the_gates_exit_code(pipeline: tuple[Path, Path]) -> None:
    folder, temporary = pipeline
    (folder / "impossible.toml").write_text(
        'schema_version = 1\n[[rule]]\nid = "never"\nmetric = "accuracy.test"\nmin = 2.0\n'
    )
    assert step("Gate", folder, temporary, policy="impossible.toml").returncode == 1
    assert outputs(folder)["exit-code"] == "1"
    (folder / "broken.toml").write_text("schema_version = 7\n")
    assert step("Gate", folder, temporary, policy="broken.toml").returncode == 2
    (folder / "open.toml").write_text('schema_version = 1\n[[rule]]\nid = "open"\nmetric = "mia.lira.auc"\nmax = 0.6\n')
    assert step("Gate", folder, temporary, policy="open.toml").returncode == 4
    assert step("Audit", folder, temporary, config="no-such.toml").returncode == 2


def test_an_input_is_never_a_command(pipeline: tuple[Path, Path]) -> None:
    folder, temporary = pipeline
    hostile = '"; touch stolen; echo "'
    assert step("Gate", folder, temporary, policy=hostile).returncode == 2
    assert step("Audit", folder, temporary, config="$(touch stolen)").returncode == 2
    assert not (folder / "stolen").exists()
    for one in ACTION["runs"]["steps"]:
        assert "${{" not in one["run"], "an expression in a script is text that an input can break out of"


def test_every_input_and_output_of_the_action_says_what_it_is() -> None:
    used = {text for one in ACTION["runs"]["steps"] for text in one["env"].values()}
    for name, about in ACTION["inputs"].items():
        assert about["description"]
        assert f"${{{{ inputs.{name} }}}}" in used, f"{name} is not used"
    steps = {one.get("id") for one in ACTION["runs"]["steps"]}
    for about in ACTION["outputs"].values():
        assert about["value"].split(".")[1] in steps


# ----- GitLab and pre-commit


def test_the_gitlab_job_names_verbs_and_flags_that_exist(run: Cli) -> None:
    job = yaml.safe_load((ROOT / "sample_configs" / "gitlab-ci.yml").read_text())["unlearning-audit"]
    for line in job["script"][1:]:
        _, verb, *words = shlex.split(line.split(">")[0].split("||")[0])
        help_text = run(verb, "--help").stdout
        for flag in (word for word in words if word.startswith("--")):
            assert flag in help_text, (verb, flag)
    assert job["artifacts"]["reports"]["junit"] in " ".join(job["script"])


def test_the_hook_validates_several_files(run: Cli, tmp_path: Path) -> None:
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    assert hook["entry"].split()[0] in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    verb = hook["entry"].split()[1]
    good, bad, worse = (tmp_path / name for name in ("good.toml", "bad.toml", "worse.toml"))
    good.write_text((ROOT / "sample_configs" / "quickstart.toml").read_text())
    bad.write_text('forgot = "class:3"\n')
    worse.write_text("no TOML")
    assert run(verb, good, good).code == 0
    done = run(verb, bad, good, worse)
    assert done.code == 2
    assert "forgot" in done.stderr
    assert "worse.toml" in done.stderr
    assert "good.toml: a valid config" in done.stderr
