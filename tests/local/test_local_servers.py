from __future__ import annotations

import socket

import pytest
import redis
import sqlalchemy as sa

from tenant_middleware.local import local_postgres, local_redis, local_redis_cluster

pytestmark = pytest.mark.filterwarnings("error")


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


def test_redis_8_with_search_and_json_that_never_evicts():
    with local_redis() as url:
        with redis.Redis.from_url(url, decode_responses=True) as client:
            assert client.info("server")["redis_version"].startswith("8.")
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
            client.json().set("doc", "$", {"a": 1})
            assert client.json().get("doc") == {"a": 1}
            client.execute_command("FT.CREATE", "idx", "ON", "JSON", "SCHEMA", "$.a", "AS", "a", "NUMERIC")
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", port_of(url)), timeout=1)


def test_two_servers_share_nothing():
    with local_redis(modules=False) as one, local_redis(modules=False, maxmemory_policy="allkeys-lru") as other:
        with redis.Redis.from_url(one) as a, redis.Redis.from_url(other) as b:
            a.set("key", "acme")
            assert a.get("key") == b"acme" and b.get("key") is None
            assert b.config_get("maxmemory-policy") == {"maxmemory-policy": "allkeys-lru"}


def test_the_server_ends_with_an_error_inside_the_block():
    with pytest.raises(KeyError):
        with local_redis(modules=False) as url:
            raise KeyError("mine")
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", port_of(url)), timeout=1)


def test_a_cluster_of_three_masters():
    with local_redis_cluster() as url:
        with redis.RedisCluster.from_url(url) as client:
            for n in range(30):
                client.set(f"key-{n}", n)
            assert [client.get(f"key-{n}") for n in range(30)] == [str(n).encode() for n in range(30)]
            assert len(client.get_primaries()) == 3
            sizes = client.dbsize(target_nodes=redis.RedisCluster.PRIMARIES)
            assert sizes == 30


def test_postgres():
    with local_postgres() as url:
        assert url.startswith("postgresql+psycopg://")
        engine = sa.create_engine(url)
        with engine.begin() as link:
            link.execute(sa.text("create table t (tenant text, id text, primary key (tenant, id))"))
            link.execute(sa.text("insert into t values ('Acme', '1'), ('acme', '1')"))
            assert link.execute(sa.text("select count(*) from t")).scalar() == 2
        engine.dispose()
