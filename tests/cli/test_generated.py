"""Flags made of settings: what is typed becomes what the settings take, and each default stands once."""

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, Literal

import pytest
from conftest import Run
from pydantic import Field

from unlearn_audit.audit.generators import asked_of_generators
from unlearn_audit.cli.generated import OptionKind, kind_of, shown, value_of
from unlearn_audit.config import SECTIONS, AuditConfig, RcdSettings


@pytest.mark.parametrize(
    ("annotation", "kind"),
    [
        (bool, OptionKind(bool)),
        (Annotated[int, Field(ge=0)] | None, OptionKind(int)),
        (str | None, OptionKind(str)),
        (Literal["gd", "sgd"], OptionKind(str, ("gd", "sgd"))),
        (Literal["fit"] | float, OptionKind(str, mixed=True, metavar="fit|X")),
        (Literal["auto"] | int, OptionKind(str, mixed=True, metavar="auto|N")),
        (tuple[float, ...], OptionKind(str, mixed=True, metavar="X,…", several="always")),
        (
            Literal["auto", "lambda"] | float | tuple[float, ...],
            OptionKind(str, mixed=True, metavar="VALUE", several="with a comma"),
        ),
    ],
)
def test_what_the_command_line_takes_for_a_setting(annotation: Any, kind: OptionKind) -> None:
    assert kind_of(annotation) == kind


WORD_OR_NUMBER, LIST = kind_of(Literal["fit"] | float), kind_of(tuple[float, ...])
EITHER = kind_of(Literal["auto"] | float | tuple[float, ...])


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("fit", WORD_OR_NUMBER, "fit"),
        ("0.5", WORD_OR_NUMBER, 0.5),
        ("7", WORD_OR_NUMBER, 7),
        ("1,2", WORD_OR_NUMBER, "1,2"),
        ("0.5", LIST, [0.5]),
        ("0.5, x", LIST, [0.5, "x"]),
        ("1e-3,1e-4", EITHER, [1e-3, 1e-4]),
        ("1e-3", EITHER, 1e-3),
        ("7", kind_of(str | None), "7"),
        (None, EITHER, None),
        (3, kind_of(int), 3),
    ],
)
def test_what_is_typed_is_read_as_the_settings_take_it(text: Any, kind: OptionKind, value: Any) -> None:
    found = value_of(text, kind)
    assert (found, type(found)) == (value, type(value))


def test_a_default_is_shown_as_it_would_be_typed() -> None:
    assert [shown(value) for value in (0.0, 1e-3, 2000, True, None, "auto", (0.5, 0.9))] == [
        "0", "0.001", "2000", "yes", "none", "auto", "0.5,0.9",
    ]  # fmt: skip


@pytest.mark.parametrize("section", ["rcd", "truncation", "spectrum", "twosample", "outputs", "mia"])
def test_the_help_of_a_verb_has_every_setting_with_its_default(section: str, run: Any) -> None:
    said = " ".join(run(section, "--help").stdout.replace("│", " ").split())
    for name, field in SECTIONS[section].model_fields.items():
        if field.description:
            assert f"--{name.replace('_', '-')} " in said
            default = "" if field.default in (None, False) else f" Default {shown(field.default)}."
            assert f"{field.description}." in said or section == "truncation"
            assert default in said


@dataclass(frozen=True)
class OfGenerators:
    """As much of an audit's context as decides what generators relearn by."""

    config: AuditConfig
    of_generators: bool = True

    def with_role(self, role: str) -> tuple[str, ...]:
        return (role,)


def test_the_help_of_rcd_says_by_what_generators_relearn(run: Run) -> None:
    words = re.sub(r"[\s│]+", " ", run("rcd", "--help").stdout)
    context: Any = OfGenerators(AuditConfig(rcd=RcdSettings()))
    wanted = asked_of_generators(context).config.rcd
    assert wanted is not None
    assert f"Default gd. On a generator {wanted.optimizer}." in words
    assert f"Default 100. On a generator {wanted.steps}." in words


@pytest.mark.parametrize("verb", ["rcd", "mia", "demo", "fidelity"])
def test_no_line_of_what_a_verb_says_is_broken(verb: str, run: Run) -> None:
    told = run(verb, "--help").stdout.partition("╭")[0].splitlines()
    broken = [
        one for one, after in pairwise(told)
        if 0 < len(one.strip()) < 45 and after.strip() and not one.strip().endswith((".", "?", "\\"))
        and not after.startswith("   ")
    ]  # fmt: skip
    assert broken == []
