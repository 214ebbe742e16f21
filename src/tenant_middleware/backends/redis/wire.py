"""Values of the admission protocol as arguments and replies of `admission.lua`; pure, shared by both clients."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from math import inf
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


def whole(number: bytes) -> int:
    """A whole number that Lua wrote with %.17g, which turns to an exponent past 17 digits only."""
    return int(number)


def answer(reply: Sequence[Any]) -> Granted | Denied:
    """A decision from the script's reply."""
    if reply[0] == b"G":
        _, output, tokens, nano, expires, *rest = reply
        return Granted(output, tokens, whole(nano), float(expires), left(rest))
    _, rule, limit, used, retry, resets, never = reply
    return Denied(
        rule.decode(),
        whole(limit),
        whole(used),
        float(retry) if retry else None,
        float(resets) if resets else None,
        never == 1,
    )


def left(rest: Sequence[Any]) -> Left:
    requests, tokens, in_flight, spent, reserved, lost, resets = rest
    return Left(
        inf if requests < 0 else requests,
        inf if tokens < 0 else tokens,
        in_flight,
        whole(spent),
        whole(reserved),
        whole(lost),
        float(resets),
    )


def balance(reply: Sequence[Any]) -> Balance:
    return left(reply[1:]).balance()


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
