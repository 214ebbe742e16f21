"""The attack table: every row is refused, says why, repeats nothing, and leaves the honest token working."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
import types
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tenant_middleware.context import current_tenant
from tenant_middleware.errors import AuthenticationError
from tenant_middleware.identity import JwtIdentity
from tenant_middleware.identity import jwt as identity_module

CANARY = "canary-5f1d"


def public_pem(issuer: Any) -> bytes:
    return issuer.keys["r1"][0].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def hs_signed_with(secret: bytes, issuer: Any, **header: Any) -> str:
    signed = f"{issuer.part({'alg': 'HS256', 'typ': 'JWT'} | header)}.{issuer.part(issuer.claims('globex'))}"
    return f"{signed}.{issuer.part(hmac.digest(secret, signed.encode(), 'sha256'))}"


def forged(issuer: Any, **header: Any) -> str:
    return jwt.encode(issuer.claims("globex"), issuer.stranger, "EdDSA", headers={"kid": "k1"} | header)


def tampered(issuer: Any) -> str:
    head, _, tail = issuer.token("acme").split(".")
    return f"{head}.{issuer.part(issuer.claims('globex'))}.{tail}"


def unsigned(issuer: Any, name: str) -> str:
    return f"{issuer.part({'alg': name, 'typ': 'JWT', 'kid': 'k1'})}.{issuer.part(issuer.claims('globex'))}."


def own_jwk(issuer: Any) -> str:
    """Signed with a stranger's key that the header brings along, by value and by URL."""
    jwk = issuer.public_jwk(issuer.stranger, "EdDSA", "own")
    url = "https://evil.example/jwks"
    return forged(issuer, kid="own", jwk=jwk, jku=url, x5u=url, x5c=["AAAA"])


def kid(text: str) -> Callable[[Any], str]:
    return lambda i: i.token("globex", headers={"kid": text})


NOW = int(time.time())
JWT = {"alg": "EdDSA", "typ": "JWT", "kid": "k1"}

