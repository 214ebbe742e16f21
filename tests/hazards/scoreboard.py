"""A row is a control on the bare framework that must leak, and the same code with us that must not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tenant_middleware.tenant import Tenant

ACME, GLOBEX = Tenant("acme", "pro", "ann"), Tenant("globex", "pro", "bob")
POLICY = {
    "tiers": {
        "pro": {
            "rpm": "unlimited",
            "tpm": "unlimited",
            "max_concurrency": "unlimited",
            "budget": {"usd": "1", "period": "month"},
            "models": ["openai/local"],
            "max_output_tokens": 64,
        }
    },
    "tenants": {"acme": {"tier": "pro"}, "globex": {"tier": "pro"}},
    "prices": {"openai/local": {"per_call_usd": "0.2"}},
}


class NotRun(Exception):
    """A control that can't be tried on this machine, and why."""


@dataclass(frozen=True, slots=True)
class Hazard:
    """`bare` and `ours` answer whether one tenant got at another's; each has its positive control inside.

    The control of one that is `apart` needs packages of its own, which are installed when it is first run.
    """

    id: str
    title: str
    bare: Callable[[], bool]
    ours: Callable[[], bool]
    apart: bool = False


def rows() -> list[Hazard]:
    """Every row, by number."""
    from tests.hazards import core_rows, langchain_rows, litellm_rows, llamaindex_rows, memory_rows, retrieval_rows

    modules = (core_rows, langchain_rows, litellm_rows, llamaindex_rows, memory_rows, retrieval_rows)
    return sorted((row for module in modules for row in module.ROWS), key=lambda row: int(row.id[1:]))
