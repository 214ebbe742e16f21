"""The one table of vector backends that suites run over; a server is started once for each process that asks for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from tenant_middleware.backends.in_memory.vectors import InMemoryDriver
from tenant_middleware.isolation.scoped import ScopedVectors
from tenant_middleware.policy import Isolation
from tenant_middleware.testing.vectors import NewVectors


@contextmanager
def _memory() -> Iterator[NewVectors]:
    driver = InMemoryDriver()
    yield lambda isolation: ScopedVectors(driver, isolation=isolation)


STORES: dict[str, Callable[[], AbstractContextManager[NewVectors]]] = {"memory": _memory}
KINDS: tuple[Isolation, ...] = ("namespace", "filter", "silo")
EVERYWHERE: list[tuple[str, Isolation]] = [(name, kind) for name in STORES for kind in KINDS]
