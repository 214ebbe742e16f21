"""A real Redis (and, for services, Postgres) for the session, empty for each test, whose time a test can let pass."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import NoReturn

import psycopg
import pytest
from redis import Redis

from tenant_middleware.errors import StoreUnavailable
from tenant_middleware.local import local_postgres, local_redis
from tests.redis_fixtures import cluster as cluster


@pytest.fixture(scope="session")
def redis_server(missing_service: Callable[[str], NoReturn]) -> Iterator[str]:
    try:
        with local_redis() as url:
            yield url
    except (ImportError, StoreUnavailable) as error:
        missing_service(str(error))


@pytest.fixture
def redis_url(redis_server: str) -> Iterator[str]:
    with Redis.from_url(redis_server) as client:
        client.flushall()
        yield redis_server
        client.flushall()


@pytest.fixture(scope="session")
def postgres_server(missing_service: Callable[[str], NoReturn]) -> Iterator[str]:
    try:
        with local_postgres() as url:
            yield url.replace("+psycopg", "")
    except (ImportError, StoreUnavailable) as error:
        missing_service(str(error))


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    with psycopg.connect(postgres_server, autocommit=True) as link:
        link.execute("DROP SCHEMA public CASCADE")
        link.execute("CREATE SCHEMA public")
    yield postgres_server


@pytest.fixture
def pass_time(redis_url: str) -> Callable[[float], None]:
    """Lets time pass on the server: every key comes that much closer to its end."""

    def advance(seconds: float) -> None:
        with Redis.from_url(redis_url) as client:
            for name in client.scan_iter():
                left = client.pttl(name)
                if left >= 0:
                    client.pexpire(name, max(0, left - round(seconds * 1000)))

    return advance


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
