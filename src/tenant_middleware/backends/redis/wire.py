"""Values of the admission protocol as arguments and replies of `admission.lua`; pure, shared by both clients."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import fields
from operator import attrgetter
from typing import Any, NamedTuple

from tenant_middleware import keys
from tenant_middleware.admission.period import Span
from tenant_middleware.admission.store import Ask, Balance, Denied, Granted, Left, Limits
from tenant_middleware.errors import InvalidInput
from tenant_middleware.metering.ledger import LedgerRow
from tenant_middleware.tenant import Tenant

_COLUMNS = tuple(field.name for field in fields(LedgerRow))
_values_of = attrgetter(*_COLUMNS)
_GRANTED, _DENIED, _LEFT = struct.Struct("<11d"), struct.Struct("<5d"), struct.Struct("<7d")
# Tenants of all workers that have an outbox; a set of its own, since no tenant's key begins like this.
REGISTRY = f"{keys.PREFIX}:admission.tenants"


class TenantKeys(NamedTuple):
    """The Redis keys of one tenant's admission; all in one slot of a cluster."""

    account: str
    held: str
    lost: str
    marker: str
    outbox: str

    @classmethod
    def of(cls, tenant: Tenant) -> TenantKeys:
        names = ("account", "held", "lost", "done", "outbox")
        return cls(*(keys.key(tenant, "admission", name) for name in names))

    def for_call(self, call_id: str) -> tuple[str, str, str, str, str]:
        account, held, lost, marker, outbox = self
        return account, held, lost, f"{marker}{keys.encode(call_id)}.", outbox


def head(op: str, now: str, call_id: str, span: Span) -> list[str]:
    """The arguments that every operation begins with."""
    return [op, now, call_id, span.kind, repr(span.start), repr(span.end)]


def limit_args(limits: Limits) -> list[str]:
    return [_or_unlimited(limits.rpm), _or_unlimited(limits.tpm), repr(limits.burst), *_bounds(limits)]


def _bounds(limits: Limits) -> tuple[str, str]:
    return _or_unlimited(limits.max_concurrency), _or_unlimited(limits.budget_nano)


def _or_unlimited(limit: int | None) -> str:
    return "-1" if limit is None else str(limit)


def ask_args(ask: Ask) -> list[str]:
    _, _, _, prompt, most, least, fixed, per_token, ttl, nonce = ask
    return [str(prompt), str(most), str(least), str(fixed), str(per_token), repr(ttl), nonce]


def answer(reply: Sequence[Any]) -> Granted | Denied:
    """A decision from the script's reply: doubles, which hold its whole numbers exactly."""
    if reply[0] == b"G":
        output, tokens, nano, expires, *rest = _GRANTED.unpack(reply[1])
        return Granted(int(output), int(tokens), int(nano), expires, left(rest))
    limit, used, retry, resets, never = _DENIED.unpack(reply[2])
    return Denied(
        reply[1].decode(),
        int(limit),
        int(used),
        None if retry < 0 else retry,
        None if resets < 0 else resets,
        never == 1,
    )


def left(numbers: Sequence[float]) -> Left:
    requests, tokens, in_flight, spent, reserved, lost, resets = numbers
    return Left(requests, tokens, int(in_flight), int(spent), int(reserved), int(lost), resets)


def balance(reply: Sequence[Any]) -> Balance:
    return left(_LEFT.unpack(reply[1])).balance()


def pack_row(row: LedgerRow | None) -> str:
    """A row as it lies in the stream: JSON, by name, so that workers of two versions understand each other."""
    return "" if row is None else json.dumps(dict(zip(_COLUMNS, _values_of(row), strict=True)), separators=(",", ":"))


def unpack_row(packed: bytes) -> LedgerRow:
    """The row of a stream entry; fields of a newer version are left out, a broken one raises InvalidInput."""
    try:
        found = json.loads(packed)
        return LedgerRow(**{name: found[name] for name in _COLUMNS if name in found})
    except (ValueError, TypeError, KeyError) as error:
        raise InvalidInput("the outbox holds an entry that is no ledger row") from error