ATTACKS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "forged": ("signature", forged),
    "body swapped under a good signature": ("signature", tampered),
    "signature cut off": ("signature", lambda i: i.token("globex").rsplit(".", 1)[0] + "."),
    "expired": ("expired", lambda i: i.token("globex", iat=NOW - 600, exp=NOW - 60)),
    "expired this second": ("expired", lambda i: i.token("globex", exp=int(time.time()))),
    "not yet valid": ("not_yet_valid", lambda i: i.token("globex", nbf=NOW + 3600, exp=NOW + 7200)),
    "issued in the future": ("not_yet_valid", lambda i: i.token("globex", iat=NOW + 3600, exp=NOW + 7200)),
    "wrong audience": ("audience", lambda i: i.token("globex", aud="other")),
    "audience that only contains ours": ("audience", lambda i: i.token("globex", aud="genai-platform-2")),
    "audience in another case": ("audience", lambda i: i.token("globex", aud="GenAI-Platform")),
    "audience of another type": ("audience", lambda i: i.token("globex", aud={"genai-platform": 1})),
    "no audience": ("claim", lambda i: i.token("globex", aud=None)),
    "wrong issuer": ("issuer", lambda i: i.token("globex", iss="https://evil.example/")),
    "issuer that is a part of ours": ("issuer", lambda i: i.token("globex", iss="https://id")),
    "issuer that begins with ours": ("issuer", lambda i: i.token("globex", iss="https://id.example.test/evil")),
    "issuer as a list": ("issuer", lambda i: i.raw(JWT, i.claims("globex", iss=["https://id.example.test/"]))),
    "no issuer": ("claim", lambda i: i.token("globex", iss=None)),
    "no expiry": ("claim", lambda i: i.token("globex", exp=None)),
    "expiry as text": ("malformed", lambda i: i.token("globex", exp=str(int(time.time()) + 300))),
    "expiry true": ("expired", lambda i: i.token("globex", exp=True)),
    "expiry infinite": ("malformed", lambda i: i.raw(JWT, i.claims("globex", exp=float("inf")))),
    "expiry not a number": ("malformed", lambda i: i.raw(JWT, i.claims("globex", exp=float("nan")))),
    "expiry of 400 digits": ("malformed", lambda i: i.raw(JWT, i.claims("globex", exp=10**400))),
    "expiry of 5000 digits": ("malformed", lambda i: i.raw(JWT, b'{"exp": ' + b"9" * 5000 + b"}")),
    "alg none": ("algorithm", lambda i: unsigned(i, "none")),
    "alg None": ("algorithm", lambda i: unsigned(i, "None")),
    "alg nOnE": ("algorithm", lambda i: unsigned(i, "nOnE")),
    "alg empty": ("algorithm", lambda i: unsigned(i, "")),
    "alg in lower case": ("algorithm", lambda i: i.raw(JWT | {"alg": "eddsa"}, i.claims("globex"))),
    "alg a list": ("algorithm", lambda i: i.raw(JWT | {"alg": ["EdDSA"]}, i.claims("globex"))),
    "no alg": ("algorithm", lambda i: i.raw({"typ": "JWT", "kid": "k1"}, i.claims("globex"))),
    "HS256 with the RSA public key as secret": ("algorithm", lambda i: hs_signed_with(public_pem(i), i, kid="r1")),
    "HS256 with the published JWK as secret": (
        "algorithm",
        lambda i: hs_signed_with(json.dumps(i.jwks("r1")["keys"][0]).encode(), i, kid="r1"),
    ),
    "HS256 with an empty secret": ("algorithm", lambda i: hs_signed_with(b"", i, kid="k1")),
    "RSA key named for EdDSA": ("algorithm", lambda i: i.raw(JWT | {"kid": "r1"}, i.claims("globex"))),
    "alg of another key": ("algorithm", lambda i: i.raw(JWT | {"alg": "RS256"}, i.claims("globex"))),
    "PS256 by an RS256 key": (
        "algorithm",
        lambda i: jwt.encode(i.claims("globex"), i.keys["r1"][0], "PS256", headers={"kid": "r1"}),
    ),
    "unknown kid": ("key", kid("k2")),
    "kid in another case": ("key", kid("K1")),
    "kid with a path": ("key", kid("../../../../dev/null")),
    "kid with a file URL": ("key", kid("file:///etc/passwd")),
    "kid with SQL": ("key", kid("x' UNION SELECT 'secret' --")),
    "kid with a URL": ("key", kid("https://evil.example/jwks.json#k1")),
    "kid with a command": ("key", kid("|/bin/true")),
    "kid with a null byte": ("key", kid("k1\x00")),
    "kid empty": ("key", kid("")),
    "kid a number": ("malformed", lambda i: i.raw(JWT | {"kid": 1}, i.claims("globex"))),
    "kid a list": ("malformed", lambda i: i.raw(JWT | {"kid": ["k1"]}, i.claims("globex"))),
    "key brought along": ("key", own_jwk),
    "key brought along under our kid": (
        "signature",
        lambda i: forged(i, jwk=i.public_jwk(i.stranger, "EdDSA", "k1"), jku="https://evil.example/"),
    ),
    "crit unknown": ("malformed", lambda i: i.token("globex", headers={"crit": ["exp"]})),
    "crit b64": ("malformed", lambda i: i.raw(JWT | {"crit": ["b64"], "b64": True}, i.claims("globex"))),
    "typ of a passport": ("type", lambda i: i.token("globex", headers={"typ": "tenant-passport+jwt"})),
    "typ of a passport, long": (
        "type",
        lambda i: i.token("globex", headers={"typ": "application/Tenant-Passport+JWT"}),
    ),
    "typ of a logout token": ("type", lambda i: i.token("globex", headers={"typ": "logout+jwt"})),
    "typ a list": ("type", lambda i: i.raw(JWT | {"typ": ["JWT"]}, i.claims("globex"))),
    "no tenant claim": ("tenant", lambda i: i.token(None)),
    "tenant claim a list": ("tenant", lambda i: i.token(["globex"])),
    "tenant claim a list of two": ("tenant", lambda i: i.token(["acme", "globex"])),
    "tenant claim an object": ("tenant", lambda i: i.token({"id": "globex"})),
    "tenant claim a number": ("tenant", lambda i: i.token(7)),
    "tenant claim true": ("tenant", lambda i: i.token(True)),
    "tenant claim empty": ("tenant", lambda i: i.token("")),
    "tenant id with a colon": ("tenant", lambda i: i.token(f"{CANARY}:x")),
    "tenant id with braces": ("tenant", lambda i: i.token(f"{{{CANARY}}}")),
    "tenant id with a slash": ("tenant", lambda i: i.token(f"{CANARY}/..")),
    "tenant id with a newline": ("tenant", lambda i: i.token("globex\n")),
    "tenant id with a null byte": ("tenant", lambda i: i.token("globex\x00")),
    "tenant id with a blank": ("tenant", lambda i: i.token(" globex")),
    "tenant id in look-alikes": ("tenant", lambda i: i.token("\u0430cme")),
    "tenant id with a lone surrogate": ("tenant", lambda i: i.token("acme\ud800")),
    "tenant id of 129 characters": ("tenant", lambda i: i.token("a" * 129)),
    "tenant id of 9000 characters": ("tenant", lambda i: i.token("a" * 9000)),
    "unknown tenant": ("policy", lambda i: i.token(CANARY)),
    "tenant id in another case": ("policy", lambda i: i.token("GLOBEX")),
    "tier that contradicts the policy": ("tier", lambda i: i.token("initech", "enterprise")),
    "tier a list": ("tier", lambda i: i.token("globex", ["enterprise"])),
    "tier outside the grammar": ("tenant", lambda i: i.token("globex", f"{CANARY}{{}}")),
    "subject a number": ("subject", lambda i: i.raw(JWT, i.claims("globex", sub=7))),
    "subject with control characters": ("tenant", lambda i: i.token("globex", sub=f"{CANARY}\r\n")),
    "subject with a lone surrogate": ("tenant", lambda i: i.token("globex", sub="\ud800")),
    "subject of 300 characters": ("tenant", lambda i: i.token("globex", sub="s" * 300)),
    "1 MB token": ("size", lambda i: i.token("globex", padding="x" * 1_000_000)),
    "1 MB of dots": ("size", lambda i: "." * 1_000_000),
    "1 MB of one letter": ("size", lambda i: "a" * 1_000_000),
    "empty": ("missing", lambda i: ""),
    "blank": ("missing", lambda i: " \t\n"),
    "garbage": ("malformed", lambda i: "garbage"),
    "dots": ("malformed", lambda i: ".."),
    "two parts": ("malformed", lambda i: "a.b"),
    "five parts": ("malformed", lambda i: "a.b.c.d.e"),
    "not base64": ("malformed", lambda i: "!!!.???.###"),
    "header not JSON": ("malformed", lambda i: i.raw(b"{", i.claims("globex"))),
    "header a list": ("malformed", lambda i: i.raw([1], i.claims("globex"))),
    "header nested 5000 deep": ("malformed", lambda i: f"{i.part(b'[' * 5000)}.e30.AA"),
    "body not JSON": ("malformed", lambda i: i.raw(JWT, b"{")),
    "body a list": ("malformed", lambda i: i.raw(JWT, ["globex"])),
    "body not UTF-8": ("malformed", lambda i: i.raw(JWT, b'{"a": "\xff\xfe\xfd"}')),
    "body nested 5000 deep": ("malformed", lambda i: i.raw(JWT, b"[" * 5000)),
    "a blank at the end": ("malformed", lambda i: i.token("globex") + " "),
    "a newline at the end": ("malformed", lambda i: i.token("globex") + "\n"),
    "with its scheme": ("malformed", lambda i: "Bearer " + i.token("globex")),
    "lone surrogate": ("malformed", lambda i: i.token("globex") + "\ud800"),
    "full-width letters": ("malformed", lambda i: i.token("globex").replace("a", "\uff41")),
    "bytes": ("malformed", lambda i: i.token("globex").encode()),
    "None": ("malformed", lambda i: None),
    "a number": ("malformed", lambda i: 7),
    "a list of tokens": ("malformed", lambda i: [i.token("globex")]),
    "a dictionary": ("malformed", lambda i: {"token": i.token("globex")}),
}


