"""What each driver operation asks of Pinecone, as flows of SDK calls that run plainly or by awaiting.

One place resolves tenant -> (project key, index host, namespace, filter); no caller's argument reaches any of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from pinecone.errors import ConflictError, NotFoundError, PineconeConnectionError, PineconeError

from tenant_middleware.backends.pinecone import wire
from tenant_middleware.clock import Clock
from tenant_middleware.errors import ConfigurationError, PartialWrite, StoreUnavailable
from tenant_middleware.isolation.drivers import Cursor
from tenant_middleware.isolation.filters import AllOf, Where
from tenant_middleware.isolation.place import Place, Row, plain
from tenant_middleware.keys import PREFIX
from tenant_middleware.tenant import Tenant

R = TypeVar("R")
SHARED = f"{PREFIX}.shared"  # no tenant's namespace: those end in a dot
FIRST_POLL, LONGEST_POLL = 0.05, 1.0


class Ask(NamedTuple):
    """One SDK call: on the index behind `host`, or on the control plane's indexes when there is no host."""

    key: str
    host: str | None
    name: str
    options: dict[str, Any]


class Sleep(NamedTuple):
    """A pause between two polls."""

    seconds: float


Flow = Generator[Ask | Sleep, Any, R]


@dataclass(frozen=True, slots=True)
class Setup:
    """What an application configures."""

    index: str
    api_key: str
    host: str | None
    project_key: Callable[[Tenant], str] | None
    read_your_writes: float | None
    settle_within: float
    ready_within: float


