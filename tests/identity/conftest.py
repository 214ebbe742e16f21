"""An identity provider of our own: it signs with several kinds of keys and can be told to lie."""

from __future__ import annotations

import base64
import json
import time
import traceback
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tenant_middleware.errors import AuthenticationError
from tenant_middleware.identity import IdentitySettings, JwtIdentity
from tenant_middleware.tenant import Tenant
from tenant_middleware.testing import ManualClock

ISSUER = "https://id.example.test/"
AUDIENCE = "genai-platform"
TIERS = {"acme": "enterprise", "Acme": "enterprise", "acme2": "free", "globex": "enterprise", "initech": "free"}
_WRITERS: dict[str, Any] = {
    "EdDSA": jwt.algorithms.OKPAlgorithm,
    "RS256": jwt.algorithms.RSAAlgorithm,
    "ES256": jwt.algorithms.ECAlgorithm,
}


def public_jwk(key: Any, algorithm: str, kid: str | None, **fields: Any) -> dict[str, Any]:
    jwk = json.loads(_WRITERS[algorithm].to_jwk(key.public_key())) | {"use": "sig", "alg": algorithm}
    return jwk | ({"kid": kid} if kid is not None else {}) | fields


def part(value: object) -> str:
    """One segment of a token, written by hand."""
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


class Issuer:
    """Signs what it is told to sign."""

    def __init__(self) -> None:
        self.keys: dict[str, tuple[Any, str]] = {
            "k1": (Ed25519PrivateKey.generate(), "EdDSA"),
            "r1": (rsa.generate_private_key(public_exponent=65537, key_size=2048), "RS256"),
            "e1": (ec.generate_private_key(ec.SECP256R1()), "ES256"),
        }
        self.stranger = Ed25519PrivateKey.generate()
        self.public_jwk, self.writers = public_jwk, _WRITERS
        self.part = part

    def jwks(self, *kids: str) -> dict[str, Any]:
        chosen = kids or tuple(self.keys)
        return {"keys": [public_jwk(*self.keys[kid], kid) for kid in chosen]}

    def claims(self, tenant: object = "acme", tier: object = "enterprise", **more: Any) -> dict[str, Any]:
        """A valid set, a minute old, so that a clock that stands still isn't behind it; None takes a claim out."""
        now = int(time.time())
        base = {"iss": ISSUER, "aud": AUDIENCE, "sub": "user", "iat": now - 60, "exp": now + 300}
        base |= {"tenant_id": tenant, "tier": tier} | more
        return {name: value for name, value in base.items() if value is not None}

    def token(
        self,
        tenant: object = "acme",
        tier: object = "enterprise",
        *,
        kid: str = "k1",
        headers: dict[str, Any] | None = None,
        **more: Any,
    ) -> str:
        key, algorithm = self.keys[kid]
        return jwt.encode(
            self.claims(tenant, tier, **more), key, algorithm=algorithm, headers={"kid": kid, **(headers or {})}
        )

    def raw(self, header: object, claims: object, kid: str = "k1") -> str:
        """Truly signed with Ed25519, whatever header and body say."""
        signed = f"{part(header)}.{part(claims)}"
        return f"{signed}.{part(self.keys[kid][0].sign(signed.encode()))}"


def admit(tenant_id: str, tier_claim: str | None, subject: str | None) -> Tenant:
    """A policy's word: listed tenants only, and the listed tier wins."""
    tier = TIERS.get(tenant_id)
    if tier is None:
        raise AuthenticationError("no rule of the policy admits this tenant", rule="policy")
    if tier_claim is not None and tier_claim != tier:
        raise AuthenticationError("the token names another tier than the policy", rule="tier")
    return Tenant(tenant_id, tier, subject)


@pytest.fixture(scope="session")
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture
def wall() -> ManualClock:
    """A clock that stands where the machine's stands: PyJWT asks the machine."""
    return ManualClock(time.time())


@pytest.fixture
def settings(issuer: Issuer) -> Callable[..., IdentitySettings]:
    def make(**changes: Any) -> IdentitySettings:
        base: dict[str, Any] = {
            "issuer": ISSUER,
            "audience": AUDIENCE,
            "algorithms": ["EdDSA", "RS256", "ES256"],
            "jwks": issuer.jwks(),
        }
        return IdentitySettings(**{name: value for name, value in (base | changes).items() if value is not None})

    return make


@pytest.fixture
def identity(settings: Callable[..., IdentitySettings]) -> JwtIdentity:
    return JwtIdentity(settings(), admit)


@pytest.fixture
def make_identity(settings: Callable[..., IdentitySettings]) -> Callable[..., JwtIdentity]:
    def make(clock: ManualClock | None = None, *, admit: Any = admit, keys: Any = None, **changes: Any) -> JwtIdentity:
        return JwtIdentity(settings(**changes), admit, clock, keys=keys)

    return make


@pytest.fixture
def told() -> Callable[[BaseException], str]:
    """Everything that a log could print of an error, chained errors and their attributes included."""

    def collect(error: BaseException) -> str:
        seen: list[str] = []
        chain: BaseException | None = error
        while chain is not None:
            seen += [str(chain), repr(chain), repr(vars(chain))]
            seen += ["".join(traceback.format_exception_only(chain))]
            chain = chain.__cause__ or chain.__context__
        return "\n".join(seen)

    return collect
