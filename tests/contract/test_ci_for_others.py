"""What other projects take from here: the sample configs and the pre-commit hook; Action and GitLab job are apart."""

import base64
import json
import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from unlearn_audit.config import file_layer, resolve
from unlearn_audit.files import sha256_of_file
from unlearn_audit.report import write_report

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


# ----- pre-commit


def test_the_hook_validates_several_files(run: Cli, tmp_path: Path) -> None:
    hook, installed = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    assert hook["entry"] == installed["entry"]
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


# ----- containers and machines without a network


@pytest.mark.parametrize("name", ["air-gapped.sh", "sign-statement.sh"])
def test_a_script_says_how_it_is_used(name: str) -> None:
    done = subprocess.run(["bash", ROOT / "sample_configs" / name], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"{name} " in done.stderr
    assert os.access(ROOT / "sample_configs" / name, os.X_OK)


def test_what_was_fetched_is_installed_if_it_is_whole(here: Path) -> None:
    """pip is a script that notes what it is asked for; the digests of what was carried over are looked at."""
    (here / "wheels").mkdir()
    (here / "wheels" / "unlearn_audit-1-py3-none-any.whl").write_bytes(b"wheel")
    (here / "wheels" / "requirements-gate.txt").write_text("rich\n")
    digest = sha256_of_file(here / "wheels" / "unlearn_audit-1-py3-none-any.whl")
    (here / "wheels" / "SHA256SUMS").write_text(f"{digest}  unlearn_audit-1-py3-none-any.whl\n")
    (here / "new" / "bin").mkdir(parents=True)
    for tool in ("pip", "unlearn-audit"):
        (here / "new" / "bin" / tool).write_text('#!/bin/sh\necho "$@" >> asked\n')
        (here / "new" / "bin" / tool).chmod(0o755)
    command = ["bash", str(ROOT / "sample_configs" / "air-gapped.sh"), "install", "wheels", "new"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    asked = (here / "asked").read_text().splitlines()
    assert all("--no-index --find-links wheels" in line for line in asked[:-1])
    assert asked[0].endswith("-r wheels/requirements-gate.txt")
    assert asked[1].endswith("--no-deps wheels/unlearn_audit-1-py3-none-any.whl")
    (here / "wheels" / "unlearn_audit-1-py3-none-any.whl").write_bytes(b"another")
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0
    assert len((here / "asked").read_text().splitlines()) == 3, "nothing is installed of it"


def test_the_dockerfile_takes_what_is_there_and_runs_as_nobody() -> None:
    text = (ROOT / "sample_configs" / "Dockerfile").read_text()
    for path in re.findall(r"source=(sample_configs/[^,]+)", text):
        assert (ROOT / path).is_file()
    images = text.split("\nFROM ")[1:]
    assert [image.split()[2] for image in images] == ["base", "wheel", "gate", "audit"]
    for image in images[2:]:
        assert image.rstrip().endswith("USER nobody")


# ----- a signature


@pytest.fixture
def signed(here: Path, run: Cli, make_report: Cli, make_measurement: Cli) -> Cli:
    """A key, a checkpoint, and the signed Statement of a gate that it passed, and one that it failed."""
    for needed in ("openssl", "jq"):
        if shutil.which(needed) is None:
            pytest.skip(f"{needed} is not installed")
    (here / "u.safetensors").write_bytes(b"weights")
    report = make_report(make_measurement("accuracy.test", interval=(0.85, 0.95)))
    (subject,) = report.subjects
    subject = subject.model_copy(update={"sha256": sha256_of_file(here / "u.safetensors")})
    write_report(report.model_copy(update={"subjects": (subject,)}), here / "r.json")
    for name, least in (("good", 0.5), ("bad", 0.99)):
        policy = f'schema_version = 1\n[[rule]]\nid = "a"\nmetric = "accuracy.test"\nmin = {least}\n'
        (here / f"{name}.toml").write_text(policy)
        run("gate", "r.json", "--policy", f"{name}.toml", "--statement", f"{name}.json")
    key = ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "key.pem"]
    subprocess.run(key, check=True, capture_output=True)
    subprocess.run(
        ["openssl", "ec", "-in", "key.pem", "-pubout", "-out", "public.pem"], check=True, capture_output=True
    )

    def script(*words: str) -> "subprocess.CompletedProcess[str]":
        command = ["bash", str(ROOT / "sample_configs" / "sign-statement.sh"), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    for name in ("good", "bad"):
        (here / f"{name}.dsse.json").write_text(script("sign", "key.pem", f"{name}.json").stdout)
    return script


def test_a_statement_is_signed_and_verified(signed: Cli, here: Path) -> None:
    done = signed("verify", "public.pem", "good.dsse.json", "u.safetensors")
    assert done.returncode == 0, done.stderr
    assert f"PASSED by the policy good.toml, sha256 {sha256_of_file(here / 'good.toml')}" in done.stdout
    envelope = json.loads((here / "good.dsse.json").read_text())
    assert base64.b64decode(envelope["payload"]) == (here / "good.json").read_bytes()
    # By hand, as the format's definition has it: the signature is over type and payload with their lengths.
    payload = (here / "good.json").read_bytes()
    (here / "message").write_bytes(b"DSSEv1 28 application/vnd.in-toto+json %d %s" % (len(payload), payload))
    (here / "signature").write_bytes(base64.b64decode(envelope["signatures"][0]["sig"]))
    command = ["openssl", "dgst", "-sha256", "-verify", "public.pem", "-signature", "signature", "message"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_what_failed_or_is_of_another_file_or_was_changed_is_not_verified(signed: Cli, here: Path) -> None:
    def refused(why: str, *words: str) -> None:
        done = signed("verify", *words)
        assert done.returncode == 1
        assert why in done.stderr
        assert not done.stdout

    refused("the gate's result is FAILED", "public.pem", "bad.dsse.json", "u.safetensors")
    (here / "other.safetensors").write_bytes(b"other weights")
    refused("does not speak of other.safetensors", "public.pem", "good.dsse.json", "other.safetensors")
    envelope = json.loads((here / "bad.dsse.json").read_text())
    said = base64.b64decode(envelope["payload"]).replace(b'"FAILED"', b'"PASSED"')
    (here / "forged.json").write_text(json.dumps(envelope | {"payload": base64.b64encode(said).decode()}))
    refused("was changed since", "public.pem", "forged.json", "u.safetensors")
    refused("no envelope of a Statement", "public.pem", "good.json", "u.safetensors")
