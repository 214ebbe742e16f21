"""`tenant-middleware export-costs`: the ledger for spreadsheets, pipelines and FinOps tools."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TextIO

import typer

from tenant_middleware.cli.places import LedgerOption, Moment, PolicyOption, ledger_url
from tenant_middleware.metering import export, focus
from tenant_middleware.metering.ledger import LedgerRow


class Format(StrEnum):
    """One row a call (csv, jsonl), or one a day, tenant, model and price (focus, as CSV)."""

    csv = "csv"
    jsonl = "jsonl"
    focus = "focus"


def export_costs(
    policy: PolicyOption = None,
    ledger: LedgerOption = None,
    as_format: Annotated[Format, typer.Option("--format", help="csv, jsonl, or FOCUS 1.4 as CSV.")] = Format.csv,
    since: Moment = None,
    until: Moment = None,
    tenant: Annotated[str | None, typer.Option(help="This tenant alone.", show_default=False)] = None,
    out: Annotated[
        Path | None, typer.Option(help="A file to write; default: standard output.", show_default=False)
    ] = None,
    billing_account: Annotated[str, typer.Option(help="FOCUS: who is billed for all tenants.")] = "default",
) -> None:
    """Write what calls have cost; `--until` is the first day that doesn't count."""
    from tenant_middleware.backends.sql import SqlLedger

    books = SqlLedger(ledger_url(ledger, policy))
    try:
        rows = books.rows(tenant_id=tenant, since=since, until=until)
    finally:
        books.close()
    with ExitStack() as opened:
        # No newline translation: a quoted cell may hold one of its own.
        to = sys.stdout if out is None else opened.enter_context(out.open("w", encoding="utf-8", newline=""))
        _write(rows, as_format, billing_account, to)
    if out is not None:
        typer.echo(f"{len(rows)} calls written to {out}", err=True)


def _write(rows: Sequence[LedgerRow], as_format: Format, billing_account: str, to: TextIO) -> None:
    if as_format is Format.focus:
        export.write_csv(focus.charges(rows, billing_account=billing_account), focus.COLUMNS, to)
    elif as_format is Format.csv:
        export.write_csv(map(export.record, rows), export.COLUMNS, to)
    else:
        export.write_jsonl(map(export.record, rows), to)
