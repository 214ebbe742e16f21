"""Pinecone through its own SDK against the stand-in server: the contract, and what goes over the wire."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tenant_middleware import keys
from tenant_middleware.backends.pinecone import PineconeVectors
from tenant_middleware.errors import ConfigurationError, InvalidInput, IsolationBreach
from tenant_middleware.isolation import place as rules
from tenant_middleware.isolation.vectors import Record
from tenant_middleware.policy import Isolation
from tenant_middleware.tenant import Tenant
from tenant_middleware.testing.vectors import NewVectors, VectorsContract, axis, foreign_seen
from tests.pinecone_server.app import PineconeServer
from tests.vectors.backends import INDEX, KINDS, STORES, pinecone_over

ACME, SMALL = Tenant("Acme", "free"), Tenant("acme", "free")


class TestPineconeVectors(VectorsContract):
    @pytest.fixture
    def new_vectors(self) -> Iterator[NewVectors]:
        with STORES["pinecone"]() as new:
            yield new

    @pytest.fixture
    def two(self) -> tuple[Tenant, Tenant]:
        return ACME, SMALL


@pytest.fixture(params=KINDS)
def vectors(request: pytest.FixtureRequest, server: PineconeServer) -> Iterator[PineconeVectors]:
    backend = pinecone_over(server, request.param)
    yield backend
    backend.close()


def fill(vectors: PineconeVectors, *tenants: Tenant) -> None:
    for tenant in tenants:
        vectors.upsert(tenant, [Record("1", axis(0), f"canary of {tenant.id}", {"kind": "x"})])


def test_every_request_names_its_tenant(vectors: PineconeVectors, server: PineconeServer) -> None:
    fill(vectors, ACME, SMALL)
    vectors.query(ACME, axis(0), 5, {"$or": [{"kind": "x"}, {"kind": "y"}]})
    vectors.fetch(ACME, ["1"])
    vectors.list_ids(ACME)
    list(vectors.export(ACME))
    vectors.delete(ACME, where={"kind": "y"})
    vectors.delete(ACME, ["1"])
    data = [request for request in server.requests if request.path.startswith("/data/")]
    names = {request.body.get("namespace") or request.query.get("namespace", [""])[0] for request in data}
    assert names <= {keys.namespace(ACME), keys.namespace(SMALL), "tm.shared"} and "" not in names
    assert not any(request.path.endswith(("describe_index_stats", "/namespaces")) for request in data)
    for request in server.seen("/vectors/upsert"):
        for vector in request.body["vectors"]:
            assert list(vector["metadata"])[-1] == "_tm_tenant", "the stamp is written last"
    (query,) = server.seen("/query")
    assert query.body["includeMetadata"] is True
    caller = {"$or": [{"kind": {"$eq": "x"}}, {"kind": {"$eq": "y"}}]}
    if query.body["namespace"] == "tm.shared":
        assert query.body["filter"] == {"$and": [{"_tm_tenant": {"$eq": keys.tag(ACME)}}, caller]}
    else:
        assert query.body["filter"] == caller
    for request in server.seen("/vectors/delete"):
        assert not ("ids" in request.body and "filter" in request.body) and "deleteAll" not in request.body


SWITCHES: list[tuple[str, Isolation, list[str]]] = [
    ("ignores_namespaces", "namespace", ["query", "query where"]),
    ("ignores_filters", "filter", ["query", "query where", "fetch where", "export"]),
]


@pytest.mark.parametrize(("switch", "kind", "paths"), SWITCHES)
def test_a_faulty_service_is_stopped_by_the_check_and_only_by_it(
    switch: str, kind: Isolation, paths: list[str], server: PineconeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = pinecone_over(server, kind)
    fill(vectors, ACME, SMALL)
    assert foreign_seen(vectors, ACME, "canary of Acme", ["1"]) != []
    setattr(server.switches, switch, True)
    assert foreign_seen(vectors, ACME, "canary of acme", ["1"]) == []
    with pytest.raises(IsolationBreach):
        vectors.query(ACME, axis(0))
    with pytest.raises(IsolationBreach):
        vectors.verify_isolation(kind)
    monkeypatch.setattr(rules, "verify", lambda place, rows: None)
    assert foreign_seen(vectors, ACME, "canary of acme", ["1"]) == paths, "without the check the leak must show"
    vectors.close()


def test_records_without_metadata_are_stopped(vectors: PineconeVectors, server: PineconeServer) -> None:
    fill(vectors, ACME)
    server.switches.drops_metadata = True
    for path in (lambda: vectors.query(ACME, axis(0)), lambda: vectors.fetch(ACME, ["1"])):
        with pytest.raises(IsolationBreach):
            path()


def test_not_equal_means_the_same_however_the_service_judges_absent_fields(
    vectors: PineconeVectors, server: PineconeServer
) -> None:
    vectors.upsert(ACME, [Record("1", axis(0), "x", {"kind": "x"}), Record("2", axis(1), "y", {"kind": "y"})])
    vectors.upsert(ACME, [Record("3", axis(2), "none")])
    for server.switches.absent_differs in (False, True):
        assert [hit.id for hit in vectors.query(ACME, axis(0), 5, {"kind": {"$ne": "x"}})] == ["2"]
        assert [hit.id for hit in vectors.query(ACME, axis(0), 5, {"kind": {"$nin": ["x"]}})] == ["2"]


def test_what_the_service_would_refuse_is_refused_before_anything_is_sent(
    vectors: PineconeVectors, server: PineconeServer
) -> None:
    fill(vectors, ACME)
    sent = len(server.seen("/vectors/upsert"))
    with pytest.raises(InvalidInput) as refusal:
        vectors.upsert(ACME, [Record("2", axis(1), "fine"), Record("3", axis(1), "secret " * 8000)])
    assert "secret" not in str(refusal.value) and len(server.seen("/vectors/upsert")) == sent
    with pytest.raises(InvalidInput, match="expected 6 dimensions, got 2"):
        vectors.upsert(ACME, [Record("4", [1.0, 2.0])])
    assert vectors.list_ids(ACME) == ["1"]


def test_the_services_own_words_are_not_repeated(server: PineconeServer) -> None:
    """Its messages quote values; ours don't, and don't carry its exception along."""
    vectors = PineconeVectors(INDEX, api_key="key", host=server.host("key", INDEX), dimension=7)
    with pytest.raises(InvalidInput) as refusal:
        vectors.upsert(ACME, [Record("1", [0.123456] * 7, "secret text")])
    error: BaseException | None = refusal.value
    while error is not None:
        assert "0.123456" not in str(error) and "secret" not in str(error) and "dimension 7" not in str(error)
        error = error.__cause__ or error.__context__
    vectors.close()


def test_a_large_upsert_is_cut_by_number_and_by_size(vectors: PineconeVectors, server: PineconeServer) -> None:
    vectors.upsert(ACME, [Record(str(i), axis(i), "x" * 30_000) for i in range(100)])
    vectors.upsert(SMALL, [Record(str(i), axis(i)) for i in range(2100)])
    sizes = [len(request.body["vectors"]) for request in server.seen("/vectors/upsert")]
    assert sum(sizes) == 2200 and max(sizes) == 1000 and len(sizes) == 2 + 3
    assert vectors.count(ACME) == 100 and len(vectors.fetch(ACME, [str(i) for i in range(100)])) == 100


def test_a_lower_distance_is_a_higher_score(server: PineconeServer) -> None:
    server.create_index("far", 2, metric="euclidean")
    vectors = PineconeVectors("far", api_key="key", controller=server.url)
    vectors.upsert(ACME, [Record("near", [1.0, 0.0]), Record("far", [5.0, 0.0])])
    assert [(hit.id, hit.score) for hit in vectors.query(ACME, [1.0, 0.0])] == [("near", 0.0), ("far", -16.0)]
    vectors.close()


def test_an_index_that_is_missing_or_of_another_kind_is_said_so(server: PineconeServer) -> None:
    fields = {
        "fields": {"_values": {"type": "dense_vector", "dimension": 6, "metric": "cosine"}, "body": {"type": "string"}}
    }
    server.project("key").create({"name": "documents", "schema": fields})
    for index in ("missing", "documents"):
        vectors = PineconeVectors(index, api_key="key", controller=server.url, kinds=("namespace",))
        with pytest.raises(ConfigurationError):
            vectors.query(ACME, axis(0))
        vectors.close()
    server.refused_keys.add("stale-key")
    vectors = PineconeVectors(INDEX, api_key="stale-key", controller=server.url)
    with pytest.raises(ConfigurationError) as refusal:
        vectors.query(ACME, axis(0))
    assert "stale-key" not in str(refusal.value)
    vectors.close()
    for wrong in ({"index": "", "api_key": "key"}, {"index": "x", "api_key": ""}):
        with pytest.raises(ConfigurationError):
            PineconeVectors(**wrong)


def test_records_outside_every_tenant_are_a_finding(vectors: PineconeVectors, server: PineconeServer) -> None:
    fill(vectors, ACME)
    assert vectors.audit() == []
    server.project("key").indexes[INDEX].upsert({"vectors": [{"id": "stray", "values": axis(0)}]})
    (finding,) = vectors.audit()
    assert finding.startswith("1 records") and "tm." not in finding


def test_each_loop_has_clients_of_its_own(vectors: PineconeVectors) -> None:
    async def ask() -> list[str]:
        found = await asyncio.gather(*(vectors.aquery(tenant, axis(0)) for tenant in (ACME, SMALL)))
        assert await vectors.aaudit() == []
        await vectors.aclose()
        return [hits[0].text for hits in found]

    fill(vectors, ACME, SMALL)
    assert [asyncio.run(ask()) for _ in range(2)] == [["canary of Acme", "canary of acme"]] * 2


def test_threads_of_many_tenants_do_not_meet(vectors: PineconeVectors) -> None:
    tenants = [Tenant(f"t{number}", "free") for number in range(8)]
    wrong: list[Any] = []

    def work(tenant: Tenant) -> None:
        for number in range(5):
            vectors.upsert(tenant, [Record(str(number), axis(number), tenant.id)])
            wrong.extend(hit for hit in vectors.query(tenant, axis(0), 50) if hit.text != tenant.id)

    threads = [threading.Thread(target=work, args=(tenant,)) for tenant in tenants]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [] and [vectors.count(tenant) for tenant in tenants] == [5] * 8
