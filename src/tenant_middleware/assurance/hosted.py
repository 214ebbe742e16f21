"""The audit of a chain where it lives: its tenants are guests of every open Tenancy for that time."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from tenant_middleware.assurance.callables import Loop, WayIn
from tenant_middleware.assurance.canaries import audit_name, audit_tenants, canaries
from tenant_middleware.assurance.chain import ChainAudit, ChainReport
from tenant_middleware.context import peek_tenant
from tenant_middleware.errors import ConfigurationError, TenantMismatch
from tenant_middleware.tenant import Tenant

if TYPE_CHECKING:
    from tenant_middleware.tenancy import Tenancy

_NO_TIER = "audit"


def audit_chain(
    ingest: object,
    ask: object,
    *,
    seed: int,
    tenants: Sequence[Tenant] | None = None,
    tokens: Mapping[str, str] | None = None,
    tier: str | None = None,
) -> ChainReport:
    """Every step over one chain; raises ConfigurationError for what can't be asked, never for what it finds."""
    if peek_tenant() is not None:
        raise TenantMismatch("tenant_audit: a scope is open here; leave it, the audit opens its own")
    dice = random.Random(seed)
    hosts = _hosts()
    guests, mixed = _cast(tenants, tier or _tier(hosts), dice)
    everybody, loop = [*guests, *mixed], Loop()
    try:
        with _invited(hosts, everybody if tenants is None else []):
            planted = canaries(guests, dice)
            audit = ChainAudit(
                WayIn(ingest, "ingest", loop, tokens), WayIn(ask, "ask", loop, tokens), planted, loop.run, dice
            )
            return ChainReport(seed, tuple(audit.steps(mixed[0])))
    finally:
        loop.close()


def _cast(tenants: Sequence[Tenant] | None, tier: str, dice: random.Random) -> tuple[list[Tenant], list[Tenant]]:
    """Who plays a part, and who plays everybody in the mutation control: with given tenants, the last of them."""
    if tenants is None:
        return audit_tenants(audit_name(dice), tier), audit_tenants(audit_name(dice), tier)[:1]
    if len(set(tenants)) < 3:
        raise ConfigurationError("tenant_audit: tenants= takes at least three, the last one for the mutation control")
    return list(tenants[:-1]), list(tenants[-1:])


def _hosts() -> list[Tenancy]:
    """Open Tenancies, if the user's code has made any; a chain without our library is audited too."""
    module = sys.modules.get("tenant_middleware.tenancy")
    return [] if module is None else list(module.living())


def _tier(hosts: Sequence[Tenancy]) -> str:
    """The most generous tier that all policies know: the audit is about isolation, and mustn't run into limits."""
    if not hosts:
        return _NO_TIER
    known = set.intersection(*(set(host.policy.tiers) for host in hosts))
    if not known:
        raise ConfigurationError("tenant_audit: the open Tenancies have no tier in common; name one with tier=")
    tiers = hosts[0].policy.tiers
    return max(sorted(known), key=lambda name: tiers[name].rpm or float("inf"))


@contextmanager
def _invited(hosts: Sequence[Tenancy], guests: Sequence[Tenant]) -> Iterator[None]:
    for host in hosts:
        for guest in guests:
            host.policy.invite(guest)
    try:
        yield
    finally:
        with ExitStack() as farewell:  # what one store doesn't let go of keeps nothing else from going
            for host in hosts:
                for guest in guests:
                    farewell.callback(host.policy.dismiss, guest)
                    farewell.callback(host.forget, guest)
