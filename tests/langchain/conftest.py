"""A tenancy in memory with two tenants of one tier, for LangChain's own entry points."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tenant_middleware import Tenancy
from tenant_middleware.testing import ManualClock

VALUES: dict[str, Any] = {
    "tiers": {
        "enterprise": {
            "rpm": 6000,
            "tpm": 6_000_000,
            "burst": 1.0,
            "max_concurrency": 64,
            "budget": {"usd": "10", "period": "month"},
            "models": ["openai/local", "embed"],
            "max_output_tokens": 64,
            "guard": "block",
        }
    },
    "tenants": {name: {"tier": "enterprise"} for name in ("acme", "globex", "Acme", "acme2")},
    "prices": {
        "openai/local": {"input_usd_per_million": "1", "output_usd_per_million": "2"},
        "embed": {"input_usd_per_million": "0.1"},
    },
}


@pytest.fixture
def tenancy(clock: ManualClock) -> Iterator[Tenancy]:
    with Tenancy.from_mapping(VALUES, clock=clock) as opened:
        yield opened
