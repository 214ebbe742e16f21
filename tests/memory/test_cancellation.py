"""Cancelled at any await point, the next reader never gets another's reply, and nothing half done is stored."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from langchain_core.runnables import RunnableLambda
from redis import Redis

from tenant_middleware.backends.redis.exact import RedisExactCache
from tenant_middleware.backends.redis.history import RedisHistory
from tenant_middleware.backends.redisvl.cache import RedisSemanticCache
from tenant_middleware.context import scope
from tenant_middleware.langchain.semantic import cached
from tenant_middleware.tenant import Tenant
from tenant_middleware.testing.cache import RULES, asked, towards
from tenant_middleware.testing.cancellation import cancel_everywhere
from tenant_middleware.testing.history import said, texts


async def test_the_probe_reaches_every_await() -> None:
    seen: list[int] = []

    async def three() -> None:
        for step in range(3):
            seen.append(step)
            await asyncio.sleep(0)
        seen.append(99)

    points = [point async for point in cancel_everywhere(three)]
    assert points == [0, 1, 2] and seen == [0, 0, 1, 0, 1, 2, 0, 1, 2, 99]


async def test_a_swallowed_cancellation_is_noticed() -> None:
    async def stubborn() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0)

    with pytest.raises(AssertionError, match="swallowed"):
        async for _ in cancel_everywhere(stubborn):
            pass


@pytest.fixture
async def history(redis_url: str) -> AsyncIterator[RedisHistory]:
    store = RedisHistory(redis_url)
    yield store
    await store.aclose()


async def test_a_cancelled_read_leaves_no_reply_behind(history: RedisHistory, pair: tuple[Tenant, Tenant]) -> None:
    a, b = pair
    for tenant in pair:
        await history.aappend(tenant, "s", said(f"of {tenant.id}"))
    points = 0
    async for _ in cancel_everywhere(lambda: history.aread(a, "s")):
        points += 1
        assert texts(await history.aread(b, "s")) == [f"of {b.id}"]
        assert texts(await history.aread(a, "s")) == [f"of {a.id}"]
    assert points >= 1


async def test_a_cancelled_append_is_whole_or_not_there(history: RedisHistory, pair: tuple[Tenant, Tenant]) -> None:
    a, b = pair
    await history.aappend(b, "s", said("of b"))
    async for _ in cancel_everywhere(lambda: history.aappend(a, "s", said("1", "2", "3"))):
        assert texts(await history.aread(b, "s")) == ["of b"]
        assert len(await history.aread(a, "s")) % 3 == 0


async def test_cold_connections_are_safe_too(redis_url: str, pair: tuple[Tenant, Tenant]) -> None:
    """Cancelled while it connects: each point gets a client that has no connection yet."""
    a, b = pair
    setup = RedisHistory(redis_url)
    for tenant in pair:
        await setup.aappend(tenant, "s", said(f"of {tenant.id}"))
    await setup.aclose()
    fresh: list[RedisHistory] = []

    async def cold() -> None:
        fresh.append(RedisHistory(redis_url, timeout=0.3))
        await fresh[-1].aread(a, "s")

    points = 0
    async for _ in cancel_everywhere(cold):
        points += 1
        assert texts(await fresh[-1].aread(b, "s")) == [f"of {b.id}"]
        await fresh.pop().aclose()
    await fresh.pop().aclose()
    assert points >= 2


async def test_cancelled_cache_calls_leave_no_reply_behind(redis_url: str, pair: tuple[Tenant, Tenant]) -> None:
    a, b = pair
    semantic, exact = RedisSemanticCache(redis_url, rules=RULES), RedisExactCache(redis_url, rules=RULES)
    for tenant in pair:
        await semantic.astore(tenant, asked(tenant, "price"), f"of {tenant.id}", version=0)
        await exact.astore(tenant, "k", f"of {tenant.id}")
    calls: list[Any] = [
        lambda: semantic.alookup(a, asked(a, "price")),
        lambda: semantic.astore(a, asked(a, "price"), f"of {a.id}", version=0),
        lambda: exact.alookup(a, "k"),
        lambda: exact.astore(a, "k", f"of {a.id}"),
    ]
    for call in calls:
        async for _ in cancel_everywhere(call):
            assert (await semantic.alookup(b, asked(b, "price"))).answer == f"of {b.id}"
            assert await exact.alookup(b, "k") == f"of {b.id}"
            assert (await semantic.alookup(a, asked(a, "price"))).answer == f"of {a.id}"
    await semantic.aclose()
    await exact.aclose()


async def test_a_cancelled_chain_stores_nothing_wrong(redis_url: str, pair: tuple[Tenant, Tenant]) -> None:
    a, b = pair
    semantic = RedisSemanticCache(redis_url, rules=RULES)

    async def slow(question: str) -> str:
        await asyncio.sleep(0)
        return f"{question} for {whose[-1].id}"

    whose: list[Tenant] = []
    chain = cached(RunnableLambda(slow), cache=semantic, embedding=lambda text: towards(0), name="chain")

    async def ask(tenant: Tenant) -> Any:
        whose.append(tenant)
        async with scope(tenant):
            return await chain.ainvoke("what is the price")

    points = 0
    async for _ in cancel_everywhere(lambda: ask(a)):
        points += 1
        assert await ask(b) == f"what is the price for {b.id}"
        await semantic.ainvalidate(b)
    assert points >= 3 and await ask(a) == f"what is the price for {a.id}"
    await semantic.aclose()


class _Naive:
    """A pooled connection as clients had them: a reply that was never read stays for the next caller."""

    def __init__(self, url: str) -> None:
        self._host, self._port = url.removeprefix("redis://").split(":")

    async def open(self) -> None:
        self._reader, self._writer = await asyncio.open_connection(self._host, int(self._port))

    async def get(self, key: str) -> str:
        self._writer.write(f"GET {key}\r\n".encode())
        await self._writer.drain()
        length = int((await self._reader.readline())[1:])
        return (await self._reader.readexactly(length + 2))[:-2].decode()

    async def close(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()


async def test_the_probe_turns_red_on_a_client_that_keeps_such_a_connection(redis_url: str) -> None:
    with Redis.from_url(redis_url) as setup:
        setup.mset({"a": "canary of a", "b": "of b"})
    client = _Naive(redis_url)
    await client.open()
    assert await client.get("a") == "canary of a"
    async for _ in cancel_everywhere(lambda: client.get("a")):
        assert await client.get("b") == "canary of a"
        break
    await client.close()
