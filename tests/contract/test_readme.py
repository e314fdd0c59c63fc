"""README and guide say what is so: help, configs and policies, commands, links, and the way through the demo."""

import re
import shlex
import shutil
import tomllib
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from unlearn_audit.audit.config_checks import problems_of
from unlearn_audit.catalogue import ATTACKS, METHODS, load
from unlearn_audit.config import GenerationSettings, check_config
from unlearn_audit.gate import read_policy

Cli = Callable[..., Any]
ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
GUIDE = ROOT / ".github" / "guide"
PAGES = {path: path.read_text() for path in (ROOT / "README.md", *sorted((ROOT / ".github").rglob("*.md")))}
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", "".join(PAGES.values()), re.MULTILINE | re.DOTALL)
HELP = [text for kind, text in BLOCKS if kind == "text" and text.startswith("$ unlearn-audit")]
TOML = [text for kind, text in BLOCKS if kind == "toml"]
PYTHON = [text for kind, text in BLOCKS if kind == "python"]
COMMANDS = [
    line
    for kind, text in BLOCKS
    if kind == "bash"
    for line in text.replace("\\\n", " ").splitlines()
    if line.startswith("unlearn-audit ")
]


def as_printed(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip().splitlines()]


def without_numbers(text: str) -> str:
    """Return printed text without what differs from machine to machine: numbers and line breaks."""
    return re.sub(r"[-+]?[0-9][0-9.e+-]*", "#", " ".join(text.split()))


@pytest.mark.parametrize("block", HELP, ids=lambda block: block.splitlines()[0])
def test_a_help_block_is_what_the_command_prints(block: str, run: Cli, here: Path) -> None:
    command, _, printed = block.partition("\n")
    done = run(*shlex.split(command)[2:])
    assert done.code == 0
    assert as_printed(printed) == as_printed(done.stdout)


def test_there_are_help_blocks_and_commands() -> None:
    assert HELP
    assert len(COMMANDS) >= 8


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_names_verbs_and_flags_that_exist(command: str, run: Cli) -> None:
    words = shlex.split(command)[1:]
    verb = words[:2] if words[0] in ("shadows", "apply", "unlearn") else words[:1]
    told = run(*verb, "--help").stdout
    for flag in (word for word in words if word.startswith("--")):
        assert re.search(rf"{flag}\b", told), (verb, flag)


@pytest.mark.parametrize("text", TOML, ids=lambda text: text.split("\n")[2][:30])
def test_a_toml_block_is_a_config_or_a_policy(text: str, tmp_path: Path) -> None:
    path = tmp_path / "file.toml"
    path.write_text(text.replace('sha256 = "…"', f'sha256 = "{"0" * 64}"'))
    values = tomllib.loads(text)
    if "rule" in values:
        assert read_policy(path).rule
    elif "schema_version" in values:
        assert check_config(path, also=problems_of).forget
    else:  # a table to be added to a config
        (tmp_path / "shadows").mkdir()  # it is looked for; whether it holds models is no matter of a config
        path.write_text('forget = "class:3"\ndata = "digits"\n[[train]]\nlabel = "original"\n[gaps]\n' + text)
        assert check_config(path, also=problems_of).forget


def anchors(page: str) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", page, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_a_link_leads_somewhere(path: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", PAGES[path]):
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text()), link


def test_every_page_of_the_guide_is_linked_to_from_the_readme() -> None:
    for path in GUIDE.glob("*.md"):
        assert f"(.github/guide/{path.name})" in README


def test_the_first_page_has_what_and_how_and_a_picture_and_the_numbers_of_the_demo() -> None:
    first, _, rest = README.partition("## Where to read on")
    assert rest
    assert len(first.splitlines()) < 100, "what a newcomer reads in two minutes"
    table = first.partition("| | original |")[2].partition("\n\n")[0]
    numbers = re.findall(r"\b[01]\.\d{3}\b", table)
    assert len(numbers) == 15
    demo = (GUIDE / "demo.md").read_text()
    assert set(numbers) <= set(re.findall(r"\b[01]\.\d{3}\b", demo))


def test_the_picture_is_small_and_fetches_nothing() -> None:
    (name,) = re.findall(r"\]\((\S+\.svg)\)", README)
    text = (ROOT / name).read_text()
    assert len(text) < 30_000
    tree = ElementTree.fromstring(text)
    assert {element.tag.partition("}")[2] for element in tree.iter()} <= {
        "svg", "title", "desc", "style", "rect", "line", "path", "polyline", "text",
    }  # fmt: skip
    assert "url(" not in text
    assert "href" not in text


@pytest.mark.parametrize(("head", "table"), [("| method |", METHODS), ("| attack |", ATTACKS)])
def test_tables_of_the_readme_tell_of_what_there_is(head: str, table: Mapping[str, Any]) -> None:
    rows = README.partition(head)[2].partition("\n\n")[0].splitlines()[2:]
    told = [name for row in rows for name in re.findall(r"`([\w-]+)`", row.split("|")[1])]
    assert len(told) > 9
    assert set(told) <= set(table)


