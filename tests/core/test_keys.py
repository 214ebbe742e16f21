"""Keys are injective and prefix-free, whatever the parts: no name of one tenant is, or begins, a name of another."""

from __future__ import annotations

import base64
import re
import string
from collections.abc import Callable

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tenant_middleware import keys
from tenant_middleware.errors import InvalidInput
from tenant_middleware.tenant import Tenant

_LETTERS = string.ascii_letters + string.digits
_NASTY = ":/{}.,|*[]\\\n\0 -_'\"=%é\u0301İıſ\u200b\U0001f512AaZz"

ids = st.one_of(
    st.sampled_from(["acme", "Acme", "ACME", "acme2", "acme.", "a", "aa", "a.b", "a-b", "a_b"]),
    st.builds(str.__add__, st.sampled_from(_LETTERS), st.text(_LETTERS + "._-", max_size=12)),
)
tenants = st.builds(Tenant, ids, st.sampled_from(["free", "gold"]))
part = st.one_of(st.text(_NASTY, max_size=6), st.text(max_size=6), st.sampled_from(["", ":", "a:b", "{acme}", "acme"]))
parts = st.lists(part.filter(lambda text: not re.search("[\ud800-\udfff]", text)), max_size=4).map(tuple)
named = st.tuples(tenants, parts)
Named = tuple[Tenant, tuple[str, ...]]


def identity(name: Named) -> tuple[str, tuple[str, ...]]:
    """A key is made for an id; tier and subject don't move a tenant's data."""
    return name[0].id, name[1]


def check(one: Named, two: Named) -> None:
    first, second = keys.key(one[0], *one[1]), keys.key(two[0], *two[1])
    if identity(one) == identity(two):
        assert first == second
    else:
        assert not first.startswith(second) and not second.startswith(first)
        assert first.lower() != second.lower()


HOSTILE: list[tuple[Named, Named]] = [
    ((Tenant("a", "t"), ("b", "c")), (Tenant("a", "t"), ("b:c",))),
    ((Tenant("a", "t"), ("b", "")), (Tenant("a", "t"), ("b",))),
    ((Tenant("acme", "t"), ()), (Tenant("acme", "t"), ("",))),
    ((Tenant("acme", "t"), ("x",)), (Tenant("acme2", "t"), ("x",))),
    ((Tenant("acme", "t"), ("x",)), (Tenant("acme", "t"), ("xy",))),
    ((Tenant("Acme", "t"), ("x",)), (Tenant("acme", "t"), ("x",))),
    ((Tenant("acme", "t"), ("X",)), (Tenant("acme", "t"), ("x",))),
]


@pytest.mark.parametrize(("one", "two"), HOSTILE)
def test_pairs_that_meet_elsewhere(one: Named, two: Named) -> None:
    check(one, two)


@given(named, named)
def test_keys_are_injective_and_prefix_free(one: Named, two: Named) -> None:
    check(one, two)


def separator(tenant: Tenant, *parts: str) -> str:
    return ":".join((tenant.id, *parts))


def endless(tenant: Tenant, *parts: str) -> str:
    return keys.key_prefix(tenant) + ":".join(map(keys.encode, parts))


def plain_case(tenant: Tenant, *parts: str) -> str:
    return f"{tenant.id}:{':'.join(part.encode().hex() for part in parts) or '-'}."


@pytest.mark.parametrize("naive", [separator, endless, plain_case])
def test_a_weaker_encoding_turns_that_check_red(naive: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "key", naive)
    with pytest.raises(AssertionError):
        for one, two in HOSTILE:
            check(one, two)


@given(tenants, tenants, parts)
def test_a_prefix_holds_all_keys_of_its_tenant_and_no_others(one: Tenant, two: Tenant, rest: tuple[str, ...]) -> None:
    assert keys.key(one, *rest).startswith(keys.key_prefix(one))
    assert keys.key(two, *rest).startswith(keys.key_prefix(one)) == (one.id == two.id)


