"""The two drivers over the same flows: plain calls and awaiting."""

from __future__ import annotations

from collections.abc import Sequence

from tenant_middleware.backends.pinecone.clients import AsyncClients, Clients
from tenant_middleware.backends.pinecone.steps import Steps
from tenant_middleware.isolation.drivers import Cursor
from tenant_middleware.isolation.filters import Where
from tenant_middleware.isolation.place import Place, Row
from tenant_middleware.policy import Isolation


class PineconeDriver:
    """Pinecone by plain calls."""

    def __init__(self, steps: Steps, clients: Clients, kinds: tuple[Isolation, ...]) -> None:
        self._steps, self._clients = steps, clients
        self.kinds = kinds
        self._run = clients.run

    @property
    def dimension(self) -> int | None:
        return self._steps.dimension

    def upsert(self, place: Place, rows: Sequence[Row]) -> None:
        self._run(self._steps.upsert(place, rows))

    def query(self, place: Place, vector: list[float], k: int, where: Where | None) -> list[Row]:
        return self._run(self._steps.query(place, vector, k, where))

    def fetch(self, place: Place, keys: Sequence[str]) -> list[Row]:
        return self._run(self._steps.fetch(place, keys))

    def scan(self, place: Place, where: Where | None, limit: int, cursor: Cursor) -> tuple[list[Row], Cursor]:
        return self._run(self._steps.scan(place, where, limit, cursor))

    def keys(self, place: Place, cursor: Cursor) -> tuple[list[str], Cursor]:
        return self._run(self._steps.keys(place, cursor))

    def delete(self, place: Place, keys: Sequence[str]) -> None:
        self._run(self._steps.delete(place, keys))

    def delete_where(self, place: Place, where: Where) -> None:
        self._run(self._steps.delete_where(place, where))

    def emptied(self, place: Place) -> None:
        self._run(self._steps.emptied(place))

    def count(self, place: Place) -> int:
        return self._run(self._steps.count(place))

    def holds(self, place: Place) -> bool:
        return self._run(self._steps.holds(place))

    def provision(self, place: Place) -> None:
        self._run(self._steps.provision(place))

    def drop(self, place: Place) -> None:
        self._run(self._steps.drop(place))

    def learn(self) -> int | None:
        return self._run(self._steps.learn())

    def close(self) -> None:
        self._clients.close()


class AsyncPineconeDriver:
    """Pinecone by awaiting."""

    def __init__(self, steps: Steps, clients: AsyncClients) -> None:
        self._steps, self._clients = steps, clients
        self._run = clients.run

    async def upsert(self, place: Place, rows: Sequence[Row]) -> None:
        await self._run(self._steps.upsert(place, rows))

    async def query(self, place: Place, vector: list[float], k: int, where: Where | None) -> list[Row]:
        return await self._run(self._steps.query(place, vector, k, where))

    async def fetch(self, place: Place, keys: Sequence[str]) -> list[Row]:
        return await self._run(self._steps.fetch(place, keys))

    async def scan(self, place: Place, where: Where | None, limit: int, cursor: Cursor) -> tuple[list[Row], Cursor]:
        return await self._run(self._steps.scan(place, where, limit, cursor))

    async def keys(self, place: Place, cursor: Cursor) -> tuple[list[str], Cursor]:
        return await self._run(self._steps.keys(place, cursor))

    async def delete(self, place: Place, keys: Sequence[str]) -> None:
        await self._run(self._steps.delete(place, keys))

    async def delete_where(self, place: Place, where: Where) -> None:
        await self._run(self._steps.delete_where(place, where))

    async def emptied(self, place: Place) -> None:
        await self._run(self._steps.emptied(place))

    async def count(self, place: Place) -> int:
        return await self._run(self._steps.count(place))

    async def holds(self, place: Place) -> bool:
        return await self._run(self._steps.holds(place))

    async def provision(self, place: Place) -> None:
        await self._run(self._steps.provision(place))

    async def drop(self, place: Place) -> None:
        await self._run(self._steps.drop(place))

    async def learn(self) -> int | None:
        return await self._run(self._steps.learn())

    async def close(self) -> None:
        await self._clients.close()
