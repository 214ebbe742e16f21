"""A worker process for the fault tests: `python worker.py WHAT REDIS_URL CLOCK ...`; speaks lines on its stdout."""

from __future__ import annotations

import sys
import time
from dataclasses import replace

from tenant_middleware.admission.store import Granted
from tenant_middleware.backends.redis.admission import RedisAdmission
from tenant_middleware.tenant import Tenant
from tenant_middleware.testing import ManualClock
from tenant_middleware.testing.admission import ACME, FREE, ask, settlement


def open_store(url: str, clock: str) -> RedisAdmission:
    return RedisAdmission(url, clock=ManualClock(float(clock)) if clock != "server" else None, timeout=5.0)


def say(*words: object) -> None:
    print(*words, flush=True)


def reserve_and_wait(url: str, clock: str, call_id: str, budget: str) -> None:
    """Reserve, say so, and hang until killed."""
    limits = replace(FREE, budget_nano=int(budget), max_concurrency=4)
    say(type(open_store(url, clock).reserve(ask(limits=limits, call_id=call_id, nonce=call_id))).__name__)
    time.sleep(600)


def settle_often(url: str, clock: str, call_id: str, times: str) -> None:
    """Settle one call again and again; say how often it was news."""
    store = open_store(url, clock)
    done = settlement(ask(call_id=call_id), tokens=15, nano=77)
    sys.stdin.readline()
    say(sum(store.settle(done) for _ in range(int(times))))
    store.close()


def hammer(url: str, clock: str, seconds: str, tenant: str, limit: str, what: str) -> None:
    """Reserve and settle as fast as it goes; say how many calls were served, refused, failed, and their nanos."""
    store = open_store(url, clock)
    limits = replace(FREE, **{what: int(limit)})
    who, served, refused, failed, nanos = Tenant(tenant, "free"), 0, 0, 0, 0
    sys.stdin.readline()
    end = time.monotonic() + float(seconds)
    number = 0
    while time.monotonic() < end:
        number += 1
        asked = ask(who, limits)
        call_id = f"{id(store):x}-{time.time_ns():x}-{number}"
        asked = asked._replace(call_id=call_id, nonce=call_id)
        try:
            if isinstance(store.reserve(asked), Granted):
                store.settle(settlement(asked, nano=asked.fixed_nano + number % 100))
                nanos += asked.fixed_nano + number % 100
                served += 1
            else:
                refused += 1
        except Exception as error:  # noqa: BLE001  what kind of failure reached the caller is what the test counts
            failed += 1
            print(type(error).__name__, error, file=sys.stderr)
    say(served, refused, failed, nanos)
    store.close()


if __name__ == "__main__":
    assert ACME.id == "acme"
    {"reserve_and_wait": reserve_and_wait, "settle_often": settle_often, "hammer": hammer}[sys.argv[1]](*sys.argv[2:])
