"""Awaited calls that are cancelled or cut off by the deadline: what it costs them, and nobody else.

The SDK's connection pool keeps no place for a request that is cancelled between getting a connection and using it, so
as many of those as it has connections would leave none for anybody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from pinecone import AsyncIndex
from pinecone._internal import http_client

from tenant_middleware.backends.pinecone import PineconeVectors
from tenant_middleware.errors import StoreUnavailable
from tenant_middleware.isolation.vectors import Record
from tenant_middleware.tenant import Tenant
from tenant_middleware.testing.vectors import axis
from tests.pinecone_server.app import PineconeServer
from tests.vectors.backends import pinecone_over

ACME, GLOBEX = Tenant("acme", "free"), Tenant("globex", "free")
CONNECTIONS = http_client._default_pool_size()

pytestmark = pytest.mark.usefixtures("quick_retries")


@pytest.fixture
def vectors(server: PineconeServer) -> Iterator[PineconeVectors]:
    """One that holds a record of each tenant, and has yet to open its first connection by awaiting."""
    # The deadline is long enough that only a call for which there is no connection reaches it.
    made = pinecone_over(server, "filter", kinds=("filter",), deadline=60.0)
    for tenant in (ACME, GLOBEX):
        made.upsert(tenant, [Record("1", axis(0), tenant.id)])
    yield made
    made.close()


async def texts(vectors: PineconeVectors, tenant: Tenant) -> list[str]:
    return [hit.text for hit in await vectors.aquery(tenant, axis(0))]


async def asked(server: PineconeServer, times: int) -> None:
    """Wait until the server has got so many searches."""
    while len(server.seen("/query")) < times:  # noqa: ASYNC110  it runs in threads that know no loop
        await asyncio.sleep(0)


def over_after(turns: int) -> asyncio.Timeout:
    """A timeout that so many turns of the event loop bring about."""
    loop, timeout = asyncio.get_running_loop(), asyncio.timeout_at(None)

    def turn(left: int) -> None:
        if left:
            loop.call_soon(turn, left - 1)
        else:
            with suppress(RuntimeError):  # it was quicker
                timeout.reschedule(0)

    loop.call_soon(turn, turns)
    return timeout


def test_cancelled_calls_take_no_connections_with_them(vectors: PineconeVectors) -> None:
    async def act() -> list[str]:
        for point in range(16):
            begun = [asyncio.ensure_future(texts(vectors, ACME)) for _ in range(CONNECTIONS)]
            for _ in range(point):
                await asyncio.sleep(0)
            for call in begun:
                call.cancel()
            await asyncio.wait(begun)
        try:
            return await texts(vectors, GLOBEX)
        finally:
            await vectors.aclose()

    assert asyncio.run(act()) == ["globex"]


def test_neither_do_those_that_the_deadline_cuts_off(vectors: PineconeVectors, monkeypatch: pytest.MonkeyPatch) -> None:
    async def act() -> list[str]:
        outcomes = []
        for turns in range(16):
            with monkeypatch.context() as patched:
                patched.setattr(asyncio, "timeout", lambda seconds, turns=turns: over_after(turns))
                calls = [texts(vectors, ACME) for _ in range(CONNECTIONS)]
                outcomes += await asyncio.gather(*calls, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} - {list} == {StoreUnavailable}, "a quick server answers some"
        try:
            return await texts(vectors, GLOBEX)
        finally:
            await vectors.aclose()

    assert asyncio.run(act()) == ["globex"]


def test_others_calls_outlive_the_one_that_was_cut_off(
    vectors: PineconeVectors, server: PineconeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[Any] = []
    close = AsyncIndex.close

    async def noted(index: AsyncIndex) -> None:
        events.append("closed")
        await close(index)

    async def act() -> None:
        await texts(vectors, GLOBEX)
        server.fail("hang", 2, "/query")
        patient = asyncio.ensure_future(texts(vectors, GLOBEX))
        await asked(server, 2)
        monkeypatch.setattr(asyncio, "timeout", lambda seconds: over_after(20))
        with pytest.raises(StoreUnavailable):
            await texts(vectors, ACME)
        events.append("cut off")
        server.ended.set()  # the connection of the other breaks, and it asks again
        events.append(await patient)
        await vectors.aclose()

    monkeypatch.setattr(AsyncIndex, "close", noted)
    asyncio.run(act())
    assert events == ["cut off", "closed", ["globex"]]


def test_closing_ends_what_is_under_way(vectors: PineconeVectors, server: PineconeServer) -> None:
    async def act() -> None:
        server.fail("hang", 2, "/query")
        left, waited_for = (asyncio.ensure_future(texts(vectors, tenant)) for tenant in (ACME, GLOBEX))
        await asked(server, 2)
        left.cancel()
        await asyncio.wait((left,))
        await vectors.aclose()
        with pytest.raises(StoreUnavailable):
            await waited_for
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(act())
    server.ended.set()
