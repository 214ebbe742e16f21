"""What a good token gives: claims by name, path and URL, re-admission, a cache that forgets, strict settings."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tenant_middleware.context import current_tenant, peek_tenant, scope
from tenant_middleware.errors import AuthenticationError, InvalidTenant, SettingsError, TenantMismatch
from tenant_middleware.identity import IdentitySettings, JwtIdentity
from tenant_middleware.identity import jwt as identity_module
from tenant_middleware.tenant import Tenant
from tenant_middleware.testing import ManualClock

Make = Callable[..., JwtIdentity]


def test_good_token_names_tenant_tier_and_subject(issuer: Any, identity: JwtIdentity) -> None:
    assert identity.verify(issuer.token("acme")) == Tenant("acme", "enterprise", "user")


@pytest.mark.parametrize("kid", ["k1", "r1", "e1"])
def test_each_kind_of_key_verifies_its_own(kid: str, issuer: Any, identity: JwtIdentity) -> None:
    assert identity.verify(issuer.token("globex", kid=kid)).id == "globex"


def test_case_and_prefix_twins_stay_apart(issuer: Any, identity: JwtIdentity) -> None:
    for _ in range(2):
        names = [identity.verify(issuer.token(name, None)).id for name in ("Acme", "acme", "acme2")]
        assert names == ["Acme", "acme", "acme2"]


def test_bad_token_raises_at_the_call(issuer: Any, identity: JwtIdentity) -> None:
    with pytest.raises(AuthenticationError):
        identity.authenticate("garbage")
    opened = identity.authenticate(issuer.token("acme"))
    assert peek_tenant() is None
    with opened as tenant:
        assert tenant == current_tenant()


def test_second_tenant_inside_a_scope_is_refused(issuer: Any, identity: JwtIdentity) -> None:
    with identity.authenticate(issuer.token("acme")):
        with pytest.raises(TenantMismatch):
            identity.authenticate(issuer.token("globex")).__enter__()
        with identity.authenticate(issuer.token("acme")):
            assert current_tenant().id == "acme"


async def test_async_twin_opens_the_scope(issuer: Any, identity: JwtIdentity) -> None:
    async def run(name: str) -> str:
        async with await identity.aauthenticate(issuer.token(name)):
            await asyncio.sleep(0)
            return current_tenant().id

    assert await asyncio.gather(*map(run, ["acme", "globex"] * 20)) == ["acme", "globex"] * 20


CLAIMS: list[tuple[str, dict[str, Any]]] = [
    ("org.id", {"org": {"id": "globex"}}),
    ("org.unit.id", {"org": {"unit": {"id": "globex"}}}),
    ("org.id", {"org.id": "globex", "org": {"id": "acme"}}),
    ("https://acme.example/tenant", {"https://acme.example/tenant": "globex"}),
    ("urn:acme:tenant", {"urn:acme:tenant": "globex"}),
    ("sub", {"sub": "globex"}),
]


@pytest.mark.parametrize(("name", "claims"), CLAIMS)
def test_tenant_claim_by_name_path_or_url(name: str, claims: dict[str, Any], issuer: Any, make_identity: Make) -> None:
    identity = make_identity(tenant_claim=name)
    assert identity.verify(issuer.token(None, **claims)).id == "globex"


NO_CLAIM: list[tuple[str, dict[str, Any]]] = [
    ("org.id", {"org": {"ID": "globex"}}),
    ("org.id", {"org": [{"id": "globex"}]}),
    ("org.id", {"org": "globex"}),
    ("org.id", {"org": {"id": None}}),
    ("org.0", {"org": ["globex"]}),
    ("org.id", {"org.id": ["globex"], "org": {"id": "globex"}}),
    ("https://acme.example/tenant", {"https://acme": {"example/tenant": "globex"}}),
]


@pytest.mark.parametrize(("name", "claims"), NO_CLAIM)
def test_claim_that_is_not_exactly_there_is_refused(
    name: str, claims: dict[str, Any], issuer: Any, make_identity: Make
) -> None:
    with pytest.raises(AuthenticationError) as caught:
        make_identity(tenant_claim=name).verify(issuer.token(None, **claims))
    assert caught.value.rule == "tenant"


def test_tier_and_subject_have_names_too(issuer: Any, make_identity: Make) -> None:
    identity = make_identity(tier_claim="org.plan", subject_claim="https://acme.example/user")
    token = issuer.token("acme", None, org={"plan": "enterprise"}, **{"https://acme.example/user": "eve"})
    assert identity.verify(token) == Tenant("acme", "enterprise", "eve")
    with pytest.raises(AuthenticationError) as caught:
        identity.verify(issuer.token("acme", None, org={"plan": "free"}))
    assert caught.value.rule == "tier"


def test_token_type_may_be_absent_or_an_access_token(issuer: Any, identity: JwtIdentity) -> None:
    for typ in (None, "JWT", "jwt", "at+jwt", "application/at+JWT"):
        assert identity.verify(issuer.token("acme", headers={"typ": typ})).id == "acme"


def test_several_audiences(issuer: Any, make_identity: Make) -> None:
    identity = make_identity(audience=["a", "b"])
    for aud in ("a", "b", ["x", "b"]):
        assert identity.verify(issuer.token("acme", aud=aud)).id == "acme"
    with pytest.raises(AuthenticationError):
        identity.verify(issuer.token("acme", aud=["x"]))


def test_leeway_covers_clocks_that_differ(issuer: Any, make_identity: Make) -> None:
    late = issuer.token("acme", exp=int(time.time()) - 10)
    early = issuer.token("acme", nbf=int(time.time()) + 20)
    for token in (late, early):
        assert make_identity(leeway=60).verify(token).id == "acme"
        with pytest.raises(AuthenticationError):
            make_identity().verify(token)


def test_only_key_serves_a_token_without_kid(issuer: Any, make_identity: Make) -> None:
    key, algorithm = issuer.keys["k1"]
    token = jwt.encode(issuer.claims(), key, algorithm)
    assert make_identity(jwks=issuer.jwks("k1")).verify(token).id == "acme"
    second = issuer.public_jwk(issuer.stranger, "EdDSA", "k9")
    with pytest.raises(AuthenticationError) as caught:
        make_identity(jwks={"keys": [*issuer.jwks("k1")["keys"], second]}).verify(token)
    assert caught.value.rule == "key"


def test_policy_is_asked_again_for_a_cached_token(issuer: Any, make_identity: Make) -> None:
    listed = {"acme"}

    def admit(tenant_id: str, tier: str | None, subject: str | None) -> Tenant:
        if tenant_id not in listed:
            raise AuthenticationError("no rule of the policy admits this tenant", rule="policy")
        return Tenant(tenant_id, tier or "free", subject)

    identity, token = make_identity(admit=admit), issuer.token("acme")
    assert identity.verify(token).id == "acme"
    listed.clear()
    with pytest.raises(AuthenticationError):
        identity.verify(token)


def test_admit_that_answers_for_another_tenant_is_stopped(issuer: Any, make_identity: Make) -> None:
    with pytest.raises(TenantMismatch):
        make_identity(admit=lambda *_: Tenant("globex", "enterprise", "user")).verify(issuer.token("acme"))


def count_decodes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    calls: list[int] = []
    real = jwt.decode

    def counting(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return real(*args, **kwargs)

    monkeypatch.setattr(identity_module.jwt, "decode", counting)
    return calls


def test_cached_token_is_decoded_once_and_not_past_its_end(
    issuer: Any, make_identity: Make, wall: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = count_decodes(monkeypatch)
    identity, token = make_identity(wall), issuer.token("acme", exp=int(wall.time()) + 300)
    for _ in range(5):
        assert identity.verify(token).id == "acme"
    assert len(calls) == 1
    wall.advance(299)
    assert identity.verify(token).id == "acme"
    wall.advance(2)
    for _ in range(2):
        with pytest.raises(AuthenticationError) as caught:
            identity.verify(token)
        assert caught.value.rule == "expired"


def test_clock_that_goes_backwards_revives_nothing(
    issuer: Any, make_identity: Make, wall: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = count_decodes(monkeypatch)
    identity, token, start = make_identity(wall), issuer.token("acme", iat=None), wall.time()
    identity.verify(token)
    wall.advance(400)
    with pytest.raises(AuthenticationError):
        identity.verify(token)
    wall.set(start)
    assert identity.verify(token).id == "acme" and len(calls) == 2, "an expired entry is gone: decoded anew"


def test_cache_is_bounded_and_can_be_off(issuer: Any, make_identity: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = count_decodes(monkeypatch)
    tokens = [issuer.token("acme", jti=str(n)) for n in range(5)]
    identity = make_identity(cache_size=3)
    for token in tokens:
        identity.verify(token)
    assert len(identity._seen) == 3
    identity.verify(tokens[-1])
    assert len(calls) == 5
    identity.verify(tokens[0])
    assert len(calls) == 6, "the oldest went out"
    off = make_identity(cache_size=0)
    off.verify(tokens[0])
    off.verify(tokens[0])
    assert len(calls) == 8


def test_cache_holds_no_token(issuer: Any, identity: JwtIdentity) -> None:
    token = issuer.token("acme")
    identity.verify(token)
    held = repr(identity._seen._entries)
    assert "acme" in held and token not in held and token.split(".")[2] not in held


def test_threads_share_one_identity(issuer: Any, make_identity: Make) -> None:
    identity = make_identity(cache_size=2)
    tokens = {name: issuer.token(name, None) for name in ("acme", "Acme", "acme2", "globex")}
    wrong: list[str] = []

    def hammer(name: str) -> None:
        wrong.extend(name for _ in range(200) if identity.verify(tokens[name]).id != name)

    threads = [threading.Thread(target=hammer, args=(name,)) for name in tokens for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [] and len(identity._seen) <= 2


@given(text=st.text(max_size=200) | st.from_regex(r"[A-Za-z0-9_\-]{0,40}\.[A-Za-z0-9_\-]{0,40}\.[A-Za-z0-9_\-]{0,40}"))
def test_no_text_is_a_token(text: str) -> None:
    settings = IdentitySettings(
        issuer="i", audience="a", algorithms=("HS256",), secret="0123456789abcdef0123456789abcdef"
    )
    with pytest.raises(AuthenticationError):
        JwtIdentity(settings, lambda *_: Tenant("acme", "free")).verify(text)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_names = st.sampled_from(["iss", "aud", "exp", "iat", "nbf", "jti", "sub", "tenant_id", "tier", "org"])


@given(
    claims=st.dictionaries(_names, _json),
    headers=st.dictionaries(st.sampled_from(["typ", "kid", "crit", "b64"]), _json),
)
def test_signed_nonsense_is_refused_or_names_the_tenant_it_names(
    claims: dict[str, Any], headers: dict[str, Any], issuer: Any
) -> None:
    """Whatever a trusted issuer signs: a Tenant of exactly that name, or AuthenticationError, and nothing else."""
    settings = IdentitySettings(
        issuer="https://id.example.test/", audience="genai-platform", algorithms=("EdDSA",), jwks=issuer.jwks("k1")
    )
    body = issuer.claims() | claims
    identity = JwtIdentity(settings, lambda name, tier, subject: Tenant(name, tier or "free", subject))
    with contextlib.suppress(AuthenticationError):
        tenant = identity.verify(issuer.raw({"alg": "EdDSA", "kid": "k1"} | headers, body))
        assert tenant.id == body["tenant_id"] and body["iss"] == "https://id.example.test/"


SETTINGS: list[tuple[str, dict[str, Any], str]] = [
    ("unknown key", {"audiance": "x"}, "Extra inputs"),
    ("no issuer", {"issuer": None}, "issuer"),
    ("empty issuer", {"issuer": ""}, "issuer"),
    ("no audience", {"audience": None}, "audience"),
    ("empty audience", {"audience": ""}, "audience"),
    ("no audiences", {"audience": []}, "audience"),
    ("no algorithms", {"algorithms": None}, "algorithms"),
    ("empty algorithms", {"algorithms": []}, "algorithms"),
    ("none", {"algorithms": ["none"]}, "never accepted"),
    ("None beside a good one", {"algorithms": ["EdDSA", "NONE"]}, "never accepted"),
    ("misspelt algorithm", {"algorithms": ["eddsa"]}, "expected names out of"),
    ("HS256 without secret", {"algorithms": ["HS256"]}, "HS\\* needs `secret`"),
    ("HS256 beside RS256", {"algorithms": ["HS256", "RS256"]}, "can't stand beside"),
    ("secret beside a JWKS", {"algorithms": ["HS256"], "secret": "s" * 64}, "exactly one of"),
    ("secret for RS256", {"jwks": None, "secret": "s" * 64}, "HS\\* needs `secret`"),
    ("short secret", {"jwks": None, "algorithms": ["HS512"], "secret": "s" * 63}, "at least 64"),
    ("no keys", {"jwks": None}, "exactly one of"),
    ("two sources", {"jwks_file": "jwks.json"}, "exactly one of"),
    ("http URL", {"jwks": None, "jwks_url": "http://id.example.test/jwks"}, "expected https"),
    ("loopback http unasked", {"jwks": None, "jwks_url": "http://127.0.0.1/jwks"}, "expected https"),
    ("http elsewhere", {"jwks": None, "jwks_url": "http://10.0.0.1/", "jwks_loopback_http": True}, "expected https"),
    ("file URL", {"jwks": None, "jwks_url": "file:///etc/passwd", "jwks_loopback_http": True}, "https"),
    ("credentials in the URL", {"jwks": None, "jwks_url": "https://u:p@id.example.test/"}, "without credentials"),
    ("empty claim step", {"tenant_claim": "org..id"}, "empty steps"),
    ("no tenant claim", {"tenant_claim": ""}, "tenant_claim"),
    ("negative leeway", {"leeway": -1}, "leeway"),
    ("huge leeway", {"leeway": 3600}, "leeway"),
    ("NaN leeway", {"leeway": float("nan")}, "leeway"),
    ("huge tokens", {"max_token_bytes": 10**9}, "max_token_bytes"),
    ("refresh too often", {"jwks_refresh_every": 1}, "jwks_refresh_every"),
    ("stale before aged", {"jwks_stale_for": 60}, "jwks_max_age"),
    ("passports at the edge", {"token_types": ["Tenant-Passport+jwt"]}, "passport"),
]


@pytest.mark.parametrize(("changes", "reason"), [row[1:] for row in SETTINGS], ids=[row[0] for row in SETTINGS])
def test_settings_that_are_refused(changes: dict[str, Any], reason: str, settings: Callable[..., Any]) -> None:
    assert settings()
    with pytest.raises(ValidationError, match=reason) as caught:
        settings(**changes)
    assert "ssss" not in str(caught.value) and "u:p" not in str(caught.value)


def test_settings_are_frozen_and_hide_the_secret(settings: Callable[..., IdentitySettings]) -> None:
    made = settings(jwks=None, algorithms=["HS256"], secret="s" * 32)
    assert "ssss" not in repr(made)
    with pytest.raises(ValidationError):
        made.issuer = "other"  # type: ignore[misc]  # that it is frozen is the point


def test_secret_that_is_asked_for_works(issuer: Any, make_identity: Make) -> None:
    identity = make_identity(jwks=None, algorithms=["HS256"], secret="s" * 32)
    assert identity.verify(jwt.encode(issuer.claims(), "s" * 32, "HS256", headers={"kid": "any"})).id == "acme"
    for bad in (jwt.encode(issuer.claims(), "t" * 32, "HS256"), jwt.encode(issuer.claims(), "s" * 64, "HS512")):
        with pytest.raises(AuthenticationError):
            identity.verify(bad)


def test_keys_from_a_file(issuer: Any, make_identity: Make, tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps(issuer.jwks("k1")))
    assert make_identity(jwks=None, jwks_file=str(path)).verify(issuer.token("acme")).id == "acme"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "No such file"),
        ("{", "not JSON"),
        ("[]", "keys"),
        ('{"keys": []}', "no usable key"),
        ('{"keys": {}}', "keys"),
        ("[" * 5000, "not JSON"),
    ],
)
def test_key_file_that_cannot_be_used_is_named(
    text: str | None, reason: str, make_identity: Make, tmp_path: Path
) -> None:
    path = tmp_path / "jwks.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SettingsError, match=reason) as caught:
        make_identity(jwks=None, jwks_file=path)
    assert str(path) in str(caught.value)


def test_manual_clock_of_the_application_does_not_age_tokens(issuer: Any, identity: JwtIdentity) -> None:
    """The wall clock decides by default, whatever the rest of the program runs on."""
    assert identity.verify(issuer.token("acme", exp=int(time.time()) + 5)).id == "acme"


def test_grammar_error_is_not_chained(issuer: Any, identity: JwtIdentity) -> None:
    with pytest.raises(AuthenticationError) as caught:
        identity.verify(issuer.token("a:b"))
    assert caught.value.__cause__ is None and caught.value.__context__ is None
    assert not isinstance(caught.value, InvalidTenant)


def test_scope_of_another_subject_is_another_pin(issuer: Any, identity: JwtIdentity) -> None:
    with scope(identity.verify(issuer.token("acme", sub="ann"))):
        with pytest.raises(TenantMismatch):
            identity.authenticate(issuer.token("acme", sub="bob")).__enter__()
