"""`tenant-middleware usage`: what the ledger holds, summed exactly."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any

import typer

from tenant_middleware.cli.places import LedgerOption, Moment, PolicyOption, ledger_url
from tenant_middleware.metering.export import cell
from tenant_middleware.metering.ledger import Totals

FIGURES = ("calls", "embeddings", "cache_hits", "prompt_tokens", "completion_tokens")


class By(StrEnum):
    """What the totals are grouped by."""

    tenant = "tenant"
    model = "model"
    kind = "kind"
    day = "day"
    tier = "tier"
    subject = "subject"


def usage(
    policy: PolicyOption = None,
    ledger: LedgerOption = None,
    by: Annotated[By, typer.Option(help="Group by this.")] = By.tenant,
    tenant: Annotated[str | None, typer.Option(help="This tenant alone.", show_default=False)] = None,
    since: Moment = None,
    until: Moment = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print comma-separated values.")] = False,
) -> None:
    """Print calls, tokens and exact cost from the ledger; `--until` is the first day that doesn't count."""
    if as_json and as_csv:
        raise typer.BadParameter("choose one of --json and --csv")
    totals, whole, prices = _read(ledger_url(ledger, policy), by, tenant, since, until)
    if as_json:
        rows = [{by.value: name, **figures(one)} for name, one in totals.items()]
        priced = [{"source": source, "as_of": as_of} for source, as_of in prices]
        typer.echo(json.dumps({"by": by.value, "rows": rows, "total": figures(whole), "prices": priced}, indent=2))
    elif as_csv:
        _write_csv(by, totals)
    else:
        _print_table(by, totals, whole)
        for source, as_of in prices:
            typer.echo(f"prices: {source}{f' as of {as_of}' if as_of else ''}")


def _read(
    url: str, by: By, tenant: str | None, since: float | None, until: float | None
) -> tuple[Mapping[str, Totals], Totals, list[tuple[str, str]]]:
    from tenant_middleware.backends.sql import SqlLedger

    books = SqlLedger(url)
    try:
        sums = books.totals(by.value, tenant_id=tenant, since=since, until=until)
        whole = books.totals(tenant_id=tenant, since=since, until=until)
        return sums, whole, books.prices(since=since, until=until)
    finally:
        books.close()


def figures(one: Totals) -> dict[str, Any]:
    """Totals as JSON values; dollars as exact decimal text."""
    return {name: getattr(one, name) for name in FIGURES} | {"cost_usd": f"{one.cost_usd:.9f}"}


def _write_csv(by: By, totals: Mapping[str, Totals]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow([by.value, *FIGURES, "cost_usd"])
    for name, one in totals.items():
        writer.writerow([cell(name), *figures(one).values()])


def _print_table(by: By, totals: Mapping[str, Totals], whole: Totals) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None)
    table.add_column(by.value, overflow="fold")  # a narrow terminal breaks a name, and cuts nothing off
    for heading in (*(name.replace("_", "\n") for name in FIGURES), "USD"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, one in totals.items():
        table.add_row(escape(name), *_cells(one))
    table.add_section()
    table.add_row("all", *_cells(whole), style="bold")
    Console().print(table)


def _cells(one: Totals) -> list[str]:
    return [*(f"{getattr(one, name):,}" for name in FIGURES), f"{one.cost_usd:.9f}"]
