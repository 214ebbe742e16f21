"""A Redis that starts once per folder of tests, and an empty one for each test; a conftest.py imports the fixtures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NoReturn

import pytest
from redis import Redis

from tenant_middleware.errors import StoreUnavailable
from tenant_middleware.local import local_redis


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
