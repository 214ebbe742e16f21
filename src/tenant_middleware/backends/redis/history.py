"""Conversations in Redis: one list per session, one script for every change, so that appends never interleave."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Generic, TypeVar

from tenant_middleware.backends.redis.clients import Clients, Script, areach, reach
from tenant_middleware.isolation.history import (
    HistoryCount,
    HistoryLimits,
    Message,
    check_messages,
    check_session,
    check_window,
    from_json_lines,
    to_json,
)
from tenant_middleware.keys import key
from tenant_middleware.tenant import Tenant

T = TypeVar("T")
_SCRIPT = Script("history.lua")


@dataclass(frozen=True, slots=True)
class _Step(Generic[T]):
    """One command of Redis and what its reply means; run by a sync or an async client."""

    keys: list[str]
    args: list[Any]
    read: Callable[[Any], T]


class RedisHistory:
    """A HistoryStore for several workers. Time is the server's: a session expires `ttl` after its last write."""

    def __init__(self, url: str, *, limits: HistoryLimits | None = None, timeout: float = 5.0) -> None:
        self.limits = limits or HistoryLimits()
        self._clients = Clients(url, timeout=timeout)
        self._bounds = [
            round((self.limits.ttl or 0) * 1000),
            self.limits.max_tokens or 0,
            self.limits.max_messages or 0,
        ]

    def append(self, tenant: Tenant, session: str, messages: Sequence[Message]) -> int:
        return self._run(self._append(tenant, session, messages))

    def read(self, tenant: Tenant, session: str, *, last: int | None = None) -> list[Message]:
        name = _read_key(tenant, session, last)
        if last == 0:
            return []
        return _messages(reach("history", lambda: self._clients.sync.lrange(name, -last if last else 0, -1)))

    def replace(self, tenant: Tenant, session: str, messages: Sequence[Message]) -> int:
        return self._run(self._replace(tenant, session, messages))

    def drop_oldest(self, tenant: Tenant, session: str, count: int) -> list[Message]:
        return self._run(_drop(tenant, session, count))

    def move_oldest(self, tenant: Tenant, session: str, to: str, count: int) -> list[Message]:
        return self._run(self._move(tenant, session, to, count))

    def remove(self, tenant: Tenant, session: str, position: int) -> Message | None:
        return self._run(_remove(tenant, session, position))

    def clear(self, tenant: Tenant, session: str) -> int:
        return self._run(_clear(tenant, session))

    def clear_tenant(self, tenant: Tenant) -> int:
        return self._run(_whole(tenant, "clear_tenant", int))

    def sessions(self, tenant: Tenant) -> list[str]:
        return self._run(_whole(tenant, "sessions", _names))

    def count(self, tenant: Tenant) -> HistoryCount:
        return self._run(_whole(tenant, "count", _count))

    async def aappend(self, tenant: Tenant, session: str, messages: Sequence[Message]) -> int:
        return await self._arun(self._append(tenant, session, messages))

    async def aread(self, tenant: Tenant, session: str, *, last: int | None = None) -> list[Message]:
        name = _read_key(tenant, session, last)
        if last == 0:
            return []
        return _messages(await areach("history", self._clients.here().lrange(name, -last if last else 0, -1)))

    async def areplace(self, tenant: Tenant, session: str, messages: Sequence[Message]) -> int:
        return await self._arun(self._replace(tenant, session, messages))

    async def adrop_oldest(self, tenant: Tenant, session: str, count: int) -> list[Message]:
        return await self._arun(_drop(tenant, session, count))

    async def amove_oldest(self, tenant: Tenant, session: str, to: str, count: int) -> list[Message]:
        return await self._arun(self._move(tenant, session, to, count))

    async def aremove(self, tenant: Tenant, session: str, position: int) -> Message | None:
        return await self._arun(_remove(tenant, session, position))

    async def aclear(self, tenant: Tenant, session: str) -> int:
        return await self._arun(_clear(tenant, session))

    async def aclear_tenant(self, tenant: Tenant) -> int:
        return await self._arun(_whole(tenant, "clear_tenant", int))

    async def asessions(self, tenant: Tenant) -> list[str]:
        return await self._arun(_whole(tenant, "sessions", _names))

    async def acount(self, tenant: Tenant) -> HistoryCount:
        return await self._arun(_whole(tenant, "count", _count))

    def close(self) -> None:
        """Close the sync connections."""
        self._clients.close()

    async def aclose(self) -> None:
        """Close the sync connections and the running loop's."""
        await self._clients.aclose()

    async def aclose_here(self) -> None:
        """Close the running loop's connections alone: for a loop that ends before this store does."""
        await self._clients.aclose_here()

    def _run(self, step: _Step[T]) -> T:
        return step.read(self._clients.run("history", _SCRIPT, step.keys, step.args))

    async def _arun(self, step: _Step[T]) -> T:
        return step.read(await self._clients.arun("history", _SCRIPT, step.keys, step.args))

    def _append(self, tenant: Tenant, session: str, messages: Sequence[Message]) -> _Step[int]:
        checked = check_messages(messages)
        return self._written("append", tenant, session, checked) if checked else _drop_nothing(tenant, session)

    def _replace(self, tenant: Tenant, session: str, messages: Sequence[Message]) -> _Step[int]:
        return self._written("replace", tenant, session, check_messages(messages))

    def _written(self, verb: str, tenant: Tenant, session: str, messages: list[Message]) -> _Step[int]:
        weights = [message.weight for message in messages]
        args = [verb, session, *self._bounds, sum(weights), *map(_line, messages, weights)]
        return _Step(list(_keys(tenant, check_session(session))), args, int)

    def _move(self, tenant: Tenant, session: str, to: str, count: int) -> _Step[list[Message]]:
        check_window(count, "count")
        keys = [*_keys(tenant, check_session(session)), *_keys(tenant, check_session(to))[:2]]
        return _Step(keys, ["move", session, count, self._bounds[0], to], _messages)


