"""The neutral filter language: what a caller may ask of metadata, checked before any backend sees it.

It is Pinecone's: `$eq $ne $gt $gte $lt $lte $in $nin $exists` on a field, `$and` and `$or` around them; a bare value
means `$eq`, several entries mean `$and`. `$ne` and `$nin` match only records that have the field. A list-valued field
matches when any element does. Anything else is InvalidInput: an operator that a store drops would widen the search.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tenant_middleware.errors import InvalidInput

Scalar = str | int | float | bool
RESERVED = "_tm_"  # fields that begin with this are ours
OWNER = "tenant_id"  # the name that users give to an owner: a filter on it is an attempt to choose the tenant

ORDER = frozenset(("$gt", "$gte", "$lt", "$lte"))
LISTS = frozenset(("$in", "$nin"))
OPERATORS = frozenset(("$eq", "$ne", "$exists")) | ORDER | LISTS

MAX_DEPTH = 32
MAX_VALUES = 10_000
LARGEST_INT = 2**53  # stores keep numbers as doubles; past this two numbers would be one


@dataclass(frozen=True, slots=True)
class Clause:
    """One condition on one field; `value` is a tuple for `$in` and `$nin`."""

    field: str
    op: str
    value: Scalar | tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class AllOf:
    """Every part holds."""

    parts: tuple[Where, ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    """At least one part holds."""

    parts: tuple[Where, ...]


Where = Clause | AllOf | AnyOf


def parse(where: Mapping[str, Any] | None) -> Where | None:
    """The checked form of a caller's filter; None and `{}` are no condition. Raises InvalidInput for all else."""
    if where is None:
        return None
    if where == {}:
        return None
    return _parse(where, _Budget(), 0)


