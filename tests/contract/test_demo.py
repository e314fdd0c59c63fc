"""The demo from end to end: what it writes, what it prints, what it finds, and that its last words work."""

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unlearn_audit.checkpoints import Metadata, read_checkpoint
from unlearn_audit.data import load_data
from unlearn_audit.demo import SCENARIOS
from unlearn_audit.report import AuditReport, read_report

Ran = Any
Cli = Callable[..., Ran]
OWNED = SCENARIOS["mislabelled"].owned
RETRAINED = ("retrained-1", "retrained-2", "retrained-3")
CHECKPOINTS = ("original", "unlearned", *RETRAINED)
NEXT = ("inspect", "rcd", "rcd", "audit", "show")


@pytest.fixture(scope="module")
def folder(demo: tuple[Path, Ran]) -> Path:
    return demo[0]


@pytest.fixture(scope="module")
def report(folder: Path) -> AuditReport:
    return read_report(folder / "report.json")


def number(report: AuditReport, name: str, subject: str) -> float:
    found = report.find(name, subject)
    assert found is not None, (name, subject)
    assert isinstance(found.value, float), (name, subject, found.reason)
    return found.value


def metadata_of(path: Path) -> Metadata:
    found = read_checkpoint(path).metadata
    assert found is not None
    return found


def commands(printed: str) -> list[list[str]]:
    """The commands under "Try next:", without the program's name."""
    lines = printed.split("Try next:\n")[1].splitlines()
    return [shlex.split(line)[1:] for line in lines if line.strip()]


# ----- what it writes


def test_it_ends_with_0_and_writes_what_it_owns(demo: tuple[Path, Ran]) -> None:
    folder, ran = demo
    assert ran.code == 0, ran.stderr
    assert {path.name for path in folder.iterdir()} >= set(OWNED)
    assert set(OWNED) == {f"{name}.safetensors" for name in CHECKPOINTS} | {
        "forget.npy", "unlearn-audit.toml", "report.json",
    }  # fmt: skip


def test_the_forget_set_is_the_mislabelled_tenth(folder: Path) -> None:
    forget = np.load(folder / "forget.npy", allow_pickle=False)
    dataset = load_data("digits?mislabel=0.1&seed=0")
    assert forget.tolist() == dataset.changed.tolist()
    assert len(forget) == round(0.1 * len(dataset.train))


def test_every_checkpoint_says_what_it_is(folder: Path) -> None:
    found = {name: metadata_of(folder / f"{name}.safetensors") for name in CHECKPOINTS}
    assert [found[name].role for name in CHECKPOINTS] == ["original", "unlearned", *["retrained"] * 3]
    assert {entry.data for entry in found.values()} == {"digits?mislabel=0.1&seed=0"}
    assert len({entry.forget_sha256 for name, entry in found.items() if name != "original"}) == 1
    assert found["unlearned"].parent_sha256 == read_checkpoint(folder / "original.safetensors").sha256
    assert len({found[name].seed for name in RETRAINED}) == 3
    assert (found["unlearned"].method, found["unlearned"].settings["alpha"]) == ("ieu", 0.999)


# ----- what it finds


def test_the_original_remembers_and_no_retrained_model_does(report: AuditReport) -> None:
    assert number(report, "rcd.ratio_to_unseen", "original") < 0.1
    for label in RETRAINED:
        assert 0.8 <= number(report, "rcd.ratio_to_unseen", label) <= 1.2
    controls = [m for m in report.measurements if m.name == "rcd.ratio_to_unseen" and m.role == "control"]
    assert [0.9 < float(m.value or 0) < 1.1 for m in controls] == [True]
    assert number(report, "mia.loss.auc", "original") > 0.99
    for label in (*RETRAINED, "unlearned"):
        assert 0.4 < number(report, "mia.loss.auc", label) < 0.6


def test_the_unlearned_model_forgets_and_stays_good(report: AuditReport) -> None:
    assert number(report, "accuracy.test", "unlearned") > 0.95
    assert number(report, "accuracy.forget", "original") > 0.95
    assert number(report, "accuracy.forget", "unlearned") < 0.1
    assert 0.8 <= number(report, "rcd.ratio_to_unseen", "unlearned") <= 1.2
    assert abs(number(report, "gap.forget", "unlearned")) < 0.1 < number(report, "gap.forget", "original")


