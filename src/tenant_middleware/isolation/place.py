"""Where a tenant's records lie and what must be true of them: scoped ids, stamps, and the check of every record.

One place decides namespace, index and filter from (tenant, isolation); no caller's argument reaches it.
"""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from tenant_middleware import keys
from tenant_middleware.errors import InvalidInput, IsolationBreach, TenantMismatch
from tenant_middleware.isolation.filters import LARGEST_INT, OWNER, RESERVED, AllOf, Clause, Where
from tenant_middleware.isolation.vectors import Hit, Record
from tenant_middleware.policy import Isolation
from tenant_middleware.tenant import Tenant

STAMP = f"{RESERVED}tenant"
MAX_K = 10_000
MAX_ID = 4096
MAX_FLOAT = 3.4e38  # stores keep 32-bit floats
MAX_DEPTH = 16


@dataclass(frozen=True, slots=True)
class Place:
    """Where one tenant's records lie under one kind of isolation.

    `namespace` is the tenant's partition; `stamp` is written into each record and checked on each one read.
    """

    tenant: Tenant
    isolation: Isolation
    stamp: str
    namespace: str

    @property
    def shared(self) -> bool:
        """Whether other tenants' records lie here too, so that every search needs the tenant's condition."""
        return self.isolation == "filter"

    def own_index(self, template: str) -> str:
        """The name of the tenant's own index beside a named one: a digest, since index names allow little."""
        return f"{keys.PREFIX}-{keys.digest(self.tenant, 'silo', template)}"

    def key(self, record_id: str) -> str:
        """The scoped id under which the store keeps a record."""
        return keys.scoped_id(self.tenant, record_id)


@lru_cache(maxsize=8192)
def place_of(tenant: Tenant, isolation: Isolation) -> Place:
    """The one place of a tenant under one kind of isolation."""
    return Place(tenant, isolation, keys.tag(tenant), keys.namespace(tenant))


class Row(NamedTuple):
    """A record as a store keeps it: `key` is the scoped id, `stamp` whose it is, `id` the tenant's own id.

    What a store lost comes back as None and fails the check.
    """

    key: str
    stamp: str | None
    id: str | None
    text: str
    metadata: Mapping[str, Any]
    vector: Sequence[float] = ()
    score: float = 0.0


# On the way in.


def check_tenant(tenant: object) -> Tenant:
    """Backends take a Tenant, never a name that somebody sent."""
    if isinstance(tenant, Tenant):
        return tenant
    raise InvalidInput(f"expected a Tenant first, got {type(tenant).__name__}")


def row_of(place: Place, record: Record, dimension: int | None) -> Row:
    """A checked record with the tenant's stamp, written last."""
    if not isinstance(record, Record):
        raise InvalidInput(f"upsert: expected Records, got {type(record).__name__}")
    check_text(record.text, "record text")
    record_id = check_id(record.id)
    return Row(
        key=place.key(record_id),
        stamp=place.stamp,
        id=record_id,
        text=record.text,
        metadata=check_metadata(place.tenant, record.metadata),
        vector=check_vector(record.vector, dimension),
    )


def check_id(record_id: object) -> str:
    """A record id: any text that isn't empty."""
    if isinstance(record_id, str) and 0 < len(record_id) <= MAX_ID:
        return record_id
    came = f"{len(record_id)} characters" if isinstance(record_id, str) else type(record_id).__name__
    raise InvalidInput(f"record id: expected 1 to {MAX_ID} characters, got {came}")


