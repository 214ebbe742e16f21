"""The books: one row per logical call, keyed by (tenant, call id), and exact totals over them."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from decimal import Decimal
from typing import Literal, Protocol, overload

from tenant_middleware.metering.pricing import to_usd
from tenant_middleware.tables import html_table

By = Literal["tenant", "model", "kind", "day", "tier", "subject"]
Status = Literal["ok", "error", "cancelled", "cache_hit", "expired", "attempt"]


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """One logical model call: tokens of all its attempts, money per attempt that reached a provider, no content.

    Times are seconds since the epoch (`at`) and seconds (`latency`, `queue_wait`); `attempts` counts provider calls.
    What was cached, written to a cache (of that for an hour), thought, or no text (`prompt_audio=12`) is part of the
    prompt's and the completion's tokens. `model` is the one that answered; where others were paid too, `by_model` has
    each one's share as JSON, which `split` makes rows of.
    """

    tenant_id: str
    call_id: str
    at: float
    tier: str
    subject: str | None
    model: str
    kind: str
    provider: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    cost_nano: int = 0
    price_source: str = ""
    price_as_of: str = ""
    attempts: int = 1
    attempt_ids: str = ""
    latency: float = 0.0
    queue_wait: float = 0.0
    stream: bool = False
    status: Status = "ok"
    source: str = "provider"
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    media_tokens: str = ""
    by_model: str = ""

    @property
    def cost_usd(self) -> Decimal:
        return to_usd(self.cost_nano)

    @property
    def day(self) -> str:
        return dt.datetime.fromtimestamp(self.at, dt.UTC).date().isoformat()

    @property
    def began(self) -> float:
        """When the call was admitted: a budget counts it in the period of that moment."""
        return self.at - self.latency


def split(rows: Iterable[LedgerRow]) -> Iterator[LedgerRow]:
    """Rows whose tokens and money are one model's each; what went to others than the last has the status "attempt"."""
    for row in rows:
        if not row.by_model:
            yield row
            continue
        *others, last = json.loads(row.by_model)
        for share in others:
            yield replace(row, **share, status="attempt", attempts=0, attempt_ids="", by_model="")
        yield replace(row, **last, by_model="")


@dataclass(frozen=True, slots=True)
class Totals:
    """Exact sums over rows. `calls` counts chat, rerank and image calls; embeddings are counted on their own."""

    calls: int = 0
    embeddings: int = 0
    cache_hits: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_nano: int = 0

    @classmethod
    def of(cls, row: LedgerRow) -> Totals:
        """One row's; the share of a model that didn't answer is no call."""
        hit, embedding = row.status == "cache_hit", row.kind == "embedding"
        call = not hit and row.status != "attempt"
        return cls(
            int(call and not embedding),
            int(call and embedding),
            int(hit),
            row.prompt_tokens,
            row.completion_tokens,
            row.cost_nano,
        )

    def __add__(self, other: Totals) -> Totals:
        return Totals(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __sub__(self, other: Totals) -> Totals:
        return Totals(*(a - b for a, b in zip(astuple(self), astuple(other), strict=True)))

    @property
    def cost_usd(self) -> Decimal:
        return to_usd(self.cost_nano)


class TotalsBy(dict[str, Totals]):
    """Totals by name; a table where a notebook shows it."""

    def _repr_html_(self) -> str:
        names = ("calls", "embeddings", "cache_hits", "prompt_tokens", "completion_tokens")
        rows = [(name, *(f"{getattr(one, n):,}" for n in names), f"{one.cost_usd:.9f}") for name, one in self.items()]
        return html_table(("", *(name.replace("_", " ") for name in names), "USD"), rows)


class Ledger(Protocol):
    """Writes rows at most once per (tenant, call id) and sums them exactly."""

    def write(self, rows: Iterable[LedgerRow]) -> int:
        """Store rows that aren't there yet, for good when it returns; returns how many were new."""
        ...

    @overload
    def totals(
        self, by: None = None, *, tenant_id: str | None = None, since: float | None = None, until: float | None = None
    ) -> Totals: ...
    @overload
    def totals(
        self, by: By, *, tenant_id: str | None = None, since: float | None = None, until: float | None = None
    ) -> TotalsBy: ...

    def rows(
        self, *, tenant_id: str | None = None, since: float | None = None, until: float | None = None
    ) -> Sequence[LedgerRow]:
        """Rows with `since <= at < until`, oldest first."""
        ...

    def spent_nano(self, tenant_id: str, *, since: float) -> int:
        """What a tenant's calls that began at `since` or later have cost; a budget is rebuilt from it."""
        ...

    def close(self) -> None: ...
