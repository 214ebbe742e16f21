"""Passports: the tenant's way into a worker, bounded in time and audience, and never a way in at the edge."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import SecretStr

from tenant_middleware.context import current_tenant, peek_tenant, scope
from tenant_middleware.errors import (
    AuthenticationError,
    ConfigurationError,
    MissingTenant,
    SettingsError,
    TenantMismatch,
)
from tenant_middleware.identity import IdentitySettings, JwtIdentity, Passport
from tenant_middleware.tenancy import Tenancy
from tenant_middleware.tenant import Tenant
from tenant_middleware.testing import ManualClock

SECRET = b"0123456789abcdef0123456789abcdef"
TYPE = "tenant-passport+jwt"
Make = Callable[..., Passport]


@pytest.fixture
def make(clock: ManualClock) -> Make:
    def build(key: Any = SECRET, audience: str = "reports", ttl: float = 60, **more: Any) -> Passport:
        return Passport(key, audience, ttl, more.pop("clock", clock), **more)

    return build


def refused(passport: Passport, text: Any) -> AuthenticationError:
    with pytest.raises(AuthenticationError) as caught:
        passport.open(text)
    return caught.value


def test_tenant_arrives_as_it_left(make: Make, pair: tuple[Tenant, Tenant]) -> None:
    passport = make()
    for tenant in pair:
        with scope(tenant):
            text = passport.issue()
        assert peek_tenant() is None
        with make().open(text):
            assert current_tenant() == tenant


def test_tenant_without_subject(make: Make) -> None:
    assert make().verify(make().issue(Tenant("acme", "free"))) == Tenant("acme", "free")


def test_thread_opens_what_a_task_issued(make: Make, acme: Tenant) -> None:
    with scope(acme):
        text = make().issue()
    seen: list[Tenant] = []

    def work() -> None:
        with make().open(text):
            seen.append(current_tenant())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [acme]


async def test_worker_serves_two_tenants_at_once(make: Make, pair: tuple[Tenant, Tenant]) -> None:
    passport = make()

    async def job(text: str) -> str:
        async with passport.open(text):
            await asyncio.sleep(0)
            return current_tenant().id

    jobs = [job(passport.issue(tenant)) for tenant in pair * 10]
    assert await asyncio.gather(*jobs) == [tenant.id for tenant in pair * 10]


def test_no_tenant_no_passport(make: Make, acme: Tenant, globex: Tenant) -> None:
    with pytest.raises(MissingTenant):
        make().issue()
    with scope(acme):
        with pytest.raises(TenantMismatch):
            make().issue(globex)
        with pytest.raises(TenantMismatch):
            make().open(make_for(make, globex)).__enter__()


def make_for(make: Make, tenant: Tenant) -> str:
    issued: list[str] = []
    thread = threading.Thread(target=lambda: issued.append(make().issue(tenant)))
    thread.start()
    thread.join()
    return issued[0]


def test_replay_ends_with_expiry(make: Make, clock: ManualClock, acme: Tenant) -> None:
    text = make(ttl=60).issue(acme)
    assert make().verify(text) == make().verify(text) == acme
    clock.advance(59)
    assert make().verify(text) == acme
    clock.advance(1)
    assert refused(make(), text).rule == "expired"
    assert make(leeway=5).verify(text) == acme
    clock.set(clock.time() - 120)
    assert refused(make(), text).rule == "not_yet_valid"


def test_longer_life_than_this_end_accepts(make: Make, acme: Tenant) -> None:
    text = make(ttl=3600).issue(acme)
    assert refused(make(ttl=60), text).rule == "ttl"
    assert make(ttl=3600).verify(text) == acme


def test_each_has_an_id_of_its_own(make: Make, acme: Tenant) -> None:
    stamps = [make().read(make().issue(acme)) for _ in range(50)]
    assert len({stamp.id for stamp in stamps}) == 50 and all(len(stamp.id) == 32 for stamp in stamps)
    assert make().read(make(ids=lambda: "job-7").issue(acme)).id == "job-7"


def test_policy_is_asked_at_the_far_end(make: Make, acme: Tenant) -> None:
    text = make().issue(acme)
    assert make(admit=lambda *claimed: Tenant(claimed[0], "enterprise", claimed[2])).verify(text) == acme
    moved = make(admit=lambda *claimed: Tenant(claimed[0], "free", claimed[2]))
    assert refused(moved, text).rule == "tenant"

    def removed(*_: Any) -> Tenant:
        raise AuthenticationError("no rule of the policy admits this tenant", rule="policy")

    assert refused(make(admit=removed), text).rule == "policy"


def test_public_key_opens_and_cannot_issue(make: Make, acme: Tenant) -> None:
    private = Ed25519PrivateKey.generate()
    text = make(private).issue(acme)
    opener = make(private.public_key())
    assert opener.verify(text) == make(private).verify(text) == acme
    with pytest.raises(ConfigurationError, match="private"):
        opener.issue(acme)
    assert refused(make(Ed25519PrivateKey.generate().public_key()), text).rule == "signature"
    assert refused(make(), text).rule == "algorithm"


def test_secret_as_text_or_hidden(make: Make, acme: Tenant) -> None:
    text = make(SECRET.decode()).issue(acme)
    assert make(SecretStr(SECRET.decode())).verify(text) == acme


def encode(clock: ManualClock, headers: dict[str, Any] | None = None, key: Any = SECRET, **changes: Any) -> str:
    now = int(clock.time())
    body = {"aud": "reports", "iat": now, "exp": now + 60, "jti": "1", "tenant": "globex", "tier": "free"} | changes
    claims = {name: value for name, value in body.items() if value is not None}
    return jwt.encode(claims, key, "HS256", headers={"typ": TYPE} | (headers or {}))


ATTACKS: dict[str, tuple[str, Callable[[ManualClock], Any]]] = {
    "forged": ("signature", lambda c: encode(c, key=b"x" * 32)),
    "no type": ("type", lambda c: encode(c, {"typ": None})),
    "type of an edge token": ("type", lambda c: encode(c, {"typ": "JWT"})),
    "type a list": ("type", lambda c: encode(c, {"typ": [TYPE]})),
    "another audience": ("audience", lambda c: encode(c, aud="mails")),
    "no audience": ("claim", lambda c: encode(c, aud=None)),
    "no expiry": ("claim", lambda c: encode(c, exp=None)),
    "no start": ("claim", lambda c: encode(c, iat=None)),
    "no id": ("claim", lambda c: encode(c, jti=None)),
    "id a number": ("malformed", lambda c: encode(c, jti=7)),
    "expiry as text": ("malformed", lambda c: encode(c, exp="9999999999")),
    "endless": ("ttl", lambda c: encode(c, exp=int(c.time()) + 10**6)),
    "no tenant": ("tenant", lambda c: encode(c, tenant=None)),
    "tenant a list": ("tenant", lambda c: encode(c, tenant=["globex"])),
    "tenant outside the grammar": ("tenant", lambda c: encode(c, tenant="globex:x")),
    "no tier": ("claim", lambda c: encode(c, tier=None)),
    "tier a list": ("tier", lambda c: encode(c, tier=["free"])),
    "subject a number": ("subject", lambda c: encode(c, sub=7)),
    "crit": ("malformed", lambda c: encode(c, {"crit": ["exp"]})),
    "empty": ("missing", lambda c: ""),
    "huge": ("size", lambda c: encode(c, pad="x" * 100_000)),
    "garbage": ("malformed", lambda c: "garbage"),
    "bytes": ("malformed", lambda c: encode(c).encode()),
    "None": ("malformed", lambda c: None),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_passport_that_is_refused(name: str, make: Make, clock: ManualClock, told: Callable[..., str]) -> None:
    rule, build = ATTACKS[name]
    text = build(clock)
    error = refused(make(), text)
    assert error.rule == rule and "globex" not in told(error)
    if isinstance(text, str) and len(text) > 10:
        assert text not in told(error)
    assert make().verify(encode(clock)).id == "globex"


def test_alg_none_is_refused(make: Make, issuer: Any, clock: ManualClock) -> None:
    body = encode(clock).split(".")[1]
    assert refused(make(), f"{issuer.part({'alg': 'none', 'typ': TYPE})}.{body}.").rule == "algorithm"


def shared(issuer: Any) -> tuple[JwtIdentity, bytes]:
    """An edge that shares secret, issuer and audience with the passports: only the type is left to tell them apart."""
    settings = IdentitySettings(
        issuer="https://id.example.test/",
        audience="reports",
        algorithms=("HS256",),
        secret=SecretStr(SECRET.decode()),
        tenant_claim="tenant",
    )
    return JwtIdentity(settings, lambda name, tier, subject: Tenant(name, tier or "free", subject)), SECRET


def test_passport_is_no_token_and_a_token_no_passport(make: Make, issuer: Any, wall: ManualClock) -> None:
    edge, secret = shared(issuer)
    now = int(wall.time())
    claims = issuer.claims(aud="reports", jti="1", iat=now, exp=now + 60) | {"tenant": "acme"}
    token = jwt.encode(claims, secret, "HS256")
    text = jwt.encode(claims, secret, "HS256", headers={"typ": TYPE})
    passport = make(clock=wall)
    assert edge.verify(token).id == passport.verify(text).id == "acme"
    with pytest.raises(AuthenticationError) as caught:
        edge.verify(text)
    assert caught.value.rule == "type"
    assert refused(passport, token).rule == "type"


def test_real_passport_is_refused_at_the_edge(
    make: Make, issuer: Any, identity: JwtIdentity, wall: ManualClock, acme: Tenant
) -> None:
    for key in (SECRET, issuer.keys["k1"][0]):
        text = make(key, "genai-platform", clock=wall).issue(acme)
        with pytest.raises(AuthenticationError) as caught:
            identity.verify(text)
        assert caught.value.rule in ("algorithm", "type")
    assert identity.verify(issuer.token("acme", sub=acme.subject)) == acme


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((b"short", "reports"), "at least 32"),
        (("s" * 31, "reports"), "at least 32"),
        ((None, "reports"), "a secret or an Ed25519 key"),
        ((SECRET, ""), "an audience"),
        ((SECRET, None), "an audience"),
        ((SECRET, "reports", 0), "ttl"),
        ((SECRET, "reports", float("nan")), "ttl"),
        ((SECRET, "reports", 10**9), "ttl"),
    ],
)
def test_mistakes_are_told_at_the_start(arguments: tuple[Any, ...], reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason) as caught:
        Passport(*arguments)
    assert "short" not in str(caught.value)


def test_passport_holds_names_and_times_alone(make: Make, acme: Tenant) -> None:
    body = make().issue(acme).split(".")[1]
    held = json.loads(jwt.utils.base64url_decode(body))
    assert held.keys() == {"aud", "iat", "exp", "jti", "tenant", "tier", "sub"}


def test_a_tenancy_issues_passports_and_asks_its_policy_where_they_are_opened() -> None:
    terms = {"rpm": 1, "tpm": 1, "max_concurrency": 1, "budget": "unlimited", "models": [], "max_output_tokens": 64}
    policy = {"tiers": {"pro": terms}, "tenants": {"acme": {"tier": "pro"}}, "secrets": {"passport_key": "k" * 32}}
    acme = Tenant("acme", "pro", "ann")
    with Tenancy.from_mapping(policy) as here, Tenancy.from_mapping(policy | {"tenants": {}}) as there:
        text = here.passport("jobs").issue(acme)
        assert here.passport("jobs").verify(text) == acme
        for refusing in (here.passport("other"), there.passport("jobs")):
            with pytest.raises(AuthenticationError):
                refusing.verify(text)
    with Tenancy.from_mapping(policy | {"secrets": {}}) as keyless, pytest.raises(SettingsError, match="PASSPORT_KEY"):
        keyless.passport("jobs")
