"""Who is calling, from a signed token: verified at the entry, by wall clock, and admitted by the policy."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import jwt

from tenant_middleware import context
from tenant_middleware.clock import Clock, SystemClock
from tenant_middleware.errors import AuthenticationError, TenantMismatch
from tenant_middleware.identity import jwks
from tenant_middleware.identity.claims import (
    MALFORMED,
    Claimed,
    Header,
    check_times,
    checked,
    encode_token,
    read_header,
    refusal_for,
    text_claim,
    times,
    type_name,
)
from tenant_middleware.identity.remote_keys import RemoteKeys
from tenant_middleware.identity.settings import IdentitySettings
from tenant_middleware.tenant import Tenant

__all__ = ["Admit", "IdentitySettings", "JwtIdentity"]

Admit = Callable[[str, str | None, str | None], Tenant]
"""The policy's word on (tenant id, tier claim, subject): the Tenant, or AuthenticationError."""


class JwtIdentity:
    """Turns a bearer token into a Tenant, or refuses with AuthenticationError and says why.

    `clock` is the wall clock: tokens are minted by another machine's clock, so an application that runs on a manual
    clock still leaves this one at its default.
    """

    def __init__(
        self,
        settings: IdentitySettings,
        admit: Admit,
        clock: Clock | None = None,
        *,
        keys: jwks.KeySource | None = None,
    ) -> None:
        self._settings, self._admit = settings, admit
        self._clock = clock or SystemClock()
        self._keys = keys or _keys(settings, self._clock)
        self._types = {type_name(kind) for kind in settings.token_types}
        self._seen = _Seen(settings.cache_size)

    def verify(self, token: str) -> Tenant:
        """The tenant of a valid token; a key set by URL may be fetched meanwhile, so on an event loop use averify."""
        raw = encode_token(token, self._settings.max_token_bytes)
        version = self._keys.version()  # before the key: a token checked with older keys is never kept under newer ones
        known = self._remembered(raw, version)
        if known is None:
            header = self._header(raw)
            known = self._decode(raw, header, self._keys.key(header.kid, header.algorithm), version)
        return self._admitted(known)

    async def averify(self, token: str) -> Tenant:
        """The async twin of verify: waits for a key set by URL without holding the event loop."""
        raw = encode_token(token, self._settings.max_token_bytes)
        version = self._keys.version()
        known = self._remembered(raw, version)
        if known is None:
            header = self._header(raw)
            known = self._decode(raw, header, await self._keys.akey(header.kid, header.algorithm), version)
        return self._admitted(known)

    def authenticate(self, token: str) -> context.scope:
        """`with identity.authenticate(token):`; the token is checked by this call, before any `with`."""
        return context.scope(self.verify(token))

    async def aauthenticate(self, token: str) -> context.scope:
        """`async with await identity.aauthenticate(token):`"""
        return context.scope(await self.averify(token))

    def _header(self, raw: bytes) -> Header:
        header = read_header(raw)
        if header.algorithm not in self._settings.algorithms:
            raise AuthenticationError("the token is signed with an algorithm that isn't accepted", rule="algorithm")
        if header.kind is not None and type_name(header.kind) not in self._types:
            raise AuthenticationError("the token is of a type that isn't accepted here (typ)", rule="type")
        return header

    def _decode(self, raw: bytes, header: Header, key: Any, version: str | None) -> Claimed:
        settings = self._settings
        try:
            claims = jwt.decode(
                raw,
                key,
                algorithms=[header.algorithm],
                audience=settings.audiences,
                issuer=settings.issuer,
                leeway=settings.leeway,
                options={"require": ["exp", "iss", "aud"], "enforce_minimum_key_length": True},
            )
        except MALFORMED as error:
            refusal = refusal_for(error)
        else:
            claimed = self._claimed(claims)
            self._seen.put(raw, version, claimed)
            return claimed
        raise refusal  # outside the handler: the library's error, which may hold the token, is not chained

    def _claimed(self, claims: dict[str, Any]) -> Claimed:
        settings = self._settings
        tenant_id = text_claim(claims, settings.tenant_claim, "tenant")
        tier = text_claim(claims, settings.tier_claim, "tier") if settings.tier_claim else None
        subject = text_claim(claims, settings.subject_claim, "subject") if settings.subject_claim else None
        expires, not_before = times(claims)
        claimed = Claimed(*checked(tenant_id, tier, subject), expires, not_before)
        check_times(expires, not_before, self._clock.time(), settings.leeway)
        return claimed

    def _remembered(self, raw: bytes, version: str | None) -> Claimed | None:
        """What this very token said before, while its key is still in use and its time not over."""
        known = self._seen.get(raw, version)
        if known is not None:
            try:
                check_times(known.expires, known.not_before, self._clock.time(), self._settings.leeway)
            except AuthenticationError:
                self._seen.forget(raw)
                raise
        return known

    def _admitted(self, claimed: Claimed) -> Tenant:
        tenant = self._admit(claimed.tenant_id, claimed.tier, claimed.subject)
        if tenant.id != claimed.tenant_id or tenant.subject != claimed.subject:
            raise TenantMismatch("the policy admitted another tenant or subject than the token names: mend `admit`")
        return tenant


def _keys(settings: IdentitySettings, clock: Clock) -> jwks.KeySource:
    if settings.secret is not None:
        return jwks.SharedSecret(settings.secret.get_secret_value().encode("utf-8"))
    if settings.jwks_file is not None:
        return jwks.from_file(settings.jwks_file, settings.algorithms)
    if settings.jwks_url is not None:
        return RemoteKeys(
            settings.jwks_url,
            settings.algorithms,
            clock=clock,
            max_age=settings.jwks_max_age,
            every=settings.jwks_refresh_every,
            stale_for=settings.jwks_stale_for,
            timeout=settings.jwks_timeout,
        )
    return jwks.from_mapping(settings.jwks or {}, settings.algorithms)


class _Seen:
    """The last tokens and what they said, by a hash of the whole token: a prefix would mix tenants up."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._entries: OrderedDict[bytes, tuple[str, Claimed]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, raw: bytes, version: str | None) -> Claimed | None:
        name = hashlib.sha256(raw).digest()
        with self._lock:
            entry = self._entries.get(name)
            if entry is None:
                return None
            if entry[0] != version:
                del self._entries[name]
                return None
            self._entries.move_to_end(name)
            return entry[1]

    def put(self, raw: bytes, version: str | None, claimed: Claimed) -> None:
        if not self._size or version is None:
            return
        with self._lock:
            self._entries[hashlib.sha256(raw).digest()] = (version, claimed)
            while len(self._entries) > self._size:
                self._entries.popitem(last=False)

    def forget(self, raw: bytes) -> None:
        with self._lock:
            self._entries.pop(hashlib.sha256(raw).digest(), None)

    def __len__(self) -> int:
        return len(self._entries)
