"""What a vector store has to do for `ScopedVectors`, and how one flow of its steps is run, plainly or by awaiting.

A driver is told a Place and does as told: it decides nothing about tenants. Its async twin has the same method names.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from tenant_middleware.isolation.filters import Where
from tenant_middleware.isolation.place import Place, Row
from tenant_middleware.policy import Isolation

R = TypeVar("R")
Cursor = str | None


class Driver(Protocol):
    """One store. `kinds` are the kinds of isolation it can give; `dimension` is known, or None when the store checks.

    `query` and `scan` take the condition as it must hold, the tenant's included. `scan` and `keys` go by pages: a
    cursor of None begins, a None in the answer ends. `holds` and `count` of a place that was never made are False and
    0, and `drop` of it is no error. `drop` returns when the place reads as empty.
    """

    @property
    def kinds(self) -> tuple[Isolation, ...]: ...
    @property
    def dimension(self) -> int | None: ...

    def upsert(self, place: Place, rows: Sequence[Row]) -> None: ...
    def query(self, place: Place, vector: list[float], k: int, where: Where | None) -> list[Row]: ...
    def fetch(self, place: Place, keys: Sequence[str]) -> list[Row]: ...
    def scan(self, place: Place, where: Where | None, limit: int, cursor: Cursor) -> tuple[list[Row], Cursor]: ...
    def keys(self, place: Place, cursor: Cursor) -> tuple[list[str], Cursor]: ...
    def delete(self, place: Place, keys: Sequence[str]) -> None: ...
    def delete_where(self, place: Place, where: Where) -> None: ...
    def count(self, place: Place) -> int: ...
    def holds(self, place: Place) -> bool: ...
    def provision(self, place: Place) -> None: ...
    def drop(self, place: Place) -> None: ...
    def close(self) -> None: ...


class AsyncDriver(Protocol):
    """The same by awaiting, on clients of the running loop."""

    async def upsert(self, place: Place, rows: Sequence[Row]) -> None: ...
    async def query(self, place: Place, vector: list[float], k: int, where: Where | None) -> list[Row]: ...
    async def fetch(self, place: Place, keys: Sequence[str]) -> list[Row]: ...
    async def scan(self, place: Place, where: Where | None, limit: int, cursor: Cursor) -> tuple[list[Row], Cursor]: ...
    async def keys(self, place: Place, cursor: Cursor) -> tuple[list[str], Cursor]: ...
    async def delete(self, place: Place, keys: Sequence[str]) -> None: ...
    async def delete_where(self, place: Place, where: Where) -> None: ...
    async def count(self, place: Place) -> int: ...
    async def holds(self, place: Place) -> bool: ...
    async def provision(self, place: Place) -> None: ...
    async def drop(self, place: Place) -> None: ...
    async def close(self) -> None: ...


class Op(NamedTuple):
    """A driver's method and its arguments."""

    name: str
    args: tuple[Any, ...]


Flow = Generator[Op, Any, R]


def run(flow: Flow[R], driver: Driver) -> R:
    """Drive a flow by plain calls."""
    try:
        op = next(flow)
        while True:
            op = flow.send(getattr(driver, op.name)(*op.args))
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]  # a generator's return value is untyped here


async def arun(flow: Flow[R], driver: AsyncDriver) -> R:
    """Drive a flow by awaiting."""
    try:
        op = next(flow)
        while True:
            op = flow.send(await getattr(driver, op.name)(*op.args))
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]  # a generator's return value is untyped here
