"""Maximal marginal relevance: results that are near the question and unlike each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import mul

from tenant_middleware.errors import InvalidInput
from tenant_middleware.isolation.vectors import Hit, Record


def check_balance(value: object, name: str) -> float:
    """A share between 0 (as unlike each other as can be) and 1 (nearness alone)."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1:
        return float(value)
    raise InvalidInput(f"{name}: expected a number from 0 to 1")


def most_diverse(
    query: Sequence[float], candidates: Sequence[Sequence[float]], k: int, balance: float = 0.5
) -> list[int]:
    """The indexes of at most `k` candidates, best first, by cosine similarity."""
    near = [cosine(query, candidate) for candidate in candidates]
    alike = [-math.inf] * len(candidates)
    chosen: list[int] = []
    left = set(range(len(candidates)))
    while left and len(chosen) < k:
        best = max(sorted(left), key=lambda index: _worth(near[index], alike[index], balance))
        chosen.append(best)
        left.remove(best)
        for index in left:
            alike[index] = max(alike[index], cosine(candidates[index], candidates[best]))
    return chosen


def diverse_hits(
    query: Sequence[float], hits: Sequence[Hit], records: Sequence[Record], k: int, balance: float
) -> list[Hit]:
    """The hits to show, of those whose records still exist: one may have been deleted since it was found."""
    known = {record.id: record.vector for record in records}
    left = [hit for hit in hits if hit.id in known]
    chosen = most_diverse(query, [known[hit.id] for hit in left], k, balance)
    return [left[index] for index in chosen]


def _worth(near: float, alike: float, balance: float) -> float:
    return near if alike == -math.inf else balance * near - (1 - balance) * alike


def cosine(a: Sequence[float], b: Sequence[float]) -> float:
    """How far two vectors point the same way: 1, 0 at a right angle, -1."""
    product: float = sum(map(mul, a, b))
    return product / (math.hypot(*a) * math.hypot(*b))
