"""What an application keeps: one object that builds identity, gate and backends from settings and closes them."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import secrets
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from tenant_middleware import telemetry
from tenant_middleware.admission.gate import ModelGate
from tenant_middleware.admission.queue import FairQueue
from tenant_middleware.admission.store import AdmissionStore, Balance, Limits
from tenant_middleware.backends.routed import Watched
from tenant_middleware.backends.urls import Opener
from tenant_middleware.clock import Clock, SystemClock
from tenant_middleware.context import scope
from tenant_middleware.errors import ConfigurationError, SettingsError
from tenant_middleware.identity import JwtIdentity
from tenant_middleware.isolation import seal
from tenant_middleware.isolation.cache import ExactCache, SemanticCache
from tenant_middleware.isolation.history import HistoryStore
from tenant_middleware.isolation.knowledge import VersionedVectors
from tenant_middleware.isolation.provider_state import ProviderIds, ProviderState
from tenant_middleware.isolation.residents import Cleared, Seat
from tenant_middleware.isolation.seal import LayerReport
from tenant_middleware.isolation.standing import StandingStore, Watch
from tenant_middleware.metering.billing import Billing, BillingSink, CloudEventsSink
from tenant_middleware.metering.books import Books
from tenant_middleware.metering.observations import Observations
from tenant_middleware.metering.outbox import WriteBehind
from tenant_middleware.metering.pricing import PriceBook
from tenant_middleware.policy import Explained, Policy
from tenant_middleware.settings import Settings, in_memory_database, load
from tenant_middleware.tables import html_table
from tenant_middleware.tenant import Tenant

if TYPE_CHECKING:
    from tenant_middleware.guardrails import InputGuard
    from tenant_middleware.isolation.vectors import Vectors


class Explanation(NamedTuple):
    """Every resolved value of a tenant with the rule that decided it; prints as a table."""

    rows: tuple[Explained, ...]

    def __str__(self) -> str:
        width = max(len(row.name) for row in self.rows)
        return "\n".join(f"{row.name:<{width}}  {row.value}  [{row.rule}]" for row in self.rows)

    def _repr_html_(self) -> str:
        return html_table(("", "value", "rule"), self.rows)


@dataclass(frozen=True, slots=True)
class _GuardModes:
    """The guard's view of the policy."""

    policy: Policy

    def mode(self, tenant: Tenant) -> str:
        return self.policy.for_tenant(tenant).guard


_made: weakref.WeakSet[Tenancy] = weakref.WeakSet()


def living() -> list[Tenancy]:
    """Every Tenancy of this process that is open: what an audit of a user's own code has to be let into."""
    return [tenancy for tenancy in _made if not tenancy._closed]


