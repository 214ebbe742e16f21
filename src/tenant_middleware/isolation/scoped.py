"""The rules of retrieval, written once for every vector store: `ScopedVectors` over a driver.

Each method is a flow of driver operations; plain calls and awaits run the same one. Ids are scoped and writes stamped
on the way in, callers' filters go under the tenant's, and nothing is returned before every record's stamp was checked.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import TypeVar

from tenant_middleware import keys as names
from tenant_middleware.errors import ConfigurationError, InvalidInput, StoreUnavailable
from tenant_middleware.isolation import place as rules
from tenant_middleware.isolation import probes
from tenant_middleware.isolation.drivers import AsyncDriver, Cursor, Driver, Flow, Op, arun, run
from tenant_middleware.isolation.filters import parse
from tenant_middleware.isolation.place import Place, Row, check_id, check_ids, check_k, check_vector, place_of, row_of
from tenant_middleware.isolation.vectors import Hit, Record, Where
from tenant_middleware.policy import Isolation
from tenant_middleware.telemetry import stage
from tenant_middleware.tenant import Tenant

R = TypeVar("R")
IsolationFor = Callable[[Tenant], Isolation]
PAGE = 500


class ScopedVectors:
    """A `Vectors` over any driver. `isolation` is one kind for all, or a function that gives each tenant's.

    Without an async driver the plain one is called: for stores that only compute.
    """

    def __init__(
        self, driver: Driver, async_driver: AsyncDriver | None = None, *, isolation: Isolation | IsolationFor
    ) -> None:
        self._driver = driver
        self._async_driver = async_driver
        self._isolation_for: IsolationFor = isolation if callable(isolation) else lambda tenant: isolation
        self._settled: dict[str, Isolation] = {}

    @property
    def kinds(self) -> tuple[Isolation, ...]:
        """The kinds of isolation that this store can give."""
        return self._driver.kinds

    def upsert(self, tenant: Tenant, records: Sequence[Record]) -> None:
        with stage("ingest", rules.check_tenant(tenant)):
            run(self._upsert(tenant, records), self._driver)

    async def aupsert(self, tenant: Tenant, records: Sequence[Record]) -> None:
        with stage("ingest", rules.check_tenant(tenant)):
            await self._arun(self._upsert(tenant, records))

    def query(self, tenant: Tenant, vector: Sequence[float], k: int = 5, where: Where | None = None) -> list[Hit]:
        with stage("retrieval", rules.check_tenant(tenant)):
            return run(self._query(tenant, vector, k, where), self._driver)

    async def aquery(
        self, tenant: Tenant, vector: Sequence[float], k: int = 5, where: Where | None = None
    ) -> list[Hit]:
        with stage("retrieval", rules.check_tenant(tenant)):
            return await self._arun(self._query(tenant, vector, k, where))

    def fetch(
        self, tenant: Tenant, ids: Sequence[str] | None = None, *, where: Where | None = None, limit: int | None = None
    ) -> list[Record]:
        return run(self._fetch(tenant, ids, where, limit), self._driver)

    async def afetch(
        self, tenant: Tenant, ids: Sequence[str] | None = None, *, where: Where | None = None, limit: int | None = None
    ) -> list[Record]:
        return await self._arun(self._fetch(tenant, ids, where, limit))

    def delete(self, tenant: Tenant, ids: Sequence[str] | None = None, *, where: Where | None = None) -> None:
        run(self._delete(tenant, ids, where), self._driver)

    async def adelete(self, tenant: Tenant, ids: Sequence[str] | None = None, *, where: Where | None = None) -> None:
        await self._arun(self._delete(tenant, ids, where))

    def list_ids(self, tenant: Tenant) -> list[str]:
        return run(self._list_ids(tenant), self._driver)

    async def alist_ids(self, tenant: Tenant) -> list[str]:
        return await self._arun(self._list_ids(tenant))

    def count(self, tenant: Tenant) -> int:
        return run(self._count(tenant), self._driver)

    async def acount(self, tenant: Tenant) -> int:
        return await self._arun(self._count(tenant))

    def provision(self, tenant: Tenant) -> None:
        run(self._provision(tenant), self._driver)

    async def aprovision(self, tenant: Tenant) -> None:
        await self._arun(self._provision(tenant))

    def export(self, tenant: Tenant) -> Iterator[Record]:
        cursor: Cursor = None
        while True:
            records, cursor = run(self._page(tenant, None, PAGE, cursor), self._driver)
            yield from records
            if cursor is None:
                return

    async def aexport(self, tenant: Tenant) -> AsyncIterator[Record]:
        cursor: Cursor = None
        while True:
            records, cursor = await self._arun(self._page(tenant, None, PAGE, cursor))
            for record in records:
                yield record
            if cursor is None:
                return

    def erase(self, tenant: Tenant) -> int:
        return run(self._erase(tenant), self._driver)

    async def aerase(self, tenant: Tenant) -> int:
        return await self._arun(self._erase(tenant))

    def verify_isolation(self, isolation: Isolation | None = None, *, dimension: int | None = None) -> None:
        """Plant two probes and raise IsolationBreach when the store can't separate them; for start-up.

        `isolation` is the kind to try, all but `silo` when left out; `dimension` is needed where the store doesn't
        know its own.
        """
        size = dimension or self._driver.learn() or probes.DIMENSION
        for kind in self._probed(isolation):
            probes.verify_isolation(ScopedVectors(self._driver, isolation=kind), size)

    async def averify_isolation(self, isolation: Isolation | None = None, *, dimension: int | None = None) -> None:
        """`verify_isolation`, by awaiting."""
        size = dimension or await self._arun(_learnt()) or probes.DIMENSION
        for kind in self._probed(isolation):
            trial = ScopedVectors(self._driver, self._async_driver, isolation=kind)
            await probes.averify_isolation(trial, size)

    @property
    def dimension(self) -> int | None:
        """The length of the store's vectors; None while it holds none and no index says it."""
        return self._driver.learn()

    def recall_check(self, tenant: Tenant, *, k: int = 5, samples: int = 20) -> probes.RecallReport:
        """Compare this tenant's search with exact search over its own records, with advice when recall is low."""
        return probes.recall_check(self, tenant, k=k, samples=samples)

    async def arecall_check(self, tenant: Tenant, *, k: int = 5, samples: int = 20) -> probes.RecallReport:
        """`recall_check`, by awaiting."""
        return await probes.arecall_check(self, tenant, k=k, samples=samples)

    def close(self) -> None:
        self._driver.close()

    async def aclose(self) -> None:
        if self._async_driver is not None:
            await self._async_driver.close()
        self._driver.close()

    # The flows.

    async def _arun(self, flow: Flow[R]) -> R:
        if self._async_driver is None:
            return run(flow, self._driver)
        return await arun(flow, self._async_driver)

    def _probed(self, isolation: Isolation | None) -> tuple[Isolation, ...]:
        kinds = self._driver.kinds
        return (isolation,) if isolation else tuple(kind for kind in kinds if kind != "silo") or kinds

    def _place(self, tenant: Tenant) -> Flow[Place]:
        """The tenant's place, once its other possible places are known to be empty."""
        kind = self._isolation_for(rules.check_tenant(tenant))
        place = place_of(tenant, kind)
        if self._settled.get(tenant.id) == kind:
            return place
        if kind not in self._driver.kinds:
            raise ConfigurationError(
                f"isolation {kind!r}: this vector store offers {', '.join(self._driver.kinds)} only"
            )
        for other in self._driver.kinds:
            if other != kind and (yield Op("holds", (place_of(tenant, other),))):
                raise ConfigurationError(
                    f"the isolation of this tenant is {kind!r} now, but records of it lie under {other!r}: export them "
                    "with the old setting, erase, and upsert them under the new one"
                )
        self._settled[tenant.id] = kind
        return place

    def _upsert(self, tenant: Tenant, records: Sequence[Record]) -> Flow[None]:
        place = yield from self._place(tenant)
        rows = {row.key: row for row in (row_of(place, record, self._driver.dimension) for record in records)}
        if rows:
            yield Op("upsert", (place, list(rows.values())))

    def _query(self, tenant: Tenant, vector: Sequence[float], k: int, where: Where | None) -> Flow[list[Hit]]:
        place = yield from self._place(tenant)
        wanted = rules.under_tenant(place, parse(where))
        numbers = check_vector(vector, self._driver.dimension)
        rows: list[Row] = yield Op("query", (place, numbers, check_k(k), wanted))
        rules.verify(place, rows)
        return [rules.hit(row) for row in rows]

    def _fetch(
        self, tenant: Tenant, ids: Sequence[str] | None, where: Where | None, limit: int | None
    ) -> Flow[list[Record]]:
        place = yield from self._place(tenant)
        if limit is not None:
            check_k(limit, "limit")
        if ids is None:
            return (yield from self._matching(tenant, where, limit))
        if where is not None:
            raise InvalidInput("fetch: expected ids or where, got both")
        wanted = [place.key(record_id) for record_id in check_ids(ids)][:limit]
        rows: list[Row] = (yield Op("fetch", (place, wanted))) if wanted else []
        rules.verify(place, rows)
        found = {row.key: row for row in rows}
        return [rules.record(found[key]) for key in wanted if key in found]

    def _matching(self, tenant: Tenant, where: Where | None, limit: int | None) -> Flow[list[Record]]:
        found: list[Record] = []
        cursor: Cursor = None
        while True:
            page = PAGE if limit is None else min(PAGE, limit - len(found))
            records, cursor = yield from self._page(tenant, where, page, cursor)
            found.extend(records)
            if cursor is None or (limit is not None and len(found) >= limit):
                return found[:limit]

    def _page(
        self, tenant: Tenant, where: Where | None, limit: int, cursor: Cursor
    ) -> Flow[tuple[list[Record], Cursor]]:
        place = yield from self._place(tenant)
        wanted = rules.under_tenant(place, parse(where))
        rows, following = yield Op("scan", (place, wanted, limit, cursor))
        rules.verify(place, rows)
        return [rules.record(row) for row in rows], following

    def _delete(self, tenant: Tenant, ids: Sequence[str] | None, where: Where | None) -> Flow[None]:
        place = yield from self._place(tenant)
        condition = parse(where)
        if (ids is None) == (condition is None):
            raise InvalidInput("delete: expected ids or a condition, one of them; erase(tenant) removes everything")
        if condition is not None and place.shared:
            found: list[Record] = yield from self._matching(tenant, where, None)
            if found:
                yield Op("delete", (place, [place.key(record.id) for record in found]))
        elif condition is not None:
            yield Op("delete_where", (place, condition))
        elif wanted := [place.key(record_id) for record_id in check_ids(ids or ())]:
            yield Op("delete", (place, wanted))

    def _list_ids(self, tenant: Tenant) -> Flow[list[str]]:
        place = yield from self._place(tenant)
        keys = yield from self._keys(place)
        found = [names.decode(key.partition(".")[2]) for key in keys if not key.endswith("-")]
        digests = [key for key in keys if key.endswith("-")]
        if digests:
            rows: list[Row] = yield Op("fetch", (place, digests))
            rules.verify(place, rows)
            found.extend(check_id(row.id) for row in rows)
        return sorted(found)

    def _keys(self, place: Place) -> Flow[list[str]]:
        found: list[str] = []
        cursor: Cursor = None
        while True:
            page, cursor = yield Op("keys", (place, cursor))
            rules.verify_keys(place, page)
            found.extend(page)
            if cursor is None:
                return found

    def _count(self, tenant: Tenant) -> Flow[int]:
        place = yield from self._place(tenant)
        return (yield Op("count", (place,)))  # type: ignore[no-any-return]  # a driver's answer is untyped here

    def _provision(self, tenant: Tenant) -> Flow[None]:
        place = yield from self._place(tenant)
        yield Op("provision", (place,))

    def _erase(self, tenant: Tenant) -> Flow[int]:
        erased = 0
        self._settled.pop(tenant.id, None)
        for kind in self._driver.kinds:
            place = place_of(tenant, kind)
            held = yield Op("holds", (place,))
            if held:
                erased += yield Op("count", (place,))
            if not place.shared:
                yield Op("drop", (place,))  # an empty one as well: its name is the tenant's
            elif held:
                yield Op("delete", (place, (yield from self._keys(place))))
            if not held:
                continue
            yield Op("emptied", (place,))
            if (yield Op("holds", (place,))):
                raise StoreUnavailable("erase: the store still shows records of this tenant", store="vectors")
        return erased


def _learnt() -> Flow[int | None]:
    return (yield Op("learn", ()))  # type: ignore[no-any-return]  # a driver's answer is untyped here
