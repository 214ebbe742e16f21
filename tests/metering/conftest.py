"""A Redis that starts once, and a policy on it whose books are a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

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


@pytest.fixture
def on_redis(redis_url: str, tmp_path: Path) -> dict[str, Any]:
    """A policy whose rows wait in Redis until somebody drains them."""
    return {
        "backends": {"admission": redis_url, "ledger": f"sqlite:///{tmp_path}/usage.db"},
        "admission": {"store_timeout": "5s", "drain_every": "1h"},
        "tiers": {
            "gold": {
                "rpm": "unlimited",
                "tpm": "unlimited",
                "max_concurrency": "unlimited",
                "budget": {"usd": "1"},
                "models": ["openai/m"],
                "max_output_tokens": 100,
            }
        },
        "tenants": {"acme": {"tier": "gold"}, "Acme": {"tier": "gold"}},
        "prices": {"openai/m": {"input_usd_per_million": "1", "output_usd_per_million": "2"}},
    }
