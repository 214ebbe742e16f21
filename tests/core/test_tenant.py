from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenant_middleware.errors import InvalidInput, InvalidTenant
from tenant_middleware.tenant import Tenant

GOOD = ["a", "A", "7", "acme", "Acme", "acme2", "a.b", "a_b", "a-b", "0-._", "x" * 128]
BAD = [
    "",
    ".acme",
    "_acme",
    "-acme",
    "x" * 129,
    "acme:globex",
    "acme/globex",
    "{acme}",
    "acme ",
    " acme",
    "acme\n",
    "acme\x00",
    "acme\u200b",
    "acme*",
    "acme,globex",
    "açme",
    "аcme",  # the first letter is Cyrillic
    "٣",  # a digit, and not ASCII
    "ａcme",
    "acme\ud800",
]
NOT_TEXT = [None, 7, True, b"acme", ["acme"], {"id": "acme"}]


@pytest.mark.parametrize("name", GOOD)
def test_ids_and_tiers_inside_the_grammar(name: str) -> None:
    tenant = Tenant(name, name)
    assert tenant.id == name and tenant.tier == name and str(tenant) == name


@pytest.mark.parametrize("name", BAD + NOT_TEXT, ids=repr)
def test_ids_and_tiers_outside_it_are_refused_without_being_repeated(name: object) -> None:
    for make in (lambda: Tenant(name, "free"), lambda: Tenant("acme", name)):  # type: ignore[arg-type]  # that is the test
        with pytest.raises(InvalidTenant) as refused:
            make()
        assert isinstance(refused.value, InvalidInput) and isinstance(refused.value, ValueError)
        if isinstance(name, str) and len(name) > 3:
            assert name not in str(refused.value)


@given(st.text(max_size=6))
def test_only_the_grammar_makes_a_tenant(name: str) -> None:
    first, rest = name[:1], name[1:]
    good = first.isascii() and first.isalnum() and all(c.isascii() and (c.isalnum() or c in "._-") for c in rest)
    if good and name:
        assert Tenant(name, "free").id == name
    else:
        with pytest.raises(InvalidTenant):
            Tenant(name, "free")


def test_tenants_are_compared_exactly_and_never_normalised() -> None:
    assert Tenant("Acme", "free") != Tenant("acme", "free")
    assert Tenant("acme", "free") != Tenant("acme", "gold")
    assert Tenant("acme", "free", "ann") != Tenant("acme", "free", "bob") != Tenant("acme", "free")
    assert len({Tenant("acme", "free"), Tenant("acme", "free"), Tenant("Acme", "free")}) == 2


def test_a_tenant_can_not_be_changed() -> None:
    tenant = Tenant("acme", "free")
    with pytest.raises(dataclasses.FrozenInstanceError):
        tenant.id = "globex"  # type: ignore[misc]  # that is the test
    with pytest.raises((AttributeError, TypeError)):
        tenant.note = "x"  # type: ignore[attr-defined]  # that is the test
    with pytest.raises(InvalidTenant):
        dataclasses.replace(tenant, id="acme:globex")


@pytest.mark.parametrize("subject", ["ann", "ann@example.test", "auth0|12 34", "Zoë", "x" * 256])
def test_subjects_are_free_text(subject: str) -> None:
    assert Tenant("acme", "free", subject).subject == subject


@pytest.mark.parametrize("subject", ["", "x" * 257, "ann\n", "ann\x1b[31m", "ann\u202e", 7, b"ann"], ids=repr)
def test_subjects_hold_no_control_characters(subject: object) -> None:
    with pytest.raises(InvalidTenant):
        Tenant("acme", "free", subject)  # type: ignore[arg-type]  # that is the test