def both(first: Mapping[str, Any] | None, second: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """The filter under which both hold: never a merge of dictionaries, in which one key would replace the other."""
    if not first or not second:
        return first or second
    return {"$and": [first, second]}


class _Budget:
    """Counts values, so that a filter can't be made to cost without bound."""

    def __init__(self) -> None:
        self.left = MAX_VALUES

    def spend(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise InvalidInput(f"filter: expected at most {MAX_VALUES} values in all")


def _parse(where: object, budget: _Budget, depth: int) -> Where:
    if depth > MAX_DEPTH:
        raise InvalidInput(f"filter: expected at most {MAX_DEPTH} levels")
    if not isinstance(where, Mapping) or not where:
        raise InvalidInput(
            f'filter: expected a mapping such as {{"year": {{"$gte": 2024}}}}, got {_came(where)}; '
            "functions and framework filter objects aren't taken here"
        )
    parts = [_entry(name, value, budget, depth) for name, value in where.items()]
    return parts[0] if len(parts) == 1 else AllOf(tuple(parts))


def _entry(name: object, value: object, budget: _Budget, depth: int) -> Where:
    if name in ("$and", "$or"):
        if not isinstance(value, Sequence) or isinstance(value, str | bytes) or not value:
            raise InvalidInput(f"filter: {name} expects a list of filters that isn't empty, got {_came(value)}")
        parts = tuple(_parse(part, budget, depth + 1) for part in value)
        return AllOf(parts) if name == "$and" else AnyOf(parts)
    field = check_field(name)
    if not isinstance(value, Mapping):
        return Clause(field, "$eq", _operand(field, "$eq", value, budget))
    if not value:
        raise InvalidInput(f"filter: {field!r} has no condition")
    clauses = [Clause(field, _operator(op), _operand(field, op, operand, budget)) for op, operand in value.items()]
    return clauses[0] if len(clauses) == 1 else AllOf(tuple(clauses))


def check_field(name: object) -> str:
    """A field that a caller may name; the tenant's own are refused, not merged."""
    if not isinstance(name, str) or not name:
        raise InvalidInput(f"filter: expected field names as text, got {_came(name)}")
    if name == OWNER or name.startswith(RESERVED):
        raise InvalidInput(f"filter: {name!r} is decided by the tenant in context and can't be given")
    if name.startswith("$"):
        raise InvalidInput(
            f"filter: unknown operator {name[:32]!r}; around conditions only $and and $or, on a field {_known()}"
        )
    return name


def _operator(op: object) -> str:
    if isinstance(op, str) and op in OPERATORS:
        return op
    raise InvalidInput(f"filter: unknown operator {str(op)[:32]!r}; expected one of {_known()}")


def _operand(field: str, op: str, value: object, budget: _Budget) -> Scalar | tuple[Scalar, ...]:
    if op in LISTS:
        if not isinstance(value, list | tuple | set | frozenset) or not value:
            raise InvalidInput(f"filter: {op} on {field!r} expects a list that isn't empty, got {_came(value)}")
        budget.spend(len(value))
        return tuple(check_scalar(item, f"filter: {op} on {field!r}") for item in value)
    budget.spend(1)
    if op == "$exists":
        if not isinstance(value, bool):
            raise InvalidInput(f"filter: $exists on {field!r} expects true or false, got {_came(value)}")
        return value
    scalar = check_scalar(value, f"filter: {op} on {field!r}")
    if op in ORDER and (isinstance(scalar, bool | str)):
        raise InvalidInput(f"filter: {op} on {field!r} compares numbers only, got {_came(value)}")
    return scalar


def check_scalar(value: object, what: str) -> Scalar:
    """Text, a finite number that a double holds exactly, or true/false."""
    if isinstance(value, str | bool):
        return value
    if isinstance(value, int) and abs(value) <= LARGEST_INT:
        return int(value)
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    raise InvalidInput(f"{what} expects text, a finite number or true/false, got {_came(value)}")


def filterable(value: object) -> bool:
    """Whether conditions see a metadata value: text, numbers, true/false and lists of text; others count as absent."""
    if isinstance(value, list):
        return bool(value) and all(isinstance(item, str) for item in value)
    return isinstance(value, str | bool | int | float)


def predicate(where: Where | None) -> Callable[[Mapping[str, Any]], bool]:
    """A function that says whether metadata meets a condition: the reference for every store's own filter."""
    if where is None:
        return lambda metadata: True
    if isinstance(where, Clause):
        return _clause(where)
    tests = [predicate(part) for part in where.parts]
    if isinstance(where, AllOf):
        return lambda metadata: all(test(metadata) for test in tests)
    return lambda metadata: any(test(metadata) for test in tests)


def _clause(clause: Clause) -> Callable[[Mapping[str, Any]], bool]:
    field, wanted = clause.field, clause.value
    if clause.op == "$exists":
        return lambda metadata: filterable(metadata.get(field)) is wanted
    if clause.op in ORDER:
        return lambda metadata: _ordered(clause.op, metadata.get(field), wanted)
    options = {_same(item) for item in (wanted if isinstance(wanted, tuple) else (wanted,))}
    if clause.op in ("$eq", "$in"):
        return lambda metadata: not options.isdisjoint(_elements(metadata.get(field)))
    return lambda metadata: bool(found := _elements(metadata.get(field))) and options.isdisjoint(found)


def _elements(value: object) -> set[tuple[bool, object]]:
    if not filterable(value):
        return set()
    return {_same(item) for item in (value if isinstance(value, list) else (value,))}


def _same(value: object) -> tuple[bool, object]:
    """Equal for equal values; true isn't 1."""
    return isinstance(value, bool), value


def _ordered(op: str, value: object, bound: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if op == "$gt":
        return bool(value > bound)
    if op == "$gte":
        return bool(value >= bound)
    return bool(value < bound) if op == "$lt" else bool(value <= bound)


def as_mapping(where: Where) -> dict[str, Any]:
    """The condition in its written form, every operator explicit."""
    if isinstance(where, Clause):
        value = list(where.value) if isinstance(where.value, tuple) else where.value
        return {where.field: {where.op: value}}
    return {"$and" if isinstance(where, AllOf) else "$or": [as_mapping(part) for part in where.parts]}


def _came(value: object) -> str:
    empty = isinstance(value, Mapping | list | tuple | set) and not value
    return "nothing" if value is None else "an empty one" if empty else type(value).__name__


def _known() -> str:
    return " ".join(sorted(OPERATORS))