@given(tenants, tenants)
def test_namespaces_and_tags_tell_tenants_apart_even_where_case_is_ignored(one: Tenant, two: Tenant) -> None:
    assume(one.id != two.id)
    for name in (keys.namespace, keys.tag):
        assert name(one).lower() != name(two).lower()
    assert not keys.namespace(one).startswith(keys.namespace(two))
    assert not keys.namespace(two).startswith(keys.namespace(one))


@given(tenants)
def test_names_stay_inside_the_alphabets_of_the_services(tenant: Tenant) -> None:
    assert re.fullmatch(r"tm\.[a-z2-7]+\.", keys.namespace(tenant)) and len(keys.namespace(tenant)) <= 210
    assert re.fullmatch(r"[a-z2-7]+", keys.tag(tenant))
    assert re.fullmatch(r"tm:\{[a-z2-7]+\}:[a-z2-7:]*\.", keys.key(tenant, "a", "b"))


def test_the_longest_id_fits() -> None:
    longest = Tenant("x" * 128, "free")
    assert len(keys.namespace(longest)) <= 210


@given(named)
def test_one_tenant_shares_one_cluster_slot(name: Named) -> None:
    """Redis Cluster hashes what stands between the first brace and the next closing one."""
    made = keys.key(name[0], *name[1])
    hashed = made[made.index("{") + 1 : made.index("}")]
    assert hashed == keys.tag(name[0]) and made.count("{") == made.count("}") == 1


@given(st.tuples(tenants, part), st.tuples(tenants, part), st.integers(60, 512))
def test_record_ids_of_two_tenants_are_two_records(
    one: tuple[Tenant, str], two: tuple[Tenant, str], limit: int
) -> None:
    assume((one[0].id, one[1]) != (two[0].id, two[1]))
    first, second = keys.scoped_id(*one, limit=limit), keys.scoped_id(*two, limit=limit)
    assert first.lower() != second.lower()


def test_a_long_record_id_becomes_a_digest_that_no_plain_id_can_be() -> None:
    acme = Tenant("acme", "free")
    long = keys.scoped_id(acme, "x" * 1000)
    assert len(long) <= 512 and long.startswith(keys.tag(acme) + ".")
    assert long.endswith("-") and "-" not in keys.scoped_id(acme, "-")
    assert long != keys.scoped_id(acme, "x" * 1001)


@given(st.text().filter(lambda text: not re.search("[\ud800-\udfff]", text)))
def test_decode_is_the_inverse_of_encode(text: str) -> None:
    assert keys.decode(keys.encode(text)) == text


@pytest.mark.parametrize("name", ["A", "1", "mfrgg===", "MFRGG", "mfrgh", "mfrg g", "7777", "é"])
def test_decode_refuses_what_encode_did_not_make(name: str) -> None:
    with pytest.raises(InvalidInput):
        keys.decode(name)


def test_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(InvalidInput):
        keys.key(Tenant("acme", "free"), "\ud800")


@given(named, named)
def test_digests_differ_and_have_the_length_asked_for(one: Named, two: Named) -> None:
    for bits in (128, 160, 256):
        made = keys.digest(one[0], *one[1], bits=bits)
        assert len(base64.b32decode(made.upper() + "=" * (-len(made) % 8))) * 8 == bits
        assert (made == keys.digest(two[0], *two[1], bits=bits)) == (identity(one) == identity(two))


@pytest.mark.parametrize("bits", [0, 64, 120, 130, 264])
def test_a_digest_below_128_bits_is_refused(bits: int) -> None:
    with pytest.raises(InvalidInput):
        keys.digest(Tenant("acme", "free"), bits=bits)


@given(st.binary(min_size=1, max_size=8), st.text(max_size=5), tenants, tenants)
def test_fingerprints_of_equal_texts_differ_by_tenant_and_secret(
    secret: bytes, text: str, one: Tenant, two: Tenant
) -> None:
    assume(one.id != two.id)
    mine = keys.fingerprint(secret, one, text)
    assert mine == keys.fingerprint(secret, one, text) and len(mine) == 64
    assert mine != keys.fingerprint(secret, two, text)
    assert mine != keys.fingerprint(secret + b"x", one, text)
    assert mine != keys.fingerprint(secret, one, text + "x")
    assert not text or text not in mine or set(text) <= set("0123456789abcdef")
