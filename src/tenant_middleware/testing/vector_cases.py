"""What the contract of vector backends is tried with: records, filters, hostile ids, and ways to look at a store."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from typing import Any

from tenant_middleware.errors import IsolationBreach
from tenant_middleware.isolation.vectors import Record
from tenant_middleware.tenant import Tenant

PAIRS = [("acme", "globex"), ("Acme", "acme"), ("acme", "acme2")]
DIMENSION = 6
HOSTILE_IDS = [
    "doc1",
    "doc10",
    "a/b",
    "../x",
    "{x}",
    "*",
    "a:b",
    "a b",
    "line\nbreak",
    "ü",
    "😀",
    "%00",
    "-",
    "u" * 600,
]


def axis(number: int, tilt: float = 0.0) -> list[float]:
    """A direction: nearly orthogonal for different numbers, turned a little by `tilt`."""
    return [1.0 if place == number % DIMENSION else tilt for place in range(DIMENSION)]


class Awaited:
    """A backend's `a` twins behind plain names, so that one test body tries both."""

    def __init__(self, vectors: Any, runner: asyncio.Runner) -> None:
        self._vectors, self._runner = vectors, runner

    def __getattr__(self, name: str) -> Callable[..., Any]:
        twin = getattr(self._vectors, "a" + name)
        return self._all if name == "export" else lambda *args, **kwargs: self._runner.run(twin(*args, **kwargs))

    def _all(self, tenant: Tenant) -> list[Record]:
        async def collect() -> list[Record]:
            return [record async for record in self._vectors.aexport(tenant)]

        return self._runner.run(collect())


def foreign_seen(vectors: Any, asker: Tenant, canary: str, ids: Sequence[str]) -> list[str]:
    """The paths by which `asker` sees a text that isn't its own; one that raises IsolationBreach is closed."""
    paths: dict[str, Callable[[], Any]] = {
        "query": lambda: [hit.text for hit in vectors.query(asker, axis(0), 50)],
        "query where": lambda: [hit.text for hit in vectors.query(asker, axis(0), 50, {"kind": {"$exists": True}})],
        "fetch": lambda: [record.text for record in vectors.fetch(asker, ids)],
        "fetch where": lambda: [record.text for record in vectors.fetch(asker, where={"kind": {"$exists": True}})],
        "export": lambda: [record.text for record in vectors.export(asker)],
    }
    seen = []
    for name, path in paths.items():
        try:
            texts = path()
        except IsolationBreach as refusal:
            texts = [str(refusal)]
        if any(canary in text for text in texts):
            seen.append(name)
    return seen


FILTERS: list[dict[str, Any]] = [
    {"kind": "price"},
    {"kind": {"$ne": "price"}},
    {"kind": {"$in": ["price", "terms"]}},
    {"kind": {"$nin": ["price"]}},
    {"kind": {"$exists": True}},
    {"kind": {"$exists": False}},
    {"year": 2024},
    {"year": {"$gt": 2023}},
    {"year": {"$gte": 2023, "$lt": 2025}},
    {"year": {"$lte": 2023.5}},
    {"live": True},
    {"live": {"$ne": True}},
    {"tags": "red"},
    {"tags": {"$in": ["blue", "green"]}},
    {"tags": {"$nin": ["red"]}},
    {"kind": "price", "year": {"$gt": 2023}},
    {"$or": [{"kind": "terms"}, {"year": 2024}]},
    {"$and": [{"$or": [{"kind": "price"}, {"kind": "terms"}]}, {"live": False}]},
    {"kind": "Price"},
    {"kind": "pri"},
    {"odd key, {x}|y": "a|b {c} *"},
    {},
]

CORPUS: list[dict[str, Any]] = [
    {"kind": "price", "year": 2023, "live": True, "tags": ["red", "blue"]},
    {"kind": "price", "year": 2024, "live": False, "tags": ["green"]},
    {"kind": "terms", "year": 2024.5, "live": False},
    {"kind": "Price", "tags": ["red"], "odd key, {x}|y": "a|b {c} *"},
    {"year": 1, "live": True, "kind": None},
    {"kind": "price list"},
    {},
]

BAD_FILTERS: list[Any] = [
    {"kind": {"$regex": "."}},
    {"$not": {"kind": "x"}},
    {"$nor": []},
    {"$and": []},
    {"$or": {}},
    {"kind": {}},
    {"kind": None},
    {"kind": ["x"]},
    {"kind": {"$in": "x"}},
    {"kind": {"$in": []}},
    {"kind": {"$gt": "x"}},
    {"kind": {"$gt": True}},
    {"kind": {"$eq": math.nan}},
    {"kind": {"$exists": 1}},
    {"": 1},
    {1: 1},
    "kind = x",
    ["kind"],
    lambda doc: True,
]

BAD_RECORDS: list[Any] = [
    Record("2", [math.nan] * DIMENSION, "x"),
    Record("2", [math.inf] + [0.0] * 5, "x"),
    Record("2", [1e300] * DIMENSION, "x"),
    Record("2", [0.0] * DIMENSION, "x"),
    Record("2", axis(0)[:-1], "x"),
    Record("2", [], "x"),
    Record("2", "vector", "x"),  # type: ignore[arg-type]  # what is tested
    Record("2", ["1"] * DIMENSION, "x"),  # type: ignore[list-item]  # what is tested
    Record("", axis(0), "x"),
    Record("2", axis(0), None),  # type: ignore[arg-type]  # what is tested
    Record("2", axis(0), "\ud800"),
    Record("\ud800", axis(0), "x"),
    Record("2", axis(0), "x", {"f": math.nan}),
    Record("2", axis(0), "x", {"f": 2**60}),
    Record("2", axis(0), "x", {"f": object()}),
    Record("2", axis(0), "x", {"$f": 1}),
    Record("2", axis(0), "x", {"_tm_id": "other"}),
    {"id": "2", "vector": axis(0)},
]
