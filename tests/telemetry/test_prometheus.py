"""Metrics as Prometheus scrapes them, from a process of its own: the API takes one provider."""

from __future__ import annotations

import os
import subprocess
import sys

PROGRAM = """
import socket, urllib.request
from tenant_middleware import Call, Tenancy, Tenant, Usage, scope
from tenant_middleware.telemetry.prometheus import serve_metrics

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
provider = serve_metrics(port)
tier = {"rpm": 600, "tpm": 9**9, "max_concurrency": 4, "budget": None, "models": ["m"], "max_output_tokens": 64}
with Tenancy.from_mapping({
    "policy": {"unlisted_tenants": True}, "tiers": {"pro": tier}, "telemetry": {"named_tenants": 3},
    "prices": {"m": {"input_usd_per_million": "1"}},
}) as tenancy:
    for number in range(20):
        tenant = Tenant(f"t{number}", "pro")
        with scope(tenant), tenancy.gate.call(tenancy.gate.new_call("m", prompt_tokens=10)) as hold:
            hold.report(Usage(10, 5))
    print(urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode())
provider.shutdown()
"""


def scraped() -> str:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120, env=os.environ)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_tenants_past_the_named_ones_share_a_series_and_nothing_is_lost() -> None:
    lines = [line for line in scraped().splitlines() if line.startswith("tenant_model_calls_total{")]
    calls = {line.partition('tenant_id="')[2].partition('"')[0]: float(line.rpartition(" ")[2]) for line in lines}
    assert set(calls) == {"t0", "t1", "t2", "other"} and calls["other"] == 17.0 and sum(calls.values()) == 20.0
