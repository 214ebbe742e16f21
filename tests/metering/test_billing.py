"""A sink gets every row at least once, in OpenMeter's shape; one that is down delays and loses nothing."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from tenant_middleware.backends.sql import SqlLedger
from tenant_middleware.context import scope
from tenant_middleware.errors import StoreUnavailable
from tenant_middleware.metering.billing import BATCH, Billing, CloudEventsSink
from tenant_middleware.metering.ledger import LedgerRow
from tenant_middleware.metering.usage import Usage
from tenant_middleware.tenancy import Tenancy
from tenant_middleware.tenant import Tenant
from tenant_middleware.testing.ledger import NOON, entry

POLICY: dict[str, Any] = {
    "tiers": {
        "gold": {
            "rpm": "unlimited",
            "tpm": "unlimited",
            "max_concurrency": "unlimited",
            "budget": "unlimited",
            "models": ["m"],
            "max_output_tokens": 16,
        }
    },
    "tenants": {"acme": {"tier": "gold"}, "globex": {"tier": "gold"}},
    "prices": {"m": {"input_usd_per_million": "1", "output_usd_per_million": "1"}},
}


class Receiver(http.server.BaseHTTPRequestHandler):
    """Answers with the server's next status; keeps what came."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        server: Any = self.server
        status = server.answers.pop(0) if server.answers else 204
        server.posts.append((self.path, dict(self.headers), json.loads(body)))
        self.send_response(status)
        if status in (301, 302, 303, 307, 308):
            self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Any]:
    server: Any = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    server.posts, server.answers = [], []
    server.url = f"http://127.0.0.1:{server.server_port}/api/v1/events"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def ledger() -> Iterator[SqlLedger]:
    books = SqlLedger("sqlite:///:memory:")
    yield books
    books.close()


def test_events_have_openmeters_shape(receiver: Any, ledger: SqlLedger) -> None:
    ledger.write([entry("acme", "c1"), entry("Acme", "c1")])
    assert Billing(ledger, CloudEventsSink(receiver.url, token="secret")).feed() == 2
    (path, headers, events) = receiver.posts[0]
    assert path == "/api/v1/events"
    assert headers["Content-Type"] == "application/cloudevents-batch+json"
    assert headers["Authorization"] == "Bearer secret"
    mine = next(event for event in events if event["subject"] == "acme")
    data = mine.pop("data")
    assert mine == {
        "specversion": "1.0",
        "type": "tenant.model.call",
        "source": "tenant-middleware/acme",
        "id": "c1",
        "subject": "acme",
        "time": "2025-05-15T12:00:00.000Z",
        "datacontenttype": "application/json",
    }
    assert (data["total_tokens"], data["cost_usd"], data["model"]) == (15, "0.000001500", "openai/small")
    # The same call id of another tenant is another event.
    assert len({(event["source"], event["id"]) for event in events}) == 2
    assert "ann" not in json.dumps(events)


def test_a_delivered_row_is_not_sent_again(receiver: Any, ledger: SqlLedger) -> None:
    billing = Billing(ledger, CloudEventsSink(receiver.url))
    ledger.write([entry(call_id=f"{n:04}") for n in range(BATCH + 1)])
    assert billing.feed() == BATCH + 1
    assert [len(events) for _, _, events in receiver.posts] == [BATCH, 1]
    assert billing.feed() == 0
    ledger.write([entry(call_id="0000")])
    assert billing.feed() == 0


@pytest.mark.parametrize("status", [500, 400, 401, 301, 302, 307])
def test_what_is_not_taken_comes_again(receiver: Any, ledger: SqlLedger, status: int) -> None:
    """Also after a redirect, which would make a GET without events out of the POST, and answer 200."""
    billing = Billing(ledger, CloudEventsSink(receiver.url, token="secret"))
    ledger.write([entry()])
    receiver.answers = [status]
    with pytest.raises(StoreUnavailable) as caught:
        billing.feed()
    assert str(status) in str(caught.value) and receiver.url not in str(caught.value)
    assert billing.feed() == 1
    assert [path for path, _, _ in receiver.posts] == ["/api/v1/events"] * 2


def test_nobody_there_delays(ledger: SqlLedger) -> None:
    billing = Billing(ledger, CloudEventsSink("http://127.0.0.1:9/x", timeout=1))
    ledger.write([entry()])
    with pytest.raises(StoreUnavailable, match="can't be reached"):
        billing.feed()
    assert len(ledger.unbilled(limit=9)) == 1


def test_a_sink_that_dies_after_taking_gets_the_row_twice(ledger: SqlLedger) -> None:
    class Dying:
        def __init__(self) -> None:
            self.taken: list[str] = []

        def send(self, rows: Sequence[LedgerRow]) -> None:
            self.taken += [row.call_id for row in rows]
            if len(self.taken) == 1:
                raise StoreUnavailable("the reply was lost", store="billing")

    sink = Dying()
    billing = Billing(ledger, sink)
    ledger.write([entry()])
    with pytest.raises(StoreUnavailable):
        billing.feed()
    assert billing.feed() == 1
    assert sink.taken == ["c", "c"]


def test_earlier_days_can_be_left_out(ledger: SqlLedger, receiver: Any) -> None:
    ledger.write([entry(), entry(call_id="later", at=NOON + 10)])
    assert Billing(ledger, CloudEventsSink(receiver.url), since=NOON + 5).feed() == 1


def test_a_tenancy_bills_what_it_books(receiver: Any) -> None:
    """Each settled call once, on its own tenant; while the sink is down, calls go on and wait."""
    receiver.answers = [503]
    values = POLICY | {"billing": {"url": receiver.url}, "admission": {"drain_every": "1h"}}
    with Tenancy.from_mapping(values) as tenancy:
        for name in ("acme", "globex"):
            with scope(Tenant(name, "gold")), tenancy.gate.call(tenancy.gate.new_call("m", prompt_tokens=5)) as hold:
                hold.report(Usage(5, 5))
        assert tenancy.drain() == 2
        assert len(receiver.posts) == 1
        assert tenancy.drain() == 0
    assert len(receiver.posts) == 2
    assert sorted(event["subject"] for event in receiver.posts[1][2]) == ["acme", "globex"]


def test_a_sink_of_ones_own(ledger: SqlLedger) -> None:
    class Mine:
        rows: list[LedgerRow] = []

        def send(self, rows: Sequence[LedgerRow]) -> None:
            self.rows += rows

    from tenant_middleware.settings import load

    settings, policy = load(None, overrides=POLICY, environ={})
    sink = Mine()
    with Tenancy(settings, policy, billing=sink) as tenancy:
        with scope(Tenant("acme", "gold")), tenancy.gate.call(tenancy.gate.new_call("m", prompt_tokens=5)) as hold:
            hold.report(Usage(5, 5))
    assert [row.tenant_id for row in sink.rows] == ["acme"]