@lru_cache(maxsize=4096)
def _keys(tenant: Tenant, session: str) -> tuple[str, str, str]:
    name = key(tenant, "history", "session", session)
    return name, f"{name}total.", key(tenant, "history", "sessions")


def _read_key(tenant: Tenant, session: str, last: int | None) -> str:
    check_window(last, "last")
    return _keys(tenant, check_session(session))[0]


def _drop(tenant: Tenant, session: str, count: int) -> _Step[list[Message]]:
    check_window(count, "count")
    return _Step(list(_keys(tenant, check_session(session))), ["drop", session, count], _messages)


def _remove(tenant: Tenant, session: str, position: int) -> _Step[Message | None]:
    check_window(position, "position")
    keys = list(_keys(tenant, check_session(session)))
    return _Step(keys, ["remove", session, position], lambda lines: next(iter(_messages(lines)), None))


def _drop_nothing(tenant: Tenant, session: str) -> _Step[int]:
    """Appending nothing answers the length and makes no session."""
    index = _keys(tenant, check_session(session))
    return _Step(list(index), ["length", session], int)


def _clear(tenant: Tenant, session: str) -> _Step[int]:
    return _Step(list(_keys(tenant, check_session(session))), ["clear", session], int)


def _whole(tenant: Tenant, verb: str, read: Callable[[Any], T]) -> _Step[T]:
    index = key(tenant, "history", "sessions")
    return _Step([index, index, index], [verb], read)


def _line(message: Message, weight: int) -> str:
    return f"{weight}{'t' if message.role == 'tool' else '.'}{to_json(message)}"


def _messages(lines: list[bytes]) -> list[Message]:
    return from_json_lines([line[line.index(b"[") :] for line in lines])


def _names(rows: list[bytes]) -> list[str]:
    return sorted(row.decode() for row in rows)


def _count(row: list[int]) -> HistoryCount:
    return HistoryCount(sessions=row[0], messages=row[1])
