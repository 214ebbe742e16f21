"""Erases tenants in processes of their own and kills them, with SIGKILL, after a chosen thing they did.

Each line on stdin is an order, `{"tenant": ..., "after": number or null}`; each gets a process, forked here so that the
imports are paid for once. It wants a line in answer to `waiting`, when real workers would have learnt of the mark.
Last it says `receipt` with what it has in hand, or nothing; then comes `ended` with how it ended.
`events` are the things an erasure does that could be the last one: `calls` on stores, or each command that is sent.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from redis.connection import Connection

from tenant_middleware.lifecycle import erasure
from tenant_middleware.tenancy import Tenancy
from tenant_middleware.tenant import Tenant


class Fate:
    """Counts what was done and ends the process after so many things."""

    def __init__(self, after: int | None) -> None:
        self._after, self.done = after, list[str]()

    def did(self, what: str) -> None:
        if len(self.done) == self._after:
            os.kill(os.getpid(), signal.SIGKILL)
        self.done.append(what)

    def watch(self, owner: Any, method: str, name: str) -> None:
        """Count each call of a method once it has returned."""
        call = getattr(owner, method)

        def counted(*args: Any, **kwargs: Any) -> Any:
            result = call(*args, **kwargs)
            self.did(name)
            return result

        object.__setattr__(owner, method, counted)


def watch_calls(fate: Fate, tenancy: Tenancy, stores: dict[str, Any]) -> None:
    for name, store in stores.items():
        fate.watch(store, "erase", f"erased {name}")
        fate.watch(store, "leftovers", f"looked into {name}")
    fate.watch(tenancy.standings, "put", "marked")
    fate.watch(tenancy, "refresh_standing", "told")
    fate.watch(tenancy, "drain", "drained")
    fate.watch(tenancy.ledger.ledger, "pseudonymise", "settled the books")


def watch_commands(fate: Fate, tenancy: Tenancy, stores: dict[str, Any]) -> None:
    """Each command to Redis and each statement to the database, before it goes out."""
    send = Connection.send_packed_command

    def sent(*args: Any, **kwargs: Any) -> Any:
        fate.did("Redis")
        return send(*args, **kwargs)

    Connection.send_packed_command = sent  # type: ignore[method-assign]  # this process has nothing else to do
    sa.event.listen(sa.Engine, "before_cursor_execute", lambda *statement: fate.did("database"))


EVENTS: dict[str, Callable[[Fate, Tenancy, dict[str, Any]], None]] = {
    "calls": watch_calls,
    "commands": watch_commands,
}


def say(**values: Any) -> None:
    print(json.dumps(values), flush=True)


def erase(policy: dict[str, Any], events: str, tenant: Tenant, after: int | None) -> None:
    waited: list[float] = []

    def wait(seconds: float) -> None:
        if not waited:
            say(said="waiting")
            sys.stdin.readline()
        waited.append(seconds)

    with Tenancy.from_mapping(policy) as tenancy:
        stores, fate = erasure.stores_of(tenancy), Fate(after)
        EVENTS[events](fate, tenancy, stores)
        erasure.stores_of = lambda tenancy, own: stores  # the very objects that are watched
        receipt = erasure.erase(tenancy, tenant, confirm=tenant.id, wait=wait)
        say(said="receipt", receipt=receipt.as_json(), complete=receipt.complete, done=fate.done)


def main(policy: dict[str, Any], events: str) -> None:
    with Tenancy.from_mapping(policy) as tenancy:
        erasure.stores_of(tenancy)  # imports all clients, and leaves nothing open
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if not child:
            erase(policy, events, Tenant(order["tenant"], "pro"), order["after"])
            os._exit(0)
        say(said="ended", code=os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), sys.argv[2])
