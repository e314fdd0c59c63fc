"""What a metric is stands in one place: complete, of known sections, and found for the attacks of users, too."""

import re

import pytest

from unlearn_audit.catalogue import ATTACK_METRICS, METRICS, SECTION_TITLES, MetricInfo, info_or_name, metric_info
from unlearn_audit.catalogue.metric import DOWN
from unlearn_audit.gate import Policy
from unlearn_audit.report import report_schema

EVERY = pytest.mark.parametrize("info", METRICS.values(), ids=lambda info: info.name)


@EVERY
def test_a_metric_says_what_is_needed_to_read_it(info: MetricInfo) -> None:
    assert metric_info(info.name) is info
    assert info.section in SECTION_TITLES
    assert info.title
    assert info.unit
    assert info.what
    assert not info.what.endswith(".")
    assert "{" not in info.name + info.title + info.what
    assert len(max(info.title.split(), key=len)) <= 19  # columns that a terminal has for it


def test_titles_tell_metrics_apart() -> None:
    titles = [info.title for info in METRICS.values()]
    assert len(set(titles)) == len(titles)


def test_what_can_show_a_leak_is_told_apart() -> None:
    leaks = {name for name, info in METRICS.items() if info.leak}
    assert leaks == {
        name
        for name in METRICS
        if (name.startswith(("rcd.", "twosample.", "mia.", "resurgence.")) and not name.endswith(".base_rate"))
        or name in ("accuracy.forget", "loss.forget", "gap.forget")
        or name in ("generation.forget_rate", "generation.nudity_rate")
        or name in {f"outputs.{how}" for how in ("js", "kl", "tv", "l2", "agreement")}
    }


@pytest.mark.parametrize(
    ("name", "instrument", "sets", "scale"),
    [
        ("accuracy.test", "test accuracy", ("test",), "fraction"),
        ("gap.forget", "forget accuracy", ("forget",), ""),
        ("gap.average", "average |gap|", ("retain", "forget", "test"), ""),
        ("loss.unseen", "unseen loss", ("unseen",), "nats"),
        ("rcd.raw", "relearning", ("forget", "unseen"), ""),
        ("rcd.ratio_to_unseen", "relearning", ("forget", "unseen"), "log ratio"),
        ("mia.lira-offline.auc", "the lira-offline attack", ("forget", "unseen"), "AUC"),
        ("mia.my-attack.accuracy", "the my-attack attack", ("forget", "unseen"), ""),
        ("spectrum.trace", "curvature", ("forget", "unseen"), ""),
        ("twosample.p", "the two-sample test", ("forget", "unseen"), ""),
    ],
)
def test_a_metric_says_what_it_is_a_form_of_and_what_it_is_compared_on(
    name: str, instrument: str, sets: tuple[str, ...], scale: str
) -> None:
    info = metric_info(name)
    assert (info.instrument, info.sets, info.scale) == (instrument, sets, scale)


def test_a_new_metric_is_its_own_instrument() -> None:
    assert MetricInfo("new.name", "the title", "gaps", "nats", DOWN, 3, "what it is").instrument == "the title"


@pytest.mark.parametrize("ending", ATTACK_METRICS)
def test_an_attack_of_the_users_own_has_the_same_metrics(ending: str) -> None:
    mine, ours = metric_info(f"mia.my-attack.{ending}"), METRICS[f"mia.loss.{ending}"]
    assert mine.name == f"mia.my-attack.{ending}"
    assert mine.title == ours.title.replace("loss", "my-attack")
    assert mine.what == ours.what.replace("loss", "my-attack")
    assert mine[4:6] == ours[4:6]
    assert mine.leak == ours.leak


@pytest.mark.parametrize("name", ["rcd.rw", "mia.auc", "mia..auc", "mia.loss.f1", "loss", ""])
def test_what_is_no_metric_is_not_found(name: str) -> None:
    with pytest.raises(KeyError):
        metric_info(name)
    assert (info_or_name(name).title, info_or_name(name).instrument) == (name, name)


WRITTEN = {info.name: info.what for info in METRICS.values()}


def test_the_schema_of_a_report_says_what_each_metric_is_and_lets_attacks_of_users_in() -> None:
    name = report_schema()["$defs"]["Measurement"]["properties"]["name"]
    assert {each["const"]: each["description"] for each in name["anyOf"] if "const" in each} == WRITTEN
    (pattern,) = (each["pattern"] for each in name["anyOf"] if "pattern" in each)
    assert re.fullmatch(pattern, "mia.my-attack.auc")


def test_the_schema_of_a_policy_says_what_each_metric_is() -> None:
    metric = Policy.model_json_schema()["$defs"]["Rule"]["properties"]["metric"]
    assert {each["const"]: each["description"] for each in metric["anyOf"]} == WRITTEN
