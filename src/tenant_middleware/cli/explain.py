"""`tenant-middleware explain TENANT`: every value in force for a tenant, and the rule that decided it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated

import typer

from tenant_middleware.cli.places import PolicyOption, admitted, masked, policy_path
from tenant_middleware.errors import UnpricedModel
from tenant_middleware.metering.price_book import PriceBook
from tenant_middleware.policy import BACKENDS, Explained, Policy
from tenant_middleware.settings import CacheSettings, Settings, load
from tenant_middleware.tenant import Tenant


def explain(
    tenant: Annotated[str, typer.Argument(help="The tenant's id, exactly as in its tokens.")],
    policy: PolicyOption = None,
    tier: Annotated[
        str | None, typer.Option(help="The tier claim of its token, for a tenant that the policy doesn't list.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a list of {name, value, rule}.")] = False,
) -> None:
    """Print every resolved value of a tenant and the rule that decided it."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    settings, rules = load(policy_path(policy))
    rows = resolved(settings, rules, admitted(rules, tenant, tier))
    if as_json:
        typer.echo(json.dumps([row._asdict() for row in rows], indent=2))
        return
    table = Table(box=None)
    for heading in ("name", "value", "decided by"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(escape(row.name), escape(row.value), f"[dim]{escape(row.rule)}[/dim]")
    Console().print(table)


def resolved(settings: Settings, policy: Policy, tenant: Tenant) -> list[Explained]:
    """The policy's values, then where the tenant's data lie, its caches and its prices."""
    return [*policy.explain(tenant), *_backends(settings, policy, tenant), *_cache(settings), *_prices(policy, tenant)]


def _backends(settings: Settings, policy: Policy, tenant: Tenant) -> Iterator[Explained]:
    rule = policy.tenants.get(tenant.id)
    listed = rule is not None and "backends" in rule.overrides
    whose = f"tenants.{tenant.id}" if listed else f"tiers.{tenant.tier}"
    own = policy.for_tenant(tenant).backends
    for name in BACKENDS:
        url = getattr(own, name, None)
        if url is not None:
            yield Explained(f"backends.{name}", masked(url), f"{whose}.backends.{name}")
        else:
            decided = f"backends.{name}" if name in settings.backends.model_fields_set else "default"
            yield Explained(f"backends.{name}", masked(getattr(settings.backends, name)), decided)


def _cache(settings: Settings) -> Iterator[Explained]:
    for name in CacheSettings.model_fields:
        decided = f"cache.{name}" if name in settings.cache.model_fields_set else "default"
        yield Explained(f"cache.{name}", str(getattr(settings.cache, name)), decided)


def _prices(policy: Policy, tenant: Tenant) -> Iterator[Explained]:
    """What models cost that this tenant may call: by the policy, else by LiteLLM's map; none is a refusal to come."""
    book = PriceBook(policy.prices)
    entitled = [model for model in policy.prices if policy.entitlement(tenant, model).allowed]
    named = [model for model in policy.for_tenant(tenant).models if "*" not in model]
    for model in dict.fromkeys((*entitled, *named)):
        decided = f"prices.{model}" if model in policy.prices else "the price map"
        try:
            price = book.price(model)
        except UnpricedModel:
            yield Explained(f"price of {model}", "none: calls are refused", decided)
        else:
            shown = (
                f"{price.input * 1_000_000:f} in, {price.output * 1_000_000:f} out per million tokens, "
                f"{price.per_call:f} per call (USD)"
            )
            yield Explained(f"price of {model}", "free" if price.free else shown, decided)
