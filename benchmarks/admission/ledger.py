"""Every settled call exactly once in the ledger, while workers are killed: 8 processes, SQLite, drained as they run.

A worker notes each call in a file of its own before it settles, and again when that has returned; what it noted is
compared with the ledger, and the ledger with what Redis has counted.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from tenant_middleware.local import local_redis
from tenant_middleware.metering.ledger import LedgerRow
from tenant_middleware.tenancy import Tenancy
from tenant_middleware.tenant import Tenant

CALLS, PROCESSES, KILLS = 20_000, 8, 20
TENANTS = tuple(Tenant(name, "gold") for name in ("acme", "Acme", "globex", "initech", "acme2"))
MODEL = "bench/model"


@dataclass(frozen=True, slots=True)
class Outcome:
    """Noted and not booked, booked and not noted; nano-dollars apart from the notes, and from Redis."""

    settled: int
    booked: int
    lost: int
    phantoms: int
    nano_diff: int
    redis_diff: int
    killed: int
    seconds: float

    def beside(self) -> dict[str, float]:
        return {
            "settled": self.settled,
            "booked": self.booked,
            "booked, never noted": self.phantoms,
            "kills": self.killed,
            "calls/s": self.settled / self.seconds,
        }


def policy(redis: str, folder: str) -> dict[str, Any]:
    """Limits that are never in the way."""
    return {
        "backends": {"admission": redis, "ledger": f"sqlite:///{folder}/usage.db"},
        "admission": {"store_timeout": "10s", "drain_every": "0.2s"},
        "tiers": {
            "gold": {
                "rpm": 10**8,
                "tpm": 10**11,
                "max_concurrency": 10_000,
                "budget": {"usd": "1000000"},
                "models": [MODEL],
                "max_output_tokens": 512,
            }
        },
        "tenants": {tenant.id: {"tier": "gold"} for tenant in TENANTS},
        "prices": {MODEL: {"input_usd_per_million": "0.153", "output_usd_per_million": "0.607"}},
    }


@lru_cache(maxsize=1)
def killed() -> Outcome:
    return run(CALLS, kills=KILLS)


def run(calls: int, *, kills: int, seed: int = 1) -> Outcome:
    """So many calls by eight processes of which one is killed now and then; a new one goes on in its place."""
    with local_redis(modules=False) as redis, tempfile.TemporaryDirectory() as folder:
        Tenancy.from_mapping(policy(redis, folder)).close()  # makes the tables
        began = time.monotonic()
        with contextlib.ExitStack() as running:
            done = _drive(redis, folder, calls, kills, random.Random(seed), running)
        seconds = time.monotonic() - began
        with Tenancy.from_mapping(policy(redis, folder)) as tenancy:
            tenancy.drain()
            rows = {(row.tenant_id, row.call_id): row for row in tenancy.ledger.rows()}
            spent = _counted_by_redis(tenancy)
        return _compare(Path(folder), rows, spent, done, seconds)


def _counted_by_redis(tenancy: Tenancy) -> int:
    return sum(tenancy.balance(tenant).spent_nano for tenant in TENANTS)


def _drive(redis: str, folder: str, calls: int, kills: int, dice: random.Random, running: contextlib.ExitStack) -> int:
    share = calls // PROCESSES
    workers = [_Worker(number, share, redis, folder, running) for number in range(PROCESSES)]
    marks = sorted(dice.randrange(calls // 20, calls * 19 // 20) for _ in range(kills))
    while any(worker.process.poll() is None for worker in workers):
        time.sleep(0.02)
        if marks and sum(worker.settled() for worker in workers) >= marks[0]:
            marks.pop(0)
            victim = dice.choice([worker for worker in workers if worker.process.poll() is None])
            victim.replace()
    failed = [worker.process.returncode for worker in workers if worker.process.returncode]
    if failed:
        raise RuntimeError(f"{len(failed)} workers ended with an error")
    return kills - len(marks)


class _Worker:
    def __init__(self, number: int, share: int, redis: str, folder: str, running: contextlib.ExitStack) -> None:
        self.number, self.share, self.place = number, share, (redis, folder)
        self.notes = Path(folder, f"notes-{number}")
        self.notes.touch()
        self.running = running
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        todo = self.share - self.settled()
        command = [sys.executable, "-m", "benchmarks.admission.ledger_worker", *self.place, str(self.notes), str(todo)]
        process = subprocess.Popen(command)
        self.running.callback(process.kill)
        return process

    def settled(self) -> int:
        return self.notes.read_bytes().count(b"\n!")

    def replace(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()
        with self.notes.open("ab") as notes:
            notes.write(b"\n")  # the last line may have been cut off
        self.process = self.start()


def _noted(folder: Path) -> Iterator[tuple[bool, tuple[str, str], int]]:
    for notes in folder.glob("notes-*"):
        for line in notes.read_text("utf-8").splitlines():
            words = line.split(" ")
            if len(words) == 4:
                mark, tenant_id, call_id, nano = words
                yield mark == "!", (tenant_id, call_id), int(nano)


def _compare(folder: Path, rows: dict[tuple[str, str], LedgerRow], spent: int, kills: int, seconds: float) -> Outcome:
    begun: dict[tuple[str, str], int] = {}
    settled: dict[tuple[str, str], int] = {}
    for returned, key, nano in _noted(folder):
        (settled if returned else begun)[key] = nano
    booked = sum(row.cost_nano for row in rows.values())
    phantoms = [row for key, row in rows.items() if key not in begun]
    nano_diff = sum(abs(row.cost_nano - begun[key]) for key, row in rows.items() if key in begun)
    nano_diff += sum(row.cost_nano for row in phantoms)
    lost = [key for key in settled if key not in rows]
    nano_diff += sum(settled[key] for key in lost)
    return Outcome(len(settled), len(rows), len(lost), len(phantoms), nano_diff, booked - spent, kills, seconds)