def refused(identity: JwtIdentity, token: Any) -> AuthenticationError:
    with pytest.raises(AuthenticationError) as caught:
        identity.authenticate(token)
    return caught.value


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_is_refused(name: str, issuer: Any, identity: JwtIdentity, told: Callable[..., str]) -> None:
    rule, build = ATTACKS[name]
    token = build(issuer)
    for error in (refused(identity, token), refused(identity, token)):  # also the second time, past any cache
        assert (error.rule, error.http_status) == (rule, 401)
        words = told(error)
        assert CANARY not in words and "globex" not in words and "evil" not in words and len(words) < 2000
        if isinstance(token, str) and len(token) > 10:
            assert token not in words and token[:40] not in words
    with identity.authenticate(issuer.token("acme")):
        assert current_tenant().id == "acme"


@pytest.mark.parametrize("name", ATTACKS)
async def test_async_twin_refuses_alike(name: str, issuer: Any, identity: JwtIdentity) -> None:
    rule, build = ATTACKS[name]
    with pytest.raises(AuthenticationError) as caught:
        await identity.averify(build(issuer))
    assert caught.value.rule == rule
    assert (await identity.averify(issuer.token("acme"))).id == "acme"


UNVERIFIED = (
    "forged",
    "body swapped under a good signature",
    "expired",
    "not yet valid",
    "wrong audience",
    "wrong issuer",
)


