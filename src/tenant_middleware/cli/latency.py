"""`tenant-middleware latency`: is it slow for everyone, at the provider, or only for this tenant, and where?"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from tenant_middleware.cli.places import LedgerOption, PolicyOption, Since, ledger_url
from tenant_middleware.errors import InvalidInput
from tenant_middleware.reporting.latency import Verdict, Verdicts, verdicts
from tenant_middleware.reporting.report import told

if TYPE_CHECKING:
    from rich.table import Table


def latency(
    tenant: Annotated[
        str | None, typer.Argument(help="This tenant alone, with its evidence.", show_default=False)
    ] = None,
    policy: PolicyOption = None,
    ledger: LedgerOption = None,
    since: Since = "24h",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Compare each tenant with all others in the same windows, and everyone with the time before."""
    from tenant_middleware.cli.period import opened, period

    start, end = period(since)
    with opened(ledger_url(ledger, policy)) as (_, observatory):
        before = observatory.read(since=start - (end - start), until=start)
        found = verdicts(observatory.read(since=start, until=end), before)
    if tenant is not None:
        found = Verdicts(one for one in found if one.tenant_id == tenant)
        if not found:
            raise InvalidInput("nothing was observed of this tenant in that time: check its id, or look further back")
    if as_json:
        typer.echo(json.dumps({"verdicts": [told(one) for one in found]}, indent=2))
    else:
        _print(found, in_full=tenant is not None)


def _print(found: list[Verdict], *, in_full: bool) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    table = Table(box=None)
    for heading in ("tenant", "verdict"):
        table.add_column(heading, overflow="fold")
    for one in found:
        style = "bold red" if one.scope == "only this tenant" else "yellow" if one.stage else ""
        table.add_row(escape(one.tenant_id), str(one), style=style)
    console.print(table if found else "nothing was observed in that time")
    if in_full:
        for one in found:
            console.print(_evidence(one))


def _evidence(verdict: Verdict) -> Table:
    from rich.table import Table

    table = Table(box=None)
    table.add_column("stage")
    for heading in ("calls", "others", "median", "others' median", "ratio", "slower in", "by chance"):
        table.add_column(heading, justify="right")
    for one in verdict.evidence:
        table.add_row(
            one.stage,
            f"{one.calls:,}",
            f"{one.others:,}",
            f"{one.median * 1e3:.3g} ms",
            f"{one.others_median * 1e3:.3g} ms",
            f"{one.ratio:.2f}",
            f"{one.superiority:.0%}",
            f"{one.chance:.2g}",
            style="bold red" if one.found else "",
        )
    table.caption = "generation: per output token. slower in: of all pairs with a call of another tenant"
    return table
