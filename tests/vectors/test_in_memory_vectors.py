"""The reference backend under the contract, and a driver that leaks under the shipped checks."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tenant_middleware.backends.in_memory.vectors import InMemoryDriver, InMemoryVectors
from tenant_middleware.errors import InvalidInput, IsolationBreach
from tenant_middleware.isolation import place as rules
from tenant_middleware.isolation.drivers import Cursor
from tenant_middleware.isolation.filters import Where
from tenant_middleware.isolation.place import Place, Row
from tenant_middleware.isolation.scoped import ScopedVectors
from tenant_middleware.isolation.vectors import Record
from tenant_middleware.policy import Isolation
from tenant_middleware.tenant import Tenant
from tenant_middleware.testing.vectors import DIMENSION, NewVectors, VectorsContract, axis, foreign_seen


class TestInMemoryVectors(VectorsContract):
    @pytest.fixture
    def new_vectors(self) -> NewVectors:
        driver = InMemoryDriver()
        return lambda isolation: ScopedVectors(driver, isolation=isolation)


class LeakyDriver(InMemoryDriver):
    """A store with one of the faults that real ones have had."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault

    def _name(self, place: Place) -> str:  # type: ignore[override]  # reads the switch
        return "one for all" if self.fault == "ignores namespaces" else super()._name(place)

    def query(self, place: Place, vector: list[float], k: int, where: Where | None) -> list[Row]:
        return self._lossy(super().query(place, vector, k, self._filter(where)))

    def scan(self, place: Place, where: Where | None, limit: int, cursor: Cursor) -> tuple[list[Row], Cursor]:
        rows, following = super().scan(place, self._filter(where), limit, cursor)
        return self._lossy(rows), following

    def fetch(self, place: Place, keys: Sequence[str]) -> list[Row]:
        return self._lossy(super().fetch(place, keys))

    def _filter(self, where: Where | None) -> Where | None:
        return None if self.fault == "ignores filters" else where

    def _lossy(self, rows: list[Row]) -> list[Row]:
        if self.fault != "drops metadata":
            return rows
        return [Row(row.key, None, None, row.text, {}, row.vector, row.score) for row in rows]


FAULTS: list[tuple[str, Isolation]] = [
    ("ignores namespaces", "namespace"),
    ("ignores namespaces", "silo"),
    ("ignores filters", "filter"),
]


@pytest.mark.parametrize(("fault", "kind"), FAULTS)
def test_a_leaky_store_is_stopped_by_the_check_and_only_by_it(
    fault: str, kind: Isolation, pair: tuple[Tenant, Tenant], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = pair
    vectors = ScopedVectors(LeakyDriver(fault), isolation=kind)
    for tenant in pair:
        vectors.upsert(tenant, [Record("1", axis(0), f"canary of {tenant.id}", {"kind": "x"})])
    assert foreign_seen(vectors, a, f"canary of {b.id}", ["1"]) == []
    with pytest.raises(IsolationBreach):
        vectors.query(a, axis(0))
    with pytest.raises(IsolationBreach):
        vectors.verify_isolation(kind, dimension=DIMENSION)

    monkeypatch.setattr(rules, "verify", lambda place, rows: None)
    seen = foreign_seen(vectors, a, f"canary of {b.id}", ["1"])
    assert seen == ["query", "query where", "fetch where", "export"], "without the check the leak must show"


def test_records_that_lost_their_stamp_are_stopped(acme: Tenant) -> None:
    vectors = ScopedVectors(LeakyDriver("drops metadata"), isolation="namespace")
    vectors.upsert(acme, [Record("1", axis(0), "own")])
    for path in (
        lambda: vectors.query(acme, axis(0)),
        lambda: vectors.fetch(acme, ["1"]),
        lambda: list(vectors.export(acme)),
    ):
        with pytest.raises(IsolationBreach) as refusal:
            path()
        assert "own" not in str(refusal.value)


def test_the_policy_decides_each_tenants_isolation(acme: Tenant, globex: Tenant) -> None:
    kinds: dict[str, Isolation] = {"acme": "silo", "globex": "filter"}
    vectors = InMemoryVectors(isolation=lambda tenant: kinds[tenant.id])
    for tenant in (acme, globex):
        vectors.upsert(tenant, [Record("1", axis(0), tenant.id)])
    assert [hit.text for hit in vectors.query(acme, axis(0))] == ["acme"]
    assert [hit.text for hit in vectors.query(globex, axis(0))] == ["globex"]


def test_each_tenant_has_a_dimension_of_its_own_unless_one_is_given(acme: Tenant, globex: Tenant) -> None:
    free = InMemoryVectors(isolation="filter")
    free.upsert(acme, [Record("1", [1.0, 2.0], "two")])
    free.upsert(globex, [Record("1", [1.0, 2.0, 3.0], "three")])
    with pytest.raises(InvalidInput, match="expected 2 dimensions, got 3"):
        free.query(acme, [1.0, 2.0, 3.0])
    with pytest.raises(InvalidInput, match="expected 2 dimensions, got 3"):
        InMemoryVectors(dimension=2).upsert(acme, [Record("1", [1.0, 2.0, 3.0])])


@pytest.mark.parametrize(("metric", "order"), [("dotproduct", ["long", "same"]), ("euclidean", ["same", "long"])])
def test_a_higher_score_is_nearer_whatever_the_metric(metric: str, order: list[str], acme: Tenant) -> None:
    vectors = InMemoryVectors(metric=metric)  # type: ignore[arg-type]  # parametrised
    vectors.upsert(acme, [Record("same", [1.0, 0.0]), Record("long", [3.0, 0.0])])
    hits = vectors.query(acme, [1.0, 0.0])
    assert [hit.id for hit in hits] == order
    assert hits[0].score > hits[1].score
