"""Documents in this process, searched exactly: the reference for every other vector store.

Plain Python on purpose, without NumPy: it runs on a core install, and at the sizes it is for (tests, notebooks, some
thousand documents a tenant) a search takes milliseconds. A shared store is the way to more.
"""

from __future__ import annotations

import heapq
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import mul
from typing import Any, Literal

from tenant_middleware.errors import InvalidInput
from tenant_middleware.isolation.drivers import Cursor
from tenant_middleware.isolation.filters import Where, predicate
from tenant_middleware.isolation.place import STAMP, Place, Row, plain
from tenant_middleware.isolation.scoped import IsolationFor, ScopedVectors
from tenant_middleware.policy import Isolation

Metric = Literal["cosine", "dotproduct", "euclidean"]
SHARED = "shared"


class InMemoryVectors(ScopedVectors):
    """Vectors for one process, exact, in all three kinds of isolation.

    Without `dimension` each tenant's first record decides its own.
    """

    def __init__(
        self,
        *,
        isolation: Isolation | IsolationFor = "namespace",
        dimension: int | None = None,
        metric: Metric = "cosine",
    ) -> None:
        super().__init__(InMemoryDriver(dimension, metric), isolation=isolation)


@dataclass(frozen=True, slots=True)
class _Entry:
    row: Row
    vector: list[float]  # of length 1 when the metric is cosine
    seen: Mapping[str, Any]  # what conditions look at: the metadata and the stamp


class InMemoryDriver:
    """Partitions by name: one per tenant, one for all who share, one per silo."""

    kinds: tuple[Isolation, ...] = ("namespace", "filter", "silo")

    def __init__(self, dimension: int | None = None, metric: Metric = "cosine") -> None:
        self.dimension = dimension
        self._prepare, self._score = _METRICS[metric]
        self._lock = threading.Lock()
        self._partitions: dict[str, dict[str, _Entry]] = {}
        self._dimensions: dict[tuple[str, str], int] = {}

    def upsert(self, place: Place, rows: Sequence[Row]) -> None:
        kept = [row._replace(vector=plain(row.vector)) for row in rows]  # the caller's list may change later
        entries = [_Entry(row, self._prepare(row.vector), {**row.metadata, STAMP: row.stamp}) for row in kept]
        name = self._name(place)
        with self._lock:
            known = self._dimensions.setdefault((name, place.stamp), len(rows[0].vector))
            for row in rows:
                _check_dimension(known, row.vector)
            self._partitions.setdefault(name, {}).update((entry.row.key, entry) for entry in entries)

    def query(self, place: Place, vector: list[float], k: int, where: Where | None) -> list[Row]:
        entries = self._entries(place)
        if not entries:
            return []
        _check_dimension(self._dimensions.get((self._name(place), place.stamp), len(vector)), vector)
        wanted, prepared = predicate(where), self._prepare(plain(vector))
        found = entries if where is None else [entry for entry in entries if wanted(entry.seen)]
        scores = [self._score(prepared, entry.vector) for entry in found]
        best = heapq.nlargest(k, range(len(found)), key=scores.__getitem__)
        return [_copy(found[index].row, scores[index]) for index in best]

    def fetch(self, place: Place, keys: Sequence[str]) -> list[Row]:
        with self._lock:
            partition = self._partitions.get(self._name(place), {})
            found = [partition[key].row for key in keys if key in partition]
        return [_copy(row) for row in found]

    def scan(self, place: Place, where: Where | None, limit: int, cursor: Cursor) -> tuple[list[Row], Cursor]:
        wanted, after = predicate(where), cursor or ""
        entries = (entry for entry in self._entries(place) if entry.row.key > after and wanted(entry.seen))
        rows = heapq.nsmallest(limit + 1, (entry.row for entry in entries), key=lambda row: row.key)
        page = [_copy(row) for row in rows[:limit]]
        return page, page[-1].key if len(rows) > limit else None

    def keys(self, place: Place, cursor: Cursor) -> tuple[list[str], Cursor]:
        return [entry.row.key for entry in self._entries(place) if entry.row.stamp == place.stamp], None

    def delete(self, place: Place, keys: Sequence[str]) -> None:
        with self._lock:
            partition = self._partitions.get(self._name(place), {})
            for key in keys:
                partition.pop(key, None)

    def delete_where(self, place: Place, where: Where) -> None:
        wanted = predicate(where)
        self.delete(place, [entry.row.key for entry in self._entries(place) if wanted(entry.seen)])

    def emptied(self, place: Place) -> None:
        """Nothing: reads show every write."""

    def count(self, place: Place) -> int:
        return len(self.keys(place, None)[0])

    def holds(self, place: Place) -> bool:
        return self.count(place) > 0

    def provision(self, place: Place) -> None:
        """Nothing: a partition begins with its first record."""

    def drop(self, place: Place) -> None:
        name = self._name(place)
        self.delete(place, self.keys(place, None)[0])
        with self._lock:
            self._dimensions.pop((name, place.stamp), None)
            if not self._partitions.get(name):
                self._partitions.pop(name, None)

    def learn(self) -> int | None:
        return self.dimension

    def close(self) -> None:
        """Nothing to close."""

    def _entries(self, place: Place) -> list[_Entry]:
        with self._lock:
            return list(self._partitions.get(self._name(place), {}).values())

    @staticmethod
    def _name(place: Place) -> str:
        if place.isolation == "filter":
            return SHARED
        return f"{place.isolation} {place.namespace}"


def _check_dimension(known: int, vector: Sequence[float]) -> None:
    if len(vector) != known:
        raise InvalidInput(f"vector: expected {known} dimensions, got {len(vector)}; one tenant's are all alike")


def _copy(row: Row, score: float = 0.0) -> Row:
    """A row whose metadata the caller may change without changing the store."""
    return row._replace(metadata={name: _copied(value) for name, value in row.metadata.items()}, score=score)


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _copied(item) for name, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value


def _unit(vector: Sequence[float]) -> list[float]:
    length = math.hypot(*vector)
    return [number / length for number in vector]


def _dot(a: Sequence[float], b: Sequence[float]) -> float:
    product: float = sum(map(mul, a, b))
    return product


def _nearness(a: Sequence[float], b: Sequence[float]) -> float:
    """The squared distance, negated: nearer is higher."""
    distance = math.dist(a, b)
    return -distance * distance


_METRICS: dict[
    Metric, tuple[Callable[[Sequence[float]], list[float]], Callable[[Sequence[float], Sequence[float]], float]]
] = {"cosine": (_unit, _dot), "dotproduct": (list, _dot), "euclidean": (list, _nearness)}
