"""What an application keeps: one object that builds identity, gate and backends from settings and closes them."""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import Mapping
from functools import cached_property, partial
from types import TracebackType
from typing import Any

from tenant_middleware.admission.gate import ModelGate
from tenant_middleware.admission.queue import FairQueue
from tenant_middleware.admission.store import Balance, Limits
from tenant_middleware.backends.routed import backend_of
from tenant_middleware.backends.urls import Opener
from tenant_middleware.clock import Clock, SystemClock
from tenant_middleware.context import scope
from tenant_middleware.errors import ConfigurationError, SettingsError
from tenant_middleware.identity import JwtIdentity, Passport
from tenant_middleware.isolation import seal
from tenant_middleware.isolation.residents import Cleared, Seat
from tenant_middleware.isolation.seal import LayerReport
from tenant_middleware.metering.billing import BillingSink
from tenant_middleware.metering.price_book import PriceBook
from tenant_middleware.policy import Policy
from tenant_middleware.settings import Settings, load
from tenant_middleware.tables import html_table
from tenant_middleware.tenancy import records
from tenant_middleware.tenancy.data import TenantData, fingerprint_key
from tenant_middleware.tenancy.explanation import Explanation
from tenant_middleware.tenant import Tenant

_made: weakref.WeakSet[Tenancy] = weakref.WeakSet()


def living() -> list[Tenancy]:
    """Every Tenancy of this process that is open: what an audit of a user's own code has to be let into."""
    return [tenancy for tenancy in _made if not tenancy._closed]


