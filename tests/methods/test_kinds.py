"""A method may be another one, or none, on some kinds of models."""

from dataclasses import replace

import pytest

from unlearn_audit.errors import UsageError
from unlearn_audit.methods import on_kind
from unlearn_audit.methods.ft import FT
from unlearn_audit.step_transforms import Kind

OTHER = replace(FT, source="another")


def test_where_nothing_is_said_a_method_is_itself_on_every_kind() -> None:
    plain = replace(FT, on={})
    assert all(on_kind(plain, kind) is plain for kind in ("classifier", "generator", "text-to-image"))


def test_what_is_said_of_generators_holds_of_texts_where_nothing_is_said_of_these() -> None:
    method = replace(FT, on={"generator": OTHER})
    assert on_kind(method, "classifier") is method
    assert on_kind(method, "generator") is OTHER is on_kind(method, "text-to-image")
    more = replace(FT, on={"generator": OTHER, "text-to-image": "not on texts"})
    assert on_kind(more, "generator") is OTHER
    with pytest.raises(UsageError, match="ft cannot be used on a generator of texts: not on texts"):
        on_kind(more, "text-to-image")


@pytest.mark.parametrize(("kind", "named"), [("generator", "of classes"), ("text-to-image", "of texts")])
def test_a_refusal_has_its_reason(kind: Kind, named: str) -> None:
    with pytest.raises(UsageError, match=f"ft cannot be used on a generator {named}: there is no class"):
        on_kind(replace(FT, on={"generator": "there is no class"}), kind)
