"""`tenant-middleware reconcile`: does the ledger agree with the budgets' counters, and with a provider's invoice?"""

from __future__ import annotations

import json
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Any

import typer

from tenant_middleware.admission.period import span_at
from tenant_middleware.admission.store import Limits
from tenant_middleware.cli.places import Day, PolicyOption, policy_path, seconds
from tenant_middleware.errors import InvalidInput
from tenant_middleware.metering.pricing import to_nano, to_usd
from tenant_middleware.metering.reconcile import Against, Difference, by_day_and_model, compare, read_invoice
from tenant_middleware.tenancy import Tenancy
from tenant_middleware.tenant import Tenant


def reconcile(
    policy: PolicyOption = None,
    invoice: Annotated[
        Path | None, typer.Option(help="A provider's CSV with date, model and cost.", show_default=False)
    ] = None,
    alias: Annotated[
        list[str] | None, typer.Option(help="INVOICE_NAME=MODEL, where they differ.", show_default=False)
    ] = None,
    since: Day = None,
    until: Day = None,
    tolerance: Annotated[str, typer.Option(help="USD that a day and model may differ from the invoice.")] = "0",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Name every difference between the books, and end with 1 when there is one."""
    aliases, allowed = dict(_pair(one) for one in alias or []), _allowed(tolerance)
    compared: list[Against] = []
    with Tenancy.from_file(policy_path(policy)) as tenancy:
        tenancy.drain()
        found, lost = counters(tenancy)
        if not tenancy.settings.backends.admission.startswith("memory:"):
            compared.append("counters")
        if invoice is not None:
            rows = tenancy.ledger.rows(since=seconds(since), until=seconds(until))
            with invoice.open(encoding="utf-8-sig", newline="") as lines:
                told = read_invoice(lines, aliases)
            compared.append("invoice")
            found += compare(by_day_and_model(rows, aliases), told, "invoice", tolerance_nano=allowed)
    if as_json:
        held = {name: _money(nano) for name, nano in lost.items()}
        differences = [_as_json(one) for one in found]
        typer.echo(json.dumps({"compared": compared, "differences": differences, "lost_usd": held}, indent=2))
    else:
        for one in found:
            typer.echo(
                f"{one.against}: {one.name}: {one.kind}: {_money(one.ledger_nano)} | {_money(one.other_nano)} USD"
            )
        for name, nano in lost.items():
            typer.echo(f"{name}: {_money(nano)} USD of calls whose worker died count in its budget and are in no row")
        typer.echo(_verdict(found, compared))
    if found:
        raise typer.Exit(1)


def counters(tenancy: Tenancy) -> tuple[list[Difference], dict[str, int]]:
    """Tenants whose budget counts other money than the ledger has for the running period, and what was lost.

    Nothing for memory://, whose counters are each application's own.
    """
    if tenancy.settings.backends.admission.startswith("memory:"):
        return [], {}
    ledger, counted, lost = {}, {}, {}
    for tenant in _tenants(tenancy):
        limits = Limits.of(tenancy.policy.for_tenant(tenant))
        balance = tenancy.balance(tenant)
        start = span_at(balance.resets_at - 1, limits.period).start
        ledger[tenant.id] = tenancy.ledger.spent_nano(tenant.id, since=start)
        counted[tenant.id] = balance.spent_nano
        if balance.lost_nano:
            lost[tenant.id] = balance.lost_nano
    return compare(ledger, counted, "counters"), lost


def _verdict(found: list[Difference], compared: list[Against]) -> str:
    if not compared:
        return "nothing was compared: memory:// counters are the application's own; name a provider's CSV: --invoice"
    with_what = " and ".join(f"the {one}" for one in compared)
    return f"{len(found)} differences (ledger | other)" if found else f"the ledger agrees with {with_what}"


def _allowed(text: str) -> int:
    try:
        return abs(to_nano(Decimal(text)))
    except InvalidOperation:
        raise InvalidInput("--tolerance: expected an amount in USD such as 0.01") from None


def _tenants(tenancy: Tenancy) -> list[Tenant]:
    """Those that are listed, and those that have been here."""
    tiers = {name: rule.tier for name, rule in tenancy.policy.tenants.items()}
    if tenancy.policy.unlisted_tenants:
        tiers = {row.tenant_id: row.tier for row in tenancy.ledger.rows()} | tiers
    return [Tenant(name, tier) for name, tier in tiers.items() if tier in tenancy.policy.tiers]


def _pair(text: str) -> tuple[str, str]:
    name, sign, model = text.partition("=")
    if not (name and sign and model):
        raise InvalidInput("--alias: expected INVOICE_NAME=MODEL")
    return name, model


def _money(nano: int | None) -> str:
    return "-" if nano is None else f"{to_usd(nano):.9f}"


def _as_json(one: Difference) -> dict[str, Any]:
    return {
        "against": one.against,
        "name": one.name,
        "kind": one.kind,
        "ledger_usd": None if one.ledger_nano is None else _money(one.ledger_nano),
        "other_usd": None if one.other_nano is None else _money(one.other_nano),
    }