class Tenancy(TenantData):
    """The entry point: `Tenancy.from_file("tenancy.toml")`, then `with tenancy.authenticate(token): ...`.

    Backends are opened from the URLs in the policy, once each, and closed by `close` or at the end of a `with`.
    """

    def __init__(
        self,
        settings: Settings,
        policy: Policy,
        *,
        clock: Clock | None = None,
        queue: FairQueue | None = None,
        billing: BillingSink | None = None,
    ) -> None:
        self.clock = clock or SystemClock()
        secret = fingerprint_key(settings, policy)
        super().__init__(settings, policy, Opener(settings, policy, self.clock, secret), secret)
        self._closed = False
        self._seat = Seat()
        # What stops these also runs when this object is forgotten, and at interpreter exit.
        self.standings, self._watch = records.open_standings(settings, policy)
        self._unwatch_standings = weakref.finalize(self, self._watch.stop)
        self.observations = observations = records.open_observations(settings, policy, self.clock)
        if observations is not None:
            self._unwatch = weakref.finalize(self, records.stop_observing, observations)
        self._sql, self.ledger = records.open_ledger(settings, observations)
        self.gate = self._open_gate(queue)
        self._books = records.open_books(settings, self.ledger, self._sql, self._opener.opened("admission"), billing)
        _made.add(self)

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike[str],
        *,
        overrides: Mapping[str, Any] | None = None,
        environ: Mapping[str, str] | None = None,
        clock: Clock | None = None,
        queue: FairQueue | None = None,
        billing: BillingSink | None = None,
    ) -> Tenancy:
        """A tenancy from a policy file; `overrides` is a nested mapping that wins over file and environment.

        `billing` takes settled calls, in place of the policy's [billing] url. Raises SettingsError that names file,
        key and reason.
        """
        settings, policy = load(path, overrides=overrides, environ=environ)
        return cls(settings, policy, clock=clock, queue=queue, billing=billing)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], *, clock: Clock | None = None) -> Tenancy:
        """A tenancy from values in code: for notebooks and tests."""
        settings, policy = load(None, overrides=values, environ={})
        return cls(settings, policy, clock=clock)

    def _open_gate(self, queue: FairQueue | None) -> ModelGate:
        store = self._opener.concern("admission", self._opener.admission(self.ledger))
        return ModelGate(
            self.policy,
            partial(backend_of, store),
            PriceBook(self.policy.prices),
            queue or self._opener.queue(),
            self.clock,
            self.ledger.append,
            reservation_ttl=self.settings.admission.reservation_ttl,
            provider_state=lambda: self.provider_state,
        )

    # Identity.

    @cached_property
    def identity(self) -> JwtIdentity:
        """Who may call, from [identity]; raises SettingsError when the policy has no such section."""
        if self.settings.identity is None:
            raise SettingsError("identity: the policy has no [identity] section, so no token can be verified")
        return JwtIdentity(self.settings.identity, self.policy.admit)

    def verify(self, token: str) -> Tenant:
        """The tenant of a valid token; raises AuthenticationError that says why not, without repeating anything."""
        return self.identity.verify(token)

    async def averify(self, token: str) -> Tenant:
        """`verify`, awaiting a refresh of keys by URL."""
        return await self.identity.averify(token)

    def authenticate(self, token: str) -> scope:
        """Verify now, and give the scope to enter: `with tenancy.authenticate(token) as tenant:`."""
        return scope(self.verify(token))

    async def aauthenticate(self, token: str) -> scope:
        """`authenticate`, awaiting: `async with await tenancy.aauthenticate(token):`."""
        return scope(await self.averify(token))

    def passport(self, audience: str, *, ttl: float = 60.0) -> Passport:
        """Issues and opens passports for a queue or worker, by secrets.passport_key; opening asks the policy again.

        Raises SettingsError when there is no such key.
        """
        key = self.settings.secrets.passport_key
        if key is None:
            raise SettingsError(
                "secrets.passport_key: both ends of a passport need one key: set TENANCY__SECRETS__PASSPORT_KEY to at "
                "least 32 random bytes"
            )
        return Passport(key, audience, ttl, self.clock, admit=self.policy.admit)

    # Tenants come, go and are looked at.

    def forget(self, tenant: Tenant) -> int:
        """Remove a tenant's documents, conversations, cached answers and timings from the stores that were used so far.

        Returns how many things that were. Offboarding a real tenant is `lifecycle.erase`, which proves what it did.
        """
        return super().forget(tenant) + (0 if self.observations is None else self.observations.forget(tenant))

    def switch(self, to: Tenant | None) -> list[Cleared]:
        """Seat another tenant, or nobody, in a program that serves one at a time, such as a desktop or a batch job.

        What this process held of the one who leaves (memories, caches, buffers) is cleared and counted; settled rows
        are written first. Raises TenantMismatch inside a scope: there is no switch while somebody still works.
        """
        cleared = self._seat.switch(to)
        self.drain()
        return cleared

    def explain(self, tenant: Tenant) -> Explanation:
        """Every value in force for a tenant and the rule that decided it."""
        return Explanation(tuple(self.policy.explain(tenant)))

    def _repr_html_(self) -> str:
        rows = [(tenant_id, rule.tier, ", ".join(rule.owns)) for tenant_id, rule in self.policy.tenants.items()]
        kept = ", ".join(f"{name}: {url.partition('://')[0]}" for name, url in self.settings.backends if url)
        return html_table(("tenant", "tier", "owns"), rows, caption=f"Tenancy ({kept})")

    # Books and life.

    def balance(self, tenant: Tenant) -> Balance:
        """What is left of a tenant's limits and budget, and what its calls in flight hold."""
        return self.gate.store_for(tenant).balance(tenant, Limits.of(self.policy.for_tenant(tenant)))

    async def abalance(self, tenant: Tenant) -> Balance:
        """`balance`, by awaiting."""
        return await self.gate.store_for(tenant).abalance(tenant, Limits.of(self.policy.for_tenant(tenant)))

    def drain(self) -> int:
        """Move settled rows into the ledger, and on to billing; returns how many were new in the ledger.

        Raises StoreUnavailable when a store or the ledger is down; the rows stay where they are.
        """
        return self._books.drain()

    async def adrain(self) -> int:
        """`drain`, by awaiting."""
        return await asyncio.to_thread(self._books.drain)

    def seal(self, *, strict: bool = True) -> list[LayerReport]:
        """Put tenant-keyed caches into every cache layer of the frameworks that are loaded; reports each layer.

        Raises SealError for a layer that stays open, and for a framework that is loaded without its adapter.
        """
        return seal.seal_all(self, strict=strict)

    def close(self) -> None:
        """Write what is settled and close what was opened from URLs; a second close does nothing.

        Raises StoreUnavailable when settled calls are left that no store holds.
        """
        if self._closed:
            return
        self._closed = True
        self._books.close()
        for backend in self._opener.everything():
            if hasattr(backend, "close"):
                backend.close()
        self.ledger.close()
        self._stop_watching()

    async def aclose(self) -> None:
        """`close`, by awaiting."""
        if self._closed:
            return
        self._closed = True
        await asyncio.to_thread(self._books.close)
        for backend in self._opener.everything():
            if hasattr(backend, "aclose"):
                await backend.aclose()
            elif hasattr(backend, "close"):
                backend.close()
        self.ledger.close()
        self._stop_watching()

    def refresh_standing(self) -> None:
        """Read now who is suspended, instead of within a second."""
        self._watch.refresh()

    def _stop_watching(self) -> None:
        self._unwatch_standings()
        if self.observations is not None:
            self._unwatch()

    def __enter__(self) -> Tenancy:
        if self._closed:
            raise ConfigurationError("this Tenancy is closed: make a new one")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Tenancy:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
