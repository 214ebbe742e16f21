"""Tokens that must be refused, for audits: each is what an attacker could make, and one is good but for its key."""

from __future__ import annotations

import base64
import hmac
import json
import secrets
import time
from dataclasses import dataclass
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import SecretStr

from tenant_middleware.errors import AuthenticationError
from tenant_middleware.identity.jwt import JwtIdentity
from tenant_middleware.identity.settings import IdentitySettings
from tenant_middleware.tenant import Tenant

KINDS = ("none", "expired", "forged", "audience", "confused")
_KID = "audit"
_CURVES: dict[str, Any] = {"ES256": ec.SECP256R1, "ES384": ec.SECP384R1, "ES512": ec.SECP521R1}


@dataclass(frozen=True)
class Forgery:
    """Forges tokens under one identity's settings; `twin` has the same settings and a key of ours.

    The twin accepts our good token, so that a bad one is refused for what is bad about it, and not for its key.
    """

    settings: IdentitySettings
    key: Any
    twin: JwtIdentity

    @classmethod
    def of(cls, settings: IdentitySettings) -> Forgery:
        algorithm = settings.algorithms[0]
        key = _new_key(algorithm)
        keys: dict[str, Any] = {"jwks_file": None, "jwks_url": None, "jwks": None, "secret": None}
        if isinstance(key, str):
            keys["secret"] = SecretStr(key)
        else:
            public = json.loads(_algorithm(algorithm).to_jwk(key.public_key()))
            keys["jwks"] = {"keys": [public | {"kid": _KID, "use": "sig", "alg": algorithm}]}
        twin = JwtIdentity(settings.model_copy(update=keys), lambda name, tier, sub: Tenant(name, tier or "audit", sub))
        return cls(settings, key, twin)

    def good(self, tenant: Tenant) -> str:
        """A token that the twin accepts."""
        return self._signed(self._claims(tenant), self.key)

    def make(self, kind: str, tenant: Tenant) -> str:
        """A token of one of KINDS that names this tenant."""
        claims, now = self._claims(tenant), int(time.time())
        if kind == "none":
            return jwt.encode(claims, "", algorithm="none", headers={"kid": _KID})
        if kind == "expired":
            return self._signed(claims | {"iat": now - 7200, "exp": now - 3600}, self.key)
        if kind == "forged":
            return self._signed(claims, _new_key(self.settings.algorithms[0]))
        if kind == "audience":
            return self._signed(claims | {"aud": "somebody-else"}, self.key)
        return _signed_by_hand(claims, json.dumps(self.settings.jwks or {"kid": _KID}, sort_keys=True))

    def accepted(self, token: str, live: JwtIdentity) -> bool:
        """Whether the live identity, or its twin, lets a token in."""
        return _lets_in(live, token) or _lets_in(self.twin, token)

    def read(self, token: str) -> object:
        """The tenant that a token names, as somebody reads it who checks nothing."""
        body = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        return _at(claims, self.settings.tenant_claim)

    def _claims(self, tenant: Tenant) -> dict[str, Any]:
        settings, now = self.settings, int(time.time())
        claims: dict[str, Any] = {"iss": settings.issuer, "aud": settings.audiences[0], "iat": now, "exp": now + 300}
        named = {settings.tenant_claim: tenant.id, settings.tier_claim: tenant.tier, settings.subject_claim: "audit"}
        for name, value in named.items():
            if name is not None:
                _put(claims, name, value)
        return claims

    def _signed(self, claims: dict[str, Any], key: Any) -> str:
        algorithm = self.settings.algorithms[0]
        return jwt.encode(claims, key, algorithm=algorithm, headers={"kid": _KID})


def _signed_by_hand(claims: dict[str, Any], public: str) -> str:
    """HS256 with the public key, which anybody may have, as the secret; PyJWT won't sign such a thing."""
    parts = [{"alg": "HS256", "typ": "JWT", "kid": _KID}, claims]
    body = b".".join(_packed(json.dumps(part).encode()) for part in parts)
    return b".".join((body, _packed(hmac.digest(public.encode(), body, "sha256")))).decode("ascii")


def _packed(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


def _lets_in(identity: JwtIdentity, token: str) -> bool:
    try:
        identity.verify(token)
    except AuthenticationError:
        return False
    return True


def _put(claims: dict[str, Any], name: str, value: str) -> None:
    steps = [name] if "://" in name else name.split(".")
    for step in steps[:-1]:
        claims = claims.setdefault(step, {})
    claims[steps[-1]] = value


def _at(claims: Any, name: str) -> object:
    for step in [name] if "://" in name else name.split("."):
        claims = claims.get(step) if isinstance(claims, dict) else None
    return claims


def _new_key(algorithm: str) -> Any:
    if algorithm.startswith("HS"):
        return secrets.token_urlsafe(64)
    if algorithm in _CURVES:
        return ec.generate_private_key(_CURVES[algorithm]())
    if algorithm == "EdDSA":
        return Ed25519PrivateKey.generate()
    return rsa.generate_private_key(65537, 2048)


def _algorithm(name: str) -> Any:
    return jwt.algorithms.get_default_algorithms()[name]
