"""Stage times are counted per tenant and window, add up over workers, and never stand in a request's way."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenant_middleware import StoreUnavailable, Tenant
from tenant_middleware.backends.sql.observations import SqlObservations
from tenant_middleware.metering.observations import Observations, Observed, bucket, counts_of, middle, quantile
from tenant_middleware.testing import ManualClock


@given(st.floats(1e-5, 1e5))
def test_the_middle_of_a_bucket_is_near(seconds: float) -> None:
    assert middle(bucket(seconds)) == pytest.approx(seconds, rel=0.091)


def test_two_workers_add_to_the_same_counts(tmp_path: Path, acme: Tenant, globex: Tenant, clock: ManualClock) -> None:
    url = f"sqlite:///{tmp_path}/usage.db"
    one, two = (Observations(SqlObservations(url), clock, window=60.0) for _ in range(2))
    for worker in (one, two):
        worker.stages(acme, {"queue": 0.5, "generation": 0.02})
        worker.stages(globex, {"queue": 8.0})
        worker.refusal(globex, "rpm")
    clock.advance(60.0)
    one.stages(acme, {"queue": 0.5})
    two.flush()
    rows = one.read()
    assert [(row.tenant_id, row.name, row.times) for row in rows] == [
        ("acme", "stage:generation", 2),
        ("acme", "stage:queue", 2),
        ("globex", "refusal:rpm", 2),
        ("globex", "stage:queue", 2),
        ("acme", "stage:queue", 1),
    ]
    assert quantile(counts_of(row for row in rows if row.name == "stage:queue"), 0.5) == pytest.approx(0.5, rel=0.1)
    assert {row.tenant_id for row in one.read(tenant_id="acme")} == {"acme"}
    assert math.isnan(quantile(counts_of([]), 0.5))
    one.close()
    two.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform doesn't fork")
@pytest.mark.parametrize("in_memory", [False, True])
def test_a_forked_worker_writes_its_own_counts_alone(in_memory: bool, tmp_path: Path) -> None:
    url = "sqlite:///:memory:" if in_memory else f"sqlite:///{tmp_path}/usage.db"
    program = f"""
import os, sys
from tenant_middleware.backends.sql.observations import SqlObservations
from tenant_middleware.metering.observations import Observations
from tenant_middleware.testing import ManualClock
from tenant_middleware.tenant import Tenant
acme = Tenant("acme", "gold")
seen = Observations(SqlObservations({url!r}), ManualClock())
seen.refusal(acme, "rpm")
child = os.fork()
if not child:
    seen.refusal(acme, "tpm")
elif os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
    sys.exit("the child failed")
print(sorted((row.name, row.times) for row in seen.read()), flush=True)
os._exit(0)
"""
    ran = subprocess.run([sys.executable, "-c", program], timeout=60, capture_output=True, text=True, check=True)
    ours, childs = ("refusal:rpm", 1), ("refusal:tpm", 1)
    assert ran.stdout.splitlines() == [str([childs]), str([ours] if in_memory else [ours, childs])]


def test_a_stranger_to_the_policy_is_not_recorded(acme: Tenant, globex: Tenant, clock: ManualClock) -> None:
    seen = Observations(SqlObservations("sqlite:///:memory:"), clock, knows=lambda tenant: tenant.id == "acme")
    for tenant in (acme, globex):
        seen.stages(tenant, {"guard": 0.001})
    assert {row.tenant_id for row in seen.read()} == {"acme"}
    seen.close()


def test_old_windows_go(acme: Tenant, clock: ManualClock) -> None:
    seen = Observations(SqlObservations("sqlite:///:memory:"), clock, window=60.0, keep=3_600.0)
    seen.stages(acme, {"guard": 0.001})
    seen.flush()
    clock.advance(7_200.0)
    seen.stages(acme, {"cache": 0.001})
    assert [row.name for row in seen.read()] == ["stage:cache"]
    seen.close()


class Down:
    """A store that takes nothing until it is told to."""

    def __init__(self) -> None:
        self.up, self.rows = False, list[Observed]()

    def add(self, rows: list[Observed]) -> None:
        if not self.up:
            raise StoreUnavailable("down", store="observations")
        self.rows += rows

    def read(self, **_: object) -> list[Observed]:
        return self.rows

    def forget(self, tenant_id: str) -> int:
        return 0

    def prune(self, before: float) -> int:
        return 0

    def close(self) -> None: ...


def test_what_a_store_that_is_down_did_not_take_waits(
    acme: Tenant, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    store = Down()
    seen = Observations(store, clock)
    for _ in range(3):
        seen.stages(acme, {"guard": 0.001})
        seen.flush()
    assert not store.rows and caplog.text.count("can't be written") == 1
    store.up = True
    assert [row.times for row in seen.read()] == [3]


def test_it_is_written_now_and_then_by_whoever_asks(acme: Tenant, clock: ManualClock) -> None:
    store = Down()
    store.up = True
    seen = Observations(store, clock, flush_every=10.0)
    seen.stages(acme, {"guard": 0.001})
    seen.flush_if_due()
    assert not store.rows
    clock.advance(10.0)
    seen.flush_if_due()
    assert store.rows
