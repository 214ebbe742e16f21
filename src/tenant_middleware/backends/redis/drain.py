"""From the streams of settled rows into a ledger, exactly once: the ledger ignores a row that it has.

A row leaves its stream only after the ledger has it for good. Several workers may drain at once: a consumer group
shares the rows out, and what a dead worker had taken is claimed by the next one.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from tenant_middleware.backends.redis import wire
from tenant_middleware.backends.redis.steps import Address, Command, Elsewhere, Flow, Nodes, Send, commands
from tenant_middleware.errors import InvalidInput
from tenant_middleware.metering.ledger import Ledger, LedgerRow
from tenant_middleware.tenant import Tenant

_log = logging.getLogger(__name__)
GROUP = "ledger"
_PAGE = 500
# One name for all: the server remembers each consumer for ever, and who took an entry is of no use, only how long ago.
_CONSUMER = "drainer"
# Whoever has it may drain in the background; the others would only ask the server the same.
TURN = f"{wire.REGISTRY}.draining"


class _Taken(NamedTuple):
    """Entries of one stream that this drainer holds until they are written."""

    key: str
    ids: list[bytes]
    rows: list[LedgerRow]


def drain(nodes: Nodes, ledger: Ledger, seen: Sequence[str], *, claim_after: float) -> Flow[int]:
    """Write every row that settled before this call; returns how many were new to the ledger.

    `claim_after`: seconds after which rows that another drainer took, but did not finish, are taken over.
    """
    new = 0
    tenants = yield from _tenants(nodes, seen)
    outboxes = [wire.TenantKeys.of(Tenant(tenant_id, "drain")).outbox for tenant_id in tenants]
    batch: list[_Taken] = []
    for key in (yield from _filled(nodes, outboxes)):
        while True:
            taken = yield from _take(nodes, key, claim_after)
            if not taken.ids:
                break
            batch.append(taken)
            if sum(len(one.ids) for one in batch) >= _PAGE:
                new += yield from _write(nodes, ledger, batch)
                batch = []
            if len(taken.ids) < _PAGE:
                break
    if batch:
        new += yield from _write(nodes, ledger, batch)
    return new


def may_drain(nodes: Nodes, seconds: float) -> Flow[bool]:
    """Whether it is this worker's turn to drain in the background; for so long no other one gets it."""
    taken = ("SET", TURN, "1", "NX", "PX", max(round(seconds * 1000), 1))
    (reply,) = yield from commands(nodes, TURN, [taken])
    return reply is not None


def _filled(nodes: Nodes, outboxes: Sequence[str]) -> Flow[list[str]]:
    """The outboxes in which something lies; idle tenants cost one command in a pipeline."""
    by_node: dict[Address, list[str]] = {}
    for key in outboxes:
        by_node.setdefault(nodes.of(key), []).append(key)
    filled: list[str] = []
    for node, keys in by_node.items():
        for start in range(0, len(keys), _PAGE):
            page = keys[start : start + _PAGE]
            lengths = yield Send(node, [("XLEN", key) for key in page])
            # An error says that the slot has moved: who takes the rows will find it.
            filled += [key for key, length in zip(page, lengths, strict=True) if length != 0]
    return filled


def _tenants(nodes: Nodes, seen: Sequence[str]) -> Flow[list[str]]:
    """All tenants with an outbox. A node may have lost the registry, so those seen here are added again."""
    asked: list[Command] = [("SADD", wire.REGISTRY, *seen)] if seen else []
    replies = yield from commands(nodes, wire.REGISTRY, [*asked, ("SMEMBERS", wire.REGISTRY)])
    return sorted(name.decode() for name in replies[-1])


def _take(nodes: Nodes, key: str, claim_after: float) -> Flow[_Taken]:
    idle = str(round(claim_after * 1000))
    claim = ("XAUTOCLAIM", key, GROUP, _CONSUMER, idle, "0-0", "COUNT", _PAGE)
    read = ("XREADGROUP", "GROUP", GROUP, _CONSUMER, "COUNT", _PAGE, "STREAMS", key, ">")
    replies = yield from commands(nodes, key, [claim, read], allow="NOGROUP")
    if any(isinstance(reply, Exception) for reply in replies):
        yield from commands(nodes, key, [("XGROUP", "CREATE", key, GROUP, "0")], allow="BUSYGROUP")
        replies = yield from commands(nodes, key, [claim, read])
    claimed, fresh = replies
    entries = [entry for entry in claimed[1] if entry is not None and entry[1]]
    for _, found in fresh or []:
        entries += found
    return _unpacked(key, entries)


def _unpacked(key: str, entries: Iterable[Any]) -> _Taken:
    taken = _Taken(key, [], [])
    for entry_id, values in entries:
        try:
            row = wire.unpack_row(values[1])
        except (InvalidInput, IndexError):
            # It stays in the stream for a human to look at; it is no row of this version.
            _log.error("an entry of an outbox is no ledger row and was left where it is")
            continue
        taken.ids.append(entry_id)
        taken.rows.append(row)
    return taken


def _write(nodes: Nodes, ledger: Ledger, batch: list[_Taken]) -> Flow[int]:
    rows = [row for taken in batch for row in taken.rows]
    new: int = yield Elsewhere(lambda: ledger.write(rows))
    for key, ids, _ in batch:
        yield from commands(nodes, key, [("XACK", key, GROUP, *ids), ("XDEL", key, *ids)])
    return new


def peek(nodes: Nodes, key: str) -> Flow[list[LedgerRow]]:
    """Every row that waits in one stream, taken or not; nothing is changed."""
    start, rows = "-", list[LedgerRow]()
    while True:
        (entries,) = yield from commands(nodes, key, [("XRANGE", key, start, "+", "COUNT", _PAGE)])
        rows += _unpacked(key, entries).rows
        if len(entries) < _PAGE:
            return rows
        start = f"({entries[-1][0].decode()}"
