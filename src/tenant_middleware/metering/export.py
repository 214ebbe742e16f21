"""The ledger's rows for other programs: CSV and JSON Lines, one call a row, money as exact decimal text."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any, TextIO

from tenant_middleware.clock import utc
from tenant_middleware.metering.ledger import LedgerRow

COLUMNS = ("time", *(field.name for field in fields(LedgerRow) if field.name not in ("at", "cost_nano")), "cost_usd")
# A spreadsheet runs a cell that begins with one of these; subjects and models are text out of tokens and requests.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def cell(value: Any) -> Any:
    """A CSV cell that no spreadsheet runs; None is empty."""
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return "" if value is None else value


def write_csv(rows: Iterable[dict[str, Any]], columns: Sequence[str], to: TextIO) -> None:
    """Rows under a heading; text that looks like a formula gets an apostrophe in front."""
    writer = csv.writer(to, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([cell(row[name]) for name in columns])


def write_jsonl(rows: Iterable[dict[str, Any]], to: TextIO) -> None:
    """One JSON object a line."""
    for row in rows:
        to.write(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n")


def record(row: LedgerRow) -> dict[str, Any]:
    """One call with the names of the ledger's columns."""
    values = {name: getattr(row, name) for name in COLUMNS if name not in ("time", "cost_usd")}
    return {"time": utc(row.at).isoformat(timespec="milliseconds"), **values, "cost_usd": f"{row.cost_usd:.9f}"}
