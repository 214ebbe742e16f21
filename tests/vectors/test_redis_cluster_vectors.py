"""Redis vectors on a real cluster of three masters, where a search sees one shard: an index beside a tenant's keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import ClassVar, NoReturn

import pytest
from redis.cluster import RedisCluster

from tenant_middleware.backends.redisvl.vectors import RedisVectors
from tenant_middleware.errors import StoreUnavailable
from tenant_middleware.isolation.vectors import Record
from tenant_middleware.local import local_redis_cluster
from tenant_middleware.policy import Isolation
from tenant_middleware.tenant import Tenant
from tenant_middleware.testing.vectors import NewVectors, VectorsContract, axis

pytestmark = pytest.mark.services


@pytest.fixture(scope="module")
def cluster(missing_service: Callable[[str], NoReturn]) -> Iterator[str]:
    try:
        with local_redis_cluster(modules=True) as url:
            yield url.replace("redis://", "redis+cluster://")
    except (ImportError, StoreUnavailable) as error:
        missing_service(str(error))


@pytest.fixture
def new_vectors(cluster: str) -> NewVectors:
    with RedisCluster.from_url(cluster.replace("redis+cluster://", "redis://")) as client:
        for node in client.get_primaries():
            for index in client.execute_command("FT._LIST", target_nodes=node):
                client.execute_command("FT.DROPINDEX", index, "DD", target_nodes=node)
        client.flushall(target_nodes=RedisCluster.PRIMARIES)
    return lambda isolation: RedisVectors(cluster, isolation=isolation, numeric=("year", "n"))


class TestRedisClusterVectors(VectorsContract):
    kinds: ClassVar[tuple[Isolation, ...]] = ("namespace", "silo")

    @pytest.fixture(params=["namespace", "silo"])
    def kind(self, request: pytest.FixtureRequest) -> Isolation:
        return request.param  # type: ignore[no-any-return]  # pytest's params are untyped

    @pytest.fixture
    def new_vectors(self, new_vectors: NewVectors) -> NewVectors:
        return new_vectors


def test_tenants_of_every_shard_find_all_of_theirs(new_vectors: NewVectors) -> None:
    """A search that went to another shard than the keys would answer with less, and without an error."""
    vectors = new_vectors("namespace")
    tenants = [Tenant(f"tenant-{number}", "free") for number in range(24)]
    for tenant in tenants:
        vectors.upsert(tenant, [Record(str(i), axis(i), tenant.id) for i in range(5)])
    for tenant in tenants:
        assert [hit.text for hit in vectors.query(tenant, axis(0), 50)] == [tenant.id] * 5
        assert vectors.count(tenant) == 5
    vectors.close()
