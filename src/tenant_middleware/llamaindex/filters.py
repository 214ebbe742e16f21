"""LlamaIndex's metadata filters in the neutral language: every operator, AND, OR and NOT, or an error.

A comparison is true only of a record that has the field; `!=`, `nin` and negations are true of one that hasn't, as in
LlamaIndex's own store. Text matches are no condition a vector store can check; those are tested on what it finds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tenant_middleware.errors import InvalidInput, missing_extra
from tenant_middleware.isolation.filters import check_field, parse, predicate

try:
    from llama_index.core.vector_stores.types import (
        FilterCondition,
        FilterOperator,
        MetadataFilter,
        MetadataFilters,
    )
except ImportError as error:
    raise missing_extra("llamaindex", __name__) from error

MAX_DEPTH = 16
Metadata = Mapping[str, Any]

_COMPARED = {  # the operator, and what holds of a value when it doesn't
    FilterOperator.EQ: ("$eq", "$ne"),
    FilterOperator.NE: ("$ne", "$eq"),
    FilterOperator.GT: ("$gt", "$lte"),
    FilterOperator.GTE: ("$gte", "$lt"),
    FilterOperator.LT: ("$lt", "$gte"),
    FilterOperator.LTE: ("$lte", "$gt"),
    FilterOperator.IN: ("$in", "$nin"),
    FilterOperator.NIN: ("$nin", "$in"),
    FilterOperator.CONTAINS: ("$eq", "$ne"),
    FilterOperator.ANY: ("$in", "$nin"),
}
_OF_MISSING = frozenset(("$ne", "$nin"))
_TEXT = frozenset((FilterOperator.TEXT_MATCH, FilterOperator.TEXT_MATCH_INSENSITIVE))


@dataclass(frozen=True, slots=True)
class Condition:
    """What a store can be asked, and the whole condition as a test.

    `where` holds of at least the records that meet the test; when `exact`, of those alone.
    """

    where: dict[str, Any] | None
    test: Callable[[Metadata], bool]
    exact: bool = True


ANYTHING = Condition(None, lambda metadata: True)


def condition(filters: MetadataFilters | None) -> Condition:
    """The condition of a caller's filters; none, and an empty list of them, are no condition."""
    if filters is None:
        return ANYTHING
    if not isinstance(filters, MetadataFilters):
        raise InvalidInput(f"filters: expected MetadataFilters, got {type(filters).__name__}")
    if not filters.filters:
        return ANYTHING
    return _group(filters, False, 0)


def all_of(parts: Iterable[Condition]) -> Condition:
    """Every one holds."""
    return _joined([part for part in parts if part is not ANYTHING], "$and", all)


def is_one_of(field: str, values: Sequence[str]) -> Condition:
    """The field of ours is one of these texts."""
    return _exact({field: {"$in": list(values)}})


def _group(filters: MetadataFilters, negated: bool, depth: int) -> Condition:
    """Negations are pushed down to the comparisons, so that every store can be asked them."""
    if not filters.filters or depth >= MAX_DEPTH:
        raise InvalidInput(f"filters: expected groups that aren't empty, at most {MAX_DEPTH} levels of them")
    together = filters.condition or FilterCondition.AND
    inner = negated != (together == FilterCondition.NOT)
    parts = [
        _group(part, inner, depth + 1) if isinstance(part, MetadataFilters) else _comparison(part, inner)
        for part in filters.filters
    ]
    # NOT means that none of its filters holds: the negations, all of them.
    every = (together == FilterCondition.OR) == negated
    return _joined(parts, "$and", all) if every else _joined(parts, "$or", any)


def _joined(parts: list[Condition], name: str, judge: Callable[[Iterable[bool]], bool]) -> Condition:
    if len(parts) <= 1:
        return parts[0] if parts else ANYTHING
    asked = [part.where for part in parts if part.where is not None]
    everything = not asked or (name == "$or" and len(asked) < len(parts))
    where = None if everything else {name: asked} if len(asked) > 1 else asked[0]
    tests = [part.test for part in parts]
    return Condition(where, lambda metadata: judge(test(metadata) for test in tests), all(part.exact for part in parts))


def _comparison(given: MetadataFilter, negated: bool) -> Condition:
    field, op, value = check_field(given.key), given.operator, given.value
    if op in _TEXT:
        return _text_match(field, value, op == FilterOperator.TEXT_MATCH_INSENSITIVE, negated)
    if op == FilterOperator.IS_EMPTY:
        present, full = {field: {"$exists": True}}, {field: {"$ne": ""}}
        return _exact({"$and": [present, full]} if negated else {"$or": [_missing(field), {field: {"$eq": ""}}]})
    if op == FilterOperator.ALL:
        if not isinstance(value, list) or not value:
            raise InvalidInput(f"filters: {op.value!r} on {field[:64]!r} expects a list that isn't empty")
        each = [_compared(field, "$ne" if negated else "$eq", item, negated) for item in value]
        return _joined(each, "$or", any) if negated else _joined(each, "$and", all)
    if op not in _COMPARED:
        raise InvalidInput(f"filters: unknown operator {op!r}")
    return _compared(field, _COMPARED[op][negated], value, negated)


def _compared(field: str, op: str, value: Any, negated: bool) -> Condition:
    holds = {field: {op: value}}
    # `!=` and a negated `==` are true of what is missing; their opposites, however they are written, are not.
    of_missing = op in _OF_MISSING or (negated and op not in ("$eq", "$in"))
    return _exact({"$or": [holds, _missing(field)]} if of_missing else holds)


def _missing(field: str) -> dict[str, Any]:
    return {field: {"$exists": False}}


def _exact(where: dict[str, Any]) -> Condition:
    return Condition(where, predicate(parse(where)))


def _text_match(field: str, value: Any, folded: bool, negated: bool) -> Condition:
    if not isinstance(value, str) or not value:
        raise InvalidInput(f"filters: a text match on {field[:64]!r} expects text that isn't empty")
    wanted = value.lower() if folded else value

    def matches(metadata: Metadata) -> bool:
        found = metadata.get(field)
        texts = [item for item in (found if isinstance(found, list) else [found]) if isinstance(item, str)]
        return any(wanted in (text.lower() if folded else text) for text in texts)

    if negated:
        return Condition(None, lambda metadata: not matches(metadata), exact=False)
    return Condition({field: {"$exists": True}}, matches, exact=False)
