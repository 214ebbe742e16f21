"""A service that ignores filters, ignores namespaces or loses metadata, under the whole contract.

With our check no tenant is shown what it didn't write, whatever else the contract finds wrong; without it the contract
is red, so the check is what holds.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tenant_middleware.errors import InvalidInput, IsolationBreach
from tenant_middleware.isolation import place as rules
from tenant_middleware.policy import Isolation
from tenant_middleware.tenant import Tenant
from tenant_middleware.testing.vectors import DIMENSION, VectorsContract
from tests.pinecone_server.app import PineconeServer
from tests.vectors.backends import INDEX, pinecone_over

TWO = (Tenant("Acme", "free"), Tenant("acme", "free"))
CONTRACT: dict[str, Callable[..., None]] = {
    name: test
    for name, test in vars(VectorsContract).items()
    if name.startswith("test_") and list(inspect.signature(test).parameters) == ["self", "vectors", "two"]
}
SWITCHES: list[tuple[str, Isolation]] = [
    ("ignores_filters", "filter"),
    ("ignores_namespaces", "namespace"),
    ("drops_metadata", "namespace"),
    ("drops_metadata", "silo"),
]


class Watched:
    """A backend that notes each record that reaches a tenant who never wrote it."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.written: set[tuple[str, str]] = set()
        self.foreign: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def upsert(self, tenant: Tenant, records: Any) -> None:
        self.inner.upsert(tenant, records)
        self.written |= {(tenant.id, record.text) for record in records}

    def _seen(self, tenant: Tenant, found: Any) -> Any:
        self.foreign += [item.text for item in found if (tenant.id, item.text) not in self.written]
        return found

    def query(self, tenant: Tenant, *args: Any) -> Any:
        return self._seen(tenant, self.inner.query(tenant, *args))

    def fetch(self, tenant: Tenant, *args: Any, **options: Any) -> Any:
        return self._seen(tenant, self.inner.fetch(tenant, *args, **options))

    def export(self, tenant: Tenant) -> Iterator[Any]:
        return iter(self._seen(tenant, list(self.inner.export(tenant))))


def _outcomes(switch: str, kind: Isolation) -> tuple[int, int, list[str]]:
    """How many tests of the contract fail, how many our check stopped, and what foreign text was seen."""
    failed = stopped = 0
    foreign: list[str] = []
    for test in CONTRACT.values():
        with PineconeServer() as server:
            server.create_index(INDEX, DIMENSION)
            setattr(server.switches, switch, True)
            vectors = Watched(pinecone_over(server, kind, settle_within=0.1))
            try:
                test(VectorsContract(), vectors, TWO)
            except IsolationBreach:
                stopped += 1
            except (AssertionError, pytest.fail.Exception, IndexError, ValueError, InvalidInput):
                failed += 1
            foreign += vectors.foreign
            vectors.close()
    return failed, stopped, foreign


@pytest.mark.parametrize(("switch", "kind"), SWITCHES, ids=lambda value: value)
def test_with_the_check_nothing_crosses(switch: str, kind: Isolation) -> None:
    _, stopped, foreign = _outcomes(switch, kind)
    assert foreign == [] and stopped > 0


@pytest.mark.parametrize(("switch", "kind"), SWITCHES, ids=lambda value: value)
def test_without_it_the_contract_is_red(switch: str, kind: Isolation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "verify", lambda place, rows: None)
    failed, _, foreign = _outcomes(switch, kind)
    assert failed > 0
    assert foreign != [], "what reached a tenant isn't what it wrote"


def test_the_contract_was_found() -> None:
    assert len(CONTRACT) >= 15
