"""Drivers made of steps: one set of flows, and a function that runs them plainly or by awaiting.

A store with clients of both kinds writes its operations once, as generators of the commands it needs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Sequence
from typing import Any, Protocol

from tenant_middleware.isolation.drivers import Cursor
from tenant_middleware.isolation.filters import Where
from tenant_middleware.isolation.place import Place, Row
from tenant_middleware.policy import Isolation

Rows = Generator[Any, Any, list[Row]]
Done = Generator[Any, Any, None]


class Steps(Protocol):
    """The operations of a Driver, as flows."""

    @property
    def dimension(self) -> int | None: ...

    def upsert(self, place: Place, rows: Sequence[Row]) -> Done: ...
    def query(self, place: Place, vector: list[float], k: int, where: Where | None) -> Rows: ...
    def fetch(self, place: Place, keys: Sequence[str]) -> Rows: ...
    def scan(
        self, place: Place, where: Where | None, limit: int, cursor: Cursor
    ) -> Generator[Any, Any, tuple[list[Row], Cursor]]: ...
    def keys(self, place: Place, cursor: Cursor) -> Generator[Any, Any, tuple[list[str], Cursor]]: ...
    def delete(self, place: Place, keys: Sequence[str]) -> Done: ...
    def delete_where(self, place: Place, where: Where) -> Done: ...
    def emptied(self, place: Place) -> Done: ...
    def count(self, place: Place) -> Generator[Any, Any, int]: ...
    def holds(self, place: Place) -> Generator[Any, Any, bool]: ...
    def provision(self, place: Place) -> Done: ...
    def drop(self, place: Place) -> Done: ...
    def learn(self) -> Generator[Any, Any, int | None]: ...


class SteppedDriver:
    """A Driver that runs steps by plain calls."""

    def __init__(
        self,
        steps: Steps,
        run: Callable[[Any], Any],
        kinds: tuple[Isolation, ...],
        close: Callable[[], None],
    ) -> None:
        self._steps, self._run, self.close = steps, run, close
        self.kinds = kinds

    @property
    def dimension(self) -> int | None:
        return self._steps.dimension

    def upsert(self, place: Place, rows: Sequence[Row]) -> None:
        self._run(self._steps.upsert(place, rows))

    def query(self, place: Place, vector: list[float], k: int, where: Where | None) -> list[Row]:
        found: list[Row] = self._run(self._steps.query(place, vector, k, where))
        return found

    def fetch(self, place: Place, keys: Sequence[str]) -> list[Row]:
        found: list[Row] = self._run(self._steps.fetch(place, keys))
        return found

    def scan(self, place: Place, where: Where | None, limit: int, cursor: Cursor) -> tuple[list[Row], Cursor]:
        page: tuple[list[Row], Cursor] = self._run(self._steps.scan(place, where, limit, cursor))
        return page

    def keys(self, place: Place, cursor: Cursor) -> tuple[list[str], Cursor]:
        page: tuple[list[str], Cursor] = self._run(self._steps.keys(place, cursor))
        return page

    def delete(self, place: Place, keys: Sequence[str]) -> None:
        self._run(self._steps.delete(place, keys))

    def delete_where(self, place: Place, where: Where) -> None:
        self._run(self._steps.delete_where(place, where))

    def emptied(self, place: Place) -> None:
        self._run(self._steps.emptied(place))

    def count(self, place: Place) -> int:
        return int(self._run(self._steps.count(place)))

    def holds(self, place: Place) -> bool:
        return bool(self._run(self._steps.holds(place)))

    def provision(self, place: Place) -> None:
        self._run(self._steps.provision(place))

    def drop(self, place: Place) -> None:
        self._run(self._steps.drop(place))

    def learn(self) -> int | None:
        size: int | None = self._run(self._steps.learn())
        return size


class AsyncSteppedDriver:
    """An AsyncDriver that runs steps by awaiting."""

    def __init__(
        self, steps: Steps, run: Callable[[Any], Awaitable[Any]], close: Callable[[], Awaitable[None]]
    ) -> None:
        self._steps, self._run, self._close = steps, run, close

    async def upsert(self, place: Place, rows: Sequence[Row]) -> None:
        await self._run(self._steps.upsert(place, rows))

    async def query(self, place: Place, vector: list[float], k: int, where: Where | None) -> list[Row]:
        found: list[Row] = await self._run(self._steps.query(place, vector, k, where))
        return found

    async def fetch(self, place: Place, keys: Sequence[str]) -> list[Row]:
        found: list[Row] = await self._run(self._steps.fetch(place, keys))
        return found

    async def scan(self, place: Place, where: Where | None, limit: int, cursor: Cursor) -> tuple[list[Row], Cursor]:
        page: tuple[list[Row], Cursor] = await self._run(self._steps.scan(place, where, limit, cursor))
        return page

    async def keys(self, place: Place, cursor: Cursor) -> tuple[list[str], Cursor]:
        page: tuple[list[str], Cursor] = await self._run(self._steps.keys(place, cursor))
        return page

    async def delete(self, place: Place, keys: Sequence[str]) -> None:
        await self._run(self._steps.delete(place, keys))

    async def delete_where(self, place: Place, where: Where) -> None:
        await self._run(self._steps.delete_where(place, where))

    async def emptied(self, place: Place) -> None:
        await self._run(self._steps.emptied(place))

    async def count(self, place: Place) -> int:
        return int(await self._run(self._steps.count(place)))

    async def holds(self, place: Place) -> bool:
        return bool(await self._run(self._steps.holds(place)))

    async def provision(self, place: Place) -> None:
        await self._run(self._steps.provision(place))

    async def drop(self, place: Place) -> None:
        await self._run(self._steps.drop(place))

    async def learn(self) -> int | None:
        size: int | None = await self._run(self._steps.learn())
        return size

    async def close(self) -> None:
        await self._close()
