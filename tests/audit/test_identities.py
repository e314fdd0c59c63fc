"""Files, weights, seeds and roles held against each other: one model never stands for two."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from lookup_models import Lookup, context_of, right

from unlearn_audit.audit.identities import identity_doubts, other_parents, weights_digest
from unlearn_audit.checkpoints import Metadata
from unlearn_audit.inputs import Candidate

ANY = right()


def subjects(*roles: str) -> list[Candidate]:
    context = context_of("range:0-99", **{f"{role}-{i}": (role, right(seed=i)) for i, role in enumerate(roles)})
    return list(context.subjects)


def doubts(*found: Candidate) -> dict[str, str]:
    return dict(identity_doubts(found))


def changed(one: Candidate, other: Candidate, noise: float) -> Candidate:
    """`other` with the weights of `one`, and noise of a relative size."""
    table = one.model.state_dict()["table"].clone()
    step = torch.randn(table.shape, generator=torch.Generator().manual_seed(0))
    return replace(other, model=Lookup(table + noise * table.norm() / step.norm() * step).eval())


def test_different_models_are_different() -> None:
    assert doubts(*subjects("original", "retrained", "retrained", "unlearned")) == {}


@pytest.mark.parametrize(
    ("roles", "doubted"),
    [
        (("original", "retrained"), (0, 1)),
        (("retrained", "retrained"), (0, 1)),
        (("retrained", "unlearned"), (0, 1)),
        (("original", "unlearned"), (1,)),  # nothing was unlearned; the original is what it is
        (("unlearned", "unlearned"), (0, 1)),
    ],
)
def test_one_file_or_the_same_weights_under_two_names(roles: tuple[str, str], doubted: tuple[int, ...]) -> None:
    one, other = subjects(*roles)
    labels = {(one, other)[index].label for index in doubted}
    same_file = replace(changed(one, other, 0.0), sha256=one.sha256)
    assert set(doubts(one, same_file)) == labels
    assert all("are the same file" in text for text in doubts(one, same_file).values())
    same_weights = changed(one, other, 0.0)
    assert weights_digest(one) == weights_digest(same_weights)
    assert set(doubts(one, same_weights)) == labels
    assert all("the same weights in two files" in text for text in doubts(one, same_weights).values())


@pytest.mark.parametrize("role", ["original", "unlearned", "retrained"])
def test_a_reference_that_is_a_copy_with_a_little_noise(role: str) -> None:
    one, other = subjects(role, "retrained")
    assert set(doubts(one, changed(one, other, 0.003))) == {one.label, other.label}
    assert doubts(one, changed(one, other, 0.1)) == {}


def test_unlearning_may_change_little() -> None:
    one, other = subjects("original", "unlearned")
    assert doubts(one, changed(one, other, 0.003)) == {}


def test_a_copy_in_bfloat16_is_a_copy() -> None:
    one, other = subjects("original", "retrained")
    rounded = one.model.state_dict()["table"].bfloat16().float()
    assert set(doubts(one, replace(other, model=Lookup(rounded)))) == {one.label, other.label}


def said(**values: Any) -> Metadata:
    return Metadata(model="lookup", **{"recipe": {"epochs": 3}} | values)


def test_two_references_of_one_seed_are_no_two_runs() -> None:
    one, other, third = subjects("retrained", "retrained", "retrained")
    one, other = (replace(each, metadata=said(seed=1, forget_sha256="a" * 64)) for each in (one, other))
    third = replace(third, metadata=said(seed=2, forget_sha256="a" * 64))
    found = doubts(one, other, third)
    assert set(found) == {one.label, other.label}
    assert "the same seed, 1" in found[one.label]
    assert doubts(one, third) == {}
    assert doubts(one, replace(other, metadata=said(seed=1, recipe={"epochs": 5}))) == {}
    assert doubts(one, replace(other, role="original")) == {}  # an original and a retrained one may share a seed


def test_an_unlearned_model_of_another_original_is_told() -> None:
    original, unlearned = subjects("original", "unlearned")
    assert list(other_parents([original, replace(unlearned, metadata=said(parent_sha256=original.sha256))])) == []
    (text,) = other_parents([original, replace(unlearned, metadata=said(parent_sha256="f" * 64))])
    assert text.startswith(f"{unlearned.label} was made from another checkpoint")
    assert list(other_parents([replace(unlearned, metadata=said(parent_sha256="f" * 64))])) == []
