"""The one table of vector backends that suites run over; a server is started once for each process that asks for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from tenant_middleware.backends.in_memory.vectors import InMemoryDriver
from tenant_middleware.backends.pinecone import PineconeVectors
from tenant_middleware.isolation.scoped import ScopedVectors
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


STORES: dict[str, Callable[[], AbstractContextManager[NewVectors]]] = {"memory": _memory, "pinecone": _pinecone}
KINDS: tuple[Isolation, ...] = ("namespace", "filter", "silo")
EVERYWHERE: list[tuple[str, Isolation]] = [(name, kind) for name in STORES for kind in KINDS]
