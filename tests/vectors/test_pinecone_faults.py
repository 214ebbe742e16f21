"""A service that is slow, throttled, stale or half there: what a caller sees, and what is stored."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tenant_middleware.backends.pinecone import PineconeVectors
from tenant_middleware.errors import ConfigurationError, PartialWrite, StoreUnavailable
from tenant_middleware.isolation.vectors import Record
from tenant_middleware.tenant import Tenant
from tenant_middleware.testing import ManualClock
from tenant_middleware.testing.vectors import DIMENSION, axis
from tests.pinecone_server.app import PineconeServer
from tests.vectors.backends import INDEX, pinecone_over

ACME, GLOBEX = Tenant("acme", "free"), Tenant("globex", "free")


pytestmark = pytest.mark.usefixtures("quick_retries")


@pytest.fixture
def over(server: PineconeServer) -> Iterator[Any]:
    made: list[PineconeVectors] = []

    def make(isolation: Any = "namespace", **options: Any) -> PineconeVectors:
        made.append(pinecone_over(server, isolation, **options))
        return made[-1]

    yield make
    for vectors in made:
        vectors.close()


def one(vectors: PineconeVectors, tenant: Tenant) -> None:
    vectors.upsert(tenant, [Record("1", axis(0), tenant.id)])


@pytest.mark.parametrize("status", [429, 503])
def test_a_short_fault_is_outlived(status: int, over: Any, server: PineconeServer) -> None:
    vectors = over()
    one(vectors, ACME)
    server.fail(status, 2, "/query", retry_after="1")
    assert [hit.text for hit in vectors.query(ACME, axis(0))] == ["acme"]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_long_one_is_an_error_of_ours(status: int, over: Any, server: PineconeServer) -> None:
    vectors = over()
    one(vectors, ACME)

    async def ask() -> None:
        try:
            await vectors.aquery(ACME, axis(0))
        finally:
            await vectors.aclose()

    server.fail(status, 1000, "/query", retry_after="7")
    for attempt in (lambda: vectors.query(ACME, axis(0)), lambda: asyncio.run(ask())):
        with pytest.raises(StoreUnavailable) as refusal:
            attempt()
        assert refusal.value.store == "pinecone"
        assert refusal.value.retry_after == (7.0 if status == 429 else None)


def test_the_deadline_is_ours_whatever_the_sdk_tries(over: Any, server: PineconeServer) -> None:
    vectors = over(deadline=0.3)
    one(vectors, ACME)

    async def ask() -> None:
        try:
            await vectors.aquery(ACME, axis(0))
        finally:
            await vectors.aclose()

    server.fail("hang", 1000, "/query")
    for attempt in (lambda: vectors.query(ACME, axis(0)), lambda: asyncio.run(ask())):
        began = time.monotonic()
        with pytest.raises(StoreUnavailable):
            attempt()
        assert time.monotonic() - began < 2, "one attempt alone would have taken as long, four of them four times"
    one(vectors, GLOBEX)
    server.ended.set()


def test_a_write_whose_answer_was_lost_is_stored_once(over: Any, server: PineconeServer) -> None:
    vectors = over("filter")
    one(vectors, GLOBEX)
    server.fail("lost", 1, "/vectors/upsert")
    one(vectors, ACME)
    assert vectors.list_ids(ACME) == ["1"] and len(server.seen("/vectors/upsert")) == 3
    server.fail("lost", 1, "/vectors/delete")
    vectors.delete(ACME, ["1"])
    assert vectors.count(ACME) == 0 and vectors.count(GLOBEX) == 1


def test_a_partial_write_names_what_is_not_stored(over: Any, server: PineconeServer) -> None:
    vectors = over()
    records = [Record(str(number), axis(number)) for number in range(2500)]
    server.fail(503, 4, "/vectors/upsert", skip=1)
    with pytest.raises(PartialWrite) as refusal:
        vectors.upsert(ACME, records)
    failed = set(refusal.value.failed_ids)
    assert refusal.value.stored == 1000 == vectors.count(ACME) and len(failed) == 1500
    assert failed.isdisjoint(vectors.list_ids(ACME))
    vectors.upsert(ACME, [record for record in records if record.id in failed])
    assert vectors.count(ACME) == 2500
    server.fail(503, 100, "/vectors/upsert")
    with pytest.raises(StoreUnavailable) as nothing:
        one(vectors, GLOBEX)
    assert not isinstance(nothing.value, PartialWrite)


def test_reads_lag_behind_writes_unless_asked_to_wait(over: Any, server: PineconeServer, clock: ManualClock) -> None:
    server.switches.stale_reads = 3
    plain, waiting = over("filter"), over("filter", read_your_writes=10.0, clock=clock)
    one(plain, ACME)
    assert plain.query(ACME, axis(0)) == [], "the server must lag, or this proves nothing"
    one(waiting, GLOBEX)
    assert [hit.text for hit in waiting.query(GLOBEX, axis(0))] == ["globex"]
    waiting.delete(GLOBEX, ["1"])
    assert waiting.query(GLOBEX, axis(0)) == []
    waiting.upsert(GLOBEX, [Record("2", axis(0), "two", {"kind": "x"})])
    waiting.delete(GLOBEX, where={"kind": "x"})
    assert waiting.query(GLOBEX, axis(0)) == []
    server.switches.stale_reads = 1000
    with pytest.raises(StoreUnavailable):
        one(waiting, GLOBEX)


def test_probes_and_erasure_wait_for_a_lagging_service(over: Any, server: PineconeServer, clock: ManualClock) -> None:
    server.switches.stale_reads = 4
    for kind in ("namespace", "filter"):
        vectors = over(kind, read_your_writes=30.0, clock=clock)
        vectors.verify_isolation(kind)
        one(vectors, ACME)
        one(vectors, GLOBEX)
        assert vectors.erase(ACME) == 1 and vectors.query(ACME, axis(0)) == []
        assert [hit.text for hit in vectors.query(GLOBEX, axis(0))] == ["globex"]
        assert vectors.erase(GLOBEX) == 1


def test_a_silo_is_like_its_template_and_removed_whole(over: Any, server: PineconeServer, clock: ManualClock) -> None:
    server.switches.slow_to_start = 3
    vectors = over("silo", clock=clock)
    assert vectors.query(ACME, axis(0)) == [] and vectors.count(ACME) == 0
    assert list(server.project("key").indexes) == [INDEX], "a question makes no index"
    vectors.provision(ACME)
    one(vectors, GLOBEX)
    made = server.project("key").indexes
    assert len(made) == 3 and {index.dimension for index in made.values()} == {DIMENSION}
    assert not any("acme" in name or "globex" in name for name in made)
    one(vectors, ACME)
    assert vectors.erase(ACME) == 1 and len(made) == 2
    assert [hit.text for hit in vectors.query(GLOBEX, axis(0))] == ["globex"]


def test_a_silo_in_a_project_of_its_own_is_out_of_every_other_keys_reach(over: Any, server: PineconeServer) -> None:
    vectors = over("silo", project_key=lambda tenant: f"key-of-{tenant.id}")
    one(vectors, ACME)
    one(vectors, GLOBEX)
    assert [hit.text for hit in vectors.query(ACME, axis(0))] == ["acme"]
    assert list(server.project("key").indexes) == [INDEX]
    assert len(server.project("key-of-acme").indexes) == len(server.project("key-of-globex").indexes) == 1


def test_quotas_and_protection_are_said_so(over: Any, server: PineconeServer, clock: ManualClock) -> None:
    server.switches.most_indexes = 2
    vectors = over("silo", clock=clock)
    one(vectors, ACME)
    with pytest.raises(ConfigurationError, match="quota"):
        one(vectors, GLOBEX)
    project = server.project("key")
    project.protected.update(project.indexes)
    with pytest.raises(ConfigurationError, match="protection"):
        vectors.erase(ACME)
    assert vectors.count(ACME) == 1


def test_two_workers_may_make_one_silo(over: Any, server: PineconeServer) -> None:
    first, second = over("silo"), over("silo")
    assert second.count(ACME) == 0
    one(first, ACME)
    server.fail(404, 1, f"/indexes/{next(name for name in server.project('key').indexes if name != INDEX)}")
    one(second, ACME)
    assert first.count(ACME) == 1
