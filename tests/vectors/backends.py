"""The one table of vector backends that suites run over; a server is started once for each process that asks for it."""

from __future__ import annotations

import atexit
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cache

from redis import Redis

from tenant_middleware.backends.in_memory.vectors import InMemoryDriver
from tenant_middleware.backends.pinecone import PineconeVectors
from tenant_middleware.backends.redisvl.vectors import RedisVectors
from tenant_middleware.isolation.scoped import ScopedVectors
from tenant_middleware.local import local_redis
from tenant_middleware.policy import Isolation
from tenant_middleware.testing.vectors import DIMENSION, NewVectors
from tests.pinecone_server.app import PineconeServer

INDEX = "docs"


@contextmanager
def _memory() -> Iterator[NewVectors]:
    driver = InMemoryDriver()
    yield lambda isolation: ScopedVectors(driver, isolation=isolation)


def pinecone_over(server: PineconeServer, isolation: Isolation, **options: object) -> PineconeVectors:
    """A backend on the stand-in server."""
    return PineconeVectors(INDEX, api_key="key", controller=server.url, isolation=isolation, **options)  # type: ignore[arg-type]  # passed on


@contextmanager
def _pinecone() -> Iterator[NewVectors]:
    with PineconeServer() as server:
        server.create_index(INDEX, DIMENSION)
        yield lambda isolation: pinecone_over(server, isolation)


@cache
def redis_url() -> str:
    """A Redis with the search module for this process, gone when it ends."""
    running = ExitStack()
    atexit.register(running.close)
    return running.enter_context(local_redis())


@contextmanager
def _redis() -> Iterator[NewVectors]:
    url = redis_url()
    with Redis.from_url(url) as client:
        for index in client.execute_command("FT._LIST"):
            client.execute_command("FT.DROPINDEX", index, "DD")
        client.flushall()
    yield lambda isolation: RedisVectors(url, isolation=isolation, numeric=("year", "n"))


STORES: dict[str, Callable[[], AbstractContextManager[NewVectors]]] = {
    "memory": _memory,
    "pinecone": _pinecone,
    "redis": _redis,
}
KINDS: tuple[Isolation, ...] = ("namespace", "filter", "silo")
EVERYWHERE: list[tuple[str, Isolation]] = [(name, kind) for name in STORES for kind in KINDS]
