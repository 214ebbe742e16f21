"""A Redis server that starts once, and an empty one for each test."""

from __future__ import annotations

import time

import pytest
from redis import Redis

from tests.redis_fixtures import cluster as cluster
from tests.redis_fixtures import redis_server as redis_server
from tests.redis_fixtures import redis_url as redis_url


@pytest.fixture
def grown_redis_url(redis_url: str) -> str:
    """A server that has run for some seconds; a younger one may have forgotten slots, and hands out none."""
    with Redis.from_url(redis_url) as client:
        while client.info("server")["uptime_in_seconds"] < 4:
            time.sleep(0.1)
    return redis_url
