"""Keywords of a call, checked: one that nobody would read is an error, not a wider search."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tenant_middleware.errors import InvalidInput


def refuse_unknown(what: str, given: Mapping[str, Any], known: Iterable[str]) -> None:
    """Raise InvalidInput for a keyword nobody would read: a misspelt filter is a search over everything."""
    unknown = sorted(given.keys() - set(known))
    if not unknown:
        return
    if {"namespace", "tenant_id", "tenant"} & set(unknown):
        raise InvalidInput(f"{what}: the tenant is the one in context; {', '.join(unknown)} can't be given")
    raise InvalidInput(f"{what}: unknown {', '.join(unknown)}; expected {', '.join(sorted(known)) or 'nothing more'}")
