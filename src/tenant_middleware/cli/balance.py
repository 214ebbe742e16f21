"""`tenant-middleware balance TENANT`: what is left for a tenant at this moment, over all workers."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from typing import Annotated

import typer

from tenant_middleware.admission.queue import PoolState
from tenant_middleware.admission.store import Balance, Limits, Refillable
from tenant_middleware.cli.places import PolicyOption, policy_path
from tenant_middleware.errors import ConfigurationError
from tenant_middleware.metering.pricing import to_usd
from tenant_middleware.tenancy import Tenancy

_UNLIMITED = "unlimited"


def balance(
    tenant: Annotated[str, typer.Argument(help="The tenant's id, exactly as in its tokens.")],
    policy: PolicyOption = None,
    tier: Annotated[
        str | None, typer.Option(help="The tier claim of its token, for a tenant that the policy doesn't list.")
    ] = None,
    refill: Annotated[
        bool, typer.Option("--refill", help="First fill its request and token buckets: forgives a debt of tokens.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show what a tenant may still use, what its calls in flight hold, and where it waits: why it is refused."""
    with Tenancy.from_file(policy_path(policy)) as tenancy:
        who = tenancy.policy.admit(tenant, tier)
        store, limits = tenancy.gate.store_for(who), Limits.of(tenancy.policy.for_tenant(who))
        if store.in_process:
            raise ConfigurationError(
                "limits and budgets live in the memory of the application; name a Redis in backends.admission to share "
                "them, and to look at them from here"
            )
        if refill:
            if not isinstance(store, Refillable):
                raise ConfigurationError(f"--refill: {type(store).__name__} can't fill buckets")
            store.refill(who)
        left, pools = store.balance(who, limits), tenancy.gate.queue.state()
    rows = [*_limits(left, limits), *_budget(left, limits), *_lines(pools, who.id)]
    if as_json:
        typer.echo(json.dumps(dict(rows), indent=2))
        return
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        typer.echo(f"{name:<{width}}  {value}")


def _limits(left: Balance, limits: Limits) -> Iterator[tuple[str, str]]:
    for name, now, most in (("requests", left.requests, limits.rpm), ("tokens", left.tokens, limits.tpm)):
        yield f"{name} that may come now", _UNLIMITED if now is None else f"{now} ({most} a minute)"
    most_at_once = limits.max_concurrency or _UNLIMITED
    yield "calls in flight", f"{left.in_flight} of {most_at_once}"


def _budget(left: Balance, limits: Limits) -> Iterator[tuple[str, str]]:
    yield "spent", f"{to_usd(left.spent_nano):f} USD"
    yield "held by calls in flight", f"{to_usd(left.reserved_nano):f} USD"
    yield "held by calls whose worker died", f"{to_usd(left.lost_nano):f} USD"
    if limits.budget_nano is None:
        yield "budget", _UNLIMITED
        return
    resets = dt.datetime.fromtimestamp(left.resets_at, dt.UTC).isoformat(timespec="seconds")
    yield "budget", f"{to_usd(limits.budget_nano):f} USD a {limits.period}, until {resets}"


def _lines(pools: tuple[PoolState, ...], tenant_id: str) -> Iterator[tuple[str, str]]:
    for pool in pools:
        for lane in pool.lanes:
            if lane.tenant_id == tenant_id:
                aside = f", stands aside for {lane.parked_for:.1f} s" if lane.parked_for else ""
                yield f"pool {pool.name}", f"{lane.running} running, {lane.waiting} waiting{aside}"
