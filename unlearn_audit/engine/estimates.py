"""What work would take on GPUs that are not here: estimates from stated rates, and nothing that was measured.

Time is operations over what a card reaches of its rate, from the lower to the upper end of what is known of networks
for images. Independent work (shadow models) goes to as many cards as there are, one model after the other on each. One
run that is shared out (`--nproc`) is cut into chunks, a pass takes as many rounds as the fullest card has chunks, and
each step sends the gradient as `engine.ranks` does. Loading, a card's memory and the start of a process beyond a fixed
time are left out, so that small work on many cards takes longer than it says here.
"""

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from unlearn_audit.engine.device import GPU_CHUNK

GPUS = (1, 8, 64)
PER_MACHINE = 8  # cards that its own links join; beyond that messages go over the network
NETWORK = 50e9  # bytes a second to and from a card between machines: 400 Gbit/s, assumed
START = 10.0  # seconds until a process computes: loading torch and the data, assumed


class Rate(NamedTuple):
    """Operations a second in products of matrices, and from which to which share of it training comes."""

    flop: float
    low: float
    high: float


class Card(NamedTuple):
    """A card: its rates by precision, the bytes a second between two of one machine, and where these come from."""

    rates: Mapping[str, Rate]
    link: float
    source: str


CARDS: Mapping[str, Card] = {
    "H200": Card(
        # A share of .4 to .7 in float32 is what good code comes to on other devices whose arithmetic is the limit.
        {"fp32": Rate(60e12, 0.4, 0.7), "tf32": Rate(395e12, 0.15, 0.28), "bf16": Rate(788e12, 0.19, 0.25)},
        450e9,
        "rates: products of large matrices (bf16), 80 % and 90 % of the data sheet (tf32, fp32); shares: expected",
    ),
    "A100": Card(
        {"fp32": Rate(19.5e12, 0.4, 0.7), "tf32": Rate(156e12, 0.15, 0.25), "bf16": Rate(312e12, 0.19, 0.45)},
        300e9,
        "rates: data sheet; shares: published trainings of ResNets (tf32, bf16), expected (fp32)",
    ),
}


class Span(NamedTuple):
    """Seconds, from at least to at most."""

    least: float
    most: float


class SharedRun(NamedTuple):
    """One run whose passes are shared out.

    Attributes:
        flop: of all passes together.
        examples: of one pass.
        example_flop: of one example's gradient.
        gradient_bytes: of one gradient.
    """

    flop: float
    examples: int
    example_flop: float
    gradient_bytes: int


def independent(models: int, flop: float, *, card: Card, precision: str, gpus: int) -> Span:
    """Return what so many models of `flop` operations each take on so many cards, one model at a time on each.

    >>> one, many = (independent(256, 1e15, card=CARDS["H200"], precision="bf16", gpus=n) for n in (1, 64))
    >>> round((one.most - START) / (many.most - START))
    64
    """
    rate, rounds = card.rates[precision], math.ceil(models / gpus)
    return Span(START + rounds * flop / (rate.flop * rate.high), START + rounds * flop / (rate.flop * rate.low))


def shared(run: SharedRun, *, card: Card, precision: str, gpus: int) -> Span:
    """Return what one run takes that is shared out among so many cards, in chunks that go evenly round."""
    rate = card.rates[precision]
    chunks = math.ceil(run.examples / min(GPU_CHUNK, math.ceil(run.examples / gpus)))
    rounds, pass_flop = math.ceil(chunks / gpus), run.examples * run.example_flop
    passes = run.flop / pass_flop if pass_flop else 0.0  # of a network whose operations nobody can count
    work = run.flop * rounds / chunks
    sent = 0.0 if gpus == 1 else passes * (chunks / gpus + 1) * run.gradient_bytes
    messages = sent / (card.link if gpus <= PER_MACHINE else NETWORK)
    return Span(
        START + messages + work / (rate.flop * rate.high),
        START + messages + work / (rate.flop * rate.low),
    )


def in_turn(spans: Iterable[Span]) -> Span:
    """Return what several pieces of work take, one after the other."""
    found = list(spans)
    return Span(sum(span.least for span in found), sum(span.most for span in found))