def test_the_guide_to_generators_names_each_of_their_settings_and_methods() -> None:
    page = PAGES[GUIDE / "generators.md"]
    for name in GenerationSettings.model_fields:
        assert f"generation.{name}`" in page or f"`.{name}`" in page, name
    for name in ("draws", "gradient_draws", "probe"):
        assert f"`rcd.{name}`" in page, name
    told = page.partition("## Unlearning a generator")[2].partition("```")[0]
    for name in set(METHODS) - {"retrain"}:
        if not isinstance(load("method", METHODS, name).on.get("generator"), str):
            assert f"`{name}`" in told, name


def test_the_page_of_policies_says_that_generation_is_of_classes() -> None:
    page = PAGES[GUIDE / "gate.md"]
    assert "`generation` is for generators of classes" in page
    assert "generation.nudity_rate" in page


# Of each verb of the section on generators, flags that make it short.
SHORT = {
    "train": "--epochs 1",
    "apply": "--steps 1",
    "generate": "--sampling-steps 2",
    "fidelity": "--samples 10 --kept-samples 3 --sampling-steps 2",
    "rcd": "--steps 2 --draws 4",
    "mia": "",
}


def test_the_commands_on_generators_lead_from_data_to_numbers(run: Cli, here: Path) -> None:
    pytest.importorskip("diffusers", reason="pip install 'unlearn-audit[diffusion]'")
    section = README.partition("## Image generators")[2].partition("\n## ")[0]
    commands = [line for line in section.splitlines() if line.startswith("unlearn-audit ")]
    assert {shlex.split(line)[1] for line in commands} == set(SHORT)
    for line in commands:
        smaller = line.replace("digits", "digits?train=80&test=80").replace("small-unet", "tiny-unet")
        words = shlex.split(smaller.replace("--count 100", "--count 2"))[1:]
        done = run(*words, *SHORT[words[0]].split(), "--quiet")
        assert done.code in (0, 4), (line, done.stderr)  # 4: so small a judge is not believed
    assert len(list((here / "images").rglob("*.png"))) == 2


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.split("\n")[0])
def test_a_python_block_runs(block: str, here: Path) -> None:
    if "import unlearn_audit as ua" not in block:
        pytest.skip("a piece of a file, not a notebook's lines")
    smaller = {'"digits"': '"digits?train=200&test=100"', "epochs=5": "epochs=1", "steps=100": "steps=3",
               '{"steps": 100}': '{"steps": 3, "resamples": 100}'}  # fmt: skip
    if find_spec("pandas") is None:
        smaller["report.to_frame()"] = ""
    for whole, part in smaller.items():
        assert whole in block
        block = block.replace(whole, part)
    names: dict[str, Any] = {}
    exec(block, names)
    assert (here / "report" / "report.json").exists()
    assert names["report"]["rcd.ratio_to_unseen", "unlearned"].value > 0


def test_three_commands_lead_from_the_demo_to_a_verdict_and_a_page(
    audited_demo: tuple[Path, Any], run: Cli, run_process: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report, done = audited_demo
    audit, gate, show = (line for line in COMMANDS if " demo/unlearn" in line or " report/report" in line)
    assert audit == "unlearn-audit audit demo/unlearn-audit.toml --out report/", "what the fixture ran"
    assert done.code == 0, done.stderr
    shutil.copytree(report, tmp_path / "report")
    done = run_process(*shlex.split(gate)[1:], cwd=tmp_path)
    assert done.code == 1, done.stdout  # IEU leaves a trace
    judged, table, rules = done.stdout.partition("verdict")  # a long path breaks the lines above the table
    assert judged.startswith("judged: unlearned,")
    assert without_numbers(table + rules) in without_numbers((GUIDE / "demo.md").read_text())
    monkeypatch.chdir(tmp_path)
    assert run(*shlex.split(gate)[1:], "--subject", "original").code == 1
    assert run(*shlex.split(gate)[1:], "--subject", "retrained").code == 4  # two others each
    assert run(*shlex.split(show)[1:]).code == 0
    assert "forgotten" in (tmp_path / "report" / "report.html").read_text()


def test_the_demos_report_is_judged_and_what_is_wrong_with_it_told(
    demo: tuple[Path, Any], run: Cli, tmp_path: Path
) -> None:
    report = demo[0] / "report.json"
    damaged = tmp_path / "damaged.json"
    damaged.write_text(report.read_text().replace('"value"', '"Value"', 1))
    assert [
        run("gate", report, "--policy", "lenient").code,
        run("gate", report, "--policy", "default").code,
        run("gate", report, "--policy", "no-such.toml").code,
        run("gate", damaged, "--policy", "default").code,
        run("gate", report, "--policy", "default", "--subject", "retrained").code,
    ] == [0, 1, 2, 3, 4]
