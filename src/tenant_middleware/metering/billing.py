"""From the ledger to whoever sends invoices: each row at least once, its call id as the idempotency key.

The ledger itself remembers what was delivered, so a sink that is down delays rows and loses none.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from tenant_middleware.clock import utc
from tenant_middleware.errors import StoreUnavailable
from tenant_middleware.metering.ledger import LedgerRow, split

BATCH = 200
TYPE = "tenant.model.call"
SOURCE = "tenant-middleware"


class BillingSink(Protocol):
    """Takes settled calls. A row may come twice, with the same tenant and call id; raising means: all of them again."""

    def send(self, rows: Sequence[LedgerRow]) -> None: ...


class UnbilledRows(Protocol):
    """A ledger that remembers which rows were delivered."""

    def unbilled(self, *, limit: int, since: float | None = None) -> Sequence[LedgerRow]:
        """Rows that no sink has taken, oldest first."""
        ...

    def mark_billed(self, rows: Iterable[LedgerRow]) -> None: ...


class Billing:
    """Feeds a sink from a ledger; `since` (seconds) leaves out what was booked before the sink was there."""

    def __init__(self, ledger: UnbilledRows, sink: BillingSink, *, since: float | None = None) -> None:
        self._ledger, self._sink, self._since = ledger, sink, since

    def feed(self) -> int:
        """Deliver what waits; returns how many rows. Raises StoreUnavailable when the sink takes none."""
        sent = 0
        while rows := self._ledger.unbilled(limit=BATCH, since=self._since):
            self._sink.send(rows)
            self._ledger.mark_billed(rows)
            sent += len(rows)
            if len(rows) < BATCH:
                break
        return sent


class CloudEventsSink:
    """Posts batches of CloudEvents to a URL, in the shape that OpenMeter ingests (`.../api/v1/events`).

    `subject` is the tenant, and `source` and `id` together name the call: OpenMeter drops what it has. The answer has
    to be a 2xx of that very URL; a redirect is refused, since following it would turn the POST into a GET.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        type: str = TYPE,
        source: str = SOURCE,
        timeout: float = 10.0,
        post: Callable[[urllib.request.Request, float], int] | None = None,
    ) -> None:
        self._url, self._token, self._type, self._source = url, token, type, source
        self._timeout, self._post = timeout, post or _post

    def send(self, rows: Sequence[LedgerRow]) -> None:
        body = json.dumps([self.event(row) for row in rows], separators=(",", ":")).encode()
        request = urllib.request.Request(self._url, body, method="POST")
        request.add_header("Content-Type", "application/cloudevents-batch+json")
        if self._token is not None:
            request.add_header("Authorization", f"Bearer {self._token}")
        try:
            status = self._post(request, self._timeout)
        except urllib.error.HTTPError as error:
            error.close()
            raise self._refused(f"it answered {error.code}") from None
        except (OSError, ValueError) as error:
            raise self._refused(f"it can't be reached ({type(error).__name__})") from None
        if not 200 <= status < 300:
            raise self._refused(f"it answered {status}")

    def _refused(self, why: str) -> StoreUnavailable:
        # The URL may hold a secret; the settings know it.
        return StoreUnavailable(f"billing.url takes no events: {why}; rows wait in the ledger", store="billing")

    def event(self, row: LedgerRow) -> dict[str, Any]:
        """One call as a CloudEvent; no content, and not who asked."""
        shares = [] if not row.by_model else list(split([row]))
        return {
            "specversion": "1.0",
            "type": self._type,
            "source": f"{self._source}/{row.tenant_id}",
            "id": row.call_id,
            "subject": row.tenant_id,
            "time": utc(row.at).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "datacontenttype": "application/json",
            "data": {
                "tier": row.tier,
                "model": row.model,
                "provider": row.provider,
                "kind": row.kind,
                "prompt_tokens": row.prompt_tokens,
                "cached_tokens": row.cached_tokens,
                "completion_tokens": row.completion_tokens,
                "reasoning_tokens": row.reasoning_tokens,
                "cache_write_tokens": row.cache_write_tokens,
                "cache_write_1h_tokens": row.cache_write_1h_tokens,
                "media_tokens": row.media_tokens,
                "total_tokens": row.prompt_tokens + row.completion_tokens,
                "cost_usd": f"{row.cost_usd:.9f}",
                "status": row.status,
                "source": row.source,
                "by_model": [{"model": one.model, "cost_usd": f"{one.cost_usd:.9f}"} for one in shares],
            },
        }


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


_opener = urllib.request.build_opener(_NoRedirects)


def _post(request: urllib.request.Request, timeout: float) -> int:
    with _opener.open(request, timeout=timeout) as answer:
        answer.read()
        return int(answer.status)
