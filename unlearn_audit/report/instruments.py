"""How a number was measured, by a report's own settings: two reports' numbers compare where these are the same."""

import json
from collections.abc import Iterator

from unlearn_audit.catalogue import METRICS
from unlearn_audit.report.schema import AuditReport

OF_NO_CONSEQUENCE = (  # for a number's meaning
    "resamples", "controls", "accuracies", "worst", "thumbnails", "attacks", "shadows")  # fmt: skip


def other_settings(metric: str, one: AuditReport, other: AuditReport) -> Iterator[str]:
    """Yield the settings that two reports do not share and that change what a metric is, as `section.key`.

    Args:
        metric: of the catalogue.
        one: a report.
        other: another one.
    """
    for section in _sections(metric):
        changed = _settings(one, section).items() ^ _settings(other, section).items()
        yield from (f"{section}.{key}" for key in sorted({key for key, _ in changed}))


def _sections(metric: str) -> tuple[str, ...]:
    """Return the sections of a config that say how a metric is measured; truncation relearns as `rcd` says."""
    section = METRICS[metric].section
    return ("rcd", section) if section == "truncation" else (section,)


def _settings(report: AuditReport, section: str) -> dict[str, str]:
    """Return the settings that a section of the report was measured with, as far as they change what is measured."""
    config = report.settings.get("config")
    found = config.get(section) if isinstance(config, dict) else None
    settings = found if isinstance(found, dict) else {}
    return {key: json.dumps(value) for key, value in settings.items() if key not in OF_NO_CONSEQUENCE}
