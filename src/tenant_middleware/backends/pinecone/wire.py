"""Records and conditions as Pinecone takes them, and its errors as ours.

Everything lies in metadata: the caller's filterable fields under their own names, and ours with the stamp written last.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pinecone.errors import (
    ApiError,
    ForbiddenError,
    NotFoundError,
    PaymentRequiredError,
    PineconeConnectionError,
    PineconeError,
    PineconeTimeoutError,
    RateLimitError,
    ResponseParsingError,
    ServiceError,
    UnauthorizedError,
)

from tenant_middleware.errors import ConfigurationError, InvalidInput, StoreUnavailable, TenancyError
from tenant_middleware.isolation.filters import RESERVED, AllOf, AnyOf, Clause, Where, filterable
from tenant_middleware.isolation.place import STAMP, Row, plain, size_of

STORE = "pinecone"
ID = f"{RESERVED}id"
TEXT = f"{RESERVED}text"
KEPT = f"{RESERVED}kept"  # what Pinecone's metadata can't carry as it is, as JSON

MAX_METADATA = 40 * 1024
MAX_RECORDS = 1000
MAX_BYTES = 1_800_000  # of 2 MB, with room for the envelope
MAX_URL_IDS = 6_000  # characters of ids in the URL of a fetch
MAX_FETCH = 100
FLOAT_BYTES = 22  # of one number in JSON, at most


def vector(row: Row) -> dict[str, Any]:
    """One record for an upsert; refuses metadata that the service would refuse after other records were stored."""
    kept = {name: value for name, value in row.metadata.items() if _lossy(value)}
    metadata: dict[str, Any] = {name: value for name, value in row.metadata.items() if filterable(value)}
    metadata[TEXT] = row.text
    metadata[ID] = row.id
    if kept:
        metadata[KEPT] = json.dumps(kept, ensure_ascii=False, separators=(",", ":"))
    metadata[STAMP] = row.stamp
    size = size_of(metadata)
    if size > MAX_METADATA:
        raise InvalidInput(
            f"record: text and metadata are {size} bytes together, and Pinecone keeps {MAX_METADATA}; split the text"
        )
    return {"id": row.key, "values": plain(row.vector), "metadata": metadata}


def _lossy(value: Any) -> bool:
    """Numbers come back as floats, and whatever isn't a scalar or a list of text is refused or dropped."""
    return not filterable(value) or (isinstance(value, int) and not isinstance(value, bool))


def row(key: str, metadata: Mapping[str, Any] | None, values: Sequence[float] | None, score: float = 0.0) -> Row:
    """A record as it came back; what the service lost is None and fails the check of its stamp."""
    fields = dict(metadata or {})
    stamp, record_id, text = fields.pop(STAMP, None), fields.pop(ID, None), fields.pop(TEXT, "")
    kept = fields.pop(KEPT, None)
    if kept is not None:
        fields.update(json.loads(kept))
    return Row(key, stamp, record_id, text, fields, values or (), score)


def batches(rows: Sequence[Row]) -> Iterator[tuple[list[Row], list[dict[str, Any]]]]:
    """Rows in requests of at most 1,000 records and 2 MB; all are checked before the first is sent."""
    group: list[Row] = []
    vectors: list[dict[str, Any]] = []
    size = 0
    for item, made in [(item, vector(item)) for item in rows]:
        bytes_ = len(item.key) + size_of(made["metadata"]) + FLOAT_BYTES * len(item.vector)
        if group and (len(group) == MAX_RECORDS or size + bytes_ > MAX_BYTES):
            yield group, vectors
            group, vectors, size = [], [], 0
        group.append(item)
        vectors.append(made)
        size += bytes_
    if group:
        yield group, vectors


def fetches(keys: Sequence[str]) -> Iterator[list[str]]:
    """Ids in groups that fit into a URL."""
    group: list[str] = []
    length = 0
    for key in keys:
        if group and (len(group) == MAX_FETCH or length + len(key) > MAX_URL_IDS):
            yield group
            group, length = [], 0
        group.append(key)
        length += len(key) + 5
    if group:
        yield group


def condition(where: Where) -> dict[str, Any]:
    """The condition in Pinecone's words; `$ne` asks for the field too, since the service has judged that both ways."""
    if isinstance(where, AllOf | AnyOf):
        return {"$and" if isinstance(where, AllOf) else "$or": [condition(part) for part in where.parts]}
    value = list(where.value) if isinstance(where.value, tuple) else where.value
    if where.op in ("$ne", "$nin"):
        return {"$and": [{where.field: {"$exists": True}}, {where.field: {where.op: value}}]}
    return {where.field: {where.op: value}}


def mine(stamp: str) -> Clause:
    """The condition that a record is this tenant's."""
    return Clause(STAMP, "$eq", stamp)


def ours(error: PineconeError) -> TenancyError:
    """The error to raise instead; the service's own text may quote values and is never repeated."""
    if isinstance(error, UnauthorizedError):
        return ConfigurationError("pinecone: the API key was refused (401)")
    if isinstance(error, ForbiddenError | PaymentRequiredError):
        return ConfigurationError(
            f"pinecone: not allowed ({error.status_code}): a quota of indexes or namespaces is used up, deletion "
            "protection is on, or the key lacks the role"
        )
    if isinstance(error, NotFoundError):
        return ConfigurationError("pinecone: no such index (404): create it, or correct its name")
    if isinstance(error, RateLimitError):
        wait = error.retry_after if isinstance(error.retry_after, int | float) else None
        return StoreUnavailable("pinecone: too many requests (429)", store=STORE, retry_after=wait)
    if isinstance(error, ServiceError):
        return StoreUnavailable(f"pinecone: the service failed ({error.status_code})", store=STORE)
    if isinstance(error, PineconeTimeoutError | PineconeConnectionError):
        return StoreUnavailable("pinecone: no answer", store=STORE)
    if isinstance(error, ResponseParsingError):
        return StoreUnavailable("pinecone: an answer that can't be read", store=STORE)
    if isinstance(error, ApiError):
        return InvalidInput(
            f"pinecone: the request was refused ({error.status_code}): the dimension, size or metadata doesn't fit the "
            "index"
        )
    return InvalidInput(f"pinecone: the SDK refused the request ({type(error).__name__})")