@pytest.mark.parametrize("name", UNVERIFIED)
def test_with_verification_off_the_attack_passes(
    name: str, issuer: Any, identity: JwtIdentity, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows are refused by the check they are named for, and by nothing else."""
    token = ATTACKS[name][1](issuer)
    refused(identity, token)

    def trusting(raw: bytes, key: object, **_: object) -> Any:
        return jwt.decode(raw, options={"verify_signature": False})

    monkeypatch.setattr(identity_module, "jwt", types.SimpleNamespace(decode=trusting))
    monkeypatch.setattr(identity_module, "check_times", lambda *_: None)
    assert identity.verify(token).id == "globex"


def test_confused_token_is_a_true_hmac_of_the_public_key(issuer: Any) -> None:
    """The HS/RS row is a working attack: a verifier that takes the PEM as a secret accepts it."""
    signed, _, signature = hs_signed_with(public_pem(issuer), issuer, kid="r1").rpartition(".")
    assert signature == issuer.part(hmac.digest(public_pem(issuer), signed.encode(), "sha256"))


def test_key_brought_along_verifies_its_own_token(issuer: Any) -> None:
    """The row with its own key is a working attack on a verifier that trusts the header."""
    token = own_jwk(issuer)
    key = jwt.PyJWK(jwt.get_unverified_header(token)["jwk"])
    assert jwt.decode(token, key, audience="genai-platform")["tenant_id"] == "globex"


def long_prefix_pair(issuer: Any) -> tuple[str, str]:
    claims = {"roles": "r" * 400, **issuer.claims()}
    del claims["tenant_id"]
    key, algorithm = issuer.keys["k1"]
    first, second = (
        jwt.encode({**claims, "tenant_id": name}, key, algorithm, headers={"kid": "k1"}) for name in ("acme", "globex")
    )
    assert first[:600] == second[:600]
    return first, second


def test_tokens_with_one_prefix_are_two_tenants(issuer: Any, identity: JwtIdentity) -> None:
    first, second = long_prefix_pair(issuer)
    for _ in range(2):
        assert [identity.verify(token).id for token in (first, second)] == ["acme", "globex"]


def test_cache_by_prefix_would_mix_them_up(issuer: Any, identity: JwtIdentity, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = long_prefix_pair(issuer)
    by_prefix = types.SimpleNamespace(sha256=lambda raw: hashlib.sha256(raw[:600]))
    monkeypatch.setattr(identity_module, "hashlib", by_prefix)
    assert [identity.verify(token).id for token in (first, second)] == ["acme", "acme"]


def test_signature_is_checked_again_for_a_cached_body(issuer: Any, identity: JwtIdentity) -> None:
    token = issuer.token("acme")
    assert identity.verify(token).id == "acme"
    body, _, signature = token.rpartition(".")
    swapped = ("B" if signature[0] == "A" else "A") + signature[1:]
    assert refused(identity, f"{body}.{swapped}").rule == "signature"
    assert refused(identity, token[:-4]).rule in ("signature", "malformed")
