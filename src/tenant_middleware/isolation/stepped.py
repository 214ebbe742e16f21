"""Drivers made of steps: one set of flows, and a function that runs them plainly or by awaiting.

A store with clients of both kinds writes its operations once, as generators of the commands it needs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Sequence
from typing import Any, Protocol, cast

from tenant_middleware.isolation.drivers import AsyncDriver, Cursor, Driver
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


def driver(steps: Steps, run: Callable[[Any], Any], kinds: tuple[Isolation, ...], close: Callable[[], None]) -> Driver:
    """A Driver that runs steps by plain calls."""
    return cast("Driver", _Stepped(steps, run, close, kinds))


def async_driver(
    steps: Steps, run: Callable[[Any], Awaitable[Any]], close: Callable[[], Awaitable[None]]
) -> AsyncDriver:
    """An AsyncDriver that runs steps by awaiting."""
    return cast("AsyncDriver", _Stepped(steps, run, close))


class _Stepped:
    """Each operation is the steps' flow of that name, run: at once, or when what `run` gives is awaited."""

    def __init__(
        self, steps: Steps, run: Callable[[Any], Any], close: Callable[[], Any], kinds: tuple[Isolation, ...] = ()
    ) -> None:
        self._steps, self._run = steps, run
        self.close, self.kinds = close, kinds

    @property
    def dimension(self) -> int | None:
        return self._steps.dimension

    def __getattr__(self, name: str) -> Callable[..., Any]:
        step = getattr(self._steps, name)
        return lambda *args: self._run(step(*args))
