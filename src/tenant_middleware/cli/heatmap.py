"""`tenant-middleware heatmap`: tenant by time, in the terminal or as a picture."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from tenant_middleware.cli.places import LedgerOption, PolicyOption, Since, ledger_url
from tenant_middleware.reporting.heatmap import heat_map, stretch, to_png, to_table


class Shown(StrEnum):
    """What the shades stand for."""

    cost = "cost"
    tokens = "tokens"
    refusals = "refusals"
    queue = "queue"
    p95 = "p95"


def heatmap(
    measure: Annotated[Shown, typer.Argument(help="What the shades stand for.")] = Shown.cost,
    policy: PolicyOption = None,
    ledger: LedgerOption = None,
    since: Since = "24h",
    tenants: Annotated[int, typer.Option(min=1, help="How many tenants at most.")] = 30,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="A PNG file to write instead.", show_default=False)
    ] = None,
) -> None:
    """Show cost, tokens, refusals, waits (p95) or the time of model calls (p95) per tenant over time."""
    from tenant_middleware.cli.period import opened, period

    start, end = period(since)
    width = stretch(end - start)
    with opened(ledger_url(ledger, policy)) as (books, observatory):
        timeline = books.timeline(width, since=start, until=end)
        observed = observatory.read(since=start, until=end)
    heat = heat_map(
        measure.value, since=start, until=end, width=width, timeline=timeline, observed=observed, most=tenants
    )
    if out is not None:
        to_png(heat, out)
        typer.echo(f"wrote {out}")
        return
    from rich.console import Console

    Console().print(to_table(heat))
