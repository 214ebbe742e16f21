"""The contract of a Vectors backend: subclass VectorsContract and give it a fixture that makes views of one store.

    class TestMine(VectorsContract):
        @pytest.fixture
        def new_vectors(self): return lambda isolation: MyVectors(URL, isolation=isolation)

Each test runs for every kind of isolation in `kinds`, by plain calls and by awaiting, with two tenants over one store
that hold the same ids. The store is empty when a test begins.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, ClassVar

import pytest

from tenant_middleware import keys
from tenant_middleware.errors import ConfigurationError, InvalidInput, TenantMismatch
from tenant_middleware.isolation.filters import parse, predicate
from tenant_middleware.isolation.place import STAMP
from tenant_middleware.isolation.vectors import Record, Vectors
from tenant_middleware.policy import Isolation
from tenant_middleware.tenant import Tenant
from tenant_middleware.testing.vector_cases import (
    BAD_FILTERS,
    BAD_RECORDS,
    CORPUS,
    DIMENSION,
    FILTERS,
    HOSTILE_IDS,
    PAIRS,
    Awaited,
    axis,
    foreign_seen,
)

__all__ = ["DIMENSION", "Awaited", "NewVectors", "VectorsContract", "axis", "foreign_seen"]

NewVectors = Callable[[Isolation], Any]
Two = tuple[Tenant, Tenant]


class VectorsContract:
    """What every Vectors backend promises."""

    kinds: ClassVar[tuple[Isolation, ...]] = ("namespace", "filter", "silo")
    bulk: ClassVar[int] = 1200

    @pytest.fixture
    def new_vectors(self) -> NewVectors:
        """Makes views of one store, by kind of isolation; override this."""
        raise LookupError("VectorsContract: override the fixture new_vectors")

    @pytest.fixture(params=["namespace", "filter", "silo"])
    def kind(self, request: pytest.FixtureRequest) -> Isolation:
        if request.param not in self.kinds:
            pytest.skip(f"this backend has no {request.param}")
        return request.param  # type: ignore[no-any-return]  # pytest's params are untyped

    @pytest.fixture(params=["plain", "awaited"])
    def vectors(self, request: pytest.FixtureRequest, new_vectors: NewVectors, kind: Isolation) -> Iterator[Any]:
        backend: Vectors = new_vectors(kind)
        with asyncio.Runner() as runner:
            yield backend if request.param == "plain" else Awaited(backend, runner)
            runner.run(backend.aclose())

    @pytest.fixture(params=PAIRS, ids="/".join)
    def two(self, request: pytest.FixtureRequest) -> Two:
        first, second = request.param
        return Tenant(first, "free"), Tenant(second, "free")

    def test_equal_ids_are_two_records(self, vectors: Any, two: Two) -> None:
        a, b = two
        vectors.upsert(a, [Record("1", axis(0), "canary of a", {"kind": "x"})])
        assert vectors.query(b, axis(0)) == [] and vectors.fetch(b, ["1"]) == [] and vectors.list_ids(b) == []
        vectors.upsert(b, [Record("1", axis(0), "canary of b", {"kind": "x"})])
        for tenant, canary in ((a, "canary of a"), (b, "canary of b")):
            assert [hit.text for hit in vectors.query(tenant, axis(0), 10)] == [canary]
            assert [hit.text for hit in vectors.query(tenant, axis(0), 10, {"kind": "x"})] == [canary]
            assert [record.text for record in vectors.fetch(tenant, ["1"])] == [canary]
            assert [record.text for record in vectors.fetch(tenant, where={"kind": "x"})] == [canary]
            assert [record.text for record in vectors.export(tenant)] == [canary]
            assert vectors.list_ids(tenant) == ["1"] and vectors.count(tenant) == 1

    def test_nearest_first_with_cosine_scores(self, vectors: Any, two: Two) -> None:
        a, b = two
        vectors.upsert(a, [Record("near", axis(0, 0.1), "n"), Record("same", [2 * x for x in axis(0)], "s")])
        vectors.upsert(a, [Record("far", axis(3), "f")])
        vectors.upsert(b, [Record("same", axis(0), "foreign")])
        hits = vectors.query(a, axis(0), 3)
        assert [hit.id for hit in hits] == ["same", "near", "far"]
        expected = [1.0, 1 / math.sqrt(1 + 5 * 0.01), 0.0]
        assert [hit.score for hit in hits] == pytest.approx(expected, abs=1e-3)
        assert [hit.id for hit in vectors.query(a, axis(0), 1)] == ["same"]

    def test_filters_mean_what_the_reference_says(self, vectors: Any, two: Two) -> None:
        a, b = two
        vectors.upsert(a, [Record(str(i), axis(i), f"a{i}", data) for i, data in enumerate(CORPUS)])
        vectors.upsert(b, [Record(str(i), axis(i), f"b{i}", data) for i, data in enumerate(CORPUS)])
        for where in FILTERS:
            holds = predicate(parse(where))
            expected = {f"a{i}" for i, data in enumerate(CORPUS) if holds(data)}
            assert {hit.text for hit in vectors.query(a, axis(0), 50, where)} == expected, where
            if where:
                assert {record.text for record in vectors.fetch(a, where=where)} == expected, where

    def test_a_callers_filter_narrows_and_never_widens(self, vectors: Any, two: Two) -> None:
        a, b = two
        vectors.upsert(a, [Record("1", axis(0), "canary of a", {"kind": "x"})])
        vectors.upsert(b, [Record("2", axis(0), "canary of b", {"kind": "y"})])
        wide = {"$or": [{"kind": "x"}, {"kind": "y"}, {"kind": {"$exists": False}}]}
        assert [hit.text for hit in vectors.query(a, axis(0), 10, wide)] == ["canary of a"]
        stamp = {STAMP: {"$eq": keys.tag(b)}}
        for hostile in (stamp, {"$or": [stamp, {"kind": "x"}]}, {"$and": [{"$or": [stamp]}]}, {"tenant_id": b.id}):
            for attempt in (
                partial(vectors.query, a, axis(0), 10, hostile),
                partial(vectors.fetch, a, where=hostile),
                partial(vectors.delete, a, where=hostile),
            ):
                with pytest.raises(InvalidInput):
                    attempt()
        assert vectors.count(a) == vectors.count(b) == 1

    def test_unknown_filters_are_refused(self, vectors: Any, two: Two) -> None:
        a, _ = two
        vectors.upsert(a, [Record("1", axis(0), "a", {"kind": "x"})])
        for where in BAD_FILTERS:
            with pytest.raises(InvalidInput):
                vectors.query(a, axis(0), 5, where)
            with pytest.raises(InvalidInput):
                vectors.delete(a, where=where)
        assert vectors.count(a) == 1

    def test_fetch_keeps_the_order_and_leaves_out_what_is_missing(self, vectors: Any, two: Two) -> None:
        a, b = two
        vectors.upsert(a, [Record(name, axis(i), name) for i, name in enumerate("xyz")])
        vectors.upsert(b, [Record("w", axis(0), "foreign")])
        assert [record.id for record in vectors.fetch(a, ["z", "w", "x", "z"])] == ["z", "x"]
        assert vectors.fetch(a, []) == [] and vectors.fetch(b, ["x", "y"]) == []
        assert list(vectors.fetch(a, ["y"])[0].vector) == pytest.approx(axis(1))

    def test_delete_is_exact(self, vectors: Any, two: Two) -> None:
        a, b = two
        for tenant in two:
            vectors.delete(tenant, ["never there"])
            vectors.upsert(tenant, [Record(name, axis(i), name) for i, name in enumerate(HOSTILE_IDS)])
        vectors.delete(a, ["doc1", "*", "missing"])
        vectors.delete(a, [])
        assert vectors.list_ids(a) == sorted(set(HOSTILE_IDS) - {"doc1", "*"})
        assert vectors.list_ids(b) == sorted(HOSTILE_IDS)
        assert [record.id for record in vectors.fetch(a, HOSTILE_IDS)] == [
            x for x in HOSTILE_IDS if x not in ("doc1", "*")
        ]

    def test_delete_by_condition(self, vectors: Any, two: Two) -> None:
        a, b = two
        vectors.delete(a, where={"kind": "x"})
        for tenant in two:
            vectors.upsert(tenant, [Record(name, axis(0), name, {"kind": name}) for name in ("x", "y", "x2")])
        vectors.delete(a, where={"kind": {"$in": ["x", "y"]}})
        assert vectors.list_ids(a) == ["x2"] and vectors.list_ids(b) == ["x", "x2", "y"]
        both: dict[str, Any] = {"ids": ["x2"], "where": {"kind": "x2"}}
        empty: dict[str, Any] = {"where": {}}
        for refused in (empty, both, {}):
            with pytest.raises(InvalidInput):
                vectors.delete(a, **refused)
        assert vectors.count(a) == 1

    def test_records_come_back_as_they_were(self, vectors: Any, two: Two) -> None:
        a, b = two
        data = {"n": 1, "f": 1.5, "t": True, "none": None, "deep": {"a": [1, {"b": None}]}, "list": ["x", "ü"], "e": []}
        vectors.upsert(a, [Record("ü/1", axis(0, 0.5), "line\nbreak 😀 \x00", data)])
        vectors.upsert(b, [Record("ü/1", axis(1), "", {})])
        (hit,), (record,) = vectors.query(a, axis(0)), vectors.export(a)
        for found in (hit, record, *vectors.fetch(a, ["ü/1"])):
            assert (found.id, found.text, found.metadata) == ("ü/1", "line\nbreak 😀 \x00", data)
            assert type(found.metadata["n"]) is int
        found.metadata["n"] = 2
        assert vectors.fetch(a, ["ü/1"])[0].metadata == data
        assert list(record.vector) == pytest.approx(axis(0, 0.5))
        assert vectors.fetch(b, ["ü/1"])[0].text == ""

    def test_upsert_replaces_the_whole_record(self, vectors: Any, two: Two) -> None:
        a, b = two
        for tenant in two:
            vectors.upsert(tenant, [Record("1", axis(0), "old", {"kind": "x", "year": 1})])
        vectors.upsert(a, [Record("1", axis(2), "between"), Record("1", axis(1), "new", {"kind": "y"})])
        vectors.upsert(a, [])
        assert [(hit.text, hit.metadata) for hit in vectors.query(a, axis(1))] == [("new", {"kind": "y"})]
        assert vectors.query(a, axis(1), 5, {"year": 1}) == []
        assert [hit.text for hit in vectors.query(b, axis(0), 5, {"year": 1})] == ["old"]

    def test_bad_records_are_refused_and_nothing_of_the_call_is_stored(self, vectors: Any, two: Two) -> None:
        a, _ = two
        vectors.upsert(a, [Record("1", axis(0), "first")])
        for bad in BAD_RECORDS:
            with pytest.raises(InvalidInput):
                vectors.upsert(a, [Record("good", axis(1), "x"), bad])
        assert vectors.list_ids(a) == ["1"]

    def test_bad_questions_are_refused(self, vectors: Any, two: Two) -> None:
        a, _ = two
        vectors.upsert(a, [Record("1", axis(0), "first")])
        for vector in ([math.nan] * DIMENSION, [0.0] * DIMENSION, axis(0)[:-1], "text"):
            with pytest.raises(InvalidInput):
                vectors.query(a, vector)
        for k in (0, -1, True, 10_001, 1.5):
            with pytest.raises(InvalidInput):
                vectors.query(a, axis(0), k)
        with pytest.raises(InvalidInput):
            vectors.query("acme", axis(0))
        assert len(vectors.query(a, axis(0), 10_000)) == 1

    def test_numbers_of_other_kinds_become_floats(self, vectors: Any, two: Two) -> None:
        a, b = two
        number = type("Number", (), {"__init__": lambda s, x: setattr(s, "x", x), "__float__": lambda s: float(s.x)})
        vectors.upsert(a, [Record("1", [number(x) for x in axis(0)], "a")])
        vectors.upsert(b, [Record("1", (1, 0, 0, 0, 0, 0), "b")])
        assert [hit.text for hit in vectors.query(a, [number(x) for x in axis(0)])] == ["a"]

    def test_a_callers_list_stays_the_callers(self, vectors: Any, two: Two) -> None:
        """Vectors are checked where they are; whoever keeps one keeps a copy."""
        (a, b), mine = two, list(axis(0))
        for tenant in (a, b):
            vectors.upsert(tenant, [Record("1", mine, "t")])
        mine[:] = axis(3)
        for tenant in (a, b):
            (found,) = vectors.fetch(tenant, ["1"])
            assert found.vector == pytest.approx(axis(0)) and vectors.query(tenant, axis(0), 1)[0].score > 0.9

    def test_a_write_stamped_for_another_is_refused(self, vectors: Any, two: Two) -> None:
        a, b = two
        for data in ({STAMP: keys.tag(b)}, {STAMP: None}, {"tenant_id": b.id}, {"tenant_id": None}):
            with pytest.raises(TenantMismatch) as refusal:
                vectors.upsert(a, [Record("1", axis(0), "x", data)])
            assert b.id not in str(refusal.value).replace("tenant", "").split()
        vectors.upsert(a, [Record("1", axis(0), "x", {STAMP: keys.tag(a), "tenant_id": a.id})])
        assert vectors.fetch(a, ["1"])[0].metadata == {"tenant_id": a.id}
        assert vectors.count(b) == 0

    def test_erase_takes_everything_of_one(self, vectors: Any, two: Two) -> None:
        a, b = two
        assert vectors.erase(a) == 0
        for tenant in two:
            vectors.provision(tenant)
            vectors.upsert(tenant, [Record(str(i), axis(i), f"{tenant.id}-{i}") for i in range(7)])
        assert vectors.erase(a) == 7
        assert vectors.count(a) == 0 and list(vectors.export(a)) == [] and vectors.query(a, axis(0)) == []
        assert vectors.count(b) == 7 and len(list(vectors.query(b, axis(0), 10))) == 7
        vectors.upsert(a, [Record("1", axis(0), "again")])
        assert [hit.text for hit in vectors.query(a, axis(0), 10)] == ["again"]

    def test_many_records(self, vectors: Any) -> None:
        a, b = Tenant("acme", "free"), Tenant("globex", "free")
        vectors.upsert(b, [Record("0", axis(0), "b")])
        vectors.upsert(a, [Record(str(i), axis(i, i / 9000), str(i), {"n": i}) for i in range(self.bulk)])
        assert vectors.count(a) == self.bulk
        assert vectors.list_ids(a) == sorted(map(str, range(self.bulk)))
        assert sorted(int(record.id) for record in vectors.export(a)) == list(range(self.bulk))
        assert len(vectors.fetch(a, where={"n": {"$gte": 10}}, limit=600)) == 600
        vectors.delete(a, [str(i) for i in range(self.bulk - 1)])
        assert vectors.list_ids(a) == [str(self.bulk - 1)] and vectors.list_ids(b) == ["0"]

    def test_what_one_does_the_other_does_not_see(self, vectors: Any, two: Two) -> None:
        a, b = two
        vectors.upsert(b, [Record(str(i), axis(i), f"b{i}", {"kind": "x"}) for i in range(4)])

        def view() -> Any:
            return vectors.query(b, axis(0, 0.1), 10), vectors.list_ids(b), vectors.fetch(b, where={"kind": "x"})

        before = view()
        vectors.upsert(a, [Record(str(i), axis(i), "overwritten", {"kind": "x"}) for i in range(4)])
        assert view() == before
        vectors.delete(a, ["0"])
        vectors.delete(a, where={"kind": "x"})
        assert view() == before
        vectors.erase(a)
        assert view() == before
        assert foreign_seen(vectors, a, "b0", ["0", "1"]) == []
        assert foreign_seen(vectors, b, "b0", ["0", "1"]) == ["query", "query where", "fetch", "fetch where", "export"]

    def test_an_isolation_that_changed_is_refused_while_the_old_place_holds_data(
        self, new_vectors: NewVectors, two: Two, kind: Isolation
    ) -> None:
        a, b = two
        old = new_vectors(kind)
        old.upsert(a, [Record("1", axis(0), "a")])
        for other in self.kinds:
            if other == kind:
                continue
            new = new_vectors(other)
            for attempt in (partial(new.query, a, axis(0)), partial(new.upsert, a, [Record("2", axis(1))])):
                with pytest.raises(ConfigurationError):
                    attempt()
            new.upsert(b, [Record("1", axis(0), "b")])
            assert new.erase(b) == 1
            new.close()
        assert [hit.text for hit in old.query(a, axis(0))] == ["a"]
        assert old.erase(a) == 1
        old.close()

    def test_two_probes_and_recall(self, vectors: Any, kind: Isolation, two: Two) -> None:
        vectors.verify_isolation(kind, dimension=DIMENSION)
        a, b = two
        vectors.upsert(a, [Record(str(i), axis(i, i / 100), str(i)) for i in range(30)])
        vectors.upsert(b, [Record(str(i), axis(i, i / 100), str(i)) for i in range(300)])
        report = vectors.recall_check(a, k=5, samples=10)
        assert (report.records, report.samples, report.recall, report.advice) == (30, 10, 1.0, None)
