"""A Redis and a cluster that start once per folder of tests, and are empty for each; a conftest.py imports them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NoReturn

import pytest
from redis import Redis

from tenant_middleware.errors import StoreUnavailable
from tenant_middleware.local import local_redis, local_redis_cluster


@pytest.fixture(scope="session")
def redis_server(missing_service: Callable[[str], NoReturn]) -> Iterator[str]:
    try:
        with local_redis(modules=False) as url:
            yield url
    except (ImportError, StoreUnavailable) as error:
        missing_service(str(error))


@pytest.fixture
def redis_url(redis_server: str) -> str:
    with Redis.from_url(redis_server) as client:
        client.flushall()
    return redis_server


@pytest.fixture(scope="session")
def cluster(missing_service: Callable[[str], NoReturn]) -> Iterator[str]:
    """Three masters without modules; the URL is that of one of them."""
    try:
        with local_redis_cluster() as url:
            yield url
    except (ImportError, StoreUnavailable) as error:
        missing_service(str(error))
