"""Estimates for GPUs that are not here: in closed form, and against what is known of real runs."""

import pytest

from unlearn_audit.engine.device import GPU_CHUNK
from unlearn_audit.engine.estimates import (
    CARDS,
    GPUS,
    NETWORK,
    START,
    Card,
    Rate,
    SharedRun,
    Span,
    in_turn,
    independent,
    shared,
)

SIMPLE = Card({"fp32": Rate(1000.0, 0.25, 0.5)}, link=100.0, source="made up")


def test_models_go_round_the_cards_and_the_last_round_counts_whole() -> None:
    for models, gpus, rounds in ((5, 1, 5), (5, 2, 3), (5, 5, 1), (5, 64, 1)):
        found = independent(models, 1000.0, card=SIMPLE, precision="fp32", gpus=gpus)
        assert found == Span(START + rounds * 2.0, START + rounds * 4.0)


def test_one_run_is_cut_into_chunks_that_the_fullest_card_works_off() -> None:
    run = SharedRun(flop=8000.0, examples=8, example_flop=100.0, gradient_bytes=30)  # ten passes
    alone = shared(run, card=SIMPLE, precision="fp32", gpus=1)
    assert alone == Span(START + 16.0, START + 32.0)
    four = shared(run, card=SIMPLE, precision="fp32", gpus=4)  # four chunks, of which each pass sends (4/4 + 1) x 30
    assert four == Span(START + 10 * 2 * 30 / 100 + 4.0, START + 10 * 2 * 30 / 100 + 8.0)
    three = shared(run, card=SIMPLE, precision="fp32", gpus=3)  # chunks of three, three and two
    assert three.least == pytest.approx(START + 10 * 2 * 30 / 100 + 16 / 3)


def test_beyond_a_machine_messages_go_over_the_network_and_a_small_set_gains_no_more() -> None:
    run = SharedRun(flop=8000.0, examples=8, example_flop=100.0, gradient_bytes=30)
    many = shared(run, card=SIMPLE, precision="fp32", gpus=64)
    assert many.least == pytest.approx(START + 10 * (8 / 64 + 1) * 30 / NETWORK + 2.0)


def test_a_large_set_is_cut_no_finer_than_a_card_takes() -> None:
    run = SharedRun(flop=float(4 * GPU_CHUNK), examples=4 * GPU_CHUNK, example_flop=1.0, gradient_bytes=0)
    assert shared(run, card=SIMPLE, precision="fp32", gpus=1).least - START == pytest.approx(4 * GPU_CHUNK / 500)


def test_a_published_training_lies_within_the_span() -> None:
    """A plain ResNet-18 recipe of 200 epochs, 32.3 PFLOP, took seven minutes on an A100 in half precision."""
    found = independent(1, 32.3e15, card=CARDS["A100"], precision="bf16", gpus=1)
    assert found.least < 420 < found.most


@pytest.mark.parametrize("name", CARDS)
def test_every_card_has_every_precision_and_an_order_of_rates(name: str) -> None:
    rates = CARDS[name].rates
    assert list(rates) == ["fp32", "tf32", "bf16"]
    assert rates["fp32"].flop < rates["tf32"].flop < rates["bf16"].flop
    for precision, rate in rates.items():
        assert 0 < rate.low < rate.high < 1
        spans = [independent(256, 1e15, card=CARDS[name], precision=precision, gpus=gpus) for gpus in GPUS]
        assert spans == sorted(spans, reverse=True)


def test_pieces_follow_each_other() -> None:
    assert in_turn([Span(1.0, 2.0), Span(3.0, 5.0)]) == Span(4.0, 7.0)


def test_of_operations_that_nobody_counted_only_the_start_is_known() -> None:
    run = SharedRun(flop=0.0, examples=8, example_flop=0.0, gradient_bytes=30)
    assert shared(run, card=SIMPLE, precision="fp32", gpus=8) == Span(START, START)
