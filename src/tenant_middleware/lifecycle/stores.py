"""Every place that holds something of a tenant, as one kind of thing: export it, erase it, say what is left."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from tenant_middleware.errors import InvalidInput
from tenant_middleware.isolation.history import Message, from_json, to_json
from tenant_middleware.isolation.residents import RESIDENTS
from tenant_middleware.isolation.vectors import Record
from tenant_middleware.tenancy import Tenancy
from tenant_middleware.tenant import Tenant

_SHOWN = 10
REDIS = ("redis://", "rediss://", "redis+cluster://")


class LifecycleStore(Protocol):
    """A store of the application's own that export and erase include.

    `export` yields JSON objects, each with a `key` that is unique in the store. `erase` may be called again after a
    crash. `leftovers` names what is still there, and an empty answer is a promise.
    """

    def export(self, tenant: Tenant) -> Iterator[Mapping[str, Any]]: ...
    def erase(self, tenant: Tenant) -> int: ...
    def leftovers(self, tenant: Tenant) -> Sequence[str]: ...


@dataclass(frozen=True)
class VectorStore:
    """Documents with text and embedding."""

    vectors: Any

    def export(self, tenant: Tenant) -> Iterator[Mapping[str, Any]]:
        for record in self.vectors.export(tenant):
            vector, metadata = list(record.vector), dict(record.metadata)
            yield {"key": record.id, "text": record.text, "metadata": metadata, "vector": vector}

    def load(self, tenant: Tenant, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write exported rows back."""
        self.vectors.upsert(tenant, [Record(r["key"], r["vector"], r["text"], r["metadata"]) for r in rows])

    def erase(self, tenant: Tenant) -> int:
        return int(self.vectors.erase(tenant))

    def leftovers(self, tenant: Tenant) -> Sequence[str]:
        return list(self.vectors.list_ids(tenant))[:_SHOWN]


@dataclass(frozen=True)
class Conversations:
    """Sessions with their messages."""

    history: Any

    def export(self, tenant: Tenant) -> Iterator[Mapping[str, Any]]:
        for session in self.history.sessions(tenant):
            yield {"key": session, "messages": [to_json(m) for m in self.history.read(tenant, session)]}

    def load(self, tenant: Tenant, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write exported rows back."""
        for row in rows:
            messages: list[Message] = [from_json(line) for line in row["messages"]]
            self.history.replace(tenant, row["key"], messages)

    def erase(self, tenant: Tenant) -> int:
        return int(self.history.clear_tenant(tenant))

    def leftovers(self, tenant: Tenant) -> Sequence[str]:
        return list(self.history.sessions(tenant))[:_SHOWN]


@dataclass(frozen=True)
class Answers:
    """Cached answers: derived from the rest, so an export counts them and doesn't copy them."""

    cache: Any
    clear: str

    def export(self, tenant: Tenant) -> Iterator[Mapping[str, Any]]:
        yield {"key": "entries", "count": self.cache.count(tenant).entries}

    def erase(self, tenant: Tenant) -> int:
        return int(getattr(self.cache, self.clear)(tenant))

    def leftovers(self, tenant: Tenant) -> Sequence[str]:
        left = self.cache.count(tenant).entries
        return [f"{left} answers"] if left else []


@dataclass(frozen=True)
class Forgotten:
    """Something with `erase` or `forget` that can't be listed entry by entry, only asked once more."""

    forget: Any

    def export(self, tenant: Tenant) -> Iterator[Mapping[str, Any]]:
        yield from ()

    def erase(self, tenant: Tenant) -> int:
        return int(self.forget(tenant))

    def leftovers(self, tenant: Tenant) -> Sequence[str]:
        left = int(self.forget(tenant))
        return [f"{left} entries that came back"] if left else []


@dataclass(frozen=True)
class Keyspace:
    """Every key of one Redis that is named after the tenant: accounts, streams, versions, and what was missed."""

    keys: Any

    def export(self, tenant: Tenant) -> Iterator[Mapping[str, Any]]:
        yield from ()

    def erase(self, tenant: Tenant) -> int:
        return int(self.keys.erase(tenant))

    def leftovers(self, tenant: Tenant) -> Sequence[str]:
        return list(self.keys.leftovers(tenant))[:_SHOWN]


@dataclass(frozen=True)
class Books:
    """The ledger, for exports alone: an erasure keeps or deletes its rows by the retention policy."""

    ledger: Any

    def export(self, tenant: Tenant) -> Iterator[Mapping[str, Any]]:
        for row in self.ledger.rows(tenant_id=tenant.id):
            yield {"key": row.call_id, **asdict(row)}


def stores_of(tenancy: Tenancy, own: Mapping[str, LifecycleStore] | None = None) -> dict[str, LifecycleStore]:
    """The application's own stores and all of a Tenancy's by name, in the order in which they are erased.

    Raises InvalidInput for a name that a store of the Tenancy has, which would be left out.
    """
    theirs = _of_tenancy(tenancy)
    for name in own or ():
        if name in (*theirs, "ledger"):
            raise InvalidInput(f"stores: {name!r} is the name of a store of the Tenancy; give yours another")
    return {**(own or {}), **theirs}


def _of_tenancy(tenancy: Tenancy) -> dict[str, LifecycleStore]:
    found: dict[str, LifecycleStore] = {}
    for concern, wrap in _WRAPS.items():
        backends = tenancy.backends(concern)
        for number, backend in enumerate(backends):
            found[concern if len(backends) == 1 else f"{concern}.{number + 1}"] = wrap(backend)
    found["provider_ids"] = Forgotten(tenancy.provider_state.ids.clear)
    accounts = tenancy._opener.opened("admission")
    for number, account in enumerate(accounts):
        name = "limits and budgets"
        found[name if len(accounts) == 1 else f"{name} {number + 1}"] = Forgotten(account.forget)
    found["fair queue"] = Forgotten(tenancy.gate.queue.forget)
    for number, url in enumerate(sorted(redis_urls(tenancy))):
        from tenant_middleware.backends.redis.keyspace import RedisKeyspace

        found[f"redis keys {number + 1}"] = Keyspace(tenancy._opener.open("redis keys", url, RedisKeyspace))
    observed = tenancy.observations
    if observed is not None:
        found["observations"] = Forgotten(observed.forget)
    found["this process"] = Forgotten(lambda tenant: sum(cleared.count for cleared in RESIDENTS.leave(tenant)))
    return found


_WRAPS: dict[str, Any] = {
    "vectors": VectorStore,
    "history": Conversations,
    "cache": lambda cache: Answers(cache, "invalidate"),
    "exact_cache": lambda cache: Answers(cache, "clear"),
}


def redis_urls(tenancy: Tenancy) -> set[str]:
    """Every Redis that a policy names, for all or for some."""
    policy, urls = tenancy.policy, [url for _, url in tenancy.settings.backends]
    for terms in (*policy.tiers.values(), *(policy.terms_of(name) for name in policy.tenants)):
        urls += [url for _, url in terms.backends]
    return {url.partition("?")[0] for url in urls if url is not None and url.startswith(REDIS)}
