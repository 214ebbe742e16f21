"""LangGraph's own savers on every backend, sync and async, and one that has every method of the interface."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.redis import RedisSaver
from langgraph.checkpoint.redis.aio import AsyncRedisSaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from redis.asyncio import Redis as AsyncRedis

BACKENDS = ["memory", "whole", "sqlite", "redis", pytest.param("postgres", marks=pytest.mark.services)]


class WholeSaver(InMemorySaver):
    """In memory with the methods that no saver on PyPI has all of: copy_thread, prune and delete_for_runs."""

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        for found in reversed(list(self.list({"configurable": {"thread_id": source_thread_id}}))):
            place = {"thread_id": target_thread_id, "checkpoint_ns": found.config["configurable"]["checkpoint_ns"]}
            if found.parent_config:
                place["checkpoint_id"] = found.parent_config["configurable"]["checkpoint_id"]
            versions = found.checkpoint["channel_versions"]
            put = self.put({"configurable": place}, found.checkpoint, found.metadata, versions)
            for task, channel, value in found.pending_writes or ():
                self.put_writes(put, [(channel, value)], task)

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest", **options: Any) -> None:
        for thread in thread_ids:
            for space in self.storage.get(thread, {}).values():
                for name in sorted(space)[: -1 if strategy == "keep_latest" else None]:
                    del space[name]

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        for found in list(self.list(None)):
            if found.metadata.get("run_id") in run_ids:
                where = found.config["configurable"]
                del self.storage[where["thread_id"]][where["checkpoint_ns"]][where["checkpoint_id"]]

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        self.copy_thread(source_thread_id, target_thread_id)

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest", **options: Any) -> None:
        self.prune(thread_ids, strategy=strategy, **options)

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        self.delete_for_runs(run_ids)


EXTRAS = {"whole": {"copy_thread", "prune", "delete_for_runs"}, "redis": {"prune"}, "postgres": {"prune"}}
"""Which of the three optional abilities a backend's saver has."""


@contextmanager
def opened(name: str, request: pytest.FixtureRequest) -> Iterator[Any]:
    """An empty sync saver."""
    if name == "sqlite":
        with SqliteSaver.from_conn_string(":memory:") as sqlite:
            yield sqlite
    elif name == "redis":
        with RedisSaver.from_conn_string(request.getfixturevalue("redis_url")) as redis:
            redis.setup()
            yield redis
    elif name == "postgres":
        with PostgresSaver.from_conn_string(request.getfixturevalue("postgres_url")) as postgres:
            postgres.setup()
            yield postgres
    else:
        yield InMemorySaver() if name == "memory" else WholeSaver()


@asynccontextmanager
async def aopened(name: str, request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    """An empty async saver."""
    if name == "sqlite":
        async with AsyncSqliteSaver.from_conn_string(":memory:") as sqlite:
            yield sqlite
    elif name == "redis":
        async with AsyncRedis.from_url(request.getfixturevalue("redis_url")) as client:  # by a URL it warns
            async with AsyncRedisSaver(redis_client=client) as redis:
                await redis.asetup()
                yield redis
    elif name == "postgres":
        async with AsyncPostgresSaver.from_conn_string(request.getfixturevalue("postgres_url")) as postgres:
            await postgres.setup()
            yield postgres
    else:
        yield InMemorySaver() if name == "memory" else WholeSaver()
