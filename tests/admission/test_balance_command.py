"""`tenant-middleware balance` tells an operator why a tenant is refused, and forgives a debt of tokens."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tenant_middleware.cli import app
from tenant_middleware.context import scope
from tenant_middleware.errors import RateLimited
from tenant_middleware.metering.usage import Usage
from tenant_middleware.tenancy import Tenancy
from tenant_middleware.tenant import Tenant

POLICY = """
[backends]
admission = "{url}"
ledger = "sqlite:///{folder}/usage.db"

[admission]
store_timeout = "5s"

[tiers.free]
rpm = 600
tpm = 6_000
max_concurrency = 4
budget = {{ usd = "1", period = "month" }}
models = ["m"]
max_output_tokens = 100

[tenants.acme]
tier = "free"

[tenants.globex]
tier = "free"

[prices.m]
input_usd_per_million = "1"
output_usd_per_million = "1"
"""
ACME, GLOBEX = Tenant("acme", "free"), Tenant("globex", "free")


@pytest.fixture
def policy(tmp_path: Path, redis_url: str) -> Path:
    path = tmp_path / "tenancy.toml"
    path.write_text(POLICY.format(url=redis_url, folder=tmp_path))
    return path


@pytest.fixture
def tenancy(policy: Path) -> Iterator[Tenancy]:
    with Tenancy.from_file(policy, environ={}) as tenancy:
        yield tenancy


def shown(policy: Path, tenant: str, *options: str) -> Any:
    found = CliRunner().invoke(app, ["balance", tenant, "--policy", str(policy), "--json", *options])
    assert found.exit_code == 0, found.output
    return json.loads(found.stdout)


def test_a_debt_is_seen_and_forgiven_and_the_money_stays(tenancy: Tenancy, policy: Path) -> None:
    gate = tenancy.gate
    with scope(ACME):
        open_call = gate.admit(gate.new_call("m", prompt_tokens=10))
        gate.settle(gate.admit(gate.new_call("m", prompt_tokens=10)), Usage(90_000, 0))
        with pytest.raises(RateLimited) as refused:
            gate.admit(gate.new_call("m", prompt_tokens=10))
        assert refused.value.rule == "tpm" and (refused.value.retry_after or 0) > 600
    before = shown(policy, "acme")
    assert before["tokens that may come now"] == "0 (6000 a minute)"
    assert (before["spent"], before["calls in flight"]) == ("0.09 USD", "1 of 4")
    assert shown(policy, "globex")["tokens that may come now"] == "600 (6000 a minute)", "nobody else is hurt"
    after = shown(policy, "acme", "--refill")
    assert after["tokens that may come now"] == "600 (6000 a minute)"
    assert [after[name] for name in ("spent", "held by calls in flight", "calls in flight", "budget")] == [
        before[name] for name in ("spent", "held by calls in flight", "calls in flight", "budget")
    ]
    with scope(ACME):
        gate.settle(gate.admit(gate.new_call("m", prompt_tokens=10)), Usage(10, 1))
        gate.settle(open_call, Usage(10, 1))


def test_what_lives_in_the_application_is_said_to(tmp_path: Path) -> None:
    path = tmp_path / "tenancy.toml"
    path.write_text(POLICY.format(url="memory://", folder=tmp_path))
    found = CliRunner().invoke(app, ["balance", "acme", "--policy", str(path)])
    assert found.exit_code == 2 and "memory of the application" in " ".join(found.output.split())
