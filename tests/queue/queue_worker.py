"""A worker of a shared queue in a process of its own; what to do is the first argument."""

from __future__ import annotations

import os
import sys
import threading
import time

from tenant_middleware.backends.redis.queue import RedisQueue
from tenant_middleware.errors import TenancyError
from tenant_middleware.tenant import Tenant
from tenant_middleware.testing.queue import pools, ticket


def open_queue(url: str, slots: str, lease: str) -> RedisQueue:
    return RedisQueue(url, pools(int(slots)), lease=float(lease), grace=0.0, timeout=5.0)


def say(*words: object) -> None:
    print(*words, flush=True)


def hold(url: str, slots: str, lease: str, many: str) -> None:
    """Take so many slots, and a place in line when that is all of them; say so, and hang until killed."""
    queue = open_queue(url, slots, lease)
    for _ in range(int(many)):
        queue.enter(ticket(Tenant("Acme", "free")))
    if queue.state()[0].running == int(slots):
        threading.Thread(target=lambda: queue.enter(ticket(Tenant("Acme", "free"), timeout=600)), daemon=True).start()
        while not queue.state()[0].waiting:
            time.sleep(0.01)
    say("held")
    time.sleep(600)


def freeze(url: str, slots: str, lease: str) -> None:
    """Hold every slot and say so; on a line from outside give them back, and say that."""
    queue = open_queue(url, slots, lease)
    held = [queue.enter(ticket(Tenant("Acme", "free"))) for _ in range(int(slots))]
    say("held")
    sys.stdin.readline()
    for slot in held:
        queue.leave(slot, 10, 5)
    queue.close()
    say("left")


def serve(url: str, slots: str, lease: str, tenant: str, many: str) -> None:
    """Calls in two threads, each with its own span of time; say every span, then how many failed."""
    queue, spans, failed = open_queue(url, slots, lease), list[tuple[float, float]](), 0

    def calls() -> None:
        nonlocal failed
        for _ in range(int(many) // 2):
            try:
                slot = queue.enter(ticket(Tenant(tenant, "free"), timeout=60))
                began = time.monotonic()
                time.sleep(0.004)
                spans.append((began, time.monotonic()))
                queue.leave(slot, 10, 0)
            except TenancyError as error:
                failed += 1
                print(error, file=sys.stderr)

    threads = [threading.Thread(target=calls) for _ in range(2)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    queue.close()
    say(*(f"{began}:{ended}" for began, ended in spans))
    say(failed)


def fork(url: str, slots: str, lease: str) -> None:
    """The child of a worker that holds a slot is a worker of its own: it ends, and the parent's slot stays."""
    queue = open_queue(url, slots, lease)
    slot = queue.enter(ticket(Tenant("Acme", "free"), timeout=0))
    child = os.fork()
    if child == 0:
        mine = queue.enter(ticket(Tenant("acme", "free"), timeout=0))
        queue.leave(mine, 1, 0)
        queue.close()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    (pool, *_) = queue.state()
    say(status, pool.running)
    queue.leave(slot, 1, 0)
    queue.close()


if __name__ == "__main__":
    {"hold": hold, "freeze": freeze, "serve": serve, "fork": fork}[sys.argv[1]](*sys.argv[2:])
