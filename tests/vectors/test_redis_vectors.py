"""Redis with the search module: the contract, and what its index is made of."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from redis import Redis
from redisvl.index import SearchIndex

from tenant_middleware import keys
from tenant_middleware.backends.redisvl import vector_steps
from tenant_middleware.backends.redisvl.vectors import RedisVectors, _Runner
from tenant_middleware.errors import (
    ConfigurationError,
    InvalidInput,
    IsolationBreach,
    PartialWrite,
    SettingsError,
    StoreUnavailable,
)
from tenant_middleware.isolation import place as rules
from tenant_middleware.isolation.vectors import Record
from tenant_middleware.tenancy import Tenancy
from tenant_middleware.tenant import Tenant
from tenant_middleware.testing.vectors import DIMENSION, NewVectors, VectorsContract, axis, foreign_seen
from tests.vectors.backends import KINDS, STORES, redis_url

ACME, SMALL = Tenant("Acme", "free"), Tenant("acme", "free")


class TestRedisVectors(VectorsContract):
    @pytest.fixture
    def new_vectors(self) -> Iterator[NewVectors]:
        with STORES["redis"]() as new:
            yield new

    @pytest.fixture
    def two(self) -> tuple[Tenant, Tenant]:
        return ACME, SMALL


@pytest.fixture
def new_vectors() -> Iterator[Any]:
    made: list[RedisVectors] = []

    def new(isolation: Any = "filter", **options: Any) -> RedisVectors:
        made.append(RedisVectors(redis_url(), isolation=isolation, **options))
        return made[-1]

    with STORES["redis"]():
        yield new
    for vectors in made:
        vectors.close()


@pytest.fixture
def client() -> Iterator[Any]:
    with Redis.from_url(redis_url(), protocol=2) as client:
        yield client


@pytest.mark.parametrize("kind", KINDS)
def test_a_record_planted_by_another_writer_is_stopped_by_the_check_and_only_by_it(
    kind: Any, new_vectors: Any, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = new_vectors(kind)
    for tenant in (ACME, SMALL):
        vectors.upsert(tenant, [Record("1", axis(0), f"canary of {tenant.id}", {"kind": "x"})])
    names = sorted(client.keys("tm_docs:*"))
    whose = {name: client.hget(name, "tenant").decode() for name in names}
    (mine,) = (name for name in names if whose[name] == keys.tag(ACME))
    (theirs,) = (name for name in names if whose[name] == keys.tag(SMALL))
    stray = client.hgetall(theirs)
    if kind == "filter":  # the tag says mine, key and id say theirs
        client.hset(theirs, "tenant", keys.tag(ACME))
    else:
        client.hset(mine[: mine.rindex(b":") + 1] + b"stray", mapping=stray)
    assert foreign_seen(vectors, ACME, "canary of acme", ["1"]) == []
    with pytest.raises(IsolationBreach):
        vectors.query(ACME, axis(0))
    monkeypatch.setattr(rules, "verify", lambda place, rows: None)
    monkeypatch.setattr(rules, "verify_keys", lambda place, found: None)
    seen = foreign_seen(vectors, ACME, "canary of acme", ["1"])
    assert {"query", "query where"} <= set(seen), "without the check the leak must show"


def test_tags_of_tenants_that_differ_in_case_do_not_meet(new_vectors: Any, client: Any) -> None:
    """The control: as plain values, which the search module compares without regard to case, they would."""
    client.execute_command("FT.CREATE", "naive", "ON", "HASH", "PREFIX", 1, "n:", "SCHEMA", "tenant", "TAG")
    client.hset("n:1", "tenant", "Acme")
    client.hset("n:2", "tenant", "acme")
    assert client.execute_command("FT.SEARCH", "naive", "@tenant:{acme}", "NOCONTENT")[0] == 2
    vectors = new_vectors("filter")
    for tenant in (ACME, SMALL):
        vectors.upsert(tenant, [Record("1", axis(0), tenant.id)])
    assert [hit.text for hit in vectors.query(SMALL, axis(0))] == ["acme"]


def test_ranges_need_a_declared_field_and_say_so(new_vectors: Any) -> None:
    plain = new_vectors()
    plain.upsert(ACME, [Record("1", axis(0), "a", {"year": 2024, "size": 3})])
    with pytest.raises(InvalidInput, match="numeric"):
        plain.query(ACME, axis(0), 5, {"year": {"$gt": 2000}})
    assert len(plain.query(ACME, axis(0), 5, {"year": 2024})) == 1
    declared = RedisVectors(f"{redis_url()}?numeric=year,size", isolation="filter")
    declared.upsert(ACME, [Record("2", axis(0), "b", {"year": 2025, "size": 1e-300})])
    assert [hit.id for hit in declared.query(ACME, axis(0), 5, {"year": {"$gt": 2024}})] == ["2"]
    assert [hit.id for hit in declared.query(ACME, axis(0), 5, {"size": {"$gt": 0, "$lt": 1}})] == ["2"]
    declared.upsert(ACME, [Record("2", axis(0), "b", {"year": "soon"})])
    assert "2" not in [hit.id for hit in declared.query(ACME, axis(0), 5, {"year": {"$gt": 2024}})]
    declared.close()
    with pytest.raises(InvalidInput):
        new_vectors(numeric=["tenant_id"])


def test_a_shared_index_has_one_dimension(new_vectors: Any) -> None:
    vectors, other = new_vectors(), new_vectors()
    vectors.upsert(ACME, [Record("1", axis(0), "a")])
    for attempt in (
        lambda: other.upsert(SMALL, [Record("1", [1.0, 2.0], "b")]),
        lambda: other.query(SMALL, [1.0, 2.0]),
        lambda: new_vectors("namespace").upsert(SMALL, [Record("1", [1.0, 2.0]), Record("2", [1.0])]),
    ):
        with pytest.raises(InvalidInput):
            attempt()
    assert other.count(SMALL) == 0


def test_an_index_dropped_behind_our_back_comes_back_with_its_records(new_vectors: Any, client: Any) -> None:
    vectors = new_vectors()
    for tenant in (ACME, SMALL):
        vectors.upsert(tenant, [Record("1", axis(0), tenant.id)])
    client.execute_command("FT.DROPINDEX", "tm_docs:all")
    assert vectors.query(ACME, axis(0)) == []
    vectors.upsert(ACME, [Record("2", axis(0), "new")])
    while int(dict(zip(*[iter(client.execute_command("FT.INFO", "tm_docs:all"))] * 2, strict=False))[b"indexing"]):
        pass
    assert vectors.list_ids(ACME) == ["1", "2"] and vectors.list_ids(SMALL) == ["1"]


def test_workers_that_begin_together_make_one_index(new_vectors: Any) -> None:
    workers = [new_vectors("namespace") for _ in range(6)]
    failed: list[BaseException] = []

    def begin(number: int) -> None:
        try:
            workers[number].upsert(ACME, [Record(str(number), axis(number), "x")])
        except Exception as error:  # noqa: BLE001  shown below
            failed.append(error)

    threads = [threading.Thread(target=begin, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == [] and workers[0].count(ACME) == 6


def test_a_full_server_says_what_is_not_stored(new_vectors: Any, client: Any) -> None:
    vectors = new_vectors()
    vectors.upsert(SMALL, [Record("1", axis(0), "x")])
    used = int(client.info("memory")["used_memory"])
    client.config_set("maxmemory", used + 3_000_000)
    try:
        with pytest.raises(PartialWrite) as refusal:
            vectors.upsert(ACME, [Record(str(i), axis(i), "secret" * 500) for i in range(3000)])
    finally:
        client.config_set("maxmemory", 0)
    failed = set(refusal.value.failed_ids)
    assert "secret" not in str(refusal.value) and len(failed) == 3000 - refusal.value.stored
    assert set(vectors.list_ids(ACME)) == {str(i) for i in range(3000)} - failed
    assert vectors.count(SMALL) == 1


async def test_a_server_that_is_gone_is_an_error_of_ours() -> None:
    vectors = RedisVectors("redis://127.0.0.1:1", isolation="filter", timeout=0.2)
    with pytest.raises(StoreUnavailable) as refusal:
        vectors.upsert(ACME, [Record("1", axis(0), "secret")])
    assert "secret" not in str(refusal.value) and refusal.value.__cause__ is None
    with pytest.raises(StoreUnavailable):
        await vectors.aquery(ACME, axis(0))
    await vectors.aclose()


def test_a_shared_index_on_a_cluster_is_refused_at_start_up() -> None:
    with pytest.raises(ConfigurationError, match="one shard"):
        RedisVectors("redis+cluster://127.0.0.1:1", isolation="filter")
    with pytest.raises(ConfigurationError):
        RedisVectors("redis://127.0.0.1:1", metric="manhattan")  # type: ignore[arg-type]  # what is tested


def test_redisvl_reads_our_index(new_vectors: Any) -> None:
    vectors = new_vectors()
    vectors.upsert(ACME, [Record("1", axis(0), "x")])
    index = SearchIndex.from_existing("tm_docs:all", redis_url=redis_url())
    assert index.schema.fields["vector"].attrs.dims == DIMENSION
    index.disconnect()


@pytest.mark.parametrize("isolation", ["filter", "namespace"])
def test_a_tier_that_shares_an_index_on_a_cluster_is_refused_when_the_store_is_opened(isolation: str) -> None:
    tier = {
        "rpm": 60,
        "tpm": 1000,
        "max_concurrency": 1,
        "budget": "unlimited",
        "models": ["*"],
        "max_output_tokens": 100,
        "isolation": isolation,
    }
    values = {
        "backends": {"vectors": "redis+cluster://127.0.0.1:1"},
        "tiers": {"pro": tier, "big": {**tier, "isolation": "silo"}},
    }
    with Tenancy.from_mapping(values) as tenancy:
        if isolation == "filter":
            with pytest.raises(SettingsError, match=r"tiers\.pro\.isolation"):
                _ = tenancy.vectors
        else:
            assert tenancy.vectors is not None


def test_a_small_tenant_of_a_shared_index_is_searched_record_by_record(
    new_vectors: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both ways find the same; who has grown or shrunk is noticed after so many searches."""
    monkeypatch.setattr(vector_steps, "EXACT", 2)
    monkeypatch.setattr(vector_steps, "RECOUNT", 2)
    one_by_one: list[bool] = []
    sent = _Runner._sent

    def noted(self: Any, client: Any, op: Any) -> Any:
        if "KNN" in (text := " ".join(map(str, op.words[:3]))):
            one_by_one.append("ADHOC_BF" in text)
        return sent(self, client, op)

    vectors = new_vectors("filter", name="sizes")
    for tenant, count in ((ACME, 3), (SMALL, 2)):
        records = [Record(f"r{n}", axis(n), f"{n} of {tenant.id}", {}) for n in range(count)]
        vectors.upsert(tenant, records)
    monkeypatch.setattr(_Runner, "_sent", noted)
    for tenant in (ACME, SMALL):
        assert [hit.text for hit in vectors.query(tenant, axis(1), 1)] == [f"1 of {tenant.id}"]
    vectors.delete(ACME, ["r0"])
    for _ in range(2):
        assert [hit.text for hit in vectors.query(ACME, axis(1), 1)] == ["1 of Acme"]
    assert one_by_one == [False, True, False, True]
