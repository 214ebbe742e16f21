"""From a URL in the policy file to a backend: the one table of schemes for each concern.

Client libraries are imported when a URL asks for them, so that a policy in memory needs none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tenant_middleware.admission.queue import FairQueue
from tenant_middleware.admission.queueing.in_process import InProcessQueue
from tenant_middleware.admission.queueing.pools import Pools
from tenant_middleware.backends.routed import Routed, Watched
from tenant_middleware.clock import Clock
from tenant_middleware.errors import SettingsError
from tenant_middleware.isolation.cache import CacheRules
from tenant_middleware.metering.outbox import WriteBehind
from tenant_middleware.policy import Isolation, Policy
from tenant_middleware.settings import Settings
from tenant_middleware.tenant import Tenant

REDIS = ("redis", "rediss", "redis+cluster")


def silo_urls(policy: Policy, concern: str) -> set[str]:
    """The URLs of a concern that tiers and listed tenants have of their own."""
    resolved = [*policy.tiers.values(), *map(policy.terms_of, policy.tenants)]
    return {url for terms in resolved if (url := getattr(terms.backends, concern)) is not None}


class Opener:
    """Opens backends by URL, each URL once per concern, and remembers them to close them."""

    def __init__(self, settings: Settings, policy: Policy, clock: Clock, secret: bytes) -> None:
        self._settings, self._policy, self._clock, self._secret = settings, policy, clock, secret
        self._opened: dict[tuple[str, str], Any] = {}

    def concern(self, name: str, make: Callable[[str], Any], *, beside: str | None = None) -> Any:
        """The backend of one concern: a plain one, or a router when a tier or tenant has a silo of its own.

        `beside` names the concern whose URLs it shares.
        """
        setting = beside or name
        default = self.open(name, getattr(self._settings.backends, setting), make)
        silos = silo_urls(self._policy, setting)
        if not silos:
            return default
        for url in silos:  # opened now: a wrong address is an error at start-up
            self.open(name, url, make)

        def pick(tenant: Tenant) -> Any:
            own = getattr(self._policy.for_tenant(tenant).backends, setting)
            return default if own is None else self.open(name, own, make)

        return Routed(pick)

    def open(self, name: str, url: str, make: Callable[[str], Any]) -> Any:
        """The backend behind a URL, made once."""
        if (name, url) not in self._opened:
            self._opened[name, url] = make(url)
        return self._opened[name, url]

    def opened(self, name: str) -> list[Any]:
        """All backends of a concern that are open."""
        return [backend for (concern, _), backend in self._opened.items() if concern == name]

    def everything(self) -> list[Any]:
        """All open backends, the last opened first."""
        return list(reversed(self._opened.values()))

    # One function per concern: URL to backend.

    def admission(self, ledger: WriteBehind) -> Callable[[str], Any]:
        """Limits and budgets; `ledger` takes the rows, and knows what was spent before this process began."""

        def make(url: str) -> Any:
            scheme = _scheme(url)
            if scheme == "memory":
                from tenant_middleware.backends.in_memory.admission import InMemoryAdmission

                return InMemoryAdmission(self._clock, ledger.append, ledger=ledger)
            if scheme in REDIS:
                from tenant_middleware.backends.redis.admission import RedisAdmission

                return RedisAdmission(
                    url,
                    ledger=ledger,
                    record=ledger.append,
                    when_down=lambda tenant: self._policy.for_tenant(tenant).when_down,
                    is_barred=self._policy.is_barred,
                    workers=self._settings.admission.expected_workers,
                    timeout=self._settings.admission.store_timeout,
                )
            raise _unknown("admission", scheme, ("memory", *REDIS))

        return make

    def queue(self) -> FairQueue:
        """Slots for model calls; without pools there is nothing to count, and nothing to share."""
        rules, settings = Pools.configured(self._settings.queue), self._settings.backends
        url = (settings.queue or settings.admission) if rules.rules else "memory://"
        found: FairQueue = self.open("queue", url, lambda url: self._queue(url, rules))
        return found

    def _queue(self, url: str, rules: Pools) -> FairQueue:
        if _scheme(url) == "memory":
            return InProcessQueue(self._clock, rules)
        if _scheme(url) in REDIS:
            from tenant_middleware.backends.redis.queue import RedisQueue

            return RedisQueue(
                url,
                rules,
                lease=self._settings.queue.lease,
                timeout=self._settings.admission.store_timeout,
                when_down=lambda tenant: self._policy.for_tenant(tenant).when_down,
                workers=self._settings.admission.expected_workers,
                clock=self._clock,
            )
        raise _unknown("queue", _scheme(url), ("memory", *REDIS))

    def history(self, url: str) -> Any:
        """Conversations."""
        scheme = _scheme(url)
        if scheme == "memory":
            from tenant_middleware.backends.in_memory.history import InMemoryHistory

            return Watched(InMemoryHistory(clock=self._clock), self._policy.refuse_barred)
        if scheme in REDIS:
            from tenant_middleware.backends.redis.history import RedisHistory

            return Watched(RedisHistory(url), self._policy.refuse_barred)
        raise _unknown("history", scheme, ("memory", *REDIS))

    def semantic_cache(self, url: str) -> Any:
        """Answers by nearness of the question."""
        scheme = _scheme(url)
        if scheme == "memory":
            from tenant_middleware.backends.in_memory.cache import InMemorySemanticCache

            return InMemorySemanticCache(rules=self._cache_rules, clock=self._clock)
        if scheme in REDIS:
            from tenant_middleware.backends.redisvl.cache import RedisSemanticCache

            return RedisSemanticCache(url, rules=self._cache_rules)
        raise _unknown("cache", scheme, ("memory", *REDIS))

    def exact_cache(self, url: str) -> Any:
        """Answers by everything that was asked."""
        scheme = _scheme(url)
        if scheme == "memory":
            from tenant_middleware.backends.in_memory.cache import InMemoryExactCache

            return InMemoryExactCache(rules=self._cache_rules, clock=self._clock)
        if scheme in REDIS:
            from tenant_middleware.backends.redis.exact import RedisExactCache

            return RedisExactCache(url, rules=self._cache_rules)
        raise _unknown("cache", scheme, ("memory", *REDIS))

    def provider_ids(self, url: str) -> Any:
        """Ids that model providers gave out."""
        scheme = _scheme(url)
        if scheme == "memory":
            from tenant_middleware.backends.in_memory.provider_ids import InMemoryProviderIds

            return Watched(InMemoryProviderIds(clock=self._clock), self._policy.refuse_barred)
        if scheme in REDIS:
            from tenant_middleware.backends.redis.provider_ids import RedisProviderIds

            return Watched(RedisProviderIds(url), self._policy.refuse_barred)
        raise _unknown("history", scheme, ("memory", *REDIS))

    def _cache_rules(self, tenant: Tenant) -> CacheRules:
        cache, terms = self._settings.cache, self._policy.for_tenant(tenant)
        return CacheRules(
            secret=self._secret,
            distance_threshold=cache.distance_threshold,
            share=cache.share,
            ttl=cache.ttl,
            max_entries=cache.max_entries_per_tenant,
            enabled=terms.cache,
        )

    def vectors(self, url: str) -> Any:
        """Documents; an isolation that the store can't give is an error now, not at a tenant's first question."""
        store = self._vector_store(url)
        default = self._settings.backends.vectors
        for name, tier in self._policy.tiers.items():
            if (tier.backends.vectors or default) == url and tier.isolation not in store.kinds:
                store.close()
                raise SettingsError(
                    f"tiers.{name}.isolation: {tier.isolation!r} is nothing that {_scheme(url)}:// can give here; "
                    f"expected one of {', '.join(store.kinds)}"
                )
        return store

    def shared_vectors(self) -> list[tuple[Any, Isolation]]:
        """Open vector stores with the kinds of isolation in use; a silo shares nothing and costs an index."""
        used = sorted({tier.isolation for tier in self._policy.tiers.values()} - {"silo"})
        return [(store, kind) for store in self.opened("vectors") for kind in used if kind in store.kinds]

    def _vector_store(self, url: str) -> Any:
        scheme = _scheme(url)
        if scheme == "memory":
            from tenant_middleware.backends.in_memory.vectors import InMemoryVectors

            return InMemoryVectors(isolation=self._isolation)
        if scheme in REDIS:
            from tenant_middleware.backends.redisvl.vectors import RedisVectors

            return RedisVectors(url, isolation=self._isolation)
        if scheme == "pinecone":
            from tenant_middleware.backends.pinecone import PineconeVectors

            secret = self._settings.secrets.pinecone_api_key
            if secret is None:
                raise SettingsError("backends.vectors: pinecone:// needs TENANCY__SECRETS__PINECONE_API_KEY")
            index = url.removeprefix("pinecone://").strip("/")
            return PineconeVectors(index, api_key=secret.get_secret_value(), isolation=self._isolation)
        raise _unknown("vectors", scheme, ("memory", *REDIS, "pinecone"))

    def _isolation(self, tenant: Tenant) -> Isolation:
        return self._policy.for_tenant(tenant).isolation


def _scheme(url: str) -> str:
    return url.partition("://")[0]


def _unknown(concern: str, scheme: str, known: tuple[str, ...]) -> SettingsError:
    return SettingsError(f"backends.{concern}: expected a URL of {', '.join(known)}, got the scheme {scheme!r}")