class Tenancy:
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
        self.settings = settings
        self.policy = policy
        self.clock = clock or SystemClock()
        self._queue = queue
        self._secret = self._fingerprint_key()
        self._opener = Opener(settings, policy, self.clock, self._secret)
        self._closed = False
        self._seat = Seat()
        self.standings = self._open_standings()
        self.observations = self._open_observations()
        self.ledger = self._open_ledger()
        self.gate = self._open_gate()
        self._books = self._open_books(billing)
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

    def _fingerprint_key(self) -> bytes:
        given = self.settings.secrets.fingerprint_key
        if given is not None:
            return given.get_secret_value().encode()
        if not self.settings.backends.cache.startswith("memory:"):
            raise SettingsError(
                "secrets.fingerprint_key: a cache shared by workers needs one key for all of them; set "
                "TENANCY__SECRETS__FINGERPRINT_KEY to at least 16 random bytes"
            )
        return secrets.token_bytes(32)

    def _open_ledger(self) -> WriteBehind:
        from tenant_middleware.backends.sql import SqlLedger

        self._sql = SqlLedger(self.settings.backends.ledger)
        also = None if self.observations is None else self.observations.flush_if_due
        ledger = WriteBehind(self._sql, also=also)
        telemetry.watch_rows(ledger)
        return ledger

    def _open_standings(self) -> StandingStore:
        from tenant_middleware.backends.sql_standing import SqlStandings

        url = self.settings.backends.ledger
        store = SqlStandings(url)
        self._watch = Watch(store, self.policy.bar, alone=in_memory_database(url))
        # Also runs when this object is forgotten, and at interpreter exit.
        self._unwatch_standings = weakref.finalize(self, self._watch.stop)
        return store

    def _open_observations(self) -> Observations | None:
        chosen = self.settings.telemetry
        telemetry.series.named(chosen.named_tenants)
        if not chosen.record:
            return None
        from tenant_middleware.backends.sql_observations import SqlObservations

        store = SqlObservations(self.settings.backends.ledger)
        seen = Observations(store, self.clock, knows=self.policy.admits, window=chosen.window, keep=chosen.keep)
        telemetry.subscribe(seen)
        # Also runs when this object is forgotten, and at interpreter exit.
        self._unwatch = weakref.finalize(self, _stop_watching, seen)
        return seen

    def _open_gate(self) -> ModelGate:
        store = self._opener.concern("admission", self._opener.admission(self.ledger))
        own = getattr(store, "_pick", None)
        self._store_for: Callable[[Tenant], AdmissionStore] = own if own is not None else lambda tenant: store
        return ModelGate(
            self.policy,
            self._store_for,
            PriceBook(self.policy.prices),
            self._queue or self._opener.queue(),
            self.clock,
            self.ledger.append,
            reservation_ttl=self.settings.admission.reservation_ttl,
            provider_state=lambda: self.provider_state,
        )

    def _open_books(self, sink: BillingSink | None) -> Books:
        told, secret = self.settings.billing, self.settings.secrets.billing_token
        if sink is None and told.url is not None:
            token = None if secret is None else secret.get_secret_value()
            sink = CloudEventsSink(told.url, token=token, type=told.type, source=told.source)
        since = None if told.since is None else dt.datetime.combine(told.since, dt.time(), dt.UTC).timestamp()
        billing = None if sink is None else Billing(self._sql, sink, since=since)
        streams = [store for store in self._opener.opened("admission") if hasattr(store, "drain_in_turn")]
        return Books(self.ledger, streams, billing, every=self.settings.admission.drain_every)

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

    # What a tenant may see.

    @cached_property
    def vectors(self) -> Vectors:
        """Documents by tenant; a write makes older cached answers miss."""
        opened = cast("Vectors", self._opener.concern("vectors", self._opener.vectors))
        versions = Watched(self.cache.versions, self.policy.refuse_barred)
        return cast("Vectors", VersionedVectors(opened, versions, self._opener.shared_vectors))

    @cached_property
    def history(self) -> HistoryStore:
        """Conversations by tenant and session."""
        return cast(HistoryStore, self._opener.concern("history", self._opener.history))

    @cached_property
    def cache(self) -> SemanticCache:
        """Answers by nearness of the question."""
        return cast(SemanticCache, self._opener.concern("cache", self._opener.semantic_cache))

    @cached_property
    def exact_cache(self) -> ExactCache:
        """Answers by everything that was asked."""
        return cast(ExactCache, self._opener.concern("exact_cache", self._opener.exact_cache, beside="cache"))

    @cached_property
    def provider_state(self) -> ProviderState:
        """Ids that model providers gave out, and salts for their prefix caches; kept beside the history."""
        ids = self._opener.concern("provider_ids", self._opener.provider_ids, beside="history")
        return ProviderState(cast("ProviderIds", ids), self._secret)

    @cached_property
    def guard(self) -> InputGuard:
        """The input guard in each tier's mode, knowing the listed tenants."""
        from tenant_middleware.guardrails import InputGuard, Registry

        known = [(tenant_id, *rule.names) for tenant_id, rule in self.policy.tenants.items()]
        return InputGuard(_GuardModes(self.policy), Registry(known))

    def forget(self, tenant: Tenant) -> int:
        """Remove a tenant's documents, conversations and cached answers from the stores that were used so far.

        Returns how many things that were. Offboarding a real tenant is `lifecycle.erase`, which proves what it did.
        """
        used = self.__dict__
        removed = self.vectors.erase(tenant) if "vectors" in used else 0
        removed += self.history.clear_tenant(tenant) if "history" in used else 0
        removed += self.cache.invalidate(tenant) if "cache" in used else 0
        removed += self.provider_state.ids.clear(tenant) if "provider_state" in used else 0
        removed += 0 if self.observations is None else self.observations.forget(tenant)
        return removed + (self.exact_cache.clear(tenant) if "exact_cache" in used else 0)

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
        return self._store_for(tenant).balance(tenant, Limits.of(self.policy.for_tenant(tenant)))

    async def abalance(self, tenant: Tenant) -> Balance:
        """`balance`, by awaiting."""
        return await self._store_for(tenant).abalance(tenant, Limits.of(self.policy.for_tenant(tenant)))

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

    def backends(self, concern: str) -> list[Any]:
        """Every open backend of a concern, silos included, and what the application put in its place."""
        used = getattr(self, concern)
        opened = self._opener.opened(concern)
        return [*opened, *([] if used in opened or getattr(used, "inner", None) in opened else [used])]

    @property
    def secret(self) -> bytes:
        """The key of all fingerprints; random in each process unless [secrets] names one."""
        return self._secret

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


def _stop_watching(seen: Observations) -> None:
    telemetry.unsubscribe(seen)
    seen.close()
