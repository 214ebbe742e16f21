"""The tenant on its way to a queue, worker or other process: a short-lived signed token of its own kind."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import SecretStr

from tenant_middleware import context
from tenant_middleware.clock import Clock, SystemClock
from tenant_middleware.errors import AuthenticationError, ConfigurationError
from tenant_middleware.identity.claims import (
    MALFORMED,
    check_times,
    checked,
    encode_token,
    read_header,
    refusal_for,
    text_claim,
    times,
    type_name,
)
from tenant_middleware.identity.jwt import Admit
from tenant_middleware.identity.settings import PASSPORT_TYPE, SYMMETRIC_BYTES
from tenant_middleware.tenant import Tenant

_MAX_BYTES = 4096
_MAX_TTL = 24 * 3600.0
PassportKey = bytes | str | SecretStr | Ed25519PrivateKey | Ed25519PublicKey


def random_id() -> str:
    """128 random bits."""
    return secrets.token_hex(16)


@dataclass(frozen=True, slots=True)
class Stamp:
    """An opened passport; `id` lets a worker that must not do a job twice remember it until `expires`."""

    tenant: Tenant
    id: str
    expires: float


class Passport:
    """Issues and opens passports for one audience, say a queue.

    With a secret of at least 32 bytes both ends can issue; with an Ed25519 private key this end issues and whoever has
    the public key only opens. A passport can be shown again until it expires, so `ttl` covers the wait in the queue and
    no more; one that was issued for longer than this end's `ttl` is refused. `admit` asks the policy again at the far
    end: a tenant that was removed or moved to another tier meanwhile is refused.
    """

    def __init__(
        self,
        secret_or_key: PassportKey,
        audience: str,
        ttl: float = 60.0,
        clock: Clock | None = None,
        *,
        admit: Admit | None = None,
        leeway: float = 0.0,
        ids: Callable[[], str] = random_id,
    ) -> None:
        self._algorithm, self._signing, self._opening = _keys(secret_or_key)
        if not isinstance(audience, str) or not audience:
            raise ConfigurationError("passport: expected an audience: the name of the queue or service that opens it")
        if not 1 <= ttl <= _MAX_TTL:
            raise ConfigurationError(f"passport: expected ttl from 1 to {_MAX_TTL:.0f} seconds, got {ttl}")
        if not 0 <= leeway <= 60:
            raise ConfigurationError(f"passport: expected leeway from 0 to 60 seconds, got {leeway}")
        self._audience, self._ttl, self._leeway = audience, math.ceil(ttl), leeway
        self._clock, self._admit, self._ids = clock or SystemClock(), admit, ids

    def issue(self, tenant: Tenant | None = None) -> str:
        """A passport for the tenant in context, or for one at hand when no other tenant's scope is open."""
        if self._signing is None:
            raise ConfigurationError("passport: a public key only opens passports; issuing needs the private one")
        if tenant is None:
            tenant = context.current_tenant()
        else:
            context.refuse_other(tenant)
        now = int(self._clock.time())
        claims: dict[str, Any] = {
            "aud": self._audience,
            "iat": now,
            "exp": now + self._ttl,
            "jti": self._ids(),
            "tenant": tenant.id,
            "tier": tenant.tier,
        }
        if tenant.subject is not None:
            claims["sub"] = tenant.subject
        return jwt.encode(claims, self._signing, algorithm=self._algorithm, headers={"typ": PASSPORT_TYPE})

    def open(self, passport: str) -> context.scope:
        """`with passport.open(text):`; checked by this call, before any `with`."""
        return context.scope(self.read(passport).tenant)

    def verify(self, passport: str) -> Tenant:
        """The tenant alone, where no scope is wanted."""
        return self.read(passport).tenant

    def read(self, passport: str) -> Stamp:
        """Everything a valid passport says; AuthenticationError otherwise."""
        raw = encode_token(passport, _MAX_BYTES)
        header = read_header(raw)
        if header.kind is None or type_name(header.kind) != PASSPORT_TYPE:
            raise AuthenticationError("this is no passport (typ)", rule="type")
        return self._stamp(self._decode(raw))

    def _decode(self, raw: bytes) -> dict[str, Any]:
        # times are checked below by our own clock, which may be a manual one: both ends of a passport are ours
        options: jwt.types.Options = {
            "require": ["exp", "iat", "aud", "jti"],
            "verify_exp": False,
            "verify_iat": False,
            "verify_nbf": False,
        }
        try:
            return jwt.decode(
                raw, self._opening, algorithms=[self._algorithm], audience=self._audience, options=options
            )
        except MALFORMED as error:
            refusal = refusal_for(error)
        raise refusal  # outside the handler: the library's error, which may hold the passport, is not chained

    def _stamp(self, claims: Mapping[str, Any]) -> Stamp:
        expires, issued = times(claims)
        check_times(expires, issued, self._clock.time(), self._leeway)
        if issued is None or expires - issued > self._ttl:
            raise AuthenticationError("the passport was issued for longer than is accepted here (ttl)", rule="ttl")
        names = [text_claim(claims, name, name) for name in ("tenant", "tier", "sub")]
        tenant_id, tier, subject = checked(*names)
        if tier is None:
            raise AuthenticationError("the passport lacks the claim tier", rule="claim")
        tenant = Tenant(tenant_id, tier, subject)
        if self._admit is not None and self._admit(tenant_id, tier, subject) != tenant:
            raise AuthenticationError("the policy knows this tenant differently by now", rule="tenant")
        return Stamp(tenant, claims["jti"], expires)


def _keys(key: PassportKey) -> tuple[str, Any, Any]:
    """Algorithm, signing key or None, opening key."""
    if isinstance(key, Ed25519PrivateKey):
        return "EdDSA", key, key.public_key()
    if isinstance(key, Ed25519PublicKey):
        return "EdDSA", None, key
    if isinstance(key, SecretStr):
        key = key.get_secret_value()
    if isinstance(key, str):
        key = key.encode("utf-8")
    if not isinstance(key, bytes):
        raise ConfigurationError(f"passport: expected a secret or an Ed25519 key, got {type(key).__name__}")
    if len(key) < SYMMETRIC_BYTES["HS256"]:
        raise ConfigurationError(
            f"passport: expected a secret of at least {SYMMETRIC_BYTES['HS256']} random bytes, got {len(key)}"
        )
    return "HS256", key, key
