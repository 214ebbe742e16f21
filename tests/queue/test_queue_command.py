"""`tenant-middleware queue` sees what the workers of a pool do, and is none of them."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from redis import Redis
from typer.testing import CliRunner

from tenant_middleware.admission.queue import LaneState, PoolState
from tenant_middleware.cli import app
from tenant_middleware.cli.queue import table
from tenant_middleware.tenancy import Tenancy
from tenant_middleware.testing.queue import ACME, TWIN, ticket

POLICY = """
[backends]
queue = "{url}"

[queue.pools.main]
models = ["m"]
slots = 1

[tiers.free]
rpm = "unlimited"
tpm = "unlimited"
max_concurrency = "unlimited"
budget = "unlimited"
models = ["m"]
max_output_tokens = 100
queue_timeout = 5

[tenants.Acme]
tier = "free"

[tenants.acme]
tier = "free"

[prices.m]
free = true
"""


@pytest.fixture
def policy(tmp_path: Path, grown_redis_url: str) -> Path:
    path = tmp_path / "tenancy.toml"
    path.write_text(POLICY.format(url=grown_redis_url))
    return path


def test_it_shows_what_a_worker_holds_and_gives_nothing_away(policy: Path, grown_redis_url: str) -> None:
    with Tenancy.from_file(policy, environ={}) as tenancy:
        slot = tenancy.gate.queue.enter(ticket(ACME, prompt=30, timeout=5))
        found = CliRunner().invoke(app, ["queue", "--policy", str(policy), "--json"])
        assert found.exit_code == 0, found.output
        (pool,) = json.loads(found.stdout)
        assert (pool["name"], pool["slots"], pool["running"], pool["waiting"]) == ("main", 1, 1, 0)
        assert [(lane["tenant_id"], lane["running"]) for lane in pool["lanes"]] == [("Acme", 1)]
        tenancy.gate.queue.leave(slot, 30, 10)
        tenancy.gate.queue.leave(tenancy.gate.queue.enter(ticket(TWIN, timeout=0)), 5, 0)
        shown = CliRunner().invoke(app, ["queue", "--policy", str(policy), "--once"])
        assert "main: 0 of 1 slots, 0 waiting" in shown.stdout and "Acme" in shown.stdout and "acme" in shown.stdout
        with Redis.from_url(grown_redis_url) as client:
            (workers,) = client.keys("*workers")
            assert client.zcard(workers) == 1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (('queue = "{url}"', 'queue = "memory://"'), "memory of the application"),
        (('[queue.pools.main]\nmodels = ["m"]\nslots = 1\n', ""), "no [queue.pools.NAME]"),
    ],
)
def test_what_cannot_be_watched_is_said(tmp_path: Path, change: tuple[str, str], says: str) -> None:
    path = tmp_path / "tenancy.toml"
    path.write_text(POLICY.replace(*change).format(url="redis://127.0.0.1:1"))
    found = CliRunner().invoke(app, ["queue", "--policy", str(path)])
    assert found.exit_code == 2 and says in " ".join(found.output.split())


def test_names_are_shown_as_they_are() -> None:
    from rich.console import Console

    lane = LaneState("a[red]b", 3, 1, 2.0, 12_345.0, 7, 0.25, 1.5, 4.0)
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(table([PoolState("p", None, 1, 3, (lane,))]))
    text = console.export_text()
    for word in ("a[red]b", "no end of slots", "12,345", "0.250 s", "4.0 s"):
        assert word in text