def test_curves_are_descents_of_k_plus_one_terms_at_one_step(report: AuditReport) -> None:
    raw = [m for m in report.measurements if m.name == "rcd.raw"]
    assert len(raw) == 6
    assert len({m.details["step_size"] for m in raw}) == 1
    for found in raw:
        loss = np.array(found.details["loss"])
        assert len(loss) == 101
        assert (loss[1:] <= loss[:-1] * 1.001 + 1e-6).all()
        assert found.value == pytest.approx(loss.sum())
        assert found.details["passes"] == {"forward": 101, "backward": 100}
    # Of what the original has learnt by heart a few examples carry the loss: that is told, and nothing else.
    assert not [text for text in report.limitations if not text.startswith("the hardest 5 %")]


def test_the_conclusion_tells_the_original_apart(report: AuditReport) -> None:
    (original,) = [text for text in report.conclusion if text.startswith("original")]
    assert "differs from the retrained models on" in original
    assert "relearning" in original
    unlearned, what_differs = [text for text in report.conclusion if text.startswith("unlearned")]
    assert "the two-sample test (twosample.p 0.003" in unlearned
    assert "lie closer together" in what_differs
    assert "no difference seen" in unlearned
    assert "rcd.ratio_to_unseen" not in unlearned.split("no difference seen")[0]  # the headline does not differ


# ----- what it prints


def test_the_table_has_the_rows_and_columns_a_person_looks_for(demo: tuple[Path, Ran]) -> None:
    text = demo[1].stdout
    for row in ("accuracy retain", "accuracy forget", "accuracy test", "gap retain", "gap forget", "gap test",
                "RCD raw", "RCD / unseen", "loss attack AUC"):  # fmt: skip
        assert len(re.findall(rf"^{row} ", text, flags=re.MULTILINE)) == 1, row
    heading = text.splitlines()[0]
    assert re.search(r"original +unlearned +retrained \(3\) +random init", heading)
    assert "Conclusion" in text
    assert max(len(line) for line in text.split("Try next:")[0].splitlines()) <= 80


@pytest.fixture(scope="module")
def pasted(demo: tuple[Path, Ran], audited_demo: tuple[Path, Ran], run: Cli) -> list[tuple[list[str], Ran]]:
    """Every command under "Try next:", and what became of it.

    The first rcd answers in JSON, the long one takes fewer steps, and the audit finds what another one has measured.
    """
    shutil.copytree(audited_demo[0] / "parts", demo[0] / "audit" / "parts")
    found = []
    for command in commands(demo[1].stdout):
        extra = [] if command[0] != "rcd" else ["--steps", "20"] if "--optimizer" in command else ["--format", "json"]
        found.append((command, run(*command, *extra)))
    return found


def test_every_command_under_try_next_works(pasted: list[tuple[list[str], Ran]]) -> None:
    assert tuple(command[0] for command, _ in pasted) == NEXT
    for command, ran in pasted:
        assert ran.code == 0, (command, ran.stderr)
        assert ran.stdout


def test_auditing_its_config_again_gives_the_same_measurements(
    audited_demo: tuple[Path, Ran], report: AuditReport
) -> None:
    assert "measured before" not in audited_demo[1].stderr
    again = read_report(audited_demo[0] / "report.json")
    assert again.measurements == report.measurements
    assert (again.conclusion, again.data, again.subjects) == (report.conclusion, report.data, report.subjects)


def test_its_audit_takes_what_another_one_has_measured(
    demo: tuple[Path, Ran], report: AuditReport, pasted: list[tuple[list[str], Ran]]
) -> None:
    (ran,) = [ran for command, ran in pasted if command[0] == "audit"]
    assert "measured before: gaps, rcd, twosample, mia, detectable" in ran.stderr
    again = read_report(demo[0] / "audit" / "report.json")
    assert (again.measurements, again.subjects) == (report.measurements, report.subjects)


def test_showing_its_report_prints_the_table_again(demo: tuple[Path, Ran], run: Cli) -> None:
    shown = run("show", demo[0] / "report.json").stdout
    assert shown.strip() == demo[1].stdout.split("Try next:")[0].strip()


def test_a_checkpoint_alone_is_enough(pasted: list[tuple[list[str], Ran]], report: AuditReport) -> None:
    (body,) = [
        json.loads(ran.stdout) for command, ran in pasted if command[0] == "rcd" and "--optimizer" not in command
    ]
    (ratio,) = [m for m in body["measurements"] if (m["name"], m["role"]) == ("rcd.ratio_to_unseen", "unlearned")]
    # Alone, it chooses its own step size; the ratio hardly knows.
    assert ratio["value"] == pytest.approx(number(report, "rcd.ratio_to_unseen", "unlearned"), abs=0.05)
    assert ratio["reference"] is None


