"""Records as Redis hashes and conditions as queries of the search module; pure, shared by both clients.

Any field can be filtered on without a schema: each filterable value is a term, and the terms of a record are one tag
field. Terms are base32 joined by digits that base32 lacks, so nothing in a query needs escaping and no two fields or
values share a term. Ranges need a numeric field, which is declared.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from base64 import b32encode
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from tenant_middleware.errors import InvalidInput
from tenant_middleware.isolation.filters import ORDER, AllOf, Clause, Where, filterable
from tenant_middleware.isolation.place import STAMP, Row
from tenant_middleware.keys import encode

TENANT, TERMS, KEY, DOC, VECTOR, NEAR = "tenant", "terms", "key", "doc", "vector", "near"
LONGEST_TERM = 160
_LOST = b"null"
_decode = json.JSONDecoder().decode  # json.loads looks at its options first, and json.dumps makes an encoder each time
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_DOC, _TENANT, _VECTOR, _NEAR = DOC.encode(), TENANT.encode(), VECTOR.encode(), NEAR.encode()


class Query(NamedTuple):
    """A query text and its numbers."""

    text: str
    params: list[Any]


def fields(row: Row, numeric: Sequence[str]) -> dict[str, Any]:
    """The hash of a record: what is searched, and the document as JSON; the stamp is written last."""
    made: dict[str, Any] = {
        VECTOR: array("f", row.vector).tobytes(),
        KEY: row.key,
        DOC: _encode([row.id, row.text, row.metadata]),
        TERMS: ",".join(sorted(set(_terms(row.metadata)))) or "none0",
    }
    made |= {number_field(name): repr(float(row.metadata[name])) for name in numeric if _number(row.metadata.get(name))}
    return {**made, TENANT: row.stamp}


@lru_cache(maxsize=4096)
def _field(name: str) -> str:
    """A field's name as it stands in terms; an application has few, and every record has them."""
    return encode(name)


def number_field(name: str) -> str:
    """The name under which a declared field is indexed by size."""
    return f"n0{_field(name)}"


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _terms(metadata: Mapping[str, Any]) -> Iterator[str]:
    for name, value in metadata.items():
        if filterable(value):
            yield has(name)
            for item in value if isinstance(value, list) else (value,):
                yield term(name, item)


def has(name: str) -> str:
    """The term of every record that has a field."""
    return _short(f"{_field(name)}1")


def term(name: str, value: Any) -> str:
    """The term of every record whose field is, or contains, a value."""
    if isinstance(value, bool):
        return _short(f"{_field(name)}9{'t' if value else 'f'}")
    if isinstance(value, str):
        return _short(f"{_field(name)}0{encode(value)}")
    return _short(f"{_field(name)}8{encode(repr(float(value) + 0.0))}")


def _short(text: str) -> str:
    """A long term as a digest; the digit in front says so."""
    if len(text) <= LONGEST_TERM:
        return text
    return "0" + b32encode(hashlib.sha256(text.encode("ascii")).digest()).decode("ascii").rstrip("=").lower()


def query(where: Where | None, numeric: Sequence[str]) -> Query:
    """The condition in the search module's words; every part stands in its own parentheses."""
    params: list[Any] = []
    return Query("*" if where is None else _rendered(where, numeric, params), params)


def _rendered(where: Where, numeric: Sequence[str], params: list[Any]) -> str:
    if isinstance(where, Clause):
        return f"({_clause(where, numeric, params)})"
    between = " " if isinstance(where, AllOf) else " | "
    return f"({between.join(_rendered(part, numeric, params) for part in where.parts)})"


def _clause(clause: Clause, numeric: Sequence[str], params: list[Any]) -> str:
    name, op, value = clause.field, clause.op, clause.value
    if name == STAMP:
        return f"@{TENANT}:{{{value}}}"
    present = f"@{TERMS}:{{{has(name)}}}"
    if op == "$exists":
        return present if value else f"-{present}"
    if op in ORDER:
        return _range(name, op, value, numeric, params)
    wanted = "|".join(term(name, item) for item in (value if isinstance(value, tuple) else (value,)))
    if op in ("$eq", "$in"):
        return f"@{TERMS}:{{{wanted}}}"
    return f"{present} -@{TERMS}:{{{wanted}}}"


def _range(name: str, op: str, value: Any, numeric: Sequence[str], params: list[Any]) -> str:
    if name not in numeric:
        raise InvalidInput(
            f"filter: {op} on {name[:64]!r} needs a numeric field in Redis: RedisVectors(..., numeric=[...]) or "
            "redis://...?numeric=name,name"
        )
    bound = f"p{len(params) // 2}"
    params += [bound, repr(float(value))]
    low = {"$gt": f"(${bound}", "$gte": f"${bound}"}.get(op, "-inf")
    high = {"$lt": f"(${bound}", "$lte": f"${bound}"}.get(op, "+inf")
    return f"@{number_field(name)}:[{low} {high}]"


def row(prefix: str, place: bytes, values: Mapping[bytes, bytes], sign: float, offset: float) -> Row:
    """A record as it came back; what was lost is None and fails the check of its stamp."""
    found_id, text, metadata = _decode(values.get(_DOC, _LOST).decode()) or (None, "", {})
    stamp, blob, near = values.get(_TENANT), values.get(_VECTOR), values.get(_NEAR)
    key = place.decode("utf-8", "replace")
    return Row(
        key[len(prefix) :] if key.startswith(prefix) else "",
        stamp.decode("utf-8", "replace") if stamp else None,
        found_id,
        text,
        metadata,
        array("f", blob).tolist() if blob else (),
        offset + sign * float(near) if near else 0.0,
    )
