"""The policy that the proxy's tests and benchmarks run under: tenants by the dozen, each in a tier that is tested."""

from __future__ import annotations

from typing import Any

from tests.litellm.conftest import MODELS

_PRO = {
    "rpm": 100_000,
    "tpm": 100_000_000,
    "burst": 1.0,
    "max_concurrency": 500,
    "budget": {"usd": "1000", "period": "month"},
    "models": [*MODELS, "fragile", "tempting"],
    "max_output_tokens": 200,
    "guard": "off",
}
TIERS: dict[str, Any] = {
    "pro": _PRO,
    "guarded": _PRO | {"guard": "block"},
    "tenth": _PRO | {"budget": {"usd": "0.002", "period": "month"}, "queue_timeout": 30},
    "tpm": _PRO | {"tpm": 1_000, "burst": 0.1},
    "rpm": _PRO | {"rpm": 20, "burst": 0.1},
    "two": _PRO | {"rpm": 2},
}
PRICED = {"input_usd_per_million": "1", "output_usd_per_million": "2"}


def policy(redis: str, **more: Any) -> dict[str, Any]:
    """Tenants are let in by their tier's claim; acme is listed because it owns a model."""
    return {
        "tiers": TIERS,
        "policy": {"unlisted_tenants": True},
        "tenants": {"acme": {"tier": "pro", "owns": ["ft:acme:*", "mine"]}},
        "prices": {
            "chat": PRICED,
            "spare": {"input_usd_per_million": "10", "output_usd_per_million": "20"},
            "fragile": PRICED,
            "tempting": PRICED,
            "embed": PRICED,
            "ft:acme:x": PRICED,
            "image": {"per_call_usd": "0.01"},
            "rank": {"per_call_usd": "0.001"},
        },
        "backends": {"admission": redis, "cache": redis, "history": redis},
        "admission": {"reservation_ttl": "5s", "drain_every": "200ms", "store_timeout": "10s"},
        **more,
    }
