"""From a shared store into the ledger: on demand, in the background and by the command; and whether the books agree."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from typer.testing import CliRunner

from tenant_middleware.admission.store import Granted, Limits
from tenant_middleware.backends.redis import wire
from tenant_middleware.cli import app
from tenant_middleware.context import scope
from tenant_middleware.errors import InvalidInput, StoreUnavailable
from tenant_middleware.metering.drainer import Drainer
from tenant_middleware.metering.reconcile import by_day_and_model, compare, read_invoice
from tenant_middleware.metering.usage import Usage
from tenant_middleware.tenancy import Tenancy
from tenant_middleware.tenant import Tenant
from tenant_middleware.testing.admission import ask
from tenant_middleware.testing.ledger import entry
from tests.metering.faults import full

TENANTS = (Tenant("acme", "gold"), Tenant("Acme", "gold"))


def call(tenancy: Tenancy, tenant: Tenant, prompt: int = 10) -> None:
    with scope(tenant), tenancy.gate.call(tenancy.gate.new_call("openai/m", prompt_tokens=50)) as hold:
        hold.report(Usage(prompt, 5))


def toml(values: dict[str, Any], to: Path) -> Path:
    """A policy file of nested values."""

    def lines(table: dict[str, Any], name: str) -> list[str]:
        plain = [f"{key} = {json.dumps(value)}" for key, value in table.items() if not isinstance(value, dict)]
        found = [f"[{name}]", *plain] if name else plain
        for key, value in table.items():
            if isinstance(value, dict):
                found += lines(value, f'{name}."{key}"' if name else f'"{key}"')
        return found

    path = to / "tenancy.toml"
    path.write_text("\n".join(lines(values, "")), encoding="utf-8")
    return path


def run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == code, result.output
    return result.stdout


def test_draining_on_demand(on_redis: dict[str, Any]) -> None:
    with Tenancy.from_mapping(on_redis) as tenancy:
        for tenant in TENANTS:
            call(tenancy, tenant)
        assert tenancy.ledger.totals().calls == 0
        assert tenancy.drain() == 2
        assert tenancy.drain() == 0
        assert {name: one.cost_nano for name, one in tenancy.ledger.totals("tenant").items()} == {
            "acme": 20_000,
            "Acme": 20_000,
        }


async def test_draining_by_awaiting(on_redis: dict[str, Any]) -> None:
    async with Tenancy.from_mapping(on_redis) as tenancy:
        with scope(TENANTS[0]):
            async with tenancy.gate.acall(tenancy.gate.new_call("openai/m", prompt_tokens=50)) as hold:
                hold.report(Usage(10, 5))
        assert await tenancy.adrain() == 1
        assert (await tenancy.abalance(TENANTS[0])).spent_nano == 20_000


def test_draining_in_the_background(on_redis: dict[str, Any]) -> None:
    values = on_redis | {"admission": {"store_timeout": "5s", "drain_every": "10ms"}}
    with Tenancy.from_mapping(values) as tenancy:
        arrived = threading.Event()
        write = tenancy.ledger.write

        def noted(rows: Any) -> int:
            new = write(rows)
            arrived.set()
            return new

        tenancy.ledger.write = noted  # type: ignore[method-assign]
        call(tenancy, TENANTS[0])
        assert arrived.wait(20)
        assert tenancy.ledger.totals().calls == 1


def test_one_worker_at_a_time_drains_in_the_background(on_redis: dict[str, Any]) -> None:
    with Tenancy.from_mapping(on_redis) as one, Tenancy.from_mapping(on_redis) as two:
        call(one, TENANTS[0])
        stores = [tenancy._books._streams[0] for tenancy in (one, two)]
        turns = [store.drain_in_turn(one.ledger, every=60) for store in (*stores, *stores)]
        assert turns == [1, 0, 0, 0]


def test_a_forked_worker_drains_too(on_redis: dict[str, Any], tmp_path: Path) -> None:
    """A server that loads the application before it forks its workers."""
    values = on_redis | {"admission": {"store_timeout": "5s", "drain_every": "50ms"}}
    program = tmp_path / "preloaded.py"
    program.write_text(
        f"""
import os, sys, time
from tenant_middleware.context import scope
from tenant_middleware.metering.usage import Usage
from tenant_middleware.tenancy import Tenancy
from tenant_middleware.tenant import Tenant
tenancy, acme = Tenancy.from_mapping({values!r}), Tenant("acme", "gold")
def work():
    with scope(acme), tenancy.gate.call(tenancy.gate.new_call("openai/m", prompt_tokens=50)) as hold:
        hold.report(Usage(10, 5))
work()
if child := os.fork():
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    tenancy.close()
    sys.exit(code)
