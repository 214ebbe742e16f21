"""An erasure whose process is killed after any step, under traffic with a valid token, and resumed by another one."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from tenant_middleware.errors import TenantSuspended
from tenant_middleware.isolation.history import Message
from tenant_middleware.isolation.vectors import Record
from tenant_middleware.local import local_redis
from tenant_middleware.tenancy import Tenancy
from tenant_middleware.tenant import Tenant
from tests.assurance.deployments import ISSUER, policy, traces
from tests.lifecycle.test_lifecycle import GLOBEX, VECTOR, fill, view

SCRIPT = Path(__file__).with_name("killed_erasure.py")
MOST = 300  # things that an erasure does, with room


def name(number: int) -> str:
    return f"acme-{number:03d}"


class Erasers:
    """The processes that erase, one after the other."""

    def __init__(self, values: dict[str, Any], events: str) -> None:
        command = [sys.executable, str(SCRIPT), json.dumps(values), events]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdin is not None and self.process.stdout is not None
        self._in, self._out = self.process.stdin, self.process.stdout

    def run(self, tenant_id: str, after: int | None, waiting: Any) -> dict[str, Any]:
        """Let a process erase a tenant; what it said, with the exit code. `waiting` is called when it waits."""
        found: dict[str, Any] = {}
        self._tell(json.dumps({"tenant": tenant_id, "after": after}))
        while "code" not in found:
            said = json.loads(self._out.readline())
            found |= said
            if said["said"] == "waiting":
                waiting()
                self._tell("go on")
        return found

    def _tell(self, line: str) -> None:
        self._in.write(f"{line}\n")
        self._in.flush()

    def close(self) -> None:
        self._in.close()
        self._out.close()
        assert self.process.wait() == 0


@contextmanager
def valid_traffic(tenancy: Tenancy, tenant: Tenant) -> Iterator[tuple[list[BaseException], threading.Event]]:
    """Somebody with a valid token goes on writing and reading; only a refusal of suspension is right."""
    stop, refused, wrong = threading.Event(), threading.Event(), list[BaseException]()
    token = ISSUER.good(tenant)

    def work() -> None:
        while not stop.is_set():
            try:
                known = tenancy.verify(token)
                tenancy.vectors.upsert(known, [Record("late", VECTOR, "late")])
                tenancy.history.append(known, "late", [Message("user", "late")])
                stop.wait(0.002)
            except TenantSuspended:
                refused.set()
                stop.wait(0.01)
            except BaseException as error:  # noqa: BLE001  handed to the test
                wrong.append(error)
                return

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield wrong, refused
    finally:
        stop.set()
        thread.join()


@contextmanager
def scene(folder: Path, events: str) -> Iterator[tuple[Tenancy, Erasers, Redis]]:
    """A worker that serves, and erasers, over one Redis and one database; tenants enough for a kill each."""
    with local_redis() as url, Redis.from_url(url) as client:
        backends = dict.fromkeys(("admission", "history", "cache", "vectors"), url)
        values = policy(**backends, ledger=f"sqlite:///{folder}/ledger.db")
        values["tenants"] = {tenant_id: {"tier": "pro"} for tenant_id in ("globex", *map(name, range(MOST)))}
        with Tenancy.from_mapping(values) as tenancy:
            fill(tenancy, GLOBEX, 5)
            erasers = Erasers(values, events)
            try:
                yield tenancy, erasers, client
            finally:
                erasers.close()


def killed_and_resumed(tenancy: Tenancy, erasers: Erasers, client: Redis, tenant_id: str, after: int) -> int:
    """Returns how the first process ended."""
    tenant = Tenant(tenant_id, "pro", "ann")
    fill(tenancy, tenant, 5)
    with valid_traffic(tenancy, tenant) as (wrong, refused):

        def marks_are_read() -> None:
            """What two seconds are for: this worker has read the mark, and calls that were let in before have ended."""
            tenancy.refresh_standing()
            refused.clear()
            assert refused.wait(60) or wrong

        killed = erasers.run(tenant_id, after, marks_are_read)
        resumed = erasers.run(tenant_id, None, marks_are_read)
        assert resumed["code"] == 0 and resumed["complete"], (after, resumed)
    assert not wrong, wrong
    assert not traces(client, tenant_id), after
    assert tenant_id not in tenancy.ledger.totals(by="tenant")
    return int(killed["code"])


def steps(tenancy: Tenancy, erasers: Erasers) -> list[str]:
    """What an erasure does when nobody disturbs it."""
    fill(tenancy, Tenant(name(MOST - 1), "pro"), 5)
    found: list[str] = erasers.run(name(MOST - 1), None, lambda: None)["done"]
    return found


def test_killed_after_every_step_and_resumed_by_another_process(tmp_path: Path) -> None:
    with scene(tmp_path, "calls") as (tenancy, erasers, client):
        before, done = view(tenancy, GLOBEX), steps(tenancy, erasers)
        assert {"marked", "drained", "settled the books", "erased vectors", "looked into history"} <= set(done)
        for after in range(len(done)):
            ended = killed_and_resumed(tenancy, erasers, client, name(after), after)
            assert ended == -signal.SIGKILL, after
        assert view(tenancy, GLOBEX) == before


def test_killed_before_some_commands_and_resumed(tmp_path: Path) -> None:
    before_commands(tmp_path, lambda count: random.Random(7).sample(range(count), 6))


@pytest.mark.long
def test_killed_before_every_command_and_resumed(tmp_path: Path) -> None:
    before_commands(tmp_path, range)


def before_commands(folder: Path, chosen: Any) -> None:
    with scene(folder, "commands") as (tenancy, erasers, client):
        before, done = view(tenancy, GLOBEX), steps(tenancy, erasers)
        assert {"Redis", "database"} <= set(done) and len(done) < MOST - 1
        ends = [killed_and_resumed(tenancy, erasers, client, name(n), n) for n in chosen(len(done))]
        # The number of commands differs a little from run to run: the last kills may come too late.
        assert ends.count(-signal.SIGKILL) > len(ends) / 2
        assert view(tenancy, GLOBEX) == before
