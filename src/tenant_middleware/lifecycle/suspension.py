"""Suspend a tenant, and serve it again: a mark in the ledger's database that every worker reads within a second."""

from __future__ import annotations

from tenant_middleware.errors import ConfigurationError
from tenant_middleware.isolation.standing import Standing
from tenant_middleware.tenancy import Tenancy


def suspend(tenancy: Tenancy, tenant_id: str) -> None:
    """Have identity, gate and backends of every worker refuse a tenant; calls in flight still settle.

    This worker refuses when the call returns, others within `isolation.standing.REFRESH` seconds.
    """
    known = tenancy.standings.get(tenant_id)
    if known is None or known.state == "active":
        tenancy.standings.put(tenant_id, Standing("suspended", tenancy.clock.time()))
    tenancy.refresh_standing()


def resume(tenancy: Tenancy, tenant_id: str) -> None:
    """Serve a suspended tenant again; one whose erasure has begun is refused with ConfigurationError."""
    known = tenancy.standings.get(tenant_id)
    if known is not None and known.state in ("erasing", "erased"):
        raise ConfigurationError(f"resume: this tenant is {known.state}: an erasure is not taken back")
    tenancy.standings.put(tenant_id, Standing("active", tenancy.clock.time()))
    tenancy.refresh_standing()