work()
end = time.monotonic() + 20
while tenancy.ledger.totals().calls < 2:
    if time.monotonic() > end:
        os._exit(3)
    time.sleep(0.05)
os._exit(0)
"""
    )
    assert subprocess.run([sys.executable, str(program)], timeout=60).returncode == 0


def test_a_closed_tenancy_has_drained(on_redis: dict[str, Any]) -> None:
    with Tenancy.from_mapping(on_redis) as tenancy:
        call(tenancy, TENANTS[0])
    with Tenancy.from_mapping(on_redis) as tenancy:
        assert tenancy.ledger.totals().calls == 1


def test_a_store_that_is_down_at_the_end_keeps_its_rows_and_closes_the_rest(
    on_redis: dict[str, Any], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def down(*_: object) -> int:
        raise StoreUnavailable("down", store="admission")

    tenancy = Tenancy.from_mapping(on_redis)
    call(tenancy, TENANTS[0])
    monkeypatch.setattr(tenancy._books._streams[0], "drain", down)
    with caplog.at_level(logging.ERROR):
        tenancy.close()
    assert "wait where they are" in caplog.text
    with Tenancy.from_mapping(on_redis) as tenancy:
        assert tenancy.drain() == 1


def test_a_full_database_keeps_rows_in_the_store_and_calls_go_on(on_redis: dict[str, Any]) -> None:
    with Tenancy.from_mapping(on_redis) as tenancy:
        with full(tenancy.ledger._queue.ledger):
            for _ in range(200):
                for prompt, tenant in enumerate(TENANTS, 10):
                    call(tenancy, tenant, prompt)
            with pytest.raises(StoreUnavailable, match="full"):
                tenancy.drain()
            call(tenancy, TENANTS[0])
        tenancy.drain()
        assert {name: (one.calls, one.cost_nano) for name, one in tenancy.ledger.totals("tenant").items()} == {
            "acme": (201, 201 * 20_000),
            "Acme": (200, 200 * 21_000),
        }


def test_rows_are_trimmed_only_when_the_ledger_has_them(on_redis: dict[str, Any], redis_url: str) -> None:
    """A drainer that dies between reading and writing: rows stay in the stream, and the next one takes them."""
    with Tenancy.from_mapping(on_redis) as tenancy, Redis.from_url(redis_url) as client:
        outbox = wire.TenantKeys.of(TENANTS[0]).outbox
        for _ in range(3):
            call(tenancy, TENANTS[0])

        class Dead:
            def write(self, rows: Any) -> int:
                raise StoreUnavailable("gone", store="ledger")

        stream = tenancy._books._streams[0]
        with pytest.raises(StoreUnavailable):
            stream.drain(Dead())  # type: ignore[arg-type]
        assert client.xlen(outbox) == 3
        assert client.xpending(outbox, "ledger")["pending"] == 3
        # In the background they are left alone for a minute: their drainer may be slow, not dead.
        assert stream.drain_in_turn(tenancy.ledger, every=0.001) == 0
        assert tenancy.drain() == 3
        assert (client.xlen(outbox), client.xpending(outbox, "ledger")["pending"]) == (0, 0)
        assert client.xinfo_consumers(outbox, "ledger")[0]["pending"] == 0


def test_a_broken_entry_holds_nothing_up(
    on_redis: dict[str, Any], redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with Tenancy.from_mapping(on_redis) as tenancy, Redis.from_url(redis_url) as client:
        outbox = wire.TenantKeys.of(TENANTS[0]).outbox
        call(tenancy, TENANTS[0])
        client.xadd(outbox, {"row": "not a row"})
        call(tenancy, TENANTS[0])
        assert tenancy.drain() == 2
        assert client.xlen(outbox) == 1
        assert "no ledger row" in caplog.text


def test_the_background_waits_longer_after_each_failure(caplog: pytest.LogCaptureFixture) -> None:
    ledger_is_down = True

    def drain() -> None:
        if ledger_is_down:
            raise StoreUnavailable("locked", store="ledger")

    drainer = Drainer(drain, 1.0)
    assert not drainer.round() and not drainer.round()
    assert drainer.failure is not None
    ledger_is_down = False
    assert drainer.round()
    assert drainer.failure is None
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]


def test_the_command_drains_and_both_books_agree(on_redis: dict[str, Any], tmp_path: Path) -> None:
    policy = str(toml(on_redis, tmp_path))
    tenancy = Tenancy.from_mapping(on_redis)
    for tenant in TENANTS:
        call(tenancy, tenant)
    tenancy._books._streams[0].drain = lambda _: 0  # type: ignore[method-assign]  # a worker that died undrained
    tenancy.close()
    assert "2 new rows" in run("drain", "--policy", policy)
    assert "the ledger agrees with the counters" in run("reconcile", "--policy", policy)


def test_a_counter_that_differs_is_named(on_redis: dict[str, Any], tmp_path: Path) -> None:
    policy = str(toml(on_redis, tmp_path))
    with Tenancy.from_mapping(on_redis) as tenancy:
        for tenant in TENANTS:
            call(tenancy, tenant)
        tenancy.drain()
        tenancy.ledger.write([entry("Acme", "by hand", at=tenancy.clock.time(), cost_nano=5_000)])
    told = json.loads(run("reconcile", "--policy", policy, "--json", code=1))
    assert told["differences"] == [
        {
            "against": "counters",
            "name": "Acme",
            "kind": "differs",
            "ledger_usd": "0.000025000",
            "other_usd": "0.000020000",
        }
    ]


def test_an_invoice_is_compared_by_day_and_model() -> None:
    rows = [
        entry(call_id="1", model="openai/gpt-4o", cost_nano=2_000_000_000),
        entry(call_id="2", model="openai/gpt-4o", cost_nano=500_000_000),
        entry(call_id="3", model="openai/mini", cost_nano=10_000_000),
        entry(call_id="4", model="openai/mini", status="cache_hit", cost_nano=0),
    ]
    invoice = io.StringIO(
        'Date,Model,Cost\n2025-05-15,gpt-4o,2.50\n2025-05-15T00:00:00Z,gpt-4o-mini,$0.02\n2025-05-16,gpt-4o,"1,000.00"\n'
    )
    aliases = {"gpt-4o-mini": "openai/mini"}
    found = compare(by_day_and_model(rows, aliases), read_invoice(invoice, aliases), "invoice")
    assert [(one.name, one.kind, one.nano) for one in found] == [
        ("2025-05-15 mini", "differs", 10_000_000),
        ("2025-05-16 gpt-4o", "not in the ledger", 1_000_000_000_000),
    ]
    assert compare({"a": 10}, {}, "invoice")[0].kind == "not in the invoice"
    assert compare({"a": 10}, {"a": 14}, "invoice", tolerance_nano=4) == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("date,cost\n2025-05-15,1\n", "no column 'model'"),
        ("date,model,cost\nyesterday,m,1\n", "line 2"),
        ("date,model,cost\n2025-05-15,m,1\n2025-05-15,m,much\n", "line 3"),
        ("", "no column"),
    ],
)
def test_an_invoice_that_cannot_be_read_says_where(text: str, told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        read_invoice(io.StringIO(text), {})


def test_the_command_names_what_differs_from_an_invoice(on_redis: dict[str, Any], tmp_path: Path) -> None:
    policy = str(toml(on_redis, tmp_path))
    with Tenancy.from_mapping(on_redis) as tenancy:
        call(tenancy, TENANTS[0])
        tenancy.drain()
        (row,) = tenancy.ledger.rows()
    invoice = tmp_path / "invoice.csv"
    invoice.write_text(f"date,model,cost\n{row.day},m,0.00002\n")
    assert "with the counters and the invoice" in run("reconcile", "--policy", policy, "--invoice", str(invoice))
    invoice.write_text(f"date,model,cost\n{row.day},m,0.00003\n{row.day},ghost,1\n")
    told = run("reconcile", "--policy", policy, "--invoice", str(invoice), code=1)
    assert f"{row.day} ghost: not in the ledger" in told and f"{row.day} m: differs" in told
    assert "2 differences" in told
    run("reconcile", "--policy", policy, "--invoice", str(invoice), "--tolerance", "1")
    told = run("reconcile", "--policy", policy, "--invoice", str(invoice), "--alias", "ghost=openai/m", code=1)
    assert "1 differences" in told and "1.000030000" in told


def test_what_was_compared_is_said(on_redis: dict[str, Any], tmp_path: Path) -> None:
    """In memory nothing is; and money of a worker that died is named, though no book differs."""
    with Tenancy.from_mapping(on_redis) as tenancy:
        store = tenancy.gate.store_for(TENANTS[0])
        limits = Limits.of(tenancy.policy.for_tenant(TENANTS[0]))
        assert isinstance(store.reserve(ask(TENANTS[0], limits, ttl=0.001)), Granted)
        while tenancy.balance(TENANTS[0]).lost_nano == 0:  # the server's own clock, a millisecond on
            pass
    told = json.loads(run("reconcile", "--policy", str(toml(on_redis, tmp_path)), "--json"))
    assert told == {"compared": ["counters"], "differences": [], "lost_usd": {"acme": "0.000000200"}}
    on_redis["backends"]["admission"] = "memory://"
    assert "nothing was compared" in run("reconcile", "--policy", str(toml(on_redis, tmp_path)))
    run("reconcile", "--policy", str(toml(on_redis, tmp_path)), "--tolerance", "much", code=2)