def test_it_does_not_write_over_itself_unasked(
    demo: tuple[Path, Ran], run: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unlearn_audit.demo.train_checkpoint", lambda *_, **__: pytest.fail("trained"))
    before = (demo[0] / "report.json").read_bytes()
    done = run("demo", "--out", demo[0], "--quiet")
    assert done.code == 2
    assert "--force" in done.stderr
    assert (demo[0] / "report.json").read_bytes() == before


# ----- the other scenarios, and once more


@pytest.mark.slow
def test_the_same_seed_gives_the_same_demo(demo: tuple[Path, Ran], run: Cli) -> None:
    folder, ran = demo
    before = {name: (folder / name).read_bytes() for name in OWNED if name != "report.json"}
    report = read_report(folder / "report.json")
    again = run("demo", "--out", folder, "--force", "--quiet")
    assert again.code == 0, again.stderr
    assert again.stdout == ran.stdout
    assert {name: (folder / name).read_bytes() for name in before} == before
    assert read_report(folder / "report.json").model_copy(update={"created_at": "", "body_sha256": None}) == (
        report.model_copy(update={"created_at": "", "body_sha256": None})
    )


@pytest.mark.slow
@pytest.mark.parametrize("scenario", sorted(set(SCENARIOS) - {"mislabelled", "generation"}))
def test_other_scenarios_run_and_their_commands_work(run: Cli, tmp_path: Path, scenario: str) -> None:
    out = tmp_path / "with space" / "demo"
    out.parent.mkdir()
    ran = run("demo", "--scenario", scenario, "--out", out, "--quiet")
    assert ran.code == 0, ran.stderr
    report = read_report(out / "report.json")
    if scenario == "random":
        assert any("no difference seen" in text for text in report.conclusion if text.startswith("original"))
        assert any("cannot show whether the data was ever used" in text for text in report.conclusion)
    elif scenario == "partial":
        assert 0.09 < number(report, "accuracy.forget", "unlearned") < 0.11  # a tenth is still known, the rest is not
        told = next(text for text in report.conclusion if text.startswith("unlearned"))
        assert "differs from the retrained models on forget accuracy" in told
        assert run("gate", out / "report.json", "--policy", "default").code == 1
    elif scenario == "retrained":
        ran = run("gate", out / "report.json", "--policy", "default")
        assert ran.code == 0, ran.stdout
    else:
        assert number(report, "accuracy.forget", "original") > 0.95
        assert all(number(report, "accuracy.forget", label) < 0.05 for label in RETRAINED)
        assert any("differs from the retrained models" in text for text in report.conclusion if text.startswith("orig"))
        assert any("partners for" in text for text in report.limitations)
    for command in commands(ran.stdout):
        assert run(*command).code == 0, command


@pytest.mark.slow
def test_a_generator_that_lost_nothing_but_a_name_passes_every_test_on_samples(run: Cli, tmp_path: Path) -> None:
    pytest.importorskip("diffusers", reason="pip install 'unlearn-audit[diffusion]'")
    out = tmp_path / "demo"
    ran = run("demo", "--scenario", "generation", "--out", out, "--quiet")
    assert ran.code == 0, ran.stderr
    assert {path.name for path in out.iterdir()} >= set(SCENARIOS["generation"].owned)
    report = read_report(out / "report.json")
    assert number(report, "generation.forget_rate", "original") > 0.5  # seen .69
    for label in ("retrained-1", "retrained-2", "retrained-3", "label-swap", "salun"):
        assert number(report, "generation.forget_rate", label) < 0.2
    for label in ("original", "retrained-1", "retrained-2", "retrained-3", "label-swap"):
        assert number(report, "generation.kept_rate", label) > 0.7
    assert number(report, "generation.kept_rate", "label-swap") == number(report, "generation.kept_rate", "original")
    assert number(report, "generation.kid", "label-swap") == number(report, "generation.kid", "original")
    # Its share of the retrained models' area is above 1; what tells it is how soon its excess falls.
    assert number(report, "rcd.ratio_to_retrained", "label-swap") > 1
    swap = report.find("rcd.normalised", "label-swap")
    assert swap is not None
    assert swap.comparison is not None
    assert swap.comparison.interval.high < 0
    assert "falls sooner than theirs" in " ".join(ran.stdout.split())
    for command in commands(ran.stdout):
        assert run(*command).code == 0, command