class Steps:
    """The flows, and what they have learnt of the project: hosts, dimension and metric."""

    def __init__(self, setup: Setup, clock: Clock, dimension: int | None, metric: str | None) -> None:
        self._setup, self._clock = setup, clock
        self._hosts: dict[tuple[str, str], str] = {}
        if setup.host is not None:
            self._hosts[setup.api_key, setup.index] = setup.host
        self.dimension, self._metric = dimension, metric

    # Where a place is.

    def _address(self, place: Place) -> tuple[str, str]:
        """The project key and the index name of a place."""
        if place.isolation != "silo":
            return self._setup.api_key, self._setup.index
        own = self._setup.project_key
        return own(place.tenant) if own else self._setup.api_key, place.own_index(self._setup.index)

    def _host(self, place: Place) -> Flow[str | None]:
        """The host of a place's index, or None for a silo that was never made."""
        key, name = self._address(place)
        known = self._hosts.get((key, name))
        if known is not None:
            return known
        try:
            model = yield Ask(key, None, "describe", {"name": name})
        except NotFoundError:
            if place.isolation == "silo":
                return None
            raise
        self._learn(model)
        if model.status.ready:
            self._hosts[key, name] = model.host
        return str(model.host)

    def _learn(self, model: Any) -> None:
        field = model.schema.fields.get("_values")
        if field is None or len(model.schema.fields) != 1:
            raise ConfigurationError("pinecone: expected an index of dense vectors; this one holds documents")
        self.dimension, self._metric = field.dimension, str(field.metric)

    def learn(self) -> Flow[int | None]:
        """The index's dimension."""
        if self.dimension is None:
            self._learn((yield Ask(self._setup.api_key, None, "describe", {"name": self._setup.index})))
        return self.dimension

    @staticmethod
    def _namespace(place: Place) -> str:
        return SHARED if place.shared else place.namespace

    def _ask(self, place: Place, method: str, /, **options: Any) -> Flow[Any]:
        """One call on a place's index; None when index or namespace isn't there."""
        host = yield from self._host(place)
        if host is None:
            return None
        key, index = self._address(place)
        try:
            return (yield Ask(key, host, method, options))
        except NotFoundError:
            return None
        except PineconeConnectionError:
            if self._setup.host is None:
                self._hosts.pop((key, index), None)  # it may have been made anew elsewhere
            raise

    # Writing.

    def upsert(self, place: Place, rows: Sequence[Row]) -> Flow[None]:
        if (yield from self._host(place)) is None:
            yield from self.provision(place)
        failed: list[str] = []
        first: PineconeError | None = None
        for group, vectors in list(wire.batches(rows)):
            if first is None or not isinstance(wire.ours(first), StoreUnavailable):
                try:
                    yield from self._write(place, group, vectors)
                    continue
                except PineconeError as error:
                    first = first or error
            failed.extend(str(item.id) for item in group)
        if first is not None:
            raise _partial(first, failed, len(rows))

    def _write(self, place: Place, group: Sequence[Row], vectors: list[dict[str, Any]]) -> Flow[None]:
        namespace = self._namespace(place)
        answer = yield from self._ask(place, "upsert", vectors=vectors, namespace=namespace)
        if answer is None:
            raise NotFoundError
        position = answer.response_info.lsn_committed if answer.response_info else None
        if self._setup.read_your_writes is None or position is None:
            return
        options = {"top_k": 1, "vector": group[0].vector, "namespace": namespace}
        for pause in self._polls(self._setup.read_your_writes):
            found = yield from self._ask(place, "query", **options)
            if found is not None and found.response_info.is_reconciled(position):
                return
            yield pause
        raise StoreUnavailable("pinecone: written, but reads don't show it yet", store=wire.STORE)

    def _polls(self, within: float) -> Generator[Sleep, None, None]:
        end, wait = self._clock.time() + within, FIRST_POLL
        while self._clock.time() < end:
            yield Sleep(wait)
            wait = min(wait * 2, LONGEST_POLL)

    def delete(self, place: Place, keys: Sequence[str]) -> Flow[None]:
        for start in range(0, len(keys), wire.MAX_RECORDS):
            ids = list(keys[start : start + wire.MAX_RECORDS])
            yield from self._ask(place, "delete", ids=ids, namespace=self._namespace(place))
        if self._setup.read_your_writes is not None:
            yield from self._gone(self._setup.read_your_writes, lambda: self.fetch(place, keys))

    def delete_where(self, place: Place, where: Where) -> Flow[None]:
        yield from self._ask(place, "delete", filter=wire.condition(where), namespace=self._namespace(place))
        if self._setup.read_your_writes is not None:
            yield from self._gone(self._setup.read_your_writes, lambda: self._any(place, where))

    def _gone(self, within: float, look: Callable[[], Flow[Any]]) -> Flow[None]:
        for pause in self._polls(within):
            if not (yield from look()):
                return
            yield pause
        raise StoreUnavailable("pinecone: deleted, but reads still show it", store=wire.STORE)

    # Reading.

    def query(self, place: Place, vector: list[float], k: int, where: Where | None) -> Flow[list[Row]]:
        options: dict[str, Any] = {"top_k": k, "vector": plain(vector), "namespace": self._namespace(place)}
        if where is not None:
            options["filter"] = wire.condition(where)
        answer = yield from self._ask(place, "query", include_metadata=True, **options)
        if answer is None:
            return []
        sign = -1.0 if self._metric == "euclidean" else 1.0
        return [wire.row(match.id, match.metadata, None, sign * match.score) for match in answer.matches]

    def fetch(self, place: Place, keys: Sequence[str]) -> Flow[list[Row]]:
        found: list[Row] = []
        for ids in wire.fetches(keys):
            answer = yield from self._ask(place, "fetch", ids=ids, namespace=self._namespace(place))
            found.extend(_rows(answer.vectors) if answer else ())
        return found

    def scan(self, place: Place, where: Where | None, limit: int, cursor: Cursor) -> Flow[tuple[list[Row], Cursor]]:
        mine = wire.mine(place.stamp)
        wanted = wire.condition(mine if where is None else AllOf((mine, where)))
        options: dict[str, Any] = {"filter": wanted, "namespace": self._namespace(place), "limit": min(limit, 100)}
        if cursor is not None:
            options["pagination_token"] = cursor
        answer = yield from self._ask(place, "fetch_by_metadata", **options)
        return (_rows(answer.vectors), _next(answer)) if answer else ([], None)

    def _any(self, place: Place, where: Where) -> Flow[bool]:
        rows, _ = yield from self.scan(place, where, 1, None)
        return bool(rows)

    def keys(self, place: Place, cursor: Cursor) -> Flow[tuple[list[str], Cursor]]:
        return (yield from self._list(place, 100, cursor))

    def _list(self, place: Place, limit: int, cursor: Cursor) -> Flow[tuple[list[str], Cursor]]:
        options: dict[str, Any] = {
            "prefix": f"{place.stamp}.",
            "limit": limit,
            "namespace": self._namespace(place),
        }
        if cursor is not None:
            options["pagination_token"] = cursor
        answer = yield from self._ask(place, "list_paginated", **options)
        return ([item.id for item in answer.vectors], _next(answer)) if answer else ([], None)

    def count(self, place: Place) -> Flow[int]:
        if not place.shared:
            answer = yield from self._ask(place, "describe_namespace", name=place.namespace)
            return int(answer.record_count) if answer else 0
        total, cursor = 0, None
        while True:
            page, cursor = yield from self.keys(place, cursor)
            total += len(page)
            if cursor is None:
                return total

    def holds(self, place: Place) -> Flow[bool]:
        page, _ = yield from self._list(place, 1, None)
        return bool(page)

    def in_default_namespace(self) -> Flow[int]:
        """Records that some writer put where no tenant is; nothing else of the index's statistics leaves here."""
        key = self._setup.api_key
        host = self._hosts.get((key, self._setup.index))
        if host is None:
            model = yield Ask(key, None, "describe", {"name": self._setup.index})
            host = model.host
        answer = yield Ask(key, host, "describe_index_stats", {})
        found = [answer.namespaces.get(name) for name in ("", "__default__")]
        return sum(summary.vector_count for summary in found if summary)

    # Making and removing.

    def provision(self, place: Place) -> Flow[None]:
        """A silo's own index, with the named one as its template; other places need nothing."""
        if place.isolation != "silo":
            return
        key, name = self._address(place)
        if (key, name) in self._hosts:
            return
        template = yield Ask(self._setup.api_key, None, "describe", {"name": self._setup.index})
        self._learn(template)
        spec = {"dimension": self.dimension, "metric": self._metric, "deployment": _deployment(template)}
        with suppress(ConflictError):  # another worker was first
            yield Ask(key, None, "create", {"name": name, **spec, "timeout": -1})
        for pause in self._polls(self._setup.ready_within):
            yield from self._host(place)
            if (key, name) in self._hosts:
                return
            yield pause
        raise StoreUnavailable("pinecone: the tenant's index isn't ready yet", store=wire.STORE)

    def drop(self, place: Place) -> Flow[None]:
        if place.isolation == "silo":
            key, name = self._address(place)
            self._hosts.pop((key, name), None)
            with suppress(NotFoundError):
                yield Ask(key, None, "delete", {"name": name, "timeout": -1})
        else:
            yield from self._ask(place, "delete_namespace", name=place.namespace)

    def emptied(self, place: Place) -> Flow[None]:
        yield from self._gone(self._setup.settle_within, lambda: self.holds(place))


def _rows(vectors: Mapping[str, Any]) -> list[Row]:
    return [wire.row(key, item.metadata, item.values) for key, item in vectors.items()]


def _next(answer: Any) -> Cursor:
    return answer.pagination.next if answer.pagination else None


def _deployment(model: Any) -> dict[str, str]:
    cloud, region = getattr(model.deployment, "cloud", None), getattr(model.deployment, "region", None)
    if not cloud or not region:
        raise ConfigurationError("pinecone: a silo is made like its template, which has to be a serverless index")
    return {"deployment_type": "managed", "cloud": cloud, "region": region}


def _partial(first: PineconeError, failed: Sequence[str], total: int) -> Exception:
    cause = wire.ours(first)
    stored = total - len(failed)
    if stored == 0:
        return cause
    wait = cause.retry_after if isinstance(cause, StoreUnavailable) else None
    return PartialWrite(
        f"pinecone: {stored} of {total} records are stored and {len(failed)} are not ({cause}); write those again",
        store=wire.STORE,
        failed_ids=tuple(failed),
        stored=stored,
        retry_after=wait if wait is not None and math.isfinite(wait) else None,
    )