def check_text(text: object, what: str) -> str:
    """Text that can be sent as UTF-8."""
    if not isinstance(text, str):
        raise InvalidInput(f"{what}: expected text, got {type(text).__name__}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise InvalidInput(f"{what}: expected valid Unicode, got a lone surrogate") from None
    return text


def check_ids(ids: Iterable[str]) -> list[str]:
    """Ids without repetition, in the order given."""
    if isinstance(ids, str):
        raise InvalidInput("ids: expected a list of ids, got one text")
    return list(dict.fromkeys(map(check_id, ids)))


def check_vector(vector: Sequence[float], dimension: int | None = None) -> list[float]:
    """Finite numbers, not all zero, of the right length. A list stays the caller's: a store that keeps it copies it."""
    numbers = vector if isinstance(vector, list) else plain(vector)
    if dimension is not None and len(numbers) != dimension:
        raise InvalidInput(f"vector: expected {dimension} dimensions, got {len(numbers)}")
    try:
        length = math.hypot(*numbers)
    except (TypeError, ValueError, OverflowError):
        raise _no_numbers(vector) from None
    if not 0.0 < length < MAX_FLOAT:
        came = "zeros only" if length == 0.0 else "NaN, infinity or more than a 32-bit float holds"
        raise InvalidInput(f"vector: expected finite numbers that aren't all zero, got {came}")
    return numbers


def plain(vector: Sequence[float]) -> list[float]:
    """Python's own floats, whatever numbers came."""
    try:
        return array("d", vector).tolist()
    except (TypeError, ValueError, OverflowError):
        raise _no_numbers(vector) from None


def _no_numbers(vector: object) -> InvalidInput:
    return InvalidInput(f"vector: expected numbers, got {type(vector).__name__} of something else")


def check_k(k: object, name: str = "k") -> int:
    """How many results: 1 to 10,000."""
    if isinstance(k, int) and not isinstance(k, bool) and 1 <= k <= MAX_K:
        return k
    raise InvalidInput(f"{name}: expected a whole number from 1 to {MAX_K}, got {k if isinstance(k, int) else type(k)}")


def check_metadata(tenant: Tenant, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of JSON metadata without our own fields; what is marked as another tenant's is refused."""
    if not isinstance(metadata, Mapping):
        raise InvalidInput(f"metadata: expected a mapping, got {type(metadata).__name__}")
    checked: dict[str, Any] = {}
    for name, value in metadata.items():
        _check_name(name)
        if name.startswith(RESERVED):
            check_own_stamp(tenant, name, value)
            continue
        if name == OWNER and value != tenant.id:
            raise TenantMismatch(
                f"metadata: {OWNER!r} names someone other than the tenant in context; nothing was stored"
            )
        checked[name] = _json(value, name, 0)
    return checked


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not name or name.startswith("$"):
        raise InvalidInput("metadata: expected field names as text that isn't empty and doesn't begin with $")


def check_own_stamp(tenant: Tenant, name: str, value: object) -> None:
    """Records that were read with their stamp may be written again, by their own tenant."""
    if name != STAMP:
        raise InvalidInput(f"metadata: names that begin with {RESERVED!r} are reserved, got {name[:64]!r}")
    if value != keys.tag(tenant):
        raise TenantMismatch("metadata: this record is stamped for someone other than the tenant in context")


def _json(value: object, name: str, depth: int) -> Any:
    if isinstance(value, str):
        return check_text(value, f"metadata {name[:64]!r}")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        if abs(value) > LARGEST_INT:
            raise InvalidInput(f"metadata: {name!r} is past 2**53, where stores lose digits; keep it as text")
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidInput(f"metadata: {name!r} is NaN or infinite")
        return float(value)
    if depth < MAX_DEPTH:
        if isinstance(value, list | tuple):
            return [_json(item, name, depth + 1) for item in value]
        if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
            return {key: _json(item, name, depth + 1) for key, item in value.items()}
    raise InvalidInput(f"metadata: {name!r} expects JSON of at most {MAX_DEPTH} levels, got {type(value).__name__}")


def under_tenant(place: Place, where: Where | None) -> Where | None:
    """The condition a store gets. In a shared place the tenant's comes first and everything else under one AND."""
    if not place.shared:
        return where
    mine = Clause(STAMP, "$eq", place.stamp)
    return mine if where is None else AllOf((mine, where))


# On the way out.


def verify(place: Place, rows: Iterable[Row]) -> None:
    """Raise IsolationBreach unless every record carries this tenant's stamp and the id it was asked or found by."""
    for row in rows:
        if row.stamp != place.stamp or row.id is None or row.key != place.key(row.id):
            raise IsolationBreach(
                "the vector store answered with a record that isn't this tenant's, or lost its stamp; nothing was "
                "returned. Run verify_isolation() on this backend and look for a writer that bypasses it"
            )


def verify_keys(place: Place, found: Iterable[str]) -> None:
    """The same for bare ids, of which only the prefix can be checked."""
    prefix = f"{place.stamp}."
    if not all(key.startswith(prefix) for key in found):
        raise IsolationBreach("the vector store listed an id that isn't this tenant's; nothing was returned")


def hit(row: Row) -> Hit:
    """What a caller sees of a verified row."""
    return Hit(row.id or "", row.score, row.text, row.metadata)


def record(row: Row) -> Record:
    """What a caller sees of a verified row, with its vector."""
    return Record(row.id or "", tuple(row.vector), row.text, row.metadata)


def size_of(metadata: Mapping[str, Any]) -> int:
    """Bytes of metadata as JSON."""
    return len(json.dumps(metadata, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass"))
