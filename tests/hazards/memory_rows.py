"""Hazards of memory: LangGraph's savers and stores know no tenant, and a pooled connection may keep a reply."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypedDict

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.store.base import BaseStore
from langgraph.store.memory import InMemoryStore
from redis.asyncio import Redis

from tenant_middleware import scope
from tenant_middleware.backends.redis.history import RedisHistory
from tenant_middleware.isolation.history import Message
from tenant_middleware.langchain import TenantCheckpointSaver, TenantStore
from tenant_middleware.local import local_redis
from tenant_middleware.testing.cancellation import cancel_everywhere
from tests.hazards import old_packages
from tests.hazards.scoreboard import ACME, GLOBEX, Hazard

CANARY = "acme's contract ends in May"
THREAD: Any = {"configurable": {"thread_id": "support"}}


class _State(TypedDict):
    messages: Annotated[list[Any], add_messages]


def _graph(saver: BaseCheckpointSaver[Any]) -> Any:
    builder = StateGraph(_State)
    builder.add_node("answer", lambda state: {"messages": [("ai", "noted")]})
    builder.add_edge(START, "answer")
    return builder.compile(checkpointer=saver)


def _reads_a_thread(saver: BaseCheckpointSaver[Any]) -> bool:
    """Whether globex reads acme's messages under acme's thread id, or sees its thread in a listing."""
    app = _graph(saver)
    with scope(ACME):
        app.invoke({"messages": [("user", CANARY)]}, THREAD)
        mine = app.invoke({"messages": [("user", "And?")]}, THREAD)
        assert CANARY in str(mine), "the owner's own thread isn't there"
    with scope(GLOBEX):
        theirs = app.invoke({"messages": [("user", "Hello")]}, THREAD)
        listed = [str(found.checkpoint["channel_values"]) for found in saver.list(None)]
        return CANARY in str(theirs) or any(CANARY in text for text in listed)


def _searches_the_store(store: BaseStore) -> bool:
    with scope(ACME):
        store.put(("users", "ann"), "note", {"text": CANARY})
        assert [item.value["text"] for item in store.search(())] == [CANARY]
    with scope(GLOBEX):
        return any(item.value["text"] == CANARY for item in store.search(()))


def on_redis(probe: Callable[[str], Awaitable[bool]]) -> bool:
    with local_redis(modules=False) as url:
        return asyncio.run(_awaited(probe(url)))


async def _awaited(leaks: Awaitable[bool]) -> bool:
    return await leaks


def _old_reply() -> bool:
    with local_redis(modules=False) as url:
        return old_packages.leaks("cancelled-reply", url)


async def bare_reply(url: str) -> bool:
    """acme's read is cancelled at each await point; does globex's next read on the pool get acme's reply?"""
    async with Redis.from_url(url, max_connections=1, decode_responses=True) as client:
        await client.mset({"acme": CANARY, "globex": "of globex"})
        assert await client.get("acme") == CANARY
        return any([await client.get("globex") == CANARY async for _ in cancel_everywhere(lambda: client.get("acme"))])


async def _our_reply(url: str) -> bool:
    history = RedisHistory(url)
    for tenant, text in ((ACME, CANARY), (GLOBEX, "of globex")):
        await history.aappend(tenant, "s", [Message("user", text)])
    assert (await history.aread(ACME, "s"))[0].content == CANARY
    read = functools.partial(history.aread, ACME, "s")
    seen = [(await history.aread(GLOBEX, "s"))[0].content async for _ in cancel_everywhere(read)]
    await history.aclose()
    return CANARY in seen


ROWS = [
    Hazard(
        "H8",
        "LangGraph: another tenant's thread id; list(None)",
        lambda: _reads_a_thread(InMemorySaver()),
        lambda: _reads_a_thread(TenantCheckpointSaver(InMemorySaver())),
    ),
    Hazard(
        "H9",
        "LangGraph: store.search(())",
        lambda: _searches_the_store(InMemoryStore()),
        lambda: _searches_the_store(TenantStore(InMemoryStore())),
    ),
    Hazard(
        "H19",
        "Redis: a cancelled request's reply on a pooled connection (redis-py 4.5.1)",
        _old_reply,
        lambda: on_redis(_our_reply),
        apart=True,
    ),
]
