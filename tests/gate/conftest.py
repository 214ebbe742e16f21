"""A gate over the in-memory store, with two tenants of one tier and books that can be read back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from tenant_middleware.admission.gate import ModelGate
from tenant_middleware.admission.queueing.in_process import InProcessQueue
from tenant_middleware.admission.queueing.pools import Pools
from tenant_middleware.backends.in_memory.admission import InMemoryAdmission
from tenant_middleware.metering.ledger import LedgerRow
from tenant_middleware.metering.price_book import PriceBook
from tenant_middleware.policy import Policy
from tenant_middleware.testing import ManualClock

TIER: dict[str, Any] = {
    "rpm": 600,
    "tpm": 600_000,
    "burst": 1.0,
    "max_concurrency": 4,
    "budget": {"usd": "1", "period": "month"},
    "models": ["chat/*", "embed"],
    "max_output_tokens": 100,
}


@dataclass
class Bench:
    """A gate and what is behind it."""

    gate: ModelGate
    store: InMemoryAdmission
    rows: list[LedgerRow] = field(default_factory=list)


@pytest.fixture
def make_gate(clock: ManualClock) -> Any:
    def make(pools: Pools | None = None, price_map: dict[str, Any] | None = None, **tier: Any) -> Bench:
        policy = Policy.model_validate(
            {
                "tiers": {"enterprise": TIER | tier},
                "tenants": {
                    "acme": {"tier": "enterprise", "owns": ["ft:acme:*"]},
                    "globex": {"tier": "enterprise"},
                },
                "prices": {
                    "chat/one": {"input_usd_per_million": "1", "output_usd_per_million": "2"},
                    "chat/dear": {"input_usd_per_million": "10", "output_usd_per_million": "20"},
                    "chat/cached": {
                        "input_usd_per_million": "1",
                        "output_usd_per_million": "2",
                        "cache_write_usd_per_million": "2",
                        "cache_write_1h_usd_per_million": "3",
                    },
                    "ft:acme:legal": {"per_call_usd": "0.01"},
                    "embed": {"input_usd_per_million": "0.1"},
                },
            }
        )
        rows: list[LedgerRow] = []
        store = InMemoryAdmission(clock, rows.append)
        queue = InProcessQueue(clock, pools)
        gate = ModelGate(
            policy, lambda tenant: store, PriceBook(policy.prices, price_map or {}), queue, clock, rows.append
        )
        return Bench(gate, store, rows)

    return make
