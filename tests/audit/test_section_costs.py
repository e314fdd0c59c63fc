"""What a plan says that sections take: of curvature, of K that is chosen on the way, of samples; and what they took."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from unlearn_audit.audit.cache import ResultCache, seconds_taken
from unlearn_audit.audit.section import SectionResult
from unlearn_audit.audit.section_costs import (
    FORWARD,
    LANCZOS,
    LANCZOS_MORE,
    PRODUCT,
    SEARCH,
    Price,
    section_of_generators,
    section_step,
)
from unlearn_audit.config import AuditConfig

if TYPE_CHECKING:
    from unlearn_audit.data import Splits

PRICES = [Price(flop=10.0, seconds=0.5), Price(flop=30.0, seconds=1.5)]


def config(**sections: Any) -> AuditConfig:
    return AuditConfig.model_validate(sections)


def test_curvature_is_priced_by_its_usual_products(splits: "Splits") -> None:
    asked = config(spectrum={"eigenvalues": 4, "probes": 6, "controls": False})
    step = section_step("spectrum", config=asked, splits=splits, prices=PRICES)
    each = (6 + LANCZOS + LANCZOS_MORE * 4) * PRODUCT * len(splits.measured)
    assert (step.gradients, step.flop, step.seconds, step.at_most) == (2 * each, 40.0 * each, 2.0 * each, False)
    more = section_step("spectrum", config=config(spectrum={"eigenvalues": 4, "probes": 6}), splits=splits,
                        prices=PRICES)  # fmt: skip
    assert more.gradients == 3 * each, "a random initialisation, too"


def test_steps_that_are_chosen_on_the_way_are_priced_at_their_most(splits: "Splits") -> None:
    asked = config(rcd={"steps": "auto", "max_steps": 200, "controls": False}, truncation={})
    rcd = section_step("rcd", config=asked, splits=splits, prices=PRICES)
    fixed = section_step("rcd", config=config(rcd={"steps": 200, "controls": False}), splits=splits, prices=PRICES)
    assert (rcd.at_most, fixed.at_most) == (True, False)
    assert rcd[2:5] == fixed[2:5]
    assert rcd.gradients is not None
    assert rcd.gradients % (200 + SEARCH) == 0
    assert section_step("truncation", config=asked, splits=splits, prices=PRICES).at_most
    told = config(rcd={"steps": "auto"}, truncation={"reference_steps": 500})
    assert not section_step("truncation", config=told, splits=splits, prices=PRICES).at_most


@pytest.mark.parametrize(("guidance", "passes"), [(None, 1), (1, 1), (3, 2)])
def test_samples_are_priced_by_their_passes(splits: "Splits", guidance: float | None, passes: int) -> None:
    settings = {"samples": 10, "kept_samples": 5, "sampling_steps": 4} | ({"guidance": guidance} if guidance else {})
    step = section_of_generators("generation", config=config(generation=settings), splits=splits, prices=PRICES)
    gone, classes = len(splits.forgotten_classes), splits.dataset.classes
    images = 10 * gone + 5 * (classes - gone)
    assert images > 0
    assert step.seconds == pytest.approx(images * 4 * passes * FORWARD * 2.0)


def test_prompts_of_a_file_are_counted(splits: "Splits", tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("prompt\na cat\na dog\na horse\n")
    asked = config(generation={"prompts": str(tmp_path / "p.csv")})
    step = section_of_generators("generation", config=asked, splits=splits, prices=PRICES[:1])
    assert step.seconds == pytest.approx(3 * 50 * 2 * FORWARD * 0.5), "50 steps, each with and without the prompt"


def test_what_a_section_took_is_told_of_the_last_one(tmp_path: Path) -> None:
    assert seconds_taken(tmp_path / "parts", "rcd") is None
    cache = ResultCache(tmp_path / "parts")
    cache.section("rcd", {"seed": 0}, lambda: SectionResult((), ()))
    (kept,) = (tmp_path / "parts").glob("rcd-*.seconds")
    assert seconds_taken(tmp_path / "parts", "rcd") == float(kept.read_text()) < 5
    kept.write_text("12.5\n")
    cache.section("rcd", {"seed": 0}, lambda: SectionResult((), ()))
    assert seconds_taken(tmp_path / "parts", "rcd") == 12.5, "found again, nothing was taken"
    cache.section("rcd", {"seed": 1}, lambda: SectionResult((), ()))
    (newer,) = set((tmp_path / "parts").glob("rcd-*.seconds")) - {kept}
    os.utime(newer, (2**31, 2**31))
    newer.write_bytes(b"\xff no number")
    os.utime(newer, (2**31, 2**31))
    assert seconds_taken(tmp_path / "parts", "rcd") is None
