"""Passes in turn: where each step stands, counted one by one."""

import torch
from hypothesis import given
from hypothesis import strategies as some
from small_problems import CPU, HALF

from unlearn_audit.data import Examples
from unlearn_audit.engine import Batches
from unlearn_audit.methods.turns import Turn, Turns


def batches(n: int, size: int) -> Batches:
    labels = torch.zeros(n, dtype=torch.int64)
    return Batches(Examples(torch.zeros(n, 1, 1, 1), labels, labels), HALF, size, 0, "some", CPU)


def enumerated(forget: Batches, retain: Batches, until: int | None, epochs: int) -> list[Turn]:
    """The steps of so many epochs, one by one."""
    turns = []
    for epoch in range(epochs):
        for which in (True, False):
            if which and until is not None and epoch >= until:
                continue
            done = sum(turn.on_forget == which for turn in turns)
            count = (forget if which else retain).per_epoch
            turns += [Turn(epoch, which, done + index) for index in range(count)]
    return turns


sizes = some.integers(1, 23)


@given(sizes, sizes, sizes, sizes, some.none() | some.integers(0, 4), some.integers(0, 5))
def test_turns_are_those_of_an_enumeration(
    forget_n: int, forget_size: int, retain_n: int, retain_size: int, until: int | None, epochs: int
) -> None:
    forget, retain = batches(forget_n, forget_size), batches(retain_n, retain_size)
    turns = Turns(forget, retain, until=until)
    expected = enumerated(forget, retain, until, epochs + 1)
    assert [turns.at(step) for step in range(len(expected))] == expected
    assert turns.length(epochs) == sum(turn.epoch < epochs for turn in expected)
    taken = [len((forget if turn.on_forget else retain).rows(turn.batch)) for turn in expected]
    for steps in range(len(expected)):
        assert turns.gradients(steps) == sum(taken[:steps])


def test_a_part_of_an_epoch_is_as_many_steps_as_that_part() -> None:
    turns = Turns(batches(40, 10), batches(90, 10), until=1)
    assert [turns.length(epochs) for epochs in (0.5, 1, 1.5, 2)] == [7, 13, 18, 22]
