"""A generator that memorised its few images: membership inference and relearning see single forgotten images.

Seen: PIA .931 on the original and .413 on the retrained model, relearning against never-seen images .857 and 1.057 (60
forgotten images, K = 20). A quarter of an hour of one crowded core.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unlearn_audit.report import read_report

# 1,500 steps each: 5 and 4 batches of 64 an epoch.
CONFIG = """
data = "digits?train=300"
forget = "random:60"
model = "small-unet"

[[train]]
label = "original"
epochs = 300

[[train]]
label = "retrained"
without = true
seed = 1
epochs = 375

[rcd]
optimizer = "adam"
steps = 20

[mia]
attacks = ["pia"]
worst = 0
"""


@pytest.mark.slow
def test_pia_and_relearning_see_forgotten_images_of_a_generator_that_memorised(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    pytest.importorskip("diffusers", reason="pip install 'unlearn-audit[diffusion]'")
    config = tmp_path / "audit.toml"
    config.write_text(CONFIG)
    ran = run("audit", config, "--out", tmp_path / "report", "--quiet")
    assert ran.code == 0, ran.stderr
    report = read_report(tmp_path / "report" / "report.json")

    def value(metric: str, subject: str) -> float:
        found = report.find(metric, subject)
        assert found is not None
        assert isinstance(found.value, float), found.reason
        return found.value

    assert value("mia.pia.auc", "original") >= 0.9
    assert 0.35 <= value("mia.pia.auc", "retrained") <= 0.6
    assert value("rcd.ratio_to_unseen", "original") <= 0.92
    assert value("rcd.ratio_to_unseen", "retrained") >= 0.95
