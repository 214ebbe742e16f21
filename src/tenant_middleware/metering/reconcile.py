"""Whether the books agree: ledger against the counters of a shared store, and ledger against a provider's invoice."""

from __future__ import annotations

import csv
import datetime as dt
from collections import Counter
from collections.abc import Iterable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Literal, NamedTuple, TextIO

from tenant_middleware.errors import InvalidInput
from tenant_middleware.metering.ledger import LedgerRow, split
from tenant_middleware.metering.pricing import to_nano

Against = Literal["counters", "invoice"]
_DAY = ("date", "day", "usage_date", "usage date", "chargeperiodstart", "start_time", "time")
_MODEL = ("model", "model_name", "line_item", "sku", "skuid", "snapshot_id", "operation")
_COST = ("cost_usd", "cost", "amount", "amount_usd", "billedcost", "cost in usd", "amount_value")


class Difference(NamedTuple):
    """One name on which two books disagree; nano-dollars, None where a book doesn't know the name."""

    against: Against
    name: str
    ledger_nano: int | None
    other_nano: int | None

    @property
    def kind(self) -> str:
        if self.ledger_nano is None:
            return "not in the ledger"
        return f"not in the {self.against}" if self.other_nano is None else "differs"

    @property
    def nano(self) -> int:
        """What the other book has more than the ledger."""
        return (self.other_nano or 0) - (self.ledger_nano or 0)


def compare(
    ledger: Mapping[str, int], other: Mapping[str, int], against: Against, *, tolerance_nano: int = 0
) -> list[Difference]:
    """Names whose sums are further apart than the tolerance."""
    found = (Difference(against, name, ledger.get(name), other.get(name)) for name in sorted({*ledger, *other}))
    return [one for one in found if abs(one.nano) > tolerance_nano]


def by_day_and_model(rows: Iterable[LedgerRow], aliases: Mapping[str, str]) -> Counter[str]:
    """Nano-dollars of calls that reached a provider, by the names that `read_invoice` gives too."""
    sums: Counter[str] = Counter()
    for row in split(rows):
        if row.status != "cache_hit":
            sums[_name(row.day, row.model, aliases)] += row.cost_nano
    return sums


def read_invoice(lines: TextIO, aliases: Mapping[str, str]) -> Counter[str]:
    """Nano-dollars by day and model from a CSV with a heading; raises InvalidInput that names line and column.

    `aliases` maps an invoice's names of models to the ledger's; a provider's prefix ("openai/") never matters.
    """
    reader = csv.DictReader(lines)
    names = {(name or "").strip().lower(): name for name in reader.fieldnames or []}
    day, model, cost = (_column(names, known) for known in (_DAY, _MODEL, _COST))
    sums: Counter[str] = Counter()
    for number, row in enumerate(reader, start=2):
        sums[_name(_day(row[day], number), row[model] or "", aliases)] += _nano(row[cost], number)
    return sums


def _column(names: Mapping[str, str], known: tuple[str, ...]) -> str:
    for name in known:
        if name in names:
            return names[name]
    raise InvalidInput(f"the invoice has no column {known[0]!r} (or {', '.join(known[1:])})")


def _day(text: str | None, number: int) -> str:
    try:
        return dt.datetime.fromisoformat((text or "").strip()).date().isoformat()
    except ValueError:
        raise InvalidInput(f"line {number} of the invoice: expected a date such as 2026-01-31") from None


def _nano(text: str | None, number: int) -> int:
    try:
        amount = Decimal((text or "").strip().removeprefix("$").replace(",", ""))
    except InvalidOperation:
        amount = Decimal("NaN")
    if not amount.is_finite():
        raise InvalidInput(f"line {number} of the invoice: expected an amount in USD such as 12.50")
    return to_nano(amount)


def _name(day: str, model: str, aliases: Mapping[str, str]) -> str:
    model = model.strip()
    return f"{day} {aliases.get(model, model).rpartition('/')[2]}"
