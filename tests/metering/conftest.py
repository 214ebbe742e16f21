"""A Redis that starts once, and a policy on it whose books are a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.redis_fixtures import redis_server as redis_server
from tests.redis_fixtures import redis_url as redis_url


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
