"""Redis servers that start once, and an empty one for each test."""

from __future__ import annotations

from tests.redis_fixtures import cluster as cluster
from tests.redis_fixtures import redis_server as redis_server
from tests.redis_fixtures import redis_url as redis_url
