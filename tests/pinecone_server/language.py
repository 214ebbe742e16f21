"""Pinecone's filter language as the service judges it: written apart from ours, so that one checks the other."""

from __future__ import annotations

from typing import Any


class Invalid(Exception):
    """What the service answers 400, code 3."""


def check(where: Any) -> None:
    """Raise Invalid for what the service refuses."""
    if not isinstance(where, dict):
        raise Invalid("filter must be an object")
    for key, value in where.items():
        if key in ("$and", "$or"):
            if not isinstance(value, list) or not value:
                raise Invalid(f"{key} expects a non-empty list")
            for part in value:
                check(part)
        elif key.startswith("$"):
            raise Invalid(f"operator {key} is not allowed at the top level; only $and and $or")
        elif isinstance(value, dict):
            _check_condition(key, value)
        elif not _scalar(value):
            raise Invalid(f"illegal value for field {key}")


def _check_condition(field: str, condition: dict[str, Any]) -> None:
    if not condition:
        raise Invalid(f"empty condition for field {field}")
    for op, value in condition.items():
        if op in ("$in", "$nin"):
            if not isinstance(value, list) or not all(map(_scalar, value)):
                raise Invalid(f"{op} expects a list")
            if len(value) > 10_000:
                raise Invalid(f"{op} has too many values")
        elif op in ("$gt", "$gte", "$lt", "$lte"):
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise Invalid(f"{op} expects a number")
        elif op == "$exists":
            if not isinstance(value, bool):
                raise Invalid("$exists expects a boolean")
        elif op in ("$eq", "$ne"):
            if not _scalar(value):
                raise Invalid(f"{op} expects a string, number or boolean")
        else:
            raise Invalid(f"unknown operator {op}")


def _scalar(value: Any) -> bool:
    return isinstance(value, str | int | float | bool)


def meets(where: dict[str, Any], metadata: dict[str, Any], *, absent_differs: bool) -> bool:
    """Whether metadata meets a checked filter; `absent_differs` is how `$ne` judges a record without the field."""
    for key, value in where.items():
        if key == "$and":
            held = all(meets(part, metadata, absent_differs=absent_differs) for part in value)
        elif key == "$or":
            held = any(meets(part, metadata, absent_differs=absent_differs) for part in value)
        else:
            condition = value if isinstance(value, dict) else {"$eq": value}
            held = all(_holds(op, metadata.get(key), wanted, absent_differs) for op, wanted in condition.items())
        if not held:
            return False
    return True


def _holds(op: str, stored: Any, wanted: Any, absent_differs: bool) -> bool:
    if op == "$exists":
        return (stored is not None) is wanted
    if op in ("$ne", "$nin") and stored is None:
        return absent_differs
    if op in ("$eq", "$in", "$ne", "$nin"):
        options = wanted if op in ("$in", "$nin") else [wanted]
        elements = stored if isinstance(stored, list) else [stored]
        equal = any(_equal(element, option) for element in elements for option in options)
        return equal if op in ("$eq", "$in") else not equal
    if isinstance(stored, bool) or not isinstance(stored, int | float):
        return False
    return {"$gt": stored > wanted, "$gte": stored >= wanted, "$lt": stored < wanted, "$lte": stored <= wanted}[op]


def _equal(stored: Any, wanted: Any) -> bool:
    return isinstance(stored, bool) == isinstance(wanted, bool) and stored == wanted
